//! One-time enrolment tokens.
//!
//! ```text
//! open ──claim (approval needed)──▶ claimed ──issue──▶ spent
//!   ├──────────────issue────────────────────────────▶ spent
//!   └──────────────revoke───────────────────────────▶ revoked        (claimed too)
//! ```
//! Expiry is no state: it is judged from the clock. A token is stored only under the digest of its text, so
//! there is nothing to compare in secret time and nothing to steal from a backup.

use super::refusal::{LastRefusal, Refusal};
use muster_wire::digest::Sha256Digest;
use muster_wire::id::{DeviceId, TokenId};
use muster_wire::problem::Code;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a token was bound to when it was made; every binding narrows what it may be redeemed for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// Name of the firmware profile. The EST label, where one is given, must equal it.
    pub profile: String,
    /// Hardware serial number of the one device that may redeem it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Site the device will belong to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
    /// Who will be answerable for the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Labels the device will carry.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// Where a token stands. Persisted; see the picture above.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum TokenState {
    /// Nobody has used it.
    Open,
    /// A device asked with it and waits for approval; only that device's key may go on.
    Claimed {
        /// The waiting device.
        device: DeviceId,
        /// SHA-256 of its public key.
        spki: Sha256Digest,
    },
    /// A certificate was issued for it.
    Spent {
        /// The device that came of it.
        device: DeviceId,
        /// SHA-256 of the public key that the certificate binds.
        spki: Sha256Digest,
        /// When, unix seconds.
        at: i64,
    },
    /// An operator took it back.
    Revoked {
        /// When, unix seconds.
        at: i64,
    },
}

impl TokenState {
    /// The state's name, as operators and the audit log see it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Claimed { .. } => "claimed",
            Self::Spent { .. } => "spent",
            Self::Revoked { .. } => "revoked",
        }
    }
}

/// A token as the store keeps it, under the digest of its text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// Version of this record's form.
    pub v: u8,
    /// The token's public name.
    pub id: TokenId,
    /// The first of the tokens that were made by the same request; tokens of older servers do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<TokenId>,
    /// What it was bound to.
    #[serde(flatten)]
    pub binding: Binding,
    /// Unix seconds.
    pub created_at: i64,
    /// Unix seconds; good through this very second.
    pub expires_at: i64,
    /// The operator who made it.
    pub created_by: String,
    /// Where it stands.
    #[serde(flatten)]
    pub state: TokenState,
    /// The last refusal that someone holding the token met.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_refusal: Option<LastRefusal>,
}

/// What a token that may go on is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redeemable {
    /// A first certificate for a new device.
    Fresh,
    /// The certificate of the device that already waits for approval.
    Waiting(DeviceId),
    /// The same answer again, if that answer may still be given.
    Replay(DeviceId),
}

/// The one refusal for every token that cannot be redeemed; `rule` goes to the audit log only.
pub const fn refused(rule: &'static str) -> Refusal {
    Refusal::by(rule, Code::TokenRefused)
}

impl TokenRecord {
    /// Whether this token can be good for anything at the EST label `label`, whoever's key it may be.
    ///
    /// The cheap half of [`TokenRecord::redeem`], asked before a request's signature is checked. `label` is `None`
    /// where no label stood in the path; then the token's own profile is meant.
    ///
    /// # Errors
    /// [`Code::TokenRefused`] with the rule `token.label`, `token.revoked` or `token.expired`.
    pub fn judge(&self, label: Option<&str>, now: i64) -> Result<(), Refusal> {
        if label.is_some_and(|label| label != self.binding.profile) {
            return Err(refused("token.label"));
        }
        match self.state {
            TokenState::Revoked { .. } => Err(refused("token.revoked")),
            TokenState::Open | TokenState::Claimed { .. } if now > self.expires_at => {
                Err(refused("token.expired"))
            }
            TokenState::Open | TokenState::Claimed { .. } | TokenState::Spent { .. } => Ok(()),
        }
    }

    /// What the bearer of this token, asking at the EST label `label` with the key `spki`, may get at `now`.
    ///
    /// A spent token answers its own key even after it expired, so that a reply lost in the last second is not
    /// lost for good.
    ///
    /// # Errors
    /// [`Code::TokenRefused`] in every case: what [`TokenRecord::judge`] says, `token.spent`, `token.claimed`.
    pub fn redeem(&self, label: Option<&str>, spki: &Sha256Digest, now: i64) -> Result<Redeemable, Refusal> {
        self.judge(label, now)?;
        match &self.state {
            TokenState::Spent { device, spki: bound, .. } if bound == spki => Ok(Redeemable::Replay(*device)),
            TokenState::Spent { .. } => Err(refused("token.spent")),
            TokenState::Claimed { device, spki: bound } if bound == spki => Ok(Redeemable::Waiting(*device)),
            TokenState::Claimed { .. } => Err(refused("token.claimed")),
            TokenState::Revoked { .. } => Err(refused("token.revoked")),
            TokenState::Open => Ok(Redeemable::Fresh),
        }
    }

