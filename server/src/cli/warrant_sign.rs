//! Approvers' signatures, made on the approver's own machine.
//!
//! Every name is read from the bytes that are signed ([`super::warrant_paper`]), and the key goes nowhere. A machine
//! without a network signs a package and hands its signature back as a file.

use super::client::Client;
use super::confirm::{Intent, Verdict, consent_by, somebody_is_there};
use super::error::Error;
use super::rails::tell_if_frozen;
use super::table::{self, column, value_at};
use super::warrant::{NAMES, RECORD, SignArgs, fetch};
use super::warrant_paper::{Handed, Paper};
use super::{Context, approver_key};
use muster_wire::id::WarrantId;
use muster_wire::problem::{Code, Problem};
use serde_json::{Value, json};
use std::path::Path;

/// Signs a warrant or a package, or hands in a signature.
///
/// # Errors
/// [`Error::Refused`] where words and bytes differ or nobody agrees; whatever the server or a file does not allow.
pub(super) async fn sign(context: &Context, args: &SignArgs) -> Result<(), Error> {
    match (&args.package, &args.signature, &args.warrant, &args.key) {
        (Some(package), _, _, Some(key)) => sign_package(context, package, key, args),
        (None, Some(signature), Some(warrant), _) => {
            let handed = read_signature(signature, warrant)?;
            let client = context.client()?;
            let before = fetch(&client, warrant).await?;
            hand_in(context, &client, &handed, &before).await
        }
        (None, None, Some(warrant), Some(key)) => {
            let client = context.client()?;
            let before = fetch(&client, warrant).await?;
            let paper = Paper::read(&before)?;
            if paper.warrant.id.to_string() != *warrant {
                return Err(other());
            }
            if_open(&before, &["done", "stopped", "lapsed"])?;
            if agree(context, ("warrant.sign", &paper), args.dry_run)? == Verdict::OnlyShown {
                return Ok(());
            }
            hand_in(context, &client, &paper.sign(&approver_key::read(key)?)?, &before).await
        }
        _ => Err(Error::usage("There is nothing to sign", "See `muster warrant sign --help`.")),
    }
}

fn sign_package(context: &Context, package: &Path, key: &Path, args: &SignArgs) -> Result<(), Error> {
    let text = std::fs::read_to_string(package).map_err(Error::file("read", package))?;
    let given = serde_json::from_str(&text).unwrap_or_default();
    let paper = Paper::read(&given)?;
    if_open(&given, &["done", "stopped", "lapsed"])?;
    if agree(context, ("warrant.sign", &paper), args.dry_run)? == Verdict::OnlyShown {
        return Ok(());
    }
    let handed = paper.sign(&approver_key::read(key)?)?;
    let out = args.out.as_deref().unwrap_or_else(|| Path::new("warrant.sig"));
    let body = json!({"warrant": handed.warrant, "signed": handed.signed});
    std::fs::write(out, format!("{body:#}\n")).map_err(Error::file("write", out))?;
    context.out.item(
        &json!({"warrant": handed.warrant, "signature": out.display().to_string()}),
        &[column("warrant", "/warrant"), column("signature", "/signature")],
    )
}

