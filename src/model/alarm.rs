//! Alarms: one per device and type, active or cleared, acknowledged or not.

use serde::{Deserialize, Serialize};

use super::{event::Severity, ids::DeviceId, time::Millis};

/// The type of the alarm that a device's certificate, or the gateway's own, runs out.
pub const CERTIFICATE_EXPIRY: &str = "certificate-expiry";
/// The types of the alarms that a device has not been for long what it should be.
pub const CONFIG_DRIFT: &str = "config-drift";
pub const FIRMWARE_DRIFT: &str = "firmware-drift";
pub const IDENTITY_DRIFT: &str = "identity-drift";
/// Types of alarms that no rule raises and none clears.
pub const OWN: [&str; 4] = [CERTIFICATE_EXPIRY, CONFIG_DRIFT, FIRMWARE_DRIFT, IDENTITY_DRIFT];

/// The four states are the two flags: an alarm that was cleared before anybody saw it still wants to be seen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Alarm {
    pub device: DeviceId,
    /// The name of the rule that raised it.
    #[serde(rename = "type")]
    pub kind: String,
    pub severity: Severity,
    pub active: bool,
    pub acknowledged: bool,
    /// Who acknowledged it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Times it was raised.
    pub count: u64,
    pub first: Millis,
    pub last: Millis,
    /// What is wrong, for people.
    pub text: String,
}
