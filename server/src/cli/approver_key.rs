//! An approver's private key, read on the approver's own machine and sent nowhere.
//!
//! Two forms: PKCS #8 in PEM, as `muster operator keygen` and openssl write it, and the file that `ssh-keygen -t ed25519`
//! writes (PROTOCOL.key of OpenSSH), both without a passphrase: this program asks for none. A file that others may read
//! is refused, as ssh refuses it.

use super::Context;
use super::error::Error;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::DecodePrivateKey as _;
use muster_wire::approver::parse_public_key;
use serde_json::Value;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use zeroize::Zeroizing;

/// No file with one private key is longer, in bytes.
const MAX_BYTES: u64 = 16 * 1024;
const BEGIN_OPENSSH: &str = "-----BEGIN OPENSSH PRIVATE KEY-----";
const END_OPENSSH: &str = "-----END OPENSSH PRIVATE KEY-----";
const MAGIC: &[u8] = b"openssh-key-v1\0";
const KIND: &[u8] = b"ssh-ed25519";

/// What is wrong with a text that should be a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unfit {
    Passphrase,
    NoKey,
}

/// The key in `file`.
///
/// # Errors
/// [`Error::File`]; [`Error::Refused`] where others may read it; [`Error::Usage`] where it is no key of a kind that
/// approves, the public half of one, or asks for a passphrase.
pub(super) fn read(file: &Path) -> Result<SigningKey, Error> {
    let opened = File::open(file).map_err(Error::file("read", file))?;
    let mode = opened.metadata().map_err(Error::file("read", file))?.mode() & 0o777;
    let mut text = Zeroizing::new(String::new());
    opened.take(MAX_BYTES).read_to_string(&mut text).map_err(Error::file("read", file))?;
    // Everybody may read that one: its mode is nothing to warn of.
    if parse_public_key(&text).is_ok() {
        return Err(public_half(file));
    }
    if mode & 0o077 != 0 {
        return Err(Error::refused(
            format!("{} may be read by others (mode {mode:o})", file.display()),
            "Run `chmod 600` on it; if others may have read it, replace the key in the authority document.",
        ));
    }
    parse(&text).map_err(|unfit| match unfit {
        Unfit::Passphrase => Error::usage(
            format!("{} asks for a passphrase", file.display()),
            "Sign with a copy that has none: `ssh-keygen -p -N '' -f COPY`, and remove the copy afterwards.",
        ),
        Unfit::NoKey => Error::usage(
            format!("{} is no Ed25519 private key", file.display()),
            "Give the file that `muster operator keygen` or `ssh-keygen -t ed25519` wrote, not the .pub beside it.",
        ),
    })
}

/// What is said of a public key: where its private half lies, as a rule.
fn public_half(file: &Path) -> Error {
    let beside = [file.with_extension("key"), file.with_extension("")];
    let found = beside.iter().find(|other| other.as_path() != file && other.is_file());
    let remedy = found.map_or_else(
        || "Give the private half, a file that stays with the approver.".to_owned(),
        |private| format!("Give the private half: `--key {}`.", private.display()),
    );
    Error::usage(format!("{} is the public half of a key and signs nothing", file.display()), remedy)
}

/// Says to a person that a signature was there `before` it was handed in: what is at `pointer` is the same `after` it.
pub(super) fn tell_if_again(context: &Context, (before, after): (&Value, &Value), pointer: &str) {
    let [before, after] = [before, after].map(|shown| shown.pointer(pointer));
    if after.is_some() && before == after {
        context.out.notice("This key has signed it before: nothing has changed.");
    }
}

fn parse(text: &str) -> Result<SigningKey, Unfit> {
    let text = text.trim_ascii();
    if let Some(rest) = text.strip_prefix(BEGIN_OPENSSH) {
        return parse_openssh(rest.strip_suffix(END_OPENSSH).ok_or(Unfit::NoKey)?);
    }
    if text.contains("ENCRYPTED") {
        return Err(Unfit::Passphrase);
    }
    SigningKey::from_pkcs8_pem(text).map_err(|_| Unfit::NoKey)
}

fn parse_openssh(body: &str) -> Result<SigningKey, Unfit> {
    let base64 = Zeroizing::new(body.split_ascii_whitespace().collect::<String>());
    let blob = Zeroizing::new(STANDARD.decode(base64.as_bytes()).map_err(|_| Unfit::NoKey)?);
    let mut blob = Strings(blob.strip_prefix(MAGIC).ok_or(Unfit::NoKey)?);
    let (cipher, derivation) = (blob.string()?, blob.string()?);
    if cipher != b"none" || derivation != b"none" {
        return Err(Unfit::Passphrase);
    }
    let (_options, keys, _public) = (blob.string()?, blob.number()?, blob.string()?);
    let mut private = Strings(blob.string()?);
    let checks = (private.number()?, private.number()?);
    if keys != 1 || checks.0 != checks.1 || private.string()? != KIND {
        return Err(Unfit::NoKey);
    }
    let public = private.string()?;
    let pair: &[u8; 64] = private.string()?.try_into().map_err(|_| Unfit::NoKey)?;
    // Seed and public key; the pair is refused where the second does not follow from the first.
    let key = SigningKey::from_keypair_bytes(pair).map_err(|_| Unfit::NoKey)?;
    if key.verifying_key().as_bytes().as_slice() == public { Ok(key) } else { Err(Unfit::NoKey) }
}

