//! How long a polled request waits for its reply. The configured timeout is what a unit may take at most; one that was
//! always quick is not given all of it each time, since nobody else is served meanwhile.
//!
//! ```text
//!   first silence    asked again        suspect, once a second    before it is called offline   offline
//!   what is usual ─▶ whole timeout ───▶ what is usual ──────────▶ whole timeout ──────────────▶ a quarter of its back-off
//! ```

use std::time::Duration;

use tokio::time::Instant;

use super::health::Health;

/// Answers after which it is known what is usual.
const KNOWN: u32 = 20;
/// Usual is up to this many times the slowest answer of late.
const TIMES: u32 = 4;
/// Less is not waited for: other masters, radio links and schedulers take their time now and then.
const LEAST: Duration = Duration::from_millis(100);
/// The slowest answer loses this part of itself with each answer: a hiccup counts for some hundred answers.
const FADES: u32 = 1000;

/// What is usual for one unit.
#[derive(Debug, Clone, Copy, Default)]
pub struct Patience {
    slowest: Duration,
    answers: u32,
    /// Polled requests without a reply since the last answer.
    pub misses: u8,
}

impl Patience {
    pub fn answered(&mut self, latency: Duration) {
        self.slowest = latency.max(self.slowest - self.slowest / FADES);
        self.answers = self.answers.saturating_add(1);
        self.misses = 0;
    }

    /// How long to wait for a unit of this health that may take `whole` at most.
    pub fn wait(&self, health: &Health, whole: Duration, now: Instant) -> Duration {
        let asked_again = self.misses > 0 && !health.is_doubtful();
        if self.answers < KNOWN || asked_again || health.decides(now + whole) {
            return whole;
        }
        let usual = (self.slowest * TIMES).max(LEAST);
        usual.max(health.backoff() / 4).min(whole)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::health::Change, *};

    fn quick(answers: u32, latency: Duration) -> Patience {
        let mut patience = Patience::default();
        (0..answers).for_each(|_| patience.answered(latency));
        patience
    }

    fn online(now: Instant) -> Health {
        let mut health = Health::new(now);
        health.heard(now);
        health
    }

    #[test]
    fn only_what_is_known_to_be_quick_is_given_up_early() {
        let (now, whole) = (Instant::now(), Duration::from_secs(1));
        let wait = |answers, latency| quick(answers, Duration::from_millis(latency)).wait(&online(now), whole, now);
        assert_eq!(wait(KNOWN - 1, 5), whole);
        assert_eq!(wait(KNOWN, 5), LEAST);
        assert_eq!(wait(KNOWN, 100), Duration::from_millis(400));
        assert_eq!(wait(KNOWN, 400), whole);
    }

    #[test]
    fn one_slow_answer_is_remembered_for_some_hundred_quick_ones() {
        let (now, whole) = (Instant::now(), Duration::from_secs(1));
        let mut patience = quick(KNOWN, Duration::from_millis(5));
        patience.answered(Duration::from_millis(500));
        (0..500).for_each(|_| patience.answered(Duration::from_millis(5)));
        assert_eq!(patience.wait(&online(now), whole, now), whole);
        (0..5000).for_each(|_| patience.answered(Duration::from_millis(5)));
        assert_eq!(patience.wait(&online(now), whole, now), LEAST);
    }

    proptest! {
        /// A unit that has become slow, yet answers within its timeout, is found again wherever in its silence that
        /// happens; and it is never called offline without having been given its whole timeout.
        #[test]
        fn a_slow_unit_is_never_given_up(
            usual in 1u64..300, slow in 1u64..1000, whole in 100u64..1000, retries in 0u8..3, dead_for in 0u64..100_000
        ) {
            let slow = Duration::from_millis(slow.min(whole));
            let whole = Duration::from_millis(whole);
            let start = Instant::now();
            let mut patience = quick(KNOWN, Duration::from_millis(usual).min(whole));
            let mut health = online(start);
            let mut now = start;
            let mut full_chances = 0;
            loop {
                let wait = patience.wait(&health, whole, now);
                prop_assert!(wait <= whole);
                if now >= start + Duration::from_millis(dead_for) && slow <= wait {
                    break;
                }
                now += wait;
                prop_assert!(now < start + Duration::from_millis(dead_for) + Duration::from_secs(60), "not found again");
                full_chances += u32::from(wait == whole);
                if !health.is_doubtful() && patience.misses < retries {
                    patience.misses += 1;
                    continue;
                }
                if health.failed(now) == Change::WentOffline {
                    prop_assert!(wait == whole && full_chances > 0);
                }
                now = now.max(health.next_probe().expect("a probe"));
            }
        }
    }
}
