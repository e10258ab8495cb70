//! The end of a device's life as its server sees it: from the request to the last word, and every way out.

use super::plane_fixture::{Life, Site, rule};
use super::*;
use crate::ca::fresh_ed25519;
use crate::domain::admission::{Admission, Door, PROVEN_FOR_S, Refusal as Refused, Topics};
use crate::domain::deprovision::Phase;
use crate::domain::device::{DeviceState, Retirement};
use crate::domain::order::{Ask, OrderRecord, Phase as OrderPhase};
use crate::domain::policy::{Permit, Principal};
use crate::domain::quarantine::Because;
use crate::domain::revocation::{Entry, Reason};
use crate::domain::succession::Changes;
use crate::domain::warrant::{DEADLINE_S, State, VALID_S};
use crate::store::collections::RECEIPTS;
use ed25519_dalek::SigningKey;
use muster_wire::cbor::{decode, encode};
use muster_wire::digest::Sha256Digest;
use muster_wire::envelope::{MultiSigned, Signed, payload_digest, sign1};
use muster_wire::id::{OrderId, WarrantId};
use muster_wire::key::{Ed25519Key, PublicKey};
use muster_wire::merkle::{TreeHead, root_of};
use muster_wire::order::{Action, Order, Recipient, admit};
use muster_wire::receipt::{ItemFate, Receipt, ReceiptItem, ReceiptOutcome, ReceiptPhase};
use muster_wire::time::Timestamp;
use muster_wire::topic::Channel;
use muster_wire::warrant::{Kind, Level, Target, Warrant};
use std::collections::HashSet;

/// An installation with three approvers, and what they and its devices do.
struct End {
    site: Site,
    keys: [SigningKey; 3],
}

/// What a device has told of its order so far.
struct Telling {
    order: Order,
    warrant: Sha256Digest,
    previous: Option<Sha256Digest>,
}

const DAY_MS: i64 = 86_400_000;

impl End {
    fn found() -> Self {
        let keys = [fresh_ed25519(), fresh_ed25519(), fresh_ed25519()];
        Self { site: Site::found_by(&keys), keys }
    }

    async fn restarted(self) -> Self {
        Self { site: self.site.restarted(|_| ()).await, keys: self.keys }
    }

    fn app(&self) -> &App {
        &self.site.app
    }

    async fn ask(&self, lives: &[&Life], level: Level) -> Result<Requested, Error> {
        let request = WarrantRequest {
            after_s: None,
            kind: Kind::Wipe,
            level: Some(level),
            devices: lives.iter().map(|life| life.id).collect(),
            deadline_s: DEADLINE_S,
            valid_s: VALID_S,
        };
        self.app().request_warrant(self.site.operator(), &request, None).await
    }

    async fn asked(&self, life: &Life, level: Level) -> WarrantId {
        self.ask(&[life], level).await.unwrap().record.id
    }

    fn warrant(&self, id: WarrantId) -> WarrantShown {
        self.app().show_warrant(&self.site.operator(), id).unwrap()
    }

    async fn sign(&self, id: WarrantId, key: &SigningKey) -> Result<WarrantShown, Error> {
        let mut signed = MultiSigned::unsigned(&decode::<Warrant>(&self.warrant(id).payload).unwrap());
        signed.add_signature(key).unwrap();
        self.app().sign_warrant(self.site.operator(), id, &signed.to_bytes()).await
    }

    /// A warrant to wipe `life` that enough approvers have signed.
    async fn warranted(&self, life: &Life, level: Level) -> WarrantId {
        let id = self.asked(life, level).await;
        for key in &self.keys[..2] {
            self.sign(id, key).await.unwrap();
        }
        id
    }

    async fn stop(&self, id: WarrantId, key: &SigningKey) -> Result<WarrantShown, Error> {
        let shown = self.warrant(id);
        let stopped = |target: &Target| Target { kind: Kind::Stop, level: None, ..target.clone() };
        let targets: Vec<Target> = shown.targets.iter().map(stopped).collect();
        let leaves: Vec<_> = targets.iter().map(Target::leaf_hash).collect();
        let stop = Warrant {
            id: WarrantId::from_bytes(crate::ca::random()),
            kind: Kind::Stop,
            level: None,
            plan: Action::Stop { warrant: id }.plan(),
            root: root_of(&leaves),
            ..decode(&shown.payload).unwrap()
        };
        let mut signed = MultiSigned::unsigned(&stop);
        signed.add_signature(key).unwrap();
        self.app().stop_warrant(self.site.operator(), id, &signed.to_bytes()).await
    }

    fn permit<A: crate::domain::policy::Act>(&self, life: &Life) -> Permit<A> {
        self.site.permit(Principal::Device(life.id))
    }

