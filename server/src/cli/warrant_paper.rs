//! What an approver signs: a warrant, with its targets and its plan in words.
//!
//! The words are believed only because the signed bytes bear them out: the root of the targets and the digest of the
//! plan stand in the payload. So a console that lies about names, or about what is destroyed, is found before anything
//! is signed. The same paper travels in a file to a machine without a network.

use super::error::Error;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::SigningKey;
use muster_wire::cbor;
use muster_wire::digest::Sha256Digest;
use muster_wire::envelope::MultiSigned;
use muster_wire::id::{DeviceId, WarrantId};
use muster_wire::merkle::root_of;
use muster_wire::order::Action;
use muster_wire::warrant::{Kind, Level, Target, Warrant};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// A warrant whose words its bytes bear out.
#[derive(Clone, Debug)]
pub(super) struct Paper {
    /// What is signed.
    pub(super) warrant: Warrant,
    /// Its targets, all of them.
    pub(super) targets: Vec<Target>,
    /// What every order under it asks.
    pub(super) action: Action,
}

/// A warrant as the API gives it, as far as a signer needs it.
#[derive(Deserialize)]
struct Given {
    payload: String,
    action: GivenAction,
    targets: Vec<GivenTarget>,
}

#[derive(Deserialize)]
struct GivenAction {
    kind: Kind,
    level: Option<Level>,
    after_s: Option<u64>,
    #[serde(default)]
    data_roots: Vec<String>,
    warrant: Option<WarrantId>,
}

#[derive(Deserialize)]
struct GivenTarget {
    device: DeviceId,
    serial: Option<String>,
    owner: Option<String>,
    kind: Kind,
    level: Option<Level>,
}

/// Signatures on their way back from where they were made.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Handed {
    /// The warrant they are for.
    pub(super) warrant: WarrantId,
    /// Base64 of the COSE_Sign.
    pub(super) signed: String,
}

impl Paper {
    /// The paper in `given`, a warrant as the API shows it.
    ///
    /// # Errors
    /// [`Error::Refused`] where the words are not what the bytes say, [`Error::Usage`] where it is no warrant.
    pub(super) fn read(given: &Value) -> Result<Self, Error> {
        let no_paper = |what: String| {
            let remedy = "Take it from `muster warrant show W --package FILE` of the same release.";
            Error::usage(format!("This is no warrant to be signed: {what}"), remedy)
        };
        let given: Given = Deserialize::deserialize(given)
            .map_err(|error: serde_json::Error| no_paper(error.to_string()))?;
        let payload = STANDARD.decode(&given.payload).map_err(|error| no_paper(error.to_string()))?;
        let warrant: Warrant = cbor::decode(&payload).map_err(|error| no_paper(error.to_string()))?;
        let action = given.action.into_action().ok_or_else(|| no_paper("unknown kind".to_owned()))?;
        let targets = given.targets.into_iter().map(GivenTarget::into_target).collect();
        let paper = Self { warrant, targets, action };
        if paper.is_borne_out() { Ok(paper) } else { Err(lie()) }
    }

    fn is_borne_out(&self) -> bool {
        let Self { warrant, targets, action } = self;
        warrant.names_exactly(targets).is_ok()
            && warrant.plan == action.plan()
            && (warrant.kind, warrant.level) == (action.kind(), action.level())
    }

    /// The warrant that stops this one, under the id `stop`.
    pub(super) fn stop(&self, stop: WarrantId) -> Self {
        let action = Action::Stop { warrant: self.warrant.id };
        let stopped = |target: &Target| Target { kind: Kind::Stop, level: None, ..target.clone() };
        let targets: Vec<Target> = self.targets.iter().map(stopped).collect();
        let leaves: Vec<Sha256Digest> = targets.iter().map(Target::leaf_hash).collect();
        let (plan, root) = (action.plan(), root_of(&leaves));
        let warrant = Warrant { id: stop, kind: Kind::Stop, level: None, plan, root, ..self.warrant.clone() };
        Self { warrant, targets, action }
    }

    /// The signature of `key` over this paper, as it is handed in.
    ///
    /// # Errors
    /// [`Error::Failed`] when the key cannot be used.
    pub(super) fn sign(&self, key: &SigningKey) -> Result<Handed, Error> {
        let mut signed = MultiSigned::unsigned(&self.warrant);
        signed.add_signature(key).map_err(|cause| {
            Error::failed(format!("The key cannot sign: {cause}"), "Use another key file.")
        })?;
        Ok(Handed { warrant: self.warrant.id, signed: STANDARD.encode(signed.to_bytes()) })
    }

    /// What it does, as a sentence.
    pub(super) fn in_words(&self) -> String {
        let Warrant { id, kind, count, not_after, .. } = &self.warrant;
        let what = match &self.action {
            Action::Wipe { level, data_roots } if data_roots.is_empty() => {
                format!("{kind}({level})")
            }
            Action::Wipe { level, data_roots } => {
                format!("{kind}({level}), destroying {},", data_roots.join(", "))
            }
            Action::WipeOnLapse { after_s, level, data_roots } => {
                // To the second: a signer must not read one hour where there are two.
                let after = if after_s % 3600 == 0 {
                    format!("{} h", after_s / 3600)
                } else {
                    format!("{after_s} s")
                };
                let destroyed = if data_roots.is_empty() {
                    String::new()
                } else {
                    format!(", destroying {},", data_roots.join(", "))
                };
                format!("wipe({level}) by itself after {after} without a word from the server{destroyed}")
            }
            Action::Stop { warrant } => format!("{kind} of warrant {warrant}"),
            Action::RotateIdentity
            | Action::RotateSecret { .. }
            | Action::CollectPosture
            | Action::Lock
            | Action::Unlock
            | Action::UpdateTrust { .. }
            | Action::UpdateAgent { .. } => kind.to_string(),
        };
        format!("Warrant {id}: {what} for {}, until {not_after}.", devices(*count))
    }

