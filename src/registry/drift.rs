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
    config::{Config, device::Common},
    identity::Identity,
    model::{
        device::{Device, Lifecycle, Protocol},
        drift::{self, Calm, Compliance, Drift, Drifts, Kind},
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
    /// Which serial numbers should be there.
    pub config: watch::Receiver<Arc<Config>>,
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
    /// The units that should be there.
    serial_numbers: BTreeMap<DeviceId, String>,
    /// Of whom `expected` is to be read again; `None` is all.
    unread: Option<BTreeSet<DeviceId>>,
    /// Something was read and not judged yet.
    fresh: bool,
    /// When the next alarm is due.
    due: Option<Millis>,
}

impl Look {
    fn new(mut ports: DriftPorts, patience: i64, out: watch::Sender<Arc<Drifts>>) -> Look {
        let (mut registry, expectations) = (ports.registry.moved(), ports.store.expectations());
        registry.mark_changed();
        ports.config.mark_changed();
        Look {
            ports,
            patience,
            out,
            registry,
            expectations,
            devices: Vec::new(),
            expected: BTreeMap::new(),
            overdue: BTreeMap::new(),
            serial_numbers: BTreeMap::new(),
            unread: None,
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
        if self.ports.config.has_changed().unwrap_or(false) {
            let config = self.ports.config.borrow_and_update().clone();
            let named = |device: &Common| device.serial_number.clone().map(|serial| (device.id.clone(), serial));
            self.serial_numbers = config.devices().into_iter().filter_map(named).collect();
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
        let (known, (found, calm)) = (self.out.borrow().clone(), self.find(now));
        let plan = drift::plan(&known, found, &calm, self.patience, now);
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

    /// What drifts, and what of it raises no alarm.
    fn find(&self, now: Millis) -> (Vec<(DeviceId, Drift)>, Calm) {
        let (mut found, mut calm, nothing) = (Vec::new(), Calm::new(), Expected::default());
        for device in &self.devices {
            let mut say =
                |kind, since, text| found.push((device.id.clone(), Drift { kind, since, text, alarmed: false }));
            if device.lifecycle == Lifecycle::Maintenance {
                calm.extend(Kind::ALL.map(|kind| (device.id.clone(), kind)));
            }
            let expected = self.expected.get(&device.id).unwrap_or(&nothing);
            if let Some(standing) = &expected.unsettled {
                say(Kind::Configuration, standing.since, standing.text());
            }
            if let (Some(wanted), Some(runs)) = (&expected.firmware, &device.firmware_version)
                && wanted != runs
            {
                say(Kind::Firmware, now, format!("should run firmware {wanted}, runs {runs}"));
            }
            let unit = self.serial_numbers.get(&device.id).zip(expected.serial_number.as_ref());
            match (unit.filter(|(registered, says)| registered != says), self.overdue.get(&device.id)) {
                (Some((registered, says)), _) => {
                    say(Kind::Identity, now, format!("should be serial number {registered}, is {says}: another unit"));
                }
                // What runs out has an alarm of its own, graver as the end comes nearer.
                (None, Some(text)) => {
                    say(Kind::Identity, now, text.clone());
                    calm.insert((device.id.clone(), Kind::Identity));
                }
                (None, None) => {}
            }
        }
        (found, calm)
    }
}

/// Only who may talk can be asked to be something; the gateway is not its own child.
pub fn takes_part(device: &Device) -> bool {
    device.lifecycle.may_talk() && device.protocol != Protocol::Gateway
}
