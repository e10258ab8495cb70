//! The life of a device as its server sees it, from the first report to the last receipt.

use super::device::by_missing;
use super::plane_fixture::{Life, Site, pair, report_id, rule};
use super::*;
use crate::domain::admission::Topics;
use crate::domain::commissioning::Missing;
use crate::domain::device::DeviceState;
use crate::domain::order::{Ask, EXPIRES_AFTER_S, OrderRecord, Phase};
use crate::domain::policy::Principal;
use muster_wire::cbor::encode;
use muster_wire::checkpoint::Checkpoint;
use muster_wire::desired::{Baseline, DesiredHead, Generation};
use muster_wire::digest::Sha256Digest;
use muster_wire::envelope::{MultiSigned, Signed, sign1};
use muster_wire::id::{OrderId, RequestId};
use muster_wire::key::{Ed25519Key, PublicKey};
use muster_wire::merkle::{TreeHead, root_of, verify_consistency};
use muster_wire::order::Order;
use muster_wire::posture::{
    Drift, EventKind, EventReport, Fact, FactState, FactValue, PostureReport, StateReport,
};
use muster_wire::receipt::{Ack, Receipt, ReceiptOutcome, ReceiptPhase};
use muster_wire::time::Timestamp;
use muster_wire::topic::Channel;
use std::collections::{BTreeMap, BTreeSet, HashSet};

mod lease;

const PROFILE: &str = "sensor-linux";

impl Site {
    fn as_device<A: crate::domain::policy::Act>(&self, life: &Life) -> crate::domain::policy::Permit<A> {
        self.permit(Principal::Device(life.id))
    }

    fn due(&self, life: &Life) -> Vec<Outgoing> {
        self.app.due(life.id, Topics::ALL, &HashSet::new()).unwrap()
    }

    fn command(&self) -> PublicKey {
        PublicKey::Ed25519(Ed25519Key::from_bytes(&self.app.ca.command_public()).unwrap())
    }

    fn head(&self, life: &Life) -> DesiredHead {
        let due = self.due(life);
        let head = due.iter().find(|one| one.channel == Channel::Desired).unwrap();
        Signed::<DesiredHead>::parse(&head.payload)
            .unwrap()
            .verify(&[self.command()])
            .unwrap()
            .into_document()
    }

    fn next_order(&self, life: &Life) -> Option<Order> {
        let due = self.due(life);
        let order = due.iter().find(|one| one.channel == Channel::Order)?;
        Some(
            Signed::<Order>::parse(&order.payload)
                .unwrap()
                .verify(&[self.command()])
                .unwrap()
                .into_document(),
        )
    }

    fn order_record(&self, id: OrderId) -> OrderRecord {
        self.app.show_order(&self.operator(), id).unwrap().0
    }

    async fn says(&self, life: &Life, change: impl FnOnce(&mut StateReport)) -> Result<(), Error> {
        let mut report = StateReport {
            device: life.id,
            id: report_id(),
            generation: Some(Generation { restore_epoch: 0, counter: 1 }),
            drift: Vec::new(),
            agent_version: "0.1.0".into(),
            last_checkpoint: None,
            at: Timestamp(self.app.clock.now_s()),
        };
        change(&mut report);
        self.app.report_state(self.as_device(life), life.id, &encode(&report)).await
    }

    async fn shows(&self, life: &Life, state: FactState) -> Result<(), Error> {
        let rules = &self.app.profiles.get(PROFILE).unwrap().posture.rules;
        let fact = |name: &str| Fact {
            name: name.parse().unwrap(),
            state,
            value: FactValue::Text("2027-01-01".into()),
            evidence: "\u{1b}[31mred".into(),
            source: "/proc".into(),
            collected_at: Timestamp(1),
        };
        let facts = rules.iter().map(|rule| fact(&rule.fact)).collect();
        let report =
            PostureReport { device: life.id, id: report_id(), facts, at: Timestamp(self.app.clock.now_s()) };
        self.app.report_posture(self.as_device(life), life.id, &encode(&report)).await
    }

