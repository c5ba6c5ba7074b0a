//! Failed logins and the delays they earn: a plain value, told the time.

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

/// Names and addresses that are remembered; beyond it the oldest are forgotten.
const MOST: usize = 10_000;
/// Longest delay.
const LONGEST: Duration = Duration::from_secs(300);
/// After this long without a failure everything is forgiven.
const FORGIVEN: Duration = Duration::from_secs(3600);

/// Who is counted. An account from one address fills up first, so that a stranger cannot lock out a child that comes
/// from elsewhere; the account as a whole and the address as a whole have more patience.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Whose {
    Pair(String, Option<IpAddr>),
    Account(String),
    Address(IpAddr),
}

impl Whose {
    /// Failures without a delay.
    fn patience(&self) -> u32 {
        match self {
            Whose::Pair(..) => 5,
            Whose::Address(_) => 20,
            Whose::Account(_) => 50,
        }
    }

    fn of(account: &str, address: Option<IpAddr>) -> impl Iterator<Item = Whose> {
        // An account's name is whatever a stranger sent: keep little of it.
        let account: String = account.chars().take(64).collect();
        let pair = Whose::Pair(account.clone(), address);
        [Some(pair), Some(Whose::Account(account)), address.map(Whose::Address)].into_iter().flatten()
    }
}

#[derive(Debug)]
struct Record {
    failures: u32,
    last: Instant,
    until: Instant,
}

/// The failures of late.
#[derive(Debug, Default)]
pub(super) struct Failures(HashMap<Whose, Record>);

impl Failures {
    /// How long this account from this address must still wait, if it must.
    pub fn wait(&self, account: &str, address: Option<IpAddr>, now: Instant) -> Option<Duration> {
        let left = |whose| self.0.get(&whose).map(|r| r.until.saturating_duration_since(now));
        Whose::of(account, address).filter_map(left).max().filter(|left| !left.is_zero())
    }

    /// Counts a failure: after the patience each one doubles the delay, from 1 s to 5 min.
    pub fn failed(&mut self, account: &str, address: Option<IpAddr>, now: Instant) {
        Whose::of(account, address).for_each(|whose| self.count(whose, now));
    }

    /// Counts an attempt as failed before it is judged, so that many at once gain nothing. Not for the address: many
    /// children may come back from one at the same time.
    pub fn attempted(&mut self, account: &str, address: Option<IpAddr>, now: Instant) {
        let accounts = Whose::of(account, address).filter(|whose| !matches!(whose, Whose::Address(_)));
        accounts.for_each(|whose| self.count(whose, now));
    }

    /// The attempt was judged: clears the account, or blames the address and lets the delay begin now, however long the
    /// judging took.
    pub fn judged(&mut self, right: bool, account: &str, address: Option<IpAddr>, now: Instant) {
        for whose in Whose::of(account, address) {
            match (right, &whose) {
                (false, Whose::Address(_)) => self.count(whose, now),
                (false, _) => self.delay(&whose, now),
                (true, Whose::Account(_) | Whose::Pair(..)) => drop(self.0.remove(&whose)),
                _ => {}
            }
        }
    }

    fn count(&mut self, whose: Whose, now: Instant) {
        if self.0.len() >= MOST {
            self.forget(now);
        }
        let record = self.0.entry(whose.clone()).or_insert(Record { failures: 0, last: now, until: now });
        if now.saturating_duration_since(record.last) > FORGIVEN {
            record.failures = 0;
        }
        record.failures = record.failures.saturating_add(1);
        record.last = now;
        self.delay(&whose, now);
    }

    fn delay(&mut self, whose: &Whose, now: Instant) {
        let patience = whose.patience();
        if let Some(record) = self.0.get_mut(whose).filter(|record| record.failures >= patience) {
            let doublings = (record.failures - patience).min(9);
            record.until = now + Duration::from_secs(1 << doublings).min(LONGEST);
        }
    }

    fn forget(&mut self, now: Instant) {
        self.0.retain(|_, r| now.saturating_duration_since(r.last) <= FORGIVEN);
        if self.0.len() >= MOST {
            let mut times: Vec<Instant> = self.0.values().map(|r| r.last).collect();
            times.sort_unstable();
            let middle = times[times.len() / 2];
            self.0.retain(|_, r| r.last > middle);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)));
    const AWAY: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2)));

    #[test]
    fn an_hour_of_guessing_gets_few_guesses() {
        let mut failures = Failures::default();
        let start = Instant::now();
        let (mut now, mut guesses) = (start, 0);
        while now < start + Duration::from_secs(3600) {
            match failures.wait("anna", HOME, now) {
                Some(wait) => now += wait,
                None => {
                    failures.failed("anna", HOME, now);
                    guesses += 1;
                }
            }
        }
        assert!((10..40).contains(&guesses), "{guesses} guesses in an hour");
    }

    #[test]
    fn a_stranger_does_not_lock_out_who_comes_from_elsewhere() {
        let mut failures = Failures::default();
        let now = Instant::now();
        for _ in 0..10 {
            failures.failed("meter-1", AWAY, now);
        }
        assert!(failures.wait("meter-1", AWAY, now).is_some());
        assert_eq!(failures.wait("meter-1", HOME, now), None);
        failures.judged(true, "meter-1", HOME, now);
        assert_eq!(failures.wait("meter-1", HOME, now), None);
        for n in 0..30 {
            failures.failed(&format!("meter-{n}"), AWAY, now);
        }
        assert!(failures.wait("somebody new", AWAY, now).is_some(), "an address that tries many names");
    }

    #[test]
    fn the_delay_begins_when_the_attempt_was_judged() {
        let mut failures = Failures::default();
        let start = Instant::now();
        let slow = start + Duration::from_secs(10);
        for _ in 0..5 {
            failures.attempted("anna", HOME, start);
        }
        failures.judged(false, "anna", HOME, slow);
        assert_eq!(failures.wait("anna", HOME, slow), Some(Duration::from_secs(1)));
    }

    #[test]
    fn memory_is_bounded() {
        let mut failures = Failures::default();
        let now = Instant::now();
        for n in 0..50_000u32 {
            failures.failed(&n.to_string(), None, now + Duration::from_millis(u64::from(n)));
        }
        assert!(failures.0.len() <= MOST + 3, "{}", failures.0.len());
    }
}
