//! `security_updates` and `reboot_required` where dpkg rules, from files alone.
//!
//! What is pending is what apt would find: packages that dpkg has installed, against the lists of security
//! archives that apt has fetched. Nothing is fetched or run. Lists that are old, compressed or absent prove
//! nothing, and neither does any of this on a system with another package manager: unknown. Reading the lists
//! costs tens of milliseconds, so the answer is kept until a file has changed.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader, Read};
use std::sync::Mutex;

use muster_wire::posture::{FactState, FactValue};
use muster_wire::time::Timestamp;

use super::finding::Finding;
use super::tree::{Tree, Unread};
use super::version;

const STATUS: &str = "/var/lib/dpkg/status";
const LISTS: &str = "/var/lib/apt/lists";
const SOURCE: &str = "/var/lib/dpkg/status, /var/lib/apt/lists/*security*_Packages";

/// What apt touches when it has fetched its lists.
const FETCHED: [&str; 3] =
    ["/var/lib/apt/periodic/update-success-stamp", "/var/lib/apt/lists/partial", LISTS];

/// Lists older than this may lack today's updates.
const FRESH_S: i64 = 7 * 24 * 3600;

/// A file of either kind is read no further.
const FILE_CAP: u64 = 128 * 1024 * 1024;

/// A line of either kind is read no further.
const LINE_CAP: u64 = 64 * 1024;

/// Packages on one machine, with room to spare.
const PACKAGES_CAP: usize = 200_000;

/// Everything the answer depends on but the time: path, moment and size of each file.
type Fingerprint = Vec<(String, Timestamp, u64)>;

/// The packages that are pending, or why that cannot be told.
type Pending = Result<Vec<String>, String>;

static KEPT: Mutex<Option<(Fingerprint, Pending)>> = Mutex::new(None);

/// `security_updates`.
pub(super) fn security_updates(tree: &Tree, now: Timestamp, system: Option<&str>) -> Finding {
    match tree.has(STATUS) {
        Ok(true) => {}
        Ok(false) => {
            let manager = system.unwrap_or("this system");
            return Finding::unknown(format!("no dpkg here; updates of {manager} are not read")).from(SOURCE);
        }
        Err(why) => return Finding::unknown(format!("{STATUS} {why}")).from(SOURCE),
    }
    let finding = match lists(tree).and_then(|lists| pending_kept(tree, &lists)) {
        Err(why) => Finding::unknown(why),
        Ok(pending) => judge(&pending, fetched_at(tree), now),
    };
    finding.from(SOURCE)
}

fn judge(pending: &[String], fetched_at: Option<Timestamp>, now: Timestamp) -> Finding {
    let when = fetched_at.map_or_else(|| "at an unknown time".to_owned(), |at| format!("at {at}"));
    let value = FactValue::Number(i64::try_from(pending.len()).unwrap_or(i64::MAX));
    if !pending.is_empty() {
        let evidence = format!("{} pending, lists fetched {when}: {}", pending.len(), pending.join(", "));
        return Finding::fail(value, evidence);
    }
    let is_fresh = fetched_at.is_some_and(|at| now.seconds().saturating_sub(at.seconds()) <= FRESH_S);
    if is_fresh {
        return Finding::pass(value, format!("none pending, lists fetched {when}"));
    }
    Finding::new(FactState::Unknown, value, format!("none pending, but the lists were fetched {when}"))
}

fn fetched_at(tree: &Tree) -> Option<Timestamp> {
    FETCHED.iter().filter_map(|path| Some(tree.written(path).ok()?.0)).max()
}

/// The readable lists of security archives.
fn lists(tree: &Tree) -> Result<Vec<String>, String> {
    let names = tree.names(LISTS).map_err(|why| format!("{LISTS} {why}"))?;
    let security = |name: &&String| {
        name.split_once("_dists_").is_some_and(|(archive, suite)| {
            archive.contains("security")
                || suite.split('_').next().is_some_and(|suite| suite.ends_with("-security"))
        })
    };
    let (plain, packed): (Vec<_>, Vec<_>) = names
        .iter()
        .filter(security)
        .filter(|name| name.contains("_Packages"))
        .partition(|name| name.ends_with("_Packages"));
    match (plain.is_empty(), packed.first()) {
        (_, Some(packed)) => Err(format!("the list {packed} is compressed")),
        (true, None) => Err(format!("{LISTS} holds no list of a security archive")),
        (false, None) => Ok(plain.into_iter().map(|name| format!("{LISTS}/{name}")).collect()),
    }
}

fn pending_kept(tree: &Tree, lists: &[String]) -> Pending {
    let fingerprint = fingerprint(tree, lists);
    let mut kept = KEPT.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    match (&*kept, &fingerprint) {
        (Some((of, answer)), Some(now)) if of == now => answer.clone(),
        _ => {
            let answer = pending(tree, lists);
            *kept = fingerprint.map(|fingerprint| (fingerprint, answer.clone()));
            answer
        }
    }
}

