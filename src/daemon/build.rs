//! Builds and wires the rooms from the ground up: who gets which channel end. Read it as the picture of the flow.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use anyhow::Context;
use axum::Router;
use tokio::sync::{mpsc, watch};

use super::{
    devices::{Buses, Drivers},
    refusals::list_refusals,
    road::Road,
    state::{self, StateFolder},
    supervise::Supervisor,
};
use crate::{
    broker::{self, Broker},
    bus::{ChildEvents, Events, Orders, Question, Questions, WORK},
    clock,
    config::{Config, coap, rules::Rule},
    diagnostics::{self, Diagnostics, Restart},
    drivers::coap::server::{self as coap_door, ServerPorts},
    identity::{self, Identity},
    jobs::{self, Jobs},
    logging::Logs,
    model::{device::Protocol, ids::DeviceId, time::Millis},
    registry::{self, Configured, Registry, drift},
    rules::{self, Alarms},
    store::{Store, StoreHealth, StoreOptions, WriterThread, time::keep_clock},
    tasks::Tasks,
    twins::{self, Keeper},
    updates::{self, Updates},
    uplink::Uplink,
    web::{self, Web},
};

/// The handles of the running rooms, for whoever answers questions. Cheap to clone.
#[derive(Clone)]
pub struct Rooms {
    pub gateway: DeviceId,
    pub started: Millis,
    pub store: Store,
    pub identity: Identity,
    pub broker: Broker,
    pub keeper: Keeper,
    pub registry: Registry,
    pub drift: drift::Watch,
    /// Replaced as a whole when `[uplink]` changes.
    pub uplink: watch::Receiver<Uplink>,
    pub updates: Updates,
    pub alarms: Alarms,
    pub jobs: Jobs,
    pub diagnostics: Diagnostics,
    pub buses: Buses,
    /// The configuration that runs.
    pub config: watch::Receiver<Arc<Config>>,
    pub orders: Orders,
    pub supervisor: Supervisor,
    pub logs: Logs,
}

/// One group of tasks per stage of the way down, named in the order in which they stop.
#[derive(Default)]
pub struct Stages {
    pub drivers: Tasks,
    pub work: Tasks,
    pub broker: Tasks,
    pub keeper: Tasks,
    pub registry: Tasks,
    pub web: Tasks,
}

/// A gateway that stands, and the ends that its main loop listens on.
pub struct Built {
    pub rooms: Rooms,
    pub stages: Stages,
    pub drivers: Drivers,
    pub road: Road,
    pub config: watch::Sender<Arc<Config>>,
    /// The CoAP door follows it while it runs.
    pub coap: watch::Sender<Arc<coap::Server>>,
    /// The alarms follow them while they run.
    pub rules: watch::Sender<Arc<Vec<Rule>>>,
    pub web: Option<Web>,
    pub questions: mpsc::Receiver<Question>,
    pub restarts: mpsc::Receiver<Restart>,
    pub events: Events,
    pub writer: WriterThread,
    pub state: StateFolder,
}

