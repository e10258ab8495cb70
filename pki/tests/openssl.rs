//! What openssl says about what we make, and what we say about what openssl makes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails where it stands"
)]

mod founding;

use founding::{ALL, Bench, DAY_S, House, NOW_S, URI, found, serial};
use muster_pki::armor::pem;
use muster_pki::certificate::Certificate;
use muster_pki::cms::{certs_only, parse_certs_only};
use muster_pki::crl::{Reason, Revoked, Scope, sign_list};
use muster_pki::csr::{CsrError, VerifiedCsr};
use muster_pki::key::{Algorithm, DeviceKey, KeyError};
use muster_pki::name::Subject;
use muster_pki::request::{build_renewal, build_request};
use muster_pki::serial::Serial;

/// Writes the authorities, and the lists that cover `leaf` with `revoked` on its shard.
fn lay_out(house: &House, bench: &Bench, leaf: Serial, revoked: &[Revoked]) {
    bench.write("root.pem", house.root.certificate.to_pem());
    bench.write("issuing.pem", house.issuing.certificate.to_pem());
    bench.write("names.pem", house.server_names.certificate.to_pem());
    let scope = Scope::Leaves { shard: leaf.shard() };
    let list = sign_list(&house.issuing.authority(), scope, revoked, 7, NOW_S).unwrap();
    let root_list = sign_list(&house.root.authority(), Scope::Authorities, &[], 1, NOW_S).unwrap();
    let server_scope = Scope::Leaves { shard: serial(9).shard() };
    let server_list = sign_list(&house.server_names.authority(), server_scope, &[], 1, NOW_S).unwrap();
    bench.write("lists.pem", [&list, &root_list, &server_list].map(|der| pem("X509 CRL", der)).concat());
    bench.write("list.pem", pem("X509 CRL", &list));
}

