//! The checker: believes nothing but the public key.
//!
//! It reads an export (or a live `<data-dir>/audit`), and finds any byte that was changed, any file that was added,
//! dropped or renamed, any entry that was changed, dropped, repeated or moved. What it cannot see in one export is
//! that a newer one exists: who remembers an earlier checkpoint hands it in, and a log that went back or forked since
//! is found. `docs/verify-audit.py` does the same without our code.

use super::entry::Entry;
use super::export::{MAGIC, MANIFEST, PUBLIC_KEY, authority_path, manifest_text};
use super::files::read_if_there;
pub use super::key::{KeyError, PinnedKey};
use super::note;
use super::publish::{CHECKPOINT, Checkpoint};
use super::tiles::{self, Edge, Kind, WIDTH};
use super::tree::leaf_hash;
use muster_wire::authority::Authority;
use muster_wire::digest::Sha256Digest;
use muster_wire::envelope::MultiSigned;
use muster_wire::key::Ed25519Key;
use muster_wire::lineage::Lineage;
use muster_wire::time::Timestamp;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What came out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether everything holds.
    pub ok: bool,
    /// Entries that the checkpoint promises; 0 when there is no believable one.
    pub size: u64,
    /// Root that the checkpoint promises, in hexadecimal; empty when there is no believable one.
    pub root_sha256: String,
    /// Sequence number of the first entry that does not hold, where it is known.
    pub first_bad: Option<u64>,
    /// The first thing wrong, for people.
    pub problem: Option<String>,
    /// The verifier key that was used; empty when there was none.
    pub key: String,
    /// Whether that key was handed in. A key taken from the export itself proves only that the export is whole.
    pub key_is_pinned: bool,
    /// Digest of the first authority document, in hexadecimal, to be compared with what `muster init` printed.
    pub authority_sha256: Option<String>,
}

/// What is known from elsewhere.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known<'a> {
    /// The log's key.
    pub key: Option<&'a PinnedKey>,
    /// A checkpoint of the same log that was seen before: the log has to contain what it promised.
    pub earlier: Option<&'a [u8]>,
    /// Digest of the first authority document: whoever knows it believes every audit key that its chain names, also one
    /// that took over from [`Known::key`].
    pub authority: Option<Sha256Digest>,
}

/// Whether the files are exactly those of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    Export,
    Live,
}

/// Verifies an export.
pub fn verify(dir: &Path, known: Known<'_>) -> Report {
    verify_files(&Directory(dir), known, Layout::Export)
}

/// Whether `directory` looks like a log at all, or like what is left of one: every log has a checkpoint and tiles from
/// its founding on.
pub fn holds_log(directory: &Path) -> bool {
    [CHECKPOINT, "tile"].iter().any(|part| std::fs::symlink_metadata(directory.join(part)).is_ok())
}

/// Verifies the audit directory of a server that may be running. Tiles beyond the checkpoint are its next ones.
pub fn verify_live(dir: &Path, key: &PinnedKey) -> Report {
    verify_files(&Directory(dir), Known { key: Some(key), ..Known::default() }, Layout::Live)
}

/// Verifies an export that is held in memory: contents by path.
pub fn verify_bytes(files: &BTreeMap<String, Vec<u8>>, known: Known<'_>) -> Report {
    verify_files(files, known, Layout::Export)
}

/// Something wrong, and the entry it is wrong with, where one can be named.
struct Bad {
    seq: Option<u64>,
    what: String,
}

impl Bad {
    fn new(what: impl Into<String>) -> Self {
        Self { seq: None, what: what.into() }
    }

    fn entry(seq: u64, what: impl Into<String>) -> Self {
        Self { seq: Some(seq), what: what.into() }
    }
}

fn verify_files(files: &dyn Files, known: Known<'_>, layout: Layout) -> Report {
    let mut report = Report {
        ok: false,
        size: 0,
        root_sha256: String::new(),
        first_bad: None,
        problem: None,
        key: String::new(),
        key_is_pinned: known.key.is_some() || known.authority.is_some(),
        authority_sha256: None,
    };
    if let Err(bad) = check(files, known, layout, &mut report) {
        report.first_bad = bad.seq;
        report.problem = Some(bad.what);
        return report;
    }
    report.ok = true;
    report
}

