//! `[presence]`: when a child counts as late or offline, and what happens to a child nobody has configured.

use std::time::Duration;

use super::read::Section;
use crate::model::device::Lifecycle;

#[derive(Debug, Clone, PartialEq)]
pub struct Presence {
    /// How often a child is expected to be heard where its own section does not say. `None`: an MQTT child counts by
    /// its connection alone, a polled one by what its driver says.
    pub interval: Option<Duration>,
    /// Late after this many intervals of silence.
    pub late_after: f64,
    /// Offline after this many intervals of silence.
    pub offline_after: f64,
    /// After a start of the gateway children are given this long to come back before they are called offline: the
    /// gateway was away, not they.
    pub grace: Duration,
    /// This many changes between online and offline within `flapping_window` are one alarm, not many messages.
    pub flapping_changes: usize,
    pub flapping_window: Duration,
    /// What a child with good credentials becomes when it is heard for the first time: `Active` or `Pending`.
    pub admit: Lifecycle,
}

impl Default for Presence {
    fn default() -> Self {
        Self {
            interval: None,
            late_after: 1.5,
            offline_after: 3.0,
            grace: Duration::from_secs(60),
            flapping_changes: 5,
            flapping_window: Duration::from_secs(600),
            admit: Lifecycle::Active,
        }
    }
}

impl Presence {
    pub fn read(section: &Section<'_>) -> Self {
        let normal = Self::default();
        let factor = |key: &'static str, normal: f64| match section.number(key) {
            Some(factor) if (1.0..=1000.0).contains(&factor) => factor,
            Some(factor) => {
                section.problem(key, format!("found {factor}"), "expected a number of intervals from 1 to 1000");
                normal
            }
            None => normal,
        };
        let span = |key: &'static str| match section.duration(key) {
            Some(span) if span < Duration::from_millis(100) => {
                section.problem(key, format!("{span:?} is too short"), "at least \"100ms\"");
                None
            }
            span => span,
        };
        let read = Self {
            interval: span("interval"),
            late_after: factor("late_after", normal.late_after),
            offline_after: factor("offline_after", normal.offline_after),
            grace: section.duration("grace").unwrap_or(normal.grace),
            flapping_changes: section
                .integer("flapping_changes", 2..=1000)
                .map_or(normal.flapping_changes, |n| usize::try_from(n).unwrap_or(normal.flapping_changes)),
            flapping_window: span("flapping_window").unwrap_or(normal.flapping_window),
            admit: section
                .choice("admit", &[("active", Lifecycle::Active), ("pending", Lifecycle::Pending)])
                .unwrap_or(normal.admit),
        };
        if read.offline_after < read.late_after {
            let found = format!("{} is less than late_after = {}", read.offline_after, read.late_after);
            section.problem("offline_after", found, "a device is late first and offline afterwards");
        }
        read
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::read::Document;

    fn read(text: &str) -> (Presence, Vec<String>) {
        let document = Document::parse("headgate.toml", text);
        let presence = Presence::read(&document.root());
        (presence, document.into_problems().iter().map(ToString::to_string).collect())
    }

    #[test]
    fn nothing_written_means_the_defaults() {
        assert_eq!(read(""), (Presence::default(), Vec::new()));
    }

    #[test]
    fn an_order_that_makes_no_sense_is_a_problem() {
        let (_, problems) = read("late_after = 4\ninterval = \"1ms\"\nadmit = \"activ\"\n");
        assert_eq!(problems.len(), 3, "{problems:#?}");
        assert!(problems.iter().any(|p| p.contains("late first")), "{problems:#?}");
        assert!(problems.iter().any(|p| p.contains("did you mean \"active\"?")), "{problems:#?}");
    }
}
