//! A device: one life, one id, one chain of certificates; and the asset that links lives.
//!
//! ```text
//! expected ─▶ pending ─▶ commissioning ─▶ active ◀─▶ quarantined
//!    │           │             └────────────┴────┬───────┘
//!    └──────────▶┴─ cancelled                    ▼
//!                                         deprovisioning ─▶ retired {proven | unproven | without_proof | superseded}
//! ```

use super::deprovision::{Deprovisioning, Leaving};
use super::quarantine::Quarantine;
use super::refusal::LastRefusal;
use super::revocation::Reason;
use muster_pki::serial::Serial;
use muster_wire::digest::Sha256Digest;
use muster_wire::id::{AssetId, DeviceId, ObserverName, TokenId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Where a device stands in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceState {
    /// Named by a manifest; has not asked yet.
    Expected,
    /// Asked, and waits for a person.
    Pending,
    /// Has a certificate; baseline, posture and an order round trip are outstanding.
    Commissioning,
    /// Passed muster.
    Active,
    /// Held: may mend itself, nothing more.
    Quarantined,
    /// Being let go.
    Deprovisioning,
    /// Gone.
    Retired,
    /// Never came to be.
    Cancelled,
}

impl DeviceState {
    /// The state's name, as contract.md spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Expected => "expected",
            Self::Pending => "pending",
            Self::Commissioning => "commissioning",
            Self::Active => "active",
            Self::Quarantined => "quarantined",
            Self::Deprovisioning => "deprovisioning",
            Self::Retired => "retired",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether this life still goes on.
    pub fn is_open(self) -> bool {
        !matches!(self, Self::Retired | Self::Cancelled)
    }

    /// Whether `revoke`, `quarantine` and `deprovision` are allowed from here.
    pub fn may_be_ended(self) -> bool {
        matches!(self, Self::Commissioning | Self::Active | Self::Quarantined)
    }
}

/// How a life ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Retirement {
    /// A verified receipt proves the wipe.
    Proven,
    /// The wipe was ordered and never proven.
    Unproven,
    /// Revoked; no wipe was asked for.
    WithoutProof,
    /// A new life of the same asset took its place.
    Superseded,
}

impl Retirement {
    /// The name, as contract.md spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Proven => "proven",
            Self::Unproven => "unproven",
            Self::WithoutProof => "without_proof",
            Self::Superseded => "superseded",
        }
    }
}

/// What a device record says of one of its certificates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateRef {
    /// Where the certificate lies in the store; grows with time.
    pub ordinal: u64,
    /// Its serial number.
    #[serde(with = "serial_hex")]
    pub serial: Serial,
    /// SHA-256 of its DER.
    pub sha256: Sha256Digest,
    /// SHA-256 of its subject public key info.
    pub spki: Sha256Digest,
    /// When it was signed, unix seconds.
    pub issued_at: i64,
    /// Last second of its validity, unix seconds.
    pub not_after: i64,
}

/// A request that waits for a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// Why a person is asked: the rule.
    pub rule: String,
    /// Set once a person has said yes: who.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approved_by: Option<String>,
}

/// When a device took which step from enrolment to active, unix milliseconds; each is the first time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Steps {
    /// It was given its first certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enrolled_at: Option<i64>,
    /// It reported for the first time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connected_at: Option<i64>,
    /// It reported the generation desired, without a difference that is enforced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub baseline_at: Option<i64>,
    /// Its posture was good enough.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub posture_at: Option<i64>,
    /// An order came back done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order_at: Option<i64>,
    /// Everything held at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active_at: Option<i64>,
}

/// One life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Version of this record's form.
    pub v: u8,
    /// The life's id.
    pub id: DeviceId,
    /// The asset that links this life with others; `None` without a serial number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asset: Option<AssetId>,
    /// Hardware serial number, if one is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Name of the firmware profile.
    pub profile: String,
    /// Site it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
    /// Who is answerable for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Labels, for filters and overrides.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Where it stands.
    pub state: DeviceState,
    /// How it ended, once it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retirement: Option<Retirement>,
    /// The token that began this life.
    pub token: TokenId,
    /// Unix seconds.
    pub created_at: i64,
    /// When it last changed state, unix seconds.
    pub changed_at: i64,
    /// The certificate it has proven to hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<CertificateRef>,
    /// The certificate it was sent and has not used yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issued: Option<CertificateRef>,
    /// The request that waits for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Waiting>,
    /// How it is held, while it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantine: Option<Quarantine>,
    /// How it is, or was last, being let go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deprovisioning: Option<Deprovisioning>,
    /// When a person last released it, unix seconds: what was due by then is not held against it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub excused_until: Option<i64>,
    /// When its posture is to be appraised again without a report, unix seconds: a grace ends then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reappraise_at: Option<i64>,
    /// When it took which step from enrolment to active.
    #[serde(default)]
    pub steps: Steps,
    /// How many orders were ever made for it: the counter of the latest.
    #[serde(default)]
    pub orders_made: u64,
    /// The last refusal it met.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_refusal: Option<LastRefusal>,
}

