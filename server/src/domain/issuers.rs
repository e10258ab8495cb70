//! Which issuing CA signs device leaves, which is to follow it, and which went before.
//!
//! ```text
//! rotate ─▶ next (served, signs nothing) ─activate─▶ signs ─activate of the one after─▶ former ─drop─▶ its key is gone
//! ```
//! One record of the installation says so; the files of `keys/` only hold what it names, so each step is one commit and
//! no file is ever moved. A certificate's issuer follows from its ordinal, since ordinals grow and a step is taken while
//! no server runs.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The name of an issuing CA: what its files in `keys/` are called, before `.key` and `.der`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct IssuerName(u32);

impl IssuerName {
    /// The one of the founding.
    pub const FOUNDED: Self = Self(1);

    /// Which one it is, counted from 1.
    pub fn number(self) -> u32 {
        self.0
    }
}

impl fmt::Display for IssuerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::FOUNDED => f.write_str("issuing"),
            Self(number) => write!(f, "issuing-{number}"),
        }
    }
}

/// An issuing CA that signs no leaves any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Former {
    /// Which.
    pub name: IssuerName,
    /// The first ordinal that is not its own.
    pub until: u64,
    /// Last second of the validity of its last leaf, unix seconds.
    pub last_leaf: i64,
    /// Whether its key is gone, or may go.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dropped: bool,
}

/// The issuing CAs of an installation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issuers {
    /// Version of this record's form.
    pub v: u8,
    /// Who reports this generation has every authority; 0: nothing was ever added.
    pub generation: u64,
    /// Version of the trust bundle; counts up from 1.
    pub bundle: u64,
    /// Who signs leaves.
    pub signs: IssuerName,
    /// Who is to follow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<IssuerName>,
    /// Who went before, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub former: Vec<Former>,
}

impl Default for Issuers {
    /// As founded.
    fn default() -> Self {
        Self { v: 1, generation: 0, bundle: 1, signs: IssuerName::FOUNDED, next: None, former: Vec::new() }
    }
}

/// Why a step is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IssuersRefusal {
    /// One is pending.
    #[error(
        "{next} waits to take over already; see with `muster ca show` how many devices have it, then run `muster ca activate issuing`"
    )]
    Pending {
        /// Which.
        next: IssuerName,
    },
    /// None is.
    #[error("no new issuing CA waits to take over; make one with `muster ca rotate issuing`")]
    NoneWaits,
    /// Devices would not know who signed their next certificate.
    #[error(
        "{missing} devices have not acknowledged the new issuing CA ({named}); let them connect, or go on with --although-missing {missing}: they learn of it when they renew"
    )]
    Missing {
        /// How many.
        missing: u64,
        /// The first of them.
        named: String,
    },
    /// The number given is not how many are missing.
    #[error(
        "{missing} devices have not acknowledged the new issuing CA, not {said}; look at `muster ca show` again, then give the number that it says"
    )]
    OtherCount {
        /// How many.
        missing: u64,
        /// What was said.
        said: u64,
    },
    /// Nobody went before, or nobody is left of them.
    #[error("there is no former issuing CA with a key; see `muster ca show`")]
    NoFormer,
    /// Leaves of the former are valid still.
    #[error(
        "certificates by {former} are valid until {until}; its key signs their revocation lists until then, run this again after it"
    )]
    InUse {
        /// By whom.
        former: IssuerName,
        /// Until when.
        until: muster_wire::time::Timestamp,
    },
}

impl Issuers {
    /// What the next one made is called.
    pub fn to_be_made(&self) -> IssuerName {
        let highest = self.former.iter().map(|former| former.name).chain([self.signs]).max();
        IssuerName(highest.unwrap_or(IssuerName::FOUNDED).0.saturating_add(1))
    }

    /// With a new one that waits, acknowledged by `generation`.
    ///
    /// # Errors
    /// [`IssuersRefusal::Pending`].
    pub fn rotated(&self, generation: u64) -> Result<Self, IssuersRefusal> {
        match self.next {
            Some(next) => Err(IssuersRefusal::Pending { next }),
            None => Ok(Self {
                generation,
                bundle: self.bundle.saturating_add(1),
                next: Some(self.to_be_made()),
                ..self.clone()
            }),
        }
    }

    /// With the one that waits as the signer, from the ordinal `until` on; the last leaf of the one before ends at
    /// `last_leaf`, unix seconds.
    ///
    /// # Errors
    /// [`IssuersRefusal::NoneWaits`].
    pub fn activated(&self, until: u64, last_leaf: i64) -> Result<Self, IssuersRefusal> {
        let signs = self.next.ok_or(IssuersRefusal::NoneWaits)?;
        let mut former = self.former.clone();
        former.push(Former { name: self.signs, until, last_leaf, dropped: false });
        Ok(Self { bundle: self.bundle.saturating_add(1), signs, next: None, former, ..self.clone() })
    }

