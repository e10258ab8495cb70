//! E3: what a renewal costs: asked for over a new mutual TLS connection, and inside the live MQTT session.
//!
//! Every device keeps its current certificate and asks for another successor each time, so from its second renewal on
//! the commit also ends the successor before: as it does in a device's life, where the first use ends the former.

use crate::commission::{Connected, each};
use muster_tests::Server;
use muster_tests::measure::books::{Cpu, Metrics};
use muster_tests::measure::{address, client, figures};
use muster_wire::topic::Channel;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Instant;

/// Runs of each way, in turns.
const RUNS: usize = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    NewConnection,
    InSession,
}

#[derive(Clone, Copy, Debug)]
struct Cost {
    cpu_us: f64,
    fsyncs: f64,
    wall_ms: f64,
}

pub(super) async fn measure(server: &Server, fleet: &mut Vec<Connected>) -> Value {
    let (mut anew, mut inside) = (Vec::new(), Vec::new());
    let _warm_up = run(server, fleet, Way::InSession).await;
    for turn in 0..RUNS {
        let mut ways = [Way::NewConnection, Way::InSession];
        if turn % 2 == 1 {
            ways.reverse();
        }
        for way in ways {
            let cost = run(server, fleet, way).await;
            if way == Way::NewConnection { anew.push(cost) } else { inside.push(cost) }
        }
    }
    let median = |costs: &[Cost], of: fn(&Cost) -> f64| {
        figures::thousandths(figures::median(&costs.iter().map(of).collect::<Vec<_>>()))
    };
    json!({
        "id": "E3",
        "cpu_us": figures::tenths(median(&anew, |cost| cost.cpu_us)),
        "session_cpu_us": figures::tenths(median(&inside, |cost| cost.cpu_us)),
        "fsyncs_per_op": median(&anew, |cost| cost.fsyncs),
        "session_fsyncs_per_op": median(&inside, |cost| cost.fsyncs),
        "wall_ms_each": median(&anew, |cost| cost.wall_ms),
        "session_wall_ms_each": median(&inside, |cost| cost.wall_ms),
        "cpu_us_of_runs": anew.iter().map(|cost| figures::tenths(cost.cpu_us)).collect::<Vec<_>>(),
        "session_cpu_us_of_runs": inside.iter().map(|cost| figures::tenths(cost.cpu_us)).collect::<Vec<_>>(),
    })
}

/// One renewal of each of `fleet`, 64 at a time.
async fn run(server: &Server, fleet: &mut Vec<Connected>, way: Way) -> Cost {
    for device in fleet.iter_mut() {
        let (csr, renew) = device.member.renewal();
        device.ready = if way == Way::InSession { renew } else { client::renewal(&csr) };
    }
    let (metrics, cpu, started) = (Metrics::of(server).await, Cpu::of(server.pid()), Instant::now());
    let devices = std::mem::take(fleet);
    let count = devices.len() as f64;
    let to = address(&server.endpoints().device);
    *fleet = each(devices, async move |device: &mut Connected| match way {
        Way::InSession => {
            let renew = std::mem::take(&mut device.ready);
            device.last_id += 1;
            let topic = Channel::Renew.topic(device.member.id);
            device.line.publish(&topic, device.last_id, &renew).await?;
            // The PUBACK comes first and is passed over.
            device.hear(Channel::Credential).await.map(drop)
        }
        Way::NewConnection => {
            let mut stream = client::open(Arc::clone(&device.member.config), to).await?;
            let _ = client::ask(&mut stream, &device.ready).await;
            Ok(())
        }
    })
    .await;
    let cpu_us = Cpu::of(server.pid()).us_since(&cpu) / count;
    let wall_ms = started.elapsed().as_secs_f64() * 1e3 / count;
    let fsyncs = Metrics::of(server).await.get(FSYNCS) - metrics.get(FSYNCS);
    Cost { cpu_us, fsyncs: fsyncs / count, wall_ms }
}

const FSYNCS: &str = "muster_store_fsyncs_total";
