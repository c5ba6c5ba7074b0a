//! Records to publishes: grouped by device, in order, cut where a publish is full.

use std::collections::HashMap;

use super::dialect::native::Native;
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

/// Groups records by device, in order, and cuts where a publish is full.
pub fn publishes(
    native: &Native,
    lane: Lane,
    records: Vec<Record>,
    late: u64,
    bounds: Bounds,
    oversize: &mut Vec<Oversize>,
) -> Vec<Outgoing> {
    let mut done: Vec<Outgoing> = Vec::new();
    let mut open: HashMap<DeviceId, usize> = HashMap::new();
    for record in records {
        let is_late = record.position <= late;
        let mut payload = Vec::with_capacity(record.record.body.len() + 64);
        native.encode(&record, is_late, &mut payload);
        if payload.len() + 2 > bounds.most {
            oversize.push(Oversize {
                lane,
                position: record.position,
                device: record.record.device,
                seq: record.seq,
                ts: record.record.ts.0,
                bytes: payload.len(),
            });
            continue;
        }
        let batches = record.record.kind == Kind::Telemetry && bounds.records > 1;
        if batches && let Some(&index) = open.get(&record.record.device) {
            let batch = &mut done[index];
            if batch.positions.len() < bounds.records && batch.payload.len() + payload.len() + 2 <= bounds.bytes {
                batch.payload.push(b',');
                batch.payload.extend_from_slice(&payload);
                batch.positions.push(record.position);
                continue;
            }
        }
        if batches {
            open.insert(record.record.device.clone(), done.len());
        }
        done.push(Outgoing {
            topic: native.topic_of(&record),
            payload,
            retain: record.record.kind == Kind::Status,
            lane,
            positions: vec![record.position],
            late: is_late,
        });
    }
    for batch in done.iter_mut().filter(|batch| batch.positions.len() > 1) {
        batch.payload.insert(0, b'[');
        batch.payload.push(b']');
    }
    done
}
