//! The documents used last, bounded by an estimate of their bytes in memory.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use crate::model::{ids::DeviceId, shadow::Slot};

/// Device and shadow name; the classic shadow's name is empty.
pub type Key = (DeviceId, Arc<str>);

pub struct Entry {
    /// Its row in the table.
    pub row: i64,
    pub slot: Slot,
}

/// Least recently used goes first. Lives in the writer and is forgotten whenever work is undone.
pub struct Cache {
    entries: HashMap<Key, (u64, usize, Entry)>,
    order: BTreeMap<u64, Key>,
    clock: u64,
    bytes: usize,
    limit: usize,
}

/// What a tree of members takes in memory for each byte of its text, measured on documents of 2 KiB.
const SPREAD: usize = 4;
/// The entry itself, its two keys and the places in both maps.
const OVERHEAD: usize = 320;

impl Default for Cache {
    fn default() -> Self {
        Self { entries: HashMap::new(), order: BTreeMap::new(), clock: 0, bytes: 0, limit: 32 << 20 }
    }
}

impl Cache {
    /// After work was undone: what is here may never have been.
    pub fn forget(&mut self) {
        self.entries.clear();
        self.order.clear();
        self.bytes = 0;
    }

    pub fn resize(&mut self, limit: usize) {
        self.limit = limit;
        self.shrink();
    }

    pub fn get(&mut self, key: &Key) -> Option<&Entry> {
        let (tick, _, entry) = self.entries.get_mut(key)?;
        self.clock += 1;
        if let Some(key) = self.order.remove(tick) {
            self.order.insert(self.clock, key);
        }
        *tick = self.clock;
        Some(entry)
    }

    /// `encoded` is the length of the document on disk.
    pub fn put(&mut self, key: Key, entry: Entry, encoded: usize) {
        let bytes = OVERHEAD + encoded * SPREAD;
        self.clock += 1;
        if let Some((tick, old, _)) = self.entries.insert(key.clone(), (self.clock, bytes, entry)) {
            self.order.remove(&tick);
            self.bytes -= old;
        }
        self.order.insert(self.clock, key);
        self.bytes += bytes;
        self.shrink();
    }

    fn shrink(&mut self) {
        while self.bytes > self.limit {
            let Some((_, key)) = self.order.pop_first() else { return };
            if let Some((_, bytes, _)) = self.entries.remove(&key) {
                self.bytes -= bytes;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: usize) -> Key {
        (DeviceId::new(&format!("d{n}")).expect("id"), "".into())
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_goes_first() {
        let mut cache = Cache::default();
        cache.resize(10 * (OVERHEAD + 100 * SPREAD));
        for n in 0..10 {
            cache.put(key(n), Entry { row: n as i64, slot: Slot::Absent }, 100);
        }
        assert!(cache.get(&key(0)).is_some());
        cache.put(key(10), Entry { row: 10, slot: Slot::Absent }, 100);
        assert!(cache.get(&key(0)).is_some(), "was used last");
        assert!(cache.get(&key(1)).is_none(), "was used least");
        assert_eq!(cache.entries.len(), cache.order.len());
        for n in 0..1000 {
            cache.put(key(n % 20), Entry { row: 0, slot: Slot::Absent }, n);
            assert!(cache.bytes <= cache.limit);
        }
        cache.forget();
        assert_eq!((cache.bytes, cache.entries.len()), (0, 0));
    }
}
