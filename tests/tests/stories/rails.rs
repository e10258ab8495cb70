//! The rails as operators meet them: the budget for single acts in a loop and for many at once, devices that are exempt,
//! somebody's own, a freeze that only the quorum lifts; and each time somebody outside hears of it at once.

use muster_tests::faults::Clock;
use muster_tests::measure::fleet::{Member, enrolled};
use muster_tests::{Agent, Ear, Launch, Run, Server, Site};
use serde_json::{Value, json};

const ACTS: [&[&str]; 3] = [
    &["device", "quarantine", "--reason", "lost"],
    &["device", "revoke", "--reason", "unspecified", "--yes"],
    &["device", "deprovision", "--wipe", "retire", "--yes"],
];

/// One of [`ACTS`] on one device, however it ends.
async fn tries(server: &Server, act: &[&str], device: &Member) -> Run {
    let id = device.id.to_string();
    let words: Vec<&str> = act.iter().copied().chain([id.as_str()]).collect();
    server.try_cli(&words).await
}

/// The act waits: exit code 3, a stable code, and until when.
fn waits(run: Run) {
    let problem = run.exits(3).problem();
    assert_eq!((&problem["code"], &problem["status"]), (&"cooling_off".into(), &429.into()), "{problem}");
    let remedy = problem["remedy"].as_str().unwrap();
    assert!(remedy.contains("ask for the very same again"), "{remedy}");
    let until = problem["detail"].as_str().unwrap();
    assert!(until.contains("Z, in about ") && until.contains("it is done"), "{until}");
}

