//! Quarantine and release: one commit, then the index, then the cut; by hand and by rule.

use super::limits::Taken;
use super::plane_fixture::{Life, Site, report_id, rule};
use super::{Answer, Renew, fill};
use crate::domain::admission::{Admission, Door, Refusal, Renew as MayRenew, Topics};
use crate::domain::device::{CertificateRecord, DeviceState};
use crate::domain::policy::{Principal, act};
use crate::domain::quarantine::{Because, By, HELD_LEAF_S};
use crate::domain::revocation::Reason;
use crate::doors::peer::PeerCertificate;
use crate::doors::registry::{Connected, Kicked};
use crate::doors::status_index::StatusIndex;
use crate::store::key::ordinal;
use muster_firmware_profiles::appraise::Verdict;
use muster_pki::certificate::Certificate;
use muster_pki::key::{Algorithm, DeviceKey};
use muster_pki::request::build_renewal;
use muster_pki::serial::Serial;
use muster_wire::cbor::encode;
use muster_wire::posture::{Fact, FactState, FactValue, PostureReport};
use muster_wire::time::Timestamp;
use x509_parser::prelude::{CertificateRevocationList, FromDer as _};

const DAY_MS: i64 = 86_400_000;

fn why() -> Because {
    "left in a train".parse().unwrap()
}

fn shown(der: &[u8], site: &Site) -> PeerCertificate {
    PeerCertificate::read(der, site.app.ca.trust_domain()).unwrap()
}

impl Site {
    async fn hold(&self, life: &Life) {
        let held = self.app.quarantine(self.operator(), life.id, &why()).await.unwrap();
        assert_eq!(held.device.state, DeviceState::Quarantined);
    }

    async fn release(&self, life: &Life) -> DeviceState {
        self.app.release(self.operator(), life.id, None).await.unwrap().device.state
    }

    fn judged(&self, der: &[u8], door: Door) -> Result<Admission, Refusal> {
        self.app.doors.judge(&shown(der, self), door)
    }

    fn connects(&self, der: &[u8]) -> Connected {
        self.app.doors.registry.enter(Some(&shown(der, self)))
    }

    /// What the CRL of its shard says of a certificate, and the number of that list.
    async fn listed(&self, der: &[u8]) -> (Option<u8>, u64) {
        let serial = Certificate::parse(der).unwrap().serial().unwrap();
        let permit = self.permit::<act::ReadStatus>(Principal::Anonymous);
        let list = self.app.crl(&permit, self.app.ca().issuing_id(), serial.shard()).await.unwrap();
        let (_, list) = CertificateRevocationList::from_der(&list).unwrap();
        let entry = list.iter_revoked_certificates().find(|entry| entry.raw_serial() == serial.as_bytes());
        let number = list.crl_number().unwrap().iter_u64_digits().next().unwrap();
        (entry.map(|entry| entry.reason_code().map_or(0, |(_, code)| code.0)), number)
    }

    /// Renews, showing `der`; the next is not used yet.
    async fn renews(&self, life: &Life, der: &[u8], in_grace: bool) -> Vec<u8> {
        let key = DeviceKey::generate(Algorithm::P256).unwrap();
        let body = build_renewal(&key, der).unwrap();
        let shown = serial_of(der);
        let request = Renew { label: None, device: life.id, shown, in_grace, body: &body };
        let permit = self.permit(Principal::Device(life.id));
        match self.app.simple_reenroll(permit, request).await.unwrap() {
            Answer::Certificate(der) => der,
            Answer::Pending(_) => panic!("nobody has to approve a renewal"),
        }
    }

    async fn uses(&self, life: &Life, der: &[u8]) {
        self.app.promote(life.id, &serial_of(der)).await.unwrap();
    }

    /// Reports the one fact whose rule quarantines a sensor, without grace.
    async fn integrity(&self, life: &Life, state: FactState) {
        self.reports(life, "agent_integrity", state).await;
    }

    /// Reports one fact.
    async fn reports(&self, life: &Life, name: &str, state: FactState) {
        let fact = Fact {
            name: name.parse().unwrap(),
            state,
            value: FactValue::Nothing,
            evidence: String::new(),
            source: "/proc".into(),
            collected_at: Timestamp(1),
        };
        let at = Timestamp(self.app.clock.now_s());
        let report = PostureReport { device: life.id, id: report_id(), facts: vec![fact], at };
        let permit = self.permit(Principal::Device(life.id));
        self.app.report_posture(permit, life.id, &encode(&report)).await.unwrap();
        self.clock.advance_ms(1_000);
    }

