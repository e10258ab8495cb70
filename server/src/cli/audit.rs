//! `muster audit`: the tamper-evident log, looked at, taken away, and checked by somebody who trusts nobody.

use super::client::Client;
use super::error::Error;
use super::output::{Progress, Reader};
use super::table::{self, Column, column};
use super::{Context, verify};
use clap::{Args, Subcommand};
use muster_wire::digest::Sha256Digest;
use muster_wire::problem::Exit;
use muster_wire::time::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// What wakes `tail --follow`: every entry is soon covered by a checkpoint.
const WAKING: (&str, &str) = ("topic", "checkpoints");

/// How often an export that the growing log outran begins anew.
const ROUNDS: u32 = 5;

/// The commands about the audit log.
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Show the latest entries
    Tail(TailArgs),
    /// Check every entry, checkpoint and signature; exit code 1 when anything is wrong
    Verify(VerifyArgs),
    /// Write the log as static files, which verify anywhere without a server
    Export {
        /// The directory to make
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
}

/// What `muster audit tail` takes.
#[derive(Args, Debug)]
pub struct TailArgs {
    /// How many entries
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20, value_parser = super::at_least_one)]
    pub lines: usize,
    /// Go on with what is added
    #[arg(short, long)]
    pub follow: bool,
}

/// What `muster audit verify` takes.
#[derive(Args, Debug)]
pub struct VerifyArgs {
    /// An exported directory; the server's log when left out
    #[arg(value_name = "DIR")]
    pub directory: Option<PathBuf>,
    /// The audit key to insist on (audit.vkey); the one the export carries when left out
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// The digest that `muster init` printed: the audit keys of these authority documents, and no others, are believed
    #[arg(long, value_name = "DIGEST")]
    pub authority: Option<Sha256Digest>,
}

/// Columns of entries; `/at` is put in by [`readable`].
const LISTING: &[Column] = &[
    column("SEQ", "/seq"),
    column("AT", "/at"),
    column("ACTOR", "/actor"),
    column("ACTION", "/action"),
    column("OBJECT", "/object"),
    column("OUTCOME", "/outcome"),
    column("BECAME", "/new_state"),
    column("REASON", "/reason"),
];

/// Runs one of the commands about the audit log.
///
/// # Errors
/// Whatever the server refuses, the way there does not allow, or a file that cannot be worked with.
pub async fn run(context: &Context, command: AuditCommand) -> Result<Exit, Error> {
    match command {
        AuditCommand::Tail(args) => tail(context, &args).await,
        AuditCommand::Export { directory } => {
            let export = export(&context.client()?, &directory).await?;
            let shown = json!({
                "directory": directory.display().to_string(), "size": export.size,
                "root_sha256": export.root_sha256, "files": export.files.len(),
            });
            let rows = [
                column("directory", "/directory"),
                column("entries", "/size"),
                column("root", "/root_sha256"),
                column("files", "/files"),
            ];
            context.out.item(&shown, &rows)?;
            context.out.notice(&format!("Check it anywhere: muster audit verify {}", directory.display()));
            Ok(Exit::Done)
        }
        AuditCommand::Verify(args) => check(context, &args).await,
    }
}

/// Prints entries, of the whole log or of one device's history.
///
/// # Errors
/// [`Error::Output`] when standard output cannot be written.
pub(crate) fn print(context: &Context, items: Vec<Value>, nothing: &str) -> Result<(), Error> {
    match context.out.reader {
        Reader::Program => context.out.items(items, LISTING, nothing),
        Reader::Person => context.out.items(items.into_iter().map(readable).collect(), LISTING, nothing),
    }
}

/// The entry with its time in words, and with the reason that somebody gave or the device told.
fn readable(mut entry: Value) -> Value {
    let at = entry.get("ts").and_then(Value::as_i64).map(|ms| Timestamp(ms.div_euclid(1000)).to_string());
    let words = [entry.get("reason"), entry.pointer("/facts/reason"), entry.pointer("/facts/detail")];
    let words = words.into_iter().flatten().filter_map(Value::as_str).filter(|word| !word.is_empty());
    let reason = words.collect::<Vec<_>>().join(": ");
    if let Some(fields) = entry.as_object_mut() {
        fields.insert("at".into(), json!(at));
        fields.insert("reason".into(), json!(reason));
    }
    entry
}

async fn tail(context: &Context, args: &TailArgs) -> Result<Exit, Error> {
    let client = context.client()?;
    let size = client
        .get(&["v1", "audit"], &[("limit", "1")])
        .await?
        .get("size")
        .and_then(Value::as_u64)
        .unwrap_or(0);
    let mut items = entries_from(&client, size.saturating_sub(args.lines as u64)).await?;
    let mut next = next_sequence(&items).unwrap_or(size);
    if !args.follow {
        print(context, items, "The log is empty.")?;
        return Ok(Exit::Done);
    }
    let mut events = client.listen(&["v1", "events"], &[WAKING]).await?;
    loop {
        for item in items {
            let line = if context.out.is_json() { item.to_string() } else { one_line(&item) };
            context.out.line(&line)?;
        }
        // Whatever is said, and be it that all is well, is a reason to look; after an end somebody else may serve.
        if !events.hears().await {
            events = client.listen(&["v1", "events"], &[WAKING]).await?;
        }
        items = entries_from(&client, next).await?;
        next = next_sequence(&items).unwrap_or(next);
    }
}

/// Every entry from sequence number `first` on.
async fn entries_from(client: &Client, first: u64) -> Result<Vec<Value>, Error> {
    let after = first.checked_sub(1).map(|after| after.to_string());
    let query: Vec<(&str, &str)> = after.iter().map(|after| ("after", after.as_str())).collect();
    client.list(&["v1", "audit"], &query, None).await
}

