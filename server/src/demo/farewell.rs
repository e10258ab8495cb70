//! The steps in which the first device is let go: one asks, two sign, the device wipes itself, and a stranger checks it.

use super::call::{Call, is, problem, said, text};
use super::line::NOTICE;
use super::stage::{Broken, Program, port_of, until};
use super::story::{Outcome, SERIAL, Story};
use super::teller::Teller;
use crate::cli::table::value_at;
use serde_json::{Value, json};

/// What a stranger checks the proof with.
const SCRIPT: &str = include_str!("../../../docs/verify-wipe.py");
/// Where the demo puts it.
const CHECKER: &str = "verify-wipe.py";
/// A copy of the device's state directory, made before the wipe.
const CLONE: &str = "clone";
/// Certificate and key in it.
const CLONED: [&str; 2] = ["clone/identity/certificate.pem", "clone/identity/key.pem"];
/// Where the signed documents go.
const PROOF: &str = "proof";

impl Story {
    /// Asking changes what the device may say, and nothing else.
    pub(super) async fn deprovision(&mut self, teller: &mut Teller) -> Outcome {
        let words = ["device", "deprovision", SERIAL, "--wipe", "clear", "--yes"];
        let asked = self.muster(teller, &words).await?;
        text(&asked, "/warrant")?.clone_into(&mut self.warrant);
        let needed = value_at(&asked, "/required");
        teller.output(&format!("warrant {}: {needed} approvers have to sign", self.warrant));
        self.is_untouched("asking").await?;
        teller.command("# meanwhile somebody copies what the device is known by, its key with it");
        let place = self.stage.path(CLONE);
        std::fs::create_dir(&place).map_err(Broken::system("create", &place))?;
        // The running agent replaces its other files under a copier's hands.
        let copied = ["device/identity", "device/journal", "device/trust", "device/authority", CLONE];
        self.run(teller, &Call::of(Program::Copy, &[&["-a"], &copied[..]].concat())).await?;
        Ok(json!({"warrant": self.warrant, "required": asked.get("required"), "phase": asked.get("phase")}))
    }

    /// One signature is shown for what it is.
    pub(super) async fn half_signed(&self, teller: &mut Teller) -> Outcome {
        self.sign(teller, "alice").await?;
        let shown = self.look(&["warrant", "show", &self.warrant]).await?;
        let state = text(&shown, "/state")?;
        teller.output(&format!("signed by {}, {state}", value_at(&shown, "/signed_by")));
        if state != "requested" {
            return Err(Broken::unexpected("one signature was taken for two"));
        }
        self.is_untouched("one signature").await?;
        Ok(json!({"signed_by": shown.get("signed_by"), "state": state}))
    }

    /// The device checks everything once more, wipes itself, says so phase by phase, and its agent ends.
    pub(super) async fn wiped(&mut self, teller: &mut Teller) -> Outcome {
        self.sign(teller, "bob").await?;
        let shown =
            self.thing_when(SERIAL, "the device's proof", |device| is(device, "/phase", "proven")).await?;
        let order = self.look(&["order", "list", "--device", SERIAL]).await.unwrap_or_default();
        let phases = phases_of(&order);
        teller.output(&format!("{}: {}", value_at(&shown, "/state"), phases.join(", ")));
        if self.on_device(NOTICE).is_ok() {
            return Err(Broken::unexpected(format!("{NOTICE} is still on the device")));
        }
        let Some(mut agent) = self.agent.take() else { return Err(Broken::unexpected("no agent runs")) };
        let ended = until("the end of the agent", async || {
            agent.try_wait().map_err(|source| Broken::unexpected(source.to_string()))
        })
        .await?;
        if !ended.success() || self.stage.path("device/identity/key.pem").exists() {
            return Err(Broken::unexpected("the agent did not end, or its key is still there"));
        }
        teller.output(
            "the agent has ended; its key went last, after the server had signed for the last receipt",
        );
        Ok(json!({"phase": shown.get("phase"), "receipts": phases, "exit": ended.code()}))
    }

