//! Issuance: the one way a device's leaf comes into being.
//!
//! ```text
//! VerifiedCsr + terms ──prepare──▶ Prepared ──sign(self)──▶ Issued
//!                        │
//!                        └─ rcgen writes, another parser lints; what was linted is what is signed
//! ```
//!
//! The request contributes its public key and nothing else. Validity, names, serial number and addresses come from
//! the caller's record, the rest is the profile of pki.md. A [`Prepared`] can be made only here and is consumed by
//! its one signature.

use rcgen::string::Ia5String;
use rcgen::{
    CertificateParams, CrlDistributionPoint, CustomExtension, ExtendedKeyUsagePurpose, IsCa, KeyIdMethod,
    KeyUsagePurpose, SanType, SerialNumber,
};
use thiserror::Error;

use crate::SpkiDigest;
use crate::csr::VerifiedCsr;
use crate::key::{KeyError, PublicKey, sha256};
use crate::lint::{self, Expected, Finding, Linted, Published, Role};
use crate::name::{NameError, Subject};
use crate::profile::{IssuerUrls, LeafNames, LeafProfile, ProfileError};
use crate::record::{distinguished_name, instant, seal};
use crate::serial::Serial;
use crate::tlv;

pub use crate::authority::{CaCertificate, CaKey, CaSigner};

/// Everything about a leaf that does not come from the request.
#[derive(Debug, Clone, Copy)]
pub struct LeafTerms<'a> {
    /// What the kind of device allows.
    pub profile: &'a LeafProfile,
    /// Whom the leaf names, from the record.
    pub names: &'a LeafNames,
    /// Where its issuer publishes.
    pub urls: &'a IssuerUrls,
    /// Its serial number, fresh.
    pub serial: Serial,
}

