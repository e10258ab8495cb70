//! What needs how many approvers: the table of `authority.md`.

use crate::cbor::{Cbor, CborError, Reader, Writer, words};
use std::collections::BTreeMap;

/// A warrant to wipe (`clear` or above) that names more devices than this is a [`Matter::WipeMany`].
pub const MANY_DEVICES: u64 = 10;

words! {
    /// Something that needs so and so many approvers: an order kind, a baseline section, a way of lapsing.
    Matter {
        /// Order: renew with a new identity key.
        RotateIdentity = "rotate_identity",
        /// Order: a new secret, encrypted to the device.
        RotateSecret = "rotate_secret",
        /// Order: report posture now.
        CollectPosture = "collect_posture",
        /// Order: undo `lock`.
        Unlock = "unlock",
        /// Order: lock the device.
        Lock = "lock",
        /// Order: stop a warrant.
        Stop = "stop",
        /// Order: wipe managed secrets and configuration.
        WipeRetire = "wipe(retire)",
        /// Order: wipe the profile's data roots.
        WipeClear = "wipe(clear)",
        /// Order: destroy the volume keys.
        WipeCryptoErase = "wipe(crypto-erase)",
        /// Order: the platform's factory reset.
        WipeFactoryReset = "wipe(factory-reset)",
        /// Order: `wipe(clear)` or above of more than [`MANY_DEVICES`] devices in one warrant.
        WipeMany = "wipe(many)",
        /// Order: a new root.
        UpdateTrust = "update_trust",
        /// Order, or baseline section: another agent.
        UpdateAgent = "update_agent",
        /// Section: files beneath declared roots.
        Files = "files",
        /// Section: files elsewhere.
        FilesElsewhere = "files(elsewhere)",
        /// Section: wider declared roots.
        DeclaredRoots = "declared_roots",
        /// Section: kernel settings on the agent's compiled list.
        Sysctl = "sysctl",
        /// Section: other kernel settings.
        SysctlOther = "sysctl(other)",
        /// Section: time synchronisation.
        Time = "time",
        /// Section: packages.
        Packages = "packages",
        /// Section: units of systemd.
        SystemdUnits = "systemd_units",
        /// Section: the SSH daemon.
        Ssh = "ssh",
        /// How often the device reports.
        Intervals = "intervals",
        /// A lapsed lease locks, or drops cached secrets.
        LapseReversible = "lapse(reversible)",
        /// A lapsed lease destroys.
        LapseDestructive = "lapse(destructive)",
        /// A successor of this document.
        Authority = "authority",
    }
}

impl Matter {
    /// How many approvers `authority.md`'s table asks for.
    pub const fn founding(self) -> u64 {
        match self {
            Self::RotateIdentity
            | Self::RotateSecret
            | Self::CollectPosture
            | Self::Unlock
            | Self::Files
            | Self::Sysctl
            | Self::Time
            | Self::Intervals
            | Self::LapseReversible => 0,
            Self::Lock | Self::Stop | Self::WipeRetire => 1,
            Self::WipeClear
            | Self::WipeCryptoErase
            | Self::WipeFactoryReset
            | Self::UpdateTrust
            | Self::UpdateAgent
            | Self::FilesElsewhere
            | Self::DeclaredRoots
            | Self::SysctlOther
            | Self::Packages
            | Self::SystemdUnits
            | Self::Ssh
            | Self::LapseDestructive
            | Self::Authority => 2,
            Self::WipeMany => 3,
        }
    }

    /// The fewest approvers that any document may ask for: one wherever the table asks for somebody.
    const fn floor(self) -> u64 {
        if self.founding() == 0 { 0 } else { 1 }
    }
}

/// How many distinct approvers each matter needs.
///
/// Names that this build does not know are kept, so that a document of a later build still reads the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Required(pub(super) BTreeMap<String, u64>);

impl Required {
    /// The table of `authority.md`, and every matter that `approvers` approvers cannot meet.
    pub fn founding(approvers: usize) -> (Self, Vec<Matter>) {
        let table = Matter::ALL.iter().map(|matter| (matter.as_str().to_owned(), matter.founding()));
        let required = Self(table.collect());
        let unmet = required.unmet(approvers);
        (required, unmet)
    }

    /// The table of an installation with one approver: one wherever `authority.md` asks for somebody.
    pub fn solo() -> Self {
        Self(Matter::ALL.iter().map(|matter| (matter.as_str().to_owned(), matter.floor())).collect())
    }

    /// How many approvers `matter` needs; nothing when the document does not name it, which refuses it.
    pub fn count(&self, matter: Matter) -> Option<usize> {
        self.0.get(matter.as_str()).and_then(|count| usize::try_from(*count).ok())
    }

    /// The same table, with `matter` needing `approvers`.
    #[must_use]
    pub fn with(mut self, matter: Matter, approvers: u64) -> Self {
        self.0.insert(matter.as_str().to_owned(), approvers);
        self
    }

    /// The matters that `approvers` approvers cannot meet, or that are not named.
    pub fn unmet(&self, approvers: usize) -> Vec<Matter> {
        let unmet = |matter: &Matter| self.count(*matter).is_none_or(|count| count > approvers);
        Matter::ALL.iter().copied().filter(unmet).collect()
    }

    /// Every name and its count, in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(name, count)| (name.as_str(), *count))
    }

    /// The first matter that is named with fewer approvers than any document may ask for.
    pub(super) fn below_floor(&self) -> Option<Matter> {
        let below =
            |matter: &Matter| self.0.get(matter.as_str()).is_some_and(|count| *count < matter.floor());
        Matter::ALL.iter().copied().find(below)
    }
}

/// An array of `[name, count]`, in the order of the names' bytes, none twice.
impl Cbor for Required {
    fn write(&self, out: &mut Writer) {
        out.array(u64::try_from(self.0.len()).unwrap_or(u64::MAX));
        for (name, count) in &self.0 {
            out.array(2);
            out.text(name);
            out.unsigned(*count);
        }
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, CborError> {
        let mut table = BTreeMap::new();
        for _ in 0..input.open_array()? {
            input.array(2)?;
            if table.insert(input.text()?.to_owned(), input.unsigned()?).is_some() {
                return Err(CborError::Value { field: "required" });
            }
        }
        Ok(Self(table))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cbor::decode;

    #[test]
    fn founding_names_what_its_approvers_cannot_meet() {
        assert_eq!(Required::founding(3).1, []);
        assert_eq!(Required::founding(2).1, [Matter::WipeMany]);
        let one = Required::founding(1).1;
        assert!(one.contains(&Matter::WipeClear) && one.contains(&Matter::Authority));
        assert!(!one.contains(&Matter::Lock) && !one.contains(&Matter::RotateSecret));
        assert_eq!(Required::solo().unmet(1), []);
    }

    #[test]
    fn required_has_one_order() {
        let mut out = Writer::new();
        out.array(2);
        for name in ["b", "a"] {
            out.array(2);
            out.text(name);
            out.unsigned(1);
        }
        let found = decode::<Required>(&out.into_bytes());
        assert!(matches!(found, Err(CborError::NotDeterministic)), "{found:?}");
    }
}
