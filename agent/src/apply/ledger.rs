//! What survives a kill: which desired state is in force, and the way back while another one is put in place.
//!
//! | file in the state directory | holds |
//! | --- | --- |
//! | `applied` | the newest head admitted, head and baseline in force, what was written for them, what failed last, what was put right or taken back and is not told yet |
//! | `applied.undo` | while a generation is put in place: everything as it was before |
//! | `applied.aside` | while a wipe forgets: what `applied` held; nobody reads it |
//!
//! All are sheets ([`crate::core::sheet`]), 0600, replaced atomically.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster_wire::cbor;
use muster_wire::desired::{Baseline, DesiredHead, SectionKind};
use muster_wire::digest::Sha256Digest;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::disk::{Dir, Disk, Found, Plain};
use super::trouble::ApplyError;
use crate::core::baseline::{Admitted, Mark};
use crate::core::session::TakenBack;
use crate::core::sheet::{self, SheetError};
use crate::core::wiping::ManagedFile;

pub(super) const LEDGER: &str = "applied";
pub(super) const UNDO: &str = "applied.undo";
/// What the applier knew, while it is being forgotten.
pub(super) const ASIDE: &str = "applied.aside";

/// Larger than any ledger or undo: a baseline has 1 MiB at most, and so has all that is saved for it eightfold.
const SHEET_CAP: usize = 32 << 20;

/// The ledger.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ledger {
    pub(super) highest: Option<(Mark, Sha256Digest)>,
    pub(super) applied: Option<Desired>,
    pub(super) failed: Option<Failed>,
    pub(super) managed: Vec<Managed>,
    /// The profile of a desired state that was forgotten along with its secrets; another one is refused as before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) profile: Option<String>,
    /// What a look put right, or was about to, and nobody has been told of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) untold: Vec<Item>,
    /// Which generations were taken back, and nobody has been told of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) taken_back: Vec<TakenBack>,
}

/// One thing of a baseline: in which section, and its path or key.
pub(super) type Item = (SectionKind, String);

/// A desired state as it was admitted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Desired {
    #[serde(with = "document")]
    pub(super) head: DesiredHead,
    #[serde(with = "document")]
    pub(super) baseline: Baseline,
    pub(super) is_wide: bool,
}

impl Desired {
    pub(super) fn of(admitted: &Admitted) -> Self {
        Self {
            head: admitted.head().clone(),
            baseline: admitted.baseline().clone(),
            is_wide: admitted.is_wide(),
        }
    }

    /// What tells one desired state from another: signing the same again makes no other one.
    pub(super) fn key(&self) -> (u64, u64, Sha256Digest) {
        (self.head.generation.restore_epoch, self.head.generation.counter, self.head.baseline)
    }
}

/// A desired state that could not be put in place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Failed {
    pub(super) desired: Desired,
    pub(super) why: String,
}

/// A file that was written here, as it was left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Managed {
    pub(super) path: String,
    pub(super) sha256: Sha256Digest,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Whether nothing stood there before.
    pub(super) is_ours: bool,
}

impl Managed {
    pub(super) fn of(path: &str, file: &Plain, is_ours: bool) -> Self {
        let Plain { content, mode, uid, gid } = file;
        let (mode, uid, gid) = (*mode, *uid, *gid);
        Self { path: path.to_owned(), sha256: Sha256Digest::of(content), mode, uid, gid, is_ours }
    }

    /// As a wipe has to know it.
    pub(super) fn into_file(self) -> ManagedFile {
        let Self { path, sha256, mode, is_ours, .. } = self;
        ManagedFile { path, sha256, is_ours, is_secret: mode & 0o077 == 0 }
    }

    /// Whether `file` is still as it was left.
    pub(super) fn is_left(&self, file: &Plain) -> bool {
        *self == Self::of(&self.path, file, self.is_ours)
    }
}

/// The way back from a desired state that is being put in place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Undo {
    pub(super) to: (u64, u64, Sha256Digest),
    pub(super) is_wide: bool,
    /// In the order in which they are changed.
    pub(super) entries: Vec<Entry>,
}

/// One thing, and how it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "was", rename_all = "snake_case")]
pub(super) enum Entry {
    /// A directory that did not exist.
    NoDirectory { path: String },
    /// A file that did not exist.
    NoFile { path: String },
    /// A file.
    File {
        path: String,
        #[serde(with = "base64_bytes")]
        content: Vec<u8>,
        mode: u32,
        uid: u32,
        gid: u32,
    },
    /// A kernel setting.
    Kernel { key: String, value: String },
}

pub(super) fn read<T: serde::de::DeserializeOwned>(
    state: &Dir,
    name: &'static str,
) -> Result<Option<T>, ApplyError> {
    let on_disk = |source| ApplyError::Disk { what: name, source };
    let bytes = match state.look_capped(name, SHEET_CAP).map_err(on_disk)? {
        Found::Absent => return Ok(None),
        Found::Plain(file) => file.content,
        Found::Large | Found::Foreign => {
            return Err(ApplyError::Sheet { what: name, source: SheetError::Damaged });
        }
    };
    sheet::read(&bytes).map(Some).map_err(|source| ApplyError::Sheet { what: name, source })
}

pub(super) fn write(
    disk: &Disk,
    state: &Dir,
    name: &'static str,
    content: &impl Serialize,
) -> Result<(), ApplyError> {
    let content = sheet::write(content).map_err(|source| ApplyError::Sheet { what: name, source })?;
    let file = Plain::of_the_agent(content, 0o600);
    disk.place(state, name, &file).map_err(|source| ApplyError::Disk { what: name, source })
}

/// A document of ours in its one encoding, in base64.
mod document {
    use super::*;

    pub(super) fn serialize<T: cbor::Cbor, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
        base64_bytes::serialize(&cbor::encode(value), to)
    }

    pub(super) fn deserialize<'de, T: cbor::Cbor, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
        cbor::decode(&base64_bytes::deserialize(from)?).map_err(D::Error::custom)
    }
}

/// Bytes in base64.
mod base64_bytes {
    use super::*;

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        STANDARD.decode(String::deserialize(from)?).map_err(D::Error::custom)
    }
}
