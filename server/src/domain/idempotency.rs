//! The same request twice has one effect.
//!
//! A POST may carry an `Idempotency-Key`. The first request under a key is carried out and its answer kept; the
//! same request again gets the same answer, and another request under the same key is refused. Keys belong to
//! the operator who used them, so nobody can read another's answers by guessing keys.

use super::refusal::Refusal;
use muster_wire::digest::Sha256Digest;
use muster_wire::problem::Code;
use serde::{Deserialize, Serialize};

/// Longest key accepted, in bytes.
pub const KEY_MAX: usize = 255;

/// How long an answer is kept, in seconds.
pub const KEPT_S: i64 = 24 * 60 * 60;

/// What is kept of a request that was carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Version of this record's form.
    pub v: u8,
    /// SHA-256 over method, path and body of the request.
    pub request: Sha256Digest,
    /// When it was carried out, unix seconds.
    pub at: i64,
}

impl Kept {
    /// Whether the answer kept may serve `request` at `now`; `false` means: too old, carry it out anew.
    ///
    /// # Errors
    /// [`Code::IdempotencyMismatch`] where another request was carried out under this key.
    pub fn serves(&self, request: &Sha256Digest, now: i64) -> Result<bool, Refusal> {
        if now.saturating_sub(self.at) > KEPT_S {
            return Ok(false);
        }
        if self.request != *request {
            return Err(
                Refusal::by("idempotency.other_request", Code::IdempotencyMismatch).at("Idempotency-Key")
            );
        }
        Ok(true)
    }
}

/// Under which digest the answer to `key`, used by `operator`, is kept.
pub fn slot(operator: &str, key: &str) -> Sha256Digest {
    let mut bytes = Vec::with_capacity(operator.len() + key.len() + 1);
    bytes.extend_from_slice(operator.as_bytes());
    bytes.push(0);
    bytes.extend_from_slice(key.as_bytes());
    Sha256Digest::of(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_request_under_the_same_key_is_refused() {
        let first = Sha256Digest::of(b"first");
        let kept = Kept { v: 1, request: first, at: 100 };
        assert_eq!(kept.serves(&first, 200), Ok(true));
        assert!(kept.serves(&Sha256Digest::of(b"second"), 200).is_err());
    }

    #[test]
    fn an_answer_is_kept_for_a_day() {
        let first = Sha256Digest::of(b"first");
        let kept = Kept { v: 1, request: first, at: 100 };
        assert_eq!(kept.serves(&first, 100 + KEPT_S + 1), Ok(false));
    }

    #[test]
    fn operators_do_not_share_keys() {
        assert_ne!(slot("alice", "k"), slot("bob", "k"));
        assert_ne!(slot("a", "bk"), slot("ab", "k"));
    }
}
