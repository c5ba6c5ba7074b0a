//! The keeper: takes in what children and drivers say, folds state into shadows and desired into writes, answers the
//! shadow and jobs topics. It never sees the wire of any protocol, and no SQL.
//!
//! ```text
//!  doors ──Vec<Inbound>──┐                        ┌─▶ local broker (accepted, delta, documents, commands, errors)
//!  drivers ─FromDriver───┤  keeper ─▶ store ─▶ done ┼─▶ drivers (write what is outstanding, call)
//!  cloud, page ──Order───┘   one task, no waiting   └─▶ registry, jobs, rules, updates
//! ```
//!
//! Work is queued at the store in the order in which it came and finished in that order after its commit; a reply to a
//! door leaves only then.

mod announce;
mod asks;
mod commands;
mod config;
mod desired;
mod done;
mod jobs;
mod keeper;
mod latest;
mod pursuit;
mod shadows;
mod takein;
#[doc(hidden)] // for tests/fuzz
pub mod telemetry;
mod voice;

use std::sync::Arc;

use serde_json::Value as Json;
use tokio::sync::{mpsc, oneshot};

pub use crate::config::shadows::Shadows as Settings;
use crate::{
    bus::{
        ChildEvent, DriverReceiver, Events, Fetch, InboundReceiver, LocalSender, Order, Outcomes, Readings, Reply,
        Signs, ToDriverSender, UpdateAskSender, UpdateReports,
    },
    model::{
        command::{Door, Lock, Refusal, RefusalCode},
        configuration::Scope,
        executions::{Execution, Given},
        ids::DeviceId,
        shadow::{Document, OWN_SHADOW},
        time::Millis,
        view::{Change, CommandView, ConfigView, Live, Trend},
    },
    store::{Store, StoreError},
    tasks::Tasks,
};

/// The ends of the keeper's channels.
pub struct Ports {
    pub inbound: InboundReceiver,
    pub drivers: DriverReceiver,
    pub children: mpsc::Receiver<ChildEvent>,
    pub orders: mpsc::Receiver<Order>,
    pub fetches: mpsc::Receiver<Fetch>,
    pub local: LocalSender,
    pub events: Events,
    pub store: Store,
    pub updates: UpdateReports,
    pub asks: UpdateAskSender,
    pub signs: Signs,
    pub outcomes: Outcomes,
    pub readings: Readings,
}

/// Begins to keep. The keeper ends when its tasks are told to stop, after it has taken in what is queued.
pub fn start(settings: Settings, ports: Ports, tasks: &Tasks) -> Keeper {
    let (asks, questions) = mpsc::channel(64);
    let store = ports.store.clone();
    tasks.spawn("keeper", keeper::run(settings, ports, questions, tasks.clone()));
    Keeper { asks, store }
}

/// The handle: cheap to clone.
#[derive(Clone)]
pub struct Keeper {
    asks: mpsc::Sender<Ask>,
    store: Store,
}

/// What the handle asks of the task.
enum Ask {
    Attach(DeviceId, ToDriverSender),
    Detach(DeviceId),
    Latest(DeviceId, oneshot::Sender<Vec<Live>>),
    AllLatest(oneshot::Sender<Vec<(DeviceId, Vec<Live>)>>),
    Trend { device: DeviceId, name: String, reply: oneshot::Sender<Vec<(Millis, f64, f64, f64)>> },
    Lock { device: DeviceId, member: String, lock: Option<Lock>, door: Door },
    Give { device: DeviceId, given: Given, reply: Reply<bool> },
    CancelJob { device: DeviceId, job_id: String, force: bool, reply: Reply<bool> },
    Config { scope: Scope, name: String, document: Json, reply: Reply<Json> },
    Pulse(oneshot::Sender<()>),
}

impl Keeper {
    /// From now on the device's desired values and commands go to this driver; what is outstanding goes at once.
    pub async fn attach(&self, device: DeviceId, driver: ToDriverSender) {
        let _ = self.asks.send(Ask::Attach(device, driver)).await;
    }

    pub async fn detach(&self, device: DeviceId) {
        let _ = self.asks.send(Ask::Detach(device)).await;
    }

    /// The latest values of a device, by name.
    pub async fn latest(&self, device: &DeviceId) -> Vec<Live> {
        self.ask(|reply| Ask::Latest(device.clone(), reply)).await.unwrap_or_default()
    }

