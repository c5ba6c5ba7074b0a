//! The drivers as the daemon holds them: one for all Modbus buses, one per CoAP child. A change of the configuration
//! touches only the devices it names. A device that may not talk is to its driver as if nobody had configured it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use serde_json::{Value as Json, json};
use tokio::sync::{Mutex, mpsc, watch};

use super::supervise::Supervisor;
use crate::{
    bus::{DriverSender, ToDriverSender, WORK},
    config::{
        Config,
        change::Changes,
        coap,
        modbus::{Bus, Link},
    },
    drivers::{
        self,
        modbus::{driver, plan::Learned, status::Status},
    },
    model::{device::Lives, ids::DeviceId},
    store::Store,
    tasks::Tasks,
    twins::Keeper,
};

/// Where what Modbus devices taught about their register maps is kept.
const LEARNED: &str = "modbus.learned";

/// Status of every bus by its name.
pub type Buses = watch::Receiver<BTreeMap<Arc<str>, watch::Receiver<Status>>>;

pub struct Drivers {
    keeper: Keeper,
    supervisor: Supervisor,
    readings: DriverSender,
    tasks: Tasks,
    modbus: watch::Sender<Arc<Vec<Arc<Bus>>>>,
    to_modbus: ToDriverSender,
    buses: Buses,
    coap: BTreeMap<DeviceId, CoapChild>,
    lives: watch::Receiver<Arc<Lives>>,
    asked: Asked,
}

/// The devices that are asked, and those that are configured and not asked, because they may not talk.
#[derive(Default)]
struct Asked {
    buses: Vec<Arc<Bus>>,
    coap: Vec<Arc<coap::Device>>,
    barred: BTreeSet<DeviceId>,
}

impl Asked {
    fn of(config: &Config, lives: &Lives) -> Asked {
        let barred = barred(config, lives);
        let bus = |bus: &Arc<Bus>| {
            let devices: Vec<_> = bus.devices.iter().filter(|device| !barred.contains(&device.id)).cloned().collect();
            if devices.len() == bus.devices.len() { bus.clone() } else { Arc::new(Bus { devices, ..(**bus).clone() }) }
        };
        let buses = config.buses.iter().map(bus).collect();
        let coap = config.coap_devices.iter().filter(|device| !barred.contains(&device.common.id)).cloned().collect();
        Asked { buses, coap, barred }
    }

    fn units(&self) -> Vec<DeviceId> {
        self.buses.iter().flat_map(|bus| bus.devices.iter().map(|device| device.id.clone())).collect()
    }
}

fn barred(config: &Config, lives: &Lives) -> BTreeSet<DeviceId> {
    let units = config.buses.iter().flat_map(|bus| &bus.devices).map(|device| &device.id);
    let all = units.chain(config.coap_devices.iter().map(|device| &device.common.id));
    all.filter(|id| !lives.of(id).may_talk()).cloned().collect()
}

struct CoapChild {
    config: watch::Sender<Arc<coap::Device>>,
    tasks: Tasks,
}

impl Drivers {
    /// Starts the driver of every configured device that may talk.
    pub async fn start(
        config: &Config,
        keeper: &Keeper,
        supervisor: &Supervisor,
        store: &Store,
        readings: DriverSender,
        mut lives: watch::Receiver<Arc<Lives>>,
        tasks: &Tasks,
    ) -> Drivers {
        let asked = Asked::of(config, &lives.borrow_and_update());
        let (modbus, wanted) = watch::channel(Arc::new(asked.buses.clone()));
        let (to_modbus, inbox) = mpsc::channel(WORK);
        let (status, buses) = watch::channel(BTreeMap::new());
        let learned = watch::Sender::new(recall(store).await);
        remember(store.clone(), learned.subscribe(), tasks);
        let ports = driver::Ports { readings: readings.clone(), inbox, status, learned };
        // The ends outlive a panic of the driver.
        let ports = Arc::new(Mutex::new(ports));
        let own = tasks.clone();
        supervisor.restartable(tasks, "modbus", move || {
            let (ports, wanted, own) = (ports.clone(), wanted.clone(), own.clone());
            async move { driver::run(wanted, &mut *ports.lock().await, &own, own.stopping()).await }
        });
        let mut drivers = Drivers {
            keeper: keeper.clone(),
            supervisor: supervisor.clone(),
            readings,
            tasks: tasks.clone(),
            modbus,
            to_modbus,
            buses,
            coap: BTreeMap::new(),
            lives,
            asked: Asked::default(),
        };
        for id in asked.units() {
            drivers.keeper.attach(id, drivers.to_modbus.clone()).await;
        }
        for device in &asked.coap {
            drivers.start_coap(device.clone());
        }
        drivers.asked = asked;
        drivers
    }

    /// Resolves when a device has another place in its life.
    pub async fn life_moved(&mut self) {
        if self.lives.changed().await.is_err() {
            std::future::pending().await
        }
    }

    /// Stops asking those that may not talk any more, and begins again with those that may.
    pub async fn follow_lives(&mut self, config: &Config) {
        let barred = barred(config, &self.lives.borrow_and_update());
        if barred == self.asked.barred {
            return;
        }
        for device in barred.difference(&self.asked.barred) {
            tracing::info!(%device, "may not talk: not asked any more");
        }
        for device in self.asked.barred.difference(&barred) {
            tracing::info!(%device, "may talk again: asked from now on");
        }
        self.apply(config).await;
    }

