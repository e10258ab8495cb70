//! Whom a server and a device believe, over certificates of ours and over a TLS handshake in memory.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails where it stands"
)]

mod founding;

use std::io::{Read as _, Write as _};
use std::sync::Arc;

use founding::{DAY_S, House, NOW_S, Office, URI, found, serial};
use muster_pki::chain::{ChainError, Issuers, PinnedServerVerifier, Trust, check_issued};
use muster_pki::csr::VerifiedCsr;
use muster_pki::issuer::{CaSigner as _, IssueError, LeafTerms, prepare};
use muster_pki::key::{Algorithm, DeviceKey};
use muster_pki::name::Subject;
use muster_pki::request::build_request;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::time_provider::TimeProvider;
use rustls::{CertificateError, ClientConfig, ClientConnection, ServerConfig, ServerConnection};
use rustls_pki_types::{CertificateDer, UnixTime};

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn issuers(house: &House) -> Issuers {
    Issuers::new(&[house.issuing.certificate.der()], provider()).unwrap()
}

#[test]
fn a_leaf_is_believed_from_its_first_through_its_last_second() {
    let house = found();
    let (key, issued) = house.leaf_of(Algorithm::P256, serial(5));
    let issuers = issuers(&house);
    for now_s in [issued.not_before_s, NOW_S, issued.not_after_s] {
        let leaf = issuers.verify_device_leaf(&issued.der, now_s).unwrap();
        assert_eq!((leaf.uri.as_str(), leaf.serial), (URI, serial(5)));
        assert_eq!((leaf.spki_sha256, leaf.sha256), (key.spki_sha256(), issued.sha256));
    }
    let expired = ChainError::Expired { not_after_s: issued.not_after_s };
    assert_eq!(issuers.verify_device_leaf(&issued.der, issued.not_after_s + 1), Err(expired));
    let early = ChainError::NotYetValid { not_before_s: issued.not_before_s };
    assert_eq!(issuers.verify_device_leaf(&issued.der, issued.not_before_s - 1), Err(early));
    assert_eq!(issuers.verify_device_leaf(&issued.der, -1), Err(ChainError::Time));
}

#[test]
fn expired_is_said_only_of_a_genuine_leaf() {
    let (house, other) = (found(), found());
    let (_, issued) = house.leaf_of(Algorithm::P256, serial(5));
    let late_s = issued.not_after_s + 1;
    let foreign = issuers(&other).verify_device_leaf(&issued.der, late_s);
    assert!(!matches!(foreign, Ok(_) | Err(ChainError::Expired { .. })), "{foreign:?}");
    let mut forged = issued.der;
    let last = forged.len() - 1;
    forged[last] ^= 1;
    let forged = issuers(&house).verify_device_leaf(&forged, late_s);
    assert!(!matches!(forged, Ok(_) | Err(ChainError::Expired { .. })), "{forged:?}");
}

#[test]
fn what_is_no_device_is_not_believed_as_one() {
    let house = found();
    let (_, server) = house.server(&["muster.example.org"]);
    let both =
        Issuers::new(&[house.issuing.certificate.der(), house.server_names.certificate.der()], provider());
    assert_eq!(both.unwrap().verify_device_leaf(&server.der, NOW_S), Err(ChainError::NotADevice));
    let issuers = issuers(&house);
    for office in [&house.root, &house.issuing] {
        assert!(issuers.verify_device_leaf(office.certificate.der(), NOW_S).is_err());
    }
    assert!(matches!(issuers.verify_device_leaf(b"junk", NOW_S), Err(ChainError::Malformed(_))));
}

