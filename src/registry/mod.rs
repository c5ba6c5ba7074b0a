//! Which devices exist, where they stand in their life, and whether they are there: the list everyone else asks.
//!
//! One task owns the [`book`]; signs of life come in over the bus, changes go out as one transaction (row and record
//! together) per batch. A disk that refuses delays what is told, and loses none of it: presence is a level, compared
//! with what the cloud was told last.

mod book;
pub mod drift;
mod entry;
mod task;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use tokio::sync::{mpsc, oneshot, watch};

use self::{book::Book, task::Task};
use crate::{
    bus::{ChildEvent, Events, SignsReceiver},
    config::presence::Presence as Settings,
    model::{
        command::{Door, Refusal, RefusalCode},
        device::{Device, Lifecycle, Lives, Protocol},
        ids::DeviceId,
    },
    store::{Store, StoreError},
    tasks::Tasks,
};

/// A device that the configuration names.
#[derive(Debug, Clone, PartialEq)]
pub struct Configured {
    pub id: DeviceId,
    pub protocol: Protocol,
    pub kind: Arc<str>,
    pub tags: Vec<String>,
    pub groups: Vec<String>,
    /// How often it is expected to be heard; `None` takes the default of `[presence]`.
    pub interval: Option<Duration>,
}

/// What the registry is wired to.
pub struct Ports {
    pub children: mpsc::Receiver<ChildEvent>,
    pub signs: SignsReceiver,
    pub store: Store,
    pub events: Events,
}

/// The handle: cheap to clone.
#[derive(Debug, Clone)]
pub struct Registry {
    requests: mpsc::Sender<Request>,
    ids: watch::Receiver<Vec<DeviceId>>,
    lives: watch::Receiver<Arc<Lives>>,
    moved: watch::Receiver<u64>,
}

enum Request {
    List(oneshot::Sender<Vec<Device>>),
    Get(DeviceId, oneshot::Sender<Option<Device>>),
    Sync(Vec<Configured>, Option<Settings>, oneshot::Sender<()>),
    Live(DeviceId, Lifecycle, Door, oneshot::Sender<Result<Device, Refusal>>),
    Label(DeviceId, Vec<String>, Vec<String>, oneshot::Sender<Result<Device, Refusal>>),
}

/// Reads what is on disk and starts the task.
pub async fn start(settings: Settings, ports: Ports, tasks: &Tasks) -> Result<Registry, StoreError> {
    let book = Book::new(settings, ports.store.devices().await?);
    let (requests, inbox) = mpsc::channel(64);
    let (ids_out, ids) = watch::channel(Vec::new());
    let (lives_out, lives) = watch::channel(Arc::new(book.lives()));
    let (moved_out, moved) = watch::channel(0);
    let mut task = Task::new(book, ports.store, ports.events, ids_out, lives_out, moved_out);
    let stop = tasks.stopping();
    let (children, signs) = (ports.children, ports.signs);
    tasks.spawn("registry", async move {
        task.run(stop, inbox, children, signs).await;
        // Children that go because the gateway goes are not offline: only what was known before is written.
        task.write(usize::MAX).await;
    });
    Ok(Registry { requests, ids, lives, moved })
}

impl Registry {
    /// Every device, tombstones included, by id.
    pub async fn list(&self) -> Vec<Device> {
        self.ask(Request::List).await.unwrap_or_default()
    }

    pub async fn get(&self, id: &DeviceId) -> Option<Device> {
        self.ask(|reply| Request::Get(id.clone(), reply)).await.flatten()
    }

    /// The configuration as it is now; at start and after every reload. `settings` is `[presence]` where it changed.
    pub async fn sync(&self, configured: Vec<Configured>, settings: Option<Settings>) {
        let _ = self.ask(|reply| Request::Sync(configured, settings, reply)).await;
    }

    /// Moves a device through its life. Resolves when it is on disk, with the device as it then is.
    pub async fn set_lifecycle(&self, id: &DeviceId, next: Lifecycle, by: Door) -> Result<Device, Refusal> {
        self.ask(|reply| Request::Live(id.clone(), next, by, reply)).await.unwrap_or_else(|| Err(gone()))
    }

    /// Tags and groups of a device that the configuration does not name (there they would be overwritten).
    pub async fn set_labels(&self, id: &DeviceId, tags: Vec<String>, groups: Vec<String>) -> Result<Device, Refusal> {
        self.ask(|reply| Request::Label(id.clone(), tags, groups, reply)).await.unwrap_or_else(|| Err(gone()))
    }

    /// Children that take part (the gateway itself is not among them): for subscriptions in the cloud.
    pub fn ids(&self) -> watch::Receiver<Vec<DeviceId>> {
        self.ids.clone()
    }

    /// Who may talk: for the door that asks with each message, and for those who ask devices.
    pub fn lives(&self) -> watch::Receiver<Arc<Lives>> {
        self.lives.clone()
    }

    /// Moves when a device appears or goes, or is given another place in its life or another firmware.
    pub fn moved(&self) -> watch::Receiver<u64> {
        self.moved.clone()
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).await.ok()?;
        answer.await.ok()
    }
}

fn gone() -> Refusal {
    Refusal::new(RefusalCode::Busy, "the gateway is stopping; ask again when it is back")
}
