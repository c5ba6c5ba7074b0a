//! Drift: a device is not what it should be, in its configuration, its firmware or its identity. What is found is held
//! against what was known; time is an argument.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{ids::DeviceId, time::Millis};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// It has not applied the configuration that counts for it.
    Configuration,
    /// It says that it runs another firmware than is desired, or than was installed last.
    Firmware,
    /// It is not the unit it should be, or what it proves itself with was to be renewed and was not.
    Identity,
}

impl Kind {
    pub const ALL: [Kind; 3] = [Kind::Configuration, Kind::Firmware, Kind::Identity];

    pub fn word(self) -> &'static str {
        match self {
            Kind::Configuration => "configuration",
            Kind::Firmware => "firmware",
            Kind::Identity => "identity",
        }
    }

    pub fn parse(word: &str) -> Option<Kind> {
        Self::ALL.into_iter().find(|kind| kind.word() == word)
    }

    /// The type of the alarm it becomes.
    pub fn alarm(self) -> &'static str {
        match self {
            Kind::Configuration => super::alarm::CONFIG_DRIFT,
            Kind::Firmware => super::alarm::FIRMWARE_DRIFT,
            Kind::Identity => super::alarm::IDENTITY_DRIFT,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Drift {
    pub kind: Kind,
    pub since: Millis,
    /// What is wrong, for people.
    pub text: String,
    /// It has lasted so long that an alarm was raised.
    #[serde(default)]
    pub alarmed: bool,
}

/// All drift there is.
pub type Drifts = BTreeMap<(DeviceId, Kind), Drift>;

/// What is to be written down; empty where everything is as it was.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plan {
    pub keep: Vec<(DeviceId, Drift)>,
    pub end: Vec<(DeviceId, Kind)>,
    /// Kept ones for which the alarm is raised now.
    pub raise: Vec<(DeviceId, Kind)>,
}

impl Plan {
    pub fn is_empty(&self) -> bool {
        self.keep.is_empty() && self.end.is_empty()
    }

    /// What is known once it is carried out.
    pub fn applied(&self, known: &Drifts) -> Drifts {
        let mut drifts = known.clone();
        self.end.iter().for_each(|key| drop(drifts.remove(key)));
        drifts.extend(self.keep.iter().map(|(device, drift)| ((device.clone(), drift.kind), drift.clone())));
        drifts
    }
}

/// Drift that raises no alarm: that of a device in maintenance, and what has an alarm of its own.
pub type Calm = BTreeSet<(DeviceId, Kind)>;

/// Holds what is found against what is `known`. Drift that was known keeps the time at which it began.
pub fn plan(known: &Drifts, found: Vec<(DeviceId, Drift)>, calm: &Calm, patience: i64, now: Millis) -> Plan {
    let mut plan = Plan::default();
    let mut still = BTreeSet::new();
    for (device, mut drift) in found {
        let key = (device.clone(), drift.kind);
        let before = known.get(&key);
        if let Some(before) = before {
            (drift.since, drift.alarmed) = (before.since, before.alarmed);
        }
        let late = now.since(drift.since) >= patience;
        if late && !drift.alarmed && !calm.contains(&key) {
            drift.alarmed = true;
            plan.raise.push(key.clone());
        }
        if before != Some(&drift) {
            plan.keep.push((device, drift));
        }
        still.insert(key);
    }
    plan.end = known.keys().filter(|key| !still.contains(key)).cloned().collect();
    plan
}

/// When the next alarm is to be raised, if nothing changes until then.
pub fn next_alarm(known: &Drifts, calm: &Calm, patience: i64) -> Option<Millis> {
    let waiting = known.iter().filter(|(key, drift)| !drift.alarmed && !calm.contains(key));
    waiting.map(|(_, drift)| drift.since.plus(patience)).min()
}

/// How many devices are as they should be, and how many are not, by kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Compliance {
    /// Devices that take part.
    pub devices: usize,
    pub compliant: usize,
    pub configuration: usize,
    pub firmware: usize,
    pub identity: usize,
    /// Devices of which an alarm was raised for their drift.
    pub alarmed: usize,
}