    fn record(&self, life: &Life) -> CertificateRecord {
        let current = self.device(life.id).current.unwrap();
        self.app.store.load::<CertificateRecord>(&ordinal(current.ordinal)).unwrap().unwrap().record
    }
}

fn serial_of(der: &[u8]) -> Serial {
    Certificate::parse(der).unwrap().serial().unwrap()
}

#[tokio::test]
async fn a_device_that_changes_while_it_is_looked_at_is_shown_with_the_certificate_that_it_has_then() {
    let site = Site::found();
    let life = site.enroll(None).await;
    let found = site.app.device(life.id).unwrap();
    site.hold(&life).await;
    let shown = site.app.shown(found.record, found.version).unwrap();
    assert_eq!(shown.device.state, DeviceState::Quarantined);
    assert!(shown.certificate.unwrap().held && shown.version > found.version);
}

#[tokio::test]
async fn holding_is_one_commit_after_which_every_door_and_the_crl_know() {
    let site = Site::found();
    let life = site.enroll(None).await;
    let (session, other) = (site.connects(&life.der), site.enroll(None).await);
    let bystander = site.connects(&other.der);
    assert_eq!(site.judged(&life.der, Door::Gate).unwrap().topics, Topics::ALL);
    let (before, number) = site.listed(&life.der).await;
    assert_eq!(before, None);

    let commits = site.commits();
    site.hold(&life).await;
    assert_eq!(site.commits(), commits + 1);
    let admission = site.judged(&life.der, Door::Gate).unwrap();
    assert_eq!((admission.topics, admission.renew), (Topics::HELD, MayRenew::Held));
    assert_eq!(session.handle().was_kicked(), Some(Kicked::Status));
    assert_eq!(bystander.handle().was_kicked(), None);
    let (held, risen) = site.listed(&life.der).await;
    assert_eq!(held, Some(6), "certificateHold, RFC 5280 §5.3.1");
    assert!(risen > number);
    assert!(site.record(&life).held);
    let again = StatusIndex::new();
    fill(&again, &site.app.store).unwrap();
    let serial = serial_of(&life.der);
    assert_eq!(again.lookup(&serial), site.app.doors.index.lookup(&serial), "a restart knows the same");

    let back = site.connects(&life.der);
    assert_eq!(site.release(&life).await, DeviceState::Commissioning);
    assert_eq!(back.handle().was_kicked(), Some(Kicked::Status));
    assert_eq!(site.judged(&life.der, Door::Gate).unwrap().topics, Topics::ALL);
    let (gone, last) = site.listed(&life.der).await;
    assert_eq!(gone, None, "leaving hold drops the entry");
    assert!(last > risen);
    assert!(!site.record(&life).held && site.device(life.id).quarantine.is_none());
    let told = site.actions(life.id);
    assert_eq!(told[told.len() - 2..], ["device.quarantine", "device.release"]);
}

#[tokio::test]
async fn holding_and_releasing_twice_change_nothing_and_a_life_that_is_over_refuses_both() {
    let site = Site::found();
    let life = site.enroll(None).await;
    let commits = site.commits();
    assert_eq!(site.release(&life).await, DeviceState::Commissioning);
    assert_eq!(site.commits(), commits);
    site.hold(&life).await;
    site.hold(&life).await;
    assert_eq!(site.commits(), commits + 1);

    site.app.revoke(site.operator(), life.id, Reason::KeyCompromise).await.unwrap();
    assert_eq!(site.listed(&life.der).await.0, Some(1), "the hold became a revocation");
    assert_eq!(site.judged(&life.der, Door::Https), Err(Refusal::Revoked));
    let held = site.app.quarantine(site.operator(), life.id, &why()).await;
    assert_eq!(rule(&held.unwrap_err()), "quarantine.state");
    let released = site.app.release(site.operator(), life.id, None).await;
    assert_eq!(rule(&released.unwrap_err()), "release.state");
    assert_eq!(site.listed(&life.der).await.0, Some(1));
}

