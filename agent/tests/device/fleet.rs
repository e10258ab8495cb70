//! A server that keeps the rules of the contract and nothing else: tokens are spent once, the same key gets the same
//! certificate while that is still *issued*, the first authenticated request makes it current.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::SigningKey;
use muster_agent::core::Answer;
use muster_pki::armor;
use muster_pki::cms::certs_only;
use muster_pki::csr::VerifiedCsr;
use muster_pki::hierarchy::{
    Authority as Issuer, ServerTerms, found_issuing, found_root, found_server_names, issue_server_certificate,
};
use muster_pki::issuer::{CaCertificate, CaKey, CaSigner, LeafTerms, prepare};
use muster_pki::key::{Algorithm, DeviceKey};
use muster_pki::name::Subject;
use muster_pki::profile::{IssuerUrls, LeafNames, LeafProfile};
use muster_pki::serial::Serial;
use muster_wire::authority::{Approver, Authority, Required};
use muster_wire::digest::Sha256Digest;
use muster_wire::discovery::{Caller, Discovery, Endpoints, TrustBundle};
use muster_wire::enrollment::{EnrollmentString, Token};
use muster_wire::envelope::MultiSigned;
use muster_wire::id::{DeviceId, device_uri};
use muster_wire::key::{Ed25519Key, PublicKey, Signer as _};
use muster_wire::problem::{Code, Problem};
use muster_wire::time::Timestamp;

pub(crate) const TRUST_DOMAIN: &str = "fleet.example";
const DAY: i64 = 86_400;

static SERIALS: AtomicU64 = AtomicU64::new(1);

/// What reached the server.
pub(crate) enum Asked<'a> {
    Discovery,
    CaCerts,
    Enroll { bearer: &'a str, csr: &'a [u8] },
    Reenroll { csr: &'a [u8] },
    Baseline,
}

/// One certificate and the key in it.
#[derive(Clone, Debug)]
pub(crate) struct Cert {
    pub(crate) der: Vec<u8>,
    pub(crate) spki: Vec<u8>,
}

/// One device.
#[derive(Clone, Debug)]
pub(crate) struct Device {
    pub(crate) id: DeviceId,
    pub(crate) issued: Option<Cert>,
    pub(crate) current: Option<Cert>,
    pub(crate) former: Vec<Cert>,
}

/// What the server does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// Certifies a key of its own.
    ForeignKey,
    /// Names another trust domain in certificates.
    ForeignName,
    /// Sends the issuing authority along with the certificate.
    TwoCertificates,
    /// Says 202 to so many enrolments.
    Pending(u32),
    /// Says 503 to so many enrolments.
    Busy(u32),
    /// Serves an authority document of somebody else.
    ForeignAuthority,
    /// Its listener is `localhost` and nothing else.
    NamedLocalhost,
    /// Says nothing of its issuing authority.
    ForeignIssuer,
    /// Does not recognise anybody.
    Forgetful,
}

/// The server.
pub(crate) struct Fleet {
    pub(crate) root: CaCertificate,
    root_key: CaKey,
    issuing: (CaCertificate, CaKey),
    /// Those that signed before, and are served still.
    retired: Vec<CaCertificate>,
    names: (CaCertificate, CaKey),
    urls: IssuerUrls,
    authority: Vec<u8>,
    authority_digest: Sha256Digest,
    tokens: BTreeMap<String, Option<(Vec<u8>, DeviceId)>>,
    pub(crate) devices: Vec<Device>,
    pub(crate) now: i64,
    pub(crate) fault: Fault,
    /// What the server says that its clock says.
    pub(crate) date: Option<Timestamp>,
    /// Port of the gate, where there is one.
    pub(crate) gate: u16,
    /// The one baseline that it serves.
    pub(crate) baseline: Option<Vec<u8>>,
}

fn serial() -> Serial {
    let n = SERIALS.fetch_add(1, Ordering::Relaxed);
    let mut bytes = [0; 16];
    bytes[8..].copy_from_slice(&n.to_be_bytes());
    Serial::from_random(bytes)
}

/// Seed 1 is the command key, 2 the audit key.
pub(crate) fn ed25519(seed: u8) -> (SigningKey, Ed25519Key) {
    let key = SigningKey::from_bytes(&[seed; 32]);
    match key.public_key() {
        PublicKey::Ed25519(public) => (key, public),
        PublicKey::P256(_) => unreachable!("an Ed25519 signer"),
    }
}

fn authority(first_seed: u8) -> (Vec<u8>, Sha256Digest) {
    let (command, command_key) = ed25519(first_seed);
    let approver =
        Approver { name: "a".parse().unwrap(), key: ed25519(first_seed + 2).1, valid_from: Timestamp(0) };
    let document = Authority {
        version: 1,
        trust_domain: TRUST_DOMAIN.parse().unwrap(),
        command_keys: vec![command_key],
        audit_keys: vec![ed25519(first_seed + 1).1],
        approvers: vec![approver],
        recovery: Vec::new(),
        required: Required::solo(),
        previous: None,
    };
    let mut signed = MultiSigned::unsigned(&document);
    signed.add_signature(&command).unwrap();
    (signed.to_bytes(), signed.payload_digest())
}