fn next_sequence(items: &[Value]) -> Option<u64> {
    items.last()?.get("seq")?.as_u64()?.checked_add(1)
}

fn one_line(item: &Value) -> String {
    let entry = readable(item.clone());
    LISTING.iter().map(|column| table::value_at(&entry, column.pointer)).collect::<Vec<_>>().join("  ")
}

/// What the server offers for export.
#[derive(Debug, Deserialize)]
pub(crate) struct Export {
    /// Number of entries covered.
    pub(crate) size: u64,
    /// Root of the tree over them, hex.
    pub(crate) root_sha256: String,
    /// The files.
    pub(crate) files: Vec<ExportFile>,
}

/// One file of an export.
#[derive(Debug, Deserialize)]
pub(crate) struct ExportFile {
    path: String,
    size: u64,
    sha256: Sha256Digest,
}

/// Writes the server's log to `directory`, which must not exist or be empty. It appears whole or not at all.
pub(crate) async fn export(client: &Client, directory: &Path) -> Result<Export, Error> {
    let occupied = std::fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_some());
    if occupied || directory.is_file() {
        return Err(Error::failed(
            format!("{} is there already and not empty", directory.display()),
            "Name a new directory; an export never mixes with older files.",
        ));
    }
    let parent = directory.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let staging = tempfile::Builder::new()
        .prefix(".muster-export-")
        .tempdir_in(parent)
        .map_err(Error::file("write to", parent))?;
    let export = download(client, staging.path()).await?;
    std::fs::rename(staging.path(), directory).map_err(Error::file("create", directory))?;
    // The directory has moved away from under its guard.
    let _ = staging.keep();
    Ok(export)
}

/// Fetches every file. The log may grow meanwhile: a file that is no longer what was listed means another round.
async fn download(client: &Client, into: &Path) -> Result<Export, Error> {
    for _ in 0..ROUNDS {
        let listing = client.get(&["v1", "audit", "files"], &[]).await?;
        let export: Export = serde_json::from_value(listing).map_err(|_| Error::Answer {
            server: client.server().to_string(),
            status: 200,
            what: "something that is no list of files".into(),
        })?;
        if download_round(client, &export, into).await? {
            return Ok(export);
        }
    }
    Err(Error::failed(
        "The log grows faster than it can be exported",
        "Run it again at a calmer time, or copy the audit/ directory of the server.",
    ))
}

/// Whether every file listed in `export` now lies beneath `into`.
async fn download_round(client: &Client, export: &Export, into: &Path) -> Result<bool, Error> {
    let progress = Progress::of(export.files.len() as u64, "files");
    for file in &export.files {
        let parts = safe_path(&file.path)?;
        let target = parts.iter().fold(into.to_owned(), |path, part| path.join(part));
        let there = std::fs::read(&target).is_ok_and(|bytes| Sha256Digest::of(&bytes) == file.sha256);
        if !there {
            let mut segments = vec!["v1", "audit", "files"];
            segments.extend(&parts);
            let bytes = client.get_bytes(&segments).await?;
            if bytes.len() as u64 != file.size || Sha256Digest::of(&bytes) != file.sha256 {
                return Ok(false);
            }
            let parent = target.parent().unwrap_or(into);
            std::fs::create_dir_all(parent).map_err(Error::file("create", parent))?;
            std::fs::write(&target, &bytes).map_err(Error::file("write", &target))?;
        }
        progress.advance(1);
    }
    Ok(true)
}

/// The parts of a path that the server named, none of which leads out of the directory.
fn safe_path(path: &str) -> Result<Vec<&str>, Error> {
    let plain = |part: &&str| {
        !part.is_empty()
            && !part.starts_with("..")
            && *part != "."
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
    };
    let parts: Vec<&str> = path.split('/').collect();
    if parts.iter().all(plain) {
        return Ok(parts);
    }
    Err(Error::refused(
        format!("The server named a file {path:?} that does not belong into an export"),
        "Do not trust this server; look at what it runs.",
    ))
}

async fn check(context: &Context, args: &VerifyArgs) -> Result<Exit, Error> {
    let finding = match &args.directory {
        Some(directory) => verify::judge(directory, args.key.as_deref(), args.authority)?,
        None => {
            let temporary = tempfile::tempdir().map_err(Error::file("write to", &std::env::temp_dir()))?;
            let directory = temporary.path().join("export");
            export(&context.client()?, &directory).await?;
            verify::judge(&directory, args.key.as_deref(), args.authority)?
        }
    };
    verify::print(context, &finding)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_file_of_an_export_leads_out_of_it() {
        assert_eq!(safe_path("tile/0/x001/067.p/5").unwrap(), ["tile", "0", "x001", "067.p", "5"]);
        for path in ["", "/etc/passwd", "a//b", "../a", "a/../b", "./a", "a\\b", "a\0b", "..a", "a/"] {
            assert_eq!(safe_path(path).unwrap_err().exit() as u8, 3, "{path:?}");
        }
    }

    #[test]
    fn an_entrys_milliseconds_become_a_time_in_words_and_its_reasons_one() {
        let facts = json!({"reason": "left in a train", "serial": "7"});
        let entry =
            readable(json!({"seq": 4, "ts": 1_767_225_600_999_i64, "reason": "manual", "facts": facts}));
        assert_eq!(entry["at"], "2026-01-01T00:00:00Z");
        assert_eq!(entry["reason"], "manual: left in a train");
        assert_eq!(next_sequence(&[entry]), Some(5));
    }
}
