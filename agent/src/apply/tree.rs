//! The tree that the device manages: `--root`, the declared roots in it, and the one way to a file beneath them.
//!
//! Between `--root` and a declared root mounts are crossed (`/srv` may be a disk of its own); beneath a declared root
//! they are not, since a mount there could show any other directory. The agent's own state directory is closed,
//! unless a declared root lies inside it.

use std::path::Path;

use super::disk::{Dir, Disk, Found, Mounts, Plain};
use super::trouble::Trouble;
use crate::core::baseline::{SYSCTL_DROP_IN, declared_root};

/// A parent directory and a name in it.
type Spot<'p> = (Dir, &'p str);

/// The tree beneath `--root`.
#[derive(Debug)]
pub(super) struct Tree {
    root: Dir,
    declared: Vec<String>,
    /// The state directory as the tree names it, when it lies in the tree.
    closed: Option<String>,
}

/// How far a desired state may reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// Beneath declared roots.
    Declared,
    /// Anywhere in the tree, since approvers said so.
    Wide,
}

impl Reach {
    pub(super) fn of(is_wide: bool) -> Self {
        if is_wide { Self::Wide } else { Self::Declared }
    }
}

impl Tree {
    /// The tree at `root`, with `state_dir` closed; both as they are after following links.
    pub(super) fn new(root: &Path, state_dir: &Path, declared: &[String]) -> std::io::Result<Self> {
        let (real_root, real_state) = (root.canonicalize()?, state_dir.canonicalize()?);
        let closed = real_state.strip_prefix(&real_root).ok().and_then(Path::to_str);
        Ok(Self {
            root: Dir::open(&real_root)?,
            declared: declared.to_vec(),
            closed: closed.map(|inside| format!("/{inside}")),
        })
    }

    pub(super) fn root(&self) -> &Dir {
        &self.root
    }

    /// What stands at `path`; nothing when a directory on the way is missing.
    pub(super) fn find(&self, path: &str, reach: Reach) -> Result<Found, Trouble> {
        match self.parent(path, reach)? {
            Some((dir, name)) => dir.look(name).map_err(Trouble::walking),
            None => Ok(Found::Absent),
        }
    }

    /// The directories that are missing on the way to `path`, outermost first.
    pub(super) fn missing(&self, path: &str, reach: Reach) -> Result<Vec<String>, Trouble> {
        let fixed = self.fixed_depth(path, reach)?;
        let mut missing = Vec::new();
        let mut here: Option<Dir> = None;
        let mut shown = String::new();
        let (parents, _) = split(path);
        for (depth, name) in parents.into_iter().enumerate() {
            shown = format!("{shown}/{name}");
            if !missing.is_empty() {
                missing.push(shown.clone());
                continue;
            }
            let found = here.as_ref().unwrap_or(&self.root).child(name, mounts(depth, fixed));
            match found {
                Ok(dir) => here = Some(dir),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => missing.push(shown.clone()),
                Err(error) => return Err(Trouble::walking(error)),
            }
        }
        Ok(missing)
    }

    /// Makes `path` be `file`, and its missing parents directories.
    pub(super) fn place(&self, disk: &Disk, path: &str, reach: Reach, file: &Plain) -> Result<(), Trouble> {
        let fixed = self.fixed_depth(path, reach)?;
        let (parents, name) = split(path);
        let mut here: Option<Dir> = None;
        for (depth, parent) in parents.into_iter().enumerate() {
            let dir = here.as_ref().unwrap_or(&self.root);
            here = Some(disk.ensure_child(dir, parent, mounts(depth, fixed)).map_err(Trouble::walking)?);
        }
        let dir = here.as_ref().unwrap_or(&self.root);
        // What is no file now was none when it was looked at, or somebody is playing: either way it is not replaced.
        match dir.look(name).map_err(Trouble::walking)? {
            Found::Foreign => Err(Trouble::NotPlain),
            Found::Absent | Found::Plain(_) | Found::Large => {
                disk.place(dir, name, file).map_err(Trouble::Disk)
            }
        }
    }

    /// Takes the file at `path` away.
    pub(super) fn remove(&self, disk: &Disk, path: &str, reach: Reach) -> Result<(), Trouble> {
        let Some((dir, name)) = self.parent(path, reach)? else { return Ok(()) };
        disk.remove(&dir, name).map_err(Trouble::Disk)
    }