#[test]
fn a_device_checks_that_it_got_its_own_key_under_its_own_root() {
    let (house, other) = (found(), found());
    let (key, issued) = house.leaf_of(Algorithm::P256, serial(5));
    let authorities =
        [&house.server_names, &house.issuing, &house.root].map(|office: &Office| office.certificate.der());
    let pinned = Trust::pinned(house.root.certificate.spki_sha256(), provider());
    let stored =
        Trust::stored(&[other.root.certificate.der(), house.root.certificate.der()], provider()).unwrap();
    for trust in [&pinned, &stored] {
        let leaf = check_issued(&issued.der, key.spki_der(), trust, &authorities, NOW_S).unwrap();
        assert_eq!(leaf.not_after_s, issued.not_after_s);
        assert_eq!(trust.find_root(&authorities), Some(house.root.certificate.der()));
    }
    // With a stored root the issuing authority is enough; with a pin the root must come along.
    let without_root = [house.issuing.certificate.der()];
    assert!(check_issued(&issued.der, key.spki_der(), &stored, &without_root, NOW_S).is_ok());
    let refused = check_issued(&issued.der, key.spki_der(), &pinned, &without_root, NOW_S);
    assert_eq!(refused, Err(ChainError::UnknownIssuer));

    let another = DeviceKey::generate(Algorithm::P256).unwrap();
    let refused = check_issued(&issued.der, another.spki_der(), &pinned, &authorities, NOW_S);
    assert_eq!(refused, Err(ChainError::OtherKey));
    let elsewhere = Trust::pinned(other.root.certificate.spki_sha256(), provider());
    let refused = check_issued(&issued.der, key.spki_der(), &elsewhere, &authorities, NOW_S);
    assert_eq!(refused, Err(ChainError::UnknownIssuer));
    let refused = check_issued(&issued.der, key.spki_der(), &pinned, &authorities, NOW_S + 4 * 365 * DAY_S);
    assert!(matches!(refused, Err(ChainError::Expired { .. })), "{refused:?}");
}

#[test]
fn an_issuer_certifies_neither_its_own_key_nor_beyond_its_own_life() {
    let house = found();
    let (profile, names) = (founding::profile(), founding::names());
    let terms = LeafTerms { profile: &profile, names: &names, urls: &house.issuing.urls, serial: serial(5) };
    let own = DeviceKey::from_pem(&house.issuing.key.to_pem()).unwrap();
    let request = |key| build_request(key, &Subject::new("x").unwrap()).unwrap();
    let csr = VerifiedCsr::parse(&request(&own), &founding::ALL).unwrap();
    let refused = prepare(&csr, &terms, &house.issuing.certificate, NOW_S);
    assert!(matches!(refused, Err(IssueError::IssuersOwnKey)), "{refused:?}");

    let key = DeviceKey::generate(Algorithm::P256).unwrap();
    let csr = VerifiedCsr::parse(&request(&key), &founding::ALL).unwrap();
    let end_s = house.issuing.certificate.not_after_s();
    let late = prepare(&csr, &terms, &house.issuing.certificate, end_s - DAY_S).unwrap();
    assert_eq!(late.sign(&house.issuing.key).unwrap().not_after_s, end_s);
    let refused = prepare(&csr, &terms, &house.issuing.certificate, end_s);
    assert!(matches!(refused, Err(IssueError::IssuerNotValid { .. })), "{refused:?}");

    let prepared = prepare(&csr, &terms, &house.issuing.certificate, NOW_S).unwrap();
    let refused = prepared.sign(&house.root.key);
    assert!(matches!(refused, Err(IssueError::OtherKey)), "{refused:?}");
    assert_ne!(house.root.key.spki_der(), house.issuing.key.spki_der());
}

