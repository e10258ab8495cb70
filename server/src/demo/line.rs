//! The steps in which the line is open: the agent runs, and what the operator wants comes true on the device by itself.

use super::call::{Call, is, last_json, text};
use super::stage::{Broken, Program, until};
use super::story::{Outcome, SECOND, SERIAL, SERVER, Story, asked_to_end, last_line};
use super::teller::Teller;
use crate::cli::table::value_at;
use serde_json::{Value, json};

/// The file that the baseline puts on the device, as the device names it.
pub(super) const NOTICE: &str = "/var/lib/muster-agent/managed/notice";
/// What it says.
const WORDS: &str = "This laptop is managed.\n";
/// What the operator wants laptops to be like.
const BASELINE: &str = "profile = \"laptop-linux\"\n[baseline.sysctl]\n\"kernel.dmesg_restrict\" = \"1\"\n\
    [[baseline.files]]\npath = \"/var/lib/muster-agent/managed/notice\"\ncontent = \"This laptop is managed.\\n\"\n\
    mode = \"0644\"\n";
/// Where the agent finds the rules of the packet filter.
const FIREWALL: &str = "/run/muster-agent/nft-ruleset.json";
/// What the kernel and the distribution of a well-kept laptop show: an encrypted disk, a supported release.
const LAPTOP: [(&str, &str); 4] = [
    ("/proc/self/mountinfo", "25 1 252:0 / / rw,relatime shared:1 - ext4 /dev/mapper/root rw\n"),
    ("/sys/dev/block/252:0/dm/name", "root\n"),
    ("/sys/dev/block/252:0/dm/uuid", "CRYPT-LUKS2-0123-root\n"),
    ("/etc/os-release", "ID=debian\nVERSION_ID=\"13\"\nPRETTY_NAME=\"Debian GNU/Linux 13\"\n"),
];

impl Story {
    /// The agent stays, from here on.
    pub(super) async fn connect(&mut self, teller: &mut Teller) -> Outcome {
        self.start_agent(teller)?;
        let Some(mut agent) = self.agent.take() else { return Err(Broken::unexpected("no agent runs")) };
        let log = self.stage.path("agent.log");
        let status = until("the agent's connection", async || {
            if let Ok(Some(status)) = agent.try_wait() {
                let last = last_line(&log);
                return Err(Broken::unexpected(format!("the agent ended with {status}: {last}")));
            }
            let status = self.agent_status().await?;
            Ok((status.get("connected") == Some(&Value::Bool(true))).then_some(status))
        })
        .await;
        self.agent = Some(agent);
        let status = status?;
        let shown =
            self.device_when("the session at the server", |device| is_connected(device, true)).await?;
        teller.output(&format!("connected, last contact {}", text(&status, "/last_contact")?));
        Ok(json!({"connected": shown.get("connected"), "last_contact": status.get("last_contact")}))
    }

    pub(super) fn start_agent(&mut self, teller: &mut Teller) -> Result<(), Broken> {
        let call = Call::of(Program::Agent, &["run", "--state-dir", "device"]);
        teller.command(&format!("{} &", call.shown()));
        self.agent = Some(self.stage.start(&call, "agent.log")?);
        Ok(())
    }

    pub(super) async fn baseline(&self, teller: &mut Teller) -> Outcome {
        let path = self.stage.path("baseline.toml");
        std::fs::write(&path, BASELINE).map_err(Broken::system("write", &path))?;
        let set = self.muster(teller, &["baseline", "set", "baseline.toml"]).await?;
        let generation = set.pointer("/baseline/generation").cloned().unwrap_or_default();
        let shown = self
            .device_when("the report of the new generation", |device| {
                device.pointer("/generation/reported") == Some(&generation)
            })
            .await?;
        teller.output(&format!("generation {generation} wanted, reported by the device"));
        let content = self.on_device(NOTICE)?;
        teller.output(&format!("device/root{NOTICE}: {}", content.trim_end()));
        if content != WORDS {
            return Err(Broken::unexpected("the file is not what the baseline says"));
        }
        Ok(json!({"generation": shown.get("generation"), "file": NOTICE}))
    }

