//! Which desired states this device takes: everything that is asked of a head and a baseline before anything is
//! touched (authority.md, "The authority document"; contract.md, "MQTT topics").
//!
//! ```text
//! head, COSE_Sign1 ──check_head──▶ CheckedHead ─┐  (its digest says which baseline to fetch)
//! baseline, COSE_Sign ──────────────────────────┴─admit─▶ Admitted ──▶ crate::apply
//! ```
//! A command key alone may ask for what cannot run code as root: plain files beneath the roots that were declared
//! at enrolment, kernel settings on a compiled list, how often to report. All else needs as many approvers as the
//! authority in force says. What this build has no applier for is refused whole, approved or not: half of a desired
//! state is another desired state.
//!
//! * **Freshness.** What a former command key signed is older. Then generations are compared, then when the head was
//!   signed: a device's own facts (site, labels) may give it another baseline within one generation, and the later word
//!   counts. What is older than the newest admitted head is [`BaselineRefusal::Stale`].
//! * **Profile.** The first baseline in force says which profile this device is of; another one is refused.

mod kernel;
mod reach;

use muster_wire::approval;
use muster_wire::authority::Matter;
use muster_wire::desired::{
    Baseline, Content, DesiredHead, FileEntry, Generation, Section, SectionKind, Setting,
};
use muster_wire::digest::Sha256Digest;
use muster_wire::envelope::{EnvelopeError, MultiSigned, Signed, Verified};
use muster_wire::id::DeviceId;
use muster_wire::lineage::Lineage;
use muster_wire::time::Timestamp;
use serde::{Deserialize, Serialize};

pub use kernel::SettingFlaw;
pub use muster_wire::approval::{DECLARED_ROOTS, declared_root};
pub use reach::PathFlaw;

/// Where kernel settings are kept for the next boot. No other section may name it.
pub const SYSCTL_DROP_IN: &str = "/etc/sysctl.d/60-muster.conf";

/// Whether `path` is one way, and the only way, to write an absolute path of a file.
pub fn is_sound_path(path: &str) -> bool {
    reach::check_path(path).is_ok()
}

/// The name under which a file is written before it takes its place. No managed file may have it.
pub const NEIGHBOUR: &str = ".muster-agent.new";

/// How new a head is; compared field by field, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Mark {
    /// Version of the authority document with which the command key came that signed it: whoever stole the former one
    /// cannot exhaust the counters for its successor.
    #[serde(default = "founding")]
    pub command_since: u64,
    /// Counts the restores of the server's store.
    pub restore_epoch: u64,
    /// Counts the changes.
    pub counter: u64,
    /// When the head was signed, in seconds since 1970.
    pub issued_at_s: i64,
}

impl Mark {
    /// How new `head` is, signed by a command key of the authority document of version `command_since` and later.
    pub fn of(head: &DesiredHead, command_since: u64) -> Self {
        let Generation { restore_epoch, counter } = head.generation;
        Self { command_since, restore_epoch, counter, issued_at_s: head.issued_at.seconds() }
    }

    /// The generation alone.
    pub fn generation(&self) -> Generation {
        Generation { restore_epoch: self.restore_epoch, counter: self.counter }
    }
}

/// Of marks that were kept before they told.
fn founding() -> u64 {
    1
}

/// What the device knows of itself when a desired state comes.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Its id.
    pub device: DeviceId,
    /// The profile of the baseline in force, if any.
    pub profile: Option<&'a str>,
    /// The roots declared at enrolment, absolute.
    pub declared: &'a [String],
    /// The newest head it admitted, and the baseline that named, if any.
    pub highest: Option<(Mark, Sha256Digest)>,
}

