//! Bulk jobs and where each of their devices stands.

use serde::{Serialize, de::DeserializeOwned};

use super::{Store, StoreError};
use crate::model::{
    jobs::{Job, JobState, Target},
    record::NewRecord,
};

pub const MIGRATIONS: &[&str] = &["CREATE TABLE jobs (
    id TEXT PRIMARY KEY,
    definition TEXT NOT NULL,
    state TEXT NOT NULL,
    final INTEGER NOT NULL,
    created INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE job_targets (
    job TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    target TEXT NOT NULL,
    PRIMARY KEY (job, number)
) WITHOUT ROWID"];

/// Jobs that have ended and are kept for those who look back.
const KEPT: usize = 100;

impl Store {
    /// All jobs that are remembered, oldest first.
    pub async fn jobs(&self) -> Result<Vec<Job>, StoreError> {
        self.read(|connection| {
            let mut statement =
                connection.prepare_cached("SELECT id, definition, state FROM jobs ORDER BY created, id")?;
            let mut targets =
                connection.prepare_cached("SELECT target FROM job_targets WHERE job = ?1 ORDER BY number")?;
            let mut rows = statement.query([])?;
            let mut jobs = Vec::new();
            while let Some(row) = rows.next()? {
                let id: String = row.get(0)?;
                let texts = targets.query_map([&id], |row| row.get::<_, String>(0))?;
                let targets: Result<Vec<Target>, StoreError> = texts.map(|text| parsed(&id, &text?)).collect();
                let (definition, state): (String, String) = (row.get(1)?, row.get(2)?);
                jobs.push(Job { order: parsed(&id, &definition)?, state: parsed(&id, &state)?, targets: targets? });
            }
            Ok(jobs)
        })
        .await
    }

    /// Writes a job's state, the targets given with their numbers, and `records`, all or nothing.
    pub async fn save_job(
        &self,
        job: &Job,
        targets: Vec<(usize, Target)>,
        records: Vec<NewRecord>,
    ) -> Result<(), StoreError> {
        let (id, created, ended) = (job.order.job_id.clone(), job.state.created.0, job.state.status.is_final());
        let (definition, state) = (text(&job.order)?, text::<JobState>(&job.state)?);
        self.write(move |writer| {
            let connection = &writer.connection;
            connection
                .prepare_cached(
                    "INSERT INTO jobs VALUES (?1, ?2, ?3, ?4, ?5)
                     ON CONFLICT (id) DO UPDATE SET state = excluded.state, final = excluded.final",
                )?
                .execute((&id, definition, state, ended, created))?;
            let mut insert = connection.prepare_cached(
                "INSERT INTO job_targets VALUES (?1, ?2, ?3)
                 ON CONFLICT (job, number) DO UPDATE SET target = excluded.target",
            )?;
            for (number, target) in &targets {
                insert.execute((&id, *number as i64, text(target)?))?;
            }
            drop(insert);
            if ended {
                connection.execute(
                    "DELETE FROM jobs WHERE final AND id NOT IN
                       (SELECT id FROM jobs WHERE final ORDER BY created DESC LIMIT ?1)",
                    [KEPT as i64],
                )?;
            }
            for record in records {
                writer.append(record)?;
            }
            Ok(())
        })
        .await
    }
}

fn text<T: Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|e| StoreError::Damaged(e.to_string()))
}

fn parsed<T: DeserializeOwned>(id: &str, text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|e| StoreError::Damaged(format!("job {id}: {e}")))
}
