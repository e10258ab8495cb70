//! What one device should be like: a pure function of its profile, the baseline set for that profile, its site and
//! its labels. Nothing is kept per device.
//!
//! Where nobody has set a baseline, the profile's own applies, at generation 1. Setting one takes a number from a
//! counter that the whole installation shares and that only grows.

use muster_firmware_profiles::profile::{
    Baseline, KeyAlgorithm, LeasePolicy, ManagedFile, OnLapse, Override, Profile,
};
use muster_firmware_profiles::resolve::{Resolved, Target, resolve};
use muster_wire::cbor;
use muster_wire::desired::{
    self as wire, CertificatePolicy, Content, DesiredHead, FileEntry, Generation, IdentityKey, Intervals,
    Lapse, Lease, Mode, Section, Setting,
};
use muster_wire::digest::Sha256Digest;
use muster_wire::id::DeviceId;
use muster_wire::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The generation of every profile for which nobody has set a baseline.
pub const FIRST: u64 = 1;

/// Signatures and headers that come on top of a baseline's payload, at most, in bytes.
const ENVELOPE_BYTES: usize = 16 * 1024;

/// A baseline as an operator set it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProfileDesired {
    /// Version of this record's form.
    pub v: u8,
    /// For devices of this profile.
    pub profile: String,
    /// Its generation.
    pub counter: u64,
    /// The sections.
    pub baseline: Baseline,
    /// The lease; the profile's own where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeasePolicy>,
    /// Deviations for sites and labels; only their baselines and leases count.
    pub overrides: Vec<Override>,
    /// When it was set, unix seconds.
    pub set_at: i64,
    /// Who set it, as the audit log names them.
    pub set_by: String,
    /// How often approvers' signatures came since.
    #[serde(default)]
    pub signings: u64,
}

impl ProfileDesired {
    /// `profile` with this baseline in place of its own.
    ///
    /// The profile's own deviations keep their certificates and rules; their baselines were deviations from a
    /// baseline that no longer applies.
    pub fn over(&self, profile: &Profile) -> Profile {
        let mut changed = profile.clone();
        changed.baseline = self.baseline.clone();
        if self.lease.is_some() {
            changed.lease.clone_from(&self.lease);
        }
        for one in &mut changed.overrides {
            one.baseline = Baseline::default();
        }
        changed.overrides.extend(self.overrides.iter().map(|one| Override {
            site: one.site.clone(),
            label: one.label.clone(),
            lease: one.lease.clone(),
            baseline: one.baseline.clone(),
            ..Override::default()
        }));
        changed
    }
}

/// Everything that a head says and that does not differ between devices that stand alike.
#[derive(Clone, Debug)]
pub struct Settled {
    /// What the profile comes to.
    pub resolved: Resolved,
    /// The baseline as it travels.
    pub baseline: wire::Baseline,
    /// SHA-256 of its payload.
    pub digest: Sha256Digest,
    /// What certificate the device should have.
    pub certificate: CertificatePolicy,
    /// How often it does what.
    pub intervals: Intervals,
    /// How long it may go without us.
    pub lease: Lease,
}

/// Settles what a device of `profile` gets that stands at `site` with `labels`.
pub fn settle(profile: &Profile, site: Option<&str>, labels: &BTreeMap<String, String>) -> Settled {
    let resolved = resolve(profile, Target { site, labels });
    let baseline =
        wire::Baseline { profile: resolved.profile.clone(), sections: sections(&resolved.baseline) };
    let digest = Sha256Digest::of(&cbor::encode(&baseline));
    Settled {
        certificate: CertificatePolicy {
            key: resolved.certificate.keys.first().map_or(IdentityKey::P256, |key| identity_key(*key)),
            validity_s: u64::try_from(resolved.certificate.validity_s()).unwrap_or(0),
            renew_after_percent: resolved.certificate.renew_percent.into(),
        },
        intervals: Intervals {
            state_s: resolved.intervals.report_s.into(),
            posture_s: resolved.intervals.posture_s.into(),
            drift_s: resolved.intervals.report_s.into(),
        },
        lease: lease(resolved.lease.as_ref()),
        resolved,
        baseline,
        digest,
    }
}

impl Settled {
    /// Whether a device that gets this gets something else than with `other`.
    pub fn differs(&self, other: &Self) -> bool {
        (self.digest, self.lease) != (other.digest, other.lease)
    }

    /// The head that tells `device` of it.
    pub fn head(&self, device: DeviceId, generation: Generation, issued_at: Timestamp) -> DesiredHead {
        let Self { digest: baseline, certificate, intervals, lease, .. } = *self;
        DesiredHead { device, generation, baseline, certificate, intervals, lease, issued_at }
    }

    /// Whether the baseline, signed, is small enough to travel.
    pub fn fits(&self) -> bool {
        cbor::encode(&self.baseline).len() + ENVELOPE_BYTES <= <wire::Baseline as cbor::Document>::MAX_BYTES
    }
}

