//! So many a second, evenly: for a cloud that drops what is above its limit. A plain value.

use std::time::{Duration, Instant};

/// How much may go at once after a rest.
const BURST: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// From one to the next; `None`: as they come.
    every: Option<Duration>,
    /// When the next would be due.
    due: Instant,
}

impl Pace {
    pub fn new(rate: Option<u32>, now: Instant) -> Pace {
        Pace { every: rate.map(|rate| Duration::from_secs(1) / rate.max(1)), due: now }
    }

    /// When the next may go, where that is not now.
    pub fn wait(&self, now: Instant) -> Option<Instant> {
        self.every.and((self.due > now).then_some(self.due))
    }

    /// One goes.
    pub fn take(&mut self, now: Instant) {
        if let Some(every) = self.every {
            self.due = self.due.max(now.checked_sub(BURST).unwrap_or(now)) + every;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_second_sees_more_than_the_rate_and_a_tenth() {
        let began = Instant::now();
        let mut pace = Pace::new(Some(40), began);
        let mut sent = Vec::new();
        for millis in 0..5000 {
            let now = began + Duration::from_millis(millis);
            while pace.wait(now).is_none() {
                pace.take(now);
                sent.push(millis);
            }
        }
        let most = (0..4000).map(|from| sent.iter().filter(|at| (from..from + 1000).contains(*at)).count()).max();
        assert!(most.is_some_and(|most| (40..=45).contains(&most)), "{most:?}");
        let free = Pace::new(None, began);
        assert_eq!(free.wait(began), None);
    }
}
