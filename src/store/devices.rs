//! The registry's devices: one row each, and a row that stays as a tombstone when a device is decommissioned.

use std::sync::Arc;

use rusqlite::{Connection, Row};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value as Json;

use super::{Store, StoreError, Writer};
use crate::model::{device::Device, ids::DeviceId, record::NewRecord, time::Millis};

pub const MIGRATIONS: &[&str] = &["CREATE TABLE devices (
    id TEXT PRIMARY KEY,
    protocol TEXT NOT NULL,
    kind TEXT NOT NULL,
    lifecycle TEXT NOT NULL,
    presence TEXT NOT NULL,
    presence_since INTEGER,
    reason TEXT,
    first_seen INTEGER,
    last_seen INTEGER,
    firmware TEXT,
    tags TEXT NOT NULL,
    groups_ TEXT NOT NULL
) WITHOUT ROWID"];

impl Store {
    /// Every device ever registered, tombstones included, by id.
    pub async fn devices(&self) -> Result<Vec<Device>, StoreError> {
        self.read(devices).await
    }

    /// One device, if it was ever registered.
    pub async fn device(&self, id: &DeviceId) -> Result<Option<Device>, StoreError> {
        let id = id.clone();
        self.read(move |connection| {
            let mut statement = connection.prepare_cached("SELECT * FROM devices WHERE id = ?1")?;
            let mut rows = statement.query([id.as_str()])?;
            rows.next()?.map(device).transpose()
        })
        .await
    }

    /// Writes `devices` as they are now and appends `records`, all or nothing.
    pub async fn save_devices(&self, devices: Vec<Device>, records: Vec<NewRecord>) -> Result<(), StoreError> {
        self.write(move |writer| {
            for device in &devices {
                writer.save_device(device)?;
            }
            for record in records {
                writer.append(record)?;
            }
            Ok(())
        })
        .await
    }
}

impl Writer {
    fn save_device(&mut self, device: &Device) -> Result<(), StoreError> {
        let mut statement = self.connection.prepare_cached(
            "INSERT INTO devices VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)
             ON CONFLICT (id) DO UPDATE SET protocol = excluded.protocol, kind = excluded.kind,
               lifecycle = excluded.lifecycle, presence = excluded.presence,
               presence_since = excluded.presence_since, reason = excluded.reason,
               first_seen = excluded.first_seen, last_seen = excluded.last_seen, firmware = excluded.firmware,
               tags = excluded.tags, groups_ = excluded.groups_",
        )?;
        statement.execute((
            device.id.as_str(),
            word(&device.protocol)?,
            &*device.kind,
            word(&device.lifecycle)?,
            word(&device.presence)?,
            device.presence_since.map(|m| m.0),
            &device.reason,
            device.first_seen.map(|m| m.0),
            device.last_seen.map(|m| m.0),
            &device.firmware_version,
            list(&device.tags)?,
            list(&device.groups)?,
        ))?;
        Ok(())
    }
}

fn devices(connection: &Connection) -> Result<Vec<Device>, StoreError> {
    let mut statement = connection.prepare_cached("SELECT * FROM devices ORDER BY id")?;
    let mut rows = statement.query([])?;
    let mut devices = Vec::new();
    while let Some(row) = rows.next()? {
        devices.push(device(row)?);
    }
    Ok(devices)
}

fn device(row: &Row<'_>) -> Result<Device, StoreError> {
    let id: String = row.get("id")?;
    let millis =
        |column: &str| -> Result<Option<Millis>, StoreError> { Ok(row.get::<_, Option<i64>>(column)?.map(Millis)) };
    let text = |column: &str| -> Result<String, StoreError> { Ok(row.get(column)?) };
    Ok(Device {
        protocol: parsed(&id, text("protocol")?)?,
        kind: Arc::from(text("kind")?),
        lifecycle: parsed(&id, text("lifecycle")?)?,
        presence: parsed(&id, text("presence")?)?,
        presence_since: millis("presence_since")?,
        reason: row.get("reason")?,
        first_seen: millis("first_seen")?,
        last_seen: millis("last_seen")?,
        firmware_version: row.get("firmware")?,
        tags: serde_json::from_str(&text("tags")?).map_err(|e| damaged(&id, &e))?,
        groups: serde_json::from_str(&text("groups_")?).map_err(|e| damaged(&id, &e))?,
        id: DeviceId::new(&id).map_err(|e| damaged(&id, &e))?,
    })
}

/// The word an enum has on every wire.
fn word(value: &impl Serialize) -> Result<String, StoreError> {
    match serde_json::to_value(value) {
        Ok(Json::String(word)) => Ok(word),
        _ => Err(StoreError::Damaged("a state without a word".into())),
    }
}

fn parsed<T: DeserializeOwned>(id: &str, word: String) -> Result<T, StoreError> {
    serde_json::from_value(Json::String(word)).map_err(|e| damaged(id, &e))
}

fn list(texts: &[String]) -> Result<String, StoreError> {
    serde_json::to_string(texts).map_err(|e| StoreError::Damaged(e.to_string()))
}

fn damaged(id: &str, error: &dyn std::fmt::Display) -> StoreError {
    StoreError::Damaged(format!("device {id}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::device::{Lifecycle, Presence, Protocol};

    #[tokio::test]
    async fn a_device_is_read_back_as_it_was_saved() {
        let folder = tempfile::tempdir().expect("folder");
        let (store, _thread) = Store::open(folder.path()).expect("open");
        let mut device = Device {
            id: DeviceId::new("meter-1").expect("id"),
            protocol: Protocol::Modbus,
            kind: "eastron-sdm630".into(),
            lifecycle: Lifecycle::Active,
            presence: Presence::NeverSeen,
            presence_since: None,
            reason: None,
            first_seen: None,
            last_seen: Some(Millis(1)),
            firmware_version: None,
            tags: vec!["roof".into()],
            groups: Vec::new(),
        };
        store.save_devices(vec![device.clone()], Vec::new()).await.expect("save");
        device.lifecycle = Lifecycle::Decommissioned;
        device.reason = Some("replaced".into());
        store.save_devices(vec![device.clone()], Vec::new()).await.expect("save again");
        assert_eq!(store.devices().await.expect("read"), vec![device]);
    }
}