async fn states(server: &Server, state: &str) -> usize {
    server.devices().await.iter().filter(|device| device["state"] == state).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loop_of_single_acts_of_any_kind_ends_at_the_budget_and_is_told_outside() {
    for act in ACTS {
        let ear = Ear::open().await;
        let server = Server::on(Site::founded().await, ear.on(Launch::plain().on_rails())).await;
        let devices = enrolled(&server, "sensor-linux", 5).await;
        let id = |at: usize| json!([devices[at].id.to_string()]);
        for device in &devices[..3] {
            let _ = tries(&server, act, device).await.ok();
        }
        // A dry run says in the words of the refusal that it would wait, how much is left, and tells nobody.
        let shown = server.cli(&[act, &["--dry-run", devices[3].id.to_string().as_str()]].concat()).await;
        let consequence = shown["consequence"].as_str().unwrap();
        assert!(consequence.contains("beyond what may be destroyed at a time"), "{consequence}");
        assert!(consequence.contains("room for 0 devices in these 24 hours (of 3)"), "{consequence}");
        assert_eq!(ear.count("beyond_the_budget"), 0);
        for device in &devices[3..] {
            waits(tries(&server, act, device).await);
        }
        assert_eq!(states(&server, "commissioning").await, 2, "{act:?}");
        let told = ear.hears("beyond_the_budget", |alarm| alarm["devices"] == id(3)).await;
        assert_eq!((&told["actor"], &told["count"]), (&"operator/admin".into(), &1.into()));
        let _ = ear.hears("beyond_the_budget", |alarm| alarm["devices"] == id(4)).await;
        // Who asks for the same again is told the same, and nobody else is woken.
        waits(tries(&server, act, &devices[3]).await);
        assert_eq!(ear.count("beyond_the_budget"), 2);
        // At the request, before anybody has signed.
        let requested = if act.contains(&"deprovision") { 3 } else { 0 };
        assert_eq!(ear.count("wipe_requested"), requested);
        let entries = server.cli(&["audit", "tail", "--lines", "1000000"]).await;
        let cooling = |entry: &&Value| entry["reason"] == "rails.cooling_off";
        assert_eq!(entries.as_array().unwrap().iter().filter(cooling).count(), 2, "{act:?}");
        let _ = server.verify_audit().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_fleet_at_once_waits_and_goes_on_when_it_has_cooled() {
    let (ear, clock) = (Ear::open().await, Clock::new());
    let server = Server::on(Site::founded().await, ear.on(clock.launch().on_rails())).await;
    let devices = enrolled(&server, "sensor-linux", 6).await;
    let all =
        ["warrant", "request", "--kind", "wipe", "--level", "clear", "--filter", "profile=sensor-linux"];
    let asking = [&all[..], &["--yes"]].concat();
    // A preview says it, and tells nobody; asking is what begins the wait.
    let preview = server.cli(&[&all[..], &["--dry-run"]].concat()).await;
    let consequence = preview["consequence"].as_str().unwrap();
    assert!(consequence.starts_with("This is beyond what may be destroyed at a time"), "{consequence}");
    assert!(preview["target"]["waits_until"].is_string(), "{preview}");
    assert_eq!((ear.count("beyond_the_budget"), states(&server, "commissioning").await), (0, 6));
    waits(server.try_cli(&asking).await);
    let told = ear.hears("beyond_the_budget", |alarm| alarm["count"] == 6).await;
    assert_eq!(told["devices"].as_array().unwrap().len(), 6, "{told}");
    assert_eq!(states(&server, "commissioning").await, 6);

    // The keys of one are in wrong hands: that is never delayed, only told.
    for device in &devices[..3] {
        let _ = tries(&server, ACTS[0], device).await.ok();
    }
    let stolen = devices[3].id.to_string();
    server.revoke(&stolen, "key_compromise").await;
    let _ = ear.hears("revoked_beyond_the_budget", |alarm| alarm["devices"] == json!([stolen])).await;
    waits(tries(&server, ACTS[1], &devices[4]).await);
    waits(tries(&server, ACTS[1], &devices[5]).await);
    let rails = server.cli(&["rails"]).await;
    assert_eq!((&rails["day"], &rails["used_day"]), (&3.into(), &4.into()), "{rails}");
    let waiting = rails["waiting"].as_array().unwrap();
    let acts: Vec<_> = waiting.iter().map(|one| (&one["act"], &one["devices"])).collect();
    assert_eq!(
        acts,
        [(&"wipe".into(), &6.into()), (&"revoke".into(), &1.into()), (&"revoke".into(), &1.into())]
    );
    assert_eq!(waiting[0]["by"], "operator/admin");

    // Three hours are not enough; after four, what waited is done when it is asked for again, and nothing else.
    clock.set("+3h");
    waits(tries(&server, ACTS[1], &devices[4]).await);
    clock.set("+241m");
    let _ = tries(&server, ACTS[1], &devices[4]).await.ok();
    waits(tries(&server, ACTS[0], &devices[5]).await);
    assert_eq!(server.device(&devices[5].id.to_string()).await["state"], "commissioning");
    // Two of the six are gone meanwhile: that is another request, which waits for itself, or until approvers waive that.
    waits(server.try_cli(&asking).await);
    let rails = server.cli(&["rails"]).await;
    let waiting = rails["waiting"].as_array().unwrap().iter().find(|one| one["devices"] == 4).unwrap();
    let name = waiting["key"].as_str().unwrap()[..12].to_owned();
    for (approver, signed) in [("alice", 1), ("alice", 1), ("bob", 2)] {
        waits(server.try_cli(&asking).await);
        let key = server.site().path(&format!("{approver}.key")).display().to_string();
        let shown = server.cli(&["rails", "--waive", &name, "--key", &key, "--yes"]).await;
        assert_eq!(shown["signed_by"].as_array().unwrap().len(), signed, "{shown}");
    }
    let _ = ear.hears("cooling_off_waived", |alarm| alarm["detail"] == "wipe on 4 devices").await;
    assert_eq!(server.cli(&asking).await["count"], 4);
    let _ = server.verify_audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_protected_device_is_exempt_and_somebodys_own_is_let_go_and_nothing_more() {
    let ear = Ear::open().await;
    let server = Server::on(Site::founded().await, ear.on(Launch::plain().on_rails())).await;
    let devices = enrolled(&server, "laptop-linux", 2).await;
    let [protected, own] = [0, 1].map(|at| devices[at].id.to_string());
    let _ = server.cli(&["device", "label", &protected, "protected=yes"]).await;
    for act in ACTS {
        let refused = tries(&server, act, &devices[0]).await.exits(3).problem();
        assert_eq!(refused["rule"], "rails.protected", "{act:?}");
    }
    let words = ["device", "revoke", &protected, "--reason", "key_compromise", "--yes"];
    assert_eq!(server.try_cli(&words).await.exits(3).problem()["rule"], "rails.protected");
    let by_label = server.try_cli(&["device", "label", &protected, "protected-"]).await.exits(3);
    assert_eq!(by_label.problem()["rule"], "label.protected");
    assert_eq!(server.device(&protected).await["state"], "commissioning");
    // The label goes by an act of its own, of which somebody hears.
    let _ = server.cli(&["device", "unprotect", &protected, "--yes"]).await;
    let _ = ear.hears("unprotected", |alarm| alarm["devices"] == json!([protected])).await;
    let _ = tries(&server, ACTS[1], &devices[0]).await.ok();

    let _ = server.cli(&["device", "label", &own, "ownership=personal"]).await;
    for level in ["clear", "crypto-erase"] {
        let words = ["device", "deprovision", &own, "--wipe", level, "--yes"];
        assert_eq!(server.try_cli(&words).await.exits(3).problem()["rule"], "rails.personal");
    }
    assert_eq!(ear.count("wipe_requested"), 0);
    let _ = server.deprovision(&own, "retire").await;
    let told = ear.hears("wipe_requested", |alarm| alarm["devices"] == json!([own])).await;
    assert_eq!(told["installation"], "localhost", "{told}");

    // Whoever sends alarms elsewhere tells that where they went until now.
    let elsewhere = Ear::open().await;
    let server = Server::on(server.stop().await, elsewhere.on(Launch::plain().on_rails())).await;
    let _ = ear.hears("alarm_place_changed", |_| true).await;
    let _ = server.cli(&["freeze", "--yes"]).await;
    let _ = elsewhere.hears("frozen", |_| true).await;
    assert_eq!(ear.count("frozen"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_freeze_keeps_orders_and_generations_back_until_the_quorum_lifts_it() {
    const NOTICE: &str = "/var/lib/muster-agent/managed/notice";
    let ear = Ear::open().await;
    let server = Server::on(Site::founded().await, ear.on(Launch::plain().on_rails())).await;
    let (sensor, leaver) =
        (Agent::enrolled(&server, "sensor-linux").await, Agent::enrolled(&server, "sensor-linux").await);
    let leaving = leaver.id();
    let _running = [sensor.start(), leaver.start()];
    for agent in [&sensor, &leaver] {
        let _ = server.device_when(&agent.id(), "it is active", |device| device["state"] == "active").await;
    }
    let before = server.device(&sensor.id()).await["generation"]["reported"].clone();

    let none = server.try_cli(&["freeze", "--lift", "--key", "none.key", "--yes"]).await.exits(4).problem();
    assert!(none["detail"].as_str().unwrap().contains("no freeze"), "{none}");
    let frozen = server.cli(&["freeze", "--yes"]).await;
    assert_eq!((&frozen["state"], &frozen["required"]), (&"frozen".into(), &2.into()), "{frozen}");
    let _ = ear.hears("frozen", |_| true).await;
    let order = server.order("collect_posture", &sensor.id()).await;
    let baseline = format!(
        "profile = \"sensor-linux\"\n[[baseline.files]]\npath = \"{NOTICE}\"\ncontent = \"ours\"\nmode = \"0644\"\n"
    );
    let generation = server.set_baseline(&baseline).await;
    let _ = server.let_go(&leaving, "clear").await;

    // One that comes meanwhile is heard, and is sent nothing; nor are those that were there.
    let late = Agent::enrolled(&server, "sensor-linux").await;
    let _late_runs = late.start();
    let told = |device: &Value| device["posture"]["reported_at"].is_string();
    let _ = server.device_when(&late.id(), "it has told its posture", told).await;
    let held_back = async || {
        assert_eq!(server.cli(&["order", "show", &order]).await["phase"], "ordered");
        assert_eq!(server.device(&sensor.id()).await["generation"]["reported"], before);
        assert_eq!(server.device(&late.id()).await["generation"]["reported"], Value::Null);
        let leaver = server.device(&leaving).await;
        assert_eq!(leaver["state"], "deprovisioning");
        assert!(["warranted", "ordered"].map(Value::from).contains(&leaver["phase"]), "{leaver}");
        assert_eq!((sensor.file(NOTICE), late.file(NOTICE)), (String::new(), String::new()));
    };
    held_back().await;

    // Nobody else lifts it, and one of two is not enough.
    let stranger = server.site().approver("mallory").await.replace(".pub", ".key");
    let refused = server.try_cli(&["freeze", "--lift", "--key", &stranger, "--yes"]).await.exits(3);
    assert_eq!(refused.problem()["rule"], "rails.no_approver");
    let lift = async |name: &str| {
        let key = server.site().path(&format!("{name}.key")).display().to_string();
        server.cli(&["freeze", "--lift", "--key", &key, "--yes"]).await["state"].clone()
    };
    assert_eq!((lift("alice").await, lift("alice").await), ("frozen".into(), "frozen".into()));
    held_back().await;
    assert_eq!(lift("bob").await, "lifted");
    let _ = ear.hears("freeze_lifted", |_| true).await;

    let _ = server.done(&order).await;
    for agent in [&sensor, &late] {
        let is_new = |device: &Value| device["generation"]["reported"] == generation;
        let _ = server.device_when(&agent.id(), "its baseline is in place", is_new).await;
        assert_eq!(agent.file(NOTICE), "ours");
    }
    let proven = |device: &Value| device["phase"] == "proven";
    let _ = server.device_when(&leaving, "it is proven", proven).await;
    let _ = server.verify_audit().await;
}
