//! What a new configuration changes, as a plan: computed purely, so that it can be applied all or not at all.

use std::collections::BTreeMap;

/// What happened to the entries of a list that have a name.
#[derive(Debug, Clone, PartialEq)]
pub struct Changes<T> {
    pub added: Vec<T>,
    /// The new form of an entry whose name stays.
    pub changed: Vec<T>,
    /// Names of entries that are gone.
    pub removed: Vec<String>,
}

impl<T> Default for Changes<T> {
    fn default() -> Self {
        Self { added: Vec::new(), changed: Vec::new(), removed: Vec::new() }
    }
}

impl<T: PartialEq + Clone> Changes<T> {
    /// Compares by name; an entry that is equal is in none of the lists.
    pub fn between(old: &[T], new: &[T], name: impl Fn(&T) -> String) -> Self {
        let mut before: BTreeMap<String, &T> = old.iter().map(|entry| (name(entry), entry)).collect();
        let mut changes = Self::default();
        for entry in new {
            match before.remove(&name(entry)) {
                None => changes.added.push(entry.clone()),
                Some(was) if was != entry => changes.changed.push(entry.clone()),
                Some(_) => {}
            }
        }
        changes.removed = before.into_keys().collect();
        changes
    }

    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.changed.is_empty() && self.removed.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Entry = (u8, u8);

    fn apply(old: &[Entry], changes: &Changes<Entry>) -> BTreeMap<u8, u8> {
        let mut map: BTreeMap<u8, u8> = old.iter().copied().collect();
        for name in &changes.removed {
            map.remove(&name.parse().expect("a name"));
        }
        map.extend(changes.added.iter().chain(&changes.changed).copied());
        map
    }

    proptest! {
        #[test]
        fn applying_the_changes_gives_the_new_list(
            old in prop::collection::btree_map(0_u8..20, 0_u8..3, 0..12),
            new in prop::collection::btree_map(0_u8..20, 0_u8..3, 0..12),
        ) {
            let before: Vec<Entry> = old.clone().into_iter().collect();
            let after: Vec<Entry> = new.clone().into_iter().collect();
            let changes = Changes::between(&before, &after, |entry| entry.0.to_string());
            prop_assert_eq!(apply(&before, &changes), new.clone());
            prop_assert_eq!(changes.is_empty(), old == new);
            for entry in &changes.changed {
                prop_assert!(old[&entry.0] != entry.1, "nothing that stayed is touched");
            }
        }
    }
}
