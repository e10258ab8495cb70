//! The rails as verbs meet them: loops of single acts, protected devices, the freeze.

use super::deprovision_fixture::wipe_of;
use super::plane_fixture::{Life, Site};
use super::{Error, Shown};
use crate::ca::fresh_ed25519;
use crate::domain::admission::Topics;
use crate::domain::rails::Limits;
use crate::domain::revocation::Reason;
use crate::store::Batch;
use crate::store::collections::INSTALLATION;
use ed25519_dalek::SigningKey;
use muster_wire::envelope::MultiSigned;
use muster_wire::lift::{Lift, Waiver};
use muster_wire::problem::Code;
use muster_wire::warrant::Level;
use std::collections::{BTreeMap, BTreeSet, HashSet};

const LIMITS: Limits = Limits { day_least: 2, day_percent: 1, hour: 10, cooling_off_s: 14_400 };

async fn on_rails(count: usize) -> (Site, Vec<Life>) {
    on_rails_of(Site::found(), count).await
}

async fn on_rails_of(site: Site, count: usize) -> (Site, Vec<Life>) {
    let mut lives = Vec::new();
    for _ in 0..count {
        lives.push(site.enroll(None).await);
    }
    (site.on_rails(LIMITS).await, lives)
}

impl Site {
    async fn ends(&self, life: &Life, reason: Reason) -> Result<Shown, Error> {
        self.app.revoke(self.operator(), life.id, reason).await
    }

    async fn holds(&self, life: &Life) -> Result<Shown, Error> {
        self.app.quarantine(self.operator(), life.id, &"lost".parse().unwrap()).await
    }

    async fn labels(&self, life: &Life, set: &[(&str, &str)], remove: &[&str]) -> Result<Shown, Error> {
        let set: BTreeMap<_, _> = set.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let remove: BTreeSet<_> = remove.iter().map(|name| (*name).to_owned()).collect();
        self.app.label(self.operator(), life.id, &set, &remove).await
    }

    fn due_to(&self, life: &Life) -> usize {
        self.app.due(life.id, Topics::ALL, &HashSet::new()).unwrap().len()
    }
}

/// Waits until the act that waits is written down.
async fn written(site: &Site, count: usize) {
    while site.app.rails(&site.operator()).unwrap().waiting.len() < count {
        tokio::task::yield_now().await;
    }
}