/// The sections in the order in which they are applied; an empty one is left out.
fn sections(baseline: &Baseline) -> Vec<Section> {
    let files = baseline.files.iter().map(file).collect::<Vec<_>>();
    let settings =
        baseline.sysctl.iter().map(|(key, value)| Setting { key: key.clone(), value: value.clone() });
    let settings = settings.collect::<Vec<_>>();
    let mut sections = Vec::new();
    if !files.is_empty() {
        sections.push(Section { mode: Mode::Enforce, content: Content::Files(files) });
    }
    if !settings.is_empty() {
        sections.push(Section { mode: Mode::Enforce, content: Content::Sysctl(settings) });
    }
    sections
}

fn file(file: &ManagedFile) -> FileEntry {
    FileEntry {
        path: file.path.clone(),
        // The schema lets only octal permission bits through.
        mode: u32::from_str_radix(&file.mode, 8).unwrap_or(0o600),
        owner: file.owner.clone(),
        group: file.owner.clone(),
        content: file.content.clone().into_bytes(),
    }
}

fn lease(policy: Option<&LeasePolicy>) -> Lease {
    let Some(policy) = policy else { return Lease { lasts_s: 0, on_lapse: Lapse::Report } };
    let on_lapse = match policy.on_lapse {
        OnLapse::Report => Lapse::Report,
        OnLapse::DropSecrets => Lapse::DropSecrets,
        OnLapse::Lock => Lapse::Lock,
        OnLapse::Clear => Lapse::Clear,
    };
    Lease { lasts_s: policy.lasts_s(), on_lapse }
}

/// A device that signs documents has a key that can; RSA is for legacy EST clients, which have no agent.
fn identity_key(key: KeyAlgorithm) -> IdentityKey {
    match key {
        KeyAlgorithm::P256 | KeyAlgorithm::Rsa => IdentityKey::P256,
        KeyAlgorithm::P384 => IdentityKey::P384,
        KeyAlgorithm::Ed25519 => IdentityKey::Ed25519,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_firmware_profiles::builtin::builtin;

    fn set() -> ProfileDesired {
        let file = |content: &str| ManagedFile {
            path: "/etc/motd".into(),
            content: content.into(),
            mode: "0640".into(),
            owner: "root".into(),
        };
        let baseline = |content| Baseline { files: vec![file(content)], sysctl: BTreeMap::new() };
        ProfileDesired {
            v: 1,
            profile: "laptop-linux".into(),
            counter: 4,
            baseline: baseline("hello"),
            lease: Some(LeasePolicy { lasts_hours: 336, on_lapse: OnLapse::Lock }),
            overrides: vec![Override {
                site: Some("oslo".into()),
                baseline: baseline("hei"),
                ..Override::default()
            }],
            set_at: 0,
            set_by: "operator/admin".into(),
            signings: 0,
        }
    }

    fn content(profile: &Profile, site: Option<&str>) -> Vec<u8> {
        let settled = settle(profile, site, &BTreeMap::new());
        match &settled.baseline.sections[..] {
            [Section { content: Content::Files(files), .. }] => {
                assert_eq!(files[0].mode, 0o640);
                files[0].content.clone()
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_was_set_takes_the_place_of_the_profiles_own_baseline() {
        let profile = set().over(builtin("laptop-linux").unwrap());
        assert_eq!(content(&profile, None), b"hello");
        assert_eq!(content(&profile, Some("oslo")), b"hei");
        let rules = settle(&profile, None, &BTreeMap::new()).resolved.posture;
        assert_eq!(rules, builtin("laptop-linux").unwrap().posture);
    }

    #[test]
    fn a_lease_is_granted_where_one_was_set_and_nowhere_else() {
        let none = BTreeMap::new();
        let lease = |profile: &Profile| settle(profile, None, &none).lease;
        let profile = set().over(builtin("laptop-linux").unwrap());
        assert_eq!(lease(&profile), Lease { lasts_s: 14 * 86_400, on_lapse: Lapse::Lock });
        let silent = ProfileDesired { lease: None, ..set() };
        assert_eq!(lease(&silent.over(&profile)), lease(&profile), "what is not said stays");
        for profile in muster_firmware_profiles::builtin::builtins() {
            assert_eq!(lease(profile).lasts_s, 0, "{}", profile.name);
        }
    }

    #[test]
    fn devices_that_stand_alike_get_the_same_digest() {
        let profile = set().over(builtin("laptop-linux").unwrap());
        let labels = BTreeMap::from([("room".to_owned(), "3".to_owned())]);
        let plain = settle(&profile, None, &BTreeMap::new()).digest;
        assert_eq!(settle(&profile, Some("bergen"), &labels).digest, plain);
        assert_ne!(settle(&profile, Some("oslo"), &labels).digest, plain);
    }

    #[test]
    fn a_baseline_with_a_megabyte_of_files_does_not_fit() {
        let mut large = set();
        large.baseline.files[0].content = "x".repeat(1 << 20);
        let profile = large.over(builtin("laptop-linux").unwrap());
        assert!(!settle(&profile, None, &BTreeMap::new()).fits());
        assert!(settle(&profile, Some("oslo"), &BTreeMap::new()).fits());
    }
}
