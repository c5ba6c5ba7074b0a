//! What must go when there is no more room, and the ledger in which every loss is written down.
//!
//! Whole blocks go, the oldest of the lowest lane first: at first such that every consumer has passed, and only when
//! none is left those that nobody has got yet. Of the latter each record is counted in the ledger, in the same
//! transaction. A row of the ledger grows while one stream keeps losing; it becomes a record of the urgent lane when
//! somebody asks for it ([`crate::store::Store::settle_gaps`]) or when the next loss does not adjoin.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension};
use serde_json::{Value as Json, json};

use super::{SQL, tail::Tail, tail::read_block};
use crate::{
    clock,
    model::{
        ids::DeviceId,
        record::{Kind, Lane, NewRecord},
    },
    store::StoreError,
};

/// Lanes in the order in which they lose.
const LOSERS: [Lane; 4] = [Lane::Logs, Lane::Telemetry, Lane::State, Lane::Urgent];

/// Pages given back in one transaction at most: each is a write.
const STEP: u64 = 256;

/// Commits after which the size of the file is looked up, and pages that so many of them do not bring: a MiB each.
const SELDOM: u32 = 64;
const FAR: u64 = SELDOM as u64 * 256;

/// How much there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Pages of the database the log stops at.
    pub pages: u64,
    /// Pages the file may have, so that the file system keeps what is to be left to others.
    pub room: u64,
    /// Milliseconds of switched-on time, per lane.
    pub age: [i64; 4],
}

/// A stretch of one stream that is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    pub device: DeviceId,
    pub lane: Lane,
    pub from_seq: u64,
    pub to_seq: u64,
    pub from_ts: i64,
    pub to_ts: i64,
    /// Records in it; unknown where damage took them.
    pub count: Option<u64>,
    pub cause: String,
}

impl Gap {
    /// What damage took: nobody knows how much it was. To be completed with the stream and its numbers.
    pub(in crate::store) fn damage() -> Gap {
        Gap {
            device: DeviceId::new("unknown").expect("a valid id"),
            lane: Lane::Urgent,
            from_seq: 0,
            to_seq: 0,
            from_ts: 0,
            to_ts: clock::now().0,
            count: None,
            cause: "damage".into(),
        }
    }

    fn body(&self) -> Json {
        json!({
            "device": self.device, "class": self.lane.name(), "fromSeq": self.from_seq, "toSeq": self.to_seq,
            "fromTs": self.from_ts, "toTs": self.to_ts, "count": self.count, "cause": self.cause,
        })
    }

    fn from_body(body: &[u8]) -> Option<Gap> {
        let json: Json = serde_json::from_slice(body).ok()?;
        let lane = Lane::ALL.into_iter().find(|lane| json["class"] == lane.name())?;
        Some(Gap {
            device: DeviceId::new(json["device"].as_str()?).ok()?,
            lane,
            from_seq: json["fromSeq"].as_u64()?,
            to_seq: json["toSeq"].as_u64()?,
            from_ts: json["fromTs"].as_i64()?,
            to_ts: json["toTs"].as_i64()?,
            count: json["count"].as_u64(),
            cause: json["cause"].as_str()?.to_owned(),
        })
    }

    /// Takes in a gap that begins where this one ends.
    fn join(&mut self, next: &Gap) {
        self.to_seq = next.to_seq;
        self.from_ts = self.from_ts.min(next.from_ts);
        self.to_ts = self.to_ts.max(next.to_ts);
        self.count = self.count.zip(next.count).map(|(a, b)| a + b);
    }
}

struct Oldest {
    lane: Lane,
    first: u64,
    count: u64,
    /// Every consumer has passed it.
    passed: bool,
    lived: i64,
}

impl Tail {
    /// Drops blocks until `need` more pages fit under the limit, and what is too old.
    pub(super) fn make_room(&mut self, connection: &Connection, limits: Limits, need: u64) -> Result<(), StoreError> {
        self.unlooked += 1;
        // Where every limit is far it is enough to look now and then.
        if self.pages.saturating_add(FAR) > limits.pages.min(limits.room) || self.unlooked >= SELDOM {
            self.fit(connection, limits, need)?;
            self.unlooked = 0;
            self.pages = page_count(connection)?;
        }
        if self.age_is_due() {
            for lane in LOSERS {
                let born = self.lived().saturating_sub(limits.age[lane as usize]);
                while let Some(oldest) = oldest(connection, lane)?.filter(|oldest| oldest.lived <= born) {
                    self.drop_block(connection, &oldest, "age")?;
                }
            }
        }
        Ok(())
    }