impl Compliance {
    pub fn count(devices: usize, drifts: &Drifts) -> Compliance {
        let of = |kind| drifts.keys().filter(|(_, k)| *k == kind).count();
        let distinct = |some: &dyn Fn(&Drift) -> bool| {
            drifts.iter().filter(|(_, drift)| some(drift)).map(|((device, _), _)| device).collect::<BTreeSet<_>>().len()
        };
        Compliance {
            devices,
            compliant: devices.saturating_sub(distinct(&|_| true)),
            configuration: of(Kind::Configuration),
            firmware: of(Kind::Firmware),
            identity: of(Kind::Identity),
            alarmed: distinct(&|drift| drift.alarmed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400_000;

    fn id(name: &str) -> DeviceId {
        DeviceId::new(name).expect("an id")
    }

    fn found(name: &str, kind: Kind, at: i64) -> (DeviceId, Drift) {
        (id(name), Drift { kind, since: Millis(at), text: "is not what it should be".into(), alarmed: false })
    }

    #[test]
    fn drift_keeps_its_beginning_raises_one_alarm_and_ends() {
        let none = BTreeSet::new();
        let begun = plan(&Drifts::new(), vec![found("a", Kind::Firmware, 5)], &none, DAY, Millis(5));
        assert_eq!((begun.keep.len(), begun.raise.len()), (1, 0));
        let known = begun.applied(&Drifts::new());
        let same = plan(&known, vec![found("a", Kind::Firmware, DAY)], &none, DAY, Millis(DAY));
        assert!(same.is_empty(), "the same again is not written: {same:?}");
        assert_eq!(next_alarm(&known, &none, DAY), Some(Millis(DAY + 5)));
        let late = plan(&known, vec![found("a", Kind::Firmware, DAY + 5)], &none, DAY, Millis(DAY + 5));
        assert_eq!(late.raise, vec![(id("a"), Kind::Firmware)]);
        let known = late.applied(&known);
        assert_eq!(known[&(id("a"), Kind::Firmware)].since, Millis(5));
        assert_eq!(next_alarm(&known, &none, DAY), None, "it is raised once");
        let again = plan(&known, vec![found("a", Kind::Firmware, 3 * DAY)], &none, DAY, Millis(3 * DAY));
        assert!(again.is_empty() && again.raise.is_empty());
        let over = plan(&known, Vec::new(), &none, DAY, Millis(4 * DAY));
        assert_eq!(over.end, vec![(id("a"), Kind::Firmware)]);
    }

    #[test]
    fn a_device_in_maintenance_drifts_and_raises_its_alarm_when_it_is_back_at_work() {
        let begun = plan(&Drifts::new(), vec![found("a", Kind::Configuration, 0)], &BTreeSet::new(), DAY, Millis(0));
        let known = begun.applied(&Drifts::new());
        let calm = Calm::from([(id("a"), Kind::Configuration)]);
        let later = |calm| plan(&known, vec![found("a", Kind::Configuration, 2 * DAY)], calm, DAY, Millis(2 * DAY));
        assert!(later(&calm).is_empty());
        assert_eq!(later(&BTreeSet::new()).raise.len(), 1);
    }

    #[test]
    fn a_device_that_drifts_twice_is_one_device_that_does_not_comply() {
        let all = vec![found("a", Kind::Firmware, 0), found("a", Kind::Identity, 0), found("b", Kind::Firmware, 0)];
        let known =
            plan(&Drifts::new(), all, &Calm::from([(id("a"), Kind::Identity)]), 0, Millis(1)).applied(&Drifts::new());
        let counts = Compliance::count(5, &known);
        assert_eq!((counts.compliant, counts.firmware, counts.identity, counts.configuration), (3, 2, 1, 0));
        assert_eq!(counts.alarmed, 2, "what runs out has an alarm of its own");
    }
}
