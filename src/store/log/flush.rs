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
/// A block is closed at this size before compression, so that a reader unpacks little for what it wants.
const MOST_RAW: usize = 64 << 10;
const MOST_RECORDS: u64 = 4096;
/// After so many records the numbers of all streams are written down: what a start must unpack.
const SNAPSHOT: u64 = 20_000;

/// The last block of a lane, when more fits into it.
pub(super) struct Open {
    pub first: u64,
    packer: Packer,
    /// Bytes of it on disk.
    size: usize,
    /// It is in the lane's [`Growth`], up to the commit before.
    grows: bool,
}

impl Open {
    fn at(first: u64) -> Open {
        Open { first, packer: Packer::default(), size: 0, grows: false }
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
        for pending in records {
            let full = open.packer.raw_len() >= MOST_RAW || open.packer.count >= MOST_RECORDS;
            if full {
                let whole = open.packer.pack(&mut self.press).map_err(unpacked)?;
                self.put(connection, lane, &open, &whole)?;
                open = Open::at(self.lanes[lane as usize].next);
            }
            open.packer.add(pending.seq, pending.untrusted, &pending.record);
            self.lanes[lane as usize].next += 1;
        }
        let mut step = ONE_PAGE;
        if open.packer.raw_len() < FILL {
            let before = open.size;
            let grown = self.grow(lane, &mut open).map_err(unpacked)?;
            if grown.len() <= ONE_PAGE {
                open.size = grown.len();
                self.put(connection, lane, &open, &grown)?;
                self.lanes[lane as usize].open = Some(open);
                return Ok(());
            }
            step = grown.len() - before;
        }
        let whole = open.packer.pack(&mut self.press).map_err(unpacked)?;
        self.put(connection, lane, &open, &whole)?;
        // As much again shall fit.
        if whole.len() + step <= ONE_PAGE {
            open.size = whole.len();
            open.grows = false;
            self.lanes[lane as usize].open = Some(open);
        }
        Ok(())
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
