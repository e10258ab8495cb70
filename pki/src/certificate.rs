//! Reading a certificate: the few fields that Muster acts on, borrowed from its DER.
//!
//! This is a reader, not a judge: nothing here says that a certificate is genuine. Chains are verified in
//! [`crate::chain`], and what we issue is linted in `lint`. Both sides use it, so it stays small.

use thiserror::Error;

use crate::SpkiDigest;
use crate::key::sha256;
use crate::name::{SERIAL_NUMBER, attribute, is_printable};
use crate::serial::{Serial, SerialError};
use crate::tlv::{self, DerError, Element, Reader};

/// OID contents of subjectAltName, 2.5.29.17.
pub(crate) const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
/// OID contents of subjectKeyIdentifier, 2.5.29.14.
#[cfg(feature = "issue")]
pub(crate) const SUBJECT_KEY_IDENTIFIER: &[u8] = &[0x55, 0x1d, 0x0e];

/// Why bytes are not a certificate that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// The structure is not that of RFC 5280 §4.1.
    #[error("reading the certificate failed")]
    Malformed(#[from] DerError),
    /// Not version 3.
    #[error("not an X.509 version 3 certificate")]
    Version,
    /// A date that is not a UTCTime or GeneralizedTime in the form of RFC 5280 §4.1.2.5.
    #[error("a date is malformed")]
    Time,
    /// The same extension twice (RFC 5280 §4.2 forbids it).
    #[error("an extension appears twice")]
    DuplicateExtension,
}

/// A parsed certificate that borrows its bytes.
#[derive(Debug, Clone)]
pub struct Certificate<'a> {
    der: &'a [u8],
    serial_number: &'a [u8],
    issuer: &'a [u8],
    subject: &'a [u8],
    spki: &'a [u8],
    not_before_s: i64,
    not_after_s: i64,
    extensions: Vec<Extension<'a>>,
}

/// One extension: its OID's contents, and the DER within its OCTET STRING.
#[derive(Debug, Clone, Copy)]
struct Extension<'a> {
    oid: &'a [u8],
    value: &'a [u8],
}

impl<'a> Certificate<'a> {
    /// Reads one DER certificate.
    ///
    /// # Errors
    /// [`CertificateError`] when it is not exactly one version 3 certificate in DER.
    pub fn parse(der: &'a [u8]) -> Result<Self, CertificateError> {
        let mut outer = tlv::single(der, tlv::SEQUENCE)?.reader();
        let mut tbs = outer.expect(tlv::SEQUENCE)?.reader();
        outer.expect(tlv::SEQUENCE)?;
        outer.expect(tlv::BIT_STRING)?;
        outer.finish()?;

        let version = tbs.expect(tlv::context_constructed(0)).map_err(|_| CertificateError::Version)?;
        if version.body != [tlv::INTEGER, 1, 2] {
            return Err(CertificateError::Version);
        }
        let serial_number = tbs.expect(tlv::INTEGER)?.body;
        tbs.expect(tlv::SEQUENCE)?;
        let issuer = tbs.expect(tlv::SEQUENCE)?.whole;
        let mut validity = tbs.expect(tlv::SEQUENCE)?.reader();
        let not_before_s = unix_time(validity.any()?)?;
        let not_after_s = unix_time(validity.any()?)?;
        validity.finish()?;
        let subject = tbs.expect(tlv::SEQUENCE)?.whole;
        let spki = tbs.expect(tlv::SEQUENCE)?.whole;
        let extensions = match tbs.optional(tlv::context_constructed(3))? {
            Some(field) => read_extensions(tlv::single(field.body, tlv::SEQUENCE)?.reader())?,
            None => Vec::new(),
        };
        tbs.finish()?;
        Ok(Self { der, serial_number, issuer, subject, spki, not_before_s, not_after_s, extensions })
    }

    /// The whole certificate.
    #[must_use]
    pub const fn der(&self) -> &'a [u8] {
        self.der
    }

    /// The contents of the serial number's INTEGER, whoever issued it.
    #[must_use]
    pub const fn serial_bytes(&self) -> &'a [u8] {
        self.serial_number
    }

    /// The serial number, if it is one of ours.
    ///
    /// # Errors
    /// [`SerialError::Range`] when Muster cannot have issued it.
    pub fn serial(&self) -> Result<Serial, SerialError> {
        Serial::from_bytes(self.serial_number)
    }

    /// The issuer's name as DER.
    #[must_use]
    pub const fn issuer_der(&self) -> &'a [u8] {
        self.issuer
    }

    /// The subject's name as DER.
    #[must_use]
    pub const fn subject_der(&self) -> &'a [u8] {
        self.subject
    }

    /// The hardware serial in the subject, if exactly one is there and it is a printable string.
    #[must_use]
    pub fn hardware_serial(&self) -> Option<String> {
        attribute(self.subject, SERIAL_NUMBER).filter(|serial| is_printable(serial))
    }

    /// The SubjectPublicKeyInfo as DER.
    #[must_use]
    pub const fn spki_der(&self) -> &'a [u8] {
        self.spki
    }

    /// SHA-256 of [`Certificate::spki_der`].
    #[must_use]
    pub fn spki_sha256(&self) -> SpkiDigest {
        sha256(self.spki)
    }

    /// SHA-256 of the whole certificate.
    #[must_use]
    pub fn sha256(&self) -> [u8; 32] {
        sha256(self.der)
    }

    /// First second of validity, seconds since 1970.
    #[must_use]
    pub const fn not_before_s(&self) -> i64 {
        self.not_before_s
    }

    /// Last second of validity, seconds since 1970.
    #[must_use]
    pub const fn not_after_s(&self) -> i64 {
        self.not_after_s
    }

    /// The DER of the subjectAltName's GeneralNames, for a comparison byte by byte with a request.
    #[must_use]
    pub fn subject_alt_names(&self) -> Option<&'a [u8]> {
        self.extension(SUBJECT_ALT_NAME)
    }

    /// The URIs among the subject alternative names, in their order. A certificate of ours has exactly one, or none
    /// when it names a server.
    #[must_use]
    pub fn uris(&self) -> Vec<&'a str> {
        let Some(names) = self.subject_alt_names().and_then(|der| tlv::single(der, tlv::SEQUENCE).ok())
        else {
            return Vec::new();
        };
        let mut reader = names.reader();
        let mut uris = Vec::new();
        while let Ok(name) = reader.any() {
            if name.tag == tlv::context(6) {
                uris.extend(std::str::from_utf8(name.body).ok().filter(|uri| uri.is_ascii()));
            }
        }
        uris
    }

    /// The DER inside an extension, by the contents of its OID.
    pub(crate) fn extension(&self, oid: &[u8]) -> Option<&'a [u8]> {
        self.extensions.iter().find(|extension| extension.oid == oid).map(|extension| extension.value)
    }
}

