//! The road as a row of states, each a function that returns the next.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{
    CONSUMER, Surroundings,
    budget::Budget,
    dialect::native::Native,
    session::{End, Session},
    status::Counters,
    sync::Line,
    wire::{Dial, Down, Minds, Wire, WireEvent},
};
use crate::{
    bus::{Events, Orders},
    clock,
    config::uplink::UplinkConfig,
    model::{
        event::{Event, LinkState},
        ids::DeviceId,
        record::Lane,
        time::Millis,
        view::BudgetStatus,
    },
    store::Store,
    tasks::Tasks,
};

/// The setting under which the budget's counts are kept.
const BUDGET: &str = "uplink.budget";
/// How long a broker may take from the connection to its CONNACK.
const CONNECT: Duration = Duration::from_secs(20);

/// All that outlives a connection.
pub struct Road {
    pub(super) config: UplinkConfig,
    pub(super) gateway: DeviceId,
    pub(super) consumer: String,
    pub(super) native: Native,
    pub(super) store: Store,
    pub(super) orders: Orders,
    events: Events,
    tls: Option<Arc<rustls::ClientConfig>>,
    pub(super) children: watch::Receiver<Vec<DeviceId>>,
    pub(super) tasks: Tasks,
    state: watch::Sender<(LinkState, Millis)>,
    pub(super) counters: Arc<Counters>,
    pub(super) budget: Budget,
    tell_budgets: watch::Sender<Vec<BudgetStatus>>,
    /// Bytes in flight the last connection came to.
    pub(super) window: usize,
    /// Bytes of a publish, where a broker ended connections over larger ones without saying so.
    pub(super) narrow: usize,
    /// Positions that were declared lost while the cursor was below them: the next connection begins there again.
    pub(super) aside: Vec<(Lane, u64)>,
    /// Connections in a row that ended without any acknowledgement.
    pub(super) barren: u32,
    failures: u32,
    /// Bytes that are in the budget already.
    spent: u64,
    /// Where the cloud has shadows of its own.
    pub(super) line: Option<Line>,
    /// What the broker has of us in a session that it resumes.
    pub(super) subscribed: Vec<String>,
}

/// The states, as far as they differ in what is done next.
enum State {
    Connecting,
    Online { wire: Box<Wire>, resumed: bool, max_packet: Option<u32>, receive_max: Option<u16> },
    Waiting(Down),
    Stopped,
}

/// Where the road tells how it stands.
pub struct Told {
    pub state: watch::Sender<(LinkState, Millis)>,
    pub budgets: watch::Sender<Vec<BudgetStatus>>,
    pub counters: Arc<Counters>,
    /// To the sync of the shadows.
    pub line: Option<Line>,
}

impl Road {
    pub fn new(config: UplinkConfig, around: Surroundings, told: Told) -> Road {
        Road {
            native: Native::new(&config.root, around.gateway.clone()),
            budget: Budget::new(&config.budget),
            tell_budgets: told.budgets,
            window: 256 << 10,
            narrow: usize::MAX,
            aside: Vec::new(),
            barren: 0,
            failures: 0,
            spent: 0,
            line: told.line,
            subscribed: Vec::new(),
            consumer: CONSUMER.into(),
            gateway: around.gateway,
            store: around.store,
            orders: around.orders,
            events: around.events,
            tls: around.tls,
            children: around.children,
            tasks: around.tasks,
            state: told.state,
            counters: told.counters,
            config,
        }
    }

    pub async fn run(mut self) {
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
        if let Ok(Some(text)) = self.store.setting(BUDGET).await {
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
        let asked_to_wait = matches!(&end, End::Down(down) if down.minds == Some(Minds::Rate));
        if !asked_to_wait && (acks > 0 || began.elapsed() > Duration::from_secs(30)) {
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

    pub(super) fn tell(&mut self, state: LinkState) {
        self.spend();
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

    /// Charges the budget with what was sent and received since the last time.
    fn spend(&mut self) {
        let counted = self.counters.read();
        let total = counted.sent + counted.received;
        let now = clock::now();
        self.budget.spend(total - self.spent, now);
        self.spent = total;
        let status = self.budget.status(now);
        self.tell_budgets.send_if_modified(|told| std::mem::replace(told, status.clone()) != status);
    }

    /// What must be written down of the budget; nothing where there is none.
    pub(super) fn budget_setting(&mut self) -> Option<(&'static str, Vec<u8>)> {
        self.spend();
        self.budget.is_limited().then(|| (BUDGET, self.budget.to_text().into_bytes()))
    }

    async fn count_budget(&mut self) {
        if let Some((name, value)) = self.budget_setting()
            && let Err(error) = self.store.set_setting(name, value).await
        {
            tracing::warn!(%error, "what the link has cost could not be written down");
        }
    }

    /// Something was acknowledged: what was feared of the broker is not so.
    pub(super) fn narrow_again(&mut self) {
        self.barren = 0;
    }
}

/// Evenly at random from zero to `most`. The standard library's hash keys are random per instance.
fn random_below(most: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish();
    most.mul_f64(random as f64 / u64::MAX as f64)
}
