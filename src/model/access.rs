//! Who may say and hear what on the local broker: topic filters, what covers what, and the rules. Pure.
//!
//! Everything is denied that no grant allows. A device holds its own subtrees `devices/{d}/…` and `$aws/things/{d}/…`
//! without being told; more is written in `access.toml`. What the gateway alone says (answers, delta, commands) cannot
//! be published by any client, whatever it was granted.

use std::{fmt, sync::Arc};

use super::{
    ids::DeviceId,
    topic::{CHILD_ROOT, LocalTopic, THINGS_ROOT},
};

/// A topic filter that follows the grammar (MQTT 5, 4.7): `+` and `#` stand alone in their level, `#` is last.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Filter(Arc<str>);

/// Why a text is no topic filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadFilter {
    #[error("a topic filter is empty")]
    Empty,
    #[error("a topic filter is longer than 65,535 bytes")]
    TooLong,
    #[error("a topic filter holds a zero character")]
    Zero,
    #[error("\"#\" stands alone in the last level")]
    Hash,
    #[error("\"+\" stands alone in its level")]
    Plus,
}

impl Filter {
    pub fn new(text: &str) -> Result<Self, BadFilter> {
        Self::check(text)?;
        Ok(Self(text.into()))
    }

    /// Whether `text` is a filter, without keeping it.
    pub fn check(text: &str) -> Result<(), BadFilter> {
        if text.is_empty() {
            return Err(BadFilter::Empty);
        }
        if text.len() > usize::from(u16::MAX) {
            return Err(BadFilter::TooLong);
        }
        if text.contains('\0') {
            return Err(BadFilter::Zero);
        }
        let mut levels = text.split('/').peekable();
        while let Some(level) = levels.next() {
            if level.contains('#') && (level != "#" || levels.peek().is_some()) {
                return Err(BadFilter::Hash);
            }
            if level.contains('+') && level != "+" {
                return Err(BadFilter::Plus);
            }
        }
        Ok(())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `topic` is one of those this filter names. A leading wildcard never names a `$` topic.
    pub fn matches(&self, topic: &str) -> bool {
        matches(&self.0, topic)
    }

    /// Whether every topic that `other` names is named by this filter too.
    pub fn covers(&self, other: &str) -> bool {
        covers(&self.0, other)
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a well-formed filter names a topic (MQTT 5, 4.7.1 and 4.7.2).
pub fn matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut topic = topic.split('/');
    for level in filter.split('/') {
        match (level, topic.next()) {
            ("#", _) => return true, // the parent level too
            ("+", Some(_)) => {}
            (word, Some(found)) if word == found => {}
            _ => return false,
        }
    }
    topic.next().is_none()
}

/// Whether `grant` names at least all topics that `asked` names; both well-formed.
pub fn covers(grant: &str, asked: &str) -> bool {
    if asked.starts_with('$') && grant.starts_with(['+', '#']) {
        return false;
    }
    let mut asked = asked.split('/');
    for level in grant.split('/') {
        match (level, asked.next()) {
            ("#", _) => return true,
            // "#" names any number of levels, and "+" exactly one
            (_, Some("#") | None) => return false,
            ("+", Some(_)) => {}
            (word, Some(found)) if word == found => {}
            _ => return false,
        }
    }
    asked.next().is_none()
}

/// To whom a grant is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Grantee {
    Everyone,
    Device(DeviceId),
    Group(String),
}

/// One grant or denial of `access.toml`. In filters, `{d}` as a whole level stands for the id of whoever asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    pub to: Vec<Grantee>,
    pub read: Vec<Filter>,
    pub write: Vec<Filter>,
}

/// The level that stands for the asker's own id.
pub const SELF: &str = "{d}";

/// Why it may not. Its text is shown to the child.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    #[error("no grant allows this identity to publish there")]
    Write,
    #[error("only the gateway speaks on this topic")]
    GatewayOnly,
    #[error("no grant of this identity covers the whole filter")]
    Read,
}

/// The rules. A denial goes before every grant, a device's own subtrees included: what it names cannot be published or
/// subscribed to, and is not delivered under a broader subscription either.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    pub grants: Vec<Grant>,
    pub denials: Vec<Grant>,
}

/// Whoever asks.
#[derive(Debug, Clone, Copy)]
pub struct Who<'a> {
    pub device: &'a DeviceId,
    pub groups: &'a [String],
}

impl Access {
    /// Whether `who` may publish to `topic` (a name without wildcards).
    pub fn may_publish(&self, who: Who<'_>, topic: &str) -> Result<(), Denied> {
        if matches!(LocalTopic::parse(topic), LocalTopic::GatewayOnly(_)) || topic.starts_with("$SYS/") {
            return Err(Denied::GatewayOnly);
        }
        if given(&self.denials, who).any(|g| any(&g.write, who, |f| matches(f, topic))) {
            return Err(Denied::Write);
        }
        if own(who.device, topic) || given(&self.grants, who).any(|g| any(&g.write, who, |f| matches(f, topic))) {
            return Ok(());
        }
        Err(Denied::Write)
    }

    /// Whether `who` may subscribe to `filter` (without `$share/{group}/`): one grant must cover all of it.
    pub fn may_subscribe(&self, who: Who<'_>, filter: &str) -> Result<(), Denied> {
        if given(&self.denials, who).any(|g| any(&g.read, who, |f| covers(f, filter))) {
            return Err(Denied::Read);
        }
        if own(who.device, filter) || given(&self.grants, who).any(|g| any(&g.read, who, |f| covers(f, filter))) {
            return Ok(());
        }
        Err(Denied::Read)
    }

    /// Whether a message on `topic` may be delivered to `who`.
    pub fn may_receive(&self, who: Who<'_>, topic: &str) -> bool {
        self.may_subscribe(who, topic).is_ok()
    }

    /// Whether there is any denial at all.
    pub fn denies(&self) -> bool {
        !self.denials.is_empty()
    }

    /// Whether a denial keeps a message on `topic` from `who`, whatever it subscribed to.
    pub fn denied(&self, who: Who<'_>, topic: &str) -> bool {
        given(&self.denials, who).any(|g| any(&g.read, who, |f| matches(f, topic)))
    }
}

/// Those that are given to whoever asks.
fn given<'g>(grants: &'g [Grant], who: Who<'g>) -> impl Iterator<Item = &'g Grant> {
    grants.iter().filter(move |grant| {
        grant.to.iter().any(|to| match to {
            Grantee::Everyone => true,
            Grantee::Device(device) => device == who.device,
            Grantee::Group(group) => who.groups.contains(group),
        })
    })
}

/// Whether a topic or filter lies wholly below one of the device's own roots.
fn own(device: &DeviceId, topic: &str) -> bool {
    [CHILD_ROOT, THINGS_ROOT].iter().any(|root| {
        let rest = topic.strip_prefix(root).and_then(|rest| rest.strip_prefix(device.as_str()));
        rest.is_some_and(|rest| rest.len() > 1 && rest.starts_with('/'))
    })
}

fn any(filters: &[Filter], who: Who<'_>, test: impl Fn(&str) -> bool) -> bool {
    filters.iter().any(|filter| {
        let filter = filter.as_str();
        if filter.contains(SELF) {
            let levels: Vec<&str> =
                filter.split('/').map(|level| if level == SELF { who.device.as_str() } else { level }).collect();
            return test(&levels.join("/"));
        }
        test(filter)
    })
}

#[cfg(test)]
#[path = "access_tests.rs"]
mod tests;
