//! The latest values of each device and their recent past, in memory, bounded.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use crate::model::{
    reading::{Quality, Sample, Value},
    time::Millis,
    view::Live,
};

/// Values one device may show at most; more are logged and not shown.
const MOST_VALUES: usize = 1024;
/// Points of a trend.
const POINTS: usize = 240;

/// How much past all devices together may keep, in points. Each takes 20 bytes.
#[derive(Debug)]
pub struct Budget {
    /// Milliseconds of one point.
    pub step: i64,
    pub left: usize,
}

impl Budget {
    pub fn new(step: std::time::Duration, bytes: usize) -> Self {
        let step = i64::try_from(step.as_millis()).unwrap_or(i64::MAX).max(1);
        Self { step, left: bytes / size_of::<Point>() }
    }
}

/// What one device said last.
#[derive(Debug, Default)]
pub struct Latest {
    values: HashMap<Arc<str>, Kept>,
}

#[derive(Debug)]
struct Kept {
    value: Option<Value>,
    quality: Quality,
    ts: Millis,
    past: Option<Past>,
}

#[derive(Debug, Clone, Copy)]
struct Point {
    step: i64,
    least: f32,
    mean: f32,
    greatest: f32,
}

#[derive(Debug, Default)]
struct Past {
    closed: VecDeque<Point>,
    granted: usize,
    step: i64,
    count: u32,
    sum: f64,
    least: f64,
    greatest: f64,
}

impl Latest {
    /// Takes in a good value as raw JSON text of a number, boolean or text.
    pub fn put_raw(&mut self, name: &str, raw: &str, ts: Millis, budget: &mut Budget) {
        let value = match raw.as_bytes().first() {
            Some(b't') => Value::Bool(true),
            Some(b'f') => Value::Bool(false),
            Some(b'"') => match self.values.get(name).map(|kept| &kept.value) {
                // The same text again costs nothing.
                Some(Some(Value::Text(old))) if raw.len() == old.len() + 2 && raw[1..].starts_with(&**old) => {
                    Value::Text(old.clone())
                }
                _ => Value::Text(serde_json::from_str::<String>(raw).unwrap_or_default().into()),
            },
            _ => match (raw.parse::<i64>(), raw.parse::<f64>()) {
                (Ok(whole), _) => Value::Int(whole),
                (_, Ok(number)) => raw.parse::<u64>().map_or(Value::Float(number), Value::Uint),
                _ => return,
            },
        };
        self.put(name, Some(value), Quality::Good, ts, budget);
    }

    pub fn put_sample(&mut self, sample: &Sample, ts: Millis, budget: &mut Budget) {
        self.put(&sample.name, sample.value.clone(), sample.quality.clone(), ts, budget);
    }

    fn put(&mut self, name: &str, value: Option<Value>, quality: Quality, ts: Millis, budget: &mut Budget) {
        if !self.values.contains_key(name) {
            if self.values.len() >= MOST_VALUES {
                return;
            }
            let past = Past::granted(budget);
            self.values.insert(name.into(), Kept { value: None, quality: Quality::Good, ts, past });
        }
        let Some(kept) = self.values.get_mut(name) else { return };
        if let (Some(past), true, Some(number)) =
            (&mut kept.past, quality.is_good(), value.as_ref().and_then(Value::as_f64))
        {
            past.add(ts.0.div_euclid(budget.step), number);
        }
        // A backlog may bring older values after newer ones: they belong to the past only.
        if ts >= kept.ts {
            let keep_old = value.is_none() && matches!(quality, Quality::Stale { .. });
            if !keep_old {
                kept.value = value;
            }
            (kept.quality, kept.ts) = (quality, ts);
        }
    }

    /// The device does not answer: what is here is the last that is known.
    pub fn grow_stale(&mut self, reason: &str) {
        let reason: Arc<str> = reason.into();
        for kept in self.values.values_mut().filter(|kept| kept.quality.is_good()) {
            kept.quality = Quality::Stale { since: kept.ts, reason: reason.clone() };
        }
    }