    /// The targets, for a table or a program.
    pub(super) fn names(&self) -> Vec<Value> {
        let name = |target: &Target| {
            json!({
                "device": target.device, "serial": target.serial, "owner": target.owner,
                "kind": target.kind, "level": target.level,
            })
        };
        self.targets.iter().map(name).collect()
    }
}

impl GivenAction {
    fn into_action(self) -> Option<Action> {
        if self.kind == Kind::WipeOnLapse && self.warrant.is_none() {
            let (after_s, level) = (self.after_s?, self.level?);
            return Some(Action::WipeOnLapse { after_s, level, data_roots: self.data_roots });
        }
        Some(match (self.kind, self.level, self.warrant) {
            (Kind::Wipe, Some(level), None) => Action::Wipe { level, data_roots: self.data_roots },
            (Kind::Stop, None, Some(warrant)) => Action::Stop { warrant },
            (Kind::Lock, None, None) => Action::Lock,
            _ => return None,
        })
    }
}

impl GivenTarget {
    fn into_target(self) -> Target {
        let Self { device, serial, owner, kind, level } = self;
        Target { device, serial, owner, kind, level }
    }
}

/// So many devices, in words.
pub(super) fn devices(count: u64) -> String {
    if count == 1 { "1 device".to_owned() } else { format!("{count} devices") }
}

fn lie() -> Error {
    Error::refused(
        "The names or the plan shown are not what the warrant's bytes say; nothing was signed",
        "Do not sign it. Compare `muster warrant show` on another machine and look at `muster audit verify`.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_wire::time::Timestamp;

    fn given() -> Value {
        let target = |number: u8| Target {
            device: DeviceId::from_bytes([number; 16]),
            serial: Some(format!("SN{number}")),
            owner: Some("ada".into()),
            kind: Kind::Wipe,
            level: Some(Level::Clear),
        };
        let targets = vec![target(1), target(2)];
        let leaves: Vec<_> = targets.iter().map(Target::leaf_hash).collect();
        let action = Action::Wipe { level: Level::Clear, data_roots: vec!["/srv/data".into()] };
        let warrant = Warrant {
            id: WarrantId::from_bytes([9; 16]),
            kind: Kind::Wipe,
            level: Some(Level::Clear),
            plan: action.plan(),
            root: root_of(&leaves),
            count: 2,
            not_after: Timestamp(9_000),
            authority_version: 1,
        };
        let paper = Paper { warrant, targets, action };
        json!({
            "id": paper.warrant.id,
            "payload": STANDARD.encode(cbor::encode(&paper.warrant)),
            "action": {"kind": "wipe", "level": "clear", "data_roots": ["/srv/data"], "warrant": null},
            "targets": paper.names(),
        })
    }

    #[test]
    fn what_is_shown_is_what_is_signed() {
        let paper = Paper::read(&given()).unwrap();
        let words = paper.in_words();
        assert!(words.contains("wipe(clear)") && words.contains("/srv/data") && words.contains("2 devices"));
        let key = SigningKey::from_bytes(&[7; 32]);
        let handed = paper.sign(&key).unwrap();
        let signed = MultiSigned::<Warrant>::parse(&STANDARD.decode(handed.signed).unwrap()).unwrap();
        assert_eq!(signed.read_unverified().unwrap(), paper.warrant);
    }

    #[test]
    fn a_console_that_lies_at_any_place_gets_no_signature() {
        for (pointer, lie) in [
            ("/targets/0/serial", json!("SN9")),
            ("/targets/0/owner", json!("eve")),
            ("/targets/1/device", json!(DeviceId::from_bytes([3; 16]))),
            ("/targets/1/level", json!("retire")),
            ("/action/data_roots/0", json!("/srv")),
            ("/action/level", json!("factory-reset")),
        ] {
            let mut given = given();
            *given.pointer_mut(pointer).unwrap() = lie;
            assert_eq!(Paper::read(&given).unwrap_err().exit() as u8, 3, "{pointer}");
        }
        let mut fewer = given();
        fewer["targets"].as_array_mut().unwrap().pop();
        assert_eq!(Paper::read(&fewer).unwrap_err().exit() as u8, 3);
    }

    #[test]
    fn a_stop_names_the_same_devices_and_the_warrant_it_stops() {
        let paper = Paper::read(&given()).unwrap();
        let stop = paper.stop(WarrantId::from_bytes([8; 16]));
        assert!(stop.is_borne_out());
        assert_eq!(stop.action, Action::Stop { warrant: paper.warrant.id });
        assert_eq!((stop.warrant.count, stop.warrant.not_after), (2, paper.warrant.not_after));
    }
}
