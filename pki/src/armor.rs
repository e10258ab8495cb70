//! How DER travels as text: base64 with or without line breaks, PEM, or not as text at all.
//!
//! RFC 8951 §3 says base64 without promising line breaks, curl users send PEM, and some clients send raw DER. The
//! size is judged before anything is decoded. A DER structure of ours starts with 0x30, which is the digit `0`; no
//! base64 of a SEQUENCE starts with that digit, so the three forms never collide.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use thiserror::Error;

/// Why a body is not one DER structure in any of the accepted forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ArmorError {
    /// More bytes than the caller allows; nothing was decoded.
    #[error("the body is larger than {limit_bytes} bytes")]
    TooLarge {
        /// The largest body that is looked at.
        limit_bytes: usize,
    },
    /// Nothing but white space.
    #[error("the body is empty")]
    Empty,
    /// PEM without a complete block, or with more than one.
    #[error("the PEM text is not exactly one block")]
    Pem,
    /// A character outside the alphabet, or padding in the wrong place.
    #[error("the base64 text is malformed")]
    Base64,
}

/// The DER in `body`, which may be base64 (any line breaks), one PEM block, or DER itself.
///
/// # Errors
/// [`ArmorError::TooLarge`] before decoding when `body` exceeds `limit_bytes`; the others when it is none of the
/// three forms. Whether the result is sound DER is not judged here.
pub fn decode(body: &[u8], limit_bytes: usize) -> Result<Cow<'_, [u8]>, ArmorError> {
    if body.len() > limit_bytes {
        return Err(ArmorError::TooLarge { limit_bytes });
    }
    if body.first() == Some(&0x30) {
        return Ok(Cow::Borrowed(body));
    }
    let text = body.trim_ascii();
    if text.is_empty() {
        return Err(ArmorError::Empty);
    }
    let digits = if text.starts_with(b"-----BEGIN ") { pem_contents(text)? } else { text };
    let packed: Vec<u8> = digits.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    STANDARD.decode(packed).map(Cow::Owned).map_err(|_| ArmorError::Base64)
}

/// What stands between the two boundaries of a single PEM block (RFC 7468 §3).
fn pem_contents(text: &[u8]) -> Result<&[u8], ArmorError> {
    let text = std::str::from_utf8(text).map_err(|_| ArmorError::Pem)?;
    let after = text.strip_prefix("-----BEGIN ").ok_or(ArmorError::Pem)?;
    let (label, after) = after.split_once("-----").ok_or(ArmorError::Pem)?;
    let (contents, rest) = after.split_once("-----END ").ok_or(ArmorError::Pem)?;
    if rest.strip_suffix("-----") == Some(label) && !label.contains(['\n', '\r']) {
        Ok(contents.as_bytes())
    } else {
        Err(ArmorError::Pem)
    }
}

/// Base64 without line breaks, as EST answers carry it (RFC 8951 §3).
#[must_use]
pub fn base64(der: &[u8]) -> String {
    STANDARD.encode(der)
}

/// One PEM block with lines of 64 characters (RFC 7468 §2).
#[must_use]
pub fn pem(label: &str, der: &[u8]) -> String {
    let digits = STANDARD.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    let mut rest = digits.as_str();
    while !rest.is_empty() {
        // Base64 is ASCII, so every index is a character boundary.
        let (line, after) = rest.split_at(rest.len().min(64));
        out.push_str(line);
        out.push('\n');
        rest = after;
    }
    out.push_str("-----END ");
    out.push_str(label);
    out.push_str("-----\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_three_forms_give_the_same_bytes() {
        let der = crate::tlv::encode(crate::tlv::SEQUENCE, &[7; 200]);
        let broken = base64(&der).as_bytes().chunks(76).collect::<Vec<_>>().join(&b"\r\n"[..]);
        for body in
            [der.clone(), base64(&der).into_bytes(), broken, pem("CERTIFICATE REQUEST", &der).into_bytes()]
        {
            assert_eq!(decode(&body, 4096).unwrap(), der, "{:?}", String::from_utf8_lossy(&body));
        }
    }

    #[test]
    fn size_is_judged_before_the_form() {
        assert_eq!(decode(&[b'!'; 11], 10), Err(ArmorError::TooLarge { limit_bytes: 10 }));
        assert_eq!(decode(&[b'!'; 10], 10), Err(ArmorError::Base64));
    }

    #[test]
    fn two_blocks_or_half_a_block_are_refused() {
        let one = pem("A", &[1, 2, 3]);
        assert_eq!(decode(one.repeat(2).as_bytes(), 4096), Err(ArmorError::Pem));
        assert_eq!(decode(one.split_at(20).0.as_bytes(), 4096), Err(ArmorError::Pem));
        assert_eq!(decode(one.replace("END A", "END B").as_bytes(), 4096), Err(ArmorError::Pem));
        assert_eq!(decode(b" \r\n", 4096), Err(ArmorError::Empty));
    }
}
