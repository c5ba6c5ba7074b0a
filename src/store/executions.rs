//! Jobs as single devices see them: a device's queue is read, changed and written back in one transaction.

use rusqlite::params;

use super::{Store, StoreError, Writer};
use crate::model::{
    executions::{Execution, Queue, Seen},
    ids::DeviceId,
    time::Millis,
};

pub const MIGRATIONS: &[&str] = &["
    CREATE TABLE executions (
        device TEXT NOT NULL,
        job TEXT NOT NULL,
        ends INTEGER,
        execution TEXT NOT NULL,
        PRIMARY KEY (device, job)
    );
    CREATE INDEX executions_end ON executions (ends) WHERE ends IS NOT NULL;
"];

/// What a change of a queue did.
#[derive(Debug, Clone)]
pub struct Changed<R> {
    pub result: R,
    pub queue: Queue,
    pub before: Seen,
}

impl Writer {
    fn queue(&self, device: &DeviceId) -> Result<Queue, StoreError> {
        let mut select = self.connection.prepare_cached("SELECT execution FROM executions WHERE device = ?1")?;
        let rows = select.query_map([device.as_str()], |row| row.get::<_, String>(0))?;
        let mut executions = Vec::new();
        for row in rows {
            let execution = serde_json::from_str::<Execution>(&row?);
            executions.push(execution.map_err(|error| StoreError::Damaged(format!("a job of {device}: {error}")))?);
        }
        Ok(Queue { executions, ended: Vec::new() })
    }

    fn put_queue(&self, device: &DeviceId, before: &Queue, after: &Queue) -> Result<(), StoreError> {
        for execution in after.executions.iter().filter(|execution| !before.executions.contains(execution)) {
            let sql = "INSERT OR REPLACE INTO executions (device, job, ends, execution) VALUES (?1, ?2, ?3, ?4)";
            let text = serde_json::to_string(execution).unwrap_or_default();
            let ends = execution.ends_at().map(|end| end.0);
            self.connection.prepare_cached(sql)?.execute(params![device.as_str(), execution.job_id, ends, text])?;
        }
        for gone in &before.executions {
            if !after.executions.iter().any(|execution| execution.job_id == gone.job_id) {
                let sql = "DELETE FROM executions WHERE device = ?1 AND job = ?2";
                self.connection.prepare_cached(sql)?.execute([device.as_str(), &gone.job_id])?;
            }
        }
        Ok(())
    }
}

impl Store {
    /// Changes a device's queue; `then` runs on the writer's thread after the commit. Returns when queued.
    pub async fn change_executions_then<R: Send + 'static>(
        &self,
        device: DeviceId,
        change: impl FnOnce(&mut Queue) -> R + Send + 'static,
        then: impl FnOnce(Result<Changed<R>, StoreError>) + Send + 'static,
    ) -> Result<(), StoreError> {
        let work = move |writer: &mut Writer| {
            let mut queue = writer.queue(&device)?;
            let before = queue.clone();
            let result = change(&mut queue);
            writer.put_queue(&device, &before, &queue)?;
            Ok(Changed { result, queue, before: before.seen() })
        };
        self.write_then(work, then).await
    }

    /// A device's queue as last committed.
    pub async fn executions(&self, device: &DeviceId) -> Result<Vec<Execution>, StoreError> {
        let device = device.as_str().to_owned();
        self.read(move |connection| {
            let mut select = connection.prepare_cached("SELECT execution FROM executions WHERE device = ?1")?;
            let rows = select.query_map([device], |row| row.get::<_, String>(0))?;
            rows.map(|row| serde_json::from_str(&row?).map_err(|error| StoreError::Damaged(error.to_string())))
                .collect()
        })
        .await
    }

    /// Devices with an execution whose time is over at `now`, and when the next one's is.
    pub async fn executions_over(&self, now: Millis) -> Result<(Vec<DeviceId>, Option<Millis>), StoreError> {
        self.read(move |connection| {
            let sql = "SELECT DISTINCT device FROM executions WHERE ends <= ?1";
            let mut select = connection.prepare_cached(sql)?;
            let rows = select.query_map([now.0], |row| row.get::<_, String>(0))?;
            let mut devices = Vec::new();
            for row in rows {
                devices.push(DeviceId::new(&row?).map_err(|error| StoreError::Damaged(error.to_string()))?);
            }
            let next: Option<i64> = connection
                .prepare_cached("SELECT MIN(ends) FROM executions WHERE ends > ?1")?
                .query_row([now.0], |row| row.get(0))?;
            Ok((devices, next.map(Millis)))
        })
        .await
    }
}
