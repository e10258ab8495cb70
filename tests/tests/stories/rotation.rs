//! Certificates are renewed in the live session: by order, by time, and wherever the agent or the server is killed in
//! between. Never is a device left without one that works, and never are there two.

use muster_tests::faults::{at_time, kill_at, kill_running_at};
use muster_tests::{Agent, Launch, Server, Site, est, eventually};
use sha2::{Digest, Sha256};

/// What a crash is counted by. The three spellings of a rename are one.
const CALLS: [&str; 3] = ["fdatasync", "fsync", "rename,renameat,renameat2"];

/// A device may renew as often and connect as often as the kills make it.
fn patient() -> Launch {
    Launch::plain()
        .with("MUSTER_LIMITS_DEVICE_RENEWALS_PER_HOUR", "0")
        .with("MUSTER_MQTT_CONNECTS_PER_MINUTE", "100000")
}

/// The device holds the one certificate that counts, and is connected with it.
async fn is_whole(server: &Server, agent: &Agent) {
    let id = agent.id();
    let _ = server
        .device_when(&id, "it is connected with the certificate that counts", |device| {
            let held = hex::encode(Sha256::digest(agent.identity().leaf()));
            device["connected"] == true
                && device["certificate"]["sha256"] == held.as_str()
                && device["certificate"]["status"] == "current"
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_rotates_the_identity_without_a_gap_and_the_former_opens_no_door() {
    let server = Server::start().await;
    let sensor = Agent::enrolled(&server, "sensor-linux").await;
    let id = sensor.id();
    let _running = sensor.start();
    let _ = server.device_when(&id, "it is active", |device| device["state"] == "active").await;
    let former = sensor.identity();

    let order = server.order("rotate_identity", &id).await;
    let done = server.done(&order).await;
    assert_eq!(done["receipts"].as_array().map(Vec::len), Some(1), "{done}");
    is_whole(&server, &sensor).await;
    assert_ne!(sensor.identity().leaf(), former.leaf());
    assert!(est::prove(&server, &former).await.is_err(), "the former certificate is superseded");
    assert_eq!(est::prove(&server, &sensor.identity()).await.unwrap().status, 200);
    server.verify_audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_two_thirds_of_its_life_the_running_agent_renews_by_itself() {
    let past = || at_time("-22d");
    let site = Site::empty();
    let _ = site.init(&past(), &["--solo"]).await.ok();
    let server = Server::on(site, past()).await;
    let words = ["token", "create", "--profile", "laptop-linux"];
    let made = server.site().muster(&past(), &words).await.ok().json();
    let mut laptop = Agent::under(past());
    let _ = laptop.enroll(made[0]["enrollment"].as_str().unwrap()).await.ok();
    let former = laptop.identity();

    // Thirty days are its life; twenty-two have passed.
    let launch = server.in_place(Launch::plain());
    let server = Server::on(server.stop().await, launch).await;
    laptop.relaunch(Launch::plain());
    let _running = laptop.start();
    eventually("it has another certificate", async || {
        (laptop.identity().leaf() != former.leaf()).then_some(())
    })
    .await;
    is_whole(&server, &laptop).await;
    assert!(est::prove(&server, &former).await.is_err(), "the former certificate is superseded");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_killed_anywhere_in_a_rotation_is_never_locked_out() {
    let server = Server::on(Site::founded().await, patient()).await;
    let mut sensor = Agent::enrolled(&server, "sensor-linux").await;
    let id = sensor.id();
    let mut kills = 0;
    for call in CALLS {
        for n in 1..=8 {
            let order = server.order("rotate_identity", &id).await;
            sensor.relaunch(kill_at(call, n));
            let mut running = sensor.start();
            let was_killed = eventually("it dies or is done", async || {
                if running.has_ended() {
                    return Some(true);
                }
                (server.cli(&["order", "show", &order]).await["phase"] == "done").then_some(false)
            })
            .await;
            drop(running);
            sensor.relaunch(Launch::plain());
            let running = sensor.start();
            let _ = server.done(&order).await;
            is_whole(&server, &sensor).await;
            drop(running);
            kills += u32::from(was_killed);
            if !was_killed {
                break;
            }
        }
    }
    assert!(kills > 6, "a rotation has only {kills} durable steps");
    server.verify_audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_anywhere_in_a_rotation_locks_nobody_out_and_forgets_no_order() {
    let mut server = Server::on(Site::founded().await, patient()).await;
    let sensor = Agent::enrolled(&server, "sensor-linux").await;
    let id = sensor.id();
    let mut kills = 0;
    // It renames nothing in a rotation, and signs a checkpoint, with its fsyncs, if one falls due.
    for call in ["fdatasync", "fsync"] {
        for n in 1.. {
            // Started anew: one whose sessions end within a minute waits longer each time.
            let running = sensor.start();
            is_whole(&server, &sensor).await;
            let tracer = kill_running_at(server.pid(), call, n).await;
            let made = server.try_cli(&["order", "make", "rotate_identity", &id]).await;
            let order = (made.code == Some(0)).then(|| made.json()["id"].as_str().unwrap().to_owned());
            let was_killed = eventually("it dies, or the order is done", async || {
                if !server.is_running() {
                    return Some(true);
                }
                let shown = server.try_cli(&["order", "show", order.as_ref()?]).await;
                (shown.code == Some(0) && shown.json()["phase"] == "done").then_some(false)
            })
            .await;
            drop(tracer);
            let again = server.in_place(patient());
            server = Server::on(server.kill(), again).await;
            if let Some(order) = order {
                let _ = server.done(&order).await;
            }
            drop(running);
            if !was_killed {
                break;
            }
            kills += 1;
        }
    }
    assert!(kills > 3, "a rotation has only {kills} durable steps");
    let _running = sensor.start();
    is_whole(&server, &sensor).await;
    server.verify_audit().await;
}
