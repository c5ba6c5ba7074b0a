//! Readings and silence against the rules. A pure value: time is an argument, and what follows is returned.

use std::{collections::HashMap, time::Duration};

use crate::{
    config::rules::{Rule, When},
    model::{event::Severity, ids::DeviceId, reading::Reading},
};

/// An alarm that begins or ends.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    pub device: DeviceId,
    pub rule: String,
    pub severity: Severity,
    /// What is wrong; `None` where it is well again.
    pub raised: Option<String>,
}

/// One rule at one device.
#[derive(Debug, Default)]
struct Cell {
    /// Since when the condition holds.
    since: Option<Duration>,
    active: bool,
    /// The last good value, and when it came.
    value: f64,
    heard: Duration,
}

#[derive(Debug)]
pub struct Judge {
    rules: Vec<Rule>,
    cells: HashMap<(usize, DeviceId), Cell>,
}

impl Judge {
    /// `active` are the alarms that stand already, as (device, rule). Silence counts from `now`.
    pub fn new(rules: Vec<Rule>, active: &[(DeviceId, String)], now: Duration) -> Self {
        let mut cells: HashMap<(usize, DeviceId), Cell> = HashMap::new();
        let fresh = || Cell { heard: now, ..Cell::default() };
        for (index, rule) in rules.iter().enumerate() {
            for (device, name) in active.iter().filter(|(_, name)| *name == rule.name) {
                tracing::debug!(%device, rule = name, "an alarm still stands");
                cells.entry((index, device.clone())).or_insert_with(fresh).active = true;
            }
            if let (When::Absent(_), Some(device)) = (rule.when, &rule.device) {
                cells.entry((index, device.clone())).or_insert_with(fresh);
            }
        }
        Self { rules, cells }
    }

    /// Goes over to other rules. What a rule that stays as it is knows, it keeps; an alarm of a rule that changed stays
    /// until the new one finds it well; alarms of rules that are gone end now.
    pub fn change_rules(&mut self, rules: Vec<Rule>, now: Duration) -> Vec<Change> {
        let old = std::mem::replace(self, Judge::new(rules, &[], now));
        let mut ended = Vec::new();
        for ((index, device), cell) in old.cells {
            let Some(before) = old.rules.get(index) else { continue };
            match self.rules.iter().position(|rule| rule.name == before.name) {
                Some(place) if self.rules[place] == *before => {
                    self.cells.insert((place, device), cell);
                }
                Some(place) if cell.active && self.rules[place].is_about(&device) => {
                    self.cells.insert((place, device), Cell { since: None, heard: now, ..cell });
                }
                _ if cell.active => ended.push(before.change(&device, None)),
                _ => {}
            }
        }
        ended.sort_by(|a, b| (&a.device, &a.rule).cmp(&(&b.device, &b.rule)));
        ended
    }

    /// A reading that came at `now`, counted from the beginning.
    pub fn reading(&mut self, reading: &Reading, now: Duration) -> Vec<Change> {
        let mut changes = Vec::new();
        for (index, rule) in self.rules.iter().enumerate() {
            if !rule.is_about(&reading.device) {
                continue;
            }
            let good = |s: &&crate::model::reading::Sample| *s.name == *rule.value && s.quality.is_good();
            let Some(sample) = reading.samples.iter().find(good) else { continue };
            let number = sample.value.as_ref().and_then(|value| value.as_f64());
            let cell = self.cells.entry((index, reading.device.clone())).or_default();
            cell.heard = now;
            let (is, was_well) = match (rule.when, number) {
                (When::Absent(_), _) => (false, true),
                (_, None) => continue,
                (When::Above { limit, clear }, Some(value)) => (value > limit, value <= clear),
                (When::Below { limit, clear }, Some(value)) => (value < limit, value >= clear),
            };
            cell.value = number.unwrap_or_default();
            if is {
                cell.since.get_or_insert(now);
            } else if was_well || !cell.active {
                cell.since = None;
            }
            if cell.active && was_well && !is {
                cell.active = false;
                changes.push(rule.change(&reading.device, None));
            }
            changes.extend(rule.look(&reading.device, cell, now));
        }
        changes
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Duration) -> Vec<Change> {
        let rules = &self.rules;
        let look =
            |((index, device), cell): (&(usize, DeviceId), &mut Cell)| rules.get(*index)?.look(device, cell, now);
        let mut changes: Vec<Change> = self.cells.iter_mut().filter_map(look).collect();
        changes.sort_by(|a, b| (&a.device, &a.rule).cmp(&(&b.device, &b.rule)));
        changes
    }
}

impl Rule {
    fn is_about(&self, device: &DeviceId) -> bool {
        self.device.as_ref().is_none_or(|named| named == device)
    }

