//! The gateway as it is shown: at a glance, its road to the cloud, its log, its limits, and what it says itself.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::{
    device::{Lifecycle, Presence},
    drift::Compliance,
    event::LinkState,
    ids::DeviceId,
    record::Lane,
    time::Millis,
};

/// The gateway at a glance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Overview {
    pub gateway: DeviceId,
    pub version: String,
    pub now: Millis,
    pub started: Millis,
    /// False until the time of day comes from somewhere better than a clock without a battery.
    pub clock_trusted: bool,
    pub link: LinkStatus,
    pub log: LogStatus,
    pub devices: DeviceCounts,
    /// How many of them are what they should be.
    #[serde(default)]
    pub compliance: Compliance,
    /// Children connected to the local broker.
    pub connections: usize,
    pub config: ConfigStatus,
    /// Resident bytes of the daemon, where the system tells.
    pub memory: Option<u64>,
    /// What else deserves a look, for people: a certificate that ends, a disk that fills, a task that keeps failing.
    #[serde(default)]
    pub notices: Vec<Notice>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Notice {
    /// Stands out on the page.
    pub urgent: bool,
    pub text: String,
}

/// The road to the cloud.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LinkStatus {
    #[serde(flatten)]
    pub state: LinkState,
    /// Since when it has been in this state.
    pub since: Option<Millis>,
    /// Host and port of the upstream broker; no user, no secret.
    pub broker: Option<String>,
    /// Publishes sent and not acknowledged yet.
    pub in_flight: u64,
    /// Records the cloud has acknowledged since the start of the daemon.
    pub acknowledged: u64,
    /// Bytes on the wire since the start of the daemon, with what TCP/IP and TLS put around them.
    pub bytes_sent: u64,
    pub bytes_received: u64,
    /// Both of them per acknowledged record.
    #[serde(default)]
    pub bytes_per_record: Option<f64>,
    /// What the link may cost and has cost; empty where nothing is limited.
    #[serde(default)]
    pub budgets: Vec<BudgetStatus>,
    pub last_error: Option<String>,
    /// Where the cloud has shadows of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadows: Option<ShadowSyncStatus>,
}

/// How far the shadows here and in the cloud are equal.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ShadowSyncStatus {
    pub total: usize,
    pub equal: usize,
    /// On their way, or waiting for the cloud.
    pub waiting: usize,
    /// Not taken by the cloud; not tried again until something changes.
    pub refused: usize,
    /// Device, named shadow and why, of the first hundred that are refused.
    pub reasons: Vec<(DeviceId, Option<String>, String)>,
}

/// One limit of a metered link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BudgetStatus {
    /// `day` or `month`.
    pub span: String,
    /// Bytes on the wire.
    pub limit: u64,
    pub used: u64,
    /// What the period will have cost at its end, at the rate so far.
    pub forecast: u64,
    /// When the next period begins.
    pub ends: Millis,
    /// Lanes that wait for it.
    pub held: Vec<Lane>,
}

/// The durable log, as far as the cloud has not acknowledged it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LogStatus {
    /// Records that wait for the cloud.
    pub waiting: u64,
    /// When the oldest of them was measured.
    pub oldest: Option<Millis>,
    /// Bytes on disk, write-ahead log and indexes included.
    pub bytes: u64,
    /// What `bytes` may reach before the oldest of the lowest lane are dropped and declared.
    pub quota: u64,
    /// Records per second into the log and acknowledged out of it, over the last half minute.
    pub rate_in: f64,
    pub rate_out: f64,
    /// Seconds without a cloud until something must be dropped: "you can be offline for …".
    pub full_in: Option<f64>,
    /// Seconds until nothing older waits, at the present rates; absent where nothing waits or it does not shrink.
    pub drained_in: Option<f64>,
    pub lanes: Vec<LaneStatus>,
    /// Records dropped before the cloud had them, by cause; each is declared in the loss ledger.
    pub dropped: BTreeMap<String, u64>,
    /// Bytes written to the device per day, and the years its card lasts at that rate.
    pub written_per_day: Option<f64>,
    pub card_years: Option<f64>,
    /// Why nothing can be stored now (disk full, read-only, failing).
    pub refusing: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LaneStatus {
    pub lane: Lane,
    pub waiting: u64,
    pub oldest: Option<Millis>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceCounts {
    pub total: usize,
    pub online: usize,
    pub late: usize,
    pub offline: usize,
    pub never_seen: usize,
    /// Enrolled or discovered, waiting for somebody to approve them.
    pub waiting: usize,
}

impl DeviceCounts {
    pub fn count(&mut self, lifecycle: Lifecycle, presence: Presence) {
        self.total += 1;
        match presence {
            Presence::Online => self.online += 1,
            Presence::Late => self.late += 1,
            Presence::Offline => self.offline += 1,
            Presence::NeverSeen => self.never_seen += 1,
        }
        self.waiting += usize::from(matches!(lifecycle, Lifecycle::Discovered | Lifecycle::Pending));
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigStatus {
    /// When the configuration that runs was loaded.
    pub loaded: Option<Millis>,
    /// Problems of a newer configuration that was refused; the old one runs on.
    pub problems: usize,
}

/// A line of the daemon's own log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LogLine {
    pub at: Millis,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: String,
    pub target: String,
    pub text: String,
}
