//! The keeper's task: one loop over its channels, and the table of devices.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval, timeout},
};

use super::{
    Ask, Ports, Settings, commands, config,
    desired::Remarks,
    done::{Done, Purpose},
    jobs::Asker,
    latest::{Budget, Latest},
    pursuit::Pursuit,
    shadows::{Deletion, Source},
    takein::Gathered,
    voice::{self, Voice},
};
use crate::{
    bus::{
        ChildEvent, Events, Fetch, FetchKind, FromDriver, Order, OrderKind, Outcomes, Readings, Reply, Sign, Signs,
        ToDriverSender, UpdateAskSender, UpdateReports,
    },
    clock,
    model::{
        command::{Door, Refusal, RefusalCode},
        configuration::Scope,
        ids::DeviceId,
        record::NewRecord,
        shadow::Limits,
        time::Millis,
    },
    store::{Store, StoreError, history::Keep, shadows::How},
    tasks::Tasks,
};

/// Records and requests that may be on their way through the store before no more are taken in.
const IN_FLIGHT: usize = 65_536;
/// Records gathered into one job of the store.
const BATCH: usize = 8192;
/// How long a stop waits for what is queued.
const DRAIN: Duration = Duration::from_secs(8);

pub(super) struct Keeping {
    pub settings: Settings,
    pub limits: Limits,
    pub store: Store,
    pub voice: Voice,
    pub events: Events,
    pub updates: UpdateReports,
    pub asks: UpdateAskSender,
    pub signs: Signs,
    pub outcomes: Outcomes,
    pub readings: Readings,
    pub tasks: Tasks,
    pub children: HashMap<DeviceId, Child>,
    pub budget: Budget,
    /// When the next desired value expires.
    pub next_expiry: Option<Millis>,
    /// When the next command expires.
    pub next_command: Option<Millis>,
    /// When the next timer of a job runs out.
    pub next_timer: Option<Millis>,
    /// When devices that drift were last looked at.
    pub config_looked: Millis,
    /// Changes of `headgate` shadows and events, written down at the end of each turn.
    pub own: Vec<(DeviceId, serde_json::Map<String, serde_json::Value>)>,
    pub aside: Vec<NewRecord>,
    pub(super) done: mpsc::UnboundedSender<Done>,
    pub(super) in_flight: usize,
}

/// What the keeper knows of one device beside the store.
#[derive(Default)]
pub(super) struct Child {
    /// Where desired values and commands go; `None` for children that fetch or subscribe themselves.
    pub driver: Option<ToDriverSender>,
    /// What the driver says; `None` before it has said anything.
    pub reachable: Option<bool>,
    pub firmware: Option<Arc<str>>,
    pub latest: Latest,
    /// The delta as last seen, for devices with a driver.
    pub outstanding: serde_json::Map<String, serde_json::Value>,
    pub pursuit: Pursuit,
    pub remarks: Remarks,
    /// Commands its driver is carrying out.
    pub calls: HashSet<String>,
    /// How often its driver was too busy for a command, one after the other, and when it is asked again.
    pub busy: u32,
    pub call_again: Option<Millis>,
    pub connected: bool,
    /// The configuration it says it runs.
    pub config_runs: Option<u64>,
    /// Its configuration was said since the start.
    pub config_said: bool,
    /// When the registry was last told that it was heard, and it was last told of an error.
    seen: i64,
    blamed: i64,
}

