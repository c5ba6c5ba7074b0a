//! Who changed which shadow, when and through which door: bounded in age, in all, and per device.

use std::collections::HashMap;

use rusqlite::params;
use serde_json::Value as Json;

use super::{Store, StoreError, Writer};
use crate::model::{
    command::Door,
    ids::DeviceId,
    shadow::{Change, Outcome, reconcile::Side},
    time::Millis,
};

/// `door` is the door's JSON; `own` is 1 where the device itself changed it: chatter that is kept apart.
pub const MIGRATIONS: &[&str] = &["
    CREATE TABLE history (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        at INTEGER NOT NULL,
        device TEXT NOT NULL,
        name TEXT NOT NULL,
        version INTEGER NOT NULL,
        own INTEGER NOT NULL,
        door TEXT NOT NULL,
        changes TEXT NOT NULL
    );
    CREATE INDEX history_of_device ON history (device, own, id);
"];

/// A step of the sync with the cloud that changed nothing here.
#[derive(Debug, Clone, PartialEq)]
pub enum Note {
    /// The cloud's values that gave way to ours: path, what the cloud had, what it has from now on.
    Overruled(Vec<(String, Option<Json>, Option<Json>)>),
    /// Deleted here before, now deleted there too.
    DeletedInCloud,
    /// Deleted on this side, and written on the other meanwhile: what was written came back.
    Survived(Side),
    /// The cloud will not take it.
    Refused(String),
}

/// The section of what is noted here.
pub const CLOUD: &str = "cloud";

/// What an entry of that section means, where its members do not say it themselves.
pub fn meaning(change: &Json) -> Option<&'static str> {
    let has = |member: &str| change.get(member).is_some();
    Some(if has(REFUSED) {
        return None;
    } else if has(DELETED) {
        "deleted here before, and now in the cloud too"
    } else if has(DELETED_THERE) {
        "deleted in the cloud; what was written here meanwhile stays, and only that"
    } else if has(DELETED_HERE) {
        "deleted here; what the cloud wrote meanwhile stays, and only that"
    } else {
        "changed on both sides before they could tell each other; what is here counts, also in the cloud"
    })
}

const REFUSED: &str = "refused";
const DELETED: &str = "deleted";
const DELETED_THERE: &str = "deletedInCloud";
const DELETED_HERE: &str = "deletedHere";

/// Members named in one entry at most; more are counted, not named.
const CHANGES: usize = 32;
/// Bytes of one entry's changes at most; larger values are left out.
const CHANGE_BYTES: usize = 2048;
/// How often (in entries) the bounds are looked at.
const SWEEP: u32 = 64;

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    pub days: u32,
    /// Entries of all devices together.
    pub entries: u32,
    /// Entries per device that it caused itself, and as many again that others caused.
    pub per_device: u32,
}

impl Default for Keep {
    fn default() -> Self {
        Self { days: 90, entries: 200_000, per_device: 500 }
    }
}

/// Counts since the bounds were last looked at. Lives in the writer; losing it only delays a sweep.
#[derive(Default)]
pub struct Sweeper {
    keep: Keep,
    all: u32,
    devices: HashMap<(DeviceId, bool), u32>,
}

pub(super) enum What<'o> {
    Changes(&'o Outcome),
    Deleted,
}

/// One entry, newest first in lists.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Entry {
    pub id: i64,
    pub at: Millis,
    pub device: String,
    /// Empty for the classic shadow.
    pub shadow: String,
    /// After the change; for a deletion the version that was deleted.
    pub version: u64,
    pub door: Door,
    pub deleted: bool,
    pub changes: Vec<Change>,
}

impl Writer {
    /// Writes down a change of a shadow; nothing where no value became different.
    pub(super) fn remember(
        &mut self,
        device: &DeviceId,
        name: &str,
        door: &Door,
        at: i64,
        version: u64,
        what: What<'_>,
    ) -> Result<(), StoreError> {
        if self.history.keep.entries == 0 {
            return Ok(());
        }
        let changes = match what {
            What::Deleted => "\"deleted\"".to_owned(),
            What::Changes(outcome) => match write_down(outcome.changes(CHANGES)) {
                Some(text) => text,
                None => return Ok(()),
            },
        };
        self.enter(device, name, door, at, version, changes)
    }

