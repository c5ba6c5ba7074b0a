//! Configuration of children: assigned, pushed (retained), acknowledged, watched for drift. The laws are in
//! `model::configuration`.

use serde_json::{Value as Json, json};

use super::{
    done::Done,
    keeper::{Keeping, unavailable},
    voice,
};
use crate::{
    bus::{LocalMessage, Outcome, Reply},
    clock,
    model::{
        command::{Refusal, RefusalCode},
        configuration::{Assigned, Patience, Scope, Standing, Step},
        event::Severity,
        ids::DeviceId,
        record::{Kind, NewRecord},
        time::Millis,
        view::ConfigView,
    },
    store::{StoreError, configs::Assignment},
};

/// How often devices that drift are looked at, in milliseconds.
const LOOK: i64 = 5_000;

/// A configuration document as it was ordered: `{"version", "config", "priority"?}`.
pub fn assigned(scope: Scope, name: &str, document: &Json) -> Result<Assigned, String> {
    let shape = "expected {\"version\": 1, \"config\": {…}, \"priority\"?}";
    let version = document.get("version").and_then(Json::as_u64).ok_or(shape)?;
    let config = document.get("config").filter(|config| config.is_object()).cloned().ok_or(shape)?;
    let priority = match document.get("priority") {
        None | Some(Json::Null) => scope.usual_priority(),
        Some(priority) => priority.as_i64().ok_or(shape)?,
    };
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, config.to_string().as_bytes());
    Ok(Assigned { scope, name: name.to_owned(), version, priority, hash: hex::encode(digest), config })
}

impl Keeping {
    fn patience(&self) -> Patience {
        let millis = |span: std::time::Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        Patience {
            ack: millis(self.settings.config_ack),
            pushes: self.settings.config_pushes,
            alarm: millis(self.settings.drift_alarm),
        }
    }

    /// Assigns a configuration to a device, a group or a type, and pushes it where it counts.
    pub fn config_order(&mut self, scope: Scope, name: String, document: Json, reply: Reply<Json>) {
        let assigned = match assigned(scope, &name, &document) {
            Ok(assigned) => assigned,
            Err(why) => {
                let _ = reply.send(Err(Refusal::new(RefusalCode::PayloadInvalid, why)));
                return;
            }
        };
        let version = assigned.version;
        let (store, done) = (self.store.clone(), self.loose_end());
        self.tasks.spawn("assign a configuration", async move {
            let touched = match store.assign_config(assigned).await {
                Ok(Assignment::Older { known }) => {
                    let text = format!("version {version} is older than version {known}, which is known");
                    let _ = reply.send(Err(Refusal::new(RefusalCode::VersionConflict, text)));
                    return;
                }
                Ok(Assignment::Other) => {
                    let text = format!(
                        "version {version} is known with another document or priority; give this one a higher version"
                    );
                    let _ = reply.send(Err(Refusal::new(RefusalCode::VersionConflict, text)));
                    return;
                }
                Ok(Assignment::Taken | Assignment::Known) if scope == Scope::Device => {
                    DeviceId::new(&name).map(|device| vec![device]).unwrap_or_default()
                }
                Ok(_) => match store.devices().await {
                    Ok(devices) => {
                        let of = |device: &crate::model::device::Device| match scope {
                            Scope::Type => *device.kind == *name,
                            _ => device.groups.contains(&name),
                        };
                        devices.into_iter().filter(of).map(|device| device.id).collect()
                    }
                    Err(error) => return drop(reply.send(Err(unavailable(&error)))),
                },
                Err(error) => return drop(reply.send(Err(unavailable(&error)))),
            };
            let _ = reply.send(Ok(json!({ "version": version, "devices": touched.len() })));
            for device in touched {
                let _ = done.send(Done::ConfigDue(device));
            }
        });
    }

    /// Looks at a device's standing and does what is due: push, or alarm.
    pub fn config_due(&mut self, device: DeviceId) {
        let (patience, now) = (self.patience(), clock::now());
        let connected = self.child(&device).connected;
        let (store, done) = (self.store.clone(), self.loose_end());
        self.tasks.spawn("configuration of a device", async move {
            let of = device.clone();
            let change = move |standing: &mut Standing| {
                let step = standing.step(connected, &patience, now);
                let mut records = Vec::new();
                match step {
                    Some(Step::Push) => standing.pushed(now),
                    Some(Step::Alarm) => {
                        standing.alarmed = true;
                        records.push(drift_event(&of, standing, now));
                    }
                    None => {}
                }
                (step, records)
            };
            match store.config_standing(&device, now, change).await {
                Ok(Some((step, standing))) => {
                    let _ = done.send(Done::ConfigStep { device, step, standing: Box::new(standing) });
                }
                Ok(None) => {}
                Err(error) => tracing::warn!(%device, %error, "the configuration of a device could not be looked at"),
            }
        });
    }