fn check(files: &dyn Files, known: Known<'_>, layout: Layout, report: &mut Report) -> Result<(), Bad> {
    let named = match layout {
        Layout::Export => Named::read(files)?,
        Layout::Live => Named::default(),
    };
    let key = match known.key {
        Some(key) if !named.replaces(key, known.authority)? => key.clone(),
        Some(_) | None => exported_key(files)?,
    };
    key.as_text().clone_into(&mut report.key);
    let checkpoint = Checkpoint::open(&files.need(CHECKPOINT)?, &key)
        .ok_or_else(|| Bad::new("the checkpoint is not signed by the audit key"))?;
    report.size = checkpoint.size;
    report.root_sha256 = checkpoint.root.to_hex();
    let earlier = earlier(known, (&key, &named), &checkpoint)?;
    walk(files, &checkpoint, earlier.as_ref())?;
    if layout == Layout::Live {
        return Ok(());
    }
    let listed = check_manifest(files, &key)?;
    check_names(&listed, checkpoint.size)?;
    if exported_key(files)? != key {
        return Err(Bad::new("the key in the export is not the key that signed it"));
    }
    named.check(&listed, &key, known.authority)?;
    report.authority_sha256 = named.founding.map(|digest| digest.to_hex());
    Ok(())
}

fn exported_key(files: &dyn Files) -> Result<PinnedKey, Bad> {
    let bytes = files.need(PUBLIC_KEY)?;
    let line = std::str::from_utf8(&bytes).ok().and_then(|text| text.strip_suffix('\n'));
    line.and_then(|line| PinnedKey::parse(line).ok())
        .ok_or_else(|| Bad::new(format!("{PUBLIC_KEY} is no audit key")))
}

fn earlier(
    known: Known<'_>,
    (key, named): (&PinnedKey, &Named),
    now: &Checkpoint,
) -> Result<Option<Checkpoint>, Bad> {
    let Some(note) = known.earlier else { return Ok(None) };
    let former = named.keys.iter().filter_map(|former| PinnedKey::new(key.origin(), *former).ok());
    let earlier = std::iter::once(key.clone())
        .chain(former)
        .find_map(|key| Checkpoint::open(note, &key))
        .ok_or_else(|| Bad::new("the earlier checkpoint is not signed by the audit key"))?;
    if earlier.size > now.size {
        return Err(Bad::entry(
            now.size,
            format!("the log went back: {} entries were promised before, {} now", earlier.size, now.size),
        ));
    }
    Ok(Some(earlier))
}

/// Reads every entry and hashes it into the tree that the checkpoint promises.
fn walk(files: &dyn Files, checkpoint: &Checkpoint, earlier: Option<&Checkpoint>) -> Result<(), Bad> {
    let mut edge = Edge::default();
    forked(&edge, earlier)?;
    for (_, index, width) in tiles::all(checkpoint.size).take_while(|(kind, _, _)| *kind == Kind::Entries) {
        walk_tile(files, &mut edge, (index, width), earlier)?;
    }
    for (level, index, hashes) in edge.partial() {
        check_hashes(files, level, index, &tiles::encode_hashes(hashes))?;
    }
    if edge.root() != checkpoint.root {
        return Err(Bad::new("the entries do not lead to the root that the checkpoint promises"));
    }
    Ok(())
}

fn walk_tile(
    files: &dyn Files,
    edge: &mut Edge,
    (index, width): (u64, usize),
    earlier: Option<&Checkpoint>,
) -> Result<(), Bad> {
    let first = index * WIDTH as u64;
    let at_first = |bad: Bad| Bad { seq: Some(first), ..bad };
    let bundle = files.need(&tiles::path(Kind::Entries, index, width)).map_err(at_first)?;
    let hashes = files.need(&tiles::path(Kind::Hashes(0), index, width)).map_err(at_first)?;
    let (entries, clean) = tiles::split_entries(&bundle);
    for (seq, place) in (first..).zip(0..width) {
        let entry = entries.get(place).ok_or_else(|| Bad::entry(seq, format!("entry {seq} is missing")))?;
        check_entry(entry, seq, hashes.chunks(32).nth(place))?;
        let mut full = Vec::new();
        edge.append(leaf_hash(entry), |level, index, hashes| {
            full.push((level, index, tiles::encode_hashes(hashes)));
        });
        full.iter().try_for_each(|(level, index, hashes)| check_hashes(files, *level, *index, hashes))?;
        forked(edge, earlier)?;
    }
    if clean && entries.len() == width && hashes.len() == width * 32 {
        return Ok(());
    }
    Err(Bad::entry(first + width as u64, "there is more in a tile than the checkpoint covers"))
}

