//! `muster operator`: approvers' keys, made on the approver's own machine, and REST credentials.
//!
//! The two have nothing to do with each other: a key made by `keygen` counts only when an authority document
//! names it, and an operator added by `add` may call the API and approves nothing.

use super::confirm::{Intent, Verdict, consent};
use super::credential::{Credential, NewSecretFile};
use super::error::Error;
use super::output::Reader;
use super::table::{self, Column, column, value_at};
use super::{Context, client::Client};
use clap::Subcommand;
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _, KeypairBytes};
use muster_wire::approver::{ApproverName, fingerprint, to_openssh};
use muster_wire::key::Ed25519Key;
use muster_wire::problem::Exit;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// The commands about operators and approvers' keys.
#[derive(Debug, Subcommand)]
pub enum OperatorCommand {
    /// Make an approver's key on this machine: FILE for its owner alone, and the public half beside it
    Keygen {
        /// Where the private key goes, for instance a.key; the public one becomes a.pub
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Let somebody call the REST API; this makes no approver
    Add {
        /// Name that audit entries will carry
        #[arg(value_name = "NAME")]
        name: String,
        /// Where the credential goes [default: NAME.credential]
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// Work on --data-dir itself while no server runs: for when every credential is lost
        #[arg(long)]
        offline: bool,
    },
    /// List operators
    List,
    /// Take an operator's credential away
    Remove {
        /// Name of the operator
        #[arg(value_name = "NAME")]
        name: String,
        /// Say what would happen, and do nothing
        #[arg(long)]
        dry_run: bool,
    },
}

const LISTING: &[Column] = &[
    column("NAME", "/name"),
    column("ID", "/id"),
    column("SINCE", "/created_at"),
    column("REMOVED", "/removed_at"),
];

/// Runs one of the commands about operators.
///
/// # Errors
/// Whatever the server refuses, the way there does not allow, or a file that cannot be written.
pub async fn run(context: &Context, command: OperatorCommand) -> Result<Exit, Error> {
    match command {
        OperatorCommand::Keygen { file } => keygen(context, &file)?,
        OperatorCommand::Add { name, out, offline: false } => add(context, &name, out).await?,
        OperatorCommand::Add { name, out, offline: true } => add_offline(context, &name, out)?,
        OperatorCommand::List => {
            let items = context.client()?.list(&["v1", "operators"], &[], None).await?;
            context.out.items(items, LISTING, "No operators.")?;
        }
        OperatorCommand::Remove { name, dry_run } => remove(context, &name, dry_run).await?,
    }
    Ok(Exit::Done)
}

fn keygen(context: &Context, file: &Path) -> Result<(), Error> {
    let public_file = file.with_extension("pub");
    if public_file == file {
        return Err(Error::usage(
            format!("{} is the name of a public key", file.display()),
            "Name the private key, for instance a.key; the public one is written beside it as a.pub.",
        ));
    }
    let public = make_key(file, &public_file)?;
    let fingerprint = fingerprint(&public);
    match context.out.reader {
        Reader::Program => context.out.json(&json!({
            "private": file.display().to_string(),
            "public": public_file.display().to_string(),
            "key": hex::encode(public.as_bytes()),
            "fingerprint": fingerprint,
        })),
        Reader::Person => {
            let pairs = [
                ("private key", file.display().to_string()),
                ("public key", public_file.display().to_string()),
                ("fingerprint", fingerprint),
            ];
            context.out.line(&table::facts(&pairs, context.out.look))?;
            context
                .out
                .notice("Give away the public key only: whoever has the private one approves in your name.");
            Ok(())
        }
    }
}

/// Writes a new Ed25519 key to `file` (PKCS #8, PEM, 0600) and its public half to `public_file` (OpenSSH).
pub(crate) fn make_key(file: &Path, public_file: &Path) -> Result<Ed25519Key, Error> {
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(seed.as_mut()).map_err(|cause| {
        Error::failed(format!("The system gives no random bytes: {cause}"), "Run it again.")
    })?;
    let signing = SigningKey::from_bytes(&seed);
    let broken =
        |what: String| Error::failed(format!("The key cannot be written down: {what}"), "Run it again.");
    let public = Ed25519Key::from_bytes(signing.verifying_key().as_bytes())
        .map_err(|cause| broken(cause.to_string()))?;
    // Version 1 of PKCS #8, without the public half: OpenSSL 3.0 reads no other.
    let pair = KeypairBytes { secret_key: signing.to_bytes(), public_key: None };
    let pem = pair.to_pkcs8_pem(LineEnding::LF).map_err(|cause| broken(cause.to_string()))?;
    if public_file.exists() {
        return Err(Error::file("create", public_file)(std::io::ErrorKind::AlreadyExists.into()));
    }
    NewSecretFile::create(file)?.fill(pem.as_bytes())?;
    let line = format!("{}\n", to_openssh(&public, &name_of(file)));
    std::fs::write(public_file, line).map_err(Error::file("write", public_file))?;
    Ok(public)
}

/// The public half of the key in `file`.
pub(crate) fn public_half(file: &Path) -> Result<Ed25519Key, Error> {
    let unfit = || {
        let what = format!("{} is no private key that this program wrote", file.display());
        Error::failed(what, "Move it away, then run it again.")
    };
    let pem = Zeroizing::new(std::fs::read_to_string(file).map_err(Error::file("read", file))?);
    let signing = SigningKey::from_pkcs8_pem(&pem).map_err(|_| unfit())?;
    Ed25519Key::from_bytes(signing.verifying_key().as_bytes()).map_err(|_| unfit())
}

/// The name that a key file suggests for its owner: its stem, or `approver` when that is no name.
pub(crate) fn name_of(file: &Path) -> ApproverName {
    let stem = file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    #[expect(clippy::expect_used, reason = "the fixed name is one")]
    stem.parse().unwrap_or_else(|_| "approver".parse().expect("`approver` is a name"))
}

/// Adds an operator. The file for the secret is made first: were the disk full afterwards, a credential that
/// nobody holds would be in force.
async fn add(context: &Context, name: &str, out: Option<PathBuf>) -> Result<(), Error> {
    let client = context.client()?;
    if name.is_empty() || name.contains('/') {
        return Err(Error::usage(
            format!("{name:?} is no operator's name"),
            "Use letters, digits and . _ - @.",
        ));
    }
    let path = out.unwrap_or_else(|| PathBuf::from(format!("{name}.credential")));
    let file = NewSecretFile::create(&path)?;
    let (added, text) = match order(&client, name).await {
        Ok(both) => both,
        Err(error) => {
            file.discard();
            return Err(error);
        }
    };
    file.fill(text.as_bytes())?;
    let shown = json!({
        "id": added.get("id"), "name": added.get("name"), "server": added.get("server"),
        "credential": path.display().to_string(),
    });
    show_added(context, &shown)
}

/// Adds an operator to an installation that nobody serves. Waits for the store, so no runtime may be running.
pub(super) fn add_offline(context: &Context, name: &str, out: Option<PathBuf>) -> Result<(), Error> {
    let data_dir = context.global.data_dir();
    let settings = super::init::settings(None, &data_dir)?;
    let path = out.unwrap_or_else(|| PathBuf::from(format!("{name}.credential")));
    let file = NewSecretFile::create(&path)?;
    let added = match crate::app::found::add_operator(&data_dir, name, &settings) {
        Ok(added) => added,
        Err(cause) => {
            file.discard();
            return Err(super::init::refused(&cause));
        }
    };
    file.fill(added.credential.as_bytes())?;
    let credential: Value = serde_json::from_str(&added.credential).unwrap_or_default();
    let shown = json!({
        "id": added.id, "name": name, "server": credential.get("server"),
        "credential": path.display().to_string(),
    });
    show_added(context, &shown)
}

fn show_added(context: &Context, shown: &Value) -> Result<(), Error> {
    let rows = [
        column("operator", "/name"),
        column("id", "/id"),
        column("server", "/server"),
        column("credential", "/credential"),
    ];
    context.out.item(shown, &rows)?;
    context.out.notice("Hand the file over safely; it is all that is needed to act in this name.");
    Ok(())
}

/// What the server said, and the credential file's text.
async fn order(client: &Client, name: &str) -> Result<(Value, Zeroizing<String>), Error> {
    let added = client.post(&["v1", "operators"], &json!({"name": name})).await?;
    let credential: Credential = serde_json::from_value(added.clone()).map_err(|_| Error::Answer {
        server: client.server().to_string(),
        status: 201,
        what: "something that is no credential".into(),
    })?;
    Ok((added, credential.to_file()))
}

async fn remove(context: &Context, name: &str, dry_run: bool) -> Result<(), Error> {
    let client = context.client()?;
    let operators = client.list(&["v1", "operators"], &[], None).await?;
    let named = |operator: &&Value| operator.get("name").and_then(Value::as_str) == Some(name);
    let target = operators.iter().filter(named).find(|one| one.get("removed_at").is_none_or(Value::is_null));
    let Some(target) = target else {
        return Err(Error::not_found(
            format!("There is no operator called {name}"),
            "Look for the name with `muster operator list`.",
        ));
    };
    let consequence = format!(
        "Operator {name} (since {}) will be refused from the next request on; there is no way back but a new credential.",
        value_at(target, "/created_at"),
    );
    let intent = Intent { action: "operator.remove", consequence, target };
    if consent(context, &intent, dry_run)? == Verdict::Go {
        let item = client.act(&["v1", "operators", &format!("{name}:remove")]).await?;
        context.out.item(
            &item,
            &[column("operator", "/name"), column("id", "/id"), column("removed", "/removed_at")],
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_wire::approver::parse_public_key;
    use std::os::unix::fs::PermissionsExt as _;
    use tempfile::TempDir;

    #[test]
    fn a_new_key_is_private_and_its_public_half_carries_the_name() {
        let directory = TempDir::new().unwrap();
        let (private, public) = (directory.path().join("alice.key"), directory.path().join("alice.pub"));
        let made = make_key(&private, &public).unwrap();
        assert_eq!(std::fs::metadata(&private).unwrap().permissions().mode() & 0o777, 0o600);
        let (key, name) = parse_public_key(&std::fs::read_to_string(&public).unwrap()).unwrap();
        assert_eq!((key.as_bytes(), name.unwrap().as_str()), (made.as_bytes(), "alice"));
        assert_eq!(public_half(&private).unwrap().as_bytes(), made.as_bytes());
    }

    #[test]
    fn no_key_is_ever_overwritten() {
        let directory = TempDir::new().unwrap();
        let (private, public) = (directory.path().join("a.key"), directory.path().join("a.pub"));
        make_key(&private, &public).unwrap();
        let before = std::fs::read(&private).unwrap();
        assert!(make_key(&private, &public).is_err());
        assert!(make_key(&directory.path().join("b.key"), &public).is_err());
        assert_eq!(std::fs::read(&private).unwrap(), before);
        assert!(!directory.path().join("b.key").exists());
    }

    #[test]
    fn a_file_suggests_its_stem_as_the_name() {
        assert_eq!(name_of(Path::new("/x/alice.key")).as_str(), "alice");
        assert_eq!(name_of(Path::new("/x/…\u{202e}.key")).as_str(), "approver");
    }
}
