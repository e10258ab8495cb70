//! Files that a lapsed lease takes away and a baseline brings again: only what is still exactly what was put there, and
//! only beneath the declared roots.

use std::io;
use std::path::Path;

use muster_wire::digest::Sha256Digest;
use rustix::fs::{FileType, OFlags};

use super::disk::Disk;
use super::walk::{Dir, Ground, reason, shown};
use crate::core::wiping::ManagedFile;

/// What is read of a file to see whether it was changed: more was.
const LOOK_CAP: u64 = 1 << 20;

/// Takes `files` away in the tree at `root`, overwritten where they let themselves be. Answers how many went, and which
/// could not, with the reason. What somebody has changed since, or put there instead, is none of the baseline's and stays.
pub fn drop_files(root: &Path, declared: &[String], files: &[ManagedFile]) -> (usize, Vec<String>) {
    let opened = root.canonicalize().and_then(|root| Dir::open(&root));
    let ground = match opened {
        Ok(root) => Ground { root, declared },
        Err(error) => return (0, vec![format!("the managed tree cannot be opened: {error}")]),
    };
    let (mut gone, mut failed) = (0, Vec::new());
    for file in files {
        match drop_one(&ground, file) {
            Ok(was_there) => gone += usize::from(was_there),
            Err(error) => failed.push(format!("{}: {}", shown(file.path.as_bytes()), reason(&error))),
        }
    }
    (gone, failed)
}

fn drop_one(ground: &Ground<'_>, file: &ManagedFile) -> io::Result<bool> {
    let Some((dir, name)) = ground.spot(&file.path)? else { return Ok(false) };
    let Some(seen) = dir.look(name)? else { return Ok(false) };
    if seen.kind != FileType::RegularFile || digest_of(&dir, name)? != file.sha256 {
        return Ok(false);
    }
    let disk = Disk::default();
    disk.destroy(&dir, name, &seen)?;
    disk.sync_directory(&dir)?;
    Ok(true)
}

fn digest_of(dir: &Dir, name: &std::ffi::OsStr) -> io::Result<Sha256Digest> {
    let file = std::fs::File::from(dir.file(name, OFlags::RDONLY)?);
    let mut content = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, LOOK_CAP + 1), &mut content)?;
    Ok(Sha256Digest::of(&content))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_the_baseline_put_there_goes_and_whatever_is_somebody_elses_stays() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir_all(root.join("srv/in")).unwrap();
        fs::create_dir_all(root.join("etc")).unwrap();
        for path in ["srv/in/ours", "srv/in/changed", "etc/elsewhere"] {
            fs::write(root.join(path), "secret").unwrap();
        }
        fs::write(root.join("srv/in/changed"), "theirs").unwrap();
        std::os::unix::fs::symlink("/etc/hostname", root.join("srv/in/link")).unwrap();
        let file = |path: &str| ManagedFile {
            path: path.into(),
            sha256: Sha256Digest::of(b"secret"),
            is_ours: true,
            is_secret: true,
        };
        let files =
            ["/srv/in/ours", "/srv/in/changed", "/srv/in/link", "/srv/in/absent", "/etc/elsewhere"].map(file);
        let (gone, failed) = drop_files(root, &["/srv/in".to_owned()], &files);
        assert_eq!((gone, failed.len()), (1, 1), "{failed:?}");
        assert!(failed[0].contains("/etc/elsewhere"));
        assert!(!root.join("srv/in/ours").exists());
        for path in ["srv/in/changed", "etc/elsewhere"] {
            assert!(root.join(path).exists(), "{path}");
        }
        assert!(root.join("srv/in/link").is_symlink());
        assert_eq!(drop_files(root, &["/srv/in".to_owned()], &files[..1]), (0, vec![]), "again is nothing");
    }
}
