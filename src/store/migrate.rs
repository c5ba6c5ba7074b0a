//! Numbered migrations, one list per file of this room, each applied once in a transaction of its own.

use rusqlite::Connection;

use super::{
    StoreError, accounts, alarms, artifacts, audit, commands, configs, credentials, desired, devices, drifts,
    executions, history, jobs, log, retained, sessions, settings, shadows, sync, wills,
};

/// Table owner and its steps, oldest first. Append steps, never edit one that has shipped.
type Room = (&'static str, &'static [&'static str]);
const ROOMS: &[Room] = &[
    ("accounts", accounts::MIGRATIONS),
    ("alarms", alarms::MIGRATIONS),
    ("artifacts", artifacts::MIGRATIONS),
    ("audit", audit::MIGRATIONS),
    ("commands", commands::MIGRATIONS),
    ("configs", configs::MIGRATIONS),
    ("credentials", credentials::MIGRATIONS),
    ("desired", desired::MIGRATIONS),
    ("devices", devices::MIGRATIONS),
    ("drifts", drifts::MIGRATIONS),
    ("executions", executions::MIGRATIONS),
    ("history", history::MIGRATIONS),
    ("jobs", jobs::MIGRATIONS),
    ("log", log::MIGRATIONS),
    ("retained", retained::MIGRATIONS),
    ("sessions", sessions::MIGRATIONS),
    ("settings", settings::MIGRATIONS),
    ("shadows", shadows::MIGRATIONS),
    // After shadows, whose first step made its table.
    ("sync", sync::MIGRATIONS),
    ("wills", wills::MIGRATIONS),
];

/// Settles what must be settled before a new file has its first table: that it can give pages back.
pub fn prepare(connection: &Connection) -> Result<(), StoreError> {
    Ok(connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?)
}

/// Brings every table up to date. A kill half-way leaves whole steps only; a database from the future is refused.
pub fn run(connection: &mut Connection) -> Result<(), StoreError> {
    run_some(connection, ROOMS, usize::MAX)
}

/// The first `most` of the steps that are missing.
fn run_some(connection: &mut Connection, rooms: &[Room], mut most: usize) -> Result<(), StoreError> {
    connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS migrations (room TEXT NOT NULL, step INTEGER NOT NULL, PRIMARY KEY (room, step)) WITHOUT ROWID",
    )?;
    for (room, steps) in rooms {
        let done: i64 =
            connection
                .query_row("SELECT COALESCE(MAX(step), 0) FROM migrations WHERE room = ?1", [room], |r| r.get(0))?;
        if done > steps.len() as i64 {
            return Err(StoreError::Newer(format!(
                "the database was written by a newer headgate (its {room} tables are at step {done}, this version \
                 knows {}); install that version again, or move the database away to begin a new one",
                steps.len()
            )));
        }
        for (index, sql) in steps.iter().enumerate().skip(done as usize) {
            if most == 0 {
                return Ok(());
            }
            most -= 1;
            let step = connection.transaction()?;
            step.execute_batch(sql)?;
            step.execute("INSERT INTO migrations (room, step) VALUES (?1, ?2)", (room, index as i64 + 1))?;
            step.commit()?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::{
        model::{
            ids::DeviceId,
            record::{Kind, Lane, NewRecord},
            time::Millis,
        },
        store::Store,
    };

    /// What the first version of every room left behind: a database with one reading in it.
    fn old_database(path: &Path) -> Connection {
        let mut connection = Connection::open(path).expect("open");
        prepare(&connection).expect("prepared");
        connection.pragma_update(None, "journal_mode", "WAL").expect("wal");
        let first: Vec<Room> = ROOMS.iter().map(|(room, steps)| (*room, &steps[..1])).collect();
        run_some(&mut connection, &first, usize::MAX).expect("an old database");
        let device = DeviceId::new("a").expect("id");
        let (mut tail, _) = log::Tail::load(&connection, device.clone()).expect("a log");
        tail.append(NewRecord { device, kind: Kind::Telemetry, name: None, ts: Millis(1), body: "{}".into() }, false);
        let limits = log::Limits { pages: u64::MAX, room: u64::MAX, age: [i64::MAX; 4] };
        tail.flush(&connection, limits).expect("written");
        connection
    }

    #[tokio::test]
    async fn killed_after_and_in_the_middle_of_any_step_it_starts_and_goes_on() {
        let missing: Vec<&str> = ROOMS.iter().flat_map(|(_, steps)| &steps[1..]).copied().collect();
        assert!(!missing.is_empty(), "there is something to be brought up to date");
        for done in 0..=missing.len() {
            let folder = tempfile::tempdir().expect("folder");
            let path = folder.path().join("old.db");
            let mut connection = old_database(&path);
            run_some(&mut connection, ROOMS, done).expect("some steps");
            let step = connection.transaction().expect("begun");
            if let Some(half) = missing.get(done) {
                step.execute_batch(half).expect("half a step");
                // Spilled into the write-ahead log, not committed.
                step.cache_flush().expect("written");
            }
            // What a kill leaves is what lies there now.
            for (from, to) in [("old.db", "headgate.db"), ("old.db-wal", "headgate.db-wal")] {
                fs::copy(folder.path().join(from), folder.path().join(to)).expect("copied");
            }
            drop(step);
            let (store, thread) = Store::open(folder.path()).expect("it starts");
            assert_eq!(store.set_aside_files(), Vec::<String>::new(), "nothing is damaged after {done} steps");
            assert_eq!(store.read_after(Lane::Telemetry, 0, 10, 1 << 20).await.expect("read").len(), 1);
            let whole = store.write(|writer| {
                let sql = "SELECT COUNT(*) FROM migrations";
                Ok(writer.connection.query_row(sql, [], |row| row.get::<_, usize>(0))?)
            });
            assert_eq!(whole.await.expect("counted"), missing.len() + ROOMS.len());
            let record = store.read_after(Lane::Telemetry, 0, 1, 1).await.expect("read").remove(0).record;
            assert_eq!(store.append(vec![record]).await.expect("stored"), [2]);
            store.stop().await;
            thread.join();
        }
    }

    #[test]
    fn a_newer_database_is_refused_with_a_reason() {
        let mut connection = Connection::open_in_memory().expect("memory");
        run(&mut connection).expect("first");
        run(&mut connection).expect("again");
        connection.execute("INSERT INTO migrations VALUES ('log', 999)", []).expect("insert");
        let Err(StoreError::Newer(text)) = run(&mut connection) else { panic!("accepted") };
        assert!(text.contains("newer headgate"), "{text}");
    }
}
