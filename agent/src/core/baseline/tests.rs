use ed25519_dalek::SigningKey;
use muster_wire::authority::{Approver, Authority, Required};
use muster_wire::desired::{
    CertificatePolicy, IdentityKey, Intervals, Lapse, Lease, Mode, Package, TimeSetting,
};
use muster_wire::envelope::{payload_digest, sign1};
use muster_wire::key::{Ed25519Key, PublicKey, Signer as _};

use super::*;

pub(crate) const NOW: Timestamp = Timestamp(2_000);
pub(crate) const DEVICE: DeviceId = DeviceId::from_bytes([7; 16]);

fn secret(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn key(seed: u8) -> Ed25519Key {
    match secret(seed).public_key() {
        PublicKey::Ed25519(key) => key,
        PublicKey::P256(_) => unreachable!("an Ed25519 signer"),
    }
}

/// Command key 1, audit key 2, approvers 10, 11 and 12.
pub(crate) fn lineage() -> Lineage {
    let approver = |seed: u8| Approver {
        name: format!("approver {seed}").parse().unwrap(),
        key: key(seed),
        valid_from: Timestamp(1_000),
    };
    let mut first = MultiSigned::unsigned(&Authority {
        version: 1,
        trust_domain: "fleet.example".parse().unwrap(),
        command_keys: vec![key(1)],
        audit_keys: vec![key(2)],
        approvers: [10, 11, 12].map(approver).into(),
        recovery: Vec::new(),
        required: Required::founding(3).0,
        previous: None,
    });
    first.add_signature(&secret(1)).unwrap();
    Lineage::found(&first, first.payload_digest()).unwrap()
}

pub(crate) fn head(counter: u64, baseline: &Baseline) -> DesiredHead {
    DesiredHead {
        device: DEVICE,
        generation: Generation { restore_epoch: 0, counter },
        baseline: payload_digest(baseline),
        certificate: CertificatePolicy {
            key: IdentityKey::P256,
            validity_s: 86_400,
            renew_after_percent: 66,
        },
        intervals: Intervals { state_s: 60, posture_s: 60, drift_s: 60 },
        lease: Lease { lasts_s: 0, on_lapse: Lapse::Report },
        issued_at: Timestamp(1_500),
    }
}

pub(crate) fn signed(baseline: &Baseline, signers: &[u8]) -> Vec<u8> {
    let mut message = MultiSigned::unsigned(baseline);
    signers.iter().for_each(|seed| message.add_signature(&secret(*seed)).unwrap());
    message.to_bytes()
}

pub(crate) fn baseline(contents: Vec<Content>) -> Baseline {
    let section = |content| Section { mode: Mode::Enforce, content };
    Baseline { profile: "laptop-linux".into(), sections: contents.into_iter().map(section).collect() }
}

pub(crate) fn file(path: &str, content: &str) -> FileEntry {
    let root = || "root".to_owned();
    FileEntry { path: path.into(), mode: 0o644, owner: root(), group: root(), content: content.into() }
}

fn declared() -> Vec<String> {
    vec!["/srv/managed".to_owned()]
}

fn judge(baseline: &Baseline, signers: &[u8]) -> Result<Admitted, BaselineRefusal> {
    judge_head(&head(1, baseline), baseline, signers, None, None)
}

fn judge_head(
    head: &DesiredHead,
    baseline: &Baseline,
    signers: &[u8],
    profile: Option<&str>,
    highest: Option<(Mark, Sha256Digest)>,
) -> Result<Admitted, BaselineRefusal> {
    let (lineage, declared) = (lineage(), declared());
    let subject = Subject { device: DEVICE, profile, declared: &declared, highest };
    let checked = check_head(&sign1(head, &secret(1)).unwrap(), &lineage, &subject)?;
    admit(checked, &signed(baseline, signers), &lineage, &subject, NOW)
}

fn setting(key: &str, value: &str) -> Content {
    Content::Sysctl(vec![Setting { key: key.into(), value: value.into() }])
}

#[test]
fn the_command_key_alone_may_write_plain_files_beneath_declared_roots_and_harden_the_kernel() {
    let files = Content::Files(vec![file("/srv/managed/a", "x")]);
    let admitted = judge(&baseline(vec![files, setting("kernel.kptr_restrict", "2")]), &[1]).unwrap();
    assert!(!admitted.is_wide());
    assert_eq!(admitted.baseline().sections.len(), 2);
}

#[test]
fn what_could_become_root_code_needs_two_approvers() {
    let executable = FileEntry { mode: 0o755, ..file("/srv/managed/run", "#!/bin/sh") };
    let setuid = FileEntry { mode: 0o4644, ..file("/srv/managed/s", "") };
    let elsewhere = file("/etc/cron.d/x", "");
    for content in [
        Content::Files(vec![executable]),
        Content::Files(vec![setuid]),
        Content::Files(vec![elsewhere]),
        setting("kernel.core_pattern", "|/srv/managed/x"),
        setting("kernel.kptr_restrict", "0"),
    ] {
        let baseline = baseline(vec![content]);
        for signers in [&[1][..], &[1, 10], &[1, 2], &[1, 99, 98]] {
            let refused = judge(&baseline, signers).unwrap_err();
            assert!(matches!(refused, BaselineRefusal::Unapproved { needed: 2, .. }), "{refused}");
        }
        assert!(judge(&baseline, &[1, 10, 12]).is_ok(), "{baseline:?}");
    }
}

#[test]
fn approvers_alone_are_not_the_command_key() {
    let baseline = baseline(vec![]);
    let refused = judge(&baseline, &[10, 11]).unwrap_err();
    assert!(matches!(refused, BaselineRefusal::Baseline(EnvelopeError::UnknownSigner)), "{refused}");
}

#[test]
fn a_file_elsewhere_makes_the_approved_state_wide() {
    let files = Content::Files(vec![file("/etc/motd", "x")]);
    assert!(judge(&baseline(vec![files]), &[1, 10, 11]).unwrap().is_wide());
}

#[test]
fn sections_without_an_applier_are_refused_whole_and_the_unapproved_ones_for_that() {
    let packages = Content::Packages(vec![Package { name: "telnetd".into(), present: false }]);
    let baseline_of_packages = baseline(vec![packages]);
    let refused = judge(&baseline_of_packages, &[1]).unwrap_err();
    assert!(matches!(refused, BaselineRefusal::Unapproved { matter: Matter::Packages, .. }), "{refused}");
    let refused = judge(&baseline_of_packages, &[1, 10, 11]).unwrap_err();
    assert!(matches!(refused, BaselineRefusal::Unsupported { section: SectionKind::Packages }), "{refused}");
    let time = Content::Time(TimeSetting { servers: vec![], zone: None });
    let refused = judge(&baseline(vec![time]), &[1]).unwrap_err();
    assert!(matches!(refused, BaselineRefusal::Unsupported { section: SectionKind::Time }), "{refused}");
}

#[test]
fn an_older_generation_is_stale_and_the_same_one_signed_again_is_not() {
    let (first, second) = (baseline(vec![]), baseline(vec![setting("kernel.kptr_restrict", "1")]));
    let seen = head(5, &first);
    let highest = Some((Mark::of(&seen, 1), seen.baseline));
    let offer = |head: &DesiredHead, baseline| judge_head(head, baseline, &[1], None, highest);
    assert!(offer(&head(4, &second), &second).unwrap_err().is_stale());
    assert!(offer(&head(6, &second), &second).is_ok());
    assert!(offer(&head(5, &first), &first).is_ok());
    let at = |issued_at: i64, baseline| DesiredHead { issued_at: Timestamp(issued_at), ..head(5, baseline) };
    assert!(offer(&at(1_499, &first), &first).is_ok(), "the same, signed by a clock that was set back");
    assert!(offer(&at(1_499, &second), &second).unwrap_err().is_stale());
    assert!(offer(&at(1_501, &second), &second).is_ok(), "another baseline in one generation, said later");
    let restored = Generation { restore_epoch: 1, counter: 1 };
    assert!(offer(&DesiredHead { generation: restored, ..head(1, &second) }, &second).is_ok());
}

#[test]
fn whoever_had_a_former_command_key_has_used_up_no_generation() {
    let own = baseline(vec![]);
    let last = Mark { command_since: 0, restore_epoch: u64::MAX, counter: u64::MAX, issued_at_s: i64::MAX };
    let offer =
        |highest: Mark| judge_head(&head(1, &own), &own, &[1], None, Some((highest, Sha256Digest([9; 32]))));
    assert!(offer(last).is_ok());
    assert!(offer(Mark { command_since: 1, ..last }).unwrap_err().is_stale());
}

#[test]
fn another_device_digest_profile_or_key_is_refused() {
    let (own, other) = (baseline(vec![]), baseline(vec![setting("kernel.kptr_restrict", "1")]));
    let foreign = DesiredHead { device: DeviceId::from_bytes([8; 16]), ..head(1, &own) };
    assert!(matches!(judge_head(&foreign, &own, &[1], None, None), Err(BaselineRefusal::OtherDevice)));
    assert!(matches!(judge_head(&head(1, &other), &own, &[1], None, None), Err(BaselineRefusal::Digest)));
    assert!(judge_head(&head(1, &own), &own, &[1], Some("laptop-linux"), None).is_ok());
    assert!(matches!(
        judge_head(&head(1, &own), &own, &[1], Some("sensor-linux"), None),
        Err(BaselineRefusal::OtherProfile { .. })
    ));
    let declared = declared();
    let subject = Subject { device: DEVICE, profile: None, declared: &declared, highest: None };
    let by_approver = sign1(&head(1, &own), &secret(10)).unwrap();
    assert!(matches!(check_head(&by_approver, &lineage(), &subject), Err(BaselineRefusal::Head(_))));
}

#[test]
fn one_bad_path_or_a_path_twice_refuses_the_whole() {
    for bad in ["/srv/managed/../../etc/shadow", "srv/managed/a", "/srv/managed/a\nb", "/srv/managed/"] {
        let files = Content::Files(vec![file("/srv/managed/a", ""), file(bad, "")]);
        let refused = judge(&baseline(vec![files]), &[1, 10, 11]).unwrap_err();
        assert!(matches!(refused, BaselineRefusal::File { .. }), "{bad:?}: {refused}");
    }
    let twice = Content::Files(vec![file("/srv/managed/a", "1"), file("/srv/managed/a", "2")]);
    assert!(matches!(judge(&baseline(vec![twice]), &[1]), Err(BaselineRefusal::Repeated { .. })));
}

/// A desired state that was admitted, for the tests of those who apply it.
pub(crate) fn admitted(
    counter: u64,
    baseline: &Baseline,
    signers: &[u8],
    declared: &[String],
) -> Result<Admitted, BaselineRefusal> {
    let lineage = lineage();
    let subject = Subject { device: DEVICE, profile: None, declared, highest: None };
    let checked = check_head(&sign1(&head(counter, baseline), &secret(1)).unwrap(), &lineage, &subject)?;
    admit(checked, &signed(baseline, signers), &lineage, &subject, NOW)
}

/// The same desired state, signed a second later with another drift interval.
pub(crate) fn admitted_later(former: &Admitted, drift_s: u64) -> Admitted {
    let mut later = former.clone();
    later.head.issued_at = later.head.issued_at.plus_seconds(1);
    later.head.intervals.drift_s = drift_s;
    later.mark = Mark::of(&later.head, later.mark.command_since);
    later
}