    /// What the bearer of this token hears whose request proves no key and was refused by `refusal`.
    ///
    /// A token that is no longer open answers as it would any key but its own: else a bad request would tell a spent
    /// token from an unknown one.
    pub fn without_key(&self, refusal: Refusal) -> Refusal {
        match self.state {
            TokenState::Open => refusal,
            TokenState::Claimed { .. } => refused("token.claimed"),
            TokenState::Spent { .. } => refused("token.spent"),
            TokenState::Revoked { .. } => refused("token.revoked"),
        }
    }

    /// The state as an operator should read it: an open token past its life is `expired`.
    pub fn shown_state(&self, now: i64) -> &'static str {
        match self.state {
            TokenState::Open | TokenState::Claimed { .. } if now > self.expires_at => "expired",
            TokenState::Open
            | TokenState::Claimed { .. }
            | TokenState::Spent { .. }
            | TokenState::Revoked { .. } => self.state.name(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(state: TokenState) -> TokenRecord {
        TokenRecord {
            v: 1,
            id: TokenId::from_parts(1, [0; 10]),
            batch: None,
            binding: Binding { profile: "sensor-linux".into(), ..Binding::default() },
            created_at: 100,
            expires_at: 200,
            created_by: "admin".into(),
            state,
            last_refusal: None,
        }
    }

    fn key(n: u8) -> Sha256Digest {
        Sha256Digest::of(&[n])
    }

    fn device() -> DeviceId {
        DeviceId::from_parts(2, [0; 10])
    }

    #[test]
    fn token_is_good_through_its_last_second() {
        let token = record(TokenState::Open);
        assert_eq!(token.redeem(None, &key(1), 200), Ok(Redeemable::Fresh));
        assert_eq!(token.redeem(None, &key(1), 201).unwrap_err().rule, "token.expired");
    }

    #[test]
    fn spent_token_answers_its_own_key_and_no_other() {
        let token = record(TokenState::Spent { device: device(), spki: key(1), at: 150 });
        assert_eq!(token.redeem(None, &key(1), 999), Ok(Redeemable::Replay(device())));
        assert_eq!(token.redeem(None, &key(2), 160).unwrap_err().rule, "token.spent");
    }

    #[test]
    fn a_bad_request_does_not_tell_a_spent_token_from_an_unknown_one() {
        let bad = Refusal::by("csr.form", Code::CsrMalformed);
        let spent = record(TokenState::Spent { device: device(), spki: key(1), at: 150 });
        assert_eq!(spent.without_key(bad).code, Code::TokenRefused);
        assert_eq!(record(TokenState::Open).without_key(bad), bad);
    }

    #[test]
    fn claimed_token_waits_for_its_own_key_only() {
        let token = record(TokenState::Claimed { device: device(), spki: key(1) });
        assert_eq!(token.redeem(None, &key(1), 160), Ok(Redeemable::Waiting(device())));
        assert_eq!(token.redeem(None, &key(2), 160).unwrap_err().rule, "token.claimed");
    }

    #[test]
    fn every_refusal_of_a_token_has_the_same_code() {
        let spent = TokenState::Spent { device: device(), spki: key(1), at: 150 };
        let refusals = [
            record(TokenState::Open).redeem(Some("laptop-linux"), &key(1), 150),
            record(TokenState::Open).redeem(None, &key(1), 500),
            record(TokenState::Revoked { at: 120 }).redeem(None, &key(1), 150),
            record(spent).redeem(None, &key(2), 150),
            record(TokenState::Claimed { device: device(), spki: key(1) }).redeem(None, &key(2), 150),
        ];
        for refusal in refusals {
            assert_eq!(refusal.unwrap_err().code, Code::TokenRefused);
        }
    }

    #[test]
    fn every_state_that_is_shown_can_be_asked_for() {
        let claimed = TokenState::Claimed { device: device(), spki: key(1) };
        let spent = TokenState::Spent { device: device(), spki: key(1), at: 150 };
        let states = [TokenState::Open, claimed, spent, TokenState::Revoked { at: 120 }, TokenState::Open];
        let shown: Vec<&str> = states
            .into_iter()
            .zip([150, 150, 150, 150, 999])
            .map(|(s, now)| record(s).shown_state(now))
            .collect();
        assert_eq!(shown, muster_wire::rest::TOKEN_STATES);
    }

    #[test]
    fn record_survives_the_store() {
        let token = record(TokenState::Spent { device: device(), spki: key(1), at: 150 });
        let bytes = serde_json::to_vec(&token).unwrap();
        assert_eq!(serde_json::from_slice::<TokenRecord>(&bytes).unwrap(), token);
    }
}
