//! Checkpoints of the audit log: C2SP tlog-checkpoint in a signed note, Ed25519.
//!
//! ```text
//! fleet.example/audit            origin, which is the key's name too
//! 4711                           how many entries
//! <base64 of the root>
//!
//! — fleet.example/audit <base64 of key id ‖ signature>
//! ```
//! More signatures, of witnesses, may follow. Extension lines are refused: our logs write none, and a line that
//! nobody here understands is not to be vouched for. Who holds two checkpoints asks for a consistency proof
//! ([`crate::merkle`]).

use crate::digest::Sha256Digest;
use crate::key::{Ed25519Key, PublicKey, SIGNATURE_LEN, SignError, Signer};
use crate::merkle::TreeHead;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// The type byte of Ed25519 in a signed note's key id.
const NOTE_ED25519: u8 = 1;

/// No note is longer, in bytes.
const MAX_NOTE: usize = 16 * 1024;

/// Why a text is no checkpoint to believe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// Not a signed note with a checkpoint in it.
    #[error("not a checkpoint in a signed note")]
    Format,
    /// A name with white space or `+` in it, or none.
    #[error("a log's name is not empty and has no white space and no '+'")]
    Name,
    /// Another log's.
    #[error("the checkpoint is of another log")]
    Origin,
    /// The key has signed nothing.
    #[error("not signed by the log's key")]
    Unsigned,
    /// A signature under the key's name that is not the key's.
    #[error("the signature is false")]
    FalseSignature,
}

/// How far a log has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The log's name.
    pub origin: String,
    /// Size and root.
    pub head: TreeHead,
}

impl Checkpoint {
    /// The text that is signed: three lines.
    pub fn body(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.head.size, STANDARD.encode(self.head.root.0))
    }

    /// The signed note; `signer` must be an Ed25519 key.
    ///
    /// # Errors
    /// [`SignError`] for another key, for an origin that no key can be named by, or when the key cannot be used.
    pub fn sign(&self, signer: &dyn Signer) -> Result<String, SignError> {
        let PublicKey::Ed25519(key) = signer.public_key() else {
            return Err(SignError("checkpoints are signed with Ed25519".into()));
        };
        let id = note_key_id(&self.origin, &key).map_err(|error| SignError(error.into()))?;
        let body = self.body();
        let signature = signer.sign(body.as_bytes())?;
        let blob = [&id[..], &signature].concat();
        Ok(format!("{body}\n— {} {}\n", self.origin, STANDARD.encode(blob)))
    }

    /// Believes `note` if it is a checkpoint of the log `origin` and one of `keys` has signed it.
    ///
    /// # Errors
    /// See [`CheckpointError`].
    pub fn verify(note: &str, origin: &str, keys: &[Ed25519Key]) -> Result<Self, CheckpointError> {
        let (body, signatures) = split_note(note)?;
        let checkpoint = parse_body(body)?;
        if checkpoint.origin != origin {
            return Err(CheckpointError::Origin);
        }
        let mut believed = false;
        for (name, id, signature) in signatures {
            for key in keys {
                if name != origin || note_key_id(origin, key)? != id {
                    continue;
                }
                let signature = signature[..].try_into().map_err(|_| CheckpointError::FalseSignature)?;
                if !key.verifies(body.as_bytes(), signature) {
                    return Err(CheckpointError::FalseSignature);
                }
                believed = true;
            }
        }
        if believed { Ok(checkpoint) } else { Err(CheckpointError::Unsigned) }
    }

    /// Reads `note` without asking who signed it.
    ///
    /// # Errors
    /// [`CheckpointError::Format`].
    pub fn read_unverified(note: &str) -> Result<Self, CheckpointError> {
        parse_body(split_note(note)?.0)
    }
}

/// The verifier key `name+hash+key` that other tools of tlog take.
///
/// # Errors
/// [`CheckpointError::Name`].
pub fn verifier_key(origin: &str, key: &Ed25519Key) -> Result<String, CheckpointError> {
    let id = note_key_id(origin, key)?;
    let blob = [&[NOTE_ED25519][..], key.as_bytes()].concat();
    Ok(format!("{origin}+{}+{}", hex::encode(id), STANDARD.encode(blob)))
}

