//! What records were before the commits that are being written: readers see that until the sync is through.
//!
//! The writer publishes the old values *before* it lets the engine apply the new ones, and withdraws them
//! *after* the sync. A reader asks the engine first and this overlay second. So whenever the engine showed a
//! value whose sync was not through, the overlay still holds what was there before, or the sync has ended in
//! between and the value is durable.

use super::{Change, Versioned};
use std::sync::{Arc, PoisonError, RwLock};

/// The old values of the changes in flight, sorted by key.
#[derive(Debug, Default)]
pub(super) struct Overlay {
    in_flight: RwLock<Option<Arc<[Change]>>>,
}

impl Overlay {
    /// Shows readers the old values of `changes`, which are sorted by key.
    pub(super) fn publish(&self, changes: Arc<[Change]>) {
        *self.in_flight.write().unwrap_or_else(PoisonError::into_inner) = Some(changes);
    }

    /// Lets readers see what the engine has: it is durable.
    pub(super) fn withdraw(&self) {
        *self.in_flight.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// What a reader is to see for `key`, after the engine said `read`.
    pub(super) fn correct(&self, key: &[u8], read: Option<Versioned>) -> Option<Versioned> {
        let Some(changes) = self.in_flight() else { return read };
        match changes.binary_search_by(|change| change.key.as_slice().cmp(key)) {
            Ok(found) => changes.get(found).and_then(|change| change.old.clone()),
            Err(_) => read,
        }
    }

    /// What a reader is to see after the engine listed `page`: records under `prefix` and above `after`, up to
    /// the key `to`, or all that there are when `to` is `None`.
    pub(super) fn correct_page(
        &self,
        page: Vec<(Vec<u8>, Versioned)>,
        prefix: &[u8],
        after: Option<&[u8]>,
        to: Option<&[u8]>,
    ) -> Vec<(Vec<u8>, Versioned)> {
        let Some(changes) = self.in_flight() else { return page };
        let above = |key: &[u8]| key >= prefix && after.is_none_or(|after| key > after);
        let start = changes.partition_point(|change| !above(&change.key));
        let concerns = |change: &&Change| {
            change.key.starts_with(prefix) && to.is_none_or(|to| change.key.as_slice() <= to)
        };
        let old: Vec<&Change> = changes.iter().skip(start).take_while(concerns).collect();
        if old.is_empty() { page } else { merge(page, &old) }
    }

    fn in_flight(&self) -> Option<Arc<[Change]>> {
        self.in_flight.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Both sorted lists as one, the old values winning.
fn merge(page: Vec<(Vec<u8>, Versioned)>, old: &[&Change]) -> Vec<(Vec<u8>, Versioned)> {
    let mut merged = Vec::with_capacity(page.len() + old.len());
    let mut old = old.iter().peekable();
    for (key, value) in page {
        while let Some(change) = old.next_if(|change| change.key < key) {
            merged.extend(change.old.clone().map(|old| (change.key.clone(), old)));
        }
        match old.next_if(|change| change.key == key) {
            Some(change) => merged.extend(change.old.clone().map(|old| (key, old))),
            None => merged.push((key, value)),
        }
    }
    merged.extend(old.filter_map(|change| change.old.clone().map(|old| (change.key.clone(), old))));
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn versioned(version: u64) -> Versioned {
        Versioned { version, value: Vec::new() }
    }

    fn change(key: &[u8], old: Option<u64>) -> Change {
        Change { key: key.to_vec(), old: old.map(versioned), new: Some(versioned(9)) }
    }

    fn keys(page: &[(Vec<u8>, Versioned)]) -> Vec<(&[u8], u64)> {
        page.iter().map(|(key, value)| (key.as_slice(), value.version)).collect()
    }

    #[test]
    fn a_page_shows_what_was_before_the_changes_in_flight() {
        let overlay = Overlay::default();
        overlay.publish(
            [change(b"p/a", None), change(b"p/b", Some(1)), change(b"p/d", Some(2)), change(b"q", Some(3))]
                .into(),
        );
        let engine = [(b"p/a", 9), (b"p/b", 9), (b"p/c", 4)];
        let page = engine.iter().map(|(key, version)| (key.to_vec(), versioned(*version))).collect();
        let corrected = overlay.correct_page(page, b"p/", None, None);
        assert_eq!(keys(&corrected), [(b"p/b".as_slice(), 1), (b"p/c", 4), (b"p/d", 2)]);
    }

    #[test]
    fn a_page_is_corrected_only_between_its_ends() {
        let overlay = Overlay::default();
        overlay.publish([change(b"p/a", Some(1)), change(b"p/c", Some(2)), change(b"p/e", Some(3))].into());
        let page = vec![(b"p/b".to_vec(), versioned(4)), (b"p/d".to_vec(), versioned(5))];
        let corrected = overlay.correct_page(page, b"p/", Some(b"p/a"), Some(b"p/d"));
        assert_eq!(keys(&corrected), [(b"p/b".as_slice(), 4), (b"p/c", 2), (b"p/d", 5)]);
    }

    #[test]
    fn nothing_is_corrected_once_the_changes_are_durable() {
        let overlay = Overlay::default();
        overlay.publish([change(b"a", None)].into());
        assert_eq!(overlay.correct(b"a", Some(versioned(9))), None);
        overlay.withdraw();
        assert_eq!(overlay.correct(b"a", Some(versioned(9))), Some(versioned(9)));
    }
}
