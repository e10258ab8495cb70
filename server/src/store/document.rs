//! Documents above the cap of a record, kept as chunks that are written in one batch.

use super::{Batch, ReadError, Store};

impl Store {
    /// Adds to `batch` what keeps `bytes` under `key`: in the record itself when they fit, else in chunks under
    /// `key ‖ 00 ‖ ordinal`. Replaces an earlier document of any length; the batch then expects that it has not
    /// changed since. Read it with [`Store::get_document`] only.
    ///
    /// # Errors
    /// [`ReadError`] when the earlier document cannot be read.
    pub fn put_document(&self, batch: &mut Batch, key: &[u8], bytes: &[u8]) -> Result<(), ReadError> {
        let _ = (batch, key, bytes);
        unimplemented!()
    }

    /// The document under `key`, and the version that wrote it.
    ///
    /// # Errors
    /// [`ReadError`]; `TornDocument` when chunks are missing.
    pub fn get_document(&self, key: &[u8]) -> Result<Option<super::Versioned>, ReadError> {
        let _ = key;
        unimplemented!()
    }
}
