//! Somebody's own MQTT client with a device's certificate: it reaches exactly that device's topics.

use muster_tests::{Agent, Launch, Run, Server, eventually, judge, python_program, run};
use serde_json::Value;
use std::path::Path;

/// What somebody would write with paho: subscribes to each topic, publishes to each, and says what came of it.
const PAHO: &str = r#"
import json, ssl, sys, threading
import paho.mqtt.client as mqtt

port, client_id, root, certificate, key, hear, say = sys.argv[1:]
told = {"connected": None, "granted": {}, "heard": [], "published": {}}

def session(on_connected):
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=client_id, protocol=mqtt.MQTTv311)
    client.tls_set(ca_certs=root, certfile=certificate, keyfile=key, tls_version=ssl.PROTOCOL_TLS_CLIENT)
    over, lost = threading.Event(), threading.Event()
    def connected(client, userdata, flags, reason, properties):
        told["connected"] = reason.value
        lost.clear()
        if reason.value == 0:
            on_connected(client, over)
        else:
            over.set()
    client.on_connect = connected
    client.on_disconnect = lambda *rest: (lost.set(), over.set())
    client.connect("localhost", int(port), 60)
    return client, over

def subscribe(topic):
    def begin(client, over):
        client.on_subscribe = lambda c, u, mid, reasons, p: (
            told["granted"].__setitem__(topic, reasons[0].value), over.set() if reasons[0].value >= 128 else None)
        client.on_message = lambda c, u, message: (told["heard"].append([message.topic, message.qos]), over.set())
        client.subscribe(topic, qos=2)
    return begin

def publish(topic):
    def begin(client, over):
        client.on_publish = lambda c, u, mid, reason, p: (told["published"].__setitem__(topic, True), over.set())
        client.publish(topic, b"no report", qos=1)
    return begin

for topic in hear.split(","):
    client, over = session(subscribe(topic))
    client.loop_start(); over.wait(30); client.disconnect(); client.loop_stop()
for topic in filter(None, say.split(",")):
    told["published"][topic] = False
    client, over = session(publish(topic))
    client.loop_start(); over.wait(30); client.disconnect(); client.loop_stop()
print(json.dumps(told))
"#;

struct Client {
    agent: Agent,
    id: String,
    root: String,
    port: String,
}

impl Client {
    async fn of(server: &Server) -> Self {
        let agent = Agent::new();
        let _ = agent.enroll(&server.mint("sensor-linux").await.enrollment).await.ok();
        let id = agent.status().await["device"].as_str().unwrap().to_owned();
        let root = agent.path("root.pem").display().to_string();
        let der = server.site().data_dir().join("keys/root.der").display().to_string();
        let _ = judge::openssl(&["x509", "-inform", "DER", "-in", &der, "-out", &root], b"").await.ok();
        let port = server.endpoints().mqtt.rsplit(':').next().unwrap().to_owned();
        Self { agent, id, root, port }
    }

    fn topic(&self, tail: &str) -> String {
        format!("muster/v1/{}/{tail}", self.id)
    }

    async fn mosquitto(&self, program: &str, more: &[&str]) -> Run {
        let identity = self.agent.state_dir().join("identity");
        let [certificate, key] =
            ["certificate.pem", "key.pem"].map(|name| identity.join(name).display().to_string());
        let words = [
            &["-V", "311", "--tls-version", "tlsv1.3", "-h", "127.0.0.1", "-p", &self.port, "-i", &self.id],
            &["--cafile", &self.root, "--cert", &certificate, "--key", &key][..],
            more,
        ]
        .concat();
        run(&Launch::plain(), Path::new(program), &words, b"").await
    }
}

