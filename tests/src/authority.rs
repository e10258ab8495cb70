//! Successors of the authority document, as operators and approvers make them.

use serde_json::Value;

use crate::Server;

impl Server {
    /// Proposes a successor with `changes`, the arguments of `authority propose`; answers what waits for signatures.
    pub async fn propose(&self, changes: &[&str]) -> Value {
        let words: Vec<&str> = ["authority", "propose"].into_iter().chain(changes.iter().copied()).collect();
        self.cli(&words).await
    }

    /// Signs what waits with the key that [`Site::approver`](crate::Site::approver) made for `name`; answers what became
    /// of it.
    pub async fn sign_as(&self, name: &str) -> Value {
        let key = self.site().path(&format!("{name}.key")).display().to_string();
        self.cli(&["authority", "sign", "--key", &key, "--yes"]).await
    }

    /// Proposes a successor and lets alice and bob sign it.
    ///
    /// # Panics
    /// When it is not in force then.
    pub async fn succeed(&self, changes: &[&str]) -> Value {
        let _ = self.propose(changes).await;
        assert_eq!(self.sign_as("alice").await["state"], "pending", "one of two has signed");
        let settled = self.sign_as("bob").await;
        assert_eq!(settled["state"], "in_force", "{settled}");
        settled
    }

    /// The version of the authority document in force.
    ///
    /// # Panics
    /// When the server says none.
    pub async fn authority_version(&self) -> u64 {
        let shown = self.cli(&["authority", "show"]).await;
        shown["version"].as_u64().unwrap_or_else(|| panic!("no version in {shown}"))
    }
}
