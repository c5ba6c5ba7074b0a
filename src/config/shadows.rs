//! `[shadows]`: limits of shadow documents, how much history is kept, and when drifted configuration is pushed again.

use std::time::Duration;

use super::read::Section;

#[derive(Debug, Clone, PartialEq)]
pub struct Shadows {
    /// Bytes of compact JSON of desired and reported together. More than 8192 does not fit the big cloud's shadows.
    pub state_bytes: usize,
    /// Levels of members below desired and reported.
    pub depth: usize,
    /// Bytes of memory for shadow documents; the others are read from disk.
    pub cache: usize,
    /// A desired value that a device did not take within this time is withdrawn. `None`: it waits for ever.
    pub desired_expiry: Option<Duration>,
    pub history_days: u32,
    /// Changes kept of all devices together.
    pub history_entries: u32,
    /// Changes kept per device that the device made itself, and as many again that others made.
    pub history_per_device: u32,
    /// The width of a point of the trends the page shows; 240 are kept.
    pub trend_step: Duration,
    /// Bytes of memory for trends.
    pub trend_memory: usize,
    /// How long a pushed configuration may go without an acknowledgement.
    pub config_ack: Duration,
    /// How often a configuration is pushed before the gateway gives up until something changes.
    pub config_pushes: u32,
    /// A device that has drifted for this long, in its configuration or its firmware, raises an alarm.
    pub drift_alarm: Duration,
}

impl Default for Shadows {
    fn default() -> Self {
        Self {
            state_bytes: 8192,
            depth: 8,
            cache: 32 << 20,
            desired_expiry: None,
            history_days: 90,
            history_entries: 200_000,
            history_per_device: 500,
            trend_step: Duration::from_secs(10),
            trend_memory: 16 << 20,
            config_ack: Duration::from_secs(300),
            config_pushes: 3,
            drift_alarm: Duration::from_secs(86_400),
        }
    }
}

impl Shadows {
    pub fn read(section: &Section<'_>) -> Self {
        let normal = Self::default();
        let bytes = |key: &'static str, least: u64, normal: usize| match section.bytes(key) {
            Some(bytes) if bytes < least => {
                section.problem(key, format!("{bytes} bytes are too few"), format!("at least {least} bytes"));
                normal
            }
            Some(bytes) => usize::try_from(bytes).unwrap_or(normal),
            None => normal,
        };
        let count = |key: &'static str, range, normal: u32| {
            section.integer(key, range).and_then(|n| u32::try_from(n).ok()).unwrap_or(normal)
        };
        let span = |key: &'static str| match section.duration(key) {
            Some(span) if span < Duration::from_secs(1) => {
                section.problem(key, format!("{span:?} is too short"), "at least \"1s\"");
                None
            }
            span => span,
        };
        Self {
            state_bytes: bytes("state_bytes", 8192, normal.state_bytes),
            depth: section
                .integer("depth", 8..=64)
                .map_or(normal.depth, |n| usize::try_from(n).unwrap_or(normal.depth)),
            cache: bytes("cache", 1 << 20, normal.cache),
            desired_expiry: span("desired_expiry"),
            history_days: count("history_days", 1..=36_500, normal.history_days),
            history_entries: count("history_entries", 0..=100_000_000, normal.history_entries),
            history_per_device: count("history_per_device", 1..=1_000_000, normal.history_per_device),
            trend_step: span("trend_step").unwrap_or(normal.trend_step),
            trend_memory: bytes("trend_memory", 0, normal.trend_memory),
            config_ack: span("config_ack").unwrap_or(normal.config_ack),
            config_pushes: count("config_pushes", 1..=100, normal.config_pushes),
            drift_alarm: span("drift_alarm").unwrap_or(normal.drift_alarm),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::read::Document;

    #[test]
    fn nothing_written_means_the_defaults_and_limits_only_go_up() {
        let document = Document::parse("headgate.toml", "");
        assert_eq!(Shadows::read(&document.root()), Shadows::default());
        assert!(document.into_problems().is_empty());
        let document = Document::parse("headgate.toml", "state_bytes = \"4KiB\"\ndepth = 5\ncache = \"64MiB\"\n");
        assert_eq!(Shadows::read(&document.root()).cache, 64 << 20);
        assert_eq!(document.into_problems().len(), 2);
    }
}