/// Why a desired state is not taken. None of these changes anything on the device.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BaselineRefusal {
    /// The head's signature does not hold.
    #[error("the desired head is not signed as it must be")]
    Head(#[source] EnvelopeError),
    /// The head is somebody else's.
    #[error("the desired head is for another device")]
    OtherDevice,
    /// Older than what was admitted before.
    #[error("generation {} is stale: {} was seen before", offered.generation(), highest.generation())]
    Stale {
        /// What was offered.
        offered: Mark,
        /// The newest admitted.
        highest: Mark,
    },
    /// The baseline's signatures do not hold, or it has a section that this build does not know.
    #[error("the baseline is not signed as it must be, or is none")]
    Baseline(#[source] EnvelopeError),
    /// The baseline is not the one that the head names.
    #[error("the baseline has another digest than the head names")]
    Digest,
    /// The baseline is for devices of another kind.
    #[error("the baseline is for profile {found:?}, this device is of profile {own:?}")]
    OtherProfile {
        /// The baseline's profile.
        found: String,
        /// This device's.
        own: String,
    },
    /// Too few approvers that count have signed the baseline.
    #[error("{item} needs {needed} approvers ({matter}), {found} that count have signed")]
    Unapproved {
        /// What needs them.
        item: String,
        /// As what it counts.
        matter: Matter,
        /// How many are needed.
        needed: usize,
        /// How many have signed.
        found: usize,
    },
    /// The authority in force does not say how many approvers this needs.
    #[error("the authority document does not name {matter}")]
    Unanswered {
        /// What was asked.
        matter: Matter,
    },
    /// This build has no applier for the section.
    #[error("this version of muster-agent cannot apply section {section}")]
    Unsupported {
        /// The section.
        section: SectionKind,
    },
    /// A file cannot have this path or these permissions.
    #[error("file {path:?} cannot be managed")]
    File {
        /// The path as the baseline has it.
        path: String,
        /// Why not.
        #[source]
        flaw: PathFlaw,
    },
    /// A kernel setting cannot have this key or value.
    #[error("kernel setting {key:?} cannot be managed")]
    Kernel {
        /// The key as the baseline has it.
        key: String,
        /// Why not.
        #[source]
        flaw: SettingFlaw,
    },
    /// A path or key stands in the baseline twice.
    #[error("{item:?} stands in the baseline twice")]
    Repeated {
        /// The path or key.
        item: String,
    },
}

impl BaselineRefusal {
    /// Whether the server is behind rather than wrong: reported as *stale*.
    pub fn is_stale(&self) -> bool {
        matches!(self, Self::Stale { .. })
    }
}

/// A head that is this device's, signed by the command key and not stale. Its baseline is still to be seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedHead(Verified<DesiredHead>, Mark);

impl CheckedHead {
    /// The head.
    pub fn head(&self) -> &DesiredHead {
        &self.0
    }

    /// How new it is.
    pub fn mark(&self) -> Mark {
        self.1
    }
}

/// A desired state that may be applied. Made only by [`admit`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admitted {
    head: DesiredHead,
    mark: Mark,
    baseline: Baseline,
    is_wide: bool,
}

impl Admitted {
    /// The head.
    pub fn head(&self) -> &DesiredHead {
        &self.head
    }

    /// How new the head is.
    pub fn mark(&self) -> Mark {
        self.mark
    }

    /// The baseline.
    pub fn baseline(&self) -> &Baseline {
        &self.baseline
    }

    /// Whether approvers let it write files beyond the declared roots.
    pub fn is_wide(&self) -> bool {
        self.is_wide
    }
}

/// Checks a head as it was received.
///
/// # Errors
/// [`BaselineRefusal::Head`], [`BaselineRefusal::OtherDevice`] or [`BaselineRefusal::Stale`].
pub fn check_head(
    bytes: &[u8],
    lineage: &Lineage,
    subject: &Subject<'_>,
) -> Result<CheckedHead, BaselineRefusal> {
    let signed = Signed::<DesiredHead>::parse(bytes).map_err(BaselineRefusal::Head)?;
    let head = signed.verify(&lineage.current().command_keys()).map_err(BaselineRefusal::Head)?;
    if head.device != subject.device {
        return Err(BaselineRefusal::OtherDevice);
    }
    let offered = Mark::of(&head, lineage.command_since());
    match subject.highest {
        // The same desired state signed again, perhaps by a clock that was set back, is no step back.
        Some((highest, digest)) if offered < highest => {
            let is_same = offered.generation() == highest.generation() && digest == head.baseline;
            if is_same {
                Ok(CheckedHead(head, offered))
            } else {
                Err(BaselineRefusal::Stale { offered, highest })
            }
        }
        _ => Ok(CheckedHead(head, offered)),
    }
}

