//! Who subscribed to what: a tree of filter levels, so that finding subscribers costs the depth of a topic, not the
//! number of filters. Knows nothing of sessions beyond their key.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// One subscription.
#[derive(Debug, Clone)]
pub struct Entry<S> {
    /// Which session, unique in the broker.
    pub key: u64,
    pub session: S,
    /// The options byte of MQTT 5, 3.8.3.1.
    pub options: u8,
    /// Subscription identifier, 0 for none.
    pub identifier: u32,
}

/// Members of a shared subscription; each message goes to one of them.
#[derive(Debug)]
pub struct Group<S> {
    pub name: Arc<str>,
    pub members: Vec<Entry<S>>,
    turn: AtomicUsize,
}

impl<S> Group<S> {
    /// The members, beginning with the one whose turn it is.
    pub fn in_turn(&self) -> impl Iterator<Item = &Entry<S>> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.members.len().max(1);
        self.members[turn..].iter().chain(&self.members[..turn])
    }
}

#[derive(Debug)]
struct Leaf<S> {
    plain: Vec<Entry<S>>,
    shared: Vec<Group<S>>,
}

#[derive(Debug)]
struct Node<S> {
    children: HashMap<Box<str>, Node<S>>,
    plus: Option<Box<Node<S>>>,
    here: Leaf<S>,
    /// Subscriptions that end here with `#`.
    rest: Leaf<S>,
}

impl<S> Default for Leaf<S> {
    fn default() -> Self {
        Self { plain: Vec::new(), shared: Vec::new() }
    }
}

impl<S> Default for Node<S> {
    fn default() -> Self {
        Self { children: HashMap::new(), plus: None, here: Leaf::default(), rest: Leaf::default() }
    }
}

#[derive(Debug)]
pub struct Trie<S> {
    root: Node<S>,
    count: usize,
}

impl<S> Default for Trie<S> {
    fn default() -> Self {
        Self { root: Node::default(), count: 0 }
    }
}

/// `$share/{group}/{filter}` in its parts (MQTT 5, 4.8.2), or a plain filter.
pub fn split_shared(filter: &str) -> Result<(Option<&str>, &str), &'static str> {
    let Some(rest) = filter.strip_prefix("$share/") else {
        return if filter == "$share" { Err("a shared filter is $share/{group}/{filter}") } else { Ok((None, filter)) };
    };
    match rest.split_once('/') {
        Some((group, filter)) if !group.is_empty() && !filter.is_empty() && !group.contains(['+', '#']) => {
            Ok((Some(group), filter))
        }
        _ => Err("a shared filter is $share/{group}/{filter}"),
    }
}

impl<S> Trie<S> {
    pub fn len(&self) -> usize {
        self.count
    }

    /// Adds or replaces the subscription of `entry.key` to a well-formed `filter`. Returns whether it is new.
    pub fn insert(&mut self, filter: &str, group: Option<&str>, entry: Entry<S>) -> bool {
        let mut node = &mut self.root;
        let mut levels = filter.split('/');
        let leaf = loop {
            match levels.next() {
                Some("#") => break &mut node.rest,
                Some("+") => node = node.plus.get_or_insert_default(),
                Some(level) => {
                    if !node.children.contains_key(level) {
                        node.children.insert(level.into(), Node::default());
                    }
                    node = node.children.get_mut(level).expect("inserted above");
                }
                None => break &mut node.here,
            }
        };
        let list = match group {
            None => &mut leaf.plain,
            Some(name) => {
                let index = leaf.shared.iter().position(|g| &*g.name == name).unwrap_or_else(|| {
                    leaf.shared.push(Group { name: name.into(), members: Vec::new(), turn: AtomicUsize::new(0) });
                    leaf.shared.len() - 1
                });
                &mut leaf.shared[index].members
            }
        };
        match list.iter_mut().find(|e| e.key == entry.key) {
            Some(old) => *old = entry,
            None => {
                list.push(entry);
                self.count += 1;
                return true;
            }
        }
        false
    }

    /// Removes the subscription of `key`; branches that hold nothing any more go with it.
    pub fn remove(&mut self, filter: &str, group: Option<&str>, key: u64) -> bool {
        let levels: Vec<&str> = filter.split('/').collect();
        let removed = remove(&mut self.root, &levels, group, key);
        self.count -= usize::from(removed);
        removed
    }

