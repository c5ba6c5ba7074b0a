//! How often a child is told its errors: a flood of them is counted, not answered one by one.

use std::time::Duration;

use tokio::time::Instant;

/// Errors told to a child in one second, as the contract says.
const ERRORS: u32 = 10;

pub(in crate::broker) struct Errors {
    left: u32,
    since: Instant,
}

impl Errors {
    pub(super) fn new(now: Instant) -> Self {
        Self { left: ERRORS, since: now }
    }

    pub(in crate::broker) fn allows(&mut self, now: Instant) -> bool {
        if now.duration_since(self.since) >= Duration::from_secs(1) {
            *self = Self::new(now);
        }
        let allowed = self.left > 0;
        self.left = self.left.saturating_sub(1);
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_errors_a_second_are_told() {
        let start = Instant::now();
        let mut errors = Errors::new(start);
        for second in [0, 1, 5] {
            let now = start + Duration::from_secs(second);
            assert_eq!((0..100).filter(|_| errors.allows(now)).count(), 10);
        }
    }
}
