//! How readings are written in a publish: JSON as it lies in the log, CBOR, or SenML in CBOR; and whether a publish with
//! several of them is compressed. `docs/mqtt.md`, section 2, tells receivers how to read each.
//!
//! The first byte of a payload tells them apart: `{` or `[` is JSON, 0x28 a zstd frame, 0x80 to 0xbf CBOR.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::{cbor, dialect::native::Native};
use crate::{
    config::uplink::Encoding,
    model::record::{Kind, Record},
};

/// Labels of SenML in CBOR, RFC 8428 table 4.
const BASE_NAME: i64 = -2;
const BASE_TIME: i64 = -3;
const NAME: i64 = 0;
const VALUE: i64 = 2;
const TEXT_VALUE: i64 = 3;
const BOOLEAN_VALUE: i64 = 4;

/// A little more than the fastest: a link that is paid by the byte is no fast one.
const LEVEL: i32 = 6;

/// Writes payloads; keeps its compressor between them.
pub struct Encoder {
    encoding: Encoding,
    press: Option<zstd::bulk::Compressor<'static>>,
}

/// One record as a part of a payload.
pub struct Part {
    pub bytes: Vec<u8>,
    /// Elements it adds to the payload's outermost array.
    elements: usize,
    form: Encoding,
}

impl Encoder {
    pub fn new(encoding: Encoding, zstd: bool) -> Encoder {
        // Without a compressor things go as they are.
        Encoder { encoding, press: zstd.then(|| zstd::bulk::Compressor::new(LEVEL).ok()).flatten() }
    }

    /// Writes one record; `first` where it begins a payload.
    pub fn part(&self, native: &Native, record: &Record, late: bool, first: bool) -> Part {
        let mut bytes = Vec::with_capacity(record.record.body.len() + 64);
        let form = if record.record.kind == Kind::Telemetry { self.encoding } else { Encoding::Json };
        let elements = match form {
            Encoding::Json => None,
            Encoding::Cbor => document(record, late, &mut bytes).then_some(1),
            Encoding::Senml => senml(record, late, first, &mut bytes),
        };
        match elements {
            Some(elements) => Part { bytes, elements, form },
            // What cannot be written otherwise goes up as it is.
            None => {
                bytes.clear();
                native.encode(record, late, &mut bytes);
                Part { bytes, elements: 1, form: Encoding::Json }
            }
        }
    }

    /// The payload of `parts`, all of one form.
    pub fn payload(&mut self, mut parts: Vec<Part>) -> Vec<u8> {
        let form = parts[0].form;
        if parts.len() == 1 && form != Encoding::Senml {
            return parts.swap_remove(0).bytes;
        }
        let several = parts.len() > 1;
        let mut payload = Vec::with_capacity(parts.iter().map(|part| part.bytes.len() + 1).sum::<usize>() + 9);
        match form {
            Encoding::Json => {
                for part in &parts {
                    payload.push(if payload.is_empty() { b'[' } else { b',' });
                    payload.extend_from_slice(&part.bytes);
                }
                payload.push(b']');
            }
            Encoding::Cbor | Encoding::Senml => {
                cbor::array(&mut payload, parts.iter().map(|part| part.elements).sum());
                parts.iter().for_each(|part| payload.extend_from_slice(&part.bytes));
            }
        }
        let pressed = self.press.as_mut().filter(|_| several).and_then(|press| press.compress(&payload).ok());
        pressed.filter(|pressed| pressed.len() < payload.len()).unwrap_or(payload)
    }
}

impl Part {
    /// Whether the two can be in one payload.
    pub fn joins(&self, other: &Part) -> bool {
        self.form == other.form
    }
}

type Members<'r> = BTreeMap<String, &'r RawValue>;

fn members(record: &Record) -> Option<Members<'_>> {
    serde_json::from_slice(&record.record.body).ok()
}

/// The same members as in JSON.
fn document(record: &Record, late: bool, out: &mut Vec<u8>) -> bool {
    let Some(members) = members(record) else { return false };
    let flags = [("late", late), ("clockUntrusted", record.clock_untrusted)];
    cbor::map(out, 2 + flags.iter().filter(|(_, set)| *set).count() + members.len());
    for (name, number) in [("ts", record.record.ts.0), ("seq", record.seq as i64)] {
        cbor::text(out, name);
        cbor::integer(out, number);
    }
    for (name, _) in flags.into_iter().filter(|(_, set)| *set) {
        cbor::text(out, name);
        cbor::boolean(out, true);
    }
    members.iter().all(|(name, value)| {
        cbor::text(out, name);
        cbor::json(out, value.get())
    })
}