    /// Every order that `life` is sent now, verified as a device verifies it that has seen nothing yet.
    fn orders(&self, life: &Life, topics: Topics) -> Vec<Order> {
        let command = Ed25519Key::from_bytes(&self.app().ca.command_public()).unwrap();
        let origin = self.app().in_force().audit_key.public().origin().to_owned();
        self.app().publish_checkpoint().unwrap();
        let due = self.app().due(life.id, topics, &HashSet::new()).unwrap();
        let sent = due.iter().filter(|one| one.channel == Channel::Order);
        let verified = sent.map(|one| {
            let order = Signed::<Order>::parse(&one.payload).unwrap();
            let order = order.verify(&[PublicKey::Ed25519(command)]).unwrap();
            let recipient = Recipient {
                device: life.id,
                serial: None,
                highest: None,
                log_origin: &origin,
                log_head: TreeHead { size: 0, root: root_of(&[]) },
            };
            let now = Timestamp(self.app().clock.now_s());
            admit(&order, &recipient, &self.app().lineage(), now).unwrap();
            order.into_document()
        });
        verified.collect()
    }

    /// The order to wipe that `life` has taken.
    async fn taken(&self, life: &Life, warrant: WarrantId) -> Telling {
        let order = self.orders(life, Topics::FAREWELL).pop().unwrap();
        let mark = Mark::Order { id: order.id, proven_from: 0 };
        self.app().delivered(self.permit(life), life.id, mark).await.unwrap();
        let warrant = Sha256Digest::of(&self.warrant(warrant).payload);
        Telling { order, warrant, previous: None }
    }

    fn receipt(&self, life: &Life, telling: &Telling, phase: ReceiptPhase) -> Receipt {
        Receipt {
            device: life.id,
            order: telling.order.id,
            warrant: Some(telling.warrant),
            level: telling.order.action.level(),
            phase,
            outcome: ReceiptOutcome::Done,
            items: Vec::new(),
            evidence: Sha256Digest([0; 32]),
            previous: telling.previous,
            certificate: Sha256Digest::of(&life.der),
            last_checkpoint: None,
            at: Timestamp(self.app().clock.now_s()),
        }
    }

    async fn tell(&self, life: &Life, receipt: &Receipt) -> Result<Option<Outgoing>, Error> {
        let body = sign1(receipt, &life.key).unwrap();
        self.app().receipt(self.permit(life), life.id, &body).await
    }

    /// Tells of `phases`, each done; answers the acknowledgement of the last.
    async fn tells(&self, life: &Life, telling: &mut Telling, phases: &[ReceiptPhase]) -> Outgoing {
        let mut last = None;
        for phase in phases {
            let receipt = self.receipt(life, telling, *phase);
            last = self.tell(life, &receipt).await.unwrap();
            telling.previous = Some(payload_digest(&receipt));
        }
        last.unwrap()
    }

    async fn ends(&self, life: &Life, telling: &Telling, outcome: ReceiptOutcome) {
        let receipt = self.receipt(life, telling, ReceiptPhase::Accepted);
        self.tell(life, &Receipt { outcome, ..receipt }).await.unwrap();
    }

    fn phase(&self, life: &Life) -> Option<Phase> {
        self.site.device(life.id).deprovisioning.map(|leaving| leaving.phase)
    }

    fn order(&self, id: OrderId) -> OrderRecord {
        self.app().show_order(&self.site.operator(), id).unwrap().0
    }

    fn door(&self, life: &Life, door: Door) -> Result<Admission, Refused> {
        let held = self.site.device(life.id).current.unwrap();
        self.app().doors.index.admit(&held.serial, held.not_after, door, self.app().clock.now_s())
    }

    /// What the CRL says of the device's certificate.
    fn listed(&self, life: &Life) -> Option<Reason> {
        let held = self.site.device(life.id).current.unwrap();
        let id = self.app().entry_id(&held);
        self.app().store.load::<Entry>(&id).unwrap().map(|entry| entry.record.reason)
    }

    async fn passes(&self, ms: i64) {
        self.site.clock.advance_ms(ms);
        self.app().follow_deadlines().await.unwrap();
        self.app().expire_warrants().await.unwrap();
        self.app().make_waiting_orders().await.unwrap();
        self.app().expire_orders().await.unwrap();
    }
}

use ReceiptPhase::{Accepted, Armed, DataDestroyed, KeysDestroyed, Verified};
const WHOLE: [ReceiptPhase; 5] = [Accepted, Armed, KeysDestroyed, DataDestroyed, Verified];

fn farewell(admission: Result<Admission, Refused>) -> bool {
    admission.is_ok_and(|admission| admission.topics == Topics::FAREWELL)
}

#[tokio::test]
async fn an_order_to_wipe_leaves_when_a_checkpoint_on_the_disk_covers_it_and_not_before() {
    let end = End::found();
    let life = end.site.enroll(None).await;
    end.app().publish_checkpoint().unwrap();
    end.warranted(&life, Level::Clear).await;
    let sent = || {
        let due = end.app().due(life.id, Topics::FAREWELL, &HashSet::new()).unwrap();
        due.iter().filter(|one| one.channel == Channel::Order).count()
    };
    assert_eq!((sent(), sent()), (0, 0));
    end.app().publish_checkpoint().unwrap();
    assert_eq!(sent(), 1);
}

