//! The Modbus driver as the daemon sees it: one owner task per configured bus, and the way of a request to its bus.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use serde_json::Value as Json;
use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use super::{
    owner::{self, DriverError},
    plan::Learned,
    status::Status,
};
use crate::{
    bus::{DriverSender, ToDriver, ToDriverReceiver, ToDriverSender, WORK},
    config::modbus::Bus,
    model::{
        command::{Refusal, RefusalCode},
        ids::DeviceId,
    },
    tasks::{Ended, Tasks, caught},
};

/// What the driver holds of the outside world.
#[derive(Debug)]
pub struct Ports {
    pub readings: DriverSender,
    pub inbox: ToDriverReceiver,
    /// One status per bus, by name. For the page and metrics.
    pub status: watch::Sender<BTreeMap<Arc<str>, watch::Receiver<Status>>>,
    /// What devices taught about their register maps; begin with what was kept, keep what it becomes.
    pub learned: watch::Sender<HashMap<DeviceId, Learned>>,
}

/// A running bus.
struct Running {
    config: watch::Sender<Arc<Bus>>,
    inbox: ToDriverSender,
    tasks: Tasks,
}

/// Runs all buses of `config` until `stop`. A bus that is added, changed or removed touches no other.
pub async fn run(
    mut config: watch::Receiver<Arc<Vec<Arc<Bus>>>>,
    ports: &mut Ports,
    tasks: &Tasks,
    stop: CancellationToken,
) -> Result<(), DriverError> {
    let mut running: BTreeMap<Arc<str>, Running> = BTreeMap::new();
    let mut orphaned = false;
    let wanted = config.borrow_and_update().clone();
    apply(&mut running, &wanted, ports, tasks).await;
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            changed = config.changed(), if !orphaned => {
                orphaned = changed.is_err();
                let wanted = config.borrow_and_update().clone();
                apply(&mut running, &wanted, ports, tasks).await;
            }
            message = ports.inbox.recv() => match message {
                Some(message) => route(&running, message).await,
                None => {
                    stop.cancelled().await;
                    break;
                }
            },
        }
    }
    for bus in running.into_values() {
        bus.tasks.stop_and_wait().await;
    }
    Ok(())
}

/// Starts, changes and stops owners until they are as wanted.
async fn apply(running: &mut BTreeMap<Arc<str>, Running>, wanted: &[Arc<Bus>], ports: &mut Ports, tasks: &Tasks) {
    let gone: Vec<Arc<str>> = running.keys().filter(|name| !wanted.iter().any(|b| b.name == **name)).cloned().collect();
    for name in gone {
        if let Some(bus) = running.remove(&name) {
            bus.tasks.stop_and_wait().await;
        }
        ports.status.send_modify(|all| drop(all.remove(&name)));
    }
    for bus in wanted {
        if let Some(known) = running.get(&bus.name) {
            known.config.send_if_modified(|held| {
                let changed = **held != **bus;
                if changed {
                    *held = bus.clone();
                }
                changed
            });
            continue;
        }
        let (config, watched) = watch::channel(bus.clone());
        let (inbox, work) = mpsc::channel(WORK);
        let (status, seen) = watch::channel(Status { bus: bus.name.clone(), ..Status::default() });
        let own = tasks.child();
        let stop = own.stopping();
        let (readings, learned) = (ports.readings.clone(), ports.learned.clone());
        let mut bus_ports = owner::Ports { readings, inbox: work, status, learned };
        let name = bus.name.clone();
        own.spawn(format!("modbus {name}"), async move { supervise(&name, watched, &mut bus_ports, stop).await });
        ports.status.send_modify(|all| drop(all.insert(bus.name.clone(), seen)));
        running.insert(bus.name.clone(), Running { config, inbox, tasks: own });
    }
}