fn check_entry(entry: &[u8], seq: u64, hash: Option<&[u8]>) -> Result<(), Bad> {
    if hash != Some(leaf_hash(entry).0.as_slice()) {
        return Err(Bad::entry(seq, format!("entry {seq} does not have the hash that its tile gives it")));
    }
    match Entry::decode(entry) {
        Some(decoded) if decoded.seq == seq => Ok(()),
        Some(decoded) => {
            Err(Bad::entry(seq, format!("in the place of entry {seq} stands entry {}", decoded.seq)))
        }
        None => Err(Bad::entry(seq, format!("entry {seq} is not in the form of an entry"))),
    }
}

/// Compares a tile with what the entries beneath it make of it.
fn check_hashes(files: &dyn Files, level: u8, index: u64, expected: &[u8]) -> Result<(), Bad> {
    let path = tiles::path(Kind::Hashes(level), index, expected.len() / 32);
    let found = files.need(&path)?;
    if found == expected {
        return Ok(());
    }
    let differing = found.chunks(32).zip(expected.chunks(32)).position(|(found, expected)| found != expected);
    let place = index * WIDTH as u64 + differing.unwrap_or(expected.len() / 32) as u64;
    Err(Bad::entry(
        place << (8 * u32::from(level)),
        format!("{path} does not hold the hashes of what is beneath it"),
    ))
}

/// Whether the tree contradicts the earlier checkpoint, once it has that many entries.
fn forked(edge: &Edge, earlier: Option<&Checkpoint>) -> Result<(), Bad> {
    match earlier {
        Some(earlier) if earlier.size == edge.size() && earlier.root != edge.root() => {
            Err(Bad::new(format!(
                "the log forked: its first {} entries are not those that were promised before",
                earlier.size
            )))
        }
        _ => Ok(()),
    }
}

/// Compares every file with the signed list; answers the names on it.
fn check_manifest(files: &dyn Files, key: &PinnedKey) -> Result<BTreeSet<String>, Bad> {
    let note = files.need(MANIFEST)?;
    let text =
        note::open(&note, key).ok_or_else(|| Bad::new("the manifest is not signed by the audit key"))?;
    let mut digests = BTreeMap::new();
    for line in text.lines().skip(2) {
        let (digest, path) = line.split_once("  ").ok_or_else(|| Bad::new("the manifest is malformed"))?;
        let digest: Sha256Digest = digest.parse().map_err(|_| Bad::new("the manifest is malformed"))?;
        digests.insert(path.to_owned(), digest);
    }
    if !text.starts_with(MAGIC) || manifest_text(key.origin(), &digests) != text {
        return Err(Bad::new("the manifest is malformed"));
    }
    for path in files.list()? {
        if path != MANIFEST && !digests.contains_key(&path) {
            return Err(Bad::new(format!("{path} is not on the manifest")));
        }
    }
    for (path, digest) in &digests {
        if Sha256Digest::of(&files.need(path)?) != *digest {
            return Err(Bad::new(format!("{path} is not the file that was exported")));
        }
    }
    Ok(digests.into_keys().collect())
}

/// The manifest lists the files of a log of `size` entries and of its authority, and none beside them.
fn check_names(listed: &BTreeSet<String>, size: u64) -> Result<(), Bad> {
    let mut expected: BTreeSet<_> =
        tiles::all(size).map(|(kind, index, width)| tiles::path(kind, index, width)).collect();
    expected.extend([CHECKPOINT.to_owned(), PUBLIC_KEY.to_owned()]);
    expected.extend((0..).map(authority_path).take_while(|path| listed.contains(path)));
    match listed.symmetric_difference(&expected).next() {
        Some(path) => Err(Bad::new(format!("{path} does not belong in this export, or is missing"))),
        None => Ok(()),
    }
}

/// The audit keys that the chain of authority documents names; none where an export has no chain.
#[derive(Default)]
struct Named {
    /// Digest of the first document.
    founding: Option<Sha256Digest>,
    /// Every audit key there ever was.
    keys: Vec<Ed25519Key>,
    /// Those that count now.
    in_force: Vec<Ed25519Key>,
    documents: usize,
}

impl Named {
    /// Walks the chain in `files`. Its links are signed by approvers, not by the log: so it may be read first.
    fn read(files: &dyn Files) -> Result<Self, Bad> {
        let mut chain = Vec::new();
        for path in (0..).map(authority_path) {
            match files.read(&path) {
                Ok(Some(bytes)) => chain.push(bytes),
                Ok(None) => break,
                Err(error) => return Err(Bad::new(format!("{path} cannot be read: {error}"))),
            }
        }
        // Told only once the manifest was looked at: a file that does not belong here is a better reason.
        Ok(Self::walk(&chain).unwrap_or(Self { documents: usize::MAX, ..Self::default() }))
    }

