//! `[uplink.shadows]`: how shadows are kept equal with those of a cloud that has its own.

use std::time::Duration;

use super::read::Section;
use crate::model::shadow::reconcile::{Policy, Side};

/// How answers are subscribed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subscribe {
    /// `$aws/things/+/…`: four filters for all, where the cloud's policy allows it.
    Wildcard,
    /// Four filters for each thing.
    Each,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ShadowSync {
    pub subscribe: Subscribe,
    /// Named shadows too.
    pub named: bool,
    /// Who is right where both sides changed the same member.
    pub conflict: Policy,
    /// Between two updates of one shadow; what changes meanwhile is merged into one.
    pub interval: Duration,
    /// For an answer, before it is asked what became of a request.
    pub answer_timeout: Duration,
    /// How often a shadow of which nothing was heard is compared as a whole.
    pub verify: Duration,
    /// Requests per second of all shadows together.
    pub rate: u32,
}

impl Default for ShadowSync {
    fn default() -> Self {
        Self {
            subscribe: Subscribe::Wildcard,
            named: true,
            conflict: Policy::default(),
            interval: Duration::from_secs(1),
            answer_timeout: Duration::from_secs(20),
            verify: Duration::from_secs(86_400),
            rate: 50,
        }
    }
}

impl ShadowSync {
    pub fn read(section: &Section<'_>) -> Self {
        let normal = Self::default();
        let side =
            |key, normal| section.choice(key, &[("local", Side::Here), ("cloud", Side::There)]).unwrap_or(normal);
        let span = |key: &'static str, least: Duration, normal: Duration| match section.duration(key) {
            Some(span) if span < least => {
                section.problem(key, format!("{span:?} is too short"), format!("at least \"{}ms\"", least.as_millis()));
                normal
            }
            span => span.unwrap_or(normal),
        };
        Self {
            subscribe: section
                .choice("subscribe", &[("wildcard", Subscribe::Wildcard), ("each", Subscribe::Each)])
                .unwrap_or(normal.subscribe),
            named: section.bool("named").unwrap_or(normal.named),
            conflict: Policy {
                desired: side("desired", normal.conflict.desired),
                reported: side("reported", normal.conflict.reported),
            },
            interval: span("interval", Duration::ZERO, normal.interval),
            answer_timeout: span("answer_timeout", Duration::from_secs(1), normal.answer_timeout),
            verify: span("verify", Duration::from_secs(1), normal.verify),
            rate: section.integer("rate", 1..=100).map_or(normal.rate, |n| n as u32),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::read::Document;

    #[test]
    fn each_section_has_its_winner_and_what_cannot_be_is_a_problem() {
        let text = "subscribe = \"each\"\ndesired = \"local\"\nreported = \"nobody\"\nrate = 101\nverify = \"10ms\"\n";
        let document = Document::parse("headgate.toml", text);
        let sync = ShadowSync::read(&document.root());
        assert_eq!((sync.subscribe, sync.conflict.desired), (Subscribe::Each, Side::Here));
        assert_eq!(document.into_problems().len(), 3);
    }
}
