//! Commands to children: stored until they are answered or expire, and for a while after, so that the same id twice is
//! one command.

use rusqlite::{OptionalExtension, Row, params};
use serde_json::Value as Json;

use super::{Store, StoreError};
use crate::model::{
    command::{Command, CommandResponse, CommandStatus, Door},
    ids::DeviceId,
    record::{Kind, NewRecord},
    time::Millis,
    view::CommandView,
};

/// `status` is one of `waiting`, `sent`, `succeeded`, `failed`, `rejected`, `expired`.
pub const MIGRATIONS: &[&str] = &["
    CREATE TABLE commands (
        id INTEGER PRIMARY KEY,
        device TEXT NOT NULL,
        command TEXT NOT NULL,
        name TEXT NOT NULL,
        params TEXT NOT NULL,
        door TEXT NOT NULL,
        at INTEGER NOT NULL,
        expires INTEGER,
        status TEXT NOT NULL,
        result TEXT,
        ended INTEGER,
        UNIQUE (device, command)
    );
    CREATE INDEX commands_open ON commands (device) WHERE ended IS NULL;
    CREATE INDEX commands_expire ON commands (expires) WHERE ended IS NULL AND expires IS NOT NULL;
    CREATE INDEX commands_ended ON commands (ended) WHERE ended IS NOT NULL;
"];

/// A command that waits for its answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Open {
    pub command: Command,
    /// It was handed to a driver before; whether it was carried out is not known.
    pub sent: bool,
}

/// What became of placing a command.
#[derive(Debug, Clone, PartialEq)]
pub enum Placed {
    New,
    /// The id was placed before; this is what became of it (`waiting`, …).
    Known(String),
}

const COLUMNS: &str = "command, name, params, expires, status, door, at, result";

fn command(row: &Row<'_>) -> Result<(Command, String), rusqlite::Error> {
    let params: String = row.get(2)?;
    let expires: Option<i64> = row.get(3)?;
    let command = Command {
        command_id: row.get(0)?,
        name: row.get(1)?,
        params: serde_json::from_str(&params).unwrap_or_default(),
        expires_at: expires.map(Millis),
    };
    Ok((command, row.get(4)?))
}

fn word(status: CommandStatus) -> &'static str {
    match status {
        CommandStatus::Succeeded => "succeeded",
        CommandStatus::Failed => "failed",
        CommandStatus::Rejected => "rejected",
    }
}

/// The record of an answer.
pub fn record(device: &DeviceId, name: &str, response: &CommandResponse, at: Millis) -> NewRecord {
    let body = serde_json::to_vec(response).unwrap_or_default().into();
    NewRecord { device: device.clone(), kind: Kind::CommandResponse, name: Some(name.into()), ts: at, body }
}

