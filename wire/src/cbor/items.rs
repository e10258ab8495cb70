//! The encodings of what records are made of: numbers, texts, byte strings, lists, digests, instants, ids.

use super::{Cbor, CborError, Reader, Writer, read_exact};
use crate::digest::Sha256Digest;
use crate::id::{
    AssetId, DeviceId, OperatorId, OrderId, ReportId, RequestId, TokenId, TrustDomain, WarrantId,
};
use crate::time::Timestamp;

impl Cbor for u64 {
    fn write(&self, out: &mut Writer) {
        out.unsigned(*self);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, CborError> {
        input.unsigned()
    }
}

impl Cbor for u32 {
    fn write(&self, out: &mut Writer) {
        out.unsigned(u64::from(*self));
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, CborError> {
        Self::try_from(input.unsigned()?).map_err(|_| CborError::Value { field: "number of 32 bits" })
    }
}

impl Cbor for i64 {
    fn write(&self, out: &mut Writer) {
        out.signed(*self);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, CborError> {
        input.signed()
    }
}

impl Cbor for bool {
    fn write(&self, out: &mut Writer) {
        out.boolean(*self);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, CborError> {
        input.boolean()
    }
}

impl Cbor for String {
    fn write(&self, out: &mut Writer) {
        out.text(self);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, CborError> {
        Ok(input.text()?.to_owned())
    }
}

/// A byte string; `u8` itself is no [`Cbor`].
impl Cbor for Vec<u8> {
    fn write(&self, out: &mut Writer) {
        out.bytes(self);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, CborError> {
        Ok(input.bytes()?.to_vec())
    }
}

impl<T: Cbor> Cbor for Vec<T> {
    fn write(&self, out: &mut Writer) {
        out.array(u64::try_from(self.len()).unwrap_or(u64::MAX));
        for item in self {
            item.write(out);
        }
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, CborError> {
        let len = input.open_array()?;
        (0..len).map(|_| T::read(input)).collect()
    }
}

impl<T: Cbor> Cbor for Option<T> {
    fn write(&self, out: &mut Writer) {
        match self {
            Some(value) => value.write(out),
            None => out.null(),
        }
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, CborError> {
        if input.take_null()? { Ok(None) } else { T::read(input).map(Some) }
    }
}

impl Cbor for Sha256Digest {
    fn write(&self, out: &mut Writer) {
        out.bytes(self.as_bytes());
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, CborError> {
        read_exact(input, "SHA-256 digest").map(Self)
    }
}

/// Seconds since 1970 as a plain number.
impl Cbor for Timestamp {
    fn write(&self, out: &mut Writer) {
        out.signed(self.seconds());
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, CborError> {
        input.signed().map(Self)
    }
}

impl Cbor for TrustDomain {
    fn write(&self, out: &mut Writer) {
        out.text(self.as_str());
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, CborError> {
        input.text()?.parse().map_err(|_| CborError::Value { field: "trust domain" })
    }
}

macro_rules! ids {
    ($($name:ident)+) => {
        $(
            impl Cbor for $name {
                fn write(&self, out: &mut Writer) {
                    out.bytes(self.as_bytes());
                }

                fn read(input: &mut Reader<'_>) -> Result<Self, CborError> {
                    read_exact(input, stringify!($name)).map(Self::from_bytes)
                }
            }
        )+
    };
}

ids! { AssetId DeviceId OperatorId OrderId ReportId RequestId TokenId WarrantId }