    fn fit(&mut self, connection: &Connection, limits: Limits, need: u64) -> Result<(), StoreError> {
        if in_use(connection)? + need > limits.pages {
            // A little more than needed, so that this is rare.
            let goal = limits.pages.saturating_sub(need + (limits.pages / 100).max(8));
            // Where much is to go, it goes over several commits: nobody waits for all of it.
            let goal = goal.max(in_use(connection)?.saturating_sub(4 * STEP));
            while in_use(connection)? > goal {
                let Some(oldest) = self.next_loser(connection)? else { break };
                self.drop_block(connection, &oldest, "quota")?;
            }
        }
        self.shrink(connection, limits.room)
    }

    /// Gives pages that hold nothing back to the file system, where the file is larger than it may be.
    fn shrink(&mut self, connection: &Connection, most: u64) -> Result<(), StoreError> {
        let over = page_count(connection)?.saturating_sub(most).min(STEP);
        if over > 0 {
            // One step of the statement is one page.
            let mut vacuum = connection.prepare(&format!("PRAGMA incremental_vacuum({over})"))?;
            let mut rows = vacuum.query([])?;
            while rows.next()?.is_some() {}
            self.shrunk = true;
        }
        Ok(())
    }

    /// The block that goes next.
    fn next_loser(&self, connection: &Connection) -> Result<Option<Oldest>, StoreError> {
        let mut best: Option<Oldest> = None;
        for lane in LOSERS {
            let Some(oldest) = oldest(connection, lane)? else { continue };
            if oldest.passed {
                return Ok(Some(oldest));
            }
            best = best.or(Some(oldest));
        }
        Ok(best)
    }

    fn drop_block(&mut self, connection: &Connection, oldest: &Oldest, cause: &str) -> Result<(), StoreError> {
        let lane = oldest.lane;
        if oldest.first + oldest.count - 1 > self.lanes[lane as usize].snapshot {
            self.snapshot(connection)?;
        }
        if !oldest.passed && !self.declare_block(connection, oldest, cause)? {
            return self.mend(connection, lane, oldest.first);
        }
        connection.prepare_cached(SQL[lane as usize].drop)?.execute([oldest.first])?;
        self.close_block(lane, oldest.first);
        Ok(())
    }

    /// False where the block cannot be unpacked.
    fn declare_block(&mut self, connection: &Connection, oldest: &Oldest, cause: &str) -> Result<bool, StoreError> {
        let lane = oldest.lane;
        let passed = passed(connection, lane)?;
        let data: Vec<u8> =
            connection.prepare_cached(SQL[lane as usize].data)?.query_row([oldest.first], |row| row.get(0))?;
        let mut lost: HashMap<DeviceId, Gap> = HashMap::new();
        let mut count = 0;
        let Some(records) = read_block(oldest.first, &data, None) else { return Ok(false) };
        for record in records {
            if record.position <= passed {
                continue;
            }
            count += 1;
            let (seq, ts) = (record.seq, record.record.ts.0);
            // A declaration that is itself lost goes back into the ledger.
            if record.record.kind == Kind::Gap
                && let Some(again) = Gap::from_body(&record.record.body)
            {
                self.declare(connection, again)?;
            }
            let device = record.record.device;
            let gap = lost.entry(device.clone()).or_insert(Gap {
                device,
                lane,
                from_seq: seq,
                to_seq: seq,
                from_ts: ts,
                to_ts: ts,
                count: Some(0),
                cause: cause.to_owned(),
            });
            gap.to_seq = seq;
            gap.from_ts = gap.from_ts.min(ts);
            gap.to_ts = gap.to_ts.max(ts);
            gap.count = gap.count.map(|count| count + 1);
        }
        for gap in lost.into_values() {
            self.declare(connection, gap)?;
        }
        count_drops(connection, cause, count)?;
        Ok(true)
    }

