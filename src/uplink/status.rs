//! What is counted on the road, and the rates and forecasts that are made of it.

use std::{
    collections::VecDeque,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use crate::{model::view::LogStatus, store::log::Written};

/// Counters since the start; written by the session, read by whoever asks.
#[derive(Debug, Default)]
pub struct Counters {
    in_flight: AtomicU64,
    acknowledged: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
    /// How far each lane is acknowledged, which is written down a little later.
    cursors: [AtomicU64; 4],
    last_error: Mutex<Option<String>>,
}

impl Counters {
    pub fn in_flight(&self, now: u64) {
        self.in_flight.store(now, Relaxed);
    }

    pub fn acknowledged(&self, records: u64) {
        self.acknowledged.fetch_add(records, Relaxed);
    }

    pub fn sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Relaxed);
    }

    pub fn received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Relaxed);
    }

    pub fn reached(&self, cursors: [u64; 4]) {
        self.cursors.iter().zip(cursors).for_each(|(known, now)| known.store(now, Relaxed));
    }

    pub fn cursors(&self) -> [u64; 4] {
        std::array::from_fn(|lane| self.cursors[lane].load(Relaxed))
    }

    pub fn error(&self, text: String) {
        *self.last_error.lock().unwrap_or_else(|e| e.into_inner()) = Some(text);
    }

    pub fn read(&self) -> Counted {
        Counted {
            in_flight: self.in_flight.load(Relaxed),
            acknowledged: self.acknowledged.load(Relaxed),
            sent: self.sent.load(Relaxed),
            received: self.received.load(Relaxed),
            last_error: self.last_error.lock().unwrap_or_else(|e| e.into_inner()).clone(),
        }
    }
}

/// What `bytes` that were written at once take on the wire: headers of IPv4 and TCP with time stamps (RFC 791, 9293,
/// 7323) for every segment, and header, type and tag of TLS 1.3 (RFC 8446, section 5.2) for every record. An estimate:
/// the kernel cuts segments as it likes.
pub fn on_wire(bytes: usize, tls: bool) -> usize {
    const SEGMENT: usize = 1448;
    const HEADERS: usize = 52;
    const RECORD: usize = 16 << 10;
    let bytes = if tls { bytes + bytes.div_ceil(RECORD) * (5 + 1 + 16) } else { bytes };
    bytes + bytes.div_ceil(SEGMENT) * HEADERS
}

/// A segment that only acknowledges.
pub const BARE_ACK: usize = 52;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Counted {
    pub in_flight: u64,
    pub acknowledged: u64,
    /// Bytes on the wire, with what TCP/IP and TLS put around them.
    pub sent: u64,
    pub received: u64,
    pub last_error: Option<String>,
}

/// One look at the counters.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    pub at: Instant,
    pub written: Written,
    pub acknowledged: u64,
    /// Bytes this process caused to be written to storage, where the system tells.
    pub device: Option<u64>,
}

/// The last half minute of samples, and the first of all.
#[derive(Debug, Default)]
pub struct Samples {
    first: Option<Sample>,
    recent: VecDeque<Sample>,
}

/// Rates made of [`Samples`].
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Rates {
    /// Records per second.
    pub rate_in: f64,
    pub rate_out: f64,
    /// Records per second by which the last seconds made what waits less; a burst before them does not count.
    pub shrinks: f64,
    /// Bytes on disk per record, at most: a slow log writes its last block many times, but keeps it once.
    pub bytes_per_record: f64,
    /// Bytes to the device per second since the start.
    pub device_rate: Option<f64>,
}

impl Samples {
    /// Samples a second apart that are kept.
    const KEPT: usize = 31;
    /// Those of them that tell how fast the log drains now.
    const LATE: usize = 6;

    pub fn add(&mut self, sample: Sample) {
        self.first.get_or_insert(sample);
        self.recent.push_back(sample);
        if self.recent.len() > Self::KEPT {
            self.recent.pop_front();
        }
    }

