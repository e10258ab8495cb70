//! Approvers' signatures on a successor of the authority document, made on the approver's own machine.
//!
//! What is signed is said in words, read from the bytes (`super::authority_paper`); one signature is added, and the key goes
//! nowhere. Without a way to the server the bytes go there and back as files.

use super::authority::{PENDING, nothing_proposed};
use super::authority_paper::{Change, unreadable};
use super::client::Client;
use super::confirm::{Intent, Verdict, consent};
use super::error::Error;
use super::table::{Column, column};
use super::{Context, approver_key};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use muster_wire::envelope::MultiSigned;
use muster_wire::key::Signer;
use muster_wire::problem::Exit;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

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

const SIGNED: &[Column] =
    &[column("version", "/version"), column("signed by", "/signed_by"), column("signature", "/signature")];

/// Signs the successor that waits or a package, or brings a signature.
///
/// # Errors
/// [`Error::Refused`] for a key that is none of the document's or where nobody agrees; whatever the server or a file does not
/// allow.
pub(super) async fn sign(context: &Context, args: &SignArgs) -> Result<(), Error> {
    if let Some(file) = &args.signature {
        let bytes = std::fs::read(file).map_err(Error::file("read", file))?;
        let client = context.client()?;
        // Where nothing waits, or it is in force, the server says so when the signature is brought.
        let before = client.get(&["v1", "authority", "pending"], &[]).await.unwrap_or(Value::Null);
        return bring(context, &client, &bytes, &before).await;
    }
    let Some(key) = &args.key else {
        return Err(Error::usage("No key is named", "Name the approver's private key with --key."));
    };
    let client = if args.package.is_some() { None } else { Some(context.client()?) };
    let pending = waiting(args.package.as_deref(), client.as_ref()).await?;
    let change = Change::of(&pending)?;
    let signer = approver_key::read(key)?;
    let who = change.name_of(&signer.public_key().key_id()).ok_or_else(|| {
        Error::refused(
            format!("{} is neither an approver's key nor a recovery key of this document", key.display()),
            "Sign with the key whose public half `muster authority show` lists.",
        )
    })?;
    if agree(context, (&change, &who), args.dry_run)? == Verdict::OnlyShown {
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
            context.out.item(&shown, SIGNED)
        }
        (None, Some(client)) => bring(context, client, &copy.to_bytes(), &pending).await,
        (None, None) => Err(unreadable()),
    }
}

/// The proposal that waits: in `package`, or as the server shows it.
async fn waiting(package: Option<&Path>, client: Option<&Client>) -> Result<Value, Error> {
    match (package, client) {
        (Some(file), _) => {
            let text = std::fs::read_to_string(file).map_err(Error::file("read", file))?;
            serde_json::from_str(&text).map_err(|_| no_package(file))
        }
        (None, Some(client)) => match client.get(&["v1", "authority", "pending"], &[]).await {
            Err(error) if error.exit() == Exit::NotFound => Err(nothing_proposed()),
            pending => pending,
        },
        (None, None) => Err(unreadable()),
    }
}

/// Says what is about to be signed, and asks.
fn agree(context: &Context, (change, who): (&Change, &str), dry_run: bool) -> Result<Verdict, Error> {
    let consequence = format!("{}\n{who} signs this.", change.in_words());
    let target = json!({"version": change.next.version, "sha256": change.signed.payload_digest().to_hex(), "changes": change.lines(), "warnings": change.warnings()});
    if context.global.yes && !dry_run {
        context.out.tell(&consequence);
    }
    consent(context, &Intent { action: "authority.sign", consequence, target: &target }, dry_run)
}

/// Brings a signed copy to the server, where the proposal was as `before`.
async fn bring(context: &Context, client: &Client, copy: &[u8], before: &Value) -> Result<(), Error> {
    let body = json!({"signature": STANDARD.encode(copy)});
    let settled = client.post(&["v1", "authority", "signatures"], &body).await?;
    let is_in_force = settled.get("state").and_then(Value::as_str) == Some("in_force");
    context.out.item(&settled, PENDING)?;
    approver_key::tell_if_again(context, (before, &settled), "/document");
    context.out.notice(if is_in_force {
        "It is in force. Devices that are connected hear of it now, the others when they come back."
    } else {
        "More signatures are needed; `muster authority show --pending` says whose are there."
    });
    Ok(())
}

fn no_package(file: &Path) -> Error {
    Error::usage(
        format!("{} is no proposal of an authority document", file.display()),
        "Give the file that `muster authority show --pending --package FILE` wrote.",
    )
}
