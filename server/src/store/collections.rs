//! What lies where: the collections, their keys and their indexes, and typed access to their records.
//!
//! | prefix | collection | id | value |
//! | --- | --- | --- | --- |
//! | `t/` | tokens | SHA-256 of the token's text | [`TokenRecord`] |
//! | `d/` | devices | device id, UUIDv7, 16 bytes | [`Device`] |
//! | `s/` | assets | serial number, UTF-8 | [`Asset`] |
//! | `c/` | certificates | ordinal, 8 bytes | [`CertificateRecord`] |
//! | `x/` | certificate bytes | ordinal, 8 bytes | DER |
//! | `k/` | public keys | SHA-256 of a subject public key info | device id, 16 bytes |
//! | `r/` | revocations | issuer 8 ‖ shard 1 ‖ serial 16 | [`Entry`] |
//! | `n/` | CRL heads | issuer 8 ‖ shard 1 | [`ShardHead`] |
//! | `o/` | operators | SHA-256 of the credential's secret | [`Operator`] |
//! | `w/` | observers | name | [`Observer`] |
//! | `q/` | idempotency | slot digest | [`Kept`] |
//! | `g/` | baselines | profile name | document: `ProfileDesired` |
//! | `j/` | baseline approvals | generation, 8 bytes ‖ SHA-256 of the baseline's payload | document: COSE_Sign |
//! | `e/` | reported | device id | [`Reported`] |
//! | `v/` | events | device id | [`EventsTaken`] |
//! | `p/` | posture | device id | document: `PostureRecord` |
//! | `h/` | posture history | device id ‖ unix milliseconds, 8 bytes | [`PostureHistory`] |
//! | `u/` | orders | order id, UUIDv7, 16 bytes | [`OrderRecord`] |
//! | `y/` | warrants | warrant id, UUIDv7, 16 bytes | [`WarrantRecord`] |
//! | `z/` | warrants' papers | warrant id ‖ what it is, 1 byte | document, see [`Paper`] |
//! | `f/` | receipts | order id ‖ SHA-256 of the receipt's payload | document: COSE_Sign1 |
//! | `m/` | installation | name | documents |
//! | `a/` | audit log | see the audit room | |
//!
//! Devices, certificates and their bytes have keys that grow with time, so that the cost of an enrolment stays
//! flat; DER lies apart from the records that are read often. On sled, neighbours in `c/`, `x/`, the audit log and
//! the index of devices share keys ([`PACKED`]).