    /// A child comes for its configuration. That it was pushed is on disk before the broker's retained message is, and a
    /// kill may lie between the two: once after each start it is said again, as the push it was.
    pub fn config_level(&mut self, device: &DeviceId) {
        if self.child(device).config_said {
            return;
        }
        let (store, done, device) = (self.store.clone(), self.loose_end(), device.clone());
        self.tasks.spawn("configuration for a child that comes", async move {
            match store.standing(&device).await {
                // What was never pushed is due, and on its way.
                Ok(Some(standing)) if standing.pushes > 0 => {
                    let (step, standing) = (Some(Step::Push), Box::new(standing));
                    let _ = done.send(Done::ConfigStep { device, step, standing });
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(%device, %error, "the configuration of a device could not be read"),
            }
        });
    }

    pub fn config_step(&mut self, device: &DeviceId, step: Option<Step>, standing: &Standing) {
        match step {
            Some(Step::Push) => {
                self.child(device).config_said = true;
                let payload = json!({ "version": standing.desired.version, "config": standing.desired.config });
                let message = LocalMessage::new(voice::child(device, "config/desired"), payload.to_string());
                self.voice.say(LocalMessage { retain: true, ..message });
            }
            // The registry raises the alarm, for this kind of drift and the others.
            Some(Step::Alarm) | None => {}
        }
    }

    /// A device acknowledged a configuration: kept and logged together, then acknowledged to it.
    pub fn config_acknowledged(
        &mut self,
        device: DeviceId,
        (version, applied, reason): (u64, bool, Option<String>),
        record: NewRecord,
        reply: Reply,
    ) {
        let (store, done, now) = (self.store.clone(), self.loose_end(), record.ts);
        self.tasks.spawn("acknowledgement of a configuration", async move {
            let (why, kept) = (reason.clone(), record.clone());
            let change = move |standing: &mut Standing| {
                standing.acknowledged(version, applied, why);
                ((), vec![kept])
            };
            let stored = match store.config_standing(&device, now, change).await {
                // Nothing was assigned here; the cloud may know more.
                Ok(None) => store.append(vec![record]).await.map(drop),
                Ok(Some(_)) => Ok(()),
                Err(error) => Err(error),
            };
            let _ = reply.send(stored.as_ref().map(drop).map_err(unavailable));
            if stored.is_ok() {
                let _ = done.send(Done::Told(Outcome::Config { device, version, applied, reason }));
            }
        });
    }

    /// A device says which configuration it runs (`configVersion` in its heartbeat).
    pub fn config_runs(&mut self, device: &DeviceId, version: u64, now: Millis) {
        let child = self.child(device);
        if child.config_runs.replace(version) == Some(version) {
            return;
        }
        let (store, done, device) = (self.store.clone(), self.loose_end(), device.clone());
        self.tasks.spawn("configuration a device runs", async move {
            let change = move |standing: &mut Standing| {
                standing.runs(version, now);
                ((), Vec::new())
            };
            match store.config_standing(&device, now, change).await {
                Ok(Some(_)) => drop(done.send(Done::ConfigDue(device))),
                Ok(None) => {}
                Err(error) => tracing::warn!(%device, %error, "the configuration a device runs could not be kept"),
            }
        });
    }

    /// Every few seconds: devices that do not have what they should have.
    pub fn config_tick(&mut self, now: Millis) {
        if now.since(self.config_looked).abs() < LOOK {
            return;
        }
        self.config_looked = now;
        let (store, done, patience) = (self.store.clone(), self.loose_end(), self.patience());
        self.tasks.spawn("configurations that drift", async move {
            match store.unsettled().await {
                Ok(unsettled) => {
                    // Whether it is connected is judged again, by the one who knows.
                    for (device, _) in unsettled.into_iter().filter(|(_, s)| s.step(true, &patience, now).is_some()) {
                        let _ = done.send(Done::ConfigDue(device));
                    }
                }
                Err(error) => tracing::warn!(%error, "drifting configurations could not be read"),
            }
        });
    }
}

/// What a child without subscriptions fetches.
pub(super) fn as_fetched(standing: Result<Option<Standing>, StoreError>) -> Result<Json, Refusal> {
    let standing = standing.map_err(|error| unavailable(&error))?;
    Ok(standing.map_or(Json::Null, |s| json!({ "version": s.desired.version, "config": s.desired.config })))
}

fn drift_event(device: &DeviceId, standing: &Standing, now: Millis) -> NewRecord {
    let body = json!({
        "type": "config-drift", "severity": Severity::Minor, "since": standing.since,
        "desiredVersion": standing.desired.version, "appliedVersion": standing.applied_version,
        "message": standing.text(),
    });
    NewRecord { device: device.clone(), kind: Kind::Event, name: None, ts: now, body: body.to_string().into() }
}

/// As the page shows it.
pub(super) fn as_view(standing: &Standing) -> ConfigView {
    let number = |version: u64| i64::try_from(version).unwrap_or(i64::MAX);
    ConfigView {
        desired_version: Some(number(standing.desired.version)),
        applied_version: standing.applied_version.map(number),
        status: serde_json::to_value(standing.status).ok().and_then(|word| word.as_str().map(str::to_owned)),
        reason: standing.reason.clone(),
        config: Some(standing.desired.config.clone()),
        desired_hash: Some(standing.desired.hash.clone()),
        applied_hash: standing.applied_hash.clone(),
        pushes: standing.pushes,
        pushed: standing.pushed,
    }
}
