//! Persistent sessions of the local broker and what waits for them.
//!
//! The broker keeps its sessions in memory and sends every change here; a batch of changes is one write. Read only
//! when the broker starts.

mod rows;

use std::sync::Arc;

use rusqlite::params;

pub use self::rows::{QueuedRow, SessionChange, SessionRow, SubscriptionRow};
use super::{Store, StoreError, Writer, retained, wills};
use crate::{bus::Mark, model::time::Millis};

pub const MIGRATIONS: &[&str] = &[
    "
    CREATE TABLE broker_sessions (
        client TEXT PRIMARY KEY,
        device TEXT NOT NULL,
        groups TEXT NOT NULL,
        expiry INTEGER NOT NULL,
        away_since INTEGER
    ) WITHOUT ROWID;
    CREATE TABLE broker_subscriptions (
        client TEXT NOT NULL,
        filter TEXT NOT NULL,
        options INTEGER NOT NULL,
        identifier INTEGER NOT NULL,
        PRIMARY KEY (client, filter)
    ) WITHOUT ROWID;
    CREATE TABLE broker_queue (
        client TEXT NOT NULL,
        place INTEGER NOT NULL,
        topic TEXT NOT NULL,
        payload BLOB NOT NULL,
        flags INTEGER NOT NULL,
        properties BLOB NOT NULL,
        expires INTEGER,
        identifiers BLOB NOT NULL,
        packet INTEGER NOT NULL DEFAULT 0,
        released INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (client, place)
    ) WITHOUT ROWID;
    CREATE TABLE broker_incoming (
        client TEXT NOT NULL,
        packet INTEGER NOT NULL,
        PRIMARY KEY (client, packet)
    ) WITHOUT ROWID;
",
    "
    ALTER TABLE broker_queue ADD COLUMN shared TEXT;
    ALTER TABLE broker_incoming ADD COLUMN routed INTEGER NOT NULL DEFAULT 1;
",
];

impl Writer {
    fn change_session(&mut self, change: &SessionChange) -> Result<(), StoreError> {
        let c = &self.connection;
        match change {
            SessionChange::Session { client, device, groups, expiry, away_since } => {
                let groups = groups.join("\n");
                c.prepare_cached(
                    "INSERT INTO broker_sessions VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (client) DO UPDATE SET
                     device = excluded.device, groups = excluded.groups, expiry = excluded.expiry,
                     away_since = excluded.away_since",
                )?
                .execute(params![client, device, groups, expiry, away_since.map(|at| at.0)])?;
            }
            SessionChange::End { client } => {
                for sql in [
                    "DELETE FROM broker_sessions WHERE client = ?1",
                    "DELETE FROM broker_subscriptions WHERE client = ?1",
                    "DELETE FROM broker_queue WHERE client = ?1",
                    "DELETE FROM broker_incoming WHERE client = ?1",
                ] {
                    c.prepare_cached(sql)?.execute([client])?;
                }
            }
            SessionChange::Subscribe { client, row } => {
                c.prepare_cached("INSERT OR REPLACE INTO broker_subscriptions VALUES (?1, ?2, ?3, ?4)")?
                    .execute(params![client, row.filter, row.options, row.identifier])?;
            }
            SessionChange::Unsubscribe { client, filter } => {
                c.prepare_cached("DELETE FROM broker_subscriptions WHERE client = ?1 AND filter = ?2")?
                    .execute([client, filter])?;
            }
            SessionChange::Queue { client, row } => {
                c.prepare_cached(
                    "INSERT OR REPLACE INTO broker_queue VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
                )?
                .execute(params![
                    client,
                    row.place,
                    row.topic,
                    row.payload,
                    row.flags,
                    row.properties,
                    row.expires.map(|at| at.0),
                    row.identifiers,
                    row.packet,
                    row.released,
                    row.group
                ])?;
            }
            SessionChange::Sent { client, place, packet, released } => {
                c.prepare_cached(
                    "UPDATE broker_queue SET packet = ?3, released = ?4 WHERE client = ?1 AND place = ?2",
                )?
                .execute(params![client, place, packet, released])?;
            }
            SessionChange::Done { client, place } => {
                c.prepare_cached("DELETE FROM broker_queue WHERE client = ?1 AND place = ?2")?
                    .execute(params![client, place])?;
            }
            SessionChange::Received { client, packet } => {
                c.prepare_cached("INSERT OR REPLACE INTO broker_incoming VALUES (?1, ?2, 1)")?
                    .execute(params![client, packet])?;
            }
            SessionChange::Released { client, packet } => {
                c.prepare_cached("DELETE FROM broker_incoming WHERE client = ?1 AND packet = ?2")?
                    .execute(params![client, packet])?;
            }
            SessionChange::Will(row) => wills::put(c, row)?,
            SessionChange::NoWill { place } => wills::remove(c, *place)?,
            SessionChange::Retain(row) => retained::put(c, row)?,
            SessionChange::Forget { topic } => retained::remove(c, topic)?,
        }
        Ok(())
    }

    /// Marks QoS 2 messages as logged, in the transaction of their records; not routed yet. A session that has ended
    /// in between leaves nothing.
    pub(super) fn mark(&mut self, marks: &[Mark]) -> Result<(), StoreError> {
        for Mark { client, packet } in marks {
            self.connection
                .prepare_cached(
                    "INSERT OR IGNORE INTO broker_incoming SELECT ?1, ?2, 0
                     WHERE EXISTS (SELECT 1 FROM broker_sessions WHERE client = ?1)",
                )?
                .execute(params![&**client, packet])?;
        }
        Ok(())
    }
}