pub(super) async fn run(settings: Settings, ports: Ports, mut questions: mpsc::Receiver<Ask>, tasks: Tasks) {
    let Ports { mut inbound, mut drivers, mut children, mut orders, mut fetches, .. } = ports;
    let (done, mut finished) = mpsc::unbounded_channel();
    let mut keeping = Keeping {
        limits: Limits { state_bytes: settings.state_bytes, depth: settings.depth },
        voice: Voice::new(ports.local, &tasks),
        budget: Budget::new(settings.trend_step, settings.trend_memory),
        store: ports.store,
        events: ports.events,
        updates: ports.updates,
        asks: ports.asks,
        signs: ports.signs,
        outcomes: ports.outcomes,
        readings: ports.readings,
        children: HashMap::new(),
        next_expiry: Some(Millis(0)),
        next_command: Some(Millis(0)),
        next_timer: Some(Millis(0)),
        config_looked: Millis(0),
        own: Vec::new(),
        aside: Vec::new(),
        in_flight: 0,
        done,
        settings,
        tasks,
    };
    keeping.prepare().await;
    let stop = keeping.tasks.stopping();
    let mut tick = interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let room = keeping.in_flight < IN_FLIGHT;
        let mut gathered = Gathered::default();
        tokio::select! {
            () = stop.cancelled() => break,
            Some(done) = finished.recv() => keeping.finish(done).await,
            Some(ask) = questions.recv() => keeping.answer(ask).await,
            Some(event) = children.recv(), if room => keeping.child_event(event).await,
            Some(order) = orders.recv(), if room => keeping.order(order).await,
            Some(fetch) = fetches.recv(), if room => keeping.fetch(fetch).await,
            Some(first) = drivers.recv(), if room => {
                keeping.hear_driver(first, &mut gathered).await;
                while gathered.len() < BATCH && let Ok(next) = drivers.try_recv() {
                    keeping.hear_driver(next, &mut gathered).await;
                }
                keeping.commit(gathered).await;
            }
            Some(first) = inbound.recv(), if room => {
                keeping.take_in(first, &mut gathered).await;
                while gathered.len() < BATCH && let Ok(next) = inbound.try_recv() {
                    keeping.take_in(next, &mut gathered).await;
                }
                keeping.commit(gathered).await;
            }
            _ = tick.tick() => keeping.tick(clock::now()).await,
        }
        keeping.write_remarks().await;
    }
    // What was sent before the stop is still taken in, and answered.
    let drain = async {
        let mut gathered = Gathered::default();
        while let Ok(next) = drivers.try_recv() {
            keeping.hear_driver(next, &mut gathered).await;
        }
        while let Ok(next) = inbound.try_recv() {
            keeping.take_in(next, &mut gathered).await;
        }
        while let Ok(order) = orders.try_recv() {
            keeping.order(order).await;
        }
        keeping.commit(gathered).await;
        while keeping.in_flight > 0
            && let Some(done) = finished.recv().await
        {
            keeping.finish(done).await;
        }
    };
    if timeout(DRAIN, drain).await.is_err() {
        tracing::warn!("stopped while the store was still busy; what was not committed was not acknowledged");
    }
}

impl Keeping {
    async fn prepare(&self) {
        let keep = Keep {
            days: self.settings.history_days,
            entries: self.settings.history_entries,
            per_device: self.settings.history_per_device,
        };
        for result in [self.store.shadow_cache(self.settings.cache).await, self.store.keep_history(keep).await] {
            if let Err(error) = result {
                tracing::error!(%error, "the shadow store could not be tuned");
            }
        }
    }

    async fn child_event(&mut self, event: ChildEvent) {
        match event {
            ChildEvent::Connected { device, .. } => {
                self.child(&device).connected = true;
                self.config_due(device.clone());
                self.level(&device).await;
                self.resend_commands(&device);
            }
            ChildEvent::Subscribed { device, filter, .. } => {
                if voice::receives(&filter, &voice::child(&device, "delta")) {
                    self.level(&device).await;
                }
                if voice::receives(&filter, &voice::child(&device, "config/desired")) {
                    self.config_level(&device);
                }
                if voice::may_receive_below(&filter, &voice::child(&device, "commands")) {
                    self.resend_commands(&device);
                }
            }
            ChildEvent::Disconnected { device, reason, .. } => {
                if let Some(child) = self.children.get_mut(&device) {
                    child.connected = false;
                    child.latest.grow_stale(&reason);
                }
            }
            ChildEvent::Seen { .. } | ChildEvent::Waiting { .. } => {}
        }
    }

    /// Sends again what the device should have: the delta, to the child or to its driver.
    pub async fn level(&mut self, device: &DeviceId) {
        self.read_shadow(device.clone(), "".into(), Purpose::Level).await;
    }

