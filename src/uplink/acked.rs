//! How far a lane is acknowledged: acknowledgements come in any order, the cursor follows the lowest missing one.

use std::collections::BTreeMap;

/// Acknowledged positions: all up to the cursor, and stretches after it.
#[derive(Debug, Default, Clone)]
pub struct Acked {
    cursor: u64,
    /// First to last, neither touching nor overlapping.
    stretches: BTreeMap<u64, u64>,
}

impl Acked {
    pub fn new(cursor: u64) -> Self {
        Self { cursor, stretches: BTreeMap::new() }
    }

    pub fn cursor(&self) -> u64 {
        self.cursor
    }

    pub fn contains(&self, position: u64) -> bool {
        let before = self.stretches.range(..=position).next_back();
        position <= self.cursor || before.is_some_and(|(_, last)| position <= *last)
    }

    pub fn add(&mut self, position: u64) {
        self.add_all(position, position);
    }

    /// Adds a stretch, both ends included.
    pub fn add_all(&mut self, first: u64, last: u64) {
        let (mut first, mut last) = (first.max(self.cursor + 1), last);
        if last < first {
            return;
        }
        while let Some((&start, &end)) = self.stretches.range(..=last.saturating_add(1)).next_back()
            && end.saturating_add(1) >= first
        {
            (first, last) = (first.min(start), last.max(end));
            self.stretches.remove(&start);
        }
        if first == self.cursor + 1 {
            self.cursor = last;
        } else {
            self.stretches.insert(first, last);
        }
    }
}
