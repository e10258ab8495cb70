//! What sled's recovery may overwrite, kept so that a store that is refused stays as it was.
//!
//! When sled opens it takes the first page that it cannot read in the newest part of its log for the place where
//! a crash tore it, and wipes what follows. After damage, that is data that a backup or a person could still
//! use. So the file is read before the open and the snapshots get second names; when the store is then refused,
//! both are put back. Of a file above 32 MiB only the newest segments are kept, those at and above the highest
//! position that any segment's header calls stable: they are what recovery wipes. What it may besides write
//! into segments that it takes for free is then not undone.
//!
//! Layout of sled 0.34: segments of 512 KiB; a header of 20 bytes, CRC-32, position, highest stable position,
//! each position a little-endian 64-bit number xored with 0x7FFF_FFFF_FFFF_FFFF.

use super::OpenError;
use super::guards::{self, io_error};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Bytes of a segment, sled's default, which a store keeps for life.
const SEGMENT_BYTES: u64 = 512 << 10;

/// Bytes up to which the whole file is kept.
const WHOLE_BYTES: u64 = 32 << 20;

/// Bytes of a segment's header.
const HEADER_BYTES: usize = 20;

/// What the positions in a header are xored with.
const MASK: i64 = i64::MAX;

/// What snapshots that are kept aside end in; sled looks for names that begin with `snap.`.
const KEPT: &str = "kept-";

/// Where bytes were, and the bytes.
type Kept = (u64, Vec<u8>);

/// What was there before the open.
pub(super) struct Undo {
    dir: PathBuf,
    length: u64,
    segments: Vec<Kept>,
    snapshots: Vec<String>,
}

impl Undo {
    /// Keeps what an open of the sled in `dir` may overwrite.
    pub(super) fn prepare(dir: &Path) -> Result<Self, OpenError> {
        let path = dir.join("db");
        let keep = || -> io::Result<(u64, Vec<Kept>)> {
            let file = File::open(&path)?;
            let length = file.metadata()?.len();
            let offsets = if length <= WHOLE_BYTES {
                (0..length).step_by(SEGMENT_BYTES as usize).collect()
            } else {
                newest(&file, length)?
            };
            let segments = offsets.into_iter().map(|offset| read(&file, offset, length));
            Ok((length, segments.collect::<io::Result<_>>()?))
        };
        let (length, segments) = keep().map_err(|source| io_error("reading", &path, source))?;
        let snapshots = guards::snapshots(dir)?;
        for old in guards::named(dir, KEPT)? {
            let _gone = fs::remove_file(dir.join(old));
        }
        for name in &snapshots {
            let kept = dir.join(format!("{KEPT}{name}"));
            let linked = fs::hard_link(dir.join(name), &kept);
            let copied = linked.or_else(|_| fs::copy(dir.join(name), &kept).map(|_| ()));
            copied.map_err(|source| io_error("keeping", &kept, source))?;
        }
        Ok(Self { dir: dir.to_owned(), length, segments, snapshots })
    }

    /// The store opened: nothing is needed any more.
    pub(super) fn forget(self) {
        for name in &self.snapshots {
            let _gone = fs::remove_file(self.dir.join(format!("{KEPT}{name}")));
        }
    }

    /// The store was refused: puts everything back.
    pub(super) fn put_back(self) -> Result<(), OpenError> {
        let path = self.dir.join("db");
        let write = || -> io::Result<()> {
            let file = OpenOptions::new().write(true).open(&path)?;
            for (offset, bytes) in &self.segments {
                file.write_all_at(bytes, *offset)?;
            }
            file.set_len(self.length)?;
            file.sync_all()
        };
        write().map_err(|source| io_error("restoring", &path, source))?;
        for name in guards::snapshots(&self.dir)? {
            let path = self.dir.join(name);
            fs::remove_file(&path).map_err(|source| io_error("removing", &path, source))?;
        }
        for name in &self.snapshots {
            let path = self.dir.join(name);
            let renamed = fs::rename(self.dir.join(format!("{KEPT}{name}")), &path);
            renamed.map_err(|source| io_error("restoring", &path, source))?;
        }
        guards::sync(&self.dir)
    }
}

