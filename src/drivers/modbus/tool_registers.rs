//! The tools about registers: `read`, `write` with its read-back and revert, and `solve`.

use std::time::Duration;

use serde_json::{Value as Json, json};
use tokio::time::{Instant, sleep_until};

use super::{
    ask::exception,
    codec::{self, Encoded},
    owner::Owner,
    pdu::{self, Exception, Request},
    solve,
    tool_run::{Outcome, silent, wrong},
    tools::{Place, Target, Tool},
    write::write_requests,
};
use crate::{
    config::modbus::{
        kind::Table,
        point::{Access, Point},
    },
    model::{
        command::{Refusal, RefusalCode},
        reading::Value,
    },
};

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

/// What the device said; of an address that is none, what it may have been meant for.
fn refused(code: Exception, point: &Point) -> Refusal {
    let mut message = code.to_string();
    if let (2, Some(address)) = (code.0, meant(point.table, point.address)) {
        message += &format!("; if {} is the maker's number, its address on the wire is {address}", point.address);
    }
    Refusal::new(RefusalCode::DeviceFailed, message)
}

impl Owner<'_> {
    pub(super) async fn tool_read(&mut self, target: &Target, place: &Place) -> Outcome {
        let (unit, timeout, key) = self.target(target)?;
        let point = self.place(key, place)?;
        let count = place.count.unwrap_or(point.len()).max(point.len());
        let request = Request::read(point.table, point.address, count);
        let answer = self.exchange(unit, &request, timeout, Duration::ZERO).await.map_err(|error| silent(&error))?;
        if let Some(code) = exception(&answer.pdu) {
            return Err(refused(code, &point));
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
    pub(super) async fn tool_write(
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
        let request = Request::read(point.table, point.address, point.len());
        let answer = self.exchange(unit, &request, timeout, Duration::ZERO).await.map_err(|error| silent(&error))?;
        match exception(&answer.pdu) {
            Some(code) => Err(refused(code, point)),
            None if point.table.is_bits() => Ok(pdu::bit(&answer.pdu, 0).map(u16::from).into_iter().collect()),
            None => Ok(pdu::registers(&answer.pdu)),
        }
    }

    async fn put(&mut self, unit: u8, point: &Point, words: &[u16], timeout: Duration) -> Result<(), Refusal> {
        for request in write_requests(point, words) {
            let answer =
                self.exchange(unit, &request, timeout, Duration::ZERO).await.map_err(|error| silent(&error))?;
            if let Some(code) = exception(&answer.pdu) {
                return Err(refused(code, point));
            }
        }
        Ok(())
    }

    pub(super) async fn tool_solve(
        &mut self,
        target: &Target,
        table: &str,
        address: u16,
        display: f64,
        around: u16,
    ) -> Outcome {
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
}
