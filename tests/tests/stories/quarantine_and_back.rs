//! A laptop is left in a train: held at once, found again, released; and one that stays lost is revoked.
//!
//! The agents run all the while. What a person decides cuts their sessions; they come back by themselves to whatever
//! they may still do.

use muster_tests::{Agent, Server, agent_program, est, eventually, judge};
use serde_json::Value;
use std::process::Stdio;
use tokio::process::{Child, Command};

/// A device whose agent runs; it is killed when this is dropped.
struct Running {
    agent: Agent,
    id: String,
    _process: Child,
}

impl Running {
    async fn enrolled(server: &Server, profile: &str) -> Self {
        let agent = Agent::new();
        let _ = agent.enroll(&server.mint(profile).await.enrollment).await.ok();
        let id = agent.status().await["device"].as_str().unwrap().to_owned();
        let mut command = Command::new(agent_program());
        command.arg("run").arg("--state-dir").arg(agent.state_dir()).kill_on_drop(true);
        let process =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let running = Self { agent, id, _process: process };
        running.until(server, "it is connected", |device| device["connected"] == true).await;
        running
    }

    /// Waits until the server says `what` of the device.
    async fn until(&self, server: &Server, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        eventually(what, async || Some(server.device(&self.id).await).filter(|device| is_so(device))).await
    }

    /// Orders `kind` of the device and waits until it is done.
    async fn does(&self, server: &Server, kind: &str) {
        let made = server.cli(&["order", "make", kind, &self.id]).await;
        let order = made["id"].as_str().unwrap().to_owned();
        eventually("the order is done", async || {
            let phase = server.cli(&["order", "show", &order]).await["phase"].clone();
            (phase == "done").then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_laptop_left_in_a_train_is_held_found_and_released() {
    let server = Server::start().await;
    let laptop = Running::enrolled(&server, "laptop-linux").await;
    let former = server.device(&laptop.id).await["state"].clone();

    let shown =
        server.cli(&["device", "quarantine", &laptop.id, "--reason", "left in a train", "--dry-run"]).await;
    assert_eq!((&shown["dry_run"], &shown["action"]), (&true.into(), &"device.quarantine".into()));
    assert_eq!(server.device(&laptop.id).await["state"], former);

    let held = server.cli(&["device", "quarantine", &laptop.id, "--reason", "left in a train"]).await;
    assert_eq!((&held["state"], &held["certificate"]["held"]), (&"quarantined".into(), &true.into()));
    let quarantine = &held["quarantine"];
    assert_eq!((&quarantine["by"], &quarantine["reason"]), (&"manual".into(), &"left in a train".into()));
    assert_eq!((&quarantine["operator"], &quarantine["former"]), (&"operator/admin".into(), &former));
    assert_eq!(held["connected"], false, "its line is being cut: {held}");
    let judged = judge::verify(&server, &laptop.agent.identity()).await;
    assert!(judged.stderr.contains("certificate revoked"), "{judged:?}");
    assert_eq!(server.cli(&["device", "explain", &laptop.id]).await["rule"], "quarantine.manual");

    // It comes back by itself and still does what it is asked; what it is given meanwhile is held too.
    laptop.until(&server, "it is back", |device| device["connected"] == true).await;
    laptop.does(&server, "collect_posture").await;
    laptop.does(&server, "rotate_identity").await;
    let before = &held["certificate"]["serial"];
    let renewed = laptop
        .until(&server, "it uses its next certificate", |device| device["certificate"]["serial"] != *before)
        .await;
    assert_eq!((&renewed["state"], &renewed["certificate"]["held"]), (&"quarantined".into(), &true.into()));

    let released = server.cli(&["device", "release", &laptop.id, "--reason", "found again"]).await;
    assert_eq!((&released["state"], &released["quarantine"]), (&former, &Value::Null));
    let _ = judge::verify(&server, &laptop.agent.identity()).await.ok();
    let history = server.cli(&["device", "history", &laptop.id]).await;
    let told = history.as_array().unwrap();
    let of = |action: &str| told.iter().find(|entry| entry["action"] == action).unwrap().clone();
    assert_eq!(of("device.quarantine")["facts"]["reason"], "left in a train");
    let release = of("device.release");
    assert_eq!((&release["prev_state"], &release["new_state"]), (&"quarantined".into(), &former));
    assert_eq!(release["facts"]["held_by"], "operator/admin");
    let _ = server.cli(&["device", "quarantine", &laptop.id]).await;
    let server = server.restart().await;
    assert_eq!(server.device(&laptop.id).await["state"], "quarantined");
    let _ = server.verify_audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_laptop_that_stays_lost_is_revoked_and_never_comes_back() {
    let server = Server::start().await;
    let (lost, kept) =
        (Running::enrolled(&server, "laptop-linux").await, Running::enrolled(&server, "laptop-linux").await);
    let _ = server.cli(&["device", "quarantine", &lost.id]).await;
    server.revoke(&lost.id, "key_compromise").await;
    let device = server.device(&lost.id).await;
    assert_eq!((&device["state"], &device["retirement"]), (&"retired".into(), &"without_proof".into()));
    assert_eq!(device["quarantine"], Value::Null);
    lost.until(&server, "its session is gone", |device| device["connected"] == false).await;
    let judged = judge::verify(&server, &lost.agent.identity()).await;
    assert!(judged.stderr.contains("certificate revoked"), "{judged:?}");
    let _ = judge::verify(&server, &kept.agent.identity()).await.ok();

    assert_eq!(server.device(&kept.id).await["connected"], true);
    let server = server.restart().await;
    assert!(est::prove(&server, &kept.agent.identity()).await.is_ok_and(|answer| answer.status == 200));
    assert!(est::prove(&server, &lost.agent.identity()).await.is_err(), "nor after a restart");
    let refused = server.try_cli(&["device", "release", &lost.id]).await;
    assert_eq!((refused.code, refused.problem()["code"].clone()), (Some(3), "device_state_refused".into()));
}