    async fn answers(&self, life: &Life, receipt: &Receipt) -> Result<Option<Outgoing>, Error> {
        let body = sign1(receipt, &life.key).unwrap();
        self.app.receipt(self.as_device(life), life.id, &body).await
    }

    async fn set(&self, toml: &str) -> Effect {
        self.app.set_baseline(self.operator(), "b.toml", toml, |_| true).await.unwrap()
    }
}

fn receipt(life: &Life, order: OrderId) -> Receipt {
    Receipt {
        device: life.id,
        order,
        warrant: None,
        level: None,
        phase: ReceiptPhase::Verified,
        outcome: ReceiptOutcome::Done,
        items: Vec::new(),
        evidence: Sha256Digest([0; 32]),
        previous: None,
        certificate: Sha256Digest::of(&life.der),
        last_checkpoint: None,
        at: Timestamp(5),
    }
}

const MOTD: &str = "profile = \"sensor-linux\"\n[baseline.sysctl]\n\"kernel.kptr_restrict\" = \"2\"\n";

#[tokio::test]
async fn a_posture_that_cannot_be_told_is_explained_as_that_and_names_its_facts() {
    let site = Site::found();
    let life = site.enroll(None).await;
    site.shows(&life, FactState::Unknown).await.unwrap();
    let mut posture = site.app.show(&site.operator(), life.id).unwrap().posture.unwrap();
    assert_eq!(posture.unknown, [""; 0], "the profile tolerates them");
    posture.unknown = vec!["time_sync".to_owned(), "firewall".to_owned()];
    let explained = by_missing(&[Missing::Untold, Missing::Order], Some(&posture));
    assert_eq!(explained.rule, "commissioning.untold");
    assert!(explained.remedy.contains("time_sync (\u{fffd}[31mred), firewall."), "{}", explained.remedy);
    assert!(!explained.remedy.contains("fails"), "{}", explained.remedy);
}

#[tokio::test]
async fn a_baseline_is_set_only_over_the_version_that_was_meant() {
    let site = Site::found();
    let first = site.set(MOTD).await;
    let second = "profile = \"sensor-linux\"\n";
    let late =
        site.app.set_baseline(site.operator(), "b.toml", second, |version| version == 0).await.unwrap_err();
    assert_eq!(rule(&late), "baseline.changed");
    let version = first.baseline.version;
    let set = site.app.set_baseline(site.operator(), "b.toml", second, |now| now == version).await.unwrap();
    assert!(set.baseline.counter > first.baseline.counter);
}

#[tokio::test]
async fn an_order_that_commissioning_needs_is_made_again_when_it_expired() {
    let site = Site::found();
    let life = site.enroll(None).await;
    site.says(&life, |_| {}).await.unwrap();
    let first = site.next_order(&life).unwrap();
    site.says(&life, |_| {}).await.unwrap();
    assert_eq!(site.device(life.id).orders_made, 1, "one is open");
    site.clock.advance_ms(EXPIRES_AFTER_S * 1_000 + 1_000);
    assert_eq!(site.app.expire_orders().await.unwrap(), 1);
    site.says(&life, |_| {}).await.unwrap();
    let second = site.next_order(&life).unwrap();
    assert_ne!(second.id, first.id);
    site.shows(&life, FactState::Pass).await.unwrap();
    site.answers(&life, &receipt(&life, second.id)).await.unwrap();
    assert_eq!(site.state(life.id), DeviceState::Active);
    site.says(&life, |_| {}).await.unwrap();
    assert_eq!(site.device(life.id).orders_made, 2);
}

