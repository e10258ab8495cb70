//! DER, read strictly and written plainly (X.690 §8, §10, §11).
//!
//! The reader accepts only what DER allows in the parts of X.509 that Muster looks at: low tag numbers, definite
//! lengths in the fewest bytes, nothing left over. It never allocates and never recurses.
//! It is small on purpose: the agent carries it instead of a whole ASN.1 library. What it does not do: interpret
//! times, names or extensions; those live with the types that need them.

use thiserror::Error;

pub(crate) const BOOLEAN: u8 = 0x01;
pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const OID: u8 = 0x06;
pub(crate) const UTC_TIME: u8 = 0x17;
pub(crate) const GENERALIZED_TIME: u8 = 0x18;
pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const SET: u8 = 0x31;

/// Context-specific, primitive tag `[n]`.
pub(crate) const fn context(n: u8) -> u8 {
    0x80 | n
}

/// Context-specific, constructed tag `[n]`.
pub(crate) const fn context_constructed(n: u8) -> u8 {
    0xa0 | n
}

/// Why bytes are not the DER that was expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DerError {
    /// The bytes end inside an element.
    #[error("the encoding ends too early")]
    Truncated,
    /// Bytes follow the element that should have been the last.
    #[error("bytes follow the last element")]
    Trailing,
    /// An indefinite, over-long or oversized length (X.690 §10.1).
    #[error("a length is not in its shortest definite form")]
    Length,
    /// A tag number above 30, or a constructed bit where DER wants a primitive.
    #[error("a tag is not allowed here")]
    Tag,
    /// Elements nest deeper than any X.509 structure needs.
    #[error("elements nest too deeply")]
    Depth,
    /// A value breaks the rules of its type.
    #[error("a value is not canonical")]
    Value,
}

/// One element: its tag, its contents, and the whole of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Element<'a> {
    pub(crate) tag: u8,
    pub(crate) body: &'a [u8],
    pub(crate) whole: &'a [u8],
}

impl<'a> Element<'a> {
    /// A reader over the contents.
    pub(crate) fn reader(&self) -> Reader<'a> {
        Reader { rest: self.body }
    }
}

/// Takes elements off the front of some bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The tag of the next element, if there is one.
    pub(crate) fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    /// The next element, whatever it is.
    pub(crate) fn any(&mut self) -> Result<Element<'a>, DerError> {
        let (&tag, after_tag) = self.rest.split_first().ok_or(DerError::Truncated)?;
        if tag & 0x1f == 0x1f {
            return Err(DerError::Tag);
        }
        let (length, header) = length(after_tag)?;
        let start = header + 1;
        let end = start.checked_add(length).ok_or(DerError::Length)?;
        let whole = self.rest.get(..end).ok_or(DerError::Truncated)?;
        let body = whole.get(start..).ok_or(DerError::Truncated)?;
        self.rest = self.rest.get(end..).ok_or(DerError::Truncated)?;
        Ok(Element { tag, body, whole })
    }

    /// The next element, which must carry `tag`.
    pub(crate) fn expect(&mut self, tag: u8) -> Result<Element<'a>, DerError> {
        let element = self.any()?;
        if element.tag == tag { Ok(element) } else { Err(DerError::Tag) }
    }

    /// The next element if it carries `tag`; otherwise nothing is taken.
    pub(crate) fn optional(&mut self, tag: u8) -> Result<Option<Element<'a>>, DerError> {
        if self.peek() == Some(tag) { self.any().map(Some) } else { Ok(None) }
    }

    /// Nothing may be left.
    pub(crate) fn finish(self) -> Result<(), DerError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DerError::Trailing) }
    }
}

/// The single element that `bytes` consist of.
pub(crate) fn single(bytes: &[u8], tag: u8) -> Result<Element<'_>, DerError> {
    let mut reader = Reader::new(bytes);
    let element = reader.expect(tag)?;
    reader.finish()?;
    Ok(element)
}

/// Length and the number of bytes that spell it.
fn length(bytes: &[u8]) -> Result<(usize, usize), DerError> {
    let (&first, rest) = bytes.split_first().ok_or(DerError::Truncated)?;
    if first < 0x80 {
        return Ok((usize::from(first), 1));
    }
    // X.690 §10.1: the definite form, in the minimum number of octets. 0x80 would open an indefinite one.
    let count = usize::from(first & 0x7f);
    if count == 0 || count > 4 {
        return Err(DerError::Length);
    }
    let digits = rest.get(..count).ok_or(DerError::Truncated)?;
    let value = digits.iter().fold(0_usize, |value, digit| (value << 8) | usize::from(*digit));
    if value < 0x80 || digits.first() == Some(&0) {
        return Err(DerError::Length);
    }
    Ok((value, count + 1))
}

