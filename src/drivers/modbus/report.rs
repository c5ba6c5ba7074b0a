//! Which reads become readings: on change, deadbands, least and greatest interval. Pure values, one per point.

use tokio::time::Instant;

use crate::{config::modbus::point::Report, model::reading::Value};

/// What was last reported of one point.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    last: Option<(Instant, Seen)>,
}

#[derive(Debug, Clone, PartialEq)]
enum Seen {
    Value(Value),
    Bad,
}

impl Filter {
    /// Forgets: the next read is reported whatever it is.
    pub fn reset(&mut self) {
        self.last = None;
    }

    /// Whether this read is to be reported; if so it is remembered. `None` is a value that cannot be had.
    pub fn passes(&mut self, rule: &Report, value: Option<&Value>, now: Instant) -> bool {
        let passes = match &self.last {
            None => true,
            Some((at, seen)) => {
                let age = now.saturating_duration_since(*at);
                let quality_changed = value.is_some() != matches!(seen, Seen::Value(_));
                if quality_changed {
                    true
                } else if rule.min_interval.is_some_and(|least| age < least) {
                    false
                } else if rule.max_interval.is_some_and(|most| age >= most) {
                    true
                } else {
                    match (value, seen) {
                        (Some(value), Seen::Value(last)) => !rule.on_change || differs(rule, last, value),
                        // A value that stays bad is said once, and again at the greatest interval.
                        _ => false,
                    }
                }
            }
        };
        if passes {
            self.last = Some((now, value.map_or(Seen::Bad, |value| Seen::Value(value.clone()))));
        }
        passes
    }
}

/// More than both deadbands apart.
fn differs(rule: &Report, last: &Value, value: &Value) -> bool {
    if rule.deadband == 0.0 && rule.deadband_percent == 0.0 {
        return last != value;
    }
    match (last.as_f64(), value.as_f64()) {
        (Some(last), Some(value)) => {
            let difference = (value - last).abs();
            let percent = last.abs() * rule.deadband_percent / 100.0;
            difference > 0.0 && difference >= rule.deadband && difference >= percent
        }
        _ => last != value,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_change_passes_only_beyond_the_deadband_and_between_the_intervals() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let rule = Report {
            on_change: true,
            deadband: 0.5,
            min_interval: Some(Duration::from_millis(100)),
            max_interval: Some(Duration::from_secs(10)),
            ..Report::default()
        };
        let mut filter = Filter::default();
        let mut passes = |value: f64, ms| filter.passes(&rule, Some(&Value::Float(value)), at(ms));
        assert!(passes(20.0, 0), "the first");
        assert!(!passes(25.0, 50), "too soon");
        assert!(passes(25.0, 150));
        assert!(!passes(25.4, 300), "within the deadband");
        assert!(!passes(25.4, 9_000));
        assert!(passes(25.4, 10_200), "the greatest interval");
        assert!(filter.passes(&rule, None, at(10_210)), "going bad is news");
        assert!(!filter.passes(&rule, None, at(10_900)), "staying bad is not");
        assert!(filter.passes(&rule, Some(&Value::Float(25.4)), at(10_910)), "getting well is news");
    }

    proptest! {
        #[test]
        fn what_is_reported_is_never_further_from_the_truth_than_the_deadband(
            values in prop::collection::vec(-1000.0..1000.0f64, 1..200), deadband in 0.0..50.0f64,
        ) {
            let rule = Report { on_change: true, deadband, ..Report::default() };
            let (mut filter, start) = (Filter::default(), Instant::now());
            let mut reported = f64::NAN;
            for value in values {
                if filter.passes(&rule, Some(&Value::Float(value)), start) {
                    reported = value;
                }
                prop_assert!((reported - value).abs() <= deadband.max(f64::EPSILON) || reported == value);
            }
        }
    }
}
