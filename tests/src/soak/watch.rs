//! Looking at everything at once: what operators may ask, the log, the lists, the process, what the programs wrote.

use super::admin::Silence;
use super::invariants::shard;
use super::snapshot::{Device, Order, Snapshot, Vitals, alarms, listed};
use super::stage::Stage;
use crate::run::{Launch, run};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Instant;

/// Tokens change seldom: looked at every so many looks.
const TOKENS_EACH: u64 = 5;

/// Revocation lists fetched in one look, beside those of fresh revocations.
const LISTS_EACH: usize = 3;

impl Stage {
    /// Looks at everything and has it judged. `is_thorough` leaves nothing out.
    pub(super) async fn look(&mut self, is_thorough: bool) {
        self.tally.longest_gap = self.tally.longest_gap.max(self.looked_at.elapsed());
        self.looked_at = Instant::now();
        while let Some(imaged) = self.imaging.try_join_next() {
            self.adopt(imaged.expect("imaging does not panic"));
        }
        let mut seen = Snapshot { at: self.at(), ..Snapshot::default() };
        if let Err(Silence(why)) = Box::pin(self.ask(&mut seen, is_thorough)).await {
            self.notice("the server answers", why);
        }
        self.listen(&mut seen);
        seen.noticed = std::mem::take(&mut self.noticed);
        self.checker.see(&seen, &self.promises);
        self.count(seen);
    }

    /// What the server says.
    async fn ask(&mut self, seen: &mut Snapshot, is_thorough: bool) -> Result<(), Silence> {
        seen.lists = self.lists(is_thorough).await;
        let devices = self.admin.all("/v1/devices").await?;
        seen.devices = Some(devices.iter().map(Device::read).collect());
        let orders = self.admin.all("/v1/orders").await?;
        seen.orders = Some(orders.iter().map(Order::read).collect());
        let baselines = self.admin.json("/v1/baselines").await?;
        seen.generations = Some(generations(&baselines));
        if is_thorough || self.tally.checks.is_multiple_of(TOKENS_EACH) {
            let tokens = self.admin.all("/v1/tokens").await?;
            let text = |token: &Value, name| token[name].as_str().unwrap_or_default().to_owned();
            seen.tokens =
                Some(tokens.iter().map(|token| (text(token, "id"), text(token, "state"))).collect());
        }
        let metrics = self.admin.get("/metrics").await?;
        seen.alarms = alarms(&String::from_utf8_lossy(&metrics.body));
        self.follow().await
    }

    /// Reads on in the audit log.
    pub(super) async fn follow(&mut self) -> Result<(), Silence> {
        loop {
            let page = self.admin.json(&format!("/v1/audit?limit=1000{}", self.trail.query())).await?;
            let before = self.trail.size();
            let entries = page["items"].as_array().map(Vec::as_slice).unwrap_or_default();
            for (rule, what) in self.trail.see(entries) {
                self.notice(rule, what);
            }
            if self.trail.size() == before || page["next"].is_null() {
                return Ok(());
            }
        }
    }

    /// Fetches revocation lists: those of the latest revocations, and a few others in turn.
    async fn lists(&self, is_thorough: bool) -> BTreeMap<String, BTreeSet<String>> {
        let mut revoked: Vec<_> = self.promises.revoked.values().collect();
        revoked.sort_by_key(|revoked| std::cmp::Reverse(revoked.at));
        let shards: Vec<&str> =
            revoked.iter().filter_map(|revoked| revoked.serial.as_deref()).map(shard).collect();
        let turn = usize::try_from(self.tally.checks).unwrap_or_default() * LISTS_EACH;
        let wanted: BTreeSet<&str> = if is_thorough {
            shards.iter().copied().collect()
        } else {
            let others = shards.iter().cycle().skip(turn % shards.len().max(1)).take(LISTS_EACH);
            shards.iter().take(LISTS_EACH).chain(others).copied().collect()
        };
        let Some(template) = &self.list_template else { return BTreeMap::new() };
        fetch(template, &wanted, &self.archive).await
    }

    /// What the machine says.
    fn listen(&mut self, seen: &mut Snapshot) {
        if let Some(server) = &mut self.server {
            seen.vitals = Vitals::of(server.pid());
            if !server.is_running() {
                self.noticed.push(("the server runs", "it ended by itself".to_owned()));
            }
            let log = server.site().path("serve.log");
            seen.panics.extend(self.logs.read("server", &log));
        }
        for process in &mut self.fleet {
            seen.panics.extend(process.panics(&mut self.logs));
            if !process.has_ended_by_itself() {
                continue;
            }
            match &process.device {
                // Nothing is left to be done for a device that was let go.
                Some(device) if !self.promises.lives(device) => process.is_done_with(),
                _ => self.noticed.push(("agents run", format!("{} ended by itself", process.name))),
            }
        }
    }

    fn count(&mut self, seen: Snapshot) {
        self.tally.checks += 1;
        self.tally.lost = self.lost_before + self.line.lost();
        if let Some(vitals) = seen.vitals {
            self.tally.vitals(vitals);
        }
        if let Some(orders) = seen.orders {
            self.tally.orders = BTreeMap::new();
            for order in &orders {
                *self.tally.orders.entry(order.phase.clone()).or_default() += 1;
            }
            self.orders = orders;
        }
        if let Some(devices) = seen.devices {
            let open: Vec<&Device> = devices.iter().filter(|device| device.is_open()).collect();
            self.tally.devices = open.len();
            self.tally.retired = devices.len() - open.len();
            self.tally.connected = open.iter().filter(|device| device.connected).count();
            self.devices = devices;
        }
        self.tally.reasons = self.trail.reasons().clone();
    }
}

fn generations(baselines: &Value) -> BTreeMap<String, u64> {
    let items = baselines["items"].as_array().into_iter().flatten();
    items
        .filter_map(|item| Some((item["profile"].as_str()?.to_owned(), item["generation"].as_u64()?)))
        .collect()
}

/// Fetches the lists named `wanted` with curl, as any validator would; a list that cannot be had is left out.
async fn fetch(template: &str, wanted: &BTreeSet<&str>, place: &Path) -> BTreeMap<String, BTreeSet<String>> {
    if wanted.is_empty() {
        return BTreeMap::new();
    }
    let mut words =
        vec!["--silent".to_owned(), "--fail".to_owned(), "--max-time".to_owned(), "20".to_owned()];
    for list in wanted {
        let file = place.join(format!("{list}.crl")).display().to_string();
        let _ = std::fs::remove_file(&file);
        words.extend(["--output".to_owned(), file, template.replace("{shard}", list)]);
    }
    let _ = run(&Launch::plain(), Path::new("curl"), &words, b"").await;
    let read = |list: &&str| {
        let der = std::fs::read(place.join(format!("{list}.crl"))).ok()?;
        Some(((*list).to_owned(), listed(&der)?))
    };
    wanted.iter().filter_map(read).collect()
}
