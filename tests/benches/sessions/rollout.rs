//! M2: a baseline goes to every connected device: what that costs the server for each of them, until the report that
//! acknowledges the generation is stored.
//!
//! Twice: once the signed head, its PUBACK and the report, all within the live session; once with what a device does in
//! between, too, fetching the baseline over a TLS connection of its own.

use crate::commission::{Connected, PROFILE, desired, each};
use muster_tests::Server;
use muster_tests::measure::books::{Cpu, Metrics};
use muster_tests::measure::fleet::{self, Member};
use muster_tests::measure::line::{Line, Packet};
use muster_tests::measure::mosquitto::Mosquitto;
use muster_tests::measure::{address, client, figures};
use muster_wire::topic::Channel;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Instant;

/// Rollouts of each kind, in turns.
const RUNS: usize = 3;

/// What mosquitto delivers to everyone.
const ALL: &str = "muster/all";

#[derive(Clone, Copy, Debug)]
struct Cost {
    cpu_us: f64,
    fsyncs: f64,
    wall_ms: f64,
}

pub(super) async fn measure(server: &Server, fleet: &mut Vec<Connected>) -> Value {
    let (mut told, mut fetched) = (Vec::new(), Vec::new());
    let _warm_up = run(server, fleet, false).await;
    for turn in 0..2 * RUNS {
        // Told, fetched, fetched, told …
        let fetches = matches!(turn % 4, 1 | 2);
        let cost = run(server, fleet, fetches).await;
        if fetches { fetched.push(cost) } else { told.push(cost) }
    }
    let median = |costs: &[Cost], of: fn(&Cost) -> f64| {
        figures::thousandths(figures::median(&costs.iter().map(of).collect::<Vec<_>>()))
    };
    json!({
        "id": "M2",
        "session_cpu_us": figures::tenths(median(&told, |cost| cost.cpu_us)),
        "cpu_us": figures::tenths(median(&fetched, |cost| cost.cpu_us)),
        "fsyncs_per_op": median(&told, |cost| cost.fsyncs),
        "rollout_ms": figures::tenths(median(&told, |cost| cost.wall_ms)),
        "rollout_with_fetch_ms": figures::tenths(median(&fetched, |cost| cost.wall_ms)),
        "devices": fleet.len(),
        "mosquitto": beside(server, fleet).await,
    })
}

async fn run(server: &Server, fleet: &mut Vec<Connected>, fetches: bool) -> Cost {
    let next = desired(server, &fleet[0].member).await + 1;
    for device in fleet.iter_mut() {
        device.ready = device.member.state(next);
    }
    let (metrics, cpu, started) = (Metrics::of(server).await, Cpu::of(server.pid()), Instant::now());
    assert_eq!(server.set_baseline(&baseline(next)).await, next);
    let devices = std::mem::take(fleet);
    let count = devices.len() as f64;
    let to = address(&server.endpoints().device);
    *fleet = each(devices, async move |device: &mut Connected| {
        let head = device.hear(Channel::Desired).await?;
        if fetches {
            let mut stream = client::open(Arc::clone(&device.member.config), to).await?;
            let path = format!("/.well-known/muster/baselines/{}", digest_in(&head));
            let _ = client::ask(&mut stream, &client::get(&path)).await;
        }
        let report = std::mem::take(&mut device.ready);
        device.say(Channel::ReportState, &report).await
    })
    .await;
    let cpu_us = Cpu::of(server.pid()).us_since(&cpu) / count;
    let wall_ms = started.elapsed().as_secs_f64() * 1e3;
    let fsyncs = Metrics::of(server).await.get(FSYNCS) - metrics.get(FSYNCS);
    Cost { cpu_us, fsyncs: fsyncs / count, wall_ms }
}

const FSYNCS: &str = "muster_store_fsyncs_total";

fn baseline(generation: u64) -> String {
    format!(
        "profile = \"{PROFILE}\"\n[[baseline.files]]\npath = \"/var/lib/muster-agent/managed/notice\"\n\
         content = \"{generation}\\n\"\nmode = \"0644\"\n"
    )
}

/// The baseline's digest in a signed head, hex: the first 32 bytes that CBOR has as a string of 32 bytes.
fn digest_in(head: &[u8]) -> String {
    let at = head.windows(2).position(|two| two == [0x58, 0x20]).expect("a head names a baseline") + 2;
    hex::encode(&head[at..at + 32])
}

/// What a delivery at QoS 1 to one of as many sessions costs mosquitto, of a message as long as a head.
async fn beside(server: &Server, fleet: &[Connected]) -> Value {
    let Some(peer) = Mosquitto::beside(server).await else { return "not installed".into() };
    let members: Vec<Arc<Member>> = fleet.iter().map(|device| Arc::clone(&device.member)).collect();
    let mut lines = fleet::connected(&members, peer.address(), 600, &[ALL]).await;
    let mut sender = fleet::connected(&members[..1], peer.address(), 600, &[]).await.remove(0);
    // The sender has taken the place of the first, as MQTT wants it.
    let _replaced = lines.remove(0);
    let mut runs = Vec::new();
    for id in 1..=RUNS {
        let cpu = Cpu::of(peer.pid());
        sender
            .deliver(ALL, u16::try_from(id).expect("few runs"), &[7; HEAD_BYTES])
            .await
            .expect("it takes it");
        for line in &mut lines {
            heard(line).await;
        }
        // Whatever it still does with the last acknowledgements is over when it has answered the next.
        sender.deliver("muster/none", 9, b"").await.expect("it takes it");
        runs.push(Cpu::of(peer.pid()).us_since(&cpu) / lines.len() as f64);
    }
    json!({ "cpu_us": figures::tenths(figures::median(&runs)), "sessions": lines.len() })
}

/// As long as a signed head.
const HEAD_BYTES: usize = 260;

async fn heard(line: &mut Line) {
    loop {
        if let Packet::Publish { id, .. } = line.next().await.expect("the session lives") {
            return line.acknowledge(id).await.expect("the session lives");
        }
    }
}