    /// Somebody changes by hand what the baseline says.
    pub(super) async fn drift(&self, teller: &mut Teller) -> Outcome {
        teller.command(&format!("echo 'Take it home.' > device/root{NOTICE}"));
        self.put(NOTICE, "Take it home.\n")?;
        self.order(teller, "collect_posture").await?;
        let told = until("the report of the repair", async || {
            let history = self.look(&["device", "history", SERIAL]).await?;
            let entries = history.as_array().into_iter().flatten();
            Ok(entries.rev().find(|entry| is(entry, "/reason", "drift_repaired")).cloned())
        })
        .await?;
        let words = ["/seq", "/action", "/reason"].map(|pointer| value_at(&told, pointer));
        teller.output(&words.join("  "));
        let content = self.on_device(NOTICE)?;
        teller.output(&format!("device/root{NOTICE}: {}", content.trim_end()));
        if content != WORDS {
            return Err(Broken::unexpected("the file is not what the baseline says"));
        }
        Ok(json!({"audit_entry": told.get("seq"), "reason": told.get("reason"), "file": NOTICE}))
    }

    /// What nobody can tell is no pass: the server says what is missing, and once it is there the device is active.
    pub(super) async fn commission(&self, teller: &mut Teller) -> Outcome {
        let missing = self.muster(teller, &["device", "explain", SERIAL]).await?;
        teller.output(&["/rule", "/remedy"].map(|pointer| value_at(&missing, pointer)).join("  "));
        if !is(&missing, "/rule", "commissioning.untold") {
            return Err(Broken::unexpected("something else than the posture keeps the device back"));
        }
        teller.command("# its disk, its release and its firewall can be seen now, beneath device/root");
        for (path, content) in LAPTOP {
            self.put(path, content)?;
        }
        self.firewall("drop")?;
        self.order(teller, "collect_posture").await?;
        let shown =
            self.device_when("the end of commissioning", |device| is(device, "/state", "active")).await?;
        let steps = shown.get("steps").cloned().unwrap_or_default();
        let at = |step: &str| steps.get(step).and_then(Value::as_i64).unwrap_or_default();
        let took = at("active_at").saturating_sub(at("enrolled_at"));
        teller.output(&format!("active, {took} ms after it was enrolled"));
        Ok(json!({"missing": missing.get("rule"), "state": shown.get("state"), "steps": steps}))
    }

    pub(super) async fn posture(&self, teller: &mut Teller) -> Outcome {
        teller.command("# the firewall is opened, beneath device/root");
        self.firewall("accept")?;
        self.order(teller, "collect_posture").await?;
        let shown = self
            .device_when("the open firewall's discovery", |device| is(device, "/posture/verdict", "grace"))
            .await?;
        let failing = shown.pointer("/posture/failing/0").cloned().unwrap_or_default();
        let words = ["/fact", "/due", "/remediation"].map(|pointer| value_at(&failing, pointer));
        teller.output(&words.join("  "));
        teller.command("# it is closed again");
        self.firewall("drop")?;
        self.order(teller, "collect_posture").await?;
        let mended = self
            .device_when("the closed firewall's discovery", |device| is(device, "/posture/verdict", "pass"))
            .await?;
        teller.output(&format!("posture {}", value_at(&mended, "/posture/verdict")));
        Ok(json!({"failing": failing, "verdict": mended.pointer("/posture/verdict")}))
    }

    /// A new key and certificate while the session stays; at no look the device is gone.
    pub(super) async fn rotate(&mut self, teller: &mut Teller) -> Outcome {
        let order = self.order(teller, "rotate_identity").await?;
        let former = self.certificate_serial.clone();
        let shown = self
            .device_when("the new certificate's first use", |device| {
                is_connected(device, true)
                    && !is(device, "/certificate/serial", &former)
                    && is(device, "/certificate/status", "current")
            })
            .await?;
        text(&shown, "/certificate/serial")?.clone_into(&mut self.certificate_serial);
        teller.output(&format!("{former} → {}, connected", self.certificate_serial));
        Ok(json!({"order": order, "former": former, "serial": self.certificate_serial, "connected": true}))
    }

    /// Every connection is cut; the agent comes back by itself to what a held device may do.
    pub(super) async fn hold(&self, teller: &mut Teller) -> Outcome {
        let words = ["device", "quarantine", SERIAL, "--reason", "left in a train", "--yes"];
        let held = self.muster(teller, &words).await?;
        let state = text(&held, "/state")?;
        teller.output(&format!("{state}, certificate on hold: {}", value_at(&held, "/certificate/held")));
        if state != "quarantined" || held.pointer("/certificate/held") != Some(&Value::Bool(true)) {
            return Err(Broken::unexpected("the device is not held"));
        }
        let back = self.device_when("the held device's return", |device| is_connected(device, true)).await?;
        self.order(teller, "collect_posture").await?;
        Ok(json!({"state": back.get("state"), "certificate": held.get("certificate")}))
    }

