//! What the server has to be told and has not confirmed.
//!
//! ```text
//! report ──▶ waiting ──▶ in flight ──PUBACK──▶ gone                         (session lost: waiting again)
//! receipt ─▶ waiting ──▶ in flight ──PUBACK──▶ told ──signed `ack`──▶ gone  (session lost: waiting again)
//! ```
//! State and posture are kept in memory, the newest of each: a killed agent looks again, and the older one is no longer
//! true. Events and receipts cannot be had again, so they are on disk before anything else happens. Everything is
//! bounded: beyond [`MAX_EVENTS`] the oldest event gives way, and an order beyond [`MAX_RECEIPTS`] waits at the server.

use std::collections::VecDeque;

use muster_wire::cbor;
use muster_wire::digest::Sha256Digest;
use muster_wire::id::{OrderId, ReportId, RequestId};
use muster_wire::posture::{EventKind, EventReport, PostureReport, StateReport};
use muster_wire::receipt::{Receipt, ReceiptPhase};
use muster_wire::renew::Renew;
use muster_wire::topic::Channel;

/// No more events wait than this.
pub const MAX_EVENTS: usize = 32;
/// No more receipts wait than this.
pub const MAX_RECEIPTS: usize = 32;
/// No more messages are unconfirmed at once than this.
pub const WINDOW: usize = 8;

/// Which message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EntryId {
    /// A state report.
    State(ReportId),
    /// A posture report.
    Posture(ReportId),
    /// An event report.
    Event(ReportId),
    /// The receipt for a phase of an order.
    Receipt(OrderId, ReceiptPhase),
    /// A request for a certificate.
    Renew(RequestId),
}

/// What is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// These bytes.
    Plain(Vec<u8>),
    /// A receipt, which the key in use signs.
    Receipt(Box<Receipt>),
    /// A request, which the key in use signs.
    Renew(Box<Renew>),
}

/// A message on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Which.
    pub id: EntryId,
    /// Where to.
    pub channel: Channel,
    /// What.
    pub body: Body,
}

/// What an event or a receipt is kept as on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// An event.
    Event(EventReport),
    /// A receipt.
    Receipt(Receipt),
}

impl Kept {
    /// Its name.
    pub fn id(&self) -> EntryId {
        match self {
            Self::Event(report) => EntryId::Event(report.id),
            Self::Receipt(receipt) => receipt_id(receipt),
        }
    }

    /// Its bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Event(report) => cbor::encode(report),
            Self::Receipt(receipt) => cbor::encode(receipt),
        }
    }
}

fn receipt_id(receipt: &Receipt) -> EntryId {
    EntryId::Receipt(receipt.order, receipt.phase)
}

/// What a session lets be said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Letters {
    /// Nothing, or nothing is known yet.
    #[default]
    None,
    /// Receipts and nothing else: the device is being let go.
    Receipts,
    /// Everything.
    All,
}

/// Where a receipt has got to.
#[derive(Clone, Debug)]
struct Owed {
    receipt: Receipt,
    is_told: bool,
}

/// The outbox.
#[derive(Clone, Debug, Default)]
pub struct Outbox {
    state: Option<StateReport>,
    posture: Option<PostureReport>,
    events: VecDeque<EventReport>,
    receipts: Vec<Owed>,
    in_flight: Vec<EntryId>,
}

impl Outbox {
    /// An outbox that was found on disk.
    pub fn found(kept: impl IntoIterator<Item = Kept>) -> Self {
        let mut outbox = Self::default();
        for entry in kept {
            match entry {
                Kept::Event(report) => outbox.events.push_back(report),
                Kept::Receipt(receipt) => outbox.receipts.push(Owed { receipt, is_told: false }),
            }
        }
        // Receipts of one order are a chain, and leave in its order.
        outbox.receipts.sort_by_key(|owed| (owed.receipt.order, owed.receipt.phase));
        outbox
    }

    /// Puts in the newest state report; an older one is forgotten.
    pub fn put_state(&mut self, report: StateReport) {
        self.state = Some(report);
    }

    /// Puts in the newest posture report; an older one is forgotten.
    pub fn put_posture(&mut self, report: PostureReport) {
        self.posture = Some(report);
    }

    /// Puts in an event. Answers the one that gave way to it, if any.
    pub fn put_event(&mut self, report: EventReport) -> Option<EntryId> {
        let full = self.events.len() >= MAX_EVENTS;
        let given_way = if full { self.events.pop_front() } else { None };
        self.events.push_back(report);
        given_way.map(|former| EntryId::Event(former.id))
    }

    /// Whether an event of this kind and detail waits.
    pub fn says(&self, kind: EventKind, detail: &str) -> bool {
        self.events.iter().any(|waiting| waiting.kind == kind && waiting.detail == detail)
    }

    /// How many more events it takes before the oldest gives way.
    pub fn room_for_events(&self) -> usize {
        MAX_EVENTS.saturating_sub(self.events.len())
    }

    /// Puts in a receipt.
    pub fn put_receipt(&mut self, receipt: Receipt) {
        self.receipts.push(Owed { receipt, is_told: false });
    }

