//! Laptops are imaged: each enrols, stays connected, is brought to its baseline, and passes muster only when its posture
//! does. Until then the server says what is missing.

use muster_tests::{Agent, Server};

const BASELINE: &str = r#"
profile = "laptop-linux"
[baseline.sysctl]
"kernel.dmesg_restrict" = "1"
[[baseline.files]]
path = "/var/lib/muster-agent/managed/notice"
content = "This laptop is managed.\n"
mode = "0644"
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_laptop_is_active_once_baseline_posture_and_an_order_have_come_round_and_not_before() {
    let server = Server::start().await;
    let laptop = Agent::enrolled(&server, "laptop-linux").await;
    let id = laptop.id();
    assert_eq!(server.explained(&id).await, "commissioning.report");

    let generation = server.set_baseline(BASELINE).await;
    let running = laptop.start();
    let _ = laptop.connected().await;
    let shown = server
        .device_when(&id, "the baseline is reported and the posture judged", |device| {
            device["generation"]["reported"] == generation && device["posture"]["verdict"].is_string()
        })
        .await;
    assert_eq!(laptop.file("/var/lib/muster-agent/managed/notice"), "This laptop is managed.\n");
    assert!(laptop.file("/etc/sysctl.d/60-muster.conf").contains("kernel.dmesg_restrict"));

    // Nothing is known of disk, firewall and release yet: that is no pass.
    assert_eq!((&shown["state"], &shown["posture"]["verdict"]), (&"commissioning".into(), &"unknown".into()));
    let order = server.order("collect_posture", &id).await;
    let _ = server.done(&order).await;
    assert_eq!(server.explained(&id).await, "commissioning.untold");

    let _ = laptop.is_well_kept();
    let _ = server.order("collect_posture", &id).await;
    let active = server.device_when(&id, "it passes muster", |device| device["state"] == "active").await;
    assert_eq!(active["posture"]["verdict"], "pass");
    assert_eq!(server.explained(&id).await, "device.active");
    let steps = ["enrolled_at", "connected_at", "baseline_at", "posture_at", "active_at"]
        .map(|step| active["steps"][step].as_u64().unwrap_or_else(|| panic!("no {step}: {active}")));
    assert!(steps.is_sorted(), "{steps:?}");
    assert_eq!(running.terminate().await, Some(0));
    server.verify_audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_firewall_is_named_with_its_remedy_and_forgotten_once_it_is_closed() {
    let server = Server::start().await;
    let laptop = Agent::enrolled(&server, "laptop-linux").await;
    let id = laptop.id();
    let _ = laptop.is_well_kept().has_firewall("accept");
    let _running = laptop.start();
    let failing = server
        .device_when(&id, "the firewall is seen to be open", |device| device["posture"]["verdict"] == "grace")
        .await;
    let [rule] = failing["posture"]["failing"].as_array().unwrap().as_slice() else { panic!("{failing}") };
    assert_eq!(rule["fact"], "firewall");
    assert!(rule["remediation"].as_str().unwrap().contains("ufw enable"), "{rule}");
    // A person has a day for it; nobody is kept from working meanwhile.
    let _ = server.device_when(&id, "it is active within grace", |device| device["state"] == "active").await;

    let _ = laptop.has_firewall("drop");
    let _ = server.order("collect_posture", &id).await;
    let mended = server
        .device_when(&id, "the closed firewall is seen", |device| device["posture"]["verdict"] == "pass")
        .await;
    assert_eq!(mended["posture"]["failing"].as_array().map(Vec::len), Some(0));
}
