//! M1: what a connected device costs while nothing happens.
//!
//! The fleet enrols and uses its certificates; then the server is started anew, so that what enrolling left behind in
//! its memory does not hide what sessions need. What a session takes is the slope over 1,000, 3,000 and 9,000 of them:
//! what the first ones warm up, the store's cache for instance, is no session's. Memory is PSS (`smaps_rollup`), read
//! once it has stopped moving. Each session has heard its desired state, as a device has. CPU is that of half a minute
//! with a ping from each device every 60 s, spread evenly.

use muster_tests::measure::fleet::{self, Member};
use muster_tests::measure::line::Line;
use muster_tests::measure::mosquitto::Mosquitto;
use muster_tests::measure::{self, Report, address, books, cores, figures};
use muster_tests::{Launch, Server, eventually};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// Sessions at which memory is read.
const STEPS: [usize; 3] = [1_000, 3_000, 9_000];

const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// For how long idle CPU is counted.
const WATCHED: Duration = Duration::from_secs(30);

/// What sessions were seen to cost.
struct Seen {
    /// Sessions and PSS in bytes; without any first.
    memory: Vec<(f64, f64)>,
    idle_percent: f64,
    connect_us: f64,
}

/// Whoever is connected to.
#[derive(Clone, Copy)]
struct Broker {
    pid: u32,
    address: SocketAddr,
}

pub(super) async fn measure(report: &mut Report) {
    let most = measure::number("MUSTER_BENCH_SESSIONS", STEPS[2]);
    let steps: Vec<usize> = STEPS.into_iter().filter(|step| *step < most).chain([most]).collect();
    assert!(steps.len() > 1, "a slope needs two points: more than {} sessions", STEPS[0]);
    let (server, members) = fleet_of(most).await;
    let ours = Broker { pid: server.pid(), address: address(&server.endpoints().mqtt) };
    let seen = watch(ours, &members, &steps).await;
    let mut row = said(&seen);
    row["id"] = "M1".into();
    if let Some(peer) = Mosquitto::beside(&server).await {
        drop(server);
        let theirs = Broker { pid: peer.pid(), address: peer.address() };
        row["mosquitto"] = said(&watch(theirs, &members, &steps).await);
    } else {
        row["mosquitto"] = "not installed".into();
    }
    report.condition("idle_sessions", most);
    report.condition("idle_load", books::load());
    report.row(row);
}

/// `count` devices whose certificates have been used, and a server that has just been started.
async fn fleet_of(count: usize) -> (Server, Vec<Arc<Member>>) {
    let server = super::serve().await;
    let members = fleet::enrolled(&server, "sensor-linux", count).await;
    let members: Vec<Arc<Member>> = members.into_iter().map(Arc::new).collect();
    let to = address(&server.endpoints().mqtt);
    for some in members.chunks(500) {
        drop(fleet::connected(some, to, 0, &[]).await);
    }
    let site = server.stop().await;
    (cores::on(cores::SERVER, Server::on(site, Launch::plain())).await, members)
}

async fn watch(broker: Broker, members: &[Arc<Member>], steps: &[usize]) -> Seen {
    let mut sessions: JoinSet<()> = JoinSet::new();
    let mut memory = vec![(0.0, settled_pss(broker.pid).await)];
    let before = books::Cpu::of(broker.pid);
    for step in steps {
        let begun = sessions.len();
        let lines = fleet::connected(&members[begun..*step], broker.address, 60, &[]).await;
        for (place, line) in lines.into_iter().enumerate() {
            // Evenly over the period, whoever was connected when.
            let share =
                ((begun + place) * 7_919 % steps[steps.len() - 1]) as f64 / steps[steps.len() - 1] as f64;
            sessions.spawn(idle(line, KEEP_ALIVE.mul_f64(share)));
        }
        memory.push((*step as f64, settled_pss(broker.pid).await));
    }
    let connect_us = books::Cpu::of(broker.pid).us_since(&before) / sessions.len() as f64;
    let before = books::Cpu::of(broker.pid);
    tokio::time::sleep(WATCHED).await;
    let spent_us = books::Cpu::of(broker.pid).us_since(&before);
    assert!(sessions.try_join_next().is_none(), "an idle session ended");
    sessions.shutdown().await;
    Seen { memory, idle_percent: spent_us / WATCHED.as_secs_f64() / 1e4, connect_us }
}

async fn idle(mut line: Line, first: Duration) {
    let error = line.idle(first, KEEP_ALIVE).await.expect_err("it only ends by an error");
    panic!("an idle session ended: {error}");
}

/// The PSS of `pid` once two readings, a second apart, differ by less than 64 KiB.
async fn settled_pss(pid: u32) -> f64 {
    let mut last = 0;
    eventually("the memory stands still", async || {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = books::pss_bytes(pid);
        let stands = now.abs_diff(last) < 64 * 1024;
        last = now;
        stands.then_some(now as f64)
    })
    .await
}

fn said(seen: &Seen) -> Value {
    let (none, first, last) = (seen.memory[0], seen.memory[1], seen.memory[seen.memory.len() - 1]);
    let each = |at: (f64, f64)| ((at.1 - none.1) / at.0).round();
    json!({
        "pss_bytes": figures::slope(&seen.memory[1..]).round(),
        "pss_bytes_at_least": each(first),
        "pss_bytes_at_most": each(last),
        "pss_without_sessions": none.1,
        "pss_total": last.1,
        "idle_percent": figures::thousandths(seen.idle_percent * 10_000.0 / last.0),
        "connect_us": figures::tenths(seen.connect_us),
        "sessions": last.0,
    })
}