#[test]
fn records_that_no_certificate_can_carry_are_refused() {
    let house = found();
    let profile = founding::profile();
    let key = DeviceKey::generate(Algorithm::P256).unwrap();
    let request = build_request(&key, &Subject::new("x").unwrap()).unwrap();
    let csr = VerifiedCsr::parse(&request, &founding::ALL).unwrap();
    let attempt = |uri: &str, common_name: &str, hardware: Option<&str>| {
        let names = muster_pki::profile::LeafNames {
            uri: uri.to_owned(),
            common_name: common_name.to_owned(),
            serial_number: hardware.map(str::to_owned),
        };
        let terms =
            LeafTerms { profile: &profile, names: &names, urls: &house.issuing.urls, serial: serial(5) };
        prepare(&csr, &terms, &house.issuing.certificate, NOW_S).map(|prepared| prepared.serial())
    };
    assert!(attempt(URI, "x", None).is_ok());
    for uri in ["", "https://example.org", "spiffe://example.org/a b", "spiffe://ex\0", "spiffe://é"] {
        assert!(matches!(attempt(uri, "x", None), Err(IssueError::AlternativeName { .. })), "{uri:?}");
    }
    assert!(matches!(attempt(URI, "", None), Err(IssueError::Name(_))));
    assert!(matches!(attempt(URI, "x", Some("a_b")), Err(IssueError::Name(_))));
}

#[derive(Debug)]
struct Fixed(i64);

impl TimeProvider for Fixed {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from(self.0).ok()?;
        Some(UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds)))
    }
}

/// Shakes hands in memory: the client believes `trust`, the server presents `chain`.
fn shake(trust: Trust, chain: &[&[u8]], key: &DeviceKey, name: &'static str) -> Result<(), rustls::Error> {
    let certificates = chain.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
    let server = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(certificates, key.to_private_key_der())?;
    let client = ClientConfig::builder_with_details(provider(), Arc::new(Fixed(NOW_S)))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(PinnedServerVerifier::new(trust))
        .with_no_client_auth();
    let mut server = ServerConnection::new(Arc::new(server))?;
    let mut client = ClientConnection::new(Arc::new(client), name.try_into().unwrap())?;
    let mut wire = Vec::new();
    while client.is_handshaking() || server.is_handshaking() {
        client.write_tls(&mut wire).unwrap();
        server.read_tls(&mut std::mem::take(&mut wire).as_slice()).unwrap();
        server.process_new_packets()?;
        server.write_tls(&mut wire).unwrap();
        client.read_tls(&mut std::mem::take(&mut wire).as_slice()).unwrap();
        client.process_new_packets()?;
    }
    client.writer().write_all(b"x").unwrap();
    client.write_tls(&mut wire).unwrap();
    server.read_tls(&mut wire.as_slice()).unwrap();
    server.process_new_packets()?;
    let mut heard = [0];
    server.reader().read_exact(&mut heard).unwrap();
    assert_eq!(heard, *b"x");
    Ok(())
}

#[test]
fn a_handshake_succeeds_only_under_the_pin_the_name_and_the_right_authority() {
    let house = found();
    let (key, issued) = house.server(&["muster.example.org"]);
    let [root, names] = [&house.root, &house.server_names].map(|office| office.certificate.der());
    let pinned = || Trust::pinned(house.root.certificate.spki_sha256(), provider());
    let stored = || Trust::stored(&[root], provider()).unwrap();
    let full: [&[u8]; 3] = [&issued.der, names, root];
    let refused = |error| Err(rustls::Error::InvalidCertificate(error));

    for name in ["muster.example.org", "127.0.0.1"] {
        assert_eq!(shake(pinned(), &full, &key, name), Ok(()), "{name}");
        assert_eq!(shake(stored(), &full[..2], &key, name), Ok(()), "{name}");
    }
    assert_eq!(shake(pinned(), &full[..2], &key, "127.0.0.1"), refused(CertificateError::UnknownIssuer));
    let elsewhere = Trust::pinned([7; 32], provider());
    assert_eq!(shake(elsewhere, &full, &key, "127.0.0.1"), refused(CertificateError::UnknownIssuer));
    assert_eq!(shake(pinned(), &full, &key, "evil.example.org"), refused(CertificateError::NotValidForName));
}

