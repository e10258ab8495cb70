//! What the programs write to their standard errors: kept, and searched for panics.

use std::collections::HashMap;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

/// A file of a program that begins anew with each of its lives, and how far it was read.
#[derive(Debug)]
pub(super) struct Logs {
    archive: PathBuf,
    read: HashMap<PathBuf, u64>,
}

impl Logs {
    /// Everything that is read goes to files in `archive`, too.
    pub(super) fn kept_in(archive: &Path) -> Self {
        std::fs::create_dir_all(archive).expect("the archive can be made");
        Self { archive: archive.to_owned(), read: HashMap::new() }
    }

    /// Reads what is new in `log` of the program `name`; answers the lines that tell of a panic.
    pub(super) fn read(&mut self, name: &str, log: &Path) -> Vec<String> {
        let Ok(mut file) = std::fs::File::open(log) else { return Vec::new() };
        let length = file.metadata().map_or(0, |metadata| metadata.len());
        let from = self.read.entry(log.to_owned()).or_default();
        if length < *from {
            *from = 0;
        }
        let mut bytes = Vec::new();
        let found =
            file.seek(SeekFrom::Start(*from)).and_then(|_| file.take(length - *from).read_to_end(&mut bytes));
        if found.is_err() {
            return Vec::new();
        }
        // Half a line is read again when it is whole.
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        *from += whole as u64;
        self.keep(name, &bytes[..whole]);
        let text = String::from_utf8_lossy(&bytes[..whole]);
        let told = text.lines().filter(|line| line.contains("panicked"));
        told.map(|line| format!("{name}: {line}")).collect()
    }

    /// Forgets how far `log` was read: the next life of its program begins it anew.
    pub(super) fn begins_anew(&mut self, log: &Path) {
        self.read.remove(log);
    }

    fn keep(&self, name: &str, bytes: &[u8]) {
        let file = self.archive.join(format!("{name}.log"));
        let kept = std::fs::OpenOptions::new().create(true).append(true).open(file);
        // A full disk must not end the run: the programs' own promises are what is looked at.
        let _ = kept.and_then(|mut kept| kept.write_all(bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_told_once_also_in_a_log_that_began_anew() {
        let directory = tempfile::tempdir().unwrap();
        let (log, archive) = (directory.path().join("log"), directory.path().join("archive"));
        let mut logs = Logs::kept_in(&archive);
        std::fs::write(&log, "fine\nthread 'main' panicked at x\nhalf a li").unwrap();
        assert_eq!(logs.read("server", &log), ["server: thread 'main' panicked at x"]);
        assert_eq!(logs.read("server", &log), [""; 0]);
        std::fs::write(&log, "thread 'b' panicked at y\nmuch longer than the log before it was begun anew\n")
            .unwrap();
        logs.begins_anew(&log);
        assert_eq!(logs.read("server", &log).len(), 1);
        let kept = std::fs::read_to_string(archive.join("server.log")).unwrap();
        assert!(kept.starts_with("fine\n") && kept.ends_with("anew\n"), "{kept}");
    }
}
