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

mod budget;
pub mod dialect;
mod drain;
mod flights;
mod inbox;
mod session;
mod status;
mod wire;

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;

use crate::{
    bus::{Events, Orders},
    clock,
    config::uplink::UplinkConfig,
    model::{
        event::{Event, LinkState},
        ids::DeviceId,
        record::Lane,
        time::Millis,
        view::{LinkStatus, LogStatus},
    },
    store::{Store, StoreError},
    tasks::Tasks,
};
use budget::Budget;
use dialect::native::Native;
use session::{End, Session};
use status::{Counters, Rates, Sample, Samples};
use wire::{Dial, Down, Wire, WireEvent};

/// The name of the cloud's cursor in the log.
const CONSUMER: &str = "cloud";
/// How long a broker may take from the connection to its CONNACK.
const CONNECT: Duration = Duration::from_secs(20);

/// The handle: what state the road is in and what can be said about it.
#[derive(Clone)]
pub struct Uplink {
    state: watch::Receiver<(LinkState, Millis)>,
    rates: watch::Receiver<Rates>,
    budget: watch::Receiver<Budget>,
    counters: Arc<Counters>,
    store: Store,
    broker: Option<String>,
    endurance: u64,
}

impl Uplink {
    /// The state of the road and since when.
    pub fn state(&self) -> watch::Receiver<(LinkState, Millis)> {
        self.state.clone()
    }

    pub fn link_status(&self) -> LinkStatus {
        let (state, since) = self.state.borrow().clone();
        let counted = self.counters.read();
        LinkStatus {
            state,
            since: Some(since),
            broker: self.broker.clone(),
            in_flight: counted.in_flight,
            acknowledged: counted.acknowledged,
            bytes_sent: counted.sent,
            bytes_received: counted.received,
            last_error: counted.last_error,
        }
    }

    /// Bytes on the wire this month, their limit and what the month will have cost; none where nothing is limited.
    pub fn budget(&self) -> Option<(u64, u64, u64)> {
        let budget = *self.budget.borrow();
        (budget.limit > 0).then(|| (budget.used, budget.limit, budget.forecast(clock::now())))
    }