use super::key::{Collection, Index, instant};
use super::{Batch, Expect, Packed, ReadError, Store};
use crate::domain::device::{Asset, CertificateRecord, Device};
use crate::domain::enrollment::serial_key;
use crate::domain::idempotency::Kept;
use crate::domain::observer::Observer;
use crate::domain::operator::Operator;
use crate::domain::order::OrderRecord;
use crate::domain::posture::PostureHistory;
use crate::domain::reported::{EventsTaken, Reported};
use crate::domain::revocation::{Entry, ShardHead};
use crate::domain::token::TokenRecord;
use crate::domain::warrant::WarrantRecord;
use muster_wire::id::{DeviceId, TokenId, WarrantId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Enrolment tokens.
pub const TOKENS: Collection =
    Collection { name: "tokens", prefix: b"t/", indexes: &[Index { name: "id", keys: token_keys }] };
/// Devices.
pub const DEVICES: Collection =
    Collection { name: "devices", prefix: b"d/", indexes: &[Index { name: "by", keys: device_keys }] };
/// Assets.
pub const ASSETS: Collection = Collection { name: "assets", prefix: b"s/", indexes: &[] };
/// Certificates.
pub const CERTIFICATES: Collection = Collection { name: "certificates", prefix: b"c/", indexes: &[] };
/// Certificates' DER.
pub const CERTIFICATE_BYTES: Collection =
    Collection { name: "certificate_bytes", prefix: b"x/", indexes: &[] };
/// Public keys ever seen.
pub const PUBLIC_KEYS: Collection = Collection { name: "public_keys", prefix: b"k/", indexes: &[] };
/// Revocations.
pub const REVOCATIONS: Collection = Collection { name: "revocations", prefix: b"r/", indexes: &[] };
/// CRL heads.
pub const CRL_HEADS: Collection = Collection { name: "crl_heads", prefix: b"n/", indexes: &[] };
/// Operators.
pub const OPERATORS: Collection =
    Collection { name: "operators", prefix: b"o/", indexes: &[Index { name: "name", keys: operator_keys }] };
/// Observers.
pub const OBSERVERS: Collection = Collection { name: "observers", prefix: b"w/", indexes: &[] };
/// Answers kept for idempotency keys.
pub const IDEMPOTENCY: Collection =
    Collection { name: "idempotency", prefix: b"q/", indexes: &[Index { name: "at", keys: kept_keys }] };
/// Baselines that were set, as documents.
pub const BASELINES: Collection = Collection { name: "baselines", prefix: b"g/", indexes: &[] };
/// Baselines with their approvers' signatures, as documents.
pub const BASELINE_APPROVALS: Collection =
    Collection { name: "baseline_approvals", prefix: b"j/", indexes: &[] };
/// What devices reported last.
pub const REPORTED: Collection = Collection { name: "reported", prefix: b"e/", indexes: &[] };
/// Which events of devices were taken.
pub const EVENTS: Collection = Collection { name: "events", prefix: b"v/", indexes: &[] };
/// How devices' postures were last judged, as documents.
pub const POSTURE: Collection = Collection { name: "posture", prefix: b"p/", indexes: &[] };
/// How devices' postures were judged over time.
pub const POSTURE_HISTORY: Collection = Collection {
    name: "posture_history",
    prefix: b"h/",
    indexes: &[Index { name: "at", keys: history_keys }],
};
/// Orders.
pub const ORDERS: Collection =
    Collection { name: "orders", prefix: b"u/", indexes: &[Index { name: "by", keys: order_keys }] };
/// Warrants.
pub const WARRANTS: Collection =
    Collection { name: "warrants", prefix: b"y/", indexes: &[Index { name: "by", keys: warrant_keys }] };
/// What belongs to a warrant and is read as a whole, as documents.
pub const WARRANT_PAPERS: Collection = Collection { name: "warrant_papers", prefix: b"z/", indexes: &[] };
/// Receipts of orders under a warrant, as they came, as documents.
pub const RECEIPTS: Collection = Collection { name: "receipts", prefix: b"f/", indexes: &[] };
/// Facts and documents of the installation.
pub const INSTALLATION: Collection = Collection { name: "installation", prefix: b"m/", indexes: &[] };
/// The audit log's keys; only its room knows what lies there.
pub const AUDIT: Collection = Collection { name: "audit", prefix: b"a/", indexes: &[] };

/// Every collection, as the store is opened with them.
pub const ALL: &[Collection] = &[
    TOKENS,
    DEVICES,
    ASSETS,
    CERTIFICATES,
    CERTIFICATE_BYTES,
    PUBLIC_KEYS,
    REVOCATIONS,
    CRL_HEADS,
    OPERATORS,
    OBSERVERS,
    IDEMPOTENCY,
    BASELINES,
    BASELINE_APPROVALS,
    REPORTED,
    EVENTS,
    POSTURE,
    POSTURE_HISTORY,
    ORDERS,
    WARRANTS,
    WARRANT_PAPERS,
    RECEIPTS,
    INSTALLATION,
    AUDIT,
];

/// By what orders are listed; the first byte of a value in the index `by`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrderFacet {
    /// Device, then whether it is open.
    Device,
    /// End of its time, of open ones only.
    Expiry,
}

impl OrderFacet {
    /// The value under which the index `by` lists `bytes` of this facet.
    pub fn value(self, bytes: &[u8]) -> Vec<u8> {
        let tag = match self {
            Self::Device => b'd',
            Self::Expiry => b'x',
        };
        [&[tag], bytes].concat()
    }

    /// What all open orders of `device` are listed under.
    pub fn open_of(device: DeviceId) -> Vec<u8> {
        Self::Device.value(&[device.as_bytes().as_slice(), b"o"].concat())
    }
}

fn order_keys(_id: &[u8], value: &[u8]) -> Vec<Vec<u8>> {
    let Ok(order) = serde_json::from_slice::<OrderRecord>(value) else { return Vec::new() };
    if !order.phase.is_open() {
        return vec![OrderFacet::Device.value(&[order.device.as_bytes().as_slice(), b"c"].concat())];
    }
    vec![OrderFacet::open_of(order.device), OrderFacet::Expiry.value(&instant(order.expires))]
}

/// A paper that belongs to a warrant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paper {
    /// The targets in the order of the tree's leaves, as CBOR.
    Targets,
    /// The payload that approvers sign.
    Payload,
    /// That payload with the signatures there are: a COSE_Sign. None before the first.
    Signed,
}

impl Paper {
    /// The key of this paper of `warrant`.
    pub fn key(self, warrant: WarrantId) -> Vec<u8> {
        let tag = match self {
            Self::Targets => b't',
            Self::Payload => b'p',
            Self::Signed => b's',
        };
        WARRANT_PAPERS.key(&[warrant.as_bytes().as_slice(), &[tag]].concat())
    }
}

