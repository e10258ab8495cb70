//! What the journal remembers, and what it adds up to.
//!
//! The journal holds decisions and proofs; the files hold keys, certificates and documents. A record is written
//! only after the files that it speaks of are durable, and everything is arranged so that losing any number of
//! records from the end costs at most a repetition: the files say the rest (see [`super::Held`]).
//!
//! **No record holds a token.** Whoever interrupted an enrolment runs the same command again and brings the token
//! along; the digest of the string is enough to know that it is the same one.

use std::collections::VecDeque;
use std::path::PathBuf;

use muster_wire::desired::Lapse;
use muster_wire::digest::Sha256Digest;
use muster_wire::id::{DeviceId, OrderId, WarrantId};
use muster_wire::merkle::TreeHead;
use muster_wire::order::Sequence;
use muster_wire::receipt::{ReceiptOutcome, ReceiptPhase};
use muster_wire::time::Timestamp;
use muster_wire::warrant::{Kind, Level};
use serde::{Deserialize, Serialize};

/// The same refusal is written down again after so many seconds.
const REFUSED_AGAIN_S: i64 = 3600;

/// One thing that happened, for good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub enum Record {
    /// A server was accepted: its root by pin, its authority by digest. Nothing has been asked of it yet.
    Accepted(Accepted),
    /// A certificate received an authenticated answer. From here on it is the one to use.
    Proven(Proven),
    /// The server refused this device's certificate. Only what `status` says follows from it.
    Refused(Refused),
    /// An order was admitted and is to be carried out. Its sequence is the highest from here on.
    Taken(Taken),
    /// The receipt for an order is durable: it will not be carried out again.
    Answered(Answered),
    /// A phase of a wipe is over, and its receipt is durable.
    Reached(Reached),
    /// Approvers have stopped a warrant: no order under it is obeyed from here on.
    Stopped(Stopped),
    /// The device's life under this server is over; its identity is destroyed next.
    Retired(Retired),
    /// The lease has lapsed; what it asks for is done next, and again after each start.
    Lapsed(Lapsed),
    /// What a lapsed lease did was taken back, since a newer word came.
    LeaseRenewed(LeaseRenewed),
    /// The wipe that waited for the lease to lapse begins. Nothing takes that back.
    Fired(Fired),
}

/// A wipe that has waited begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fired {
    /// Which order.
    pub order: OrderId,
    /// When.
    pub at: Timestamp,
}

/// A lease that lapsed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lapsed {
    /// What the device does.
    pub does: Lapse,
    /// When.
    pub at: Timestamp,
}

/// The end of a lapse.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRenewed {
    /// When.
    pub at: Timestamp,
}

/// An order that was admitted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// Its name.
    pub order: OrderId,
    /// What is to be done.
    pub kind: Kind,
    /// First part of its sequence.
    pub authority_version: u64,
    /// Second part of its sequence.
    pub restore_epoch: u64,
    /// Third part of its sequence.
    pub counter: u64,
    /// Size of the audit log that it showed.
    pub log_size: u64,
    /// Root of the audit log that it showed.
    pub log_root: Sha256Digest,
    /// The certificate in use when it came, by SHA-256 of its DER.
    pub certificate: Sha256Digest,
    /// Its last second.
    pub expires: Timestamp,
    /// When it came.
    pub at: Timestamp,
    /// The warrant that it came under, where its kind needs one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub under: Option<Under>,
    /// What is to be wiped, where it is an order to wipe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wipe: Option<Wipe>,
    /// Which warrant it stops, where it is an order to stop one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stops: Option<WarrantId>,
}

/// The warrant of an order that was admitted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Under {
    /// Its name.
    pub warrant: WarrantId,
    /// SHA-256 of its payload.
    pub sha256: Sha256Digest,
    /// Its last second.
    pub not_after: Timestamp,
}

/// What an order to wipe asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wipe {
    /// How far.
    pub level: Level,
    /// The roots of data that it names.
    pub data_roots: Vec<String>,
    /// When it begins, where that is not at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_lapse: Option<OnLapse>,
}

/// When a wipe begins that waits for the lease to lapse.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OnLapse {
    /// Once nothing newer was heard for so long, in seconds of boot time.
    pub after_s: u64,
    /// The warrant as approvers signed it, base64: it has to hold then, too.
    pub warrant: String,
}

