//! Serial numbers: 16 bytes, positive, always 16 bytes long in DER (RFC 5280 §4.1.2.2).
//!
//! The two top bits are fixed to `01`, which leaves 126 random bits: the number is positive, its DER never needs a
//! sign byte and never loses a leading zero, so every certificate of a profile has the same length. The last byte
//! names the shard of the revocation list that covers the certificate.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// A certificate's serial number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial([u8; 16]);

/// Why something is not a serial number of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SerialError {
    /// Not 32 lower-case hexadecimal digits.
    #[error("a serial number is 32 lower-case hexadecimal digits")]
    Text,
    /// The two top bits are not `01`, or the length is not 16 bytes.
    #[error("not a serial number that Muster issues")]
    Range,
}

impl Serial {
    /// A serial number from 16 random bytes, of which 126 bits are kept.
    #[must_use]
    pub const fn from_random(mut random: [u8; 16]) -> Self {
        random[0] = (random[0] & 0x3f) | 0x40;
        Self(random)
    }

    /// A serial number from the bytes of one that was issued before.
    ///
    /// # Errors
    /// [`SerialError::Range`] when no [`Serial`] has these bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SerialError> {
        let bytes: [u8; 16] = bytes.try_into().map_err(|_| SerialError::Range)?;
        if bytes[0] & 0xc0 == 0x40 { Ok(Self(bytes)) } else { Err(SerialError::Range) }
    }

    /// The 16 bytes, big-endian, exactly as in the certificate.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The shard of the revocation list that covers this certificate: the last byte.
    #[must_use]
    pub const fn shard(&self) -> u8 {
        self.0[15]
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Serial({self})")
    }
}

impl FromStr for Serial {
    type Err = SerialError;

    fn from_str(text: &str) -> Result<Self, SerialError> {
        let mut bytes = [0; 16];
        if text.len() != 32 || !text.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(SerialError::Text);
        }
        for (at, byte) in bytes.iter_mut().enumerate() {
            let pair = text.get(at * 2..at * 2 + 2).ok_or(SerialError::Text)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| SerialError::Text)?;
        }
        Self::from_bytes(&bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_random_bytes_become_a_positive_number_of_sixteen_bytes() {
        for fill in [0x00, 0x7f, 0x80, 0xff] {
            let serial = Serial::from_random([fill; 16]);
            assert!((0x40..0x80).contains(&serial.as_bytes()[0]), "{serial}");
            assert_eq!(Serial::from_bytes(serial.as_bytes()), Ok(serial));
        }
    }

    #[test]
    fn text_reads_back_and_nothing_else_is_taken() {
        let serial = Serial::from_random([0xab; 16]);
        assert_eq!(serial.to_string().parse(), Ok(serial));
        assert_eq!(serial.to_string().to_uppercase().parse::<Serial>(), Err(SerialError::Text));
        assert_eq!("00".repeat(16).parse::<Serial>(), Err(SerialError::Range));
        assert_eq!("é".repeat(16).parse::<Serial>(), Err(SerialError::Text));
        assert_eq!(Serial::from_bytes(&[0x41; 15]), Err(SerialError::Range));
    }

    #[test]
    fn the_last_byte_is_the_shard() {
        let mut random = [1; 16];
        random[15] = 0xe7;
        assert_eq!(Serial::from_random(random).shard(), 0xe7);
    }
}
