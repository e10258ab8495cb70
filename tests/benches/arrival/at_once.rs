//! E5: all devices power on at once: each enrols with a token of its own over a connection of its own, and opens its
//! session. Whoever is turned away comes again, as the agent does.
//!
//! Server and devices share both cores. Keys and tokens are made beforehand. Afterwards the server must know every
//! device once, and have every session.

use muster_tests::est::{self, Pledge};
use muster_tests::measure::books::{self, Metrics};
use muster_tests::measure::fleet::{self, Member};
use muster_tests::measure::line::Line;
use muster_tests::measure::{self, Report, address, client, cores, figures};
use muster_tests::{Launch, Minted, Server, Site};
use rustls::ClientConfig;
use serde_json::json;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// How long a device waits before it comes again.
const AGAIN: Duration = Duration::from_millis(200);

/// How often it does, before it counts as lost.
const TIMES: usize = 150;

/// Where the doors are.
#[derive(Clone)]
struct Place {
    device: SocketAddr,
    mqtt: SocketAddr,
    anonymous: Arc<ClientConfig>,
}

/// A device in its place.
struct Arrived {
    id: String,
    again: usize,
    after: Duration,
    line: Line,
}

pub(super) async fn measure(report: &mut Report) {
    let count = measure::number("MUSTER_BENCH_DEVICES", 2_000);
    cores::share();
    let server = Server::on(Site::founded().await, Launch::plain()).await;
    let pledges: Vec<Pledge> = (0..count).map(|_| Pledge::new("device")).collect();
    let work: Vec<(Minted, Pledge)> =
        fleet::tokens(&server, "sensor-linux", count).await.into_iter().zip(pledges).collect();
    let place = Place {
        device: address(&server.endpoints().device),
        mqtt: address(&server.endpoints().mqtt),
        anonymous: client::config(None),
    };
    let cpu = books::Cpu::of(server.pid());
    let mut devices = JoinSet::new();
    let started = Instant::now();
    for (token, pledge) in work {
        devices.spawn(arrive(place.clone(), token, pledge, started));
    }
    let arrived: Vec<Arrived> = devices.join_all().await.into_iter().flatten().collect();
    let took = started.elapsed();
    let cpu_us = books::Cpu::of(server.pid()).us_since(&cpu) / count as f64;
    let metrics = Metrics::of(&server).await;
    let ids: BTreeSet<&str> = arrived.iter().map(|device| device.id.as_str()).collect();
    let known = server.devices().await.len();
    let certificates = metrics.get("muster_certificates_known");
    let sessions = metrics.get("muster_gate_sessions");
    let after: Vec<Duration> = arrived.iter().map(|device| device.after).collect();
    report.condition("at_once_devices", count);
    report.condition("at_once_load", books::load());
    report.row(json!({
        "id": "E5",
        "seconds_at_10000": figures::thousandths(took.as_secs_f64() * 10_000.0 / count as f64),
        "seconds": figures::thousandths(took.as_secs_f64()),
        "devices": count,
        "lost": count.abs_diff(ids.len()).max(count.abs_diff(sessions as usize)),
        "double": known.abs_diff(ids.len()).max((certificates as usize).saturating_sub(count)),
        "cpu_us": figures::tenths(cpu_us),
        "wall_ms": figures::percentile_ms(&after, 50),
        "wall_p99_ms": figures::percentile_ms(&after, 99),
        "came_again": arrived.iter().map(|device| device.again).sum::<usize>(),
    }));
    drop(arrived.into_iter().map(|device| device.line).collect::<Vec<_>>());
    cores::pin(cores::GENERATOR);
}

/// One device, from power on to its session; nothing when it is lost.
async fn arrive(place: Place, token: Minted, pledge: Pledge, started: Instant) -> Option<Arrived> {
    let request = client::enrolment(&token.token, &pledge.csr);
    let mut again = 0;
    let answer = loop {
        let asked = async {
            let mut stream = client::open(Arc::clone(&place.anonymous), place.device).await?;
            client::try_ask(&mut stream, &request).await
        };
        match asked.await {
            Ok(answer) => break answer,
            Err(_) if again < TIMES => again += 1,
            Err(_) => return None,
        }
        tokio::time::sleep(AGAIN).await;
    };
    let member = Member::new(pledge, &est::certificates_in(client::body(&answer))[0]);
    let line = loop {
        match Line::begin(&member, place.mqtt, 600, &[]).await {
            Ok(line) => break line,
            Err(_) if again < TIMES => again += 1,
            Err(_) => return None,
        }
        tokio::time::sleep(AGAIN).await;
    };
    Some(Arrived { id: member.id.to_string(), again, after: started.elapsed(), line })
}