    /// Writes a loss into the ledger.
    pub(in crate::store) fn declare(&mut self, connection: &Connection, gap: Gap) -> Result<(), StoreError> {
        let sql = "SELECT device, lane, from_seq, to_seq, from_ts, to_ts, count, cause FROM log_gaps
                   WHERE device = ?1 AND lane = ?2 AND cause = ?3";
        let mut statement = connection.prepare_cached(sql)?;
        let key = (gap.device.as_str(), gap.lane as u8, &gap.cause);
        let known = statement.query_row(key, gap_of_row).optional()?;
        let gap = match known {
            Some(mut known) if known.to_seq + 1 == gap.from_seq => {
                known.join(&gap);
                known
            }
            Some(known) => {
                self.append_gap(&known);
                gap
            }
            None => gap,
        };
        let sql = "INSERT OR REPLACE INTO log_gaps VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
        connection.prepare_cached(sql)?.execute((
            gap.device.as_str(),
            gap.lane as u8,
            &gap.cause,
            gap.from_seq,
            gap.to_seq,
            gap.from_ts,
            gap.to_ts,
            gap.count,
        ))?;
        Ok(())
    }

    /// Makes a record of the urgent lane of every row of the ledger; returns how many.
    pub(in crate::store) fn settle_gaps(&mut self, connection: &Connection) -> Result<usize, StoreError> {
        let sql = "SELECT device, lane, from_seq, to_seq, from_ts, to_ts, count, cause FROM log_gaps";
        let mut statement = connection.prepare_cached(sql)?;
        let gaps: Vec<Gap> = statement.query_map([], gap_of_row)?.collect::<Result<_, _>>()?;
        for gap in &gaps {
            self.append_gap(gap);
        }
        if !gaps.is_empty() {
            connection.execute("DELETE FROM log_gaps", [])?;
        }
        Ok(gaps.len())
    }

    fn append_gap(&mut self, gap: &Gap) {
        tracing::warn!(device = %gap.device, class = gap.lane.name(), from = gap.from_seq, to = gap.to_seq, cause = gap.cause, "records were lost; declared");
        let record = NewRecord {
            device: self.gateway.clone(),
            kind: Kind::Gap,
            name: None,
            ts: clock::now(),
            body: gap.body().to_string().into(),
        };
        self.append(record, false);
    }
}

fn gap_of_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<Gap> {
    let lane: usize = row.get(1)?;
    let device: String = row.get(0)?;
    let device = DeviceId::new(&device)
        .map_err(|e| rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, Box::new(e)))?;
    Ok(Gap {
        device,
        lane: Lane::ALL[lane.min(3)],
        from_seq: row.get(2)?,
        to_seq: row.get(3)?,
        from_ts: row.get(4)?,
        to_ts: row.get(5)?,
        count: row.get(6)?,
        cause: row.get(7)?,
    })
}

/// Adds to the count of dropped records that the page shows.
pub(in crate::store) fn count_drops(connection: &Connection, cause: &str, count: u64) -> Result<(), StoreError> {
    let sql = "INSERT INTO log_drops VALUES (?1, ?2) ON CONFLICT (cause) DO UPDATE SET count = count + excluded.count";
    connection.prepare_cached(sql)?.execute((cause, count))?;
    Ok(())
}

fn page_count(connection: &Connection) -> Result<u64, StoreError> {
    Ok(connection.prepare_cached("PRAGMA page_count")?.query_row([], |row| row.get(0))?)
}

/// Pages that hold something.
fn in_use(connection: &Connection) -> Result<u64, StoreError> {
    let pages = page_count(connection)?;
    let free: u64 = connection.prepare_cached("PRAGMA freelist_count")?.query_row([], |row| row.get(0))?;
    Ok(pages - free)
}

/// Up to where every consumer has acknowledged; 0 where there is none.
fn passed(connection: &Connection, lane: Lane) -> Result<u64, StoreError> {
    let sql = "SELECT COALESCE(MIN(position), 0) FROM log_cursors WHERE lane = ?1";
    Ok(connection.prepare_cached(sql)?.query_row([lane as u8], |row| row.get(0))?)
}

fn oldest(connection: &Connection, lane: Lane) -> Result<Option<Oldest>, StoreError> {
    let mut statement = connection.prepare_cached(SQL[lane as usize].oldest)?;
    let row = statement.query_row([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).optional()?;
    let Some((first, count, lived)) = row else { return Ok(None) };
    let passed = first + count - 1 <= passed(connection, lane)?;
    Ok(Some(Oldest { lane, first, count, passed, lived }))
}
