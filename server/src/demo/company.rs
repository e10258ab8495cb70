//! The steps in which the first device is not alone: a dashboard that listens, and a second device.
//!
//! The dashboard is `mosquitto_sub`, somebody else's client. Where it is not installed, `muster audit tail --follow`
//! hears the same from `/v1/events`.

use super::call::{Call, is, text};
use super::line::is_connected;
use super::stage::{Program, port_of, until};
use super::story::{Outcome, SECOND, SERVER, Story};
use super::teller::Teller;
use crate::cli::table::value_at;
use serde_json::{Value, json};

/// Where the dashboard writes what it hears.
const EVENTS: &str = "events.log";

impl Story {
    pub(super) async fn observe(&mut self, teller: &mut Teller) -> Outcome {
        if !self.stage.has(Program::Mosquitto) {
            return self.follow(teller).await;
        }
        let request = [
            "req",
            "-new",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-subj",
            "/CN=dashboard",
            "-keyout",
            "dashboard.key",
            "-out",
            "dashboard.csr",
        ];
        self.run(teller, &Call::of(Program::Openssl, &request)).await?;
        let add = ["observer", "add", "dashboard", "--csr", "dashboard.csr", "--out", "dashboard.pem"];
        let added = self.muster(teller, &add).await?;
        let port = port_of(text(&self.endpoints()?, "/mqtt")?)?.to_string();
        let listen = [
            "-V",
            "311",
            "--tls-version",
            "tlsv1.3",
            "-h",
            "127.0.0.1",
            "-p",
            &port,
            "-i",
            "dashboard",
            "--cafile",
            "root.pem",
            "--cert",
            "dashboard.pem",
            "--key",
            "dashboard.key",
            "-d",
            "-F",
            "%t %p",
            "-t",
            "muster/events/devices",
            "-t",
            "muster/events/presence",
        ];
        let call = Call::of(Program::Mosquitto, &listen);
        teller.command(&format!("{} > {EVENTS} &", call.shown()));
        self.dashboard = Some(self.stage.start(&call, EVENTS)?);
        let granted = until("the subscription", async || {
            Ok(self.events().lines().find(|line| line.starts_with("Subscribed")).map(str::to_owned))
        })
        .await?;
        teller.output(&granted);
        Ok(json!({"client": "mosquitto_sub", "observer": added.get("observer")}))
    }

    async fn follow(&mut self, teller: &mut Teller) -> Outcome {
        let call = Call::of(Program::Muster, &["audit", "tail", "--follow", "--data-dir", SERVER, "--json"]);
        teller.command(&format!("{} > {EVENTS} &", call.shown()));
        self.dashboard = Some(self.stage.start(&call, EVENTS)?);
        until("the first event", async || Ok((!self.events().is_empty()).then_some(()))).await?;
        teller.output("mosquitto_sub is not on this machine; /v1/events tells the same");
        Ok(json!({"client": "muster audit tail --follow"}))
    }

    /// Enrolled like the first; no baseline and no posture keep it from the line.
    pub(super) async fn second(&mut self, teller: &mut Teller) -> Outcome {
        let words = ["token", "create", "--profile", "laptop-linux", "--serial", SECOND, "--ttl", "1h"];
        let made = self.muster(teller, &words).await?;
        let enrollment = text(&made, "/0/enrollment")?;
        let words = ["enroll", "-", "--serial", SECOND, "--state-dir", "second", "--json"];
        self.run(teller, &Call::of(Program::Agent, &words).reading(enrollment)).await?;
        let call = Call::of(Program::Agent, &["run", "--state-dir", "second"]);
        teller.command(&format!("{} &", call.shown()));
        self.second = Some(self.stage.start(&call, "second.log")?);
        let shown =
            self.thing_when(SECOND, "the second session", |device| is_connected(device, true)).await?;
        text(&shown, "/id")?.clone_into(&mut self.second_device);
        teller.output(&format!("device {}, {}, connected", self.second_device, value_at(&shown, "/state")));
        Ok(json!({"device": self.second_device, "state": shown.get("state")}))
    }

    /// The revocation, and the hold before it, as the dashboard heard them.
    pub(super) async fn heard(&mut self, teller: &mut Teller) -> Outcome {
        let (first, second) = (&self.device, &self.second_device);
        let of = |device: &str, action: &str| {
            let events = self.events();
            let mut heard = events.lines().filter_map(event);
            heard.find(|event| concerns(event, device) && is(event, "/action", action))
        };
        let mut told = Vec::new();
        for (device, action) in [(first, "device.quarantine"), (second, "device.revoke")] {
            let event = until("the dashboard's hearing of it", async || Ok(of(device, action))).await?;
            teller.output(&format!(
                "{}  {device}  {}",
                value_at(&event, "/action"),
                states(&event).join(" → ")
            ));
            told.push(event);
        }
        let lines = self.events().lines().count();
        if let Some(mut dashboard) = self.dashboard.take() {
            // It has nothing to finish.
            let _ = dashboard.kill().await;
        }
        Ok(json!({"told": told, "lines": lines}))
    }

    fn events(&self) -> String {
        std::fs::read_to_string(self.stage.path(EVENTS)).unwrap_or_default()
    }
}

/// The event in a line: behind its topic, or alone.
fn event(line: &str) -> Option<Value> {
    serde_json::from_str(line.get(line.find('{')?..)?).ok()
}

/// Whether an event, or the entry behind it, is about this device.
fn concerns(event: &Value, device: &str) -> bool {
    is(event, "/device", device) || is(event, "/object", &format!("device/{device}"))
}

/// From where to where, as an event says it or the entry behind it.
fn states(event: &Value) -> Vec<String> {
    let of = |[event_has, entry_has]: [&str; 2]| {
        let pointer = if event.pointer(event_has).is_some() { event_has } else { entry_has };
        value_at(event, pointer)
    };
    [["/from", "/prev_state"], ["/to", "/new_state"]].map(of).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_read_with_its_topic_and_without() {
        let bare = event(r#"{"device":"d"}"#).unwrap();
        assert_eq!(event(r#"muster/events/devices {"device":"d"}"#).unwrap(), bare);
        assert!(event("Subscribed (mid: 1): 0, 0").is_none());
        assert!(
            concerns(&bare, "d") && concerns(&json!({"object": "device/d"}), "d") && !concerns(&bare, "e")
        );
        assert_eq!(states(&json!({"from": "a", "to": "b"})), ["a", "b"]);
        assert_eq!(states(&json!({"prev_state": "a", "new_state": "b"})), ["a", "b"]);
    }
}