    pub fn rates(&self) -> Rates {
        let (Some(first), Some(old), Some(new)) = (self.first, self.recent.front(), self.recent.back()) else {
            return Rates::default();
        };
        let late = self.recent.iter().rev().take(Self::LATE).next_back().unwrap_or(old);
        let since = |old: &Sample, of: fn(&Sample) -> u64| {
            let span = new.at.saturating_duration_since(old.at).as_secs_f64();
            if span > 0.0 { of(new).saturating_sub(of(old)) as f64 / span } else { 0.0 }
        };
        let lived = new.at.saturating_duration_since(first.at).as_secs_f64();
        let device = first.device.zip(new.device).filter(|_| lived > 10.0);
        Rates {
            rate_in: since(old, |sample| sample.written.records),
            rate_out: since(old, |sample| sample.acknowledged),
            shrinks: since(late, |sample| sample.acknowledged) - since(late, |sample| sample.written.records),
            bytes_per_record: kept(&new.written) as f64 / new.written.records.max(1) as f64,
            device_rate: device.map(|(before, after)| after.saturating_sub(before) as f64 / lived),
        }
    }
}

/// What the records occupy, at most: what was written, or their bodies uncompressed with what frames them.
fn kept(written: &Written) -> u64 {
    const FRAME: u64 = 32;
    written.block_bytes.min(written.body_bytes + FRAME * written.records)
}

impl Rates {
    /// Puts rates and forecasts into `status`. `endurance` is what the storage can take over its life, in bytes.
    pub fn complete(&self, status: &mut LogStatus, endurance: u64) {
        status.rate_in = self.rate_in;
        status.rate_out = self.rate_out;
        let growth = self.rate_in * self.bytes_per_record;
        if growth > 0.0 {
            let kept = status.waiting as f64 * self.bytes_per_record;
            status.full_in = Some(((status.quota as f64 * 0.95 - kept) / growth).max(0.0));
        }
        if status.waiting > 0 && self.shrinks > 0.0 {
            status.drained_in = Some(status.waiting as f64 / self.shrinks);
        }
        if let Some(rate) = self.device_rate {
            let day = rate * 86_400.0;
            status.written_per_day = Some(day);
            status.card_years = (day > 0.0).then(|| endurance as f64 / day / 365.25);
        }
    }
}

/// `write_bytes` of `/proc/self/io` (proc(5)): bytes this process caused to be sent to the storage layer.
pub fn device_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/io").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("write_bytes: "))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_end_of_a_drain_is_told_soon_after_a_burst() {
        let start = Instant::now();
        let mut samples = Samples::default();
        for second in 0..20u64 {
            let records = 10_000 * second.min(10);
            samples.add(Sample {
                at: start + Duration::from_secs(second),
                written: Written { records, ..Written::default() },
                acknowledged: second * 1000,
                device: None,
            });
        }
        let rates = samples.rates();
        assert!(rates.rate_in > rates.rate_out);
        let mut status = LogStatus { waiting: 80_000, ..LogStatus::default() };
        rates.complete(&mut status, 0);
        assert_eq!(status.drained_in, Some(80.0));
    }

    #[test]
    fn rates_and_forecasts() {
        let start = Instant::now();
        let mut samples = Samples::default();
        for second in 0..60u64 {
            samples.add(Sample {
                at: start + Duration::from_secs(second),
                written: Written { records: second * 100, block_bytes: second * 2000, body_bytes: second * 5000 },
                acknowledged: second * 300,
                device: Some(second * 4000),
            });
        }
        let rates = samples.rates();
        assert_eq!((rates.rate_in, rates.rate_out, rates.bytes_per_record), (100.0, 300.0, 20.0));
        let rewritten = Written { records: 10, block_bytes: 50_000, body_bytes: 1000 };
        assert_eq!(kept(&rewritten), 1320, "a block written again and again is kept once");
        let mut status = LogStatus { waiting: 1000, quota: 1_000_000, ..LogStatus::default() };
        rates.complete(&mut status, 4000 * 86_400 * 3653);
        assert_eq!(status.drained_in, Some(5.0));
        assert_eq!(status.full_in, Some((950_000.0 - 20_000.0) / 2000.0));
        assert!((status.card_years.expect("told") - 10.0).abs() < 0.01);
    }
}