    /// Without those former ones whose last leaf has expired at `now`, unix seconds.
    ///
    /// # Errors
    /// [`IssuersRefusal::NoFormer`], [`IssuersRefusal::InUse`] when there is none to drop.
    pub fn dropped(&self, now: i64) -> Result<Self, IssuersRefusal> {
        let kept = |former: &&Former| !former.dropped;
        let first = self.former.iter().find(kept).ok_or(IssuersRefusal::NoFormer)?;
        let is_over = |former: &Former| former.last_leaf < now;
        if !self.former.iter().filter(kept).any(is_over) {
            let until = muster_wire::time::Timestamp(first.last_leaf);
            return Err(IssuersRefusal::InUse { former: first.name, until });
        }
        let former = self.former.iter().map(|one| Former { dropped: one.dropped || is_over(one), ..*one });
        Ok(Self { bundle: self.bundle.saturating_add(1), former: former.collect(), ..self.clone() })
    }

    /// Who signed the leaf with this ordinal.
    pub fn of_ordinal(&self, ordinal: u64) -> IssuerName {
        self.former.iter().find(|former| ordinal < former.until).map_or(self.signs, |former| former.name)
    }

    /// Below this ordinal every leaf has its issuer: none may be given again.
    pub fn first_free_ordinal(&self) -> u64 {
        self.former.iter().map(|former| former.until).max().unwrap_or(0)
    }
}

/// Whether the new issuing CA may take over that `missing` devices do not have, `named` being the first of them, when
/// the operator said to go on without `although` of them.
///
/// # Errors
/// [`IssuersRefusal::Missing`], [`IssuersRefusal::OtherCount`].
pub fn may_take_over(missing: u64, named: &str, although: Option<u64>) -> Result<(), IssuersRefusal> {
    match although {
        Some(said) if said != missing => Err(IssuersRefusal::OtherCount { missing, said }),
        None if missing > 0 => Err(IssuersRefusal::Missing { missing, named: named.to_owned() }),
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_waits_at_a_time() {
        let rotated = Issuers::default().rotated(2).unwrap();
        assert_eq!(rotated.next.unwrap().to_string(), "issuing-2");
        assert_eq!((rotated.generation, rotated.bundle), (2, 2));
        assert_eq!(rotated.signs, IssuerName::FOUNDED);
        assert!(matches!(rotated.rotated(3), Err(IssuersRefusal::Pending { .. })));
        assert_eq!(Issuers::default().activated(7, 100), Err(IssuersRefusal::NoneWaits));
    }

    #[test]
    fn every_leaf_keeps_its_issuer() {
        let twice = Issuers::default().rotated(2).unwrap().activated(7, 100).unwrap();
        let twice = twice.rotated(5).unwrap().activated(9, 200).unwrap();
        let names: Vec<String> =
            [0, 6, 7, 8, 9, 1000].map(|ordinal| twice.of_ordinal(ordinal).to_string()).into();
        assert_eq!(names, ["issuing", "issuing", "issuing-2", "issuing-2", "issuing-3", "issuing-3"]);
        assert_eq!(twice.first_free_ordinal(), 9);
        assert_eq!(twice.to_be_made().number(), 4);
    }

    #[test]
    fn a_former_one_goes_after_its_last_leaf_and_not_before() {
        let one = Issuers::default().rotated(2).unwrap().activated(7, 100).unwrap();
        assert!(matches!(one.dropped(100), Err(IssuersRefusal::InUse { .. })));
        let dropped = one.dropped(101).unwrap();
        assert!(dropped.former[0].dropped);
        assert_eq!(dropped.of_ordinal(3), IssuerName::FOUNDED, "what it signed, it signed");
        assert_eq!(dropped.dropped(1_000), Err(IssuersRefusal::NoFormer));
        assert_eq!(Issuers::default().dropped(1), Err(IssuersRefusal::NoFormer));
    }

    #[test]
    fn only_the_exact_number_of_the_missing_lets_it_take_over() {
        assert_eq!(may_take_over(0, "", None), Ok(()));
        assert_eq!(may_take_over(2, "", Some(2)), Ok(()));
        for although in [None, Some(0), Some(1), Some(3)] {
            assert!(may_take_over(2, "a b", although).is_err(), "{although:?}");
        }
        assert!(may_take_over(0, "", Some(1)).is_err());
    }

    #[test]
    fn the_record_is_read_back() {
        let one = Issuers::default().rotated(2).unwrap().activated(7, 100).unwrap();
        let bytes = serde_json::to_vec(&one).unwrap();
        assert_eq!(serde_json::from_slice::<Issuers>(&bytes).unwrap(), one);
    }
}
