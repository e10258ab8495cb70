//! The audit log, followed entry by entry: it only grows, and it tells nothing that must not happen.
//!
//! Pure: entries go in, what does not hold comes out.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// What was already under way when somebody decided may still be written, for so long.
const UNDER_WAY_MS: i64 = 2000;

/// What was seen of the log so far.
#[derive(Debug, Default)]
pub(super) struct Trail {
    last: Option<Value>,
    /// When each device was revoked or superseded, unix milliseconds.
    ended: BTreeMap<String, i64>,
    /// Since when each device is held, unix milliseconds.
    held: BTreeMap<String, i64>,
    orders: BTreeSet<String>,
    /// Why orders were not carried out, and how many for each reason.
    reasons: BTreeMap<String, u64>,
}

impl Trail {
    /// The query by which the last entry seen comes again, with all that follow.
    pub(super) fn query(&self) -> String {
        let before_last = self.last.as_ref().and_then(|last| last["seq"].as_u64()?.checked_sub(1));
        before_last.map(|after| format!("&after={after}")).unwrap_or_default()
    }

    /// How many entries the log has, as far as seen.
    pub(super) fn size(&self) -> u64 {
        self.last.as_ref().and_then(|last| last["seq"].as_u64()).map_or(0, |last| last + 1)
    }

    /// Why orders were not carried out.
    pub(super) fn reasons(&self) -> &BTreeMap<String, u64> {
        &self.reasons
    }

    /// Takes in the answer to [`Trail::query`]; answers the rules that do not hold.
    pub(super) fn see(&mut self, entries: &[Value]) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        let mut entries = entries.iter();
        if let Some(last) = &self.last {
            match entries.next() {
                Some(again) if again == last => {}
                other => found.push(("the log only grows", format!("{last} is now {other:?}"))),
            }
        }
        for entry in entries {
            let (seq, expected) = (entry["seq"].as_u64(), self.size());
            if seq != Some(expected) {
                found.push(("the log only grows", format!("{seq:?} follows {expected} entries")));
            }
            self.judge(entry, &mut found);
            self.last = Some(entry.clone());
        }
        found
    }

    fn judge(&mut self, entry: &Value, found: &mut Vec<(&'static str, String)>) {
        if entry["outcome"] != "done" {
            return;
        }
        let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
        let (actor, object, action, ts) =
            (text("actor"), text("object"), text("action"), entry["ts"].as_i64().unwrap_or_default());
        let is_late = |since: Option<&i64>| since.is_some_and(|since| ts > since + UNDER_WAY_MS);
        if is_late(self.ended.get(&actor)) {
            found.push(("the ended do nothing", format!("{actor}: {entry}")));
        }
        if action == "report.event" && is_late(self.held.get(&actor)) {
            found.push(("the held may only mend themselves", format!("{actor}: {entry}")));
        }
        match text("new_state").as_str() {
            state if state.starts_with("retired") => {
                self.ended.insert(object.clone(), ts);
                self.held.remove(&object);
            }
            "quarantined" => {
                self.held.entry(object).or_insert(ts);
            }
            state @ ("done" | "refused" | "failed") => self.judge_order(entry, state, found),
            _ => {
                if text("prev_state") == "quarantined" {
                    self.held.remove(&object);
                }
            }
        }
    }

    fn judge_order(&mut self, entry: &Value, state: &str, found: &mut Vec<(&'static str, String)>) {
        let Some(order) = entry["facts"]["order"].as_str() else { return };
        if !self.orders.insert(order.to_owned()) {
            found.push(("an order ends once", format!("{order}: {entry}")));
        }
        if state != "done" {
            let reason = entry["facts"]["why"].as_str().or(entry["reason"].as_str()).unwrap_or_default();
            let kind = entry["facts"]["kind"].as_str().unwrap_or_default();
            *self.reasons.entry(format!("{kind} {state}: {reason}")).or_default() += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn entry(seq: u64, actor: &str, action: &str, states: (&str, &str)) -> Value {
        json!({
            "seq": seq, "ts": 10_000 * seq, "actor": actor, "object": "device/a", "action": action,
            "outcome": "done", "prev_state": states.0, "new_state": states.1, "facts": {"order": "o"},
        })
    }

    fn rules(rounds: &[&[Value]]) -> Vec<&'static str> {
        let mut trail = Trail::default();
        rounds.iter().flat_map(|entries| trail.see(entries)).map(|(rule, _)| rule).collect()
    }

    #[test]
    fn a_log_that_grows_is_good_and_one_with_a_gap_or_another_past_is_not() {
        let at = |seq| entry(seq, "server", "x", ("", ""));
        assert_eq!(rules(&[&[at(0), at(1)], &[at(1), at(2)]]), [""; 0]);
        assert_eq!(rules(&[&[at(0), at(2)]]), ["the log only grows"]);
        assert_eq!(rules(&[&[at(0), at(1)], &[]]), ["the log only grows"], "it lost what it had");
        let other = entry(1, "server", "y", ("", ""));
        assert_eq!(rules(&[&[at(0), at(1)], &[other]]), ["the log only grows"], "its past has changed");
    }

    #[test]
    fn it_is_asked_for_the_last_entry_once_more() {
        let mut trail = Trail::default();
        assert_eq!(trail.query(), "");
        let entries: Vec<_> = (0..3).map(|seq| entry(seq, "server", "x", ("", ""))).collect();
        assert!(trail.see(&entries).is_empty());
        assert_eq!((trail.query().as_str(), trail.size()), ("&after=1", 3));
    }

    #[test]
    fn a_device_that_acts_after_its_end_is_seen() {
        let end = entry(0, "operator/admin", "device.revoke", ("active", "retired(without_proof)"));
        let late = entry(1, "device/a", "report.state", ("", ""));
        assert_eq!(rules(&[&[end.clone(), late.clone()]]), ["the ended do nothing"]);
        let mut under_way = late;
        under_way["ts"] = json!(500);
        assert_eq!(rules(&[&[end, under_way]]), [""; 0]);
    }

    #[test]
    fn a_held_device_that_does_more_than_mend_itself_is_seen_until_it_is_released() {
        let hold = entry(0, "operator/admin", "device.quarantine", ("active", "quarantined"));
        let release = entry(1, "operator/admin", "device.release", ("quarantined", "active"));
        let event = |seq| entry(seq, "device/a", "report.event", ("", ""));
        assert_eq!(rules(&[&[hold.clone(), event(1)]]), ["the held may only mend themselves"]);
        assert_eq!(rules(&[&[hold, release, event(2)]]), [""; 0]);
    }

    #[test]
    fn an_order_with_two_ends_is_seen_and_why_it_was_not_carried_out_is_counted() {
        let ends = |seq, state| entry(seq, "device/a", "receipt.send", ("delivered", state));
        assert_eq!(rules(&[&[ends(0, "done"), ends(1, "refused")]]), ["an order ends once"]);
        let mut trail = Trail::default();
        let mut refused = ends(0, "refused");
        refused["facts"]["why"] = json!("too old");
        assert!(trail.see(&[refused]).is_empty());
        assert_eq!(trail.reasons().iter().next(), Some((&" refused: too old".to_owned(), &1)));
    }
}
