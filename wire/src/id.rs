//! Identifiers, and the SPIFFE names made from them.
//!
//! Every id is a UUIDv7 (RFC 9562 §5.7) that somebody outside this crate made from a clock and entropy; each
//! kind is a type of its own, so that a token's id is never taken for a device's. In text an id is lower-case
//! and hyphenated and nothing else: a name that grants something has one spelling.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;
use uuid::Uuid;

/// A text that is no id, trust domain or observer name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdError {
    /// Not a lower-case hyphenated UUID.
    #[error("an id is a lower-case hyphenated UUID")]
    NotUuid,
    /// Not a trust domain.
    #[error("a trust domain is 1 to 255 of a-z, 0-9, '.', '-' and '_'")]
    NotTrustDomain,
    /// Not an observer name.
    #[error(
        "an observer's name is 1 to 64 of a-z, 0-9, '.', '-' and '_', begins with a letter and is no UUID"
    )]
    NotObserverName,
}

fn parse_uuid(text: &str) -> Result<Uuid, IdError> {
    let uuid = Uuid::try_parse(text).map_err(|_| IdError::NotUuid)?;
    // The crate also takes braces, URNs, capitals and the form without hyphens.
    let mut buffer = Uuid::encode_buffer();
    if uuid.hyphenated().encode_lower(&mut buffer) == text { Ok(uuid) } else { Err(IdError::NotUuid) }
}

macro_rules! serde_as_text {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
            }
        }
    };
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// The id that `uuid` is.
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// The UUIDv7 of `unix_ms`, milliseconds since 1970 of which the low 48 bits count, and 74 bits
            /// of `random`.
            pub const fn from_parts(unix_ms: u64, random: [u8; 10]) -> Self {
                Self(uuid::Builder::from_unix_timestamp_millis(unix_ms, &random).into_uuid())
            }

            /// The id with these 16 bytes, big-endian as in the text.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }

            /// The 16 bytes, big-endian as in the text.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                parse_uuid(text).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        serde_as_text!($name);
    };
}

id! {
    /// One life of a device: one chain of certificates, one sequence of orders.
    DeviceId
}
id! {
    /// The thing with a serial number, which links lives.
    AssetId
}
id! {
    /// An enrolment token's record; it tells nothing about the token itself.
    TokenId
}
id! {
    /// One order to one device; it runs at most once.
    OrderId
}
id! {
    /// One warrant, signed by approvers.
    WarrantId
}
id! {
    /// One request, of an operator at the API or of a device at `renew`.
    RequestId
}
id! {
    /// One operator.
    OperatorId
}
id! {
    /// One report of a device; a repeated one is the same report.
    ReportId
}

/// The name under which a server's devices are named: the authority part of their SPIFFE ids.
///
/// 1 to 255 characters of `a-z 0-9 . - _` (SPIFFE-ID §2.1).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(String);

impl TrustDomain {
    /// The domain's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TrustDomain {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        if is_trust_domain(text) { Ok(Self(text.to_owned())) } else { Err(IdError::NotTrustDomain) }
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

serde_as_text!(TrustDomain);

/// An observer's name, which is its MQTT client id too.
///
/// It begins with a letter and is no UUID, so that no observer can be named like a device.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObserverName(String);

impl ObserverName {
    /// The name's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ObserverName {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let begins = text.as_bytes().first().is_some_and(u8::is_ascii_lowercase);
        let fits = text.len() <= 64 && text.bytes().all(is_name_byte);
        if begins && fits && Uuid::try_parse(text).is_err() {
            Ok(Self(text.to_owned()))
        } else {
            Err(IdError::NotObserverName)
        }
    }
}

impl fmt::Display for ObserverName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

serde_as_text!(ObserverName);

fn is_name_byte(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_')
}

fn is_trust_domain(text: &str) -> bool {
    (1..=255).contains(&text.len()) && text.bytes().all(is_name_byte)
}

/// The one URI SAN of a device's certificate: `spiffe://<trust-domain>/device/<uuid>`.
pub fn device_uri(trust_domain: &str, device: DeviceId) -> String {
    format!("spiffe://{trust_domain}/device/{device}")
}

/// Trust domain and device of what [`device_uri`] makes; nothing for any other text.
pub fn parse_device_uri(uri: &str) -> Option<(&str, DeviceId)> {
    let (trust_domain, kind, name) = split_spiffe(uri)?;
    if kind != "device" {
        return None;
    }
    Some((trust_domain, name.parse().ok()?))
}

