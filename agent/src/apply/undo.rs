//! One change, the look afterwards, and the way back.

use super::diff::Change;
use super::disk::{Disk, Found, Plain, SAVE_CAP};
use super::ledger::{Desired, Entry, Undo};
use super::tree::{Reach, Tree, folded};
use super::trouble::{ApplyError, Trouble};

/// All that is saved for one generation has no more bytes than this: the undo is read into memory at a start.
const TOTAL_CAP: usize = 8 * SAVE_CAP;

/// How everything is that `changes` are about.
///
/// # Errors
/// [`Trouble::TooLarge`] when it is more than can be saved.
pub(super) fn record<'a>(
    desired: &Desired,
    changes: impl Iterator<Item = &'a Change>,
) -> Result<Undo, Trouble> {
    let mut undo = Undo { to: desired.key(), is_wide: desired.is_wide, entries: Vec::new() };
    let mut total = 0;
    for change in changes {
        match change {
            Change::Place { path, before, missing, .. } => {
                for path in missing {
                    let entry = Entry::NoDirectory { path: path.clone() };
                    if !undo.entries.contains(&entry) {
                        undo.entries.push(entry);
                    }
                }
                total += before.as_ref().map_or(0, |file| file.content.len());
                undo.entries.push(entry(path, before.as_ref()));
            }
            Change::Remove { path, before } => {
                total += before.content.len();
                undo.entries.push(entry(path, Some(before)));
            }
            Change::Kernel { key, before, .. } => {
                undo.entries.push(Entry::Kernel { key: key.clone(), value: before.clone() });
            }
        }
    }
    if total > TOTAL_CAP { Err(Trouble::TooLarge) } else { Ok(undo) }
}

fn entry(path: &str, before: Option<&Plain>) -> Entry {
    let path = path.to_owned();
    match before.cloned() {
        Some(Plain { content, mode, uid, gid }) => Entry::File { path, content, mode, uid, gid },
        None => Entry::NoFile { path },
    }
}

/// Carries one change out.
pub(super) fn perform(tree: &Tree, disk: &Disk, reach: Reach, change: &Change) -> Result<(), Trouble> {
    match change {
        Change::Place { path, file, .. } => tree.place(disk, path, reach, file),
        Change::Remove { path, .. } => tree.remove(disk, path, reach),
        Change::Kernel { key, value, .. } => tree.set_kernel(disk, key, value),
    }
}

/// Reads back what a change made.
pub(super) fn verify(tree: &Tree, reach: Reach, change: &Change) -> Result<(), Trouble> {
    let is_so = match change {
        Change::Place { path, file, .. } => {
            matches!(tree.find(path, reach)?, Found::Plain(found) if found == *file)
        }
        Change::Remove { path, .. } => tree.find(path, reach)? == Found::Absent,
        Change::Kernel { key, value, .. } => tree.kernel(key)? == folded(value),
    };
    if is_so { Ok(()) } else { Err(Trouble::Unverified) }
}

/// Brings everything back to what it was, the last change first. What cannot be brought back keeps nothing else
/// from it.
///
/// # Errors
/// [`ApplyError::Stuck`] with the first of them; doing it again is harmless.
pub(super) fn roll_back(tree: &Tree, disk: &Disk, undo: &Undo) -> Result<(), ApplyError> {
    let reach = Reach::of(undo.is_wide);
    let mut stuck = Ok(());
    for entry in undo.entries.iter().rev() {
        if let Err(source) = restore(tree, disk, reach, entry)
            && stuck.is_ok()
        {
            stuck = Err(ApplyError::Stuck { item: item(entry).to_owned(), source });
        }
    }
    stuck
}

/// Takes away what a crash left half written beside the files of `undo`.
pub(super) fn tidy(tree: &Tree, disk: &Disk, undo: &Undo) {
    let reach = Reach::of(undo.is_wide);
    for entry in &undo.entries {
        if let Entry::File { path, .. } | Entry::NoFile { path } = entry {
            // Litter at worst; the next write in that directory takes it away.
            let _ = tree.clear_neighbour(disk, path, reach);
        }
    }
}

fn restore(tree: &Tree, disk: &Disk, reach: Reach, entry: &Entry) -> Result<(), Trouble> {
    match entry {
        Entry::NoDirectory { path } => unless_unreachable(tree.remove_empty(disk, path)),
        Entry::NoFile { path } => unless_unreachable(take_away(tree, disk, reach, path)),
        Entry::File { path, content, mode, uid, gid } => {
            tree.clear_neighbour(disk, path, reach)?;
            let file = Plain { content: content.clone(), mode: *mode, uid: *uid, gid: *gid };
            match tree.find(path, reach)? {
                Found::Plain(found) if found == file => Ok(()),
                Found::Plain(_) | Found::Absent | Found::Large | Found::Foreign => {
                    tree.place(disk, path, reach, &file)
                }
            }
        }
        Entry::Kernel { key, value } => {
            if tree.kernel(key)? == folded(value) {
                Ok(())
            } else {
                tree.set_kernel(disk, key, value)
            }
        }
    }
}

fn take_away(tree: &Tree, disk: &Disk, reach: Reach, path: &str) -> Result<(), Trouble> {
    tree.clear_neighbour(disk, path, reach)?;
    match tree.find(path, reach)? {
        // Nothing but a regular file was ever put there: what is something else now is somebody else's.
        Found::Absent | Found::Foreign => Ok(()),
        Found::Plain(_) | Found::Large => tree.remove(disk, path, reach),
    }
}

/// Where the way to a name leads through a file or a link, nothing of ours has that name.
fn unless_unreachable(removed: Result<(), Trouble>) -> Result<(), Trouble> {
    match removed {
        Err(Trouble::NotPlain | Trouble::Link) => Ok(()),
        other => other,
    }
}

fn item(entry: &Entry) -> &str {
    match entry {
        Entry::NoDirectory { path } | Entry::NoFile { path } | Entry::File { path, .. } => path,
        Entry::Kernel { key, .. } => key,
    }
}
