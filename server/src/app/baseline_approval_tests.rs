//! Who may sign a baseline, and what becomes of it.

use super::plane_fixture::{Site, rule};
use super::*;
use crate::ca::fresh_ed25519;
use crate::domain::admission::Topics;
use crate::domain::policy::Principal;
use crate::store::collections::BASELINE_APPROVALS;
use baseline_approval::required;
use ed25519_dalek::SigningKey;
use muster_wire::authority::{Approver, Authority, Matter, Required};
use muster_wire::cbor::decode;
use muster_wire::desired::{Baseline, Content, FileEntry, Mode, Section};
use muster_wire::envelope::MultiSigned;
use muster_wire::key::{Ed25519Key, PublicKey};
use muster_wire::time::Timestamp;
use std::collections::HashSet;

const SET: &str = "profile = \"sensor-linux\"\n[[baseline.files]]\npath = \"/etc/motd\"\ncontent = \"hi\"\n";

fn public(key: &SigningKey) -> PublicKey {
    PublicKey::Ed25519(Ed25519Key::from_bytes(&key.verifying_key().to_bytes()).unwrap())
}

#[tokio::test]
async fn a_baseline_that_devices_will_refuse_is_said_to_be_wherever_it_is_looked_at() {
    let keys = [fresh_ed25519(), fresh_ed25519(), fresh_ed25519()];
    let site = Site::found_by(&keys);
    let life = site.enroll(None).await;
    let profile = &site.app.device(life.id).unwrap().record.profile.clone();
    let preview = |text| site.app.preview_baseline(&site.operator(), "b.toml", text).unwrap().approval;
    let plain = SET.replace("/etc/motd", "/var/lib/muster-agent/managed/motd");
    assert_eq!(preview(&plain), None, "a file beneath the declared roots is for nobody");
    let needed = preview(SET).unwrap();
    assert_eq!((needed.required, needed.missing, &needed.items[..]), (2, 2, &["/etc/motd".to_owned()][..]));
    let before = needed.remedy_before_it_is_set();
    assert!(
        before.contains("Sign after setting") && !before.contains(&format!("sign {}", needed.counter)),
        "{before}"
    );

    let set = site.app.set_baseline(site.operator(), "b.toml", SET, |_| true).await.unwrap();
    assert_eq!(set.approval.unwrap(), needed);
    let told = || {
        let difference = site.app.difference(&site.operator(), life.id).unwrap();
        (difference.approval.unwrap().missing, site.app.explain(&site.operator(), life.id).unwrap())
    };
    let (missing, explained) = told();
    assert_eq!((missing, explained.rule.as_str()), (2, "baseline.unsigned"));
    let command = format!("muster baseline sign {} --key FILE", set.baseline.counter);
    assert!(explained.remedy.contains("2 of 2 signatures") && explained.remedy.contains(&command));
    for (key, missing) in keys.iter().zip([1, 0]) {
        let paper = &site.app.baseline_papers(&site.operator(), profile).unwrap().papers[0];
        assert_eq!(paper.required, 2);
        let of = MultiSigned::<Baseline>::parse(&paper.document).unwrap().read_unverified().unwrap();
        let mut signed = MultiSigned::unsigned(&of);
        signed.add_signature(key).unwrap();
        let _ = site.app.sign_baseline(site.operator(), profile, &signed.to_bytes()).await.unwrap();
        let (left, explained) = told();
        assert_eq!((left, explained.rule == "baseline.unsigned"), (missing, missing > 0), "{explained:?}");
    }
}

#[tokio::test]
async fn approvers_sign_a_baseline_and_its_devices_are_told_again() {
    let keys = [fresh_ed25519(), fresh_ed25519(), fresh_ed25519()];
    let site = Site::found_by(&keys);
    let life = site.enroll(None).await;
    let profile = &site.app.device(life.id).unwrap().record.profile.clone();
    let papers = || site.app.baseline_papers(&site.operator(), profile).unwrap().papers;
    let by = |key: &SigningKey, baseline: &Baseline| {
        let mut signed = MultiSigned::unsigned(baseline);
        signed.add_signature(key).unwrap();
        signed.to_bytes()
    };
    let of = |document: &[u8]| MultiSigned::<Baseline>::parse(document).unwrap().read_unverified().unwrap();
    let hand_in = async |signed: Vec<u8>| site.app.sign_baseline(site.operator(), profile, &signed).await;
    let built_in = of(&papers()[0].document);
    assert_eq!(rule(&hand_in(by(&keys[0], &built_in)).await.unwrap_err()), "baseline.built_in");
    let _ = site.app.set_baseline(site.operator(), "b.toml", SET, |_| true).await.unwrap();
    let sent: HashSet<Mark> =
        site.app.due(life.id, Topics::ALL, &HashSet::new()).unwrap().iter().map(|one| one.mark).collect();
    let baseline = of(&papers()[0].document);

    assert_eq!(rule(&hand_in(b"\xd8".to_vec()).await.unwrap_err()), "baseline.envelope");
    assert_eq!(rule(&hand_in(by(&keys[0], &built_in)).await.unwrap_err()), "baseline.other");
    assert_eq!(rule(&hand_in(by(&fresh_ed25519(), &baseline)).await.unwrap_err()), "baseline.signer");
    let commits = site.commits();
    assert_eq!(hand_in(by(&keys[0], &baseline)).await.unwrap().papers[0].signed_by.len(), 1);
    hand_in(by(&keys[0], &baseline)).await.unwrap();
    assert_eq!(site.commits(), commits + 1, "the same signature again changes nothing");
    let signed = hand_in(by(&keys[1], &baseline)).await.unwrap();
    assert_eq!((signed.papers[0].devices, signed.papers[0].signed_by.len()), (1, 2));

    assert_eq!(site.app.due(life.id, Topics::DESIRED, &sent).unwrap().len(), 1);
    let command = PublicKey::Ed25519(Ed25519Key::from_bytes(&site.app.ca.command_public()).unwrap());
    let device = site.permit(Principal::Device(life.id));
    let fetched = site.app.fetch_baseline(&device, life.id, &signed.papers[0].digest).unwrap();
    let fetched = MultiSigned::<Baseline>::parse(&fetched).unwrap();
    assert_eq!(fetched.verify(&[command], 1).unwrap().payload_digest(), signed.papers[0].digest);
    assert_eq!(fetched.signers(&keys.each_ref().map(public)).unwrap().len(), 2);

    let other = SET.replace("hi", "ho");
    for text in [other.as_str(), SET] {
        let _ = site.app.set_baseline(site.operator(), "b.toml", text, |_| true).await.unwrap();
        assert_eq!(papers()[0].signed_by, [""; 0], "what was approved once is asked for again");
    }
}

