//! Every rule of the lint, broken once by a writer that was told something else than was ordered.

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa, KeyIdMethod,
    KeyUsagePurpose, SanType, SerialNumber,
};

use super::{Expected, Finding, Linted, Published, Role, Rule, certificate};
use crate::authority::{CaKey, CaSigner as _};
use crate::hierarchy::{Authority, found_issuing, found_root};
use crate::issuer::{CaCertificate, IssueError, publish};
use crate::key::{Algorithm, DeviceKey, PublicKey};
use crate::name::Subject;
use crate::profile::IssuerUrls;
use crate::record::{Writer, distinguished_name, instant};
use crate::serial::Serial;

const NOW_S: i64 = 1_800_000_000;
const DAY_S: i64 = 86_400;
const URI: &str = "spiffe://example.org/device/d";

fn serial(fill: u8) -> Serial {
    Serial::from_random([fill; 16])
}

fn root() -> (CaKey, CaCertificate) {
    let key = CaKey::generate(Algorithm::P384).unwrap();
    let certificate = found_root(&key, &Subject::new("root").unwrap(), serial(1), NOW_S).unwrap();
    (key, certificate)
}

/// An order for a leaf, and the parameters that fulfil it.
struct Order {
    ca: CaCertificate,
    key: DeviceKey,
    subject: Vec<u8>,
    published: Published,
    params: CertificateParams,
}

impl Order {
    fn leaf() -> Self {
        let (_, ca) = root();
        let key = DeviceKey::generate(Algorithm::P256).unwrap();
        let subject = Subject::new("device").unwrap().to_der();
        let urls = IssuerUrls::new("http://status.example.org", "issuing").unwrap();
        let published = Published { list: urls.crl(5), issuer: urls.ca() };
        let mut params = CertificateParams::default();
        params.serial_number = Some(SerialNumber::from_slice(serial(5).as_bytes()));
        params.not_before = instant(NOW_S).unwrap();
        params.not_after = instant(NOW_S + DAY_S).unwrap();
        params.distinguished_name = distinguished_name(&subject).unwrap();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = vec![uri(URI)];
        let identifier = PublicKey::parse(key.spki_der()).unwrap().key_identifier();
        params.key_identifier_method = KeyIdMethod::PreSpecified(identifier.to_vec());
        params.use_authority_key_identifier_extension = true;
        publish(&mut params, &published);
        Self { ca, key, subject, published, params }
    }

