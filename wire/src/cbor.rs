//! Deterministic CBOR arrays: the bytes of every document.
//!
//! A record is a CBOR array of its fields in their written order (RFC 8949 §4.2.1: definite lengths, shortest
//! forms); a document is a record whose first element is its schema version. There are no maps, no floats and
//! no tags. [`decode`] refuses whatever does not encode back to the very same bytes, so a document has one
//! encoding, and neither the decoder's leniency nor an unknown field can hide anything beneath a signature.

mod declare;
mod items;

use minicbor::data::Type;
use std::convert::Infallible;

pub(crate) use declare::{document, record, words};

/// The schema version every document carries first.
pub const SCHEMA: u64 = 1;

/// Why bytes are no document.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CborError {
    /// Not the CBOR that was expected at this place.
    #[error("not the CBOR expected here")]
    Syntax(#[source] minicbor::decode::Error),
    /// An array of another length, or of indefinite length.
    #[error("an array of {expected} elements was expected")]
    Length {
        /// How many were expected.
        expected: u64,
    },
    /// A schema version that this build does not know.
    #[error("schema version {found} is not known")]
    Schema {
        /// The version found.
        found: u64,
    },
    /// A value outside what this field allows.
    #[error("a value is not allowed in field {field}")]
    Value {
        /// What the field is for.
        field: &'static str,
    },
    /// Well-formed, but not the one encoding this content has, or followed by more bytes.
    #[error("not the deterministic encoding of its content")]
    NotDeterministic,
}

impl From<minicbor::decode::Error> for CborError {
    fn from(error: minicbor::decode::Error) -> Self {
        Self::Syntax(error)
    }
}

/// Writes deterministic CBOR into memory.
#[derive(Debug)]
pub struct Writer(minicbor::Encoder<Vec<u8>>);

/// The encoder's answer, which memory cannot make an error.
type Written<'a> = Result<&'a mut minicbor::Encoder<Vec<u8>>, minicbor::encode::Error<Infallible>>;

impl Writer {
    /// A writer with nothing written.
    pub fn new() -> Self {
        Self(minicbor::Encoder::new(Vec::new()))
    }

    /// What was written.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0.into_writer()
    }

    /// Opens an array of `len` elements, which must follow.
    pub fn array(&mut self, len: u64) {
        done(&self.0.array(len));
    }

    /// Opens a map of `len` entries, which must follow in order.
    pub(crate) fn map(&mut self, len: u64) {
        done(&self.0.map(len));
    }

    /// Writes a tag, whose content must follow.
    pub(crate) fn tag(&mut self, tag: u64) {
        done(&self.0.tag(minicbor::data::Tag::new(tag)));
    }

    /// Writes an unsigned number.
    pub fn unsigned(&mut self, value: u64) {
        done(&self.0.u64(value));
    }

    /// Writes a signed number.
    pub fn signed(&mut self, value: i64) {
        done(&self.0.i64(value));
    }

    /// Writes a truth value.
    pub fn boolean(&mut self, value: bool) {
        done(&self.0.bool(value));
    }

    /// Writes null.
    pub fn null(&mut self) {
        done(&self.0.null());
    }

    /// Writes a byte string.
    pub fn bytes(&mut self, value: &[u8]) {
        done(&self.0.bytes(value));
    }

    /// Writes a text string.
    pub fn text(&mut self, value: &str) {
        done(&self.0.str(value));
    }
}

impl Default for Writer {
    fn default() -> Self {
        Self::new()
    }
}

/// Writing into memory cannot fail and the encoder adds no error of its own for plain items.
fn done(written: &Written<'_>) {
    debug_assert!(written.is_ok(), "encoding into memory failed");
}

/// Reads CBOR from bytes that nobody vouches for.
#[derive(Debug)]
pub struct Reader<'b>(minicbor::Decoder<'b>);

impl<'b> Reader<'b> {
    /// A reader at the beginning of `bytes`.
    pub fn new(bytes: &'b [u8]) -> Self {
        Self(minicbor::Decoder::new(bytes))
    }

    /// Whether everything was read.
    pub fn is_at_end(&self) -> bool {
        self.0.position() == self.0.input().len()
    }

