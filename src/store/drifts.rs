//! Devices that are not what they should be, since when; and what tells it: what is expected of them.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Connection, params, params_from_iter};
use tokio::sync::broadcast;

use super::{Store, StoreError, Writer, alarms::AlarmStep, configs};
use crate::model::{
    alarm::Alarm,
    configuration::Standing,
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

/// What is expected of a device and can be missed, and what it says of itself.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Expected {
    /// The firmware it should run: what is desired, else what its last update brought. None in the middle of an update.
    pub firmware: Option<String>,
    /// How it stands to its configuration, where it has not what it should have.
    pub unsettled: Option<Standing>,
    /// The serial number it reports.
    pub serial_number: Option<String>,
}

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

    /// What is expected of each of `devices`, or of all there are; those of whom nothing is expected are left out.
    pub async fn expected(
        &self,
        devices: Option<BTreeSet<DeviceId>>,
    ) -> Result<BTreeMap<DeviceId, Expected>, StoreError> {
        self.read(move |connection| {
            let mut found = BTreeMap::new();
            match devices {
                None => expected(connection, None, &mut found)?,
                Some(devices) => {
                    devices.iter().try_for_each(|device| expected(connection, Some(device), &mut found))?;
                }
            }
            Ok(found)
        })
        .await
    }

    /// Tells of whom something else may be expected than before. One that lags, or is told `None`, looks at all.
    pub fn expectations(&self) -> broadcast::Receiver<Option<DeviceId>> {
        self.expects.subscribe()
    }
}

/// Adds what is expected of `device`, or of all.
fn expected(
    connection: &Connection,
    device: Option<&DeviceId>,
    found: &mut BTreeMap<DeviceId, Expected>,
) -> Result<(), StoreError> {
    let which = device.map_or("", |_| "AND device = ?1");
    let mut read = |sql: String, add: &mut dyn FnMut(&mut Expected, String) -> Result<(), StoreError>| {
        let mut select = connection.prepare_cached(&sql)?;
        let mut rows = select.query(params_from_iter(device.map(DeviceId::as_str)))?;
        while let Some(row) = rows.next()? {
            add(found.entry(id(&row.get::<_, String>(0)?)?).or_default(), row.get(1)?)?;
        }
        Ok::<(), StoreError>(())
    };
    // What the last update brought, and above that what is desired; nothing in the middle of an update. The search in the
    // bytes spares the parser all those that say nothing of it.
    const UNDER_WAY: &str = "('waiting', 'fetching', 'offered', 'installing')";
    for sql in [
        format!(
            "SELECT device, orders ->> '$.targetVersion' FROM updates WHERE stage = 'completed' AND id IN
               (SELECT MAX(id) FROM updates WHERE (stage IN {UNDER_WAY} OR stage = 'completed') {which} GROUP BY device)"
        ),
        format!(
            "SELECT device, json_extract(CAST(document AS TEXT), '$.d.firmwareVersion') FROM shadows
             WHERE name = '' AND deleted IS NULL AND instr(document, CAST('\"firmwareVersion\"' AS BLOB)) > 0
               AND json_type(CAST(document AS TEXT), '$.d.firmwareVersion') = 'text'
               AND device NOT IN (SELECT device FROM updates WHERE stage IN {UNDER_WAY}) {which}"
        ),
    ] {
        read(sql, &mut |expected, version| {
            expected.firmware = Some(version);
            Ok(())
        })?;
    }
    let serial = format!(
        "SELECT device, CAST(json_extract(CAST(document AS TEXT), '$.r.serialNumber') AS TEXT) FROM shadows
         WHERE name = '' AND deleted IS NULL AND instr(document, CAST('\"serialNumber\"' AS BLOB)) > 0
           AND json_type(CAST(document AS TEXT), '$.r.serialNumber') IN ('text', 'integer') {which}"
    );
    read(serial, &mut |expected, serial| {
        expected.serial_number = Some(serial);
        Ok(())
    })?;
    read(format!("SELECT device, standing FROM config_standing WHERE settled = 0 {which}"), &mut |expected, text| {
        expected.unsettled = Some(configs::read(&text)?);
        Ok(())
    })
}

impl Writer {
    /// Something that [`expected`] reads was written.
    pub(super) fn expects(&mut self, device: &DeviceId) {
        self.expects.push(Some(device.clone()));
    }