    fn enter(
        &mut self,
        device: &DeviceId,
        name: &str,
        door: &Door,
        at: i64,
        version: u64,
        changes: String,
    ) -> Result<(), StoreError> {
        let own = *door == Door::Device;
        let door = serde_json::to_string(door).unwrap_or_default();
        let mut insert = self.connection.prepare_cached(
            "INSERT INTO history (at, device, name, version, own, door, changes) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?;
        insert.execute(params![at, device.as_str(), name, version as i64, own, door, changes])?;
        drop(insert);
        self.sweep_history(device, own, at)
    }

    fn sweep_history(&mut self, device: &DeviceId, own: bool, now: i64) -> Result<(), StoreError> {
        let keep = self.history.keep;
        let counted = self.history.devices.entry((device.clone(), own)).or_default();
        *counted += 1;
        if *counted >= SWEEP {
            self.history.devices.remove(&(device.clone(), own));
            let mut delete = self.connection.prepare_cached(
                "DELETE FROM history WHERE device = ?1 AND own = ?2 AND id < (
                    SELECT id FROM history WHERE device = ?1 AND own = ?2 ORDER BY id DESC LIMIT 1 OFFSET ?3)",
            )?;
            delete.execute(params![device.as_str(), own, keep.per_device.max(1) - 1])?;
        }
        self.history.all += 1;
        if self.history.all >= SWEEP {
            self.history.all = 0;
            let oldest = now.saturating_sub(i64::from(keep.days) * 86_400_000);
            let mut delete =
                self.connection.prepare_cached("DELETE FROM history WHERE id <= (SELECT MAX(id) FROM history) - ?1")?;
            delete.execute([keep.entries])?;
            let mut delete = self.connection.prepare_cached(
                "DELETE FROM history WHERE id IN (SELECT id FROM history ORDER BY id LIMIT 256) AND at < ?1",
            )?;
            delete.execute([oldest])?;
        }
        Ok(())
    }
}

/// The changes as JSON, without values that would make the entry too large; `None` where there are none.
fn write_down(mut changes: Vec<Change>) -> Option<String> {
    if changes.is_empty() {
        return None;
    }
    let text = serde_json::to_string(&changes).unwrap_or_default();
    if text.len() <= CHANGE_BYTES {
        return Some(text);
    }
    let short = |value: &Option<Json>| value.as_ref().is_none_or(|value| value.to_string().len() <= 48);
    for change in &mut changes {
        if !short(&change.from) || !short(&change.to) {
            change.from = None;
            change.to = Some(Json::from("…"));
        }
    }
    serde_json::to_string(&changes).ok()
}

impl Store {
    /// Notes a step of the sync; the section is `cloud`.
    pub async fn note_history(
        &self,
        device: &DeviceId,
        name: &str,
        at: Millis,
        version: u64,
        note: Note,
    ) -> Result<(), StoreError> {
        let (device, name) = (device.clone(), name.to_owned());
        let cloud = |path: &str| format!("{CLOUD}/{path}");
        let fact = |path: &str| vec![Change { path: cloud(path), from: None, to: Some(Json::Bool(true)) }];
        let changes = match note {
            Note::Overruled(members) => members
                .into_iter()
                .take(CHANGES)
                .map(|(path, from, to)| Change { path: cloud(&path), from, to })
                .collect(),
            Note::DeletedInCloud => fact(DELETED),
            Note::Survived(Side::There) => fact(DELETED_THERE),
            Note::Survived(Side::Here) => fact(DELETED_HERE),
            Note::Refused(why) => vec![Change { path: cloud(REFUSED), from: None, to: Some(Json::String(why)) }],
        };
        let Some(changes) = write_down(changes) else { return Ok(()) };
        self.write(move |writer| match writer.history.keep.entries {
            0 => Ok(()),
            _ => writer.enter(&device, &name, &Door::Gateway, at.0, version, changes),
        })
        .await
    }

    /// Sets how much history is kept; from the next change on.
    pub async fn keep_history(&self, keep: Keep) -> Result<(), StoreError> {
        self.write(move |writer| {
            writer.history.keep = keep;
            Ok(())
        })
        .await
    }

    /// Changes of a device's shadows (of all devices: `None`), newest first, before `before` if given.
    pub async fn history(
        &self,
        device: Option<&DeviceId>,
        before: Option<Millis>,
        most: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        let device = device.map(|device| device.as_str().to_owned());
        let most = most.min(1000) as i64;
        self.read(move |connection| {
            let below = before.map_or(i64::MAX, |before| before.0);
            let columns = "id, at, device, name, version, door, changes";
            let sql = match device {
                Some(_) => format!(
                    "SELECT {columns} FROM history WHERE device = ?1 AND own IN (0, 1) AND at < ?2 ORDER BY id DESC LIMIT ?3"
                ),
                None => format!("SELECT {columns} FROM history WHERE ?1 IS NULL AND at < ?2 ORDER BY id DESC LIMIT ?3"),
            };
            let mut select = connection.prepare_cached(&sql)?;
            let rows = select.query_map(params![device, below, most], |row| {
                let version: i64 = row.get(4)?;
                let (door, changes): (String, String) = (row.get(5)?, row.get(6)?);
                Ok(Entry {
                    id: row.get(0)?,
                    at: Millis(row.get(1)?),
                    device: row.get(2)?,
                    shadow: row.get(3)?,
                    version: version.unsigned_abs(),
                    door: serde_json::from_str(&door).unwrap_or(Door::Gateway),
                    deleted: changes == "\"deleted\"",
                    changes: serde_json::from_str(&changes).unwrap_or_default(),
                })
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }
}