/// What is left of a message of numbers and strings (RFC 4251 §5).
struct Strings<'b>(&'b [u8]);

impl<'b> Strings<'b> {
    fn number(&mut self) -> Result<u32, Unfit> {
        let (head, rest) = self.0.split_first_chunk::<4>().ok_or(Unfit::NoKey)?;
        self.0 = rest;
        Ok(u32::from_be_bytes(*head))
    }

    fn string(&mut self) -> Result<&'b [u8], Unfit> {
        let length = usize::try_from(self.number()?).map_err(|_| Unfit::NoKey)?;
        let (string, rest) = self.0.split_at_checked(length).ok_or(Unfit::NoKey)?;
        self.0 = rest;
        Ok(string)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;
    use std::process::Command;
    use tempfile::TempDir;

    /// A key as ssh-keygen writes it, with this passphrase.
    fn ssh_key(directory: &TempDir, passphrase: &str) -> std::path::PathBuf {
        let file = directory.path().join("id");
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-C", "alice", "-N", passphrase, "-f"])
            .arg(&file)
            .status();
        assert!(made.unwrap().success());
        file
    }

    #[test]
    fn a_key_of_ssh_keygen_is_the_one_of_its_public_half() {
        let directory = TempDir::new().unwrap();
        let file = ssh_key(&directory, "");
        let public = std::fs::read_to_string(file.with_extension("pub")).unwrap();
        let (public, _) = parse_public_key(&public).unwrap();
        assert_eq!(read(&file).unwrap().verifying_key().as_bytes(), public.as_bytes());
    }

    #[test]
    fn a_key_of_keygen_is_the_one_of_its_public_half() {
        let directory = TempDir::new().unwrap();
        let file = directory.path().join("a.key");
        let public = super::super::operator::make_key(&file, &directory.path().join("a.pub")).unwrap();
        assert_eq!(read(&file).unwrap().verifying_key().as_bytes(), public.as_bytes());
    }

    #[test]
    fn a_passphrase_is_said_to_be_what_stands_in_the_way() {
        let directory = TempDir::new().unwrap();
        let told = read(&ssh_key(&directory, "secret")).unwrap_err().to_string();
        assert!(told.contains("passphrase"), "{told}");
    }

    #[test]
    fn a_key_that_others_may_read_is_refused() {
        let directory = TempDir::new().unwrap();
        let file = ssh_key(&directory, "");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(read(&file).unwrap_err().exit() as u8, 3);
    }

    #[test]
    fn a_public_half_is_told_from_a_private_one_that_others_may_read() {
        let directory = TempDir::new().unwrap();
        let ours = directory.path().join("a.key");
        let _ = super::super::operator::make_key(&ours, &directory.path().join("a.pub")).unwrap();
        let theirs = ssh_key(&directory, "");
        for (public, private) in [(ours.with_extension("pub"), ours), (theirs.with_extension("pub"), theirs)]
        {
            std::fs::set_permissions(&public, std::fs::Permissions::from_mode(0o644)).unwrap();
            let error = read(&public).unwrap_err();
            assert_eq!(error.exit() as u8, 2, "{error}");
            assert!(error.to_string().contains("public half"), "{error}");
            assert!(
                error.remedy().ends_with(&format!("`--key {}`.", private.display())),
                "{}",
                error.remedy()
            );
            std::fs::remove_file(&private).unwrap();
            assert!(!read(&public).unwrap_err().remedy().contains("--key"));
        }
    }

    #[test]
    fn no_damaged_key_is_taken_for_one() {
        let directory = TempDir::new().unwrap();
        let good = std::fs::read_to_string(ssh_key(&directory, "")).unwrap();
        let body = good.trim_ascii().strip_prefix(BEGIN_OPENSSH).unwrap().strip_suffix(END_OPENSSH).unwrap();
        let blob = STANDARD.decode(body.split_ascii_whitespace().collect::<String>()).unwrap();
        for length in 0..blob.len() {
            // What is cut off at the end is padding at first, and a comment.
            let cut = format!("{BEGIN_OPENSSH}\n{}\n{END_OPENSSH}", STANDARD.encode(&blob[..length]));
            assert!(parse(&cut).is_err(), "{length} of {}", blob.len());
        }
        assert_eq!(parse("").unwrap_err(), Unfit::NoKey);
    }
}