/// How far a wipe has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reached {
    /// Which order.
    pub order: OrderId,
    /// The phase that is over.
    pub phase: ReceiptPhase,
    /// How it ended.
    pub outcome: ReceiptOutcome,
    /// SHA-256 of the payload of its receipt.
    pub receipt: Sha256Digest,
    /// SHA-256 of the evidence kept by then.
    pub evidence: Sha256Digest,
    /// The last second of the order.
    pub ends: Timestamp,
    /// When.
    pub at: Timestamp,
}

impl Reached {
    /// Whether nothing follows: the wipe is proven, refused or failed.
    pub fn is_last(&self) -> bool {
        self.phase == ReceiptPhase::Verified || self.outcome != ReceiptOutcome::Done
    }

    /// Whether everything was destroyed and looked at again.
    pub fn is_proven(&self) -> bool {
        self.phase == ReceiptPhase::Verified && self.outcome == ReceiptOutcome::Done
    }
}

/// A warrant that was stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopped {
    /// Which.
    pub warrant: WarrantId,
    /// When.
    pub at: Timestamp,
}

/// The end of a device's life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retired {
    /// The order that ended it.
    pub order: OrderId,
    /// Whether the server has signed for the last receipt; otherwise the order ended before.
    pub is_acknowledged: bool,
    /// When.
    pub at: Timestamp,
}

impl Taken {
    /// Its last second: that of its warrant, under which it is made anew as often as it expires.
    pub fn ends(&self) -> Timestamp {
        self.under.as_ref().map_or(self.expires, |under| under.not_after)
    }

    /// Its place among all orders.
    pub fn sequence(&self) -> Sequence {
        let Self { authority_version, restore_epoch, counter, .. } = *self;
        Sequence { authority_version, restore_epoch, counter }
    }

    /// The audit log that it showed.
    pub fn log_head(&self) -> TreeHead {
        TreeHead { size: self.log_size, root: self.log_root }
    }
}

/// An order whose receipt is durable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    /// Which.
    pub order: OrderId,
    /// When.
    pub at: Timestamp,
}

/// Whom this device obeys, since it was told so by an enrolment string.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// SHA-256 of the enrolment string, token included: 160 random bits keep it from being guessed.
    pub enrolment: Sha256Digest,
    /// Host of the device listener, as the string named it.
    pub host: String,
    /// Port of the device listener.
    pub port: u16,
    /// SHA-256 of the root's SubjectPublicKeyInfo.
    pub root_spki: Sha256Digest,
    /// SHA-256 of the first authority document's payload.
    pub authority: Sha256Digest,
    /// Version of the newest authority document that was verified.
    pub authority_version: u64,
    /// The name space of device names.
    pub trust_domain: String,
    /// The serial number this device gave, if any.
    pub serial: Option<String>,
    /// The tree this device manages, fixed here.
    pub root: PathBuf,
    /// The roots beneath which a command key alone may have files written, fixed here.
    #[serde(default = "declared_roots")]
    pub declared: Vec<String>,
    /// When.
    pub at: Timestamp,
}

/// The roots of those who declared none. Journals that were begun before roots were written down mean these, too.
pub(super) fn declared_roots() -> Vec<String> {
    super::baseline::DECLARED_ROOTS.iter().map(|root| (*root).to_owned()).collect()
}

impl Accepted {
    /// `host:port`, with an IPv6 address in brackets.
    pub fn place(&self) -> String {
        place(&self.host, self.port)
    }

    /// Whether the two differ in nothing but when they were made.
    pub fn says_the_same(&self, other: &Self) -> bool {
        Self { at: other.at, ..self.clone() } == *other
    }
}

/// `host:port`, with an IPv6 address in brackets.
pub fn place(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// What a device is called that the server has let in without saying what it calls it: a session says no more.
pub const ENROLLED: &str = "enrolled";

/// A certificate that works.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proven {
    /// Which certificate, by SHA-256 of its DER.
    pub certificate: Sha256Digest,
    /// The device it names.
    pub device: DeviceId,
    /// The device's state, in the server's words; [`ENROLLED`] where there were none.
    pub state: String,
    /// `mqtts://host:port` of the gate, as the server named it last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mqtt: Option<String>,
    /// When the answer came.
    pub at: Timestamp,
}