#[tokio::test]
async fn what_is_issued_in_quarantine_is_short_and_held_and_released_with_the_rest() {
    let site = Site::found();
    let life = site.enroll(None).await;
    let issued_before = site.renews(&life, &life.der, false).await;
    site.hold(&life).await;
    assert_eq!(site.listed(&issued_before).await.0, Some(6), "what was on its way is held too");

    let next = site.renews(&life, &life.der, false).await;
    assert_eq!(site.judged(&issued_before, Door::Gate), Err(Refusal::Superseded));
    assert_eq!(site.listed(&issued_before).await.0, Some(4), "superseded in place of held");
    let certificate = Certificate::parse(&next).unwrap();
    assert_eq!(certificate.not_after_s(), site.app.clock.now_s() + HELD_LEAF_S);
    let admission = site.judged(&next, Door::Gate).unwrap();
    assert!(admission.promote && admission.topics == Topics::HELD);
    assert_eq!(site.listed(&next).await.0, Some(6));

    let session = site.connects(&next);
    site.uses(&life, &next).await;
    assert_eq!(session.handle().was_kicked(), None, "its first use does not end the connection that used it");
    assert!(!site.judged(&next, Door::Gate).unwrap().promote);
    assert_eq!(site.judged(&life.der, Door::Gate), Err(Refusal::Superseded));
    assert_eq!(site.listed(&life.der).await.0, Some(4));

    site.release(&life).await;
    assert_eq!(site.judged(&next, Door::Gate).unwrap().topics, Topics::ALL);
    assert_eq!((site.listed(&next).await.0, site.listed(&life.der).await.0), (None, Some(4)));
    let long = site.renews(&life, &next, false).await;
    assert!(Certificate::parse(&long).unwrap().not_after_s() > site.app.clock.now_s() + HELD_LEAF_S);
}

#[tokio::test]
async fn a_held_device_renews_in_its_grace_and_one_that_is_not_held_as_well() {
    let site = Site::found();
    let (held, free) = (site.enroll(None).await, site.enroll(None).await);
    site.hold(&held).await;
    let life_ms = (site.record(&held).not_after - site.app.clock.now_s()) * 1_000;
    site.clock.advance_ms(life_ms + DAY_MS);
    let (of_held, of_free) = (site.judged(&held.der, Door::Renew), site.judged(&free.der, Door::Renew));
    let row =
        |judged: Result<Admission, Refusal>| judged.map(|admission| (admission.topics, admission.renew));
    assert_eq!(row(of_held), Ok((Topics::GRACE, MayRenew::RecordedHeld)));
    assert_eq!(row(of_free), Ok((Topics::GRACE, MayRenew::Recorded)));
    assert_eq!(site.listed(&held.der).await.0, Some(6));
    assert_eq!(site.listed(&held.der).await.0, Some(6));
    let next = site.renews(&held, &held.der, true).await;
    assert_eq!(site.judged(&next, Door::Gate).unwrap().topics, Topics::HELD);
    site.release(&held).await;
    assert_eq!(site.listed(&next).await.0, None);
}

#[tokio::test]
async fn a_rule_holds_in_the_commit_of_the_report_and_releases_by_itself() {
    let site = Site::found();
    let life = site.enroll(None).await;
    let commits = site.commits();
    site.integrity(&life, FactState::Fail).await;
    assert_eq!(site.commits(), commits + 1);
    let device = site.device(life.id);
    assert_eq!(device.state, DeviceState::Quarantined);
    assert_eq!(device.quarantine.unwrap().by, By::Rule { fact: "agent_integrity".into() });
    assert_eq!(site.judged(&life.der, Door::Gate).unwrap().topics, Topics::HELD);
    let explained = site.app.explain(&site.operator(), life.id).unwrap();
    assert_eq!((explained.code.as_str(), explained.rule.as_str()), ("quarantined", "quarantine.rule"));

    site.integrity(&life, FactState::Unknown).await;
    assert_eq!(site.state(life.id), DeviceState::Quarantined, "silence is no way out");
    let commits = site.commits();
    site.integrity(&life, FactState::Pass).await;
    assert_eq!(site.commits(), commits + 1);
    assert_eq!(site.state(life.id), DeviceState::Commissioning);
    assert_eq!(site.judged(&life.der, Door::Gate).unwrap().topics, Topics::ALL);
}