/// Reads what [`verifier_key`] writes: the log's name and key.
///
/// # Errors
/// [`CheckpointError::Format`] or [`CheckpointError::Name`].
pub fn parse_verifier_key(text: &str) -> Result<(String, Ed25519Key), CheckpointError> {
    let mut parts = text.splitn(3, '+');
    let (Some(origin), Some(id), Some(blob)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(CheckpointError::Format);
    };
    let blob = STANDARD.decode(blob).map_err(|_| CheckpointError::Format)?;
    let bytes = blob.strip_prefix(&[NOTE_ED25519]).and_then(|bytes| bytes.try_into().ok());
    let key = Ed25519Key::from_bytes(bytes.ok_or(CheckpointError::Format)?);
    let key = key.map_err(|_| CheckpointError::Format)?;
    if hex::encode(note_key_id(origin, &key)?) == id {
        Ok((origin.to_owned(), key))
    } else {
        Err(CheckpointError::Format)
    }
}

/// The first 4 bytes of SHA-256 over `name ‖ 0x0A ‖ 0x01 ‖ key` (C2SP signed-note).
fn note_key_id(name: &str, key: &Ed25519Key) -> Result<[u8; 4], CheckpointError> {
    if name.is_empty() || name.chars().any(|c| c.is_whitespace() || c.is_control() || c == '+') {
        return Err(CheckpointError::Name);
    }
    let named = [name.as_bytes(), &[b'\n', NOTE_ED25519], key.as_bytes()].concat();
    let [a, b, c, d, ..] = Sha256Digest::of(&named).0;
    Ok([a, b, c, d])
}

/// Name, key id and signature of one line.
type NoteSignature<'n> = (&'n str, [u8; 4], Vec<u8>);

/// The signed text, its last line break included, and the signatures beneath the empty line.
fn split_note(note: &str) -> Result<(&str, Vec<NoteSignature<'_>>), CheckpointError> {
    let control = |c: char| c.is_control() && c != '\n';
    if note.len() > MAX_NOTE || note.contains(control) {
        return Err(CheckpointError::Format);
    }
    let end = note.rfind("\n\n").ok_or(CheckpointError::Format)?;
    let (body, rest) = note.split_at(end + 1);
    let lines = rest.strip_prefix('\n').and_then(|rest| rest.strip_suffix('\n'));
    let lines = lines.ok_or(CheckpointError::Format)?.split('\n');
    let signatures = lines.map(|line| parse_signature(line).ok_or(CheckpointError::Format));
    Ok((body, signatures.collect::<Result<_, _>>()?))
}

fn parse_signature(line: &str) -> Option<NoteSignature<'_>> {
    let (name, blob) = line.strip_prefix("— ")?.split_once(' ')?;
    let blob = STANDARD.decode(blob).ok()?;
    let (id, signature) = blob.split_first_chunk()?;
    (!name.is_empty() && !signature.is_empty()).then(|| (name, *id, signature.to_vec()))
}

fn parse_body(body: &str) -> Result<Checkpoint, CheckpointError> {
    let mut lines = body.strip_suffix('\n').ok_or(CheckpointError::Format)?.split('\n');
    let (Some(origin), Some(size), Some(root), None) =
        (lines.next(), lines.next(), lines.next(), lines.next())
    else {
        return Err(CheckpointError::Format);
    };
    let size = size.parse().map_err(|_| CheckpointError::Format)?;
    let root = STANDARD.decode(root).ok().and_then(|root| root.try_into().ok());
    let root = Sha256Digest(root.ok_or(CheckpointError::Format)?);
    let checkpoint = Checkpoint { origin: origin.to_owned(), head: TreeHead { size, root } };
    // One number has one spelling here: no plus sign, no leading zeros.
    if !origin.is_empty() && checkpoint.body() == body {
        Ok(checkpoint)
    } else {
        Err(CheckpointError::Format)
    }
}

