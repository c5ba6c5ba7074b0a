//! Devices that are not what they should be, since when; and what tells it: the firmware they should run.

use std::collections::BTreeMap;

use rusqlite::params;

use super::{Store, StoreError, Writer, alarms::AlarmStep};
use crate::model::{
    alarm::Alarm,
    drift::{Drift, Drifts, Kind, Plan},
    event::Severity,
    ids::DeviceId,
    time::Millis,
};

pub const MIGRATIONS: &[&str] = &["CREATE TABLE drifts (
    device TEXT NOT NULL,
    kind TEXT NOT NULL,
    since INTEGER NOT NULL,
    text TEXT NOT NULL,
    alarmed INTEGER NOT NULL,
    PRIMARY KEY (device, kind)
) WITHOUT ROWID"];

fn id(device: &str) -> Result<DeviceId, StoreError> {
    DeviceId::new(device).map_err(|error| StoreError::Damaged(format!("drift of {device:?}: {error}")))
}

impl Store {
    pub async fn drifts(&self) -> Result<Drifts, StoreError> {
        self.read(|connection| {
            let mut select = connection.prepare_cached("SELECT device, kind, since, text, alarmed FROM drifts")?;
            let mut rows = select.query([])?;
            let mut drifts = Drifts::new();
            while let Some(row) = rows.next()? {
                let (device, word): (String, String) = (row.get(0)?, row.get(1)?);
                let kind = Kind::parse(&word)
                    .ok_or_else(|| StoreError::Damaged(format!("drift of {device:?}: {word:?} is no kind")))?;
                let drift = Drift { kind, since: Millis(row.get(2)?), text: row.get(3)?, alarmed: row.get(4)? };
                drifts.insert((id(&device)?, kind), drift);
            }
            Ok(drifts)
        })
        .await
    }

    /// Writes down what `plan` says and steps its alarms, all or nothing; hands back the alarms that moved.
    pub async fn keep_drifts(&self, plan: Plan, at: Millis) -> Result<Vec<Alarm>, StoreError> {
        self.write(move |writer| writer.keep_drifts(&plan, at)).await
    }

    /// The firmware each device should run: what is desired of it, else what its last update brought. A device in the
    /// middle of an update should run nothing in particular.
    pub async fn wanted_firmware(&self) -> Result<BTreeMap<DeviceId, String>, StoreError> {
        self.read(|connection| {
            let mut wanted = BTreeMap::new();
            for sql in [
                "SELECT device, orders ->> '$.targetVersion' FROM updates WHERE stage = 'completed' AND id IN
                   (SELECT MAX(id) FROM updates WHERE stage IN ('waiting', 'fetching', 'offered', 'installing', 'completed')
                    GROUP BY device)",
                // The search in the bytes spares the parser all those that say nothing of it.
                "SELECT device, json_extract(CAST(document AS TEXT), '$.d.firmwareVersion') FROM shadows
                 WHERE name = '' AND deleted IS NULL AND instr(document, CAST('\"firmwareVersion\"' AS BLOB)) > 0
                   AND json_type(CAST(document AS TEXT), '$.d.firmwareVersion') = 'text'",
            ] {
                let mut select = connection.prepare_cached(sql)?;
                let mut rows = select.query([])?;
                while let Some(row) = rows.next()? {
                    wanted.insert(id(&row.get::<_, String>(0)?)?, row.get(1)?);
                }
            }
            Ok(wanted)
        })
        .await
    }
}

impl Writer {
    fn keep_drifts(&mut self, plan: &Plan, at: Millis) -> Result<Vec<Alarm>, StoreError> {
        let mut alarms = Vec::new();
        for (device, drift) in &plan.keep {
            let sql = "INSERT OR REPLACE INTO drifts (device, kind, since, text, alarmed) VALUES (?1, ?2, ?3, ?4, ?5)";
            let row = params![device.as_str(), drift.kind.word(), drift.since.0, drift.text, drift.alarmed];
            self.connection.prepare_cached(sql)?.execute(row)?;
            let raised = plan.raise.iter().any(|(d, kind)| d == device && *kind == drift.kind);
            if let Some(alarm) = drift.kind.alarm().filter(|_| raised) {
                let step = AlarmStep::Raise { severity: Severity::Minor, text: drift.text.clone() };
                alarms.extend(self.step_alarm(device.clone(), alarm.to_owned(), step, at)?);
            }
        }
        for (device, kind) in &plan.end {
            let sql = "DELETE FROM drifts WHERE device = ?1 AND kind = ?2";
            self.connection.prepare_cached(sql)?.execute(params![device.as_str(), kind.word()])?;
            if let Some(alarm) = kind.alarm() {
                alarms.extend(self.step_alarm(device.clone(), alarm.to_owned(), AlarmStep::Clear, at)?);
            }
        }
        Ok(alarms)
    }
}
