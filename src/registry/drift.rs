//! Which devices are not what they should be: judges anew where something changed, writes it down, raises alarms. The laws
//! are in `model::drift`; pushing a configuration again is the keeper's.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{
        broadcast::{self, error::TryRecvError},
        watch,
    },
    time::{MissedTickBehavior, interval},
};

use super::Registry;
use crate::{
    bus::Events,
    clock,
    identity::Identity,
    model::{
        device::{Device, Lifecycle, Protocol},
        drift::{self, Compliance, Drift, Drifts, Kind},
        event::Event,
        ids::DeviceId,
        time::Millis,
    },
    store::{Store, StoreError, drifts::Expected},
    tasks::Tasks,
};

/// How often it is looked whether something changed.
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

    /// Moves when any drift begins, changes, raises its alarm or ends.
    pub fn moved(&self) -> watch::Receiver<Arc<Drifts>> {
        self.0.clone()
    }
}

/// Starts to look; drift that has lasted for `alarm` raises one.
pub async fn watch(alarm: Duration, ports: DriftPorts, tasks: &Tasks) -> Result<Watch, StoreError> {
    let (out, seen) = watch::channel(Arc::new(ports.store.drifts().await?));
    let patience = i64::try_from(alarm.as_millis()).unwrap_or(i64::MAX);
    let (mut look, stop) = (Look::new(ports, patience, out), tasks.stopping());
    tasks.spawn("drift", async move {
        let mut beat = interval(LOOK);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = beat.tick() => {}
            }
            if let Err(error) = look.look(clock::now()).await {
                tracing::warn!(%error, "drift of devices could not be looked at; tried again");
            }
        }
    });
    Ok(Watch(seen))
}

/// What was seen last. Only what changed is read again, and where nothing did, nothing is judged.
struct Look {
    ports: DriftPorts,
    patience: i64,
    out: watch::Sender<Arc<Drifts>>,
    registry: watch::Receiver<u64>,
    expectations: broadcast::Receiver<Option<DeviceId>>,
    devices: Vec<Device>,
    expected: BTreeMap<DeviceId, Expected>,
    overdue: BTreeMap<DeviceId, String>,
    /// Of whom `expected` is to be read again; `None` is all.
    unread: Option<BTreeSet<DeviceId>>,
    /// Something was read and not judged yet.
    fresh: bool,
    /// When the next alarm is due.
    due: Option<Millis>,
}

impl Look {
    fn new(ports: DriftPorts, patience: i64, out: watch::Sender<Arc<Drifts>>) -> Look {
        let (mut registry, expectations) = (ports.registry.moved(), ports.store.expectations());
        registry.mark_changed();
        let (devices, expected, overdue) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        let unread = None;
        Look {
            ports,
            patience,
            out,
            registry,
            expectations,
            devices,
            expected,
            overdue,
            unread,
            fresh: true,
            due: None,
        }
    }

    async fn look(&mut self, now: Millis) -> Result<(), StoreError> {
        self.refresh(now).await?;
        if self.fresh || self.due.is_some_and(|due| due <= now) {
            self.judge(now).await?;
            self.fresh = false;
        }
        Ok(())
    }

    /// Reads again what has changed.
    async fn refresh(&mut self, now: Millis) -> Result<(), StoreError> {
        if self.registry.has_changed().unwrap_or(false) {
            self.registry.mark_unchanged();
            self.devices = self.ports.registry.list().await;
            self.devices.retain(takes_part);
            self.fresh = true;
        }
        loop {
            match (self.expectations.try_recv(), &mut self.unread) {
                (Ok(Some(device)), Some(unread)) => drop(unread.insert(device)),
                (Ok(Some(_)), None) => {}
                (Ok(None) | Err(TryRecvError::Lagged(_)), unread) => *unread = None,
                (Err(TryRecvError::Empty | TryRecvError::Closed), _) => break,
            }
        }
        if self.unread.as_ref().is_none_or(|unread| !unread.is_empty()) {
            let read = self.ports.store.expected(self.unread.clone()).await?;
            match self.unread.replace(BTreeSet::new()) {
                Some(unread) => self.expected.retain(|device, _| !unread.contains(device)),
                None => self.expected.clear(),
            }
            self.expected.extend(read);
            self.fresh = true;
        }
        let overdue = self.ports.identity.overdue(now);
        self.fresh |= overdue != self.overdue;
        self.overdue = overdue;
        Ok(())
    }

    async fn judge(&mut self, now: Millis) -> Result<(), StoreError> {
        let calm = self.devices.iter().filter(|device| device.lifecycle == Lifecycle::Maintenance);
        let calm: BTreeSet<DeviceId> = calm.map(|device| device.id.clone()).collect();
        let known = self.out.borrow().clone();
        let plan = drift::plan(&known, self.find(now), &calm, self.patience, now);
        let alarms = match plan.is_empty() {
            true => Vec::new(),
            false => self.ports.store.keep_drifts(plan.clone(), now).await?,
        };
        let drifts = if plan.is_empty() { known } else { Arc::new(plan.applied(&known)) };
        self.due = drift::next_alarm(&drifts, &calm, self.patience);
        self.out.send_if_modified(|before| {
            let moved = !Arc::ptr_eq(before, &drifts);
            *before = drifts;
            moved
        });
        for alarm in alarms {
            let text = if alarm.active { alarm.text } else { format!("{}: cleared", alarm.kind) };
            tracing::info!(device = %alarm.device, kind = alarm.kind, active = alarm.active, text, "alarm");
            self.ports.events.tell(Event::Alarm { device: alarm.device, severity: alarm.severity, text, at: now });
        }
        Ok(())
    }

    fn find(&self, now: Millis) -> Vec<(DeviceId, Drift)> {
        let mut found = Vec::new();
        for device in &self.devices {
            let mut say =
                |kind, since, text| found.push((device.id.clone(), Drift { kind, since, text, alarmed: false }));
            let expected = self.expected.get(&device.id);
            if let Some(standing) = expected.and_then(|expected| expected.unsettled.as_ref()) {
                say(Kind::Configuration, standing.since, standing.text());
            }
            if let (Some(wanted), Some(runs)) =
                (expected.and_then(|expected| expected.firmware.as_ref()), &device.firmware_version)
                && wanted != runs
            {
                say(Kind::Firmware, now, format!("should run firmware {wanted}, runs {runs}"));
            }
            if let Some(text) = self.overdue.get(&device.id) {
                say(Kind::Identity, now, text.clone());
            }
        }
        found
    }
}

/// Only who may talk can be asked to be something; the gateway is not its own child.
pub fn takes_part(device: &Device) -> bool {
    device.lifecycle.may_talk() && device.protocol != Protocol::Gateway
}
