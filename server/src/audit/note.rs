//! C2SP signed notes with one Ed25519 signature, for the manifest of an export.
//!
//! Reading is strict: one signature line, by the expected key, in its one spelling. So no byte of a note can change
//! without the note being refused. Checkpoints have their own reader in [`muster_wire::checkpoint`].

use super::key::{AuditKey, PinnedKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster_wire::key::SignError;

/// Signs `text`, which ends with a line break and has no empty line.
pub(crate) fn sign(text: &str, key: &AuditKey) -> Result<String, SignError> {
    let signature = key.signer().sign(text.as_bytes())?;
    Ok(format!("{text}\n{}", signature_line(&key.public(), &signature)))
}

/// The text of a note; `None` unless its only signature is one of `key`.
pub(crate) fn open<'n>(note: &'n [u8], key: &PinnedKey) -> Option<&'n str> {
    let note = std::str::from_utf8(note).ok()?;
    let (text, line) = note.split_at_checked(note.find("\n\n")? + 1)?;
    let blob = STANDARD.decode(line.trim_end_matches('\n').rsplit(' ').next()?).ok()?;
    let signature = blob.get(4..)?.try_into().ok()?;
    let spelled = line == format!("\n{}", signature_line(key, signature));
    (spelled && key.key().verifies(text.as_bytes(), signature)).then_some(text)
}

fn signature_line(key: &PinnedKey, signature: &[u8; 64]) -> String {
    let id = hex::decode(key.id()).unwrap_or_default();
    format!("\u{2014} {} {}\n", key.origin(), STANDARD.encode([&id[..], signature].concat()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::key::tests::key;

    #[test]
    fn a_note_opens_with_the_key_that_signed_it_and_no_other() {
        let note = sign("one\ntwo\n", &key("example.com", 7)).unwrap();
        assert_eq!(open(note.as_bytes(), &key("example.com", 7).public()), Some("one\ntwo\n"));
        assert_eq!(open(note.as_bytes(), &key("example.com", 8).public()), None);
        assert_eq!(open(note.as_bytes(), &key("example.org", 7).public()), None);
    }

    #[test]
    fn no_byte_of_a_note_can_change() {
        let key = key("example.com", 7);
        let note = sign("one\ntwo\n", &key).unwrap().into_bytes();
        for at in 0..note.len() {
            for bit in 0..8 {
                let mut changed = note.clone();
                changed[at] ^= 1 << bit;
                assert_eq!(open(&changed, &key.public()), None, "byte {at}, bit {bit}");
            }
            assert_eq!(open(&note[..at], &key.public()), None);
        }
        for tail in ["\n", " ", "\u{2014} example.com/audit AAAA\n"] {
            assert_eq!(open(&[&note[..], tail.as_bytes()].concat(), &key.public()), None);
        }
    }
}
