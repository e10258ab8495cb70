//! The intake under fire: mutated, oversized, ambiguous and oddly armoured requests.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails where it stands"
)]

mod founding;

use founding::{ALL, found, serial};
use muster_pki::DerError;
use muster_pki::armor::{base64, pem};
use muster_pki::csr::{CsrError, MAX_BYTES, Malformed, VerifiedCsr};
use muster_pki::key::{Algorithm, DeviceKey, KeyError};
use muster_pki::name::Subject;
use muster_pki::request::{build_renewal, build_request};
use proptest::prelude::*;

fn request(algorithm: Algorithm) -> Vec<u8> {
    let key = DeviceKey::generate(algorithm).unwrap();
    build_request(&key, &Subject::new("hint").unwrap().with_serial_number("SN-1").unwrap()).unwrap()
}

/// A request with every part that one of ours can have.
fn full_request() -> Vec<u8> {
    let (key, issued) = found().leaf_of(Algorithm::P256, serial(5));
    build_renewal(&key, &issued.der).unwrap()
}

/// Element `tag` around these parts.
fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let length = u16::try_from(body.len()).unwrap().to_be_bytes();
    let head = match length {
        [0, short @ 0..=0x7f] => vec![tag, short],
        [0, long] => vec![tag, 0x81, long],
        [high, low] => vec![tag, 0x82, high, low],
    };
    [head, body].concat()
}

