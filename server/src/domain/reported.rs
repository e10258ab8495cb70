//! What a device says of itself, bounded and made safe to show, and the guard that no older word undoes a newer one.
//!
//! The device is whoever owns it: every string here was written by a stranger. [`plain`] is the only way in.

use super::refusal::Refusal;
use muster_wire::desired::{Generation, SectionKind};
use muster_wire::digest::Sha256Digest;
use muster_wire::id::ReportId;
use muster_wire::merkle::TreeHead;
use muster_wire::posture::StateReport;
use muster_wire::problem::Code;
use serde::{Deserialize, Serialize};

/// Differences that are kept of one report; the others are counted.
pub const DRIFT_KEPT: usize = 12;

/// Longest name of a difference, in bytes.
const ITEM_BYTES: usize = 96;

/// Longest version of an agent, in bytes.
const VERSION_BYTES: usize = 64;

/// How far a device may be ahead of what was ever asked of it, in generations. A store restored from a backup lags by
/// as many as were set since; a device that claims more wants to use up the numbers.
pub const AHEAD_MAX: u64 = 1 << 20;

/// `text` with whatever could move a cursor, reverse a line or hide replaced, cut after at most `limit` bytes.
pub fn plain(text: &str, limit: usize) -> String {
    let mut shown = String::with_capacity(text.len().min(limit));
    for character in text.chars().map(|c| if is_plain(c) { c } else { char::REPLACEMENT_CHARACTER }) {
        if shown.len() + character.len_utf8() > limit {
            break;
        }
        shown.push(character);
    }
    shown
}

/// Control characters, line and paragraph separators, what changes the direction of writing and what has no width
/// are not.
fn is_plain(c: char) -> bool {
    !c.is_control()
        && !matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// A generation as records keep it: restore epoch, counter.
pub type Kept = (u64, u64);

/// What a device has that says it has none: below every generation there is.
const NOTHING: Kept = (0, 0);

/// What records keep of `generation`.
pub fn kept(generation: Generation) -> Kept {
    (generation.restore_epoch, generation.counter)
}

/// The generation that a record keeps as `kept`.
pub fn generation((restore_epoch, counter): Kept) -> Generation {
    Generation { restore_epoch, counter }
}

/// A difference between desired and found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriftNote {
    /// In which section.
    pub section: SectionKind,
    /// What: a path, a key.
    pub item: String,
}

/// A checkpoint that a device says it has verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// How many entries.
    pub size: u64,
    /// The root.
    pub root: Sha256Digest,
}

impl From<TreeHead> for Seen {
    fn from(head: TreeHead) -> Self {
        Self { size: head.size, root: head.root }
    }
}

/// The last state report of a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reported {
    /// Version of this record's form.
    pub v: u8,
    /// The highest generation it has ever reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<Kept>,
    /// The lower one that it says is in place now, if it went back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolled_back: Option<Kept>,
    /// The counter that it reported although nobody had asked for it: the server's store is older than the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ahead: Option<u64>,
    /// The first differences.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drift: Vec<DriftNote>,
    /// The sections in which there are any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drifting: Vec<SectionKind>,
    /// How many there are.
    #[serde(default)]
    pub drift_total: u64,
    /// The agent's version.
    pub agent_version: String,
    /// The last checkpoint it verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<Seen>,
    /// When it reported, by its own clock, unix seconds.
    pub at: i64,
    /// When the report came, unix milliseconds.
    pub received_at: i64,
    /// The report's name.
    pub last_report: ReportId,
}

impl Reported {
    /// The generation that is in place.
    pub fn in_place(&self) -> Option<Generation> {
        self.rolled_back.or(self.generation).map(generation)
    }

    /// Whether generation, drift or agent differ from what was reported `before`: what the audit log is told of.
    pub fn differs_from(&self, before: Option<&Self>) -> bool {
        before.is_none_or(|before| {
            self.in_place() != before.in_place()
                || self.drifting != before.drifting
                || self.agent_version != before.agent_version
        })
    }
}

/// Events that are remembered as taken, for each device.
const EVENTS_REMEMBERED: usize = 16;