#[tokio::test]
async fn a_device_becomes_active_in_the_commit_that_meets_the_last_demand() {
    let site = Site::found();
    let life = site.enroll(None).await;
    let explain = |site: &Site| site.app.explain(&site.operator(), life.id).unwrap();
    assert_eq!(explain(&site).rule, "commissioning.report");
    site.says(&life, |report| report.generation = None).await.unwrap();
    assert_eq!(explain(&site).rule, "commissioning.generation");
    let order = site.next_order(&life).unwrap();
    site.says(&life, |_| {}).await.unwrap();
    assert_eq!(explain(&site).rule, "commissioning.posture");
    site.shows(&life, FactState::Pass).await.unwrap();
    assert_eq!(explain(&site).rule, "commissioning.order");
    assert_eq!(site.state(life.id), DeviceState::Commissioning);
    site.answers(&life, &receipt(&life, order.id)).await.unwrap();
    let device = site.device(life.id);
    assert_eq!((device.state, device.orders_made), (DeviceState::Active, 1));
    let steps = device.steps;
    assert!(
        [steps.enrolled_at, steps.connected_at, steps.baseline_at, steps.posture_at, steps.order_at]
            .iter()
            .all(Option::is_some)
    );
    assert_eq!(site.actions(life.id).last().unwrap(), "device.activate");
}

#[tokio::test]
async fn a_report_that_changes_nothing_leaves_no_audit_entry_and_one_that_comes_again_no_trace() {
    let site = Site::found();
    let life = site.enroll(None).await;
    site.says(&life, |_| {}).await.unwrap();
    let (entries, commits) = (site.entries(), site.commits());
    let id = report_id();
    site.says(&life, |report| report.id = id).await.unwrap();
    assert_eq!((site.entries(), site.commits()), (entries, commits + 1));
    site.says(&life, |report| report.id = id).await.unwrap();
    assert_eq!(site.commits(), commits + 1);
    let event = EventReport {
        device: life.id,
        id,
        kind: EventKind::RolledBack,
        detail: "\u{202e}evil\n".into(),
        at: Timestamp(1),
    };
    for _ in 0..2 {
        site.app.report_event(site.as_device(&life), life.id, &encode(&event)).await.unwrap();
    }
    assert_eq!(site.entries(), entries + 1);
    let history = site.app.history(&site.operator(), life.id, None, 100).unwrap();
    assert_eq!(history.items.last().unwrap()["facts"]["detail"], "\u{fffd}evil\u{fffd}");
}

#[tokio::test]
async fn setting_a_baseline_is_one_commit_and_every_device_is_told_the_next_generation() {
    let site = Site::found();
    let (plain, oslo) = (site.enroll(None).await, site.enroll(Some("oslo")).await);
    let before = site.head(&plain);
    assert_eq!(before.generation.counter, 1);
    let text = format!(
        "{MOTD}[[override]]\nsite = \"oslo\"\nbaseline = {{ sysctl = {{ \"kernel.kptr_restrict\" = \"1\" }} }}\n"
    );
    let preview = site.app.preview_baseline(&site.operator(), "b.toml", &text).unwrap();
    assert_eq!((preview.devices, preview.changed, site.head(&plain).generation.counter), (2, 2, 1));
    let commits = site.commits();
    let effect = site.set(&text).await;
    assert_eq!((site.commits(), effect.baseline.counter), (commits + 1, 2));
    let (head, other) = (site.head(&plain), site.head(&oslo));
    assert_eq!((head.generation.counter, other.generation.counter), (2, 2));
    assert_ne!(head.baseline, before.baseline);
    assert_ne!(head.baseline, other.baseline);
    let fetched = site.app.fetch_baseline(&site.as_device(&plain), plain.id, &head.baseline).unwrap();
    let signed = MultiSigned::<Baseline>::parse(&fetched).unwrap();
    assert_eq!(signed.verify(&[site.command()], 1).unwrap().payload_digest(), head.baseline);
    assert!(site.app.fetch_baseline(&site.as_device(&plain), plain.id, &other.baseline).is_err());
    assert!(site.app.fetch_baseline(&site.as_device(&plain), plain.id, &before.baseline).is_err());
    let again = site.set(&text).await;
    assert_eq!((again.baseline.counter, again.changed, site.commits()), (2, 0, commits + 1));
}

