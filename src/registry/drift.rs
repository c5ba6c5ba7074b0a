//! Which devices are not what they should be: looks every few seconds, writes down what changed, raises alarms. The laws
//! are in `model::drift`; pushing a configuration again is the keeper's.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};

use super::Registry;
use crate::{
    bus::Events,
    clock,
    identity::Identity,
    model::{
        configuration::Standing,
        device::{Device, Lifecycle, Protocol},
        drift::{self, Compliance, Drift, Drifts, Kind},
        event::Event,
        ids::DeviceId,
        time::Millis,
    },
    store::{Store, StoreError},
    tasks::Tasks,
};

/// How often it is looked.
const LOOK: Duration = Duration::from_secs(5);

/// What the look is wired to.
pub struct DriftPorts {
    pub registry: Registry,
    pub identity: Identity,
    pub store: Store,
    pub events: Events,
}

/// The handle: cheap to clone.
#[derive(Clone)]
pub struct Watch(watch::Receiver<Arc<Drifts>>);

impl Watch {
    /// The drift of one device, by kind.
    pub fn of(&self, device: &DeviceId) -> Vec<Drift> {
        let drifts = self.0.borrow().clone();
        Kind::ALL.into_iter().filter_map(|kind| drifts.get(&(device.clone(), kind)).cloned()).collect()
    }

    /// The counts, over `devices` that take part.
    pub fn compliance(&self, devices: usize) -> Compliance {
        Compliance::count(devices, &self.0.borrow())
    }
}

/// Starts to look; drift that has lasted for `alarm` raises one.
pub async fn watch(alarm: Duration, ports: DriftPorts, tasks: &Tasks) -> Result<Watch, StoreError> {
    let (out, seen) = watch::channel(Arc::new(ports.store.drifts().await?));
    let (patience, stop) = (i64::try_from(alarm.as_millis()).unwrap_or(i64::MAX), tasks.stopping());
    tasks.spawn("drift", async move {
        let mut beat = interval(LOOK);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = beat.tick() => {}
            }
            if let Err(error) = look(&ports, patience, &out).await {
                tracing::warn!(%error, "drift of devices could not be looked at; tried again");
            }
        }
    });
    Ok(Watch(seen))
}

async fn look(ports: &DriftPorts, patience: i64, out: &watch::Sender<Arc<Drifts>>) -> Result<(), StoreError> {
    let now = clock::now();
    let mut devices = ports.registry.list().await;
    devices.retain(takes_part);
    let unsettled = ports.store.unsettled().await?;
    let firmware = ports.store.wanted_firmware().await?;
    let found = find(&devices, unsettled, &firmware, &ports.identity.overdue(now), now);
    let calm: BTreeSet<DeviceId> =
        devices.iter().filter(|d| d.lifecycle == Lifecycle::Maintenance).map(|d| d.id.clone()).collect();
    let known = out.borrow().clone();
    let plan = drift::plan(&known, found, &calm, patience, now);
    if plan.is_empty() {
        return Ok(());
    }
    let alarms = ports.store.keep_drifts(plan.clone(), now).await?;
    let mut drifts = (*known).clone();
    plan.end.iter().for_each(|key| drop(drifts.remove(key)));
    drifts.extend(plan.keep.into_iter().map(|(device, drift)| ((device, drift.kind), drift)));
    out.send_replace(Arc::new(drifts));
    for alarm in alarms {
        let text = if alarm.active { alarm.text } else { format!("{}: cleared", alarm.kind) };
        tracing::info!(device = %alarm.device, kind = alarm.kind, active = alarm.active, text, "alarm");
        ports.events.tell(Event::Alarm { device: alarm.device, severity: alarm.severity, text, at: now });
    }
    Ok(())
}

/// Only who may talk can be asked to be something; the gateway is not its own child.
pub fn takes_part(device: &Device) -> bool {
    device.lifecycle.may_talk() && device.protocol != Protocol::Gateway
}

fn find(
    devices: &[Device],
    unsettled: Vec<(DeviceId, Standing)>,
    firmware: &BTreeMap<DeviceId, String>,
    overdue: &BTreeMap<DeviceId, String>,
    now: Millis,
) -> Vec<(DeviceId, Drift)> {
    let unsettled: BTreeMap<DeviceId, Standing> = unsettled.into_iter().collect();
    let mut found = Vec::new();
    for device in devices {
        let mut say = |kind, since, text| found.push((device.id.clone(), Drift { kind, since, text, alarmed: false }));
        if let Some(standing) = unsettled.get(&device.id) {
            say(Kind::Configuration, standing.since, standing.text());
        }
        if let (Some(wanted), Some(runs)) = (firmware.get(&device.id), &device.firmware_version)
            && wanted != runs
        {
            say(Kind::Firmware, now, format!("should run firmware {wanted}, runs {runs}"));
        }
        if let Some(text) = overdue.get(&device.id) {
            say(Kind::Identity, now, text.clone());
        }
    }
    found
}
