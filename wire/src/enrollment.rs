//! The enrolment token, and the one string that carries it to a device.
//!
//! A token is `muster_`, 33 base62 digits holding 192 random bits, and 6 base62 digits of checksum. The prefix
//! and the checksum are there for people and for secret scanners (`muster_[0-9A-Za-z]{39}`): a mistyped token
//! is refused before any look-up, and a leaked one is found. They hold no secret and grant nothing. The server
//! stores only the digest.
//!
//! The enrolment string (`contract.md`) is
//! `muster://host:port/<token>?ca=<base64url SHA-256 of the root's SPKI>&auth=<base64url SHA-256 of the first
//! authority document>`. Neither type can be printed by accident: `Debug` hides the secret, and there is no
//! `Display` and no `Serialize`.

use crate::digest::Sha256Digest;
use std::fmt;
use std::net::Ipv6Addr;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// What every token begins with.
pub const TOKEN_PREFIX: &str = "muster_";

/// How long a token's text is, in bytes.
pub const TOKEN_LEN: usize = TOKEN_PREFIX.len() + SECRET_DIGITS + CHECK_DIGITS;

const SECRET_DIGITS: usize = 33;
const CHECK_DIGITS: usize = 6;
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// No enrolment string is longer, in bytes: scheme, a 253-byte name in brackets, port, token and two digests.
const MAX_STRING: usize = 512;

/// An enrolment token: whoever holds it may become a device.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Token(String);

/// Why a text is no token. Says nothing about whether a well-formed one exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// It has another length.
    #[error("an enrolment token is {TOKEN_LEN} characters long")]
    Length,
    /// It does not begin as tokens begin, or holds a character that none of them has.
    #[error("an enrolment token is \"{TOKEN_PREFIX}\" and then only letters and digits")]
    Alphabet,
    /// Its checksum does not fit: it was mistyped or cut.
    #[error("the enrolment token was mistyped: its checksum does not fit")]
    Checksum,
}

impl Token {
    /// The token that carries these 192 random bits.
    pub fn from_entropy(entropy: &[u8; 24]) -> Self {
        let mut text = String::with_capacity(TOKEN_LEN);
        text.push_str(TOKEN_PREFIX);
        push_base62(&mut text, entropy, SECRET_DIGITS);
        let check = checksum(text.as_bytes());
        push_base62(&mut text, &check, CHECK_DIGITS);
        Self(text)
    }

