//! Who is due next: a heap of groups, so that the cost of waiting does not depend on how many points wait.

use std::{
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
    time::Duration,
};

use tokio::time::Instant;

/// Names a unit of the bus for as long as it is there; never used again.
pub type UnitKey = u32;

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Read this group of the unit's plan.
    Group(usize),
    /// One cheap request to see whether the unit is back.
    Probe,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    pub at: Instant,
    pub priority: u8,
    pub unit: UnitKey,
    /// Entries of an earlier plan of the unit are void.
    pub generation: u32,
    pub work: Work,
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.priority, self.unit).cmp(&(other.at, other.priority, other.unit))
    }
}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[derive(Debug, Default)]
pub struct Schedule {
    heap: BinaryHeap<Reverse<Due>>,
}

impl Schedule {
    pub fn add(&mut self, due: Due) {
        self.heap.push(Reverse(due));
    }

    /// When the next work is due.
    pub fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse(due)| due.at)
    }

    /// The next work that is due at `now`.
    pub fn pop(&mut self, now: Instant) -> Option<Due> {
        if self.next()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse(due)| due)
    }

    /// All work that is due at `now`, in no order.
    pub fn due(&self, now: Instant) -> impl Iterator<Item = &Due> {
        self.heap.iter().map(|Reverse(due)| due).filter(move |due| due.at <= now)
    }

    pub fn len(&self) -> usize {
        self.heap.len()
    }

    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }
}

/// When a cycle that was due at `due` comes again: on its own beat, without making up for missed ones.
pub fn again(due: Instant, interval: Duration, now: Instant) -> Instant {
    let next = due + interval;
    if next >= now || interval.is_zero() {
        return next.max(now);
    }
    let missed = (now - due).as_nanos() / interval.as_nanos().max(1);
    due + interval.saturating_mul(u32::try_from(missed).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn work_comes_in_order_of_time_and_then_priority(entries in prop::collection::vec((0u64..100, 0u8..10), 0..100)) {
            let start = Instant::now();
            let mut schedule = Schedule::default();
            for (index, (ms, priority)) in entries.iter().enumerate() {
                let at = start + Duration::from_millis(*ms);
                schedule.add(Due { at, priority: *priority, unit: index as u32, generation: 0, work: Work::Group(0) });
            }
            let now = start + Duration::from_millis(50);
            let mut last = None;
            let mut count = 0;
            while let Some(due) = schedule.pop(now) {
                prop_assert!(due.at <= now);
                prop_assert!(last.is_none_or(|last| last <= (due.at, due.priority)));
                last = Some((due.at, due.priority));
                count += 1;
            }
            prop_assert_eq!(count, entries.iter().filter(|(ms, _)| *ms <= 50).count());
        }

        #[test]
        fn a_beat_is_kept_and_missed_beats_are_not_made_up(interval in 1u64..5000, late in 0u64..50_000) {
            let due = Instant::now();
            let (interval, now) = (Duration::from_millis(interval), due + Duration::from_millis(late));
            let next = again(due, interval, now);
            prop_assert!(next > due && next + interval > now);
            prop_assert_eq!((next - due).as_millis() % interval.as_millis(), 0);
            prop_assert!(next <= now.max(due + interval), "at most one beat is owed");
        }
    }
}
