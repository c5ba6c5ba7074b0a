//! The bus owner: one task per port or endpoint, the only one that touches its wire. Plans, health and filters are
//! values in `unit`; this is the loop around them.
//!
//! ```text
//!   stop ─┐
//! config ─┤  first what is said to us,        ┌─▶ exchange ─▶ wire
//!  inbox ─┼──▶ then the one thing most due ───┤
//!  clock ─┘    (writes again between reads)   └─▶ readings, read-backs, reachability
//! ```

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    link::Opener,
    plan::Learned,
    schedule::{Due, Schedule, UnitKey, Work},
    scope::Scope,
    status::{Counters, Meter, Status},
    tools::Tool,
    unit::Unit,
    wire::Wire,
};
use crate::{
    bus::{DriverSender, FromDriver, ToDriver, ToDriverReceiver},
    clock,
    config::modbus::{Bus, Link, Serial},
    model::{
        command::{Refusal, RefusalCode},
        ids::DeviceId,
        time::Millis,
    },
};

/// What a bus holds of the outside world.
#[derive(Debug)]
pub struct Ports {
    pub readings: DriverSender,
    pub inbox: ToDriverReceiver,
    pub status: watch::Sender<Status>,
    /// What devices taught in earlier lives, and every new lesson; whoever built this keeps them.
    pub learned: watch::Sender<HashMap<DeviceId, Learned>>,
}

/// Why a bus stopped working.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    #[error("the keeper takes no more readings")]
    NobodyListens,
}

/// Runs one bus until `stop`, over any number of broken wires.
///
/// A broken wire does not end it: reconnecting (at most 5 s apart) is done here, so that the health, the lessons and
/// the last values of each unit survive it. It returns an error only where going on makes no sense; `ports` are
/// borrowed, so that the supervisor can call again after a panic.
pub async fn run(
    mut config: watch::Receiver<Arc<Bus>>,
    ports: &mut Ports,
    stop: CancellationToken,
) -> Result<(), DriverError> {
    let bus = config.borrow_and_update().clone();
    let mut owner = Owner::new(bus, ports, stop.clone());
    loop {
        if owner.nobody_listens {
            return Err(DriverError::NobodyListens);
        }
        owner.publish();
        if let Some(tool) = owner.tools.pop_front() {
            owner.run_tool(tool).await;
            continue;
        }
        let wake = owner.next_wake();
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            changed = config.changed(), if !owner.orphaned => match changed {
                Ok(()) => {
                    let bus = config.borrow_and_update().clone();
                    owner.reconfigure(bus);
                }
                Err(_) => owner.orphaned = true,
            },
            message = owner.ports.inbox.recv(), if owner.inbox_open => match message {
                Some(message) => owner.serve(message).await,
                None => owner.inbox_open = false,
            },
            () = due(wake), if wake.is_some() => owner.work().await,
        }
    }
}

/// Ready when that moment has come; at once where it has passed, which a timer would round up to its next millisecond.
async fn due(wake: Option<Instant>) {
    if let Some(wake) = wake.filter(|wake| *wake > Instant::now()) {
        sleep_until(wake).await;
    }
}

pub(super) struct Owner<'p> {
    pub bus: Arc<Bus>,
    pub ports: &'p mut Ports,
    pub stop: CancellationToken,
    pub opener: Opener,
    pub wire: Option<Wire>,
    pub units: HashMap<UnitKey, Unit>,
    pub keys: HashMap<DeviceId, UnitKey>,
    pub schedule: Schedule,
    pub counters: Counters,
    pub meter: Meter,
    pub scopes: Vec<Scope>,
    pub tools: VecDeque<Tool>,
    /// Requests without any reply in a row, whichever the unit.
    pub silent: u32,
    pub started: Millis,
    /// The unit whose turn it is; a reconnect in the middle of it schedules only the others.
    pub working: Option<UnitKey>,
    pub nobody_listens: bool,
    next_key: UnitKey,
    published: Instant,
    /// Of the window before the last publication.
    utilisation: f64,
    inbox_open: bool,
    orphaned: bool,
}

