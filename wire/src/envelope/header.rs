//! Protected headers: algorithm and key id, which every message has, and `crit`, which is honoured.

use super::EnvelopeError;
use crate::cbor::{self, CborError, Reader, Writer};
use crate::key::{Algorithm, KeyId, PublicKey};

pub(super) const LABEL_ALG: i64 = 1;
const LABEL_CRIT: i64 = 2;
pub(super) const LABEL_KID: i64 = 4;

/// The protected header of a signature by `key`: its algorithm and id.
pub(super) fn write_header(key: &PublicKey) -> Vec<u8> {
    let mut out = Writer::new();
    out.map(2);
    out.signed(LABEL_ALG);
    out.signed(key.algorithm().cose());
    out.signed(LABEL_KID);
    out.bytes(&key.key_id().0);
    out.into_bytes()
}

/// Algorithm and key id of a protected header; both must be there.
pub(super) fn read_header(protected: &[u8]) -> Result<(Algorithm, KeyId), EnvelopeError> {
    let header = Header::read(protected).map_err(EnvelopeError::Structure)?;
    if header.crit.is_some_and(|crit| !is_understood(crit)) {
        return Err(EnvelopeError::Critical);
    }
    let missing = |field| EnvelopeError::Structure(CborError::Value { field });
    let number = header.algorithm.ok_or_else(|| missing("algorithm"))?;
    let algorithm = Algorithm::from_cose(number).ok_or(EnvelopeError::Algorithm { found: number })?;
    Ok((algorithm, header.key_id.ok_or_else(|| missing("key id"))?))
}

/// The headers that mean something here; others pass unless they are critical.
#[derive(Default)]
struct Header<'b> {
    algorithm: Option<i64>,
    key_id: Option<KeyId>,
    crit: Option<&'b [u8]>,
}

impl<'b> Header<'b> {
    fn read(protected: &'b [u8]) -> Result<Self, CborError> {
        let mut input = Reader::new(protected);
        let mut header = Self::default();
        let mut previous: &[u8] = &[];
        for _ in 0..input.open_map()? {
            let label = input.raw()?;
            // In the order of deterministic CBOR, hence none twice (RFC 8949 §4.2.1).
            if label <= previous {
                return Err(CborError::NotDeterministic);
            }
            previous = label;
            match Reader::new(label).signed() {
                Ok(LABEL_ALG) => header.algorithm = Some(input.signed()?),
                Ok(LABEL_KID) => header.key_id = Some(cbor::Cbor::read(&mut input)?),
                Ok(LABEL_CRIT) => header.crit = Some(input.raw()?),
                Ok(_) => drop(input.raw()?),
                Err(_) => drop((Reader::new(label).text()?, input.raw()?)),
            }
        }
        if input.is_at_end() { Ok(header) } else { Err(CborError::NotDeterministic) }
    }
}

/// Whether `crit` lists something, and nothing but headers that every message here has (RFC 9052 §3.1).
fn is_understood(crit: &[u8]) -> bool {
    let labels = cbor::decode::<Vec<i64>>(crit).unwrap_or_default();
    !labels.is_empty() && labels.iter().all(|label| [LABEL_ALG, LABEL_KID].contains(label))
}
