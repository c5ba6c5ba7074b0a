//! `[log]`: how much is kept, how fast it is committed.

use std::time::Duration;

use super::read::Section;

#[derive(Debug, Clone, PartialEq)]
pub struct LogConfig {
    /// What the database may occupy, write-ahead log and indexes included. At the cap the oldest records of the lowest
    /// class go first; what the cloud has not got yet is declared.
    pub max_bytes: u64,
    /// Records of each class (urgent, state, telemetry, logs) older than this are dropped, counted in time the gateway
    /// was switched on.
    pub max_age: [Duration; 4],
    /// Bytes of the file system that are left to others: below this the log stops growing.
    pub keep_free: u64,
    /// How long a reading nobody waits for may wait for company before it is committed. Longer spares flash.
    pub linger: Duration,
    /// Bytes the storage can take over its life, for the forecast on the page.
    pub endurance: u64,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            max_bytes: 2 << 30,
            max_age: [Duration::from_secs(90 * 86_400); 4],
            keep_free: 256 << 20,
            linger: Duration::from_millis(250),
            endurance: 20_000_000_000_000,
        }
    }
}

impl LogConfig {
    /// The least that leaves room for everything but the log.
    const LEAST: u64 = 4 << 20;

    pub fn read(section: &Section<'_>) -> Self {
        let default = Self::default();
        let max_bytes = section.bytes("max_size").unwrap_or(default.max_bytes);
        if max_bytes < Self::LEAST {
            section.problem("max_size", format!("{max_bytes} bytes are too few"), "give the log at least \"4MiB\"");
        }
        let all = section.duration("max_age");
        let linger = section.duration("linger").unwrap_or(default.linger);
        if linger > Duration::from_secs(10) {
            section.problem(
                "linger",
                format!("{linger:?} is too long"),
                "at most \"10s\"; a power cut loses that much",
            );
        }
        Self {
            max_bytes: max_bytes.max(Self::LEAST),
            max_age: ["max_age_urgent", "max_age_state", "max_age_telemetry", "max_age_logs"]
                .map(|class| section.duration(class).or(all).unwrap_or(default.max_age[0])),
            keep_free: section.bytes("keep_free").unwrap_or(default.keep_free),
            linger: linger.min(Duration::from_secs(10)),
            endurance: section.bytes("endurance").unwrap_or(default.endurance).max(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::read::Document;

    #[test]
    fn amounts_are_read_and_absurd_ones_reported() {
        let text = "max_size = \"64MiB\"\nlinger = \"1m\"\nmax_age = \"30d\"\nmax_age_logs = \"2d\"\n";
        let document = Document::parse("log.toml", text);
        let log = LogConfig::read(&document.root());
        assert_eq!((log.max_bytes, log.linger), (64 << 20, Duration::from_secs(10)));
        assert_eq!(log.max_age.map(|age| age.as_secs() / 86_400), [30, 30, 30, 2]);
        let problems = document.into_problems();
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].line, 2);
    }
}
