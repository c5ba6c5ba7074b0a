//! Shadow documents, merged inside the writer's transaction, with a cache that lives in the writer.

mod cache;

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::Value as Json;

pub use self::cache::Cache;
use self::cache::{Entry, Key};
use super::{Store, StoreError, Writer, history};
use crate::model::{
    command::Door,
    ids::DeviceId,
    record::{Kind, NewRecord},
    shadow::{self, Document, Limits, Node, Outcome, Patch, Rejection, Request, Slot, State, TOMBSTONE_SECONDS, Tree},
    time::Millis,
};

/// `deleted` is the time of a tombstone; its `version` is the one the deletion took. `shadow_sync` holds the document
/// both sides last agreed on, per cloud: what a three-way merge starts from.
pub const MIGRATIONS: &[&str] = &["
    CREATE TABLE shadows (
        id INTEGER PRIMARY KEY,
        device TEXT NOT NULL,
        name TEXT NOT NULL,
        version INTEGER NOT NULL,
        changed INTEGER NOT NULL,
        deleted INTEGER,
        document BLOB,
        UNIQUE (device, name)
    );
    CREATE TABLE shadow_sync (
        cloud TEXT NOT NULL,
        device TEXT NOT NULL,
        name TEXT NOT NULL,
        local_version INTEGER NOT NULL,
        cloud_version INTEGER NOT NULL,
        document BLOB,
        refused TEXT,
        PRIMARY KEY (cloud, device, name)
    );
"];

/// How a change is made.
#[derive(Debug, Clone)]
pub struct How {
    pub door: Door,
    pub at: Millis,
    pub limits: Limits,
    /// Nothing is stored where no value would become different: for senders that repeat themselves.
    pub only_changes: bool,
    /// Desired members of the classic shadow that are still outstanding then are withdrawn.
    pub until: Option<Millis>,
}

/// What became of an update that was not refused.
#[derive(Debug, Clone)]
pub enum Updated {
    Changed(Box<Outcome>),
    /// Only with [`How::only_changes`]: the document is as it was.
    Unchanged(Arc<Document>),
}

/// What became of a deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deleted {
    /// The version it had.
    Version(u64),
    /// There was none.
    Nothing,
    /// It has another version than the one that was to be deleted.
    Other,
}

/// A shadow as lists show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub device: DeviceId,
    /// Empty for the classic shadow.
    pub name: String,
    pub version: u64,
    pub changed: Millis,
}

impl Writer {
    /// What is stored under a name, from the cache or the table.
    fn slot(&mut self, key: &Key) -> Result<(Option<i64>, Slot), StoreError> {
        if let Some(entry) = self.shadows.get(key) {
            return Ok((Some(entry.row), entry.slot.clone()));
        }
        let Some((row, slot)) = load(&self.connection, &key.0, &key.1)? else { return Ok((None, Slot::Absent)) };
        self.shadows.put(key.clone(), Entry { row, slot: slot.clone() }, 512);
        Ok((Some(row), slot))
    }

    pub(super) fn current(&mut self, device: &DeviceId, name: &Arc<str>) -> Result<Option<Arc<Document>>, StoreError> {
        Ok(self.slot(&(device.clone(), name.clone()))?.1.live().cloned())
    }