#[tokio::test]
async fn a_device_is_let_go_with_proof() {
    let end = End::found();
    let life = end.site.enroll(None).await;
    let asked = end.ask(&[&life], Level::Clear).await.unwrap();
    let id = asked.record.id;
    assert_eq!((asked.required, asked.approvers), (2, 3));
    assert_eq!(
        (end.site.state(life.id), end.phase(&life)),
        (DeviceState::Deprovisioning, Some(Phase::Requested))
    );
    assert!(farewell(end.door(&life, Door::Gate)));
    assert_eq!(end.door(&life, Door::Renew), Err(Refused::MayNotRenew));
    assert_eq!(end.orders(&life, Topics::FAREWELL), []);

    assert_eq!(end.sign(id, &end.keys[0]).await.unwrap().state, State::Requested);
    assert_eq!(end.phase(&life), Some(Phase::Requested));
    let shown = end.sign(id, &end.keys[1]).await.unwrap();
    assert_eq!(
        (shown.state, &shown.signed_by[..]),
        (State::Warranted, &["approver 1".to_owned(), "approver 2".into()][..])
    );
    assert_eq!(end.phase(&life), Some(Phase::Ordered));

    let mut telling = end.taken(&life, id).await;
    assert_eq!(
        telling.order.action,
        Action::Wipe { level: Level::Clear, data_roots: vec!["/var/lib/muster-agent/managed".into()] }
    );
    assert_eq!(end.phase(&life), Some(Phase::Delivered));
    for (phase, shown) in
        WHOLE.into_iter().zip([Phase::Delivered, Phase::Armed, Phase::Executing, Phase::Executing])
    {
        end.tells(&life, &mut telling, &[phase]).await;
        assert_eq!(end.phase(&life), Some(shown), "{phase}");
        assert_eq!((end.site.state(life.id), end.listed(&life)), (DeviceState::Deprovisioning, None));
    }
    let ack = end.tells(&life, &mut telling, &[Verified]).await;
    let device = end.site.device(life.id);
    assert_eq!((device.state, device.retirement), (DeviceState::Retired, Some(Retirement::Proven)));
    assert_eq!(
        (end.phase(&life), end.listed(&life)),
        (Some(Phase::Proven), Some(Reason::CessationOfOperation))
    );
    assert_eq!(end.order(telling.order.id).phase, OrderPhase::Done);
    assert_eq!((end.warrant(id).state, end.warrant(id).record.proven), (State::Done, 1));
    assert!(farewell(end.door(&life, Door::Gate)), "it waits for its last word");

    end.app().delivered(end.permit(&life), life.id, ack.mark).await.unwrap();
    assert_eq!(end.door(&life, Door::Gate), Err(Refused::Revoked));
    let told = end.site.actions(life.id);
    for action in ["warrant.request", "warrant.sign", "order.make", "order.deliver", "order.receipt"] {
        assert!(told.iter().any(|one| one == action), "{action}: {told:?}");
    }
}

#[tokio::test]
async fn nothing_is_ordered_by_the_server_alone_or_by_one_approver_twice() {
    let end = End::found();
    let life = end.site.enroll(None).await;
    let id = end.asked(&life, Level::Clear).await;
    let stranger = fresh_ed25519();
    assert_eq!(rule(&end.sign(id, &stranger).await.unwrap_err()), "warrant.signer");
    end.sign(id, &end.keys[0]).await.unwrap();
    let commits = end.site.commits();
    assert_eq!(end.sign(id, &end.keys[0]).await.unwrap().state, State::Requested);
    assert_eq!(end.site.commits(), commits, "a signature that is there changes nothing");
    let other = end.asked(&end.site.enroll(None).await, Level::Clear).await;
    let mut foreign = MultiSigned::unsigned(&decode::<Warrant>(&end.warrant(other).payload).unwrap());
    foreign.add_signature(&end.keys[1]).unwrap();
    let handed = end.app().sign_warrant(end.site.operator(), id, &foreign.to_bytes()).await;
    assert_eq!(rule(&handed.unwrap_err()), "warrant.other");
    let handed = end.app().sign_warrant(end.site.operator(), id, b"nonsense").await;
    assert_eq!(rule(&handed.unwrap_err()), "warrant.envelope");
    assert_eq!((end.orders(&life, Topics::FAREWELL), end.warrant(id).record.ordered), (vec![], 0));
}

#[tokio::test]
async fn a_signature_that_is_false_beside_a_good_one_is_not_taken() {
    let end = End::found();
    let life = end.site.enroll(None).await;
    let id = end.asked(&life, Level::Clear).await;
    let mut signed = MultiSigned::unsigned(&decode::<Warrant>(&end.warrant(id).payload).unwrap());
    signed.add_signature(&end.keys[0]).unwrap();
    signed.add_signature(&fresh_ed25519()).unwrap();
    let handed = end.app().sign_warrant(end.site.operator(), id, &signed.to_bytes()).await;
    assert_eq!(rule(&handed.unwrap_err()), "warrant.signer");
    let mut bytes = {
        let mut signed = MultiSigned::unsigned(&decode::<Warrant>(&end.warrant(id).payload).unwrap());
        signed.add_signature(&end.keys[0]).unwrap();
        signed.to_bytes()
    };
    *bytes.last_mut().unwrap() ^= 1;
    let handed = end.app().sign_warrant(end.site.operator(), id, &bytes).await;
    assert_eq!(rule(&handed.unwrap_err()), "warrant.signer");
    assert!(end.warrant(id).signed_by.is_empty());
}