/// One SenML record per value; the first bears the time of all, their `seq` and what marks the reading as a whole.
/// `None` where the body is not `values` and `q`, or holds what SenML has no place for.
fn senml(record: &Record, late: bool, first: bool, out: &mut Vec<u8>) -> Option<usize> {
    let members = members(record)?;
    if members.keys().any(|name| name != "values" && name != "q") {
        return None;
    }
    let parsed = |name: &str| members.get(name).map(|raw| serde_json::from_str::<Members<'_>>(raw.get()).ok());
    let (values, quality) = (parsed("values")??, parsed("q").unwrap_or(Some(Members::new()))?);
    if values.is_empty() || quality.keys().any(|name| !values.contains_key(name)) {
        return None;
    }
    for (index, (name, value)) in values.iter().enumerate() {
        let begins = index == 0;
        let flags = [("late", late && begins), ("clockUntrusted", record.clock_untrusted && begins)];
        let more = flags.iter().filter(|(_, set)| *set).count() + usize::from(quality.contains_key(name));
        cbor::map(out, 2 + more + 2 * usize::from(begins) + usize::from(begins && first));
        if begins && first {
            cbor::integer(out, BASE_NAME);
            cbor::text(out, &format!("{}:", record.record.device));
        }
        if begins {
            cbor::integer(out, BASE_TIME);
            // Seconds, RFC 8428 section 4.1.
            cbor::decimal(out, record.record.ts.0, -3);
            cbor::text(out, "seq");
            cbor::integer(out, record.seq as i64);
        }
        for (flag, _) in flags.into_iter().filter(|(_, set)| *set) {
            cbor::text(out, flag);
            cbor::boolean(out, true);
        }
        if let Some(quality) = quality.get(name) {
            cbor::text(out, "q");
            cbor::json(out, quality.get()).then_some(())?;
        }
        cbor::integer(out, NAME);
        cbor::text(out, name);
        let label = match value.get().as_bytes().first()? {
            b'"' => TEXT_VALUE,
            b't' | b'f' => BOOLEAN_VALUE,
            b'-' | b'0'..=b'9' => VALUE,
            _ => return None,
        };
        cbor::integer(out, label);
        cbor::json(out, value.get()).then_some(())?;
    }
    Some(values.len())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::{Value as Json, json};

    use super::*;
    use crate::{
        model::{ids::DeviceId, record::NewRecord, time::Millis},
        uplink::cbor::tests::read,
    };

    fn record(seq: u64, body: &'static str) -> Record {
        let device = DeviceId::new("d1").expect("id");
        let ts = Millis(1_760_000_000_123 + seq as i64);
        let record =
            NewRecord { device, kind: Kind::Telemetry, name: None, ts, body: Bytes::from_static(body.as_bytes()) };
        Record { position: seq, seq, clock_untrusted: false, record }
    }

    fn payload(encoding: Encoding, zstd: bool, records: &[Record]) -> Vec<u8> {
        let mut encoder = Encoder::new(encoding, zstd);
        let native = Native::new("devices/{device}", DeviceId::new("gw").expect("id"));
        let parts = records.iter().enumerate().map(|(n, record)| encoder.part(&native, record, n == 1, n == 0));
        let parts = parts.collect();
        encoder.payload(parts)
    }

    const BODY: &str = "{\"values\":{\"t\":21.35,\"on\":true,\"s\":\"ok\"},\"q\":{\"t\":\"stale\"}}";

    #[test]
    fn cbor_says_the_same_as_json() {
        for records in [vec![record(7, BODY)], vec![record(7, BODY), record(8, BODY)]] {
            let json: Json = serde_json::from_slice(&payload(Encoding::Json, false, &records)).expect("json");
            let cbor = payload(Encoding::Cbor, false, &records);
            assert_eq!(read(&mut &cbor[..]), json);
            assert!((0x80..0xc0).contains(&cbor[0]), "told by the first byte");
        }
    }

    #[test]
    fn senml_is_resolved_by_its_own_rules() {
        let pack = payload(Encoding::Senml, false, &[record(7, BODY), record(8, BODY)]);
        let pack = read(&mut &pack[..]);
        let expected = json!([
            { "-2": "d1:", "-3": 1_760_000_000.130, "seq": 7, "0": "on", "4": true },
            { "0": "s", "3": "ok" },
            { "0": "t", "2": 21.35, "q": "stale" },
            { "-3": 1_760_000_000.131, "seq": 8, "late": true, "0": "on", "4": true },
            { "0": "s", "3": "ok" },
            { "0": "t", "2": 21.35, "q": "stale" },
        ]);
        assert_eq!(pack, expected);
    }

    #[test]
    fn what_senml_has_no_place_for_goes_up_as_json() {
        for body in ["{\"values\":{}}", "{\"values\":{\"t\":1},\"more\":1}", "{\"x\":1}"] {
            let sent = payload(Encoding::Senml, false, &[record(7, body)]);
            assert!(serde_json::from_slice::<Json>(&sent).is_ok(), "{body}");
        }
    }

    #[test]
    fn several_are_compressed_and_one_is_not() {
        let many: Vec<Record> = (1..50).map(|n| record(n, BODY)).collect();
        for encoding in [Encoding::Json, Encoding::Cbor, Encoding::Senml] {
            let plain = payload(encoding, false, &many);
            let pressed = payload(encoding, true, &many);
            assert!(pressed.len() * 4 < plain.len() && pressed[..4] == [0x28, 0xb5, 0x2f, 0xfd]);
            assert_eq!(zstd::bulk::decompress(&pressed, 1 << 20).expect("zstd"), plain);
            assert_eq!(payload(encoding, true, &many[..1]), payload(encoding, false, &many[..1]));
        }
    }
}
