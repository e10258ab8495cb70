//! Which paths and modes a managed file may have, by their text alone; [`crate::apply`] then walks the disk without
//! following a link, so that no text leads anywhere else.

use super::{NEIGHBOUR, SYSCTL_DROP_IN};

/// Longest path, in bytes (PATH_MAX, without its end).
const MAX_PATH: usize = 4095;
/// Longest name in a path, in bytes (NAME_MAX).
const MAX_NAME: usize = 255;

/// Why a file cannot be managed, whoever asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathFlaw {
    /// Not absolute, empty names, `.` or `..`, a slash at the end, or too long.
    #[error("write an absolute path without `.`, `..` and `//`")]
    Shape,
    /// A character that no terminal or list should be given.
    #[error("control characters and line breaks have no place in a path")]
    Control,
    /// A name that the agent uses itself.
    #[error("the agent keeps a file of its own there")]
    Reserved,
    /// Bits beyond permissions.
    #[error("the mode is not one of 0000 to 7777")]
    Mode,
}

/// Whether `path` is one way, and the only way, to write an absolute path of a file.
pub(super) fn check_path(path: &str) -> Result<(), PathFlaw> {
    if path.chars().any(char::is_control) {
        return Err(PathFlaw::Control);
    }
    let names = path.strip_prefix('/').filter(|_| path.len() <= MAX_PATH).ok_or(PathFlaw::Shape)?;
    let is_name = |name: &str| !matches!(name, "" | "." | "..") && name.len() <= MAX_NAME;
    if !names.split('/').all(is_name) {
        return Err(PathFlaw::Shape);
    }
    let is_reserved = path == SYSCTL_DROP_IN || names.split('/').any(|name| name == NEIGHBOUR);
    if is_reserved { Err(PathFlaw::Reserved) } else { Ok(()) }
}

pub(super) fn check_mode(mode: u32) -> Result<(), PathFlaw> {
    if mode & !0o7777 == 0 { Ok(()) } else { Err(PathFlaw::Mode) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_way_to_write_a_path_is_taken() {
        assert_eq!(check_path("/srv/a b/ü"), Ok(()));
        for bad in
            ["", "/", "srv/a", "/srv/", "//srv", "/srv//a", "/srv/./a", "/srv/../a", "/..", "/srv/a/.."]
        {
            assert_eq!(check_path(bad), Err(PathFlaw::Shape), "{bad}");
        }
        for bad in ["/srv/a\nb", "/srv/\0", "/srv/\u{1b}[2J"] {
            assert_eq!(check_path(bad), Err(PathFlaw::Control), "{bad:?}");
        }
        assert_eq!(check_path(&format!("/{}", "a".repeat(255))), Ok(()));
        assert_eq!(check_path(&format!("/{}", "a".repeat(256))), Err(PathFlaw::Shape));
        assert_eq!(check_path(&"/a".repeat(2048)), Err(PathFlaw::Shape));
    }

    #[test]
    fn names_of_the_agents_own_files_are_refused() {
        assert_eq!(check_path("/srv/.muster-agent.new"), Err(PathFlaw::Reserved));
        assert_eq!(check_path("/srv/.muster-agent.new/a"), Err(PathFlaw::Reserved));
        assert_eq!(check_path(SYSCTL_DROP_IN), Err(PathFlaw::Reserved));
    }

    #[test]
    fn a_mode_is_bits_of_permissions() {
        assert_eq!(check_mode(0o7777), Ok(()));
        assert_eq!(check_mode(0o10_644), Err(PathFlaw::Mode));
    }
}
