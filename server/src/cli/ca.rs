//! `muster ca`: the certificate authorities and their revocation lists; another issuing CA in place of the one that
//! signs, in three steps on `--data-dir` itself while no server runs.

use super::Context;
use super::error::Error;
use super::output::Reader;
use super::table::{self, Column, column};
use crate::app::found::{self, FoundError, Step};
use clap::{Args, Subcommand, ValueEnum};
use muster_wire::problem::Exit;
use serde_json::{Value, json};
use std::path::PathBuf;

/// The commands about the certificate authorities.
#[derive(Debug, Subcommand)]
pub enum CaCommand {
    /// Show the authorities: root, issuing, next, former, server names
    Show {
        /// Print the certificates as PEM instead
        #[arg(long, conflicts_with = "json")]
        pem: bool,
    },
    /// List the revocation lists that were signed, and where each is served
    Crl,
    /// Make a new authority beneath the root, while no server runs; served from the next start on, it signs nothing yet
    Rotate(RotateArgs),
    /// Let the new authority sign from the next start on, while no server runs
    Activate(ActivateArgs),
    /// Remove the key of a former authority whose last certificate has expired, while no server runs
    Drop {
        /// Which
        #[arg(value_enum, value_name = "AUTHORITY")]
        which: Droppable,
    },
}

/// What `muster ca rotate` takes.
#[derive(Args, Clone, Debug)]
pub struct RotateArgs {
    /// Which
    #[arg(value_enum, value_name = "AUTHORITY")]
    which: Rotatable,
    /// The root's private key, where it is not in --data-dir
    #[arg(long, value_name = "FILE")]
    root_key: Option<PathBuf>,
    /// Settings file; `<data-dir>/muster.toml` when it is there
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// What `muster ca activate` takes.
#[derive(Args, Clone, Debug)]
pub struct ActivateArgs {
    /// Which
    #[arg(value_enum, value_name = "AUTHORITY")]
    which: Rotatable,
    /// Go on although exactly so many devices have not acknowledged it
    #[arg(long, value_name = "N")]
    although_missing: Option<u64>,
}

/// Authorities that can be replaced.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Rotatable {
    /// The one that signs device certificates
    Issuing,
}

/// Authorities that can be dropped.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Droppable {
    /// Those that signed device certificates before
    Former,
}

const AUTHORITIES: &[&str] = &["root", "issuing", "next", "names"];

const AUTHORITY: &[Column] = &[
    column("name", "/name"),
    column("serial", "/serial"),
    column("sha256", "/sha256"),
    column("not before", "/not_before"),
    column("not after", "/not_after"),
];

const FORMER: &[Column] = &[
    column("name", "/name"),
    column("serial", "/serial"),
    column("sha256", "/sha256"),
    column("not after", "/not_after"),
    column("last leaf", "/last_leaf"),
];

const STEP: &[Column] = &[
    column("signs", "/signs"),
    column("next", "/next"),
    column("former", "/former"),
    column("name", "/name"),
    column("devices that have it", "/held"),
    column("devices that do not", "/missing"),
];

const CRLS: &[Column] = &[
    column("ISSUER", "/issuer"),
    column("SHARD", "/shard"),
    column("NUMBER", "/number"),
    column("ENTRIES", "/entries"),
    column("SIGNED", "/this_update"),
    column("URL", "/url"),
];

/// Runs one of the commands about the certificate authorities.
///
/// # Errors
/// Whatever the server refuses or the way there does not allow.
pub async fn run(context: &Context, command: CaCommand) -> Result<Exit, Error> {
    match command {
        CaCommand::Show { pem } => {
            show(context, &context.client()?.get(&["v1", "ca"], &[]).await?, pem)?;
        }
        CaCommand::Crl => {
            let items = context.client()?.list(&["v1", "ca", "crl"], &[], None).await?;
            context.out.items(
                items,
                CRLS,
                "No list is signed yet. A list is signed when somebody fetches it, with every revocation made before that.",
            )?;
        }
        CaCommand::Rotate(_) | CaCommand::Activate(_) | CaCommand::Drop { .. } => {
            offline(context, &command)?;
        }
    }
    Ok(Exit::Done)
}

