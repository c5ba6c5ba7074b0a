//! Until when a desired value is wanted: withdrawn by the gateway when its device did not take it in time.

use std::sync::Arc;

use rusqlite::params;
use serde_json::{Map, Value as Json};

use super::{
    Store, StoreError, Writer,
    shadows::{How, Updated},
};
use crate::model::{
    ids::DeviceId,
    shadow::{Outcome, Patch, Request},
    time::Millis,
};

pub const MIGRATIONS: &[&str] = &["
    CREATE TABLE desired_expiry (
        device TEXT NOT NULL,
        member TEXT NOT NULL,
        expires INTEGER NOT NULL,
        PRIMARY KEY (device, member)
    ) WITHOUT ROWID;
    CREATE INDEX desired_by_expiry ON desired_expiry (expires);
"];

impl Writer {
    /// Notes until when the members of `desired` are wanted; a member wanted anew without an end has none.
    pub(super) fn wanted_until(
        &mut self,
        device: &DeviceId,
        desired: &Patch,
        until: Option<Millis>,
    ) -> Result<(), StoreError> {
        match (desired, until) {
            (Patch::Untouched, _) => {}
            (Patch::Remove, _) => {
                let sql = "DELETE FROM desired_expiry WHERE device = ?1";
                self.connection.prepare_cached(sql)?.execute([device.as_str()])?;
            }
            (Patch::Merge(members), until) => {
                for (member, value) in members {
                    match until.filter(|_| !value.is_null()) {
                        Some(until) => {
                            let sql =
                                "INSERT OR REPLACE INTO desired_expiry (device, member, expires) VALUES (?1, ?2, ?3)";
                            self.connection.prepare_cached(sql)?.execute(params![device.as_str(), member, until.0])?;
                        }
                        None => {
                            let sql = "DELETE FROM desired_expiry WHERE device = ?1 AND member = ?2";
                            self.connection.prepare_cached(sql)?.execute([device.as_str(), member])?;
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

impl Store {
    /// When the next desired value expires.
    pub async fn next_expiry(&self) -> Result<Option<Millis>, StoreError> {
        self.read(|connection| {
            let sql = "SELECT MIN(expires) FROM desired_expiry";
            let next: Option<i64> = connection.prepare_cached(sql)?.query_row([], |row| row.get(0))?;
            Ok(next.map(Millis))
        })
        .await
    }

    /// Withdraws desired values whose time is over and which are still outstanding; one outcome per device.
    pub async fn expire_desired(&self, how: How) -> Result<Vec<(DeviceId, Outcome)>, StoreError> {
        self.write(move |writer| {
            let mut over: Vec<(DeviceId, Vec<String>)> = Vec::new();
            {
                let sql = "SELECT device, member FROM desired_expiry WHERE expires <= ?1 ORDER BY device";
                let mut select = writer.connection.prepare_cached(sql)?;
                let mut rows = select.query([how.at.0])?;
                while let Some(row) = rows.next()? {
                    let device = DeviceId::new(&row.get::<_, String>(0)?);
                    let device = device.map_err(|error| StoreError::Damaged(error.to_string()))?;
                    match over.last_mut() {
                        Some((last, members)) if *last == device => members.push(row.get(1)?),
                        _ => over.push((device, vec![row.get(1)?])),
                    }
                }
            }
            writer.connection.execute("DELETE FROM desired_expiry WHERE expires <= ?1", [how.at.0])?;
            let mut outcomes = Vec::new();
            for (device, members) in over {
                let name: Arc<str> = "".into();
                let delta = match writer.current(&device, &name)? {
                    Some(document) => document.delta(),
                    None => continue,
                };
                let members = members.into_iter().filter(|member| delta.get(member).is_some());
                let patch: Map<String, Json> = members.map(|member| (member, Json::Null)).collect();
                if patch.is_empty() {
                    continue;
                }
                if let Ok(Updated::Changed(outcome)) =
                    writer.shadow_update(&device, &name, Request::desired(patch), &how)?
                {
                    outcomes.push((device, *outcome));
                }
            }
            Ok(outcomes)
        })
        .await
    }
}
