//! Two sides that both changed, made equal again: the three-way merge of a shadow against what both last agreed on.
//!
//! ```text
//!            base (last agreed)
//!           /                  \
//!      here (this gateway)    there (a cloud)
//!           \                  /
//!   merged: what one side changed counts; where both did, the section's policy says who
//! ```
//!
//! Members of objects are merged one by one, everything else as a whole. Values only: stamps and versions belong to
//! whoever stores them.

use serde_json::{Map, Value as Json};

use super::{Document, tree::same};

/// One of the two who hold a shadow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Here,
    There,
}

/// Who is right where both sides changed the same member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    pub desired: Side,
    pub reported: Side,
}

impl Policy {
    /// What is here counts in both sections.
    pub fn all_here(self) -> Policy {
        Policy { desired: Side::Here, reported: Side::Here }
    }
}

impl Default for Policy {
    /// The device knows what it is, the cloud knows what it wants.
    fn default() -> Self {
        Self { desired: Side::There, reported: Side::Here }
    }
}

/// The values of a shadow. Empty sections and absent ones are the same.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Sections {
    pub desired: Map<String, Json>,
    pub reported: Map<String, Json>,
}

/// A member both sides had changed, and what became of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Conflict {
    /// Begins with the section's name.
    pub path: String,
    pub winner: Side,
    pub won: Option<Json>,
    pub lost: Option<Json>,
}

/// What has to happen on one side.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// The `state` of an update request; creates the shadow where there is none.
    Update(Json),
    Delete,
}

/// What makes both sides equal. A side without a step is right already.
#[derive(Debug, Clone, PartialEq)]
pub struct Reconciled {
    /// What both will hold; `None` where the shadow is gone on both.
    pub merged: Option<Sections>,
    pub here: Option<Step>,
    pub there: Option<Step>,
    pub conflicts: Vec<Conflict>,
}

impl From<&Document> for Sections {
    fn from(document: &Document) -> Self {
        Self { desired: document.desired(), reported: document.reported() }
    }
}

impl Sections {
    /// From the `state` of a whole document (`get/accepted`); other members are ignored, nulls are nothing.
    pub fn from_state(state: &Json) -> Sections {
        let mut sections = Sections::default();
        sections.apply(state);
        sections
    }

    /// As it is stored, without times: those are kept by the shadow itself.
    pub fn to_document(&self, version: u64) -> Document {
        let mut document = Document { version, ..Document::default() };
        document.desired.merge(&self.desired, 0);
        document.reported.merge(&self.reported, 0);
        document
    }

    pub fn is_empty(&self) -> bool {
        self.desired.is_empty() && self.reported.is_empty()
    }

    /// Merges the `state` of an update request.
    pub fn apply(&mut self, state: &Json) {
        if state.is_null() {
            *self = Sections::default();
        }
        for (name, section) in [("desired", &mut self.desired), ("reported", &mut self.reported)] {
            match state.get(name) {
                Some(Json::Object(patch)) => patch_map(section, patch),
                Some(Json::Null) => section.clear(),
                _ => {}
            }
        }
    }

    /// Bytes of compact JSON of both, as the size limit counts them.
    pub fn bytes(&self) -> usize {
        let bytes = |section: &Map<String, Json>| match section.is_empty() {
            true => 0,
            false => serde_json::to_string(section).map_or(0, |text| text.len()),
        };
        bytes(&self.desired) + bytes(&self.reported)
    }

    pub fn same(&self, other: &Sections) -> bool {
        same_maps(&self.desired, &other.desired) && same_maps(&self.reported, &other.reported)
    }

    /// What two sides agree on; elsewhere what they agreed on before.
    pub fn agreed(base: &Sections, here: &Sections, there: &Sections) -> Sections {
        Sections {
            desired: agreed_map(&base.desired, &here.desired, &there.desired),
            reported: agreed_map(&base.reported, &here.reported, &there.reported),
        }
    }

    /// The `state` of the update request that makes `to` of `self`; `None` where both are the same.
    pub fn update_to(&self, to: &Sections) -> Option<Json> {
        let mut state = Map::new();
        for (name, from, to) in [("desired", &self.desired, &to.desired), ("reported", &self.reported, &to.reported)] {
            let patch = match to.is_empty() {
                true if from.is_empty() => continue,
                true => Json::Null,
                false => Json::Object(difference(from, to)),
            };
            if patch.as_object().is_none_or(|patch| !patch.is_empty()) {
                state.insert(name.to_owned(), patch);
            }
        }
        (!state.is_empty()).then_some(Json::Object(state))
    }
}

