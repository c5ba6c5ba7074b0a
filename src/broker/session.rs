//! One client's session: what it subscribed to, what waits for it, what is on its way. Outlives connections where the
//! client asked for that; a plain value behind a lock, written to the wire by [`super::outgoing`].
//!
//! ```text
//!  push ─▶ queue ─▶ (window) ─▶ inflight ──PUBACK──▶ done
//!                                  └─PUBREC─▶ released ──PUBCOMP──▶ done
//! ```

use std::{
    collections::{HashMap, HashSet, VecDeque},
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use tokio::sync::{Notify, watch};

use super::{
    message::{Message, Queued},
    past::Trouble,
    wills::Testament,
};
use crate::{
    clock,
    identity::Principal,
    model::{ids::DeviceId, time::Millis},
    store::sessions::SessionChange,
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

#[derive(Debug)]
pub struct Inflight {
    pub queued: Queued,
    pub packet: u16,
    /// PUBREC was received, PUBCOMP was not.
    pub released: bool,
    /// Written on this connection.
    pub sent: bool,
    /// Its packet id may be used: it is on disk, or need not be.
    pub stored: bool,
    /// Never written on any connection.
    pub fresh: bool,
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

/// Bytes that may be queued, for one session and for all.
#[derive(Debug)]
pub struct Budget {
    pub one: usize,
    pub all: usize,
    pub used: AtomicUsize,
}

/// What became of a message that was pushed.
#[derive(Debug, PartialEq, Eq)]
pub enum Pushed {
    Queued,
    Dropped,
    /// Nobody is there, and it was not worth keeping.
    Away,
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

    /// Takes a message into the queue. `place` is asked for where it must outlive the process; the row to store is
    /// handed back.
    pub fn push(
        &self,
        mut queued: Queued,
        budget: &Budget,
        place: impl FnOnce() -> i64,
    ) -> (Pushed, Option<SessionChange>) {
        let mut state = self.state();
        let connected = state.live.is_some();
        if state.ended || (!connected && queued.qos == 0) {
            return (Pushed::Away, None);
        }
        let cost = queued.message.cost();
        // QoS 0 may fill a quarter, so that what was promised still has room
        let bound = if queued.qos == 0 { budget.one / 4 } else { budget.one };
        let used = budget.used.fetch_add(cost, Ordering::Relaxed);
        if state.queued_bytes + cost > bound || used + cost > budget.all {
            budget.used.fetch_sub(cost, Ordering::Relaxed);
            let reason = if queued.qos == 0 { "slow-reader-qos-0" } else { "queue-full" };
            let first = state.count_drop(reason);
            if first {
                tracing::warn!(
                    client = &*self.client,
                    reason,
                    bytes = state.queued_bytes,
                    "messages to a client are dropped"
                );
            }
            return (Pushed::Dropped, None);
        }
        state.queued_bytes += cost;
        let mut change = None;
        if queued.qos > 0 && state.expiry > 0 {
            queued.place = place();
            change = Some(SessionChange::Queue { client: self.client.to_string(), row: queued.to_row(0) });
        }
        // with something in the queue already its connection has been woken, or waits for the client
        let first = state.queue.is_empty();
        state.queue.push_back(queued);
        drop(state);
        if connected && first {
            self.wake.notify_one();
        }
        (Pushed::Queued, change)
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

    /// The head of what waits, if the window lets it go.
    pub fn next(&mut self, budget: &Budget) -> Option<Queued> {
        let open = self.inflight.len() < usize::from(self.window);
        let passes = |queued: &Queued| queued.qos == 0 || open;
        if self.replay.front().is_some_and(passes) {
            return self.replay.pop_front();
        }
        if !self.queue.front().is_some_and(passes) {
            return None;
        }
        let queued = self.queue.pop_front()?;
        self.forget_bytes(&queued.message, budget);
        Some(queued)
    }

    /// Whether messages wait for their packet ids to be on disk.
    pub fn holds(&self) -> bool {
        self.persistent() && self.inflight.iter().any(|i| !i.stored)
    }

    /// The QoS of what comes next.
    pub fn next_qos(&self) -> Option<u8> {
        self.replay.front().or_else(|| self.queue.front()).map(|queued| queued.qos)
    }

    /// Messages whose packet ids are on disk now may leave.
    pub fn let_go(&mut self, packets: &[u16]) {
        self.inflight.iter_mut().filter(|i| packets.contains(&i.packet)).for_each(|i| i.stored = true);
    }

    fn forget_bytes(&mut self, message: &Message, budget: &Budget) {
        let cost = message.cost();
        self.queued_bytes = self.queued_bytes.saturating_sub(cost);
        budget.used.fetch_sub(cost, Ordering::Relaxed);
    }

    /// A packet id that is not on its way (never 0).
    pub fn packet_id(&mut self) -> u16 {
        loop {
            self.next_packet = self.next_packet.checked_add(1).unwrap_or(1);
            if !self.inflight.iter().any(|i| i.packet == self.next_packet) {
                return self.next_packet;
            }
        }
    }

    /// PUBACK, or a PUBREC that refuses, or PUBCOMP: the message is done.
    pub fn done(&mut self, packet: u16) -> Option<Queued> {
        let index = self.inflight.iter().position(|i| i.packet == packet)?;
        self.inflight.remove(index).map(|i| i.queued)
    }

    /// PUBREC: the client has it. `None` where no QoS 2 message has this id.
    pub fn release(&mut self, packet: u16) -> Option<&Inflight> {
        let inflight = self.inflight.iter_mut().find(|i| i.packet == packet && i.queued.qos == 2)?;
        inflight.released = true;
        Some(inflight)
    }

    /// After the connection: what is worth keeping stays, in order; the rest goes.
    pub fn detach(&mut self, now: Millis, budget: &Budget) {
        self.was = self.live.take();
        self.away_since = Some(now);
        self.will = None;
        self.rates = (0.0, 0.0);
        for inflight in &mut self.inflight {
            inflight.sent = false;
            inflight.stored = true;
        }
        let kept = std::mem::take(&mut self.queue);
        let mut lost = 0;
        for queued in kept {
            if queued.qos == 0 {
                lost += queued.message.cost();
            } else {
                self.queue.push_back(queued);
            }
        }
        self.queued_bytes = self.queued_bytes.saturating_sub(lost);
        budget.used.fetch_sub(lost, Ordering::Relaxed);
        let replay = std::mem::take(&mut self.replay);
        for queued in replay.into_iter().rev().filter(|q| q.qos > 0) {
            let cost = queued.message.cost();
            if self.queued_bytes + cost <= budget.one {
                self.queued_bytes += cost;
                budget.used.fetch_add(cost, Ordering::Relaxed);
                self.queue.push_front(queued);
            } else {
                self.count_drop("queue-full");
            }
        }
    }

    /// The end: everything is given back.
    pub fn end(&mut self, budget: &Budget) -> Vec<Queued> {
        self.ended = true;
        budget.used.fetch_sub(self.queued_bytes, Ordering::Relaxed);
        self.queued_bytes = 0;
        self.replay.clear();
        self.incoming.clear();
        self.unrouted.clear();
        // what a QoS 2 client has seen cannot go to another (MQTT 5, 4.8.2)
        let unseen = self.inflight.drain(..).filter(|i| i.queued.qos == 1).map(|i| i.queued);
        unseen.chain(self.queue.drain(..)).collect()
    }

    /// For loading: puts back what the store kept.
    pub fn restore(&mut self, queued: Queued, packet: u16, released: bool, budget: &Budget) {
        if packet != 0 {
            self.inflight.push_back(Inflight { queued, packet, released, sent: false, stored: true, fresh: false });
            return;
        }
        self.queued_bytes += queued.message.cost();
        budget.used.fetch_add(queued.message.cost(), Ordering::Relaxed);
        self.queue.push_back(queued);
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn queued(qos: u8) -> Queued {
        let message = Message {
            topic: "t".into(),
            payload: Bytes::from_static(b"0123456789"),
            properties: Bytes::new(),
            qos,
            retain: false,
            expires: None,
            from: None,
        };
        Queued { message: Arc::new(message), qos, retain: false, identifiers: [].into(), place: 0, group: None }
    }

    fn session(expiry: u32, connected: bool) -> Session {
        let session = Session::new(1, "c".into(), DeviceId::new("d").expect("id"), vec![]);
        let mut state = session.state();
        (state.expiry, state.window) = (expiry, 2);
        let live = Live { address: None, protocol: String::new(), since: Millis(0), principal: None };
        state.live = connected.then_some(live);
        drop(state);
        session
    }

    fn budget(one: usize) -> Budget {
        Budget { one, all: 1 << 30, used: AtomicUsize::new(0) }
    }

    #[test]
    fn a_full_queue_drops_with_a_count_and_gives_its_bytes_back() {
        let cost = queued(1).message.cost();
        let (session, budget) = (session(60, false), budget(cost * 4));
        for _ in 0..4 {
            let (pushed, change) = session.push(queued(1), &budget, || 7);
            assert_eq!(pushed, Pushed::Queued);
            assert!(matches!(change, Some(SessionChange::Queue { row, .. }) if row.place == 7));
        }
        assert_eq!(session.push(queued(2), &budget, || 8).0, Pushed::Dropped);
        assert_eq!(session.push(queued(0), &budget, || 8).0, Pushed::Away);
        assert_eq!(session.state().trouble.dropped.get("queue-full"), Some(&1));
        assert_eq!(budget.used.load(Ordering::Relaxed), cost * 4);
        assert_eq!(session.state().end(&budget).len(), 4);
        assert_eq!(budget.used.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn the_window_holds_back_what_is_promised_and_opens_with_each_acknowledgement() {
        let (session, budget) = (session(0, true), budget(1 << 20));
        for qos in [1, 2, 1] {
            assert!(session.push(queued(qos), &budget, || 0).1.is_none(), "a clean session is not stored");
        }
        let mut state = session.state();
        for _ in 0..2 {
            let queued = state.next(&budget).expect("open");
            let packet = state.packet_id();
            state.inflight.push_back(Inflight {
                queued,
                packet,
                released: false,
                sent: true,
                stored: true,
                fresh: false,
            });
        }
        assert!(state.next(&budget).is_none(), "the window is full");
        assert!(state.release(1).is_none(), "packet 1 is QoS 1");
        assert!(state.release(2).is_some());
        assert!(state.next(&budget).is_none(), "released is not done");
        assert!(state.done(2).is_some() && state.done(2).is_none());
        assert!(state.next(&budget).is_some());
    }

    #[test]
    fn away_keeps_what_was_promised_in_order() {
        let (session, budget) = (session(60, true), budget(1 << 20));
        for qos in [0, 1, 0, 2] {
            session.push(queued(qos), &budget, || 1);
        }
        let mut state = session.state();
        state.replay.push_back(queued(1));
        state.replay.push_back(queued(0));
        state.detach(Millis(5), &budget);
        let qos: Vec<u8> = state.queue.iter().map(|q| q.qos).collect();
        assert_eq!(qos, vec![1, 1, 2]);
        assert_eq!(state.queued_bytes, budget.used.load(Ordering::Relaxed));
    }

    #[test]
    fn packet_ids_skip_what_is_on_its_way_and_zero() {
        let mut state = State { next_packet: u16::MAX - 1, ..State::default() };
        state.inflight.push_back(Inflight {
            queued: queued(1),
            packet: u16::MAX,
            released: false,
            sent: true,
            stored: true,
            fresh: false,
        });
        assert_eq!((state.packet_id(), state.packet_id()), (1, 2));
    }
}
