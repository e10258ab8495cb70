//! What a run came to: counted while it goes on, told on one screen and as JSON.

use super::invariants::Violation;
use super::options::{Network, Options};
use super::plan::Card;
use super::snapshot::Vitals;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// Counts.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// What was done, by card.
    pub(super) done: BTreeMap<Card, u64>,
    /// What the server refused, by card and status.
    pub(super) refused: BTreeMap<(Card, u16), u64>,
    /// What nobody answered.
    pub(super) unanswered: u64,
    /// Looks at the whole installation.
    pub(super) checks: u64,
    /// Longest time between two looks while nobody had ended the server.
    pub(super) longest_gap: Duration,
    /// Longest time that the server took to come back.
    pub(super) longest_absence: Duration,
    /// Longest time that the server took to stop when asked.
    pub(super) longest_stop: Duration,
    /// Packets lost.
    pub(super) lost: u64,
    /// The most that was seen of the server.
    pub(super) peak: Vitals,
    /// Devices and how many of them were connected, at the last look.
    pub(super) devices: usize,
    pub(super) connected: usize,
    pub(super) fewest_connected: Option<usize>,
    /// Lives that ended.
    pub(super) retired: usize,
    /// Orders by phase, at the last look.
    pub(super) orders: BTreeMap<String, u64>,
    /// How long the fleet took to gather, and in the end to settle.
    pub(super) gathered: Duration,
    pub(super) settled: Option<Duration>,
    /// Entries of the audit log when its export was verified with the public key alone.
    pub(super) audited: Option<u64>,
    /// Why orders were not carried out.
    pub(super) reasons: BTreeMap<String, u64>,
}

impl Tally {
    /// One more of `card`.
    pub(super) fn count(&mut self, card: Card) {
        *self.done.entry(card).or_default() += 1;
    }

    /// Takes in what the server's process takes.
    pub(super) fn vitals(&mut self, vitals: Vitals) {
        self.peak.resident_bytes = self.peak.resident_bytes.max(vitals.resident_bytes);
        self.peak.descriptors = self.peak.descriptors.max(vitals.descriptors);
    }

    fn of(&self, cards: &[Card]) -> u64 {
        cards.iter().filter_map(|card| self.done.get(card)).sum()
    }

    /// One line for whoever watches.
    pub(super) fn progress(&self, at: Duration, violations: usize) -> String {
        let ordered: u64 = self.orders.values().sum();
        format!(
            "{:>4} s  {}/{} connected, {} ended  server {} killed {} stopped, agents {} killed {} stopped  \
             {} held {} released {} revoked  {} orders, {} done  {} packets lost  {violations} violations",
            at.as_secs(),
            self.connected,
            self.devices,
            self.retired,
            self.of(&[Card::KillServer]),
            self.of(&[Card::StopServer]),
            self.of(&[Card::KillSwarm, Card::KillAgent]),
            self.of(&[Card::StopSwarm, Card::StopAgent]),
            self.of(&[Card::Quarantine]),
            self.of(&[Card::Release]),
            self.of(&[Card::Revoke]),
            ordered,
            self.orders.get("done").unwrap_or(&0),
            self.lost,
        )
    }

    /// The whole report as JSON.
    pub(super) fn json(&self, options: &Options, violations: &[Violation]) -> Value {
        let named = |counts: &BTreeMap<Card, u64>| -> Value {
            counts.iter().map(|(card, count)| (format!("{card:?}"), Value::from(*count))).collect()
        };
        let refused: Value = self
            .refused
            .iter()
            .map(|((card, status), count)| (format!("{card:?} {status}"), Value::from(*count)))
            .collect();
        json!({
            "ok": violations.is_empty(),
            "seed": options.seed, "seconds": options.length.as_secs(), "agents": options.agents,
            "loss": options.network == Network::Lossy,
            "done": named(&self.done), "refused": refused, "unanswered": self.unanswered,
            "checks": self.checks, "longest_gap_ms": ms(self.longest_gap),
            "longest_absence_ms": ms(self.longest_absence), "longest_stop_ms": ms(self.longest_stop), "packets_lost": self.lost,
            "server": {"resident_bytes": self.peak.resident_bytes, "descriptors": self.peak.descriptors},
            "devices": self.devices, "connected": self.connected, "retired": self.retired,
            "fewest_connected": self.fewest_connected,
            "orders": self.orders, "orders_not_carried_out": self.reasons,
            "gathered_ms": ms(self.gathered), "settled_ms": self.settled.map(ms),
            "audit_entries_verified": self.audited,
            "violations": violations.iter().map(|violation| json!({
                "at_ms": ms(violation.at), "rule": violation.rule, "what": violation.what,
            })).collect::<Vec<_>>(),
        })
    }

