//! `muster authority`: who may order what, and how that is changed.
//!
//! A successor is proposed by an operator and signed by approvers, each with their own key on their own machine
//! ([`super::authority_sign`]).

use super::authority_paper::{Change, read, unreadable};
use super::authority_sign::{self, SignArgs};
use super::client::Client;
use super::confirm::{Intent, consent};
use super::error::Error;
use super::operator::name_of;
use super::output::Reader;
use super::table::{self, Column, column};
use super::{Context, difference};
use clap::{Args, Subcommand};
use http::header::{HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH};
use muster_wire::approver::parse_public_key;
use muster_wire::authority::Authority;
use muster_wire::problem::Exit;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The commands about the authority document.
#[derive(Debug, Subcommand)]
pub enum AuthorityCommand {
    /// Show the authority document in force, or the successor that waits for signatures
    Show(ShowArgs),
    /// Show every version, and what each changed
    History,
    /// Ask for a successor; it takes over once enough approvers have signed it
    Propose(ProposeArgs),
    /// Sign the successor that waits, here or on a machine without a way to the server
    Sign(SignArgs),
}

/// What `muster authority show` takes.
#[derive(Args, Debug)]
pub struct ShowArgs {
    /// The successor that waits for signatures
    #[arg(long)]
    pending: bool,
    /// Write it to FILE, to be signed on another machine
    #[arg(long, value_name = "FILE", requires = "pending")]
    package: Option<PathBuf>,
}

/// What `muster authority propose` takes.
#[derive(Args, Debug)]
pub struct ProposeArgs {
    /// Somebody who approves from a day after the proposal on; may be given again
    #[arg(long = "add-approver", value_name = "[NAME=]a.pub")]
    add_approvers: Vec<String>,
    /// Somebody who approves no more; may be given again
    #[arg(long = "remove-approver", value_name = "NAME")]
    remove_approvers: Vec<String>,
    /// How many approvers a matter needs; may be given again
    #[arg(long, value_name = "KIND=N", value_parser = kind_and_count)]
    required: Vec<(String, u64)>,
    /// A key kept offline, of which a majority can make a successor alone; may be given again
    #[arg(long = "recovery", value_name = "[NAME=]r.pub")]
    add_recovery: Vec<String>,
    /// A recovery key that counts no more; may be given again
    #[arg(long = "remove-recovery", value_name = "NAME")]
    remove_recovery: Vec<String>,
    /// Let the server make a new command key in place of the one in force
    #[arg(long)]
    new_command_key: bool,
    /// Let the server make a new audit key in place of the one in force
    #[arg(long)]
    new_audit_key: bool,
}

const HEAD: &[Column] = &[
    column("trust domain", "/trust_domain"),
    column("version", "/version"),
    column("sha256", "/sha256"),
    column("digest of version 1", "/digest"),
    column("told to", "/heard/held"),
    column("not told yet", "/heard/missing"),
];

const NAMES: &[Column] = &[column("NAME", "/name"), column("KEY ID", "/key_id"), column("KEY", "/key")];

const KEYS: &[Column] = &[
    column("NAME", "/name"),
    column("KEY ID", "/key_id"),
    column("COUNTS FROM", "/counts_from"),
    column("KEY", "/key"),
];

pub(super) const PENDING: &[Column] = &[
    column("version", "/version"),
    column("state", "/state"),
    column("sha256", "/sha256"),
    column("approvers needed", "/approvers/required"),
    column("signed by", "/approvers/signed_by"),
    column("its own approvers needed", "/successor_approvers/required"),
    column("signed by those", "/successor_approvers/signed_by"),
    column("recovery keys that are enough", "/recovery/required"),
    column("signed by recovery", "/recovery/signed_by"),
    column("signed, and do not count yet", "/waiting"),
    column("proposed", "/proposed_at"),
    column("by", "/proposed_by"),
    column("in place of", "/replaced/sha256"),
    column("  which these had signed", "/replaced/signed_by"),
];

/// Runs one of the commands about the authority document.
///
/// # Errors
/// Whatever the server refuses or the way there does not allow; a key or file that cannot be used.
pub async fn run(context: &Context, command: AuthorityCommand) -> Result<Exit, Error> {
    match command {
        AuthorityCommand::Show(ShowArgs { pending: false, .. }) => show(context).await?,
        AuthorityCommand::Show(args) => show_pending(context, args.package.as_deref()).await?,
        AuthorityCommand::History => history(context).await?,
        AuthorityCommand::Propose(args) => propose(context, &args).await?,
        AuthorityCommand::Sign(args) => authority_sign::sign(context, &args).await?,
    }
    Ok(Exit::Done)
}