    /// The chain as it was signed; `None` where it does not hold.
    fn walk(chain: &[Vec<u8>]) -> Option<Self> {
        let signed = chain.iter().map(|bytes| MultiSigned::<Authority>::parse(bytes).ok());
        let signed = signed.collect::<Option<Vec<_>>>()?;
        let Some(founding) = signed.first().map(MultiSigned::payload_digest) else {
            return Some(Self::default());
        };
        // An auditor's clock decides nothing here: approvers' waiting times are the devices' to judge.
        let lineage = Lineage::walk(chain, founding, Timestamp(i64::MAX / 2)).ok()?;
        let mut keys = Vec::new();
        for document in &signed {
            keys.extend(document.read_unverified().ok()?.audit_keys);
        }
        let in_force = lineage.current().audit_keys.clone();
        Some(Self { founding: Some(founding), keys, in_force, documents: chain.len() })
    }

    /// Whether another key took over from `pinned`, by documents that are those of `authority`.
    fn replaces(&self, pinned: &PinnedKey, authority: Option<Sha256Digest>) -> Result<bool, Bad> {
        if !self.keys.contains(&pinned.key()) || self.in_force.contains(&pinned.key()) {
            return Ok(false);
        }
        if authority.is_some() {
            return Ok(true);
        }
        Err(Bad::new(
            "another audit key took over from the one given, as the authority documents say; to believe them, give \
             --authority with the digest that `muster init` printed",
        ))
    }

    /// Whether the chain is all of the `listed` documents, begins as it is known to, and names `key` at its end.
    fn check(
        &self,
        listed: &BTreeSet<String>,
        key: &PinnedKey,
        known: Option<Sha256Digest>,
    ) -> Result<(), Bad> {
        let count = (0..).map(authority_path).take_while(|path| listed.contains(path)).count();
        if count != self.documents {
            return Err(Bad::new("the chain of authority documents does not hold"));
        }
        if known.is_some() && known != self.founding {
            return Err(Bad::new("the authority documents are not those whose digest was given"));
        }
        if self.founding.is_some() && !self.in_force.contains(&key.key()) {
            return Err(Bad::new("the authority document does not name the key that signed the log"));
        }
        Ok(())
    }
}

/// Where the files are.
trait Files {
    /// Every path, with `/` between its parts.
    fn list(&self) -> Result<Vec<String>, Bad>;

    /// The bytes of a file; `None` when there is none.
    fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>>;

    /// The bytes of a file that has to be there.
    fn need(&self, path: &str) -> Result<Vec<u8>, Bad> {
        match self.read(path) {
            Ok(Some(bytes)) => Ok(bytes),
            Ok(None) => Err(Bad::new(format!("{path} is missing"))),
            Err(error) => Err(Bad::new(format!("{path} cannot be read: {error}"))),
        }
    }
}

impl Files for BTreeMap<String, Vec<u8>> {
    fn list(&self) -> Result<Vec<String>, Bad> {
        Ok(self.keys().cloned().collect())
    }

    fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>> {
        Ok(self.get(path).cloned())
    }
}

struct Directory<'a>(&'a Path);

impl Files for Directory<'_> {
    fn list(&self) -> Result<Vec<String>, Bad> {
        let (mut found, mut open) = (Vec::new(), vec![PathBuf::new()]);
        while let Some(dir) = open.pop() {
            let unreadable =
                |error| Bad::new(format!("{} cannot be read: {error}", self.0.join(&dir).display()));
            for one in fs::read_dir(self.0.join(&dir)).map_err(unreadable)? {
                let one = one.map_err(unreadable)?;
                let name = one.file_name().into_string();
                let path = dir.join(name.map_err(|_| Bad::new("a file has a name that is not UTF-8"))?);
                let kind = one.file_type().map_err(unreadable)?;
                if kind.is_dir() {
                    open.push(path);
                } else if kind.is_file() {
                    found.push(path.to_string_lossy().into_owned());
                } else {
                    return Err(Bad::new(format!("{} is not a plain file", path.display())));
                }
            }
        }
        found.sort();
        Ok(found)
    }

    fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>> {
        read_if_there(&self.0.join(path))
    }
}

#[cfg(test)]
mod tests;