#[test]
fn who_knows_no_time_believes_what_the_root_let_begin_later() {
    let (house, other) = (found(), found());
    let (_, issued) = house.server(&["muster.example.org"]);
    let leaf = CertificateDer::from(issued.der.as_slice());
    let above =
        [&house.server_names, &house.root].map(|office| CertificateDer::from(office.certificate.der()));
    // Strictly, and without a calendar.
    let judge = |house: &House, name: &'static str, at_s: i64| {
        let trust = || Trust::pinned(house.root.certificate.spki_sha256(), provider());
        let name = name.try_into().unwrap();
        let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(u64::try_from(at_s).unwrap()));
        [PinnedServerVerifier::new(trust()), PinnedServerVerifier::without_calendar(trust())].map(
            |verifier| {
                verifier
                    .verify_server_cert(&leaf, &above, &name, &[], at)
                    .err()
                    .map(|error| error.to_string())
            },
        )
    };
    let said = |error| Some(rustls::Error::InvalidCertificate(error).to_string());
    let name = "muster.example.org";

    for at_s in [0, NOW_S - 1000 * DAY_S] {
        assert_eq!(judge(&house, name, at_s), [said(CertificateError::NotValidYet), None]);
        let foreign = said(CertificateError::UnknownIssuer);
        assert_eq!(judge(&other, name, at_s), [foreign.clone(), foreign]);
        let [_, lenient] = judge(&house, "evil.example.org", at_s);
        assert_eq!(lenient, said(CertificateError::NotValidForName));
    }
    assert_eq!(judge(&house, name, NOW_S), [None, None]);
    let expired = said(CertificateError::Expired);
    assert_eq!(judge(&house, name, issued.not_after_s + 1), [expired.clone(), expired]);
}

#[test]
fn a_device_certificate_or_a_stolen_issuing_key_makes_no_server() {
    let house = found();
    let [root, issuing] = [&house.root, &house.issuing].map(|office| office.certificate.der());
    let trust = || Trust::pinned(house.root.certificate.spki_sha256(), provider());
    let (key, leaf) = house.leaf_of(Algorithm::P256, serial(5));
    let outcome = shake(trust(), &[&leaf.der, issuing, root], &key, "muster.example.org");
    assert_eq!(outcome, Err(rustls::Error::InvalidCertificate(CertificateError::InvalidPurpose)));

    // The thief has the issuing key and issues a server certificate with it; only the authority's own EKU objects.
    let thief = House {
        server_names: Office {
            key: muster_pki::issuer::CaKey::from_pem(&house.issuing.key.to_pem()).unwrap(),
            certificate: house.issuing.certificate.clone(),
            urls: founding::urls("issuing"),
        },
        ..found()
    };
    let (key, server) = thief.server(&["muster.example.org"]);
    let outcome = shake(trust(), &[&server.der, issuing, root], &key, "muster.example.org");
    assert_eq!(outcome, Err(rustls::Error::InvalidCertificate(CertificateError::InvalidPurpose)));
}

#[test]
fn a_list_is_its_issuers_or_refused_for_what_is_wrong_with_it() {
    use muster_pki::crl::{ListError, Scope, check_list, sign_list};
    let house = found();
    let list = sign_list(&house.root.authority(), Scope::Authorities, &[], 1, NOW_S).unwrap();
    let root = &house.root.certificate;
    assert_eq!(check_list(&list, root), Ok(()));
    assert_eq!(check_list(&list, &house.issuing.certificate), Err(ListError::Issuer));
    assert_eq!(check_list(&list, &found().root.certificate), Err(ListError::Signature));
    let mut changed = list.clone();
    *changed.last_mut().unwrap() ^= 1;
    assert_ne!(check_list(&changed, root), Ok(()));
    assert_eq!(check_list(&[&list[..], b"x"].concat(), root), Err(ListError::Form));
    assert_eq!(check_list(b"no list", root), Err(ListError::Form));
}
