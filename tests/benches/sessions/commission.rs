//! Devices that are connected and have nothing more to show: active, no order open.

use muster_tests::measure::address;
use muster_tests::measure::fleet::{self, Member};
use muster_tests::measure::line::{Line, Packet};
use muster_tests::{Server, eventually};
use muster_wire::id::OrderId;
use muster_wire::topic::Channel;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use tokio::task::JoinSet;

/// The profile of every device here.
pub(crate) const PROFILE: &str = "sensor-linux";

/// A device and its session.
#[derive(Debug)]
pub(crate) struct Connected {
    pub(crate) member: Arc<Member>,
    pub(crate) line: Line,
    /// The packet id that was used last.
    pub(crate) last_id: u16,
    /// What it will say next, made beforehand.
    pub(crate) ready: Vec<u8>,
}

impl Connected {
    /// Says `payload` and waits until it is taken.
    pub(crate) async fn say(&mut self, channel: Channel, payload: &[u8]) -> io::Result<()> {
        self.last_id += 1;
        self.line.deliver(&channel.topic(self.member.id), self.last_id, payload).await
    }

    /// Waits for a message on `channel` and acknowledges it.
    pub(crate) async fn hear(&mut self, channel: Channel) -> io::Result<Vec<u8>> {
        let wanted = channel.topic(self.member.id);
        loop {
            if let Packet::Publish { topic, id, payload } = self.line.next().await? {
                self.line.acknowledge(id).await?;
                if topic == wanted {
                    return Ok(payload);
                }
            }
        }
    }
}

/// `count` devices, connected and active.
pub(crate) async fn fleet(server: &Server, count: usize) -> Vec<Connected> {
    let members = fleet::enrolled(server, PROFILE, count).await;
    let members: Vec<Arc<Member>> = members.into_iter().map(Arc::new).collect();
    let lines = fleet::connected(&members, address(&server.endpoints().mqtt), 600, &[]).await;
    let generation = desired(server, &members[0]).await;
    let fleet = members.into_iter().zip(lines);
    let fleet: Vec<Connected> =
        fleet.map(|(member, line)| Connected { member, line, last_id: 0, ready: Vec::new() }).collect();
    let fleet = each(fleet, async move |device| {
        let _ = device.hear(Channel::Desired).await?;
        device.say(Channel::ReportState, &device.member.state(generation)).await?;
        device.say(Channel::ReportPosture, &device.member.posture()).await
    })
    .await;
    let orders = Arc::new(orders(server).await);
    let fleet = each(fleet, async move |device| {
        let order = orders[&device.member.id.to_string()];
        device.say(Channel::Receipt, &device.member.receipt(order)).await
    })
    .await;
    eventually("every device is active", async || {
        let active = server.cli(&["device", "list", "--filter", "state=active"]).await;
        (active.as_array()?.len() == count).then_some(())
    })
    .await;
    fleet
}

/// Does `work` with each of `fleet`, up to 64 at a time, and gives them back in their order.
///
/// # Panics
/// When it fails for one.
pub(crate) async fn each<W>(fleet: Vec<Connected>, work: W) -> Vec<Connected>
where
    W: AsyncFn(&mut Connected) -> io::Result<()> + Clone + 'static,
{
    let local = tokio::task::LocalSet::new();
    local.run_until(in_turn(fleet, work)).await
}

async fn in_turn<W>(fleet: Vec<Connected>, work: W) -> Vec<Connected>
where
    W: AsyncFn(&mut Connected) -> io::Result<()> + Clone + 'static,
{
    let left = Arc::new(std::sync::Mutex::new(fleet.into_iter().enumerate()));
    let mut places = JoinSet::new();
    for _ in 0..fleet::IN_FLIGHT {
        let (left, work) = (Arc::clone(&left), work.clone());
        places.spawn_local(async move {
            let mut done = Vec::new();
            while let Some((place, mut device)) = fleet::next(&left) {
                work(&mut device).await.unwrap_or_else(|error| panic!("device {place}: {error}"));
                done.push((place, device));
            }
            done
        });
    }
    let mut done: Vec<(usize, Connected)> = places.join_all().await.into_iter().flatten().collect();
    done.sort_by_key(|(place, _)| *place);
    done.into_iter().map(|(_, device)| device).collect()
}

/// The generation that `member` should have.
pub(crate) async fn desired(server: &Server, member: &Member) -> u64 {
    let device = server.device(&member.id.to_string()).await;
    device["generation"]["desired"].as_u64().unwrap_or_else(|| panic!("no generation in {device}"))
}

async fn orders(server: &Server) -> HashMap<String, OrderId> {
    let listed = server.cli(&["order", "list"]).await;
    let text = |order: &serde_json::Value, name: &str| order[name].as_str().unwrap_or_default().to_owned();
    let listed = listed.as_array().expect("a list").clone();
    let named = |order| Some((text(order, "device"), text(order, "id").parse().ok()?));
    listed.iter().filter_map(named).collect()
}
