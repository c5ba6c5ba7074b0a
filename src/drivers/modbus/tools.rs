//! Commissioning tools that work on a bus beside its polling. Requests and answers are JSON; this file is their
//! description, `drivers::modbus::tool_run` carries them out.
//!
//! | `tool` | asks | answers |
//! |---|---|---|
//! | `status` | | `Status` |
//! | `scan` | `units` ("1-247"), `timeoutMs`, `lines` (["9600 8N1", …], serial only), `probes` (["input:1"]) | `{"found": [recognised…]}`; progress: `{"unit", "of", "found"?}` |
//! | `identify` | `unit` or `device` | `{"unit", "identity", "sunspec", "profiles"}` |
//! | `read` | `unit` or `device`, `table` or `file`, `address`, `count` and/or `type`, `order`, `scale`; or `device` + `name` | `{"registers", "value"?}` |
//! | `write` | `device`, `name`, `value`, `revertAfterMs`?; or `unit`, `table`, `address`, `type`, `order`, `value` | `{"before", "written", "readBack", "reverted"?}`; progress while it waits |
//! | `raw` | `unit` or `device`, `pdu`: function and data in hexadecimal | `{"reply", "exception"?}` |
//! | `solve` | `unit` or `device`, `address`, `display`, `table`?, `around`? | `{"candidates": […]}` |
//! | `budget` | | `{"predicted": …, "measured": …}` |
//! | `scope` | `seconds`, `unit`? | summary; progress: frames as in a capture |
//!
//! All may name `bus`; the driver routes by it (or by `device`).

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use tokio::sync::mpsc;

use super::{
    owner::Owner,
    scope::Scope,
    tool_check::{short, understand},
};
use crate::{
    bus::Reply,
    config::modbus::kind::Table,
    model::{
        command::{Refusal, RefusalCode},
        ids::DeviceId,
    },
};

/// What is asked, by the word under `tool`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "tool", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum ToolRequest {
    Status {},
    Scan {
        #[serde(default = "all_units")]
        units: String,
        #[serde(default = "scan_timeout")]
        timeout_ms: u64,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        lines: Vec<String>,
        /// What is asked of each unit, such as `input:1`; `holding:0` where nothing is said.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        probes: Vec<String>,
    },
    Identify {
        #[serde(flatten)]
        target: Target,
    },
    Read {
        #[serde(flatten)]
        target: Target,
        #[serde(flatten)]
        place: Place,
    },
    Write {
        #[serde(flatten)]
        target: Target,
        #[serde(flatten)]
        place: Place,
        value: Json,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        revert_after_ms: Option<u64>,
    },
    /// Any function, as bytes.
    Raw {
        #[serde(flatten)]
        target: Target,
        pdu: String,
    },
    Solve {
        #[serde(flatten)]
        target: Target,
        #[serde(default = "holding")]
        table: String,
        address: u16,
        /// The number as the device shows it.
        display: f64,
        /// Registers looked at on both sides of the address.
        #[serde(default = "around")]
        around: u16,
    },
    Budget {},
    Scope {
        #[serde(default = "scope_seconds")]
        seconds: f64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        unit: Option<u8>,
    },
}

/// Whom it is about: a configured device, or a unit id.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// Where and what: a point of the device by name, or registers with a type.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Place {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<u16>,
    /// File number: `address` is a record in it (functions 20 and 21).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u16>,
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<f64>,
}

fn all_units() -> String {
    "1-247".into()
}

fn scan_timeout() -> u64 {
    200
}

fn holding() -> String {
    "holding".into()
}

fn around() -> u16 {
    4
}

fn scope_seconds() -> f64 {
    10.0
}

/// A tool at work or waiting for its turn.
#[derive(Debug)]
pub struct Tool {
    pub request: ToolRequest,
    pub progress: Option<mpsc::Sender<Json>>,
    pub reply: Reply<Json>,
}

impl Tool {
    /// The asker has gone away: no reason to go on.
    pub fn cancelled(&self) -> bool {
        self.reply.is_closed()
    }

    /// Partial results; a slow asker loses some.
    pub fn tell(&self, progress: Json) {
        if let Some(sender) = &self.progress {
            let _ = sender.try_send(progress);
        }
    }
}

impl Owner<'_> {
    /// Understands a request. A scope watches from now on; everything else waits for its turn.
    pub fn take_tool(
        &mut self,
        request: Json,
        progress: Option<mpsc::Sender<Json>>,
        reply: Reply<Json>,
    ) -> Option<Tool> {
        match understand(request) {
            Ok(ToolRequest::Scope { seconds, unit }) => {
                let seconds = Duration::from_secs_f64(seconds.clamp(0.1, 86_400.0));
                self.scopes.push(Scope::new(seconds, unit, progress, reply));
                None
            }
            Ok(request) => Some(Tool { request, progress, reply }),
            Err(wrong) => {
                let _ = reply.send(Err(Refusal::new(RefusalCode::PayloadInvalid, wrong)));
                None
            }
        }
    }
}

/// `"input:1"`: a question to find silent devices with.
pub fn probe(text: &str) -> Result<(Table, u16), String> {
    let (table, address) =
        text.split_once(':').ok_or_else(|| format!("{text:?}: write a table and an address, such as input:1"))?;
    let table = table.parse().map_err(|why| format!("{table:?} {why}"))?;
    Ok((table, address.parse().map_err(|_| format!("{address:?} is no address (0 to 65535)"))?))
}

/// `"1-10,17,40-42"` to unit ids, in order, each once.
pub fn units(text: &str) -> Result<Vec<u8>, String> {
    let mut units = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |digits: &str| {
            digits.trim().parse::<u8>().map_err(|_| format!("{} is no unit id (0 to 255)", short(&digits.into())))
        };
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return Err(format!("{part:?} ends before it begins"));
        }
        units.extend(first..=last);
    }
    units.sort_unstable();
    units.dedup();
    if units.is_empty() { Err("no unit ids; write \"1-247\" or \"1,5,9\"".into()) } else { Ok(units) }
}
