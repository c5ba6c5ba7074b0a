//! Which configuration a device should have and which it has: assignment by priority, pushes, acknowledgements, drift.
//!
//! ```text
//!  assigned ─▶ pending ─ push ─▶ (ack within 5 min) ─▶ applied ──▶ says another version ─┐
//!                 ▲ └── up to 3 pushes, then quiet        rejected: until another is assigned │
//!                 └───────────────────────────────────────────────────────────────────────────┘
//!  not applied for 24 h ─▶ alarm, once
//! ```

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::time::Millis;

/// What a configuration is assigned to. The order is that of the usual priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    Type,
    Group,
    Device,
}

impl Scope {
    pub fn word(self) -> &'static str {
        match self {
            Scope::Type => "type",
            Scope::Group => "group",
            Scope::Device => "device",
        }
    }

    /// Where nobody says otherwise, what is closer to the device wins.
    pub fn usual_priority(self) -> i64 {
        match self {
            Scope::Type => 100,
            Scope::Group => 200,
            Scope::Device => 300,
        }
    }
}

/// A configuration document for a device, a group or a type.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Assigned {
    pub scope: Scope,
    /// The device's id, or the name of the group or type.
    pub name: String,
    pub version: u64,
    /// The highest wins; of equals the scope that is closer to the device, then the name.
    pub priority: i64,
    pub config: Json,
    /// SHA-256 of the configuration's compact JSON, hex.
    pub hash: String,
}

/// The one that counts.
pub fn effective(assigned: Vec<Assigned>) -> Option<Assigned> {
    assigned.into_iter().max_by(|a, b| (a.priority, a.scope, &b.name).cmp(&(b.priority, b.scope, &a.name)))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Pending,
    Applied,
    Rejected,
}

/// How one device stands to its configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Standing {
    pub desired: Assigned,
    pub status: Status,
    /// Since when it has not had what it should have.
    pub since: Millis,
    pub pushes: u32,
    #[serde(default)]
    pub pushed: Option<Millis>,
    #[serde(default)]
    pub applied_version: Option<u64>,
    #[serde(default)]
    pub applied_hash: Option<String>,
    #[serde(default)]
    pub reason: Option<String>,
    #[serde(default)]
    pub alarmed: bool,
}

/// When to push again and when to call for help, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    pub ack: i64,
    pub pushes: u32,
    pub alarm: i64,
}

/// What is to be done for a device now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Push,
    Alarm,
}

impl Standing {
    fn new(desired: Assigned, now: Millis) -> Standing {
        Standing {
            desired,
            status: Status::Pending,
            since: now,
            pushes: 0,
            pushed: None,
            applied_version: None,
            applied_hash: None,
            reason: None,
            alarmed: false,
        }
    }

    /// What `before` becomes when `desired` is what counts now; pushes begin anew only for another configuration.
    pub fn assign(before: Option<Standing>, desired: Option<Assigned>, now: Millis) -> Option<Standing> {
        let desired = desired?;
        match before {
            None => Some(Standing::new(desired, now)),
            Some(before) if before.desired.hash == desired.hash && before.desired.version == desired.version => {
                Some(Standing { desired, ..before })
            }
            Some(before) => {
                let (applied_version, applied_hash) = (before.applied_version, before.applied_hash);
                Some(Standing { applied_version, applied_hash, ..Standing::new(desired, now) })
            }
        }
    }

    /// `config/ack`. One for another version says what the device has, not what it thinks of the desired one.
    pub fn acknowledged(&mut self, version: u64, applied: bool, reason: Option<String>) {
        if version != self.desired.version {
            if applied {
                (self.applied_version, self.applied_hash) = (Some(version), None);
            }
            return;
        }
        self.reason = reason;
        if applied {
            self.status = Status::Applied;
            self.applied_version = Some(version);
            self.applied_hash = Some(self.desired.hash.clone());
            self.alarmed = false;
        } else {
            self.status = Status::Rejected;
        }
    }

    /// The device says which version it runs: another than the desired one is drift, and is mended.
    pub fn runs(&mut self, version: u64, now: Millis) {
        match self.status {
            // The document of a type and that of a device may bear one number: where it had an earlier one of that
            // number, only an acknowledgement tells them apart.
            Status::Pending if version == self.desired.version => {
                if self.applied_version != Some(version) {
                    self.acknowledged(version, true, None);
                }
            }
            Status::Pending if self.applied_version != Some(version) => {
                (self.applied_version, self.applied_hash) = (Some(version), None);
            }
            Status::Applied if version != self.desired.version => {
                (self.status, self.since, self.pushes, self.pushed) = (Status::Pending, now, 0, None);
                (self.applied_version, self.applied_hash) = (Some(version), None);
                self.reason = Some(format!("the device says it runs version {version}"));
            }
            Status::Pending | Status::Applied | Status::Rejected => {}
        }
    }

    /// What is due; `connected` devices only are pushed to again, the first push waits for nobody.
    pub fn step(&self, connected: bool, patience: &Patience, now: Millis) -> Option<Step> {
        if self.status == Status::Applied {
            return None;
        }
        let overdue = self.pushed.is_none_or(|pushed| now.since(pushed) >= patience.ack);
        if self.status == Status::Pending
            && overdue
            && (self.pushes == 0 || (connected && self.pushes < patience.pushes))
        {
            return Some(Step::Push);
        }
        (!self.alarmed && now.since(self.since) >= patience.alarm).then_some(Step::Alarm)
    }

