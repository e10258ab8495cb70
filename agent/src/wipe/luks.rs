//! Volume keys: the key slots of LUKS2 containers, erased by `cryptsetup luksErase` and then looked for.
//!
//! The container is opened here and handed over as standard input, so that what was swapped under its name meanwhile is
//! not what is erased. A container without a key slot cannot be opened by anybody, whatever they know.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, OFlags};
use serde::Deserialize;

use super::program;
use super::walk::{Ground, Seen, reason};

const PROGRAMS: [&str; 3] = ["/usr/sbin/cryptsetup", "/sbin/cryptsetup", "/usr/bin/cryptsetup"];

/// Why a volume key was not destroyed, or is not known to be.
#[derive(Debug, thiserror::Error)]
pub(super) enum LuksError {
    #[error("cryptsetup is not installed on this device")]
    Missing,
    #[error("it is not there")]
    Vanished,
    #[error("{}", reason(.0))]
    Open(io::Error),
    #[error("it is no LUKS2 container")]
    NotLuks2,
    #[error("cryptsetup could not be run: {0}")]
    Run(io::Error),
    #[error("cryptsetup luksErase failed")]
    Erase,
    #[error("{0} key slots are left")]
    Left(usize),
}

/// The part of `luksDump --dump-json-metadata` that counts.
#[derive(Debug, Deserialize)]
struct Header {
    keyslots: std::collections::BTreeMap<String, serde_json::Value>,
}

/// A container, held open.
#[derive(Debug)]
pub(super) struct Volume {
    file: OwnedFd,
    cryptsetup: PathBuf,
    pub(super) size_bytes: u64,
}

impl Volume {
    pub(super) fn open(ground: &Ground<'_>, path: &str) -> Result<Self, LuksError> {
        let found = PROGRAMS.iter().map(Path::new).find(|program| program.exists());
        let cryptsetup = found.ok_or(LuksError::Missing)?.to_owned();
        let (dir, name) = ground.local(path).map_err(LuksError::Open)?.ok_or(LuksError::Vanished)?;
        let file = match dir.file(name, OFlags::RDWR) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(LuksError::Vanished),
            opened => opened.map_err(LuksError::Open)?,
        };
        let seen = Seen::of(&rustix::fs::fstat(&file).map_err(|error| LuksError::Open(error.into()))?);
        if !matches!(seen.kind, FileType::RegularFile | FileType::BlockDevice) {
            return Err(LuksError::NotLuks2);
        }
        Ok(Self { file, cryptsetup, size_bytes: seen.size_bytes })
    }

    /// How many key slots are in use.
    pub(super) fn slots(&self) -> Result<usize, LuksError> {
        let dumped = self.run(&["luksDump", "--dump-json-metadata", "/dev/stdin"])?;
        if !dumped.status.success() {
            return Err(LuksError::NotLuks2);
        }
        let header: Header = serde_json::from_str(&dumped.output).map_err(|_| LuksError::NotLuks2)?;
        Ok(header.keyslots.len())
    }

    /// Erases every key slot and makes sure that none is left.
    pub(super) fn erase(&self) -> Result<(), LuksError> {
        if !self.run(&["luksErase", "-q", "/dev/stdin"])?.status.success() {
            return Err(LuksError::Erase);
        }
        rustix::fs::fsync(&self.file).map_err(|error| LuksError::Open(error.into()))?;
        match self.slots()? {
            0 => Ok(()),
            left => Err(LuksError::Left(left)),
        }
    }

    fn run(&self, arguments: &[&str]) -> Result<program::Ended, LuksError> {
        let input = self.file.try_clone().map_err(LuksError::Run)?;
        program::run(&self.cryptsetup, arguments, Some(input)).map_err(LuksError::Run)
    }
}
