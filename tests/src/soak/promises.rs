//! What the server has promised by answering with success: it must be so from then on, whatever ends in between.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How a device was last decided about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decided {
    /// It is held.
    Held,
    /// It is not held.
    Released,
}

/// A revocation that was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Revoked {
    /// Serial number of the certificate that ended, 32 hexadecimal digits.
    pub(super) serial: Option<String>,
    /// When, since the beginning of the run.
    pub(super) at: Duration,
}

/// An order that was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ordered {
    /// Of whom.
    pub(super) device: String,
    /// What.
    pub(super) kind: String,
    /// Its place among the orders of the device.
    pub(super) sequence: u64,
}

/// Everything promised so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Promises {
    /// By device.
    pub(super) revoked: BTreeMap<String, Revoked>,
    /// Devices whose life may have been ended: nothing is expected of them.
    pub(super) doubtful: BTreeSet<String>,
    /// Devices whose thing has begun another life.
    pub(super) superseded: BTreeSet<String>,
    /// By device; what nobody knows is left out.
    pub(super) decided: BTreeMap<String, Decided>,
    /// By order.
    pub(super) orders: BTreeMap<String, Ordered>,
    /// Highest generation by profile.
    pub(super) generations: BTreeMap<String, u64>,
    /// Tokens, and whether each was taken back; `None` when nobody knows.
    pub(super) tokens: BTreeMap<String, Option<bool>>,
}

impl Promises {
    /// Takes in the answer `said` to a POST at `path`, at `at` since the beginning of the run.
    pub(super) fn made(&mut self, path: &str, said: &Value, at: Duration) {
        let text = |name: &str| said[name].as_str().unwrap_or_default().to_owned();
        match verb(path) {
            ("devices", Some((device, "revoke"))) => {
                let serial = said["certificate"]["serial"].as_str().map(str::to_owned);
                let revoked = Revoked { serial, at };
                self.revoked.entry(device.to_owned()).or_insert(revoked);
                self.decided.remove(device);
            }
            ("devices", Some((device, "quarantine"))) => {
                self.decided.insert(device.to_owned(), Decided::Held);
            }
            ("devices", Some((device, "release"))) => {
                self.decided.insert(device.to_owned(), Decided::Released);
            }
            ("orders", None) => {
                let sequence = said["sequence"].as_u64().unwrap_or_default();
                let ordered = Ordered { device: text("device"), kind: text("kind"), sequence };
                self.orders.insert(text("id"), ordered);
            }
            ("baselines", None) => {
                let generation = said["baseline"]["generation"].as_u64().unwrap_or_default();
                let profile = said["baseline"]["profile"].as_str().unwrap_or_default().to_owned();
                let known = self.generations.entry(profile).or_default();
                *known = generation.max(*known);
            }
            ("tokens", None) => {
                for token in said.as_array().or(said["items"].as_array()).into_iter().flatten() {
                    let id = token["id"].as_str().unwrap_or_default().to_owned();
                    self.tokens.insert(id, Some(false));
                }
            }
            ("tokens", Some((token, "revoke"))) => {
                self.tokens.insert(token.to_owned(), Some(true));
            }
            other => panic!("nobody knows what {other:?} promises"),
        }
    }

    /// Nobody answered a POST at `path`: either may be so.
    pub(super) fn unknown(&mut self, path: &str) {
        match verb(path) {
            ("devices", Some((device, "revoke"))) => {
                self.doubtful.insert(device.to_owned());
                self.decided.remove(device);
            }
            ("devices", Some((device, _))) => {
                self.decided.remove(device);
            }
            ("tokens", Some((token, _))) => {
                self.tokens.insert(token.to_owned(), None);
            }
            _ => {}
        }
    }

    /// The thing that `device` was may begin another life from now on.
    pub(super) fn may_be_superseded(&mut self, device: &str) {
        self.doubtful.insert(device.to_owned());
        self.decided.remove(device);
    }

    /// The thing that `device` was has begun another life.
    pub(super) fn is_superseded(&mut self, device: &str) {
        self.superseded.insert(device.to_owned());
    }

    /// Whether nothing is known that would end the life of `device`.
    pub(super) fn lives(&self, device: &str) -> bool {
        !self.revoked.contains_key(device)
            && !self.doubtful.contains(device)
            && !self.superseded.contains(device)
    }
}

/// `/v1/devices/ID:revoke` is `("devices", Some(("ID", "revoke")))`, `/v1/orders` is `("orders", None)`.
fn verb(path: &str) -> (&str, Option<(&str, &str)>) {
    let path = path.trim_start_matches("/v1/");
    match path.split_once('/') {
        Some((resource, act)) => (resource, act.split_once(':')),
        None => (path, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_answer_is_a_promise_and_silence_withdraws_what_it_may_have_changed() {
        let mut promises = Promises::default();
        promises.made("/v1/devices/a:quarantine", &json!({}), Duration::ZERO);
        assert_eq!(promises.decided["a"], Decided::Held);
        promises.unknown("/v1/devices/a:release");
        assert!(promises.decided.is_empty(), "it may be held, it may be released");

        let said = json!({"certificate": {"serial": "0a"}});
        promises.made("/v1/devices/a:revoke", &said, Duration::from_secs(2));
        promises.made("/v1/devices/a:revoke", &said, Duration::from_secs(9));
        assert_eq!(promises.revoked["a"], Revoked { serial: Some("0a".into()), at: Duration::from_secs(2) });
        assert!(!promises.lives("a"));
        promises.unknown("/v1/devices/b:revoke");
        assert!(!promises.lives("b") && promises.lives("c"));
    }

    #[test]
    fn orders_baselines_and_tokens_are_remembered() {
        let mut promises = Promises::default();
        promises.made(
            "/v1/orders",
            &json!({"id": "o", "device": "d", "kind": "k", "sequence": 3}),
            Duration::ZERO,
        );
        assert_eq!(promises.orders["o"], Ordered { device: "d".into(), kind: "k".into(), sequence: 3 });
        for generation in [4, 3] {
            let said = json!({"baseline": {"profile": "p", "generation": generation}});
            promises.made("/v1/baselines", &said, Duration::ZERO);
        }
        assert_eq!(promises.generations["p"], 4);
        promises.made("/v1/tokens", &json!({"items": [{"id": "t"}, {"id": "u"}]}), Duration::ZERO);
        promises.made("/v1/tokens/t:revoke", &json!({}), Duration::ZERO);
        promises.unknown("/v1/tokens/u:revoke");
        assert_eq!((promises.tokens["t"], promises.tokens["u"]), (Some(true), None));
    }
}
