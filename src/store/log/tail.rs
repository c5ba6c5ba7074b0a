//! The end of the log, held in memory by the writer: next position per lane, next `seq` per device and lane, and the
//! records of the group that is being committed.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use rusqlite::Connection;
use tokio::sync::watch;

use super::{
    SQL, Watch,
    block::{Growth, Press, unpack},
    flush::Open,
    mend::Unstored,
};
use crate::{
    clock,
    model::{
        ids::DeviceId,
        record::{Lane, NewRecord},
    },
    store::StoreError,
};

/// What is known of one lane.
#[derive(Default)]
pub(super) struct LaneEnd {
    /// Position of the next record.
    pub next: u64,
    /// Streams are written down up to here.
    pub snapshot: u64,
    pub open: Option<Open>,
}

/// A record of the group that is being committed.
pub(super) struct Pending {
    pub lane: Lane,
    pub seq: u64,
    pub untrusted: bool,
    /// Nobody waits for it: kept for another try when the commit fails.
    pub lazy: bool,
    pub record: NewRecord,
}

/// What was written since the start, for the flash account.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    pub records: u64,
    /// Bytes of blocks, rewritten ones counted again.
    pub block_bytes: u64,
    /// Bytes of the bodies as they came.
    pub body_bytes: u64,
}

/// The end of the log, in memory.
pub struct Tail {
    pub(super) lanes: [LaneEnd; 4],
    pub(super) streams: HashMap<DeviceId, [u64; 4]>,
    pub(super) dirty: HashSet<DeviceId>,
    pub(super) pending: Vec<Pending>,
    pub(super) press: Press,
    /// Per lane, for the block that is filled up.
    pub(super) growths: [Option<Growth>; 4],
    tell: watch::Sender<[u64; 4]>,
    /// The number of this run of the daemon; see `log_boots`.
    pub(super) boot: i64,
    pub(super) boot_saved: bool,
    /// Streams unknown so far begin after this: above 0 where damage took the numbers.
    pub(super) base: u64,
    pub(in crate::store) written: Written,
    /// Switched-on milliseconds up to the start of this run.
    lived_before: i64,
    started: Instant,
    age_checked: Option<Instant>,
    /// Pages of the file when they were counted, and commits since then.
    pub(super) pages: u64,
    pub(super) unlooked: u32,
    pub(super) gateway: DeviceId,
    /// Pages were given back in this group.
    pub(in crate::store) shrunk: bool,
    /// Streams that began above 1 in this group, because damage took their numbers.
    pub(super) based: Vec<(DeviceId, Lane)>,
    /// Readings that were taken while nothing could be stored, per stream: declared when it can again.
    pub(super) unstored: HashMap<(DeviceId, Lane), Unstored>,
}

/// A point to come back to, inside one group.
#[derive(Debug, Clone, Copy)]
pub struct Mark(usize);

impl Tail {
    pub fn load(connection: &Connection, gateway: DeviceId) -> Result<(Tail, Watch), StoreError> {
        let press = Press::new().map_err(|e| StoreError::Unavailable(format!("zstd: {e}")))?;
        let mut tail = Tail {
            lanes: Default::default(),
            streams: HashMap::new(),
            dirty: HashSet::new(),
            pending: Vec::new(),
            press,
            growths: Default::default(),
            tell: watch::channel([0; 4]).0,
            boot: 0,
            boot_saved: false,
            base: 0,
            written: Written::default(),
            lived_before: 0,
            started: Instant::now(),
            age_checked: None,
            pages: u64::MAX,
            unlooked: 0,
            gateway,
            shrunk: false,
            unstored: HashMap::new(),
            based: Vec::new(),
        };
        tail.reload(connection)?;
        let watch = tail.tell.subscribe();
        Ok((tail, watch))
    }