    pub(super) async fn release(&self, teller: &mut Teller) -> Outcome {
        let released = self.muster(teller, &["device", "release", SERIAL, "--yes"]).await?;
        let shown = self
            .device_when("the released device's session", |device| {
                is(device, "/state", "active") && is_connected(device, true)
            })
            .await?;
        let is_held = released.pointer("/certificate/held") == Some(&Value::Bool(true));
        if is_held {
            return Err(Broken::unexpected("the certificate is still on hold"));
        }
        teller.output(&format!("{}, connected", value_at(&shown, "/state")));
        Ok(json!({"state": shown.get("state"), "connected": shown.get("connected")}))
    }

    /// The revoked device's session is over and the other's is not; its agent is ended, so that it can be asked to
    /// knock once more.
    pub(super) async fn cut(&mut self, teller: &mut Teller) -> Outcome {
        self.thing_when(SECOND, "the session's end", |device| is_connected(device, false)).await?;
        let status = until("the agent's noticing", async || {
            let status = self.status_of("second").await?;
            Ok((status.get("connected") == Some(&Value::Bool(false))).then_some(status))
        })
        .await?;
        teller.output("not connected, says the server; not connected, says the agent");
        let first = self.look(&["device", "show", SERIAL]).await?;
        if !is_connected(&first, true) {
            return Err(Broken::unexpected("the first device's session was cut, too"));
        }
        let Some(agent) = &mut self.second else { return Err(Broken::unexpected("no agent runs")) };
        let ended = asked_to_end(agent, "the second agent", teller).await?;
        self.second = None;
        Ok(json!({"connected": status.get("connected"), "exit": ended.code()}))
    }

    /// Orders `kind` and waits until the device's receipt for it is here; answers the order's id.
    async fn order(&self, teller: &mut Teller, kind: &str) -> Result<String, Broken> {
        let made = self.muster(teller, &["order", "make", kind, SERIAL]).await?;
        let id = text(&made, "/id")?.to_owned();
        until("the order's receipt", async || {
            let shown = self.look(&["order", "show", &id]).await?;
            Ok(is(&shown, "/phase", "done").then_some(()))
        })
        .await?;
        teller.output("done, says the device's receipt");
        Ok(id)
    }

    /// The device, once `holds` is true of it.
    async fn device_when(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Outcome {
        self.thing_when(SERIAL, what, holds).await
    }

    /// The device with this serial number, once `holds` is true of it.
    pub(super) async fn thing_when(
        &self,
        serial: &str,
        what: &str,
        holds: impl Fn(&Value) -> bool,
    ) -> Outcome {
        until(what, async || {
            let shown = self.look(&["device", "show", serial]).await?;
            Ok(holds(&shown).then_some(shown))
        })
        .await
    }

    /// An operator's command that only looks, not shown each time.
    pub(super) async fn look(&self, words: &[&str]) -> Outcome {
        let call = Call::of(Program::Muster, &[words, &["--data-dir", SERVER, "--json"]].concat());
        Ok(last_json(&call.judge(self.stage.run(&call).await?)?.stdout))
    }

    async fn agent_status(&self) -> Outcome {
        self.status_of("device").await
    }

    pub(super) async fn status_of(&self, state_dir: &str) -> Outcome {
        let call = Call::of(Program::Agent, &["status", "--state-dir", state_dir, "--json"]);
        Ok(last_json(&call.judge(self.stage.run(&call).await?)?.stdout))
    }

    fn firewall(&self, policy: &str) -> Result<(), Broken> {
        let chain = json!({
            "family": "inet", "table": "filter", "name": "input", "type": "filter", "hook": "input",
            "prio": 0, "policy": policy,
        });
        self.put(FIREWALL, &json!({"nftables": [{"chain": chain}]}).to_string())
    }

    /// Puts a file where the device has `path`.
    fn put(&self, path: &str, content: &str) -> Result<(), Broken> {
        let file = self.stage.path(&format!("device/root{path}"));
        let made = file.parent().map_or(Ok(()), std::fs::create_dir_all);
        made.and_then(|()| std::fs::write(&file, content)).map_err(Broken::system("write", &file))
    }

    pub(super) fn on_device(&self, path: &str) -> Result<String, Broken> {
        let file = self.stage.path(&format!("device/root{path}"));
        std::fs::read_to_string(&file).map_err(Broken::system("read", &file))
    }
}

pub(super) fn is_connected(device: &Value, connected: bool) -> bool {
    device.get("connected") == Some(&Value::Bool(connected))
}
