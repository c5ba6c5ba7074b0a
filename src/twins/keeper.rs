//! The keeper's task: one loop over its channels, the table of devices, and what happens when the store has finished.

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
    Ask, Ports, Settings, commands,
    desired::Remarks,
    jobs::{Asker, Said},
    latest::{Budget, Latest},
    pursuit::Pursuit,
    shadows::Source,
    takein::{After, Gathered},
    voice::{self, Voice},
};
use crate::{
    bus::{
        self, ChildEvent, Events, Fetch, FetchKind, FromDriver, Order, OrderKind, Outcomes, Readings, Reply, Sign,
        Signs, ToDriverSender, UpdateAskSender, UpdateReports,
    },
    clock,
    model::{
        command::{Command, CommandResponse, Door, Refusal, RefusalCode},
        ids::DeviceId,
        record::NewRecord,
        shadow::{Document, Limits, OWN_SHADOW, Outcome, Rejection},
        time::Millis,
    },
    store::{
        Store, StoreError,
        commands::Open,
        executions::Changed,
        history::Keep,
        shadows::{How, Updated},
    },
    tasks::Tasks,
};

/// Records and requests that may be on their way through the store before no more are taken in.
const IN_FLIGHT: usize = 65_536;
/// What a shadow request counts against it, in records.
pub(super) const REQUEST: usize = 16;
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
    pub readings: Option<Readings>,
    pub tasks: Tasks,
    pub children: HashMap<DeviceId, Child>,
    pub budget: Budget,
    /// When the next desired value expires.
    pub next_expiry: Option<Millis>,
    /// When the next command expires.
    pub next_command: Option<Millis>,
    /// When the next timer of a job runs out.
    pub next_timer: Option<Millis>,
    /// Changes of `headgate` shadows and events, written down at the end of each turn.
    pub own: Vec<(DeviceId, serde_json::Map<String, serde_json::Value>)>,
    pub aside: Vec<NewRecord>,
    done: mpsc::UnboundedSender<Done>,
    in_flight: usize,
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
    /// When the registry was last told that it was heard, and it was last told of an error.
    seen: i64,
    blamed: i64,
}

/// Something the store has finished, or a driver has answered.
pub(super) enum Done {
    Stored {
        weight: usize,
        after: Vec<After>,
        good: bool,
    },
    Updated {
        device: DeviceId,
        name: Arc<str>,
        source: Source,
        result: Result<Result<Updated, Rejection>, StoreError>,
    },
    Deleted {
        device: DeviceId,
        name: Arc<str>,
        token: Option<String>,
        source: Source,
        result: Result<Option<u64>, StoreError>,
    },
    Got {
        device: DeviceId,
        name: Arc<str>,
        purpose: Purpose,
        result: Result<Option<Arc<Document>>, StoreError>,
    },
    /// A driver has answered a write.
    Written {
        device: DeviceId,
        values: serde_json::Map<String, serde_json::Value>,
        refused: Result<Vec<(String, Refusal)>, Refusal>,
    },
    /// Commands to be sent; `fresh` ones were placed just now.
    Commands {
        device: DeviceId,
        open: Result<Vec<Open>, StoreError>,
        fresh: bool,
    },
    /// A driver's call has ended; without a response it waits, or was over before.
    Called {
        device: DeviceId,
        command: Command,
        response: Option<CommandResponse>,
        result: Result<bool, StoreError>,
    },
    NextCommand(Option<Millis>),
    Jobs {
        device: DeviceId,
        asker: Asker,
        result: Result<Changed<Said>, StoreError>,
    },
    JobsOver {
        devices: Vec<DeviceId>,
        next: Option<Millis>,
    },
    /// Something that is on disk and concerns those who ordered it.
    Told(bus::Outcome),
    Expired {
        expired: Result<Vec<(DeviceId, Outcome)>, StoreError>,
        next: Result<Option<Millis>, StoreError>,
    },
}