    /// Goes to `config`; says what changed, for people.
    pub async fn apply(&mut self, config: &Config) -> Vec<String> {
        let mut told = Vec::new();
        let new = Asked::of(config, &self.lives.borrow_and_update());
        let old = std::mem::take(&mut self.asked);
        let ids = Changes::between(&old.units(), &new.units(), ToString::to_string);
        for id in ids.removed.iter().filter_map(|id| DeviceId::new(id).ok()) {
            self.keeper.detach(id).await;
        }
        for id in ids.added {
            self.keeper.attach(id, self.to_modbus.clone()).await;
        }
        if old.buses != new.buses {
            self.modbus.send_replace(Arc::new(new.buses.clone()));
            told.push("Modbus buses follow the new configuration".to_owned());
        }
        let coap = Changes::between(&old.coap, &new.coap, |device| device.common.id.to_string());
        for id in coap.removed.iter().filter_map(|id| DeviceId::new(id).ok()) {
            if let Some(child) = self.coap.remove(&id) {
                child.tasks.stop_and_wait().await;
            }
            told.push(format!("{id} is no longer asked"));
            self.keeper.detach(id).await;
        }
        for device in coap.changed {
            if let Some(child) = self.coap.get(&device.common.id) {
                told.push(format!("{} changed", device.common.id));
                child.config.send_replace(device);
            }
        }
        for device in coap.added {
            told.push(format!("{} is asked from now on", device.common.id));
            self.start_coap(device);
        }
        self.asked = new;
        told
    }

    pub fn to_modbus(&self) -> ToDriverSender {
        self.to_modbus.clone()
    }

    pub fn buses(&self) -> Buses {
        self.buses.clone()
    }

    pub async fn stop(&self) {
        for child in self.coap.values() {
            child.tasks.stop_and_wait().await;
        }
        self.tasks.stop_and_wait().await;
    }

    fn start_coap(&mut self, device: Arc<coap::Device>) {
        let id = device.common.id.clone();
        let tasks = self.tasks.child();
        let (config, wanted) = watch::channel(device);
        let (keeper, readings, stop, own) = (self.keeper.clone(), self.readings.clone(), tasks.stopping(), id.clone());
        self.supervisor.restartable(&tasks, format!("coap {id}"), move || {
            let (keeper, readings, wanted) = (keeper.clone(), readings.clone(), wanted.clone());
            let (stop, id) = (stop.clone(), own.clone());
            async move {
                let (to_driver, commands) = mpsc::channel(WORK);
                keeper.attach(id, to_driver).await;
                drivers::coap::run(wanted, drivers::coap::Ports { readings, commands }, stop).await
            }
        });
        self.coap.insert(id, CoapChild { config, tasks });
    }
}

/// What the page shows beside a device that is asked: where it is and, for Modbus, what its driver counted.
pub fn about(buses: &Buses, config: &Config, id: &DeviceId) -> (Option<String>, Option<Json>) {
    if let Some(device) = config.coap_devices.iter().find(|device| device.common.id == *id) {
        return (Some(format!("coap://{}", device.address)), None);
    }
    let found = config
        .buses
        .iter()
        .find_map(|bus| bus.devices.iter().find(|device| device.id == *id).map(|device| (bus, device)));
    let Some((bus, device)) = found else { return (None, None) };
    let wire = match &bus.link {
        Link::Tcp { addresses, .. } => addresses.join(", "),
        Link::Listen { address } => format!("waits on {address}"),
        Link::Serial(serial) => serial.port.display().to_string(),
    };
    let status = buses.borrow().get(&bus.name).map(|status| status.borrow().clone());
    let counters = status.and_then(|status| {
        let unit = status.units.iter().find(|unit| unit.device.as_ref() == Some(id))?;
        Some(json!({ "unit": unit, "bus": { "connected": status.connected, "reason": status.reason, "utilisation": status.utilisation, "counters": status.counters } }))
    });
    (Some(format!("{} ({wire}), unit {}", bus.name, device.unit)), counters)
}

/// What every Modbus bus counted, as its `status` tool tells it; at most a second old.
pub fn statuses(buses: &Buses) -> Vec<Json> {
    buses.borrow().values().map(|status| json!(*status.borrow())).collect()
}

async fn recall(store: &Store) -> HashMap<DeviceId, Learned> {
    match store.setting(LEARNED).await {
        Ok(Some(bytes)) => serde_json::from_slice(&bytes).unwrap_or_default(),
        _ => HashMap::new(),
    }
}

/// Writes lessons down once nothing new came for a while; they are few, and can be learned again.
fn remember(store: Store, mut learned: watch::Receiver<HashMap<DeviceId, Learned>>, tasks: &Tasks) {
    let stop = tasks.stopping();
    tasks.spawn("modbus lessons", async move {
        while let Some(Ok(())) = stop.run_until_cancelled(learned.changed()).await {
            stop.run_until_cancelled(tokio::time::sleep(Duration::from_secs(5))).await;
            let bytes = serde_json::to_vec(&*learned.borrow_and_update()).unwrap_or_default();
            if let Err(error) = store.set_setting(LEARNED, bytes).await {
                tracing::warn!(%error, "what modbus devices taught could not be kept");
            }
        }
    });
}
