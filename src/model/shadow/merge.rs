//! A request applied to what is stored.

use std::sync::Arc;

use super::{Change, Document, Limits, Patch, Rejection, Request, Slot, State, Tree};
use crate::model::time::Millis;

/// An accepted update: what was, what is, and the request that made the difference.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub previous: Option<Arc<Document>>,
    pub current: Arc<Document>,
    pub request: Request,
    pub at: Millis,
}

/// Applies `request` to what is stored. A rejected request changes nothing and consumes no version.
pub fn merge(slot: &Slot, request: Request, now: Millis, limits: &Limits) -> Result<Outcome, Rejection> {
    let before = slot.live();
    let expected = before.map_or(0, |document| document.version);
    if request.version.is_some_and(|version| version != expected) {
        return Err(Rejection::new(409, "Version conflict", request.token));
    }
    let mut document = before.map(|document| Document::clone(document)).unwrap_or_default();
    match &request.state {
        State::Remove => (document.desired, document.reported) = Default::default(),
        State::Sections { desired, reported } => {
            apply(&mut document.desired, desired, now);
            apply(&mut document.reported, reported, now);
        }
    }
    document.version = slot.last_version(now) + 1;
    let size = document.state_bytes();
    if size > limits.state_bytes && size > before.map_or(0, |document| document.state_bytes()) {
        return Err(Rejection::new(413, "The payload exceeds the maximum size allowed", request.token));
    }
    Ok(Outcome { previous: before.cloned(), current: Arc::new(document), request, at: now })
}

fn apply(section: &mut Tree, patch: &Patch, now: Millis) {
    match patch {
        Patch::Untouched => {}
        Patch::Remove => *section = Tree::default(),
        Patch::Merge(map) => section.merge(map, now.seconds()),
    }
}

impl Outcome {
    /// What became different, at most `most` entries; paths begin with the section's name.
    pub fn changes(&self, most: usize) -> Vec<Change> {
        let nothing = Document::default();
        let before = self.previous.as_deref().unwrap_or(&nothing);
        let mut found = Vec::new();
        before.desired.changes(&self.current.desired, "desired", most, &mut found);
        before.reported.changes(&self.current.reported, "reported", most, &mut found);
        found
    }

    pub fn reported_changed(&self) -> bool {
        match &self.previous {
            None => !self.current.reported.is_empty(),
            Some(before) => !before.reported.same_values(&self.current.reported),
        }
    }

    pub fn desired_changed(&self) -> bool {
        match &self.previous {
            None => !self.current.desired.is_empty(),
            Some(before) => !before.desired.same_values(&self.current.desired),
        }
    }

    /// Whether any value became different; stamps and version do not count.
    pub fn changed(&self) -> bool {
        self.previous.is_none() || self.desired_changed() || self.reported_changed()
    }
}
