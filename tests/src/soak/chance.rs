//! Chance that can be repeated: splitmix64 from a seed that the run prints.

/// A sequence of numbers that the seed alone decides.
#[derive(Clone, Debug)]
pub(super) struct Chance(u64);

impl Chance {
    /// The sequence of `seed`.
    pub(super) fn of(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub(super) fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// The next number below `end`; 0 where there is none.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.draw().checked_rem(end).unwrap_or(0)
    }

    /// `items` in another order.
    pub(super) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = usize::try_from(self.below(last as u64 + 1)).unwrap_or(last);
            items.swap(last, other);
        }
    }
}

/// The item of `items` that `draw` picks.
pub(super) fn pick<T>(items: &[T], draw: u64) -> Option<&T> {
    let at = draw.checked_rem(items.len() as u64)?;
    items.get(usize::try_from(at).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_makes_one_sequence_and_another_seed_another() {
        let first = |seed| {
            let mut chance = Chance::of(seed);
            [chance.draw(), chance.draw(), chance.draw()]
        };
        assert_eq!(first(7), first(7));
        assert_ne!(first(7), first(8));
        // The published first output of splitmix64 for seed 0.
        assert_eq!(Chance::of(0).draw(), 0xe220_a839_7b1d_cdaf);
    }

    #[test]
    fn a_shuffle_loses_nothing() {
        let mut cards: Vec<u32> = (0..100).collect();
        Chance::of(3).shuffle(&mut cards);
        assert!(!cards.is_sorted());
        cards.sort_unstable();
        assert_eq!(cards, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn nothing_is_picked_of_nothing() {
        assert_eq!(pick::<u8>(&[], 5), None);
        assert_eq!(pick(&[1, 2, 3], 5), Some(&3));
    }
}
