//! What can be said about the log at one moment; rates and forecasts are made of it by those who sample.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension};

use super::{Read, SQL, Written, read_after};
use crate::{
    model::{
        record::Lane,
        view::{LaneStatus, LogStatus},
    },
    store::{Store, StoreError, StoreHealth, open::wal_of},
};

impl Store {
    /// How much waits for `consumer` and what the log occupies. Rates and forecasts are left empty.
    pub async fn log_status(&self, consumer: &str) -> Result<LogStatus, StoreError> {
        self.log_status_from(consumer, [0; 4]).await
    }

    /// The same where the consumer is known to be further than its cursor was written down.
    pub async fn log_status_from(&self, consumer: &str, known: [u64; 4]) -> Result<LogStatus, StoreError> {
        let newest = *self.log.borrow();
        let consumer = consumer.to_owned();
        let wal = wal_of(&self.readers.path);
        let mut status = self
            .read(move |connection| {
                let mut status = LogStatus::default();
                for lane in Lane::ALL {
                    status.lanes.push(lane_status(
                        connection,
                        &consumer,
                        lane,
                        known[lane as usize],
                        newest[lane as usize],
                    )?);
                }
                status.waiting = status.lanes.iter().map(|lane| lane.waiting).sum();
                status.oldest = status.lanes.iter().filter_map(|lane| lane.oldest).min();
                let pages: u64 = connection.query_row("PRAGMA page_count", [], |row| row.get(0))?;
                let size: u64 = connection.query_row("PRAGMA page_size", [], |row| row.get(0))?;
                status.bytes = pages * size + std::fs::metadata(wal).map_or(0, |meta| meta.len());
                let mut statement = connection.prepare_cached("SELECT cause, count FROM log_drops")?;
                let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
                status.dropped = rows.collect::<Result<BTreeMap<String, u64>, _>>()?;
                Ok(status)
            })
            .await?;
        status.quota = self.options.log.max_bytes;
        if let StoreHealth::Refusing { reason, .. } = &*self.health.borrow() {
            status.refusing = Some(reason.clone());
        }
        Ok(status)
    }

    /// What was written since the start.
    pub fn written(&self) -> Written {
        *self.written.borrow()
    }
}

fn lane_status(
    connection: &Connection,
    consumer: &str,
    lane: Lane,
    known: u64,
    newest: u64,
) -> Result<LaneStatus, StoreError> {
    let sql = "SELECT position FROM log_cursors WHERE consumer = ?1 AND lane = ?2";
    let cursor = connection.prepare_cached(sql)?.query_row((consumer, lane as u8), |row| row.get(0)).optional()?;
    let mut statement = connection.prepare_cached(SQL[lane as usize].oldest)?;
    let oldest: Option<u64> = statement.query_row([], |row| row.get(0)).optional()?;
    let gone = oldest.map_or(newest, |first| first - 1).max(cursor.unwrap_or(0)).max(known);
    let waiting = newest.saturating_sub(gone);
    let next = if waiting > 0 { Some(read_after(connection, lane, gone, 1, 1)?) } else { None };
    let oldest = match next {
        Some(Read::Records(records)) => records.first().map(|record| record.record.ts),
        _ => None,
    };
    Ok(LaneStatus { lane, waiting, oldest })
}
