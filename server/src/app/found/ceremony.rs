//! The ceremony: the keys and certificates of the hierarchy, and the first authority document.

use super::FoundOptions;
use super::error::FoundError;
use crate::ca::keystore::Keystore;
use crate::ca::{CaError, file, files_of, fresh_serial, issuer_id};
use crate::config::{Advertised, Settings};
use crate::domain::issuers::IssuerName;
use muster_pki::hierarchy::{self as pki, Authority as CaAuthority};
use muster_pki::issuer::{CaCertificate, CaKey, CaSigner};
use muster_pki::key::Algorithm;
use muster_pki::name::{NameError, Subject};
use muster_pki::profile::IssuerUrls;
use muster_wire::approver::ApproverName;
use muster_wire::authority::{Approver, Authority, RecoveryKey, Required};
use muster_wire::digest::Sha256Digest;
use muster_wire::id::TrustDomain;
use muster_wire::key::Ed25519Key;
use muster_wire::time::Timestamp;

/// Root, its CRL, issuing CA, server-names CA; answers the root's pin.
pub(super) fn hierarchy(
    keys: &Keystore,
    options: &FoundOptions,
    trust_domain: &TrustDomain,
    now_s: i64,
) -> Result<Sha256Digest, FoundError> {
    let domain = trust_domain.as_str();
    let root_key = CaKey::generate(Algorithm::P384).map_err(|_| CaError::no_key(file::ROOT_KEY))?;
    let root = pki::found_root(&root_key, &subject("Root CA", domain)?, fresh_serial(), now_s)?;
    let root_urls = root_urls(&root, &options.settings, &options.public_name)?;
    let authority = CaAuthority { certificate: &root, key: &root_key, urls: &root_urls };

    issuing(keys, &authority, IssuerName::FOUNDED, (domain, now_s))?;
    let names_key = CaKey::generate(Algorithm::P256).map_err(|_| CaError::no_key(file::NAMES_KEY))?;
    let names_subject = subject("Server Names CA", domain)?;
    let spki = names_key.spki_der();
    let names = pki::found_server_names(&authority, spki, &names_subject, fresh_serial(), now_s)?;
    let crl = muster_pki::crl::sign_list(&authority, muster_pki::crl::Scope::Authorities, &[], 1, now_s)?;

    let pairs: [(&str, &CaKey, &str, &CaCertificate); 2] =
        [(file::ROOT_KEY, &root_key, file::ROOT, &root), (file::NAMES_KEY, &names_key, file::NAMES, &names)];
    for (key_file, key, certificate_file, certificate) in pairs {
        keys.write(key_file, key.to_pem().as_bytes())?;
        keys.write(certificate_file, certificate.der())?;
    }
    keys.write(file::ROOT_CRL, &crl)?;
    Ok(Sha256Digest(root.spki_sha256()))
}

/// Makes the issuing CA `name` beneath the root and writes its key, then its certificate, over what an interrupted call
/// left. On return both are on the disk.
pub(super) fn issuing(
    keys: &Keystore,
    root: &CaAuthority<'_>,
    name: IssuerName,
    (trust_domain, now_s): (&str, i64),
) -> Result<CaCertificate, FoundError> {
    let (key_file, certificate_file) = files_of(name);
    let key = CaKey::generate(Algorithm::P256).map_err(|_| CaError::no_key(key_file.clone()))?;
    // Revocation lists are found by their issuer's name too, so no two issuers share one (RFC 5280 §4.1.2.6).
    let called = match name {
        IssuerName::FOUNDED => "Issuing CA".to_owned(),
        later => format!("Issuing CA {}", later.number()),
    };
    let subject = subject(&called, trust_domain)?;
    let certificate = pki::found_issuing(root, key.spki_der(), &subject, fresh_serial(), now_s)?;
    keys.write(&key_file, key.to_pem().as_bytes())?;
    keys.write(&certificate_file, certificate.der())?;
    Ok(certificate)
}

/// Where the root publishes.
pub(super) fn root_urls(
    root: &CaCertificate,
    settings: &Settings,
    public_name: &str,
) -> Result<IssuerUrls, FoundError> {
    let base = status_base(settings, public_name);
    Ok(IssuerUrls::new(&base, &hex::encode(issuer_id(root))).map_err(CaError::from)?)
}

fn subject(name: &str, trust_domain: &str) -> Result<Subject, FoundError> {
    let bad = |_: NameError| FoundError::Invalid {
        what: "the trust domain".to_owned(),
        expected: "must be at most 64 characters",
    };
    Subject::new(&format!("Muster {name}")).map_err(bad)?.with_organization(trust_domain).map_err(bad)
}

/// Where the CA certificates say that the root's status is published.
fn status_base(settings: &Settings, public_name: &str) -> String {
    let bound = match settings.listen.status.port() {
        0 => Settings::default().listen.status.port(),
        port => port,
    };
    let (host, port) = Advertised::or(settings.advertise.status.as_ref(), public_name, bound);
    format!("http://{}:{port}", bracketed(&host))
}

/// A host as it stands in a URL.
pub(crate) fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

pub(super) fn authority(
    options: &FoundOptions,
    trust_domain: &TrustDomain,
    (command, audit): (Ed25519Key, Ed25519Key),
    now_s: i64,
) -> Result<Authority, FoundError> {
    let name = |name: &str| {
        name.parse::<ApproverName>().map_err(|_| FoundError::Invalid {
            what: format!("the approver's name {name:?}"),
            expected: "must be lower-case letters, digits, dots and dashes: rename the file of the key",
        })
    };
    let key = |owner: &str, key: &[u8; 32]| {
        Ed25519Key::from_bytes(key).map_err(|_| FoundError::Invalid {
            what: format!("the key of {owner}"),
            expected: "must be an Ed25519 public key",
        })
    };
    let mut approvers = Vec::new();
    for (who, bytes) in &options.approvers {
        approvers.push(Approver { name: name(who)?, key: key(who, bytes)?, valid_from: Timestamp(now_s) });
    }
    let mut recovery = Vec::new();
    for (who, bytes) in &options.recovery {
        recovery.push(RecoveryKey { name: name(who)?, key: key(who, bytes)? });
    }
    let required = if options.solo { Required::solo() } else { Required::founding(approvers.len()).0 };
    let document = Authority {
        version: 1,
        trust_domain: trust_domain.clone(),
        command_keys: vec![command],
        audit_keys: vec![audit],
        approvers,
        recovery,
        required,
        previous: None,
    };
    document.check().map_err(|_| FoundError::Invalid {
        what: "the approvers".to_owned(),
        expected: "must have different names and different keys",
    })?;
    Ok(document)
}