#[tokio::test]
async fn one_device_is_let_go_by_one_warrant_alone() {
    let end = End::found();
    let (life, other) = (end.site.enroll(None).await, end.site.enroll(None).await);
    end.asked(&life, Level::Retire).await;
    assert_eq!(rule(&end.ask(&[&life], Level::Retire).await.unwrap_err()), "warrant.device_leaving");
    assert_eq!(rule(&end.ask(&[&other, &life], Level::Clear).await.unwrap_err()), "warrant.device_leaving");
    assert_eq!(end.site.state(other.id), DeviceState::Commissioning, "all of them or none");
}

#[tokio::test]
async fn the_same_request_again_is_the_same_warrant() {
    let end = End::found();
    let life = end.site.enroll(None).await;
    let operator: Permit<crate::domain::policy::act::RequestWarrant> = end.site.operator();
    let slot = end.app().replayed(operator.caller(), Some("key"), Sha256Digest([1; 32])).await.unwrap();
    let Replayed::Keyed(slot) = slot else { panic!("a slot") };
    let request = WarrantRequest {
        after_s: None,
        kind: Kind::Wipe,
        level: Some(Level::Retire),
        devices: vec![life.id],
        deadline_s: DEADLINE_S,
        valid_s: VALID_S,
    };
    let first = end.app().request_warrant(operator, &request, Some(&slot)).await.unwrap();
    let again = end.app().request_warrant(end.site.operator(), &request, Some(&slot)).await.unwrap();
    assert_eq!((again.record.id, again.required), (first.record.id, 1));
}

#[tokio::test]
async fn what_approvers_or_the_profile_cannot_do_is_refused_and_a_preview_changes_nothing() {
    let end = End::found();
    let life = end.site.enroll(None).await;
    assert_eq!(rule(&end.ask(&[&life], Level::CryptoErase).await.unwrap_err()), "warrant.level_of_profile");
    let alone = End { site: Site::found_by(&[fresh_ed25519(), fresh_ed25519()]), keys: end.keys.clone() };
    let mut fleet = Vec::new();
    for _ in 0..11 {
        fleet.push(alone.site.enroll(None).await);
    }
    let lives: Vec<&Life> = fleet.iter().collect();
    assert_eq!(rule(&alone.ask(&lives, Level::Clear).await.unwrap_err()), "warrant.too_many_for_approvers");
    let commits = alone.site.commits();
    let request = WarrantRequest {
        after_s: None,
        kind: Kind::Wipe,
        level: Some(Level::Clear),
        devices: lives.iter().skip(1).map(|life| life.id).collect(),
        deadline_s: DEADLINE_S,
        valid_s: VALID_S,
    };
    let preview = alone.app().preview_warrant(&alone.site.operator(), &request).await.unwrap();
    assert_eq!((preview.aims.len(), preview.required, alone.site.commits()), (10, 2, commits));
}

#[tokio::test]
async fn a_doomed_device_comes_back_after_ninety_days_a_restart_and_an_expired_certificate_and_is_proven() {
    let end = End::found();
    let life = end.site.enroll(None).await;
    let id = end.warranted(&life, Level::Clear).await;
    end.passes(7 * DAY_MS - 1_000).await;
    assert_eq!((end.phase(&life), end.listed(&life)), (Some(Phase::Ordered), None));
    end.passes(2_000).await;
    assert_eq!(
        (end.site.state(life.id), end.phase(&life)),
        (DeviceState::Deprovisioning, Some(Phase::Unproven))
    );
    assert_eq!(end.listed(&life), Some(Reason::CessationOfOperation));
    assert!(farewell(end.door(&life, Door::Gate)));
    // The certificate lives for a year less than the warrant's own year would reach: let it expire too.
    let left = end.site.device(life.id).current.unwrap().not_after - end.app().clock.now_s();
    let to_expiry = (left + 1) * 1_000;
    let mut end = end;
    if to_expiry < (VALID_S - DEADLINE_S - 86_400) * 1_000 {
        end.passes(to_expiry).await;
    } else {
        end.passes(83 * DAY_MS).await;
    }
    end = end.restarted().await;
    assert!(farewell(end.door(&life, Door::Gate)), "also after a restart");
    let mut telling = end.taken(&life, id).await;
    assert_eq!(end.phase(&life), Some(Phase::Unproven), "taken is not begun");
    end.tells(&life, &mut telling, &WHOLE[..2]).await;
    assert_eq!(end.phase(&life), Some(Phase::Armed));
    end = end.restarted().await;
    end.tells(&life, &mut telling, &WHOLE[2..]).await;
    assert_eq!(end.site.device(life.id).retirement, Some(Retirement::Proven));
    assert!(farewell(end.door(&life, Door::Gate)));
}