/// A request whose information ends in these attributes, signed by its key.
fn with_attributes(attributes: &[u8]) -> Vec<u8> {
    let key = DeviceKey::generate(Algorithm::P256).unwrap();
    let name = Subject::new("x").unwrap().to_der();
    let information = element(0x30, &[&[2, 1, 0], &name, key.spki_der(), &element(0xa0, &[attributes])]);
    let signature = key.sign(&information).unwrap();
    let identifier = [0x30, 0x0a, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
    element(0x30, &[&information, &identifier, &element(3, &[&[0], &signature])])
}

/// An extensionRequest attribute with these extensions.
fn asking_for(extensions: &[u8]) -> Vec<u8> {
    let oid = [6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 0x0e];
    element(0x30, &[&oid, &element(0x31, &[&element(0x30, &[extensions])])])
}

/// An extension with an OID of two bytes after `2.5`.
fn extension(last: u8, value: &[u8]) -> Vec<u8> {
    element(0x30, &[&[6, 3, 0x55, 0x1d, last], &element(4, &[value])])
}

#[test]
fn every_armour_gives_the_same_request() {
    let der = request(Algorithm::P256);
    let expected = VerifiedCsr::parse(&der, &ALL).unwrap();
    let lines = base64(&der).as_bytes().chunks(64).collect::<Vec<_>>().join(&b"\n"[..]);
    for body in [base64(&der).into_bytes(), lines, pem("CERTIFICATE REQUEST", &der).into_bytes()] {
        assert_eq!(VerifiedCsr::parse(&body, &ALL).unwrap(), expected);
    }
}

#[test]
fn size_is_judged_before_anything_is_parsed() {
    let too_large = CsrError::TooLarge { limit_bytes: MAX_BYTES };
    assert_eq!(VerifiedCsr::parse(&vec![0x30; MAX_BYTES + 1], &ALL), Err(too_large));
    let at_the_limit = VerifiedCsr::parse(&vec![b'A'; MAX_BYTES], &ALL);
    assert!(matches!(at_the_limit, Err(CsrError::Malformed(_))), "{at_the_limit:?}");
}

#[test]
fn trailing_bytes_and_indefinite_lengths_are_refused() {
    let der = request(Algorithm::P256);
    let refused = |body: &[u8]| VerifiedCsr::parse(body, &ALL).unwrap_err();
    let trailing = [&der[..], &[0]].concat();
    assert_eq!(refused(&trailing), CsrError::Malformed(Malformed::Der(DerError::Trailing)));
    let body = contents(&der);
    let indefinite = [&[0x30, 0x80], body, &[0, 0]].concat();
    assert_eq!(refused(&indefinite), CsrError::Malformed(Malformed::Der(DerError::Length)));
    let padded = [&[0x30, 0x83, 0, 0], &u8::try_from(body.len()).unwrap().to_be_bytes()[..], body].concat();
    assert_eq!(refused(&padded), CsrError::Malformed(Malformed::Der(DerError::Length)));
}

#[test]
fn deep_nesting_ends_the_walk_and_not_the_process() {
    let mut nested = vec![0x30, 0];
    for _ in 0..4000 {
        nested = element(0x30, &[&nested]);
    }
    let error = VerifiedCsr::parse(&nested, &ALL).unwrap_err();
    assert_eq!(error, CsrError::Malformed(Malformed::Der(DerError::Depth)));
}

#[test]
fn two_answers_to_one_question_are_refused() {
    let san = extension(0x11, &element(0x30, &[&element(0x82, &[b"a"])]));
    let once = VerifiedCsr::parse(&with_attributes(&asking_for(&san)), &ALL).unwrap();
    assert_eq!(once.subject_alt_names(), Some(&[0x30, 3, 0x82, 1, b'a'][..]));
    let duplicate = CsrError::Malformed(Malformed::Duplicate);
    let twice_inside = asking_for(&[san.clone(), san.clone()].concat());
    assert_eq!(VerifiedCsr::parse(&with_attributes(&twice_inside), &ALL), Err(duplicate.clone()));
    let twice_outside = [asking_for(&san), asking_for(&san)].concat();
    assert_eq!(VerifiedCsr::parse(&with_attributes(&twice_outside), &ALL), Err(duplicate));
}

#[test]
fn thousands_of_names_and_an_empty_usage_change_nothing() {
    let (house, key) = (found(), DeviceKey::generate(Algorithm::P256).unwrap());
    let plain = house.leaf(&build_request(&key, &Subject::new("x").unwrap()).unwrap(), serial(5));
    let names = element(0x82, &[b"a.example.org"]).repeat(4000);
    let many = asking_for(&extension(0x11, &element(0x30, &[&names])));
    let empty_usage = asking_for(&extension(0x25, &[0x30, 0]));
    for attributes in [many, empty_usage] {
        let issued = house.leaf(&with_attributes(&attributes), serial(5));
        assert!(issued.der.len().abs_diff(plain.der.len()) < 8, "{}", issued.der.len());
    }
}

#[test]
fn only_what_the_profile_accepts_comes_in() {
    let body = request(Algorithm::P384);
    assert!(VerifiedCsr::parse(&body, &[Algorithm::P256, Algorithm::P384]).is_ok());
    let refused = VerifiedCsr::parse(&body, &[Algorithm::P256, Algorithm::Ed25519]);
    assert_eq!(refused, Err(CsrError::AlgorithmRefused { found: "P-384".to_owned() }));
    assert!(VerifiedCsr::parse(&body, &[]).is_err());
}

#[test]
fn a_request_signed_by_another_key_is_refused() {
    let (mine, other) = (request(Algorithm::P256), request(Algorithm::P256));
    let (signed, foreign) = (&contents(&mine)[..signature_at(&mine) - 3], &other[signature_at(&other)..]);
    let swapped = element(0x30, &[signed, foreign]);
    assert_eq!(VerifiedCsr::parse(&swapped, &ALL), Err(CsrError::SignatureInvalid));
}

/// Where the signature's BIT STRING starts.
fn signature_at(der: &[u8]) -> usize {
    let identifier = [0x30, 0x0a, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
    der.windows(identifier.len()).rposition(|window| window == identifier).unwrap() + identifier.len()
}

/// What is inside a request of 128 to 255 bytes.
fn contents(der: &[u8]) -> &[u8] {
    assert_eq!(der.get(1), Some(&0x81), "the request has {} bytes", der.len());
    &der[3..]
}

#[test]
fn the_point_at_the_wrong_place_is_no_key() {
    let der = request(Algorithm::P256);
    let at = der.windows(3).position(|window| window == [0x42, 0x00, 0x04]).unwrap() + 2;
    let mut compressed = der.clone();
    compressed[at] = 0x02;
    assert_eq!(VerifiedCsr::parse(&compressed, &ALL), Err(CsrError::KeyRefused(KeyError::Point)));
    let mut off_the_curve = der;
    off_the_curve[at + 1..at + 65].fill(0x11);
    assert_eq!(VerifiedCsr::parse(&off_the_curve, &ALL), Err(CsrError::SignatureInvalid));
}

#[test]
fn no_single_flipped_bit_comes_in() {
    let original = full_request();
    for at in 0..original.len() {
        for bit in 0..8 {
            let mut flipped = original.clone();
            flipped[at] ^= 1 << bit;
            assert!(VerifiedCsr::parse(&flipped, &ALL).is_err(), "bit {bit} of byte {at}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// The signature covers the names and the key, so whatever survives a mutation was proven by its key: the only
    /// mutations that pass leave the signed part as it was.
    #[test]
    fn no_mutation_panics_and_what_still_parses_is_proven(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let original = ORIGINAL.get_or_init(full_request);
        let mut mutated = original.clone();
        for (at, byte) in edits {
            let at = at.index(mutated.len());
            mutated[at] = byte;
        }
        if let Some(cut) = cut {
            mutated.truncate(cut.index(original.len()));
        }
        if let Ok(read) = VerifiedCsr::parse(&mutated, &ALL) {
            let signed = 4..signature_at(original);
            prop_assert_eq!(&mutated[signed.clone()], &original[signed]);
            prop_assert_eq!(read, VerifiedCsr::parse(original, &ALL).unwrap());
        }
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let wrapped = element(0x30, &[&bytes]);
        prop_assert!(VerifiedCsr::parse(&bytes, &ALL).is_err());
        prop_assert!(VerifiedCsr::parse(&wrapped, &ALL).is_err());
    }
}

static ORIGINAL: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