/// Offsets of the segments that recovery may wipe.
fn newest(file: &File, length: u64) -> io::Result<Vec<u64>> {
    let mut headers = Vec::new();
    for number in 0..length.div_ceil(SEGMENT_BYTES) {
        let mut header = [0; HEADER_BYTES];
        let offset = number * SEGMENT_BYTES;
        if offset + HEADER_BYTES as u64 <= length {
            file.read_exact_at(&mut header, offset)?;
            headers.extend(positions(&header).map(|(position, stable)| (offset, position, stable)));
        }
    }
    let stable = headers.iter().map(|(_, _, stable)| *stable).max().unwrap_or(0);
    let tail = stable - stable.rem_euclid(SEGMENT_BYTES.cast_signed());
    Ok(headers
        .into_iter()
        .filter(|(_, position, _)| *position >= tail)
        .map(|(offset, _, _)| offset)
        .collect())
}

/// Position and highest stable position in a segment's header; `None` when they cannot be such.
fn positions(header: &[u8; HEADER_BYTES]) -> Option<(i64, i64)> {
    let (_crc, rest) = header.split_first_chunk::<4>()?;
    let (position, rest) = rest.split_first_chunk::<8>()?;
    let (stable, _) = rest.split_first_chunk::<8>()?;
    let (position, stable) = (i64::from_le_bytes(*position) ^ MASK, i64::from_le_bytes(*stable) ^ MASK);
    let plausible = position >= 0 && position % SEGMENT_BYTES.cast_signed() == 0 && stable <= position;
    plausible.then_some((position, stable))
}

fn read(file: &File, offset: u64, length: u64) -> io::Result<Kept> {
    let wanted = usize::try_from(SEGMENT_BYTES.min(length - offset)).map_err(io::Error::other)?;
    let mut bytes = vec![0; wanted];
    file.read_exact_at(&mut bytes, offset)?;
    Ok((offset, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(position: i64, stable: i64) -> Vec<u8> {
        [&[0; 4], (position ^ MASK).to_le_bytes().as_slice(), &(stable ^ MASK).to_le_bytes()].concat()
    }

    #[test]
    fn the_newest_segments_are_those_above_what_every_header_calls_stable() {
        let held = tempfile::tempdir().unwrap();
        let path = held.path().join("db");
        let segment = SEGMENT_BYTES.cast_signed();
        let file = OpenOptions::new().create(true).truncate(true).read(true).write(true).open(&path).unwrap();
        // The third was wiped, the last is shorter than a header.
        let headers = [
            header(4 * segment, 3 * segment + 7),
            header(2 * segment, segment),
            vec![0; 20],
            header(3 * segment, 3 * segment - 1),
        ];
        for (number, header) in (0..).zip(headers) {
            file.write_all_at(&header, number * SEGMENT_BYTES).unwrap();
        }
        let length = 4 * SEGMENT_BYTES + 5;
        file.set_len(length).unwrap();
        assert_eq!(newest(&file, length).unwrap(), [0, 3 * SEGMENT_BYTES]);
    }

    #[test]
    fn putting_back_restores_bytes_length_and_snapshots() {
        let held = tempfile::tempdir().unwrap();
        let dir = held.path();
        fs::write(dir.join("db"), "as it was").unwrap();
        fs::write(dir.join("snap.01"), "old").unwrap();
        let undo = Undo::prepare(dir).unwrap();
        fs::write(dir.join("db"), "wiped and longer").unwrap();
        fs::write(dir.join("snap.02"), "new").unwrap();
        fs::remove_file(dir.join("snap.01")).unwrap();
        undo.put_back().unwrap();
        assert_eq!(fs::read(dir.join("db")).unwrap(), b"as it was");
        assert_eq!(fs::read(dir.join("snap.01")).unwrap(), b"old");
        assert_eq!(fs::read_dir(dir).unwrap().count(), 2);
    }
}