    /// Reads a token's text.
    ///
    /// # Errors
    /// [`TokenError::Length`] before anything else is looked at, then [`TokenError::Alphabet`], then
    /// [`TokenError::Checksum`].
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        if text.len() != TOKEN_LEN {
            return Err(TokenError::Length);
        }
        let digits = text.strip_prefix(TOKEN_PREFIX).ok_or(TokenError::Alphabet)?;
        if !digits.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(TokenError::Alphabet);
        }
        let (secret, check) = text.split_at(TOKEN_LEN - CHECK_DIGITS);
        let mut expected = String::with_capacity(CHECK_DIGITS);
        push_base62(&mut expected, &checksum(secret.as_bytes()), CHECK_DIGITS);
        if expected != check {
            return Err(TokenError::Checksum);
        }
        Ok(Self(text.to_owned()))
    }

    /// The secret itself, for the one place that shows or sends it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// SHA-256 of the text: what is stored and looked up.
    pub fn digest(&self) -> Sha256Digest {
        Sha256Digest::of(self.0.as_bytes())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// CRC-32 (ISO-HDLC, the one of zip) of everything before the checksum, prefix included.
fn checksum(text: &[u8]) -> [u8; 4] {
    crc32fast::hash(text).to_be_bytes()
}

/// Appends the big-endian number in `bytes` as exactly `digits` base62 digits, most significant first.
///
/// Digits that the number does not need are `0`; the callers leave room for the largest number.
fn push_base62(text: &mut String, bytes: &[u8], digits: usize) {
    let mut number = bytes.to_vec();
    let mut reversed = Vec::with_capacity(digits);
    for _ in 0..digits {
        let mut rest = 0_usize;
        for byte in &mut number {
            let value = (rest << 8) | usize::from(*byte);
            *byte = u8::try_from(value / 62).unwrap_or(u8::MAX);
            rest = value % 62;
        }
        reversed.push(BASE62.get(rest).copied().unwrap_or(b'0'));
    }
    number.zeroize();
    text.extend(reversed.iter().rev().map(|&digit| char::from(digit)));
    reversed.zeroize();
}

/// Everything a device needs to enrol: where, with what, and whom to believe.
#[derive(Clone, Debug)]
pub struct EnrollmentString {
    /// A DNS name, an IPv4 address, or an IPv6 address without brackets.
    pub host: String,
    /// Port of the device listener.
    pub port: u16,
    /// The secret.
    pub token: Token,
    /// SHA-256 of the root's SubjectPublicKeyInfo.
    pub ca: Sha256Digest,
    /// SHA-256 of the first authority document's payload.
    pub auth: Sha256Digest,
}

/// Why a text is no enrolment string. Never holds a part of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EnrollmentError {
    /// Longer than any enrolment string.
    #[error("longer than an enrolment string can be")]
    TooLong,
    /// It does not begin with `muster://`.
    #[error("an enrolment string begins with muster://")]
    Scheme,
    /// The host is neither a name nor an address.
    #[error("the host is neither a DNS name, an IPv4 address nor an IPv6 address in brackets")]
    Host,
    /// The port is missing or no number from 1 to 65535.
    #[error("the port is missing or no number from 1 to 65535")]
    Port,
    /// The token is malformed.
    #[error("the token in it is malformed")]
    Token(#[source] TokenError),
    /// `?ca=…&auth=…`, in this order and nothing more, does not follow.
    #[error("after the token ?ca=…&auth=… must follow, each with a digest, and nothing more")]
    Pins,
}

impl EnrollmentString {
    /// Reads an enrolment string; white space around it, as pasting leaves it, is ignored.
    ///
    /// # Errors
    /// The first part, from left to right, that is not as `contract.md` says.
    pub fn parse(text: &str) -> Result<Self, EnrollmentError> {
        let text = text.trim_ascii();
        if text.len() > MAX_STRING {
            return Err(EnrollmentError::TooLong);
        }
        let rest = text.strip_prefix("muster://").ok_or(EnrollmentError::Scheme)?;
        let (place, rest) = rest.split_once('/').ok_or(EnrollmentError::Port)?;
        let (host, port) = parse_place(place)?;
        let (token, query) = rest.split_once('?').ok_or(EnrollmentError::Pins)?;
        let token = Token::parse(token).map_err(EnrollmentError::Token)?;
        let (ca, auth) = parse_pins(query).ok_or(EnrollmentError::Pins)?;
        Ok(Self { host, port, token, ca, auth })
    }

    /// The text, secret included, for the one place that shows or sends it.
    pub fn reveal(&self) -> String {
        format!(
            "muster://{}/{}?ca={}&auth={}",
            self.authority(),
            self.token.reveal(),
            self.ca.to_base64url(),
            self.auth.to_base64url()
        )
    }

    /// `host:port` as a URL spells it: an IPv6 address in brackets.
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

fn parse_place(place: &str) -> Result<(String, u16), EnrollmentError> {
    let (host, port) = match place.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once("]:").ok_or(EnrollmentError::Host)?;
            host.parse::<Ipv6Addr>().map_err(|_| EnrollmentError::Host)?;
            (host, port)
        }
        None => {
            let (host, port) = place.split_once(':').ok_or(EnrollmentError::Port)?;
            if !is_host(host) {
                return Err(EnrollmentError::Host);
            }
            (host, port)
        }
    };
    Ok((host.to_owned(), parse_port(port).ok_or(EnrollmentError::Port)?))
}

/// A DNS name or an IPv4 address, as far as characters and lengths tell (RFC 1123 §2.1).
fn is_host(host: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.len() <= 253 && host.split('.').all(is_label)
}

fn parse_port(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    if plain { text.parse().ok() } else { None }
}

