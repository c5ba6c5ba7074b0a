//! The road to the cloud as the daemon holds it: opened at start, closed and opened anew when `[uplink]` changes.

use std::sync::Arc;

use anyhow::Context;
use tokio::sync::watch;

use crate::{
    bus::{Events, Orders},
    config::Config,
    identity::tls,
    model::ids::DeviceId,
    store::Store,
    tasks::Tasks,
    uplink::{self, Surroundings, Uplink},
};

pub struct Road {
    store: Store,
    orders: Orders,
    events: Events,
    children: watch::Receiver<Vec<DeviceId>>,
    tasks: Tasks,
    current: watch::Sender<Uplink>,
}

impl Road {
    pub fn open(
        config: &Config,
        store: &Store,
        orders: &Orders,
        events: &Events,
        children: watch::Receiver<Vec<DeviceId>>,
    ) -> anyhow::Result<Road> {
        let (store, orders, events) = (store.clone(), orders.clone(), events.clone());
        let tls = client_tls(config)?;
        let tasks = Tasks::new();
        let around = Surroundings {
            gateway: config.gateway.id.clone(),
            store: store.clone(),
            orders: orders.clone(),
            events: events.clone(),
            tls,
            children: children.clone(),
            endurance: config.log.endurance,
            tasks: tasks.clone(),
        };
        let current = watch::Sender::new(uplink::start(config.uplink.clone(), around));
        Ok(Road { store, orders, events, children, tasks, current })
    }

    /// Closes the road and opens it as `config` says. Fails before anything is closed.
    pub async fn change(&mut self, config: &Config) -> anyhow::Result<()> {
        client_tls(config)?;
        self.tasks.stop_and_wait().await;
        let next = Road::open(config, &self.store, &self.orders, &self.events, self.children.clone())?;
        self.current.send_replace(next.current.borrow().clone());
        self.tasks = next.tasks;
        Ok(())
    }

    pub fn watch(&self) -> watch::Receiver<Uplink> {
        self.current.subscribe()
    }

    pub fn tasks(&self) -> &Tasks {
        &self.tasks
    }
}

/// The client's side of TLS, where the cloud's address asks for it.
fn client_tls(config: &Config) -> anyhow::Result<Option<Arc<rustls::ClientConfig>>> {
    let Some(address) = config.uplink.broker.as_ref().filter(|address| address.tls) else { return Ok(None) };
    let files = &config.uplink.tls;
    let own = files.certificate.as_deref().zip(files.key.as_deref());
    tls::client_config(files.ca.as_deref(), own)
        .map(Some)
        .with_context(|| format!("uplink.tls: {address} cannot be reached safely"))
}
