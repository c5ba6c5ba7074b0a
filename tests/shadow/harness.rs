//! A keeper with a real store, and the other ends of its channels.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use headgate::{
    bus::{
        self, ChildEvent, Events, Fetch, FromDriver, Inbound, LocalMessage, Order, OrderKind, Outcome, Sign, UpdateAsk,
    },
    clock,
    model::{
        command::{Door, Refusal},
        ids::DeviceId,
        reading::Reading,
        record::{Lane, Record},
        topic::LocalTopic,
        update::UpdateProgress,
    },
    store::{Store, WriterThread},
    tasks::Tasks,
    twins::{self, Keeper, Settings},
};
use serde_json::Value as Json;
use tokio::sync::{mpsc, oneshot, watch};

pub struct Gateway {
    pub keeper: Keeper,
    pub store: Store,
    pub inbound: bus::InboundSender,
    pub drivers: bus::DriverSender,
    pub children: mpsc::Sender<ChildEvent>,
    pub orders: mpsc::Sender<Order>,
    pub fetches: mpsc::Sender<Fetch>,
    pub local: mpsc::Receiver<LocalMessage>,
    pub updates: mpsc::Receiver<(DeviceId, UpdateProgress)>,
    pub asks: mpsc::Receiver<UpdateAsk>,
    pub signs: mpsc::Receiver<Sign>,
    pub outcomes: mpsc::Receiver<Outcome>,
    pub readings: mpsc::Receiver<Arc<Reading>>,
    tasks: Tasks,
    thread: Option<WriterThread>,
    folder: Arc<tempfile::TempDir>,
}

pub fn id(text: &str) -> DeviceId {
    DeviceId::new(text).expect("a device id")
}

impl Gateway {
    pub fn start() -> Gateway {
        Self::start_with(Settings::default())
    }

    pub fn start_with(settings: Settings) -> Gateway {
        Self::start_in(settings, Arc::new(tempfile::tempdir().expect("folder")))
    }

    fn start_in(settings: Settings, folder: Arc<tempfile::TempDir>) -> Gateway {
        let (store, thread) = Store::open(folder.path()).expect("store");
        let tasks = Tasks::new();
        let (inbound, inbound_end) = mpsc::channel(64);
        let (drivers, drivers_end) = mpsc::channel(64);
        let (children, children_end) = mpsc::channel(64);
        let (orders, orders_end) = mpsc::channel(64);
        let (fetches, fetches_end) = mpsc::channel(64);
        let (local_end, local) = mpsc::channel(65_536);
        let (updates_end, updates) = mpsc::channel(64);
        let (asks_end, asks) = mpsc::channel(64);
        let (signs_end, signs) = mpsc::channel(1024);
        let (outcomes_end, outcomes) = mpsc::channel(64);
        let (readings_end, readings) = mpsc::channel(1024);
        let ports = twins::Ports {
            inbound: inbound_end,
            drivers: drivers_end,
            children: children_end,
            orders: orders_end,
            fetches: fetches_end,
            local: local_end,
            events: Events::new(),
            store: store.clone(),
            updates: updates_end,
            asks: asks_end,
            signs: signs_end,
            outcomes: outcomes_end,
            readings: watch::channel(Some(readings_end)).1,
        };
        let keeper = twins::start(settings, ports, &tasks);
        let thread = Some(thread);
        Gateway {
            keeper,
            store,
            inbound,
            drivers,
            children,
            orders,
            fetches,
            local,
            updates,
            asks,
            signs,
            outcomes,
            readings,
            tasks,
            thread,
            folder,
        }
    }

    /// Stops the keeper and the store, and starts both again on the same database.
    pub async fn restart(mut self) -> Gateway {
        self.tasks.stop_and_wait().await;
        self.store.stop().await;
        self.thread.take().expect("running").join();
        Self::start_in(Settings::default(), self.folder.clone())
    }

    /// Publishes as the device itself would; the answer is what its door would be told.
    pub async fn publish(&self, topic: &str, payload: impl Into<Bytes>) -> Result<(), Refusal> {
        let (inbound, answer) = inbound(topic, payload);
        self.inbound.send(vec![inbound]).await.expect("the keeper runs");
        answer.await.expect("an answer")
    }

    pub async fn order(&self, device: &str, what: OrderKind) -> Result<Json, Refusal> {
        self.order_by(device, Door::Cloud, what).await
    }

    pub async fn order_by(&self, device: &str, door: Door, what: OrderKind) -> Result<Json, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.orders.send(Order { device: id(device), door, what, reply }).await.expect("the keeper runs");
        answer.await.expect("an answer")
    }

    pub async fn driver(&self, said: FromDriver) {
        self.drivers.send(said).await.expect("the keeper runs");
    }

    /// The next message the gateway says on its broker, as topic and JSON.
    pub async fn heard(&mut self) -> (String, Json) {
        let message = tokio::time::timeout(Duration::from_secs(10), self.local.recv()).await;
        let message = message.expect("a message within 10 s").expect("the keeper runs");
        let json = serde_json::from_slice(&message.payload).unwrap_or(Json::Null);
        (message.topic, json)
    }

    /// Everything said until now, after all that was asked before is finished.
    pub async fn said(&mut self) -> Vec<(String, Json)> {
        // An answered fetch and pulse lie behind everything that was queued before.
        let (reply, answer) = oneshot::channel();
        let what = bus::FetchKind::Delta;
        self.fetches.send(Fetch { device: id("nobody"), what, reply }).await.expect("runs");
        let _ = answer.await;
        assert!(self.keeper.pulse().await);
        let mut said = Vec::new();
        loop {
            tokio::task::yield_now().await;
            match tokio::time::timeout(Duration::from_millis(30), self.local.recv()).await {
                Ok(Some(message)) => {
                    said.push((message.topic, serde_json::from_slice(&message.payload).unwrap_or(Json::Null)));
                }
                _ => return said,
            }
        }
    }

    /// Waits for a message on `topic` and passes over others.
    pub async fn expect(&mut self, topic: &str) -> Json {
        loop {
            let (heard, json) = self.heard().await;
            if heard == topic {
                return json;
            }
        }
    }

    pub async fn records(&self, lane: Lane) -> Vec<Record> {
        self.store.read_after(lane, 0, 100_000, usize::MAX).await.expect("log")
    }
}

pub fn inbound(topic: &str, payload: impl Into<Bytes>) -> (Inbound, oneshot::Receiver<Result<(), Refusal>>) {
    let LocalTopic::Ingest(device, topic) = LocalTopic::parse(topic) else { panic!("{topic} is not taken in") };
    let (reply, answer) = oneshot::channel();
    let payload = payload.into();
    (Inbound { device, topic, payload, at: clock::now(), door: Door::Device, reply, mark: None }, answer)
}
