//! Certificates in a degenerate CMS SignedData ("certs-only", RFC 5652 §5, RFC 7030 §4.1.3): the form of every EST
//! answer.
//!
//! Written in DER with nothing but certificates; read the same way, and sizes are judged before anything else. The
//! reader finds certificates, it does not trust them.

use thiserror::Error;

use crate::tlv::{self, DerError};

/// The largest answer that is looked at, in bytes of DER.
pub const MAX_BYTES: usize = 64 * 1024;

/// The most certificates that one answer may hold.
pub const MAX_CERTIFICATES: usize = 16;

/// OID contents of id-signedData, 1.2.840.113549.1.7.2.
const SIGNED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02];
/// OID contents of id-data, 1.2.840.113549.1.7.1.
const DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01];

/// Why bytes are not a certs-only answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CmsError {
    /// More than [`MAX_BYTES`] bytes or [`MAX_CERTIFICATES`] certificates.
    #[error("the answer is larger than 64 KiB or holds more than 16 certificates")]
    TooLarge,
    /// The structure is not DER of RFC 5652.
    #[error("reading the answer failed")]
    Malformed(#[from] DerError),
    /// Some other CMS content, or SignedData with signers or content.
    #[error("the answer is not a certs-only message")]
    NotCertsOnly,
}

/// A certs-only message with these DER certificates.
///
/// Certificates go into a SET, so DER orders them by their bytes (X.690 §11.6); the order of the argument is not
/// kept.
#[must_use]
pub fn certs_only(certificates: &[&[u8]]) -> Vec<u8> {
    let mut sorted = certificates.to_vec();
    sorted.sort_unstable();
    let content = tlv::encode(tlv::SEQUENCE, &tlv::encode(tlv::OID, DATA));
    let signed_data = tlv::encode_all(
        tlv::SEQUENCE,
        &[
            // RFC 5652 §5.1: version 1, since there are neither attribute certificates nor signers.
            &[tlv::INTEGER, 1, 1],
            &tlv::encode(tlv::SET, &[]),
            &content,
            &tlv::encode_all(tlv::context_constructed(0), &sorted),
            &tlv::encode(tlv::SET, &[]),
        ],
    );
    let explicit = tlv::encode(tlv::context_constructed(0), &signed_data);
    tlv::encode_all(tlv::SEQUENCE, &[&tlv::encode(tlv::OID, SIGNED_DATA), &explicit])
}

/// The DER certificates in a certs-only message, in its order.
///
/// # Errors
/// [`CmsError::TooLarge`] before parsing; [`CmsError::Malformed`] or [`CmsError::NotCertsOnly`] when it is something
/// else.
pub fn parse_certs_only(der: &[u8]) -> Result<Vec<&[u8]>, CmsError> {
    if der.len() > MAX_BYTES {
        return Err(CmsError::TooLarge);
    }
    let mut message = tlv::single(der, tlv::SEQUENCE)?.reader();
    if message.expect(tlv::OID)?.body != SIGNED_DATA {
        return Err(CmsError::NotCertsOnly);
    }
    let explicit = message.expect(tlv::context_constructed(0))?;
    message.finish()?;
    let mut fields = tlv::single(explicit.body, tlv::SEQUENCE)?.reader();
    fields.expect(tlv::INTEGER)?;
    fields.expect(tlv::SET)?;
    let content = fields.expect(tlv::SEQUENCE)?;
    let certificates = fields.expect(tlv::context_constructed(0))?;
    fields.optional(tlv::context_constructed(1))?;
    let signers = fields.expect(tlv::SET)?;
    fields.finish()?;
    if tlv::single(content.body, tlv::OID).map(|oid| oid.body) != Ok(DATA) || !signers.body.is_empty() {
        return Err(CmsError::NotCertsOnly);
    }
    let mut reader = certificates.reader();
    let mut found = Vec::new();
    while !reader.is_empty() {
        if found.len() == MAX_CERTIFICATES {
            return Err(CmsError::TooLarge);
        }
        found.push(reader.expect(tlv::SEQUENCE)?.whole);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_come_back_sorted_as_a_set() {
        let one = |number: u8| tlv::encode(tlv::SEQUENCE, &tlv::unsigned(&[number]));
        let (a, b) = (one(2), one(1));
        let message = certs_only(&[&a, &b]);
        assert_eq!(parse_certs_only(&message), Ok(vec![&b[..], &a[..]]));
        assert_eq!(crate::walk::check(&message), Ok(()));
    }

    #[test]
    fn size_is_judged_before_structure() {
        assert_eq!(parse_certs_only(&vec![0xff; MAX_BYTES + 1]), Err(CmsError::TooLarge));
        let one = tlv::encode(tlv::SEQUENCE, &[]);
        let message = certs_only(&[&one[..]; MAX_CERTIFICATES + 1]);
        assert_eq!(parse_certs_only(&message), Err(CmsError::TooLarge));
    }

    #[test]
    fn every_truncation_is_refused() {
        let message = certs_only(&[&tlv::encode(tlv::SEQUENCE, &[1, 2, 3])]);
        for end in 0..message.len() {
            assert!(parse_certs_only(&message[..end]).is_err(), "{end}");
        }
    }
}
