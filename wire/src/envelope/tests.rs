//! What the envelope must refuse, forged with tools of its own.

use super::header::{LABEL_ALG, LABEL_KID};
use super::*;
use crate::cbor::document;
use ed25519_dalek::SigningKey;
use proptest::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Note {
    text: String,
}
document!(Note, "note", 2000, SignedOnce, { text });

#[derive(Clone, Debug, PartialEq, Eq)]
struct Pact {
    text: String,
}
document!(Pact, "pact", 20_000, SignedByMany, { text });

#[derive(Clone, Debug, PartialEq, Eq)]
struct Other {
    text: String,
}
document!(Other, "other", 2000, SignedOnce, { text });

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn public(seed: u8) -> PublicKey {
    key(seed).public_key()
}

fn note() -> Note {
    Note { text: "hello".into() }
}

fn signed_note() -> Vec<u8> {
    sign1(&note(), &key(1)).unwrap()
}

fn pact(seeds: &[u8]) -> MultiSigned<Pact> {
    let mut pact = MultiSigned::unsigned(&Pact { text: "hello".into() });
    for seed in seeds {
        pact.add_signature(&key(*seed)).unwrap();
    }
    pact
}

/// A COSE_Sign1 with any protected header and payload, truly signed by key 1.
fn forge(protected: &[u8], payload: &[u8]) -> Vec<u8> {
    let signature = Signer::sign(&key(1), &sign1_message::<Note>(protected, payload)).unwrap();
    let mut out = Writer::new();
    out.tag(TAG_SIGN1);
    out.array(4);
    out.bytes(protected);
    out.map(0);
    out.bytes(payload);
    out.bytes(&signature);
    out.into_bytes()
}

/// A protected header of raw entries besides algorithm and key id, which stand where their labels belong.
fn header(between: &[u8], after: &[u8], entries: u64) -> Vec<u8> {
    let mut out = Writer::new();
    out.map(entries);
    out.signed(LABEL_ALG);
    out.signed(-19);
    let mut bytes = out.into_bytes();
    bytes.extend_from_slice(between);
    let mut kid = Writer::new();
    kid.signed(LABEL_KID);
    kid.bytes(&public(1).key_id().0);
    bytes.extend(kid.into_bytes());
    bytes.extend_from_slice(after);
    bytes
}

#[test]
fn a_signed_document_is_verified_by_its_key_alone() {
    let signed = Signed::<Note>::parse(&signed_note()).unwrap();
    let verified = signed.verify(&[public(2), public(1)]).unwrap();
    assert_eq!(*verified, note());
    assert_eq!(verified.signers(), [public(1).key_id()]);
    assert_eq!(verified.payload_digest(), payload_digest(&note()));
    assert!(matches!(signed.verify(&[public(2)]), Err(EnvelopeError::UnknownSigner)));
    assert!(matches!(signed.verify(&[]), Err(EnvelopeError::UnknownSigner)));
}

#[test]
fn a_signature_for_one_document_is_false_for_another_of_the_same_shape() {
    let found = Signed::<Other>::parse(&signed_note()).unwrap().verify(&[public(1)]);
    assert!(matches!(found, Err(EnvelopeError::FalseSignature { .. })), "{found:?}");
}

#[test]
fn no_single_bit_can_be_changed() {
    let bytes = signed_note();
    for bit in 0..bytes.len() * 8 {
        let mut changed = bytes.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let found = Signed::<Note>::parse(&changed).and_then(|signed| signed.verify(&[public(1)]));
        assert!(found.is_err(), "bit {bit}");
    }
}

#[test]
fn a_payload_in_another_encoding_is_refused_although_truly_signed() {
    let padded = [0x82, 0x18, 0x01, 0x65, b'h', b'e', b'l', b'l', b'o'];
    let forged = forge(&header(&[], &[], 2), &padded);
    let found = Signed::<Note>::parse(&forged).unwrap().verify(&[public(1)]);
    assert!(matches!(found, Err(EnvelopeError::Payload(CborError::NotDeterministic))), "{found:?}");
}

