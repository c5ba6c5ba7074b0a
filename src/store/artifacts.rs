//! Firmware images and each child's update: rows that change by compare-and-set, with what goes up in the same commit.

use bytes::Bytes;
use rusqlite::{OptionalExtension, Row};

use super::{Store, StoreError, Writer};
use crate::model::{
    ids::DeviceId,
    record::{Kind, NewRecord},
    time::Millis,
    update::{ChildUpdate, Stage, UpdateOrder, UpdateProgress, UpdateStatus},
};

pub const MIGRATIONS: &[&str] = &["CREATE TABLE updates (
       id INTEGER PRIMARY KEY AUTOINCREMENT,
       device TEXT NOT NULL,
       job TEXT NOT NULL,
       orders TEXT NOT NULL,
       stage TEXT NOT NULL,
       child TEXT,
       from_version TEXT,
       progress INTEGER,
       error TEXT,
       attempts INTEGER NOT NULL DEFAULT 0,
       retry_at INTEGER,
       created_at INTEGER NOT NULL,
       changed_at INTEGER NOT NULL,
       UNIQUE (device, job)
     );
     CREATE UNIQUE INDEX one_active_update ON updates (device)
       WHERE stage IN ('waiting', 'fetching', 'offered', 'installing');
     CREATE TABLE artifacts (
       sha256 TEXT PRIMARY KEY,
       size INTEGER NOT NULL,
       verified_by TEXT NOT NULL,
       verified_at INTEGER NOT NULL,
       used_at INTEGER NOT NULL
     ) WITHOUT ROWID"];

/// Finished updates kept per device for its history.
const KEEP: i64 = 20;

const COLUMNS: &str =
    "id, device, orders, stage, child, from_version, progress, error, attempts, retry_at, created_at, changed_at";

/// What became of an order.
#[derive(Debug, Clone, PartialEq)]
pub enum Placed {
    New {
        update: ChildUpdate,
        superseded: Option<ChildUpdate>,
    },
    /// The same job was ordered before; nothing changed.
    Known(ChildUpdate),
    /// The child is in the middle of this one.
    Busy(ChildUpdate),
}

/// A verified image in the cache.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Artifact {
    pub sha256: String,
    pub size: u64,
    /// Id of the key whose signature let it in.
    pub verified_by: String,
    pub verified_at: Millis,
    pub used_at: Millis,
}

impl Store {
    /// Stores a new order as [`Stage::Waiting`]. An active one that the child has not begun is
    /// superseded, and the cloud told so in the same commit.
    pub async fn place_update(&self, device: DeviceId, order: UpdateOrder, at: Millis) -> Result<Placed, StoreError> {
        self.write(move |writer| {
            if let Some(known) = writer.update_of_job(&device, &order.job_id)? {
                return Ok(Placed::Known(known));
            }
            let mut superseded = None;
            if let Some(mut active) = writer.active_update(&device)? {
                if active.stage == Stage::Installing {
                    return Ok(Placed::Busy(active));
                }
                active.stage = Stage::Superseded;
                active.error = Some(format!("replaced by {}", order.job_id));
                active.changed_at = at;
                writer.set_update(&active)?;
                writer.append(record(&device, &active.report(UpdateStatus::Failed), at)?)?;
                superseded = Some(active);
            }
            let update = writer.insert_update(&device, &order, Stage::Waiting, None, at)?;
            Ok(Placed::New { update, superseded })
        })
        .await
    }

    /// Stores an order that is refused at once, and says so upwards in the same commit. `None` where the job is known.
    pub async fn refuse_update(
        &self,
        device: DeviceId,
        order: UpdateOrder,
        why: String,
        at: Millis,
    ) -> Result<Option<ChildUpdate>, StoreError> {
        self.write(move |writer| {
            if writer.update_of_job(&device, &order.job_id)?.is_some() {
                return Ok(None);
            }
            let update = writer.insert_update(&device, &order, Stage::Failed, Some(&why), at)?;
            writer.append(record(&device, &update.report(UpdateStatus::Failed), at)?)?;
            Ok(Some(update))
        })
        .await
    }

