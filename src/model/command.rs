//! Commands to children and what became of them.

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::{ids::DeviceId, time::Millis};

/// `devices/{d}/commands/{name}`: idempotent by `command_id`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Command {
    #[serde(skip)]
    pub name: String,
    pub command_id: String,
    #[serde(default)]
    pub params: Json,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Millis>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CommandStatus {
    Succeeded,
    Failed,
    Rejected,
}

/// `devices/{d}/commands/{name}/response`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CommandResponse {
    pub command_id: String,
    pub status: CommandStatus,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Json>,
}

/// Through which door a change came: kept in every history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Door {
    Cloud,
    /// The local page, API or command line; the name is the account.
    Technician(String),
    /// The device itself, by message or by read-back.
    Device,
    /// Another child with a grant, such as a local HMI.
    Local(DeviceId),
    Rule,
    Gateway,
}

/// Why something was refused: shown to its sender on `devices/{d}/errors`, as a reason code or as a status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
#[serde(rename_all = "camelCase")]
pub struct Refusal {
    pub code: RefusalCode,
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefusalCode {
    /// The payload is not what the topic says.
    PayloadInvalid,
    TopicInvalid,
    NotAuthorized,
    UnknownDevice,
    TooLarge,
    OutOfRange,
    NotWritable,
    Expired,
    VersionConflict,
    /// The device did not do it: exception, timeout, wrong read-back.
    DeviceFailed,
    /// The disk refuses; nothing was acknowledged.
    StoreUnavailable,
    Busy,
    Internal,
}

impl Refusal {
    pub fn new(code: RefusalCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// A technician's lock: while it holds, this value is not written, whoever desires it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    pub by: String,
    /// `None`: until it is taken off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Millis>,
}

impl Lock {
    pub fn holds(&self, now: Millis) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}