impl<'p> Owner<'p> {
    fn new(bus: Arc<Bus>, ports: &'p mut Ports, stop: CancellationToken) -> Self {
        let mut owner = Self {
            bus: Arc::new(Bus { devices: Vec::new(), ..(*bus).clone() }),
            ports,
            stop,
            opener: Opener::new(),
            wire: None,
            units: HashMap::new(),
            keys: HashMap::new(),
            schedule: Schedule::default(),
            counters: Counters::default(),
            meter: Meter::default(),
            scopes: Vec::new(),
            tools: VecDeque::new(),
            silent: 0,
            started: clock::now(),
            working: None,
            nobody_listens: false,
            next_key: 0,
            published: Instant::now(),
            utilisation: 0.0,
            inbox_open: true,
            orphaned: false,
        };
        owner.reconfigure(bus);
        owner
    }

    /// Takes over a new configuration: units that did not change are not touched.
    fn reconfigure(&mut self, bus: Arc<Bus>) {
        if !self.bus.same_wire(&bus) {
            self.wire = None;
            self.opener = Opener::new();
        } else if let Some(wire) = &mut self.wire {
            wire.adopt(&bus);
        }
        let wanted: HashMap<&DeviceId, &Arc<crate::config::modbus::Device>> =
            bus.devices.iter().map(|device| (&device.id, device)).collect();
        let gone: Vec<DeviceId> = self.keys.keys().filter(|id| !wanted.contains_key(id)).cloned().collect();
        for id in gone {
            if let Some(key) = self.keys.remove(&id) {
                self.units.remove(&key);
            }
        }
        let now = Instant::now();
        for device in &bus.devices {
            let known = self.keys.get(&device.id).copied();
            if let Some(unit) = known.and_then(|key| self.units.get_mut(&key))
                && unit.device == *device
            {
                unit.device = device.clone();
                continue;
            }
            let learned = self.ports.learned.borrow().get(&device.id).cloned().unwrap_or_default();
            let mut unit = Unit::new(device.clone(), learned, now);
            if let Some(old) = known.and_then(|key| self.units.remove(&key))
                && old.device.unit == device.unit
            {
                // The same unit with other points: whether it is there did not change.
                (unit.health, unit.counters, unit.last_heard) = (old.health, old.counters, old.last_heard);
                (unit.patience, unit.reason) = (old.patience, old.reason);
            }
            let key = self.next_key;
            self.next_key += 1;
            self.keys.insert(device.id.clone(), key);
            self.units.insert(key, unit);
            self.start(key, now);
        }
        self.bus = bus;
    }

    /// Puts a unit's work into the schedule, and voids what was there.
    pub fn start(&mut self, key: UnitKey, at: Instant) {
        let Some(unit) = self.units.get_mut(&key) else { return };
        let generation = unit.supersede();
        if let Some(next) = unit.health.next_probe() {
            self.schedule.add(Due { at: next, priority: 9, unit: key, generation, work: Work::Probe });
        } else if !unit.located || unit.firmware.is_due(at) {
            self.schedule.add(Due { at, priority: 9, unit: key, generation, work: Work::Probe });
        } else {
            for (index, group) in unit.groups.iter().enumerate() {
                let priority = group.priority;
                self.schedule.add(Due { at, priority, unit: key, generation, work: Work::Group(index) });
            }
        }
    }

    /// The scan of other line settings: the wire is opened anew with them, polling waits meanwhile.
    pub fn change_line(&mut self, serial: Serial) {
        self.wire = None;
        self.opener = Opener::new();
        self.bus = Arc::new(Bus { link: Link::Serial(serial), ..(*self.bus).clone() });
    }

