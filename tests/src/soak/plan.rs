//! Which fault or act comes next, and when: a deck of cards, shuffled by the seed, dealt to its end, shuffled again.
//!
//! A deck rather than dice, so that every kind comes within a minute however the seed falls.

use super::chance::Chance;
use std::time::Duration;

/// Least and most time between two cards, milliseconds.
const PACE_MS: (u64, u64) = (100, 700);

/// What is done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Card {
    /// The server ends as by a power cut, amid a burst of requests.
    KillServer,
    /// The server is asked to stop.
    StopServer,
    /// A process of many agents ends as by a power cut.
    KillSwarm,
    /// A process of many agents is asked to stop.
    StopSwarm,
    /// One agent ends as by a power cut.
    KillAgent,
    /// One agent is asked to stop.
    StopAgent,
    /// No packet of a device gets through for a few seconds.
    CutNetwork,
    /// A device's certificates end.
    Revoke,
    /// A device is held.
    Quarantine,
    /// A held device is let go.
    Release,
    /// All devices are to be otherwise.
    Baseline,
    /// A device is to report its posture.
    Collect,
    /// A device is to change its identity.
    Rotate,
    /// Tokens are made.
    Mint,
    /// A token is taken back.
    RevokeToken,
    /// A thing is imaged anew: another life of the same serial number.
    Replace,
}

/// How often each card is in a deck.
const DECK: [(Card, usize); 16] = [
    (Card::KillServer, 1),
    (Card::StopServer, 1),
    (Card::KillSwarm, 1),
    (Card::StopSwarm, 1),
    (Card::KillAgent, 6),
    (Card::StopAgent, 4),
    (Card::CutNetwork, 2),
    (Card::Revoke, 3),
    (Card::Quarantine, 7),
    (Card::Release, 6),
    (Card::Baseline, 1),
    (Card::Collect, 40),
    (Card::Rotate, 16),
    (Card::Mint, 4),
    (Card::RevokeToken, 2),
    (Card::Replace, 2),
];

/// A card, how long after the former it is played, and a number that picks whom it meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    pub(super) after: Duration,
    pub(super) card: Card,
    pub(super) draw: u64,
}

/// Turns without end.
#[derive(Debug)]
pub(super) struct Plan {
    chance: Chance,
    deck: Vec<Card>,
}

impl Plan {
    /// The turns of `seed`.
    pub(super) fn of(seed: u64) -> Self {
        Self { chance: Chance::of(seed), deck: Vec::new() }
    }

    /// The next turn.
    pub(super) fn next(&mut self) -> Turn {
        if self.deck.is_empty() {
            let cards = DECK.iter().flat_map(|(card, count)| std::iter::repeat_n(*card, *count));
            self.deck = cards.collect();
            self.chance.shuffle(&mut self.deck);
        }
        let card = self.deck.pop().unwrap_or(Card::Collect);
        let (least, most) = PACE_MS;
        let after = Duration::from_millis(least + self.chance.below(most - least));
        Turn { after, card, draw: self.chance.draw() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn a_seed_decides_every_turn() {
        let turns = |seed| {
            let mut plan = Plan::of(seed);
            (0..300).map(|_| plan.next()).collect::<Vec<_>>()
        };
        assert_eq!(turns(1), turns(1));
        assert_ne!(turns(1), turns(2));
    }

    #[test]
    fn a_deck_holds_every_card_and_lasts_less_than_a_minute() {
        let count: usize = DECK.iter().map(|(_, count)| count).sum();
        for seed in 0..20 {
            let mut plan = Plan::of(seed);
            let turns: Vec<_> = (0..count).map(|_| plan.next()).collect();
            let mut dealt = BTreeMap::new();
            turns.iter().for_each(|turn| *dealt.entry(turn.card).or_insert(0) += 1);
            assert_eq!(dealt, DECK.into_iter().collect());
            assert!(turns.iter().map(|turn| turn.after).sum::<Duration>() < Duration::from_secs(60));
        }
    }
}