impl Device {
    /// The certificate an operator means when asking for "the" certificate: the current one, else the issued one.
    pub fn certificate(&self) -> Option<&CertificateRef> {
        self.current.as_ref().or(self.issued.as_ref())
    }

    /// Every certificate that still opens a door.
    pub fn live_certificates(&self) -> impl Iterator<Item = &CertificateRef> {
        self.current.iter().chain(self.issued.iter())
    }

    /// State and, where it ended, how: `retired(without_proof)`; where it is let go, how far: `deprovisioning(armed)`.
    pub fn standing(&self) -> String {
        let state = self.state.as_str();
        match (self.retirement, self.leaving()) {
            (Some(how), _) => format!("{state}({})", how.as_str()),
            (None, Some(leaving)) => format!("{state}({})", leaving.phase.as_str()),
            (None, None) => state.to_owned(),
        }
    }

    /// Ends, at `now`, a life that never began.
    pub fn cancel(&mut self, now: i64) {
        self.state = DeviceState::Cancelled;
        self.changed_at = now;
        self.waiting = None;
    }

    /// Ends this life at `now`. The caller revokes [`Device::live_certificates`] in the same commit.
    pub fn retire(&mut self, how: Retirement, now: i64) {
        self.state = DeviceState::Retired;
        self.retirement = Some(how);
        self.changed_at = now;
        self.waiting = None;
        self.quarantine = None;
    }
}

/// The thing with a serial number; it links the lives it has led.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asset {
    /// Version of this record's form.
    pub v: u8,
    /// The asset's id.
    pub id: AssetId,
    /// The latest life, open or ended.
    pub life: DeviceId,
}

/// What became of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum CertificateState {
    /// Sent, not yet used.
    Issued,
    /// Proven by its device.
    Current,
    /// Dead: superseded by the next or revoked.
    Revoked {
        /// When, unix seconds.
        at: i64,
        /// Why.
        reason: Reason,
    },
}

impl CertificateState {
    /// The name that operators see; a certificate revoked because the next took over is `superseded`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Issued => "issued",
            Self::Current => "current",
            Self::Revoked { reason: Reason::Superseded, .. } => "superseded",
            Self::Revoked { .. } => "revoked",
        }
    }
}

/// A certificate as the store keeps it, under its ordinal; its DER lies apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateRecord {
    /// Version of this record's form.
    pub v: u8,
    /// Its serial number.
    #[serde(with = "serial_hex")]
    pub serial: Serial,
    /// SHA-256 of its DER.
    pub sha256: Sha256Digest,
    /// Whose it is, where it is a device's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceId>,
    /// Whose it is, where it is an observer's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observer: Option<ObserverName>,
    /// Last second of its validity, unix seconds.
    pub not_after: i64,
    /// Seconds after that in which it may still renew; fixed when it is issued.
    pub grace_s: u32,
    /// Whether it is on hold, since its device is in quarantine.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub held: bool,
    /// How its device is being let go, while it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaving: Option<Leaving>,
    /// What became of it.
    #[serde(flatten)]
    pub state: CertificateState,
}

mod serial_hex {
    use muster_pki::serial::Serial;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(serial: &Serial, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(serial)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Serial, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(from)?;
        text.parse().map_err(|_| D::Error::custom("a certificate serial number is 32 hexadecimal digits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_can_be_asked_for_by_its_name() {
        let unknown = serde_json::from_str::<DeviceState>("\"x\"").unwrap_err().to_string();
        let known: Vec<&str> = unknown.split('`').skip(3).step_by(2).collect();
        assert_eq!(known, muster_wire::rest::DEVICE_STATES);
        for name in known {
            let state: DeviceState = serde_json::from_value(name.into()).unwrap();
            assert_eq!(state.as_str(), name);
        }
    }
}
