//! How much of a metered link's month is used, and who may still send. Plain.

use crate::model::time::Millis;

const DAY: i64 = 86_400_000;

/// Bytes of a period of thirty days, counted from the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Budget {
    /// Bytes per period; 0 is no limit.
    pub limit: u64,
    pub used: u64,
    pub period: i64,
}

impl Budget {
    pub fn new(limit: u64) -> Self {
        Self { limit, used: 0, period: 0 }
    }

    pub fn spend(&mut self, bytes: u64, now: Millis) {
        let period = now.0.div_euclid(30 * DAY);
        if period != self.period {
            (self.period, self.used) = (period, 0);
        }
        self.used += bytes;
    }

    /// How many lanes may send, from the most urgent on: telemetry and logs stop at nine tenths of the budget, state at
    /// the whole. What is urgent always goes.
    pub fn lanes(&self, now: Millis) -> usize {
        if self.limit == 0 || now.0.div_euclid(30 * DAY) != self.period {
            return 4;
        }
        match self.used {
            used if used >= self.limit => 1,
            used if used >= self.limit / 10 * 9 => 2,
            used if used >= self.limit / 10 * 8 => 3,
            _ => 4,
        }
    }

    /// What the period will have cost at its end, at the present rate.
    pub fn forecast(&self, now: Millis) -> u64 {
        let gone = now.0.rem_euclid(30 * DAY).max(1);
        (self.used as f64 * (30 * DAY) as f64 / gone as f64) as u64
    }

    pub fn to_text(self) -> String {
        format!("{} {}", self.period, self.used)
    }

    pub fn restore(&mut self, text: &str) {
        if let Some((period, used)) = text.split_once(' ')
            && let (Ok(period), Ok(used)) = (period.parse(), used.parse())
        {
            (self.period, self.used) = (period, used);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_close_from_below_and_open_with_the_next_month() {
        let mut budget = Budget::new(1000);
        let now = Millis(31 * DAY);
        budget.spend(100, now);
        assert_eq!(budget.lanes(now), 4);
        budget.spend(720, now);
        assert_eq!(budget.lanes(now), 3);
        budget.spend(100, now);
        assert_eq!(budget.lanes(now), 2);
        budget.spend(100, now);
        assert_eq!(budget.lanes(now), 1);
        assert_eq!(budget.forecast(now), 30_600);
        let mut again = Budget::new(1000);
        again.restore(&budget.to_text());
        assert_eq!(again, budget);
        assert_eq!(again.lanes(Millis(61 * DAY)), 4);
        again.spend(5, Millis(61 * DAY));
        assert_eq!(again.used, 5);
    }
}
