//! Bulk work on many children: chosen by a filter, a few at a time, in windows and stages, stopped when too many fail.
//! Everything is in the database before it is acted upon; a restart goes on where it stood.

#[doc(hidden)] // for tests/fuzz
pub mod definition;
mod engine;
mod plan;
#[cfg(test)]
mod tests;
mod words;

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use crate::{
    bus::{Order, Orders, Outcome, Questions},
    model::{ids::DeviceId, jobs::Job, update::ChildUpdate},
    store::{Store, StoreError},
    tasks::Tasks,
};

/// What the room is wired to.
pub struct Ports {
    /// Jobs and their controls.
    pub orders: mpsc::Receiver<Order>,
    /// Where the single orders of a job go.
    pub out: Orders,
    pub outcomes: mpsc::Receiver<Outcome>,
    /// How the updates of all children stand (`Updates::watch`).
    pub updates: watch::Receiver<Arc<Vec<ChildUpdate>>>,
    pub questions: Questions,
    pub store: Store,
}

/// The handle: cheap to clone.
#[derive(Debug, Clone)]
pub struct Jobs(watch::Receiver<Arc<Vec<Job>>>);

/// Reads the jobs that are on disk and goes on with those that are open.
pub async fn start(gateway: DeviceId, ports: Ports, tasks: &Tasks) -> Result<Jobs, StoreError> {
    let jobs = ports.store.jobs().await?;
    let (publish, view) = watch::channel(Arc::default());
    let engine = engine::Engine::new(gateway, jobs, ports.out, ports.questions, ports.store, publish, tasks.clone());
    tasks.spawn("jobs", engine.run(ports.orders, ports.outcomes, ports.updates, tasks.stopping()));
    Ok(Jobs(view))
}

impl Jobs {
    /// Every job that is remembered, oldest first.
    pub fn list(&self) -> Arc<Vec<Job>> {
        self.0.borrow().clone()
    }

    /// Wakes whenever [`Jobs::list`] changes.
    pub fn watch(&self) -> watch::Receiver<Arc<Vec<Job>>> {
        self.0.clone()
    }
}