    /// The receipt for `phase` of `order` is not sent any more. Answers what is to be removed from disk, if anything.
    pub fn withdraw(&mut self, order: OrderId, phase: ReceiptPhase) -> Option<EntryId> {
        let id = EntryId::Receipt(order, phase);
        let before = self.receipts.len();
        self.receipts.retain(|owed| receipt_id(&owed.receipt) != id);
        (self.receipts.len() < before).then_some(id)
    }

    /// Whether one more order may be taken.
    pub fn has_room(&self, open: usize) -> bool {
        self.receipts.len() + open < MAX_RECEIPTS
    }

    /// Whether a receipt for `order` is owed.
    pub fn owes(&self, order: OrderId) -> bool {
        self.newest(order).is_some()
    }

    /// The receipt owed for the latest phase of `order`.
    pub fn newest(&self, order: OrderId) -> Option<&Receipt> {
        let of = self.receipts.iter().map(|owed| &owed.receipt).filter(|receipt| receipt.order == order);
        of.max_by_key(|receipt| receipt.phase)
    }

    /// The next message that `letters` lets be sent, from now on in flight. `certificate` is the one in use: receipts
    /// name it, but for those of a wipe, which are a chain and name the one under which they were written.
    pub fn next(&mut self, certificate: Sha256Digest, letters: Letters) -> Option<Message> {
        if self.in_flight.len() >= WINDOW {
            return None;
        }
        let message = match letters {
            Letters::None => None,
            Letters::Receipts => self.waiting_receipt(certificate),
            Letters::All => self.waiting_report().or_else(|| self.waiting_receipt(certificate)),
        }?;
        self.in_flight.push(message.id);
        Some(message)
    }

    fn waiting_report(&self) -> Option<Message> {
        let flying = |id: &EntryId| self.in_flight.contains(id);
        let plain = |id, channel, bytes| Some(Message { id, channel, body: Body::Plain(bytes) });
        if let Some(report) = self.state.as_ref().filter(|report| !flying(&EntryId::State(report.id))) {
            return plain(EntryId::State(report.id), Channel::ReportState, cbor::encode(report));
        }
        if let Some(report) = self.posture.as_ref().filter(|report| !flying(&EntryId::Posture(report.id))) {
            return plain(EntryId::Posture(report.id), Channel::ReportPosture, cbor::encode(report));
        }
        if let Some(report) = self.events.iter().find(|report| !flying(&EntryId::Event(report.id))) {
            return plain(EntryId::Event(report.id), Channel::ReportEvent, cbor::encode(report));
        }
        None
    }

    fn waiting_receipt(&mut self, certificate: Sha256Digest) -> Option<Message> {
        let in_flight = &self.in_flight;
        let waits = |owed: &&mut Owed| !owed.is_told && !in_flight.contains(&receipt_id(&owed.receipt));
        let owed = self.receipts.iter_mut().find(waits)?;
        if owed.receipt.level.is_none() {
            owed.receipt.certificate = certificate;
        }
        let body = Body::Receipt(Box::new(owed.receipt.clone()));
        Some(Message { id: receipt_id(&owed.receipt), channel: Channel::Receipt, body })
    }

    /// The server has `id`. Answers what is to be removed from disk, if anything.
    pub fn confirmed(&mut self, id: EntryId) -> Option<EntryId> {
        self.in_flight.retain(|flying| *flying != id);
        match id {
            EntryId::State(report) => self.state = self.state.take().filter(|kept| kept.id != report),
            EntryId::Posture(report) => self.posture = self.posture.take().filter(|kept| kept.id != report),
            EntryId::Event(report) => {
                let before = self.events.len();
                self.events.retain(|kept| kept.id != report);
                return (self.events.len() < before).then_some(id);
            }
            EntryId::Receipt(..) => {
                let owed = self.receipts.iter_mut().filter(|owed| receipt_id(&owed.receipt) == id);
                owed.for_each(|owed| owed.is_told = true);
            }
            EntryId::Renew(_) => {}
        }
        None
    }

    /// The server has said under its command key that it has the receipt with the payload digest `digest`. Answers
    /// what is to be removed from disk: nothing when that is not the receipt that was sent.
    pub fn acknowledged(&mut self, order: OrderId, digest: Sha256Digest) -> Option<EntryId> {
        let is_it = |owed: &Owed| {
            owed.receipt.order == order && muster_wire::envelope::payload_digest(&owed.receipt) == digest
        };
        let at = self.receipts.iter().position(is_it)?;
        Some(receipt_id(&self.receipts.remove(at).receipt))
    }

    /// The session is gone: whatever was not confirmed waits again.
    pub fn lost(&mut self) {
        self.in_flight.clear();
        self.receipts.iter_mut().for_each(|owed| owed.is_told = false);
    }

    /// Receipts that the server took long ago and never signed for are sent once more.
    pub fn remind(&mut self) {
        self.receipts.iter_mut().for_each(|owed| owed.is_told = false);
    }

    /// Whether nothing waits and nothing is in flight.
    pub fn is_empty(&self) -> bool {
        let reports = self.state.is_none() && self.posture.is_none();
        reports && self.events.is_empty() && self.receipts.is_empty()
    }
}

#[cfg(test)]
#[path = "outbox_tests.rs"]
mod tests;