    /// The log as far as the cloud has not got it, with rates and forecasts.
    pub async fn log_status(&self) -> Result<LogStatus, StoreError> {
        let mut status = self.store.log_status(CONSUMER).await?;
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
    let (tell_budget, budget) = watch::channel(Budget::new(config.budget_month));
    let counters = Arc::new(Counters::default());
    let uplink = Uplink {
        state,
        rates,
        budget,
        counters: counters.clone(),
        store: around.store.clone(),
        broker: config.broker.as_ref().map(ToString::to_string),
        endurance: around.endurance,
    };
    around
        .tasks
        .spawn("uplink figures", sample(around.store.clone(), counters.clone(), tell_rates, around.tasks.clone()));
    if config.broker.is_some() {
        let road = Road {
            native: Native::new(&config.root, around.gateway.clone()),
            budget: Budget::new(config.budget_month),
            tell_budget,
            window: 256 << 10,
            narrow: usize::MAX,
            barren: 0,
            failures: 0,
            spent: 0,
            subscribed: Vec::new(),
            consumer: CONSUMER.into(),
            gateway: around.gateway,
            store: around.store,
            orders: around.orders,
            events: around.events,
            tls: around.tls,
            children: around.children,
            tasks: around.tasks.clone(),
            state: tell_state,
            counters,
            config,
        };
        around.tasks.spawn("uplink", road.run());
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

/// All that outlives a connection.
struct Road {
    config: UplinkConfig,
    gateway: DeviceId,
    consumer: String,
    native: Native,
    store: Store,
    orders: Orders,
    events: Events,
    tls: Option<Arc<rustls::ClientConfig>>,
    children: watch::Receiver<Vec<DeviceId>>,
    tasks: Tasks,
    state: watch::Sender<(LinkState, Millis)>,
    counters: Arc<Counters>,
    budget: Budget,
    tell_budget: watch::Sender<Budget>,
    /// Bytes in flight the last connection came to.
    window: usize,
    /// Bytes of a publish, where a broker ended connections over larger ones without saying so.
    narrow: usize,
    /// Connections in a row that ended without any acknowledgement.
    barren: u32,
    failures: u32,
    /// Bytes that are in the budget already.
    spent: u64,
    /// What the broker has of us in a session that it resumes.
    subscribed: Vec<String>,
}

/// The states, as far as they differ in what is done next.
enum State {
    Connecting,
    Online { wire: Box<Wire>, resumed: bool, max_packet: Option<u32>, receive_max: Option<u16> },
    Waiting(Down),
    Stopped,
}

impl Road {
    async fn run(mut self) {
        self.register().await;
        let mut state = State::Connecting;
        loop {
            state = match state {
                State::Connecting => self.connecting().await,
                State::Online { wire, resumed, max_packet, receive_max } => {
                    self.online(*wire, resumed, max_packet, receive_max).await
                }
                State::Waiting(down) => self.waiting(down).await,
                State::Stopped => break,
            };
        }
        self.count_budget().await;
    }

    /// From now on retention knows that somebody waits, and what the month has cost so far is known.
    async fn register(&mut self) {
        let cursors = Lane::ALL.into_iter().map(|lane| (lane, 0)).collect();
        if let Err(error) = self.store.move_cursors(&self.consumer, cursors).await {
            tracing::warn!(%error, "the cloud's cursor could not be written down");
        }
        if let Ok(Some(text)) = self.store.setting("uplink.budget").await {
            self.budget.restore(&String::from_utf8_lossy(&text));
        }
    }

    async fn connecting(&mut self) -> State {
        self.tell(LinkState::Connecting);
        let dial = match self.dial() {
            Ok(dial) => dial,
            Err(down) => return State::Waiting(down),
        };
        let mut wire = Wire::dial(&dial);
        let stopping = self.tasks.stopping();
        let up = tokio::select! {
            () = stopping.cancelled() => return State::Stopped,
            up = tokio::time::timeout(CONNECT, wire.next()) => up,
        };
        match up {
            Ok(Ok(WireEvent::Up { session_present, max_packet, receive_max })) => {
                tracing::info!(broker = %dial.address, session_present, "connected to the cloud");
                State::Online { wire: Box::new(wire), resumed: session_present, max_packet, receive_max }
            }
            Ok(Ok(other)) => State::Waiting(Down::new(format!("the broker began with {other:?}"))),
            Ok(Err(down)) => State::Waiting(down),
            Err(_) => State::Waiting(Down::new("the broker did not answer in time")),
        }
    }

    async fn online(&mut self, wire: Wire, resumed: bool, max_packet: Option<u32>, receive_max: Option<u16>) -> State {
        let began = Instant::now();
        let (end, acks) = match Session::begin(self, wire, max_packet, receive_max).await {
            Ok(mut session) => {
                let end = session.run(resumed).await;
                (end, session.acks)
            }
            Err(error) => (End::Down(Down::new(format!("the log cannot be read: {error}"))), 0),
        };
        self.count_budget().await;
        if acks > 0 || began.elapsed() > Duration::from_secs(30) {
            self.failures = 0;
        }
        match end {
            End::Stopping => State::Stopped,
            End::Down(down) => State::Waiting(down),
        }
    }

    /// Waits at random below a span that doubles with each failure; long where trying will not help.
    async fn waiting(&mut self, down: Down) -> State {
        let (first, most) = self.config.retry;
        let span = first.saturating_mul(1 << self.failures.min(16)).min(most);
        self.failures += 1;
        let wait = if down.refused { most / 2 + random_below(most / 2) } else { random_below(span) };
        let until = clock::now().plus(i64::try_from(wait.as_millis()).unwrap_or(0));
        tracing::warn!(reason = down.reason, wait = ?wait, "no cloud");
        self.counters.error(down.reason.clone());
        self.tell(match down.refused {
            true => LinkState::Refused { reason: down.reason },
            false => LinkState::BackingOff { until, reason: down.reason },
        });
        let stopping = self.tasks.stopping();
        tokio::select! {
            () = stopping.cancelled() => State::Stopped,
            () = tokio::time::sleep(wait) => State::Connecting,
        }
    }

    fn dial(&self) -> Result<Dial, Down> {
        let address = self.config.broker.clone().ok_or_else(|| Down::refused("no broker is configured"))?;
        if address.tls && self.tls.is_none() {
            return Err(Down::refused("the broker wants TLS, but no TLS is set up for the uplink"));
        }
        let password = match (&self.config.password, &self.config.password_file) {
            (Some(secret), _) => Some(secret.0.clone()),
            (None, Some(path)) => {
                let read = std::fs::read_to_string(path);
                let text = read.map_err(|e| Down::refused(format!("password file {}: {e}", path.display())))?;
                Some(text.trim_end_matches(['\r', '\n']).to_owned())
            }
            (None, None) => None,
        };
        let will = serde_json::json!({ "state": "offline", "since": clock::now(), "reason": "connection lost" });
        Ok(Dial {
            version: self.config.version,
            client_id: self.config.client_id.clone().unwrap_or_else(|| self.gateway.to_string()),
            login: self.config.username.clone().map(|user| (user, password.unwrap_or_default())),
            tls: self.tls.clone().filter(|_| address.tls),
            keep_alive: self.config.keep_alive,
            in_flight: self.config.in_flight,
            will: (self.native.topic(&self.gateway, "status"), will.to_string().into_bytes()),
            address,
        })
    }

    fn tell(&mut self, state: LinkState) {
        let counted = self.counters.read();
        let total = counted.sent + counted.received;
        self.budget.spend(total - self.spent, clock::now());
        self.spent = total;
        self.tell_budget.send_replace(self.budget);
        let other = std::mem::discriminant(&self.state.borrow().0) != std::mem::discriminant(&state);
        if other {
            self.events.tell(Event::Link(state.clone()));
        }
        self.state.send_if_modified(|(known, since)| {
            if other {
                *since = clock::now();
            }
            std::mem::replace(known, state.clone()) != state
        });
    }

    async fn count_budget(&mut self) {
        if self.config.budget_month > 0
            && let Err(error) = self.store.set_setting("uplink.budget", self.budget.to_text()).await
        {
            tracing::warn!(%error, "what the link has cost could not be written down");
        }
    }

    /// Something was acknowledged: what was feared of the broker is not so.
    fn narrow_again(&mut self) {
        self.barren = 0;
    }
}

/// Evenly at random from zero to `most`. The standard library's hash keys are random per instance.
fn random_below(most: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish();
    most.mul_f64(random as f64 / u64::MAX as f64)
}