    /// Merges a request, and appends what follows from it: history, and the `state` record.
    pub(super) fn shadow_update(
        &mut self,
        device: &DeviceId,
        name: &Arc<str>,
        request: Request,
        how: &How,
    ) -> Result<Result<Updated, Rejection>, StoreError> {
        let key = (device.clone(), name.clone());
        let (row, slot) = self.slot(&key)?;
        let outcome = match shadow::merge(&slot, request, how.at, &how.limits) {
            Ok(outcome) => outcome,
            Err(rejection) => return Ok(Err(rejection)),
        };
        if name.is_empty()
            && let State::Sections { desired, .. } = &outcome.request.state
        {
            self.wanted_until(device, desired, how.until)?;
        }
        if let Some(previous) = outcome.previous.as_ref().filter(|_| how.only_changes && !outcome.changed()) {
            return Ok(Ok(Updated::Unchanged(previous.clone())));
        }
        let document = outcome.current.encode();
        let (version, at) = (outcome.current.version as i64, how.at.0);
        let row = match row {
            Some(row) => {
                let mut update = self.connection.prepare_cached(
                    "UPDATE shadows SET version = ?2, changed = ?3, deleted = NULL, document = ?4 WHERE id = ?1",
                )?;
                update.execute(params![row, version, at, document])?;
                row
            }
            None => {
                let mut insert = self.connection.prepare_cached(
                    "INSERT INTO shadows (device, name, version, changed, document) VALUES (?1, ?2, ?3, ?4, ?5)",
                )?;
                insert.insert(params![device.as_str(), &**name, version, at, document])?
            }
        };
        self.shadows.put(key, Entry { row, slot: Slot::Live(outcome.current.clone()) }, document.len());
        if name.is_empty() && outcome.previous.as_deref().map_or([None; 2], judged) != judged(&outcome.current) {
            self.expects(device);
        }
        self.remember(device, name, &how.door, at, outcome.current.version, history::What::Changes(&outcome))?;
        if name.is_empty() && outcome.reported_changed() {
            self.append(state_record(device, &outcome))?;
        }
        Ok(Ok(Updated::Changed(Box::new(outcome))))
    }

    /// Deletes a shadow, if it still has `expected`.
    fn shadow_delete(
        &mut self,
        device: &DeviceId,
        name: &Arc<str>,
        expected: Option<u64>,
        how: &How,
    ) -> Result<Deleted, StoreError> {
        let key = (device.clone(), name.clone());
        let (Some(row), Slot::Live(document)) = self.slot(&key)? else { return Ok(Deleted::Nothing) };
        if expected.is_some_and(|expected| expected != document.version) {
            return Ok(Deleted::Other);
        }
        let version = document.version + 1;
        let mut update = self.connection.prepare_cached(
            "UPDATE shadows SET version = ?2, changed = ?3, deleted = ?3, document = NULL WHERE id = ?1",
        )?;
        update.execute(params![row, version as i64, how.at.0])?;
        drop(update);
        self.shadows.put(key, Entry { row, slot: Slot::Tombstone { version, at: how.at } }, 0);
        if name.is_empty() && judged(&document) != [None; 2] {
            self.expects(device);
        }
        self.remember(device, name, &how.door, how.at.0, document.version, history::What::Deleted)?;
        Ok(Deleted::Version(document.version))
    }
}

/// What drift is judged by: the firmware that is desired, the serial number that is reported.
fn judged(document: &Document) -> [Option<&Json>; 2] {
    fn value<'t>(tree: &'t Tree, name: &str) -> Option<&'t Json> {
        match tree.get(name)? {
            Node::Leaf { value, .. } => Some(value),
            Node::Object(_) => None,
        }
    }
    [value(&document.desired, "firmwareVersion"), value(&document.reported, "serialNumber")]
}

fn state_record(device: &DeviceId, outcome: &Outcome) -> NewRecord {
    let reported = match &outcome.request.state {
        State::Remove => Json::Null,
        State::Sections { reported, .. } => match reported {
            Patch::Merge(map) => Json::Object(map.clone()),
            Patch::Untouched | Patch::Remove => Json::Null,
        },
    };
    let body = serde_json::json!({ "reported": reported, "version": outcome.current.version }).to_string();
    NewRecord { device: device.clone(), kind: Kind::State, name: None, ts: outcome.at, body: body.into() }
}

pub(super) fn load(connection: &Connection, device: &DeviceId, name: &str) -> Result<Option<(i64, Slot)>, StoreError> {
    let mut select = connection
        .prepare_cached("SELECT id, version, deleted, document FROM shadows WHERE device = ?1 AND name = ?2")?;
    let row = select.query_row((device.as_str(), name), |row| {
        Ok((
            row.get::<_, i64>(0)?,
            row.get::<_, i64>(1)?,
            row.get::<_, Option<i64>>(2)?,
            row.get::<_, Option<Vec<u8>>>(3)?,
        ))
    });
    let Some((row, version, deleted, document)) = row.optional()? else { return Ok(None) };
    let version = version.unsigned_abs();
    let slot = match (deleted, document) {
        (None, Some(bytes)) => {
            let document = Document::decode(&bytes, version)
                .map_err(|why| StoreError::Damaged(format!("shadow of {device} {name:?}: {why}")))?;
            Slot::Live(Arc::new(document))
        }
        (deleted, _) => Slot::Tombstone { version, at: Millis(deleted.unwrap_or(0)) },
    };
    Ok(Some((row, slot)))
}

