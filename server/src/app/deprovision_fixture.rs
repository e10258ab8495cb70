//! Approvers, devices that are let go, and what both say, for tests of the end of a device's life.

use super::plane_fixture::{Life, Site};
use super::*;
use crate::ca::fresh_ed25519;
use crate::domain::admission::{Admission, Door, Refusal as Refused, Topics};
use crate::domain::deprovision::Phase;
use crate::domain::order::OrderRecord;
use crate::domain::policy::{Permit, Principal};
use crate::domain::revocation::{Entry, Reason};
use crate::domain::warrant::{DEADLINE_S, VALID_S};
use ed25519_dalek::SigningKey;
use muster_wire::cbor::decode;
use muster_wire::digest::Sha256Digest;
use muster_wire::envelope::{MultiSigned, Signed, payload_digest, sign1};
use muster_wire::id::{OrderId, WarrantId};
use muster_wire::key::{Ed25519Key, PublicKey};
use muster_wire::merkle::{TreeHead, root_of};
use muster_wire::order::{Action, Order, Recipient, admit};
use muster_wire::receipt::{Receipt, ReceiptOutcome, ReceiptPhase};
use muster_wire::time::Timestamp;
use muster_wire::topic::Channel;
use muster_wire::warrant::{Kind, Level, Target, Warrant};
use std::collections::HashSet;

/// An installation with three approvers, and what they and its devices do.
pub(super) struct End {
    pub(super) site: Site,
    pub(super) keys: [SigningKey; 3],
}

/// What a device has told of its order so far.
pub(super) struct Telling {
    pub(super) order: Order,
    pub(super) warrant: Sha256Digest,
    pub(super) previous: Option<Sha256Digest>,
}

/// A request to wipe `lives`, with the times that nobody has to name.
pub(super) fn wipe_of<'l>(lives: impl IntoIterator<Item = &'l Life>, level: Level) -> WarrantRequest {
    WarrantRequest {
        after_s: None,
        kind: Kind::Wipe,
        level: Some(level),
        devices: lives.into_iter().map(|life| life.id).collect(),
        deadline_s: DEADLINE_S,
        valid_s: VALID_S,
    }
}

pub(super) const DAY_MS: i64 = 86_400_000;

impl End {
    pub(super) fn found() -> Self {
        let keys = [fresh_ed25519(), fresh_ed25519(), fresh_ed25519()];
        Self { site: Site::found_by(&keys), keys }
    }

    pub(super) async fn restarted(self) -> Self {
        Self { site: self.site.restarted(|_| ()).await, keys: self.keys }
    }

    pub(super) fn app(&self) -> &App {
        &self.site.app
    }

    pub(super) async fn ask(&self, lives: &[&Life], level: Level) -> Result<Requested, Error> {
        let request = wipe_of(lives.iter().copied(), level);
        self.app().request_warrant(self.site.operator(), &request, None).await
    }

    pub(super) async fn asked(&self, life: &Life, level: Level) -> WarrantId {
        self.ask(&[life], level).await.unwrap().record.id
    }

    pub(super) fn warrant(&self, id: WarrantId) -> WarrantShown {
        self.app().show_warrant(&self.site.operator(), id).unwrap()
    }

    pub(super) async fn sign(&self, id: WarrantId, key: &SigningKey) -> Result<WarrantShown, Error> {
        let mut signed = MultiSigned::unsigned(&decode::<Warrant>(&self.warrant(id).payload).unwrap());
        signed.add_signature(key).unwrap();
        self.app().sign_warrant(self.site.operator(), id, &signed.to_bytes()).await
    }

    /// A warrant to wipe `life` that enough approvers have signed.
    pub(super) async fn warranted(&self, life: &Life, level: Level) -> WarrantId {
        let id = self.asked(life, level).await;
        for key in &self.keys[..2] {
            self.sign(id, key).await.unwrap();
        }
        id
    }

    pub(super) async fn stop(&self, id: WarrantId, key: &SigningKey) -> Result<WarrantShown, Error> {
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

    pub(super) fn permit<A: crate::domain::policy::Act>(&self, life: &Life) -> Permit<A> {
        self.site.permit(Principal::Device(life.id))
    }

    /// Every order that `life` is sent now, verified as a device verifies it that has seen nothing yet.
    pub(super) fn orders(&self, life: &Life, topics: Topics) -> Vec<Order> {
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
    pub(super) async fn taken(&self, life: &Life, warrant: WarrantId) -> Telling {
        let order = self.orders(life, Topics::FAREWELL).pop().unwrap();
        let mark = Mark::Order { id: order.id, proven_from: 0 };
        self.app().delivered(self.permit(life), life.id, mark).await.unwrap();
        let warrant = Sha256Digest::of(&self.warrant(warrant).payload);
        Telling { order, warrant, previous: None }
    }

    pub(super) fn receipt(&self, life: &Life, telling: &Telling, phase: ReceiptPhase) -> Receipt {
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

    pub(super) async fn tell(&self, life: &Life, receipt: &Receipt) -> Result<Option<Outgoing>, Error> {
        let body = sign1(receipt, &life.key).unwrap();
        self.app().receipt(self.permit(life), life.id, &body).await
    }

    /// Tells of `phases`, each done; answers the acknowledgement of the last.
    pub(super) async fn tells(
        &self,
        life: &Life,
        telling: &mut Telling,
        phases: &[ReceiptPhase],
    ) -> Outgoing {
        let mut last = None;
        for phase in phases {
            let receipt = self.receipt(life, telling, *phase);
            last = self.tell(life, &receipt).await.unwrap();
            telling.previous = Some(payload_digest(&receipt));
        }
        last.unwrap()
    }

    pub(super) async fn ends(&self, life: &Life, telling: &Telling, outcome: ReceiptOutcome) {
        let receipt = self.receipt(life, telling, ReceiptPhase::Accepted);
        self.tell(life, &Receipt { outcome, ..receipt }).await.unwrap();
    }

    pub(super) fn phase(&self, life: &Life) -> Option<Phase> {
        self.site.device(life.id).deprovisioning.map(|leaving| leaving.phase)
    }

    pub(super) fn order(&self, id: OrderId) -> OrderRecord {
        self.app().show_order(&self.site.operator(), id).unwrap().0
    }

    pub(super) fn door(&self, life: &Life, door: Door) -> Result<Admission, Refused> {
        let held = self.site.device(life.id).current.unwrap();
        self.app().doors.index.admit(&held.serial, held.not_after, door, self.app().clock.now_s())
    }

    /// What the CRL says of the device's certificate.
    pub(super) fn listed(&self, life: &Life) -> Option<Reason> {
        let held = self.site.device(life.id).current.unwrap();
        let id = self.app().entry_id(&held);
        self.app().store.load::<Entry>(&id).unwrap().map(|entry| entry.record.reason)
    }

    pub(super) async fn passes(&self, ms: i64) {
        self.site.clock.advance_ms(ms);
        self.app().follow_deadlines().await.unwrap();
        self.app().expire_warrants().await.unwrap();
        self.app().make_waiting_orders().await.unwrap();
        self.app().expire_orders().await.unwrap();
    }
}

use ReceiptPhase::{Accepted, Armed, DataDestroyed, KeysDestroyed, Verified};
pub(super) const WHOLE: [ReceiptPhase; 5] = [Accepted, Armed, KeysDestroyed, DataDestroyed, Verified];

pub(super) fn farewell(admission: Result<Admission, Refused>) -> bool {
    admission.is_ok_and(|admission| admission.topics == Topics::FAREWELL)
}
