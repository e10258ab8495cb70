//! Firmware profiles as the verbs need them, resolved once at the start.

use crate::domain::enrollment::{ApprovalRule, SerialRule};
use crate::domain::refusal::Refusal;
use muster_firmware_profiles::builtin::builtins;
use muster_firmware_profiles::profile::{self, KeyAlgorithm, Profile};
use muster_pki::key::Algorithm;
use muster_pki::profile::{BACKDATE_S, LeafProfile};
use muster_wire::problem::Code;
use std::collections::BTreeMap;

/// What enrolment asks of a device of one kind.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// Whether a person says yes first.
    pub(super) approval: ApprovalRule,
    /// What about serial numbers.
    pub(super) serial: SerialRule,
}

struct Known {
    profile: &'static Profile,
    leaf: LeafProfile,
    rules: Rules,
    grace_s: u32,
}

/// Every profile this server knows, by name.
pub struct Profiles(BTreeMap<&'static str, Known>);

impl Profiles {
    /// The built-in ones.
    pub fn builtin() -> Self {
        Self(builtins().iter().map(|profile| (profile.name.as_str(), Known::of(profile))).collect())
    }

    /// The profiles themselves, by name.
    pub fn iter(&self) -> impl Iterator<Item = &'static Profile> {
        self.0.values().map(|known| known.profile)
    }

    /// The profile of this name.
    pub fn get(&self, name: &str) -> Option<&'static Profile> {
        self.0.get(name).map(|known| known.profile)
    }

    /// How a leaf of this kind is shaped.
    pub(super) fn leaf(&self, name: &str) -> Result<&LeafProfile, Refusal> {
        self.known(name).map(|known| &known.leaf)
    }

    /// What enrolment asks.
    pub(super) fn rules(&self, name: &str) -> Result<Rules, Refusal> {
        self.known(name).map(|known| known.rules)
    }

    /// Seconds after expiry in which a device may still renew.
    pub(super) fn grace_s(&self, name: &str) -> Result<u32, Refusal> {
        self.known(name).map(|known| known.grace_s)
    }

    fn known(&self, name: &str) -> Result<&Known, Refusal> {
        self.0.get(name).ok_or(Refusal::by("profile.known", Code::ProfileUnknown).at("profile"))
    }
}

impl Known {
    fn of(profile: &'static Profile) -> Self {
        let algorithms = profile.certificate.keys.iter().map(|key| algorithm(*key)).collect();
        let leaf =
            LeafProfile { algorithms, validity_s: profile.certificate.validity_s(), backdate_s: BACKDATE_S };
        let approval = match profile.enrollment.approval {
            profile::Approval::None => ApprovalRule::None,
            profile::Approval::Required => ApprovalRule::Required,
        };
        let serial = match profile.enrollment.serial {
            profile::SerialRule::Ignore => SerialRule::Optional,
            profile::SerialRule::Require => SerialRule::Required,
            profile::SerialRule::Bound => SerialRule::Bound,
        };
        let grace_s = u32::try_from(profile.certificate.grace_s()).unwrap_or(u32::MAX);
        Self { profile, leaf, rules: Rules { approval, serial }, grace_s }
    }
}

fn algorithm(key: KeyAlgorithm) -> Algorithm {
    match key {
        KeyAlgorithm::P256 => Algorithm::P256,
        KeyAlgorithm::P384 => Algorithm::P384,
        KeyAlgorithm::Ed25519 => Algorithm::Ed25519,
        KeyAlgorithm::Rsa => Algorithm::Rsa { bits: 2048 },
    }
}
