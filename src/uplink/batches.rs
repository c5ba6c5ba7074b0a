//! Records to publishes: grouped by device, in order, cut where a publish is full.

use std::collections::HashMap;

use super::{
    dialect::native::Native,
    encoding::{Encoder, Part},
};
use crate::model::{
    ids::DeviceId,
    record::{Kind, Lane, Record},
};

/// How much goes into one publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    pub records: usize,
    /// A batch is closed at this size.
    pub bytes: usize,
    /// What is larger cannot be sent at all.
    pub most: usize,
}

/// A publish that is ready to go.
#[derive(Debug, PartialEq, Eq)]
pub struct Outgoing {
    pub topic: String,
    pub payload: Vec<u8>,
    pub retain: bool,
    pub lane: Lane,
    /// The positions in it.
    pub positions: Vec<u64>,
    pub late: bool,
}

/// A record that no publish can carry.
#[derive(Debug, PartialEq, Eq)]
pub struct Oversize {
    pub lane: Lane,
    pub position: u64,
    pub device: DeviceId,
    pub seq: u64,
    pub ts: i64,
    pub bytes: usize,
}

/// A publish that more may be added to.
struct Open {
    out: Outgoing,
    parts: Vec<Part>,
    bytes: usize,
}

/// Groups records by device, in order, and cuts where a publish is full.
pub fn publishes(
    native: &Native,
    encoder: &mut Encoder,
    records: Vec<Record>,
    late: u64,
    bounds: Bounds,
    oversize: &mut Vec<Oversize>,
) -> Vec<Outgoing> {
    let mut made: Vec<Open> = Vec::new();
    let mut open: HashMap<DeviceId, usize> = HashMap::new();
    for record in records {
        let (is_late, lane) = (record.position <= late, record.record.kind.lane());
        let batches = record.record.kind == Kind::Telemetry && bounds.records > 1;
        if batches && let Some(&index) = open.get(&record.record.device) {
            let batch = &mut made[index];
            let part = encoder.part(native, &record, is_late, false);
            let fits = batch.bytes + part.bytes.len() + 2 <= bounds.bytes;
            if fits && batch.parts.len() < bounds.records && batch.parts[0].joins(&part) {
                batch.bytes += part.bytes.len() + 1;
                batch.parts.push(part);
                batch.out.positions.push(record.position);
                continue;
            }
        }
        let part = encoder.part(native, &record, is_late, true);
        let bytes = part.bytes.len();
        if bytes + 2 > bounds.most {
            let Record { position, seq, record, .. } = record;
            oversize.push(Oversize { lane, position, device: record.device, seq, ts: record.ts.0, bytes });
            continue;
        }
        let out = Outgoing {
            topic: native.topic_of(&record),
            payload: Vec::new(),
            retain: record.record.kind == Kind::Status,
            lane,
            positions: vec![record.position],
            late: is_late,
        };
        if batches {
            open.insert(record.record.device, made.len());
        }
        made.push(Open { out, parts: vec![part], bytes });
    }
    let close = |open: Open| Outgoing { payload: encoder.payload(open.parts), ..open.out };
    made.into_iter().map(close).collect()
}
