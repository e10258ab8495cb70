//! The outbox on disk: `outbox/`, one file per event or receipt that the server has not confirmed.
//!
//! A file is written whole or not at all, and named by what it holds, so that writing it again is the same entry and
//! removing it twice is harmless. What cannot be read is set aside rather than sent or lost: it keeps its bytes under a
//! name that is never looked at again.

use std::fs;
use std::path::{Path, PathBuf};

use muster_wire::cbor;
use muster_wire::posture::EventReport;
use muster_wire::receipt::{Receipt, ReceiptPhase};

use super::files::{self, FileError, Operation};
use crate::core::outbox::{EntryId, Kept};

/// No entry is larger.
const CAP: usize = 64 * 1024;
/// Entries that are looked at when the agent starts; the core never keeps as many.
const MOST: usize = 256;

/// The directory.
#[derive(Clone, Debug)]
pub struct OutboxDir(PathBuf);

impl OutboxDir {
    /// The outbox beneath `state_dir`.
    pub fn new(state_dir: &Path) -> Self {
        Self(state_dir.join("outbox"))
    }

    /// What is there, oldest first: names are ids, and ids count up with time.
    ///
    /// # Errors
    /// [`FileError`] when the directory or a file cannot be read.
    pub fn read(&self) -> Result<Vec<Kept>, FileError> {
        let mut names: Vec<String> = match fs::read_dir(&self.0) {
            Ok(entries) => {
                entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => {
                return Err(FileError { operation: Operation::Read, path: self.0.clone(), source });
            }
        };
        names.sort_unstable();
        names.truncate(MOST);
        let mut kept = Vec::new();
        for name in names.iter().filter(|name| name.starts_with("event-") || name.starts_with("receipt-")) {
            let path = self.0.join(name);
            let Some(bytes) = files::read(&path, CAP)? else { continue };
            match understand(name, &bytes) {
                Some(entry) => kept.push(entry),
                None => files::rename(&path, &self.0.join(format!("unreadable-{name}")))?,
            }
        }
        Ok(kept)
    }

    /// Makes the outbox hold `kept`; it is durable on return.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn keep(&self, kept: &Kept) -> Result<(), FileError> {
        files::ensure_dir(&self.0)?;
        match self.path(kept.id()) {
            Some(path) => files::write_atomic(&path, &kept.to_bytes()),
            None => Ok(()),
        }
    }

    /// Removes an entry, if it is there.
    ///
    /// # Errors
    /// [`FileError`] when it is there and stays.
    pub fn remove(&self, id: EntryId) -> Result<(), FileError> {
        self.path(id).map_or(Ok(()), |path| files::remove(&path))
    }

    fn path(&self, id: EntryId) -> Option<PathBuf> {
        match id {
            EntryId::Event(report) => Some(self.0.join(format!("event-{report}"))),
            EntryId::Receipt(order, ReceiptPhase::Verified) => Some(self.0.join(format!("receipt-{order}"))),
            EntryId::Receipt(order, phase) => Some(self.0.join(format!("receipt-{order}-{phase}"))),
            EntryId::State(_) | EntryId::Posture(_) | EntryId::Renew(_) => None,
        }
    }
}

fn understand(name: &str, bytes: &[u8]) -> Option<Kept> {
    let kept = if name.starts_with("event-") {
        Kept::Event(cbor::decode::<EventReport>(bytes).ok()?)
    } else {
        Kept::Receipt(cbor::decode::<Receipt>(bytes).ok()?)
    };
    Some(kept)
}

#[cfg(test)]
mod tests {
    use muster_wire::id::{DeviceId, ReportId};
    use muster_wire::posture::EventKind;
    use muster_wire::time::Timestamp;

    use super::*;

    fn event(n: u64) -> Kept {
        Kept::Event(EventReport {
            device: DeviceId::from_parts(1, [1; 10]),
            id: ReportId::from_parts(n, [0; 10]),
            kind: EventKind::Refused,
            detail: n.to_string(),
            at: Timestamp(1),
        })
    }

    #[test]
    fn entries_come_back_oldest_first_until_they_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let outbox = OutboxDir::new(dir.path());
        assert_eq!(outbox.read().unwrap(), []);
        for n in [300, 100, 200] {
            outbox.keep(&event(n)).unwrap();
        }
        assert_eq!(outbox.read().unwrap(), [event(100), event(200), event(300)]);
        outbox.remove(event(200).id()).unwrap();
        outbox.remove(event(200).id()).unwrap();
        assert_eq!(outbox.read().unwrap(), [event(100), event(300)]);
    }

    #[test]
    fn what_cannot_be_read_is_set_aside_and_the_rest_is_sent() {
        let dir = tempfile::tempdir().unwrap();
        let outbox = OutboxDir::new(dir.path());
        outbox.keep(&event(1)).unwrap();
        fs::write(dir.path().join("outbox/event-0"), b"torn").unwrap();
        fs::write(dir.path().join("outbox/.event-1.new"), b"half").unwrap();
        for _ in 0..2 {
            assert_eq!(outbox.read().unwrap(), [event(1)]);
        }
        assert_eq!(fs::read(dir.path().join("outbox/unreadable-event-0")).unwrap(), b"torn");
    }
}
