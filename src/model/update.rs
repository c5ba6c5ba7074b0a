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

/// Where a child's update stands on this gateway. One active update per child.
///
/// ```text
/// waiting ⇄ fetching ─▶ offered ─▶ installing ─▶ completed | failed | rolled-back
///    └─────────┴───────────┴─▶ cancelled | superseded | failed
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// The image is not here yet and nothing is being fetched: next try at `retry_at`, or space is short.
    Waiting,
    Fetching,
    /// Verified and open to the child.
    Offered,
    /// The child has begun.
    Installing,
    Completed,
    Failed,
    RolledBack,
    /// Withdrawn before the child began.
    Cancelled,
    /// Replaced by a newer order before the child began.
    Superseded,
}

impl Stage {
    pub const ALL: [Stage; 9] = [
        Stage::Waiting,
        Stage::Fetching,
        Stage::Offered,
        Stage::Installing,
        Stage::Completed,
        Stage::Failed,
        Stage::RolledBack,
        Stage::Cancelled,
        Stage::Superseded,
    ];

    pub fn word(self) -> &'static str {
        match self {
            Stage::Waiting => "waiting",
            Stage::Fetching => "fetching",
            Stage::Offered => "offered",
            Stage::Installing => "installing",
            Stage::Completed => "completed",
            Stage::Failed => "failed",
            Stage::RolledBack => "rolled-back",
            Stage::Cancelled => "cancelled",
            Stage::Superseded => "superseded",
        }
    }

    pub fn parse(word: &str) -> Option<Stage> {
        Self::ALL.into_iter().find(|stage| stage.word() == word)
    }

    pub fn is_active(self) -> bool {
        matches!(self, Stage::Waiting | Stage::Fetching | Stage::Offered | Stage::Installing)
    }

    /// Whether the child may fetch the image.
    pub fn is_open(self) -> bool {
        matches!(self, Stage::Offered | Stage::Installing)
    }
}

/// One child's update as it is stored and shown.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ChildUpdate {
    #[serde(skip)]
    pub id: i64,
    pub device: DeviceId,
    #[serde(flatten)]
    pub order: UpdateOrder,
    pub stage: Stage,
    /// What the child itself said last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub child: Option<UpdateStatus>,
    /// The version the child said it comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// 0 to 100: of the fetch while `fetching`, of the child's own work afterwards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Fetches tried so far.
    pub attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Millis>,
    pub created_at: Millis,
    pub changed_at: Millis,
}

impl ChildUpdate {
    /// As it goes up and to the page, under `status`.
    pub fn report(&self, status: UpdateStatus) -> UpdateProgress {
        UpdateProgress {
            device: Some(self.device.clone()),
            job_id: Some(self.order.job_id.clone()),
            from: self.from.clone(),
            to: Some(self.order.target_version.clone()),
            status,
            progress: self.progress,
            error: self.error.clone(),
        }
    }
}
