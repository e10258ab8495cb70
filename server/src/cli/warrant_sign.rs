//! Approvers' signatures, made on the approver's own machine.
//!
//! Every name is read from the bytes that are signed ([`super::warrant_paper`]), and the key goes nowhere. A machine
//! without a network signs a package and hands its signature back as a file.

use super::client::Client;
use super::confirm::{Intent, Verdict, consent_by, somebody_is_there};
use super::error::Error;
use super::table::{self, column};
use super::warrant::{NAMES, RECORD, SignArgs, fetch};
use super::warrant_paper::{Handed, Paper};
use super::{Context, approver_key};
use muster_wire::id::WarrantId;
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
            hand_in(context, &context.client()?, &handed, &Value::Null).await
        }
        (None, None, Some(warrant), Some(key)) => {
            let client = context.client()?;
            let before = fetch(&client, warrant).await?;
            let paper = Paper::read(&before)?;
            if paper.warrant.id.to_string() != *warrant {
                return Err(other());
            }
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
    let paper = Paper::read(&serde_json::from_str(&text).unwrap_or_default())?;
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
        context.out.notice(&listing);
    }
    let consequence = paper.in_words();
    if !dry_run && !somebody_is_there() {
        context.out.notice(&table::plain(&consequence));
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

/// Hands in a signature on the warrant that was as `before`.
async fn hand_in(context: &Context, client: &Client, handed: &Handed, before: &Value) -> Result<(), Error> {
    let path = ["v1", "warrants", &format!("{}:sign", handed.warrant)];
    let shown = client.post(&path, &json!({"signed": handed.signed})).await?;
    context.out.item(&shown, RECORD)?;
    approver_key::tell_if_again(context, (before, &shown), "/signed_by");
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
    let paper = Paper::read(&fetch(&client, warrant).await?)?;
    if paper.warrant.id.to_string() != warrant {
        return Err(other());
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