/// Runs one owner; after a panic again, later each time.
async fn supervise(name: &str, config: watch::Receiver<Arc<Bus>>, ports: &mut owner::Ports, stop: CancellationToken) {
    let mut pause = Duration::from_secs(1);
    loop {
        let mut result = Ok(());
        let ended = caught(async { result = owner::run(config.clone(), ports, stop.clone()).await }).await;
        if stop.is_cancelled() {
            return;
        }
        match (ended, result) {
            (Ended::Panicked(message), _) => tracing::error!(bus = name, message, "a modbus bus panicked"),
            (Ended::Returned, Err(error)) => tracing::error!(bus = name, %error, "a modbus bus ended"),
            (Ended::Returned, Ok(())) => return,
        }
        tokio::select! {
            () = sleep(pause) => {}
            () = stop.cancelled() => return,
        }
        pause = (pause * 2).min(Duration::from_secs(60));
    }
}

/// Hands a message to the bus of its device, or to the one it names.
async fn route(running: &BTreeMap<Arc<str>, Running>, message: ToDriver) {
    let of_device =
        |device: &DeviceId| running.values().find(|bus| bus.config.borrow().devices.iter().any(|d| d.id == *device));
    let bus = match &message {
        ToDriver::Write { device, .. } | ToDriver::Call { device, .. } => of_device(device),
        ToDriver::Tool { request, .. } => {
            let device = request.get("device").and_then(|device| device.as_str());
            let known = device.and_then(|device| of_device(&DeviceId::new(device).ok()?));
            match request.get("bus").and_then(|bus| bus.as_str()) {
                Some(name) => connection_of(running, name, request).or_else(|| by_link(running, name)),
                None if device.is_some() => known,
                None if running.len() == 1 => running.values().next(),
                None => None,
            }
        }
    };
    let Some(bus) = bus else { return refuse(running, message) };
    // A bus that is gone is being stopped; its receiver is dropped with the message's reply.
    let _ = bus.inbox.send(message).await;
}

/// A bus by its name; where it has several connections, the one that the device or unit in question is on.
fn connection_of<'r>(running: &'r BTreeMap<Arc<str>, Running>, name: &str, request: &Json) -> Option<&'r Running> {
    let own = running.get(name)?;
    let of_pool = |other: &str| other.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let unit = request.get("unit").and_then(Json::as_u64);
    let device = request.get("device").and_then(Json::as_str);
    let mut pool = running.iter().filter(|(other, _)| of_pool(other)).map(|(_, bus)| bus);
    let asked = |bus: &&Running| {
        let config = bus.config.borrow();
        config.devices.iter().any(|d| Some(u64::from(d.unit)) == unit || Some(d.id.as_str()) == device)
    };
    Some(pool.find(asked).unwrap_or(own))
}

/// A bus by its serial port or address instead of its name.
fn by_link<'r>(running: &'r BTreeMap<Arc<str>, Running>, link: &str) -> Option<&'r Running> {
    running.values().find(|bus| bus.config.borrow().link.is_called(link))
}

fn refuse(running: &BTreeMap<Arc<str>, Running>, message: ToDriver) {
    let names: Vec<&str> = running.keys().map(|name| &**name).collect();
    let unknown = |what: String| Refusal::new(RefusalCode::UnknownDevice, what);
    let off = |device: &dyn std::fmt::Display| {
        format!(
            "{device} is on no modbus bus, or may not talk (suspended, …); its bus and unit id lead to it all the same"
        )
    };
    match message {
        ToDriver::Write { device, reply, .. } => drop(reply.send(Err(unknown(off(&device))))),
        ToDriver::Call { device, reply, .. } => drop(reply.send(Err(unknown(off(&device))))),
        ToDriver::Tool { request, reply, .. } => {
            let named = |key| request.get(key).filter(|name| name.is_string());
            let refusal = match (named("bus"), named("device")) {
                _ if names.is_empty() => unknown("no modbus bus is configured".into()),
                (Some(bus), _) => unknown(format!("there is no bus {bus}; one of {}", names.join(", "))),
                (None, Some(device)) => unknown(off(&device)),
                (None, None) => {
                    let text = format!("say which bus: one of {}", names.join(", "));
                    Refusal::new(RefusalCode::PayloadInvalid, text)
                }
            };
            let _ = reply.send(Err(refusal));
        }
    }
}
