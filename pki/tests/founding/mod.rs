//! A founded hierarchy and what it takes to issue beneath it.

#![allow(dead_code, reason = "each judge uses its own part of the fixture")]

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use muster_pki::csr::VerifiedCsr;
use muster_pki::hierarchy::{self, Authority, ServerTerms};
use muster_pki::issuer::{CaCertificate, CaKey, CaSigner, Issued, LeafTerms, prepare};
use muster_pki::key::{Algorithm, DeviceKey};
use muster_pki::name::Subject;
use muster_pki::profile::{IssuerUrls, LeafNames, LeafProfile};
use muster_pki::request::build_request;
use muster_pki::serial::Serial;

/// 2027-01-15T08:00:00Z.
pub(crate) const NOW_S: i64 = 1_800_000_000;
pub(crate) const DAY_S: i64 = 86_400;
pub(crate) const URI: &str = "spiffe://example.org/device/0198c0de-0000-7000-8000-000000000001";
pub(crate) const ALL: [Algorithm; 4] =
    [Algorithm::P256, Algorithm::P384, Algorithm::Ed25519, Algorithm::Rsa { bits: 2048 }];

/// One authority with everything that belongs to it.
pub(crate) struct Office {
    pub(crate) key: CaKey,
    pub(crate) certificate: CaCertificate,
    pub(crate) urls: IssuerUrls,
}

impl Office {
    pub(crate) fn authority(&self) -> Authority<'_> {
        Authority { certificate: &self.certificate, key: &self.key, urls: &self.urls }
    }
}

/// Root, issuing authority and authority for server names.
pub(crate) struct House {
    pub(crate) root: Office,
    pub(crate) issuing: Office,
    pub(crate) server_names: Office,
}

pub(crate) fn urls(issuer: &str) -> IssuerUrls {
    IssuerUrls::new("http://status.example.org:8080", issuer).unwrap()
}

/// A serial number whose bytes are all `fill`, but for the fixed top bits.
pub(crate) fn serial(fill: u8) -> Serial {
    Serial::from_random([fill; 16])
}

fn subject(name: &str) -> Subject {
    Subject::new(name).unwrap().with_organization("Example").unwrap()
}

pub(crate) fn found() -> House {
    let root_key = CaKey::generate(Algorithm::P384).unwrap();
    let root_certificate =
        hierarchy::found_root(&root_key, &subject("Muster root"), serial(1), NOW_S).unwrap();
    let root = Office { key: root_key, certificate: root_certificate, urls: urls("root") };
    let key = CaKey::generate(Algorithm::P256).unwrap();
    let name = subject("Muster issuing");
    let certificate =
        hierarchy::found_issuing(&root.authority(), key.spki_der(), &name, serial(2), NOW_S).unwrap();
    let issuing = Office { key, certificate, urls: urls("issuing") };
    let key = CaKey::generate(Algorithm::P256).unwrap();
    let name = subject("Muster server names");
    let certificate =
        hierarchy::found_server_names(&root.authority(), key.spki_der(), &name, serial(3), NOW_S).unwrap();
    let server_names = Office { key, certificate, urls: urls("server-names") };
    House { root, issuing, server_names }
}

pub(crate) fn profile() -> LeafProfile {
    LeafProfile { algorithms: ALL.to_vec(), ..LeafProfile::p256(30 * DAY_S) }
}

pub(crate) fn names() -> LeafNames {
    LeafNames {
        uri: URI.to_owned(),
        common_name: "0198c0de-0000-7000-8000-000000000001".to_owned(),
        serial_number: Some("SN-0042".to_owned()),
    }
}

impl House {
    /// A leaf for the request in `csr`.
    pub(crate) fn leaf(&self, csr: &[u8], serial: Serial) -> Issued {
        let csr = VerifiedCsr::parse(csr, &ALL).unwrap();
        let (profile, names) = (profile(), names());
        let terms = LeafTerms { profile: &profile, names: &names, urls: &self.issuing.urls, serial };
        prepare(&csr, &terms, &self.issuing.certificate, NOW_S).unwrap().sign(&self.issuing.key).unwrap()
    }

    /// A leaf for a fresh key of this kind.
    pub(crate) fn leaf_of(&self, algorithm: Algorithm, serial: Serial) -> (DeviceKey, Issued) {
        let key = DeviceKey::generate(algorithm).unwrap();
        let issued = self.leaf(&build_request(&key, &Subject::new("hint").unwrap()).unwrap(), serial);
        (key, issued)
    }

    /// A server's certificate for `names` and 127.0.0.1.
    pub(crate) fn server(&self, names: &[&str]) -> (DeviceKey, Issued) {
        let key = DeviceKey::generate(Algorithm::P256).unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let terms = ServerTerms {
            names: &names,
            addresses: &[IpAddr::V4(Ipv4Addr::LOCALHOST)],
            validity_s: 90 * DAY_S,
            serial: serial(9),
        };
        let authority = self.server_names.authority();
        let issued = hierarchy::issue_server_certificate(&authority, key.spki_der(), &terms, NOW_S).unwrap();
        (key, issued)
    }
}

/// A directory in which the judges find their files.
pub(crate) struct Bench(tempfile::TempDir);

impl Bench {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// Runs openssl here; the arguments are separated by single spaces.
    pub(crate) fn openssl(&self, arguments: &str) -> Output {
        Command::new("openssl")
            .args(arguments.split(' '))
            .current_dir(self.path())
            .output()
            .expect("openssl is on this machine")
    }

    /// Runs openssl, which must succeed, and answers what it printed.
    pub(crate) fn openssl_ok(&self, arguments: &str) -> String {
        let output = self.openssl(arguments);
        let text =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "openssl {arguments}\n{text}");
        text
    }
}
