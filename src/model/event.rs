//! What those who watch are told: the page, metrics, tests. Losing one loses nothing but a glance.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    device::{Lifecycle, Presence},
    ids::DeviceId,
    reading::Reading,
    time::Millis,
    update::UpdateProgress,
};

/// Sent over a broadcast channel that may drop; whoever missed some asks the API for the whole again.
#[derive(Debug, Clone)]
pub enum Event {
    Reading(Arc<Reading>),
    Presence {
        device: DeviceId,
        presence: Presence,
        at: Millis,
        reason: Option<String>,
    },
    Lifecycle {
        device: DeviceId,
        lifecycle: Lifecycle,
        at: Millis,
    },
    Shadow {
        device: DeviceId,
        name: Option<Arc<str>>,
        version: u64,
    },
    Update(Arc<UpdateProgress>),
    Link(LinkState),
    Alarm {
        device: DeviceId,
        severity: Severity,
        text: String,
        at: Millis,
    },
    /// The configuration was reloaded, or was refused with this many problems.
    Config {
        problems: usize,
    },
}

/// ITU-T X.733 perceived severities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Info,
    Warning,
    Minor,
    Major,
    Critical,
}

impl Severity {
    pub const ALL: [Severity; 5] =
        [Severity::Info, Severity::Warning, Severity::Minor, Severity::Major, Severity::Critical];

    pub fn word(self) -> &'static str {
        match self {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Minor => "minor",
            Severity::Major => "major",
            Severity::Critical => "critical",
        }
    }

    pub fn parse(word: &str) -> Option<Severity> {
        Self::ALL.into_iter().find(|severity| severity.word() == word)
    }
}

/// The states of the road to the cloud.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum LinkState {
    /// No cloud is configured.
    Disabled,
    Connecting,
    /// Connected, and nothing older waits.
    Live,
    /// Connected; this many records wait.
    CatchingUp {
        backlog: u64,
    },
    BackingOff {
        until: Millis,
        reason: String,
    },
    /// The broker refused in a way that trying again cannot mend; tried again rarely.
    Refused {
        reason: String,
    },
}