impl Fleet {
    /// A server founded a day before `now`.
    pub(crate) fn founded(now: i64) -> Self {
        let at = now - DAY;
        let urls = IssuerUrls::new("http://127.0.0.1:1", "test").unwrap();
        let root_key = CaKey::generate(Algorithm::P384).unwrap();
        let subject = |name: &str| Subject::new(name).unwrap();
        let root = found_root(&root_key, &subject("root"), serial(), at).unwrap();
        let above = Issuer { certificate: &root, key: &root_key, urls: &urls };
        let key = || CaKey::generate(Algorithm::P256).unwrap();
        let (issuing_key, names_key) = (key(), key());
        let issuing =
            found_issuing(&above, issuing_key.spki_der(), &subject("issuing"), serial(), at).unwrap();
        let names =
            found_server_names(&above, names_key.spki_der(), &subject("names"), serial(), at).unwrap();
        let (authority, authority_digest) = authority(1);
        Self {
            root,
            root_key,
            issuing: (issuing, issuing_key),
            retired: Vec::new(),
            names: (names, names_key),
            urls,
            authority,
            authority_digest,
            tokens: BTreeMap::new(),
            devices: Vec::new(),
            now,
            fault: Fault::None,
            date: None,
            gate: 1,
            baseline: None,
        }
    }

    /// From now on another issuing authority signs, beneath the same root.
    pub(crate) fn rotate_issuing(&mut self) {
        let above = Issuer { certificate: &self.root, key: &self.root_key, urls: &self.urls };
        let key = CaKey::generate(Algorithm::P256).unwrap();
        let subject = Subject::new("issuing 2").unwrap();
        let next = found_issuing(&above, key.spki_der(), &subject, serial(), self.now - DAY).unwrap();
        let former = std::mem::replace(&mut self.issuing, (next, key));
        self.retired.push(former.0);
    }

    /// A fresh enrolment string for `host:port`.
    pub(crate) fn mint(&mut self, host: &str, port: u16) -> EnrollmentString {
        let mut entropy = [0; 24];
        entropy[0] = u8::try_from(self.tokens.len()).unwrap();
        let token = Token::from_entropy(&entropy);
        self.tokens.insert(token.reveal().to_owned(), None);
        let ca = Sha256Digest(self.root.spki_sha256());
        EnrollmentString { host: host.to_owned(), port, token, ca, auth: self.authority_digest }
    }

    /// A certificate and a key for a listener on 127.0.0.1, with the chain as the contract wants it: root included.
    pub(crate) fn listener(&self, not_before: i64) -> (Vec<Vec<u8>>, DeviceKey) {
        let key = DeviceKey::generate(Algorithm::P256).unwrap();
        let issuer = Issuer { certificate: &self.names.0, key: &self.names.1, urls: &self.urls };
        let addresses = match self.fault {
            Fault::NamedLocalhost => Vec::new(),
            _ => vec!["127.0.0.1".parse().unwrap()],
        };
        let terms = ServerTerms {
            names: &["localhost".to_owned()],
            addresses: &addresses,
            validity_s: 90 * DAY,
            serial: serial(),
        };
        let leaf = issue_server_certificate(&issuer, key.spki_der(), &terms, not_before).unwrap();
        (vec![leaf.der, self.names.0.der().to_vec(), self.root.der().to_vec()], key)
    }

    /// The issuing authority, whom a listener asks about clients.
    pub(crate) fn issuing(&self) -> &[u8] {
        self.issuing.0.der()
    }

    /// Answers, judging the certificate `shown`.
    pub(crate) fn answer(&mut self, asked: &Asked<'_>, shown: Option<&[u8]>) -> Answer {
        let caller = match shown {
            None => None,
            Some(der) => match self.admit(der) {
                Some(index) => Some(index),
                None => return problem(Code::CertificateRefused),
            },
        };
        match asked {
            Asked::Discovery => self.discovery(caller),
            Asked::CaCerts => {
                let known = match self.fault {
                    Fault::ForeignIssuer => None,
                    _ => Some(self.issuing.0.der()),
                };
                let retired = self.retired.iter().map(CaCertificate::der);
                let all = [self.root.der(), self.names.0.der()].into_iter().chain(known).chain(retired);
                ok(armor::base64(&certs_only(&all.collect::<Vec<_>>())).into_bytes())
            }
            Asked::Enroll { bearer, csr } => self.enroll(bearer, csr),
            Asked::Baseline => match (caller, &self.baseline) {
                (Some(_), Some(baseline)) => ok(baseline.clone()),
                _ => problem(Code::NotFound),
            },
            Asked::Reenroll { csr } => match caller {
                Some(index) => self.reenroll(index, csr),
                None => problem(Code::Unauthenticated),
            },
        }
    }

