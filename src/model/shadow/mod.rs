//! The device shadow as a pure value: what is stored, how a request changes it, what is then said. No clock, no I/O.
//!
//! A [`Document`] keeps one tree per section whose leaves carry their time stamp, so that metadata cannot disagree with
//! the values. `docs/shadow.md` describes the requests and answers.

mod answer;
#[cfg(test)]
mod laws;
mod merge;
pub mod reconcile;
mod request;
mod tree;

use std::{fmt::Write as _, sync::Arc};

use serde_json::{Map, Value as Json};

pub use answer::{deleted, got};
pub use merge::{Outcome, merge};
pub(in crate::model) use request::TOKEN_BYTES;
pub use request::{Patch, Rejection, Request, State, token_of};
pub use tree::{Change, Node, Tree};

use super::time::Millis;

/// Seconds a deleted shadow's version is remembered: an update within this time goes on counting.
pub const TOMBSTONE_SECONDS: i64 = 48 * 3600;

/// The named shadow in which the gateway says what stands between desired and reported: reported `problems` and `locks`.
/// Only the gateway writes it.
pub const OWN_SHADOW: &str = "headgate";

/// What a request may hold. The defaults are those of the big cloud, so that every document fits there too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of compact JSON of desired and reported together, metadata not counted.
    pub state_bytes: usize,
    /// Levels of members below `desired` or `reported`.
    pub depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { state_bytes: 8192, depth: 8 }
    }
}

/// A stored shadow. An empty section is the same as none.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Document {
    pub desired: Tree,
    pub reported: Tree,
    /// From 1, plus one with every accepted update.
    pub version: u64,
}

impl Document {
    /// Desired − reported: the members of desired that reported does not have with the same value, with their stamps.
    pub fn delta(&self) -> Tree {
        self.desired.difference(&self.reported)
    }

    pub fn desired(&self) -> Map<String, Json> {
        self.desired.to_map()
    }

    pub fn reported(&self) -> Map<String, Json> {
        self.reported.to_map()
    }

    /// Bytes of compact JSON of both sections, as the limit counts them.
    pub fn state_bytes(&self) -> usize {
        [&self.desired, &self.reported].into_iter().filter(|t| !t.is_empty()).map(Tree::json_len).sum()
    }

    /// The form on disk: values as JSON, stamps run-length coded in the order of the leaves.
    pub fn encode(&self) -> Vec<u8> {
        let mut text = Vec::with_capacity(256);
        for (name, tree) in [("{\"d\":", &self.desired), (",\"r\":", &self.reported)] {
            text.extend_from_slice(name.as_bytes());
            tree.write_values(&mut text);
        }
        let mut stamps = String::new();
        let mut run: Option<(i64, u64)> = None;
        let mut put = |stamp: Option<i64>| match (&mut run, stamp) {
            (Some((same, count)), Some(stamp)) if *same == stamp => *count += 1,
            (before, stamp) => {
                if let Some((stamp, count)) = before.take() {
                    let comma = if stamps.is_empty() { "" } else { "," };
                    let _ = write!(stamps, "{comma}{stamp},{count}");
                }
                *before = stamp.map(|stamp| (stamp, 1));
            }
        };
        self.desired.stamps(&mut |stamp| put(Some(stamp)));
        self.reported.stamps(&mut |stamp| put(Some(stamp)));
        put(None);
        text.extend_from_slice(b",\"s\":[");
        text.extend_from_slice(stamps.as_bytes());
        text.extend_from_slice(b"]}");
        text
    }

    /// Back from [`Document::encode`]; the error says what is damaged.
    pub fn decode(bytes: &[u8], version: u64) -> Result<Document, String> {
        #[derive(serde::Deserialize)]
        struct Stored {
            d: Map<String, Json>,
            r: Map<String, Json>,
            s: Vec<i64>,
        }
        let stored: Stored = serde_json::from_slice(bytes).map_err(|e| format!("a stored shadow is no JSON: {e}"))?;
        let mut runs = stored.s.chunks_exact(2).flat_map(|run| {
            let count = usize::try_from(run[1]).unwrap_or(0);
            std::iter::repeat_n(run[0], count.min(1 << 20))
        });
        let mut next = || runs.next();
        let tree = |map, next: &mut dyn FnMut() -> Option<i64>| {
            Tree::restore(map, next).ok_or_else(|| "a stored shadow has fewer time stamps than values".to_owned())
        };
        Ok(Document { desired: tree(stored.d, &mut next)?, reported: tree(stored.r, &mut next)?, version })
    }
}

/// What is known under a shadow's name.
#[derive(Debug, Clone, Default)]
pub enum Slot {
    #[default]
    Absent,
    Live(Arc<Document>),
    /// Deleted at `at`; `version` is the one the deletion took.
    Tombstone {
        version: u64,
        at: Millis,
    },
}

impl Slot {
    pub fn live(&self) -> Option<&Arc<Document>> {
        match self {
            Slot::Live(document) => Some(document),
            _ => None,
        }
    }

    /// The version before the next one: 0 where numbering starts anew.
    fn last_version(&self, now: Millis) -> u64 {
        match self {
            Slot::Absent => 0,
            Slot::Live(document) => document.version,
            Slot::Tombstone { version, at } if now.since(*at) < TOMBSTONE_SECONDS * 1000 => *version,
            Slot::Tombstone { .. } => 0,
        }
    }
}

/// Whether `name` can be a shadow's name: 1 to 64 of `[$a-zA-Z0-9:_-]`.
pub fn name_is_valid(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'$' | b':' | b'_' | b'-'))
}
