//! Numbered migrations, one list per file of this room, each applied once in a transaction of its own.

use rusqlite::Connection;

use super::{
    StoreError, accounts, alarms, artifacts, audit, commands, configs, credentials, desired, devices, drifts,
    executions, history, jobs, log, retained, sessions, settings, shadows, sync, wills,
};

/// Table owner and its steps, oldest first. Append steps, never edit one that has shipped.
const ROOMS: &[(&str, &[&str])] = &[
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
    connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS migrations (room TEXT NOT NULL, step INTEGER NOT NULL, PRIMARY KEY (room, step)) WITHOUT ROWID",
    )?;
    for (room, steps) in ROOMS {
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
    use super::*;

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