    fn keep_drifts(&mut self, plan: &Plan, at: Millis) -> Result<Vec<Alarm>, StoreError> {
        let mut alarms = Vec::new();
        for (device, drift) in &plan.keep {
            let sql = "INSERT OR REPLACE INTO drifts (device, kind, since, text, alarmed) VALUES (?1, ?2, ?3, ?4, ?5)";
            let row = params![device.as_str(), drift.kind.word(), drift.since.0, drift.text, drift.alarmed];
            self.connection.prepare_cached(sql)?.execute(row)?;
            let raised = plan.raise.iter().any(|(d, kind)| d == device && *kind == drift.kind);
            if raised {
                let step = AlarmStep::Raise { severity: Severity::Minor, text: drift.text.clone() };
                alarms.extend(self.step_alarm(device.clone(), drift.kind.alarm().to_owned(), step, at)?);
            }
        }
        for (device, kind) in &plan.end {
            let sql = "DELETE FROM drifts WHERE device = ?1 AND kind = ?2";
            self.connection.prepare_cached(sql)?.execute(params![device.as_str(), kind.word()])?;
            alarms.extend(self.step_alarm(device.clone(), kind.alarm().to_owned(), AlarmStep::Clear, at)?);
        }
        Ok(alarms)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, Value as Json, json};

    use super::*;
    use crate::{
        model::{
            command::Door,
            shadow::{Limits, Request},
            update::{Stage, UpdateOrder},
        },
        store::shadows::How,
    };

    const NOW: Millis = Millis(1_760_000_000_000);

    fn how() -> How {
        let limits = Limits { state_bytes: 8192, depth: 8 };
        How { door: Door::Cloud, at: NOW, limits, only_changes: false, until: None }
    }

    fn map(json: Json) -> Map<String, Json> {
        json.as_object().expect("an object").clone()
    }

    /// Of whom something else is expected since the last call.
    fn told(ears: &mut broadcast::Receiver<Option<DeviceId>>) -> Vec<Option<DeviceId>> {
        std::iter::from_fn(|| ears.try_recv().ok()).collect()
    }

    #[tokio::test]
    async fn what_is_expected_is_told_when_it_changes_and_by_nothing_else() {
        let folder = tempfile::tempdir().expect("folder");
        let (store, _thread) = Store::open(folder.path()).expect("open");
        let (a, b) = (id("a").expect("id"), id("b").expect("id"));
        let mut ears = store.expectations();
        let desire = async |json| {
            let request = Request::desired(map(json));
            store.shadow_update(&a, "", request, how()).await.expect("stored").expect("taken");
        };
        for n in 0..50 {
            let reported = Request::reported(map(json!({"temperature": n, "firmwareVersion": format!("1.0.{n}")})));
            store.shadow_update(&b, "", reported, how()).await.expect("stored").expect("taken");
            desire(json!({"setpoint": n})).await;
        }
        assert_eq!(told(&mut ears), [], "the rest of a shadow tells nobody");
        for serial in [json!("A-7"), json!("A-7"), json!(4711)] {
            let reported = Request::reported(map(json!({"serialNumber": serial})));
            store.shadow_update(&b, "", reported, how()).await.expect("stored").expect("taken");
        }
        assert_eq!(told(&mut ears), [Some(b.clone()), Some(b.clone())], "twice it says another one");
        let said = store.expected(None).await.expect("read").remove(&b).expect("b").serial_number;
        assert_eq!(said.as_deref(), Some("4711"));
        store
            .shadow_update(&b, "", Request::reported(map(json!({"serialNumber": null}))), how())
            .await
            .expect("stored")
            .expect("taken");
        assert_eq!(told(&mut ears), [Some(b.clone())]);
        desire(json!({"firmwareVersion": "2.0.0"})).await;
        desire(json!({"firmwareVersion": "2.0.0", "setpoint": 5})).await;
        assert_eq!(told(&mut ears), [Some(a.clone())], "once");

        let text =
            json!({"jobId": "j", "targetVersion": "3.0.0", "url": "http://x/", "size": 1, "sha256": "0".repeat(64)});
        let order: UpdateOrder = serde_json::from_value(text).expect("an order");
        for device in [&a, &b] {
            store.place_update(device.clone(), order.clone(), NOW).await.expect("stored");
        }
        assert_eq!(told(&mut ears), [Some(a.clone()), Some(b.clone())]);
        assert_eq!(store.expected(None).await.expect("read"), BTreeMap::new(), "nothing in the middle of an update");
        let mut update = store.updates().await.expect("read").pop().expect("the one of b");
        update.progress = Some(50);
        assert!(store.change_update(update.clone(), Stage::Waiting, None).await.expect("stored"));
        assert_eq!(told(&mut ears), [], "progress changes nothing");
        update.stage = Stage::Completed;
        assert!(store.change_update(update, Stage::Waiting, None).await.expect("stored"));
        assert_eq!(told(&mut ears), [Some(b.clone())]);
        let of = |device: &DeviceId| Some(BTreeSet::from([device.clone()]));
        let firmware = |version: &str| Expected { firmware: Some(version.into()), ..Expected::default() };
        let brought = BTreeMap::from([(b.clone(), firmware("3.0.0"))]);
        assert_eq!(store.expected(of(&b)).await.expect("read"), brought);
        assert_eq!(store.expected(None).await.expect("read"), brought);
        assert_eq!(store.expected(of(&a)).await.expect("read"), BTreeMap::new());
    }
}
