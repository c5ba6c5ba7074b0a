//! Carries out the tools of `tools`: one request at a time, with writes and polling let through in between.

use std::time::Duration;

use serde_json::{Value as Json, json};
use tokio::time::{Instant, sleep_until};

use super::{
    budget,
    codec::{self, Encoded},
    owner::Owner,
    pdu::{self, Request},
    schedule::UnitKey,
    solve,
    tools::{Place, Target, Tool, ToolRequest, probe, units},
    wire::{Answer, WireError},
    write::write_requests,
};
use crate::{
    config::modbus::{
        Serial,
        kind::{Kind, Order, Table},
        point::{Access, ORDERS, Point, TYPES},
    },
    model::{
        command::{Refusal, RefusalCode},
        reading::Value,
    },
};

pub(super) type Outcome = Result<Json, Refusal>;

pub(super) fn wrong(message: impl Into<String>) -> Refusal {
    Refusal::new(RefusalCode::PayloadInvalid, message)
}

pub(super) fn silent(error: &WireError) -> Refusal {
    Refusal::new(RefusalCode::DeviceFailed, error.to_string())
}

/// Where an address would lie, were it a maker's number of this table: 40101 is 100.
fn meant(table: Table, address: u16) -> Option<u16> {
    let first = match table {
        Table::Discrete => 10_001,
        Table::Input => 30_001,
        Table::Holding => 40_001,
        Table::Coil => return None,
    };
    address.checked_sub(first).filter(|address| *address < 9_999)
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
    async fn breathe(&mut self) {
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

    async fn recognise_target(&mut self, target: &Target) -> Outcome {
        let (unit, timeout, _) = self.target(target)?;
        let profiles = self.bus.profiles.clone();
        self.recognise(unit, timeout, &profiles).await.map_err(|error| silent(&error))
    }

    /// Reads only. A unit counts as there when it answers anything, be it an exception.
    async fn scan(
        &mut self,
        tool: &Tool,
        wanted: &str,
        timeout: Duration,
        lines: &[String],
        probes: &[String],
    ) -> Outcome {
        let ids = units(wanted).map_err(wrong)?;
        let probes: Vec<(Table, u16)> =
            probes.iter().map(|text| probe(text)).collect::<Result<_, _>>().map_err(wrong)?;
        let probes = if probes.is_empty() { vec![(Table::Holding, 0)] } else { probes };
        let profiles = self.bus.profiles.clone();
        let mut found = Vec::new();
        let lines = self.lines(lines)?;
        let total = ids.len() * lines.len().max(1);
        let own = self.bus.clone();
        let mut done = 0;
        for line in lines.iter().map(Some).chain(lines.is_empty().then_some(None)) {
            if let Some(line) = line {
                self.change_line(line.clone());
            }
            for unit in &ids {
                if tool.cancelled() || self.stop.is_cancelled() {
                    self.restore_line(&own, line.is_some());
                    return Err(Refusal::new(RefusalCode::Expired, "the scan was cancelled"));
                }
                if line.is_none() {
                    self.breathe().await;
                }
                done += 1;
                let answer = self.called(*unit, &probes, timeout).await;
                match answer {
                    // A gateway that says "nobody there" is no device.
                    Ok(answer) if !super::ask::exception(&answer.pdu).is_some_and(|code| code.is_gateway()) => {
                        let patient = timeout.max(Duration::from_millis(500));
                        let mut seen =
                            self.recognise(*unit, patient, &profiles).await.unwrap_or(json!({ "unit": unit }));
                        if let Some(line) = line {
                            seen["line"] = json!(line.line());
                        }
                        tool.tell(json!({ "unit": unit, "done": done, "of": total, "found": seen }));
                        found.push(seen);
                    }
                    Ok(_) | Err(WireError::Timeout(_) | WireError::Damaged) => {
                        tool.tell(json!({ "unit": unit, "done": done, "of": total }));
                    }
                    Err(error) if lines.is_empty() && self.wire.is_none() && found.is_empty() && done == 1 => {
                        return Err(silent(&error));
                    }
                    Err(_) => {}
                }
            }
            self.restore_line(&own, line.is_some());
        }
        Ok(json!({ "found": found }))
    }

    /// The answer to the first question that the unit does not meet with silence.
    async fn called(&mut self, unit: u8, probes: &[(Table, u16)], timeout: Duration) -> Result<Answer, WireError> {
        let mut answer = Err(WireError::Timeout(timeout));
        for (table, address) in probes {
            let question = Request::read(*table, *address, 1);
            answer = self.exchange(unit, &question, timeout, Duration::ZERO).await;
            for _ in 0..2 {
                // Something spoke: on a bad line it is worth asking again who.
                if answer == Err(WireError::Damaged) {
                    answer = self.exchange(unit, &question, timeout, Duration::ZERO).await;
                }
            }
            if !matches!(answer, Err(WireError::Timeout(_))) {
                break;
            }
        }
        answer
    }

    /// Line settings such as "19200 8E1", for a serial bus.
    fn lines(&self, texts: &[String]) -> Result<Vec<Serial>, Refusal> {
        if texts.is_empty() {
            return Ok(Vec::new());
        }
        let Some(own) = self.bus.serial() else { return Err(wrong("line settings make sense on a serial port only")) };
        let parse = |text: &String| own.with_line(text).ok_or_else(|| wrong(format!("{text:?}: write \"9600 8N1\"")));
        texts.iter().map(parse).collect()
    }

    async fn tool_read(&mut self, target: &Target, place: &Place) -> Outcome {
        let (unit, timeout, key) = self.target(target)?;
        let point = self.place(key, place)?;
        let count = place.count.unwrap_or(point.len()).max(point.len());
        let request = Request::read(point.table, point.address, count);
        let answer = self.exchange(unit, &request, timeout, Duration::ZERO).await.map_err(|error| silent(&error))?;
        if let Some(code) = super::ask::exception(&answer.pdu) {
            let mut message = code.to_string();
            if let (2, Some(address), None) = (code.0, meant(point.table, point.address), &place.name) {
                message +=
                    &format!("; if {} is the maker's number, its address on the wire is {address}", point.address);
            }
            return Err(Refusal::new(RefusalCode::DeviceFailed, message));
        }
        let micros = answer.latency.as_micros() as u64;
        let mut shown =
            json!({ "unit": unit, "table": point.table.word(), "address": point.address, "latencyUs": micros });
        if point.table.is_bits() {
            let bits: Vec<bool> = (0..usize::from(count)).filter_map(|n| pdu::bit(&answer.pdu, n)).collect();
            shown["bits"] = json!(bits);
            return Ok(shown);
        }
        let registers = pdu::registers(&answer.pdu);
        shown["registers"] = json!(registers);
        if place.kind.is_some() || place.name.is_some() {
            let exponent = key.and_then(|key| self.units.get(&key)).and_then(|unit| unit.exponent(&point));
            let step = usize::from(point.len().max(1));
            let value = |words: &[u16]| match codec::decode(&point, words, exponent) {
                Ok(value) => value.to_json(),
                Err(why) => json!({ "error": why.to_string() }),
            };
            let values: Vec<Json> = registers.chunks_exact(step).map(value).collect();
            shown["value"] = values.first().cloned().unwrap_or(Json::Null);
            if values.len() > 1 {
                shown["values"] = json!(values);
            }
            shown["measure"] = json!(point.unit.as_deref());
        }
        Ok(shown)
    }

    /// Range check, write, read back; and back again after a time.
    async fn tool_write(
        &mut self,
        tool: &Tool,
        target: &Target,
        place: &Place,
        value: &Json,
        revert: Option<Duration>,
    ) -> Outcome {
        let (unit, timeout, key) = self.target(target)?;
        let mut point = self.place(key, place)?;
        if place.name.is_none() {
            if matches!(point.table, Table::Input | Table::Discrete) {
                let message = format!("table {} can only be read; holding and coil can be written", point.table.word());
                return Err(Refusal::new(RefusalCode::NotWritable, message));
            }
            point.access = Access::ReadWrite;
        } else if !point.writable() {
            return Err(Refusal::new(RefusalCode::NotWritable, format!("{} can only be read", point.name)));
        }
        let wanted = Value::from_json(value).ok_or_else(|| wrong(format!("{value} is no single value")))?;
        let exponent = key.and_then(|key| self.units.get(&key)).and_then(|unit| unit.exponent(&point));
        let encoded = codec::encode(&point, &wanted, exponent)
            .map_err(|e| Refusal::new(RefusalCode::OutOfRange, e.to_string()))?;
        let before = self.words(unit, &point, timeout).await?;
        let shown = |words: &[u16]| -> Json {
            if point.table.is_bits() {
                return codec::decode_bit(&point, words.first() == Some(&1)).to_json();
            }
            codec::decode(&point, words, exponent)
                .map_or_else(|why| json!({ "error": why.to_string() }), |v| v.to_json())
        };
        let words = match &encoded {
            Encoded::Bit(bit) => vec![u16::from(*bit)],
            Encoded::Registers { words, mask: None } => words.clone(),
            Encoded::Registers { words, mask: Some(mask) } => {
                let kept = before.iter().zip(mask).map(|(old, meant)| old & !meant);
                kept.zip(words.iter().zip(mask)).map(|(kept, (new, meant))| kept | (new & meant)).collect()
            }
        };
        self.put(unit, &point, &words, timeout).await?;
        let after = self.words(unit, &point, timeout).await?;
        let verified = after == words;
        let who = target.device.as_ref().map_or_else(|| format!("unit {unit}"), ToString::to_string);
        tracing::info!(target: "audit", bus = &*self.bus.name, who, address = point.address, before = %shown(&before), after = %shown(&after), verified, "written by a technician");
        let mut answer = json!({ "unit": unit, "before": shown(&before), "written": shown(&words), "readBack": shown(&after), "verified": verified });
        let Some(revert) = revert else { return Ok(answer) };
        tool.tell(json!({ "written": answer.clone(), "revertsInMs": revert.as_millis() as u64 }));
        let until = Instant::now() + revert;
        // The asker going away does not keep the value: it is taken back all the same.
        while Instant::now() < until && !self.stop.is_cancelled() {
            self.breathe().await;
            let next = self.schedule.next().unwrap_or(until).min(until).min(Instant::now() + Duration::from_millis(50));
            sleep_until(next).await;
        }
        self.put(unit, &point, &before, timeout).await?;
        let back = self.words(unit, &point, timeout).await?;
        tracing::info!(target: "audit", bus = &*self.bus.name, who, address = point.address, value = %shown(&back), "taken back");
        answer["reverted"] = json!(back == before);
        answer["now"] = shown(&back);
        Ok(answer)
    }

    async fn words(&mut self, unit: u8, point: &Point, timeout: Duration) -> Result<Vec<u16>, Refusal> {
        let read = self.peek(unit, point.table, point.address, point.len(), timeout).await;
        let read = read.map_err(|error| silent(&error))?;
        read.ok_or_else(|| Refusal::new(RefusalCode::DeviceFailed, "the device refuses to give the registers"))
    }

    async fn put(&mut self, unit: u8, point: &Point, words: &[u16], timeout: Duration) -> Result<(), Refusal> {
        for request in write_requests(point, words) {
            let answer =
                self.exchange(unit, &request, timeout, Duration::ZERO).await.map_err(|error| silent(&error))?;
            if let Some(code) = super::ask::exception(&answer.pdu) {
                return Err(Refusal::new(RefusalCode::DeviceFailed, code.to_string()));
            }
        }
        Ok(())
    }

    async fn tool_solve(&mut self, target: &Target, table: &str, address: u16, display: f64, around: u16) -> Outcome {
        let (unit, timeout, _) = self.target(target)?;
        let table: Table = table.parse().map_err(|why| wrong(format!("{table:?} {why}")))?;
        let around = around.min(40);
        let first = address.saturating_sub(around);
        let last = address.saturating_add(around).saturating_add(3);
        let mut window = Vec::new();
        match self.peek(unit, table, first, last - first + 1, timeout).await.map_err(|error| silent(&error))? {
            Some(words) => window.extend((first..).zip(words)),
            // Some of them are not there: one by one.
            None => {
                for place in first..=last {
                    let read = self.peek(unit, table, place, 1, timeout).await.map_err(|error| silent(&error))?;
                    window.extend(read.and_then(|words| Some((place, *words.first()?))));
                    self.breathe().await;
                }
            }
        }
        if window.is_empty() {
            return Err(Refusal::new(RefusalCode::DeviceFailed, "the device gives none of these registers"));
        }
        Ok(json!({ "candidates": solve::solve(&window, address, display) }))
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
