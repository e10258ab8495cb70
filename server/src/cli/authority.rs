//! `muster authority`: who may order what, and how that is changed.
//!
//! A successor is proposed by an operator and signed by approvers, each with their own key on their own machine: `sign`
//! reads the bytes, says in words what they change, and adds one signature. No private key is sent anywhere. Without a
//! way to the server the bytes go there and back as files: `show --pending --package`, `sign --package --out`,
//! `sign --signature`.

use super::approver_key;
use super::client::Client;
use super::confirm::{Intent, Verdict, consent};
use super::error::Error;
use super::operator::name_of;
use super::output::Reader;
use super::table::{self, Column, column};
use super::{Context, difference};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use muster_wire::approver::parse_public_key;
use muster_wire::authority::Authority;
use muster_wire::envelope::MultiSigned;
use muster_wire::key::Signer;
use muster_wire::problem::Exit;
use serde_json::{Value, json};
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

/// What `muster authority sign` takes.
#[derive(Args, Debug)]
#[group(required = true, multiple = true)]
pub struct SignArgs {
    /// The approver's private key
    #[arg(long, value_name = "FILE", conflicts_with = "signature")]
    key: Option<PathBuf>,
    /// Sign what `show --pending --package` wrote, without asking a server
    #[arg(long, value_name = "FILE", requires = "key", requires = "out")]
    package: Option<PathBuf>,
    /// Where the signature goes then
    #[arg(long, value_name = "SIG", requires = "package")]
    out: Option<PathBuf>,
    /// Bring a signature that was made on another machine
    #[arg(long, value_name = "SIG")]
    signature: Option<PathBuf>,
    /// Say what would be signed, and do nothing
    #[arg(long)]
    dry_run: bool,
}

const HEAD: &[Column] = &[
    column("trust domain", "/trust_domain"),
    column("version", "/version"),
    column("digest", "/digest"),
    column("told to", "/heard/held"),
    column("not told yet", "/heard/missing"),
];

const NAMES: &[Column] = &[column("NAME", "/name"), column("KEY", "/key")];

const KEYS: &[Column] =
    &[column("NAME", "/name"), column("KEY", "/key"), column("COUNTS FROM", "/valid_from")];