    /// The device whose certificate this is, if the table lets it in.
    fn admit(&mut self, der: &[u8]) -> Option<usize> {
        if self.fault == Fault::Forgetful {
            return None;
        }
        let is = |cert: &Option<Cert>| cert.as_ref().is_some_and(|cert| cert.der == der);
        let index = self.devices.iter().position(|device| is(&device.issued) || is(&device.current))?;
        let device = &mut self.devices[index];
        if is(&device.issued) {
            let former = std::mem::replace(&mut device.current, device.issued.take());
            device.former.extend(former);
        }
        Some(index)
    }

    fn discovery(&self, caller: Option<usize>) -> Answer {
        let authority = match self.fault {
            Fault::ForeignAuthority => authority(101).0,
            _ => self.authority.clone(),
        };
        let found = Discovery {
            trust_domain: TRUST_DOMAIN.parse().unwrap(),
            endpoints: Endpoints {
                device: "https://x".into(),
                mqtt: format!("mqtts://127.0.0.1:{}", self.gate),
                status: "http://x".into(),
            },
            trust_bundle: TrustBundle {
                version: 1,
                roots: vec![STANDARD.encode(self.root.der())],
                issuers: Vec::new(),
            },
            authority: vec![STANDARD.encode(authority)],
            device: caller.map(|index| Caller { id: self.devices[index].id, state: "commissioning".into() }),
        };
        ok(serde_json::to_vec(&found).unwrap())
    }

    fn enroll(&mut self, bearer: &str, csr: &[u8]) -> Answer {
        match &mut self.fault {
            Fault::Pending(n @ 1..) => {
                *n -= 1;
                return Answer { status: 202, retry_after_s: Some(7), date: None, body: Vec::new() };
            }
            Fault::Busy(n @ 1..) => {
                *n -= 1;
                return Answer { retry_after_s: Some(1), ..problem(Code::StoreBusy) };
            }
            _ => {}
        }
        let Some(spent) = self.tokens.get(bearer).cloned() else { return problem(Code::TokenRefused) };
        let Ok(csr) = VerifiedCsr::parse(csr, &[Algorithm::P256]) else { return problem(Code::CsrMalformed) };
        if let Some((spki, id)) = spent {
            let device = self.devices.iter().find(|device| device.id == id).unwrap();
            return match &device.issued {
                Some(cert) if spki == csr.spki_der() => ok(message(&[&cert.der])),
                _ => problem(Code::TokenRefused),
            };
        }
        let id = DeviceId::from_parts(1, [u8::try_from(self.devices.len()).unwrap(); 10]);
        let cert = self.issue(&csr, id);
        self.tokens.insert(bearer.to_owned(), Some((csr.spki_der().to_vec(), id)));
        self.devices.push(Device { id, issued: Some(cert.clone()), current: None, former: Vec::new() });
        self.deliver(&cert)
    }

    fn reenroll(&mut self, index: usize, csr: &[u8]) -> Answer {
        let Ok(csr) = VerifiedCsr::parse(csr, &[Algorithm::P256]) else { return problem(Code::CsrMalformed) };
        let device = &self.devices[index];
        if let Some(cert) = device.issued.as_ref().filter(|cert| cert.spki == csr.spki_der()) {
            return ok(message(&[&cert.der]));
        }
        if device.former.iter().chain(&device.current).any(|cert| cert.spki == csr.spki_der()) {
            return problem(Code::CsrKeyInUse);
        }
        let cert = self.issue(&csr, device.id);
        let replaced = self.devices[index].issued.replace(cert.clone());
        self.devices[index].former.extend(replaced);
        self.deliver(&cert)
    }

    fn issue(&self, csr: &VerifiedCsr, id: DeviceId) -> Cert {
        let domain = if self.fault == Fault::ForeignName { "other.example" } else { TRUST_DOMAIN };
        let names =
            LeafNames { uri: device_uri(domain, id), common_name: id.to_string(), serial_number: None };
        let profile = LeafProfile::p256(30 * DAY);
        let terms = LeafTerms { profile: &profile, names: &names, urls: &self.urls, serial: serial() };
        let own = DeviceKey::generate(Algorithm::P256).unwrap();
        let own = muster_pki::request::build_request(&own, &Subject::new("x").unwrap()).unwrap();
        let own = VerifiedCsr::parse(&own, &[Algorithm::P256]).unwrap();
        let csr = if self.fault == Fault::ForeignKey { &own } else { csr };
        let issued = prepare(csr, &terms, &self.issuing.0, self.now).unwrap().sign(&self.issuing.1).unwrap();
        Cert { der: issued.der, spki: csr.spki_der().to_vec() }
    }

    fn deliver(&self, cert: &Cert) -> Answer {
        match self.fault {
            Fault::TwoCertificates => ok(message(&[&cert.der, self.issuing.0.der()])),
            _ => ok(message(&[&cert.der])),
        }
    }
}

fn message(certificates: &[&[u8]]) -> Vec<u8> {
    armor::base64(&certs_only(certificates)).into_bytes()
}

fn ok(body: Vec<u8>) -> Answer {
    Answer { status: 200, retry_after_s: None, date: None, body }
}

fn problem(code: Code) -> Answer {
    let body = serde_json::to_vec(&Problem::new(code)).unwrap();
    Answer { status: code.http_status(), retry_after_s: None, date: None, body }
}
