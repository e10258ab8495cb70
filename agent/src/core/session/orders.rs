//! Orders: each is journaled, then acknowledged, then carried out, at most once; its receipt is owed until the signed
//! `ack`.
//!
//! ```text
//! admitted ─▶ taken (record) ─▶ PUBACK ─▶ done ─▶ receipt (outbox) ─▶ answered (record) ─▶ … ─▶ ack ─▶ forgotten
//! ```
//! A kill after *taken* is found in the journal and the order is carried on with; one after the receipt finds the
//! receipt. An order that this agent cannot carry out is taken all the same and answered as refused, with the reason. An
//! order that has had its turn is refused under any sequence, and so is a second one under a warrant: approvers sign for
//! one order on each device, and what was refused, failed, done or replaced takes a new warrant. Where there is no room
//! for one more receipt, that order and those after it are left to the server, so that none overtakes another; they come
//! in the next session.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster_wire::digest::Sha256Digest;
use muster_wire::id::{OrderId, WarrantId};
use muster_wire::merkle::TreeHead;
use muster_wire::order::{self, Action, Admitted, Order, OrderError, Recipient};
use muster_wire::receipt::{ItemFate, Receipt, ReceiptItem, ReceiptOutcome, ReceiptPhase};
use muster_wire::warrant::Kind;

use super::super::outbox::Kept;
use super::super::record::{self, Answered, OnLapse, Record, Stopped, Taken, Under};
use super::super::schedule::Moment;
use super::super::wiping::{Hook, HookEnd};
use super::inbound::Refused;
use super::pace::{self, Room};
use super::{Effect, Incoming, LinkId, Session};

impl Session {
    /// Takes an order that came; on return it was acknowledged, unless there is no room for its receipt.
    pub(super) fn take_order(
        &mut self,
        link: LinkId,
        incoming: &Incoming,
        now: Moment,
    ) -> Result<(), Refused> {
        let order = self.believe::<Order>(&incoming.payload)?;
        if self.is_in_hand(order.id) {
            // It was taken before; the PUBACK was lost.
            self.acknowledge(link, incoming.packet);
            return Ok(());
        }
        let log_origin = format!("{}/audit", self.leaf.trust_domain);
        let admitted = order::admit(&order, &self.recipient(&log_origin), &self.lineage, now.wall);
        if self.past.finished.contains(order.id) {
            return match admitted {
                // The PUBACK was lost, and everything is over.
                Err(OrderError::Sequence) => {
                    self.acknowledge(link, incoming.packet);
                    Ok(())
                }
                Err(refusal) => Err(refusal.into()),
                Ok(_) => Err(Refused::RanBefore { order: order.id }),
            };
        }
        let admitted = admitted?;
        if let Some(warrant) = admitted.warrant.as_ref() {
            self.may_be_under(warrant.id)?;
        }
        if self.leaves_orders || !self.outbox.has_room(self.past.open.len()) {
            // Left unacknowledged, it comes again.
            self.leaves_orders = true;
            return Ok(());
        }
        if admitted.warrant.is_none() && !self.keeps_pace(now)? {
            self.acknowledge(link, incoming.packet);
            return Ok(());
        }
        let taken = taken(&order, &admitted, self.certificate(), now);
        self.record(Record::Taken(taken.clone()));
        self.acknowledge(link, incoming.packet);
        self.carry_out(&taken, now);
        Ok(())
    }

    /// Whether an order that was not taken before may be taken under `warrant`: whoever has stolen the command key makes
    /// orders of any name, but has only the warrants that were signed for something else.
    fn may_be_under(&self, warrant: WarrantId) -> Result<(), Refused> {
        if self.past.is_stopped(warrant) {
            return Err(Refused::Stopped { warrant });
        }
        if self.past.is_used(warrant) {
            return Err(Refused::Used { warrant });
        }
        Ok(())
    }

    /// Whether one more order without a warrant is taken today; the first that is not is told.
    fn keeps_pace(&mut self, now: Moment) -> Result<bool, Refused> {
        match self.pace.room(now.since_start) {
            Room::Left => self.pace.count(),
            Room::JustFull => return Err(Refused::TooMany { most: pace::A_DAY }),
            Room::Full => return Ok(false),
        }
        Ok(true)
    }

    /// This device's own serial number, written as its server writes it: in capitals or not, and known from the token alone
    /// where nobody gave it at enrolment. One that was given and is another stays this device's.
    pub(super) fn own_serial(&self) -> Option<&str> {
        let given = self.past.accepted.as_ref().and_then(|accepted| accepted.serial.as_deref());
        let certified = self.leaf.hardware_serial.as_deref();
        match (given, certified) {
            (Some(given), Some(certified)) if !is_same_serial(given, certified) => Some(given),
            (given, certified) => certified.or(given),
        }
    }