    /// Reads the numbers from disk again: snapshot, then the blocks after it.
    pub(in crate::store) fn reload(&mut self, connection: &Connection) -> Result<(), StoreError> {
        self.pages = u64::MAX;
        self.pending.clear();
        self.based.clear();
        self.streams.clear();
        self.dirty.clear();
        self.lanes = Default::default();
        let base = connection
            .query_row("SELECT value FROM settings WHERE name = 'log.seq-base'", [], |row| row.get::<_, Vec<u8>>(0));
        self.base = base.ok().and_then(|text| String::from_utf8(text).ok()?.parse().ok()).unwrap_or(0);
        let mut statement = connection.prepare_cached("SELECT device, lane, seq FROM log_streams")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (device, lane, seq): (String, usize, u64) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let (Ok(device), true) = (DeviceId::new(&device), lane < 4) else { continue };
            self.streams.entry(device).or_insert([self.base; 4])[lane] = seq;
        }
        for lane in Lane::ALL {
            self.reload_lane(connection, lane)?;
        }
        if !self.boot_saved {
            let boot: i64 =
                connection.query_row("SELECT COALESCE(MAX(boot), 0) FROM log_boots", [], |row| row.get(0))?;
            self.boot = boot + 1;
            for sql in &SQL {
                let lived: i64 = connection.query_row(sql.lived, [], |row| row.get(0))?;
                self.lived_before = self.lived_before.max(lived);
            }
        }
        self.told();
        Ok(())
    }

    fn reload_lane(&mut self, connection: &Connection, lane: Lane) -> Result<(), StoreError> {
        let index = lane as usize;
        let number = |sql: &str| -> Result<u64, StoreError> {
            Ok(connection.prepare_cached(sql)?.query_row([index], |row| row.get(0))?)
        };
        let snapshot = number("SELECT COALESCE(MAX(upto), 0) FROM log_lanes WHERE lane = ?1")?;
        let cursor = number("SELECT COALESCE(MAX(position), 0) FROM log_cursors WHERE lane = ?1")?;
        let mut last = snapshot.max(cursor);
        let mut statement = connection.prepare_cached(SQL[index].from)?;
        let mut rows = statement.query([snapshot])?;
        while let Some(row) = rows.next()? {
            let (first, count): (u64, u64) = (row.get(0)?, row.get(1)?);
            last = last.max(first + count - 1);
            let Some(records) = read_block(first, row.get_ref(3)?.as_blob().unwrap_or_default(), None) else {
                continue;
            };
            for record in records {
                let seqs = self.streams.entry(record.record.device.clone()).or_insert([self.base; 4]);
                if record.seq > seqs[index] {
                    seqs[index] = record.seq;
                    self.dirty.insert(record.record.device);
                }
            }
        }
        self.lanes[index] = LaneEnd { next: last + 1, snapshot, open: None };
        Ok(())
    }

    /// The number of this run, under which its flagged stamps are repaired.
    pub(in crate::store) fn boot(&self) -> i64 {
        self.boot
    }

    /// Switched-on time since the log began, in milliseconds: an age that no step of the clock can change.
    pub(super) fn lived(&self) -> i64 {
        self.lived_before + i64::try_from(self.started.elapsed().as_millis()).unwrap_or(i64::MAX)
    }

    /// Whether it is time to look for what is too old: once a minute.
    pub(super) fn age_is_due(&mut self) -> bool {
        let due = self.age_checked.is_none_or(|at| at.elapsed() > Duration::from_secs(60));
        if due {
            self.age_checked = Some(Instant::now());
        }
        due
    }

    /// The block that begins at `first` is gone: nothing may be added to it.
    pub(super) fn close_block(&mut self, lane: Lane, first: u64) {
        let end = &mut self.lanes[lane as usize];
        if end.open.as_ref().is_some_and(|open| open.first == first) {
            end.open = None;
        }
    }

    /// Takes a record into the current group; returns its `seq`.
    pub(in crate::store) fn append(&mut self, record: NewRecord, lazy: bool) -> u64 {
        let lane = record.kind.lane();
        let seqs = match self.streams.get_mut(&record.device) {
            Some(seqs) => seqs,
            None => self.streams.entry(record.device.clone()).or_insert([self.base; 4]),
        };
        if seqs[lane as usize] == self.base && self.base > 0 {
            self.based.push((record.device.clone(), lane));
        }
        seqs[lane as usize] += 1;
        let seq = seqs[lane as usize];
        let untrusted = clock::doubtful(record.ts);
        self.pending.push(Pending { lane, seq, untrusted, lazy, record });
        seq
    }

    /// Flags the last record of the group as one of an unbelieved clock.
    #[cfg(test)]
    pub fn doubt_last(&mut self) {
        self.pending.last_mut().expect("one").untrusted = true;
    }

    pub fn mark(&self) -> Mark {
        Mark(self.pending.len())
    }

    /// Forgets what was appended after `mark`; its numbers are given again.
    pub fn back_to(&mut self, mark: Mark) {
        for pending in self.pending.drain(mark.0.min(self.pending.len())..) {
            if let Some(seqs) = self.streams.get_mut(&pending.record.device) {
                seqs[pending.lane as usize] = seqs[pending.lane as usize].min(pending.seq - 1);
            }
        }
    }

    /// The records of the group that nobody waits for, to be tried again after a failed commit.
    pub fn take_lazy(&mut self) -> Vec<NewRecord> {
        self.pending.drain(..).filter(|pending| pending.lazy).map(|pending| pending.record).collect()
    }

    /// The group is on disk: tells those who wait for it.
    pub fn committed(&mut self) {
        if !self.pending.is_empty() {
            self.boot_saved = true;
            self.pending.clear();
        }
        self.unstored.clear();
        self.told();
    }

    fn told(&self) {
        let newest = std::array::from_fn(|lane| self.lanes[lane].next.saturating_sub(1));
        self.tell.send_if_modified(|told| std::mem::replace(told, newest) != newest);
    }
}

/// Unpacks a block; a damaged one is logged and left out (its loss shows as a hole in `seq`).
pub(super) fn read_block(first: u64, data: &[u8], repair: Option<i64>) -> Option<Vec<crate::model::record::Record>> {
    match unpack(data, first, repair) {
        Ok(records) => Some(records),
        Err(error) => {
            tracing::error!(%error, first, bytes = data.len(), "a block of the log cannot be read");
            None
        }
    }
}
