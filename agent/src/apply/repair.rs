//! Drift, and putting it right: each thing by itself, and nothing untold.
//!
//! What is about to be put right is written down before it is, so that a kill in between leaves nothing untold, and stays
//! written down until whoever is to know it knows it ([`Engine::told`]). What could not be put right is not written down
//! again at every look: the disk hears of it when it is new, and when it is over.

use muster_wire::desired::Mode;
use muster_wire::posture::Drift;

use super::diff::Diff;
use super::ledger::{Item, Ledger};
use super::tree::Reach;
use super::{ApplyError, Engine, drift_of, undo};

/// What drifted, and what became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repair {
    /// Everything that differed before.
    pub found: Vec<Drift>,
    /// What differs still: audited only, or not repairable, which the text then says.
    pub left: Vec<(Drift, Option<String>)>,
    /// What was put right, by this look or an earlier one, and nobody has been told of; the earliest first.
    pub untold: Vec<Drift>,
}

impl Engine {
    /// Looks for drift and repairs what the baseline enforces, each thing by itself: a kill leaves the rest for the
    /// next look. What was put right is untold by every look until [`Engine::told`].
    ///
    /// # Errors
    /// As [`Engine::drift`].
    pub fn repair(&mut self) -> Result<Repair, ApplyError> {
        let diffs = self.differences();
        let found = diffs.iter().map(drift_of).collect();
        let untold_before = self.ledger.untold.clone();
        self.remember(&diffs);
        let reach = Reach::of(self.ledger.applied.as_ref().is_some_and(|desired| desired.is_wide));
        let (mut left, mut put_right, mut failing) = (Vec::new(), Vec::new(), Vec::new());
        for diff in diffs {
            let (drift, item) = (drift_of(&diff), item_of(&diff));
            if diff.mode == Mode::Audit {
                left.push((drift, None));
                continue;
            }
            let done = diff.change.and_then(|change| {
                undo::perform(&self.tree, &self.disk, reach, &change)?;
                undo::verify(&self.tree, reach, &change)
            });
            match done {
                Ok(()) => put_right.push(item),
                Err(trouble) => {
                    left.push((drift, Some(trouble.sentence())));
                    failing.push(item);
                }
            }
        }
        self.failing = failing.into_iter().collect();
        self.settle_untold(&untold_before, put_right);
        let untold =
            self.ledger.untold.iter().map(|(section, item)| Drift { section: *section, item: item.clone() });
        Ok(Repair { found, left, untold: untold.collect() })
    }

    /// Puts down what of `diffs` is about to be put right, before it is; but for what the last look could not put right,
    /// which is put down when it is.
    fn remember(&mut self, diffs: &[Diff]) {
        let repairable = diffs.iter().filter(|diff| diff.mode == Mode::Enforce && diff.change.is_ok());
        let items = repairable.map(item_of).filter(|item| !self.failing.contains(item));
        let untold = with(self.ledger.untold.clone(), items);
        // A full disk may refuse this. What is put right is told all the same, unless a kill comes in between.
        self.note_untold(untold);
    }

    /// After a look: what it has put right is untold, what it could not is not, unless an earlier look put it right.
    fn settle_untold(&mut self, before: &[Item], put_right: Vec<Item>) {
        let mut untold = with(self.ledger.untold.clone(), put_right.into_iter());
        untold.retain(|item| before.contains(item) || !self.failing.contains(item));
        self.note_untold(untold);
    }

    /// Whoever is to know that `told` were put right knows it, durably.
    pub fn told(&mut self, told: &[Drift]) {
        let is_told = |(section, item): &Item| {
            told.iter().any(|drift| drift.section == *section && drift.item == *item)
        };
        self.note_untold(self.ledger.untold.iter().filter(|item| !is_told(item)).cloned().collect());
    }

    fn note_untold(&mut self, untold: Vec<Item>) {
        if untold != self.ledger.untold {
            self.note(Ledger { untold, ..self.ledger.clone() });
        }
    }
}

/// `items`, and those of `more` that are not among them.
fn with(mut items: Vec<Item>, more: impl Iterator<Item = Item>) -> Vec<Item> {
    for item in more {
        if !items.contains(&item) {
            items.push(item);
        }
    }
    items
}

fn item_of(diff: &Diff) -> Item {
    (diff.section, diff.item.clone())
}
