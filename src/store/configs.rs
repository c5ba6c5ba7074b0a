//! Configuration documents of devices, groups and types, and how each device stands to the one that counts for it.

use rusqlite::{OptionalExtension, params};

use super::{Store, StoreError, Writer};
use crate::model::{
    configuration::{Assigned, Standing, effective},
    ids::DeviceId,
    record::NewRecord,
    time::Millis,
};

pub const MIGRATIONS: &[&str] = &["
    CREATE TABLE configs (
        scope TEXT NOT NULL,
        name TEXT NOT NULL,
        version INTEGER NOT NULL,
        assigned TEXT NOT NULL,
        PRIMARY KEY (scope, name)
    );
    CREATE TABLE config_standing (
        device TEXT PRIMARY KEY,
        settled INTEGER NOT NULL,
        standing TEXT NOT NULL
    );
    CREATE INDEX config_unsettled ON config_standing (device) WHERE settled = 0;
"];

/// What became of assigning a configuration.
#[derive(Debug, Clone, PartialEq)]
pub enum Assignment {
    Taken,
    /// It is known already: nothing changed.
    Known,
    /// Another document, or another priority, is known under this version: nothing changed.
    Other,
    /// A newer version is known.
    Older {
        known: u64,
    },
}

pub(super) fn read<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::Damaged(format!("a stored configuration: {error}")))
}

impl Writer {
    fn standing(&self, device: &DeviceId) -> Result<Option<Standing>, StoreError> {
        let sql = "SELECT standing FROM config_standing WHERE device = ?1";
        let text = self.connection.prepare_cached(sql)?.query_row([device.as_str()], |row| row.get::<_, String>(0));
        text.optional()?.map(|text| read(&text)).transpose()
    }

    /// What is assigned to the device, its groups and its type.
    fn assigned(&self, device: &DeviceId) -> Result<Vec<Assigned>, StoreError> {
        let sql = "SELECT assigned FROM configs WHERE (scope = 'device' AND name = ?1)
                   OR (scope = 'type' AND name IN (SELECT kind FROM devices WHERE id = ?1))
                   OR (scope = 'group' AND name IN (SELECT g.value FROM devices d, json_each(d.groups_) g WHERE d.id = ?1))";
        let mut select = self.connection.prepare_cached(sql)?;
        let rows = select.query_map([device.as_str()], |row| row.get::<_, String>(0))?;
        let mut all = Vec::new();
        for row in rows {
            all.push(read(&row?)?);
        }
        Ok(all)
    }
}

impl Store {
    /// Assigns a configuration; an older version than the known one is not taken, nor another document under its number.
    pub async fn assign_config(&self, assigned: Assigned) -> Result<Assignment, StoreError> {
        self.write(move |writer| {
            let key = (assigned.scope.word(), &assigned.name);
            let sql = "SELECT assigned FROM configs WHERE scope = ?1 AND name = ?2";
            let known =
                writer.connection.prepare_cached(sql)?.query_row(key, |row| row.get::<_, String>(0)).optional()?;
            match known.map(|text| read::<Assigned>(&text)).transpose()? {
                Some(known) if known.version > assigned.version => {
                    return Ok(Assignment::Older { known: known.version });
                }
                Some(known) if known.version == assigned.version => {
                    let same = known.config == assigned.config && known.priority == assigned.priority;
                    return Ok(if same { Assignment::Known } else { Assignment::Other });
                }
                _ => {}
            }
            let sql = "INSERT OR REPLACE INTO configs (scope, name, version, assigned) VALUES (?1, ?2, ?3, ?4)";
            let text = serde_json::to_string(&assigned).unwrap_or_default();
            let version = assigned.version as i64;
            writer.connection.prepare_cached(sql)?.execute(params![key.0, key.1, version, text])?;
            Ok(Assignment::Taken)
        })
        .await
    }

    /// Brings a device's standing up to date with what is assigned now, lets `change` work on it, and keeps it with the
    /// records `change` hands back. `None` where nothing is assigned.
    pub async fn config_standing<R: Send + 'static>(
        &self,
        device: &DeviceId,
        now: Millis,
        change: impl FnOnce(&mut Standing) -> (R, Vec<NewRecord>) + Send + 'static,
    ) -> Result<Option<(R, Standing)>, StoreError> {
        let device = device.clone();
        self.write(move |writer| {
            let before = writer.standing(&device)?;
            let desired = effective(writer.assigned(&device)?);
            let Some(mut standing) = Standing::assign(before.clone(), desired, now) else {
                if before.is_some() {
                    let sql = "DELETE FROM config_standing WHERE device = ?1";
                    writer.connection.prepare_cached(sql)?.execute([device.as_str()])?;
                    writer.expects(&device);
                }
                return Ok(None);
            };
            let (result, records) = change(&mut standing);
            if before.as_ref() != Some(&standing) {
                let settled = standing.status == crate::model::configuration::Status::Applied;
                let text = serde_json::to_string(&standing).unwrap_or_default();
                let sql = "INSERT OR REPLACE INTO config_standing (device, settled, standing) VALUES (?1, ?2, ?3)";
                writer.connection.prepare_cached(sql)?.execute(params![device.as_str(), settled, text])?;
                writer.expects(&device);
            }
            for record in records {
                writer.append(record)?;
            }
            Ok(Some((result, standing)))
        })
        .await
    }

    /// How a device stands, as last written.
    pub async fn standing(&self, device: &DeviceId) -> Result<Option<Standing>, StoreError> {
        let device = device.as_str().to_owned();
        self.read(move |connection| {
            let sql = "SELECT standing FROM config_standing WHERE device = ?1";
            let text = connection.prepare_cached(sql)?.query_row([device], |row| row.get::<_, String>(0)).optional()?;
            text.map(|text| read(&text)).transpose()
        })
        .await
    }

    /// Devices that do not have what they should have.
    pub async fn unsettled(&self) -> Result<Vec<(DeviceId, Standing)>, StoreError> {
        self.read(|connection| {
            let mut select =
                connection.prepare_cached("SELECT device, standing FROM config_standing WHERE settled = 0")?;
            let rows = select.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
            let mut all = Vec::new();
            for row in rows {
                let (device, text) = row?;
                let device = DeviceId::new(&device).map_err(|error| StoreError::Damaged(error.to_string()))?;
                all.push((device, read(&text)?));
            }
            Ok(all)
        })
        .await
    }
}
