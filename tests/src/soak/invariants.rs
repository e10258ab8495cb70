//! What must hold at every moment, whatever has been killed, cut or decided.
//!
//! Pure: what was seen and what was promised go in, what does not hold comes out. Each rule is one function, and each
//! has a test that shows it something wrong.

use super::promises::{Decided, Promises};
use super::snapshot::{Device, Order, Snapshot};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Within this a revoked device's session must be cut. The server promises a second; the rest is the time that it
/// takes to ask.
const CUT_WITHIN: Duration = Duration::from_secs(3);

/// Something that had to hold and does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Violation {
    /// Since the beginning of the run.
    pub(super) at: Duration,
    /// The rule.
    pub(super) rule: &'static str,
    /// Of whom, and what was seen.
    pub(super) what: String,
}

/// What the server's process may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) resident_bytes: u64,
    pub(super) descriptors: u64,
}

/// What was seen of a device so far.
#[derive(Debug, Default)]
struct Life {
    state: String,
    /// Every certificate it had, the present one last.
    serials: Vec<String>,
    reported: Option<u64>,
}

/// Sees every moment and remembers what it needs of those before.
#[derive(Debug)]
pub(super) struct Checker {
    bounds: Bounds,
    lives: BTreeMap<String, Life>,
    orders: BTreeMap<String, Order>,
    generations: BTreeMap<String, u64>,
    said: BTreeSet<(&'static str, String)>,
    found: Vec<Violation>,
    now: Duration,
}

impl Checker {
    /// Nothing seen yet.
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            lives: BTreeMap::new(),
            orders: BTreeMap::new(),
            generations: BTreeMap::new(),
            said: BTreeSet::new(),
            found: Vec::new(),
            now: Duration::ZERO,
        }
    }

    /// Everything that did not hold so far.
    pub(super) fn found(&self) -> &[Violation] {
        &self.found
    }

    /// Looks at one moment. `promises` are those made before looking began.
    pub(super) fn see(&mut self, seen: &Snapshot, promises: &Promises) {
        self.now = seen.at;
        if let Some(devices) = &seen.devices {
            self.no_device_is_lost(devices);
            self.one_certificate_one_device(devices);
            self.one_life_for_each_thing(devices);
            for device in devices {
                self.no_certificate_comes_back(device);
                self.no_generation_goes_back(device);
                self.the_end_is_the_end(device);
                self.the_revoked_are_cut(device, promises);
                self.the_superseded_are_gone(device, promises);
                self.the_held_are_held(device, promises);
            }
        }
        if let Some(orders) = &seen.orders {
            self.no_order_is_lost(orders, promises);
            orders.iter().for_each(|order| self.an_order_ends_once(order));
        }
        self.no_token_is_lost(seen, promises);
        self.no_baseline_is_lost(seen, promises);
        self.the_lists_name_the_revoked(seen, promises);
        self.the_server_stays_within_bounds(seen);
        for panic in &seen.panics {
            self.say("nothing panics", panic, "");
        }
        for (rule, what) in &seen.noticed {
            self.say(rule, what, "");
        }
    }

    /// Notes that `rule` does not hold of `who`; once.
    fn say(&mut self, rule: &'static str, who: &str, what: impl AsRef<str>) {
        if self.said.insert((rule, who.to_owned())) {
            let what = format!("{who} {}", what.as_ref()).trim_end().to_owned();
            self.found.push(Violation { at: self.now, rule, what });
        }
    }

    fn no_device_is_lost(&mut self, devices: &[Device]) {
        let there: BTreeSet<&str> = devices.iter().map(|device| device.id.as_str()).collect();
        let lost: Vec<String> =
            self.lives.keys().filter(|id| !there.contains(id.as_str())).cloned().collect();
        for id in lost {
            self.say("no device is lost", &id, "was there and is not any more");
        }
    }

    fn one_certificate_one_device(&mut self, devices: &[Device]) {
        let mut owners = BTreeMap::new();
        for device in devices {
            let Some(serial) = &device.serial else { continue };
            if let Some(other) = owners.insert(serial, &device.id) {
                self.say(
                    "one certificate belongs to one device",
                    serial,
                    format!("to {other} and {}", device.id),
                );
            }
        }
    }

    fn one_life_for_each_thing(&mut self, devices: &[Device]) {
        let mut open = BTreeMap::new();
        for device in devices.iter().filter(|device| device.is_open()) {
            let Some(asset) = &device.asset else { continue };
            if let Some(other) = open.insert(asset, &device.id) {
                self.say("one thing has one open life", asset, format!("has {other} and {}", device.id));
            }
        }
    }

    fn no_certificate_comes_back(&mut self, device: &Device) {
        let Some(serial) = device.serial.clone() else { return };
        let serials = &mut self.lives.entry(device.id.clone()).or_default().serials;
        if serials.last() == Some(&serial) {
            return;
        }
        let is_old = serials.contains(&serial);
        serials.push(serial.clone());
        if is_old {
            self.say("no certificate comes back", &device.id, format!("has its former {serial} again"));
        }
    }

    fn no_generation_goes_back(&mut self, device: &Device) {
        let life = self.lives.entry(device.id.clone()).or_default();
        let before = life.reported;
        life.reported = device.reported.max(before);
        if device.reported < before {
            let what = format!("reported {before:?}, now {:?}", device.reported);
            self.say("no generation goes back", &device.id, what);
        }
    }

    fn the_end_is_the_end(&mut self, device: &Device) {
        let life = self.lives.entry(device.id.clone()).or_default();
        let before = std::mem::replace(&mut life.state, device.state.clone());
        if before == "retired" && device.state != "retired" {
            self.say("the end is the end", &device.id, format!("was retired, is {}", device.state));
        }
        if device.state == "retired" && !matches!(device.status.as_str(), "revoked" | "superseded" | "") {
            let what = format!("is retired, its certificate is {}", device.status);
            self.say("the end is the end", &device.id, what);
        }
        if before == "active" && matches!(device.state.as_str(), "commissioning" | "pending" | "expected") {
            self.say("nobody is commissioned twice", &device.id, format!("was active, is {}", device.state));
        }
    }

    fn the_revoked_are_cut(&mut self, device: &Device, promises: &Promises) {
        let Some(revoked) = promises.revoked.get(&device.id) else { return };
        if device.state != "retired" || device.retirement.as_deref() != Some("without_proof") {
            self.say("what was answered is so", &device.id, format!("was revoked, is {}", device.state));
        }
        if device.connected && self.now > revoked.at + CUT_WITHIN {
            self.say("the revoked are cut", &device.id, "was revoked and is connected");
        }
    }

    fn the_superseded_are_gone(&mut self, device: &Device, promises: &Promises) {
        let is_superseded = promises.superseded.contains(&device.id);
        if is_superseded && (device.connected || device.state != "retired") {
            let what = format!("has a later life, is {}, connected: {}", device.state, device.connected);
            self.say("what was answered is so", &device.id, what);
        }
    }

    fn the_held_are_held(&mut self, device: &Device, promises: &Promises) {
        let is_quarantined = device.state == "quarantined";
        if device.is_open() && device.serial.is_some() && device.held != is_quarantined {
            let what = format!("is {}, its certificate's hold is {}", device.state, device.held);
            self.say("the held are held", &device.id, what);
        }
        let decided = promises.decided.get(&device.id).filter(|_| device.is_open());
        if decided.is_some_and(|decided| (*decided == Decided::Held) != is_quarantined) {
            let what = format!("was {decided:?}, is {}", device.state);
            self.say("what was answered is so", &device.id, what);
        }
    }

    fn no_order_is_lost(&mut self, orders: &[Order], promises: &Promises) {
        let there: BTreeMap<&str, &Order> = orders.iter().map(|order| (order.id.as_str(), order)).collect();
        for (id, ordered) in &promises.orders {
            let same = there.get(id.as_str()).is_some_and(|order| {
                (&order.device, &order.kind, order.sequence)
                    == (&ordered.device, &ordered.kind, ordered.sequence)
            });
            if !same {
                self.say(
                    "what was answered is so",
                    id,
                    format!("was ordered, is {:?}", there.get(id.as_str())),
                );
            }
        }
        let lost: Vec<String> =
            self.orders.keys().filter(|id| !there.contains_key(id.as_str())).cloned().collect();
        for id in lost {
            self.say("no order is lost", &id, "was there and is not any more");
        }
    }

    fn an_order_ends_once(&mut self, order: &Order) {
        let before = self.orders.insert(order.id.clone(), order.clone());
        let Some(before) = before else { return };
        if before.has_ended() && before.phase != order.phase {
            let what = format!("had ended {}, is {}", before.phase, order.phase);
            self.say("an order ends once", &order.id, what);
        }
        if before.phase == "delivered" && order.phase == "ordered" {
            self.say("an order ends once", &order.id, "was delivered, is only ordered");
        }
    }

    fn no_token_is_lost(&mut self, seen: &Snapshot, promises: &Promises) {
        let Some(tokens) = &seen.tokens else { return };
        for (id, is_revoked) in &promises.tokens {
            let state = tokens.get(id).map(String::as_str);
            let holds = match (is_revoked, state) {
                (_, None) => false,
                (Some(true), Some(state)) => state == "revoked",
                (Some(false), Some(state)) => state != "revoked",
                (None, Some(_)) => true,
            };
            if !holds {
                self.say("what was answered is so", id, format!("revoked: {is_revoked:?}, is {state:?}"));
            }
        }
    }

    fn no_baseline_is_lost(&mut self, seen: &Snapshot, promises: &Promises) {
        let Some(generations) = &seen.generations else { return };
        for (profile, promised) in &promises.generations {
            let now = generations.get(profile).copied().unwrap_or_default();
            if now < *promised {
                self.say("what was answered is so", profile, format!("was set to {promised}, is at {now}"));
            }
        }
        for (profile, now) in generations {
            let before = self.generations.insert(profile.clone(), *now).unwrap_or_default();
            if *now < before {
                self.say("no generation goes back", profile, format!("was at {before}, is at {now}"));
            }
        }
    }

    fn the_lists_name_the_revoked(&mut self, seen: &Snapshot, promises: &Promises) {
        for (device, revoked) in &promises.revoked {
            let Some(serial) = &revoked.serial else { continue };
            let Some(list) = seen.lists.get(shard(serial)) else { continue };
            if !list.contains(serial) {
                self.say("the lists name the revoked", device, format!("{serial} is on no list"));
            }
        }
    }

    fn the_server_stays_within_bounds(&mut self, seen: &Snapshot) {
        for (name, value) in seen.alarms.iter().filter(|(_, value)| **value != 0) {
            self.say("no alarm is given", name, format!("is {value}"));
        }
        let Some(vitals) = seen.vitals else { return };
        let Bounds { resident_bytes, descriptors } = self.bounds;
        if vitals.resident_bytes > resident_bytes {
            let what = format!("{} of {resident_bytes} bytes", vitals.resident_bytes);
            self.say("the server stays within bounds", "resident memory", what);
        }
        if vitals.descriptors > descriptors {
            let what = format!("{} of {descriptors}", vitals.descriptors);
            self.say("the server stays within bounds", "descriptors", what);
        }
    }
}

/// The part of a serial number that names its revocation list.
pub(super) fn shard(serial: &str) -> &str {
    serial.get(serial.len().saturating_sub(2)..).unwrap_or_default()
}

#[cfg(test)]
#[path = "invariants_tests.rs"]
mod tests;
