//! A baseline that came and is not in force: which, why, what would let it through, and what holds instead.

use muster_wire::desired::Generation;
use muster_wire::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::baseline::BaselineRefusal;

/// No reason is longer; some of it was written by whoever wrote the baseline.
const WHY_CHARS: usize = 240;

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was judged, and nothing of it was touched.
    Refused,
    /// It could not be put in place, and all of it was taken back.
    RolledBack,
}

/// A baseline that is not in force although the server wants it to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotTaken {
    /// The counter of its generation.
    pub generation: u64,
    /// Counts the restores of the server's store.
    pub restore_epoch: u64,
    /// What became of it.
    pub outcome: Outcome,
    /// Why, in one line.
    pub why: String,
    /// What to do about it.
    pub remedy: String,
    /// When that was found first.
    pub at: Timestamp,
}

impl NotTaken {
    /// `generation` was refused at `at` for the reason `refusal`, which `why` says with its causes.
    pub fn refused(generation: Generation, refusal: &BaselineRefusal, why: &str, at: Timestamp) -> Self {
        #[expect(clippy::wildcard_enum_match_arm, reason = "few of many")]
        let remedy = match refusal {
            BaselineRefusal::Unapproved { .. } => {
                "have approvers sign it: `muster device explain` at the server names the command; it is taken once enough have"
            }
            BaselineRefusal::Unsupported { .. } => "have it set without that section, or update muster-agent",
            _ => "have another baseline set at the server: `muster baseline set FILE`",
        };
        Self::of(generation, Outcome::Refused, (why, remedy), at)
    }

    /// `generation` was taken back at `at` for the reason `why`.
    pub fn rolled_back(generation: Generation, why: &str, at: Timestamp) -> Self {
        let remedy = "put that right on this device, which tries again when it hears of it next, or have another baseline set";
        Self::of(generation, Outcome::RolledBack, (why, remedy), at)
    }

    fn of(generation: Generation, outcome: Outcome, (why, remedy): (&str, &str), at: Timestamp) -> Self {
        let Generation { restore_epoch, counter } = generation;
        let visible = |c: char| if c.is_control() { ' ' } else { c };
        let why = why.chars().map(visible).take(WHY_CHARS).collect();
        Self { generation: counter, restore_epoch, outcome, why, remedy: remedy.to_owned(), at }
    }

    /// The same found again is not news: the first time counts.
    pub fn after(self, former: Option<Self>) -> Self {
        match former {
            Some(former) if former == (Self { at: former.at, ..self.clone() }) => former,
            _ => self,
        }
    }

    /// Its generation, whole.
    pub fn which(&self) -> Generation {
        Generation { restore_epoch: self.restore_epoch, counter: self.generation }
    }

    /// Which, what became of it and why, in one line.
    pub fn sentence(&self) -> String {
        let Self { outcome, why, .. } = self;
        let generation = self.which();
        let fate = match outcome {
            Outcome::Refused => "refused",
            Outcome::RolledBack => "rolled back",
        };
        format!("generation {generation} was {fate}: {why}")
    }
}

/// What holds, while another generation does not.
pub fn holds(in_force: Option<Generation>) -> String {
    in_force.map_or_else(
        || "no baseline is in force".to_owned(),
        |generation| format!("generation {generation} stays in force"),
    )
}

#[cfg(test)]
mod tests {
    use muster_wire::authority::Matter;

    use super::*;

    const THREE: Generation = Generation { restore_epoch: 0, counter: 3 };

    #[test]
    fn one_line_says_which_what_and_why_and_the_remedy_fits_the_reason() {
        let (item, matter) = ("file \"/etc/motd\"".to_owned(), Matter::FilesElsewhere);
        let unapproved = BaselineRefusal::Unapproved { item, matter, needed: 2, found: 0 };
        let refused = NotTaken::refused(THREE, &unapproved, &unapproved.to_string(), Timestamp(1));
        assert!(
            refused.sentence().starts_with("generation 3 was refused: file \"/etc/motd\" needs 2 approvers")
        );
        assert!(refused.remedy.contains("have approvers sign it"), "{}", refused.remedy);
        let back = NotTaken::rolled_back(THREE, "/srv/a: the file\nsystem refused", Timestamp(1));
        assert_eq!(back.sentence(), "generation 3 was rolled back: /srv/a: the file system refused");
        assert_eq!(holds(Some(Generation { restore_epoch: 0, counter: 2 })), "generation 2 stays in force");
    }

    #[test]
    fn the_same_found_again_is_no_news_and_another_reason_is() {
        let first = NotTaken::rolled_back(THREE, "why", Timestamp(1));
        let again = NotTaken::rolled_back(THREE, "why", Timestamp(9));
        assert_eq!(again.after(Some(first.clone())), first);
        let other = NotTaken::rolled_back(THREE, "another", Timestamp(9));
        assert_eq!(other.clone().after(Some(first)), other);
    }
}
