//! Where a list goes on: a cursor that is good for the list and the filter that gave it, and for nothing else.
//!
//! `base64url(seal ‖ place)`. Without the seal the cursor of another list, or one that somebody made up, would be
//! answered with entries that nobody asked for.

use super::problem::HttpError;
use crate::app::{App, SEAL_BYTES};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// A list as it was asked for: its path, and what it is filtered by.
#[derive(Debug)]
pub(super) struct List<'a> {
    /// The path.
    pub(super) path: &'static str,
    /// Value of each filter it has, always in the same order.
    pub(super) filter: &'a [Option<&'a str>],
}

impl List<'_> {
    /// The place that `cursor` names in this list.
    ///
    /// # Errors
    /// [`HttpError::Malformed`] for a cursor that this list, filtered so, did not give.
    pub(super) fn place(&self, app: &App, cursor: Option<&str>) -> Result<Option<Vec<u8>>, HttpError> {
        let Some(cursor) = cursor else { return Ok(None) };
        let bytes = URL_SAFE_NO_PAD.decode(cursor).unwrap_or_default();
        match bytes.split_at_checked(SEAL_BYTES) {
            Some((seal, place)) if seal == self.seal(app, place) => Ok(Some(place.to_vec())),
            _ => Err(HttpError::Malformed {
                part: "cursor",
                expected: "must be the `next` of this list, asked with the same filters".to_owned(),
            }),
        }
    }

    /// The cursor that names `place` in this list.
    pub(super) fn cursor(&self, app: &App, place: Option<&[u8]>) -> Option<String> {
        place.map(|place| URL_SAFE_NO_PAD.encode([&self.seal(app, place), place].concat()))
    }

    fn seal(&self, app: &App, place: &[u8]) -> [u8; SEAL_BYTES] {
        // An absent filter is not an empty one.
        let filter = self.filter.iter().flat_map(|value| match value {
            Some(value) => [b"=".as_slice(), value.as_bytes()],
            None => [b"".as_slice(), b"".as_slice()],
        });
        app.seal([place, self.path.as_bytes()].into_iter().chain(filter))
    }
}
