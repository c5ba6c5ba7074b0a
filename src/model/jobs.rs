//! Bulk work over many children (`docs/mqtt.md`, jobs), and the executions a single child sees.

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

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
