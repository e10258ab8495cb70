//! The steps in which every key of the server is stolen, and the device lets nobody wipe it all the same.
//!
//! An honest server never sends an order that too few have approved, so what the device does with one is seen only when
//! somebody else stands in the server's place. He holds what the server held, the agent takes him for the server, and
//! what the agent then refuses, it refuses in its own words.

use super::call::{Call, is, text};
use super::line::{NOTICE, is_connected};
use super::stage::{Broken, Program, until};
use super::story::{Outcome, SERIAL, SERVER, Story, asked_to_end};
use super::teller::Teller;
use super::thief::{Thief, Victim};
use crate::cli::table::value_at;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use muster_wire::envelope::MultiSigned;
use muster_wire::merkle::TreeHead;
use muster_wire::order::Order;
use muster_wire::warrant::Warrant;
use serde_json::{Value, json};
use std::fmt::Display;

/// The copy of the server's data directory.
const LOOT: &str = "stolen";
/// What one approver is shown.
const PACKAGE: &str = "urgent.json";
/// What comes back.
const SIGNATURE: &str = "urgent.signature";

impl Story {
    /// From here on the agent talks to the thief and takes him for the server.
    pub(super) async fn stolen(&mut self, teller: &mut Teller) -> Outcome {
        let victim = self.victim().await?;
        let endpoints = self.endpoints()?;
        for (child, who) in
            [(self.server.take(), "the server"), (self.agent.take(), "the agent, for the night")]
        {
            let mut child = child.ok_or_else(|| Broken::unexpected(format!("{who} does not run")))?;
            asked_to_end(&mut child, who, teller).await?;
        }
        // Of a server that runs, a file may be gone before it is copied.
        self.run(teller, &Call::of(Program::Copy, &["-a", SERVER, LOOT])).await?;
        let keys = self.stolen_keys()?;
        teller.output(&keys.join("  "));
        let mut thief = Thief::with(&self.stage.path(LOOT), victim)?;
        thief.stands_in(&endpoints).await?;
        teller.command("# the thief listens at the server's addresses, with certificates of the stolen CA");
        self.start_agent(teller)?;
        thief.is_believed().await?;
        self.thief = Some(thief);
        until("the agent's word that it is connected", async || {
            Ok(is_connected(&self.status_of("device").await?, true).then_some(()))
        })
        .await?;
        let gate = text(&endpoints, "/mqtt")?;
        teller.output(&format!("connected to {gate}, says the agent, and waits for orders"));
        Ok(json!({"keys": keys, "connected": true}))
    }

    /// Everything that the server signs is in order, and nobody has approved.
    pub(super) async fn unapproved(&mut self, teller: &mut Teller) -> Outcome {
        let order = self.thief()?.order()?;
        teller.command("# wipe DEMO-0001, signed with the server's command key");
        let words = self.is_refused(teller, &order, "this order needs a warrant").await?;
        Ok(json!({"agent": words}))
    }

    /// One approver signs; the server's keys sign as well, which makes them no approvers.
    pub(super) async fn half_approved(&mut self, teller: &mut Teller) -> Outcome {
        let thief = self.thief()?;
        let package = thief.package(&thief.warrant()?);
        let path = self.stage.path(PACKAGE);
        std::fs::write(&path, package.to_string()).map_err(Broken::system("write", &path))?;
        let words = ["warrant", "sign", "--package", PACKAGE, "--key", "alice.key", "--out", SIGNATURE];
        self.run(teller, &Call::of(Program::Muster, &[&words[..], &["--yes", "--json"]].concat())).await?;
        let mut warrant = self.handed_in()?;
        let thief = self.thief()?;
        thief.sign_as_the_server(&mut warrant)?;
        let order = thief.order_under(&warrant)?;
        teller.command("# wipe DEMO-0001, under a warrant signed by alice and by every key of the server");
        let words =
            self.is_refused(teller, &order, "2 approvers are needed, 1 that count have signed").await?;
        Ok(json!({"signed_by": ["alice"], "agent": words}))
    }

    /// Two signatures by approvers whom nobody but the thief has named, and an authority that does name them.
    pub(super) async fn self_approved(&mut self, teller: &mut Teller) -> Outcome {
        let thief = self.thief()?;
        let mut warrant = MultiSigned::unsigned(&thief.warrant()?);
        thief.sign_as_his_own(&mut warrant)?;
        let order = thief.order_under(&warrant)?;
        teller
            .command("# wipe DEMO-0001, under a warrant signed by eve and mallory, of whom nobody has heard");
        let alone = self.is_refused(teller, &order, "signed by no key that counts").await?;
        let thief = self.thief()?;
        let mut order = thief.order_under(&warrant)?;
        order.sequence.authority_version = 2;
        teller.command("# the same, and an authority, version 2, that makes eve and mallory approvers");
        let why = "authority version 2 is not the one in force here";
        let founded = self.is_refused(teller, &order, why).await?;
        let status = self.status_of("device").await?;
        teller.output(&format!("authority in force: version {}", value_at(&status, "/authority_version")));
        if status.get("authority_version") != Some(&json!(1)) {
            return Err(Broken::unexpected("the device obeys the thief's authority"));
        }
        Ok(json!({"agent": [alone, founded], "authority_version": 1}))
    }

