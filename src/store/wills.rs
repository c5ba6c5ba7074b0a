//! Wills of the local broker: kept from CONNECT until they are said or taken back, so that neither a stop nor a power cut
//! silences them.

use rusqlite::{Connection, params};

use super::{Store, StoreError};
use crate::model::time::Millis;

pub const MIGRATIONS: &[&str] = &["
    CREATE TABLE broker_wills (
        place INTEGER PRIMARY KEY,
        client TEXT NOT NULL,
        device TEXT NOT NULL,
        groups TEXT NOT NULL,
        topic TEXT NOT NULL,
        payload BLOB NOT NULL,
        flags INTEGER NOT NULL,
        properties BLOB NOT NULL,
        delay INTEGER NOT NULL,
        expiry INTEGER,
        due INTEGER
    );
"];

/// A will as it is kept, with what is needed to judge it when its session is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WillRow {
    /// Unique in the broker.
    pub place: i64,
    pub client: String,
    pub device: String,
    pub groups: Vec<String>,
    pub topic: String,
    pub payload: Vec<u8>,
    /// QoS in bits 1 and 2, retain in bit 0, as in the packet.
    pub flags: u8,
    /// Properties as they stand in an MQTT 5 packet.
    pub properties: Vec<u8>,
    /// Seconds after the connection is gone.
    pub delay: u32,
    /// Message expiry in seconds.
    pub expiry: Option<u32>,
    /// When it is to be said; `None` while its client is connected.
    pub due: Option<Millis>,
}

pub(super) fn put(c: &Connection, row: &WillRow) -> Result<(), StoreError> {
    let WillRow { place, client, device, groups, topic, payload, flags, properties, delay, expiry, due } = row;
    let (groups, due) = (groups.join("\n"), due.map(|at| at.0));
    c.prepare_cached("INSERT OR REPLACE INTO broker_wills VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)")?
        .execute(params![place, client, device, groups, topic, payload, flags, properties, delay, expiry, due])?;
    Ok(())
}

pub(super) fn remove(c: &Connection, place: i64) -> Result<(), StoreError> {
    c.prepare_cached("DELETE FROM broker_wills WHERE place = ?1")?.execute([place])?;
    Ok(())
}

impl Store {
    /// Every will that was not said and not taken back, oldest first.
    pub async fn wills(&self) -> Result<Vec<WillRow>, StoreError> {
        self.read(|c| {
            let rows = c
                .prepare("SELECT * FROM broker_wills ORDER BY place")?
                .query_map([], |row| {
                    Ok(WillRow {
                        place: row.get(0)?,
                        client: row.get(1)?,
                        device: row.get(2)?,
                        groups: row.get::<_, String>(3)?.lines().map(str::to_owned).collect(),
                        topic: row.get(4)?,
                        payload: row.get(5)?,
                        flags: row.get(6)?,
                        properties: row.get(7)?,
                        delay: row.get(8)?,
                        expiry: row.get(9)?,
                        due: row.get::<_, Option<i64>>(10)?.map(Millis),
                    })
                })?
                .collect::<Result<_, _>>()?;
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
    async fn a_will_is_kept_as_it_was_left_until_it_is_taken_back() {
        let folder = tempfile::tempdir().expect("folder");
        let (store, _thread) = Store::open(folder.path()).expect("open");
        let row = |place, due| WillRow {
            place,
            client: "c".into(),
            device: "d".into(),
            groups: vec!["hmi".into(), "flow".into()],
            topic: "gone".into(),
            payload: vec![0, 255],
            flags: 0b101,
            properties: vec![1, 1],
            delay: 5,
            expiry: Some(9),
            due,
        };
        let changes = vec![
            SessionChange::Will(row(1, None)),
            SessionChange::Will(row(2, None)),
            SessionChange::Will(row(2, Some(Millis(7)))),
            SessionChange::NoWill { place: 1 },
        ];
        store.change_sessions(changes).await.expect("write");
        assert_eq!(store.wills().await.expect("read"), vec![row(2, Some(Millis(7)))]);
    }
}