    pub fn restore_line(&mut self, own: &Arc<Bus>, changed: bool) {
        if changed {
            self.wire = None;
            self.opener = Opener::new();
            self.bus = own.clone();
        }
    }

    fn next_wake(&self) -> Option<Instant> {
        let due = self.schedule.next();
        // A broken wire is tried again on its own beat, whatever the units' back-off is.
        let reopen = (self.wire.is_none() && !self.units.is_empty()).then_some(self.opener.next);
        let scope = self.scopes.iter().map(|scope| scope.until).min();
        [due, reopen, scope].into_iter().flatten().min()
    }

    /// Does the one thing that is most due.
    pub async fn work(&mut self) {
        let now = Instant::now();
        if self.wire.is_none() && !self.units.is_empty() && now >= self.opener.next {
            self.open().await;
        }
        let Some(due) = self.schedule.pop(now) else { return };
        let current = self.units.get(&due.unit).is_some_and(|unit| unit.generation == due.generation);
        if !current {
            return;
        }
        self.working = Some(due.unit);
        match due.work {
            Work::Group(group) => self.cycle(due, group).await,
            Work::Probe => self.probe(due.unit).await,
        }
        self.working = None;
    }

    /// Work of others first: writes and calls that came in meanwhile. Tools wait for their turn.
    pub async fn between(&mut self) {
        while let Ok(message) = self.ports.inbox.try_recv() {
            self.serve(message).await;
        }
    }

    pub async fn serve(&mut self, message: ToDriver) {
        match message {
            ToDriver::Write { device, values, reply } => {
                let result = self.write_values(&device, values).await;
                let _ = reply.send(result);
            }
            ToDriver::Call { device, command, reply } => {
                let result = self.call(&device, command).await;
                let _ = reply.send(result);
            }
            ToDriver::Tool { request, progress, reply } => {
                if let Some(tool) = self.take_tool(request, progress, reply) {
                    self.tools.push_back(tool);
                }
            }
        }
    }

    pub fn key_of(&self, device: &DeviceId) -> Result<UnitKey, Refusal> {
        self.keys.get(device).copied().ok_or_else(|| {
            Refusal::new(RefusalCode::UnknownDevice, format!("{device} is not on bus {}", self.bus.name))
        })
    }

    pub async fn tell(&mut self, message: FromDriver) {
        let sent = tokio::select! {
            sent = self.ports.readings.send(message) => sent,
            () = self.stop.cancelled() => return,
        };
        self.nobody_listens |= sent.is_err();
    }

    /// The newest lesson of a unit, for whoever keeps it.
    pub fn keep_lesson(&mut self, key: UnitKey) {
        let Some(unit) = self.units.get(&key) else { return };
        let (id, learned) = (unit.device.id.clone(), unit.learned.clone());
        tracing::info!(device = %id, cuts = learned.cuts.len(), max = learned.max_registers, "learned about a register map");
        self.ports.learned.send_modify(|all| drop(all.insert(id, learned)));
    }

    pub fn publish(&mut self) {
        self.end_scopes();
        let now = Instant::now();
        let window = now.saturating_duration_since(self.published);
        if window < Duration::from_secs(1) {
            return;
        }
        self.published = now;
        self.utilisation = self.meter.take(window);
        let status = self.status();
        self.ports.status.send_replace(status);
    }

    pub fn status(&self) -> Status {
        let mut units: Vec<_> = self.units.values().map(Unit::status).collect();
        units.sort_by_key(|unit| (unit.unit, unit.device.clone()));
        let strays = self.wire.as_ref().map_or(0, |wire| wire.strays);
        Status {
            bus: self.bus.name.clone(),
            at: clock::now(),
            connected: self.wire.is_some(),
            reason: self.wire.is_none().then(|| self.opener.reason.clone()),
            counters: Counters { strays: self.counters.strays + strays, ..self.counters.clone() },
            utilisation: self.utilisation,
            units,
        }
    }
}
