//! The independent count: what a receiver holds, what was declared lost, and what is missing. Knows nothing of how the
//! gateway counts; it sees only what anyone at the cloud sees.

use std::{collections::BTreeMap, ops::RangeInclusive};

use serde_json::Value as Json;

/// A set of whole numbers, as runs: a complete series of any length is one entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Runs(BTreeMap<u64, u64>);

impl Runs {
    /// Adds every number of `range`; returns how many of them were new.
    pub fn insert(&mut self, range: RangeInclusive<u64>) -> u64 {
        let (mut first, mut last) = (*range.start(), *range.end());
        if first > last {
            return 0;
        }
        let before = self.len();
        // Every run that overlaps or touches becomes part of the new one.
        while let Some((&start, &end)) = self.0.range(..=last.saturating_add(1)).next_back() {
            if end < first.saturating_sub(1) {
                break;
            }
            self.0.remove(&start);
            first = first.min(start);
            last = last.max(end);
        }
        self.0.insert(first, last);
        self.len() - before
    }

    pub fn len(&self) -> u64 {
        self.0.iter().map(|(first, last)| last - first + 1).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn last(&self) -> Option<u64> {
        self.0.last_key_value().map(|(_, last)| *last)
    }

    pub fn runs(&self) -> impl Iterator<Item = RangeInclusive<u64>> {
        self.0.iter().map(|(first, last)| *first..=*last)
    }

    /// What lacks from 1 to `upto`.
    pub fn holes(&self, upto: u64) -> Vec<RangeInclusive<u64>> {
        let mut holes = Vec::new();
        let mut next = 1;
        for run in self.runs().filter(|run| *run.start() <= upto) {
            if next < *run.start() {
                holes.push(next..=run.start() - 1);
            }
            next = run.end().saturating_add(1);
        }
        if next <= upto {
            holes.push(next..=upto);
        }
        holes
    }
}

/// What is known of one device's telemetry.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Account {
    /// Sequence numbers received.
    pub received: Runs,
    /// Sequence numbers declared lost in the gateway's `gaps`.
    pub declared: Runs,
    /// The device's own running number `n`, where it has one: a count that never passed through the gateway's hands.
    pub own: Runs,
    /// Messages that repeated a sequence number; at-least-once delivery may do that.
    pub repeated: u64,
    /// New messages whose sequence number was below one seen before.
    pub disordered: u64,
    /// Messages without a sequence number.
    pub unnumbered: u64,
}

impl Account {
    /// What is neither here nor declared, up to the highest number known or `upto`.
    pub fn missing(&self, upto: Option<u64>) -> Vec<RangeInclusive<u64>> {
        let mut known = self.received.clone();
        self.declared.runs().for_each(|run| {
            known.insert(run);
        });
        known.holes(upto.or(known.last()).unwrap_or(0))
    }

    pub fn is_complete(&self, upto: Option<u64>) -> bool {
        self.missing(upto).is_empty()
    }
}

/// All accounts.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Oracle {
    accounts: BTreeMap<String, Account>,
}

impl Oracle {
    pub fn account(&self, device: &str) -> Account {
        self.accounts.get(device).cloned().unwrap_or_default()
    }

    pub fn accounts(&self) -> impl Iterator<Item = (&str, &Account)> {
        self.accounts.iter().map(|(device, account)| (device.as_str(), account))
    }

    /// A telemetry message as it arrived: a reading or an array of them.
    pub fn telemetry(&mut self, device: &str, message: &Json) {
        if let Some(many) = message.as_array() {
            many.iter().for_each(|one| self.telemetry(device, one));
            return;
        }
        let account = self.accounts.entry(device.to_owned()).or_default();
        match message.get("seq").and_then(Json::as_u64) {
            None => account.unnumbered += 1,
            Some(seq) => {
                let highest = account.received.last().unwrap_or(0);
                if account.received.insert(seq..=seq) == 0 {
                    account.repeated += 1;
                } else if seq < highest {
                    account.disordered += 1;
                }
            }
        }
        let own = message.pointer("/values/n").or_else(|| message.get("n"));
        if let Some(n) = own.and_then(Json::as_u64) {
            account.own.insert(n..=n);
        }
    }

    /// A message of the gateway's loss ledger.
    pub fn gap(&mut self, message: &Json) {
        if let Some(many) = message.as_array() {
            many.iter().for_each(|one| self.gap(one));
            return;
        }
        let number = |name: &str| message.get(name).and_then(Json::as_u64);
        let class = message.get("class").and_then(Json::as_str);
        if let (Some(device), Some(first), Some(last)) =
            (message.get("device").and_then(Json::as_str), number("fromSeq"), number("toSeq"))
            && class.is_none_or(|class| class == "telemetry")
        {
            self.accounts.entry(device.to_owned()).or_default().declared.insert(first..=last);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    proptest! {
        #[test]
        fn runs_are_a_set(ranges in prop::collection::vec((1u64..60, 0u64..8), 0..40), upto in 0u64..80) {
            let (mut runs, mut set) = (Runs::default(), BTreeSet::new());
            for (first, length) in ranges {
                let fresh = (first..=first + length).filter(|n| set.insert(*n)).count() as u64;
                prop_assert_eq!(runs.insert(first..=first + length), fresh);
            }
            prop_assert_eq!(runs.len(), set.len() as u64);
            prop_assert_eq!(runs.runs().flatten().collect::<BTreeSet<_>>(), set.clone());
            let holes: BTreeSet<u64> = runs.holes(upto).into_iter().flatten().collect();
            let lacking: BTreeSet<u64> = (1..=upto).filter(|n| !set.contains(n)).collect();
            prop_assert_eq!(holes, lacking);
            let runs: Vec<_> = runs.runs().collect();
            prop_assert!(runs.windows(2).all(|w| w[0].end() + 1 < *w[1].start()));
        }
    }

    #[test]
    fn sent_is_received_plus_declared_or_it_is_missing() {
        let mut oracle = Oracle::default();
        for seq in [1, 2, 2, 5, 4, 9] {
            oracle.telemetry("a", &json!({"seq": seq, "values": {"n": seq * 10}}));
        }
        oracle.gap(&json!({"device": "a", "class": "telemetry", "fromSeq": 6, "toSeq": 7, "count": 2}));
        oracle.gap(&json!({"device": "a", "class": "logs", "fromSeq": 1, "toSeq": 100}));
        let account = oracle.account("a");
        assert_eq!((account.received.len(), account.repeated, account.disordered), (5, 1, 1));
        assert_eq!(account.missing(None), vec![3..=3, 8..=8]);
        assert_eq!(account.missing(Some(10)), vec![3..=3, 8..=8, 10..=10]);
        oracle.telemetry("a", &json!([{"seq": 3}, {"seq": 8}]));
        assert!(oracle.account("a").is_complete(None));
        assert!(!oracle.account("a").is_complete(Some(10)));
        assert_eq!(oracle.account("a").own.len(), 5);
    }
}
