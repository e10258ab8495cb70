//! What `muster audit verify` reads and says; the judgement itself is [`crate::audit::verify`]'s, which needs no
//! server and believes nothing but the key.

use super::Context;
use super::error::Error;
use super::output::Reader;
use super::table::{Column, column};
use crate::audit::verify::{Known, PinnedKey, Report, holds_log, verify};
use muster_wire::digest::Sha256Digest;
use muster_wire::problem::Exit;
use serde_json::json;
use std::path::Path;

const REPORT: &[Column] = &[
    column("entries", "/size"),
    column("root", "/root_sha256"),
    column("key", "/key"),
    column("authority", "/authority_sha256"),
];

/// Verifies the export in `directory`, with the key in the file `key` and the digest of the first authority document,
/// where they are named.
///
/// # Errors
/// [`Error::NotFound`] when there is no such directory, [`Error::Usage`] for a file that is no audit key,
/// [`Error::File`] when the key cannot be read. A log that does not hold is no error: it is the report.
pub fn judge(directory: &Path, key: Option<&Path>, authority: Option<Sha256Digest>) -> Result<Report, Error> {
    let pinned = key.map(read_key).transpose()?;
    if !directory.is_dir() {
        return Err(Error::not_found(
            format!("{} is no directory", directory.display()),
            "Name the directory that `muster audit export DIR` wrote.",
        ));
    }
    if !holds_log(directory) {
        return Err(Error::not_found(
            format!("{} holds no audit log: neither checkpoint nor tiles", directory.display()),
            "Name the directory that `muster audit export DIR` wrote.",
        ));
    }
    Ok(verify(directory, Known { key: pinned.as_ref(), earlier: None, authority }))
}

fn read_key(file: &Path) -> Result<PinnedKey, Error> {
    let text = std::fs::read_to_string(file).map_err(Error::file("read", file))?;
    PinnedKey::parse(&text).map_err(|cause| {
        Error::usage(
            format!("{} cannot be used: {cause}", file.display()),
            "Give the audit.vkey that the server's people published, or the key as PEM.",
        )
    })
}

/// Prints the report, and answers the exit code it comes to.
///
/// # Errors
/// [`Error::Output`] when standard output cannot be written.
pub fn print(context: &Context, report: &Report) -> Result<Exit, Error> {
    let exit = if report.ok { Exit::Done } else { Exit::Failed };
    let shown = json!(report);
    if context.out.reader == Reader::Program {
        context.out.json(&shown)?;
        return Ok(exit);
    }
    context.out.item(&shown, REPORT)?;
    if report.ok {
        context.out.line("Every entry, tile and signature holds.")?;
        if !report.key_is_pinned {
            context.out.notice(
                "The key came with the log: compare the authority's digest with what `muster init` printed, or give it with \
                 --authority, or the key with --key.",
            );
        }
        return Ok(exit);
    }
    let place = report.first_bad.map(|seq| format!(" (entry {seq})")).unwrap_or_default();
    let what = report.problem.as_deref().unwrap_or("something does not hold");
    Err(Error::failed(
        format!("The log does not hold{place}: {what}"),
        "Keep these files, compare them with an earlier export, and find out who could write to them.",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_is_not_there_is_not_found() {
        assert_eq!(judge(Path::new("/nonexistent/export"), None, None).unwrap_err().exit() as u8, 4);
    }

    #[test]
    fn a_directory_without_a_log_is_not_suspected_of_a_bad_one() {
        let directory = tempfile::TempDir::new().unwrap();
        let error = judge(directory.path(), None, None).unwrap_err();
        assert_eq!(error.exit() as u8, 4);
        assert!(!error.remedy().contains("who could write"), "{}", error.remedy());
    }

    #[test]
    fn a_checkpoint_that_is_none_is_a_log_that_does_not_hold() {
        let directory = tempfile::TempDir::new().unwrap();
        std::fs::write(directory.path().join("checkpoint"), "nothing").unwrap();
        let report = judge(directory.path(), None, None).unwrap();
        assert!(!report.ok && report.problem.is_some());
    }

    #[test]
    fn a_file_that_is_no_key_is_a_mistake_of_the_caller() {
        let directory = tempfile::TempDir::new().unwrap();
        let file = directory.path().join("key");
        std::fs::write(&file, "hello").unwrap();
        assert_eq!(judge(directory.path(), Some(&file), None).unwrap_err().exit() as u8, 2);
    }
}