/// The server would have nothing to do with this device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// In which word.
    pub code: String,
    /// When.
    pub at: Timestamp,
}

/// Orders that were carried out or refused, so that none is twice.
///
/// The last [`REMEMBERED`](Self::REMEMBERED) ids are known by name. Of those before, the greatest is known, and nothing
/// at or below it is obeyed: ids count up with time, so a later order has a greater one. Memory stays the same however
/// many orders come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Finished {
    ids: VecDeque<OrderId>,
    forgotten: Option<OrderId>,
}

impl Finished {
    /// How many ids are known by name.
    pub const REMEMBERED: usize = 1024;

    /// Whether `order` has had its turn.
    pub fn contains(&self, order: OrderId) -> bool {
        self.forgotten.is_some_and(|greatest| order <= greatest) || self.ids.contains(&order)
    }

    fn add(&mut self, order: OrderId) {
        if self.contains(order) {
            return;
        }
        self.ids.push_back(order);
        if self.ids.len() > Self::REMEMBERED {
            self.forgotten = self.forgotten.max(self.ids.pop_front());
        }
    }
}

/// What a journal adds up to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Past {
    /// The server accepted last, if any.
    pub accepted: Option<Accepted>,
    /// The certificate proven last under that server, if any.
    pub proven: Option<Proven>,
    /// The order admitted last, if any: nothing at or below its sequence is obeyed.
    pub last_order: Option<Taken>,
    /// Orders admitted whose receipt is not durable yet, oldest first.
    pub open: Vec<Taken>,
    /// The refusal heard since then, if any.
    pub refused: Option<Refused>,
    /// Orders whose receipt is, or was, durable.
    pub finished: Finished,
    /// How far the wipe has come that was begun last.
    pub reached: Option<Reached>,
    /// The last phase of the wipe that was proven last: this life is to end.
    pub wiped: Option<Reached>,
    /// Warrants that were stopped.
    pub stopped: Vec<WarrantId>,
    /// Warrants under which an order was admitted, whatever became of it. Each took approvers' signatures, so they are few.
    pub used: Vec<WarrantId>,
    /// The end of this life, if it has come.
    pub retired: Option<Retired>,
    /// The lapse of the lease that was not taken back.
    pub lapsed: Option<Lapsed>,
    /// Whether the last order to lock or unlock was to lock.
    pub is_locked: bool,
    /// That an order to wipe on lapse was placed, by its order.
    pub placed: Option<Reached>,
    /// The order to wipe on lapse that has begun.
    pub fired: Option<OrderId>,
}

impl Past {
    /// Adds one record.
    ///
    /// A new acceptance by another string, or after the end of the former life, forgets what was proven before it; the
    /// same string accepted again (another serial number, a newer authority) forgets nothing.
    pub fn add(&mut self, record: &Record) {
        match record {
            Record::Accepted(accepted) => {
                let is_other = |former: &Accepted| former.enrolment != accepted.enrolment;
                if self.retired.is_some() || self.accepted.as_ref().is_some_and(is_other) {
                    *self = Self::default();
                }
                self.accepted = Some(accepted.clone());
            }
            Record::Proven(proven) => {
                self.proven = Some(proven.clone());
                self.refused = None;
            }
            Record::Refused(refused) => self.refused = Some(refused.clone()),
            Record::Taken(taken) => {
                if matches!(taken.kind, Kind::Lock | Kind::Unlock) {
                    self.is_locked = taken.kind == Kind::Lock;
                }
                self.used.extend(taken.under.as_ref().map(|under| under.warrant));
                self.last_order = Some(taken.clone());
                self.open.push(taken.clone());
            }
            Record::Answered(answered) => {
                self.open.retain(|taken| taken.order != answered.order);
                self.finished.add(answered.order);
            }
            Record::Reached(reached) if self.placed_order().is_some_and(|one| one.order == reached.order) => {
                self.placed = Some(reached.clone());
            }
            Record::Reached(reached) => {
                self.reached = Some(reached.clone());
                if reached.is_proven() {
                    self.wiped = Some(reached.clone());
                }
            }
            Record::Stopped(stopped) => {
                if !self.is_stopped(stopped.warrant) {
                    self.stopped.push(stopped.warrant);
                }
            }
            Record::Retired(retired) => self.retired = Some(retired.clone()),
            Record::Lapsed(lapsed) => self.lapsed = Some(lapsed.clone()),
            Record::LeaseRenewed(_) => self.lapsed = None,
            Record::Fired(fired) => {
                self.fired = Some(fired.order);
                // It is accepted anew, for what is there by now and under the certificate in use.
                (self.placed, self.reached) = (None, None);
            }
        }
    }

