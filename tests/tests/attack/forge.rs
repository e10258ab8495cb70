//! Certificates that nobody issued: by a CA of the attacker's own, or by the real issuing CA's stolen key.

use super::der::{self, bits, extension, octets, oid, seq, small, tlv, yes};
use muster_tests::{Identity, Site};
use rcgen::{KeyPair, PublicKeyData, SigningKey};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

/// `clientAuth`, `serverAuth`, `codeSigning`.
pub(crate) const CLIENT: &[u32] = &[1, 3, 6, 1, 5, 5, 7, 3, 2];
pub(crate) const SERVER: &[u32] = &[1, 3, 6, 1, 5, 5, 7, 3, 1];

/// A name and a key that signs under it.
pub(crate) struct Forger {
    /// The name, DER.
    name: Vec<u8>,
    key: KeyPair,
    /// Put behind the leaf.
    chain: Vec<Vec<u8>>,
}

/// What a forged certificate says.
pub(crate) struct Says {
    /// The URI that names its owner.
    pub(crate) uri: String,
    /// The serial number, positive.
    pub(crate) serial: Vec<u8>,
    /// Begin and end of its validity, in seconds from now.
    pub(crate) validity: (i64, i64),
    /// Its extended key usages; none leaves the extension out.
    pub(crate) usages: Vec<&'static [u32]>,
    /// The host that it names instead, if any.
    pub(crate) host: Option<&'static str>,
}

impl Says {
    /// A good certificate of `uri`, under a serial number that was never issued.
    pub(crate) fn of(uri: &str) -> Self {
        Self {
            uri: uri.to_owned(),
            serial: vec![0x42; 16],
            validity: (-300, 86_400),
            usages: vec![CLIENT],
            host: None,
        }
    }
}

impl Forger {
    /// A CA with the issuing CA's name and another key.
    pub(crate) fn namesake(site: &Site) -> Self {
        let mut forger = Self::thief(site, "issuing");
        forger.key = KeyPair::generate().expect("a key");
        forger
    }

    /// Whoever stole the key of the CA `ca` from the data directory.
    pub(crate) fn thief(site: &Site, ca: &str) -> Self {
        let file = |kind: &str| site.data_dir().join("keys").join(format!("{ca}.{kind}"));
        let certificate = std::fs::read(file("der")).expect("a CA certificate");
        let key = PrivateKeyDer::from_pem_file(file("key")).expect("a CA key");
        let key = KeyPair::try_from(&key).expect("a usable CA key");
        Self { name: subject(&certificate), key, chain: vec![certificate] }
    }

    /// With one more certificate behind the leaf.
    pub(crate) fn followed_by(mut self, der: Vec<u8>) -> Self {
        self.chain.push(der);
        self
    }

    /// A device that takes its own certificate for a CA's.
    pub(crate) fn upstart(identity: &Identity) -> Self {
        let key = KeyPair::try_from(&identity.key).expect("a device's key");
        let chain = identity.chain.iter().map(|der| der.to_vec()).collect();
        Self { name: subject(identity.leaf()), key, chain }
    }

    /// A certificate that says `says`, for a new key, with this forger's chain behind it.
    pub(crate) fn forge(&self, says: &Says) -> Identity {
        let key = KeyPair::generate().expect("a key");
        let leaf = self.certificate(says, &key);
        let chain = std::iter::once(leaf).chain(self.chain.iter().cloned()).map(Into::into).collect();
        Identity { chain, key: PrivateKeyDer::try_from(key.serialize_der()).expect("PKCS#8") }
    }

    fn certificate(&self, says: &Says, key: &KeyPair) -> Vec<u8> {
        let algorithm = seq(&[&oid(der::ECDSA_SHA256)]);
        let mut names = tlv(0x86, says.uri.as_bytes());
        if let Some(host) = says.host {
            names = tlv(0x82, host.as_bytes());
        }
        let mut extensions = vec![
            extension(der::BASIC_CONSTRAINTS, true, &seq(&[])),
            extension(der::KEY_USAGE, true, &tlv(0x03, &[7, 0x80])),
            extension(der::ALT_NAMES, false, &seq(&[&names])),
        ];
        if !says.usages.is_empty() {
            let usages: Vec<u8> = says.usages.iter().flat_map(|usage| oid(usage)).collect();
            extensions.push(extension(der::EXTENDED_KEY_USAGE, false, &tlv(0x30, &usages)));
        }
        let validity = seq(&[&instant(says.validity.0), &instant(says.validity.1)]);
        let body = seq(&[
            &tlv(0xa0, &small(2)),
            &tlv(0x02, &says.serial),
            &algorithm,
            &self.name,
            &validity,
            &seq(&[]),
            &key.subject_public_key_info(),
            &tlv(0xa3, &tlv(0x30, &extensions.concat())),
        ]);
        let signature = self.key.sign(&body).expect("a signature");
        seq(&[&body, &algorithm, &bits(&signature)])
    }
}

/// The serial number of `identity`'s certificate, as INTEGER content.
pub(crate) fn serial(identity: &Identity) -> Vec<u8> {
    let (_, certificate) = X509Certificate::from_der(identity.leaf()).expect("a certificate");
    certificate.raw_serial().to_vec()
}

/// The key of the CA `ca`, for whoever stole it.
pub(crate) fn ca_key(site: &Site, ca: &str) -> KeyPair {
    Forger::thief(site, ca).key
}

/// `basicConstraints` of a CA.
pub(crate) fn is_ca() -> Vec<u8> {
    seq(&[&yes()])
}

/// An extension that nobody knows.
pub(crate) fn unknown() -> Vec<u8> {
    octets(b"?")
}

fn subject(certificate: &[u8]) -> Vec<u8> {
    let (_, certificate) = X509Certificate::from_der(certificate).expect("a certificate");
    certificate.subject().as_raw().to_vec()
}

/// UTCTime, `ahead_s` seconds from now.
fn instant(ahead_s: i64) -> Vec<u8> {
    let at = time::OffsetDateTime::now_utc() + time::Duration::seconds(ahead_s);
    let text = format!(
        "{:02}{:02}{:02}{:02}{:02}{:02}Z",
        at.year() % 100,
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second()
    );
    tlv(0x17, text.as_bytes())
}
