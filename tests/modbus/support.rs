//! A bus under test: the owner task with its ports in the test's hands.

use std::{collections::HashMap, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use headgate::{
    bus::{FromDriver, ToDriver},
    config::modbus::{self, Bus, profile::Profiles},
    config::read::Document,
    drivers::modbus::{
        owner::{self, Ports},
        status::Status,
    },
    model::{
        command::Refusal,
        ids::DeviceId,
        reading::{Quality, Reading, Value},
    },
    tasks::Tasks,
};
use serde_json::{Map, Value as Json};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, timeout_at},
};

/// Longer than anything here takes, even on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct Rig {
    pub config: watch::Sender<Arc<Bus>>,
    pub inbox: mpsc::Sender<ToDriver>,
    pub told: mpsc::Receiver<FromDriver>,
    pub tasks: Tasks,
}

pub fn id(text: &str) -> DeviceId {
    DeviceId::new(text).expect("an id")
}

pub fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().expect("an address")
}

/// A bus from a `devices.d` file without problems.
pub fn bus(text: &str) -> Bus {
    bus_with(&Profiles::shipped(), text)
}

pub fn bus_with(profiles: &Profiles, text: &str) -> Bus {
    let document = Document::parse("bus.toml", text);
    let bus = modbus::read(&document.root(), profiles);
    let problems = document.into_problems();
    assert!(problems.is_empty(), "{problems:#?}");
    bus.expect("a bus")
}

pub fn tcp_bus(address: SocketAddr, rest: &str) -> Bus {
    bus(&format!("[bus]\nname = \"test\"\nprotocol = \"modbus-tcp\"\naddress = \"{address}\"\n{rest}"))
}

pub fn rtu_bus(path: &Path, baud: u32, rest: &str) -> Bus {
    let path = path.display();
    bus(&format!("[bus]\nname = \"test\"\nprotocol = \"modbus-rtu\"\nport = \"{path}\"\nbaud = {baud}\n{rest}"))
}

impl Rig {
    pub fn start(bus: Bus) -> Rig {
        let tasks = Tasks::new();
        let (config, watched) = watch::channel(Arc::new(bus));
        let (readings, told) = mpsc::channel(100_000);
        let (inbox, work) = mpsc::channel(100);
        let status_tx = watch::Sender::new(Status::default());
        let mut ports = Ports { readings, inbox: work, status: status_tx, learned: watch::Sender::new(HashMap::new()) };
        let stop = tasks.stopping();
        tasks.spawn("bus", async move {
            let ended = owner::run(watched, &mut ports, stop.clone()).await;
            // At the end of a test its ears may be gone before the bus has heard that it is over.
            assert!(ended.is_ok() || stop.is_cancelled(), "the bus runs: {ended:?}");
        });
        Rig { config, inbox, told, tasks }
    }

    pub async fn next(&mut self) -> FromDriver {
        let until = Instant::now() + PATIENCE;
        timeout_at(until, self.told.recv()).await.expect("something in time").expect("the bus is alive")
    }

    /// The next reading of a device.
    pub async fn reading(&mut self, device: &str) -> Reading {
        loop {
            if let FromDriver::Reading(reading) = self.next().await
                && reading.device.as_str() == device
            {
                return reading;
            }
        }
    }

    /// The next value of a point, good or not.
    pub async fn sample(&mut self, device: &str, name: &str) -> (Option<Value>, Quality) {
        loop {
            let reading = self.reading(device).await;
            if let Some(sample) = reading.samples.into_iter().find(|s| &*s.name == name) {
                return (sample.value, sample.quality);
            }
        }
    }

    pub async fn reachable(&mut self, device: &str) -> (bool, Option<String>) {
        loop {
            if let FromDriver::Reachable { device: found, reachable, reason, .. } = self.next().await
                && found.as_str() == device
            {
                return (reachable, reason);
            }
        }
    }

    pub async fn reported(&mut self, device: &str, name: &str) -> Json {
        loop {
            if let FromDriver::Reported { device: found, reported, .. } = self.next().await
                && found.as_str() == device
                && let Some(value) = reported.get(name)
            {
                return value.clone();
            }
        }
    }

    pub async fn write(&self, device: &str, name: &str, value: Json) -> Result<Vec<(String, Refusal)>, Refusal> {
        let (reply, answer) = oneshot::channel();
        let values = Map::from_iter([(name.to_owned(), value)]);
        self.inbox.send(ToDriver::Write { device: id(device), values, reply }).await.expect("the bus is alive");
        answer.await.expect("an answer")
    }

    pub async fn tool(&self, request: Json) -> Result<Json, Refusal> {
        self.tool_with(request, None).await
    }

    pub async fn tool_with(&self, request: Json, progress: Option<mpsc::Sender<Json>>) -> Result<Json, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.inbox.send(ToDriver::Tool { request, progress, reply }).await.expect("the bus is alive");
        answer.await.expect("an answer")
    }

    /// The counters as they are now.
    pub async fn status(&self) -> Json {
        self.tool(serde_json::json!({ "tool": "status" })).await.expect("a status")
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}
