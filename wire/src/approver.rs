//! Approvers' names and public keys, as people carry them: an OpenSSH line or a PEM file.
//!
//! Only Ed25519 is taken. Private keys are none of this file's business, and no approver's private key ever
//! reaches a server.

use crate::cbor::{Cbor, CborError, Reader, Writer};
use crate::digest::Sha256Digest;
use crate::key::{Ed25519Key, KeyError, PublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

const SSH_KIND: &str = "ssh-ed25519";
const PEM_BEGIN: &str = "-----BEGIN PUBLIC KEY-----";
const PEM_END: &str = "-----END PUBLIC KEY-----";

/// No file with a public key is longer, in bytes.
const MAX_TEXT: usize = 4096;

/// Why a text is no approver's name or key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ApproverError {
    /// Longer than a file with one public key can be.
    #[error("longer than a file with one public key can be")]
    TooLong,
    /// Neither one OpenSSH line nor one PEM block.
    #[error("neither one OpenSSH line (ssh-ed25519 AAAA… name) nor one PUBLIC KEY block in PEM")]
    Format,
    /// An OpenSSH key of another kind.
    #[error("only ssh-ed25519 keys approve")]
    Kind,
    /// The key itself is unfit.
    #[error("the key cannot be used")]
    Key(#[source] KeyError),
    /// The name after the key, or the name given, cannot be shown safely.
    #[error(
        "a name is 1 to 64 letters, digits, spaces and . _ @ + - ' ( ), and neither begins nor ends with a space"
    )]
    Name,
}

/// A name that a person can be shown before signing: no control characters, nothing that turns text around.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApproverName(String);

impl ApproverName {
    /// The name's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ApproverName {
    type Err = ApproverError;

    fn from_str(text: &str) -> Result<Self, ApproverError> {
        let shown = |c: char| c.is_alphanumeric() || " ._@+-'()".contains(c);
        let fits = (1..=64).contains(&text.chars().count()) && text.trim() == text;
        if fits && text.chars().all(shown) { Ok(Self(text.to_owned())) } else { Err(ApproverError::Name) }
    }
}