const _: () = assert!(SIGNATURE_LEN == 64, "an Ed25519 signature in a note has 64 bytes");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merkle::root_of;
    use ed25519_dalek::SigningKey;
    use proptest::prelude::*;

    const ORIGIN: &str = "fleet.example/audit";

    fn secret(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32])
    }

    fn key(seed: u8) -> Ed25519Key {
        Ed25519Key::from_bytes(secret(seed).verifying_key().as_bytes()).unwrap()
    }

    fn checkpoint() -> Checkpoint {
        Checkpoint { origin: ORIGIN.into(), head: TreeHead { size: 4711, root: Sha256Digest::of(b"root") } }
    }

    #[test]
    fn a_signed_checkpoint_is_believed_for_its_log_and_key_alone() {
        let note = checkpoint().sign(&secret(2)).unwrap();
        assert_eq!(Checkpoint::verify(&note, ORIGIN, &[key(3), key(2)]), Ok(checkpoint()));
        assert_eq!(Checkpoint::verify(&note, ORIGIN, &[key(3)]), Err(CheckpointError::Unsigned));
        assert_eq!(Checkpoint::verify(&note, "other/audit", &[key(2)]), Err(CheckpointError::Origin));
        assert_eq!(Checkpoint::read_unverified(&note), Ok(checkpoint()));
    }

    /// The example of C2SP's signed-note specification and of Go's sumdb/note: a key and its id made elsewhere.
    #[test]
    fn a_verifier_key_made_elsewhere_is_read() {
        let text = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
        let (name, key) = parse_verifier_key(text).unwrap();
        assert_eq!(name, "PeterNeumann");
        assert_eq!(verifier_key(&name, &key).as_deref(), Ok(text));
        assert_eq!(parse_verifier_key(&text.replace("c74f", "c74e")), Err(CheckpointError::Format));
    }

    #[test]
    fn a_changed_body_is_found() {
        let note = checkpoint().sign(&secret(2)).unwrap();
        let changed = note.replacen("4711", "4712", 1);
        assert_eq!(Checkpoint::verify(&changed, ORIGIN, &[key(2)]), Err(CheckpointError::FalseSignature));
    }

    #[test]
    fn signatures_of_witnesses_do_not_disturb() {
        let note = checkpoint().sign(&secret(2)).unwrap();
        let witness = format!("— witness.example {}\n", STANDARD.encode([5; 76]));
        assert_eq!(Checkpoint::verify(&format!("{note}{witness}"), ORIGIN, &[key(2)]), Ok(checkpoint()));
    }

    #[test]
    fn other_shapes_are_refused() {
        let note = checkpoint().sign(&secret(2)).unwrap();
        for (from, to) in [
            ("4711", "04711"),
            ("4711", "+4711"),
            ("4711", "-1"),
            ("4711\n", "4711\n\n"),
            ("\n\n", "\nextension\n\n"),
            ("\n\n", "\n"),
            ("— ", "- "),
            ("4711", "47\u{7}11"),
            ("fleet.example/audit\n", "\n"),
        ] {
            let other = note.replacen(from, to, 1);
            assert_ne!(other, note);
            assert_eq!(
                Checkpoint::verify(&other, ORIGIN, &[key(2)]),
                Err(CheckpointError::Format),
                "{other}"
            );
        }
        assert_eq!(Checkpoint::verify(note.trim_end(), ORIGIN, &[key(2)]), Err(CheckpointError::Format));
    }

    #[test]
    fn a_log_without_a_usable_name_signs_nothing() {
        for origin in ["", "a b", "a+b", "a\nb"] {
            let checkpoint = Checkpoint { origin: origin.into(), ..checkpoint() };
            assert!(checkpoint.sign(&secret(2)).is_err(), "{origin:?}");
        }
    }

    #[test]
    fn an_empty_log_has_a_checkpoint() {
        let empty = Checkpoint { origin: ORIGIN.into(), head: TreeHead { size: 0, root: root_of(&[]) } };
        let note = empty.sign(&secret(2)).unwrap();
        assert_eq!(Checkpoint::verify(&note, ORIGIN, &[key(2)]), Ok(empty));
    }

    proptest! {
        #[test]
        fn no_text_panics_or_is_believed(text in "[a-z0-9+/=— \\n]{0,200}") {
            prop_assert!(Checkpoint::verify(&text, ORIGIN, &[key(2)]).is_err());
            let _ = parse_verifier_key(&text);
        }
    }
}
