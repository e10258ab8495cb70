//! `muster init`: founds a server.
//!
//! Works on files of this machine alone. Approvers come as public keys; with `--solo` and no key given, one is made
//! here, which makes whoever takes this machine an approver, and the command says so.

use super::Context;
use super::error::Error;
use super::operator::{self, name_of};
use super::output::Reader;
use super::table;
use crate::config::{ConfigError, FILE_NAME, Settings};
use clap::Args;
use muster_wire::approver::parse_public_key;
use muster_wire::problem::Exit;
use std::path::{Path, PathBuf};

/// Where `--solo` puts the approver's key that it makes, in the data directory.
pub const SOLO_KEY: &str = "approver.key";

/// A name and an Ed25519 public key.
type NamedKey = (String, [u8; 32]);

/// What `muster init` takes.
#[derive(Args, Debug)]
pub struct InitArgs {
    /// Host name under which devices reach this server
    #[arg(long, value_name = "N")]
    pub public_name: String,
    /// Public key of an approver (OpenSSH or PEM); may be given again
    #[arg(long = "approver", value_name = "FILE", required_unless_present = "solo")]
    pub approvers: Vec<PathBuf>,
    /// One approver for everything: the one given, or a key made here
    #[arg(long)]
    pub solo: bool,
    /// Public key that helps when approvers' keys are lost, kept offline; may be given again
    #[arg(long, value_name = "FILE")]
    pub recovery: Vec<PathBuf>,
    /// Trust domain of every identity issued; the public name when left out
    #[arg(long, value_name = "TD")]
    pub trust_domain: Option<String>,
    /// Settings file; `<data-dir>/muster.toml` when it is there
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Reads the settings a server of `data_dir` would run with.
///
/// # Errors
/// [`Error::Usage`] naming file and line, or the variable.
fn settings(config: Option<&Path>, data_dir: &Path) -> Result<Settings, Error> {
    let default = data_dir.join(FILE_NAME);
    let file = config.or_else(|| default.exists().then_some(default.as_path()));
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    Settings::load(file, environment).map_err(|cause| {
        if let ConfigError::Unreadable { source, .. } = cause {
            return Error::File { verb: "read", path: file.unwrap_or(data_dir).to_owned(), source };
        }
        Error::usage(cause.to_string(), "Correct the settings; `muster serve --help` lists every key.")
    })
}

/// Reads public keys, each with its name: the one in the file, else the file's.
fn public_keys(files: &[PathBuf]) -> Result<Vec<NamedKey>, Error> {
    let mut keys: Vec<NamedKey> = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(file).map_err(Error::file("read", file))?;
        let (key, named) = parse_public_key(&text).map_err(|cause| {
            Error::usage(
                format!("{} is no approver's public key: {cause}", file.display()),
                "Give the .pub file that `muster operator keygen` or `ssh-keygen -t ed25519` wrote.",
            )
        })?;
        let name = named.unwrap_or_else(|| name_of(file)).to_string();
        if keys.iter().any(|(other, bytes)| *other == name || bytes == key.as_bytes()) {
            return Err(Error::usage(
                format!("{} names a person or a key a second time", file.display()),
                "Every approver needs a name and a key of their own.",
            ));
        }
        keys.push((name, *key.as_bytes()));
    }
    Ok(keys)
}

/// Founds the server.
///
/// # Errors
/// [`Error::Usage`] for keys or settings that cannot be.
pub fn run(context: &Context, args: &InitArgs) -> Result<Exit, Error> {
    let data_dir = context.global.data_dir();
    let _ = (settings(args.config.as_deref(), &data_dir)?, public_keys(&args.approvers)?);
    let _ = (Reader::Person, table::plain(""), operator::name_of(&data_dir));
    Err(Error::failed("Founding is not there yet", "Wait for it."))
}