/// The keys of everything that approvers have signed and that is kept.
fn kept(site: &Site) -> Vec<Vec<u8>> {
    let all = site.app.store.scan(&BASELINE_APPROVALS.key(b""), None, 99).unwrap();
    all.into_iter().map(|(key, _)| key).collect()
}

#[tokio::test]
async fn what_was_signed_for_a_former_generation_goes_with_it_and_no_other_profiles_does() {
    let keys = [fresh_ed25519(), fresh_ed25519(), fresh_ed25519()];
    let site = Site::found_by(&keys);
    // More than one record holds, so that its chunks go, too.
    let large = SET.replace("hi", &"h".repeat(9_000));
    let mut generations = Vec::new();
    for profile in ["sensor-linux", "laptop-linux"] {
        let text = large.replace("sensor-linux", profile);
        let set = site.app.set_baseline(site.operator(), "b.toml", &text, |_| true).await.unwrap();
        generations.push(BASELINE_APPROVALS.key(&set.baseline.counter.to_be_bytes()));
        let paper = site.app.baseline_papers(&site.operator(), profile).unwrap().papers.remove(0);
        let of = MultiSigned::<Baseline>::parse(&paper.document).unwrap().read_unverified().unwrap();
        let mut signed = MultiSigned::unsigned(&of);
        signed.add_signature(&keys[0]).unwrap();
        let _ = site.app.sign_baseline(site.operator(), profile, &signed.to_bytes()).await.unwrap();
    }
    let of = |generation: &[u8]| kept(&site).iter().filter(|key| key.starts_with(generation)).count();
    let before = of(&generations[1]);
    assert_eq!((of(&generations[0]), before > 1), (before, true));
    let _ = site.app.set_baseline(site.operator(), "b.toml", SET, |_| true).await.unwrap();
    assert_eq!((of(&generations[0]), of(&generations[1])), (0, before));
    assert_eq!(kept(&site).len(), before, "nothing else is kept");
}

#[test]
fn what_the_authority_names_no_number_for_cannot_be_approved_and_is_said_to_be_so() {
    let key = |seed| SigningKey::from_bytes(&[seed; 32]);
    let of = |seed| Ed25519Key::from_bytes(&key(seed).verifying_key().to_bytes()).unwrap();
    let approver = |(name, seed): (&str, u8)| Approver {
        name: name.parse().unwrap(),
        key: of(seed),
        valid_from: Timestamp(0),
    };
    let named = Authority {
        version: 1,
        trust_domain: "fleet.example".parse().unwrap(),
        command_keys: vec![of(1)],
        audit_keys: vec![of(2)],
        approvers: [("alice", 3), ("bob", 4)].map(approver).to_vec(),
        recovery: Vec::new(),
        required: Required::founding(2).0,
        previous: None,
    };
    let file = |path: &str| FileEntry {
        path: path.into(),
        mode: 0o644,
        owner: "root".into(),
        group: "root".into(),
        content: Vec::new(),
    };
    let files = Content::Files(vec![file("/etc/motd"), file("/var/lib/muster-agent/managed/motd")]);
    let section = Section { mode: Mode::Enforce, content: files };
    let baseline = Baseline { profile: "sensor-linux".into(), sections: vec![section] };
    let needs = required(&baseline, &named).unwrap();
    assert_eq!(
        (needs.approvers, &needs.items[..], &needs.unnamed[..]),
        (2, &["/etc/motd".to_owned()][..], &[][..])
    );

    let nothing = Required::founding(2).0.with(Matter::FilesElsewhere, 0).with(Matter::Files, 0);
    assert_eq!(required(&baseline, &Authority { required: nothing, ..named.clone() }), None);

    let silent = Authority { required: decode(&[0x80]).unwrap(), ..named };
    let needs = required(&baseline, &silent).unwrap();
    assert_eq!(needs.approvers, 3, "one more than there are");
    assert_eq!(needs.unnamed, [Matter::Files, Matter::FilesElsewhere]);
    let approval =
        Approval { counter: 7, required: 3, missing: 1, items: needs.items, unnamed: needs.unnamed };
    let remedy = approval.remedy();
    assert!(remedy.contains("Generation 7 cannot be approved: the authority names no number of approvers for files and files(elsewhere)."), "{remedy}");
    assert!(remedy.contains("muster authority propose --required 'files=0' --required 'files(elsewhere)=2'"));
}