#[test]
fn critical_headers_are_honoured() {
    let payload = cbor::encode(&note());
    let judge = |protected: &[u8]| {
        Signed::<Note>::parse(&forge(protected, &payload)).and_then(|signed| signed.verify(&[public(1)]))
    };
    // An unknown header passes when it is not critical, and refuses the message when it is.
    assert!(judge(&header(&[], &[0x18, 0x63, 0x01], 3)).is_ok());
    let critical = judge(&header(&[0x02, 0x81, 0x18, 0x63], &[0x18, 0x63, 0x01], 4));
    assert!(matches!(critical, Err(EnvelopeError::Critical)), "{critical:?}");
    // Known ones may be marked; an empty list or another shape may not be.
    assert!(judge(&header(&[0x02, 0x81, 0x01], &[], 3)).is_ok());
    for crit in [&[0x02, 0x80][..], &[0x02, 0x01], &[0x02, 0x81, 0x61, b'x']] {
        assert!(matches!(judge(&header(crit, &[], 3)), Err(EnvelopeError::Critical)), "{crit:x?}");
    }
}

#[test]
fn headers_out_of_order_or_twice_are_refused() {
    let payload = cbor::encode(&note());
    for protected in [
        header(&[0x01, 0x32], &[], 3),
        header(&[], &[0x01, 0x32], 3),
        header(&[], &[0x00], 2),
        vec![0xa0],
        vec![],
    ] {
        let found = Signed::<Note>::parse(&forge(&protected, &payload));
        assert!(matches!(found, Err(EnvelopeError::Structure(_))), "{found:?}");
    }
}

#[test]
fn another_algorithm_is_refused() {
    // −8 (EdDSA) would do the same; it is not what the document says.
    let mut protected = header(&[], &[], 2);
    protected[2] = 0x27;
    let found = Signed::<Note>::parse(&forge(&protected, &cbor::encode(&note())));
    assert!(matches!(found, Err(EnvelopeError::Algorithm { found: -8 })), "{found:?}");
    // ES256 in the header of an Ed25519 key.
    protected[2] = 0x26;
    let signed = Signed::<Note>::parse(&forge(&protected, &cbor::encode(&note()))).unwrap();
    assert!(matches!(signed.verify(&[public(1)]), Err(EnvelopeError::FalseSignature { .. })));
}

#[test]
fn an_unprotected_header_a_missing_tag_or_a_longer_length_is_refused() {
    let bytes = signed_note();
    let protected_len = usize::from(bytes[2] - 0x40);
    let map_at = 3 + protected_len;
    assert_eq!(bytes[map_at], 0xa0);
    let mut unprotected = bytes.clone();
    unprotected.splice(map_at..=map_at, [0xa1, 0x04, 0x40]);
    assert!(Signed::<Note>::parse(&unprotected).is_err());
    assert!(Signed::<Note>::parse(&bytes[1..]).is_err());
    let mut long = bytes.clone();
    long.splice(2..=2, [0x58, bytes[2] - 0x40]);
    assert!(matches!(Signed::<Note>::parse(&long), Err(EnvelopeError::NotDeterministic)));
    let trailing = [&bytes[..], &[0]].concat();
    assert!(matches!(Signed::<Note>::parse(&trailing), Err(EnvelopeError::NotDeterministic)));
}

#[test]
fn size_is_judged_before_parsing() {
    let found = Signed::<Note>::parse(&vec![0xff; 2001]);
    assert!(matches!(found, Err(EnvelopeError::TooLarge { limit: 2000 })), "{found:?}");
}

#[test]
fn as_many_distinct_signers_as_needed() {
    let signed = MultiSigned::<Pact>::parse(&pact(&[1, 2, 3]).to_bytes()).unwrap();
    assert_eq!(signed.verify(&[public(1), public(2)], 2).unwrap().signers().len(), 2);
    let found = signed.verify(&[public(1), public(2)], 3);
    assert!(matches!(found, Err(EnvelopeError::TooFew { needed: 3, found: 2 })), "{found:?}");
    assert!(matches!(signed.verify(&[public(4)], 0), Err(EnvelopeError::UnknownSigner)));
}

