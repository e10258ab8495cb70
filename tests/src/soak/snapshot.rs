//! What can be seen of the installation at one moment, read from the server's own words.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A device, as the server shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) id: String,
    pub(super) asset: Option<String>,
    pub(super) state: String,
    pub(super) retirement: Option<String>,
    pub(super) connected: bool,
    /// Serial number of its current, else of its issued or last certificate.
    pub(super) serial: Option<String>,
    pub(super) status: String,
    pub(super) held: bool,
    pub(super) desired: Option<u64>,
    pub(super) reported: Option<u64>,
}

/// An order, as the server shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) id: String,
    pub(super) device: String,
    pub(super) kind: String,
    pub(super) phase: String,
    pub(super) sequence: u64,
}

/// What the server's process takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Vitals {
    pub(super) resident_bytes: u64,
    pub(super) descriptors: u64,
}

/// One moment. What was not looked at is `None`.
#[derive(Clone, Debug, Default)]
pub(super) struct Snapshot {
    /// Since the beginning of the run, when looking began.
    pub(super) at: Duration,
    pub(super) devices: Option<Vec<Device>>,
    pub(super) orders: Option<Vec<Order>>,
    /// Tokens by id, with their state.
    pub(super) tokens: Option<BTreeMap<String, String>>,
    /// Generation by profile.
    pub(super) generations: Option<BTreeMap<String, u64>>,
    /// Serial numbers on the revocation lists that were fetched, by the lists' last two digits.
    pub(super) lists: BTreeMap<String, BTreeSet<String>>,
    pub(super) vitals: Option<Vitals>,
    /// Figures that are an alarm unless they are 0.
    pub(super) alarms: BTreeMap<String, u64>,
    /// New lines of any log that tell of a panic, with the log's name.
    pub(super) panics: Vec<String>,
    /// What somebody noticed who is no part of this: a process that ended by itself, a log that does not verify.
    pub(super) noticed: Vec<(&'static str, String)>,
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn some_text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

impl Device {
    /// The device in `shown`, as `GET /v1/devices` has it.
    pub(super) fn read(shown: &Value) -> Self {
        let certificate = &shown["certificate"];
        Self {
            id: text(&shown["id"]),
            asset: some_text(&shown["asset"]),
            state: text(&shown["state"]),
            retirement: some_text(&shown["retirement"]),
            connected: shown["connected"] == true,
            serial: some_text(&certificate["serial"]),
            status: text(&certificate["status"]),
            held: certificate["held"] == true,
            desired: shown["generation"]["desired"].as_u64(),
            reported: shown["generation"]["reported"].as_u64(),
        }
    }

    /// Whether its life goes on.
    pub(super) fn is_open(&self) -> bool {
        !matches!(self.state.as_str(), "retired" | "cancelled")
    }

    /// Whether nothing is left to be done for it: it is connected, as it should be, and passes muster.
    pub(super) fn is_settled(&self) -> bool {
        self.connected && self.state == "active" && self.desired.is_some() && self.desired == self.reported
    }
}

impl Order {
    /// The order in `shown`, as `GET /v1/orders` has it.
    pub(super) fn read(shown: &Value) -> Self {
        Self {
            id: text(&shown["id"]),
            device: text(&shown["device"]),
            kind: text(&shown["kind"]),
            phase: text(&shown["phase"]),
            sequence: shown["sequence"].as_u64().unwrap_or_default(),
        }
    }

    /// Whether the device has said how it ended.
    pub(super) fn has_ended(&self) -> bool {
        matches!(self.phase.as_str(), "done" | "refused" | "failed")
    }
}

impl Vitals {
    /// Of the process `pid`; `None` when it is gone.
    pub(super) fn of(pid: u32) -> Option<Self> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count() as u64;
        Some(Self { resident_bytes: kib * 1024, descriptors })
    }
}

/// Figures in Prometheus' text format that are alarms.
pub(super) fn alarms(metrics: &str) -> BTreeMap<String, u64> {
    let alarms = ["muster_store_stray_values"];
    let figures = metrics.lines().filter_map(|line| line.split_once(' '));
    figures
        .filter(|(name, _)| alarms.contains(name))
        .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
        .collect()
}

/// The serial numbers in a revocation list, 32 hexadecimal digits each; `None` when it is none.
pub(super) fn listed(der: &[u8]) -> Option<BTreeSet<String>> {
    use x509_parser::prelude::{CertificateRevocationList, FromDer};
    let (_, list) = CertificateRevocationList::from_der(der).ok()?;
    Some(list.iter_revoked_certificates().map(|entry| hex::encode(entry.raw_serial())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_device_is_read_from_what_the_server_shows() {
        let shown = json!({
            "id": "d", "asset": "a", "state": "active", "retirement": null, "connected": true,
            "certificate": {"serial": "0f", "status": "current", "held": false},
            "generation": {"desired": 3, "reported": 3},
        });
        let device = Device::read(&shown);
        assert!(device.is_open() && device.is_settled());
        assert_eq!((device.asset.as_deref(), device.serial.as_deref()), (Some("a"), Some("0f")));
        assert!(!Device { reported: Some(2), ..device.clone() }.is_settled());
        assert!(!Device { state: "retired".into(), ..device }.is_open());
    }

    #[test]
    fn an_order_has_ended_when_the_device_has_said_how() {
        let order = |phase: &str| Order::read(&json!({"id": "o", "phase": phase, "sequence": 2}));
        assert!(order("refused").has_ended() && !order("delivered").has_ended());
        assert_eq!(order("done").sequence, 2);
    }

    #[test]
    fn alarms_are_found_among_the_figures() {
        let metrics =
            "# TYPE muster_store_stray_values gauge\nmuster_store_stray_values 2\nmuster_queued 1\n";
        assert_eq!(alarms(metrics), [("muster_store_stray_values".to_owned(), 2)].into());
    }

    #[test]
    fn the_vitals_of_this_process_are_more_than_nothing() {
        let vitals = Vitals::of(std::process::id()).unwrap();
        assert!(vitals.resident_bytes > 100_000 && vitals.descriptors >= 3);
        assert_eq!(Vitals::of(u32::MAX), None);
    }
}
