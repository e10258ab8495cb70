//! The process in figures, for `/metrics`.

use super::App;
use crate::store::metrics::Histogram;
use std::sync::atomic::Ordering;

/// One figure.
#[derive(Clone, Debug)]
pub struct Figure {
    /// Its name.
    pub name: &'static str,
    /// What it counts.
    pub help: &'static str,
    /// How it stands.
    pub value: Value,
}

/// How a figure stands.
#[derive(Clone, Debug)]
pub enum Value {
    /// Only rises.
    Counter(u64),
    /// Rises and falls.
    Gauge(u64),
    /// A distribution.
    Histogram {
        /// Upper bound and how many observations were at most that.
        buckets: Vec<(u64, u64)>,
        /// All observations.
        count: u64,
        /// Their sum.
        sum: u64,
    },
}

impl From<&Histogram> for Value {
    fn from(seen: &Histogram) -> Self {
        let buckets = seen.bounds.iter().copied().zip(seen.cumulative.iter().copied()).collect();
        Self::Histogram { buckets, count: seen.count, sum: seen.sum }
    }
}

impl App {
    /// Every figure.
    pub fn figures(&self) -> Vec<Figure> {
        let mut figures = self.store_figures();
        figures.extend(self.door_figures());
        let gate = self.doors.counters.gate.all();
        figures.extend(gate.map(|(name, help, count)| Figure { name, help, value: Value::Counter(count) }));
        let bus = self.doors.counters.bus.all();
        figures.extend(bus.map(|(name, help, count)| Figure { name, help, value: Value::Counter(count) }));
        figures.push(Figure {
            name: "muster_event_streams",
            help: "Streams of server-sent events open.",
            value: Value::Gauge(self.events.subscriptions() as u64),
        });
        let unpublished = Value::Gauge(self.unpublished().unwrap_or(0));
        figures.push(Figure {
            name: "muster_audit_unpublished_entries",
            help: "Entries that no checkpoint covers yet.",
            value: unpublished,
        });
        figures.push(Figure {
            name: "muster_audit_fsyncs_total",
            help: "Syncs for tiles and checkpoints, beside those of the store.",
            value: Value::Counter(self.checkpoint_fsyncs()),
        });
        figures.extend(resident_bytes().map(|bytes| Figure {
            name: "process_resident_memory_bytes",
            help: "Resident memory.",
            value: Value::Gauge(bytes),
        }));
        figures
    }

    fn store_figures(&self) -> Vec<Figure> {
        let store = self.store.metrics();
        let figure = |name, help, value| Figure { name, help, value };
        vec![
            figure("muster_store_fsyncs_total", "Syncs that reached the disk.", Value::Counter(store.fsyncs)),
            figure("muster_store_commits_total", "Batches committed.", Value::Counter(store.commits)),
            figure(
                "muster_store_conflicts_total",
                "Batches whose precondition did not hold.",
                Value::Counter(store.conflicts),
            ),
            figure(
                "muster_store_busy_total",
                "Batches refused because the queue was full.",
                Value::Counter(store.busy),
            ),
            figure(
                "muster_store_no_space_total",
                "Batches refused for want of space.",
                Value::Counter(store.no_space),
            ),
            figure("muster_store_queued", "Batches that wait.", Value::Gauge(store.queued)),
            figure(
                "muster_store_free_bytes",
                "Free bytes on the store's disk.",
                Value::Gauge(store.free_bytes),
            ),
            figure(
                "muster_store_stray_values",
                "Values outside of the synced file; anything but 0 is an alarm.",
                Value::Gauge(store.stray_values),
            ),
            figure("muster_store_group_size", "Batches in one sync.", (&store.group_size).into()),
            figure(
                "muster_store_commit_microseconds",
                "From submission to answer.",
                (&store.commit_us).into(),
            ),
            figure("muster_store_sync_microseconds", "Write and sync of one group.", (&store.sync_us).into()),
        ]
    }

    fn door_figures(&self) -> Vec<Figure> {
        let counters = &self.doors.counters;
        let counted =
            |counter: &std::sync::atomic::AtomicU64| Value::Counter(counter.load(Ordering::Relaxed));
        let figure = |name, help, value| Figure { name, help, value };
        vec![
            figure("muster_connections_accepted_total", "Connections accepted.", counted(&counters.accepted)),
            figure(
                "muster_connections_turned_away_total",
                "Connections beyond the limit.",
                counted(&counters.turned_away),
            ),
            figure(
                "muster_handshakes_total",
                "TLS handshakes that succeeded.",
                counted(&counters.handshakes),
            ),
            figure(
                "muster_handshakes_failed_total",
                "TLS handshakes that failed or came late.",
                counted(&counters.handshakes_failed),
            ),
            figure(
                "muster_certificates_refused_total",
                "Certificates of ours that a door refused.",
                counted(&counters.refused),
            ),
            figure(
                "muster_connections_kicked_total",
                "Connections ended from our side.",
                counted(&counters.kicked),
            ),
            figure(
                "muster_gate_sessions",
                "MQTT sessions open.",
                Value::Gauge(self.doors.registry.sessions() as u64),
            ),
            figure("muster_connections", "Connections open.", Value::Gauge(self.doors.registry.len() as u64)),
            figure(
                "muster_certificates_known",
                "Certificates in the status index.",
                Value::Gauge(self.doors.index.len() as u64),
            ),
        ]
    }
}

/// Resident memory of this process, from `/proc/self/statm`; nothing where there is none.
fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * u64::try_from(rustix::param::page_size()).ok()?)
}
