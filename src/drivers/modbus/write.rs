//! Writing: checked against the profile, written, read back, and reported only after it was read.

use std::{pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use serde_json::{Map, Value as Json, json};
use tokio::time::{Instant, sleep};

use super::{
    ask::Fault,
    codec::{self, Encoded, NotWritable},
    owner::Owner,
    pdu::{self, Request},
    plan::Block,
    schedule::UnitKey,
};
use crate::{
    bus::FromDriver,
    clock,
    config::modbus::{kind::Table, point::Point},
    model::{
        command::{Command, CommandResponse, CommandStatus, Refusal, RefusalCode},
        ids::DeviceId,
        reading::Value,
    },
};

/// Pauses before each look at what was written: some devices take a moment.
const LOOKS: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(50), Duration::from_millis(150), Duration::from_millis(400)];

fn refusal(code: RefusalCode, message: impl Into<String>) -> Refusal {
    Refusal::new(code, message)
}

impl Owner<'_> {
    /// Writes desired values one after the other. Gives those that were refused; the others show as `Reported`.
    pub async fn write_values(
        &mut self,
        device: &DeviceId,
        values: Map<String, Json>,
    ) -> Result<Vec<(String, Refusal)>, Refusal> {
        let key = self.key_of(device)?;
        let mut refused = Vec::new();
        let mut reported = Map::new();
        for (name, value) in values {
            let (read, result) = self.write_one(key, &name, &value).await;
            if let Some(read) = read {
                reported.insert(name.clone(), read.to_json());
            }
            if let Err(refusal) = result {
                tracing::info!(device = %device, name, value = %value, reason = refusal.message, "write refused");
                refused.push((name, refusal));
            }
        }
        if !reported.is_empty() {
            self.tell(FromDriver::Reported { device: device.clone(), ts: clock::now(), reported }).await;
        }
        Ok(refused)
    }

    /// Writes one value. Gives what the device holds afterwards, as far as it was read.
    pub async fn write_one(&mut self, key: UnitKey, name: &str, value: &Json) -> (Option<Value>, Result<(), Refusal>) {
        let point = match self.writable(key, name) {
            Ok(point) => point,
            Err(refusal) => return (None, Err(refusal)),
        };
        let Some(wanted) = Value::from_json(value) else {
            let message = format!("{name}: {value} is no single value");
            return (None, Err(refusal(RefusalCode::PayloadInvalid, message)));
        };
        let exponent = match self.exponent_of(key, &point).await {
            Ok(exponent) => exponent,
            Err(fault) => return (None, Err(failed(name, &fault))),
        };
        let encoded = match codec::encode(&point, &wanted, exponent) {
            Ok(encoded) => encoded,
            Err(why) => return (None, Err(refusal(code_of(&why), format!("{name}: {why}")))),
        };
        if let Err(fault) = self.send_write(key, &point, &encoded).await {
            return (None, Err(failed(name, &fault)));
        }
        self.counters.writes += 1;
        if let Some(unit) = self.units.get_mut(&key) {
            unit.counters.writes += 1;
        }
        if !point.readable() {
            return (None, Ok(()));
        }
        self.look(key, &point, &wanted, &encoded, exponent).await
    }

    fn writable(&self, key: UnitKey, name: &str) -> Result<Arc<Point>, Refusal> {
        let gone = || refusal(RefusalCode::UnknownDevice, "the device was removed");
        let unit = self.units.get(&key).ok_or_else(gone)?;
        let Some(point) = unit.point(name) else {
            if let Some(why) = unit.lacks(name) {
                return Err(refusal(RefusalCode::NotWritable, format!("{name} {why}")));
            }
            return Err(refusal(RefusalCode::NotWritable, format!("{name} is no value of {}", unit.device.id)));
        };
        if !point.writable() {
            return Err(refusal(RefusalCode::NotWritable, format!("{name} can only be read")));
        }
        if unit.health.is_offline() {
            // Fast: the bus is not held up for a unit that is known to be away.
            let reason = unit.reason.as_deref().unwrap_or("it does not answer");
            return Err(refusal(RefusalCode::DeviceFailed, format!("{} is offline: {reason}", unit.device.id)));
        }
        Ok(point.clone())
    }

    /// The exponent of a point with a scale factor; read now where it was never read.
    async fn exponent_of(&mut self, key: UnitKey, point: &Point) -> Result<Option<i32>, Fault> {
        let Some(unit) = self.units.get(&key) else { return Ok(None) };
        let (Some(from), None) = (&point.scale_from, unit.exponent(point)) else { return Ok(unit.exponent(point)) };
        if let Some(factor) = unit.point(from).cloned() {
            self.fetch(key, &factor).await?;
        }
        Ok(self.units.get(&key).and_then(|unit| unit.exponent(point)))
    }

    /// Reads one point now, past its report rule.
    pub async fn fetch(&mut self, key: UnitKey, point: &Arc<Point>) -> Result<Bytes, Fault> {
        let reply = self.ask(key, &Request::read(point.table, point.address, point.len())).await?;
        let index = self.units.get(&key).and_then(|unit| unit.points.iter().position(|p| p.name == point.name));
        if let (Some(index), Some(unit)) = (index, self.units.get_mut(&key)) {
            let points = vec![index as u32];
            let block = Block { table: point.table, address: point.address, count: point.len(), points };
            unit.take(&block, &reply.pdu, clock::now(), Instant::now());
        }
        Ok(reply.pdu)
    }

    async fn send_write(&mut self, key: UnitKey, point: &Point, encoded: &Encoded) -> Result<(), Fault> {
        let address = point.write.address.unwrap_or(point.address);
        match encoded {
            Encoded::Bit(bit) => {
                for request in write_requests(point, &[u16::from(*bit)]) {
                    self.ask(key, &request).await?;
                }
            }
            Encoded::Registers { words, mask } if point.write.function == Some(22) => {
                for (offset, word) in (0..).zip(words) {
                    let meant = mask.as_ref().map_or(0xFFFF, |mask| mask[usize::from(offset)]);
                    if meant != 0 {
                        self.ask(key, &Request::mask(address.wrapping_add(offset), !meant, word & meant)).await?;
                    }
                }
            }
            Encoded::Registers { words, mask } => {
                let mut words = words.clone();
                if let Some(mask) = mask {
                    // The other bits are kept as they are on the device now.
                    let reply = self.ask(key, &Request::read(Table::Holding, address, words.len() as u16)).await?;
                    for ((word, meant), old) in words.iter_mut().zip(mask).zip(pdu::registers(&reply.pdu)) {
                        *word = (old & !meant) | (*word & meant);
                    }
                }
                for request in write_requests(point, &words) {
                    self.ask(key, &request).await?;
                }
            }
        }
        Ok(())
    }

    /// Reads back until the device holds what was written, or says what it holds instead.
    async fn look(
        &mut self,
        key: UnitKey,
        point: &Arc<Point>,
        wanted: &Value,
        encoded: &Encoded,
        exponent: Option<i32>,
    ) -> (Option<Value>, Result<(), Refusal>) {
        let name = &point.name;
        let mut held = None;
        for pause in LOOKS {
            if !pause.is_zero() {
                sleep(pause).await;
            }
            let reply = match self.fetch(key, point).await {
                Ok(reply) => reply,
                Err(fault) => return (held, Err(failed(name, &fault))),
            };
            let registers = pdu::registers(&reply);
            let (value, same) = match encoded {
                Encoded::Bit(bit) => {
                    let read = pdu::bit(&reply, 0).unwrap_or(!bit);
                    (Some(codec::decode_bit(point, read)), read == *bit)
                }
                Encoded::Registers { words, mask } => {
                    let meant = |at: usize| mask.as_ref().map_or(0xFFFF, |mask| mask[at]);
                    let same = registers.len() == words.len()
                        && (0..words.len()).all(|at| registers[at] & meant(at) == words[at] & meant(at));
                    let value = codec::decode(point, &registers, exponent).ok();
                    // A separate write register may have another form: then the values must agree.
                    let same =
                        same || (point.write.address.is_some() && value.as_ref().is_some_and(|v| alike(v, wanted)));
                    (value, same)
                }
            };
            held = value;
            if same {
                return (held, Ok(()));
            }
        }
        let holds = held.as_ref().map_or_else(|| "no value".to_owned(), |value| value.to_json().to_string());
        let message = format!("{name}: {} was written and taken, but the device holds {holds}", wanted.to_json());
        (held, Err(refusal(RefusalCode::DeviceFailed, message)))
    }

    /// Writes the profile's set-up registers, once per time the unit comes online.
    pub async fn set_up(&mut self, key: UnitKey) {
        let Some(unit) = self.units.get_mut(&key) else { return };
        unit.set_up = true;
        let device = unit.device.clone();
        let mut reported = Map::new();
        for (name, value) in &device.setup {
            if self.units.get(&key).is_some_and(|unit| unit.lacks(name).is_some()) {
                continue;
            }
            let (read, result) = self.write_one(key, name, value).await;
            read.map(|read| reported.insert(name.to_string(), read.to_json()));
            if let Err(refusal) = result {
                tracing::warn!(device = %device.id, name = &**name, reason = refusal.message, "set-up not written");
            }
        }
        // Reading them back was all the news there is of them: the next cycle finds them unchanged.
        if !reported.is_empty() {
            self.tell(FromDriver::Reported { device: device.id.clone(), ts: clock::now(), reported }).await;
        }
    }

    /// A command: `read-now`, `identify`, or a verb of the profile.
    pub async fn call(&mut self, device: &DeviceId, command: Command) -> Result<CommandResponse, Refusal> {
        let key = self.key_of(device)?;
        let response = |status, result| {
            let command_id = command.command_id.clone();
            Ok(CommandResponse { command_id, status, result: Some(result) })
        };
        if command.expires_at.is_some_and(|at| at < clock::now()) {
            return response(
                CommandStatus::Rejected,
                json!({"error": "the command expired before it was carried out"}),
            );
        }
        let outcome = match command.name.as_str() {
            "read-now" => self.read_now(key).await,
            "identify" => {
                let unit = self.units.get(&key).map(|unit| (unit.device.unit, unit.device.timeout));
                let Some((unit, timeout)) = unit else { return Err(refusal(RefusalCode::UnknownDevice, "removed")) };
                self.identify(unit, timeout).await.map_err(|error| error.to_string())
            }
            name => match self.units.get(&key).and_then(|u| u.device.commands.iter().find(|c| &*c.name == name)) {
                Some(verb) => {
                    let writes = verb.writes.clone();
                    self.carry_out(key, &writes).await
                }
                None => {
                    let own = self.units.get(&key).into_iter().flat_map(|unit| &unit.device.commands);
                    let known: Vec<&str> = super::COMMANDS.into_iter().chain(own.map(|verb| &*verb.name)).collect();
                    let error = format!("{name} is no command of this device; it knows {}", known.join(", "));
                    return response(CommandStatus::Rejected, json!({ "error": error }));
                }
            },
        };
        match outcome {
            Ok(result) => response(CommandStatus::Succeeded, result),
            Err(error) => response(CommandStatus::Failed, json!({ "error": error })),
        }
    }

    async fn carry_out(&mut self, key: UnitKey, writes: &[(Arc<str>, Json)]) -> Result<Json, String> {
        // Not half a command because one of its registers is not there.
        for (name, _) in writes {
            self.writable(key, name).map_err(|refusal| refusal.message)?;
        }
        let mut reported = Map::new();
        for (name, value) in writes {
            let (read, result) = self.write_one(key, name, value).await;
            read.map(|read| reported.insert(name.to_string(), read.to_json()));
            result.map_err(|refusal| refusal.message)?;
        }
        if let (false, Some(unit)) = (reported.is_empty(), self.units.get(&key)) {
            let (device, reported) = (unit.device.id.clone(), reported.clone());
            self.tell(FromDriver::Reported { device, ts: clock::now(), reported }).await;
        }
        Ok(Json::Object(reported))
    }

    /// Reads every point now; the reading is told like any other.
    ///
    /// Boxed: reading lets commands through in between, and this is one; impolitely, as here, it does not.
    fn read_now(&mut self, key: UnitKey) -> Pin<Box<dyn Future<Output = Result<Json, String>> + Send + '_>> {
        Box::pin(async move {
            let Some(unit) = self.units.get_mut(&key) else { return Err("removed".into()) };
            let mut blocks = unit.groups.iter().flat_map(|group| group.blocks.clone()).collect();
            unit.forget_reports();
            self.read_blocks(key, &mut blocks, false).await.map_err(|fault| fault.to_string())?;
            let Some(unit) = self.units.get(&key) else { return Err("removed".into()) };
            let value = |p: &Arc<Point>| unit.last(&p.name).map(|(value, _)| (p.name.to_string(), value.to_json()));
            Ok(Json::Object(unit.points.iter().filter_map(value).collect()))
        })
    }
}