    async fn order(&mut self, order: Order) {
        let Order { device, door, what, reply } = order;
        match what {
            OrderKind::Delta(_) | OrderKind::Desired(_) | OrderKind::ShadowUpdate { .. } => {
                self.shadow_order(device, door, what, reply).await;
            }
            OrderKind::ShadowDelete { name, version } => {
                let (name, how) = (name.unwrap_or_default().into(), self.how(door, clock::now()));
                let request = Deletion { token: None, version };
                self.delete_shadow(device, name, request, how, Source::Order(reply)).await;
            }
            OrderKind::Command(command) => self.command_order(device, door, command, reply),
            OrderKind::Execution(given) => self.give_job(device, given, Asker::Order(reply)).await,
            OrderKind::Withdraw { job_id } => self.cancel_job(device, job_id, false, Asker::Order(reply)).await,
            OrderKind::Config(document) => {
                self.config_order(Scope::Device, device.as_str().to_owned(), document, reply);
            }
            OrderKind::Update(_) | OrderKind::Diagnostics(_) | OrderKind::Job(_) | OrderKind::JobControl { .. } => {
                let wrong = Refusal::new(RefusalCode::TopicInvalid, "this order is for another room than the keeper");
                let _ = reply.send(Err(wrong));
            }
        }
    }

    async fn fetch(&mut self, fetch: Fetch) {
        match fetch.what {
            FetchKind::Delta => self.read_shadow(fetch.device, "".into(), Purpose::Fetch(fetch.reply)).await,
            FetchKind::Config => {
                let store = self.store.clone();
                self.tasks.spawn("fetch of a configuration", async move {
                    let standing = store.standing(&fetch.device).await;
                    let _ = fetch.reply.send(config::as_fetched(standing));
                });
            }
            FetchKind::Commands => {
                let store = self.store.clone();
                self.tasks.spawn("fetch of commands", async move {
                    let open = store.open_commands(&fetch.device).await;
                    let _ = fetch.reply.send(open.map(commands::as_list).map_err(|error| unavailable(&error)));
                });
            }
        }
    }

    async fn hear_driver(&mut self, said: FromDriver, gathered: &mut Gathered) {
        match said {
            FromDriver::Reading(reading) => self.reading(reading, gathered),
            FromDriver::Reported { device, ts, reported } => self.read_back(device, ts, reported).await,
            FromDriver::Reachable { device, at, reachable, reason } => {
                let child = self.child(&device);
                child.reachable = Some(reachable);
                if !reachable {
                    child.latest.grow_stale(reason.as_deref().unwrap_or("the device does not answer"));
                }
                self.sign(Sign::Reachable { device: device.clone(), at, reachable, reason });
                if reachable {
                    self.child(&device).pursuit.refresh(false, clock::now());
                    self.level(&device).await;
                    self.resend_commands(&device);
                }
            }
        }
    }

    async fn tick(&mut self, now: Millis) {
        self.pursue_due(now).await;
        self.expire_commands(now);
        self.call_again(now);
        self.job_timers(now);
        self.config_tick(now);
        if now.seconds() % 3600 == 0
            && let Err(error) = self.store.sweep_tombstones(now).await
        {
            tracing::warn!(%error, "old tombstones of shadows could not be removed");
        }
    }

    pub fn child(&mut self, device: &DeviceId) -> &mut Child {
        if !self.children.contains_key(device) {
            self.children.insert(device.clone(), Child::default());
        }
        self.children.get_mut(device).expect("it was just put there")
    }

    pub fn how(&self, door: Door, at: Millis) -> How {
        How { door, at, limits: self.limits, only_changes: false, until: None }
    }

    /// The device was heard; the registry is told once a second.
    pub fn heard(&mut self, device: &DeviceId, at: Millis) {
        let child = self.child(device);
        if (at.0 - child.seen).abs() >= 1000 {
            child.seen = at.0;
            self.sign(Sign::Seen { device: device.clone(), at });
        }
    }

    pub fn sign(&self, sign: Sign) {
        if self.signs.try_send(sign).is_err() {
            tracing::debug!("the registry is busy; a sign of life was dropped");
        }
    }

    /// Refuses something a child said: to its door, and on `devices/{d}/errors`, there at most ten times a second.
    pub fn refuse(&mut self, device: &DeviceId, topic: &str, refusal: Refusal, reply: Reply) {
        let now = clock::now();
        tracing::debug!(%device, topic, %refusal, "refused");
        let child = self.child(device);
        if now.0 - child.blamed >= 100 {
            child.blamed = now.0;
            self.voice.error(device, topic, &refusal, now);
        }
        let _ = reply.send(Err(refusal));
    }
}

/// What a door or an order is told when the store did not do it.
pub(super) fn unavailable(error: &StoreError) -> Refusal {
    let code = match error {
        StoreError::Unavailable(_) | StoreError::Stopped => RefusalCode::StoreUnavailable,
        _ => RefusalCode::Internal,
    };
    Refusal::new(code, error.to_string())
}