/// The latest events of a device that were taken: one that comes again changes nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventsTaken {
    /// Version of this record's form.
    pub v: u8,
    /// Their names, the latest last.
    pub ids: Vec<ReportId>,
}

impl EventsTaken {
    /// With `id` as the latest; `None` when it is among them.
    pub fn with(&self, id: ReportId) -> Option<Self> {
        if self.ids.contains(&id) {
            return None;
        }
        let forgotten = (self.ids.len() + 1).saturating_sub(EVENTS_REMEMBERED);
        let mut ids: Vec<ReportId> = self.ids.iter().skip(forgotten).copied().collect();
        ids.push(id);
        Some(Self { v: 1, ids })
    }
}

/// What becomes of a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It was taken already, or was overtaken by a newer one: nothing changes.
    Known,
    /// It is the newest.
    New(Box<Reported>),
}

/// The counter that a device should have when its profile stands at `counter`: above the one that it reported without
/// having been asked.
pub fn counter_for(counter: u64, reported: Option<&Reported>) -> u64 {
    match reported.and_then(|reported| reported.ahead) {
        Some(ahead) if ahead >= counter => ahead.saturating_add(1),
        Some(_) | None => counter,
    }
}

/// Decides what becomes of `report`, received at `received_ms`, when `held` is the last one and the profile of the
/// device stands at `counter`.
///
/// # Errors
/// [`Code::Conflict`] for a generation that no server of ours can have asked for.
pub fn take(
    held: Option<&Reported>,
    report: &StateReport,
    counter: u64,
    received_ms: i64,
) -> Result<Taken, Refusal> {
    if held.is_some_and(|held| held.last_report == report.id) {
        return Ok(Taken::Known);
    }
    let before = held.and_then(|held| held.generation).map(generation);
    let older = before.is_some_and(|before| report.generation.is_none_or(|now| now < before));
    if older && held.is_some_and(|held| report.at.seconds() < held.at) {
        return Ok(Taken::Known);
    }
    let asked = counter_for(counter, held);
    if let Some(now) = report.generation
        && (now.restore_epoch > 0 || now.counter > asked.saturating_add(AHEAD_MAX))
    {
        return Err(Refusal::by("report.generation", Code::Conflict).at("generation"));
    }
    let ahead = report.generation.map(|now| now.counter).filter(|now| *now > asked);
    let mut drifting: Vec<SectionKind> = report.drift.iter().map(|drift| drift.section).collect();
    drifting.sort_unstable();
    drifting.dedup();
    let first = report.drift.iter().take(DRIFT_KEPT);
    Ok(Taken::New(Box::new(Reported {
        v: 1,
        generation: before.max(report.generation).map(kept),
        rolled_back: older.then(|| report.generation.map_or(NOTHING, kept)),
        ahead: ahead.or_else(|| held.and_then(|held| held.ahead)),
        drift: first
            .map(|drift| DriftNote { section: drift.section, item: plain(&drift.item, ITEM_BYTES) })
            .collect(),
        drifting,
        drift_total: u64::try_from(report.drift.len()).unwrap_or(u64::MAX),
        agent_version: plain(&report.agent_version, VERSION_BYTES),
        checkpoint: report.last_checkpoint.map(Seen::from).or_else(|| held.and_then(|held| held.checkpoint)),
        at: report.at.seconds(),
        received_at: received_ms,
        last_report: report.id,
    })))
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_wire::id::DeviceId;
    use muster_wire::posture::Drift;
    use muster_wire::time::Timestamp;
    use proptest::prelude::*;

    fn report(id: u8, counter: Option<u64>, at: i64) -> StateReport {
        StateReport {
            device: DeviceId::from_bytes([1; 16]),
            id: ReportId::from_bytes([id; 16]),
            generation: counter.map(|counter| Generation { restore_epoch: 0, counter }),
            drift: Vec::new(),
            agent_version: "1.0".into(),
            last_checkpoint: None,
            at: Timestamp(at),
        }
    }

    fn new(taken: Taken) -> Reported {
        match taken {
            Taken::New(reported) => *reported,
            Taken::Known => panic!("the report was taken as known"),
        }
    }

    #[test]
    fn the_same_report_again_is_known() {
        let held = new(take(None, &report(1, Some(1), 5), 1, 5_000).unwrap());
        assert_eq!(take(Some(&held), &report(1, Some(1), 5), 1, 9_000).unwrap(), Taken::Known);
    }

    #[test]
    fn an_overtaken_report_is_known_and_a_step_back_is_shown_as_one() {
        let held = new(take(None, &report(1, Some(7), 50), 7, 0).unwrap());
        assert_eq!(take(Some(&held), &report(2, Some(6), 49), 7, 0).unwrap(), Taken::Known);
        let back = new(take(Some(&held), &report(3, Some(6), 51), 7, 0).unwrap());
        assert_eq!((back.generation, back.rolled_back), (Some((0, 7)), Some((0, 6))));
        assert_eq!(back.in_place().unwrap().counter, 6);
        let again = new(take(Some(&back), &report(4, Some(7), 52), 7, 0).unwrap());
        assert_eq!(again.rolled_back, None);
    }

    #[test]
    fn a_device_ahead_of_a_restored_store_is_asked_for_more_than_it_has() {
        let held = new(take(None, &report(1, Some(40), 5), 3, 0).unwrap());
        assert_eq!(counter_for(3, Some(&held)), 41);
        let there = new(take(Some(&held), &report(2, Some(41), 6), 3, 0).unwrap());
        assert_eq!(counter_for(3, Some(&there)), 41);
        assert_eq!(counter_for(42, Some(&there)), 42);
    }

    #[test]
    fn a_device_cannot_use_up_the_numbers() {
        for claimed in [AHEAD_MAX + 2, u64::MAX] {
            assert!(take(None, &report(1, Some(claimed), 5), 1, 0).is_err(), "{claimed}");
        }
        let epoch = StateReport {
            generation: Some(Generation { restore_epoch: 1, counter: 1 }),
            ..report(1, None, 5)
        };
        assert!(take(None, &epoch, 1, 0).is_err());
    }

    #[test]
    fn an_event_is_taken_once_and_the_list_stays_short() {
        let mut taken = EventsTaken::default();
        for id in 0..40 {
            taken = taken.with(ReportId::from_bytes([id; 16])).unwrap();
            assert_eq!(taken.with(ReportId::from_bytes([id; 16])), None);
        }
        assert_eq!(taken.ids.len(), EVENTS_REMEMBERED);
    }

    #[test]
    fn what_a_device_writes_is_plain_and_short() {
        assert_eq!(plain("a\u{1b}[2Jb\n\u{202e}c\u{200b}", 99), "a\u{fffd}[2Jb\u{fffd}\u{fffd}c\u{fffd}");
        assert_eq!(plain("ééé", 5), "éé");
        let drift = (0..50).map(|_| Drift { section: SectionKind::Files, item: "\"".repeat(4_000) });
        let report = StateReport { drift: drift.collect(), ..report(1, Some(1), 5) };
        let reported = new(take(None, &report, 1, 0).unwrap());
        assert_eq!((reported.drift.len(), reported.drift_total), (DRIFT_KEPT, 50));
        assert!(serde_json::to_vec(&reported).unwrap().len() < 3_500);
    }

    proptest! {
        #[test]
        fn nothing_older_is_ever_accepted(reports in proptest::collection::vec((0u64..12, 0i64..20), 1..40)) {
            let mut held: Option<Reported> = None;
            for (id, (counter, at)) in reports.into_iter().enumerate() {
                let before = held.as_ref().and_then(|held| held.generation);
                let taken = take(held.as_ref(), &report(id as u8, Some(counter), at), 20, 0).unwrap();
                if let Taken::New(next) = taken {
                    prop_assert!(next.generation >= before);
                    prop_assert_eq!(next.in_place().unwrap().counter, counter);
                    held = Some(*next);
                }
            }
        }

        #[test]
        fn plain_text_stays_within_its_limit_and_holds_no_control(text: String, limit in 0usize..64) {
            let shown = plain(&text, limit);
            prop_assert!(shown.len() <= limit && !shown.chars().any(char::is_control));
        }
    }
}