#[tokio::test]
async fn an_expired_certificate_dooms_and_still_opens_the_letterbox() {
    let end = End::found();
    let life = end.site.enroll(None).await;
    let id = end.warranted(&life, Level::Clear).await;
    let device = end.site.device(life.id);
    let index = &end.app().doors.index;
    let held = device.current.unwrap();
    let after = held.not_after + 1;
    let admitted = index.admit(&held.serial, held.not_after, Door::Gate, after).unwrap();
    assert_eq!(admitted.topics, Topics::FAREWELL);
    end.stop(id, &end.keys[2]).await.unwrap();
    assert!(index.admit(&held.serial, held.not_after, Door::Gate, after + 400 * 86_400).is_err());
}

#[tokio::test]
async fn doom_without_an_order_lets_nobody_in_and_a_late_signature_opens_the_letterbox() {
    let end = End::found();
    let life = end.site.enroll(None).await;
    let id = end.asked(&life, Level::Clear).await;
    end.sign(id, &end.keys[0]).await.unwrap();
    end.passes(8 * DAY_MS).await;
    assert_eq!(end.phase(&life), Some(Phase::Unproven));
    assert_eq!(end.door(&life, Door::Gate), Err(Refused::NoOpenOrder));
    end.sign(id, &end.keys[1]).await.unwrap();
    assert!(farewell(end.door(&life, Door::Gate)));
    assert_eq!(end.orders(&life, Topics::FAREWELL).len(), 1);
}

#[tokio::test]
async fn refused_and_failed_lead_back_before_doom_and_to_unproven_after_it() {
    for (outcome, shown) in
        [(ReceiptOutcome::Refused, Phase::Refused), (ReceiptOutcome::Failed, Phase::Failed)]
    {
        for doomed in [false, true] {
            let end = End::found();
            let life = end.site.enroll(None).await;
            let id = end.warranted(&life, Level::Clear).await;
            let telling = end.taken(&life, id).await;
            if doomed {
                end.passes(8 * DAY_MS).await;
            }
            end.ends(&life, &telling, outcome).await;
            let device = end.site.device(life.id);
            assert_eq!(end.warrant(id).state, State::Done);
            if doomed {
                assert_eq!(
                    (device.state, device.retirement),
                    (DeviceState::Retired, Some(Retirement::Unproven))
                );
                assert!(end.door(&life, Door::Gate).is_err());
            } else {
                assert_eq!((device.state, end.phase(&life)), (DeviceState::Commissioning, Some(shown)));
                assert_eq!(end.door(&life, Door::Gate).unwrap().topics, Topics::ALL);
                assert_eq!(end.listed(&life), None);
                assert!(end.ask(&[&life], Level::Retire).await.is_ok(), "it may be asked for again");
            }
        }
    }
}

#[tokio::test]
async fn a_wipe_that_went_less_far_or_was_never_armed_is_never_proven() {
    for (level, phases) in
        [(Some(Level::Retire), &WHOLE[..]), (Some(Level::Clear), &[Accepted, Verified][..])]
    {
        let end = End::found();
        let life = end.site.enroll(None).await;
        let id = end.warranted(&life, Level::Clear).await;
        let mut telling = end.taken(&life, id).await;
        for phase in phases {
            let receipt = Receipt { level, ..end.receipt(&life, &telling, *phase) };
            end.tell(&life, &receipt).await.unwrap();
            telling.previous = Some(payload_digest(&receipt));
        }
        assert_eq!(end.phase(&life), Some(Phase::Failed));
        assert_ne!(end.site.device(life.id).retirement, Some(Retirement::Proven));
        assert_eq!(end.warrant(id).record.proven, 0);
        assert_eq!(end.order(telling.order.id).phase, OrderPhase::Failed);
    }
}

#[tokio::test]
async fn an_item_that_failed_in_any_phase_leaves_a_wipe_unproven() {
    for guilty in WHOLE {
        let end = End::found();
        let life = end.site.enroll(None).await;
        let id = end.warranted(&life, Level::Clear).await;
        let mut telling = end.taken(&life, id).await;
        for phase in WHOLE {
            let item = ReceiptItem { what: "/srv".into(), fate: ItemFate::Failed, size_bytes: 1 };
            let items = if phase == guilty { vec![item] } else { Vec::new() };
            let receipt = Receipt { items, ..end.receipt(&life, &telling, phase) };
            end.tell(&life, &receipt).await.unwrap();
            telling.previous = Some(payload_digest(&receipt));
        }
        assert_eq!((end.phase(&life), end.warrant(id).record.proven), (Some(Phase::Failed), 0), "{guilty}");
    }
}

#[tokio::test]
async fn a_later_word_changes_nothing_about_a_proof_and_is_acknowledged_and_written_down_once() {
    let end = End::found();
    let life = end.site.enroll(None).await;
    let id = end.warranted(&life, Level::Clear).await;
    let mut telling = end.taken(&life, id).await;
    end.tells(&life, &mut telling, &WHOLE[..4]).await;
    let verified = end.receipt(&life, &telling, Verified);
    end.tell(&life, &verified).await.unwrap();
    let before = (end.site.device(life.id), end.order(telling.order.id));
    let record = || end.app().sanitisation_record(&end.site.operator(), life.id).unwrap();
    let receipts = record().receipts;
    for at in 1..4 {
        let again = Receipt { outcome: ReceiptOutcome::Failed, at: Timestamp(at), ..verified.clone() };
        assert!(end.tell(&life, &again).await.unwrap().is_some(), "it is acknowledged");
    }
    assert_eq!(end.site.device(life.id), before.0);
    let order = end.order(telling.order.id);
    assert_eq!((order.phase, order.receipts), (before.1.phase, before.1.receipts));
    assert_eq!(record().receipts, receipts);
    assert_eq!(end.site.refusals(), ["receipt.verified_already"]);
}