/// Why a shadow was read.
pub(super) enum Purpose {
    /// A `get` request.
    Answer {
        token: Option<String>,
        reply: Reply,
    },
    /// Time to send the level again.
    Level,
    Fetch(Reply<serde_json::Value>),
    /// The `headgate` shadow: problems and locks.
    Remarks,
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
                keeping.from_driver(first, &mut gathered).await;
                while gathered.len() < BATCH && let Ok(next) = drivers.try_recv() {
                    keeping.from_driver(next, &mut gathered).await;
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
            keeping.from_driver(next, &mut gathered).await;
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

    /// The way back into the loop for work that ends elsewhere; counts `weight` until it does.
    pub fn begin(&mut self, weight: usize) -> mpsc::UnboundedSender<Done> {
        self.in_flight += weight;
        self.done.clone()
    }

    /// Work that waits for a driver's answer: given up when the keeper stops.
    pub fn aside_task(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.tasks.stopping();
        self.tasks.spawn(name, async move {
            tokio::select! {
                () = work => {}
                () = stop.cancelled() => {}
            }
        });
    }

    /// The way back for work that is not counted.
    pub fn loose_end(&self) -> mpsc::UnboundedSender<Done> {
        self.done.clone()
    }

    async fn finish(&mut self, done: Done) {
        let weight = match &done {
            Done::Stored { weight, .. } => *weight,
            Done::Updated { .. } | Done::Deleted { .. } | Done::Got { .. } | Done::Jobs { .. } => REQUEST,
            _ => 0,
        };
        self.in_flight = self.in_flight.saturating_sub(weight);
        match done {
            Done::Stored { after, good, .. } => self.stored(after, good).await,
            Done::Updated { device, name, source, result } => self.updated(device, name, source, result).await,
            Done::Deleted { device, name, token, source, result } => {
                self.deleted(&device, &name, token, source, result);
            }
            Done::Got { device, purpose: Purpose::Remarks, result, .. } => self.remarks_read(&device, result).await,
            Done::Got { device, name, purpose, result } => self.got(&device, &name, purpose, result),
            Done::Written { device, values, refused } => self.written(device, values, refused),
            Done::Commands { device, open, fresh } => self.send_commands(&device, open, fresh),
            Done::Called { device, command, response, result } => self.called(&device, &command, response, result),
            Done::NextCommand(next) => {
                let known = self.next_command.into_iter().chain(next).min();
                self.next_command = known;
            }
            Done::Jobs { device, asker, result } => self.jobs_changed(&device, asker, result),
            Done::JobsOver { devices, next } => self.jobs_over(devices, next).await,
            Done::Told(outcome) => self.tell_outcome(outcome),
            Done::Expired { expired, next } => self.expired(expired, next).await,
        }
    }

    async fn answer(&mut self, ask: Ask) {
        match ask {
            Ask::Attach(device, driver) => {
                let child = self.child(&device);
                child.driver = Some(driver);
                child.pursuit.refresh(true, clock::now());
                self.read_shadow(device, OWN_SHADOW.into(), Purpose::Remarks).await;
            }
            Ask::Detach(device) => {
                if let Some(child) = self.children.get_mut(&device) {
                    (child.driver, child.reachable) = (None, None);
                }
            }
            Ask::Latest(device, reply) => {
                let latest = self.children.get(&device).map(|child| child.latest.all());
                let _ = reply.send(latest.unwrap_or_default());
            }
            Ask::AllLatest(reply) => {
                let all = self.children.iter().map(|(device, child)| (device.clone(), child.latest.all()));
                let _ = reply.send(all.collect());
            }
            Ask::Trend { device, name, reply } => {
                let trend = self.children.get(&device).map(|child| child.latest.trend(&name, self.budget.step));
                let _ = reply.send(trend.unwrap_or_default());
            }
            Ask::Lock { device, member, lock, door } => self.lock(device, member, lock, door).await,
            Ask::Give { device, given, reply } => self.give_job(device, given, reply).await,
            Ask::CancelJob { device, job_id, force, reply } => self.cancel_job(device, job_id, force, reply).await,
            Ask::Pulse(reply) => drop(reply.send(())),
        }
    }

    async fn child_event(&mut self, event: ChildEvent) {
        match event {
            ChildEvent::Connected { device, .. } => {
                self.level(&device).await;
                self.resend_commands(&device);
            }
            ChildEvent::Subscribed { device, filter, .. } => {
                if voice::receives(&filter, &voice::child(&device, "delta")) {
                    self.level(&device).await;
                }
                if voice::may_receive_below(&filter, &voice::child(&device, "commands")) {
                    self.resend_commands(&device);
                }
            }
            ChildEvent::Disconnected { device, reason, .. } => {
                if let Some(child) = self.children.get_mut(&device) {
                    child.latest.grow_stale(&reason);
                }
            }
            ChildEvent::Seen { .. } => {}
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
            OrderKind::ShadowDelete { name } => {
                let how = self.how(door, clock::now());
                self.delete_shadow(device, name.unwrap_or_default().into(), None, how, Source::Order(reply)).await;
            }
            OrderKind::Command(command) => self.command_order(device, door, command, reply),
            OrderKind::Config(_) => {
                let _ = reply.send(Err(Refusal::new(RefusalCode::Internal, "not carried out yet")));
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
            FetchKind::Config => drop(fetch.reply.send(Ok(serde_json::Value::Null))),
            FetchKind::Commands => {
                let store = self.store.clone();
                self.tasks.spawn("fetch of commands", async move {
                    let open = store.open_commands(&fetch.device).await;
                    let _ = fetch.reply.send(open.map(commands::as_list).map_err(|error| unavailable(&error)));
                });
            }
        }
    }

    async fn from_driver(&mut self, said: FromDriver, gathered: &mut Gathered) {
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
        self.job_timers(now);
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