/// Shows what is about to be signed. Whoever gives a key and has no terminal has agreed by that; a person types the
/// number of devices.
fn agree(
    context: &Context,
    (action, paper): (&'static str, &Paper),
    dry_run: bool,
) -> Result<Verdict, Error> {
    let names = paper.names();
    if let Some(listing) = table::listing(&names, NAMES, context.out.look) {
        // A dry run with --json has the names in its answer; what is signed is told whoever reads.
        if dry_run { context.out.notice(&listing) } else { context.out.tell(&listing) }
    }
    let consequence = paper.in_words();
    if !dry_run && (context.global.yes || !somebody_is_there()) {
        context.out.tell(&table::plain(&consequence));
        return Ok(Verdict::Go);
    }
    let target = json!({"warrant": paper.warrant.id, "targets": names});
    let intent = Intent { action, consequence, target: &target };
    consent_by(context, &intent, dry_run, &paper.warrant.count.to_string())
}

fn read_signature(file: &Path, warrant: &str) -> Result<Handed, Error> {
    let text = std::fs::read_to_string(file).map_err(Error::file("read", file))?;
    let handed: Handed = serde_json::from_str(&text).map_err(|_| {
        Error::usage(
            format!("{} is no signature on a warrant", file.display()),
            "Give the file that `muster warrant sign --package … --out FILE` wrote.",
        )
    })?;
    if handed.warrant.to_string() == warrant { Ok(handed) } else { Err(other()) }
}

fn other() -> Error {
    Error::refused("This is about another warrant", "Compare the ids with `muster warrant list`.")
}

/// Nobody is asked to confirm what the server will refuse: it says so here, in the server's words.
///
/// # Errors
/// [`Error::Problem`] where the warrant is in one of the states `over`.
fn if_open(shown: &Value, over: &[&str]) -> Result<(), Error> {
    let state = shown.get("state").and_then(Value::as_str).unwrap_or_default();
    if !over.contains(&state) {
        return Ok(());
    }
    let remedy = "Ask for a new one: `muster warrant request`, or `muster device deprovision`.";
    Err(ended(format!("The warrant is {state}: nothing more is signed on it."), remedy))
}

/// The same for the word that stops it.
///
/// # Errors
/// [`Error::Problem`] where nothing of the warrant can happen any more.
fn if_stoppable(shown: &Value) -> Result<(), Error> {
    let state = shown.get("state").and_then(Value::as_str).unwrap_or_default();
    if !["done", "lapsed"].contains(&state) {
        return Ok(());
    }
    let remedy = "`muster warrant show` says what came of each device.";
    Err(ended(format!("The warrant is {state}: nothing is left to stop."), remedy))
}

fn ended(detail: String, remedy: &str) -> Error {
    let problem =
        Problem::new(Code::Conflict).with_detail(detail).with_rule("warrant.ended").with_field("state");
    let problem = Problem { remedy: remedy.to_owned(), ..problem };
    Error::Problem { problem: Box::new(problem), retry_after_s: None }
}

/// Hands in a signature on the warrant that was as `before`.
async fn hand_in(context: &Context, client: &Client, handed: &Handed, before: &Value) -> Result<(), Error> {
    let path = ["v1", "warrants", &format!("{}:sign", handed.warrant)];
    let shown = client.post(&path, &json!({"signed": handed.signed})).await?;
    context.out.item(&shown, RECORD)?;
    approver_key::tell_if_again(context, (before, &shown), "/signed_by");
    if value_at(&shown, "/state") == "warranted" {
        tell_if_frozen(context, client).await;
    }
    Ok(())
}

/// Signs and hands in that a warrant is stopped.
///
/// # Errors
/// As [`sign`].
pub(super) async fn stop(
    context: &Context,
    (warrant, key): (&str, &Path),
    dry_run: bool,
) -> Result<(), Error> {
    let client = context.client()?;
    let before = fetch(&client, warrant).await?;
    let paper = Paper::read(&before)?;
    if paper.warrant.id.to_string() != warrant {
        return Err(other());
    }
    if_stoppable(&before)?;
    if value_at(&before, "/state") == "stopped" {
        context.out.item(&before, RECORD)?;
        context.out.notice("It is stopped already: nothing has changed.");
        return Ok(());
    }
    let mut random = [0; 10];
    getrandom::fill(&mut random).map_err(|cause| {
        Error::failed(format!("The system gives no random bytes: {cause}"), "Run it again.")
    })?;
    let now_ms = u64::try_from(context.clock.now_ms()).unwrap_or(0);
    let stop = paper.stop(WarrantId::from_parts(now_ms, random));
    if agree(context, ("warrant.stop", &stop), dry_run)? == Verdict::OnlyShown {
        return Ok(());
    }
    let handed = stop.sign(&approver_key::read(key)?)?;
    let path = ["v1", "warrants", &format!("{warrant}:stop")];
    let shown = client.post(&path, &json!({"signed": handed.signed})).await?;
    context.out.item(&shown, RECORD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_ended_is_refused_before_anybody_is_asked_with_the_code_that_the_server_has() {
        for state in ["done", "stopped", "lapsed"] {
            let error = if_open(&json!({"state": state}), &["done", "stopped", "lapsed"]).unwrap_err();
            assert_eq!((error.exit() as u8, error.for_machines().code.as_str()), (3, "conflict"));
            assert!(error.for_people().contains(state), "{}", error.for_people());
        }
        assert!(if_open(&json!({"state": "requested"}), &["done"]).is_ok());
        for state in ["done", "lapsed"] {
            let error = if_stoppable(&json!({"state": state})).unwrap_err();
            assert_eq!((error.exit() as u8, error.for_machines().code.as_str()), (3, "conflict"));
            assert!(error.for_people().contains("nothing is left to stop"), "{}", error.for_people());
        }
        assert!(if_stoppable(&json!({"state": "warranted"})).is_ok());
    }
}