impl Client {
    /// What becomes of a paho client that calls itself `name` and wants to hear and to say something on these topics.
    async fn paho(&self, name: &str, hear: &[&str], say: &[&str]) -> Value {
        let identity = self.agent.state_dir().join("identity");
        let [certificate, key] =
            ["certificate.pem", "key.pem"].map(|name| identity.join(name).display().to_string());
        let (hear, say) = (hear.join(","), say.join(","));
        let words = ["-c", PAHO, &self.port, name, &self.root, &certificate, &key, &hear, &say];
        run(&Launch::plain(), &python_program(), &words, b"").await.ok().json()
    }
}

/// Waits until the audit log says that `rule` refused something of `device`.
async fn recorded(server: &Server, device: &str, rule: &str) {
    eventually(rule, async || {
        let history = server.cli(&["device", "history", device]).await.to_string();
        history.contains(rule).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mosquitto_with_a_devices_certificate_hears_and_says_what_that_device_may() {
    let server = Server::start().await;
    let (mine, other) = (Client::of(&server).await, Client::of(&server).await);
    let heard = mine
        .mosquitto(
            "mosquitto_sub",
            &["-q", "2", "-C", "1", "-W", "20", "-F", "%t %q", "-t", &mine.topic("desired")],
        )
        .await
        .ok();
    assert_eq!(heard.text().trim(), format!("{} 1", mine.topic("desired")));
    for foreign in [&other.topic("desired"), "#", "muster/v1/+/desired", "$share/g/#", "$SYS/#"] {
        let refused = mine.mosquitto("mosquitto_sub", &["-C", "1", "-W", "20", "-t", foreign]).await;
        assert!(refused.stdout.is_empty() && refused.stderr.contains("denied"), "{foreign}: {refused:?}");
    }
    // A body that is no report is refused by the verb, so it has come through; a foreign topic never gets that far.
    let own = mine
        .mosquitto("mosquitto_pub", &["-q", "1", "-m", "no report", "-t", &mine.topic("report/state")])
        .await;
    let foreign =
        mine.mosquitto("mosquitto_pub", &["-q", "1", "-m", "x", "-t", &other.topic("report/state")]).await;
    assert!(own.code != Some(0) && foreign.code != Some(0), "neither gets a PUBACK");
    recorded(&server, &mine.id, "report.form").await;
    recorded(&server, &mine.id, "gate.foreign_topic").await;
    let claimed = mine.mosquitto("mosquitto_pub", &["-i", &other.id, "-m", "x", "-t", "t"]).await;
    assert!(claimed.stderr.contains("identifier rejected"), "{claimed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn paho_with_a_devices_certificate_hears_and_says_what_that_device_may() {
    let server = Server::start().await;
    let (mine, other) = (Client::of(&server).await, Client::of(&server).await);
    let (desired, foreign) = (mine.topic("desired"), other.topic("desired"));
    let told =
        mine.paho(&mine.id, &[&desired, &foreign, "#", "muster/v1/+/desired", "$share/g/#"], &[]).await;
    assert_eq!((&told["connected"], &told["granted"][&desired]), (&0.into(), &1.into()), "{told}");
    assert_eq!(told["heard"], serde_json::json!([[desired, 1]]), "its own, once, and nobody else's");
    for topic in [foreign.as_str(), "#", "muster/v1/+/desired", "$share/g/#"] {
        assert_eq!(told["granted"][topic], 128, "{topic}: {told}");
    }

    let (state, foreign) = (mine.topic("report/state"), other.topic("report/state"));
    let told = mine.paho(&mine.id, &[&desired], &[&state, &foreign]).await;
    assert_eq!(
        told["published"],
        serde_json::json!({ state: false, foreign: false }),
        "neither gets a PUBACK"
    );
    recorded(&server, &mine.id, "report.form").await;
    recorded(&server, &mine.id, "gate.foreign_topic").await;

    let told = mine.paho(&other.id, &[&desired], &[]).await;
    assert_ne!(told["connected"], 0, "another's client id: {told}");
    assert_eq!(told["heard"], serde_json::json!([]));
    recorded(&server, &mine.id, "gate.client_id").await;
}
