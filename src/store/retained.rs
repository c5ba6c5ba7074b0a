//! Retained messages of the local broker. Written in the batches of [`super::sessions`], read when the broker starts.

use rusqlite::{Connection, params};

use super::{Store, StoreError};
use crate::model::time::Millis;

pub const MIGRATIONS: &[&str] = &["
    CREATE TABLE broker_retained (
        topic TEXT PRIMARY KEY,
        payload BLOB NOT NULL,
        qos INTEGER NOT NULL,
        properties BLOB NOT NULL,
        expires INTEGER
    ) WITHOUT ROWID;
"];

/// The last message of a topic that was published with RETAIN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetainedRow {
    pub topic: String,
    pub payload: Vec<u8>,
    pub qos: u8,
    /// Properties as they stand in an MQTT 5 packet.
    pub properties: Vec<u8>,
    pub expires: Option<Millis>,
}

pub(super) fn put(connection: &Connection, row: &RetainedRow) -> Result<(), StoreError> {
    connection
        .prepare_cached("INSERT OR REPLACE INTO broker_retained VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![row.topic, row.payload, row.qos, row.properties, row.expires.map(|at| at.0)])?;
    Ok(())
}

pub(super) fn remove(connection: &Connection, topic: &str) -> Result<(), StoreError> {
    connection.prepare_cached("DELETE FROM broker_retained WHERE topic = ?1")?.execute([topic])?;
    Ok(())
}

impl Store {
    pub async fn retained(&self) -> Result<Vec<RetainedRow>, StoreError> {
        self.read(|connection| {
            let rows = connection
                .prepare("SELECT topic, payload, qos, properties, expires FROM broker_retained ORDER BY topic")?
                .query_map([], |row| {
                    Ok(RetainedRow {
                        topic: row.get(0)?,
                        payload: row.get(1)?,
                        qos: row.get(2)?,
                        properties: row.get(3)?,
                        expires: row.get::<_, Option<i64>>(4)?.map(Millis),
                    })
                })?
                .collect::<Result<Vec<_>, _>>()?;
            Ok(rows)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sessions::SessionChange;

    #[tokio::test]
    async fn the_last_one_stays_and_can_be_forgotten() {
        let folder = tempfile::tempdir().expect("folder");
        let (store, _thread) = Store::open(folder.path()).expect("open");
        let row = |topic: &str, payload: &[u8]| RetainedRow {
            topic: topic.into(),
            payload: payload.to_vec(),
            qos: 1,
            properties: vec![],
            expires: None,
        };
        let changes = vec![
            SessionChange::Retain(row("a", b"1")),
            SessionChange::Retain(row("b", b"1")),
            SessionChange::Retain(row("a", b"2")),
            SessionChange::Forget { topic: "b".into() },
        ];
        store.change_sessions(changes).await.expect("write");
        assert_eq!(store.retained().await.expect("read"), vec![row("a", b"2")]);
    }
}
