//! Bulk work over many children (`docs/mqtt.md`, jobs), and the executions a single child sees.

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::{ids::DeviceId, time::Millis};

/// `devices/{gw}/jobs/notify`. Idempotent by `job_id`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobOrder {
    pub job_id: String,
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub device_filter: Json,
    #[serde(default)]
    pub payload: Json,
    #[serde(default)]
    pub schedule: Json,
    #[serde(default)]
    pub rollout: Option<Json>,
}

/// `devices/{gw}/jobs/{jobId}/control`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobControl {
    Pause,
    Resume,
    Abort,
    Retry,
}

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobStatus {
    /// Its start time has not come.
    Pending,
    Running,
    Paused,
    Succeeded,
    Failed,
    Aborted,
}

impl JobStatus {
    pub fn is_final(self) -> bool {
        matches!(self, JobStatus::Succeeded | JobStatus::Failed | JobStatus::Aborted)
    }
}

/// Where one device of a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetStatus {
    /// Its turn has not come, or it waits for another attempt.
    Queued,
    InProgress,
    Succeeded,
    Failed,
    /// It was not asked: not allowed to talk, or the job ended before.
    Skipped,
}

/// One device of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    pub device: DeviceId,
    pub status: TargetStatus,
    /// Attempts begun.
    pub attempt: u32,
    /// While queued: not before; while in progress: given up at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Millis>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Failed, and somebody resumed the job knowing it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub forgiven: bool,
}

/// What is remembered of a job beside its targets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobState {
    pub status: JobStatus,
    /// Its devices were chosen; they do not change afterwards.
    pub chosen: bool,
    /// The rollout stage it is in, from 0.
    pub stage: usize,
    /// The stage is done and watched until then.
    #[serde(default)]
    pub soak_until: Option<Millis>,
    /// When the last device was ordered.
    #[serde(default)]
    pub last_order: Option<Millis>,
    /// Why it is paused, failed or aborted, for people.
    #[serde(default)]
    pub reason: Option<String>,
    pub created: Millis,
    pub changed: Millis,
}

/// A job with its targets, as it is stored and shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Job {
    pub order: JobOrder,
    #[serde(flatten)]
    pub state: JobState,
    pub targets: Vec<Target>,
}

impl Job {
    /// `{"total", "succeeded", "failed", "inProgress", "skipped"}`.
    pub fn progress(&self) -> Json {
        let count = |status| self.targets.iter().filter(|target| target.status == status).count();
        serde_json::json!({
            "total": self.targets.len(),
            "succeeded": count(TargetStatus::Succeeded),
            "failed": count(TargetStatus::Failed),
            "inProgress": count(TargetStatus::InProgress),
            "skipped": count(TargetStatus::Skipped),
        })
    }
}
