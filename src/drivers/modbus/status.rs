//! What a bus counts and tells: requests, failures by kind, latency, utilisation, pace against plan.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::Serialize;

use super::plan::Learned;
use crate::model::{ids::DeviceId, time::Millis};

/// A picture of one bus, at most once a second.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    pub bus: Arc<str>,
    pub at: Millis,
    /// The wire is open.
    pub connected: bool,
    /// Why it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    pub counters: Counters,
    /// Share of the last second or more in which the bus was busy, 0 to 1.
    pub utilisation: f64,
    pub units: Vec<UnitStatus>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UnitStatus {
    pub device: Option<DeviceId>,
    pub unit: u8,
    /// `unknown`, `online`, `suspect` or `offline`.
    pub state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    pub last_heard: Option<Millis>,
    pub counters: Counters,
    pub cycles: Vec<Cycle>,
    /// What the device taught about its register map.
    pub learned: Learned,
    /// Points that are refused right now, and why.
    pub refused: BTreeMap<Arc<str>, Arc<str>>,
    /// The version of its firmware, where its profile says what tells it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub firmware: Option<String>,
    /// Values that it has with other firmware only, and why not now.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub left_out: BTreeMap<Arc<str>, String>,
}

/// Pace of one group of points.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cycle {
    pub planned_ms: u64,
    /// Mean of the last cycles; 0 before the second.
    pub actual_ms: u64,
    pub requests: usize,
    pub points: usize,
    /// Cycles that could not begin in time and were left out.
    pub missed: u64,
}

/// Counted since the start.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Counters {
    pub requests: u64,
    pub replies: u64,
    pub timeouts: u64,
    /// Replies with a wrong checksum, or cut off.
    pub damaged: u64,
    /// Frames that answered nothing that was asked: late, doubled, foreign.
    pub strays: u64,
    pub retries: u64,
    pub reconnects: u64,
    pub exceptions: BTreeMap<u8, u64>,
    pub values: u64,
    pub writes: u64,
    /// Microseconds from the end of a request to the end of its reply.
    pub latency: Latency,
}

/// A histogram with four steps to each doubling: percentiles within 19 %.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Latency {
    counts: Vec<u32>,
    total: u64,
    max: u64,
}

const STEPS: usize = 4 * 26;

impl Latency {
    pub fn add(&mut self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.counts.resize(STEPS, 0);
        let place = step(micros);
        self.counts[place] = self.counts[place].saturating_add(1);
        self.total += 1;
        self.max = self.max.max(micros);
    }

    /// Microseconds below which this share (0 to 1) of all lies.
    pub fn percentile(&self, share: f64) -> u64 {
        let wanted = (self.total as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (place, count) in self.counts.iter().enumerate() {
            seen += u64::from(*count);
            if seen >= wanted && *count > 0 {
                return upper(place).min(self.max);
            }
        }
        self.max
    }

    pub fn max(&self) -> Duration {
        Duration::from_micros(self.max)
    }
}

fn step(micros: u64) -> usize {
    let wide = micros.max(1);
    let octave = wide.ilog2() as usize;
    let within = if octave >= 2 { (wide >> (octave - 2)) & 3 } else { 0 } as usize;
    (octave * 4 + within).min(STEPS - 1)
}

fn upper(place: usize) -> u64 {
    let (octave, within) = (place / 4, place as u64 % 4);
    if octave < 2 { 1 << (octave + 1) } else { (1 << octave) + ((within + 1) << (octave - 2)) }
}

impl Serialize for Latency {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let mut shown = serializer.serialize_struct("Latency", 4)?;
        for (name, share) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99)] {
            shown.serialize_field(name, &self.percentile(share))?;
        }
        shown.serialize_field("max", &self.max)?;
        shown.end()
    }
}

/// How busy the bus is: time spent in exchanges against time passed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Meter {
    busy: Duration,
}

impl Meter {
    pub fn add(&mut self, spent: Duration) {
        self.busy += spent;
    }

    /// The share of `window`, and begins again.
    pub fn take(&mut self, window: Duration) -> f64 {
        let busy = std::mem::take(&mut self.busy);
        if window.is_zero() {
            0.0
        } else {
            ((busy.as_secs_f64() / window.as_secs_f64()).min(1.0) * 1000.0).round() / 1000.0
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn percentiles_lie_within_a_fifth_of_the_truth(mut micros in prop::collection::vec(4u64..60_000_000, 1..300)) {
            let mut latency = Latency::default();
            micros.iter().for_each(|m| latency.add(Duration::from_micros(*m)));
            micros.sort_unstable();
            for share in [0.5, 0.9, 0.99] {
                let truth = micros[((micros.len() as f64 * share).ceil() as usize).max(1) - 1] as f64;
                let found = latency.percentile(share) as f64;
                prop_assert!(found >= truth && found <= truth * 1.26 + 2.0, "{} for {}", found, truth);
            }
        }
    }
}