#[tokio::test]
async fn a_wrong_baseline_is_refused_by_file_and_line() {
    let site = Site::found();
    let refused =
        site.app
            .set_baseline(site.operator(), "b.toml", "profile = \"sensor-linux\"\ncolour = 1\n", |_| true);
    let error = refused.await.unwrap_err().to_string();
    assert!(error.contains("b.toml:2: unknown key `colour`"), "{error}");
    let unknown = site.app.set_baseline(site.operator(), "b.toml", "profile = \"toaster\"\n", |_| true).await;
    assert_eq!(rule(&unknown.unwrap_err()), "profile.known");
}

#[tokio::test]
async fn a_session_is_told_once_and_a_new_one_again() {
    let site = Site::found();
    let life = site.enroll(None).await;
    site.says(&life, |_| {}).await.unwrap();
    let due = site.due(&life);
    assert_eq!(due.len(), 2);
    let sent: HashSet<Mark> = due.iter().map(|one| one.mark).collect();
    assert_eq!(site.app.due(life.id, Topics::ALL, &sent).unwrap(), []);
    assert_eq!(site.due(&life).len(), 2);
    assert_eq!(site.app.due(life.id, Topics::GRACE, &HashSet::new()).unwrap(), []);
    site.set(MOTD).await;
    let changed = site.app.due(life.id, Topics::ALL, &sent).unwrap();
    assert_eq!(changed.len(), 1);
    assert!(matches!(changed[0].mark, Mark::Desired { generation: Generation { counter: 2, .. }, .. }));
}

#[tokio::test]
async fn a_label_that_gives_a_device_another_baseline_is_told_in_the_session_that_lasts() {
    let site = Site::found();
    let life = site.enroll(None).await;
    let text = format!(
        "{MOTD}[[override]]\nlabel = \"room=3\"\nbaseline = {{ sysctl = {{ \"kernel.kptr_restrict\" = \"1\" }} }}\n"
    );
    site.set(&text).await;
    let before = site.head(&life);
    let sent: HashSet<Mark> = site.due(&life).iter().map(|one| one.mark).collect();
    let label = BTreeMap::from([("room".to_owned(), "3".to_owned())]);
    site.app.label(site.operator(), life.id, &label, &BTreeSet::new()).await.unwrap();
    let told = site.app.due(life.id, Topics::DESIRED, &sent).unwrap();
    assert_eq!(told.len(), 1);
    let after = site.head(&life);
    assert_eq!(after.generation, before.generation);
    assert_ne!(after.baseline, before.baseline);
}

#[tokio::test]
async fn an_order_shows_a_checkpoint_that_covers_it_and_continues_the_one_last_seen() {
    let site = Site::found();
    let life = site.enroll(None).await;
    site.says(&life, |_| {}).await.unwrap();
    let order = site.next_order(&life).unwrap();
    let key = site.app.in_force().audit_key.public();
    let seen = Checkpoint::verify(&order.checkpoint, key.origin(), &[key.key()]).unwrap().head;
    assert_eq!(seen.size, site.entries());
    let nothing = TreeHead { size: 0, root: root_of(&[]) };
    verify_consistency(&nothing, &seen, &order.consistency).unwrap();
    let done = Receipt { last_checkpoint: Some(seen), ..receipt(&life, order.id) };
    site.answers(&life, &done).await.unwrap();
    for _ in 0..40 {
        site.set(&MOTD.replace('2', &site.entries().to_string())).await;
    }
    site.app.order(site.operator(), life.id, Ask::RotateIdentity).await.unwrap();
    let next = site.next_order(&life).unwrap();
    assert!(next.sequence > order.sequence);
    let head = Checkpoint::verify(&next.checkpoint, key.origin(), &[key.key()]).unwrap().head;
    assert!(head.size > seen.size + 40);
    verify_consistency(&seen, &head, &next.consistency).unwrap();
}

