//! The trace that children leave at the door: who came in, who was refused and why. A plain value, told the time.
//!
//! Everything is counted; what goes into the audit is limited, so that a stranger who knocks all night fills neither
//! the disk nor the history.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use serde::Serialize;

use crate::{model::time::Millis, store::audit::AuditEntry};

/// Refusals that are told apart; beyond it the one that is longest ago is forgotten.
const MOST: usize = 200;
/// The same refusal goes into the audit once in this many milliseconds.
const AGAIN: i64 = 600_000;
/// Different refusals that may go into the audit at once, and the milliseconds after which it is one more.
const AT_ONCE: f64 = 60.0;
const REFILL: f64 = 60_000.0;
/// A credential that comes in from the same address goes into the audit once in this many milliseconds.
const ADMITTED_AGAIN: i64 = 86_400_000;
/// Admissions that are remembered.
const ADMISSIONS: usize = 20_000;

/// A refusal, as it may be shown: repeated ones are one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Refused {
    /// The device it was, or said it was; absent where what was said is no device id.
    pub device: Option<String>,
    pub address: Option<IpAddr>,
    /// A word for counting: `bad-credentials`, `certificate-expired`, …
    pub reason: &'static str,
    /// What was wrong, for people.
    pub text: String,
    pub count: u64,
    pub first: Millis,
    pub last: Millis,
}

/// Somebody at the door who was not let in.
pub(super) struct Knock<'k> {
    pub device: Option<&'k str>,
    pub address: Option<IpAddr>,
    pub reason: &'static str,
    pub text: String,
}

type Key = (Option<String>, Option<IpAddr>, &'static str);

struct Kept {
    shown: Refused,
    /// When it was last written into the audit, and how many came since.
    written: Option<Millis>,
    unwritten: u64,
}

#[derive(Default)]
pub(super) struct Trail {
    refused: HashMap<Key, Kept>,
    totals: BTreeMap<&'static str, u64>,
    admitted: HashMap<(Arc<str>, Option<IpAddr>), Millis>,
    admissions: u64,
    /// Audit rows that refusals have used up of late, and when that was last looked at.
    used: (f64, Millis),
}

impl Trail {
    /// Counts a refusal; the row for the audit where it deserves one.
    pub fn refused(&mut self, knock: Knock<'_>, now: Millis) -> Option<AuditEntry> {
        *self.totals.entry(knock.reason).or_default() += 1;
        let key: Key = (knock.device.map(str::to_owned), knock.address, knock.reason);
        if !self.refused.contains_key(&key) && self.refused.len() >= MOST {
            let oldest = self.refused.iter().min_by_key(|(_, kept)| kept.shown.last).map(|(key, _)| key.clone());
            oldest.and_then(|key| self.refused.remove(&key));
        }
        let Knock { device, address, reason, text } = knock;
        let kept = self.refused.entry(key).or_insert_with(|| Kept {
            shown: Refused {
                device: device.map(str::to_owned),
                address,
                reason,
                text: String::new(),
                count: 0,
                first: now,
                last: now,
            },
            written: None,
            unwritten: 0,
        });
        (kept.shown.text, kept.shown.last) = (text, now);
        kept.shown.count += 1;
        // A clock that was set back must not silence the trail.
        let lately = kept.written.is_some_and(|at| (0..AGAIN).contains(&now.since(at)));
        let passed = now.since(self.used.1).max(0) as f64;
        self.used = ((self.used.0 - passed / REFILL).max(0.0), now);
        if lately || self.used.0 >= AT_ONCE {
            kept.unwritten += 1;
            return None;
        }
        self.used.0 += 1.0;
        let more = match std::mem::take(&mut kept.unwritten) {
            0 => String::new(),
            n => format!(", {n} more before"),
        };
        kept.written = Some(now);
        let from = address.map(|address| format!(" from {address}")).unwrap_or_default();
        let entry = AuditEntry::refused(device.unwrap_or("unknown"), "child.login", reason);
        Some(entry.detail(format!("{}{from}{more}", kept.shown.text)))
    }

    /// Counts an admission; true where it goes into the audit.
    pub fn admitted(&mut self, credential: &Arc<str>, address: Option<IpAddr>, now: Millis) -> bool {
        self.admissions += 1;
        let lately = |at: &Millis| (0..ADMITTED_AGAIN).contains(&now.since(*at));
        let key = (credential.clone(), address);
        if self.admitted.get(&key).is_some_and(lately) {
            return false;
        }
        if self.admitted.len() >= ADMISSIONS {
            self.admitted.retain(|_, at| lately(at));
            if self.admitted.len() >= ADMISSIONS {
                self.admitted.clear();
            }
        }
        self.admitted.insert(key, now);
        true
    }

    /// The latest first.
    pub fn list(&self) -> Vec<Refused> {
        let mut all: Vec<Refused> = self.refused.values().map(|kept| kept.shown.clone()).collect();
        all.sort_by(|a, b| (b.last, &a.device, a.reason).cmp(&(a.last, &b.device, b.reason)));
        all
    }

    /// Refusals since the start by reason, and admissions.
    pub fn totals(&self) -> (BTreeMap<&'static str, u64>, u64) {
        (self.totals.clone(), self.admissions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn knock(device: &str) -> Knock<'_> {
        Knock { device: Some(device), address: None, reason: "bad-credentials", text: "bad credentials".into() }
    }

    #[test]
    fn the_same_refusal_is_written_once_and_tells_later_how_often_it_came() {
        let mut trail = Trail::default();
        let first = trail.refused(knock("pump-7"), Millis(0)).expect("written");
        assert_eq!(
            (&*first.who, &*first.what, &*first.target, first.ok),
            ("pump-7", "child.login", "bad-credentials", false)
        );
        for n in 1..50 {
            assert_eq!(trail.refused(knock("pump-7"), Millis(n)), None);
        }
        let later = trail.refused(knock("pump-7"), Millis(AGAIN)).expect("written again");
        assert!(later.detail.contains("49 more"), "{}", later.detail);
        let shown = trail.list();
        assert_eq!((shown.len(), shown[0].count, shown[0].first, shown[0].last), (1, 51, Millis(0), Millis(AGAIN)));
        assert_eq!(trail.totals().0["bad-credentials"], 51);
    }

    #[test]
    fn a_stranger_with_many_names_fills_neither_memory_nor_the_audit() {
        let mut trail = Trail::default();
        let hour = 3_600_000;
        let written = (0..100_000_i64)
            .filter(|n| trail.refused(knock(&format!("name-{n}")), Millis(n * hour / 100_000)).is_some())
            .count();
        assert!((60..=125).contains(&written), "{written} rows in an hour");
        assert_eq!(trail.list().len(), MOST);
        assert_eq!(trail.totals().0["bad-credentials"], 100_000);
    }

    #[test]
    fn coming_in_is_written_once_a_day_per_credential_and_address() {
        let mut trail = Trail::default();
        let (one, home) = (Arc::from("a"), Some(IpAddr::from([10, 0, 0, 1])));
        assert!(trail.admitted(&one, home, Millis(0)));
        assert!(!trail.admitted(&one, home, Millis(5)));
        assert!(trail.admitted(&one, None, Millis(5)), "another address");
        assert!(trail.admitted(&one, home, Millis(ADMITTED_AGAIN)), "the next day");
        assert_eq!(trail.totals().1, 4);
    }
}
