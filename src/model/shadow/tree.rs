//! One section of a shadow: an object whose leaves carry the second in which they were last written.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::{Map, Value as Json};

/// A member of a section. Arrays are values: replaced whole, so one stamp serves all their elements.
#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    /// Anything but an object or null.
    Leaf {
        value: Json,
        stamp: i64,
    },
    Object(Tree),
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Tree(BTreeMap<String, Node>);

/// One member that is not what it was: the path below the section, and both values.
#[derive(Debug, Clone, PartialEq, Serialize, serde::Deserialize)]
pub struct Change {
    pub path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Json>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Json>,
}

impl Tree {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn get(&self, name: &str) -> Option<&Node> {
        self.0.get(name)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&String, &Node)> {
        self.0.iter()
    }

    /// Merges `patch`: null removes, objects recurse, anything else replaces. Every leaf named is stamped.
    pub fn merge(&mut self, patch: &Map<String, Json>, stamp: i64) {
        for (name, value) in patch {
            match value {
                Json::Null => {
                    self.0.remove(name);
                }
                Json::Object(below) => {
                    if let Some(Node::Object(tree)) = self.0.get_mut(name) {
                        tree.merge(below, stamp);
                    } else {
                        let mut tree = Tree::default();
                        tree.merge(below, stamp);
                        self.0.insert(name.clone(), Node::Object(tree));
                    }
                }
                _ => {
                    self.0.insert(name.clone(), Node::Leaf { value: value.clone(), stamp });
                }
            }
        }
    }

    /// The members of `self` that `other` does not have with the same value; whole subtrees where `other` has none.
    pub fn difference(&self, other: &Tree) -> Tree {
        let mut found = BTreeMap::new();
        for (name, node) in &self.0 {
            match (node, other.0.get(name)) {
                (Node::Object(mine), Some(Node::Object(theirs))) => {
                    let below = mine.difference(theirs);
                    if !below.is_empty() {
                        found.insert(name.clone(), Node::Object(below));
                    }
                }
                (Node::Leaf { value: mine, .. }, Some(Node::Leaf { value: theirs, .. })) if same(mine, theirs) => {}
                _ => {
                    found.insert(name.clone(), node.clone());
                }
            }
        }
        Tree(found)
    }

    /// Whether both hold the same values; stamps do not matter.
    pub fn same_values(&self, other: &Tree) -> bool {
        self.0.len() == other.0.len()
            && self.0.iter().zip(&other.0).all(|((name, mine), (other_name, theirs))| {
                name == other_name
                    && match (mine, theirs) {
                        (Node::Object(mine), Node::Object(theirs)) => mine.same_values(theirs),
                        (Node::Leaf { value: mine, .. }, Node::Leaf { value: theirs, .. }) => same(mine, theirs),
                        _ => false,
                    }
            })
    }

    /// What became different from `self` to `after`, at most up to `found.len() == most`.
    pub fn changes(&self, after: &Tree, prefix: &str, most: usize, found: &mut Vec<Change>) {
        let names = self.0.keys().chain(after.0.keys().filter(|name| !self.0.contains_key(*name)));
        for name in names {
            if found.len() >= most {
                return;
            }
            let path = format!("{prefix}/{name}");
            match (self.0.get(name), after.0.get(name)) {
                (Some(Node::Object(before)), Some(Node::Object(now))) => before.changes(now, &path, most, found),
                (Some(Node::Leaf { value: a, .. }), Some(Node::Leaf { value: b, .. })) if same(a, b) => {}
                (before, now) => {
                    found.push(Change { path, from: before.map(Node::to_json), to: now.map(Node::to_json) });
                }
            }
        }
    }

    pub fn to_map(&self) -> Map<String, Json> {
        self.0.iter().map(|(name, node)| (name.clone(), node.to_json())).collect()
    }

    /// The time stamp of each leaf, in the order of the values.
    pub(super) fn stamps(&self, put: &mut dyn FnMut(i64)) {
        for node in self.0.values() {
            match node {
                Node::Leaf { stamp, .. } => put(*stamp),
                Node::Object(tree) => tree.stamps(put),
            }
        }
    }

    /// Values and stamps together again; `None` where there are too few stamps.
    pub(super) fn restore(map: Map<String, Json>, next: &mut dyn FnMut() -> Option<i64>) -> Option<Tree> {
        let mut tree = BTreeMap::new();
        for (name, value) in map {
            let node = match value {
                Json::Object(below) => Node::Object(Tree::restore(below, next)?),
                value => Node::Leaf { value, stamp: next()? },
            };
            tree.insert(name, node);
        }
        Some(Tree(tree))
    }

    pub(super) fn write_values(&self, text: &mut Vec<u8>) {
        serde_json::to_writer(text, &Values(self)).expect("names and values of a shadow can be written as JSON");
    }

    pub(super) fn json_len(&self) -> usize {
        let mut count = Count(0);
        serde_json::to_writer(&mut count, &Values(self)).expect("names and values of a shadow can be written as JSON");
        count.0
    }
}

impl Node {
    pub fn to_json(&self) -> Json {
        match self {
            Node::Leaf { value, .. } => value.clone(),
            Node::Object(tree) => Json::Object(tree.to_map()),
        }
    }
}

/// Whether two JSON values mean the same: numbers by value (`1` is `1.0`), arrays in order, members in any order.
pub fn same(a: &Json, b: &Json) -> bool {
    match (a, b) {
        (Json::Number(a), Json::Number(b)) => a == b || same_number(a, b),
        (Json::Array(a), Json::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Json::Object(a), Json::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| same(a, b)))
        }
        _ => a == b,
    }
}

fn same_number(a: &serde_json::Number, b: &serde_json::Number) -> bool {
    let whole = |n: &serde_json::Number| n.as_i64().map(i128::from).or_else(|| n.as_u64().map(i128::from));
    match (whole(a), whole(b)) {
        (Some(a), Some(b)) => a == b,
        (Some(whole), None) => b.as_f64().is_some_and(|f| f.fract() == 0.0 && f as i128 == whole),
        (None, Some(whole)) => a.as_f64().is_some_and(|f| f.fract() == 0.0 && f as i128 == whole),
        (None, None) => a.as_f64() == b.as_f64(),
    }
}

struct Count(usize);

impl std::io::Write for Count {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A tree as the object that was sent.
pub struct Values<'t>(pub &'t Tree);

impl Serialize for Values<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.0.len()))?;
        for (name, node) in &self.0.0 {
            match node {
                Node::Leaf { value, .. } => map.serialize_entry(name, value)?,
                Node::Object(tree) => map.serialize_entry(name, &Values(tree))?,
            }
        }
        map.end()
    }
}

/// A tree as its metadata.
pub struct Metadata<'t>(pub &'t Tree);

impl Serialize for Metadata<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.0.len()))?;
        for (name, node) in &self.0.0 {
            match node {
                Node::Leaf { value, stamp } => map.serialize_entry(name, &Mirror { value, stamp: *stamp })?,
                Node::Object(tree) => map.serialize_entry(name, &Metadata(tree))?,
            }
        }
        map.end()
    }
}

/// A JSON value as its metadata, every leaf and every null with the same stamp.
pub struct Mirror<'v> {
    pub value: &'v Json,
    pub stamp: i64,
}

impl Serialize for Mirror<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let below = |value| Mirror { value, stamp: self.stamp };
        match self.value {
            Json::Array(items) => serializer.collect_seq(items.iter().map(below)),
            Json::Object(members) => serializer.collect_map(members.iter().map(|(name, value)| (name, below(value)))),
            _ => serializer.collect_map([("timestamp", self.stamp)]),
        }
    }
}