fn fingerprint(tree: &Tree, lists: &[String]) -> Option<Fingerprint> {
    let paths = lists.iter().map(String::as_str).chain([STATUS]);
    let entry = |path: &str| {
        let (at, size) = tree.written(path).ok()?;
        Some((tree.outside(path), at, size))
    };
    paths.map(entry).collect()
}

/// The names of installed packages for which a security archive has a newer version.
fn pending(tree: &Tree, lists: &[String]) -> Pending {
    let mut installed = HashMap::new();
    stanzas(tree, STATUS, |stanza| {
        if stanza.is_installed && installed.len() < PACKAGES_CAP {
            installed.insert((stanza.package.clone(), stanza.architecture.clone()), stanza.version.clone());
        }
    })?;
    let mut pending = HashSet::new();
    for list in lists {
        stanzas(tree, list, |stanza| {
            let key = (stanza.package.clone(), stanza.architecture.clone());
            let is_newer = |has: &String| version::compare(&stanza.version, has) == Ordering::Greater;
            if installed.get(&key).is_some_and(is_newer) {
                pending.insert(key.0);
            }
        })?;
    }
    let mut pending: Vec<_> = pending.into_iter().collect();
    pending.sort_unstable();
    Ok(pending)
}

#[derive(Debug, Default)]
struct Stanza {
    package: String,
    architecture: String,
    version: String,
    is_installed: bool,
}

/// Calls `each` for every paragraph of the file at `path` (deb822(5)).
fn stanzas(tree: &Tree, path: &str, mut each: impl FnMut(&Stanza)) -> Result<(), String> {
    let broken = |why: &dyn std::fmt::Display| format!("{path} {why}");
    let file = tree.file(path).map_err(|why| broken(&why))?;
    let mut reader = BufReader::with_capacity(64 * 1024, file.take(FILE_CAP.saturating_add(1)));
    let (mut stanza, mut line, mut total) = (Stanza::default(), Vec::new(), 0u64);
    loop {
        line.clear();
        let read =
            reader.by_ref().take(LINE_CAP).read_until(b'\n', &mut line).map_err(|error| broken(&error))?;
        total = total.saturating_add(read as u64);
        if total > FILE_CAP {
            return Err(broken(&Unread::TooLarge { cap: FILE_CAP }));
        }
        let line = line.trim_ascii_end();
        if line.is_empty() && !stanza.package.is_empty() {
            each(&stanza);
            stanza = Stanza::default();
        }
        if read == 0 {
            return Ok(());
        }
        stanza.take(line);
    }
}

impl Stanza {
    fn take(&mut self, line: &[u8]) {
        let value = |name: &[u8]| {
            let value = line.strip_prefix(name)?.trim_ascii();
            Some(String::from_utf8_lossy(value).into_owned())
        };
        match line.first() {
            Some(b'P') => self.package = value(b"Package:").unwrap_or(std::mem::take(&mut self.package)),
            Some(b'A') => {
                self.architecture = value(b"Architecture:").unwrap_or(std::mem::take(&mut self.architecture));
            }
            Some(b'V') => self.version = value(b"Version:").unwrap_or(std::mem::take(&mut self.version)),
            Some(b'S') => {
                if let Some(status) = value(b"Status:") {
                    self.is_installed = status.ends_with(" installed");
                }
            }
            _ => {}
        }
    }
}

/// `reboot_required`: the mark that packages leave, where something is installed that leaves it.
pub(super) fn reboot_required(tree: &Tree) -> Finding {
    const MARK: &str = "/run/reboot-required";
    const MARKERS: [&str; 2] =
        ["/usr/share/update-notifier/notify-reboot-required", "/etc/kernel/postinst.d/unattended-upgrades"];
    let finding = match tree.has(MARK) {
        Ok(true) => {
            let packages = tree.text("/run/reboot-required.pkgs").unwrap_or_default();
            let named: Vec<_> = packages.lines().take(16).collect();
            let evidence = format!(
                "the mark is set, by {}",
                if named.is_empty() { "nobody named".to_owned() } else { named.join(", ") }
            );
            Finding::fail(FactValue::Bool(true), evidence)
        }
        Ok(false) if MARKERS.iter().any(|marker| tree.surely_has(marker)) => {
            Finding::pass(FactValue::Bool(false), "packages leave a mark here, and there is none")
        }
        Ok(false) => Finding::unknown("no mark, and nothing installed that would leave one"),
        Err(why) => Finding::unknown(format!("{MARK} {why}")),
    };
    finding.from(MARK)
}
