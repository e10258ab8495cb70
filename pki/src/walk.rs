//! The strict walk over a whole DER tree, before any parser with an opinion sees it (X.690 §10, §11).
//!
//! Parsers differ in what they forgive. After this walk there is nothing left to forgive in the structure: lengths are
//! definite and short, strings are primitive, numbers and bits canonical, nesting bounded, nothing left over. What is
//! inside an OCTET STRING is not opened, and the order within a SET is left alone: old clients get it wrong.

use crate::tlv::{
    BIT_STRING, BOOLEAN, DerError, Element, INTEGER, OID, Reader, SEQUENCE, SET, is_minimal_integer,
};

/// How deep elements may nest.
pub(crate) const MAX_DEPTH: usize = 16;

/// Walks the whole tree in `bytes`, which must be exactly one element, and refuses what DER forbids.
///
/// Contents of primitive elements are checked for BOOLEAN, INTEGER, BIT STRING and OBJECT IDENTIFIER.
pub(crate) fn check(bytes: &[u8]) -> Result<(), DerError> {
    let mut reader = Reader::new(bytes);
    check_element(reader.any()?, 0)?;
    reader.finish()
}

fn check_element(element: Element<'_>, depth: usize) -> Result<(), DerError> {
    if depth > MAX_DEPTH {
        return Err(DerError::Depth);
    }
    let constructed = element.tag & 0x20 != 0;
    if !constructed {
        return check_primitive(element);
    }
    // X.690 §10.2: string types are never constructed in DER; only SEQUENCE and SET are among the universal ones.
    if element.tag & 0xc0 == 0 && element.tag != SEQUENCE && element.tag != SET {
        return Err(DerError::Tag);
    }
    let mut reader = element.reader();
    while !reader.is_empty() {
        check_element(reader.any()?, depth + 1)?;
    }
    Ok(())
}

fn check_primitive(element: Element<'_>) -> Result<(), DerError> {
    let good = match element.tag {
        0x10 | 0x11 => return Err(DerError::Tag),
        BOOLEAN => matches!(element.body, [0x00] | [0xff]),
        INTEGER => is_minimal_integer(element.body),
        BIT_STRING => match element.body {
            [unused, .., last] => *unused < 8 && last.trailing_zeros() >= u32::from(*unused),
            [unused] => *unused == 0,
            [] => false,
        },
        OID => is_oid(element.body),
        _ => true,
    };
    if good { Ok(()) } else { Err(DerError::Value) }
}

/// Every arc ends, and none starts with a padding byte (X.690 §8.19.2).
fn is_oid(body: &[u8]) -> bool {
    let mut starts = true;
    for byte in body {
        if starts && *byte == 0x80 {
            return false;
        }
        starts = byte & 0x80 == 0;
    }
    starts && !body.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tlv::encode;

    #[test]
    fn indefinite_and_padded_lengths_are_refused() {
        for bytes in [
            &[0x30, 0x80, 0x00, 0x00][..],
            &[0x30, 0x81, 0x01, 0x00],
            &[0x30, 0x82, 0x00, 0x80],
            &[0x30, 0x85, 1, 0, 0, 0, 0],
        ] {
            assert_eq!(check(bytes), Err(DerError::Length), "{bytes:02x?}");
        }
    }

    #[test]
    fn trailing_bytes_and_truncation_are_told_apart() {
        assert_eq!(check(&[0x05, 0x00, 0x00]), Err(DerError::Trailing));
        assert_eq!(check(&[0x04, 0x02, 0x00]), Err(DerError::Truncated));
        assert_eq!(check(&[]), Err(DerError::Truncated));
    }

    #[test]
    fn nesting_beyond_the_cap_is_refused() {
        let nest = |levels: usize| (0..levels).fold(vec![0x05, 0x00], |inner, _| encode(SEQUENCE, &inner));
        assert_eq!(check(&nest(MAX_DEPTH)), Ok(()));
        assert_eq!(check(&nest(MAX_DEPTH + 1)), Err(DerError::Depth));
    }

    #[test]
    fn constructed_strings_and_loose_values_are_refused() {
        assert_eq!(check(&[0x24, 0x02, 0x04, 0x00]), Err(DerError::Tag));
        assert_eq!(check(&[0x1f, 0x81, 0x01, 0x00]), Err(DerError::Tag));
        for bytes in [&[0x01, 1, 1][..], &[0x02, 2, 0, 1], &[0x02, 0], &[0x03, 2, 1, 1], &[0x06, 2, 0x80, 1]]
        {
            assert_eq!(check(bytes), Err(DerError::Value), "{bytes:02x?}");
        }
    }
}
