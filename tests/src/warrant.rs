//! Letting devices go, as operators ask for it and approvers sign it; and the proof, as a stranger checks it.

use serde_json::Value;
use std::path::PathBuf;

use crate::Server;
use crate::judge::Trusted;

impl Server {
    /// Asks that `device` is wiped as far as `level`; answers the warrant's id.
    ///
    /// # Panics
    /// When the server refuses.
    pub async fn deprovision(&self, device: &str, level: &str) -> String {
        let asked = self.cli(&["device", "deprovision", device, "--wipe", level, "--yes"]).await;
        asked["warrant"].as_str().unwrap_or_else(|| panic!("no warrant in {asked}")).to_owned()
    }

    /// Signs `warrant` with the key that [`Site::approver`](crate::Site::approver) made for `name`; answers what became
    /// of it.
    pub async fn sign_warrant(&self, warrant: &str, name: &str) -> Value {
        let key = self.site().path(&format!("{name}.key")).display().to_string();
        self.cli(&["warrant", "sign", warrant, "--key", &key, "--yes"]).await
    }

    /// Asks that `device` is wiped as far as `level`, and lets alice and bob sign; answers the warrant's id.
    pub async fn let_go(&self, device: &str, level: &str) -> String {
        let warrant = self.deprovision(device, level).await;
        for name in ["alice", "bob"] {
            let _ = self.sign_warrant(&warrant, name).await;
        }
        warrant
    }

    /// The order by which `device` is let go, once there is one.
    ///
    /// # Panics
    /// When there is none.
    pub async fn wipe_order(&self, device: &str) -> Value {
        let orders = self.cli(&["order", "list", "--device", device]).await;
        let wipe = orders.as_array().into_iter().flatten().find(|order| order["kind"] == "wipe");
        let id = wipe.and_then(|order| order["id"].as_str()).unwrap_or_else(|| panic!("no wipe in {orders}"));
        self.cli(&["order", "show", id]).await
    }

    /// Has the proof about `device` written; answers where it is, and what is to be trusted.
    ///
    /// # Panics
    /// When there is no proof.
    pub async fn proof(&self, device: &str) -> (PathBuf, Trusted) {
        let directory = self.site().path("proof");
        let path = directory.display().to_string();
        let record = self.cli(&["device", "record", device, "--proof", &path]).await;
        let digest =
            |name: &str| record[name].as_str().unwrap_or_else(|| panic!("no {name} in {record}")).to_owned();
        (directory, Trusted { authority: digest("authority_sha256"), root: digest("root_spki_sha256") })
    }
}