    /// Stores `update` over its row where that still stands at stage `from`; with `up`, the
    /// cloud is told in the same commit. `false` where the row has moved on meanwhile.
    pub async fn change_update(
        &self,
        update: ChildUpdate,
        from: Stage,
        up: Option<UpdateProgress>,
    ) -> Result<bool, StoreError> {
        self.write(move |writer| {
            let stored: Option<String> = writer
                .connection
                .prepare_cached("SELECT stage FROM updates WHERE id = ?1")?
                .query_row([update.id], |row| row.get(0))
                .optional()?;
            if stored.as_deref() != Some(from.word()) {
                return Ok(false);
            }
            writer.set_update(&update)?;
            if update.stage != from {
                writer.expects(&update.device);
            }
            if let Some(up) = up {
                writer.append(record(&update.device, &up, update.changed_at)?)?;
            }
            Ok(true)
        })
        .await
    }

    /// The active update of every child, and the newest finished one of those that have none.
    pub async fn updates(&self) -> Result<Vec<ChildUpdate>, StoreError> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached(&format!(
                "SELECT {COLUMNS} FROM updates WHERE id IN (SELECT MAX(id) FROM updates GROUP BY device) \
                 OR stage IN ('waiting', 'fetching', 'offered', 'installing') ORDER BY id"
            ))?;
            let rows = statement.query_map([], |row| Ok(update(row)))?;
            rows.map(|row| row.map_err(StoreError::from)?).collect()
        })
        .await
    }

    /// All updates of one child that are kept, newest first.
    pub async fn update_history(&self, device: DeviceId) -> Result<Vec<ChildUpdate>, StoreError> {
        self.read(move |connection| {
            let sql = format!("SELECT {COLUMNS} FROM updates WHERE device = ?1 ORDER BY id DESC");
            let mut statement = connection.prepare_cached(&sql)?;
            let rows = statement.query_map([device.as_str()], |row| Ok(update(row)))?;
            rows.map(|row| row.map_err(StoreError::from)?).collect()
        })
        .await
    }

    /// Remembers a verified image, or that it was used again.
    pub async fn keep_artifact(&self, artifact: Artifact) -> Result<(), StoreError> {
        self.write(move |writer| {
            writer.connection.prepare_cached(
                "INSERT INTO artifacts VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (sha256) DO UPDATE SET used_at = excluded.used_at",
            )?.execute((&artifact.sha256, artifact.size as i64, &artifact.verified_by, artifact.verified_at.0, artifact.used_at.0))?;
            Ok(())
        })
        .await
    }

    pub async fn forget_artifact(&self, sha256: String) -> Result<(), StoreError> {
        self.write(move |writer| {
            writer.connection.prepare_cached("DELETE FROM artifacts WHERE sha256 = ?1")?.execute([sha256])?;
            Ok(())
        })
        .await
    }

    /// All images, least recently used first.
    pub async fn artifacts(&self) -> Result<Vec<Artifact>, StoreError> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT sha256, size, verified_by, verified_at, used_at FROM artifacts ORDER BY used_at",
            )?;
            let rows = statement.query_map([], |row| {
                Ok(Artifact {
                    sha256: row.get(0)?,
                    size: row.get::<_, i64>(1)?.unsigned_abs(),
                    verified_by: row.get(2)?,
                    verified_at: Millis(row.get(3)?),
                    used_at: Millis(row.get(4)?),
                })
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }
}

