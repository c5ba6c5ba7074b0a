//! One client's session: whose it is, who has it now and what it subscribed to; what waits for its client is in
//! `waiting`. Outlives connections where the client asked for that; a plain value behind a lock.

mod waiting;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use tokio::sync::{Notify, watch};

pub use self::waiting::{Budget, Inflight, Pushed};
use super::{message::Queued, past::Trouble, wills::Testament};
use crate::{
    clock,
    identity::Principal,
    model::{ids::DeviceId, time::Millis},
};

pub struct Session {
    /// Unique in the broker's life.
    pub key: u64,
    pub client: Arc<str>,
    pub device: DeviceId,
    pub groups: Vec<String>,
    /// Held by the one connection that has the session.
    pub gate: Arc<tokio::sync::Mutex<()>>,
    /// Commands to the connection that has the session.
    pub control: watch::Sender<Control>,
    /// Something waits to be written.
    pub wake: Notify,
    pub counters: Counters,
    /// Whether a connection has it; readable without the lock, for whoever holds another one.
    pub connected: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Control {
    /// Counts connections that want this session; the newest has it.
    pub newest: u64,
    /// Counts orders to leave, with the last one's code and reason.
    pub kicks: u64,
    pub kick: (u8, String),
}

#[derive(Default)]
pub struct Counters {
    pub messages_in: AtomicU64,
    pub messages_out: AtomicU64,
    pub bytes_in: AtomicU64,
    pub bytes_out: AtomicU64,
}

/// What is known of the connection, for people.
#[derive(Debug, Clone)]
pub struct Live {
    pub address: Option<SocketAddr>,
    pub protocol: String,
    pub since: Millis,
    /// `None` for those who were let in without credentials.
    pub principal: Option<Principal>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subscribed {
    pub options: u8,
    pub identifier: u32,
}

#[derive(Default)]
pub struct State {
    pub live: Option<Live>,
    /// The connection before.
    pub was: Option<Live>,
    /// Since when there is no connection.
    pub away_since: Option<Millis>,
    /// Rows of it lie in the store.
    pub stored: bool,
    /// Seconds it outlives its connection.
    pub expiry: u32,
    /// It has ended; whoever still holds it must look for another.
    pub ended: bool,
    pub will: Option<Testament>,
    /// A will that waits for its delay, and when it is due.
    pub parked: Option<(Testament, Millis)>,
    pub subscriptions: HashMap<String, Subscribed>,
    pub queue: VecDeque<Queued>,
    /// Retained messages to deliver; they cost nothing here, being shared with their store.
    pub replay: VecDeque<Queued>,
    pub queued_bytes: usize,
    pub inflight: VecDeque<Inflight>,
    /// QoS 2 messages received and not yet released by the client.
    pub incoming: HashSet<u16>,
    /// Those of them that were logged before a power cut and have not found their subscribers yet.
    pub unrouted: HashSet<u16>,
    /// Most messages on their way at once on this connection.
    pub window: u16,
    next_packet: u16,
    /// What was dropped, by reason, and the last error.
    pub trouble: Trouble,
    /// Its client id was made up by the broker.
    pub assigned: bool,
    /// Messages per second in and out, smoothed, and the counts they were last taken from.
    pub rates: (f64, f64),
    pub sampled: (u64, u64),
}

impl Session {
    pub fn new(key: u64, client: Arc<str>, device: DeviceId, groups: Vec<String>) -> Self {
        Self {
            key,
            client,
            device,
            groups,
            gate: Arc::default(),
            control: watch::Sender::default(),
            wake: Notify::new(),
            counters: Counters::default(),
            connected: AtomicBool::new(false),
            state: Mutex::default(),
        }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn kick(&self, code: u8, why: &str) {
        self.control.send_modify(|control| {
            control.kicks += 1;
            control.kick = (code, why.to_owned());
        });
    }
}

impl State {
    /// Counts a drop; whether it is the first for this reason.
    pub fn count_drop(&mut self, reason: &'static str) -> bool {
        let count = self.trouble.dropped.entry(reason).or_insert(0);
        *count += 1;
        *count == 1
    }

    /// Keeps an error for people.
    pub fn failed(&mut self, text: String) {
        self.trouble.last_error = Some((text, clock::now()));
    }

    /// It has been without a connection for as long as it may be.
    pub fn is_over(&self, now: Millis) -> bool {
        self.away_since.is_some_and(|since| now.since(since) >= i64::from(self.expiry).saturating_mul(1000))
    }

    pub fn persistent(&self) -> bool {
        self.expiry > 0
    }

    /// Once per tick: smooths the rates over about half a minute.
    pub fn sample(&mut self, counters: &Counters, seconds: f64) {
        let now = (counters.messages_in.load(Ordering::Relaxed), counters.messages_out.load(Ordering::Relaxed));
        let weight = 1.0 - (-seconds / 30.0).exp();
        let smooth = |old: f64, delta: u64| old + (delta as f64 / seconds - old) * weight;
        self.rates = (
            smooth(self.rates.0, now.0.saturating_sub(self.sampled.0)),
            smooth(self.rates.1, now.1.saturating_sub(self.sampled.1)),
        );
        self.sampled = now;
    }
}
