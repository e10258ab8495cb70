//! Nothing malformed panics or verifies, whatever document it claims to be.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use muster_wire::authority::Authority;
use muster_wire::cbor::{self, Document};
use muster_wire::desired::{Baseline, DesiredHead};
use muster_wire::envelope::{MultiSigned, Signed, SignedByMany, SignedOnce};
use muster_wire::key::PublicKey;
use muster_wire::order::Order;
use muster_wire::posture::{EventReport, PostureReport, StateReport};
use muster_wire::receipt::{Ack, Receipt};
use muster_wire::renew::Renew;
use muster_wire::warrant::Warrant;
use proptest::prelude::*;
use serde_json::Value;

/// A golden vector: message, payload and the keys that signed it.
struct Vector {
    message: Vec<u8>,
    payload: Vec<u8>,
    keys: Vec<PublicKey>,
}

fn load(name: &str) -> Vector {
    let path = format!("{}/../tests/vectors/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let value: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let bytes = |value: &Value| hex::decode(value.as_str().unwrap()).unwrap();
    let signers = value["signers"].as_array().unwrap();
    let keys = signers.iter().map(|signer| PublicKey::from_spki_der(&bytes(&signer["spki"])).unwrap());
    Vector { message: bytes(&value["message"]), payload: bytes(&value["payload"]), keys: keys.collect() }
}

/// Replaces `cut` bytes at `at` by `insert`.
fn damage(good: &[u8], at: usize, cut: usize, insert: &[u8]) -> Vec<u8> {
    let from = at % good.len();
    let to = (from + cut).min(good.len());
    [&good[..from], insert, &good[to..]].concat()
}

/// A damaged payload either decodes to something that encodes to exactly these bytes, or is refused.
fn decodes_strictly<T: Document>(bytes: &[u8]) -> bool {
    cbor::decode::<T>(bytes).map_or(true, |document| cbor::encode(&document) == bytes)
}

fn one_is_refused<T: SignedOnce>(bytes: &[u8], keys: &[PublicKey]) -> bool {
    Signed::<T>::parse(bytes).and_then(|signed| signed.verify(keys)).is_err()
}

fn many_is_refused<T: SignedByMany>(bytes: &[u8], keys: &[PublicKey]) -> bool {
    MultiSigned::<T>::parse(bytes).and_then(|signed| signed.verify(keys, keys.len())).is_err()
}

macro_rules! documents {
    ($($test:ident: $document:ty, $vector:literal, $refused:ident;)+) => {
        $(
            mod $test {
                use super::*;

                proptest! {
                    #[test]
                    fn survives_noise_and_damage(
                        noise in proptest::collection::vec(any::<u8>(), 0..200),
                        at in any::<prop::sample::Index>(),
                        cut in 0_usize..8,
                        insert in proptest::collection::vec(any::<u8>(), 0..8),
                    ) {
                        let vector = load($vector);
                        prop_assert!(decodes_strictly::<$document>(&noise));
                        prop_assert!($refused::<$document>(&noise, &vector.keys));
                        let payload = damage(&vector.payload, at.index(vector.payload.len()), cut, &insert);
                        prop_assert!(decodes_strictly::<$document>(&payload));
                        // ECDSA lets anybody negate s; a chance of 2^-256 that damage hits exactly that.
                        let message = damage(&vector.message, at.index(vector.message.len()), cut, &insert);
                        prop_assert!(message == vector.message || $refused::<$document>(&message, &vector.keys));
                    }
                }
            }
        )+
    };
}

documents! {
    authority: Authority, "authority-1", many_is_refused;
    warrant: Warrant, "warrant", many_is_refused;
    order: Order, "order", one_is_refused;
    desired: DesiredHead, "desired", one_is_refused;
    baseline: Baseline, "baseline", many_is_refused;
    report_state: StateReport, "report-state", one_is_refused;
    report_posture: PostureReport, "report-posture", one_is_refused;
    report_event: EventReport, "report-event", one_is_refused;
    renew: Renew, "renew", one_is_refused;
    receipt: Receipt, "receipt", one_is_refused;
    ack: Ack, "ack", one_is_refused;
}

#[test]
fn no_document_passes_for_another() {
    let vector = load("ack");
    assert!(one_is_refused::<Receipt>(&vector.message, &vector.keys));
    assert!(one_is_refused::<Renew>(&vector.message, &vector.keys));
    let vector = load("warrant");
    assert!(many_is_refused::<Baseline>(&vector.message, &vector.keys));
    assert!(many_is_refused::<Authority>(&vector.message, &vector.keys));
}

#[test]
fn a_thousand_nested_arrays_are_refused_without_overflow() {
    let bombs = [vec![0x81; 60_000], vec![0xa1; 60_000], vec![0xd8; 60_000], vec![0x9f; 60_000]];
    for bomb in bombs {
        assert!(cbor::decode::<Order>(&bomb).is_err());
        assert!(one_is_refused::<Order>(&bomb, &[]));
        // As the content of an unknown protected header, which is skipped.
        let header = [&[0xa1, 0x18, 0x63][..], &bomb[..]].concat();
        let mut message = vec![0xd2, 0x84, 0x59];
        message.extend(u16::try_from(header.len()).unwrap().to_be_bytes());
        message.extend(header);
        message.extend([0xa0, 0x40, 0x40]);
        assert!(one_is_refused::<Order>(&message, &[]));
    }
}
