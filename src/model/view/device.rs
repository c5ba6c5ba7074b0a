//! A device as it is shown: its row in a list, the whole of it, and its past.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::model::{
    command::Door,
    device::Device,
    drift::Drift,
    ids::DeviceId,
    reading::{Quality, Value},
    time::Millis,
    update::UpdateProgress,
};

/// One row of the list of devices.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceRow {
    #[serde(flatten)]
    pub device: Device,
    /// The latest values in the order of the profile; the whole, few hundred at most.
    pub values: Vec<Live>,
    /// Units of those values that have one.
    #[serde(default)]
    pub units: BTreeMap<String, String>,
    /// Names in which desired and reported differ.
    #[serde(default)]
    pub open: Vec<String>,
    #[serde(default)]
    pub update: Option<UpdateProgress>,
}

/// The latest of one value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Live {
    pub name: String,
    pub value: Option<Value>,
    #[serde(flatten)]
    pub quality: Quality,
    /// When it was measured.
    pub ts: Millis,
}

/// One device, whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceView {
    #[serde(flatten)]
    pub row: DeviceRow,
    /// What its profile says of its values; empty for devices that describe nothing.
    #[serde(default)]
    pub points: Vec<Point>,
    /// Commands it can be called with, by name: its driver's and its profile's; empty for those that do not say.
    #[serde(default)]
    pub commands: Vec<String>,
    #[serde(default)]
    pub connection: Option<Connection>,
    #[serde(default)]
    pub config: Option<ConfigView>,
    #[serde(default)]
    pub drift: Vec<Drift>,
    /// Where it is reached, for people: `meter-bus (tcp 10.0.0.7:502), unit 3`.
    #[serde(default)]
    pub address: Option<String>,
    /// Counters of its driver: requests, timeouts, exceptions by code, latency.
    #[serde(default)]
    pub counters: Option<Json>,
}

/// A value as a profile describes it: what is shown beside it and what may be written.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Point {
    pub name: String,
    pub title: Option<String>,
    pub unit: Option<String>,
    pub writable: bool,
    pub min: Option<f64>,
    pub max: Option<f64>,
    /// The raw value of each choice and its title, where the value is one of a list.
    #[serde(default)]
    pub choices: Vec<Choice>,
    pub register: Option<Register>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Choice {
    pub value: Json,
    pub title: String,
}

/// Where a value lies in a Modbus device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Register {
    /// `holding`, `input`, `coil` or `discrete`.
    pub table: String,
    /// From 0, as on the wire.
    pub address: u16,
    #[serde(rename = "type")]
    pub kind: String,
    pub order: Option<String>,
    pub scale: Option<f64>,
    /// Milliseconds between polls.
    pub interval: Option<u64>,
}

/// A child's connection to the local broker.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Connection {
    pub device: String,
    pub client_id: String,
    pub connected: bool,
    /// The session is over; it is shown because it ended in trouble.
    #[serde(default)]
    pub ended: bool,
    /// Where it is, or was last.
    pub address: Option<String>,
    /// `mqtt 3.1.1`, `mqtt 5`, with `tls` and `websocket` where they apply.
    pub protocol: String,
    /// Since when it is connected, away or over.
    pub since: Option<Millis>,
    pub messages_in: u64,
    pub messages_out: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// Messages per second from the child, over the last half minute.
    pub rate_in: f64,
    pub rate_out: f64,
    /// Messages queued for it.
    pub queued: u64,
    pub dropped: BTreeMap<String, u64>,
    pub last_error: Option<String>,
    #[serde(default)]
    pub last_error_at: Option<Millis>,
}

/// Which configuration a device should have and which it has.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigView {
    pub desired_version: Option<i64>,
    pub applied_version: Option<i64>,
    pub status: Option<String>,
    pub reason: Option<String>,
    pub config: Option<Json>,
    /// SHA-256 of the configuration's compact JSON, of the one it should have and of the one it acknowledged.
    #[serde(default)]
    pub desired_hash: Option<String>,
    #[serde(default)]
    pub applied_hash: Option<String>,
    /// Times it was pushed since it counts or since the device drifted, and when last.
    #[serde(default)]
    pub pushes: u32,
    #[serde(default)]
    pub pushed: Option<Millis>,
}

/// One change of a shadow, as its history keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    pub at: Millis,
    pub door: Door,
    /// The named shadow; absent for the classic one.
    #[serde(default)]
    pub shadow: Option<String>,
    /// `desired`, `reported`, `command`, `config`, `update`, …
    pub section: String,
    /// What was changed, by the path below the section; null where it was removed.
    pub change: Json,
    /// What stood there before, under the same names; without those that were not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Json>,
    /// What it means, for people, where that is not plain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    #[serde(default)]
    pub version: Option<u64>,
    /// What became of it, where it was refused or failed.
    #[serde(default)]
    pub refusal: Option<String>,
}

/// A stretch of one value's past, thinned to what a plot can show.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Trend {
    pub name: String,
    pub from: Millis,
    pub to: Millis,
    /// `(time, least, mean, greatest)` of each bucket that holds values, oldest first.
    pub points: Vec<(Millis, f64, f64, f64)>,
}

/// An update, of now or of the past.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UpdateView {
    pub device: DeviceId,
    #[serde(flatten)]
    pub progress: UpdateProgress,
    /// Bytes of the image, and how many of them are here.
    pub size: Option<u64>,
    pub fetched: Option<u64>,
    pub started: Option<Millis>,
    pub changed: Option<Millis>,
    #[serde(default)]
    pub attempts: u32,
}

/// A command and what became of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CommandView {
    pub name: String,
    pub command_id: String,
    pub door: Option<Door>,
    pub at: Millis,
    /// `waiting`, `sent`, `succeeded`, `failed`, `rejected` or `expired`.
    pub status: String,
    #[serde(default)]
    pub params: Json,
    #[serde(default)]
    pub result: Option<Json>,
}
