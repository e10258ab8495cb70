//! E1 and E2: what an enrolment costs the server, over a new TLS connection each, and over kept connections.
//!
//! The unit is CPU time of the server per operation, all threads, user and system together, as the kernel accounts it
//! to the process; wall times on a shared machine mislead and stand beside it. Server on core 0, generator on core 1;
//! keys, requests and tokens are made beforehand; 64 operations are in flight at any time. Each row is the median of
//! five runs, taken in turns (E1 E2 E2 E1 …) so that a drift of the machine meets both. A null responder, which shakes
//! hands and answers a fixed body, must be asked 1.5 times as fast as the server was, or the row says that the
//! generator set the pace.
//!
//! Run by `cargo xtask bench`. `MUSTER_BENCH_OPERATIONS` sets the operations of one run (default 4,000) and
//! `MUSTER_BENCH_ONLY`
//! (`E1` or `E2`) leaves out the other row, both for those who profile.

#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a measurement fails by panicking")]

mod cost;
mod generator;
mod null;
mod work;

use cost::{Cost, Reading};
use generator::{Generator, Pass};
use muster_tests::measure::{self, Report, address, books, cores};
use muster_tests::{Launch, Server, Site};
use work::Work;

/// Operations at any time.
const IN_FLIGHT: usize = 64;

/// Runs of each row.
const RUNS: usize = 5;

/// Operations before anything is measured: caches filled, pages mapped.
const WARM_UP: usize = 512;

/// How many times faster than the server the null responder must be asked.
const HEADROOM: f64 = 1.5;

/// A row of the performance page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Row {
    /// A new TLS connection for each enrolment.
    E1,
    /// Enrolments on kept connections.
    E2,
}

impl Row {
    const fn id(self) -> &'static str {
        match self {
            Self::E1 => "E1",
            Self::E2 => "E2",
        }
    }

    const fn pass(self) -> Pass {
        match self {
            Self::E1 => Pass::NewConnections,
            Self::E2 => Pass::KeptConnections,
        }
    }
}

fn main() {
    if let Some(arguments) = null::asked_for() {
        return null::respond(&arguments);
    }
    measure::run(measure());
}

async fn measure() {
    let operations = measure::number("MUSTER_BENCH_OPERATIONS", 4_000);
    let rows: Vec<Row> = [Row::E1, Row::E2].into_iter().filter(|row| measure::is_wanted(row.id())).collect();
    let server = serve().await;
    let generator = Generator::of(address(&server.endpoints().device), IN_FLIGHT);
    let _ = generator.run(Pass::NewConnections, Work::prepare(&server, WARM_UP).await).await;

    let mut costs: Vec<(Row, Cost)> = Vec::new();
    for turn in 0..RUNS {
        let turned: Box<dyn Iterator<Item = Row>> =
            if turn % 2 == 0 { Box::new(rows.iter().copied()) } else { Box::new(rows.iter().rev().copied()) };
        for row in turned {
            let work = Work::prepare(&server, operations).await;
            costs.push((row, run(&server, &generator, row, work).await));
        }
    }
    let resident = books::resident_bytes(server.pid());
    let mut report = Report::default();
    report.condition("enroll_in_flight", IN_FLIGHT);
    report.condition("enroll_operations", operations);
    report.condition("enroll_runs", RUNS);
    report.condition("enroll_pinned", "server core 0, generator core 1");
    report.condition("enroll_load_after", books::load());
    for row in rows {
        let of_row: Vec<Cost> = costs.iter().filter(|(of, _)| *of == row).map(|(_, cost)| *cost).collect();
        let mut said = Cost::median(&of_row).said();
        let null_rate = null::rate(row.pass(), IN_FLIGHT, operations).await;
        said["id"] = row.id().into();
        said["rss_bytes"] = resident.into();
        said["null_per_s"] = null_rate.round().into();
        said["generator_bound"] = (null_rate < HEADROOM * Cost::median(&of_row).rate()).into();
        said["cpu_us_of_runs"] = of_row.iter().map(Cost::cpu_us).collect::<Vec<_>>().into();
        report.row(said);
    }
}

/// A server on its own core, as it is shipped: its log goes to a file.
async fn serve() -> Server {
    let site = Site::founded().await;
    cores::on(cores::SERVER, Server::on(site, Launch::plain())).await
}

async fn run(server: &Server, generator: &Generator, row: Row, work: Work) -> Cost {
    let before = Reading::of(server).await;
    let passed = generator.run(row.pass(), work).await;
    let after = Reading::of(server).await;
    Cost::between(&before, &after, &passed)
}