    /// All values, by name.
    pub fn all(&self) -> Vec<Live> {
        let live = |(name, kept): (&Arc<str>, &Kept)| Live {
            name: name.to_string(),
            value: kept.value.clone(),
            quality: kept.quality.clone(),
            ts: kept.ts,
        };
        let mut all: Vec<Live> = self.values.iter().map(live).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// The recent past of a number: `(time, least, mean, greatest)` per step, oldest first.
    pub fn trend(&self, name: &str, step: i64) -> Vec<(Millis, f64, f64, f64)> {
        let Some(past) = self.values.get(name).and_then(|kept| kept.past.as_ref()) else { return Vec::new() };
        let show = |p: &Point| {
            (Millis(p.step.saturating_mul(step)), f64::from(p.least), f64::from(p.mean), f64::from(p.greatest))
        };
        past.closed.iter().copied().chain(past.open()).map(|point| show(&point)).collect()
    }
}

impl Past {
    fn granted(budget: &mut Budget) -> Option<Past> {
        budget.left = budget.left.checked_sub(POINTS)?;
        Some(Past { granted: POINTS, ..Past::default() })
    }

    fn add(&mut self, step: i64, number: f64) {
        if self.count > 0 && step < self.step {
            return;
        }
        if self.count == 0 || step > self.step {
            if let Some(point) = self.open() {
                if self.closed.len() + 1 >= self.granted {
                    self.closed.pop_front();
                }
                self.closed.push_back(point);
            }
            (self.step, self.count, self.sum) = (step, 0, 0.0);
            (self.least, self.greatest) = (number, number);
        }
        self.count += 1;
        self.sum += number;
        self.least = self.least.min(number);
        self.greatest = self.greatest.max(number);
    }

    fn open(&self) -> Option<Point> {
        let mean = self.sum / f64::from(self.count);
        (self.count > 0).then_some(Point {
            step: self.step,
            least: self.least as f32,
            mean: mean as f32,
            greatest: self.greatest as f32,
        })
    }
}

/// Joins neighbours until at most `points` are left.
pub fn thin(past: Vec<(Millis, f64, f64, f64)>, points: usize) -> Vec<(Millis, f64, f64, f64)> {
    let group = past.len().div_ceil(points.max(1)).max(1);
    let join = |group: &[(Millis, f64, f64, f64)]| {
        let least = group.iter().map(|p| p.1).fold(f64::INFINITY, f64::min);
        let greatest = group.iter().map(|p| p.3).fold(f64::NEG_INFINITY, f64::max);
        let mean = group.iter().map(|p| p.2).sum::<f64>() / group.len() as f64;
        (group[0].0, least, mean, greatest)
    };
    past.chunks(group).map(join).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_past_is_thinned_and_bounded() {
        let mut budget = Budget::new(Duration::from_secs(1), POINTS * size_of::<Point>());
        let mut latest = Latest::default();
        for n in 0..10_000i64 {
            latest.put_raw("t", &n.to_string(), Millis(n * 100), &mut budget);
            latest.put_raw("unaffordable", "1", Millis(n), &mut budget);
        }
        let trend = latest.trend("t", budget.step);
        assert_eq!(trend.len(), POINTS);
        assert_eq!(trend.last(), Some(&(Millis(999_000), 9990.0, 9994.5, 9999.0)));
        assert!(latest.trend("unaffordable", budget.step).is_empty());
        assert_eq!(latest.all().len(), 2);
        let thinned = thin(trend, 24);
        assert_eq!((thinned.len(), thinned[23].1, thinned[23].3), (24, 9900.0, 9999.0));
    }

    #[test]
    fn an_older_value_does_not_replace_a_newer_one_and_silence_makes_stale() {
        let mut budget = Budget::new(Duration::from_secs(1), 0);
        let mut latest = Latest::default();
        latest.put_raw("mode", "\"auto\"", Millis(10), &mut budget);
        latest.put_raw("mode", "\"off\"", Millis(5), &mut budget);
        assert_eq!(latest.all()[0].value, Some(Value::Text("auto".into())));
        latest.grow_stale("timeout");
        assert_eq!(latest.all()[0].quality, Quality::Stale { since: Millis(10), reason: "timeout".into() });
        latest.put_raw("mode", "\"auto\"", Millis(11), &mut budget);
        assert!(latest.all()[0].quality.is_good());
        latest.put_raw("n", "18446744073709551615", Millis(1), &mut budget);
        assert_eq!(latest.all()[1].value, Some(Value::Uint(u64::MAX)));
    }
}
