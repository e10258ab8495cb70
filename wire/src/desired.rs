//! Desired state: a small signed head for each device, and the baseline it names by digest.
//!
//! The head goes over MQTT whenever it changes; the baseline is signed once for everyone it is for and fetched
//! over HTTPS. A baseline carries the command key's signature, and approvers' where a section needs them
//! ([`crate::authority::Matter`]); which sections do depends on the device's declared roots and the agent's
//! compiled list, so the agent judges that. A section of a kind that this build does not know refuses the whole
//! baseline: half of a desired state is another desired state.

use crate::cbor::{self, Cbor, CborError, Document, Reader, Writer, document, record, words};
use crate::digest::Sha256Digest;
use crate::envelope::SignedByMany;
use crate::id::DeviceId;
use crate::time::Timestamp;
use std::fmt;

/// Which desired state; compared field by field, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation {
    /// Counts the restores of the server's store.
    pub restore_epoch: u64,
    /// Counts the changes.
    pub counter: u64,
}
record!(Generation { restore_epoch, counter });

/// As the server counts it, `3`; after a restore of its store also which one.
impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.restore_epoch {
            0 => write!(f, "{}", self.counter),
            epoch => write!(f, "{} of restore {epoch}", self.counter),
        }
    }
}

words! {
    /// The kinds of identity key.
    IdentityKey {
        /// ECDSA on P-256.
        P256 = "p256",
        /// ECDSA on P-384.
        P384 = "p384",
        /// Ed25519.
        Ed25519 = "ed25519",
    }
}

/// What certificate the device should have, and when it asks for the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CertificatePolicy {
    /// The kind of the next key.
    pub key: IdentityKey,
    /// How long the next certificate lasts, in seconds.
    pub validity_s: u64,
    /// How much of its life has passed when the device asks, in percent, before jitter.
    pub renew_after_percent: u64,
}
record!(CertificatePolicy { key, validity_s, renew_after_percent });

/// How often the device does what it does by itself, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intervals {
    /// Between state reports.
    pub state_s: u64,
    /// Between posture reports.
    pub posture_s: u64,
    /// Between looks for drift.
    pub drift_s: u64,
}
record!(Intervals { state_s, posture_s, drift_s });

words! {
    /// What a device does when its lease lapses.
    Lapse {
        /// Only reports it, later.
        Report = "report",
        /// Drops cached secrets.
        DropSecrets = "drop_secrets",
        /// Locks.
        Lock = "lock",
        /// Wipes at `clear`, under a warrant placed beforehand.
        Clear = "clear",
    }
}

/// How long the device may go without a check-in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// In seconds of boot time; 0 means without limit.
    pub lasts_s: u64,
    /// What then.
    pub on_lapse: Lapse,
}
record!(Lease { lasts_s, on_lapse });

/// The head of one device's desired state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredHead {
    /// Whose.
    pub device: DeviceId,
    /// Which.
    pub generation: Generation,
    /// SHA-256 of the baseline's payload.
    pub baseline: Sha256Digest,
    /// What certificate.
    pub certificate: CertificatePolicy,
    /// How often what.
    pub intervals: Intervals,
    /// How long alone.
    pub lease: Lease,
    /// When this head was signed.
    pub issued_at: Timestamp,
}
document!(DesiredHead, "desired", 4 * 1024, SignedOnce, {
    device, generation, baseline, certificate, intervals, lease, issued_at,
});

words! {
    /// What the agent does about a difference.
    Mode {
        /// Repairs and reports it.
        Enforce = "enforce",
        /// Reports it.
        Audit = "audit",
    }
}

/// A file with given content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileEntry {
    /// Absolute path.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// Owner's name.
    pub owner: String,
    /// Group's name.
    pub group: String,
    /// All of its bytes.
    pub content: Vec<u8>,
}
record!(FileEntry { path, mode, owner, group, content });

/// A key and its value, of `sysctl` or `sshd_config`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The key.
    pub key: String,
    /// The value.
    pub value: String,
}
record!(Setting { key, value });

/// A unit of systemd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Its name.
    pub name: String,
    /// Whether it starts at boot.
    pub enabled: bool,
    /// Whether it runs now.
    pub active: bool,
}
record!(Unit { name, enabled, active });

/// A package of the system's manager.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Whether it is there.
    pub present: bool,
}
record!(Package { name, present });

/// What time synchronisation uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeSetting {
    /// NTP servers, in order of preference.
    pub servers: Vec<String>,
    /// Time zone of the IANA database.
    pub zone: Option<String>,
}
record!(TimeSetting { servers, zone });

/// How the agent itself is set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentSetting {
    /// Roots beneath which files may be written and wiped, wider than those of enrolment.
    pub declared_roots: Vec<String>,
}
record!(AgentSetting { declared_roots });

words! {
    /// The kinds of section.
    SectionKind {
        /// Files.
        Files = "files",
        /// Kernel settings.
        Sysctl = "sysctl",
        /// Units of systemd.
        SystemdUnits = "systemd_units",
        /// The SSH daemon.
        Ssh = "ssh",
        /// Time synchronisation.
        Time = "time",
        /// Packages.
        Packages = "packages",
        /// The agent.
        Agent = "agent",
    }
}

/// What a section says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Files.
    Files(Vec<FileEntry>),
    /// Kernel settings.
    Sysctl(Vec<Setting>),
    /// Units of systemd.
    SystemdUnits(Vec<Unit>),
    /// Keywords of `sshd_config`.
    Ssh(Vec<Setting>),
    /// Time synchronisation.
    Time(TimeSetting),
    /// Packages.
    Packages(Vec<Package>),
    /// The agent.
    Agent(AgentSetting),
}