/// Runs those that work on --data-dir itself; nothing for the others. They wait for the store, so no runtime may be
/// running.
///
/// # Errors
/// [`Error::Refused`] where a step is not to be taken, otherwise what keeps the installation from being opened.
pub(super) fn offline(context: &Context, command: &CaCommand) -> Result<bool, Error> {
    let dir = context.global.data_dir();
    let (step, next) = match command {
        CaCommand::Show { .. } | CaCommand::Crl => return Ok(false),
        CaCommand::Rotate(RotateArgs { which: Rotatable::Issuing, root_key, config }) => {
            let settings = super::init::settings(config.as_deref(), &dir)?;
            let step = found::rotate_issuing(&dir, root_key.as_deref(), &settings);
            (
                step,
                "Start the server: devices that connect fetch the new authority and acknowledge it, `muster ca show` \
                 counts them. Then stop it and run `muster ca activate issuing`.",
            )
        }
        CaCommand::Activate(ActivateArgs { which: Rotatable::Issuing, although_missing }) => (
            found::activate_issuing(&dir, *although_missing),
            "Start the server: what is issued from now on is by the new authority, to renew a device at once run \
             `muster order make rotate_identity`. `muster ca drop former` removes the old key once its last \
             certificate has expired.",
        ),
        CaCommand::Drop { which: Droppable::Former } => {
            (found::drop_former(&dir), "Remove the key from every backup, too.")
        }
    };
    tell(context, &step.map_err(|cause| refused(&cause))?, next)?;
    Ok(true)
}

fn refused(cause: &FoundError) -> Error {
    let FoundError::Issuers(refusal) = cause else { return super::init::refused(cause) };
    let sentence = refusal.to_string();
    let (what, remedy) = sentence.split_once("; ").unwrap_or((&sentence, "see `muster ca show`"));
    let mut remedy = remedy.to_owned();
    if let Some(first) = remedy.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    Error::refused(what, format!("{remedy}."))
}

fn tell(context: &Context, step: &Step, next: &str) -> Result<(), Error> {
    let issuers = &step.issuers;
    let former = issuers.former.iter().filter(|former| !former.dropped);
    let shown = json!({
        "signs": issuers.signs.to_string(),
        "next": issuers.next.map(|next| next.to_string()),
        "former": former.map(|former| former.name.to_string()).collect::<Vec<_>>(),
        "name": step.id,
        "bundle": issuers.bundle,
        "generation": issuers.generation,
        "held": step.acknowledged.held,
        "missing": step.acknowledged.missing,
    });
    context.out.item(&shown, STEP)?;
    context.out.notice(next);
    Ok(())
}

fn show(context: &Context, document: &Value, pem: bool) -> Result<(), Error> {
    if context.out.reader == Reader::Program {
        return context.out.json(document);
    }
    let known = AUTHORITIES.iter().filter_map(|name| document.get(name).map(|authority| (*name, authority)));
    let former = document.get("former").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let known: Vec<(&str, &Value)> = known
        .filter(|(_, authority)| !authority.is_null())
        .chain(former.iter().map(|authority| ("former", authority)))
        .collect();
    if pem {
        let text: String =
            known.iter().filter_map(|(_, authority)| authority.get("pem").and_then(Value::as_str)).collect();
        return context.out.raw(text.as_bytes());
    }
    let mut parts: Vec<String> = known
        .iter()
        .map(|(role, authority)| {
            let rows = if *role == "former" { FORMER } else { AUTHORITY };
            format!("[{role}]\n{}", table::record(authority, rows, context.out.look))
        })
        .collect();
    if let Some(counted) = document.get("acknowledged").filter(|counted| !counted.is_null()) {
        let number = |name| counted.get(name).and_then(Value::as_u64).unwrap_or(0);
        let (held, missing) = (number("held"), number("missing"));
        parts.push(format!("Devices that have the newest authority: {held}; that do not: {missing}"));
    }
    if let Some(url) = document.get("crl").and_then(Value::as_str) {
        parts.push(format!("Revocation lists: {}", table::plain(url)));
    }
    context.out.line(&parts.join("\n\n"))
}
