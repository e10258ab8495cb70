//! `muster ca`: the certificate authorities and their revocation lists.

use super::Context;
use super::error::Error;
use super::output::Reader;
use super::table::{self, Column, column};
use clap::Subcommand;
use muster_wire::problem::Exit;
use serde_json::Value;

/// The commands about the certificate authorities.
#[derive(Debug, Subcommand)]
pub enum CaCommand {
    /// Show the authorities: root, issuing, server names
    Show {
        /// Print the certificates as PEM instead
        #[arg(long, conflicts_with = "json")]
        pem: bool,
    },
    /// List the revocation lists that were signed, and where each is served
    Crl,
}

const AUTHORITIES: &[&str] = &["root", "issuing", "names"];

const AUTHORITY: &[Column] = &[
    column("name", "/name"),
    column("serial", "/serial"),
    column("sha256", "/sha256"),
    column("not before", "/not_before"),
    column("not after", "/not_after"),
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
    let client = context.client()?;
    match command {
        CaCommand::Show { pem } => show(context, &client.get(&["v1", "ca"], &[]).await?, pem)?,
        CaCommand::Crl => {
            let items = client.list(&["v1", "ca", "crl"], &[], None).await?;
            context.out.items(
                items,
                CRLS,
                "No list is signed yet. A list is signed when somebody fetches it, with every revocation made before that.",
            )?;
        }
    }
    Ok(Exit::Done)
}

fn show(context: &Context, document: &Value, pem: bool) -> Result<(), Error> {
    if context.out.reader == Reader::Program {
        return context.out.json(document);
    }
    let known = AUTHORITIES.iter().filter_map(|name| document.get(name).map(|authority| (*name, authority)));
    if pem {
        let text: String =
            known.filter_map(|(_, authority)| authority.get("pem").and_then(Value::as_str)).collect();
        return context.out.raw(text.as_bytes());
    }
    let mut parts: Vec<String> = known
        .map(|(role, authority)| {
            format!("[{role}]\n{}", table::record(authority, AUTHORITY, context.out.look))
        })
        .collect();
    if let Some(url) = document.get("crl").and_then(Value::as_str) {
        parts.push(format!("Revocation lists: {}", table::plain(url)));
    }
    context.out.line(&parts.join("\n\n"))
}