    fn expected(&self) -> Expected<'_> {
        Expected {
            role: Role::Device { uri: URI },
            serial: serial(5),
            signed_by: Algorithm::P384,
            issuer: self.ca.subject_der(),
            authority_key_identifier: self.ca.key_identifier(),
            validity: (NOW_S, NOW_S + DAY_S),
            subject: &self.subject,
            key: PublicKey::parse(self.key.spki_der()).unwrap(),
            published: Some(&self.published),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let key = PublicKey::parse(self.key.spki_der()).unwrap();
        self.ca.writer().certificate(&self.params, key).unwrap()
    }
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

/// The rule that is broken when the writer is told something else.
fn broken(change: impl FnOnce(&mut CertificateParams)) -> Rule {
    let mut order = Order::leaf();
    change(&mut order.params);
    rule(certificate(order.bytes(), &order.expected()))
}

fn rule(outcome: Result<Linted, Finding>) -> Rule {
    outcome.expect_err("the lint saw nothing").rule
}

#[test]
fn what_was_ordered_passes_unchanged() {
    let order = Order::leaf();
    let bytes = order.bytes();
    assert_eq!(certificate(bytes.clone(), &order.expected()).unwrap().as_bytes(), bytes);
}

#[test]
fn bytes_that_are_no_certificate_break_the_encoding() {
    let order = Order::leaf();
    let mut trailing = order.bytes();
    trailing.push(0);
    assert_eq!(rule(certificate(trailing, &order.expected())), Rule::Encoding);
    assert_eq!(rule(certificate(vec![0x30, 0], &order.expected())), Rule::Encoding);
}

#[test]
fn another_version_or_serial_is_found() {
    let order = Order::leaf();
    let mut bytes = order.bytes();
    let at = bytes.windows(5).position(|window| window == [0xa0, 3, 2, 1, 2]).unwrap();
    bytes[at + 4] = 1;
    assert_eq!(rule(certificate(bytes, &order.expected())), Rule::Version);
    let other = SerialNumber::from_slice(serial(6).as_bytes());
    assert_eq!(broken(|params| params.serial_number = Some(other)), Rule::Serial);
    assert_eq!(broken(|params| params.serial_number = None), Rule::Serial);
}

#[test]
fn another_signature_algorithm_or_issuer_is_found() {
    let order = Order::leaf();
    let expected = Expected { signed_by: Algorithm::P256, ..order.expected() };
    assert_eq!(rule(certificate(order.bytes(), &expected)), Rule::SignatureAlgorithm);
    let other = Subject::new("other").unwrap().to_der();
    let expected = Expected { issuer: &other, ..order.expected() };
    assert_eq!(rule(certificate(order.bytes(), &expected)), Rule::Issuer);
}

#[test]
fn a_second_more_or_a_life_too_long_is_found() {
    let late = instant(NOW_S + DAY_S + 1).unwrap();
    assert_eq!(broken(|params| params.not_after = late), Rule::Validity);
    let early = instant(NOW_S - 1).unwrap();
    assert_eq!(broken(|params| params.not_before = early), Rule::Validity);
    let mut order = Order::leaf();
    let end_s = NOW_S + 400 * DAY_S;
    order.params.not_after = instant(end_s).unwrap();
    let expected = Expected { validity: (NOW_S, end_s), ..order.expected() };
    assert_eq!(rule(certificate(order.bytes(), &expected)), Rule::Validity);
}

#[test]
fn another_subject_or_key_is_found() {
    let other = distinguished_name(&Subject::new("other").unwrap().to_der()).unwrap();
    assert_eq!(broken(|params| params.distinguished_name = other), Rule::Subject);
    let order = Order::leaf();
    let stranger = DeviceKey::generate(Algorithm::P256).unwrap();
    let expected = Expected { key: PublicKey::parse(stranger.spki_der()).unwrap(), ..order.expected() };
    assert_eq!(rule(certificate(order.bytes(), &expected)), Rule::PublicKey);
}

#[test]
fn extensions_beyond_the_role_or_missing_from_it_are_found() {
    let policy = CustomExtension::from_oid_content(&[2, 5, 29, 32], vec![0x30, 0]);
    assert_eq!(broken(|params| params.custom_extensions.push(policy)), Rule::Extensions);
    assert_eq!(broken(|params| params.extended_key_usages.clear()), Rule::Extensions);
    assert_eq!(broken(|params| params.subject_alt_names.clear()), Rule::Extensions);
    let access = broken(|params| params.custom_extensions[0].set_criticality(true));
    assert_eq!(access, Rule::Extensions);
}

#[test]
fn an_authority_in_disguise_is_found() {
    assert_eq!(
        broken(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
        Rule::BasicConstraints
    );
    let usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign];
    assert_eq!(broken(|params| params.key_usages = usages), Rule::KeyUsage);
    let purposes = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    assert_eq!(broken(|params| params.extended_key_usages = purposes), Rule::ExtendedKeyUsage);
}

#[test]
fn another_name_or_a_second_one_is_found() {
    for names in [
        vec![uri("spiffe://example.org/device/e")],
        vec![uri(URI), uri("spiffe://example.org/device/e")],
        vec![SanType::DnsName("example.org".try_into().unwrap())],
    ] {
        assert_eq!(broken(|params| params.subject_alt_names = names), Rule::SubjectAltName);
    }
}

#[test]
fn other_key_identifiers_are_found() {
    let other = KeyIdMethod::PreSpecified(vec![7; 20]);
    assert_eq!(broken(|params| params.key_identifier_method = other), Rule::SubjectKeyIdentifier);
    let order = Order::leaf();
    let expected = Expected { authority_key_identifier: &[7; 20], ..order.expected() };
    assert_eq!(rule(certificate(order.bytes(), &expected)), Rule::AuthorityKeyIdentifier);
}

#[test]
fn other_addresses_are_found() {
    let list = Published { list: "http://elsewhere/05.crl".to_owned(), ..Order::leaf().published };
    assert_eq!(broken(|params| publish(params, &list)), Rule::DistributionPoint);
    let issuer = Published { issuer: "http://elsewhere/ca.cer".to_owned(), ..Order::leaf().published };
    assert_eq!(broken(|params| publish(params, &issuer)), Rule::IssuerAccess);
    let twice = |params: &mut CertificateParams| {
        let point = params.crl_distribution_points[0].clone();
        params.crl_distribution_points.push(point);
    };
    assert_eq!(broken(twice), Rule::DistributionPoint);
}

#[test]
fn authorities_have_the_key_of_their_level() {
    let small = CaKey::generate(Algorithm::P256).unwrap();
    let refused = found_root(&small, &Subject::new("root").unwrap(), serial(1), NOW_S);
    assert!(
        matches!(&refused, Err(IssueError::Lint(finding)) if finding.rule == Rule::PublicKey),
        "{refused:?}"
    );
    let (key, certificate) = root();
    let urls = IssuerUrls::new("http://status.example.org", "root").unwrap();
    let root = Authority { certificate: &certificate, key: &key, urls: &urls };
    let large = CaKey::generate(Algorithm::P384).unwrap();
    let found = |name: &str, key: &CaKey| {
        found_issuing(&root, key.spki_der(), &Subject::new(name).unwrap(), serial(2), NOW_S)
    };
    let refused = found("issuing", &large);
    assert!(
        matches!(&refused, Err(IssueError::Lint(finding)) if finding.rule == Rule::PublicKey),
        "{refused:?}"
    );
    let refused = found("root", &small);
    assert!(
        matches!(&refused, Err(IssueError::Lint(finding)) if finding.rule == Rule::Subject),
        "{refused:?}"
    );
    assert!(found("issuing", &small).is_ok());
}

#[test]
fn a_root_with_a_path_length_or_a_purpose_is_found() {
    let key = CaKey::generate(Algorithm::P384).unwrap();
    let public = PublicKey::parse(key.spki_der()).unwrap();
    let subject = Subject::new("root").unwrap().to_der();
    let writer = Writer::new(&subject, public, &public.key_identifier()).unwrap();
    let broken = |is_ca: IsCa, purposes: Vec<ExtendedKeyUsagePurpose>| {
        let mut params = Order::leaf().params;
        params.distinguished_name = distinguished_name(&subject).unwrap();
        params.key_identifier_method = KeyIdMethod::PreSpecified(public.key_identifier().to_vec());
        params.is_ca = is_ca;
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.extended_key_usages = purposes;
        params.subject_alt_names.clear();
        params.crl_distribution_points.clear();
        params.custom_extensions.clear();
        let expected = Expected {
            role: Role::Root,
            serial: serial(5),
            signed_by: Algorithm::P384,
            issuer: &subject,
            authority_key_identifier: &public.key_identifier(),
            validity: (NOW_S, NOW_S + DAY_S),
            subject: &subject,
            key: public,
            published: None,
        };
        certificate(writer.certificate(&params, public).unwrap(), &expected)
    };
    assert!(broken(IsCa::Ca(BasicConstraints::Unconstrained), Vec::new()).is_ok());
    let limited = IsCa::Ca(BasicConstraints::Constrained(1));
    assert_eq!(rule(broken(limited, Vec::new())), Rule::BasicConstraints);
    let purpose = vec![ExtendedKeyUsagePurpose::ClientAuth];
    assert_eq!(rule(broken(IsCa::Ca(BasicConstraints::Unconstrained), purpose)), Rule::Extensions);
}

mod lists {
    use rcgen::{
        CertificateRevocationListParams, CrlDistributionPoint, CrlIssuingDistributionPoint, CrlScope,
        KeyIdMethod, RevocationReason, RevokedCertParams, SerialNumber,
    };