#[tokio::test]
async fn a_phase_that_is_signed_anew_for_ever_fills_no_disk() {
    let end = End::found();
    let life = end.site.enroll(None).await;
    let id = end.warranted(&life, Level::Clear).await;
    let telling = end.taken(&life, id).await;
    end.stop(id, &end.keys[2]).await.unwrap();
    let mut last = None;
    let long = ReceiptItem { what: "x".repeat(4_000), fate: ItemFate::Kept, size_bytes: 0 };
    for at in 0..12 {
        let items = vec![long.clone(); 3];
        let receipt = Receipt { at: Timestamp(at), items, ..end.receipt(&life, &telling, Accepted) };
        assert!(end.tell(&life, &receipt).await.unwrap().is_some(), "number {at} is acknowledged");
        if at == 8 {
            last = Some(payload_digest(&receipt));
        }
        if at == 0 {
            assert!(kept(&end).len() > 3, "in chunks");
        }
    }
    let order = end.order(telling.order.id);
    assert_eq!(order.receipts.iter().map(|note| Some(note.sha256)).collect::<Vec<_>>(), [last]);
    assert_eq!(kept(&end).len(), 5, "one receipt and its chunks");
    assert_eq!(end.site.refusals(), ["receipt.replaced_too_often"]);
}

/// The keys of the receipts that are kept, and of their chunks.
fn kept(end: &End) -> Vec<Vec<u8>> {
    let found = end.app().store.scan(RECEIPTS.prefix, None, 1_000).unwrap();
    found.into_iter().map(|(key, _)| key).collect()
}

#[tokio::test]
async fn a_receipt_about_another_warrant_proves_nothing() {
    let end = End::found();
    let life = end.site.enroll(None).await;
    let id = end.warranted(&life, Level::Clear).await;
    let telling = end.taken(&life, id).await;
    for warrant in [None, Some(Sha256Digest([9; 32]))] {
        let receipt = Receipt { warrant, ..end.receipt(&life, &telling, Accepted) };
        assert_eq!(rule(&end.tell(&life, &receipt).await.unwrap_err()), "receipt.warrant");
    }
    assert_eq!(end.phase(&life), Some(Phase::Delivered));
}

#[tokio::test]
async fn one_approver_stops_what_two_began_and_the_device_is_told() {
    let end = End::found();
    let life = end.site.enroll(None).await;
    let id = end.warranted(&life, Level::Clear).await;
    let telling = end.taken(&life, id).await;
    assert_eq!(rule(&end.stop(id, &fresh_ed25519()).await.unwrap_err()), "warrant.signer");
    assert_eq!(end.stop(id, &end.keys[2]).await.unwrap().state, State::Stopped);
    assert_eq!((end.site.state(life.id), end.phase(&life)), (DeviceState::Commissioning, None));
    assert_eq!(end.order(telling.order.id).phase, OrderPhase::Stopped);
    let told = end.orders(&life, Topics::ALL);
    assert_eq!(
        told.iter().map(|order| order.action.clone()).collect::<Vec<_>>(),
        [Action::Stop { warrant: id }]
    );
    assert!(told[0].sequence > telling.order.sequence);
    assert_eq!(rule(&end.sign(id, &end.keys[2]).await.unwrap_err()), "warrant.ended");
    assert_eq!(end.stop(id, &end.keys[1]).await.unwrap().state, State::Stopped, "it stays stopped");
    let done = Receipt {
        warrant: Some(Sha256Digest::of(&encode(&decode::<Warrant>(&stop_of(&end, &told[0])).unwrap()))),
        level: None,
        order: told[0].id,
        ..end.receipt(&life, &telling, Verified)
    };
    end.tell(&life, &done).await.unwrap();
    assert_eq!(end.order(told[0].id).phase, OrderPhase::Done);
}

/// The payload of the warrant that `order` carries.
fn stop_of(end: &End, order: &Order) -> Vec<u8> {
    let record = end.order(order.id);
    end.warrant(record.warrant.unwrap()).payload
}

#[tokio::test]
async fn what_was_stopped_too_late_is_proven_all_the_same() {
    let end = End::found();
    let life = end.site.enroll(None).await;
    let id = end.warranted(&life, Level::Clear).await;
    let mut telling = end.taken(&life, id).await;
    end.stop(id, &end.keys[2]).await.unwrap();
    end.tells(&life, &mut telling, &WHOLE).await;
    assert_eq!(end.site.device(life.id).retirement, Some(Retirement::Proven));
    assert_eq!(end.listed(&life), Some(Reason::CessationOfOperation));
}

