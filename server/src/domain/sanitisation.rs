//! The word that a wipe has earned, by what its receipts say became of each thing (NIST SP 800-88r2 §2.5, §4).
//!
//! A word is only claimed where the receipts show all that it asks for. *Clear* asks that every addressed block was
//! overwritten; an item that was merely unlinked makes the whole *deleted*. *Purge* by cryptographic erase asks that
//! encryption was on from the first write, which no receipt shows: it is named as what is left for a person to say.

use muster_wire::receipt::{ItemFate, ReceiptItem};

/// What may be claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sanitisation {
    /// There was nothing to remove.
    Nothing,
    /// Things were unlinked; their blocks may still hold what they held.
    Deleted,
    /// Every addressed block was overwritten.
    Clear,
    /// The keys of encrypted volumes are gone, and nothing else held data.
    CryptographicErase,
}

impl Sanitisation {
    /// What `items` have earned together. What was kept is not the wipe's to speak of.
    pub fn earned(items: &[ReceiptItem]) -> Self {
        let any = |fate: ItemFate| items.iter().any(|item| item.fate == fate);
        if any(ItemFate::Deleted) || any(ItemFate::Failed) {
            Self::Deleted
        } else if any(ItemFate::Cleared) {
            Self::Clear
        } else if any(ItemFate::KeyDestroyed) {
            Self::CryptographicErase
        } else {
            Self::Nothing
        }
    }

    /// One word, for programs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Deleted => "deleted",
            Self::Clear => "clear",
            Self::CryptographicErase => "cryptographic_erase",
        }
    }

    /// What it means and what it does not, for whoever files the record.
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Nothing => {
                "There was nothing to remove at this level. No method of NIST SP 800-88r2 is claimed."
            }
            Self::Deleted => {
                "Files were deleted and keys destroyed. The blocks of deleted files may still hold their content: neither \
                 Clear nor Purge of NIST SP 800-88r2 is claimed."
            }
            Self::Clear => "Every addressed block was overwritten: Clear in the words of NIST SP 800-88r2.",
            Self::CryptographicErase => {
                "The keys of the encrypted volumes were destroyed and read back as gone. Where encryption was on from the \
                 first write this is Purge by cryptographic erase (NIST SP 800-88r2); the receipts do not show since when."
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(fates: &[ItemFate]) -> Vec<ReceiptItem> {
        fates.iter().map(|fate| ReceiptItem { what: "x".into(), fate: *fate, size_bytes: 1 }).collect()
    }

    #[test]
    fn no_word_is_claimed_that_one_item_has_not_earned() {
        use ItemFate::{Cleared, Deleted, Failed, Kept, KeyDestroyed};
        for (fates, word) in [
            (&[][..], Sanitisation::Nothing),
            (&[Kept], Sanitisation::Nothing),
            (&[Cleared, Deleted], Sanitisation::Deleted),
            (&[Cleared, KeyDestroyed], Sanitisation::Clear),
            (&[KeyDestroyed, Kept], Sanitisation::CryptographicErase),
            (&[KeyDestroyed, Deleted], Sanitisation::Deleted),
            (&[Cleared, Failed], Sanitisation::Deleted),
        ] {
            assert_eq!(Sanitisation::earned(&items(fates)), word, "{fates:?}");
        }
    }
}
