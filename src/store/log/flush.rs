//! A group on its way to disk: room is made, records become blocks, the numbers of streams are written down.

use rusqlite::Connection;

use super::{
    Gap, Limits, SQL,
    block::{Growth, Packer},
    tail::{Pending, Tail},
};
use crate::{model::record::Lane, store::StoreError};

/// A block that is stored in no more than this stays in one page of the database and is filled up by later commits:
/// the page is written anyway, and fuller blocks compress better.
const ONE_PAGE: usize = 3900;
/// A block larger than this before compression is not filled up.
const FILL: usize = 16 << 10;
/// A block that was packed anew stays open only where that left this much room: packing costs more than a commit.
const WORTH: usize = ONE_PAGE / 8;
/// A block is closed at this size before compression, so that a reader unpacks little for what it wants.
const MOST_RAW: usize = 64 << 10;
const MOST_RECORDS: u64 = 4096;
/// After so many records the numbers of all streams are written down: what a start must unpack.
const SNAPSHOT: u64 = 20_000;

/// The last block of a lane, when more fits into it.
pub(super) struct Open {
    pub first: u64,
    packer: Packer,
    /// Bytes it has packed, and how many of them the last commit added.
    size: usize,
    step: usize,
    /// It is in the lane's [`Growth`], up to the commit before.
    grows: bool,
}

impl Open {
    fn at(first: u64) -> Open {
        Open { first, packer: Packer::default(), size: 0, step: 0, grows: false }
    }
}

impl Tail {
    /// Makes room and writes the group's records as blocks, inside the current transaction.
    pub fn flush(&mut self, connection: &Connection, limits: Limits) -> Result<(), StoreError> {
        if self.pending.is_empty() && self.unstored.is_empty() {
            return Ok(());
        }
        let bytes: usize = self.pending.iter().map(|pending| pending.record.body.len() + 64).sum();
        self.make_room(connection, limits, bytes as u64 / 4096 + 8)?;
        if !self.unstored.is_empty() {
            self.declare_unstored(connection)?;
        }
        for (device, lane) in std::mem::take(&mut self.based) {
            let gap = Gap { device, lane, from_seq: 1, to_seq: self.base, ..Gap::damage() };
            self.declare(connection, gap)?;
        }
        if !self.boot_saved {
            connection.prepare_cached("INSERT OR IGNORE INTO log_boots (boot) VALUES (?1)")?.execute([self.boot])?;
        }
        // Kept until the commit: what fails is tried again from here.
        let pending = std::mem::take(&mut self.pending);
        let result = self.flush_pending(connection, &pending);
        self.pending = pending;
        result?;
        if self.lanes.iter().map(|lane| lane.next - 1 - lane.snapshot).sum::<u64>() >= SNAPSHOT {
            self.snapshot(connection)?;
        }
        Ok(())
    }

    fn flush_pending(&mut self, connection: &Connection, pending: &[Pending]) -> Result<(), StoreError> {
        for lane in Lane::ALL {
            self.flush_lane(connection, lane, pending.iter().filter(|p| p.lane == lane))?;
        }
        for one in pending {
            if !self.dirty.contains(&one.record.device) {
                self.dirty.insert(one.record.device.clone());
            }
            self.written.body_bytes += one.record.body.len() as u64;
        }
        self.written.records += pending.len() as u64;
        Ok(())
    }