    fn look(&self, device: &DeviceId, cell: &mut Cell, now: Duration) -> Option<Change> {
        if cell.active {
            return None;
        }
        let text = match self.when {
            When::Absent(span) => {
                let silence = now.saturating_sub(cell.heard);
                (silence > span + self.hold).then(|| format!("no good {} for {span:.0?}", self.value))
            }
            When::Above { limit, .. } | When::Below { limit, .. } => {
                let held = cell.since.is_some_and(|since| now.saturating_sub(since) >= self.hold);
                let word = if matches!(self.when, When::Above { .. }) { "above" } else { "below" };
                held.then(|| format!("{} is {}, {word} {limit}", self.value, cell.value))
            }
        }?;
        cell.active = true;
        Some(self.change(device, Some(text)))
    }

    fn change(&self, device: &DeviceId, raised: Option<String>) -> Change {
        Change { device: device.clone(), rule: self.name.clone(), severity: self.severity, raised }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{
        reading::{Quality, Sample, Value},
        time::Millis,
    };

    fn rule(when: When, hold: u64) -> Rule {
        let (name, value) = ("r".to_owned(), "t".to_owned());
        Rule { name, device: None, value, when, hold: Duration::from_secs(hold), severity: Severity::Minor }
    }

    fn reading(value: f64) -> Reading {
        let device = DeviceId::new("d").expect("id");
        Reading { device, ts: Millis(0), samples: vec![Sample::good("t", Value::Float(value))] }
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_value_must_hold_before_it_is_an_alarm_and_fall_to_clear_before_it_is_none() {
        let mut judge = Judge::new(vec![rule(When::Above { limit: 80.0, clear: 75.0 }, 10)], &[], at(0));
        assert!(judge.reading(&reading(81.0), at(0)).is_empty());
        assert!(judge.reading(&reading(79.0), at(5)).is_empty());
        assert!(judge.reading(&reading(82.0), at(6)).is_empty());
        assert!(judge.tick(at(15)).is_empty());
        let raised = judge.tick(at(16));
        assert_eq!(raised[0].raised.as_deref(), Some("t is 82, above 80"));
        assert!(judge.reading(&reading(76.0), at(17)).is_empty());
        assert!(judge.reading(&reading(90.0), at(18)).is_empty());
        assert_eq!(judge.reading(&reading(75.0), at(19))[0].raised, None);
    }

    #[test]
    fn absence_is_an_alarm_and_a_bad_value_does_not_end_it() {
        let absent = Rule { device: Some(DeviceId::new("d").expect("id")), ..rule(When::Absent(at(60)), 0) };
        let mut judge = Judge::new(vec![absent.clone()], &[], at(0));
        assert!(judge.tick(at(60)).is_empty());
        assert_eq!(judge.tick(at(61)).len(), 1);
        let mut bad = reading(1.0);
        bad.samples[0].quality = Quality::Bad { reason: "exception".into() };
        assert!(judge.reading(&bad, at(62)).is_empty());
        assert_eq!(judge.reading(&reading(1.0), at(63))[0].raised, None);
        // An alarm that stands through a restart is not raised again, and is cleared.
        let mut judge = Judge::new(vec![absent], &[(DeviceId::new("d").expect("id"), "r".into())], at(0));
        assert!(judge.tick(at(100)).is_empty());
        assert_eq!(judge.reading(&reading(1.0), at(101))[0].raised, None);
    }

    #[test]
    fn other_rules_keep_what_stays_and_end_what_is_gone() {
        let named = |name: &str, limit| Rule { name: name.into(), ..rule(When::Above { limit, clear: limit }, 0) };
        let mut judge = Judge::new(vec![named("hot", 80.0), named("warm", 40.0), named("mild", 20.0)], &[], at(0));
        assert_eq!(judge.reading(&reading(90.0), at(1)).len(), 3);
        let ended = judge.change_rules(vec![named("mild", 20.0), named("hot", 95.0)], at(2));
        assert_eq!(ended.iter().map(|c| (c.rule.as_str(), c.raised.is_none())).collect::<Vec<_>>(), [("warm", true)]);
        // "mild" stands and is not raised twice; "hot" is judged by its new limit.
        let changes = judge.reading(&reading(91.0), at(3));
        assert_eq!(changes.iter().map(|c| (c.rule.as_str(), c.raised.is_none())).collect::<Vec<_>>(), [("hot", true)]);
    }

    proptest! {
        /// Raised and cleared take turns, whatever is measured, and the last word fits the last value.
        #[test]
        fn an_alarm_is_raised_and_cleared_by_turns(values in prop::collection::vec(0.0f64..100.0, 1..60)) {
            let mut judge = Judge::new(vec![rule(When::Below { limit: 20.0, clear: 30.0 }, 0)], &[], at(0));
            let mut active = false;
            for (second, value) in values.iter().enumerate() {
                for change in judge.reading(&reading(*value), at(second as u64)) {
                    prop_assert_ne!(change.raised.is_some(), active);
                    active = change.raised.is_some();
                }
                prop_assert!(*value >= 20.0 || active);
                prop_assert!(*value < 30.0 || !active);
            }
        }
    }
}
