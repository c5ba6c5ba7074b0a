//! The append-only log: records in blocks, one sequence per lane, a cursor per consumer.

mod block;
mod cursors;
mod flush;
mod mend;
mod retention;
mod status;
mod tail;

use rusqlite::{Connection, OptionalExtension};
use tokio::sync::{oneshot, watch};

pub use retention::{Gap, Limits};
pub use tail::{Mark, Tail, Written};

use super::{Store, StoreError, Writer, writer::Message};
use crate::model::{
    ids::DeviceId,
    record::{Lane, NewRecord, Record},
    time::Millis,
};

pub const MIGRATIONS: &[&str] = &["
    CREATE TABLE log_urgent (first INTEGER PRIMARY KEY, count INTEGER NOT NULL, first_ts INTEGER NOT NULL, last_ts INTEGER NOT NULL, boot INTEGER NOT NULL, lived INTEGER NOT NULL, data BLOB NOT NULL);
    CREATE TABLE log_state (first INTEGER PRIMARY KEY, count INTEGER NOT NULL, first_ts INTEGER NOT NULL, last_ts INTEGER NOT NULL, boot INTEGER NOT NULL, lived INTEGER NOT NULL, data BLOB NOT NULL);
    CREATE TABLE log_telemetry (first INTEGER PRIMARY KEY, count INTEGER NOT NULL, first_ts INTEGER NOT NULL, last_ts INTEGER NOT NULL, boot INTEGER NOT NULL, lived INTEGER NOT NULL, data BLOB NOT NULL);
    CREATE TABLE log_logs (first INTEGER PRIMARY KEY, count INTEGER NOT NULL, first_ts INTEGER NOT NULL, last_ts INTEGER NOT NULL, boot INTEGER NOT NULL, lived INTEGER NOT NULL, data BLOB NOT NULL);
    CREATE TABLE log_streams (device TEXT NOT NULL, lane INTEGER NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY (device, lane)) WITHOUT ROWID;
    CREATE TABLE log_lanes (lane INTEGER PRIMARY KEY, upto INTEGER NOT NULL);
    CREATE TABLE log_cursors (consumer TEXT NOT NULL, lane INTEGER NOT NULL, position INTEGER NOT NULL, PRIMARY KEY (consumer, lane)) WITHOUT ROWID;
    CREATE TABLE log_gaps (device TEXT NOT NULL, lane INTEGER NOT NULL, cause TEXT NOT NULL, from_seq INTEGER NOT NULL, to_seq INTEGER NOT NULL, from_ts INTEGER NOT NULL, to_ts INTEGER NOT NULL, count INTEGER, PRIMARY KEY (device, lane, cause)) WITHOUT ROWID;
    CREATE TABLE log_drops (cause TEXT PRIMARY KEY, count INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE log_boots (boot INTEGER PRIMARY KEY, repair INTEGER);
"];

/// The statements of one lane. Lanes have tables of their own, so that each grows only at its end.
struct LaneSql {
    /// Blocks that begin after a position.
    from: &'static str,
    put: &'static str,
    /// The beginning of the block that holds a position.
    holding: &'static str,
    /// First position, count and birth of the oldest block.
    oldest: &'static str,
    data: &'static str,
    count: &'static str,
    drop: &'static str,
    /// The latest birth of a block.
    lived: &'static str,
    newest: &'static str,
}

macro_rules! lane_sql {
    ($table:literal) => {
        LaneSql {
            from: concat!("SELECT first, count, boot, data FROM ", $table, " WHERE first > ?1 ORDER BY first"),
            put: concat!("INSERT OR REPLACE INTO ", $table, " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)"),
            holding: concat!("SELECT MAX(first) FROM ", $table, " WHERE first <= ?1"),
            oldest: concat!("SELECT first, count, lived FROM ", $table, " ORDER BY first LIMIT 1"),
            data: concat!("SELECT data FROM ", $table, " WHERE first = ?1"),
            count: concat!("SELECT count FROM ", $table, " WHERE first = ?1"),
            drop: concat!("DELETE FROM ", $table, " WHERE first = ?1"),
            newest: concat!("SELECT COALESCE((SELECT last_ts FROM ", $table, " ORDER BY first DESC LIMIT 1), 0)"),
            lived: concat!("SELECT COALESCE((SELECT lived FROM ", $table, " ORDER BY first DESC LIMIT 1), 0)"),
        }
    };
}

static SQL: [LaneSql; 4] =
    [lane_sql!("log_urgent"), lane_sql!("log_state"), lane_sql!("log_telemetry"), lane_sql!("log_logs")];

/// Newest committed position per lane.
pub type Watch = watch::Receiver<[u64; 4]>;

impl Writer {
    /// Appends a record to the group that is being committed; returns its sequence number.
    pub(super) fn append(&mut self, record: NewRecord) -> Result<u64, StoreError> {
        Ok(self.log.append(record, false))
    }
}

impl Store {
    /// Appends records; resolves after the commit with their sequence numbers.
    pub async fn append(&self, records: Vec<NewRecord>) -> Result<Vec<u64>, StoreError> {
        let (reply, answer) = oneshot::channel();
        let message = Message::Append(records, Some(reply));
        self.queue.send(message).await.map_err(|_| StoreError::Stopped)?;
        answer.await.map_err(|_| StoreError::Stopped)?
    }

    /// Appends records nobody waits for: they may linger a moment for company, which spares flash. Returns when they
    /// are queued. While the disk refuses the newest of them are kept in memory; what does not fit is declared later.
    pub async fn append_lazy(&self, records: Vec<NewRecord>) -> Result<(), StoreError> {
        self.queue.send(Message::Append(records, None)).await.map_err(|_| StoreError::Stopped)
    }

    /// Makes records of the loss ledger, if it holds anything; returns how many.
    pub async fn settle_gaps(&self) -> Result<usize, StoreError> {
        let open = self.read(|connection| {
            Ok(connection.query_row("SELECT EXISTS (SELECT 1 FROM log_gaps)", [], |row| row.get::<_, bool>(0))?)
        });
        if !open.await? {
            return Ok(0);
        }
        self.write(|writer| writer.log.settle_gaps(&writer.connection)).await
    }

    /// Records of `lane` after `position`, oldest first, until `records` or `bytes` (of bodies) are reached; at least
    /// one where there is one.
    pub async fn read_after(
        &self,
        lane: Lane,
        position: u64,
        records: usize,
        bytes: usize,
    ) -> Result<Vec<Record>, StoreError> {
        loop {
            let read = self.read(move |connection| read_after(connection, lane, position, records, bytes)).await?;
            match read {
                Read::Records(records) => return Ok(records),
                // Taken out and declared; what comes after it can be read.
                Read::Damaged(first) => {
                    self.write(move |writer| writer.log.mend(&writer.connection, lane, first)).await?;
                }
            }
        }
    }

    /// Declares that a record will not be delivered, because no consumer can take it.
    pub async fn set_aside(
        &self,
        device: DeviceId,
        lane: Lane,
        seq: u64,
        ts: Millis,
        cause: &str,
    ) -> Result<(), StoreError> {
        let cause = cause.to_owned();
        self.write(move |writer| {
            retention::count_drops(&writer.connection, &cause, 1)?;
            let gap =
                Gap { device, lane, from_seq: seq, to_seq: seq, from_ts: ts.0, to_ts: ts.0, count: Some(1), cause };
            writer.log.declare(&writer.connection, gap)
        })
        .await
    }

    /// Wakes when something was committed.
    pub fn appended(&self) -> Watch {
        self.log.clone()
    }
}

/// The newest time a record of the last blocks bears.
pub(in crate::store) fn newest_stamp(connection: &Connection) -> Result<Millis, StoreError> {
    let mut newest = 0;
    for sql in &SQL {
        newest = newest.max(connection.query_row(sql.newest, [], |row| row.get(0))?);
    }
    Ok(Millis(newest))
}

enum Read {
    Records(Vec<Record>),
    /// The block that begins here cannot be unpacked, and nothing before it was wanted.
    Damaged(u64),
}

fn read_after(
    connection: &Connection,
    lane: Lane,
    position: u64,
    most: usize,
    bytes: usize,
) -> Result<Read, StoreError> {
    let sql = &SQL[lane as usize];
    let holding: Option<u64> = connection.prepare_cached(sql.holding)?.query_row([position + 1], |row| row.get(0))?;
    let mut found: Vec<Record> = Vec::new();
    let mut size = 0;
    let mut boots = connection.prepare_cached("SELECT repair FROM log_boots WHERE boot = ?1")?;
    let mut statement = connection.prepare_cached(sql.from)?;
    let mut rows = statement.query([holding.unwrap_or(position + 1).saturating_sub(1)])?;
    while let Some(row) = rows.next()? {
        let first: u64 = row.get(0)?;
        let repair: Option<Option<i64>> = boots.query_row([row.get::<_, i64>(2)?], |row| row.get(0)).optional()?;
        let data = row.get_ref(3)?.as_blob().unwrap_or_default();
        let Some(records) = tail::read_block(first, data, repair.flatten()) else {
            return Ok(if found.is_empty() { Read::Damaged(first) } else { Read::Records(found) });
        };
        for record in records {
            if record.position <= position {
                continue;
            }
            size += record.record.body.len();
            if !found.is_empty() && (found.len() >= most || size > bytes) {
                return Ok(Read::Records(found));
            }
            found.push(record);
        }
    }
    Ok(Read::Records(found))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::record::Kind;

    fn reading(device: &str, n: i64) -> NewRecord {
        NewRecord {
            device: DeviceId::new(device).expect("id"),
            kind: Kind::Telemetry,
            name: None,
            ts: Millis(1_760_000_000_000 + n),
            body: format!("{{\"values\":{{\"n\":{n}}}}}").into(),
        }
    }

    #[tokio::test]
    async fn seq_has_no_holes_over_restarts_and_lanes_are_apart() {
        let folder = tempfile::tempdir().expect("folder");
        let mut expected = 0;
        for _ in 0..3 {
            let (store, thread) = Store::open(folder.path()).expect("open");
            for n in 0..20 {
                let event = NewRecord { kind: Kind::Event, ..reading("a", n) };
                let seqs = store.append(vec![reading("a", n), event, reading("b", n)]).await.expect("stored");
                expected += 1;
                assert_eq!(seqs, [expected; 3]);
            }
            store.stop().await;
            thread.join();
        }
        let (store, _thread) = Store::open(folder.path()).expect("open");
        let all = store.read_after(Lane::Telemetry, 0, 1000, 1 << 20).await.expect("read");
        assert_eq!(all.len(), 120);
        assert!(all.iter().enumerate().all(|(index, record)| record.position == index as u64 + 1));
        let after = store.read_after(Lane::Telemetry, 77, 5, 1 << 20).await.expect("read");
        assert_eq!(after, all[77..82]);
        assert_eq!(store.read_after(Lane::Urgent, 59, 5, 1).await.expect("read").len(), 1);
        assert_eq!(*store.appended().borrow(), [60, 0, 120, 0]);
    }

    #[tokio::test]
    async fn numbers_are_right_after_a_snapshot_too() {
        let folder = tempfile::tempdir().expect("folder");
        let (store, thread) = Store::open(folder.path()).expect("open");
        for round in 0..9 {
            let batch = (0..2500).map(|n| reading(if n % 2 == 0 { "a" } else { "b" }, round * 2500 + n)).collect();
            store.append(batch).await.expect("stored");
        }
        store.stop().await;
        thread.join();
        let (store, _thread) = Store::open(folder.path()).expect("open");
        assert_eq!(store.append(vec![reading("a", 0)]).await.expect("stored"), [11_251]);
        let last = store.read_after(Lane::Telemetry, 22_499, 10, 1 << 20).await.expect("read");
        assert_eq!((last.len(), last[1].position, last[1].seq), (2, 22_501, 11_251));
    }

    #[tokio::test]
    async fn a_block_that_is_filled_up_over_a_snapshot_is_not_forgotten() {
        let folder = tempfile::tempdir().expect("folder");
        let (store, thread) = Store::open(folder.path()).expect("open");
        // A small block stays open, and every record is a commit of its own.
        store.append((0..19_999).map(|n| reading("a", n)).collect()).await.expect("stored");
        for n in 0..5 {
            store.append(vec![reading("b", n)]).await.expect("stored");
        }
        // No goodbye: as after a kill, what is on disk is all there is.
        drop((store, thread));
        let (store, _thread) = Store::open(folder.path()).expect("open");
        assert_eq!(store.append(vec![reading("b", 5)]).await.expect("stored"), [6]);
        let records = store.read_after(Lane::Telemetry, 19_999, 10, 1 << 20).await.expect("read");
        assert_eq!(records.iter().map(|r| r.seq).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
    }

    #[tokio::test]
    async fn a_cursor_moves_forward_only() {
        let folder = tempfile::tempdir().expect("folder");
        let (store, _thread) = Store::open(folder.path()).expect("open");
        store.move_cursor("cloud", Lane::Telemetry, 7).await.expect("move");
        store.move_cursor("cloud", Lane::Telemetry, 5).await.expect("move");
        assert_eq!(store.cursor("cloud", Lane::Telemetry).await.expect("read"), 7);
        assert_eq!(store.cursor("cloud", Lane::Urgent).await.expect("read"), 0);
    }

    #[tokio::test]
    async fn a_block_that_rots_is_taken_out_and_declared() {
        let folder = tempfile::tempdir().expect("folder");
        let (store, _thread) = Store::open(folder.path()).expect("open");
        for n in 0..3 {
            store.append((0..5000).map(|m| reading("a", n * 5000 + m)).collect()).await.expect("stored");
        }
        let rot = store.write(|writer| {
            let sql = "UPDATE log_telemetry SET data = zeroblob(length(data)) WHERE first = (SELECT first FROM log_telemetry LIMIT 1 OFFSET 1)";
            assert_eq!(writer.connection.execute(sql, [])?, 1);
            Ok(())
        });
        rot.await.expect("rotten");
        let mut kept = Vec::new();
        loop {
            let after = kept.last().map_or(0, |record: &Record| record.position);
            let more = store.read_after(Lane::Telemetry, after, 1000, 1 << 20).await.expect("read");
            if more.is_empty() {
                break;
            }
            kept.extend(more);
        }
        assert!(kept.len() < 15_000);
        assert_eq!(store.settle_gaps().await.expect("settled"), 1);
        let gap = store.read_after(Lane::Urgent, 0, 1, 1).await.expect("read");
        let gap: serde_json::Value = serde_json::from_slice(&gap[0].record.body).expect("json");
        let missing = gap["toSeq"].as_u64().expect("to") - gap["fromSeq"].as_u64().expect("from") + 1;
        assert_eq!((missing as usize + kept.len(), gap["cause"].as_str()), (15_000, Some("damage")));
    }

    #[tokio::test]
    async fn flagged_stamps_are_repaired_when_the_clock_is_known() {
        let folder = tempfile::tempdir().expect("folder");
        let (store, _thread) = Store::open(folder.path()).expect("open");
        // As the tail does it while the clock is not believed.
        let flagged = store.write(|writer| {
            writer.log.append(reading("a", 1), false);
            writer.log.doubt_last();
            Ok(())
        });
        flagged.await.expect("stored");
        store.append(vec![reading("a", 2)]).await.expect("stored");
        let stamps = async || {
            let records = store.read_after(Lane::Telemetry, 0, 10, 1 << 20).await.expect("read");
            records.iter().map(|r| (r.record.ts.0 - 1_760_000_000_000, r.clock_untrusted)).collect::<Vec<_>>()
        };
        assert_eq!(stamps().await, [(1, true), (2, false)]);
        store.repair_stamps(5000).await.expect("repaired");
        assert_eq!(stamps().await, [(5001, false), (2, false)]);
        assert_eq!(store.newest_stamp().await.expect("read"), Millis(1_760_000_000_002));
    }

    #[tokio::test]
    async fn a_job_that_fails_gives_its_numbers_back() {
        let folder = tempfile::tempdir().expect("folder");
        let (store, _thread) = Store::open(folder.path()).expect("open");
        let failed = store.write(|writer| {
            writer.append(reading("a", 1))?;
            Err::<(), _>(StoreError::Damaged("on purpose".into()))
        });
        assert!(failed.await.is_err());
        assert_eq!(store.append(vec![reading("a", 2)]).await.expect("stored"), [1]);
    }
}