fn read_extensions(mut reader: Reader<'_>) -> Result<Vec<Extension<'_>>, CertificateError> {
    let mut extensions: Vec<Extension<'_>> = Vec::with_capacity(8);
    while !reader.is_empty() {
        let mut fields = reader.expect(tlv::SEQUENCE)?.reader();
        let oid = fields.expect(tlv::OID)?.body;
        fields.optional(tlv::BOOLEAN)?;
        let value = fields.expect(tlv::OCTET_STRING)?.body;
        fields.finish()?;
        if extensions.iter().any(|known| known.oid == oid) {
            return Err(CertificateError::DuplicateExtension);
        }
        extensions.push(Extension { oid, value });
    }
    Ok(extensions)
}

/// Seconds since 1970 of a UTCTime `YYMMDDHHMMSSZ` or a GeneralizedTime `YYYYMMDDHHMMSSZ` (RFC 5280 §4.1.2.5).
fn unix_time(element: Element<'_>) -> Result<i64, CertificateError> {
    let (year_digits, rest) = match element.tag {
        tlv::UTC_TIME => element.body.split_at_checked(2),
        tlv::GENERALIZED_TIME => element.body.split_at_checked(4),
        _ => None,
    }
    .ok_or(CertificateError::Time)?;
    let (fields, zulu) = rest.split_at_checked(10).ok_or(CertificateError::Time)?;
    if zulu != b"Z" {
        return Err(CertificateError::Time);
    }
    let mut year = number(year_digits)?;
    if element.tag == tlv::UTC_TIME {
        // §4.1.2.5.1: where YY is greater than or equal to 50, the year is 19YY.
        year += if year >= 50 { 1900 } else { 2000 };
    }
    let mut pairs = fields.chunks_exact(2).map(number);
    let mut next = || pairs.next().unwrap_or(Err(CertificateError::Time));
    let (month, day, hour, minute, second) = (next()?, next()?, next()?, next()?, next()?);
    let month = u8::try_from(month).ok().and_then(|month| time::Month::try_from(month).ok());
    let date = month
        .zip(u8::try_from(day).ok())
        .zip(i32::try_from(year).ok())
        .and_then(|((month, day), year)| time::Date::from_calendar_date(year, month, day).ok());
    let date = date.ok_or(CertificateError::Time)?;
    if hour > 23 || minute > 59 || second > 59 {
        return Err(CertificateError::Time);
    }
    Ok(date.midnight().assume_utc().unix_timestamp() + hour * 3600 + minute * 60 + second)
}

fn number(digits: &[u8]) -> Result<i64, CertificateError> {
    digits.iter().try_fold(0_i64, |value, digit| match digit {
        b'0'..=b'9' => Ok(value * 10 + i64::from(digit - b'0')),
        _ => Err(CertificateError::Time),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(tag: u8, text: &str) -> Result<i64, CertificateError> {
        unix_time(Element { tag, body: text.as_bytes(), whole: &[] })
    }

    #[test]
    fn both_time_forms_are_read_on_either_side_of_the_century() {
        assert_eq!(read(tlv::UTC_TIME, "700101000000Z"), Ok(0));
        assert_eq!(read(tlv::UTC_TIME, "491231235959Z"), Ok(2_524_607_999));
        assert_eq!(read(tlv::GENERALIZED_TIME, "20500101000000Z"), Ok(2_524_608_000));
        assert_eq!(read(tlv::UTC_TIME, "240229120001Z"), Ok(1_709_208_001));
    }

    #[test]
    fn fractions_offsets_and_impossible_dates_are_refused() {
        for text in
            ["2401010000Z", "240101000000+0000", "240230000000Z", "241301000000Z", "240101240000Z", "x"]
        {
            assert_eq!(read(tlv::UTC_TIME, text), Err(CertificateError::Time), "{text}");
        }
        assert_eq!(read(tlv::GENERALIZED_TIME, "20240101000000.5Z"), Err(CertificateError::Time));
    }

    #[test]
    fn what_is_not_a_certificate_is_refused_without_panic() {
        for bytes in [&[][..], &[0x30, 0], &[0x30, 3, 0x30, 1, 0], b"-----BEGIN CERTIFICATE-----"] {
            assert!(Certificate::parse(bytes).is_err(), "{bytes:?}");
        }
    }
}
