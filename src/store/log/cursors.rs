//! How far each consumer of the log has come, per lane.

use rusqlite::OptionalExtension;

use crate::{
    model::record::Lane,
    store::{Store, StoreError, faults},
};

impl Store {
    /// Where `consumer` stands in `lane`: the last position it has acknowledged.
    pub async fn cursor(&self, consumer: &str, lane: Lane) -> Result<u64, StoreError> {
        let consumer = consumer.to_owned();
        self.read(move |connection| {
            let sql = "SELECT position FROM log_cursors WHERE consumer = ?1 AND lane = ?2";
            let found = connection.prepare_cached(sql)?.query_row((consumer, lane as u8), |row| row.get(0));
            Ok(found.optional()?.unwrap_or(0))
        })
        .await
    }

    /// Moves a cursor forward; never back.
    pub async fn move_cursor(&self, consumer: &str, lane: Lane, position: u64) -> Result<(), StoreError> {
        self.move_cursors(consumer, vec![(lane, position)]).await
    }

    /// Moves several cursors of one consumer forward at once; none back.
    pub async fn move_cursors(&self, consumer: &str, to: Vec<(Lane, u64)>) -> Result<(), StoreError> {
        self.move_cursors_and(consumer, to, None).await
    }

    /// The same, with a setting that belongs to it in one commit.
    pub async fn move_cursors_and(
        &self,
        consumer: &str,
        to: Vec<(Lane, u64)>,
        setting: Option<(&'static str, Vec<u8>)>,
    ) -> Result<(), StoreError> {
        let consumer = consumer.to_owned();
        self.write(move |writer| {
            faults::point("before-cursor");
            let sql = "INSERT INTO log_cursors VALUES (?1, ?2, ?3) ON CONFLICT (consumer, lane)
                       DO UPDATE SET position = excluded.position WHERE excluded.position > position";
            let mut statement = writer.connection.prepare_cached(sql)?;
            for (lane, position) in to {
                statement.execute((&consumer, lane as u8, position))?;
            }
            drop(statement);
            setting.map_or(Ok(()), |(name, value)| writer.set(name, &value))
        })
        .await
    }
}