    fn recipient<'a>(&'a self, log_origin: &'a str) -> Recipient<'a> {
        let empty = TreeHead { size: 0, root: muster_wire::merkle::root_of(&[]) };
        Recipient {
            device: self.leaf.device,
            serial: self.own_serial(),
            highest: self.past.last_order.as_ref().map(Taken::sequence),
            log_origin,
            log_head: self.past.log_head().unwrap_or(empty),
        }
    }

    fn is_in_hand(&self, order: OrderId) -> bool {
        self.outbox.owes(order) || self.past.open.iter().any(|taken| taken.order == order)
    }

    /// There is room again for orders that were left: a new session brings them.
    pub(super) fn ask_for_the_left(&mut self, link: LinkId, now: Moment) {
        if self.leaves_orders && self.outbox.has_room(self.past.open.len()) {
            self.effects.push_back(Effect::Close(link));
            self.is_apart();
            self.alarms.connect = Some(now.since_start);
        }
    }

    /// Carries on with what was taken before the agent was killed.
    pub(super) fn resume_orders(&mut self, now: Moment) {
        self.resume_placing(now);
        for taken in self.past.open.clone().into_iter().filter(|taken| taken.wipe.is_none()) {
            if self.outbox.owes(taken.order) {
                self.record(Record::Answered(Answered { order: taken.order, at: now.wall }));
            } else {
                self.carry_out(&taken, now);
            }
        }
    }

    fn carry_out(&mut self, taken: &Taken, now: Moment) {
        match taken.kind {
            Kind::CollectPosture => {
                if !self.collecting.orders.contains(&taken.order) {
                    self.collecting.orders.push(taken.order);
                }
                self.collect();
                // Whoever wants to know how the device stands wants to know it of its baseline, too.
                self.alarms.drift = Some(now.since_start);
            }
            Kind::RotateIdentity if taken.certificate != self.certificate() => {
                self.answer_order(taken.order, ReceiptOutcome::Done, self.certificate(), now);
            }
            // Receipts of a wipe name the certificate in use, and the server certifies nobody whom it lets go.
            Kind::RotateIdentity if self.is_wiping() => {
                let why = "refused: this device is being wiped".to_owned();
                self.answer_unobeyed(taken.order, ReceiptOutcome::Refused, why, now);
            }
            Kind::RotateIdentity => self.renew_now(now),
            Kind::Lock => self.effects.push_back(Effect::Hook(taken.order, Hook::Lock)),
            Kind::Unlock => self.effects.push_back(Effect::Hook(taken.order, Hook::Unlock)),
            Kind::Wipe => self.go_on_wiping(now),
            Kind::WipeOnLapse => self.place(taken, now),
            Kind::Stop => self.stop_warrant(taken, now),
            kind @ (Kind::RotateSecret | Kind::UpdateTrust | Kind::UpdateAgent) => {
                let why = format!("this version of muster-agent cannot carry out {kind}");
                self.answer_unobeyed(taken.order, ReceiptOutcome::Refused, why, now);
            }
        }
    }

    /// A stopped warrant stays stopped; a wipe under it that has not begun its deed never does.
    fn stop_warrant(&mut self, taken: &Taken, now: Moment) {
        if let Some(warrant) = taken.stops {
            if !self.past.is_stopped(warrant) {
                self.record(Record::Stopped(Stopped { warrant, at: now.wall }));
            }
            self.answer_order(taken.order, ReceiptOutcome::Done, Sha256Digest::of(warrant.as_bytes()), now);
            self.unplace(|placed| placed.under.as_ref().is_some_and(|under| under.warrant == warrant), now);
            self.alarms.wipe = Some(now.since_start);
        }
    }

    /// The program that an order asked for has ended, or was not run.
    pub(super) fn hook_ran(&mut self, order: OrderId, end: HookEnd, now: Moment) {
        match end {
            HookEnd::Ran => self.answer_order(order, ReceiptOutcome::Done, Sha256Digest::of(b""), now),
            HookEnd::Refused(why) => self.answer_unobeyed(order, ReceiptOutcome::Refused, why, now),
            HookEnd::Failed(why) => self.answer_unobeyed(order, ReceiptOutcome::Failed, why, now),
        }
    }

    /// Orders to rotate that are still open: every one is done by the same renewal.
    pub(super) fn answer_rotations(&mut self, now: Moment) {
        let certificate = self.certificate();
        let open = self.past.open.iter().filter(|taken| taken.kind == Kind::RotateIdentity);
        let done: Vec<OrderId> =
            open.filter(|taken| taken.certificate != certificate).map(|taken| taken.order).collect();
        for order in done {
            self.answer_order(order, ReceiptOutcome::Done, certificate, now);
        }
    }

