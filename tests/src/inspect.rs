//! What an operator sees of a running server: devices, tokens, the audit log.

use serde_json::Value;

use crate::{Server, eventually, wait::eventually_or};

impl Server {
    /// Every device, oldest first.
    pub async fn devices(&self) -> Vec<Value> {
        array(&self.cli(&["device", "list"]).await)
    }

    /// The device `id`.
    pub async fn device(&self, id: &str) -> Value {
        self.cli(&["device", "show", id]).await
    }

    /// The device `id`, once `holds` is true of it; `what` says what is waited for.
    ///
    /// # Panics
    /// When it never is; with the device as it was last seen.
    pub async fn device_when(&self, id: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let mut seen = Value::Null;
        let found = eventually_or(async || {
            seen = self.device(id).await;
            holds(&seen).then(|| seen.clone())
        });
        let found = found.await;
        found.unwrap_or_else(|| panic!("waited in vain: {what}; the device is {seen:#}"))
    }

    /// What `device explain` says: the rule by which the device is where it is.
    pub async fn explained(&self, device: &str) -> String {
        let said = self.cli(&["device", "explain", device]).await;
        said["rule"].as_str().unwrap_or_else(|| panic!("no rule in {said}")).to_owned()
    }

    /// Sets the baseline in `toml`; answers its generation.
    ///
    /// # Panics
    /// When the server refuses it.
    pub async fn set_baseline(&self, toml: &str) -> u64 {
        let file = self.site().path("baseline.toml");
        std::fs::write(&file, toml).expect("the site is writable");
        let set = self.cli(&["baseline", "set", &file.display().to_string()]).await;
        set["baseline"]["generation"].as_u64().unwrap_or_else(|| panic!("no generation in {set}"))
    }

    /// Orders something of a device; answers the order's id.
    ///
    /// # Panics
    /// When the server refuses it.
    pub async fn order(&self, kind: &str, device: &str) -> String {
        let made = self.cli(&["order", "make", kind, device]).await;
        made["id"].as_str().unwrap_or_else(|| panic!("no id in {made}")).to_owned()
    }

    /// The order once it is `done`.
    ///
    /// # Panics
    /// When it ends otherwise, or never.
    pub async fn done(&self, order: &str) -> Value {
        eventually("the order is done", async || {
            let shown = self.cli(&["order", "show", order]).await;
            let phase = shown["phase"].as_str().unwrap_or_default();
            assert!(!["refused", "failed", "expired"].contains(&phase), "{shown}");
            (phase == "done").then_some(shown)
        })
        .await
    }

    /// Every entry of the audit log about a device, as one text.
    pub async fn history(&self, device: &str) -> String {
        self.cli(&["device", "history", device]).await.to_string()
    }

    /// Every token, oldest first, without its secret.
    pub async fn tokens(&self) -> Vec<Value> {
        array(&self.cli(&["token", "list"]).await)
    }

    /// Every audit entry with `action` and `outcome` (`done`, `refused`), oldest first.
    pub async fn audited(&self, action: &str, outcome: &str) -> Vec<Value> {
        let entries = array(&self.cli(&["audit", "tail", "--lines", "1000000"]).await);
        entries.into_iter().filter(|entry| entry["action"] == action && entry["outcome"] == outcome).collect()
    }

    /// Has the whole audit log exported and verified; answers how many entries it has.
    ///
    /// # Panics
    /// When it does not verify.
    pub async fn verify_audit(&self) -> u64 {
        let finding = self.cli(&["audit", "verify"]).await;
        assert_eq!(finding["ok"], true, "{finding}");
        finding["size"].as_u64().unwrap_or_else(|| panic!("no size in {finding}"))
    }

    /// Ends the certificates of a device, now.
    pub async fn revoke(&self, device: &str, reason: &str) {
        let _ = self.try_cli(&["device", "revoke", device, "--reason", reason, "--yes"]).await.ok();
    }
}

fn array(value: &Value) -> Vec<Value> {
    value.as_array().unwrap_or_else(|| panic!("no array: {value}")).clone()
}
