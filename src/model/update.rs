//! Firmware for children: what is ordered, and how far it is.

use serde::{Deserialize, Serialize};

use super::{ids::DeviceId, time::Millis};

/// `devices/{d}/update/command` from the cloud: what to install. Idempotent by `job_id`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UpdateOrder {
    pub job_id: String,
    pub target_version: String,
    pub url: String,
    /// Bytes; the fetch stops where more arrive.
    pub size: u64,
    /// Lower-case hex.
    pub sha256: String,
    /// Ed25519 over the image's SHA-256 digest (32 bytes), base64. An order without one is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Millis>,
}

/// What a child says on `devices/{d}/update/status`, and the word list of what goes up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpdateStatus {
    Started,
    Downloading,
    Verifying,
    Installing,
    Rebooting,
    Completed,
    Failed,
    RolledBack,
}

impl UpdateStatus {
    pub fn is_final(self) -> bool {
        matches!(self, UpdateStatus::Completed | UpdateStatus::Failed | UpdateStatus::RolledBack)
    }
}

/// How far one child's update is: shown on the page and sent up as `update/status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UpdateProgress {
    #[serde(skip)]
    pub device: Option<DeviceId>,
    #[serde(default)]
    pub job_id: Option<String>,
    #[serde(default)]
    pub from: Option<String>,
    #[serde(default)]
    pub to: Option<String>,
    pub status: UpdateStatus,
    /// 0 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}