impl Store {
    /// Sets how much the cache of shadows may hold, in bytes.
    pub async fn shadow_cache(&self, bytes: usize) -> Result<(), StoreError> {
        self.write(move |writer| {
            writer.shadows.resize(bytes);
            Ok(())
        })
        .await
    }

    /// Merges a request into a shadow (`name` is empty for the classic one); resolves after the commit.
    pub async fn shadow_update(
        &self,
        device: &DeviceId,
        name: &str,
        request: Request,
        how: How,
    ) -> Result<Result<Updated, Rejection>, StoreError> {
        let (device, name) = (device.clone(), Arc::from(name));
        self.write(move |writer| writer.shadow_update(&device, &name, request, &how)).await
    }

    /// Like [`Store::shadow_update`], with a callback on the writer's thread after the commit. Returns when queued;
    /// updates are applied in the order in which they were queued.
    pub async fn shadow_update_then(
        &self,
        device: DeviceId,
        name: Arc<str>,
        request: Request,
        how: How,
        then: impl FnOnce(Result<Result<Updated, Rejection>, StoreError>) + Send + 'static,
    ) -> Result<(), StoreError> {
        self.write_then(move |writer| writer.shadow_update(&device, &name, request, &how), then).await
    }

    /// Deletes a shadow (only `expected`, if given); the version it had is remembered for 48 hours.
    pub async fn shadow_delete_then(
        &self,
        device: DeviceId,
        name: Arc<str>,
        expected: Option<u64>,
        how: How,
        then: impl FnOnce(Result<Deleted, StoreError>) + Send + 'static,
    ) -> Result<(), StoreError> {
        self.write_then(move |writer| writer.shadow_delete(&device, &name, expected, &how), then).await
    }

    /// A shadow as it is after everything queued before.
    pub async fn shadow_get_then(
        &self,
        device: DeviceId,
        name: Arc<str>,
        then: impl FnOnce(Result<Option<Arc<Document>>, StoreError>) + Send + 'static,
    ) -> Result<(), StoreError> {
        self.write_then(move |writer| Ok(writer.slot(&(device, name))?.1.live().cloned()), then).await
    }

    /// A shadow as it was last committed; works while the disk refuses writes.
    pub async fn shadow(&self, device: &DeviceId, name: &str) -> Result<Option<Arc<Document>>, StoreError> {
        let (device, name) = (device.clone(), name.to_owned());
        self.read(move |connection| Ok(load(connection, &device, &name)?.and_then(|(_, slot)| slot.live().cloned())))
            .await
    }

    /// All shadows of a device, or of all devices, without their documents.
    pub async fn shadows(&self, device: Option<&DeviceId>) -> Result<Vec<Listed>, StoreError> {
        let device = device.map(|device| device.as_str().to_owned());
        self.read(move |connection| {
            let mut select = connection.prepare_cached(
                "SELECT device, name, version, changed FROM shadows
                 WHERE deleted IS NULL AND (?1 IS NULL OR device = ?1) ORDER BY device, name",
            )?;
            let rows = select.query_map([device], |row| {
                Ok((row.get::<_, String>(0)?, row.get(1)?, row.get::<_, i64>(2)?, row.get(3)?))
            })?;
            let mut listed = Vec::new();
            for row in rows {
                let (device, name, version, changed) = row?;
                let device = DeviceId::new(&device).map_err(|e| StoreError::Damaged(e.to_string()))?;
                listed.push(Listed { device, name, version: version.unsigned_abs(), changed: Millis(changed) });
            }
            Ok(listed)
        })
        .await
    }

    /// Forgets tombstones older than 48 hours.
    pub async fn sweep_tombstones(&self, now: Millis) -> Result<(), StoreError> {
        let before = now.plus(-TOMBSTONE_SECONDS * 1000).0;
        self.write(move |writer| {
            let gone = writer.connection.execute("DELETE FROM shadows WHERE deleted < ?1", [before])?;
            if gone > 0 {
                writer.shadows.forget();
            }
            Ok(())
        })
        .await
    }
}