/// The one URI SAN of an observer's certificate: `spiffe://<trust-domain>/observer/<name>`.
pub fn observer_uri(trust_domain: &str, observer: &ObserverName) -> String {
    format!("spiffe://{trust_domain}/observer/{observer}")
}

/// Trust domain and observer of what [`observer_uri`] makes; nothing for any other text.
pub fn parse_observer_uri(uri: &str) -> Option<(&str, ObserverName)> {
    let (trust_domain, kind, name) = split_spiffe(uri)?;
    if kind != "observer" {
        return None;
    }
    Some((trust_domain, name.parse().ok()?))
}

fn split_spiffe(uri: &str) -> Option<(&str, &str, &str)> {
    let (trust_domain, path) = uri.strip_prefix("spiffe://")?.split_once('/')?;
    let (kind, name) = path.split_once('/')?;
    is_trust_domain(trust_domain).then_some((trust_domain, kind, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

    #[test]
    fn an_id_has_one_spelling() {
        let id: DeviceId = TEXT.parse().unwrap();
        assert_eq!(id.to_string(), TEXT);
        for other in [
            TEXT.to_uppercase(),
            TEXT.replace('-', ""),
            format!("{{{TEXT}}}"),
            format!("urn:uuid:{TEXT}"),
            format!("{TEXT} "),
            String::new(),
        ] {
            assert_eq!(other.parse::<DeviceId>(), Err(IdError::NotUuid), "{other}");
        }
    }

    #[test]
    fn from_parts_makes_a_version_7_that_sorts_by_time() {
        let early = DeviceId::from_parts(1_700_000_000_000, [0xff; 10]);
        let late = DeviceId::from_parts(1_700_000_000_001, [0; 10]);
        assert!(early < late && early.to_string() < late.to_string());
        assert_eq!(early.as_bytes()[6] >> 4, 7);
        assert_eq!(early.as_bytes()[8] >> 6, 0b10);
        assert_eq!(DeviceId::from_bytes(*early.as_bytes()), early);
    }

    #[test]
    fn serde_writes_the_text() {
        let id: OrderId = TEXT.parse().unwrap();
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(json, format!("\"{TEXT}\""));
        assert_eq!(serde_json::from_str::<OrderId>(&json).unwrap(), id);
        assert!(serde_json::from_str::<OrderId>(&json.to_uppercase()).is_err());
    }

    #[test]
    fn a_device_uri_reads_back() {
        let id: DeviceId = TEXT.parse().unwrap();
        let uri = device_uri("fleet.example", id);
        assert_eq!(uri, format!("spiffe://fleet.example/device/{TEXT}"));
        assert_eq!(parse_device_uri(&uri), Some(("fleet.example", id)));
    }

    #[test]
    fn uris_of_another_shape_are_refused() {
        for uri in [
            format!("spiffe://fleet.example/observer/{TEXT}"),
            format!("spiffe://fleet.example/device/{TEXT}/"),
            format!("spiffe://fleet.example/device/x/{TEXT}"),
            format!("spiffe://fleet.example//device/{TEXT}"),
            format!("spiffe:///device/{TEXT}"),
            format!("spiffe://Fleet.example/device/{TEXT}"),
            format!("spiffe://fleet.example:1/device/{TEXT}"),
            format!("spiffe://a@fleet.example/device/{TEXT}"),
            format!("SPIFFE://fleet.example/device/{TEXT}"),
            format!("spiffe://fleet.example/device/{}", TEXT.to_uppercase()),
            format!("spiffe://fleet.example/device/{TEXT}?x"),
        ] {
            assert_eq!(parse_device_uri(&uri), None, "{uri}");
        }
    }

    #[test]
    fn an_observer_is_never_named_like_a_device() {
        let name: ObserverName = "dashboard-1".parse().unwrap();
        let uri = observer_uri("fleet.example", &name);
        assert_eq!(parse_observer_uri(&uri), Some(("fleet.example", name)));
        for bad in ["", "1a", "A", "a/b", "a+b", "a#", "abcdef01-ac96-774b-bcce-b302099a8057"] {
            assert_eq!(bad.parse::<ObserverName>(), Err(IdError::NotObserverName), "{bad}");
        }
    }

    #[test]
    fn a_trust_domain_is_validated() {
        assert_eq!("fleet.example".parse::<TrustDomain>().unwrap().as_str(), "fleet.example");
        for bad in ["", "Fleet", "a b", "a/b", "é", &"a".repeat(256)] {
            assert_eq!(bad.parse::<TrustDomain>(), Err(IdError::NotTrustDomain), "{bad}");
        }
    }
}