#[tokio::test]
async fn a_receipt_is_kept_once_and_acknowledged_with_the_same_bytes_each_time() {
    let site = Site::found();
    let life = site.enroll(None).await;
    let order = site.app.order(site.operator(), life.id, Ask::RotateIdentity).await.unwrap();
    site.app
        .delivered(site.as_device(&life), life.id, Mark::Order { id: order.id, proven_from: 0 })
        .await
        .unwrap();
    assert_eq!(site.order_record(order.id).phase, Phase::Delivered);
    let done = receipt(&life, order.id);
    let first = site.answers(&life, &done).await.unwrap().unwrap();
    let (entries, commits) = (site.entries(), site.commits());
    assert_eq!(site.answers(&life, &done).await.unwrap().unwrap(), first);
    site.app
        .delivered(site.as_device(&life), life.id, Mark::Order { id: order.id, proven_from: 0 })
        .await
        .unwrap();
    assert_eq!((site.entries(), site.commits()), (entries, commits));
    let ack = Signed::<Ack>::parse(&first.payload).unwrap().verify(&[site.command()]).unwrap();
    assert_eq!(Mark::Ack(ack.receipt), first.mark);
    assert_eq!(site.order_record(order.id).phase, Phase::Done);
}

#[tokio::test]
async fn nobody_answers_for_another_device_or_with_another_key() {
    let site = Site::found();
    let (life, other) = (site.enroll(None).await, site.enroll(None).await);
    let order = site.app.order(site.operator(), life.id, Ask::CollectPosture).await.unwrap();
    let forged = Receipt { certificate: Sha256Digest::of(&life.der), ..receipt(&life, order.id) };
    let body = sign1(&forged, &other.key).unwrap();
    let refused = site.app.receipt(site.as_device(&life), life.id, &body).await.unwrap_err();
    assert_eq!(rule(&refused), "receipt.envelope");
    assert_eq!(
        rule(&site.answers(&other, &receipt(&other, order.id)).await.unwrap_err()),
        "receipt.other_order"
    );
    assert_eq!(
        rule(&site.says(&life, |report| report.device = other.id).await.unwrap_err()),
        "report.device"
    );
    assert_eq!(site.order_record(order.id).phase, Phase::Ordered);
    assert_eq!(site.actions(life.id).last().unwrap(), "report.state");
    assert!(
        site.app
            .delivered(site.as_device(&other), other.id, Mark::Order { id: order.id, proven_from: 0 })
            .await
            .is_ok()
    );
    assert_eq!(site.order_record(order.id).phase, Phase::Ordered);
}

#[tokio::test]
async fn an_expired_order_is_closed_and_no_longer_told() {
    let site = Site::found();
    let life = site.enroll(None).await;
    let order = site.app.order(site.operator(), life.id, Ask::CollectPosture).await.unwrap();
    assert_eq!(site.app.expire_orders().await.unwrap(), 0);
    assert_eq!(site.app.order(site.operator(), life.id, Ask::CollectPosture).await.unwrap(), order);
    site.clock.advance_ms(24 * 3_600_000 + 1_000);
    assert!(site.next_order(&life).is_none());
    assert_eq!(site.app.expire_orders().await.unwrap(), 1);
    assert_eq!(site.app.expire_orders().await.unwrap(), 0);
    assert_eq!(site.order_record(order.id).phase, Phase::Expired);
}

#[tokio::test]
async fn a_generation_never_goes_back_and_one_ahead_of_us_is_overtaken() {
    let site = Site::found();
    let life = site.enroll(None).await;
    let shown = |site: &Site| site.app.show(&site.operator(), life.id).unwrap();
    site.says(&life, |report| report.generation.as_mut().unwrap().counter = 40).await.unwrap();
    assert_eq!(shown(&site).desired, 41);
    assert_eq!(site.head(&life).generation.counter, 41);
    assert_eq!(site.set(MOTD).await.baseline.counter, 42);
    assert_eq!(shown(&site).desired, 42);
    site.clock.advance_ms(5_000);
    site.says(&life, |report| report.at = Timestamp(1)).await.unwrap();
    assert_eq!(shown(&site).reported.unwrap().generation, Some((0, 40)));
    let far = site.says(&life, |report| report.generation.as_mut().unwrap().counter = u64::MAX).await;
    assert_eq!(rule(&far.unwrap_err()), "report.generation");
}

