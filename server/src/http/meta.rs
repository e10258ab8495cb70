//! Metrics in Prometheus' text format, and the OpenAPI document.

use super::problem::HttpError;
use super::routes::{Ctx, Doc, Routes};
use crate::app::App;
use crate::domain::policy::act;
use crate::store::metrics::Histogram;
use axum::body::Body;
use axum::response::Response;
use http::{HeaderValue, Method, StatusCode, header};
use std::fmt::Write as _;
use std::sync::atomic::Ordering;

pub(super) fn routes(routes: Routes) -> Routes {
    routes.on(Method::GET, "/metrics", Doc::raw("Metrics, Prometheus text format.", 0), metrics).on(
        Method::GET,
        "/v1/openapi.json",
        Doc::raw("This API, OpenAPI 3.1.", 0),
        openapi,
    )
}

async fn openapi(ctx: Ctx<act::ReadOpenApi>) -> Result<Response, HttpError> {
    super::json(StatusCode::OK, &super::openapi::document(ctx.app))
}

async fn metrics(ctx: Ctx<act::ReadMetrics>) -> Result<Response, HttpError> {
    let mut response = Response::new(Body::from(text(&ctx.app)));
    let media_type = HeaderValue::from_static("text/plain; version=0.0.4");
    response.headers_mut().insert(header::CONTENT_TYPE, media_type);
    Ok(response)
}

fn text(app: &App) -> String {
    let mut out = Text::default();
    let store = app.store().metrics();
    out.counter("muster_store_fsyncs_total", "Syncs that reached the disk.", store.fsyncs);
    out.counter("muster_store_commits_total", "Batches committed.", store.commits);
    out.counter("muster_store_conflicts_total", "Batches whose precondition did not hold.", store.conflicts);
    out.counter("muster_store_busy_total", "Batches refused because the queue was full.", store.busy);
    out.counter("muster_store_no_space_total", "Batches refused for want of space.", store.no_space);
    out.gauge("muster_store_queued", "Batches that wait.", store.queued);
    out.gauge("muster_store_free_bytes", "Free bytes on the store's disk.", store.free_bytes);
    out.gauge(
        "muster_store_stray_values",
        "Values outside of the synced file; anything but 0 is an alarm.",
        store.stray_values,
    );
    out.histogram("muster_store_group_size", "Batches in one sync.", &store.group_size);
    out.histogram("muster_store_commit_microseconds", "From submission to answer.", &store.commit_us);
    out.histogram("muster_store_sync_microseconds", "Write and sync of one group.", &store.sync_us);
    let doors = app.doors();
    let seen = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    out.counter("muster_connections_accepted_total", "Connections accepted.", seen(&doors.counters.accepted));
    out.counter(
        "muster_connections_turned_away_total",
        "Connections beyond the limit.",
        seen(&doors.counters.turned_away),
    );
    out.counter(
        "muster_handshakes_total",
        "TLS handshakes that succeeded.",
        seen(&doors.counters.handshakes),
    );
    out.counter(
        "muster_handshakes_failed_total",
        "TLS handshakes that failed or came late.",
        seen(&doors.counters.handshakes_failed),
    );
    out.counter(
        "muster_certificates_refused_total",
        "Certificates of ours that a door refused.",
        seen(&doors.counters.refused),
    );
    out.counter(
        "muster_connections_kicked_total",
        "Connections ended from our side.",
        seen(&doors.counters.kicked),
    );
    out.gauge("muster_connections", "Connections open.", doors.registry.len() as u64);
    out.gauge("muster_certificates_known", "Certificates in the status index.", doors.index.len() as u64);
    out.gauge(
        "muster_audit_unpublished_entries",
        "Entries that no checkpoint covers yet.",
        app.unpublished().unwrap_or(0),
    );
    if let Some(bytes) = resident_bytes() {
        out.gauge("process_resident_memory_bytes", "Resident memory.", bytes);
    }
    out.0
}

#[derive(Default)]
struct Text(String);

impl Text {
    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.plain(name, help, "counter", value);
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.plain(name, help, "gauge", value);
    }

    fn plain(&mut self, name: &str, help: &str, kind: &str, value: u64) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
    }

    fn histogram(&mut self, name: &str, help: &str, seen: &Histogram) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} histogram");
        for (bound, count) in seen.bounds.iter().zip(&seen.cumulative) {
            let _ = writeln!(self.0, "{name}_bucket{{le=\"{bound}\"}} {count}");
        }
        let _ = writeln!(
            self.0,
            "{name}_bucket{{le=\"+Inf\"}} {}\n{name}_sum {}\n{name}_count {}",
            seen.count, seen.sum, seen.count
        );
    }
}

/// Resident memory of this process, from `/proc/self/statm`; nothing where there is none.
fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * u64::try_from(rustix::param::page_size()).ok()?)
}