    /// Calls back for every subscription that matches `topic`.
    pub fn matches<'t>(
        &'t self,
        topic: &str,
        plain: &mut impl FnMut(&'t Entry<S>),
        shared: &mut impl FnMut(&'t Group<S>),
    ) {
        walk(&self.root, Some(topic), topic.starts_with('$'), plain, shared);
    }
}

fn walk<'t, S>(
    node: &'t Node<S>,
    topic: Option<&str>,
    hidden: bool,
    plain: &mut impl FnMut(&'t Entry<S>),
    shared: &mut impl FnMut(&'t Group<S>),
) {
    // "#" names the parent level too; wildcards in the first level do not see "$" topics
    if !hidden {
        node.rest.plain.iter().for_each(&mut *plain);
        node.rest.shared.iter().for_each(&mut *shared);
    }
    let Some(topic) = topic else {
        node.here.plain.iter().for_each(&mut *plain);
        node.here.shared.iter().for_each(&mut *shared);
        return;
    };
    let (level, rest) = match topic.split_once('/') {
        Some((level, rest)) => (level, Some(rest)),
        None => (topic, None),
    };
    if let Some(child) = node.children.get(level) {
        walk(child, rest, false, plain, shared);
    }
    if let Some(child) = node.plus.as_ref().filter(|_| !hidden) {
        walk(child, rest, false, plain, shared);
    }
}

fn remove<S>(node: &mut Node<S>, levels: &[&str], group: Option<&str>, key: u64) -> bool {
    match levels.split_first() {
        None => node.here.remove(group, key),
        Some((&"#", _)) => node.rest.remove(group, key),
        Some((&"+", rest)) => {
            let Some(child) = &mut node.plus else { return false };
            let removed = remove(child, rest, group, key);
            if child.is_empty() {
                node.plus = None;
            }
            removed
        }
        Some((level, rest)) => {
            let Some(child) = node.children.get_mut(*level) else { return false };
            let removed = remove(child, rest, group, key);
            if child.is_empty() {
                node.children.remove(*level);
            }
            removed
        }
    }
}

impl<S> Node<S> {
    fn is_empty(&self) -> bool {
        self.children.is_empty() && self.plus.is_none() && self.here.is_empty() && self.rest.is_empty()
    }
}

impl<S> Leaf<S> {
    fn is_empty(&self) -> bool {
        self.plain.is_empty() && self.shared.is_empty()
    }

    fn remove(&mut self, group: Option<&str>, key: u64) -> bool {
        let list = match group {
            None => &mut self.plain,
            Some(name) => match self.shared.iter_mut().find(|g| &*g.name == name) {
                Some(group) => &mut group.members,
                None => return false,
            },
        };
        let before = list.len();
        list.retain(|entry| entry.key != key);
        let removed = list.len() < before;
        self.shared.retain(|group| !group.members.is_empty());
        removed
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::access;

    fn entry(key: u64) -> Entry<()> {
        Entry { key, session: (), options: 0, identifier: 0 }
    }

    fn found(trie: &Trie<()>, topic: &str) -> Vec<u64> {
        let mut keys = Vec::new();
        let mut shared = Vec::new();
        trie.matches(topic, &mut |e| keys.push(e.key), &mut |g| shared.push(g.in_turn().next().expect("a member").key));
        keys.extend(shared);
        keys.sort_unstable();
        keys
    }

    fn filter() -> impl Strategy<Value = String> {
        proptest::collection::vec(proptest::sample::select(vec!["", "a", "b", "$x", "+", "#"]), 1..5).prop_map(
            |levels| {
                let end = levels.iter().position(|l| *l == "#").map_or(levels.len(), |at| at + 1);
                levels[..end].join("/")
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]
        #[test]
        fn the_tree_finds_what_matching_one_by_one_finds(
            filters in proptest::collection::vec(filter().prop_filter("empty", |f| !f.is_empty()), 1..12),
            topic in proptest::collection::vec(proptest::sample::select(vec!["", "a", "b", "$x"]), 1..5),
            gone in 0_usize..12,
        ) {
            let topic = topic.join("/");
            let mut trie = Trie::default();
            for (key, filter) in filters.iter().enumerate() {
                trie.insert(filter, None, entry(key as u64));
            }
            if let Some(filter) = filters.get(gone) {
                prop_assert!(trie.remove(filter, None, gone as u64));
            }
            let expected: Vec<u64> = (0..filters.len())
                .filter(|key| *key != gone && access::matches(&filters[*key], &topic))
                .map(|key| key as u64)
                .collect();
            prop_assert_eq!(found(&trie, &topic), expected);
            for (key, filter) in filters.iter().enumerate().filter(|(key, _)| *key != gone) {
                trie.remove(filter, None, key as u64);
            }
            prop_assert!(trie.root.is_empty() && trie.len() == 0);
        }
    }

    #[test]
    fn members_of_a_shared_subscription_take_turns() {
        let mut trie = Trie::default();
        for key in [1, 2, 3] {
            trie.insert("a/+", Some("g"), entry(key));
        }
        trie.insert("a/+", Some("other"), entry(9));
        let turns: Vec<Vec<u64>> = (0..3).map(|_| found(&trie, "a/b")).collect();
        assert_eq!(turns, vec![vec![1, 9], vec![2, 9], vec![3, 9]]);
        assert!(trie.remove("a/+", Some("g"), 2) && !trie.remove("a/+", Some("g"), 2));
        assert_eq!(trie.len(), 3);
    }

    #[test]
    fn shared_filters_have_a_grammar() {
        assert_eq!(split_shared("$share/g/a/b"), Ok((Some("g"), "a/b")));
        assert_eq!(split_shared("$shared/g"), Ok((None, "$shared/g")));
        for bad in ["$share", "$share/", "$share/g", "$share/g/", "$share//a", "$share/+/a", "$share/g#/a"] {
            assert!(split_shared(bad).is_err(), "{bad}");
        }
    }
}
