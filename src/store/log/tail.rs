//! The end of the log, held in memory by the writer: next position per lane, next `seq` per device and lane, and the
//! records of the group that is being committed.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use rusqlite::Connection;
use tokio::sync::watch;

use super::{
    Gap, Limits, SQL, Watch,
    block::{Packer, Press, unpack},
    retention::count_drops,
};
use crate::{
    clock,
    model::{
        ids::DeviceId,
        record::{Lane, NewRecord},
    },
    store::StoreError,
};

/// A block that is stored in no more than this stays in one page of the database and is filled up by later commits:
/// the page is written anyway, and fuller blocks compress better.
const ONE_PAGE: usize = 3900;
/// A block that would be filled up is first unpacked at most this large.
const FILL: usize = 16 << 10;
/// A block is closed at this size before compression, so that a reader unpacks little for what it wants.
const MOST_RAW: usize = 64 << 10;
const MOST_RECORDS: u64 = 4096;
/// After so many records the numbers of all streams are written down: what a start must unpack.
const SNAPSHOT: u64 = 20_000;

/// The last block of a lane, when more fits into it.
struct Open {
    first: u64,
    packer: Packer,
}

/// What is known of one lane.
#[derive(Default)]
pub(super) struct LaneEnd {
    /// Position of the next record.
    pub next: u64,
    /// Streams are written down up to here.
    pub snapshot: u64,
    open: Option<Open>,
}

struct Pending {
    lane: Lane,
    seq: u64,
    untrusted: bool,
    /// Nobody waits for it: kept for another try when the commit fails.
    lazy: bool,
    record: NewRecord,
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
    dirty: HashSet<DeviceId>,
    pending: Vec<Pending>,
    press: Press,
    tell: watch::Sender<[u64; 4]>,
    /// The number of this run of the daemon; see `log_boots`.
    boot: i64,
    boot_saved: bool,
    /// Streams unknown so far begin after this: above 0 where damage took the numbers.
    base: u64,
    pub(in crate::store) written: Written,
    /// Switched-on milliseconds up to the start of this run.
    lived_before: i64,
    started: Instant,
    age_checked: Option<Instant>,
    pub(super) gateway: DeviceId,
    /// Streams that began above 1 in this group, because damage took their numbers.
    based: Vec<(DeviceId, Lane)>,
    /// Readings that were taken while nothing could be stored, per stream: declared when it can again.
    unstored: HashMap<(DeviceId, Lane), Unstored>,
}

#[derive(Debug, Clone, Copy)]
struct Unstored {
    count: u64,
    from_ts: i64,
    to_ts: i64,
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
            tell: watch::channel([0; 4]).0,
            boot: 0,
            boot_saved: false,
            base: 0,
            written: Written::default(),
            lived_before: 0,
            started: Instant::now(),
            age_checked: None,
            gateway,
            unstored: HashMap::new(),
            based: Vec::new(),
        };
        tail.reload(connection)?;
        let watch = tail.tell.subscribe();
        Ok((tail, watch))
    }

    /// Reads the numbers from disk again: snapshot, then the blocks after it.
    pub(in crate::store) fn reload(&mut self, connection: &Connection) -> Result<(), StoreError> {
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
        connection.prepare_cached(SQL[lane as usize].drop)?.execute([first])?;
        self.close_block(lane, first);
        for gap in self.holes(connection)? {
            self.declare(connection, gap)?;
        }
        Ok(())
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
    fn declare_unstored(&mut self, connection: &Connection) -> Result<(), StoreError> {
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
        let (boot, lived) = (self.boot, self.lived());
        let end = &mut self.lanes[lane as usize];
        let mut open = end.open.take().unwrap_or_else(|| Open { first: end.next, packer: Packer::default() });
        for pending in records {
            let full = open.packer.raw_len() >= MOST_RAW || open.packer.count >= MOST_RECORDS;
            if full {
                write_block(connection, lane, &open, (boot, lived), &mut self.press, &mut self.written)?;
                open = Open { first: end.next, packer: Packer::default() };
            }
            open.packer.add(pending.seq, pending.untrusted, &pending.record);
            end.next += 1;
        }
        let size = write_block(connection, lane, &open, (boot, lived), &mut self.press, &mut self.written)?;
        // A little less than a page: what comes next has to fit in as well.
        if size < ONE_PAGE - 200 && open.packer.raw_len() < FILL {
            end.open = Some(open);
        }
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

fn write_block(
    connection: &Connection,
    lane: Lane,
    open: &Open,
    (boot, lived): (i64, i64),
    press: &mut Press,
    written: &mut Written,
) -> Result<usize, StoreError> {
    let data = open.packer.pack(press).map_err(|e| StoreError::Unavailable(format!("zstd: {e}")))?;
    let packer = &open.packer;
    let mut statement = connection.prepare_cached(SQL[lane as usize].put)?;
    statement.execute((open.first, packer.count, packer.first_ts, packer.newest_ts, boot, lived, &data))?;
    written.block_bytes += data.len() as u64;
    Ok(data.len())
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
