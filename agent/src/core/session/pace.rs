//! How many orders without a warrant are taken in a day: each is two lines of a journal that only grows, and the command
//! key alone makes as many as it likes. Orders under a warrant are few by themselves, and never held back.
//!
//! Days are counted from the start of the agent, asleep or not; a restart begins a new one.

use std::time::Duration;

/// A day.
const DAY: Duration = Duration::from_secs(86_400);
/// Orders taken in one; the server makes one in hours.
pub(super) const A_DAY: u32 = 600;

/// What was taken in the current day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Pace {
    begun: Duration,
    taken: u32,
    is_told: bool,
}

/// Whether one more may be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// It may.
    Left,
    /// It may not, for the first time in this day.
    JustFull,
    /// It may not, and that was told.
    Full,
}

impl Pace {
    /// Whether one more may be taken at `now`, counted from the start of the agent.
    pub(super) fn room(&mut self, now: Duration) -> Room {
        if now.saturating_sub(self.begun) >= DAY {
            *self = Self { begun: now, ..Self::default() };
        }
        if self.taken < A_DAY {
            return Room::Left;
        }
        if std::mem::replace(&mut self.is_told, true) { Room::Full } else { Room::JustFull }
    }

    /// One was taken.
    pub(super) fn count(&mut self) {
        self.taken = self.taken.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_that_is_full_says_so_once_and_the_next_has_room() {
        let mut pace = Pace::default();
        for n in 0..A_DAY {
            assert_eq!(pace.room(Duration::from_secs(n.into())), Room::Left);
            pace.count();
        }
        let late = DAY.saturating_sub(Duration::from_secs(1));
        assert_eq!([pace.room(late), pace.room(late)], [Room::JustFull, Room::Full]);
        assert_eq!(pace.room(DAY), Room::Left);
    }
}