#[tokio::test]
async fn what_a_person_released_no_rule_holds_again_until_it_fails_anew() {
    let site = Site::found();
    let life = site.enroll(None).await;
    site.integrity(&life, FactState::Fail).await;
    assert_eq!(site.release(&life).await, DeviceState::Commissioning);
    site.clock.advance_ms(1_000);
    site.integrity(&life, FactState::Fail).await;
    assert_eq!(site.state(life.id), DeviceState::Commissioning);
    site.integrity(&life, FactState::Pass).await;
    site.integrity(&life, FactState::Fail).await;
    assert_eq!(site.state(life.id), DeviceState::Quarantined);

    site.hold(&life).await;
    let quarantine = site.device(life.id).quarantine.unwrap();
    assert_eq!(quarantine.by, By::Manual { operator: "operator/admin".into() });
    site.integrity(&life, FactState::Pass).await;
    assert_eq!(site.state(life.id), DeviceState::Quarantined, "a person took it over");
}

#[tokio::test]
async fn a_rule_that_fails_everywhere_holds_so_many_and_then_only_alarms() {
    let site = Site::found();
    let mut lives = Vec::new();
    for _ in 0..5 {
        lives.push(site.enroll(None).await);
    }
    for life in &lives {
        site.integrity(life, FactState::Fail).await;
    }
    let held = lives.iter().filter(|life| site.state(life.id) == DeviceState::Quarantined).count();
    assert_eq!(held, 2, "half of five, and two in any case");
    let alarms = |site: &Site| {
        let entries = site.app.audit_tail(&site.operator(), None, 1_000).unwrap().items;
        entries.iter().filter(|entry| entry["reason"] == "quarantine.budget").count()
    };
    assert_eq!(alarms(&site), 1, "once an hour");
    site.hold(&lives[4]).await;
    site.clock.advance_ms(3_600_000);
    site.integrity(&lives[2], FactState::Fail).await;
    assert_eq!(site.state(lives[2].id), DeviceState::Quarantined, "the next hour has a budget again");
    assert!(matches!(
        site.app.rule_holds.take(|| Ok::<_, ()>(0), site.app.clock.now_ms()),
        Ok(Taken::Within)
    ));
}

#[tokio::test]
async fn a_grace_that_ends_without_a_report_is_judged_and_once() {
    let site = Site::found();
    let life = site.enroll(None).await;
    let verdict = |site: &Site| {
        let shown = site.app.show(&site.operator::<act::ReadDevice>(), life.id).unwrap();
        shown.posture.unwrap().verdict
    };
    site.reports(&life, "time_sync", FactState::Fail).await;
    assert_eq!(verdict(&site), Verdict::Grace);
    site.clock.advance_ms(71 * 3_600_000);
    assert_eq!(site.app.reappraise().await.unwrap(), 0);
    site.clock.advance_ms(3_600_000);
    assert_eq!(site.app.reappraise().await.unwrap(), 1);
    assert_eq!(verdict(&site), Verdict::Fail);
    assert_eq!(site.actions(life.id).last().unwrap(), "posture.appraise");
    assert_eq!(site.app.reappraise().await.unwrap(), 0);
}

#[tokio::test]
async fn whom_the_budget_kept_from_being_held_is_held_without_another_report() {
    let site = Site::found();
    let mut lives = Vec::new();
    for _ in 0..3 {
        lives.push(site.enroll(None).await);
    }
    for life in &lives {
        site.integrity(life, FactState::Fail).await;
    }
    let held = || lives.iter().filter(|life| site.state(life.id) == DeviceState::Quarantined).count();
    assert_eq!(held(), 2);
    site.clock.advance_ms(600_000);
    assert_eq!(site.app.reappraise().await.unwrap(), 1);
    assert_eq!(held(), 2, "the hour is not over");
    site.clock.advance_ms(3_600_000);
    assert_eq!(site.app.reappraise().await.unwrap(), 1);
    assert_eq!(held(), 3);
    assert_eq!(site.app.reappraise().await.unwrap(), 0);
}

#[tokio::test]
async fn the_sweep_cuts_who_was_not_cut() {
    let site = Site::found();
    let life = site.enroll(None).await;
    let session = site.connects(&life.der);
    // A kick that nobody got: the index changes behind the registry's back.
    site.app.doors.index.remove(&serial_of(&life.der));
    assert_eq!(session.handle().was_kicked(), None);
    assert_eq!(site.app.sweep(), 1);
    assert_eq!(session.handle().was_kicked(), Some(Kicked::Status));
}
