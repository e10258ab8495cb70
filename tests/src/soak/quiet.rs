//! After the faults: within a bounded time everything is as it should be, and the log proves it to somebody who has
//! nothing but the public key.

use super::admin::Act;
use super::fleet::Process;
use super::network::Weather;
use super::options::Network;
use super::plan::Card;
use super::snapshot::Device;
use super::stage::Stage;
use super::{LOOK, Pace};
use crate::Launch;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Within this everything settles: an agent that failed often waits five minutes before it asks again, and one whose
/// line died silently notices by its keep-alive, within four.
const SETTLE: Duration = Duration::from_secs(600);

/// How many of those who have not settled are named.
const NAMED: usize = 10;

impl Stage {
    /// Learns where the lists are, and keeps the log's public key from the beginning.
    pub(super) async fn learn(&mut self) {
        let known = self.admin.json("/v1/ca").await.expect("the server says what it is");
        self.list_template = known["crl"].as_str().map(str::to_owned);
        let directory = self.archive.join("first-export");
        let _ = self.server().cli(&["audit", "export", &directory.display().to_string()]).await;
        std::fs::copy(directory.join("audit.vkey"), self.archive.join("audit.vkey"))
            .expect("an export has its key");
    }

    /// Has the weather change, and counts what was lost in the former.
    pub(super) fn becomes(&mut self, weather: Weather) -> Result<(), String> {
        self.lost_before += self.line.lost();
        self.line.becomes(weather)
    }

    /// Waits, with no more faults, until nothing is left to be done.
    pub(super) async fn settle(&mut self) -> Result<(), String> {
        if self.options.network == Network::Lossy {
            self.becomes(Weather::Fair)?;
        }
        let began = Instant::now();
        println!("quiet after {} s", self.at().as_secs());
        let mut pace = Pace::begin();
        while began.elapsed() < SETTLE {
            pace.next_look().await;
            self.tend().await;
            self.look(false).await;
            self.tell(&mut pace);
            self.release_all().await;
            let is_busy = !self.imaging.is_empty() || self.fleet.iter().any(Process::is_stopping);
            if self.unsettled().is_empty() && !is_busy {
                self.tally.settled = Some(began.elapsed());
                break;
            }
        }
        for what in self.unsettled().into_iter().take(NAMED) {
            self.notice("everything settles", what);
        }
        self.compare_with_devices().await;
        tokio::time::sleep(LOOK).await;
        self.look(true).await;
        Ok(())
    }

    /// Lets go whoever is held.
    async fn release_all(&mut self) {
        let held: Vec<String> = self
            .devices
            .iter()
            .filter(|device| device.state == "quarantined" && self.promises.lives(&device.id))
            .map(|device| device.id.clone())
            .collect();
        for id in held {
            let path = format!("/v1/devices/{id}:release");
            self.act(Card::Release, &Act { path, body: json!({"reason": "the exercise is over"}) }).await;
        }
    }

    /// What is still to be done, in words.
    fn unsettled(&self) -> Vec<String> {
        let lives = |id: &String| self.devices.iter().any(|device| device.id == *id && device.is_open());
        let devices = self.devices.iter().filter(|device| device.is_open() && !device.is_settled());
        let orders = self.orders.iter().filter(|order| !order.has_ended() && lives(&order.device));
        let missing =
            self.options.agents.checked_sub(self.devices.iter().filter(|one| one.is_open()).count());
        let gone = self.devices.iter().filter(|device| !device.is_open()).count();
        let missing = missing.filter(|missing| *missing > gone);
        devices
            .map(|device| format!("{device:?}"))
            .chain(orders.map(|order| format!("{order:?}")))
            .chain(missing.map(|missing| format!("{missing} devices are missing")))
            .collect()
    }

    /// Each device that lives as a process says of itself what the server says of it.
    async fn compare_with_devices(&mut self) {
        let mut wrong = Vec::new();
        for process in &self.fleet {
            let Some(id) = process.device.as_ref().filter(|id| self.promises.lives(id)) else { continue };
            let Some(shown) = self.devices.iter().find(|device| device.id == *id) else { continue };
            let said = process.agent.status().await;
            if let Some(what) = difference(&said, shown) {
                wrong.push(format!("{}: {what}", process.name));
            }
        }
        for what in wrong {
            self.notice("device and server agree", what);
        }
    }

    /// Exports the log, stops the server, and verifies the export with the key that was kept from the beginning.
    pub(super) async fn judge_the_log(&mut self) {
        self.fleet.iter_mut().for_each(|process| {
            process.stop(Duration::ZERO);
            process.is_done_with();
        });
        let mut tick = tokio::time::interval(Duration::from_millis(50));
        while self.fleet.iter().any(Process::is_stopping) {
            tick.tick().await;
            self.tend().await;
        }
        let export = self.archive.join("last-export").display().to_string();
        let _ = self.server().cli(&["audit", "export", &export]).await;
        self.follow_to_the_end().await;
        let Some((site, _)) = self.stop_server().await else { return };
        self.read_server_log(&site);
        let key = self.archive.join("audit.vkey").display().to_string();
        let judged = site.muster(&Launch::plain(), &["audit", "verify", &export, "--key", &key]).await;
        let finding: Value = serde_json::from_slice(&judged.stdout).unwrap_or_default();
        self.tally.audited = finding["size"].as_u64();
        if judged.code != Some(0) || finding["ok"] != true {
            self.notice("the log verifies with the public key alone", format!("{judged:?}"));
        }
        let seen = super::snapshot::Snapshot {
            at: self.at(),
            noticed: std::mem::take(&mut self.noticed),
            ..Default::default()
        };
        self.checker.see(&seen, &self.promises);
    }

    async fn follow_to_the_end(&mut self) {
        if let Err(super::admin::Silence(why)) = self.follow().await {
            self.notice("the server answers", why);
        }
    }
}

/// Where what a device says of itself differs from what the server shows.
fn difference(said: &Value, shown: &Device) -> Option<String> {
    let same = said["device"] == shown.id.as_str()
        && said["connected"] == true
        && said["certificate"]["serial"].as_str() == shown.serial.as_deref();
    (!same).then(|| format!("says {said}, the server shows {shown:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_says_otherwise_than_the_server_is_seen() {
        let shown = Device { id: "d".into(), serial: Some("0a".into()), ..Device::default() };
        let said = |device, connected, serial| json!({"device": device, "connected": connected, "certificate": {"serial": serial}});
        assert_eq!(difference(&said("d", true, "0a"), &shown), None);
        for other in [said("e", true, "0a"), said("d", false, "0a"), said("d", true, "0b")] {
            assert!(difference(&other, &shown).is_some(), "{other}");
        }
    }
}