#[test]
fn one_key_counts_once() {
    let mut twice = pact(&[1]);
    twice.add_signature(&key(1)).unwrap();
    assert_eq!(twice.key_ids().len(), 1);
    twice.signatures.push(twice.signatures[0].clone());
    let twice = MultiSigned::<Pact>::parse(&twice.to_bytes()).unwrap();
    assert!(matches!(twice.verify(&[public(1)], 1), Err(EnvelopeError::RepeatedSigner { .. })));
    // Not even when the verifier was given the key twice.
    let once = pact(&[1]).verify(&[public(1), public(1)], 2);
    assert!(matches!(once, Err(EnvelopeError::TooFew { .. })), "{once:?}");
}

#[test]
fn a_false_signature_under_a_known_name_refuses_all() {
    let mut signed = pact(&[1, 2]);
    signed.signatures[1].signature[0] ^= 1;
    let found = signed.verify(&[public(1), public(2)], 1);
    assert!(matches!(found, Err(EnvelopeError::FalseSignature { key }) if key == public(2).key_id()));
    // Under a name that does not count it is not looked at.
    assert!(signed.verify(&[public(1)], 1).is_ok());
}

#[test]
fn signatures_are_bound_to_their_structure() {
    // A Sign1 signature over the same payload and header is no signature of a COSE_Sign.
    let mut signed = pact(&[1]);
    let message = sign1_message::<Pact>(&signed.signatures[0].protected, &signed.payload);
    signed.signatures[0].signature = Signer::sign(&key(1), &message).unwrap();
    assert!(matches!(signed.verify(&[public(1)], 1), Err(EnvelopeError::FalseSignature { .. })));
}

#[test]
fn none_and_too_many_signatures_are_refused() {
    let none = MultiSigned::<Pact>::parse(&pact(&[]).to_bytes());
    assert!(matches!(none, Err(EnvelopeError::SignatureCount)), "{none:?}");
    let mut many = pact(&[1]);
    many.signatures = vec![many.signatures[0].clone(); MAX_SIGNATURES + 1];
    let many = MultiSigned::<Pact>::parse(&many.to_bytes());
    assert!(matches!(many, Err(EnvelopeError::SignatureCount)), "{many:?}");
}

#[test]
fn signatures_made_apart_come_together() {
    let unsigned = pact(&[]).to_bytes();
    let mut gathered = MultiSigned::<Pact>::parse_unfinished(&unsigned).unwrap();
    for (seeds, new) in [(&[1][..], 1), (&[2, 1], 1), (&[2], 0)] {
        assert_eq!(gathered.merge(&pact(seeds)).unwrap(), new);
    }
    assert_eq!(gathered.verify(&[public(1), public(2)], 2).unwrap().text, "hello");
    let other = MultiSigned::unsigned(&Pact { text: "other".into() });
    assert!(matches!(gathered.merge(&other), Err(EnvelopeError::Digest)));
}

#[test]
fn a_digest_trusts_exactly_its_payload() {
    let signed = pact(&[1]);
    assert_eq!(signed.verify_by_digest(signed.payload_digest()).unwrap().text, "hello");
    let found = signed.verify_by_digest(Sha256Digest::of(b"else"));
    assert!(matches!(found, Err(EnvelopeError::Digest)), "{found:?}");
}

proptest! {
    #[test]
    fn noise_neither_panics_nor_verifies(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(Signed::<Note>::parse(&bytes).and_then(|signed| signed.verify(&[public(1)])).is_err());
        prop_assert!(MultiSigned::<Pact>::parse(&bytes).and_then(|signed| signed.verify(&[public(1)], 1)).is_err());
    }

    #[test]
    fn damaged_messages_neither_panic_nor_verify(
        at in 0_usize..400, cut in 0_usize..12, insert in proptest::collection::vec(any::<u8>(), 0..12),
    ) {
        for good in [signed_note(), pact(&[1, 2]).to_bytes()] {
            let from = at % good.len();
            let to = (from + cut).min(good.len());
            let mut bytes = good.clone();
            bytes.splice(from..to, insert.iter().copied());
            prop_assume!(bytes != good);
            prop_assert!(Signed::<Note>::parse(&bytes).and_then(|signed| signed.verify(&[public(1)])).is_err());
            let pact = MultiSigned::<Pact>::parse(&bytes).and_then(|it| it.verify(&[public(1), public(2)], 2));
            prop_assert!(pact.is_err());
        }
    }
}