/// Makes two sides equal. `None` is a shadow that is not there: never made, or deleted.
pub fn reconcile(
    base: Option<&Sections>,
    here: Option<&Sections>,
    there: Option<&Sections>,
    policy: Policy,
) -> Reconciled {
    let nothing = Sections::default();
    let (was, mine, theirs) = (base.unwrap_or(&nothing), here.unwrap_or(&nothing), there.unwrap_or(&nothing));
    let mut conflicts = Vec::new();
    let mut section = |name, policy, was, mine, theirs| {
        merge_maps(was, mine, theirs, &mut At { policy, path: name, conflicts: &mut conflicts })
    };
    let merged = Sections {
        desired: section("desired", policy.desired, &was.desired, &mine.desired, &theirs.desired),
        reported: section("reported", policy.reported, &was.reported, &mine.reported, &theirs.reported),
    };
    // Deleted on one side and nothing new on the other: gone on both. A side that wrote meanwhile brings it back.
    let gone = merged.is_empty() && (here.is_none() || there.is_none()) && (base.is_some() || here == there);
    if gone {
        let step = |side: Option<&Sections>| side.map(|_| Step::Delete);
        return Reconciled { merged: None, here: step(here), there: step(there), conflicts };
    }
    let step = |side: Option<&Sections>, values: &Sections| match (side, values.update_to(&merged)) {
        (_, Some(state)) => Some(Step::Update(state)),
        (None, None) => Some(Step::Update(Json::Object(Map::new()))),
        (Some(_), None) => None,
    };
    Reconciled { here: step(here, mine), there: step(there, theirs), merged: Some(merged), conflicts }
}

/// Where a merge is, and what it has met.
struct At<'a> {
    policy: Side,
    path: &'a str,
    conflicts: &'a mut Vec<Conflict>,
}

fn merge_maps(
    base: &Map<String, Json>,
    here: &Map<String, Json>,
    there: &Map<String, Json>,
    at: &mut At<'_>,
) -> Map<String, Json> {
    let mut merged = Map::new();
    for name in here.keys().chain(there.keys().filter(|name| !here.contains_key(*name))) {
        let path = format!("{}/{name}", at.path);
        let mut below = At { policy: at.policy, path: &path, conflicts: &mut *at.conflicts };
        if let Some(value) = merge_values(base.get(name), here.get(name), there.get(name), &mut below) {
            merged.insert(name.clone(), value);
        }
    }
    merged
}

fn merge_values(base: Option<&Json>, here: Option<&Json>, there: Option<&Json>, at: &mut At<'_>) -> Option<Json> {
    if same_options(here, there) || same_options(base, there) {
        return here.cloned();
    }
    if same_options(base, here) {
        return there.cloned();
    }
    if let (Some(Json::Object(here)), Some(Json::Object(there))) = (here, there) {
        let nothing = Map::new();
        let base = base.and_then(Json::as_object).unwrap_or(&nothing);
        return Some(Json::Object(merge_maps(base, here, there, at)));
    }
    let (won, lost) = match at.policy {
        Side::Here => (here, there),
        Side::There => (there, here),
    };
    at.conflicts.push(Conflict { path: at.path.to_owned(), winner: at.policy, won: won.cloned(), lost: lost.cloned() });
    won.cloned()
}

fn agreed_map(base: &Map<String, Json>, here: &Map<String, Json>, there: &Map<String, Json>) -> Map<String, Json> {
    let mut names: Vec<&String> = base.keys().chain(here.keys()).chain(there.keys()).collect();
    names.sort_unstable();
    names.dedup();
    let value = |name: &String| match (base.get(name), here.get(name), there.get(name)) {
        (_, here, there) if same_options(here, there) => here.cloned(),
        (base, Some(Json::Object(here)), Some(Json::Object(there))) => {
            let nothing = Map::new();
            let base = base.and_then(Json::as_object).unwrap_or(&nothing);
            Some(Json::Object(agreed_map(base, here, there)))
        }
        (base, _, _) => base.cloned(),
    };
    names.into_iter().filter_map(|name| Some((name.clone(), value(name)?))).collect()
}

/// The members of a request that makes `to` of `from`: null where one has to go.
fn difference(from: &Map<String, Json>, to: &Map<String, Json>) -> Map<String, Json> {
    let mut patch = Map::new();
    for name in from.keys().filter(|name| !to.contains_key(*name)) {
        patch.insert(name.clone(), Json::Null);
    }
    for (name, value) in to {
        match (from.get(name), value) {
            (Some(before), value) if same(before, value) => {}
            (Some(Json::Object(before)), Json::Object(after)) => {
                patch.insert(name.clone(), Json::Object(difference(before, after)));
            }
            _ => {
                patch.insert(name.clone(), value.clone());
            }
        }
    }
    patch
}

fn patch_map(section: &mut Map<String, Json>, patch: &Map<String, Json>) {
    for (name, value) in patch {
        match (value, section.get_mut(name)) {
            (Json::Null, _) => drop(section.remove(name)),
            (Json::Object(below), Some(Json::Object(there))) => patch_map(there, below),
            (Json::Object(below), _) => {
                let mut fresh = Map::new();
                patch_map(&mut fresh, below);
                section.insert(name.clone(), Json::Object(fresh));
            }
            _ => drop(section.insert(name.clone(), value.clone())),
        }
    }
}

fn same_options(a: Option<&Json>, b: Option<&Json>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => same(a, b),
        (None, None) => true,
        _ => false,
    }
}

fn same_maps(a: &Map<String, Json>, b: &Map<String, Json>) -> bool {
    a.len() == b.len() && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| same(a, b)))
}

#[cfg(test)]
mod tests;