    fn remaining(&self) -> u64 {
        let left = self.0.input().len().saturating_sub(self.0.position());
        u64::try_from(left).unwrap_or(u64::MAX)
    }

    /// Opens an array of exactly `expected` elements.
    ///
    /// # Errors
    /// [`CborError::Length`] for another or an indefinite length, [`CborError::Syntax`] for anything else.
    pub fn array(&mut self, expected: u64) -> Result<(), CborError> {
        if self.0.array()? == Some(expected) { Ok(()) } else { Err(CborError::Length { expected }) }
    }

    /// Opens an array of any definite length that the remaining bytes can hold, and answers the length.
    ///
    /// # Errors
    /// [`CborError::Length`] when it is indefinite or cannot be there, [`CborError::Syntax`] otherwise.
    pub fn open_array(&mut self) -> Result<u64, CborError> {
        let len = self.0.array()?.ok_or(CborError::Length { expected: 0 })?;
        // Every element takes a byte at least: a lying length is found before memory is spent on it.
        if len > self.remaining() { Err(CborError::Length { expected: len }) } else { Ok(len) }
    }

    /// Opens a map of any definite length and answers the number of entries.
    pub(crate) fn open_map(&mut self) -> Result<u64, CborError> {
        self.0.map()?.ok_or(CborError::Length { expected: 0 })
    }

    /// Reads the tag `expected`.
    pub(crate) fn tag(&mut self, expected: u64) -> Result<(), CborError> {
        if self.0.tag()?.as_u64() == expected { Ok(()) } else { Err(CborError::Value { field: "tag" }) }
    }

    /// Skips one item and answers its bytes.
    pub(crate) fn raw(&mut self) -> Result<&'b [u8], CborError> {
        let start = self.0.position();
        self.0.skip()?;
        self.0.input().get(start..self.0.position()).ok_or(CborError::NotDeterministic)
    }

    /// Reads an unsigned number.
    ///
    /// # Errors
    /// [`CborError::Syntax`] for anything else.
    pub fn unsigned(&mut self) -> Result<u64, CborError> {
        Ok(self.0.u64()?)
    }

    /// Reads a signed number.
    ///
    /// # Errors
    /// [`CborError::Syntax`] for anything else.
    pub fn signed(&mut self) -> Result<i64, CborError> {
        Ok(self.0.i64()?)
    }

    /// Reads a truth value.
    ///
    /// # Errors
    /// [`CborError::Syntax`] for anything else.
    pub fn boolean(&mut self) -> Result<bool, CborError> {
        Ok(self.0.bool()?)
    }

    /// Reads a byte string of definite length.
    ///
    /// # Errors
    /// [`CborError::Syntax`] for anything else.
    pub fn bytes(&mut self) -> Result<&'b [u8], CborError> {
        Ok(self.0.bytes()?)
    }

    /// Reads a text string of definite length.
    ///
    /// # Errors
    /// [`CborError::Syntax`] for anything else.
    pub fn text(&mut self) -> Result<&'b str, CborError> {
        Ok(self.0.str()?)
    }

    /// What kind of item comes next.
    ///
    /// # Errors
    /// [`CborError::Syntax`] at the end, or before a byte that begins nothing.
    pub fn next_type(&self) -> Result<Type, CborError> {
        Ok(self.0.datatype()?)
    }

    /// Reads null if it comes next, and tells whether it did.
    ///
    /// # Errors
    /// As [`Reader::next_type`].
    pub fn take_null(&mut self) -> Result<bool, CborError> {
        let is_null = self.next_type()? == Type::Null;
        if is_null {
            self.0.null()?;
        }
        Ok(is_null)
    }
}

/// Something with one encoding.
pub trait Cbor: Sized {
    /// Appends the encoding.
    fn write(&self, out: &mut Writer);

    /// Reads one value, possibly more leniently than [`Cbor::write`] writes; [`decode`] compares.
    ///
    /// # Errors
    /// Whatever is found first; see [`CborError`].
    fn read(input: &mut Reader<'_>) -> Result<Self, CborError>;
}

/// A document of `authority.md`'s table: it may be signed, and has a schema version, a name and a limit.
pub trait Document: Cbor {
    /// The name in `muster/<name>/v1`, which every signature over it covers.
    const NAME: &'static str;