#[tokio::test]
async fn what_is_armed_is_not_brought_back_by_a_stop() {
    let end = End::found();
    let (life, other) = (end.site.enroll(None).await, end.site.enroll(None).await);
    let id = end.ask(&[&life, &other], Level::Clear).await.unwrap().record.id;
    for key in &end.keys[..2] {
        end.sign(id, key).await.unwrap();
    }
    let mut telling = end.taken(&life, id).await;
    end.tells(&life, &mut telling, &WHOLE[..2]).await;
    end.stop(id, &end.keys[2]).await.unwrap();
    assert_eq!(
        (end.site.state(life.id), end.phase(&life)),
        (DeviceState::Deprovisioning, Some(Phase::Armed))
    );
    assert_eq!(end.site.state(other.id), DeviceState::Commissioning);
    end.tells(&life, &mut telling, &WHOLE[2..]).await;
    assert_eq!(end.site.device(life.id).retirement, Some(Retirement::Proven));
    assert_eq!(end.warrant(id).state, State::Stopped);
}

#[tokio::test]
async fn a_person_gives_up_a_doomed_device_and_no_other() {
    let end = End::found();
    let life = end.site.enroll(None).await;
    let retire = || end.app().retire(end.site.operator(), life.id);
    assert_eq!(rule(&retire().await.unwrap_err()), "retire.not_leaving");
    let id = end.warranted(&life, Level::Clear).await;
    assert_eq!(rule(&retire().await.unwrap_err()), "retire.not_doomed");
    end.passes(8 * DAY_MS).await;
    let order = end.site.device(life.id).deprovisioning.unwrap().order.unwrap();
    assert_eq!(retire().await.unwrap().device.retirement, Some(Retirement::Unproven));
    assert_eq!((end.order(order).phase, end.warrant(id).state), (OrderPhase::Stopped, State::Done));
    assert_eq!(end.door(&life, Door::Gate), Err(Refused::Revoked));
    let commits = end.site.commits();
    assert!(retire().await.is_ok(), "twice is once");
    assert_eq!(end.site.commits(), commits);
}

#[tokio::test]
async fn the_end_of_the_warrant_ends_the_waiting() {
    let end = End::found();
    let life = end.site.enroll(None).await;
    let id = end.warranted(&life, Level::Clear).await;
    end.passes(366 * DAY_MS).await;
    let device = end.site.device(life.id);
    assert_eq!((device.state, device.retirement), (DeviceState::Retired, Some(Retirement::Unproven)));
    assert!(!end.warrant(id).state.is_open());
    assert!(end.door(&life, Door::Gate).is_err());
}

#[tokio::test]
async fn a_warrant_that_lapses_before_doom_lets_its_devices_go_back() {
    let end = End::found();
    let life = end.site.enroll(None).await;
    let request = WarrantRequest {
        after_s: None,
        kind: Kind::Wipe,
        level: Some(Level::Retire),
        devices: vec![life.id],
        deadline_s: DEADLINE_S,
        valid_s: 3_600,
    };
    let asked = end.app().request_warrant(end.site.operator(), &request, None).await.unwrap();
    end.passes(2 * 3_600_000).await;
    assert_eq!((end.site.state(life.id), end.phase(&life)), (DeviceState::Commissioning, None));
    assert_eq!(end.warrant(asked.record.id).state, State::Lapsed);
    assert_eq!(end.door(&life, Door::Gate).unwrap().topics, Topics::ALL);
}

#[tokio::test]
async fn an_acknowledgement_that_is_lost_is_fetched_within_a_day_and_no_longer() {
    let end = End::found();
    let life = end.site.enroll(None).await;
    let id = end.warranted(&life, Level::Clear).await;
    let mut telling = end.taken(&life, id).await;
    end.tells(&life, &mut telling, &WHOLE[..4]).await;
    let last = end.receipt(&life, &telling, Verified);
    let first = end.tell(&life, &last).await.unwrap().unwrap();
    let end = end.restarted().await;
    end.passes(PROVEN_FOR_S * 1_000 - 1_000).await;
    let body = sign1(&last, &life.key).unwrap();
    let again = end.app().receipt(end.permit(&life), life.id, &body).await.unwrap().unwrap();
    assert_eq!(again, first);
    let wrong = Mark::Ack(Sha256Digest([1; 32]));
    end.app().delivered(end.permit(&life), life.id, wrong).await.unwrap();
    assert!(farewell(end.door(&life, Door::Gate)), "another acknowledgement is not the last one");
    end.passes(2_000).await;
    assert!(end.door(&life, Door::Gate).is_err());
    assert_eq!(end.site.device(life.id).leaving_due_at(), None);
}

#[tokio::test]
async fn a_held_device_is_let_go_and_comes_back_held() {
    let end = End::found();
    let life = end.site.enroll(None).await;
    let because: Because = "lost".parse().unwrap();
    end.app().quarantine(end.site.operator(), life.id, &because).await.unwrap();
    assert_eq!(end.listed(&life), Some(Reason::CertificateHold));
    let id = end.asked(&life, Level::Clear).await;
    assert!(farewell(end.door(&life, Door::Gate)));
    assert_eq!(end.listed(&life), None);
    end.stop(id, &end.keys[0]).await.unwrap();
    assert_eq!(end.site.state(life.id), DeviceState::Quarantined);
    assert_eq!(end.door(&life, Door::Gate).unwrap().topics, Topics::HELD);
    assert_eq!(end.listed(&life), Some(Reason::CertificateHold));
}

