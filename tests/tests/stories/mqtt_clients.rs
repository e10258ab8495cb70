//! Somebody's own MQTT client with a device's certificate: it reaches exactly that device's topics.

use muster_tests::{Agent, Launch, Run, Server, eventually, judge, run};
use std::path::Path;

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