impl Store {
    /// Applies a batch, all or nothing; resolves when it is on disk.
    pub async fn change_sessions(&self, changes: impl Into<Arc<Vec<SessionChange>>>) -> Result<(), StoreError> {
        let changes = changes.into();
        self.write(move |writer| changes.iter().try_for_each(|change| writer.change_session(change))).await
    }

    /// Every session with everything of it, in no order; queues in order of arrival.
    pub async fn sessions(&self) -> Result<Vec<SessionRow>, StoreError> {
        self.read(|c| {
            let mut sessions = c
                .prepare("SELECT client, device, groups, expiry, away_since FROM broker_sessions")?
                .query_map([], |row| {
                    Ok(SessionRow {
                        client: row.get(0)?,
                        device: row.get(1)?,
                        groups: row.get::<_, String>(2)?.lines().map(str::to_owned).collect(),
                        expiry: row.get(3)?,
                        away_since: row.get::<_, Option<i64>>(4)?.map(Millis),
                        ..SessionRow::default()
                    })
                })?
                .collect::<Result<Vec<_>, _>>()?;
            for session in &mut sessions {
                session.subscriptions = c
                    .prepare_cached("SELECT filter, options, identifier FROM broker_subscriptions WHERE client = ?1")?
                    .query_map([&session.client], |row| {
                        Ok(SubscriptionRow { filter: row.get(0)?, options: row.get(1)?, identifier: row.get(2)? })
                    })?
                    .collect::<Result<_, _>>()?;
                session.queue = c
                    .prepare_cached(
                        "SELECT place, topic, payload, flags, properties, expires, identifiers, packet, released, shared
                         FROM broker_queue WHERE client = ?1 ORDER BY place",
                    )?
                    .query_map([&session.client], |row| {
                        Ok(QueuedRow {
                            place: row.get(0)?,
                            topic: row.get(1)?,
                            payload: row.get(2)?,
                            flags: row.get(3)?,
                            properties: row.get(4)?,
                            expires: row.get::<_, Option<i64>>(5)?.map(Millis),
                            identifiers: row.get(6)?,
                            packet: row.get(7)?,
                            released: row.get(8)?,
                            group: row.get(9)?,
                        })
                    })?
                    .collect::<Result<_, _>>()?;
                let mut incoming = c.prepare_cached("SELECT packet, routed FROM broker_incoming WHERE client = ?1")?;
                let mut rows = incoming.query([&session.client])?;
                while let Some(row) = rows.next()? {
                    let packet = row.get(0)?;
                    session.incoming.push(packet);
                    if !row.get::<_, bool>(1)? {
                        session.unrouted.push(packet);
                    }
                }
            }
            Ok(sessions)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_session_with_all_of_it_survives_a_restart_and_ends_wholly() {
        let folder = tempfile::tempdir().expect("folder");
        let (store, thread) = Store::open(folder.path()).expect("open");
        let client = || "c".to_owned();
        let row = |place| QueuedRow {
            place,
            topic: "a/b".into(),
            payload: b"x".to_vec(),
            flags: 0b10,
            properties: vec![1, 1],
            expires: Some(Millis(5)),
            identifiers: vec![0, 0, 0, 1],
            packet: 0,
            released: false,
            group: Some("g".into()),
        };
        let subscription = SubscriptionRow { filter: "a/#".into(), options: 2, identifier: 1 };
        let groups = vec!["hmi".to_owned(), "flow".to_owned()];
        let session = |away_since| SessionChange::Session {
            client: client(),
            device: "d".into(),
            groups: groups.clone(),
            expiry: 60,
            away_since,
        };
        let first = vec![
            session(None),
            SessionChange::Subscribe { client: client(), row: subscription.clone() },
            SessionChange::Queue { client: client(), row: row(7) },
            SessionChange::Queue { client: client(), row: row(8) },
            SessionChange::Queue { client: client(), row: row(9) },
            SessionChange::Received { client: client(), packet: 3 },
        ];
        store.change_sessions(first).await.expect("write");
        let second = vec![
            SessionChange::Sent { client: client(), place: 8, packet: 65535, released: true },
            SessionChange::Done { client: client(), place: 7 },
            session(Some(Millis(9))),
        ];
        store.change_sessions(second).await.expect("write");
        let mark = |client: &str, packet| Mark { client: client.into(), packet };
        let marks = vec![mark("c", 3), mark("c", 4), mark("nobody", 5)];
        store.write(move |writer| writer.mark(&marks)).await.expect("write");
        store.stop().await;
        thread.join();

        let (store, _thread) = Store::open(folder.path()).expect("open again");
        let found = store.sessions().await.expect("read");
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].groups, groups);
        assert_eq!(found[0].subscriptions, vec![subscription]);
        assert_eq!(found[0].queue, vec![QueuedRow { packet: 65535, released: true, ..row(8) }, row(9)]);
        assert_eq!((found[0].incoming.clone(), found[0].away_since), (vec![3, 4], Some(Millis(9))));
        assert_eq!(found[0].unrouted, vec![4], "what was routed stays so");
        store.change_sessions(vec![SessionChange::End { client: client() }, session(None)]).await.expect("end");
        let found = store.sessions().await.expect("read");
        assert!(found[0].queue.is_empty() && found[0].subscriptions.is_empty() && found[0].incoming.is_empty());
    }
}
