//! The road to the cloud: log to publish to acknowledgement to cursor, and orders back.
//!
//! ```text
//!            ┌──────────── CONNACK ────────────┐
//!  connecting ──refused──▶ refused ──long──▶ connecting
//!      ▲    │                                  ▼
//!      │    └──────▶ backing off ◀──ends── online: catching up ⇄ live
//!      └──at random below the wait──┘
//! ```
//! A stalled cloud stalls nothing but this room: the log fills, and says so.

mod acked;
mod batches;
mod budget;
mod cbor;
pub mod dialect;
mod drain;
mod encoding;
mod flights;
mod inbox;
mod pace;
mod road;
mod session;
mod status;
pub mod sync;
mod wire;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;

use crate::{
    bus::{Events, Orders},
    clock,
    config::uplink::{Dialect, UplinkConfig},
    model::{
        event::LinkState,
        ids::DeviceId,
        time::Millis,
        view::{BudgetStatus, LinkStatus, LogStatus, ShadowSyncStatus},
    },
    store::{Store, StoreError},
    tasks::Tasks,
};
use road::{Road, Told};
use status::{Counters, Rates, Sample, Samples};

/// The name of the cloud's cursor in the log.
const CONSUMER: &str = "cloud";

/// The handle: what state the road is in and what can be said about it.
#[derive(Clone)]
pub struct Uplink {
    state: watch::Receiver<(LinkState, Millis)>,
    rates: watch::Receiver<Rates>,
    budgets: watch::Receiver<Vec<BudgetStatus>>,
    counters: Arc<Counters>,
    store: Store,
    broker: Option<String>,
    endurance: u64,
    /// Where the cloud has shadows of its own.
    shadows: Option<watch::Receiver<ShadowSyncStatus>>,
}

impl Uplink {
    /// The state of the road and since when.
    pub fn state(&self) -> watch::Receiver<(LinkState, Millis)> {
        self.state.clone()
    }

    pub fn link_status(&self) -> LinkStatus {
        let (state, since) = self.state.borrow().clone();
        let counted = self.counters.read();
        let bytes = (counted.sent + counted.received) as f64;
        LinkStatus {
            state,
            since: Some(since),
            broker: self.broker.clone(),
            in_flight: counted.in_flight,
            acknowledged: counted.acknowledged,
            bytes_sent: counted.sent,
            bytes_received: counted.received,
            bytes_per_record: (counted.acknowledged > 0).then(|| bytes / counted.acknowledged as f64),
            budgets: self.budgets.borrow().clone(),
            last_error: counted.last_error,
            shadows: self.shadows.as_ref().map(|status| status.borrow().clone()),
        }
    }

    /// Whether a shadow is as the cloud holds it, where the cloud has shadows of its own: `{"state": "equal"}`,
    /// `waiting` or `refused` with its reason.
    pub async fn shadow_sync(
        &self,
        device: &DeviceId,
        name: Option<&str>,
    ) -> Result<Option<serde_json::Value>, StoreError> {
        let Some(status) = &self.shadows else { return Ok(None) };
        let refused = status.borrow().reasons.iter().find(|r| r.0 == *device && r.1.as_deref() == name).cloned();
        let standing = self.store.standing_of(CONSUMER, device, name.unwrap_or("")).await?;
        let synced = standing.synced.unwrap_or_default();
        let reason = refused.map(|(_, _, reason)| reason).or(synced.refused.map(|refused| refused.reason));
        let state = match &reason {
            Some(_) => "refused",
            None if synced.cloud_version > 0 && synced.local_version == standing.version => "equal",
            None => "waiting",
        };
        let mut view = serde_json::json!({ "state": state, "cloudVersion": synced.cloud_version });
        if let Some(reason) = reason {
            view["reason"] = reason.into();
        }
        Ok(Some(view))
    }

    /// The log as far as the cloud has not got it, with rates and forecasts.
    pub async fn log_status(&self) -> Result<LogStatus, StoreError> {
        let mut status = self.store.log_status_from(CONSUMER, self.counters.cursors()).await?;
        self.rates.borrow().complete(&mut status, self.endurance);
        Ok(status)
    }
}

/// What the road needs of the rest of the house.
pub struct Surroundings {
    pub gateway: DeviceId,
    pub store: Store,
    pub orders: Orders,
    pub events: Events,
    /// The client side's TLS, where the address asks for it.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// Whose orders are subscribed.
    pub children: watch::Receiver<Vec<DeviceId>>,
    /// Bytes the storage takes over its life, for the forecast.
    pub endurance: u64,
    pub tasks: Tasks,
}

/// Starts the road; without a broker only the figures are kept.
pub fn start(config: UplinkConfig, around: Surroundings) -> Uplink {
    let first = if config.broker.is_some() { LinkState::Connecting } else { LinkState::Disabled };
    let (tell_state, state) = watch::channel((first, clock::now()));
    let (tell_rates, rates) = watch::channel(Rates::default());
    let (tell_budgets, budgets) = watch::channel(Vec::new());
    let counters = Arc::new(Counters::default());
    let (line, shadows) = match config.dialect {
        Dialect::Aws if config.broker.is_some() => {
            let around = sync::Surroundings {
                gateway: around.gateway.clone(),
                store: around.store.clone(),
                orders: around.orders.clone(),
                events: around.events.clone(),
                children: around.children.clone(),
                tasks: around.tasks.clone(),
                cloud: CONSUMER,
            };
            let (line, status) = sync::start(&config.shadows, around);
            (Some(line), Some(status))
        }
        _ => (None, None),
    };
    let uplink = Uplink {
        state,
        rates,
        budgets,
        counters: counters.clone(),
        store: around.store.clone(),
        broker: config.broker.as_ref().map(ToString::to_string),
        endurance: around.endurance,
        shadows,
    };
    around
        .tasks
        .spawn("uplink figures", sample(around.store.clone(), counters.clone(), tell_rates, around.tasks.clone()));
    if config.broker.is_some() {
        let tasks = around.tasks.clone();
        let road = Road::new(config, around, Told { state: tell_state, budgets: tell_budgets, counters, line });
        tasks.spawn("uplink", road.run());
    }
    uplink
}

/// Looks at the counters once a second.
async fn sample(store: Store, counters: Arc<Counters>, tell: watch::Sender<Rates>, tasks: Tasks) {
    let mut samples = Samples::default();
    let mut every = tokio::time::interval(Duration::from_secs(1));
    let stopping = tasks.stopping();
    loop {
        tokio::select! {
            () = stopping.cancelled() => return,
            _ = every.tick() => {}
        }
        samples.add(Sample {
            at: Instant::now(),
            written: store.written(),
            acknowledged: counters.read().acknowledged,
            device: status::device_bytes(),
        });
        tell.send_replace(samples.rates());
    }
}
