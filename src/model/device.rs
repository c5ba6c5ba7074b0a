//! What a device is: protocol, place in its life, presence.

use std::{collections::HashMap, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{ids::DeviceId, time::Millis};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Gateway,
    Mqtt,
    Modbus,
    Coap,
}

/// Where a device stands in its life. Only `Active` and `Maintenance` devices may talk to the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lifecycle {
    /// Seen on a wire, known to nobody.
    Discovered,
    /// Enrolled, waiting for approval.
    Pending,
    Active,
    /// Works, raises no alarms.
    Maintenance,
    Suspended,
    Quarantined,
    /// Keys revoked; only the tombstone stays.
    Decommissioned,
}

impl Lifecycle {
    /// Whether a person or a rule may move a device from here to `next`. Nothing leads out of `Decommissioned`: its
    /// tombstone stays, so that whoever still has its keys or its name cannot come back.
    pub fn may_become(self, next: Lifecycle) -> bool {
        use Lifecycle::{Active, Decommissioned, Discovered, Maintenance, Pending, Quarantined, Suspended};
        match (self, next) {
            (Decommissioned, _) | (_, Discovered) => false,
            (_, Decommissioned) => true,
            (Discovered, Pending | Active | Quarantined) => true,
            (Pending, Active | Quarantined) => true,
            (Active | Maintenance | Suspended | Quarantined, Active | Maintenance | Suspended | Quarantined) => {
                self != next
            }
            _ => false,
        }
    }

    pub fn may_talk(self) -> bool {
        matches!(self, Lifecycle::Active | Lifecycle::Maintenance)
    }
}

/// Where every device stands in its life: for whoever asks with each message.
#[derive(Debug, Clone, PartialEq)]
pub struct Lives {
    /// Those that stand elsewhere than newcomers do: few, however many devices there are.
    others: HashMap<DeviceId, Lifecycle>,
    newcomers: Lifecycle,
}

impl Lives {
    /// `newcomers` is what a device becomes that nobody has met.
    pub fn new<'d>(known: impl IntoIterator<Item = (&'d DeviceId, Lifecycle)>, newcomers: Lifecycle) -> Self {
        let others = known.into_iter().filter(|(_, lifecycle)| *lifecycle != newcomers);
        Self { others: others.map(|(device, lifecycle)| (device.clone(), lifecycle)).collect(), newcomers }
    }

    pub fn of(&self, device: &DeviceId) -> Lifecycle {
        self.others.get(device).copied().unwrap_or(self.newcomers)
    }
}

/// Derived from the time of the last sign of life: late after 1.5, offline after 3 expected intervals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Presence {
    NeverSeen,
    Online,
    Late,
    Offline,
}

/// A device as the registry knows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Device {
    pub id: DeviceId,
    pub protocol: Protocol,
    /// The device type: profile name of a Modbus child, free text otherwise. Job filters match it.
    #[serde(rename = "type")]
    pub kind: Arc<str>,
    pub lifecycle: Lifecycle,
    pub presence: Presence,
    pub presence_since: Option<Millis>,
    /// Why it is offline, for people.
    pub reason: Option<String>,
    pub first_seen: Option<Millis>,
    pub last_seen: Option<Millis>,
    pub firmware_version: Option<String>,
    #[serde(default)]
    pub tags: Vec<String>,
    #[serde(default)]
    pub groups: Vec<String>,
}
