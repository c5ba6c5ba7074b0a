//! Tools for what lies outside the four tables: file records (functions 20 and 21), and any function as bytes.

use std::time::Duration;

use serde_json::{Value as Json, json};

use super::{
    codec::{self, Encoded},
    owner::Owner,
    pdu::{self, Request},
    tool_run::{Outcome, silent, wrong},
    tools::{Place, Target},
    wire::Answer,
};
use crate::model::{
    command::{Refusal, RefusalCode},
    reading::Value,
};

/// Most registers in one reply of function 20, and in one request of function 21 (V1.1b3, 6.14 and 6.15).
const MOST_READ: u16 = 121;
const MOST_WRITTEN: usize = 122;

impl Owner<'_> {
    /// Registers of a file, and what they mean where a type is given.
    pub(super) async fn read_file(&mut self, target: &Target, place: &Place) -> Outcome {
        let (unit, timeout, key) = self.target(target)?;
        let point = self.place(key, place)?;
        let count = place.count.unwrap_or(point.kind.len()).max(point.kind.len());
        let (file, words, latency) = self.record(unit, place, count, timeout).await?;
        let mut shown = json!({ "unit": unit, "file": file, "address": point.address, "latencyUs": latency });
        shown["registers"] = json!(words);
        if place.kind.is_some() {
            let value = codec::decode(&point, &words, None);
            shown["value"] = value.map_or_else(|why| json!({ "error": why.to_string() }), |value| value.to_json());
        }
        Ok(shown)
    }

    /// Writes a value into a file and reads it back.
    pub(super) async fn write_file(&mut self, target: &Target, place: &Place, value: &Json) -> Outcome {
        let (unit, timeout, key) = self.target(target)?;
        let point = self.place(key, place)?;
        let wanted = Value::from_json(value).ok_or_else(|| wrong(format!("{value} is no single value")))?;
        let encoded = codec::encode(&point, &wanted, None);
        let encoded = encoded.map_err(|e| Refusal::new(RefusalCode::OutOfRange, e.to_string()))?;
        let Encoded::Registers { words, .. } = encoded else { return Err(wrong("a file has registers, no bits")) };
        if words.len() > MOST_WRITTEN {
            return Err(wrong(format!("a record takes {MOST_WRITTEN} registers at most")));
        }
        let count = words.len() as u16;
        let (file, before, _) = self.record(unit, place, count, timeout).await?;
        let request = Request::write_file(file, point.address, &words);
        self.asked(unit, &request, timeout).await?;
        let (_, after, _) = self.record(unit, place, count, timeout).await?;
        let shown = |words: &[u16]| codec::decode(&point, words, None).map_or(json!(words), |value| value.to_json());
        let verified = after == words;
        tracing::info!(target: "audit", bus = &*self.bus.name, unit, file, record = point.address, before = %shown(&before), after = %shown(&after), verified, "file written by a technician");
        Ok(
            json!({ "unit": unit, "file": file, "before": shown(&before), "written": shown(&words), "readBack": shown(&after), "verified": verified }),
        )
    }

    /// Any function: its bytes in hexadecimal, without unit id and checksum.
    pub(super) async fn raw(&mut self, target: &Target, digits: &str) -> Outcome {
        let (unit, timeout, _) = self.target(target)?;
        let plain: String = digits.chars().filter(|c| !c.is_whitespace() && *c != ':').collect();
        let bytes = hex::decode(&plain).map_err(|_| {
            wrong(format!("{digits:?} is not hexadecimal: write function and data, such as \"03 00 6b 00 03\""))
        })?;
        if bytes.is_empty() || bytes.len() > pdu::LONGEST || bytes[0] == 0 || bytes[0] >= 0x80 {
            return Err(wrong(format!("a request has a function from 1 to 127 and at most {} bytes", pdu::LONGEST)));
        }
        let request = Request::custom(&bytes);
        let answer = self.exchange(unit, &request, timeout, Duration::ZERO).await.map_err(|error| silent(&error))?;
        if !request.only_reads() {
            tracing::info!(target: "audit", bus = &*self.bus.name, unit, request = plain, reply = hex::encode(&answer.pdu), "sent by a technician");
        }
        let mut shown = json!({ "unit": unit, "request": hex::encode(&bytes), "reply": hex::encode(&answer.pdu) });
        shown["latencyUs"] = json!(answer.latency.as_micros() as u64);
        if let Some(code) = super::ask::exception(&answer.pdu) {
            shown["exception"] = json!(code.to_string());
        }
        Ok(shown)
    }

    /// A record's number and registers, and how long it took.
    async fn record(
        &mut self,
        unit: u8,
        place: &Place,
        count: u16,
        timeout: Duration,
    ) -> Result<(u16, Vec<u16>, u64), Refusal> {
        let (Some(file), Some(record)) = (place.file, place.address) else {
            return Err(wrong("give the file's number and, as the address, the record in it"));
        };
        if !(1..=MOST_READ).contains(&count) {
            return Err(wrong(format!("a record is read with 1 to {MOST_READ} registers")));
        }
        let answer = self.asked(unit, &Request::read_file(file, record, count), timeout).await?;
        let words = pdu::file_registers(&answer.pdu).filter(|words| words.len() == usize::from(count));
        let Some(words) = words else {
            let reply = hex::encode(&answer.pdu);
            let message = format!("the device answers with another number of registers than {count}: {reply}");
            return Err(Refusal::new(RefusalCode::DeviceFailed, message));
        };
        Ok((file, words, answer.latency.as_micros() as u64))
    }

    /// One request; an exception is a refusal.
    async fn asked(&mut self, unit: u8, request: &Request, timeout: Duration) -> Result<Answer, Refusal> {
        let answer = self.exchange(unit, request, timeout, Duration::ZERO).await.map_err(|error| silent(&error))?;
        match super::ask::exception(&answer.pdu) {
            Some(code) => Err(Refusal::new(RefusalCode::DeviceFailed, code.to_string())),
            None => Ok(answer),
        }
    }
}