    /// No larger message is looked at, in bytes, signatures included.
    const MAX_BYTES: usize;
}

/// The one encoding of `value`.
pub fn encode<T: Cbor>(value: &T) -> Vec<u8> {
    let mut out = Writer::new();
    value.write(&mut out);
    out.into_bytes()
}

/// Reads `bytes`, which must be the one encoding of the answer. Nothing is verified by this.
///
/// # Errors
/// See [`CborError`]; [`CborError::NotDeterministic`] when another encoding, or more, was given.
pub fn decode<T: Cbor>(bytes: &[u8]) -> Result<T, CborError> {
    let mut input = Reader::new(bytes);
    let value = T::read(&mut input)?;
    if input.is_at_end() && encode(&value) == bytes { Ok(value) } else { Err(CborError::NotDeterministic) }
}

/// Opens a document of `expected` elements and reads its schema version.
///
/// The version is judged first: another version may well have another number of fields.
pub(crate) fn open_document(input: &mut Reader<'_>, expected: u64) -> Result<(), CborError> {
    let len = input.open_array()?;
    let found = if len == 0 { SCHEMA } else { input.unsigned()? };
    if found != SCHEMA {
        return Err(CborError::Schema { found });
    }
    if len == expected { Ok(()) } else { Err(CborError::Length { expected }) }
}

/// Reads a byte string of exactly `N` bytes; `field` is named when it has another length.
pub(crate) fn read_exact<const N: usize>(
    input: &mut Reader<'_>,
    field: &'static str,
) -> Result<[u8; N], CborError> {
    input.bytes()?.try_into().map_err(|_| CborError::Value { field })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Sample {
        number: u64,
        name: Option<String>,
        blob: Vec<u8>,
    }
    document!(Sample, "sample", 100, SignedOnce, { number, name, blob });

    const BYTES: [u8; 8] = [0x84, 0x01, 0x05, 0x61, b'x', 0x42, 0xaa, 0xbb];

    fn sample() -> Sample {
        Sample { number: 5, name: Some("x".into()), blob: vec![0xaa, 0xbb] }
    }

    #[test]
    fn a_document_is_an_array_with_its_schema_first() {
        assert_eq!(encode(&sample()), BYTES);
        assert_eq!(decode::<Sample>(&BYTES).unwrap(), sample());
    }

    #[test]
    fn another_encoding_of_the_same_content_is_refused() {
        for bytes in [
            &[0x84, 0x01, 0x18, 0x05, 0x61, b'x', 0x42, 0xaa, 0xbb][..],
            &[0x98, 0x04, 0x01, 0x05, 0x61, b'x', 0x42, 0xaa, 0xbb],
            &[0x84, 0x01, 0x05, 0x78, 0x01, b'x', 0x42, 0xaa, 0xbb],
            &[0x84, 0x01, 0x05, 0x61, b'x', 0x42, 0xaa, 0xbb, 0x00],
        ] {
            assert!(matches!(decode::<Sample>(bytes), Err(CborError::NotDeterministic)), "{bytes:x?}");
        }
    }

    #[test]
    fn indefinite_lengths_are_refused() {
        for bytes in [
            &[0x9f, 0x01, 0x05, 0x61, b'x', 0x42, 0xaa, 0xbb, 0xff][..],
            &[0x84, 0x01, 0x05, 0x7f, 0x61, b'x', 0xff, 0x42, 0xaa, 0xbb],
            &[0x84, 0x01, 0x05, 0x61, b'x', 0x5f, 0x42, 0xaa, 0xbb, 0xff],
        ] {
            assert!(decode::<Sample>(bytes).is_err(), "{bytes:x?}");
        }
    }

    #[test]
    fn an_unknown_schema_is_named_whatever_follows() {
        let found = decode::<Sample>(&[0x82, 0x02, 0x05]).unwrap_err();
        assert!(matches!(found, CborError::Schema { found: 2 }), "{found:?}");
        let short = decode::<Sample>(&[0x82, 0x01, 0x05]).unwrap_err();
        assert!(matches!(short, CborError::Length { expected: 4 }), "{short:?}");
    }

    #[test]
    fn a_lying_length_costs_no_memory() {
        let bytes = [0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        assert!(matches!(decode::<Vec<u64>>(&bytes), Err(CborError::Length { .. })));
    }
}
