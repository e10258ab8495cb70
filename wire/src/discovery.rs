//! What `GET /.well-known/muster` answers: where the doors are and what to trust.
//!
//! The answer is believed only over a connection whose root is the pinned one. The authority chain is carried
//! as it was signed and is verified link by link (`authority.md`), never because it came from here.

use crate::id::{DeviceId, TrustDomain};
use serde::{Deserialize, Serialize};

/// The whole answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Discovery {
    /// The name under which devices are named.
    pub trust_domain: TrustDomain,
    /// Where the doors are, by their advertised names.
    pub endpoints: Endpoints,
    /// The roots that sign the server's and the devices' certificates.
    pub trust_bundle: TrustBundle,
    /// The authority chain, oldest first: standard base64 of each COSE_Sign.
    pub authority: Vec<String>,
    /// Who the caller is; present only when it showed a client certificate that the doors let in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<Caller>,
}

/// The doors a device uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoints {
    /// `https://host:port` of the device listener.
    pub device: String,
    /// `mqtts://host:port` of the gate.
    pub mqtt: String,
    /// `http://host:port` of the status listener.
    pub status: String,
}

/// A versioned set of roots and issuing CAs; a higher version replaces a lower one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustBundle {
    /// Counts up from 1.
    pub version: u64,
    /// Standard base64 of each root's DER.
    pub roots: Vec<String>,
    /// Standard base64 of each issuing CA's DER: of who signs device leaves, will sign them, or did.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub issuers: Vec<String>,
}

/// An authenticated caller as the server knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    /// The device of the certificate.
    pub id: DeviceId,
    /// Its state, as `contract.md` spells it: `commissioning`, `active`, ….
    pub state: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(device: Option<Caller>) -> Discovery {
        Discovery {
            trust_domain: "fleet.example".parse().unwrap(),
            endpoints: Endpoints {
                device: "https://fleet.example:8443".into(),
                mqtt: "mqtts://fleet.example:8883".into(),
                status: "http://fleet.example:8080".into(),
            },
            trust_bundle: TrustBundle { version: 1, roots: vec!["MAA=".into()], issuers: Vec::new() },
            authority: vec!["2GI=".into()],
            device,
        }
    }

    #[test]
    fn an_anonymous_answer_names_no_device() {
        let json = serde_json::to_value(answer(None)).unwrap();
        assert!(json.get("device").is_none());
        assert_eq!(json["trust_bundle"]["version"], 1);
        assert_eq!(serde_json::from_value::<Discovery>(json).unwrap(), answer(None));
    }

    #[test]
    fn later_fields_do_not_disturb_an_older_reader() {
        let caller = Caller { id: DeviceId::from_bytes([7; 16]), state: "active".into() };
        let mut json = serde_json::to_value(answer(Some(caller.clone()))).unwrap();
        json["later"] = 1.into();
        assert_eq!(serde_json::from_value::<Discovery>(json).unwrap().device, Some(caller));
    }
}