    pub async fn all_latest(&self) -> Vec<(DeviceId, Vec<Live>)> {
        self.ask(Ask::AllLatest).await.unwrap_or_default()
    }

    /// The recent past of a number between `from` and `to`, thinned to `points`.
    pub async fn trend(&self, device: &DeviceId, name: &str, from: Millis, to: Millis, points: usize) -> Trend {
        let ask = |reply| Ask::Trend { device: device.clone(), name: name.to_owned(), reply };
        let mut past = self.ask(ask).await.unwrap_or_default();
        past.retain(|(at, ..)| (from..=to).contains(at));
        Trend { name: name.to_owned(), from, to, points: latest::thin(past, points) }
    }

    /// The shadow as last committed; `name` is `None` for the classic one.
    pub async fn shadow(&self, device: &DeviceId, name: Option<&str>) -> Result<Option<Arc<Document>>, StoreError> {
        self.store.shadow(device, name.unwrap_or("")).await
    }

    /// What stands between desired and reported: per member `{"code", "message", "value", "at"}`.
    pub async fn problems(&self, device: &DeviceId) -> Result<serde_json::Map<String, Json>, StoreError> {
        let document = self.store.shadow(device, OWN_SHADOW).await?;
        let reported = document.map(|document| document.reported()).unwrap_or_default();
        Ok(reported.get("problems").and_then(Json::as_object).cloned().unwrap_or_default())
    }

    /// Who changed the device's shadows, newest first, all before `before`.
    pub async fn history(
        &self,
        device: &DeviceId,
        before: Option<Millis>,
        limit: usize,
    ) -> Result<Vec<Change>, StoreError> {
        let entries = self.store.history(Some(device), before, limit).await?;
        Ok(entries.into_iter().flat_map(announce::as_changes).take(limit).collect())
    }

    /// Commands of the device and what became of them, newest first.
    pub async fn commands(&self, device: &DeviceId, limit: usize) -> Result<Vec<CommandView>, StoreError> {
        self.store.commands(device, limit).await
    }

    /// Keeps a desired value from being written to the device (`None`: no longer), whoever desires it.
    pub async fn lock(&self, device: DeviceId, member: String, lock: Option<Lock>, door: Door) {
        let _ = self.asks.send(Ask::Lock { device, member, lock, door }).await;
    }

    /// Gives a device a job, which it sees on its jobs topics; false where it has one of that id already.
    pub async fn queue_execution(&self, device: &DeviceId, given: Given) -> Result<bool, Refusal> {
        self.ask(|reply| Ask::Give { device: device.clone(), given, reply }).await.unwrap_or_else(|| Err(gone()))
    }

    /// Cancels a device's job; one in progress only with `force`. False where there was nothing to cancel.
    pub async fn cancel_execution(&self, device: &DeviceId, job_id: &str, force: bool) -> Result<bool, Refusal> {
        let ask = |reply| Ask::CancelJob { device: device.clone(), job_id: job_id.to_owned(), force, reply };
        self.ask(ask).await.unwrap_or_else(|| Err(gone()))
    }

    /// The jobs a device has, pending and ended.
    pub async fn executions(&self, device: &DeviceId) -> Result<Vec<Execution>, StoreError> {
        self.store.executions(device).await
    }

    /// Assigns a configuration (`{"version", "config", "priority"?}`) to a device, a group or a type, and pushes it to
    /// every device for which it counts.
    pub async fn assign_config(&self, scope: Scope, name: &str, document: Json) -> Result<Json, Refusal> {
        let ask = |reply| Ask::Config { scope, name: name.to_owned(), document, reply };
        self.ask(ask).await.unwrap_or_else(|| Err(gone()))
    }

    /// Which configuration the device should have and which it has, where one counts for it.
    pub async fn config(&self, device: &DeviceId) -> Result<Option<ConfigView>, StoreError> {
        Ok(self.store.standing(device).await?.map(|standing| config::as_view(&standing)))
    }

    /// Answers when the keeper is alive and makes progress: what the watchdog asks.
    pub async fn pulse(&self) -> bool {
        self.ask(Ask::Pulse).await.is_some()
    }

    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.asks.send(ask(reply)).await.ok()?;
        answer.await.ok()
    }
}

fn gone() -> Refusal {
    Refusal::new(RefusalCode::Busy, "the gateway is stopping; ask again when it is back")
}