    /// The report on one screen.
    pub(super) fn summary(&self, options: &Options, violations: &[Violation]) -> String {
        let list = |map: Vec<(String, u64)>| {
            let words: Vec<String> = map.into_iter().map(|(name, count)| format!("{name} {count}")).collect();
            if words.is_empty() { "none".to_owned() } else { words.join(", ") }
        };
        let done = self.done.iter().map(|(card, count)| (format!("{card:?}"), *count)).collect();
        let refused = self
            .refused
            .iter()
            .map(|((card, status), count)| (format!("{card:?} {status}"), *count))
            .collect();
        let clone = |map: &BTreeMap<String, u64>| map.iter().map(|(name, n)| (name.clone(), *n)).collect();
        let mut lines = vec![
            format!(
                "soak: {} s of faults, {} agents, seed {}, {} packets lost",
                options.length.as_secs(),
                options.agents,
                options.seed,
                self.lost
            ),
            format!("done         {}", list(done)),
            format!("refused      {}; unanswered {}", list(refused), self.unanswered),
            format!("orders       {}", list(clone(&self.orders))),
            format!("not done     {}", list(clone(&self.reasons))),
            format!(
                "devices      {} seen, {} ended, {} connected at the end, {} at the least",
                self.devices + self.retired,
                self.retired,
                self.connected,
                self.fewest_connected.unwrap_or(0)
            ),
            format!(
                "server       {} MiB and {} descriptors at the most; back after {} ms, stopped after {} ms",
                self.peak.resident_bytes >> 20,
                self.peak.descriptors,
                ms(self.longest_absence),
                ms(self.longest_stop)
            ),
            format!("checks       {}, {} ms apart at the most", self.checks, ms(self.longest_gap)),
            format!(
                "quiet        {}; log of {} entries verified from its export",
                self.settled.map_or("never settled".to_owned(), |settled| format!(
                    "settled after {} ms",
                    ms(settled)
                )),
                self.audited.map_or("?".to_owned(), |size| size.to_string())
            ),
            format!("violations   {}", violations.len()),
        ];
        lines.extend(violations.iter().map(|violation| {
            format!("  {:>7} ms  {}: {}", ms(violation.at), violation.rule, violation.what)
        }));
        lines.join("\n")
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_with_a_violation_is_not_ok_and_names_it_everywhere() {
        let options = Options::read([], 4).unwrap();
        let tally = Tally::default();
        assert_eq!(tally.json(&options, &[])["ok"], true);
        let violation =
            Violation { at: Duration::from_secs(3), rule: "nothing panics", what: "server: ouch".into() };
        let report = tally.json(&options, std::slice::from_ref(&violation));
        assert_eq!((&report["ok"], &report["seed"]), (&false.into(), &4.into()));
        assert_eq!(report["violations"][0]["what"], "server: ouch");
        assert!(tally.summary(&options, &[violation]).contains("3000 ms  nothing panics: server: ouch"));
    }

    #[test]
    fn what_is_counted_is_told() {
        let mut tally = Tally::default();
        tally.count(Card::KillServer);
        tally.count(Card::KillServer);
        assert!(tally.progress(Duration::from_secs(7), 1).contains("server 2 killed"));
        assert_eq!(tally.json(&Options::read([], 1).unwrap(), &[])["done"]["KillServer"], 2);
    }
}