    /// Whether there is a life to go on with: one that was begun and has not ended.
    pub fn is_enrolled(&self) -> bool {
        self.accepted.is_some() && self.proven.is_some() && self.retired.is_none()
    }

    /// Whether `warrant` was stopped.
    pub fn is_stopped(&self, warrant: WarrantId) -> bool {
        self.stopped.contains(&warrant)
    }

    /// Whether an order under `warrant` was admitted.
    pub fn is_used(&self, warrant: WarrantId) -> bool {
        self.used.contains(&warrant)
    }

    /// The wipe in hand: the first that was taken and is not over.
    pub fn wipe(&self) -> Option<(&Taken, &Wipe)> {
        let begins = |taken: &&Taken, wipe: &Wipe| wipe.on_lapse.is_none() || self.fired == Some(taken.order);
        let wipes = self.open.iter().filter_map(|taken| Some((taken, taken.wipe.as_ref()?)));
        wipes.into_iter().find(|(taken, wipe)| begins(taken, wipe))
    }

    /// Whether a wipe is in hand, or is over and proven: nothing else changes the device then.
    pub fn is_wiping(&self) -> bool {
        self.wipe().is_some() || self.wiped.is_some()
    }

    /// The order to wipe on lapse that waits, if there is one: the last that was taken.
    pub fn placed_order(&self) -> Option<&Taken> {
        let waits = |taken: &&Taken| taken.wipe.as_ref().is_some_and(|wipe| wipe.on_lapse.is_some());
        self.open.iter().rev().filter(waits).find(|taken| self.fired != Some(taken.order))
    }

    /// How far the wipe `order` has come.
    pub fn reached(&self, order: OrderId) -> Option<&Reached> {
        self.reached.as_ref().filter(|reached| reached.order == order)
    }

    /// Whether `refused` is worth a record: a timer that asks in vain shall not fill the disk.
    pub fn is_news(&self, refused: &Refused) -> bool {
        self.proven.is_some()
            && self.refused.as_ref().is_none_or(|former| {
                former.code != refused.code || former.at.plus_seconds(REFUSED_AGAIN_S) <= refused.at
            })
    }

    /// The newest state of the audit log that was verified here; none before the first order.
    pub fn log_head(&self) -> Option<TreeHead> {
        self.last_order.as_ref().map(Taken::log_head)
    }

    /// What `records`, oldest first, add up to.
    pub fn of<'a>(records: impl IntoIterator<Item = &'a Record>) -> Self {
        let mut past = Self::default();
        records.into_iter().for_each(|record| past.add(record));
        past
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: usize) -> OrderId {
        OrderId::from_parts(n as u64, [0; 10])
    }

    #[test]
    fn every_order_that_was_finished_is_known_for_ever_and_no_later_one_is() {
        let mut finished = Finished::default();
        let all = Finished::REMEMBERED * 3;
        for n in (1..=all).map(|n| n * 2) {
            assert!(!finished.contains(id(n)));
            finished.add(id(n));
        }
        assert!((1..=all).all(|n| finished.contains(id(n * 2))));
        assert!(!finished.contains(id(all * 2 + 1)));
    }

    #[test]
    fn what_is_remembered_of_finished_orders_does_not_grow() {
        let mut finished = Finished::default();
        (0..Finished::REMEMBERED * 3).for_each(|n| finished.add(id(n)));
        assert_eq!(finished.ids.len(), Finished::REMEMBERED);
    }

    #[test]
    fn an_order_that_came_out_of_turn_is_still_unknown_while_its_neighbours_are_known_by_name() {
        let mut finished = Finished::default();
        [id(3), id(9)].into_iter().for_each(|id| finished.add(id));
        assert!(!finished.contains(id(5)));
    }
}