async fn show(context: &Context) -> Result<(), Error> {
    let document = context.client()?.get(&["v1", "authority"], &[]).await?;
    match context.out.reader {
        Reader::Program => context.out.json(&document),
        Reader::Person => context.out.line(&in_words(context, &document)),
    }
}

fn in_words(context: &Context, document: &Value) -> String {
    let look = context.out.look;
    let people = |pointer: &str| -> Vec<Value> {
        let found = document.pointer(pointer).and_then(Value::as_array);
        found.into_iter().flatten().map(difference::with_fingerprint).collect()
    };
    let mut parts = vec![table::record(document, HEAD, look)];
    if let Some(approvers) = table::listing(&people("/approvers"), KEYS, look) {
        parts.push(format!("Approvers\n{approvers}"));
    }
    if let Some(recovery) = table::listing(&people("/recovery"), NAMES, look) {
        parts.push(format!("Recovery\n{recovery}"));
    }
    if let Some(required) = document.get("required").and_then(Value::as_object) {
        let pairs: Vec<(&str, String)> =
            required.iter().map(|(kind, needs)| (kind.as_str(), table::value_at(needs, ""))).collect();
        parts.push(format!("Approvers needed\n{}", table::facts(&pairs, look)));
    }
    parts.join("\n\n")
}

async fn show_pending(context: &Context, package: Option<&Path>) -> Result<(), Error> {
    let pending = match context.client()?.get(&["v1", "authority", "pending"], &[]).await {
        // Nothing can be written down to be signed; otherwise it is an answer like any other.
        Err(error) if error.exit() == Exit::NotFound && package.is_none() => {
            return match context.out.reader {
                Reader::Program => context.out.json(&Value::Null),
                Reader::Person => context.out.line("Nothing is proposed."),
            };
        }
        Err(error) if error.exit() == Exit::NotFound => return Err(nothing_proposed()),
        pending => pending?,
    };
    if let Some(file) = package {
        std::fs::write(file, format!("{pending:#}\n")).map_err(Error::file("write", file))?;
        let file = file.display();
        context.out.notice(&format!(
            "Sign it where the key is: `muster authority sign --key KEY --package {file} --out SIG`, then bring SIG back: \
             `muster authority sign --signature SIG`."
        ));
    }
    print(context, pending)
}

pub(super) fn nothing_proposed() -> Error {
    Error::not_found(
        "Nothing is proposed, so there is nothing to sign",
        "Ask for a successor first: `muster authority propose`.",
    )
}

/// Prints a proposal with what it changes.
fn print(context: &Context, mut pending: Value) -> Result<(), Error> {
    let change = Change::of(&pending)?;
    match context.out.reader {
        Reader::Program => {
            if let Some(fields) = pending.as_object_mut() {
                fields.insert("changes".to_owned(), json!(change.lines()));
                fields.insert("warnings".to_owned(), json!(change.warnings()));
            }
            context.out.json(&pending)
        }
        Reader::Person => {
            let record = table::record(&pending, PENDING, context.out.look);
            context.out.line(&format!("{record}\n\n{}", change.in_words()))
        }
    }
}

async fn history(context: &Context) -> Result<(), Error> {
    let document = context.client()?.get(&["v1", "authority"], &[]).await?;
    let links = document.get("chain").and_then(Value::as_array).cloned().unwrap_or_default();
    let mut versions: Vec<Value> = Vec::new();
    let mut before: Option<Authority> = None;
    for link in &links {
        let signed = read(link)?;
        let next = signed.read_unverified().map_err(|_| unreadable())?;
        let changes = before
            .as_ref()
            .map_or_else(|| vec!["founded".to_owned()], |before| difference::lines(before, &next));
        let people = before.iter().flat_map(|before| &before.approvers).chain(&next.approvers);
        let names = people.map(|one| (one.key.key_id(), one.name.to_string()));
        let offline = before.iter().flat_map(|before| &before.recovery);
        let names: std::collections::BTreeMap<_, _> =
            names.chain(offline.map(|one| (one.key.key_id(), one.name.to_string()))).collect();
        let signed_by: Vec<_> = signed.key_ids().iter().filter_map(|key| names.get(key)).collect();
        versions.push(json!({
            "version": next.version,
            "sha256": signed.payload_digest().to_hex(),
            "signed_by": signed_by,
            "changes": changes,
        }));
        before = Some(next);
    }
    match context.out.reader {
        Reader::Program => context.out.json(&Value::Array(versions)),
        Reader::Person => {
            let part = |one: &Value| {
                let head = [
                    column("version", "/version"),
                    column("sha256", "/sha256"),
                    column("signed by", "/signed_by"),
                ];
                let changes = one.get("changes").and_then(Value::as_array).cloned().unwrap_or_default();
                let lines = changes.iter().map(|line| format!("  {}", table::value_at(line, "")));
                format!(
                    "{}\n{}",
                    table::record(one, &head, context.out.look),
                    lines.collect::<Vec<_>>().join("\n")
                )
            };
            context.out.line(&versions.iter().map(part).collect::<Vec<_>>().join("\n\n"))
        }
    }
}