/// Whether an INTEGER has no more bytes than it needs (X.690 §8.3.2).
pub(crate) fn is_minimal_integer(body: &[u8]) -> bool {
    match body {
        [] => false,
        [0x00, next, ..] => next & 0x80 != 0,
        [0xff, next, ..] => next & 0x80 == 0,
        _ => true,
    }
}

/// The bits of a BIT STRING that fills whole bytes.
pub(crate) fn whole_bits<'a>(element: &Element<'a>) -> Result<&'a [u8], DerError> {
    match element.body.split_first() {
        Some((0, bits)) => Ok(bits),
        _ => Err(DerError::Value),
    }
}

/// The magnitude of a positive INTEGER without its sign byte.
pub(crate) fn positive<'a>(element: &Element<'a>) -> Result<&'a [u8], DerError> {
    if !is_minimal_integer(element.body) {
        return Err(DerError::Value);
    }
    match element.body {
        [0] => Err(DerError::Value),
        [0, magnitude @ ..] => Ok(magnitude),
        [first, ..] if first & 0x80 == 0 => Ok(element.body),
        _ => Err(DerError::Value),
    }
}

/// One element with these contents.
pub(crate) fn encode(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + 6);
    out.push(tag);
    push_length(&mut out, body.len());
    out.extend_from_slice(body);
    out
}

/// One element whose contents are these parts, one after the other.
pub(crate) fn encode_all(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length = parts.iter().map(|part| part.len()).sum();
    let mut out = Vec::with_capacity(length + 6);
    out.push(tag);
    push_length(&mut out, length);
    for part in parts {
        out.extend_from_slice(part);
    }
    out
}

/// A BIT STRING without unused bits.
pub(crate) fn bit_string(bits: &[u8]) -> Vec<u8> {
    encode_all(BIT_STRING, &[&[0], bits])
}

/// An INTEGER from an unsigned big-endian magnitude.
#[cfg(any(test, feature = "issue"))]
pub(crate) fn unsigned(magnitude: &[u8]) -> Vec<u8> {
    let significant = magnitude.iter().position(|byte| *byte != 0);
    let digits = significant.and_then(|at| magnitude.get(at..)).unwrap_or(&[0]);
    match digits.first() {
        Some(first) if first & 0x80 != 0 => encode_all(INTEGER, &[&[0], digits]),
        _ => encode(INTEGER, digits),
    }
}

fn push_length(out: &mut Vec<u8>, length: usize) {
    let bytes = length.to_be_bytes();
    if length < 0x80 {
        out.extend(bytes.last());
        return;
    }
    let skip = bytes.iter().take_while(|byte| **byte == 0).count();
    let digits = bytes.get(skip..).unwrap_or_default();
    // At most eight digits, so the count fits beside the flag.
    out.push(0x80 | u8::try_from(digits.len()).unwrap_or(8));
    out.extend_from_slice(digits);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back_at_every_length_boundary() {
        for length in [0, 1, 0x7f, 0x80, 0xff, 0x100, 0xffff, 0x1_0000] {
            let body = vec![0x2a; length];
            let bytes = encode(OCTET_STRING, &body);
            assert_eq!(single(&bytes, OCTET_STRING).unwrap().body, body, "length {length}");
        }
    }

    #[test]
    fn what_follows_an_element_is_trailing_and_what_lacks_is_truncated() {
        assert_eq!(single(&[0x05, 0x00, 0x00], 0x05), Err(DerError::Trailing));
        assert_eq!(single(&[0x04, 0x02, 0x00], OCTET_STRING), Err(DerError::Truncated));
        assert_eq!(single(&[], OCTET_STRING), Err(DerError::Truncated));
        assert_eq!(single(&[0x05, 0x00], OCTET_STRING), Err(DerError::Tag));
    }

    #[test]
    fn integers_keep_their_sign_and_lose_their_padding() {
        assert_eq!(unsigned(&[0, 0, 0x80]), [0x02, 2, 0, 0x80]);
        assert_eq!(unsigned(&[0, 0x7f]), [0x02, 1, 0x7f]);
        assert_eq!(unsigned(&[0, 0]), [0x02, 1, 0]);
        let element = single(&[0x02, 2, 0, 0x80], INTEGER).unwrap();
        assert_eq!(positive(&element), Ok(&[0x80][..]));
    }
}
