//! The server comes back under the same address: every device is as it was, and connects by itself.

use muster_tests::{Agent, Launch, Server, eventually};
use serde_json::Value;

/// A small fleet; one process plays it.
const DEVICES: usize = 500;

/// Every device once all are connected and active. A busy machine gets the time it needs as long as there is one more
/// of them each time it is asked.
async fn all_connected(server: &Server) -> Vec<Value> {
    let mut there = 0;
    loop {
        let more = eventually("one more device is connected and active", async || {
            let devices = server.devices().await;
            let is_there = |device: &&Value| device["connected"] == true && device["state"] == "active";
            let now = devices.iter().filter(is_there).count();
            (now > there || now == DEVICES).then_some((now, devices))
        });
        let devices;
        (there, devices) = more.await;
        if there == DEVICES {
            return devices;
        }
    }
}

fn identities(devices: &[Value]) -> Vec<(&Value, &Value)> {
    devices.iter().map(|device| (&device["id"], &device["certificate"]["serial"])).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_stay_enrolled_and_come_back_by_themselves() {
    let mut server = Server::start().await;
    let count = DEVICES.to_string();
    let minted = server.mint_with(&["--profile", "sensor-linux", "--count", &count]).await;
    let strings: String = minted.iter().map(|minted| format!("{}\n", minted.enrollment)).collect();
    let fleet = Agent::new();
    let file = fleet.path("strings");
    std::fs::write(&file, strings).unwrap();
    let running =
        fleet.start_with(&["simulate", "--count", &count, "--server-string", &file.display().to_string()]);
    let before = all_connected(&server).await;

    for is_killed in [false, true] {
        let launch = server.in_place(Launch::plain());
        let site = if is_killed { server.kill() } else { server.stop().await };
        assert!(
            !site.log().contains("did not end in time"),
            "sessions end when the server stops:\n{}",
            site.log()
        );
        server = Server::on(site, launch).await;
        let after = all_connected(&server).await;
        assert_eq!(identities(&before), identities(&after));
    }
    assert_eq!(running.terminate().await, Some(0));
    server.verify_audit().await;
}
