//! Alarms, raised and cleared.

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row};
use serde_json::json;

use super::{Store, StoreError, Writer};
use crate::model::{
    alarm::Alarm,
    event::Severity,
    ids::DeviceId,
    record::{Kind, NewRecord},
    time::Millis,
};

pub const MIGRATIONS: &[&str] = &["CREATE TABLE alarms (
    device TEXT NOT NULL,
    kind TEXT NOT NULL,
    severity TEXT NOT NULL,
    active INTEGER NOT NULL,
    acknowledged INTEGER NOT NULL,
    by TEXT,
    count INTEGER NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    text TEXT NOT NULL,
    PRIMARY KEY (device, kind)
) WITHOUT ROWID"];

/// What happens to an alarm.
#[derive(Debug, Clone, PartialEq)]
pub enum AlarmStep {
    Raise { severity: Severity, text: String },
    Clear,
    Acknowledge { by: String },
}

impl Store {
    /// Every alarm there is, the active ones first, then the latest.
    pub async fn alarms(&self) -> Result<Vec<Alarm>, StoreError> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached("SELECT * FROM alarms ORDER BY active DESC, last DESC")?;
            let mut rows = statement.query([])?;
            let mut alarms = Vec::new();
            while let Some(row) = rows.next()? {
                alarms.push(alarm(row)?);
            }
            Ok(alarms)
        })
        .await
    }

    /// Takes one step and appends its `events` record, all or nothing. `None` where nothing changed: an active alarm is
    /// not raised again, a cleared one not cleared, an acknowledged one not acknowledged.
    pub async fn step_alarm(
        &self,
        device: &DeviceId,
        kind: &str,
        step: AlarmStep,
        at: Millis,
    ) -> Result<Option<Alarm>, StoreError> {
        let (device, kind) = (device.clone(), kind.to_owned());
        self.write(move |writer| writer.step_alarm(device, kind, step, at)).await
    }
}

impl Writer {
    pub(super) fn step_alarm(
        &mut self,
        device: DeviceId,
        kind: String,
        step: AlarmStep,
        at: Millis,
    ) -> Result<Option<Alarm>, StoreError> {
        let known = find(&self.connection, &device, &kind)?;
        let (next, word) = match (step, known) {
            (AlarmStep::Raise { .. }, Some(known)) if known.active => return Ok(None),
            (AlarmStep::Raise { severity, text }, known) => {
                let (count, first) = known.map_or((0, at), |known| (known.count, known.first));
                let next = Alarm {
                    device,
                    kind,
                    severity,
                    active: true,
                    acknowledged: false,
                    by: None,
                    count: count + 1,
                    first,
                    last: at,
                    text,
                };
                (next, "raised")
            }
            (AlarmStep::Clear, Some(known)) if known.active => (Alarm { active: false, last: at, ..known }, "cleared"),
            (AlarmStep::Acknowledge { by }, Some(known)) if !known.acknowledged => {
                (Alarm { acknowledged: true, by: Some(by), ..known }, "acknowledged")
            }
            (AlarmStep::Clear | AlarmStep::Acknowledge { .. }, _) => return Ok(None),
        };
        let mut statement = self
            .connection
            .prepare_cached("INSERT OR REPLACE INTO alarms VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)")?;
        statement.execute((
            next.device.as_str(),
            &next.kind,
            next.severity.word(),
            next.active,
            next.acknowledged,
            &next.by,
            next.count as i64,
            next.first.0,
            next.last.0,
            &next.text,
        ))?;
        drop(statement);
        let mut body = json!({"event": "alarm", "state": word, "type": next.kind, "severity": next.severity,
            "text": next.text, "count": next.count});
        if let Some(by) = &next.by {
            body["by"] = json!(by);
        }
        self.append(NewRecord {
            device: next.device.clone(),
            kind: Kind::Event,
            name: None,
            ts: at,
            body: Bytes::from(body.to_string()),
        })?;
        Ok(Some(next))
    }
}

fn find(connection: &Connection, device: &DeviceId, kind: &str) -> Result<Option<Alarm>, StoreError> {
    let mut statement = connection.prepare_cached("SELECT * FROM alarms WHERE device = ?1 AND kind = ?2")?;
    statement.query_row((device.as_str(), kind), |row| Ok(alarm(row))).optional()?.transpose()
}

fn alarm(row: &Row<'_>) -> Result<Alarm, StoreError> {
    let (device, severity): (String, String) = (row.get("device")?, row.get("severity")?);
    let damaged = |what: String| StoreError::Damaged(format!("alarm of {device}: {what}"));
    Ok(Alarm {
        device: DeviceId::new(&device).map_err(|e| damaged(e.to_string()))?,
        kind: row.get("kind")?,
        severity: Severity::parse(&severity).ok_or_else(|| damaged(format!("severity {severity:?}")))?,
        active: row.get("active")?,
        acknowledged: row.get("acknowledged")?,
        by: row.get("by")?,
        count: row.get::<_, i64>("count")?.unsigned_abs(),
        first: Millis(row.get("first")?),
        last: Millis(row.get("last")?),
        text: row.get("text")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_alarm_is_one_row_that_counts_and_remembers_who_has_seen_it() {
        let folder = tempfile::tempdir().expect("folder");
        let (store, _thread) = Store::open(folder.path()).expect("open");
        let device = DeviceId::new("pump").expect("id");
        let raise = || AlarmStep::Raise { severity: Severity::Major, text: "too hot".into() };
        let step = |step, at| store.step_alarm(&device, "hot", step, Millis(at));
        assert_eq!(step(AlarmStep::Clear, 1).await.expect("step"), None);
        assert_eq!(step(raise(), 2).await.expect("step").map(|a| a.count), Some(1));
        assert_eq!(step(raise(), 3).await.expect("step"), None);
        let seen = step(AlarmStep::Acknowledge { by: "ada".into() }, 4).await.expect("step").expect("seen");
        assert_eq!((seen.active, seen.acknowledged), (true, true));
        step(AlarmStep::Clear, 5).await.expect("step").expect("cleared");
        let again = step(raise(), 6).await.expect("step").expect("again");
        assert_eq!((again.count, again.acknowledged, again.first, again.last), (2, false, Millis(2), Millis(6)));
        assert_eq!(store.alarms().await.expect("read"), vec![again]);
        let records = store.read_after(crate::model::record::Lane::Urgent, 0, 10, 10_000).await.expect("records");
        assert_eq!(records.len(), 4);
    }
}