    use super::{NOW_S, root, serial};
    use crate::authority::CaCertificate;
    use crate::crl::{Reason, Revoked, Scope};
    use crate::key::Algorithm;
    use crate::lint::{ExpectedList, Finding, Linted, Rule, list};
    use crate::record::instant;

    const URL: &str = "http://status.example.org/crl/issuing/05.crl";
    const SHARD: Scope = Scope::Leaves { shard: 5 };

    fn entry(reason: Reason) -> [Revoked; 1] {
        [Revoked { serial: serial(5), at_s: NOW_S - 9, reason }]
    }

    fn params(ca: &CaCertificate) -> CertificateRevocationListParams {
        CertificateRevocationListParams {
            this_update: instant(NOW_S).unwrap(),
            next_update: instant(NOW_S + 7).unwrap(),
            crl_number: SerialNumber::from(300),
            issuing_distribution_point: Some(CrlIssuingDistributionPoint {
                distribution_point: CrlDistributionPoint { uris: vec![URL.to_owned()] },
                scope: Some(CrlScope::UserCertsOnly),
            }),
            revoked_certs: vec![RevokedCertParams {
                serial_number: SerialNumber::from_slice(serial(5).as_bytes()),
                revocation_time: instant(NOW_S - 9).unwrap(),
                reason_code: Some(RevocationReason::KeyCompromise),
                invalidity_date: None,
            }],
            key_identifier_method: KeyIdMethod::PreSpecified(ca.key_identifier().to_vec()),
        }
    }

