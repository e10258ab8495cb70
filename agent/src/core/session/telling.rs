//! What the agent tells of its device, and when it is allowed to.
//!
//! Reports and events wait in the outbox until the session lets them be said. The server says what it will hear by what it
//! will speak: whoever is not granted `desired` is being let go (contract.md, "Certificate status × door") and sends
//! receipts, nothing else; whoever is not even granted `order` may only renew.

use muster_wire::desired::Intervals;
use muster_wire::digest::Sha256Digest;
use muster_wire::id::ReportId;
use muster_wire::posture::{EventKind, EventReport, Fact, PostureReport, StateReport};
use muster_wire::receipt::ReceiptOutcome;
use muster_wire::topic::Channel;
use sha2::{Digest as _, Sha256};

use super::super::outbox::{EntryId, Kept, Letters};
use super::super::record::Record;
use super::super::schedule::{self, Moment, UNTOLD};
use super::{Effect, LinkId, Session, Shown, unix_ms};

/// No event says more; some of it was written by whoever sent the message that it is about.
pub(super) const DETAIL_CHARS: usize = 240;

/// As much of `detail` as an event says.
pub(super) fn cut(detail: &str) -> String {
    detail.chars().take(DETAIL_CHARS).collect()
}

impl Session {
    /// The server has said on which channels it will speak.
    pub(super) fn granted(&mut self, link: LinkId, channels: &[Channel]) {
        if self.live() != Some(link) {
            return;
        }
        self.letters = match (channels.contains(&Channel::Desired), channels.contains(&Channel::Order)) {
            (true, _) => Letters::All,
            (false, true) => Letters::Receipts,
            (false, false) => Letters::None,
        };
        self.is_let_go = self.is_farewell();
    }

    /// Whether the server hears nothing but receipts: the device is being let go.
    pub(super) fn is_farewell(&self) -> bool {
        self.letters == Letters::Receipts
    }

    pub(super) fn send(&mut self) {
        let Some(link) = self.live() else { return };
        while let Some(message) = self.outbox.next(self.leaf.sha256, self.letters) {
            self.effects.push_back(Effect::Publish(link, message));
        }
    }

    pub(super) fn confirmed(&mut self, link: LinkId, id: EntryId, now: Moment) {
        if self.live() != Some(link) {
            return;
        }
        self.last_contact = Some(now.wall);
        if let Some(id) = self.outbox.confirmed(id) {
            self.effects.push_back(Effect::Drop(id));
        }
    }

    pub(super) fn intervals(&self) -> Intervals {
        self.in_force.head.as_ref().map_or(UNTOLD, |head| head.intervals)
    }

    /// Looks at the device's state now and tells it; the next time is an interval away.
    pub(super) fn report_state(&mut self, now: Moment) {
        self.alarms.state =
            Some(now.since_start + schedule::interval(self.intervals().state_s, now.jitter()));
        let report = StateReport {
            device: self.leaf.device,
            id: self.report_id(now),
            generation: self.in_force.generation(),
            drift: self.drift.clone(),
            agent_version: self.agent_version.clone(),
            last_checkpoint: self.past.log_head(),
            at: now.wall,
        };
        self.reported = Some(report.generation);
        self.outbox.put_state(report);
    }

    pub(super) fn collect(&mut self) {
        if !self.collecting.is_asked {
            self.collecting.is_asked = true;
            self.effects.push_back(Effect::Collect);
        }
    }

    pub(super) fn collected(&mut self, facts: Vec<Fact>, now: Moment) {
        self.collecting.is_asked = false;
        self.alarms.posture =
            Some(now.since_start + schedule::interval(self.intervals().posture_s, now.jitter()));
        let report = PostureReport { device: self.leaf.device, id: self.report_id(now), facts, at: now.wall };
        let evidence = muster_wire::envelope::payload_digest(&report);
        self.outbox.put_posture(report);
        for order in std::mem::take(&mut self.collecting.orders) {
            self.answer_order(order, ReceiptOutcome::Done, evidence, now);
        }
    }

    /// Tells, once, that something happened; the oldest event gives way when there are too many.
    pub(super) fn tell(&mut self, kind: EventKind, detail: &str, now: Moment) {
        let detail = cut(detail);
        if self.outbox.says(kind, &detail) {
            return;
        }
        let id = self.report_id(now);
        let report = EventReport { device: self.leaf.device, id, kind, detail, at: now.wall };
        self.effects.push_back(Effect::Keep(Kept::Event(report.clone())));
        if let Some(former) = self.outbox.put_event(report) {
            self.effects.push_back(Effect::Drop(former));
        }
    }

    pub(super) fn record(&mut self, record: Record) {
        self.past.add(&record);
        self.effects.push_back(Effect::Record(record));
    }

    pub(super) fn show(&mut self) {
        let shown = Shown {
            connected: self.live().is_some(),
            generation: self.in_force.generation(),
            checkpoint: self.past.log_head(),
            last_contact: self.shown.last_contact,
            stale: self.past.lapsed.is_some(),
            is_let_go: self.is_let_go,
            refused: self.refused.clone(),
            not_taken: self.not_taken.clone(),
        };
        // When contact was last had is written along with something else, not for its own sake.
        if shown != self.shown {
            self.shown = Shown { last_contact: self.last_contact, ..shown };
            self.effects.push_back(Effect::Show(self.shown.clone()));
        }
    }

    pub(super) fn report_id(&mut self, now: Moment) -> ReportId {
        ReportId::from_parts(unix_ms(now), self.draw(now))
    }

    /// Ten bytes that no other draw gives.
    pub(super) fn draw(&mut self, now: Moment) -> [u8; 10] {
        self.drawn += 1;
        let digest: [u8; 32] =
            Sha256::new().chain_update(now.random).chain_update(self.drawn.to_be_bytes()).finalize().into();
        let mut drawn = [0; 10];
        drawn.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
        drawn
    }

    pub(super) fn certificate(&self) -> Sha256Digest {
        self.leaf.sha256
    }
}