#[tokio::test]
async fn drift_and_failing_posture_hold_a_device_back() {
    let site = Site::found();
    let life = site.enroll(None).await;
    let sysctl = muster_wire::desired::SectionKind::Sysctl;
    site.says(&life, |report| report.drift = vec![Drift { section: sysctl, item: "kernel.x".into() }])
        .await
        .unwrap();
    let explained = site.app.explain(&site.operator(), life.id).unwrap();
    assert_eq!(explained.rule, "commissioning.drift");
    site.says(&life, |_| {}).await.unwrap();
    site.shows(&life, FactState::Fail).await.unwrap();
    let posture = site.app.show(&site.operator(), life.id).unwrap().posture.unwrap();
    assert_eq!(posture.verdict.as_str(), "fail");
    assert_eq!(posture.facts[0].evidence, "\u{fffd}[31mred");
    assert_eq!(site.app.explain(&site.operator(), life.id).unwrap().rule, "quarantine.rule");
    site.clock.advance_ms(1);
    site.shows(&life, FactState::Pass).await.unwrap();
    assert!(site.device(life.id).steps.posture_at.is_some());
    let verdicts = site.actions(life.id).into_iter().filter(|action| action == "report.posture").count();
    assert_eq!(verdicts, 2);
    assert_eq!(site.app.forget_posture(site.app.clock.now_ms()).await.unwrap(), 1);
    assert_eq!(site.app.forget_posture(site.app.clock.now_ms() + 1).await.unwrap(), 1);
}

#[tokio::test]
async fn a_flood_and_a_body_too_large_are_not_read() {
    let site = Site::found();
    let life = site.enroll(None).await;
    let large = vec![0; 64 * 1024 + 1];
    let refused = site.app.report_state(site.as_device(&life), life.id, &large).await;
    assert_eq!(rule(&refused.unwrap_err()), "report.size");
    let mut limited = 0;
    for _ in 0..200 {
        let error = site.app.report_state(site.as_device(&life), life.id, b"junk").await.unwrap_err();
        if let Error::RateLimited { .. } = error {
            limited += 1;
        } else {
            assert_eq!(rule(&error), "report.form");
        }
    }
    assert_eq!(limited, 81);
    let told = site.actions(life.id).into_iter().filter(|action| action == "report.state").count();
    assert_eq!(told, 121);
}

#[tokio::test]
async fn a_certificate_is_renewed_in_the_session_by_the_key_it_replaces() {
    let site = Site::found();
    let life = site.enroll(None).await;
    let next = crate::ca::fresh_ed25519();
    let request = muster_wire::renew::Renew {
        device: life.id,
        request: RequestId::from_bytes([7; 16]),
        certificate: Sha256Digest::of(&life.der),
        csr: muster_pki::request::build_renewal(&pair(&next), &life.der).unwrap(),
    };
    let serial = muster_pki::certificate::Certificate::parse(&life.der).unwrap().serial().unwrap();
    let ask = |key: ed25519_dalek::SigningKey| {
        let body = sign1(&request, &key).unwrap();
        let (app, permit) = (Arc::clone(&site.app), site.as_device(&life));
        async move { app.renew_in_session(permit, life.id, serial, false, &body).await }
    };
    assert_eq!(rule(&ask(next.clone()).await.unwrap_err()), "renewal.envelope");
    let first = ask(life.key.clone()).await.unwrap();
    assert_eq!(first.channel, Channel::Credential);
    assert_eq!(ask(life.key.clone()).await.unwrap(), first, "a lost reply is given again");
    assert!(site.device(life.id).issued.is_some());
}

#[tokio::test]
async fn words_that_arrive_together_do_not_miss_what_the_other_completes() {
    for _ in 0..8 {
        let site = Site::found();
        let life = site.enroll(None).await;
        site.says(&life, |report| report.generation = None).await.unwrap();
        let order = site.next_order(&life).unwrap();
        let done = receipt(&life, order.id);
        let (state, posture, answer) = tokio::join!(
            site.says(&life, |_| {}),
            site.shows(&life, FactState::Pass),
            site.answers(&life, &done)
        );
        state.unwrap();
        posture.unwrap();
        answer.unwrap();
        assert_eq!(site.state(life.id), DeviceState::Active);
    }
}
