//! The journal: what happened on this device, append-only, one checked line per record.
//!
//! ```text
//! <16 hex digits> <record in JSON>\n
//! ```
//! The digits are the first eight bytes of SHA-256 over the former line's digits and the record, so that a line
//! that was changed, lost, moved or repeated is noticed. A record is durable before it is acted on.
//!
//! * A crash while appending leaves a torn **last** line. It was never acted on: it is cut off and forgotten.
//! * A bad line with another line after it was durable once. That is damage, not a crash, and nothing is guessed:
//!   the agent stops and says what to do.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::files::{self, FileError, Operation};
use crate::core::record::Record;

/// Beyond this a journal is not one of ours: a record is some 400 bytes and there is one per renewal.
const CAP: usize = 16 << 20;

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// A line before the last one is not what was written.
    #[error("the journal {} is damaged at line {line}", path.display())]
    Damaged {
        /// The journal.
        path: PathBuf,
        /// The first bad line, counted from one.
        line: usize,
    },
    /// A sound line says something that this agent does not understand.
    #[error("line {line} of the journal {} was written by a newer muster-agent", path.display())]
    Newer {
        /// The journal.
        path: PathBuf,
        /// The line, counted from one.
        line: usize,
        /// What was not understood.
        #[source]
        source: serde_json::Error,
    },
    /// A record could not be put into words.
    #[error("cannot write a journal record")]
    Encode(#[source] serde_json::Error),
    /// The file system refused.
    #[error(transparent)]
    File(#[from] FileError),
}

/// What a journal holds, as far as it is sound.
#[derive(Debug, Default)]
pub struct Contents {
    /// The records, oldest first.
    pub records: Vec<Record>,
    /// How many bytes they take; what lies beyond is torn.
    pub sound_len: usize,
    /// How many bytes lie beyond.
    pub torn_len: usize,
    /// The digits of the last line.
    link: String,
}

/// An open journal, to append to. There must be no other: hold the [`super::lock::Lock`].
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    link: String,
}

/// Reads the journal at `path` without changing it; a missing one is empty.
///
/// # Errors
/// [`JournalError::Damaged`] and [`JournalError::Newer`] as their variants say.
pub fn read(path: &Path) -> Result<Contents, JournalError> {
    let bytes = files::read(path, CAP)?.unwrap_or_default();
    let mut contents = Contents::default();
    let mut rest: &[u8] = &bytes;
    while !rest.is_empty() {
        let line = contents.records.len() + 1;
        let end = rest.iter().position(|byte| *byte == b'\n');
        let (text, after) = match end {
            Some(end) => (rest.get(..end).unwrap_or_default(), rest.get(end + 1..).unwrap_or_default()),
            None => (rest, &[][..]),
        };
        let Some(json) = end.and_then(|_| checked(&contents.link, text)) else {
            if !after.is_empty() {
                return Err(JournalError::Damaged { path: path.to_owned(), line });
            }
            contents.torn_len = rest.len();
            break;
        };
        let record = serde_json::from_str(json).map_err(|source| JournalError::Newer {
            path: path.to_owned(),
            line,
            source,
        })?;
        contents.records.push(record);
        contents.link = link(&contents.link, json);
        contents.sound_len += text.len() + 1;
        rest = after;
    }
    Ok(contents)
}

impl Journal {
    /// Opens the journal at `path`, making it when it is missing, and cuts off a torn end.
    ///
    /// # Errors
    /// As [`read`], and [`JournalError::File`] when it cannot be written.
    pub fn open(path: &Path) -> Result<(Self, Vec<Record>), JournalError> {
        let contents = read(path)?;
        let on = |source| FileError { operation: Operation::Write, path: path.to_owned(), source };
        let is_new = !path.exists();
        let mut options = files::unlinked();
        let mut file = options.write(true).create(true).truncate(false).mode(0o600).open(path).map_err(on)?;
        let sound_len = u64::try_from(contents.sound_len).unwrap_or(u64::MAX);
        if contents.torn_len > 0 {
            file.set_len(sound_len).and_then(|()| file.sync_all()).map_err(on)?;
        }
        file.seek(SeekFrom::Start(sound_len)).map_err(on)?;
        if is_new {
            files::sync_dir(path.parent().unwrap_or(Path::new(".")))?;
        }
        Ok((Self { path: path.to_owned(), file, link: contents.link }, contents.records))
    }

