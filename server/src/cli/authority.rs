//! `muster authority`: who may order what.

use super::Context;
use super::error::Error;
use super::output::Reader;
use super::table::{self, Column, column};
use clap::Subcommand;
use muster_wire::problem::Exit;
use serde_json::Value;

/// The commands about the authority document.
#[derive(Debug, Subcommand)]
pub enum AuthorityCommand {
    /// Show the authority document in force
    Show,
}

const HEAD: &[Column] =
    &[column("trust domain", "/trust_domain"), column("version", "/version"), column("digest", "/digest")];

const NAMES: &[Column] = &[column("NAME", "/name"), column("KEY", "/key")];

const KEYS: &[Column] =
    &[column("NAME", "/name"), column("KEY", "/key"), column("COUNTS FROM", "/valid_from")];

/// Runs one of the commands about the authority document.
///
/// # Errors
/// Whatever the server refuses or the way there does not allow.
pub async fn run(context: &Context, command: AuthorityCommand) -> Result<Exit, Error> {
    let AuthorityCommand::Show = command;
    let document = context.client()?.get(&["v1", "authority"], &[]).await?;
    match context.out.reader {
        Reader::Program => context.out.json(&document)?,
        Reader::Person => context.out.line(&in_words(context, &document))?,
    }
    Ok(Exit::Done)
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