    /// Takes the directory at `path` away when it is empty.
    pub(super) fn remove_empty(&self, disk: &Disk, path: &str) -> Result<(), Trouble> {
        let Some((dir, name)) = self.walk(path, usize::MAX)? else { return Ok(()) };
        disk.remove_empty(&dir, name).map_err(Trouble::walking)
    }

    /// Takes away what a crash left half written beside `path`.
    pub(super) fn clear_neighbour(&self, disk: &Disk, path: &str, reach: Reach) -> Result<(), Trouble> {
        let Some((dir, _)) = self.parent(path, reach)? else { return Ok(()) };
        disk.clear_neighbour(&dir).map_err(Trouble::Disk)
    }

    /// Whether a kernel shows its settings in this tree. An image or a test tree has none: there, settings hold from
    /// the next boot.
    pub(super) fn has_kernel(&self) -> Result<bool, Trouble> {
        Ok(self.walk("/proc/sys/x", usize::MAX)?.is_some())
    }

    /// The value of a kernel setting, white space folded.
    pub(super) fn kernel(&self, key: &str) -> Result<String, Trouble> {
        let path = kernel_path(key);
        let (dir, name) = self.walk(&path, usize::MAX)?.ok_or(Trouble::NoSetting)?;
        match dir.look(name).map_err(Trouble::walking)? {
            Found::Plain(file) => Ok(folded(&String::from_utf8_lossy(&file.content))),
            Found::Absent => Err(Trouble::NoSetting),
            Found::Large | Found::Foreign => Err(Trouble::NotPlain),
        }
    }

    /// Gives a kernel setting a value.
    pub(super) fn set_kernel(&self, disk: &Disk, key: &str, value: &str) -> Result<(), Trouble> {
        let path = kernel_path(key);
        let (dir, name) = self.walk(&path, usize::MAX)?.ok_or(Trouble::NoSetting)?;
        disk.set_kernel(&dir, name, value).map_err(Trouble::walking)
    }

    fn parent<'p>(&self, path: &'p str, reach: Reach) -> Result<Option<Spot<'p>>, Trouble> {
        self.walk(path, self.fixed_depth(path, reach)?)
    }

    /// Walks to the parent of `path`; mounts may be crossed in the first `fixed` names.
    fn walk<'p>(&self, path: &'p str, fixed: usize) -> Result<Option<Spot<'p>>, Trouble> {
        let (parents, name) = split(path);
        let mut here = self.root.child(".", Mounts::Refused).map_err(Trouble::walking)?;
        for (depth, parent) in parents.into_iter().enumerate() {
            here = match here.child(parent, mounts(depth, fixed)) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
                opened => opened.map_err(Trouble::walking)?,
            };
        }
        Ok(Some((here, name)))
    }

    /// How many names of `path` lead to the root that allows it.
    fn fixed_depth(&self, path: &str, reach: Reach) -> Result<usize, Trouble> {
        let declared = declared_root(path, &self.declared);
        let is_closed = self.closed.as_deref().is_some_and(|closed| {
            let within = |path: &str| Path::new(path).starts_with(closed);
            within(path) && !declared.is_some_and(|root| within(root) && Path::new(root) != Path::new(closed))
        });
        match declared {
            _ if is_closed => Err(Trouble::Beyond),
            Some(root) => Ok(root.split('/').filter(|name| !name.is_empty()).count()),
            None if reach == Reach::Wide || path == SYSCTL_DROP_IN => Ok(usize::MAX),
            None => Err(Trouble::Beyond),
        }
    }
}

fn mounts(depth: usize, fixed: usize) -> Mounts {
    if depth < fixed { Mounts::Crossed } else { Mounts::Refused }
}

/// The names of the parents, and the last name.
fn split(path: &str) -> (Vec<&str>, &str) {
    let (parents, name) = path.rsplit_once('/').unwrap_or(("", path));
    (parents.split('/').filter(|parent| !parent.is_empty()).collect(), name)
}

fn kernel_path(key: &str) -> String {
    format!("/proc/sys/{}", key.replace('.', "/"))
}

/// A value as it compares: the kernel answers with tabs where spaces were written.
pub(super) fn folded(value: &str) -> String {
    value.split_whitespace().collect::<Vec<_>>().join(" ")
}