fn rule(refused: Result<Shown, Error>) -> (&'static str, Code) {
    match refused {
        Err(Error::Refused(refusal)) => (refusal.rule, refusal.code),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_loop_of_single_acts_of_every_kind_ends_at_the_budget_and_goes_on_after_it_has_cooled() {
    let (site, lives) = on_rails(4).await;
    let [one, two, three, four] = lives.try_into().ok().unwrap();
    let _ = site.ends(&one, Reason::Unspecified).await.unwrap();
    let _ = site.holds(&two).await.unwrap();
    let waits = site.ends(&three, Reason::Unspecified).await.unwrap_err();
    assert!(matches!(waits, Error::CoolingOff { retry_after_s: 14_400, .. }), "{waits:?}");
    written(&site, 1).await;
    assert!(site.device(three.id).state.may_be_ended(), "nothing was done to it");
    // One whose key is not safe is never delayed, and counts.
    let _ = site.ends(&four, Reason::KeyCompromise).await.unwrap();
    let shown = site.app.rails(&site.operator()).unwrap();
    assert_eq!((shown.day, shown.used_day, shown.waiting.len()), (2, 3, 1));
    let waiting = &shown.waiting[0].waiting;
    assert_eq!((waiting.act.as_str(), waiting.devices), ("revoke", 1));

    // A restart forgets none of it.
    let site = site.on_rails(LIMITS).await;
    site.clock.advance_ms(14_399_000);
    assert!(matches!(
        site.ends(&three, Reason::Unspecified).await,
        Err(Error::CoolingOff { retry_after_s: 1, .. })
    ));
    assert!(
        matches!(site.holds(&three).await, Err(Error::CoolingOff { .. })),
        "another act waits for itself"
    );
    site.clock.advance_ms(1_000);
    let _ = site.ends(&three, Reason::Unspecified).await.unwrap();
    assert_eq!(site.refusals()[0], "rails.cooling_off");
}

#[tokio::test]
async fn a_preview_beyond_the_budget_says_until_when_and_asking_is_what_begins_the_wait() {
    let approvers = [fresh_ed25519(), fresh_ed25519(), fresh_ed25519()];
    let (site, lives) = on_rails_of(Site::found_by(&approvers), 3).await;
    let wanted = wipe_of(&lives, Level::Retire);
    let preview = async || site.app.preview_warrant(&site.operator(), &wanted).await.unwrap().waits_until;
    let until = site.app.clock.now_s() + 14_400;
    assert_eq!(preview().await, Some(until));
    assert!(site.app.rails(&site.operator()).unwrap().waiting.is_empty(), "nobody has asked for it yet");
    let asked = async || site.app.request_warrant(site.operator(), &wanted, None).await;
    assert!(matches!(asked().await, Err(Error::CoolingOff { retry_after_s: 14_400, .. })));
    site.clock.advance_ms(14_399_000);
    assert_eq!(preview().await, Some(until), "the wait goes on where it was");
    site.clock.advance_ms(1_000);
    assert_eq!(preview().await, None);
    assert_eq!(asked().await.unwrap().aims.len(), 3);
}

#[tokio::test]
async fn a_protected_device_is_exempt_until_the_label_goes_by_an_act_of_its_own() {
    let (site, lives) = on_rails(1).await;
    let _ = site.labels(&lives[0], &[("protected", "yes"), ("room", "3")], &[]).await.unwrap();
    let protected = ("rails.protected", Code::DeviceStateRefused);
    assert_eq!(rule(site.ends(&lives[0], Reason::KeyCompromise).await), protected);
    assert_eq!(rule(site.holds(&lives[0]).await), protected);
    let by_label = site.labels(&lives[0], &[], &["protected"]).await;
    assert_eq!(rule(by_label), ("label.protected", Code::Conflict));
    let _ = site.labels(&lives[0], &[], &["room"]).await.unwrap();
    assert_eq!(site.device(lives[0].id).labels.keys().collect::<Vec<_>>(), ["protected"]);
    let _ = site.app.unprotect(site.operator(), lives[0].id).await.unwrap();
    let _ = site.ends(&lives[0], Reason::Unspecified).await.unwrap();
}

#[tokio::test]
async fn a_freeze_stops_what_leaves_and_only_the_quorum_lifts_it() {
    let approvers: [SigningKey; 3] = [fresh_ed25519(), fresh_ed25519(), fresh_ed25519()];
    let (site, lives) = on_rails_of(Site::found_by(&approvers), 1).await;
    assert!(site.due_to(&lives[0]) > 0);
    let frozen = site.app.freeze(site.operator()).await.unwrap();
    assert_eq!((site.due_to(&lives[0]), frozen.required), (0, 2));
    let told = |site: &Site| {
        let shown = site.app.rails(&site.operator()).unwrap().frozen;
        let remedy = site.app.explain(&site.operator(), lives[0].id).unwrap().remedy;
        (shown.map(|frozen| frozen.by), remedy.contains("there is a freeze since"))
    };
    assert_eq!(told(&site), (Some("operator/admin".to_owned()), true));
    let lift = |key: &SigningKey, bytes: &[u8]| {
        let document = MultiSigned::<Lift>::parse_unfinished(bytes).unwrap().read_unverified().unwrap();
        let mut copy = MultiSigned::unsigned(&document);
        copy.add_signature(key).unwrap();
        copy.to_bytes()
    };
    let bring = async |copy: &[u8]| site.app.lift_freeze(site.operator(), copy).await;
    assert!(bring(&lift(&fresh_ed25519(), &frozen.lift)).await.is_err(), "a stranger");
    let first = lift(&approvers[0], &frozen.lift);
    assert!(!bring(&first).await.unwrap().is_lifted);
    assert!(!bring(&first).await.unwrap().is_lifted, "one person is one person");
    assert!(bring(&lift(&approvers[1], &frozen.lift)).await.unwrap().is_lifted);
    assert!(site.due_to(&lives[0]) > 0, "what was due is due");
    assert_eq!(told(&site), (None, false));

    // A lift that was signed once ends nothing later.
    let _ = site.app.freeze(site.operator()).await.unwrap();
    assert!(bring(&first).await.is_err());
    assert_eq!(site.due_to(&lives[0]), 0);
}

#[tokio::test]
async fn approvers_waive_the_wait_of_one_act_and_of_no_other() {
    let approvers: [SigningKey; 3] = [fresh_ed25519(), fresh_ed25519(), fresh_ed25519()];
    let (site, lives) = on_rails_of(Site::found_by(&approvers), 4).await;
    for spent in &lives[..2] {
        let _ = site.ends(spent, Reason::Unspecified).await.unwrap();
    }
    for (count, waits) in lives[2..].iter().enumerate() {
        assert!(matches!(site.ends(waits, Reason::Unspecified).await, Err(Error::CoolingOff { .. })));
        written(&site, count + 1).await;
    }
    let waiting = site.app.rails(&site.operator()).unwrap().waiting;
    let waiver = |key: &SigningKey, at: usize| {
        let document = MultiSigned::<Waiver>::parse_unfinished(&waiting[at].waiver).unwrap();
        let mut copy = MultiSigned::unsigned(&document.read_unverified().unwrap());
        copy.add_signature(key).unwrap();
        copy.to_bytes()
    };
    let bring = async |at: usize, copy: &[u8]| {
        site.app
            .waive(site.operator(), &waiting[at].waiting.key, copy)
            .await
            .map(|shown| shown.signed_by.len())
    };
    assert_eq!((waiting[0].required, waiting[0].signed_by.len()), (2, 0));
    assert!(bring(0, &waiver(&fresh_ed25519(), 0)).await.is_err(), "a stranger");
    assert!(bring(1, &waiver(&approvers[0], 0)).await.is_err(), "another act");
    assert!(site.app.waive(site.operator(), "00", &waiver(&approvers[0], 0)).await.is_err(), "nothing");
    for _ in 0..2 {
        assert_eq!(bring(0, &waiver(&approvers[0], 0)).await.unwrap(), 1, "one person is one person");
        assert!(site.ends(&lives[2], Reason::Unspecified).await.is_err());
    }
    assert_eq!(bring(0, &waiver(&approvers[1], 0)).await.unwrap(), 2);
    assert!(site.ends(&lives[3], Reason::Unspecified).await.is_err(), "the other waits on");
    let _ = site.ends(&lives[2], Reason::Unspecified).await.unwrap();
    assert!(bring(0, &waiver(&approvers[2], 0)).await.is_err(), "what was done waits no more");
    let entries = site.app.audit_tail(&site.operator(), None, 1_000).unwrap().items;
    let waived = entries.iter().filter(|entry| entry["new_state"] == "waived").count();
    assert_eq!(waived, 1);
}

/// A copy of what `bytes` waive, signed by `key`.
fn waived(key: &SigningKey, bytes: &[u8]) -> Vec<u8> {
    let document = MultiSigned::<Waiver>::parse_unfinished(bytes).unwrap().read_unverified().unwrap();
    let mut copy = MultiSigned::unsigned(&document);
    copy.add_signature(key).unwrap();
    copy.to_bytes()
}

#[tokio::test]
async fn a_waiver_ends_one_wait_and_not_the_next_of_the_same_act() {
    let approvers: [SigningKey; 3] = [fresh_ed25519(), fresh_ed25519(), fresh_ed25519()];
    let (site, lives) = on_rails_of(Site::found_by(&approvers), 3).await;
    for spent in &lives[..2] {
        let _ = site.ends(spent, Reason::Unspecified).await.unwrap();
    }
    let life = &lives[2];
    let wait = async || {
        assert!(matches!(site.holds(life).await, Err(Error::CoolingOff { .. })));
        written(&site, 1).await;
        site.app.rails(&site.operator()).unwrap().waiting.remove(0)
    };
    let first = wait().await;
    let old = approvers.each_ref().map(|key| waived(key, &first.waiver));
    let key = first.waiting.key;
    let bring = async |copy: &[u8]| site.app.waive(site.operator(), &key, copy).await;
    let waivers = || {
        let entries = site.app.audit_tail(&site.operator(), None, 1_000).unwrap().items;
        entries.into_iter().filter(|entry| entry["action"] == "rails.waive").collect::<Vec<_>>()
    };
    for (copy, is_ready, written_down) in
        [(&old[0], false, 1), (&old[0], false, 1), (&old[1], true, 2), (&old[1], true, 2), (&old[2], true, 2)]
    {
        assert_eq!(bring(copy).await.unwrap().is_ready, is_ready);
        assert_eq!(waivers().len(), written_down, "only what is new is written down");
    }
    let facts = waivers().remove(1);
    assert!(facts.to_string().contains(&key), "{facts}");
    assert!(facts.to_string().contains("operator/admin"), "{facts}");

    let _ = site.holds(life).await.unwrap();
    let _ = site.app.release(site.operator(), life.id, None).await.unwrap();
    site.clock.advance_ms(1_000);
    assert_eq!(wait().await.waiting.key, key, "the same act on the same device");
    match bring(&old[1]).await {
        Err(Error::Refused(refusal)) => assert_eq!(refusal.rule, "rails.other_act"),
        other => panic!("{other:?}"),
    }
    assert!(matches!(site.holds(life).await, Err(Error::CoolingOff { .. })));
}

#[tokio::test]
async fn settings_that_change_are_written_down() {
    let (site, _) = on_rails(0).await;
    site.app.note_rails().await.unwrap();
    site.app.note_rails().await.unwrap();
    let site = site.on_rails(Limits { hour: 11, ..LIMITS }).await;
    site.app.note_rails().await.unwrap();
    let entries = site.app.audit_tail(&site.operator(), None, 1_000).unwrap().items;
    let noted: Vec<_> = entries.iter().filter(|entry| entry["action"] == "rails.configure").collect();
    assert_eq!(noted.len(), 2);
    assert!(noted[1]["new_state"].as_str().unwrap().contains("\"hour\":11"), "{}", noted[1]);
}

#[tokio::test]
async fn acts_that_wait_by_the_dozen_are_refused_in_the_end_and_never_hold_up_a_key_that_is_not_safe() {
    let none = Limits { day_least: 0, day_percent: 0, hour: 0, cooling_off_s: 14_400 };
    let (site, lives) = on_rails(34).await;
    let site = site.on_rails(none).await;
    for (n, life) in lives[..32].iter().enumerate() {
        let waits = site.ends(life, Reason::Unspecified).await;
        assert!(matches!(waits, Err(Error::CoolingOff { .. })), "act {n}: {waits:?}");
    }
    assert_eq!(site.app.rails(&site.operator()).unwrap().waiting.len(), 32);
    let refused = site.ends(&lives[32], Reason::Unspecified).await;
    assert_eq!(rule(refused), ("rails.too_many_wait", Code::Conflict));
    let _ = site.ends(&lives[32], Reason::KeyCompromise).await.unwrap();

    // Not even a budget that cannot be read.
    let _ = site.alarms();
    let key = INSTALLATION.key(b"rails");
    site.app.commit(Batch::default().put(key, "nonsense")).await.unwrap();
    assert!(matches!(site.holds(&lives[33]).await, Err(Error::Load(_) | Error::Internal { .. })));
    let _ = site.ends(&lives[33], Reason::KeyCompromise).await.unwrap();
    assert_eq!(site.alarms(), ["revoked_beyond_the_budget"]);
}

#[tokio::test]
async fn who_takes_the_label_from_a_personal_device_raises_an_alarm() {
    let (site, lives) = on_rails(1).await;
    for (set, remove, told) in [
        (&[("ownership", "personal"), ("room", "3")][..], &[][..], &[][..]),
        (&[("room", "4")], &[], &[]),
        (&[("ownership", "company")], &[], &["no_longer_personal"]),
        (&[("ownership", "personal")], &[], &[]),
        (&[], &["ownership"], &["no_longer_personal"]),
    ] {
        let _ = site.labels(&lives[0], set, remove).await.unwrap();
        assert_eq!(site.alarms(), told, "{set:?} {remove:?}");
    }
}
