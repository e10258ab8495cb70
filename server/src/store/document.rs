//! Documents above the cap of a record, kept as chunks that are written in one batch.
//!
//! The record under the document's own key is its head: `00` and the bytes themselves when they fit, else `01`
//! and their number as eight bytes. Chunks lie under `key ‖ 00 ‖ ordinal` (four bytes, from 0). All of them
//! carry the version of the batch that wrote them, which is how a reader knows that they belong together.

use super::{Batch, Expect, RECORD_CAP_BYTES, ReadError, Store, Versioned, Write};

/// Head of a document that lies in its own record.
const WHOLE: u8 = 0;

/// Head of a document in chunks.
const CHUNKED: u8 = 1;

/// Bytes in one chunk; with any key it stays below the cap of a record.
const CHUNK_BYTES: usize = 3 << 10;

/// How often a reader starts again because the document was replaced under its hands.
const READ_ATTEMPTS: usize = 16;

impl Store {
    /// Adds to `batch` what keeps `bytes` under `key`: in the record itself when they fit, else in chunks.
    ///
    /// Replaces an earlier document of any length; the batch then expects that it has not changed since, and
    /// that there is none when there was none. Read it with [`Store::get_document`] only. No other record may
    /// lie under `key ‖ 00`.
    ///
    /// # Errors
    /// [`ReadError`] when the earlier document cannot be read.
    pub fn put_document(&self, batch: &mut Batch, key: &[u8], bytes: &[u8]) -> Result<(), ReadError> {
        let before = self.get(key)?;
        let expect = before.as_ref().map_or(Expect::Absent, |head| Expect::Version(head.version));
        batch.preconditions.push((key.to_vec(), expect));
        let old_chunks = before.map_or(0, |head| chunk_count(&head.value));
        let whole = key.len() + 1 + bytes.len() <= RECORD_CAP_BYTES;
        let chunks = if whole { 0 } else { bytes.len().div_ceil(CHUNK_BYTES) };
        let head =
            if whole { head_of(WHOLE, bytes) } else { head_of(CHUNKED, &(bytes.len() as u64).to_be_bytes()) };
        batch.writes.push(Write::Put { key: key.to_vec(), value: head });
        if !whole {
            for (ordinal, chunk) in bytes.chunks(CHUNK_BYTES).enumerate() {
                batch.writes.push(Write::Put { key: chunk_key(key, ordinal), value: chunk.to_vec() });
            }
        }
        let stale = (chunks..old_chunks).map(|ordinal| Write::Delete { key: chunk_key(key, ordinal) });
        batch.writes.extend(stale);
        Ok(())
    }

    /// Adds to `batch` that the document under `key` goes with all of its chunks, if there is one; the batch then
    /// expects that it has not changed since.
    ///
    /// # Errors
    /// [`ReadError`] when it cannot be read.
    pub fn delete_document(&self, batch: &mut Batch, key: &[u8]) -> Result<(), ReadError> {
        let Some(head) = self.get(key)? else { return Ok(()) };
        batch.preconditions.push((key.to_vec(), Expect::Version(head.version)));
        batch.writes.push(Write::Delete { key: key.to_vec() });
        let chunks =
            (0..chunk_count(&head.value)).map(|ordinal| Write::Delete { key: chunk_key(key, ordinal) });
        batch.writes.extend(chunks);
        Ok(())
    }

    /// The document under `key`, and the version that wrote it.
    ///
    /// # Errors
    /// [`ReadError`]; `TornDocument` when chunks are missing.
    pub fn get_document(&self, key: &[u8]) -> Result<Option<Versioned>, ReadError> {
        for _ in 0..READ_ATTEMPTS {
            let Some(head) = self.get(key)? else { return Ok(None) };
            match head.value.split_first() {
                Some((&WHOLE, bytes)) => {
                    return Ok(Some(Versioned { version: head.version, value: bytes.to_vec() }));
                }
                Some((&CHUNKED, _)) => {
                    if let Some(value) = self.join(key, &head)? {
                        return Ok(Some(Versioned { version: head.version, value }));
                    }
                }
                _ => break,
            }
        }
        Err(ReadError::TornDocument { key: key.to_vec() })
    }

    /// The chunks of the document with this head; `None` when they are not those of the head's own batch.
    fn join(&self, key: &[u8], head: &Versioned) -> Result<Option<Vec<u8>>, ReadError> {
        let mut bytes = Vec::new();
        for ordinal in 0..chunk_count(&head.value) {
            match self.get(&chunk_key(key, ordinal))? {
                Some(chunk) if chunk.version == head.version => bytes.extend_from_slice(&chunk.value),
                _ => return Ok(None),
            }
        }
        Ok((bytes.len() == byte_count(&head.value)).then_some(bytes))
    }
}

fn head_of(kind: u8, rest: &[u8]) -> Vec<u8> {
    let mut head = Vec::with_capacity(1 + rest.len());
    head.push(kind);
    head.extend_from_slice(rest);
    head
}

fn chunk_key(key: &[u8], ordinal: usize) -> Vec<u8> {
    let ordinal = u32::try_from(ordinal).unwrap_or(u32::MAX);
    [key, &[0], &ordinal.to_be_bytes()].concat()
}

/// Length of the document in chunks with this head; 0 for every other.
fn byte_count(head: &[u8]) -> usize {
    match head.split_first() {
        Some((&CHUNKED, length)) => length
            .try_into()
            .ok()
            .and_then(|length| usize::try_from(u64::from_be_bytes(length)).ok())
            .unwrap_or(0),
        _ => 0,
    }
}

fn chunk_count(head: &[u8]) -> usize {
    byte_count(head).div_ceil(CHUNK_BYTES)
}
