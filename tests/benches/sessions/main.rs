//! E3, M1, M2 and M3: what devices cost that have a certificate already: renewing, being connected, being told, being
//! cut off.
//!
//! The devices are light ones (`muster_tests::measure::fleet`): keys, requests and reports are made beforehand and the
//! server's certificate is not judged. Server on core 0, devices on core 1; mosquitto, where it stands beside a row, on
//! core 0 in its turn, with the same devices.
//!
//! Run by `cargo xtask bench`. `MUSTER_BENCH_ONLY` (`M1,M2`) leaves out the other rows.

#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a measurement fails by panicking")]

mod commission;
mod idle;
mod renewal;
mod revocation;
mod rollout;

use muster_tests::measure::{self, Report, books, cores};
use muster_tests::{Launch, Server, Site};

fn main() {
    measure::run(async {
        let mut report = Report::default();
        report.condition("sessions_pinned", "server core 0, devices core 1");
        report.condition("sessions_open_files", measure::raise_file_limit());
        if measure::is_wanted("M1") {
            idle::measure(&mut report).await;
        }
        if measure::is_wanted("E3") || measure::is_wanted("M2") {
            live(&mut report).await;
        }
        if measure::is_wanted("M3") {
            revocation::measure(&mut report).await;
        }
    });
}

/// What is done with devices that stay connected.
async fn live(report: &mut Report) {
    let count = measure::number("MUSTER_BENCH_CONNECTED", 1_000);
    report.condition("live_sessions", count);
    let server = serve().await;
    let mut fleet = commission::fleet(&server, count).await;
    report.condition("live_load", books::load());
    if measure::is_wanted("E3") {
        report.row(renewal::measure(&server, &mut fleet).await);
    }
    if measure::is_wanted("M2") {
        report.row(rollout::measure(&server, &mut fleet).await);
    }
}

/// A server on its own core, as it is shipped but for the limit of renewals: a device here renews for many.
async fn serve() -> Server {
    let site = Site::founded().await;
    let launch = Launch::plain().with("MUSTER_LIMITS_DEVICE_RENEWALS_PER_HOUR", "0");
    cores::on(cores::SERVER, Server::on(site, launch)).await
}