const PENDING: &[Column] = &[
    column("version", "/version"),
    column("state", "/state"),
    column("sha256", "/sha256"),
    column("approvers needed", "/approvers/required"),
    column("signed by", "/approvers/signed_by"),
    column("its own approvers needed", "/successor_approvers/required"),
    column("signed by those", "/successor_approvers/signed_by"),
    column("recovery keys that are enough", "/recovery/required"),
    column("signed by recovery", "/recovery/signed_by"),
    column("proposed", "/proposed_at"),
    column("by", "/proposed_by"),
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
        AuthorityCommand::Sign(args) => sign(context, &args).await?,
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
    let people =
        |pointer: &str| document.pointer(pointer).and_then(Value::as_array).cloned().unwrap_or_default();
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
    let pending = context.client()?.get(&["v1", "authority", "pending"], &[]).await?;
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

/// Prints a proposal with what it changes.
fn print(context: &Context, mut pending: Value) -> Result<(), Error> {
    let change = Change::of(&pending)?;
    match context.out.reader {
        Reader::Program => {
            if let Some(fields) = pending.as_object_mut() {
                fields.insert("changes".to_owned(), json!(change.lines()));
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
    let proposed = context.client()?.post(&["v1", "authority", "pending"], &body).await?;
    print(context, proposed)?;
    context.out.notice("Nothing has changed yet: each approver runs `muster authority sign --key FILE`.");
    Ok(())
}

async fn sign(context: &Context, args: &SignArgs) -> Result<(), Error> {
    if let Some(file) = &args.signature {
        let bytes = std::fs::read(file).map_err(Error::file("read", file))?;
        return bring(context, &context.client()?, &bytes).await;
    }
    let Some(key) = &args.key else {
        return Err(Error::usage("No key is named", "Name the approver's private key with --key."));
    };
    let client = if args.package.is_some() { None } else { Some(context.client()?) };
    let pending = match (&args.package, &client) {
        (Some(file), _) => {
            let text = std::fs::read_to_string(file).map_err(Error::file("read", file))?;
            serde_json::from_str(&text).map_err(|_| unreadable())?
        }
        (None, Some(client)) => client.get(&["v1", "authority", "pending"], &[]).await?,
        (None, None) => return Err(unreadable()),
    };
    let change = Change::of(&pending)?;
    let signer = approver_key::read(key)?;
    let key_id = signer.public_key().key_id();
    let who = change.name_of(&key_id).ok_or_else(|| {
        Error::refused(
            format!("{} is neither an approver's key nor a recovery key of this document", key.display()),
            "Sign with the key whose public half `muster authority show` lists.",
        )
    })?;
    let consequence = format!("{}\n{who} signs this.", change.in_words());
    let target = json!({"version": change.next.version, "sha256": change.signed.payload_digest().to_hex(), "changes": change.lines()});
    if context.global.yes && !args.dry_run {
        context.out.notice(&consequence);
    }
    let intent = Intent { action: "authority.sign", consequence, target: &target };
    if consent(context, &intent, args.dry_run)? == Verdict::OnlyShown {
        return Ok(());
    }
    // A copy that carries this signature alone: others' are brought by others.
    let mut copy = MultiSigned::unsigned(&change.next);
    copy.add_signature(&signer)
        .map_err(|cause| Error::failed(format!("The key cannot sign: {cause}"), "Try another copy of it."))?;
    match (&args.out, &client) {
        (Some(out), _) => {
            std::fs::write(out, copy.to_bytes()).map_err(Error::file("write", out))?;
            let shown = json!({"version": change.next.version, "signed_by": who, "signature": out.display().to_string()});
            context.out.item(
                &shown,
                &[
                    column("version", "/version"),
                    column("signed by", "/signed_by"),
                    column("signature", "/signature"),
                ],
            )
        }
        (None, Some(client)) => bring(context, client, &copy.to_bytes()).await,
        (None, None) => Err(unreadable()),
    }
}

/// Brings a signed copy to the server.
async fn bring(context: &Context, client: &Client, copy: &[u8]) -> Result<(), Error> {
    let body = json!({"signature": STANDARD.encode(copy)});
    let settled = client.post(&["v1", "authority", "signatures"], &body).await?;
    let is_in_force = settled.get("state").and_then(Value::as_str) == Some("in_force");
    context.out.item(&settled, PENDING)?;
    context.out.notice(if is_in_force {
        "It is in force. Devices that are connected hear of it now, the others when they come back."
    } else {
        "More signatures are needed; `muster authority show --pending` says whose are there."
    });
    Ok(())
}

/// A successor beside the document that it follows, read from the bytes that are signed.
struct Change {
    signed: MultiSigned<Authority>,
    current: Authority,
    next: Authority,
}

impl Change {
    /// Reads a proposal as the server or a package tells it.
    fn of(pending: &Value) -> Result<Self, Error> {
        let current = read(pending.get("current").unwrap_or(&Value::Null))?;
        let signed = read(pending.get("document").unwrap_or(&Value::Null))?;
        let (before, next) = (current.read_unverified(), signed.read_unverified());
        let (Ok(before), Ok(next)) = (before, next) else { return Err(unreadable()) };
        // Signed for is a document with this predecessor: so what it changes is changed in nothing but that one.
        let follows = next.previous == Some(current.payload_digest())
            && before.version.checked_add(1) == Some(next.version);
        let is_in_force = current.payload_digest() == signed.payload_digest();
        if follows || is_in_force {
            return Ok(Self { signed, current: before, next });
        }
        Err(Error::refused(
            format!("The proposal of version {} does not follow version {}", next.version, before.version),
            "Sign nothing: get a new package, and ask whoever runs the server.",
        ))
    }

    fn lines(&self) -> Vec<String> {
        difference::lines(&self.current, &self.next)
    }

    fn in_words(&self) -> String {
        let (from, to) = (self.current.version, self.next.version);
        let domain = self.next.trust_domain.as_str();
        let head = format!("The authority of {domain}, version {from}, becomes version {to}:");
        let lines = self.lines();
        let lines = if lines.is_empty() { vec!["nothing changes".to_owned()] } else { lines };
        format!("{head}\n  {}", lines.join("\n  "))
    }

    /// Whose key has this id, in either document.
    fn name_of(&self, key: &muster_wire::key::KeyId) -> Option<String> {
        let approvers = self.current.approvers.iter().chain(&self.next.approvers);
        let mut names = approvers.map(|one| (one.key, &one.name));
        let mut recovery = self.current.recovery.iter().map(|one| (one.key, &one.name));
        let found = names.find(|(held, _)| held.key_id() == *key);
        found.or_else(|| recovery.find(|(held, _)| held.key_id() == *key)).map(|(_, name)| name.to_string())
    }
}

fn read(text: &Value) -> Result<MultiSigned<Authority>, Error> {
    let bytes = text.as_str().and_then(|text| STANDARD.decode(text).ok()).ok_or_else(unreadable)?;
    MultiSigned::parse_unfinished(&bytes).map_err(|_| unreadable())
}

fn unreadable() -> Error {
    Error::failed(
        "What came is no proposal of an authority document",
        "Get it again with `muster authority show --pending --package FILE`.",
    )
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
