//! What the device itself says about being wiped, and the programs of its own.
//!
//! | file beneath the root | holds |
//! | --- | --- |
//! | `etc/muster/wipe-policy` | lines `refuse LEVEL`: this level and every one above is refused |
//! | `etc/muster/wipe-volumes` | paths of LUKS2 containers, one in a line, for `crypto-erase` |
//! | `etc/muster/hooks/NAME` | programs: `lock`, `unlock`, `factory-reset` |
//!
//! Lines that begin with `#` are for people. Each of these counts only where nobody but root, or the user that the agent
//! runs as, could have written it or a directory on the way to it. A policy that cannot be read refuses everything.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;

use muster_wire::warrant::Level;
use rustix::fs::{FileType, OFlags};

use super::walk::{Dir, Ground, Mounts, Seen, reason};
use crate::core::baseline;

const POLICY: &str = "/etc/muster/wipe-policy";
const VOLUMES: &str = "/etc/muster/wipe-volumes";
const HOOKS: &str = "/etc/muster/hooks";
/// No such file is larger.
const CAP: u64 = 64 * 1024;

/// Why a file of the device's own does not count.
#[derive(Debug, thiserror::Error)]
pub(super) enum PolicyError {
    #[error("{0} cannot be read: {1}")]
    Unreadable(String, String),
    #[error("{0} could have been written by others than root")]
    Unsafe(String),
    #[error("line {1} of {0} is not understood")]
    Line(&'static str, usize),
}

/// The level from which on the device refuses, if any.
///
/// # Errors
/// [`PolicyError`]: then everything is refused.
pub(super) fn refused_from(ground: &Ground<'_>) -> Result<Option<Level>, PolicyError> {
    let text = read(ground, POLICY)?.unwrap_or_default();
    let mut least: Option<Level> = None;
    for (at, line) in lines(&text) {
        let level = line.strip_prefix("refuse").and_then(|level| Level::from_word(level.trim()));
        let level = level.ok_or(PolicyError::Line(POLICY, at))?;
        least = Some(least.map_or(level, |least| least.min(level)));
    }
    Ok(least)
}

/// The volumes that the device names.
///
/// # Errors
/// [`PolicyError`].
pub(super) fn volumes(ground: &Ground<'_>) -> Result<Vec<String>, PolicyError> {
    let text = read(ground, VOLUMES)?.unwrap_or_default();
    let mut volumes = Vec::new();
    for (at, line) in lines(&text) {
        if !baseline::is_sound_path(line) {
            return Err(PolicyError::Line(VOLUMES, at));
        }
        volumes.push(line.to_owned());
    }
    volumes.sort_unstable();
    volumes.dedup();
    Ok(volumes)
}

/// Whether the device has a program `name`.
///
/// # Errors
/// [`PolicyError`] where nobody should run it.
pub(super) fn hook(ground: &Ground<'_>, name: &str) -> Result<bool, PolicyError> {
    let path = format!("{HOOKS}/{name}");
    match open(ground, &path)? {
        Some((_, seen)) if seen.mode & 0o111 == 0 => {
            Err(PolicyError::Unreadable(path, "it is not executable".to_owned()))
        }
        found => Ok(found.is_some()),
    }
}

fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let numbered = text.lines().enumerate().map(|(at, line)| (at + 1, line.trim()));
    numbered.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}

fn read(ground: &Ground<'_>, path: &'static str) -> Result<Option<String>, PolicyError> {
    let Some((file, _)) = open(ground, path)? else { return Ok(None) };
    let unreadable = |error: io::Error| PolicyError::Unreadable(path.to_owned(), reason(&error));
    let mut text = String::new();
    let read = File::from(file).take(CAP + 1).read_to_string(&mut text).map_err(unreadable)?;
    if read as u64 > CAP { Err(unreadable(io::ErrorKind::FileTooLarge.into())) } else { Ok(Some(text)) }
}