    /// What is wrong, for people.
    pub fn text(&self) -> String {
        let has = self.applied_version.map_or_else(|| "none".to_owned(), |version| format!("version {version}"));
        let why = self.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        format!("should have configuration version {}, has {has}{why}", self.desired.version)
    }

    pub fn pushed(&mut self, now: Millis) {
        self.pushes += 1;
        self.pushed = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const PATIENCE: Patience = Patience { ack: 300_000, pushes: 3, alarm: 86_400_000 };

    fn assigned(scope: Scope, name: &str, version: u64) -> Assigned {
        let hash = format!("{scope:?}{name}{version}");
        Assigned { scope, name: name.into(), version, priority: scope.usual_priority(), config: json!({}), hash }
    }

    #[test]
    fn the_closest_counts_unless_a_priority_says_otherwise() {
        let mut all =
            vec![assigned(Scope::Type, "meter", 1), assigned(Scope::Device, "d", 2), assigned(Scope::Group, "g", 3)];
        assert_eq!(effective(all.clone()).map(|a| a.scope), Some(Scope::Device));
        all[0].priority = 1000;
        assert_eq!(effective(all).map(|a| a.scope), Some(Scope::Type));
        let groups = vec![assigned(Scope::Group, "b", 1), assigned(Scope::Group, "a", 1)];
        assert_eq!(effective(groups).map(|a| a.name), Some("a".into()), "of equals the first by name");
        assert_eq!(effective(Vec::new()), None);
    }

    #[test]
    fn it_is_pushed_three_times_and_an_alarm_is_raised_once() {
        let mut standing = Standing::assign(None, Some(assigned(Scope::Device, "d", 1)), Millis(0)).expect("assigned");
        let (mut pushes, mut alarms) = (Vec::new(), Vec::new());
        for minute in 0..2 * 24 * 60 {
            let now = Millis(minute * 60_000);
            match standing.step(true, &PATIENCE, now) {
                Some(Step::Push) => {
                    standing.pushed(now);
                    pushes.push(minute);
                }
                Some(Step::Alarm) => {
                    standing.alarmed = true;
                    alarms.push(minute);
                }
                None => {}
            }
        }
        assert_eq!((pushes, alarms), (vec![0, 5, 10], vec![24 * 60]));
        let now = Millis(1 << 40);
        let same = Standing::assign(Some(standing.clone()), Some(assigned(Scope::Device, "d", 1)), now).expect("same");
        assert_eq!(same.step(true, &PATIENCE, now), None, "the same again begins nothing");
        let other = Standing::assign(Some(standing), Some(assigned(Scope::Device, "d", 2)), now).expect("other");
        assert_eq!(other.step(false, &PATIENCE, now), Some(Step::Push));
    }

    #[test]
    fn a_number_that_two_documents_bear_proves_nothing() {
        let of_type = Some(assigned(Scope::Type, "meter", 1));
        let mut standing = Standing::assign(None, of_type, Millis(0)).expect("assigned");
        standing.acknowledged(1, true, None);
        let own = Some(assigned(Scope::Device, "d", 1));
        let mut standing = Standing::assign(Some(standing), own, Millis(5)).expect("another document");
        standing.runs(1, Millis(6));
        assert_eq!(standing.status, Status::Pending, "it may be the version 1 of its type");
        standing.acknowledged(1, true, None);
        assert_eq!(standing.applied_hash.as_ref(), Some(&standing.desired.hash));
    }

    #[test]
    fn what_a_device_runs_is_known_while_its_configuration_is_on_the_way() {
        let mut standing = Standing::assign(None, Some(assigned(Scope::Device, "d", 7)), Millis(0)).expect("assigned");
        standing.runs(6, Millis(1));
        assert_eq!((standing.status, standing.applied_version), (Status::Pending, Some(6)));
        standing.runs(7, Millis(2));
        assert_eq!((standing.status, standing.applied_version), (Status::Applied, Some(7)));
    }

    #[test]
    fn a_device_that_is_away_is_not_pushed_to_again_and_drift_is_noticed() {
        let mut standing = Standing::assign(None, Some(assigned(Scope::Device, "d", 7)), Millis(0)).expect("assigned");
        standing.pushed(Millis(0));
        assert_eq!(standing.step(false, &PATIENCE, Millis(600_000)), None);
        assert_eq!(standing.step(true, &PATIENCE, Millis(600_000)), Some(Step::Push));
        standing.acknowledged(6, true, None);
        assert_eq!((standing.status, standing.applied_version), (Status::Pending, Some(6)));
        standing.acknowledged(7, true, None);
        assert_eq!(
            (standing.status, standing.applied_hash.clone()),
            (Status::Applied, Some(standing.desired.hash.clone()))
        );
        standing.runs(7, Millis(5));
        assert_eq!(standing.step(true, &PATIENCE, Millis(1 << 40)), None);
        standing.runs(6, Millis(700_000));
        assert_eq!(standing.step(true, &PATIENCE, Millis(700_000)), Some(Step::Push));
        standing.acknowledged(7, false, Some("no such key".into()));
        assert_eq!(standing.step(true, &PATIENCE, Millis(1_700_000)), None, "rejected: pushing again mends nothing");
    }
}