    /// Appends `record`; it is durable on return.
    ///
    /// # Errors
    /// [`JournalError::File`]: what reached the disk is then unknown, so open the journal again before going on.
    pub fn append(&mut self, record: &Record) -> Result<(), JournalError> {
        let json = serde_json::to_string(record).map_err(JournalError::Encode)?;
        let next = link(&self.link, &json);
        let line = format!("{next} {json}\n");
        self.file
            .write_all(line.as_bytes())
            .and_then(|()| self.file.sync_data())
            .map_err(|source| FileError { operation: Operation::Write, path: self.path.clone(), source })?;
        self.link = next;
        Ok(())
    }
}

impl JournalError {
    /// What the person at the device should do.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Damaged { .. } => {
                "restore it from a backup; or, to give this enrolment up, move the state directory aside, \
                 deprovision the device at the server and enrol with a new string"
            }
            Self::Newer { .. } => "install that version again; this one will not guess",
            Self::Encode(_) => "report this as a fault of muster-agent",
            Self::File(error) => error.remedy(),
        }
    }
}

/// The JSON of `line`, when its digits follow from `former`.
fn checked<'a>(former: &str, line: &'a [u8]) -> Option<&'a str> {
    let (digits, json) = std::str::from_utf8(line).ok()?.split_once(' ')?;
    (link(former, json) == digits).then_some(json)
}

fn link(former: &str, json: &str) -> String {
    let digest = Sha256::new().chain_update(former).chain_update(b" ").chain_update(json).finalize();
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use muster_wire::digest::Sha256Digest;
    use muster_wire::id::DeviceId;
    use muster_wire::time::Timestamp;

    use super::*;
    use crate::core::record::Proven;

    fn record(n: u8) -> Record {
        Record::Proven(Proven {
            certificate: Sha256Digest::of(&[n]),
            device: DeviceId::from_parts(1, [n; 10]),
            state: "commissioning".to_owned(),
            mqtt: None,
            at: Timestamp(i64::from(n)),
        })
    }

    fn three(dir: &Path) -> PathBuf {
        let path = dir.join("journal");
        let (mut journal, _) = Journal::open(&path).unwrap();
        (1..=3).for_each(|n| journal.append(&record(n)).unwrap());
        path
    }

    #[test]
    fn records_come_back_in_their_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = three(dir.path());
        assert_eq!(read(&path).unwrap().records, [record(1), record(2), record(3)]);
    }

    #[test]
    fn a_journal_cut_anywhere_keeps_the_whole_records_and_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = three(dir.path());
        let whole = fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let kept = whole[..cut].iter().filter(|byte| **byte == b'\n').count();
            let (mut journal, records) = Journal::open(&path).unwrap();
            assert_eq!(records.len(), kept, "cut at {cut}");
            journal.append(&record(9)).unwrap();
            let again = read(&path).unwrap();
            assert_eq!((again.records.len(), again.torn_len), (kept + 1, 0), "cut at {cut}");
        }
    }

    #[test]
    fn a_changed_byte_in_the_middle_is_damage() {
        let dir = tempfile::tempdir().unwrap();
        let path = three(dir.path());
        let whole = fs::read(&path).unwrap();
        let last_line = whole[..whole.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap();
        for position in 0..last_line {
            let mut changed = whole.clone();
            changed[position] ^= 1;
            fs::write(&path, &changed).unwrap();
            assert!(matches!(read(&path), Err(JournalError::Damaged { .. })), "byte {position}");
        }
    }

    #[test]
    fn a_line_taken_out_of_the_middle_is_damage() {
        let dir = tempfile::tempdir().unwrap();
        let path = three(dir.path());
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        fs::write(&path, format!("{}\n{}\n{}\n", lines[0], lines[2], lines[2])).unwrap();
        assert!(matches!(read(&path), Err(JournalError::Damaged { line: 2, .. })));
    }

    #[test]
    fn a_sound_line_of_an_unknown_kind_is_left_to_a_newer_agent() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let json = r#"{"record":"teleported"}"#;
        fs::write(&path, format!("{} {json}\n", link("", json))).unwrap();
        assert!(matches!(read(&path), Err(JournalError::Newer { line: 1, .. })));
    }

    #[test]
    fn zeroes_after_the_last_record_are_a_torn_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = three(dir.path());
        let mut bytes = fs::read(&path).unwrap();
        bytes.extend([0; 512]);
        fs::write(&path, bytes).unwrap();
        let contents = read(&path).unwrap();
        assert_eq!((contents.records.len(), contents.torn_len), (3, 512));
    }
}