/// Runs `openssl verify`; what it said, and whether it agreed.
fn verify(bench: &Bench, at_s: i64, rest: &str) -> (bool, String) {
    let output = bench.openssl(&format!("verify -x509_strict -CAfile root.pem -attime {at_s} {rest}"));
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

const LISTS: &str = "-crl_check_all -extended_crl -CRLfile lists.pem";

#[test]
fn every_kind_of_leaf_verifies_with_its_list_and_is_no_server() {
    let (house, bench) = (found(), Bench::new());
    for (fill, algorithm) in [(0x10, Algorithm::P256), (0x11, Algorithm::P384), (0x12, Algorithm::Ed25519)] {
        let (_, issued) = house.leaf_of(algorithm, serial(fill));
        lay_out(&house, &bench, issued.serial, &[]);
        bench.write("leaf.pem", pem("CERTIFICATE", &issued.der));
        let (good, text) =
            verify(&bench, NOW_S, &format!("{LISTS} -untrusted issuing.pem -purpose sslclient leaf.pem"));
        assert!(good, "{algorithm}: {text}");
        let (good, text) = verify(&bench, NOW_S, "-untrusted issuing.pem -purpose sslserver leaf.pem");
        assert!(!good, "{algorithm}: {text}");
    }
}

#[test]
fn a_leaf_is_good_within_its_validity_only() {
    let (house, bench) = (found(), Bench::new());
    let (_, issued) = house.leaf_of(Algorithm::P256, serial(5));
    lay_out(&house, &bench, issued.serial, &[]);
    bench.write("leaf.pem", pem("CERTIFICATE", &issued.der));
    assert_eq!((issued.not_before_s, issued.not_after_s), (NOW_S - 300, NOW_S + 30 * DAY_S));
    for (at_s, expected) in [
        (issued.not_before_s - 1, false),
        (issued.not_before_s, true),
        // RFC 5280 §4.1.2.5 includes the last second; openssl does not. Our own chains are tested on it.
        (issued.not_after_s - 1, true),
        (issued.not_after_s + 1, false),
    ] {
        let (good, text) = verify(&bench, at_s, "-untrusted issuing.pem leaf.pem");
        assert_eq!(good, expected, "{at_s}: {text}");
    }
}

#[test]
fn a_revoked_or_held_leaf_is_refused_and_a_released_one_is_good_again() {
    let (house, bench) = (found(), Bench::new());
    let (_, issued) = house.leaf_of(Algorithm::P256, serial(5));
    bench.write("leaf.pem", pem("CERTIFICATE", &issued.der));
    let line = format!("{LISTS} -untrusted issuing.pem leaf.pem");
    for reason in [Reason::KeyCompromise, Reason::CertificateHold, Reason::Unspecified] {
        let entry = Revoked { serial: issued.serial, at_s: NOW_S - 1, reason };
        lay_out(&house, &bench, issued.serial, &[entry]);
        let (good, text) = verify(&bench, NOW_S, &line);
        assert!(!good && text.contains("certificate revoked"), "{reason:?}: {text}");
    }
    lay_out(&house, &bench, issued.serial, &[]);
    assert!(verify(&bench, NOW_S, &line).0);
}

#[test]
fn the_list_of_another_shard_says_nothing_about_a_leaf() {
    let (house, bench) = (found(), Bench::new());
    let (_, issued) = house.leaf_of(Algorithm::P256, serial(5));
    bench.write("leaf.pem", pem("CERTIFICATE", &issued.der));
    lay_out(&house, &bench, serial(6), &[]);
    let (good, text) = verify(&bench, NOW_S, &format!("{LISTS} -untrusted issuing.pem leaf.pem"));
    assert!(!good && text.contains("different CRL scope"), "{text}");
}

#[test]
fn a_list_is_signed_numbered_and_good_for_seven_days() {
    let (house, bench) = (found(), Bench::new());
    let entry = Revoked { serial: serial(5), at_s: NOW_S - 1, reason: Reason::CessationOfOperation };
    lay_out(&house, &bench, serial(5), &[entry]);
    let text = bench.openssl_ok("crl -in list.pem -CAfile issuing.pem -noout -text");
    let number = serial(5).to_string().to_uppercase();
    for part in [
        "verify OK",
        "X509v3 CRL Number: \n                7\n",
        "Last Update: Jan 15 08:00:00 2027 GMT",
        "Next Update: Jan 22 08:00:00 2027 GMT",
        "Cessation Of Operation",
        "Only User Certificates",
        "URI:http://status.example.org:8080/crl/issuing/05.crl",
        &number,
    ] {
        assert!(text.contains(part), "{part:?} is missing in\n{text}");
    }
}

#[test]
fn a_server_certificate_is_good_for_its_names_and_for_nothing_else() {
    let (house, bench) = (found(), Bench::new());
    let (_, issued) = house.server(&["muster.example.org", "localhost"]);
    lay_out(&house, &bench, serial(5), &[]);
    bench.write("server.pem", pem("CERTIFICATE", &issued.der));
    for (rest, expected) in [
        ("-purpose sslserver -verify_hostname muster.example.org", true),
        ("-purpose sslserver -verify_hostname localhost", true),
        ("-purpose sslserver -verify_ip 127.0.0.1", true),
        ("-purpose sslserver -verify_hostname other.example.org", false),
        ("-purpose sslserver -verify_ip 127.0.0.2", false),
        ("-purpose sslclient", false),
    ] {
        let (good, text) = verify(&bench, NOW_S, &format!("{LISTS} -untrusted names.pem {rest} server.pem"));
        assert_eq!(good, expected, "{rest}: {text}");
    }
}

#[test]
fn a_device_certificate_signs_nothing() {
    let (house, bench) = (found(), Bench::new());
    let (key, issued) = house.leaf_of(Algorithm::P256, serial(5));
    lay_out(&house, &bench, issued.serial, &[]);
    bench.write("leaf.pem", [pem("CERTIFICATE", &issued.der), house.issuing.certificate.to_pem()].concat());
    bench.write("leaf.key", key.to_pem().as_bytes());
    bench.openssl_ok(
        "req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout k.pem -subj /CN=x -out r.pem",
    );
    bench.openssl_ok(
        "x509 -req -in r.pem -CA leaf.pem -CAkey leaf.key -days 9999 -set_serial 7 -out forged.pem",
    );
    let (good, text) = verify(&bench, NOW_S, "-no_check_time -untrusted leaf.pem forged.pem");
    assert!(!good && text.contains("invalid CA certificate"), "{text}");
}

#[test]
fn an_issuing_authority_cannot_make_a_server() {
    let (house, bench) = (found(), Bench::new());
    lay_out(&house, &bench, serial(5), &[]);
    bench.write("issuing.key", house.issuing.key.to_pem().as_bytes());
    bench.write("server.cnf", "subjectAltName=DNS:muster.example.org\nextendedKeyUsage=serverAuth\n");
    bench.openssl_ok(
        "req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout k.pem -subj /CN=x -out r.pem",
    );
    bench.openssl_ok(
        "x509 -req -in r.pem -CA issuing.pem -CAkey issuing.key -days 9 -set_serial 7 -extfile server.cnf -out s.pem",
    );
    let (good, text) =
        verify(&bench, NOW_S, "-no_check_time -untrusted issuing.pem -purpose sslserver s.pem");
    assert!(!good && text.contains("at 1 depth"), "{text}");
}

#[test]
fn our_requests_verify_and_carry_what_they_should() {
    let (house, bench) = (found(), Bench::new());
    for (fill, algorithm) in [(0x10, Algorithm::P256), (0x11, Algorithm::P384), (0x12, Algorithm::Ed25519)] {
        let key = DeviceKey::generate(algorithm).unwrap();
        let hint = Subject::new("hint").unwrap().with_serial_number("SN-0042").unwrap();
        let request = build_request(&key, &hint).unwrap();
        bench.write("request.pem", pem("CERTIFICATE REQUEST", &request));
        let text = bench.openssl_ok("req -in request.pem -verify -noout -text");
        assert!(text.contains("verify OK") && text.contains("CN = hint, serialNumber = SN-0042"), "{text}");
        let read = VerifiedCsr::parse(&request, &ALL).unwrap();
        assert_eq!((read.serial_number(), read.common_name()), (Some("SN-0042"), Some("hint")));
        assert_eq!((read.spki_der(), read.algorithm()), (key.spki_der(), algorithm));

        let issued = house.leaf(&request, serial(fill));
        let renewal = build_renewal(&DeviceKey::generate(algorithm).unwrap(), &issued.der).unwrap();
        bench.write("renewal.pem", pem("CERTIFICATE REQUEST", &renewal));
        let text = bench.openssl_ok("req -in renewal.pem -verify -noout -text");
        assert!(text.contains("verify OK") && text.contains(&format!("URI:{URI}")), "{text}");
        let (read, present) =
            (VerifiedCsr::parse(&renewal, &ALL).unwrap(), Certificate::parse(&issued.der).unwrap());
        assert_eq!(read.subject_der(), present.subject_der());
        assert_eq!(read.subject_alt_names(), present.subject_alt_names());
    }
}

/// A request that openssl made with these arguments.
fn made_by_openssl(arguments: &str) -> Vec<u8> {
    let bench = Bench::new();
    bench.openssl_ok(&format!("req -new -nodes -keyout key.pem -out request.pem {arguments}"));
    std::fs::read(bench.path().join("request.pem")).unwrap()
}

#[test]
fn requests_by_openssl_are_certified_with_exactly_their_key() {
    let house = found();
    for (arguments, algorithm) in [
        ("-newkey ec -pkeyopt ec_paramgen_curve:P-256 -subj /CN=x", Algorithm::P256),
        ("-newkey ec -pkeyopt ec_paramgen_curve:P-256 -sha384 -subj /CN=x", Algorithm::P256),
        ("-newkey ec -pkeyopt ec_paramgen_curve:P-256 -sha512 -subj /CN=x", Algorithm::P256),
        ("-newkey ec -pkeyopt ec_paramgen_curve:P-384 -sha256 -subj /CN=x", Algorithm::P384),
        ("-newkey ec -pkeyopt ec_paramgen_curve:P-384 -sha384 -subj /CN=x", Algorithm::P384),
        ("-newkey ed25519 -subj /CN=x", Algorithm::Ed25519),
        ("-newkey rsa:2048 -subj /CN=x", Algorithm::Rsa { bits: 2048 }),
        ("-newkey rsa:3072 -sha512 -subj /", Algorithm::Rsa { bits: 3072 }),
    ] {
        let request = made_by_openssl(arguments);
        let read = VerifiedCsr::parse(&request, &ALL).unwrap();
        assert_eq!(read.algorithm(), algorithm, "{arguments}");
        let issued = house.leaf(&request, serial(5));
        let certificate = Certificate::parse(&issued.der).unwrap();
        assert_eq!(certificate.spki_der(), read.spki_der(), "{arguments}");
        assert_eq!(&issued.spki_sha256, read.spki_sha256(), "{arguments}");
    }
}

#[test]
fn weak_or_unusual_keys_and_signatures_are_refused_by_kind() {
    let refused = |arguments: &str| VerifiedCsr::parse(&made_by_openssl(arguments), &ALL).unwrap_err();
    let small = refused("-newkey rsa:1024 -subj /CN=x");
    assert_eq!(small, CsrError::KeyRefused(KeyError::Rsa { bits: 1024 }));
    let curve = CsrError::KeyRefused(KeyError::Curve);
    assert_eq!(refused("-newkey ec -pkeyopt ec_paramgen_curve:P-521 -subj /CN=x"), curve);
    assert_eq!(refused("-newkey ec -pkeyopt ec_paramgen_curve:secp256k1 -subj /CN=x"), curve);
    let explicit = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -pkeyopt ec_param_enc:explicit -subj /CN=x";
    assert_eq!(refused(explicit), curve);
    for arguments in [
        "-newkey rsa:2048 -sha1 -subj /CN=x",
        "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -sha1 -subj /CN=x",
        "-newkey rsa:2048 -sigopt rsa_padding_mode:pss -subj /CN=x",
        "-newkey ed448 -subj /CN=x",
    ] {
        let error = refused(arguments);
        assert!(matches!(error, CsrError::AlgorithmRefused { .. }), "{arguments}: {error:?}");
    }
}

#[test]
fn what_a_request_asks_for_is_absent_from_the_certificate() {
    let (house, bench) = (found(), Bench::new());
    let request = made_by_openssl(
        "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -subj /CN=evil/CN=twice/O=Evil -addext \
         basicConstraints=critical,CA:TRUE -addext keyUsage=keyCertSign -addext extendedKeyUsage=serverAuth -addext \
         subjectAltName=DNS:evil.example.org -addext 1.2.3.4=critical,ASN1:UTF8:evil",
    );
    let read = VerifiedCsr::parse(&request, &ALL).unwrap();
    assert_eq!(read.common_name(), None, "two common names are none");
    let issued = house.leaf(&request, serial(5));
    bench.write("leaf.pem", pem("CERTIFICATE", &issued.der));
    let text = bench.openssl_ok("x509 -in leaf.pem -noout -text");
    assert!(!text.contains("vil") && !text.contains("CA:TRUE") && !text.contains("1.2.3.4"), "{text}");
    assert!(text.contains("CA:FALSE") && text.contains("TLS Web Client Authentication"), "{text}");
    let names = format!("X509v3 Subject Alternative Name: \n                URI:{URI}\n");
    assert!(text.contains(&names), "{text}");
    assert!(
        text.contains("Subject: CN = 0198c0de-0000-7000-8000-000000000001, serialNumber = SN-0042"),
        "{text}"
    );
}

#[test]
fn certs_only_messages_are_read_by_openssl_and_by_the_cms_crate() {
    use cms::cert::x509::der::Decode as _;
    let (house, bench) = (found(), Bench::new());
    let authorities =
        [&house.root, &house.issuing, &house.server_names].map(|office| office.certificate.der());
    let message = certs_only(&authorities);
    bench.write("message.der", &message);
    let text = bench.openssl_ok("pkcs7 -inform DER -in message.der -print_certs -noout");
    assert_eq!(text.matches("subject=").count(), 3, "{text}");
    let info = cms::content_info::ContentInfo::from_der(&message).unwrap();
    let data: cms::signed_data::SignedData = info.content.decode_as().unwrap();
    assert_eq!(data.certificates.unwrap().0.len(), 3);

    bench.write("root.pem", house.root.certificate.to_pem());
    bench.openssl_ok("crl2pkcs7 -nocrl -certfile root.pem -outform DER -out theirs.der");
    let theirs = std::fs::read(bench.path().join("theirs.der")).unwrap();
    assert_eq!(parse_certs_only(&theirs).unwrap(), [house.root.certificate.der()]);
}