    fn flush_lane<'p>(
        &mut self,
        connection: &Connection,
        lane: Lane,
        records: impl Iterator<Item = &'p Pending>,
    ) -> Result<(), StoreError> {
        let mut records = records.peekable();
        if records.peek().is_none() {
            return Ok(());
        }
        let end = &mut self.lanes[lane as usize];
        let mut open = end.open.take().unwrap_or_else(|| Open::at(end.next));
        let mut before = open.packer.raw_len();
        for pending in records {
            let full = open.packer.raw_len() >= MOST_RAW || open.packer.count >= MOST_RECORDS;
            if full {
                let whole = open.packer.pack(&mut self.press).map_err(unpacked)?;
                self.put(connection, lane, &open, &whole)?;
                open = Open::at(self.lanes[lane as usize].next);
                before = 0;
            }
            open.packer.add(pending.seq, pending.untrusted, &pending.record);
            self.lanes[lane as usize].next += 1;
        }
        let raw = open.packer.raw_len();
        let size = open.size;
        let mut packed = Vec::new();
        if before.max(raw - before) < FILL {
            packed = self.grow(lane, &mut open).map_err(unpacked)?;
        }
        if packed.is_empty() || packed.len() > ONE_PAGE {
            packed = open.packer.pack(&mut self.press).map_err(unpacked)?;
            open.grows = false;
        }
        self.put(connection, lane, &open, &packed)?;
        open.size = packed.len();
        open.step = packed.len().saturating_sub(size);
        if raw < FILL && packed.len() <= ONE_PAGE {
            self.lanes[lane as usize].open = Some(open);
        }
        Ok(())
    }

    /// Open blocks into which another commit like the last would not fit are packed anew, or closed. To be called while
    /// nobody waits: the next commit writes what is packed here.
    pub(in crate::store) fn tidy(&mut self) {
        for lane in Lane::ALL {
            let over = |open: &Open| (open.size + open.step).saturating_sub(ONE_PAGE);
            let Some(mut open) = self.lanes[lane as usize].open.take_if(|open| over(open) > 0) else { continue };
            let keep = if open.size == open.step {
                // Packed at one go already; with as much again, packed as a whole, it takes an eighth less.
                open.size + open.step <= ONE_PAGE + ONE_PAGE / 7
            } else {
                open.grows = false;
                open.size = self.grow(lane, &mut open).map_or(ONE_PAGE, |packed| packed.len());
                open.size + open.step.max(WORTH) <= ONE_PAGE
            };
            self.lanes[lane as usize].open = keep.then_some(open);
        }
    }

    /// The block with what is new in it.
    fn grow(&mut self, lane: Lane, open: &mut Open) -> std::io::Result<Vec<u8>> {
        let growth = match &mut self.growths[lane as usize] {
            Some(growth) => {
                if !open.grows {
                    growth.restart()?;
                }
                growth
            }
            none => none.insert(Growth::new()?),
        };
        open.grows = true;
        growth.pack(&open.packer)
    }

    fn put(&mut self, connection: &Connection, lane: Lane, open: &Open, data: &[u8]) -> Result<(), StoreError> {
        let packer = &open.packer;
        let mut statement = connection.prepare_cached(SQL[lane as usize].put)?;
        let (boot, lived) = (self.boot, self.lived());
        statement.execute((open.first, packer.count, packer.first_ts, packer.newest_ts, boot, lived, data))?;
        self.written.block_bytes += data.len() as u64;
        Ok(())
    }

    /// Writes down the numbers of all streams that changed.
    pub(in crate::store) fn snapshot(&mut self, connection: &Connection) -> Result<(), StoreError> {
        let mut statement = connection.prepare_cached("INSERT OR REPLACE INTO log_streams VALUES (?1, ?2, ?3)")?;
        for device in self.dirty.drain() {
            let seqs = self.streams.get(&device).copied().unwrap_or_default();
            for (lane, seq) in seqs.iter().enumerate().filter(|(_, seq)| **seq > 0) {
                statement.execute((device.as_str(), lane, seq))?;
            }
        }
        for (lane, end) in self.lanes.iter_mut().enumerate() {
            end.snapshot = end.next - 1;
            // What comes now begins a block of its own: a start reads the blocks after the snapshot only.
            end.open = None;
            let mut statement = connection.prepare_cached("INSERT OR REPLACE INTO log_lanes VALUES (?1, ?2)")?;
            statement.execute((lane, end.snapshot))?;
        }
        Ok(())
    }
}

fn unpacked(error: std::io::Error) -> StoreError {
    StoreError::Unavailable(format!("zstd: {error}"))
}

#[cfg(test)]
mod tests {
    use crate::{
        model::{
            ids::DeviceId,
            record::{Kind, Lane, NewRecord},
            time::Millis,
        },
        store::{Store, open::PAGE},
    };

    /// Eight values of which nobody knows the last four digits before.
    fn reading(n: u64) -> NewRecord {
        let values: Vec<String> = (0..8u64)
            .map(|k| {
                (n * 8 + k + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31).wrapping_mul(0xbf58_476d_1ce4_e5b9)
            })
            .map(|x| format!("\"voltage_{}\":{}", x % 3, 220.0 + ((x >> 20) % 10_000) as f64 / 100.0))
            .collect();
        NewRecord {
            device: DeviceId::new(&format!("meter-{}", n % 20)).expect("id"),
            kind: Kind::Telemetry,
            name: None,
            ts: Millis(1_760_000_000_000 + n as i64 * 50),
            body: format!("{{\"values\":{{{}}}}}", values.join(",")).into(),
        }
    }

    #[tokio::test]
    async fn however_few_come_at_a_time_they_share_pages_well() {
        for batch in [1, 7, 10, 30, 50] {
            let folder = tempfile::tempdir().expect("folder");
            let (store, _thread) = Store::open(folder.path()).expect("open");
            let readings: Vec<NewRecord> = (0..400).map(reading).collect();
            for batch in readings.chunks(batch) {
                store.append(batch.to_vec()).await.expect("stored");
            }
            let sizes = store.read(|connection| {
                let mut statement = connection.prepare("SELECT length(data) FROM log_telemetry")?;
                let sizes = statement.query_map([], |row| row.get(0))?;
                Ok(sizes.collect::<Result<Vec<usize>, _>>()?)
            });
            let sizes = sizes.await.expect("read");
            let pages = sizes.iter().all(|size| *size <= PAGE as usize - 100) && sizes.len() <= 5;
            assert!(pages, "{batch} at a time: {sizes:?}");
            let read = store.read_after(Lane::Telemetry, 0, 1000, usize::MAX).await.expect("read");
            assert!(read.into_iter().map(|record| record.record).eq(readings));
        }
    }
}