    /// The honest server is back at its addresses; the agent finds it, and tells it of the thief.
    pub(super) async fn back(&mut self, teller: &mut Teller) -> Outcome {
        if let Some(thief) = self.thief.take() {
            thief.goes().await;
        }
        teller.command("# the thief is gone");
        self.start_server(teller).await?;
        let shown =
            self.thing_when(SERIAL, "the agent's return", |device| is_connected(device, true)).await?;
        let state = text(&shown, "/state")?;
        teller.output(&format!("{state}, connected"));
        if state != "active" {
            return Err(Broken::unexpected("the device is not active any more"));
        }
        let told = until("the agent's telling of it", async || {
            let history = self.look(&["device", "history", SERIAL]).await?;
            let told: Vec<Value> = self.refused.iter().filter_map(|words| telling(&history, words)).collect();
            Ok((told.len() == self.refused.len()).then_some(told))
        })
        .await?;
        teller.command(&format!("muster device history {SERIAL} --data-dir {SERVER}"));
        for entry in &told {
            teller.output(&["/seq", "/reason", "/facts/detail"].map(|at| value_at(entry, at)).join("  "));
        }
        self.is_unharmed()?;
        Ok(json!({"state": state, "told": told, "file": NOTICE}))
    }

    /// Has the agent refuse `order` for a reason with `why` in it; answers its words.
    async fn is_refused(&mut self, teller: &mut Teller, order: &Order, why: &str) -> Result<String, Broken> {
        let words = self.thief()?.tries(order).await?;
        teller.output(&format!("the agent: {words}"));
        if !words.contains(why) {
            return Err(Broken::unexpected(format!("the agent does not say: {why}")));
        }
        self.is_unharmed()?;
        self.refused.push(words.clone());
        Ok(words)
    }

    /// Nothing is gone, and the agent that was there is there.
    fn is_unharmed(&mut self) -> Result<(), Broken> {
        let is_running = self.agent.as_mut().is_some_and(|agent| matches!(agent.try_wait(), Ok(None)));
        let has_key = self.stage.path("device/identity/key.pem").exists();
        if is_running && has_key && self.on_device(NOTICE).is_ok() {
            return Ok(());
        }
        Err(Broken::unexpected("the device has lost its agent, its key or its files"))
    }

    fn thief(&mut self) -> Result<&mut Thief, Broken> {
        self.thief.as_mut().ok_or_else(|| Broken::unexpected("there is no thief"))
    }

    /// What a thief of the server finds out of the device: the server's store and discovery tell all of it.
    async fn victim(&self) -> Result<Victim, Broken> {
        let status = self.status_of("device").await?;
        let (size, root) = text(&status, "/checkpoint")?.split_once(' ').unwrap_or_default();
        let seen = TreeHead {
            size: size.parse().map_err(unread("the device's checkpoint"))?,
            root: root.parse().map_err(unread("the device's checkpoint"))?,
        };
        let path = self.stage.path("device/authority");
        let authority = std::fs::read_to_string(&path).map_err(Broken::system("read", &path))?;
        let device = self.device.parse().map_err(unread("the device's id"))?;
        Ok(Victim { device, serial: SERIAL.to_owned(), seen, authority })
    }

    fn stolen_keys(&self) -> Result<Vec<String>, Broken> {
        let path = self.stage.path(LOOT).join("keys");
        let found = std::fs::read_dir(&path).map_err(Broken::system("read", &path))?;
        let names = found.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut keys: Vec<String> = names.filter(|name| name.ends_with(".key")).collect();
        keys.sort();
        Ok(keys)
    }

    /// What an approver has signed away from the server.
    fn handed_in(&self) -> Result<MultiSigned<Warrant>, Broken> {
        let path = self.stage.path(SIGNATURE);
        let handed = std::fs::read(&path).map_err(Broken::system("read", &path))?;
        let handed: Value = serde_json::from_slice(&handed).map_err(unread("the signature"))?;
        let signed = BASE64_STANDARD.decode(text(&handed, "/signed")?).map_err(unread("the signature"))?;
        MultiSigned::parse(&signed).map_err(unread("the signature"))
    }
}

/// The entry of a device's history in which it tells `words`.
fn telling(history: &Value, words: &str) -> Option<Value> {
    let mut entries = history.as_array().into_iter().flatten();
    entries.find(|entry| is(entry, "/action", "report.event") && entry.to_string().contains(words)).cloned()
}

fn unread<E: Display>(what: &str) -> impl FnOnce(E) -> Broken {
    let what = what.to_owned();
    move |cause| Broken::unexpected(format!("{what} cannot be read: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_telling_is_found_by_its_words_and_by_no_others() {
        let history =
            json!([{"action": "order.make"}, {"action": "report.event", "detail": "it was refused"}]);
        assert!(telling(&history, "was refused").is_some());
        assert!(telling(&history, "was taken").is_none());
        assert!(telling(&json!([{"action": "other", "detail": "it was refused"}]), "was refused").is_none());
    }
}