impl Writer {
    fn update_of_job(&self, device: &DeviceId, job: &str) -> Result<Option<ChildUpdate>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM updates WHERE device = ?1 AND job = ?2");
        let mut statement = self.connection.prepare_cached(&sql)?;
        statement.query_row((device.as_str(), job), |row| Ok(update(row))).optional()?.transpose()
    }

    fn active_update(&self, device: &DeviceId) -> Result<Option<ChildUpdate>, StoreError> {
        let sql = format!(
            "SELECT {COLUMNS} FROM updates WHERE device = ?1 AND stage IN ('waiting', 'fetching', 'offered', 'installing')"
        );
        let mut statement = self.connection.prepare_cached(&sql)?;
        statement.query_row([device.as_str()], |row| Ok(update(row))).optional()?.transpose()
    }

    fn insert_update(
        &mut self,
        device: &DeviceId,
        order: &UpdateOrder,
        stage: Stage,
        error: Option<&str>,
        at: Millis,
    ) -> Result<ChildUpdate, StoreError> {
        let text = serde_json::to_string(order).map_err(|e| StoreError::Damaged(e.to_string()))?;
        self.connection
            .prepare_cached(
                "INSERT INTO updates (device, job, orders, stage, error, created_at, changed_at) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6)",
            )?
            .execute((device.as_str(), &order.job_id, text, stage.word(), error, at.0))?;
        let id = self.connection.last_insert_rowid();
        self.expects(device);
        self.connection
            .prepare_cached(
                "DELETE FROM updates WHERE device = ?1 AND stage NOT IN ('waiting', 'fetching', 'offered', 'installing') \
                 AND id NOT IN (SELECT id FROM updates WHERE device = ?1 ORDER BY id DESC LIMIT ?2)",
            )?
            .execute((device.as_str(), KEEP))?;
        Ok(ChildUpdate {
            id,
            device: device.clone(),
            order: order.clone(),
            stage,
            child: None,
            from: None,
            progress: None,
            error: error.map(str::to_owned),
            attempts: 0,
            retry_at: None,
            created_at: at,
            changed_at: at,
        })
    }

    fn set_update(&mut self, update: &ChildUpdate) -> Result<(), StoreError> {
        let child = update.child.map(|status| serde_json::to_string(&status).unwrap_or_default());
        self.connection
            .prepare_cached(
                "UPDATE updates SET stage = ?2, child = ?3, from_version = ?4, progress = ?5, error = ?6, attempts = ?7, \
                 retry_at = ?8, changed_at = ?9 WHERE id = ?1",
            )?
            .execute((
                update.id,
                update.stage.word(),
                child,
                &update.from,
                update.progress,
                &update.error,
                update.attempts,
                update.retry_at.map(|at| at.0),
                update.changed_at.0,
            ))?;
        Ok(())
    }
}

fn record(device: &DeviceId, progress: &UpdateProgress, ts: Millis) -> Result<NewRecord, StoreError> {
    let body = serde_json::to_vec(progress).map_err(|e| StoreError::Damaged(e.to_string()))?;
    Ok(NewRecord { device: device.clone(), kind: Kind::UpdateStatus, name: None, ts, body: Bytes::from(body) })
}

fn update(row: &Row<'_>) -> Result<ChildUpdate, StoreError> {
    let damaged = |what: &str| StoreError::Damaged(format!("an update's {what}"));
    let device: String = row.get(1)?;
    let order: String = row.get(2)?;
    let stage: String = row.get(3)?;
    let child: Option<String> = row.get(4)?;
    Ok(ChildUpdate {
        id: row.get(0)?,
        device: DeviceId::new(&device).map_err(|_| damaged("device"))?,
        order: serde_json::from_str(&order).map_err(|_| damaged("order"))?,
        stage: Stage::parse(&stage).ok_or_else(|| damaged("stage"))?,
        child: child.and_then(|text| serde_json::from_str(&text).ok()),
        from: row.get(5)?,
        progress: row.get(6)?,
        error: row.get(7)?,
        attempts: row.get(8)?,
        retry_at: row.get::<_, Option<i64>>(9)?.map(Millis),
        created_at: Millis(row.get(10)?),
        changed_at: Millis(row.get(11)?),
    })
}