/// Why nothing was issued.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum IssueError {
    /// The certificate is not one of an authority that can issue.
    #[error("not a certificate that can issue: {reason}")]
    NotAnAuthority {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The profile's own numbers are out of bounds.
    #[error("the profile cannot be used")]
    Profile(#[from] ProfileError),
    /// A subject cannot be written.
    #[error("the subject cannot be written")]
    Name(#[from] NameError),
    /// An alternative name cannot be written.
    #[error("the alternative name {name:?} cannot be written")]
    AlternativeName {
        /// The name.
        name: String,
    },
    /// The profile does not accept this kind of key.
    #[error("the profile accepts no key of kind {algorithm}")]
    Algorithm {
        /// The kind of key.
        algorithm: crate::key::Algorithm,
    },
    /// The key to be certified cannot be read, or is no key that Muster certifies.
    #[error("the key to be certified is refused")]
    Key(#[source] KeyError),
    /// The key to be certified is the issuer's own.
    #[error("the key to be certified is the issuer's own")]
    IssuersOwnKey,
    /// The issuer is not valid now, so nothing that it signs would be.
    #[error("by this machine's clock the issuer is not valid: it is so only from {} to {}; set the clock, or replace the issuer if its time is over", in_words(*not_before_s), in_words(*not_after_s))]
    IssuerNotValid {
        /// First second of the issuer's validity.
        not_before_s: i64,
        /// Last second of the issuer's validity.
        not_after_s: i64,
    },
    /// An instant outside the years that X.509 can express.
    #[error("{at_s} seconds since 1970 cannot be written as a date")]
    Time {
        /// The instant.
        at_s: i64,
    },
    /// A revocation list was asked to cover a certificate of another shard.
    #[error("certificate {serial} does not belong on this list")]
    OutOfScope {
        /// Whose.
        serial: Serial,
    },
    /// The writer refused.
    #[error("writing the certificate failed")]
    Write(#[source] rcgen::Error),
    /// The second parser found something other than what was ordered.
    #[error("the lint refused what was written")]
    Lint(#[from] Finding),
    /// The key handed in is not the issuer's.
    #[error("the signing key is not that of the issuer")]
    OtherKey,
    /// The key did not sign.
    #[error("signing failed")]
    Sign(#[source] KeyError),
}

/// A certificate that has been written and linted and waits for its one signature.
///
/// ```
/// # use muster_pki::issuer::{CaSigner, IssueError, Issued, Prepared};
/// fn once(prepared: Prepared, key: &dyn CaSigner) -> Result<Issued, IssueError> {
///     prepared.sign(key)
/// }
/// ```
///
/// It cannot be signed twice:
/// ```compile_fail,E0382
/// # use muster_pki::issuer::{CaSigner, IssueError, Issued, Prepared};
/// fn twice(prepared: Prepared, key: &dyn CaSigner) -> Result<Issued, IssueError> {
///     prepared.sign(key)?;
///     prepared.sign(key)
/// }
/// ```
///
/// It cannot be copied, and nothing else makes one:
/// ```compile_fail,E0599
/// # use muster_pki::issuer::Prepared;
/// fn copy(prepared: &Prepared) -> Prepared {
///     prepared.clone()
/// }
/// ```
#[derive(Debug)]
pub struct Prepared {
    tbs: Linted,
    issuer_spki: Vec<u8>,
    serial: Serial,
    not_before_s: i64,
    not_after_s: i64,
    spki_sha256: SpkiDigest,
}

/// A certificate that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// The certificate.
    pub der: Vec<u8>,
    /// Its serial number.
    pub serial: Serial,
    /// First second of validity, seconds since 1970.
    pub not_before_s: i64,
    /// Last second of validity, seconds since 1970.
    pub not_after_s: i64,
    /// SHA-256 of its SubjectPublicKeyInfo.
    pub spki_sha256: SpkiDigest,
    /// SHA-256 of the whole certificate.
    pub sha256: [u8; 32],
}

/// Writes the leaf for `csr` and lints it.
///
/// The validity begins `backdate_s` before `now_s` and ends `validity_s` after it, both cut to the issuer's own.
///
/// # Errors
/// [`IssueError`], and then nothing has been signed: `Profile`, `Algorithm`, `IssuersOwnKey` and `IssuerNotValid` are
/// refusals; `Name` and `AlternativeName` are records that no certificate can carry; `Lint` is a defect of ours.
pub fn prepare(
    csr: &VerifiedCsr,
    terms: &LeafTerms<'_>,
    ca: &CaCertificate,
    now_s: i64,
) -> Result<Prepared, IssueError> {
    let LeafTerms { profile, names, urls, serial } = *terms;
    profile.check()?;
    if !profile.algorithms.iter().any(|entry| entry.admits(csr.algorithm())) {
        return Err(IssueError::Algorithm { algorithm: csr.algorithm() });
    }
    let key = PublicKey::parse(csr.spki_der()).map_err(IssueError::Key)?;
    let mut subject = Subject::new(&names.common_name)?;
    if let Some(hardware) = &names.serial_number {
        subject = subject.with_serial_number(hardware)?;
    }
    let validity = (now_s.saturating_sub(profile.backdate_s), now_s.saturating_add(profile.validity_s));
    let san = vec![uri_name(&names.uri)?];
    let leaf = EndEntity {
        serial,
        validity,
        subject: subject.to_der(),
        key,
        urls,
        role: Role::Device { uri: &names.uri },
    };
    leaf.prepare(san, ExtendedKeyUsagePurpose::ClientAuth, ca, now_s)
}

impl Prepared {
    /// Signs exactly the bytes that were linted.
    ///
    /// # Errors
    /// [`IssueError::OtherKey`] when `key` is not the issuer's, [`IssueError::Sign`] when it fails.
    pub fn sign(self, key: &dyn CaSigner) -> Result<Issued, IssueError> {
        let der = seal(&self.tbs, &self.issuer_spki, key)?;
        let sha256 = sha256(&der);
        let Self { serial, not_before_s, not_after_s, spki_sha256, .. } = self;
        Ok(Issued { der, serial, not_before_s, not_after_s, spki_sha256, sha256 })
    }

    /// The serial number, which the caller may want to record before the signature exists.
    #[must_use]
    pub const fn serial(&self) -> Serial {
        self.serial
    }
}

/// What device leaves and server certificates have in common.
pub(crate) struct EndEntity<'a> {
    pub(crate) serial: Serial,
    /// Asked for, before it is cut to the issuer's.
    pub(crate) validity: (i64, i64),
    pub(crate) subject: Vec<u8>,
    pub(crate) key: PublicKey<'a>,
    pub(crate) urls: &'a IssuerUrls,
    pub(crate) role: Role<'a>,
}

impl EndEntity<'_> {
    /// Writes and lints the certificate.
    pub(crate) fn prepare(
        self,
        names: Vec<SanType>,
        usage: ExtendedKeyUsagePurpose,
        ca: &CaCertificate,
        now_s: i64,
    ) -> Result<Prepared, IssueError> {
        if self.key.spki_der() == ca.spki_der() {
            return Err(IssueError::IssuersOwnKey);
        }
        let (not_before_s, not_after_s) = self.cut_validity(ca, now_s)?;
        let published = Published { list: self.urls.crl(self.serial.shard()), issuer: self.urls.ca() };
        let mut params = CertificateParams::default();
        params.serial_number = Some(SerialNumber::from_slice(self.serial.as_bytes()));
        params.not_before = instant(not_before_s)?;
        params.not_after = instant(not_after_s)?;
        params.distinguished_name = distinguished_name(&self.subject).unwrap_or_default();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.subject_alt_names = names;
        params.key_identifier_method = KeyIdMethod::PreSpecified(self.key.key_identifier().to_vec());
        params.use_authority_key_identifier_extension = true;
        publish(&mut params, &published);
        let bytes = ca.writer().certificate(&params, self.key)?;
        let expected = Expected {
            role: self.role,
            serial: self.serial,
            signed_by: ca.writer().algorithm(),
            issuer: ca.subject_der(),
            authority_key_identifier: ca.key_identifier(),
            validity: (not_before_s, not_after_s),
            subject: &self.subject,
            key: self.key,
            published: Some(&published),
        };
        let tbs = lint::certificate(bytes, &expected)?;
        let spki_sha256 = sha256(self.key.spki_der());
        let issuer_spki = ca.spki_der().to_vec();
        Ok(Prepared { tbs, issuer_spki, serial: self.serial, not_before_s, not_after_s, spki_sha256 })
    }

    /// What is left of the validity asked for within the issuer's own.
    fn cut_validity(&self, ca: &CaCertificate, now_s: i64) -> Result<(i64, i64), IssueError> {
        let (not_before_s, not_after_s) = (ca.not_before_s(), ca.not_after_s());
        if !(not_before_s..not_after_s).contains(&now_s) {
            return Err(IssueError::IssuerNotValid { not_before_s, not_after_s });
        }
        Ok((self.validity.0.max(not_before_s), self.validity.1.min(not_after_s)))
    }
}

/// Adds the distribution point and the issuer's address.
pub(crate) fn publish(params: &mut CertificateParams, published: &Published) {
    /// id-pe-authorityInfoAccess.
    const AUTHORITY_INFO_ACCESS: &[u64] = &[1, 3, 6, 1, 5, 5, 7, 1, 1];
    /// OID contents of id-ad-caIssuers, 1.3.6.1.5.5.7.48.2.
    const CA_ISSUERS: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x30, 0x02];
    params.crl_distribution_points = vec![CrlDistributionPoint { uris: vec![published.list.clone()] }];
    let location = tlv::encode(tlv::context(6), published.issuer.as_bytes());
    let description = tlv::encode_all(tlv::SEQUENCE, &[&tlv::encode(tlv::OID, CA_ISSUERS), &location]);
    let content = tlv::encode(tlv::SEQUENCE, &description);
    params.custom_extensions = vec![CustomExtension::from_oid_content(AUTHORITY_INFO_ACCESS, content)];
}

/// A URI of ours: printable ASCII beneath `spiffe://`, at most 2048 bytes (SPIFFE-ID §2.3).
fn uri_name(uri: &str) -> Result<SanType, IssueError> {
    let refused = || IssueError::AlternativeName { name: uri.to_owned() };
    let clean =
        uri.len() <= 2048 && uri.starts_with("spiffe://") && uri.bytes().all(|byte| byte.is_ascii_graphic());
    if !clean {
        return Err(refused());
    }
    Ia5String::try_from(uri).map(SanType::URI).map_err(|_| refused())
}

/// An instant as people write it, in UTC; the seconds where no calendar reaches.
fn in_words(at_s: i64) -> String {
    use time::format_description::well_known::Rfc3339;
    let written =
        time::OffsetDateTime::from_unix_timestamp(at_s).ok().and_then(|at| at.format(&Rfc3339).ok());
    written.unwrap_or_else(|| format!("{at_s} s since 1970"))
}
