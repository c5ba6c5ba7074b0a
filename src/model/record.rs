//! Entries of the durable log: what goes up to the cloud, in which lane, under which topic.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{ids::DeviceId, time::Millis};

/// What a record is; decides its lane and its topic (`docs/mqtt.md`, cloud side).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum Kind {
    Telemetry = 0,
    State = 1,
    Status = 2,
    Heartbeat = 3,
    UpdateStatus = 4,
    ConfigAck = 5,
    CommandResponse = 6,
    DiagnosticsResponse = 7,
    Event = 8,
    Gap = 9,
    JobStatus = 10,
}

impl Kind {
    pub const ALL: [Kind; 11] = [
        Kind::Telemetry,
        Kind::State,
        Kind::Status,
        Kind::Heartbeat,
        Kind::UpdateStatus,
        Kind::ConfigAck,
        Kind::CommandResponse,
        Kind::DiagnosticsResponse,
        Kind::Event,
        Kind::Gap,
        Kind::JobStatus,
    ];

    /// The kind with this number on disk.
    pub fn from_u8(number: u8) -> Option<Kind> {
        Self::ALL.get(usize::from(number)).copied()
    }

    pub fn lane(self) -> Lane {
        match self {
            Kind::Event
            | Kind::Gap
            | Kind::UpdateStatus
            | Kind::ConfigAck
            | Kind::CommandResponse
            | Kind::JobStatus => Lane::Urgent,
            Kind::State | Kind::Status | Kind::Heartbeat => Lane::State,
            Kind::Telemetry => Lane::Telemetry,
            Kind::DiagnosticsResponse => Lane::Logs,
        }
    }
}

/// The class of a record. Urgent lanes are sent first and dropped last; order is kept within a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Lane {
    Urgent = 0,
    State = 1,
    Telemetry = 2,
    Logs = 3,
}

impl Lane {
    pub const ALL: [Lane; 4] = [Lane::Urgent, Lane::State, Lane::Telemetry, Lane::Logs];

    pub fn name(self) -> &'static str {
        match self {
            Lane::Urgent => "urgent",
            Lane::State => "state",
            Lane::Telemetry => "telemetry",
            Lane::Logs => "logs",
        }
    }
}

/// A record on its way into the log.
#[derive(Debug, Clone, PartialEq)]
pub struct NewRecord {
    pub device: DeviceId,
    pub kind: Kind,
    /// The `{name}` of `commands/{name}/response` or the `{jobId}` of `jobs/{jobId}/status`.
    pub name: Option<Arc<str>>,
    /// When it happened or was measured.
    pub ts: Millis,
    /// A JSON object as UTF-8 text, without `ts`, `seq` and `late`: those are spliced in when it is sent.
    pub body: Bytes,
}

/// A record as it lies in the log.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Place in the log: grows by one per record of a lane, never reused.
    pub position: u64,
    /// Per device and lane: from 1, without holes, surviving restarts.
    pub seq: u64,
    /// The clock was not trusted when `ts` was taken.
    pub clock_untrusted: bool,
    pub record: NewRecord,
}