impl Content {
    /// The section's kind.
    pub fn kind(&self) -> SectionKind {
        match self {
            Self::Files(_) => SectionKind::Files,
            Self::Sysctl(_) => SectionKind::Sysctl,
            Self::SystemdUnits(_) => SectionKind::SystemdUnits,
            Self::Ssh(_) => SectionKind::Ssh,
            Self::Time(_) => SectionKind::Time,
            Self::Packages(_) => SectionKind::Packages,
            Self::Agent(_) => SectionKind::Agent,
        }
    }
}

/// One section: on the wire `[kind, mode, content]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// What is done about a difference.
    pub mode: Mode,
    /// What is desired.
    pub content: Content,
}

impl Cbor for Section {
    fn write(&self, out: &mut Writer) {
        out.array(3);
        self.content.kind().write(out);
        self.mode.write(out);
        match &self.content {
            Content::Files(files) => files.write(out),
            Content::Sysctl(settings) | Content::Ssh(settings) => settings.write(out),
            Content::SystemdUnits(units) => units.write(out),
            Content::Time(time) => time.write(out),
            Content::Packages(packages) => packages.write(out),
            Content::Agent(agent) => agent.write(out),
        }
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, CborError> {
        input.array(3)?;
        let kind = SectionKind::read(input)?;
        let mode = Mode::read(input)?;
        let content = match kind {
            SectionKind::Files => Content::Files(Cbor::read(input)?),
            SectionKind::Sysctl => Content::Sysctl(Cbor::read(input)?),
            SectionKind::SystemdUnits => Content::SystemdUnits(Cbor::read(input)?),
            SectionKind::Ssh => Content::Ssh(Cbor::read(input)?),
            SectionKind::Time => Content::Time(Cbor::read(input)?),
            SectionKind::Packages => Content::Packages(Cbor::read(input)?),
            SectionKind::Agent => Content::Agent(Cbor::read(input)?),
        };
        Ok(Self { mode, content })
    }
}

/// A baseline: the desired state of everything of one profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Baseline {
    /// The profile it is for; a device of another profile refuses it.
    pub profile: String,
    /// Its sections, in the order in which they are applied, each kind at most once.
    pub sections: Vec<Section>,
}

impl Cbor for Baseline {
    fn write(&self, out: &mut Writer) {
        out.array(3);
        out.unsigned(cbor::SCHEMA);
        self.profile.write(out);
        self.sections.write(out);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, CborError> {
        cbor::open_document(input, 3)?;
        let baseline = Self { profile: Cbor::read(input)?, sections: Cbor::read(input)? };
        let mut kinds: Vec<_> = baseline.sections.iter().map(|section| section.content.kind()).collect();
        kinds.sort_unstable();
        kinds.dedup();
        if kinds.len() == baseline.sections.len() {
            Ok(baseline)
        } else {
            Err(CborError::Value { field: "sections" })
        }
    }
}

impl Document for Baseline {
    const NAME: &'static str = "baseline";
    const MAX_BYTES: usize = 1024 * 1024;
}

impl SignedByMany for Baseline {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cbor::{decode, encode};

    fn setting() -> Setting {
        Setting { key: "kernel.kptr_restrict".into(), value: "2".into() }
    }

    fn baseline() -> Baseline {
        let file = FileEntry {
            path: "/etc/motd".into(),
            mode: 0o644,
            owner: "root".into(),
            group: "root".into(),
            content: b"hello\n".to_vec(),
        };
        let contents = [
            Content::Files(vec![file]),
            Content::Sysctl(vec![setting()]),
            Content::SystemdUnits(vec![Unit { name: "sshd.service".into(), enabled: true, active: false }]),
            Content::Ssh(vec![Setting { key: "PermitRootLogin".into(), value: "no".into() }]),
            Content::Time(TimeSetting { servers: vec!["ntp.example".into()], zone: None }),
            Content::Packages(vec![Package { name: "telnetd".into(), present: false }]),
            Content::Agent(AgentSetting { declared_roots: vec!["/srv".into()] }),
        ];
        let section = |content| Section { mode: Mode::Enforce, content };
        Baseline { profile: "laptop-linux".into(), sections: contents.map(section).into() }
    }

    #[test]
    fn every_kind_of_section_reads_back() {
        assert_eq!(baseline().sections.len(), SectionKind::ALL.len());
        assert_eq!(decode::<Baseline>(&encode(&baseline())).unwrap(), baseline());
    }

    #[test]
    fn a_section_twice_or_of_an_unknown_kind_refuses_the_baseline() {
        let mut twice = baseline();
        twice.sections.push(Section { mode: Mode::Audit, content: Content::Sysctl(vec![setting()]) });
        assert!(matches!(decode::<Baseline>(&encode(&twice)), Err(CborError::Value { field: "sections" })));
        let one = Baseline { profile: "p".into(), sections: baseline().sections.split_off(6) };
        let mut unknown = encode(&one);
        let at = unknown.windows(5).position(|window| window == b"agent").unwrap();
        unknown[at] = b'u';
        assert!(matches!(decode::<Baseline>(&unknown), Err(CborError::Value { field: "SectionKind" })));
    }

    #[test]
    fn generations_compare_epoch_first() {
        let generation = |restore_epoch, counter| Generation { restore_epoch, counter };
        assert!(generation(0, u64::MAX) < generation(1, 0));
    }

    #[test]
    fn a_generation_is_called_by_its_number_wherever_it_is_told() {
        let generation = |restore_epoch, counter| Generation { restore_epoch, counter }.to_string();
        assert_eq!((generation(0, 3), generation(2, 3)), ("3".to_owned(), "3 of restore 2".to_owned()));
    }
}
