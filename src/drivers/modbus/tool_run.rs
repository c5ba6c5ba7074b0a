//! Carries out the tools of `tools`: one request at a time, with writes and polling let through in between. Each tool is in
//! a `tool_…` file of its kind; here is what they share.

use std::time::Duration;

use serde_json::Value as Json;
use tokio::time::Instant;

use super::{
    budget,
    owner::Owner,
    schedule::UnitKey,
    tools::{Place, Target, Tool, ToolRequest},
    wire::WireError,
};
use crate::{
    config::modbus::{
        kind::{Kind, Order, Table},
        point::{ORDERS, Point, TYPES},
    },
    model::command::{Refusal, RefusalCode},
};

pub(super) type Outcome = Result<Json, Refusal>;

pub(super) fn wrong(message: impl Into<String>) -> Refusal {
    Refusal::new(RefusalCode::PayloadInvalid, message)
}

pub(super) fn silent(error: &WireError) -> Refusal {
    Refusal::new(RefusalCode::DeviceFailed, error.to_string())
}

impl Owner<'_> {
    pub async fn run_tool(&mut self, tool: Tool) {
        let outcome = match &tool.request {
            ToolRequest::Status {} => {
                let status = self.status();
                serde_json::to_value(status).map_err(|e| Refusal::new(RefusalCode::Internal, e.to_string()))
            }
            ToolRequest::Scan { units, timeout_ms, lines, probes } => {
                let timeout = Duration::from_millis((*timeout_ms).clamp(5, 10_000));
                self.scan(&tool, units, timeout, lines, probes).await
            }
            ToolRequest::Identify { target } => self.recognise_target(target).await,
            ToolRequest::Read { target, place } if place.file.is_some() => self.read_file(target, place).await,
            ToolRequest::Raw { target, pdu } => self.raw(target, pdu).await,
            ToolRequest::Read { target, place } => self.tool_read(target, place).await,
            ToolRequest::Write { target, place, value, revert_after_ms } if place.file.is_some() => {
                match revert_after_ms {
                    None => self.write_file(target, place, value).await,
                    Some(_) => Err(wrong("a file record is not taken back by itself; write the old value again")),
                }
            }
            ToolRequest::Write { target, place, value, revert_after_ms } => {
                let revert = revert_after_ms.map(Duration::from_millis);
                self.tool_write(&tool, target, place, value, revert).await
            }
            ToolRequest::Solve { target, table, address, display, around } => {
                self.tool_solve(target, table, *address, *display, *around).await
            }
            ToolRequest::Budget {} => {
                let status = self.status();
                Ok(budget::with_measured(&self.bus, &status))
            }
            ToolRequest::Scope { .. } => Err(wrong("a scope is no queued tool")),
        };
        let _ = tool.reply.send(outcome);
    }

    /// Lets the bus do its own work between two steps of a tool.
    pub(super) async fn breathe(&mut self) {
        self.between().await;
        // What is due now, not what becomes due meanwhile: a bus that is never idle would starve the tool.
        let until = Instant::now();
        while self.schedule.next().is_some_and(|at| at <= until) && !self.stop.is_cancelled() {
            self.work().await;
            self.between().await;
        }
        self.publish();
    }

    pub(super) fn target(&self, target: &Target) -> Result<(u8, Duration, Option<UnitKey>), Refusal> {
        let asked = target.timeout_ms.map(Duration::from_millis);
        if let Some(device) = &target.device {
            let key = self.key_of(device)?;
            let unit = self.units.get(&key).ok_or_else(|| wrong("the device was removed"))?;
            return Ok((unit.device.unit, asked.unwrap_or(unit.device.timeout), Some(key)));
        }
        let unit = target.unit.ok_or_else(|| wrong("say which: \"unit\": 1, or \"device\": \"meter-1\""))?;
        let key = self.units.iter().find(|(_, u)| u.device.unit == unit).map(|(key, _)| *key);
        Ok((unit, asked.unwrap_or(Duration::from_secs(1)), key))
    }

    /// The point a place means: by name, or made of its parts.
    pub(super) fn place(&self, key: Option<UnitKey>, place: &Place) -> Result<Point, Refusal> {
        if let Some(name) = &place.name {
            let unit = key.and_then(|key| self.units.get(&key));
            let point = unit.and_then(|unit| unit.point(name));
            let why = || unit.and_then(|unit| unit.lacks(name)).unwrap_or_else(|| "is no value of that device".into());
            return point.map(|p| (**p).clone()).ok_or_else(|| wrong(format!("{name:?} {}", why())));
        }
        let table: Table = match &place.table {
            Some(table) => table.parse().map_err(|why| wrong(format!("{table:?} {why}")))?,
            None => Table::Holding,
        };
        let address =
            place.address.ok_or_else(|| wrong("say where: an address, or a device and the name of its value"))?;
        let kind: Kind = match &place.kind {
            _ if table.is_bits() => Kind::Bool,
            Some(kind) => kind.parse().map_err(|why| wrong(format!("{kind:?} {why}; {TYPES}")))?,
            None => Kind::Uint(16),
        };
        let mut point = Point::plain("value", table, address, kind);
        if let Some(order) = &place.order {
            point.order = order.parse::<Order>().map_err(|why| wrong(format!("{order:?} {why}; {ORDERS}")))?;
        }
        point.scale = place.scale.filter(|scale| *scale != 0.0).unwrap_or(1.0);
        let (most, what) = if table.is_bits() { (2000, "bits") } else { (125, "registers") };
        if place.count.is_some_and(|count| count == 0 || count > most) {
            return Err(wrong(format!("a read asks for 1 to {most} {what}")));
        }
        Ok(point)
    }
}