/// By what warrants are listed; the first byte of a value in the index `by`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WarrantFacet {
    /// Last second, of open ones only.
    Expiry,
    /// Those that wait for orders to be made.
    Waiting,
}

impl WarrantFacet {
    /// The value under which the index `by` lists `bytes` of this facet.
    pub fn value(self, bytes: &[u8]) -> Vec<u8> {
        let tag = match self {
            Self::Expiry => b'x',
            Self::Waiting => b'w',
        };
        [&[tag], bytes].concat()
    }
}

fn warrant_keys(_id: &[u8], value: &[u8]) -> Vec<Vec<u8>> {
    let Ok(warrant) = serde_json::from_slice::<WarrantRecord>(value) else { return Vec::new() };
    let mut keys = Vec::new();
    if warrant.state.is_open() {
        keys.push(WarrantFacet::Expiry.value(&instant(warrant.not_after)));
    }
    if warrant.waits() {
        keys.push(WarrantFacet::Waiting.value(b""));
    }
    keys
}

/// The time stands in the id, so nothing is decoded.
fn history_keys(id: &[u8], _value: &[u8]) -> Vec<Vec<u8>> {
    id.get(16..).map(<[u8]>::to_vec).into_iter().collect()
}

/// What an enrolment adds to, so that it costs sled few keys. Everything here grows with time.
pub const PACKED: &[Packed] = &[
    Packed::Numbers(b"c/"),
    Packed::Numbers(b"x/"),
    Packed::Numbers(b"a/e/"),
    Packed::Histories(b"a/o/device/"),
    Packed::Ids(b"\0idevices\0by\0"),
];

/// By what devices are listed; the first byte of a value in the index `by`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Facet {
    /// State, as contract.md spells it.
    State,
    /// Firmware profile.
    Profile,
    /// Site.
    Site,
    /// Owner.
    Owner,
    /// Serial number.
    Serial,
    /// End of the current certificate's validity.
    Expiry,
    /// When its posture is to be appraised again without a report.
    Reappraisal,
    /// When the time asks for something because it is being let go.
    Leaving,
}

impl Facet {
    /// The value under which the index `by` lists `text` of this facet.
    pub fn value(self, text: &[u8]) -> Vec<u8> {
        let tag = match self {
            Self::State => b's',
            Self::Profile => b'p',
            Self::Site => b'l',
            Self::Owner => b'o',
            Self::Serial => b'n',
            Self::Expiry => b'e',
            Self::Reappraisal => b'g',
            Self::Leaving => b'f',
        };
        let mut value = Vec::with_capacity(text.len() + 1);
        value.push(tag);
        value.extend_from_slice(text);
        value
    }
}

/// One decode for all of a device's entries: the writer asks once for the old record and once for the new.
fn device_keys(_id: &[u8], value: &[u8]) -> Vec<Vec<u8>> {
    let Ok(device) = serde_json::from_slice::<Device>(value) else { return Vec::new() };
    let mut keys = vec![
        Facet::State.value(device.state.as_str().as_bytes()),
        Facet::Profile.value(device.profile.as_bytes()),
    ];
    keys.extend(device.site.as_ref().map(|site| Facet::Site.value(site.as_bytes())));
    keys.extend(device.owner.as_ref().map(|owner| Facet::Owner.value(owner.as_bytes())));
    keys.extend(device.serial.as_ref().map(|serial| Facet::Serial.value(serial_key(serial).as_bytes())));
    if device.state.is_open() {
        keys.extend(device.certificate().map(|held| Facet::Expiry.value(&instant(held.not_after))));
        keys.extend(device.reappraise_at.map(|at| Facet::Reappraisal.value(&instant(at))));
    }
    // A device whose wipe is proven is retired and has its letterbox still to be closed.
    keys.extend(device.leaving_due_at().map(|at| Facet::Leaving.value(&instant(at))));
    keys
}

fn token_keys(_id: &[u8], value: &[u8]) -> Vec<Vec<u8>> {
    /// All that is read of a token here: it is asked for twice in each enrolment.
    #[derive(Deserialize)]
    struct Named {
        id: TokenId,
    }
    serde_json::from_slice::<Named>(value).map_or_else(|_| Vec::new(), |t| vec![t.id.as_bytes().to_vec()])
}

fn operator_keys(_id: &[u8], value: &[u8]) -> Vec<Vec<u8>> {
    serde_json::from_slice::<Operator>(value).map_or_else(|_| Vec::new(), |o| vec![o.name.into_bytes()])
}