    /// Writes one thing, orders another.
    fn lint(
        change: impl FnOnce(&mut CertificateRevocationListParams),
        order: impl for<'a> FnOnce(ExpectedList<'a>) -> ExpectedList<'a>,
    ) -> Result<Linted, Finding> {
        let (_, ca) = root();
        let mut params = params(&ca);
        change(&mut params);
        let expected = ExpectedList {
            signed_by: Algorithm::P384,
            issuer: ca.subject_der(),
            authority_key_identifier: ca.key_identifier(),
            validity: (NOW_S, NOW_S + 7),
            number: 300,
            scope: SHARD,
            url: URL,
            entries: &entry(Reason::KeyCompromise),
        };
        list(ca.writer().list(&params).unwrap(), &order(expected))
    }

    fn broken(change: impl FnOnce(&mut CertificateRevocationListParams)) -> Rule {
        super::rule(lint(change, |expected| expected))
    }

    #[test]
    fn what_was_ordered_passes() {
        assert!(lint(|_| (), |expected| expected).is_ok());
    }

    #[test]
    fn another_number_date_or_identifier_is_found() {
        assert_eq!(broken(|params| params.crl_number = SerialNumber::from(301)), Rule::ListNumber);
        let zero = lint(
            |params| params.crl_number = SerialNumber::from(0),
            |expected| ExpectedList { number: 0, ..expected },
        );
        assert_eq!(super::rule(zero), Rule::ListNumber);
        assert_eq!(broken(|params| params.next_update = instant(NOW_S + 8).unwrap()), Rule::Validity);
        let other = KeyIdMethod::PreSpecified(vec![7; 20]);
        assert_eq!(broken(|params| params.key_identifier_method = other), Rule::AuthorityKeyIdentifier);
    }

    #[test]
    fn a_distribution_point_of_another_shard_or_none_is_found() {
        let elsewhere = |params: &mut CertificateRevocationListParams| {
            let point = params.issuing_distribution_point.as_mut().unwrap();
            point.distribution_point.uris = vec![URL.replace("05", "06")];
        };
        assert_eq!(broken(elsewhere), Rule::DistributionPoint);
        let wide = |params: &mut CertificateRevocationListParams| {
            params.issuing_distribution_point.as_mut().unwrap().scope = None;
        };
        assert_eq!(broken(wide), Rule::DistributionPoint);
        assert_eq!(broken(|params| params.issuing_distribution_point = None), Rule::Extensions);
        let complete = lint(|_| (), |expected| ExpectedList { scope: Scope::Authorities, ..expected });
        assert_eq!(super::rule(complete), Rule::Extensions);
    }

    #[test]
    fn entries_other_than_those_ordered_are_found() {
        assert_eq!(broken(|params| params.revoked_certs.clear()), Rule::Entries);
        assert_eq!(
            broken(|params| params.revoked_certs.push(params.revoked_certs[0].clone())),
            Rule::Entries
        );
        assert_eq!(broken(|params| params.revoked_certs[0].reason_code = None), Rule::Entries);
        let other = SerialNumber::from_slice(serial(6).as_bytes());
        assert_eq!(broken(|params| params.revoked_certs[0].serial_number = other), Rule::Entries);
        let dated = |params: &mut CertificateRevocationListParams| {
            params.revoked_certs[0].invalidity_date = Some(instant(NOW_S).unwrap());
        };
        assert_eq!(broken(dated), Rule::Entries);
        let stray = lint(|_| (), |expected| ExpectedList { scope: Scope::Leaves { shard: 6 }, ..expected });
        assert_eq!(super::rule(stray), Rule::Entries);
    }
}