/// Opens a regular file of the device's own, each directory on the way looked at.
fn open(ground: &Ground<'_>, path: &str) -> Result<Option<(OwnedFd, Seen)>, PolicyError> {
    let unreadable = |error: io::Error| PolicyError::Unreadable(path.to_owned(), reason(&error));
    let names: Vec<&str> = path.split('/').filter(|name| !name.is_empty()).collect();
    let Some((name, parents)) = names.split_last() else { return Ok(None) };
    let mut here: Option<Dir> = None;
    let mut is_ours = true;
    for parent in parents {
        let dir = here.as_ref().unwrap_or(&ground.root).child(OsStr::new(parent), Mounts::Crossed);
        here = match dir {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => Some(opened.map_err(unreadable)?),
        };
        let seen = here.as_ref().unwrap_or(&ground.root).seen().map_err(unreadable)?;
        is_ours &= is_ours_alone(&seen);
    }
    let dir = here.as_ref().unwrap_or(&ground.root);
    let file = match dir.file(OsStr::new(name), OFlags::RDONLY) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(unreadable)?,
    };
    let seen = Seen::of(&rustix::fs::fstat(&file).map_err(|error| unreadable(error.into()))?);
    if !is_ours || !is_ours_alone(&seen) {
        return Err(PolicyError::Unsafe(path.to_owned()));
    }
    if seen.kind != FileType::RegularFile {
        return Err(PolicyError::Unreadable(path.to_owned(), "it is no regular file".to_owned()));
    }
    Ok(Some((file, seen)))
}

fn is_ours_alone(seen: &Seen) -> bool {
    let is_owned = seen.uid == 0 || seen.uid == rustix::process::geteuid().as_raw();
    is_owned && seen.mode & 0o022 == 0
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn device() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("etc/muster/hooks")).unwrap();
        for part in ["etc", "etc/muster", "etc/muster/hooks"] {
            fs::set_permissions(dir.path().join(part), fs::Permissions::from_mode(0o755)).unwrap();
        }
        dir
    }

    fn write(dir: &tempfile::TempDir, path: &str, text: &str, mode: u32) {
        let path = dir.path().join(path.trim_start_matches('/'));
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn ground(dir: &tempfile::TempDir) -> Ground<'static> {
        Ground { root: Dir::open(dir.path()).unwrap(), declared: &[] }
    }

    #[test]
    fn a_device_without_a_policy_refuses_nothing_and_one_with_it_from_the_least_level_on() {
        let dir = device();
        assert_eq!(refused_from(&ground(&dir)).unwrap(), None);
        write(&dir, POLICY, "# ours\nrefuse factory-reset\n\nrefuse  clear\n", 0o644);
        assert_eq!(refused_from(&ground(&dir)).unwrap(), Some(Level::Clear));
    }

    #[test]
    fn a_policy_that_is_not_understood_or_not_only_ours_to_write_is_an_error() {
        let dir = device();
        write(&dir, POLICY, "refuse everything\n", 0o644);
        assert!(matches!(refused_from(&ground(&dir)), Err(PolicyError::Line(POLICY, 1))));
        write(&dir, POLICY, "refuse clear\n", 0o666);
        assert!(matches!(refused_from(&ground(&dir)), Err(PolicyError::Unsafe(_))));
        write(&dir, POLICY, "refuse clear\n", 0o644);
        fs::set_permissions(dir.path().join("etc/muster"), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(refused_from(&ground(&dir)), Err(PolicyError::Unsafe(_))));
        fs::remove_file(dir.path().join("etc/muster/wipe-policy")).unwrap();
        assert_eq!(refused_from(&ground(&dir)).unwrap(), None, "where there is none, nobody has written it");
    }

    #[test]
    fn a_hook_must_be_there_executable_and_no_link() {
        let dir = device();
        assert!(!hook(&ground(&dir), "lock").unwrap());
        write(&dir, "/etc/muster/hooks/lock", "#!/bin/sh\n", 0o644);
        assert!(hook(&ground(&dir), "lock").is_err());
        write(&dir, "/etc/muster/hooks/lock", "#!/bin/sh\n", 0o755);
        assert!(hook(&ground(&dir), "lock").unwrap());
        std::os::unix::fs::symlink("lock", dir.path().join("etc/muster/hooks/unlock")).unwrap();
        assert!(hook(&ground(&dir), "unlock").is_err());
    }

    #[test]
    fn volumes_are_paths_and_nothing_else() {
        let dir = device();
        write(&dir, VOLUMES, "# disks\n/srv/b\n/srv/a\n/srv/b\n", 0o600);
        assert_eq!(volumes(&ground(&dir)).unwrap(), ["/srv/a", "/srv/b"]);
        write(&dir, VOLUMES, "/srv/../a\n", 0o600);
        assert!(matches!(volumes(&ground(&dir)), Err(PolicyError::Line(VOLUMES, 1))));
    }
}
