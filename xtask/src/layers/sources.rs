//! Arrows inside a crate: which room each file belongs to, and which rooms its paths name.

use super::manifests::Member;
use super::paths::{self, Mention, Spelling};
use super::rules::{CLOCK_READS, CLOCK_TYPES, CrateRule, Purity, RoomRule};
use super::{Findings, Violation};
use crate::task::Failure;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Adds every forbidden arrow in the sources of `member`.
pub(crate) fn check(root: &Path, member: &Member, findings: &mut Findings) -> Result<(), Failure> {
    let Some(rule) = member.rule() else { return Ok(()) };
    if rule.rooms.is_empty() && rule.purity == Purity::Shell {
        return Ok(());
    }
    let source_root = member.directory.join("src");
    let mut sources = Vec::new();
    for file in rust_files(&root.join(&source_root))? {
        findings.files += 1;
        let within = file.strip_prefix(root.join(&source_root)).unwrap_or(&file).to_owned();
        let text = std::fs::read_to_string(&file).map_err(Failure::file(&file))?;
        let parsed = syn::parse_file(&text).map_err(|cause| {
            let at = format!("{}:{}", source_root.join(&within).display(), cause.span().start().line);
            Failure::red(format!("{at}: {cause}"), "mend the file; rustc cannot read it either")
        })?;
        sources.push((within, parsed));
    }
    let adopted = adopted(&sources);
    for (within, parsed) in &sources {
        let place = adopted.get(within).cloned().unwrap_or_else(|| Place::of(within));
        let mentions = paths::mentions(parsed, &rule.path_name(), &place.module);
        judge(rule, &place, &source_root.join(within), &mentions, findings);
    }
    Ok(())
}

/// Files that a neighbour in the same directory takes in by `#[path]`, with the place they have there.
fn adopted(sources: &[(PathBuf, syn::File)]) -> BTreeMap<PathBuf, Place> {
    let mut found = BTreeMap::new();
    for (within, parsed) in sources {
        for (name, module) in paths::adoptions(parsed) {
            let mut place = Place::of(within);
            place.module.push(module);
            found.insert(within.with_file_name(name), place);
        }
    }
    found
}

/// Where a file stands in its crate.
#[derive(Clone, Debug)]
struct Place {
    /// Module path from the crate's root; empty for `lib.rs` and `main.rs`.
    module: Vec<String>,
    /// Top-level module, or `lib`, or `main`.
    room: String,
}

impl Place {
    fn of(within: &Path) -> Self {
        let mut module: Vec<String> = within
            .with_extension("")
            .components()
            .map(|part| part.as_os_str().to_string_lossy().into_owned())
            .collect();
        if module.last().is_some_and(|last| last == "mod") {
            module.pop();
        }
        let first = module.first().cloned().unwrap_or_default();
        match (first.as_str(), module.len()) {
            ("lib" | "main", 1) => Self { module: Vec::new(), room: first },
            ("bin", _) => Self { module: Vec::new(), room: "main".to_owned() },
            _ => Self { module, room: first },
        }
    }
}

fn judge(rule: &CrateRule, place: &Place, shown: &Path, mentions: &[Mention], findings: &mut Findings) {
    let mut complain = |line: usize, what: String| {
        findings.violations.push(Violation { file: shown.to_owned(), line, what })
    };
    let room = rule.room(&place.room);
    if room.is_none() && !rule.rooms.is_empty() {
        complain(
            1,
            format!(
                "room `{}` of {} has no rule; draw its arrows in xtask/src/layers/rules.rs",
                place.room, rule.name
            ),
        );
    }
    let pure = rule.purity == Purity::Pure || room.is_some_and(|room| room.purity == Purity::Pure);
    for mention in mentions {
        if mention.spelling == Spelling::PathAttribute {
            complain(
                mention.line,
                "`#[path]` to another directory hides which room a file belongs to".to_owned(),
            );
        }
        if let Some(room) = room
            && let Some(what) = forbidden_arrow(rule, room, mention)
        {
            complain(mention.line, what);
        }
        if pure && let Some(what) = clock_read(&mention.written) {
            complain(mention.line, format!("`{}` is pure and may not read a clock: {what}", place.room));
        }
    }
}

/// Says why `mention` is an arrow that `room` must not draw, if it is one.
fn forbidden_arrow(rule: &CrateRule, room: &RoomRule, mention: &Mention) -> Option<String> {
    let target = mention.target.as_ref()?;
    let Some(first) = target.first() else {
        // A test module in a root file imports its parent, which the room's own rule covers.
        let own = room.name == "lib"
            || mention.written.first().is_some_and(|first| first == "super" && room.name == "main");
        let hides = mention.spelling == Spelling::Import && !own;
        return hides
            .then(|| format!("`{}` imports the crate's root, behind which any arrow could hide", room.name));
    };
    rule.room(first)?;
    if room.allows(target) {
        return None;
    }
    let allowed = if room.may_use.is_empty() { "no other room".to_owned() } else { room.may_use.join(", ") };
    Some(format!("`{}` may not name `{}`; it may name {allowed}", room.name, target.join("::")))
}

/// The clock that a path reads or names, if it does.
fn clock_read(written: &[String]) -> Option<String> {
    let last = written.last()?;
    let reads = written.len() > 1 && CLOCK_READS.contains(&last.as_str());
    let names = written.iter().any(|segment| CLOCK_TYPES.contains(&segment.as_str()));
    (reads || names).then(|| written.join("::"))
}

/// Every Rust file below `directory`, sorted.
pub(super) fn rust_files(directory: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut found = Vec::new();
    let mut pending = vec![directory.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in std::fs::read_dir(&directory).map_err(Failure::file(&directory))? {
            let path = entry.map_err(Failure::file(&directory))?.path();
            if path.is_dir() {
                pending.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}