    /// Gives up orders to rotate that have expired, after a renewal that failed.
    pub(super) fn give_up_rotations(&mut self, now: Moment) {
        let open = self.past.open.iter().filter(|taken| taken.kind == Kind::RotateIdentity);
        let late: Vec<OrderId> =
            open.filter(|taken| now.wall > taken.expires).map(|taken| taken.order).collect();
        for order in late {
            let why = "no certificate could be had before the order expired".to_owned();
            self.answer_unobeyed(order, ReceiptOutcome::Failed, why, now);
        }
    }

    /// Whether an order to rotate is open, and the certificate it was about is still in use.
    pub(super) fn is_to_rotate(&self) -> bool {
        let certificate = self.certificate();
        let is_due = |taken: &Taken| taken.kind == Kind::RotateIdentity && taken.certificate == certificate;
        self.past.open.iter().any(is_due)
    }

    /// Owes the server a receipt, and has nothing more to do about the order.
    pub(super) fn answer_order(
        &mut self,
        order: OrderId,
        outcome: ReceiptOutcome,
        evidence: Sha256Digest,
        now: Moment,
    ) {
        self.owe(order, outcome, evidence, Vec::new(), now);
    }

    /// [`Self::answer_order`] for an order that was not carried out; the receipt's one item says why.
    pub(super) fn answer_unobeyed(
        &mut self,
        order: OrderId,
        outcome: ReceiptOutcome,
        why: String,
        now: Moment,
    ) {
        let evidence = Sha256Digest::of(why.as_bytes());
        let item = ReceiptItem { what: why, fate: ItemFate::Kept, size_bytes: 0 };
        self.owe(order, outcome, evidence, vec![item], now);
    }

    fn owe(
        &mut self,
        order: OrderId,
        outcome: ReceiptOutcome,
        evidence: Sha256Digest,
        items: Vec<ReceiptItem>,
        now: Moment,
    ) {
        let open = self.past.open.iter().find(|taken| taken.order == order);
        let warrant = open.and_then(|taken| taken.under.as_ref()).map(|under| under.sha256);
        let receipt = Receipt {
            device: self.leaf.device,
            order,
            warrant,
            level: None,
            phase: ReceiptPhase::Verified,
            outcome,
            items,
            evidence,
            previous: None,
            certificate: self.certificate(),
            last_checkpoint: self.past.log_head(),
            at: now.wall,
        };
        self.effects.push_back(Effect::Keep(Kept::Receipt(receipt.clone())));
        self.record(Record::Answered(Answered { order, at: now.wall }));
        self.outbox.put_receipt(receipt);
    }
}

/// What `order` wipes, and when, if it is such an order.
fn wipe_of(order: &Order) -> Option<record::Wipe> {
    let (level, data_roots, after_s) = match &order.action {
        Action::Wipe { level, data_roots } => (*level, data_roots.clone(), None),
        Action::WipeOnLapse { after_s, level, data_roots } => (*level, data_roots.clone(), Some(*after_s)),
        Action::RotateIdentity
        | Action::RotateSecret { .. }
        | Action::CollectPosture
        | Action::Lock
        | Action::Unlock
        | Action::Stop { .. }
        | Action::UpdateTrust { .. }
        | Action::UpdateAgent { .. } => return None,
    };
    let warrant = STANDARD.encode(order.warrant.as_deref().unwrap_or_default());
    Some(record::Wipe { level, data_roots, on_lapse: after_s.map(|after_s| OnLapse { after_s, warrant }) })
}

fn taken(order: &Order, admitted: &Admitted, certificate: Sha256Digest, now: Moment) -> Taken {
    let wipe = wipe_of(order);
    let stops = if let Action::Stop { warrant } = &order.action { Some(*warrant) } else { None };
    Taken {
        order: order.id,
        kind: order.action.kind(),
        authority_version: order.sequence.authority_version,
        restore_epoch: order.sequence.restore_epoch,
        counter: order.sequence.counter,
        log_size: admitted.log_head.size,
        log_root: admitted.log_head.root,
        certificate,
        expires: order.expires,
        at: now.wall,
        under: admitted.warrant.as_ref().map(|warrant| Under {
            warrant: warrant.id,
            sha256: warrant.payload_digest(),
            not_after: warrant.not_after,
        }),
        wipe,
        stops,
    }
}

/// Whether the two are one serial number: case and idle blanks do not count.
fn is_same_serial(one: &str, other: &str) -> bool {
    let words = |serial: &str| serial.split_whitespace().map(str::to_ascii_uppercase).collect::<Vec<_>>();
    words(one) == words(other)
}
