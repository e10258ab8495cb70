//! A sheet: small state in one file, rewritten whole, with a digest before it.
//!
//! ```text
//! <64 hex digits: SHA-256 of what follows the line>\n
//! <state in JSON>
//! ```
//! Files are replaced atomically, so a sheet that does not fit its digest was not torn by a crash: it was damaged,
//! and nothing is guessed.

use muster_wire::digest::Sha256Digest;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why a file is no sheet.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SheetError {
    /// The digest does not fit.
    #[error("the file is damaged")]
    Damaged,
    /// It fits, but says something that this agent does not understand, or cannot be put into words.
    #[error("the file was written by a newer muster-agent")]
    Newer(#[source] serde_json::Error),
}

/// The bytes of a sheet that holds `state`.
///
/// # Errors
/// [`SheetError::Newer`] when the state has no JSON, which none of ours lacks.
pub fn write(state: &impl Serialize) -> Result<Vec<u8>, SheetError> {
    let json = serde_json::to_vec(state).map_err(SheetError::Newer)?;
    let mut bytes = Sha256Digest::of(&json).to_hex().into_bytes();
    bytes.push(b'\n');
    bytes.extend(json);
    Ok(bytes)
}

/// The state in a sheet.
///
/// # Errors
/// [`SheetError::Damaged`], [`SheetError::Newer`].
pub fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, SheetError> {
    let (digits, json) = bytes.split_at_checked(64).ok_or(SheetError::Damaged)?;
    let json = json.strip_prefix(b"\n").ok_or(SheetError::Damaged)?;
    if digits != Sha256Digest::of(json).to_hex().as_bytes() {
        return Err(SheetError::Damaged);
    }
    serde_json::from_slice(json).map_err(SheetError::Newer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_changed_or_missing_byte_is_damage() {
        let sheet = write(&vec!["one", "two"]).unwrap();
        assert_eq!(read::<Vec<String>>(&sheet).unwrap(), ["one", "two"]);
        for position in 0..sheet.len() {
            let mut changed = sheet.clone();
            changed[position] ^= 1;
            assert!(matches!(read::<Vec<String>>(&changed), Err(SheetError::Damaged)), "byte {position}");
            assert!(matches!(read::<Vec<String>>(&sheet[..position]), Err(SheetError::Damaged)));
        }
    }

    #[test]
    fn a_sound_sheet_of_another_shape_is_left_to_a_newer_agent() {
        let sheet = write(&"text").unwrap();
        assert!(matches!(read::<Vec<String>>(&sheet), Err(SheetError::Newer(_))));
    }
}