#[tokio::test]
async fn sessions_are_cut_when_letting_go_begins_and_when_it_ends_and_not_by_what_lies_between() {
    let end = End::found();
    let life = end.site.enroll(None).await;
    let before = standing(&end, &life);
    let id = end.asked(&life, Level::Clear).await;
    let requested = standing(&end, &life);
    for key in &end.keys[..2] {
        end.sign(id, key).await.unwrap();
    }
    let ordered = standing(&end, &life);
    let mut telling = end.taken(&life, id).await;
    let ack = end.tells(&life, &mut telling, &WHOLE).await;
    let proven = standing(&end, &life);
    end.app().delivered(end.permit(&life), life.id, ack.mark).await.unwrap();
    let over = standing(&end, &life);
    let cut = |a, b| super::status_feed::moved(a, b);
    assert!(cut(&before, &requested) && cut(&proven, &over));
    assert!(!cut(&requested, &ordered) && !cut(&ordered, &proven));
    assert!(cut(&ordered, &requested), "an order that is closed ends a doomed device's leave");
}

fn standing(end: &End, life: &Life) -> crate::doors::status_index::Standing {
    let held = end.site.device(life.id).current.unwrap();
    end.app().doors.index.lookup(&held.serial).unwrap()
}

#[tokio::test]
async fn an_order_waits_while_the_approvers_who_signed_do_not_count() {
    let end = End::found();
    let life = end.site.enroll(None).await;
    let id = end.warranted(&life, Level::Clear).await;
    assert_eq!(end.orders(&life, Topics::FAREWELL).len(), 1);
    let changes = Changes { remove_approvers: vec!["approver 1".parse().unwrap()], ..Changes::default() };
    let asked = Asked { changes, ..Asked::default() };
    let pending = end.app().propose_authority(end.site.operator(), asked, None).await.unwrap();
    for key in &end.keys[1..] {
        let mut copy = MultiSigned::unsigned(&pending.next);
        copy.add_signature(key).unwrap();
        end.app().sign_authority(end.site.operator(), &copy.to_bytes()).await.unwrap();
    }
    let shown = end.warrant(id);
    assert_eq!((shown.state, &shown.signed_by[..]), (State::Requested, &["approver 2".to_owned()][..]));
    assert_eq!(end.app().due(life.id, Topics::FAREWELL, &HashSet::new()).unwrap(), []);
    assert_eq!(rule(&end.sign(id, &end.keys[0]).await.unwrap_err()), "warrant.signer");
    assert_eq!(end.sign(id, &end.keys[2]).await.unwrap().state, State::Warranted);
    assert_eq!(end.orders(&life, Topics::FAREWELL).len(), 1);
}

#[tokio::test]
async fn a_life_that_is_superseded_while_it_is_let_go_leaves_no_order_open() {
    let end = End::found();
    let life = end.site.enroll(None).await;
    let id = end.warranted(&life, Level::Clear).await;
    let order = end.site.device(life.id).deprovisioning.unwrap().order.unwrap();
    let held = end.app().device(life.id).unwrap();
    let ending = super::certificates::Ending { how: Retirement::Superseded, reason: Reason::Superseded };
    let permit: Permit<crate::domain::policy::act::RevokeDevice> = end.site.operator();
    let batch = end.app().end_life(&permit, crate::store::Batch::default(), held, ending).unwrap();
    end.app().commit(batch).await.unwrap();
    assert_eq!((end.order(order).phase, end.warrant(id).state), (OrderPhase::Stopped, State::Done));
    assert_eq!(end.site.device(life.id).leaving_due_at(), None);
}

#[tokio::test]
async fn locks_are_ordered_under_a_warrant_and_leave_the_device_where_it_is() {
    let end = End::found();
    let life = end.site.enroll(None).await;
    let request = WarrantRequest {
        after_s: None,
        kind: Kind::Lock,
        level: None,
        devices: vec![life.id],
        deadline_s: DEADLINE_S,
        valid_s: VALID_S,
    };
    let asked = end.app().request_warrant(end.site.operator(), &request, None).await.unwrap();
    assert_eq!((asked.required, end.site.state(life.id)), (1, DeviceState::Commissioning));
    end.sign(asked.record.id, &end.keys[0]).await.unwrap();
    let order = end.orders(&life, Topics::ALL).pop().unwrap();
    assert_eq!(order.action, Action::Lock);
    assert_eq!(end.order(order.id).ask, Ask::Lock);
    let telling =
        Telling { warrant: Sha256Digest::of(&end.warrant(asked.record.id).payload), previous: None, order };
    let done = Receipt { level: None, ..end.receipt(&life, &telling, Verified) };
    end.tell(&life, &done).await.unwrap();
    assert_eq!(
        (end.warrant(asked.record.id).state, end.site.state(life.id)),
        (State::Done, DeviceState::Commissioning)
    );
}
