//! `time_sync`: what the time services leave behind in files. The kernel's own word (`adjtimex`) needs a call that
//! no safe crate in this tree offers, so a service that leaves no file stays unknown.

use muster_wire::posture::FactValue;
use muster_wire::time::Timestamp;

use super::finding::Finding;
use super::tree::Tree;

/// systemd-timesyncd touches it whenever it has set the clock.
const TIMESYNC: &str = "/run/systemd/timesync/synchronized";

/// chronyd and ntpd rewrite these while they are synchronised, hourly when anything changes.
const DRIFTS: [(&str, &str); 5] = [
    ("chrony", "/var/lib/chrony/chrony.drift"),
    ("chrony", "/var/lib/chrony/drift"),
    ("ntpsec", "/var/lib/ntpsec/ntp.drift"),
    ("ntp", "/var/lib/ntp/ntp.drift"),
    ("ntp", "/var/lib/ntp/drift"),
];

/// A drift file older than this proves nothing about now.
const FRESH_S: i64 = 24 * 3600;

/// `time_sync`.
pub(super) fn time_sync(tree: &Tree, now: Timestamp) -> Finding {
    if let Ok((at, _)) = tree.written(TIMESYNC) {
        let evidence = format!("systemd-timesyncd set the clock, last at {at}");
        return Finding::pass(FactValue::Text("systemd-timesyncd".into()), evidence).from(TIMESYNC);
    }
    let drift = DRIFTS.iter().find_map(|(service, path)| Some((service, path, tree.written(path).ok()?.0)));
    if let Some((service, path, at)) = drift {
        let age_s = now.seconds().saturating_sub(at.seconds());
        let finding = if (-3600..FRESH_S).contains(&age_s) {
            let evidence = format!("{service} noted the clock's drift at {at}");
            Finding::pass(FactValue::Text((*service).to_owned()), evidence)
        } else {
            Finding::unknown(format!("{service} last noted the clock's drift at {at}"))
        };
        return finding.from(*path);
    }
    if tree.surely_has("/run/systemd/timesync") {
        let evidence = "systemd-timesyncd runs and has not set the clock since boot";
        return Finding::fail(FactValue::Nothing, evidence).from(TIMESYNC);
    }
    let looked = "no file of systemd-timesyncd, chrony or ntp says when the clock was last set";
    Finding::unknown(looked).from(format!("{TIMESYNC}, /var/lib/chrony, /var/lib/ntp"))
}