async fn propose(context: &Context, args: &ProposeArgs) -> Result<(), Error> {
    let body = json!({
        "add_approvers": named_keys(&args.add_approvers)?,
        "remove_approvers": args.remove_approvers,
        "required": args.required.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
        "add_recovery": named_keys(&args.add_recovery)?,
        "remove_recovery": args.remove_recovery,
        "new_command_key": args.new_command_key,
        "new_audit_key": args.new_audit_key,
    });
    let client = context.client()?;
    let seen = agree_to_replace(context, &client).await?;
    let proposed = client.post_if(&["v1", "authority", "pending"], &body, seen).await?;
    print(context, proposed)?;
    context.out.notice("Nothing has changed yet: each approver runs `muster authority sign --key FILE`.");
    Ok(())
}

/// Asks first where a proposal waits that somebody has signed: what was gathered for it is lost with it. Answers on what
/// condition the next one is proposed: that nobody has proposed or signed meanwhile.
async fn agree_to_replace(
    context: &Context,
    client: &Client,
) -> Result<Option<(HeaderName, HeaderValue)>, Error> {
    let (waiting, version) = match client.get_versioned(&["v1", "authority", "pending"]).await {
        Err(error) if error.exit() == Exit::NotFound => {
            return Ok(Some((IF_NONE_MATCH, HeaderValue::from_static("*"))));
        }
        waiting => waiting?,
    };
    if let Some(consequence) = loss(&waiting) {
        let target = json!({"version": waiting.get("version"), "sha256": waiting.get("sha256")});
        consent(context, &Intent { action: "authority.propose", consequence, target: &target }, false)?;
    }
    Ok(version.map(|version| (IF_MATCH, version)))
}

/// What is lost with the proposal `waiting`, if anybody has signed it.
fn loss(waiting: &Value) -> Option<String> {
    let of = |pointer: &str| waiting.pointer(pointer).and_then(Value::as_array).into_iter().flatten();
    let sides = ["/approvers/signed_by", "/successor_approvers/signed_by", "/recovery/signed_by"];
    let names = sides.into_iter().flat_map(of).filter_map(Value::as_str);
    let young = of("/waiting").filter_map(|one| one.get("name")?.as_str());
    let names: Vec<&str> = names.chain(young).collect::<BTreeSet<_>>().into_iter().collect();
    (!names.is_empty()).then(|| {
        let version = table::value_at(waiting, "/version");
        format!(
            "A proposal of version {version} waits already, signed by {}: this one takes its place, and those signatures \
             count for nothing.",
            names.join(", ")
        )
    })
}

/// Public keys of the form `NAME=FILE` or `FILE`, as the API takes them.
fn named_keys(given: &[String]) -> Result<Vec<Value>, Error> {
    let one = |text: &String| {
        let (name, file) = match text.split_once('=') {
            Some((name, file)) => (Some(name.to_owned()), PathBuf::from(file)),
            None => (None, PathBuf::from(text)),
        };
        let content = std::fs::read_to_string(&file).map_err(Error::file("read", &file))?;
        let (key, inside) = parse_public_key(&content).map_err(|cause| {
            Error::usage(
                format!("{} is no approver's public key: {cause}", file.display()),
                "Give the .pub file that `muster operator keygen` or `ssh-keygen -t ed25519` wrote.",
            )
        })?;
        let name = name.unwrap_or_else(|| inside.unwrap_or_else(|| name_of(&file)).to_string());
        Ok(json!({"name": name, "key": hex::encode(key.as_bytes())}))
    };
    given.iter().map(one).collect()
}

/// For clap: `KIND=N`.
fn kind_and_count(text: &str) -> Result<(String, u64), String> {
    let parsed = text.rsplit_once('=').and_then(|(kind, count)| Some((kind.to_owned(), count.parse().ok()?)));
    parsed.ok_or_else(|| "write KIND=N, for instance lock=2".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_signatures_a_new_proposal_loses_is_said_and_each_name_once() {
        let waiting = json!({
            "version": 2, "approvers": {"signed_by": ["alice"]}, "successor_approvers": {"signed_by": ["alice", "bob"]},
            "recovery": {"signed_by": []}, "waiting": [{"name": "carol", "counts_from": "2026-01-02T00:00:00Z"}],
        });
        let told = loss(&waiting).unwrap();
        assert!(told.contains("version 2") && told.contains("signed by alice, bob, carol:"), "{told}");
        let unsigned = json!({"version": 2, "approvers": {"signed_by": []}, "waiting": []});
        assert_eq!(loss(&unsigned), None);
    }
}
