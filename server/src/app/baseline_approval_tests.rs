//! Who may sign a baseline, and what becomes of it.

use super::plane_fixture::{Site, rule};
use super::*;
use crate::ca::fresh_ed25519;
use crate::domain::admission::Topics;
use crate::domain::policy::Principal;
use ed25519_dalek::SigningKey;
use muster_wire::desired::Baseline;
use muster_wire::envelope::MultiSigned;
use muster_wire::key::{Ed25519Key, PublicKey};
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