impl Store {
    /// Stores a command; one whose id is known changes nothing.
    pub async fn place_command(
        &self,
        device: &DeviceId,
        command: &Command,
        door: &Door,
        at: Millis,
    ) -> Result<Placed, StoreError> {
        let (device, command) = (device.as_str().to_owned(), command.clone());
        let door = serde_json::to_string(door).unwrap_or_default();
        self.write(move |writer| {
            let sql = "SELECT status FROM commands WHERE device = ?1 AND command = ?2";
            let known =
                writer.connection.prepare_cached(sql)?.query_row([&device, &command.command_id], |row| row.get(0));
            if let Some(status) = known.optional()? {
                return Ok(Placed::Known(status));
            }
            let sql = "INSERT INTO commands (device, command, name, params, door, at, expires, status)
                       VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 'waiting')";
            let (params, expires) = (command.params.to_string(), command.expires_at.map(|at| at.0));
            writer.connection.prepare_cached(sql)?.execute(params![
                device,
                command.command_id,
                command.name,
                params,
                door,
                at.0,
                expires
            ])?;
            Ok(Placed::New)
        })
        .await
    }

    /// Commands of a device that wait for their answer, oldest first.
    pub async fn open_commands(&self, device: &DeviceId) -> Result<Vec<Open>, StoreError> {
        let device = device.as_str().to_owned();
        self.read(move |connection| {
            let sql = format!("SELECT {COLUMNS} FROM commands WHERE device = ?1 AND ended IS NULL ORDER BY id");
            let mut select = connection.prepare_cached(&sql)?;
            let rows = select.query_map([device], command)?;
            rows.map(|row| row.map(|(command, status)| Open { command, sent: status == "sent" }))
                .collect::<Result<_, _>>()
                .map_err(StoreError::from)
        })
        .await
    }

    /// The command is about to be handed to a driver; false where it is no longer open.
    pub async fn command_sent(&self, device: &DeviceId, id: &str) -> Result<bool, StoreError> {
        self.set_open(device, id, "sent").await
    }

    /// The driver did not take it: it waits again.
    pub async fn command_waits(&self, device: &DeviceId, id: &str) -> Result<bool, StoreError> {
        self.set_open(device, id, "waiting").await
    }

    async fn set_open(&self, device: &DeviceId, id: &str, status: &'static str) -> Result<bool, StoreError> {
        let (device, id) = (device.as_str().to_owned(), id.to_owned());
        self.write(move |writer| {
            let sql = "UPDATE commands SET status = ?3 WHERE device = ?1 AND command = ?2 AND ended IS NULL";
            Ok(writer.connection.prepare_cached(sql)?.execute([&device, &id, status])? > 0)
        })
        .await
    }

    /// An answer: kept, and logged the first time. False where the command had ended before.
    pub async fn command_answered(
        &self,
        device: &DeviceId,
        name: &str,
        response: CommandResponse,
        at: Millis,
    ) -> Result<bool, StoreError> {
        let (device, name) = (device.clone(), name.to_owned());
        self.write(move |writer| {
            let sql = "UPDATE commands SET status = ?3, result = ?4, ended = ?5
                       WHERE device = ?1 AND command = ?2 AND (ended IS NULL OR status = 'expired')";
            let result = response.result.as_ref().map(Json::to_string);
            let id = response.command_id.as_str();
            let known = writer.connection.prepare_cached(sql)?.execute(params![
                device.as_str(),
                id,
                word(response.status),
                result,
                at.0
            ])?;
            let again = known == 0 && {
                let sql = "SELECT 1 FROM commands WHERE device = ?1 AND command = ?2";
                writer.connection.prepare_cached(sql)?.exists([device.as_str(), id])?
            };
            if !again {
                writer.append(record(&device, &name, &response, at))?;
            }
            Ok(!again)
        })
        .await
    }

    /// Ends commands whose time is over, with an answer in the log that says so.
    pub async fn expire_commands(&self, now: Millis) -> Result<Vec<(DeviceId, CommandResponse)>, StoreError> {
        self.write(move |writer| {
            let mut over = Vec::new();
            {
                let sql = "SELECT device, command, name FROM commands WHERE ended IS NULL AND expires <= ?1";
                let mut select = writer.connection.prepare_cached(sql)?;
                let mut rows = select.query([now.0])?;
                while let Some(row) = rows.next()? {
                    over.push((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?));
                }
            }
            let mut ended = Vec::new();
            for (device, command_id, name) in over {
                let sql = "UPDATE commands SET status = 'expired', ended = ?3 WHERE device = ?1 AND command = ?2";
                writer.connection.prepare_cached(sql)?.execute(params![device, command_id, now.0])?;
                let device = DeviceId::new(&device).map_err(|error| StoreError::Damaged(error.to_string()))?;
                let result =
                    Some(serde_json::json!({ "code": "expired", "message": "the device did not answer in time" }));
                let response = CommandResponse { command_id, status: CommandStatus::Failed, result };
                writer.append(record(&device, &name, &response, now))?;
                ended.push((device, response));
            }
            Ok(ended)
        })
        .await
    }

    /// When the next open command expires.
    pub async fn next_command_expiry(&self) -> Result<Option<Millis>, StoreError> {
        self.read(|connection| {
            let sql = "SELECT MIN(expires) FROM commands WHERE ended IS NULL AND expires IS NOT NULL";
            let next: Option<i64> = connection.prepare_cached(sql)?.query_row([], |row| row.get(0))?;
            Ok(next.map(Millis))
        })
        .await
    }

    /// Forgets commands that ended before `before`: from then on their ids are new again.
    pub async fn forget_commands(&self, before: Millis) -> Result<(), StoreError> {
        self.write(move |writer| {
            writer.connection.prepare_cached("DELETE FROM commands WHERE ended < ?1")?.execute([before.0])?;
            Ok(())
        })
        .await
    }

    /// Commands of a device, newest first.
    pub async fn commands(&self, device: &DeviceId, most: usize) -> Result<Vec<CommandView>, StoreError> {
        let (device, most) = (device.as_str().to_owned(), most.min(1000) as i64);
        self.read(move |connection| {
            let sql = format!("SELECT {COLUMNS} FROM commands WHERE device = ?1 ORDER BY id DESC LIMIT ?2");
            let mut select = connection.prepare_cached(&sql)?;
            let rows = select.query_map(params![device, most], |row| {
                let (command, status) = command(row)?;
                let (door, result): (String, Option<String>) = (row.get(5)?, row.get(7)?);
                Ok(CommandView {
                    name: command.name,
                    command_id: command.command_id,
                    door: serde_json::from_str(&door).ok(),
                    at: Millis(row.get(6)?),
                    status,
                    params: command.params,
                    result: result.and_then(|text| serde_json::from_str(&text).ok()),
                })
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }
}