/// Starts every room. What fails here ends the start with a sentence that says what would be right.
pub async fn build(config: &Config, folder: Option<PathBuf>, logs: Logs) -> anyhow::Result<Built> {
    identity::tls::install_provider();
    let started = clock::now();
    let gateway = config.gateway.id.clone();
    let state = StateFolder::await_disk(&config.gateway.state).await?;
    let stages = Stages::default();
    let supervisor = Supervisor::new(Tasks::new());
    let events = Events::new();

    let options = StoreOptions { log: config.log.clone(), gateway: gateway.clone() };
    let (store, writer) = Store::open_with(state.path(), options).context("the database cannot be used")?;
    let mut health = store.health();
    let refusing = match &*health.borrow_and_update() {
        StoreHealth::Good => None,
        StoreHealth::Refusing { reason, .. } => Some(reason.clone()),
    };
    if let Some(reason) = refusing {
        // Rooms that began without what is stored would have to be told all of it later.
        state::wait(&reason, health.wait_for(|health| *health == StoreHealth::Good)).await?;
    }
    let identity = Identity::open(store.clone(), &config.identity, state.path(), gateway.as_str())
        .await
        .context("keys and certificates cannot be used")?;

    identity.admit_newcomers_as(config.presence.admit);

    let (inbound, inbound_end) = mpsc::channel(WORK);
    let (readings, readings_end) = mpsc::channel(WORK);
    let (judged, judged_end) = watch::channel(None);
    let (local, local_end) = mpsc::channel(WORK);
    let (signs, signs_end) = mpsc::channel(WORK);
    let (outcomes, outcomes_end) = mpsc::channel(WORK);
    let (reports, reports_end) = mpsc::channel(WORK);
    let (asks, asks_end) = mpsc::channel(WORK);
    let (fetches, fetches_end) = mpsc::channel(WORK);
    let (to_keeper, keeper_children) = mpsc::channel(WORK);
    let (to_registry, registry_children) = mpsc::channel(WORK);
    let (to_updates, updates_children) = mpsc::channel(WORK);
    let children = ChildEvents::new(vec![to_keeper, to_registry, to_updates]);
    let (keeper_orders, keeper_orders_end) = mpsc::channel(WORK);
    let (update_orders, update_orders_end) = mpsc::channel(WORK);
    let (diagnostics_orders, diagnostics_orders_end) = mpsc::channel(WORK);
    let (job_orders, job_orders_end) = mpsc::channel(WORK);
    let orders =
        Orders { keeper: keeper_orders, updates: update_orders, diagnostics: diagnostics_orders, jobs: job_orders };
    let (questions, questions_end) = Questions::new();
    let (restart, restarts) = mpsc::channel(1);

    let registry = registry::start(
        config.presence.clone(),
        registry::Ports { children: registry_children, signs: signs_end, store: store.clone(), events: events.clone() },
        &stages.registry,
    )
    .await
    .context("the registry cannot be read")?;
    registry.sync(configured(config), None).await;
    let (config_tell, running) = watch::channel(Arc::new(config.clone()));
    let drift = drift::watch(
        config.shadows.drift_alarm,
        drift::DriftPorts {
            registry: registry.clone(),
            config: running.clone(),
            identity: identity.clone(),
            store: store.clone(),
            events: events.clone(),
        },
        &stages.registry,
    )
    .await
    .context("the drift of devices cannot be read")?;

    let keeper = twins::start(
        config.shadows.clone(),
        twins::Ports {
            inbound: inbound_end,
            drivers: readings_end,
            children: keeper_children,
            orders: keeper_orders_end,
            fetches: fetches_end,
            local: local.clone(),
            events: events.clone(),
            store: store.clone(),
            updates: reports,
            asks: asks.clone(),
            signs,
            outcomes: outcomes.clone(),
            readings: judged_end,
        },
        &stages.keeper,
    );

    let web_address = config.web.listen.first().copied().unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 8080)));
    let updates = updates::start(
        updates::Settings {
            config: config.updates.clone(),
            folder: state.path().join("firmware"),
            base_url: config.updates.url.clone().unwrap_or_else(|| updates::reach(web_address)),
        },
        updates::Ports {
            orders: update_orders_end,
            reports: reports_end,
            asks: asks_end,
            children: updates_children,
            local: local.clone(),
            events: events.clone(),
            store: store.clone(),
        },
        &stages.work,
    )
    .await
    .context("the firmware cache cannot be used")?;

    let broker = broker::start(
        &config.broker,
        config.access.clone(),
        Some(identity.tls().watch()),
        broker::Ports {
            identity: identity.clone(),
            inbound: inbound.clone(),
            local: local_end,
            children: children.clone(),
            store: store.clone(),
        },
        &stages.broker,
    )
    .await?;

    let diagnostics = diagnostics::start(
        diagnostics::Settings {
            gateway: gateway.clone(),
            state: state.path().to_owned(),
            config: folder,
            chunk: diagnostics::LIMIT,
        },
        diagnostics::Ports {
            orders: diagnostics_orders_end,
            keeper: orders.keeper.clone(),
            local,
            questions: questions.clone(),
            restart,
            outcomes: Some(outcomes),
            store: store.clone(),
        },
        &stages.work,
    );

    let (rules_config, wanted_rules) = watch::channel(Arc::new(config.rules.clone()));
    let alarms = rules::start(
        wanted_rules,
        rules::Ports { readings: judged, events: events.clone(), store: store.clone() },
        &stages.work,
    )
    .await
    .context("the alarms cannot be read")?;

    let jobs = jobs::start(
        gateway.clone(),
        jobs::Ports {
            orders: job_orders_end,
            out: orders.clone(),
            outcomes: outcomes_end,
            updates: updates.watch(),
            questions: questions.clone(),
            store: store.clone(),
        },
        &stages.work,
    )
    .await
    .context("the jobs cannot be read")?;

    let drivers =
        Drivers::start(config, &keeper, &supervisor, &store, readings, registry.lives(), &stages.drivers).await;
    let (coap_config, wanted) = watch::channel(Arc::new(config.coap.clone()));
    let (turned_away, turned_away_end) = mpsc::channel(WORK);
    {
        let (identity, stop) = (identity.clone(), stages.work.stopping());
        stages.work.spawn("refusals", async move { list_refusals(turned_away_end, identity, stop).await });
    }
    {
        let ports = ServerPorts {
            inbound: inbound.clone(),
            children: children.clone(),
            fetch: fetches.clone(),
            updates: asks.clone(),
            lives: registry.lives(),
            turned_away,
        };
        let stop = stages.drivers.stopping();
        supervisor.restartable(&stages.drivers, "coap door", move || {
            coap_door::run(wanted.clone(), ports.clone(), stop.clone())
        });
    }
    let road = Road::open(config, &store, &orders, &events, registry.ids())?;

    // Without a page there is still the control socket.
    let ports = web::Ports {
        questions,
        orders: orders.clone(),
        events: events.clone(),
        identity: identity.clone(),
        store: store.clone(),
        modbus: Some(drivers.to_modbus()),
        firmware: Some(Router::new().nest("/v1/firmware", updates::http::router(updates.clone(), identity.clone()))),
        control: Some(state.path().join("control.sock")),
    };
    let tls = identity.tls().watch_without_client_certificates();
    let web = Some(web::start(&config.web, ports, Some(tls), &stages.web).await?);

    stages.work.spawn("clock", keep_clock(store.clone(), stages.work.stopping()));
    {
        let (tending, events, stop) = (identity.clone(), events.clone(), stages.work.stopping());
        stages.work.spawn("identity", async move { tending.tend(events, stop).await });
    }
    let uplink = road.watch();
    let rooms = Rooms {
        gateway,
        started,
        store,
        identity,
        broker,
        keeper,
        registry,
        drift,
        uplink,
        updates,
        alarms,
        jobs,
        diagnostics,
        buses: drivers.buses(),
        config: running,
        orders,
        supervisor,
        logs,
    };
    stages.work.spawn("heartbeat", rooms.clone().beat(stages.work.stopping()));
    Ok(Built {
        rooms,
        stages,
        drivers,
        road,
        config: config_tell,
        coap: coap_config,
        rules: rules_config,
        web,
        questions: questions_end,
        restarts,
        events,
        writer,
        state,
    })
}

/// What the registry is to know of the configuration.
pub fn configured(config: &Config) -> Vec<Configured> {
    let entry = |common: &crate::config::device::Common, protocol| Configured {
        id: common.id.clone(),
        protocol,
        kind: common.kind.as_str().into(),
        tags: common.tags.clone(),
        groups: common.groups.clone(),
        interval: common.expect_every,
    };
    let gateway = Configured {
        id: config.gateway.id.clone(),
        protocol: Protocol::Gateway,
        kind: "headgate".into(),
        tags: Vec::new(),
        groups: Vec::new(),
        interval: None,
    };
    let mqtt = config.mqtt.iter().map(|common| entry(common, Protocol::Mqtt));
    let coap = config.coap_devices.iter().map(|device| entry(&device.common, Protocol::Coap));
    let units = config.buses.iter().flat_map(|bus| &bus.devices);
    let modbus = units.map(|device| Configured {
        kind: device.profile.clone().unwrap_or_else(|| device.common.kind.as_str().into()),
        ..entry(&device.common, Protocol::Modbus)
    });
    std::iter::once(gateway).chain(modbus).chain(mqtt).chain(coap).collect()
}