    /// Nothing of ours takes part, but for the documents.
    pub(super) async fn proof(&self, teller: &mut Teller) -> Outcome {
        let record = self.muster(teller, &["device", "record", SERIAL, "--proof", PROOF]).await?;
        teller.output(&format!("{}: {}", value_at(&record, "/method"), value_at(&record, "/statement")));
        let script = self.stage.path(CHECKER);
        std::fs::write(&script, SCRIPT).map_err(Broken::system("write", &script))?;
        let [authority, root] = [text(&record, "/authority_sha256")?, text(&record, "/root_spki_sha256")?];
        if !self.stage.has(Program::Python) {
            teller.output(
                "python3 is not on this machine: whoever has it checks the proof with docs/verify-wipe.py",
            );
            return Ok(json!({"method": record.get("method"), "checked": false}));
        }
        let check = Call::of(Program::Python, &[CHECKER, PROOF, "--authority", authority, "--root", root]);
        let said = self.run(teller, &check).await?.stdout;
        teller.output(&said);
        Ok(json!({"method": record.get("method"), "checked": true, "said": said.trim()}))
    }

    /// The device has destroyed its key; a copy of it is worth nothing.
    pub(super) async fn dead(&self, teller: &mut Teller) -> Outcome {
        let renew = ["renew", "--state-dir", CLONE, "--json"];
        let ran = self.run(teller, &Call::of(Program::Agent, &renew).ending(3)).await?;
        teller.output(&said(&ran));
        let mut refused = vec![json!({"door": "est", "said": problem(&ran).get("code")})];
        for listener in ["device", "mqtt"] {
            let word = self.knock(teller, listener).await?;
            refused.push(json!({"door": listener, "said": word}));
        }
        let url = self.is_revoked(teller, CLONED[0], SERIAL).await?;
        Ok(json!({"doors": refused, "crl": url, "openssl": "certificate revoked"}))
    }

    /// Shows the copied certificate to a listener by openssl's hand; answers the alert that comes back.
    async fn knock(&self, teller: &mut Teller, listener: &str) -> Result<String, Broken> {
        let port = port_of(text(&self.endpoints()?, &format!("/{listener}"))?)?;
        let place = format!("localhost:{port}");
        let [certificate, key] = CLONED;
        let words =
            ["s_client", "-connect", &place, "-CAfile", "root.pem", "-cert", certificate, "-key", key];
        let call = Call::of(Program::Openssl, &[&words[..], &["-quiet"]].concat());
        teller.command(&call.shown());
        // The last acknowledgement may be on its way to the server still.
        let alert = until("the alert", async || {
            let said = self.stage.run(&call).await?.stderr;
            Ok(said.lines().find(|line| line.contains("certificate revoked")).map(str::to_owned))
        })
        .await?;
        let word = alert.split(':').find(|part| part.contains("certificate revoked")).unwrap_or_default();
        teller.output(word);
        Ok(word.to_owned())
    }

    async fn sign(&self, teller: &mut Teller, name: &str) -> Result<Value, Broken> {
        let key = format!("{name}.key");
        self.muster(teller, &["warrant", "sign", &self.warrant, "--key", &key, "--yes"]).await
    }

    /// `why` alone must not have touched the device.
    async fn is_untouched(&self, why: &str) -> Result<(), Broken> {
        let shown = self.look(&["device", "show", SERIAL]).await?;
        let is_waiting = is(&shown, "/phase", "requested") && self.on_device(NOTICE).is_ok();
        if is_waiting { Ok(()) } else { Err(Broken::unexpected(format!("{why} was enough to order a wipe"))) }
    }
}

/// The phases of the receipts for the wipe, in their order.
fn phases_of(orders: &Value) -> Vec<String> {
    let orders = orders.as_array().map_or(&[][..], Vec::as_slice);
    let wipe = orders.iter().find(|order| is(order, "/kind", "wipe"));
    let receipts = wipe.and_then(|order| order.get("receipts")).and_then(Value::as_array);
    receipts.into_iter().flatten().map(|receipt| value_at(receipt, "/phase")).collect()
}
