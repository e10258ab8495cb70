//! PKCS #10 requests made field by field, signed by a real key.

use super::der::{self, bits, oid, seq, small, tlv};
use muster_tests::Identity;
use muster_tests::est::Pledge;
use rcgen::{KeyPair, PublicKeyData, SigningKey};
use rustls::pki_types::PrivateKeyDer;

/// A P-256 request in the making.
pub(crate) struct Draft {
    key: KeyPair,
    names: Vec<Vec<u8>>,
    extensions: Vec<Vec<u8>>,
    attributes: Vec<Vec<u8>>,
}

impl Draft {
    /// A new key, an empty subject, nothing asked for.
    pub(crate) fn new() -> Self {
        Self::of(KeyPair::generate().expect("a key"))
    }

    /// The same for `key`.
    pub(crate) fn of(key: KeyPair) -> Self {
        Self { key, names: Vec::new(), extensions: Vec::new(), attributes: Vec::new() }
    }

    /// With one more attribute of the subject.
    pub(crate) fn name(mut self, id: &[u32], tag: u8, text: impl AsRef<[u8]>) -> Self {
        self.names.push(der::rdn(id, tag, text.as_ref()));
        self
    }

    /// With one more extension asked for.
    pub(crate) fn extension(mut self, id: &[u32], critical: bool, value: &[u8]) -> Self {
        self.extensions.push(der::extension(id, critical, value));
        self
    }

    /// With subject alternative names, each already encoded.
    pub(crate) fn alt_names(self, names: &[Vec<u8>]) -> Self {
        self.extension(der::ALT_NAMES, false, &tlv(0x30, &names.concat()))
    }

    /// With one more attribute of the request, already encoded.
    pub(crate) fn attribute(mut self, attribute: Vec<u8>) -> Self {
        self.attributes.push(attribute);
        self
    }

    /// Signed by its own key.
    pub(crate) fn sign(self) -> Pledge {
        let csr = self.signed_with(|body, key| key.sign(body).expect("a signature"));
        Pledge { key: self.key, csr }
    }

    /// The request with what `sign` answers in place of a signature.
    pub(crate) fn signed_with(&self, sign: impl FnOnce(&[u8], &KeyPair) -> Vec<u8>) -> Vec<u8> {
        let mut attributes = self.attributes.clone();
        if !self.extensions.is_empty() {
            let asked = tlv(0x30, &self.extensions.concat());
            attributes.push(seq(&[&oid(der::EXTENSION_REQUEST), &der::set(&asked)]));
        }
        let subject = tlv(0x30, &self.names.concat());
        let spki = self.key.subject_public_key_info();
        let body = seq(&[&small(0), &subject, &spki, &tlv(0xa0, &attributes.concat())]);
        let signature = sign(&body, &self.key);
        seq(&[&body, &seq(&[&oid(der::ECDSA_SHA256)]), &bits(&signature)])
    }
}

/// A request with the subject that the certificate in `identity` has, as a renewal must be.
pub(crate) fn renewal(identity: &Identity, key: KeyPair) -> Pledge {
    use x509_parser::prelude::{FromDer, X509Certificate};
    let (_, certificate) = X509Certificate::from_der(identity.leaf()).expect("a certificate");
    let subject = certificate.subject().as_raw();
    let names = certificate.subject_alternative_name().expect("well-formed").expect("one name").value;
    let uri = match names.general_names.as_slice() {
        [x509_parser::extensions::GeneralName::URI(uri)] => tlv(0x86, uri.as_bytes()),
        other => panic!("not one URI: {other:?}"),
    };
    let extension = der::extension(der::ALT_NAMES, false, &seq(&[&uri]));
    let asked = seq(&[&oid(der::EXTENSION_REQUEST), &der::set(&seq(&[&extension]))]);
    let body = seq(&[&small(0), subject, &key.subject_public_key_info(), &tlv(0xa0, &asked)]);
    let signature = key.sign(&body).expect("a signature");
    let csr = seq(&[&body, &seq(&[&oid(der::ECDSA_SHA256)]), &bits(&signature)]);
    Pledge { key, csr }
}

/// The same key once more.
pub(crate) fn again(key: &KeyPair) -> KeyPair {
    let der = PrivateKeyDer::try_from(key.serialize_der()).expect("PKCS#8");
    KeyPair::try_from(&der).expect("a key that was a key before")
}

/// A URI among subject alternative names.
pub(crate) fn uri(text: &str) -> Vec<u8> {
    tlv(0x86, text.as_bytes())
}

/// A DNS name among subject alternative names.
pub(crate) fn dns(text: &str) -> Vec<u8> {
    tlv(0x82, text.as_bytes())
}
