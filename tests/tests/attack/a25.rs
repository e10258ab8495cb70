//! A25: one stolen credential, whichever it is, asks for the whole fleet, approves itself, and tries one device after the
//! other. It meets the budget or a refusal; nothing leaves to any device, and the fleet works on.

use super::forge::{Forger, Says};
use super::packets::{Beside, Session, observer, report};
use super::siege::{Device, Siege, TRUST_DOMAIN, bearer, enters_gate, patient, text};
use http::{Method, Request, StatusCode};
use muster_tests::est::{self, Pledge};
use muster_tests::{Agent, Answer, Ear, Identity, RunningAgent, Server, Site, Tls};
use serde_json::{Value, json};

const NOTICE: &str = "/var/lib/muster-agent/managed/notice";
const BASELINE: &str = "profile = \"sensor-linux\"\n[[baseline.files]]\npath = \"/var/lib/muster-agent/managed/notice\"\n\
                        content = \"ours\"\nmode = \"0644\"\n";
/// Certificates that the scene takes: an agent, four more devices, and honest traffic.
const ISSUED: usize = 5 + Beside::ISSUED;

/// What a thief asks of a device, one at a time.
const ACTS: [(&str, &str); 3] = [
    ("quarantine", r#"{"reason":"thief"}"#),
    ("revoke", r#"{"reason":"unspecified"}"#),
    ("deprovision", r#"{"level":"retire"}"#),
];

/// A fleet on its rails, one of it a real agent at work; and whoever hears alarms.
struct Scene {
    siege: Siege,
    ear: Ear,
    sensor: Agent,
    running: RunningAgent,
    fleet: Vec<Device>,
    beside: Beside,
}

impl Scene {
    async fn set() -> Self {
        let ear = Ear::open().await;
        let launch = ear.on(patient().on_rails());
        let siege = Siege::of(Server::on(Site::founded().await, launch).await).await;
        let generation = siege.server().set_baseline(BASELINE).await;
        let sensor = Agent::enrolled(siege.server(), "sensor-linux").await;
        let running = sensor.start();
        let in_use =
            |device: &Value| device["state"] == "active" && device["generation"]["reported"] == generation;
        let _ = siege.server().device_when(&sensor.id(), "it is in use", in_use).await;
        let beside = Beside::begin(&siege).await;
        let mut fleet = Vec::new();
        for _ in 0..4 {
            fleet.push(siege.device("sensor-linux").await);
        }
        Self { siege, ear, sensor, running, fleet, beside }
    }

    fn server(&self) -> &Server {
        self.siege.server()
    }

    /// Every device there is, by id.
    async fn everybody(&self) -> Vec<String> {
        let ids = self.server().devices().await;
        ids.iter().map(|device| device["id"].as_str().unwrap().to_owned()).collect()
    }

    /// One request at the operators' door with `identity` and `authorization`, if any.
    async fn asks(
        &self,
        (identity, authorization): (Option<&Identity>, Option<&str>),
        path: &str,
        body: &str,
    ) -> Answer {
        let tls = identity
            .map_or_else(|| Tls::anonymous(self.server()), |identity| Tls::with(self.server(), identity));
        let mut door = tls.connect(&self.server().endpoints().admin).await.expect("the door is open");
        let request =
            Request::builder().method(Method::POST).uri(path).header("content-type", "application/json");
        let request =
            authorization.into_iter().fold(request, |request, value| request.header("authorization", value));
        door.send(request.body(body.to_owned().into()).unwrap()).await.expect("an answer")
    }

    /// Whoever shows this asks for everything at once and one after the other, to approve itself and to be let off the
    /// rails; not one of it is even looked at.
    async fn is_nobody(&self, identity: Option<&Identity>, authorization: Option<&str>) {
        let all = self.everybody().await;
        let fleet = json!({"kind": "wipe", "level": "clear", "devices": all}).to_string();
        let who = (identity, authorization);
        let mut tried = vec![
            ("/v1/warrants".to_owned(), fleet),
            ("/v1/operators".to_owned(), json!({"name": "thief"}).to_string()),
            ("/v1/authority/pending".to_owned(), "{}".to_owned()),
            ("/v1/freeze/signatures".to_owned(), json!({"signature": "AA=="}).to_string()),
        ];
        for id in &all {
            let each = ACTS.map(|(verb, body)| (format!("/v1/devices/{id}:{verb}"), body.to_owned()));
            tried.extend(each);
        }
        for (path, body) in &tried {
            let answer = self.asks(who, path, body).await;
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{path}: {}", text(&answer));
        }
    }

    /// Nothing left to any device: no order that destroys was made, the agent is whole and obeys, and honest traffic went
    /// on. `destroyed` devices are in a state that somebody may bring about.
    async fn stands(mut self, destroyed: usize, issued: usize, rules: &[&str]) {
        let entries = self.siege.entries().await;
        let made = entries.iter().filter(|entry| entry["action"] == "order.make");
        let wipes: Vec<_> = made.filter(|entry| entry["facts"]["kind"] == "wipe").collect();
        assert!(wipes.is_empty(), "{wipes:#?}");
        let devices = self.server().devices().await;
        let touched =
            |device: &&Value| !["active", "commissioning"].map(Value::from).contains(&device["state"]);
        assert_eq!(devices.iter().filter(touched).count(), destroyed, "{devices:#?}");
        assert_eq!(self.server().authority_version().await, 1);
        let order = self.server().order("collect_posture", &self.sensor.id()).await;
        let _ = self.server().done(&order).await;
        assert_eq!(self.sensor.file(NOTICE), "ours");
        assert!(!self.running.has_ended(), "its agent runs");
        self.beside.goes_on(self.siege.server()).await;
        let _ = self.siege.lift(issued, rules).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operators_token_gets_no_further_than_the_budget_and_approves_nothing() {
    let scene = Scene::set().await;
    let server = scene.server();
    // Stolen, and one more that the thief makes of it.
    let made = scene.asks((None, Some(&bearer(server))), "/v1/operators", r#"{"name":"thief"}"#).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", text(&made));
    let second = format!("Bearer {}", made.json()["token"].as_str().unwrap());
    let thieves = [bearer(server), second];

    // Everybody at once: more than may be asked for at a time, whoever asks.
    let all = scene.everybody().await;
    for level in ["retire", "clear"] {
        let body = json!({"kind": "wipe", "level": level, "devices": all}).to_string();
        for thief in &thieves {
            let answer = scene.asks((None, Some(thief)), "/v1/warrants", &body).await;
            assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS, "{}", text(&answer));
            assert_eq!(answer.json()["code"], "cooling_off");
        }
    }
    let told = scene.ear.hears("beyond_the_budget", |alarm| alarm["count"] == all.len()).await;
    assert_eq!(told["actor"], "operator/admin");

    // One after the other, of every kind, by both: three, and no more. The agent comes last.
    let mut victims: Vec<&str> = scene.fleet.iter().map(|device| device.id.as_str()).collect();
    let own = scene.sensor.id();
    victims.push(&own);
    let mut done = 0;
    for id in &victims {
        for ((verb, body), thief) in ACTS.iter().zip(thieves.iter().cycle()) {
            let answer = scene.asks((None, Some(thief)), &format!("/v1/devices/{id}:{verb}"), body).await;
            match answer.status.as_u16() {
                200 | 201 => done += 1,
                429 => assert_eq!(answer.json()["code"], "cooling_off"),
                // What has ended already does not end again.
                other => assert_eq!((other, &answer.json()["code"]), (409, &"device_state_refused".into())),
            }
        }
    }
    assert_eq!(done, 3, "quarantine, then revocation of the same, then one more act");

    // A warrant within the budget of nobody's key, and a successor in which the thief approves.
    approves_nothing(&scene).await;
    // One quarantined and then revoked, one quarantined: the agent is not among them.
    let touched = server.devices().await;
    let touched = touched
        .iter()
        .filter(|device| !["active", "commissioning"].contains(&device["state"].as_str().unwrap()));
    let touched = touched.count();
    assert!((1..=3).contains(&touched), "{touched}");
    scene.stands(touched, ISSUED, &["rails.cooling_off", "rails.no_approver"]).await;
}

/// With a key of the thief's own: what somebody asked for is not signed by it, no successor is, no freeze is lifted.
async fn approves_nothing(scene: &Scene) {
    let server = scene.server();
    let thief = server.site().approver("thief").await;
    let key = thief.replace(".pub", ".key");
    let listed = server.cli(&["warrant", "list"]).await;
    for warrant in listed.as_array().unwrap() {
        let words = ["warrant", "sign", warrant["id"].as_str().unwrap(), "--key", &key, "--yes"];
        let refused = server.try_cli(&words).await.exits(3);
        assert_eq!(refused.problem()["rule"], "warrant.signer");
    }
    let _ =
        server.propose(&["--add-approver", &format!("thief={thief}"), "--required", "wipe(retire)=1"]).await;
    let signed = server.cli(&["authority", "sign", "--key", &key, "--yes"]).await;
    assert_eq!(signed["state"], "pending", "nobody of those in force has signed: {signed}");
    let _ = server.cli(&["freeze", "--yes"]).await;
    let refused = server.try_cli(&["freeze", "--lift", "--key", &key, "--yes"]).await.exits(3);
    assert_eq!(refused.problem()["rule"], "rails.no_approver");
    // The honest ones end what the thief began.
    for name in ["alice", "bob"] {
        let key = server.site().path(&format!("{name}.key")).display().to_string();
        let _ = server.cli(&["freeze", "--lift", "--key", &key, "--yes"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_devices_certificate_orders_nothing_of_anybody() {
    let scene = Scene::set().await;
    let thief = scene.fleet[0].clone();
    scene.is_nobody(Some(&thief.identity), None).await;
    let sensor = scene.sensor.id();
    for topic in [
        format!("muster/v1/{sensor}/order"),
        format!("muster/v1/{sensor}/desired"),
        format!("muster/v1/{sensor}/receipt"),
        format!("muster/v1/{}/order", thief.id),
    ] {
        let mut session = Session::begin(scene.server(), &thief).await;
        session.say(&report(&topic, b"wipe")).await;
        assert!(session.closes().await.iter().all(|(first, _)| first >> 4 != 4), "{topic} is not taken");
    }
    let mut session = Session::begin(scene.server(), &thief).await;
    assert_eq!(session.subscribe(&format!("muster/v1/{sensor}/order")).await, 0x80);
    scene.stands(0, ISSUED, &["policy.sign_in_first"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_observers_certificate_orders_nothing_of_anybody() {
    let scene = Scene::set().await;
    let thief = observer(&scene.siege, "thief").await;
    scene.is_nobody(Some(&thief.identity), None).await;
    let sensor = scene.sensor.id();
    for topic in [format!("muster/v1/{sensor}/order"), "muster/events/presence".to_owned()] {
        let mut session = Session::begin(scene.server(), &thief).await;
        session.say(&report(&topic, b"wipe")).await;
        assert!(session.closes().await.iter().all(|(first, _)| first >> 4 != 4), "{topic} is not taken");
    }
    let mut session = Session::begin(scene.server(), &thief).await;
    assert_eq!(session.subscribe(&format!("muster/v1/{sensor}/order")).await, 0x80);
    assert!(est::prove(scene.server(), &thief.identity).await.is_err(), "no device's door knows it");
    scene.stands(0, ISSUED + 1, &["policy.sign_in_first"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_approvers_key_approves_nothing_that_needs_two_and_asks_for_nothing() {
    let scene = Scene::set().await;
    let server = scene.server();
    // It is no credential: whoever has it alone is nobody at the operators' door.
    scene.is_nobody(None, Some("Bearer alice")).await;
    // Somebody honest has asked; the thief signs, again and again, and brings copies of it.
    let sensor = scene.sensor.id();
    let warrant = server.deprovision(&sensor, "clear").await;
    let _ = scene.ear.hears("wipe_requested", |alarm| alarm["devices"] == json!([sensor])).await;
    for _ in 0..5 {
        let shown = server.sign_warrant(&warrant, "alice").await;
        assert_eq!((&shown["state"], &shown["signed_by"]), (&"requested".into(), &json!(["alice"])));
    }
    // A successor that makes one enough waits for somebody else as well.
    let thief = server.site().approver("thief").await;
    let _ = server.propose(&["--add-approver", &format!("thief={thief}")]).await;
    assert_eq!(server.sign_as("alice").await["state"], "pending");
    let own = server.cli(&["authority", "sign", "--key", &thief.replace(".pub", ".key"), "--yes"]).await;
    assert_eq!(own["state"], "pending", "{own}");
    assert_eq!(server.device(&sensor).await["phase"], "requested");
    // Bob stops what he did not mean.
    let key = server.site().path("bob.key").display().to_string();
    let _ = server.cli(&["warrant", "stop", &warrant, "--key", &key, "--yes"]).await;
    let _ = server.device_when(&sensor, "it is back", |device| device["state"] == "active").await;
    scene.stands(0, ISSUED, &["policy.sign_in_first"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_enrolment_token_makes_one_device_and_nothing_else() {
    let scene = Scene::set().await;
    let token = scene.siege.token("sensor-linux").await;
    scene.is_nobody(None, Some(&format!("Bearer {token}"))).await;
    let pledge = Pledge::new("");
    let answer = est::enroll(scene.server(), &token, &pledge.csr).await.expect("an answer");
    let thief = Device::new(pledge.identity(&answer));
    for _ in 0..3 {
        let again = est::enroll(scene.server(), &token, &Pledge::new("").csr).await.expect("an answer");
        assert_eq!(again.status, StatusCode::UNAUTHORIZED, "{}", text(&again));
    }
    scene.is_nobody(Some(&thief.identity), Some(&format!("Bearer {token}"))).await;
    scene.stands(0, ISSUED + 1, &["policy.sign_in_first", "token.spent"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_of_a_ca_makes_no_device_that_any_door_knows() {
    let scene = Scene::set().await;
    let sensor = scene.sensor.id();
    for ca in ["issuing", "root"] {
        let forger = Forger::thief(scene.server().site(), ca);
        for uri in [
            format!("spiffe://{TRUST_DOMAIN}/device/{sensor}"),
            format!("spiffe://{TRUST_DOMAIN}/observer/dashboard"),
            format!("spiffe://{TRUST_DOMAIN}/operator/admin"),
        ] {
            let forged = forger.forge(&Says::of(&uri));
            assert!(est::prove(scene.server(), &forged).await.is_err(), "{ca}: {uri}");
            assert!(!enters_gate(scene.server(), &forged).await, "{ca}: {uri}");
            scene.is_nobody(Some(&forged), None).await;
        }
    }
    scene.stands(0, ISSUED, &["policy.sign_in_first", "certificate_unknown"]).await;
}
