//! What an operator sees of a running server: devices, tokens, the audit log.

use serde_json::Value;

use crate::Server;

impl Server {
    /// Every device, oldest first.
    pub async fn devices(&self) -> Vec<Value> {
        array(&self.cli(&["device", "list"]).await)
    }

    /// The device `id`.
    pub async fn device(&self, id: &str) -> Value {
        self.cli(&["device", "show", id]).await
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