fn kept_keys(_id: &[u8], value: &[u8]) -> Vec<Vec<u8>> {
    serde_json::from_slice::<Kept>(value).map_or_else(|_| Vec::new(), |kept| vec![instant(kept.at).to_vec()])
}

/// A record with a collection of its own, kept as JSON.
pub trait Record: Serialize + DeserializeOwned {
    /// Where it lies.
    const COLLECTION: &'static Collection;
    /// What a person calls it.
    const KIND: &'static str;
}

macro_rules! records {
    ($($record:ty, $collection:ident, $kind:literal;)+) => {
        $(impl Record for $record {
            const COLLECTION: &'static Collection = &$collection;
            const KIND: &'static str = $kind;
        })+
    };
}

records! {
    TokenRecord, TOKENS, "token";
    Device, DEVICES, "device";
    Asset, ASSETS, "asset";
    CertificateRecord, CERTIFICATES, "certificate";
    Entry, REVOCATIONS, "revocation";
    ShardHead, CRL_HEADS, "CRL head";
    Operator, OPERATORS, "operator";
    Observer, OBSERVERS, "observer";
    Kept, IDEMPOTENCY, "kept answer";
    Reported, REPORTED, "state report";
    EventsTaken, EVENTS, "list of events";
    PostureHistory, POSTURE_HISTORY, "posture history";
    OrderRecord, ORDERS, "order";
    WarrantRecord, WARRANTS, "warrant";
}

/// A record as it was read, with the version that a change of it must name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held<T> {
    /// Version of the commit that wrote it.
    pub version: u64,
    /// The record.
    pub record: T,
}

/// Why a record could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The store could not be read.
    #[error("the store could not be read")]
    Read(#[from] ReadError),
    /// The bytes are not a record this version knows.
    #[error("a stored {kind} cannot be read")]
    Form {
        /// What kind of record.
        kind: &'static str,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

/// The record in `bytes`.
///
/// # Errors
/// [`LoadError::Form`].
pub fn decode<T: Record>(bytes: &[u8]) -> Result<T, LoadError> {
    serde_json::from_slice(bytes).map_err(|source| LoadError::Form { kind: T::KIND, source })
}

impl Store {
    /// The record with this id, if there is one.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn load<T: Record>(&self, id: &[u8]) -> Result<Option<Held<T>>, LoadError> {
        let Some(found) = self.get(&T::COLLECTION.key(id))? else { return Ok(None) };
        Ok(Some(Held { version: found.version, record: decode(&found.value)? }))
    }
}

impl Batch {
    /// Adds a record that must not be there yet.
    #[must_use]
    pub fn insert<T: Record>(self, id: &[u8], record: &T) -> Self {
        let key = T::COLLECTION.key(id);
        self.expect(key.clone(), Expect::Absent).put(key, encode(record))
    }

    /// Changes a record that must still be as it was read.
    #[must_use]
    pub fn update<T: Record>(self, id: &[u8], version: u64, record: &T) -> Self {
        let key = T::COLLECTION.key(id);
        self.expect(key.clone(), Expect::Version(version)).put(key, encode(record))
    }

    /// Writes a record over whatever was read as `held`; `None`: nothing was there.
    #[must_use]
    pub fn replace<T: Record>(self, id: &[u8], held: Option<u64>, record: &T) -> Self {
        match held {
            Some(version) => self.update(id, version, record),
            None => self.insert(id, record),
        }
    }
}

#[expect(clippy::expect_used, reason = "records have string keys and no fallible Serialize")]
fn encode<T: Record>(record: &T) -> Vec<u8> {
    serde_json::to_vec(record).expect("a record can be written as JSON")
}

#[cfg(test)]
mod tests {
    use super::super::key::ordinal;
    use super::super::packing::place;
    use super::*;

    #[test]
    fn what_an_enrolment_adds_to_lies_packed_and_what_it_looks_up_by_digest_does_not() {
        let listed = [DEVICES.index_base("by"), Facet::State.value(b"active"), vec![0, 1], vec![7; 16]];
        let entry = AUDIT.key(&[b"e/".as_slice(), &ordinal(5)].concat());
        let numbered = [CERTIFICATES, CERTIFICATE_BYTES].map(|held| held.key(&ordinal(5)));
        for key in numbered.into_iter().chain([entry, listed.concat()]) {
            assert!(place(PACKED, &key).is_some(), "{}", key.escape_ascii());
        }
        for key in [TOKENS.key(&[7; 32]), PUBLIC_KEYS.key(&[7; 32]), DEVICES.key(&[7; 16])] {
            assert_eq!(place(PACKED, &key), None, "{}", key.escape_ascii());
        }
    }
}
