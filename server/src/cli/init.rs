//! `muster init`: founds a server.
//!
//! Works on files of this machine alone. Approvers come as public keys; with `--solo` and no key given, one is made
//! here, which makes whoever takes this machine an approver, and the command says so.

use super::Context;
use super::error::Error;
use super::operator::{self, name_of};
use super::table::{self, Column, column};
use crate::app::found::{FoundError, FoundOptions, Founded, found};
use crate::config::{FILE_NAME, Settings};
use clap::Args;
use muster_wire::approver::{fingerprint, parse_public_key};
use muster_wire::key::Ed25519Key;
use muster_wire::problem::Exit;
use serde_json::{Value, json};
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

/// Where `--solo` puts the approver's key that it makes, in the data directory.
pub const SOLO_KEY: &str = "approver.key";

const ROWS: &[Column] = &[
    column("data directory", "/data_dir"),
    column("trust domain", "/trust_domain"),
    column("authority", "/authority_digest"),
    column("root", "/root_spki_sha256"),
    column("credential", "/credential"),
    column("approver's key", "/solo_key"),
];

const KEYS: &[Column] = &[column("NAME", "/name"), column("FINGERPRINT", "/fingerprint")];

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
/// As [`Error::settings`].
pub(super) fn settings(config: Option<&Path>, data_dir: &Path) -> Result<Settings, Error> {
    let default = data_dir.join(FILE_NAME);
    let file = config.or_else(|| default.exists().then_some(default.as_path()));
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    Settings::load(file, environment).map_err(Error::settings)
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
/// [`Error::Usage`] for keys or settings that cannot be, otherwise what founding says.
pub fn run(context: &Context, args: &InitArgs) -> Result<Exit, Error> {
    let data_dir = context.global.data_dir();
    let mut approvers = public_keys(&args.approvers)?;
    if args.solo && approvers.len() > 1 {
        return Err(Error::usage(
            "--solo founds with one approver",
            "Name one --approver with it, or leave --solo out.",
        ));
    }
    // Before anything is made.
    let settings = settings(args.config.as_deref(), &data_dir)?;
    let recovery = public_keys(&args.recovery)?;
    let made = (args.solo && approvers.is_empty()).then(|| solo_key(&data_dir)).transpose()?;
    approvers.extend(made.clone());
    let people = (shown(&approvers), shown(&recovery));
    let founded = found(&FoundOptions {
        public_name: args.public_name.clone(),
        trust_domain: args.trust_domain.clone(),
        approvers,
        recovery,
        solo: args.solo,
        settings,
        data_dir: data_dir.clone(),
    })
    .map_err(|cause| refused(&cause))?;
    print(context, &founded, &people, made.map(|_| data_dir.join(SOLO_KEY)))?;
    Ok(Exit::Done)
}

/// What founding says, as this command line tells it.
pub(super) fn refused(cause: &FoundError) -> Error {
    let is_usage = matches!(cause, FoundError::Invalid { .. });
    if is_usage { Error::told_usage(cause) } else { Error::founding(cause) }
}

/// Whose keys these are, for comparison with what each of them has said.
fn shown(keys: &[NamedKey]) -> Vec<Value> {
    let fingerprint = |bytes| Ed25519Key::from_bytes(bytes).ok().map(|key| fingerprint(&key));
    keys.iter().map(|(name, key)| json!({"name": name, "fingerprint": fingerprint(key)})).collect()
}

fn print(
    context: &Context,
    founded: &Founded,
    (approvers, recovery): &(Vec<Value>, Vec<Value>),
    solo_key: Option<PathBuf>,
) -> Result<(), Error> {
    let data_dir = context.global.data_dir().display().to_string();
    let solo_key = solo_key.map(|path| path.display().to_string());
    let shown = json!({
        "data_dir": data_dir,
        "trust_domain": founded.trust_domain,
        "authority_digest": founded.authority_digest,
        "root_spki_sha256": founded.root_spki_sha256,
        "credential": founded.credential_path.display().to_string(),
        "unmet": founded.unmet,
        "solo_key": solo_key,
        "approvers": approvers,
        "recovery": recovery,
    });
    context.out.item(&shown, ROWS)?;
    for (title, people) in [("Approvers", approvers), ("Recovery", recovery)] {
        if let Some(listing) = table::listing(people, KEYS, context.out.look) {
            context.out.notice(&format!("{title}\n{listing}"));
        }
    }
    if !founded.unmet.is_empty() {
        context.out.notice(&format!(
            "These approvers do not suffice for {}: a request for it will be refused until a successor names more.",
            founded.unmet.join(", ")
        ));
    }
    if let Some(key) = &solo_key {
        context.out.notice(&format!(
            "One key approves everything, and it lies beside the server's: move {key} to another machine."
        ));
    }
    context.out.notice(&format!(
        "Keep the authority digest: `muster-agent enroll --auth DIGEST` insists on it. A copy of {data_dir}/keys \
         belongs offline, the root key there only.\nnext:  muster serve --data-dir {data_dir}"
    ));
    Ok(())
}

/// The approver's key that `--solo` makes. It is there before the founding, and a founding that is repeated after an
/// interruption takes the same: were it made anew, the document could name a key that nobody holds.
fn solo_key(data_dir: &Path) -> Result<NamedKey, Error> {
    let private = data_dir.join(SOLO_KEY);
    let public = private.with_extension("pub");
    if !private.exists() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(data_dir)
            .map_err(Error::file("create", data_dir))?;
        // Left by a first try that ended between the two files, without its private half.
        let _ = std::fs::remove_file(&public);
        operator::make_key(&private, &public)?;
    }
    let key = operator::public_half(&private)?;
    Ok((name_of(&private).to_string(), *key.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    #[test]
    fn a_repeated_founding_takes_the_key_of_the_first() {
        let directory = TempDir::new().unwrap();
        let data_dir = directory.path().join("data");
        let first = solo_key(&data_dir).unwrap();
        std::fs::remove_file(data_dir.join("approver.pub")).unwrap();
        assert_eq!(solo_key(&data_dir).unwrap(), first);
    }

    #[test]
    fn nobody_approves_twice() {
        let directory = TempDir::new().unwrap();
        let (a, b) = (directory.path().join("a.key"), directory.path().join("b.pub"));
        operator::make_key(&a, &a.with_extension("pub")).unwrap();
        std::fs::copy(a.with_extension("pub"), &b).unwrap();
        let error = public_keys(&[a.with_extension("pub"), b]).unwrap_err();
        assert_eq!(error.exit() as u8, 2);
    }

    #[test]
    fn a_private_key_is_no_approvers_public_key() {
        let directory = TempDir::new().unwrap();
        let key = directory.path().join("a.key");
        operator::make_key(&key, &key.with_extension("pub")).unwrap();
        assert_eq!(public_keys(&[key]).unwrap_err().exit() as u8, 2);
    }

    #[test]
    fn settings_that_cannot_be_are_named_by_line() {
        let directory = TempDir::new().unwrap();
        let file = directory.path().join("muster.toml");
        std::fs::write(&file, "[listen]\ndevcie = \"x\"\n").unwrap();
        let error = settings(None, directory.path()).unwrap_err();
        assert_eq!(error.exit() as u8, 2);
        assert!(error.to_string().contains("muster.toml:2"), "{error}");
    }
}