fn parse_pins(query: &str) -> Option<(Sha256Digest, Sha256Digest)> {
    let (ca, auth) = query.strip_prefix("ca=")?.split_once("&auth=")?;
    Some((Sha256Digest::from_base64url(ca).ok()?, Sha256Digest::from_base64url(auth).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn string(host: &str) -> EnrollmentString {
        EnrollmentString {
            host: host.into(),
            port: 8443,
            token: Token::from_entropy(&[0x5a; 24]),
            ca: Sha256Digest::of(b"ca"),
            auth: Sha256Digest::of(b"auth"),
        }
    }

    #[test]
    fn the_largest_entropy_fits_into_its_digits() {
        let token = Token::from_entropy(&[0xff; 24]);
        assert_eq!(token.reveal().len(), TOKEN_LEN);
        assert_eq!(Token::parse(token.reveal()).unwrap().digest(), token.digest());
        let smallest = Token::from_entropy(&[0; 24]);
        assert!(smallest.reveal().starts_with("muster_000000000000000000000000000000000"));
    }

    #[test]
    fn a_mistyped_token_is_refused_by_its_checksum() {
        let token = Token::from_entropy(&[0x5a; 24]);
        for position in TOKEN_PREFIX.len()..TOKEN_LEN {
            let mut typed = token.reveal().as_bytes().to_vec();
            typed[position] = if typed[position] == b'x' { b'y' } else { b'x' };
            let typed = String::from_utf8(typed).unwrap();
            assert_eq!(Token::parse(&typed).unwrap_err(), TokenError::Checksum, "{position}");
        }
    }

    #[test]
    fn length_is_judged_before_anything_else() {
        assert_eq!(Token::parse("").unwrap_err(), TokenError::Length);
        assert_eq!(Token::parse(&"é".repeat(5_000_000)).unwrap_err(), TokenError::Length);
        assert_eq!(Token::parse(&"é".repeat(TOKEN_LEN / 2)).unwrap_err(), TokenError::Alphabet);
    }

    #[test]
    fn debug_shows_no_secret() {
        let string = string("fleet.example");
        let shown = format!("{string:?}");
        assert!(!shown.contains(string.token.reveal()) && !shown.contains("muster_"), "{shown}");
    }

    #[test]
    fn an_enrolment_string_reads_back() {
        for host in ["fleet.example", "192.0.2.1", "2001:db8::1", "localhost"] {
            let text = string(host).reveal();
            let read = EnrollmentString::parse(&format!(" {text}\n")).unwrap();
            assert_eq!((read.host.as_str(), read.port, read.reveal()), (host, 8443, text));
        }
        assert!(string("2001:db8::1").reveal().starts_with("muster://[2001:db8::1]:8443/muster_"));
    }

    #[test]
    fn each_part_is_judged() {
        let good = string("fleet.example").reveal();
        for (from, to, error) in [
            ("muster://", "https://", EnrollmentError::Scheme),
            ("fleet.example:8443", "fleet.example", EnrollmentError::Port),
            (":8443", ":0", EnrollmentError::Port),
            (":8443", ":08443", EnrollmentError::Port),
            (":8443", ":65536", EnrollmentError::Port),
            (":8443", ":+443", EnrollmentError::Port),
            ("fleet.example", "fleet_example", EnrollmentError::Host),
            ("fleet.example", "-fleet", EnrollmentError::Host),
            ("fleet.example", "", EnrollmentError::Host),
            ("fleet.example", "u@fleet", EnrollmentError::Host),
            ("fleet.example", "[fleet]", EnrollmentError::Host),
            ("muster_", "master_", EnrollmentError::Token(TokenError::Alphabet)),
            ("?ca=", "?auth=", EnrollmentError::Pins),
            ("&auth=", "&ca=", EnrollmentError::Pins),
        ] {
            assert_eq!(EnrollmentString::parse(&good.replacen(from, to, 1)).unwrap_err(), error, "{to}");
        }
        assert_eq!(EnrollmentString::parse(&format!("{good}&x=1")).unwrap_err(), EnrollmentError::Pins);
        let long = format!("{good}{}", "A".repeat(MAX_STRING));
        assert_eq!(EnrollmentString::parse(&long).unwrap_err(), EnrollmentError::TooLong);
    }

    proptest! {
        #[test]
        fn every_entropy_makes_a_token_that_reads_back(entropy in any::<[u8; 24]>()) {
            let token = Token::from_entropy(&entropy);
            let read = Token::parse(token.reveal()).unwrap();
            prop_assert_eq!(read.reveal(), token.reveal());
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,80}", tail in "(muster://)?[\\[\\]a-z0-9:/?&=_-]{0,120}") {
            let _ = Token::parse(&text);
            let _ = EnrollmentString::parse(&text);
            let _ = EnrollmentString::parse(&tail);
        }
    }
}