impl fmt::Display for ApproverName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for ApproverName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for ApproverName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl Cbor for ApproverName {
    fn write(&self, out: &mut Writer) {
        out.text(&self.0);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, CborError> {
        input.text()?.parse().map_err(|_| CborError::Value { field: "approver name" })
    }
}

/// Reads a public key file of either form, and the name that an OpenSSH line may carry.
///
/// # Errors
/// See [`ApproverError`].
pub fn parse_public_key(text: &str) -> Result<(Ed25519Key, Option<ApproverName>), ApproverError> {
    if text.len() > MAX_TEXT {
        return Err(ApproverError::TooLong);
    }
    let text = text.trim_ascii();
    match text.strip_prefix(PEM_BEGIN) {
        Some(rest) => parse_pem_body(rest).map(|key| (key, None)),
        None => parse_openssh(text),
    }
}

/// One line as OpenSSH writes it, without a line break: `ssh-ed25519 AAAA… name`.
pub fn to_openssh(key: &Ed25519Key, name: &ApproverName) -> String {
    format!("{SSH_KIND} {} {name}", STANDARD.encode(to_ssh_blob(key)))
}

/// What people compare a key by, as `ssh-keygen -l` prints it: `SHA256:` and the unpadded base64 of the digest of the
/// key's OpenSSH form.
pub fn fingerprint(key: &Ed25519Key) -> String {
    format!("SHA256:{}", STANDARD_NO_PAD.encode(Sha256Digest::of(&to_ssh_blob(key)).0))
}

/// The SubjectPublicKeyInfo in PEM, with a line break at the end.
pub fn to_pem(key: &Ed25519Key) -> String {
    let der = PublicKey::from(*key).to_spki_der();
    format!("{PEM_BEGIN}\n{}\n{PEM_END}\n", STANDARD.encode(der))
}

fn parse_pem_body(rest: &str) -> Result<Ed25519Key, ApproverError> {
    let body = rest.strip_suffix(PEM_END).ok_or(ApproverError::Format)?;
    let base64: String = body.split_ascii_whitespace().collect();
    let der = STANDARD.decode(base64).map_err(|_| ApproverError::Format)?;
    match PublicKey::from_spki_der(&der).map_err(ApproverError::Key)? {
        PublicKey::Ed25519(key) => Ok(key),
        PublicKey::P256(_) => Err(ApproverError::Kind),
    }
}

fn parse_openssh(line: &str) -> Result<(Ed25519Key, Option<ApproverName>), ApproverError> {
    if line.contains(['\n', '\r']) {
        return Err(ApproverError::Format);
    }
    let (kind, rest) = line.split_once(' ').ok_or(ApproverError::Format)?;
    if kind != SSH_KIND {
        let other = kind.starts_with("ssh-") || kind.starts_with("ecdsa-") || kind.starts_with("sk-");
        return Err(if other { ApproverError::Kind } else { ApproverError::Format });
    }
    let (base64, name) = match rest.split_once(' ') {
        Some((base64, name)) => (base64, Some(name.parse()?)),
        None => (rest, None),
    };
    let blob = STANDARD.decode(base64).map_err(|_| ApproverError::Format)?;
    let key = read_ssh_blob(&blob).ok_or(ApproverError::Format)?;
    Ok((Ed25519Key::from_bytes(&key).map_err(ApproverError::Key)?, name))
}

/// `string "ssh-ed25519" ‖ string key` (RFC 8709 §4).
fn to_ssh_blob(key: &Ed25519Key) -> Vec<u8> {
    let mut blob = Vec::new();
    push_ssh_string(&mut blob, SSH_KIND.as_bytes());
    push_ssh_string(&mut blob, key.as_bytes());
    blob
}

/// The key in `string "ssh-ed25519" ‖ string key` (RFC 8709 §4), each string behind its length (RFC 4251 §5).
fn read_ssh_blob(blob: &[u8]) -> Option<[u8; 32]> {
    let mut head = Vec::new();
    push_ssh_string(&mut head, SSH_KIND.as_bytes());
    head.extend_from_slice(&32_u32.to_be_bytes());
    blob.strip_prefix(&head[..])?.try_into().ok()
}

/// Appends `bytes`, which are short, behind their length.
fn push_ssh_string(blob: &mut Vec<u8>, bytes: &[u8]) {
    blob.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    blob.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Made by `ssh-keygen -t ed25519 -C alice@example`; the PEM by pyca/cryptography from the same key.
    const LINE: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHrzi3cNyukduy+M13pk7EOwuFj65k3Pw1LrCpKXg2jx alice@example";
    const PEM: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAevOLdw3K6R27L4zXemTsQ7C4WPrmTc/DUusKkpeDaPE=\n-----END PUBLIC KEY-----\n";

    #[test]
    fn both_forms_of_a_key_made_elsewhere_are_read() {
        let (ssh, name) = parse_public_key(&format!("{LINE}\n")).unwrap();
        let (pem, none) = parse_public_key(PEM).unwrap();
        assert_eq!(ssh, pem);
        assert_eq!((name.as_ref().map(ApproverName::as_str), none), (Some("alice@example"), None));
        assert_eq!(to_openssh(&ssh, &name.unwrap()), LINE);
        assert_eq!(to_pem(&pem), PEM);
    }

    #[test]
    fn a_fingerprint_is_what_ssh_keygen_prints() {
        let (key, _) = parse_public_key(LINE).unwrap();
        // `ssh-keygen -l -f` of the line above.
        assert_eq!(fingerprint(&key), "SHA256:obVQhBP1jCCi8sw1ZFKiTR6qrbfdwKRNuQTypZjzdCg");
    }

    #[test]
    fn a_name_is_optional_and_may_have_spaces() {
        let bare = LINE.rsplit_once(' ').unwrap().0;
        assert_eq!(parse_public_key(bare).unwrap().1, None);
        let (_, name) = parse_public_key(&format!("{bare} Ada Lovelace (work)")).unwrap();
        assert_eq!(name.unwrap().to_string(), "Ada Lovelace (work)");
    }

    #[test]
    fn a_name_that_could_mislead_the_reader_is_refused() {
        for bad in ["", " a", "a ", "a\u{202e}b", "a\u{1b}[2J", "a\tb", "a/b", "a\nb", &"a".repeat(65)] {
            assert_eq!(bad.parse::<ApproverName>(), Err(ApproverError::Name), "{bad:?}");
        }
        assert!("Łukasz 王".parse::<ApproverName>().is_ok());
    }

    #[test]
    fn other_texts_are_refused() {
        let bare = LINE.rsplit_once(' ').unwrap().0;
        for (text, error) in [
            (String::new(), ApproverError::Format),
            (bare.replace("ssh-ed25519 ", "ssh-rsa "), ApproverError::Kind),
            (format!("no-pty {LINE}"), ApproverError::Format),
            (format!("{LINE}\n{LINE}"), ApproverError::Format),
            (bare[..bare.len() - 4].to_owned(), ApproverError::Format),
            (format!("{bare}AAAA"), ApproverError::Format),
            (PEM.replace("PUBLIC", "PRIVATE"), ApproverError::Format),
            (PEM.replace("MCow", "MCox"), ApproverError::Key(KeyError::UnknownKind)),
            ("x".repeat(MAX_TEXT + 1), ApproverError::TooLong),
        ] {
            assert_eq!(parse_public_key(&text).unwrap_err(), error, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(ssh-ed25519 )?\\PC{0,100}") {
            let _ = parse_public_key(&text);
        }
    }
}