/// Judges the baseline that `head` names, as it was received, at `now`.
///
/// # Errors
/// The first [`BaselineRefusal`] found.
pub fn admit(
    head: CheckedHead,
    bytes: &[u8],
    lineage: &Lineage,
    subject: &Subject<'_>,
    now: Timestamp,
) -> Result<Admitted, BaselineRefusal> {
    let signed = MultiSigned::<Baseline>::parse(bytes).map_err(BaselineRefusal::Baseline)?;
    if signed.payload_digest() != head.0.baseline {
        return Err(BaselineRefusal::Digest);
    }
    let command_keys = lineage.current().command_keys();
    let baseline = signed.verify(&command_keys, 1).map_err(BaselineRefusal::Baseline)?.into_document();
    if let Some(own) = subject.profile.filter(|own| *own != baseline.profile) {
        return Err(BaselineRefusal::OtherProfile { found: baseline.profile, own: own.to_owned() });
    }
    let approvers = signed.signers(&lineage.counting_keys(now)).map_err(BaselineRefusal::Baseline)?.len();
    let mut judge = Judge { lineage, declared: subject.declared, approvers, is_wide: false };
    baseline.sections.iter().try_for_each(|section| judge.section(section))?;
    Ok(Admitted { mark: head.1, head: head.0.into_document(), baseline, is_wide: judge.is_wide })
}

struct Judge<'a> {
    lineage: &'a Lineage,
    declared: &'a [String],
    approvers: usize,
    is_wide: bool,
}

impl Judge<'_> {
    fn section(&mut self, section: &Section) -> Result<(), BaselineRefusal> {
        let kind = section.content.kind();
        match &section.content {
            Content::Files(files) => {
                unrepeated(files.iter().map(|file| file.path.as_str()))?;
                return files.iter().try_for_each(|file| self.file(file));
            }
            Content::Sysctl(settings) => {
                unrepeated(settings.iter().map(|setting| setting.key.as_str()))?;
                return settings.iter().try_for_each(|setting| self.setting(setting));
            }
            Content::SystemdUnits(_)
            | Content::Ssh(_)
            | Content::Time(_)
            | Content::Packages(_)
            | Content::Agent(_) => {}
        }
        // Who asks without approval is told that first: it is what an attacker would have to hear.
        let matter = approval::of_section(&section.content);
        matter.map_or(Ok(()), |matter| self.approved(&format!("section {kind}"), matter))?;
        Err(BaselineRefusal::Unsupported { section: kind })
    }

    fn file(&mut self, file: &FileEntry) -> Result<(), BaselineRefusal> {
        let refuse = |flaw| BaselineRefusal::File { path: file.path.clone(), flaw };
        reach::check_path(&file.path).and_then(|()| reach::check_mode(file.mode)).map_err(refuse)?;
        self.approved(&format!("file {:?}", file.path), approval::of_file(file, self.declared))?;
        self.is_wide |= declared_root(&file.path, self.declared).is_none();
        Ok(())
    }

    fn setting(&self, setting: &Setting) -> Result<(), BaselineRefusal> {
        let refuse = |flaw| BaselineRefusal::Kernel { key: setting.key.clone(), flaw };
        kernel::check(setting).map_err(refuse)?;
        let item = format!("kernel setting {} = {}", setting.key, setting.value);
        self.approved(&item, approval::of_setting(setting))
    }

    fn approved(&self, item: &str, matter: Matter) -> Result<(), BaselineRefusal> {
        let needed = self.lineage.current().required.count(matter);
        let needed = needed.ok_or(BaselineRefusal::Unanswered { matter })?;
        let found = self.approvers;
        if found >= needed {
            return Ok(());
        }
        Err(BaselineRefusal::Unapproved { item: item.to_owned(), matter, needed, found })
    }
}

fn unrepeated<'a>(items: impl Iterator<Item = &'a str>) -> Result<(), BaselineRefusal> {
    let mut seen = std::collections::BTreeSet::new();
    for item in items {
        if !seen.insert(item) {
            return Err(BaselineRefusal::Repeated { item: item.to_owned() });
        }
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests;