/// The requests that put whole registers (or a bit, as 0 or 1) where the point is written, by its own function if it
/// names one. Several registers go in one request, unless function 6 is asked for.
pub(super) fn write_requests(point: &Point, words: &[u16]) -> Vec<Request> {
    let address = point.write.address.unwrap_or(point.address);
    match (point.table.is_bits(), point.write.function, words) {
        (true, Some(15), words) => {
            vec![Request::write_bits(address, &words.iter().map(|w| *w != 0).collect::<Vec<_>>())]
        }
        (true, _, words) => vec![Request::write_bit(address, words.first().is_some_and(|word| *word != 0))],
        (false, Some(16), words) | (false, None, words @ [_, _, ..]) => vec![Request::write_registers(address, words)],
        (false, _, words) => {
            (0..).zip(words).map(|(n, word)| Request::write_register(address.wrapping_add(n), *word)).collect()
        }
    }
}

fn failed(name: &str, fault: &Fault) -> Refusal {
    refusal(RefusalCode::DeviceFailed, format!("{name}: {fault}"))
}

fn code_of(why: &NotWritable) -> RefusalCode {
    match why {
        NotWritable::Limit { .. } | NotWritable::Width { .. } | NotWritable::Title { .. } => RefusalCode::OutOfRange,
        NotWritable::Type { .. } => RefusalCode::PayloadInvalid,
        NotWritable::NoScale => RefusalCode::DeviceFailed,
    }
}

fn alike(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => (a - b).abs() <= 1e-6 * a.abs().max(b.abs()).max(1.0),
        _ => a == b,
    }
}
