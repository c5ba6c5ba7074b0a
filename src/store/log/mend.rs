//! What is missing in the log, and how it comes into the ledger: holes of damage, readings that never reached the disk.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension};

use super::{
    Gap, SQL,
    retention::count_drops,
    tail::{Tail, read_block},
};
use crate::{
    model::{
        ids::DeviceId,
        record::{Lane, NewRecord},
    },
    store::StoreError,
};

#[derive(Debug, Clone, Copy)]
pub(super) struct Unstored {
    count: u64,
    from_ts: i64,
    to_ts: i64,
}

impl Tail {
    /// Stretches missing between the records that are there: device, lane, first and last missing `seq`.
    pub(in crate::store) fn holes(&self, connection: &Connection) -> Result<Vec<Gap>, StoreError> {
        let mut holes = Vec::new();
        for lane in Lane::ALL {
            let mut last: HashMap<DeviceId, u64> = HashMap::new();
            let mut statement = connection.prepare(SQL[lane as usize].from)?;
            let mut rows = statement.query([0])?;
            while let Some(row) = rows.next()? {
                let data = row.get_ref(3)?.as_blob().unwrap_or_default();
                for record in read_block(row.get(0)?, data, None).unwrap_or_default() {
                    let (device, seq) = (record.record.device, record.seq);
                    let before = last.insert(device.clone(), seq).unwrap_or(seq - 1);
                    if seq > before + 1 {
                        holes.push(Gap { device, lane, from_seq: before + 1, to_seq: seq - 1, ..Gap::damage() });
                    }
                }
            }
            // What the group adds is not on disk yet, and so no hole.
            let mut ends: HashMap<&DeviceId, u64> = HashMap::new();
            for pending in self.pending.iter().filter(|pending| pending.lane == lane) {
                ends.entry(&pending.record.device).or_insert(pending.seq - 1);
            }
            for (device, seq) in last {
                let known = self.streams.get(&device).map_or(seq, |seqs| seqs[lane as usize]);
                let end = ends.get(&device).copied().unwrap_or(known);
                if end > seq {
                    holes.push(Gap { device, lane, from_seq: seq + 1, to_seq: end, ..Gap::damage() });
                }
            }
        }
        Ok(holes)
    }

    /// Takes a block that cannot be unpacked out of the log, and declares what is missing without it.
    pub(in crate::store) fn mend(&mut self, connection: &Connection, lane: Lane, first: u64) -> Result<(), StoreError> {
        let count =
            connection.prepare_cached(SQL[lane as usize].count)?.query_row([first], |row| row.get(0)).optional()?;
        count_drops(connection, "damage", count.unwrap_or(0))?;
        connection.prepare_cached(SQL[lane as usize].drop)?.execute([first])?;
        self.close_block(lane, first);
        for gap in self.holes(connection)? {
            self.declare(connection, gap)?;
        }
        Ok(())
    }

    /// A stream of which readings are left, but not its number: declared from the last of them, where one of which
    /// nothing is left is declared from 1.
    pub(in crate::store) fn leave_base(&mut self, gap: &mut Gap) {
        if self.base > 0
            && gap.to_seq == self.base
            && let Some(seqs) = self.streams.get_mut(&gap.device)
        {
            gap.to_seq += 1;
            seqs[gap.lane as usize] = gap.to_seq;
        }
    }

    /// Moves every stream on by `far` numbers, which are declared as lost.
    pub(in crate::store) fn skip_ahead(&mut self, far: u64) -> Vec<Gap> {
        let mut skipped = Vec::new();
        for (device, seqs) in &mut self.streams {
            for (lane, seq) in Lane::ALL.into_iter().zip(seqs).filter(|(_, seq)| **seq > self.base) {
                let (device, from_seq) = (device.clone(), *seq + 1);
                *seq += far;
                skipped.push(Gap { device, lane, from_seq, to_seq: *seq, ..Gap::damage() });
            }
            self.dirty.insert(device.clone());
        }
        skipped
    }

    /// A reading that could not be kept until it could be stored: counted, and declared when that is possible.
    pub fn lose(&mut self, record: &NewRecord) {
        let key = (record.device.clone(), record.kind.lane());
        let ts = record.ts.0;
        let lost = self.unstored.entry(key).or_insert(Unstored { count: 0, from_ts: ts, to_ts: ts });
        lost.count += 1;
        lost.from_ts = lost.from_ts.min(ts);
        lost.to_ts = lost.to_ts.max(ts);
    }

    /// Gives numbers to what was lost before it was stored, so that the ledger can name them.
    pub(super) fn declare_unstored(&mut self, connection: &Connection) -> Result<(), StoreError> {
        for ((device, lane), lost) in self.unstored.clone() {
            let seqs = self.streams.entry(device.clone()).or_insert([self.base; 4]);
            let from_seq = seqs[lane as usize] + 1;
            seqs[lane as usize] += lost.count;
            let gap = Gap {
                device: device.clone(),
                lane,
                from_seq,
                to_seq: seqs[lane as usize],
                from_ts: lost.from_ts,
                to_ts: lost.to_ts,
                count: Some(lost.count),
                cause: "disk".into(),
            };
            self.dirty.insert(device);
            self.declare(connection, gap)?;
            count_drops(connection, "disk", lost.count)?;
        }
        // These numbers stand in no block: they must not be forgotten.
        self.snapshot(connection)
    }
}
