//! The message layer of RFC 7252 as a value: datagrams and times in, effects out. No socket, no clock, no task.
//!
//! Confirmable messages are repeated with back-off (section 4.2), duplicates are answered from memory (4.5), answers
//! that take long come separately (5.2.2), and one peer has one open request at a time (NSTART = 1, section 4.7).

mod incoming;
mod seen;

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

use coap_lite::MessageType;

use self::seen::Seen;
use super::wire::{Message, Token};

/// Requests that wait for their turn with one peer.
const QUEUED_PER_PEER: usize = 32;

/// Transmission parameters (RFC 7252 section 4.8).
#[derive(Debug, Clone, Copy)]
pub struct Params {
    pub ack_timeout: Duration,
    pub retries: u32,
    /// How long a separate answer may take after the acknowledgement.
    pub answer_within: Duration,
}

impl Default for Params {
    fn default() -> Self {
        Self { ack_timeout: Duration::from_secs(2), retries: 4, answer_within: Duration::from_secs(30) }
    }
}

/// Why a request got no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    #[error("no answer")]
    Timeout,
    #[error("the device rejected the message (RST)")]
    Reset,
    #[error("the message does not fit into a datagram")]
    TooLarge,
    #[error("too many requests wait for this device")]
    Overloaded,
    #[error("the gateway is stopping")]
    Stopped,
}

/// A request that came in and waits for its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    pub peer: SocketAddr,
    id: u16,
    token: Token,
    confirmable: bool,
    /// Bytes of the request's datagram: what an answer is measured by.
    pub size: usize,
}

/// What the world outside is to do.
#[derive(Debug, PartialEq)]
pub enum Effect {
    Send(SocketAddr, Vec<u8>),
    /// A request for the application, once however often it was repeated.
    Request(Ticket, Message),
    /// An answer or a notification to the request with this number.
    Answer(u64, Message),
    Failed(u64, Failure),
}

#[derive(Debug)]
struct Sent {
    bytes: Vec<u8>,
    repeated: u32,
    wait: Duration,
    due: Instant,
    exchange: Option<u64>,
}

#[derive(Debug)]
struct Open {
    peer: SocketAddr,
    token: Token,
    /// While it keeps its peer's line busy.
    waiting: bool,
    due: Option<Instant>,
    keeps: bool,
}

#[derive(Debug, Default)]
struct Line {
    busy: Option<u64>,
    queue: VecDeque<(u64, Message)>,
}

pub struct Exchanges {
    params: Params,
    next_id: u16,
    sent: HashMap<(SocketAddr, u16), Sent>,
    open: HashMap<u64, Open>,
    tokens: HashMap<(SocketAddr, Token), u64>,
    lines: HashMap<SocketAddr, Line>,
    seen: Seen,
    effects: Vec<Effect>,
}

impl Exchanges {
    /// `first_id` should be random, so that a restart does not repeat ids a peer remembers.
    pub fn new(params: Params, first_id: u16) -> Self {
        Self {
            params,
            next_id: first_id,
            sent: HashMap::new(),
            open: HashMap::new(),
            tokens: HashMap::new(),
            lines: HashMap::new(),
            seen: Seen::default(),
            effects: Vec::new(),
        }
    }

    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// Sends a confirmable request when its peer's line is free. With `keeps` later messages with its token are
    /// answers too (an observation), until [`Exchanges::forget`]. The token must be unpredictable.
    pub fn request(&mut self, now: Instant, exchange: u64, peer: SocketAddr, message: Message, keeps: bool) {
        let token = message.token().to_vec();
        self.tokens.insert((peer, token.clone()), exchange);
        self.open.insert(exchange, Open { peer, token, waiting: true, due: None, keeps });
        let line = self.lines.entry(peer).or_default();
        if line.queue.len() >= QUEUED_PER_PEER {
            return self.fail(now, exchange, Failure::Overloaded);
        }
        line.queue.push_back((exchange, message));
        self.advance(now, peer);
    }

    /// No more answers are wanted for this request.
    pub fn forget(&mut self, now: Instant, exchange: u64) {
        let Some(open) = self.open.remove(&exchange) else { return };
        self.tokens.remove(&(open.peer, open.token));
        self.sent.retain(|_, sent| sent.exchange != Some(exchange));
        if let Some(line) = self.lines.get_mut(&open.peer) {
            line.queue.retain(|(queued, _)| *queued != exchange);
        }
        self.free(now, open.peer, exchange);
    }

    /// Answers a request: in its acknowledgement where that has not gone out yet.
    pub fn respond(&mut self, now: Instant, ticket: &Ticket, mut message: Message) {
        let key = (ticket.peer, ticket.id);
        let Some(unacknowledged) = self.seen.close(key) else { return };
        let piggybacked = ticket.confirmable && unacknowledged;
        message.set_token(ticket.token.clone());
        if piggybacked {
            message.set_kind(MessageType::Acknowledgement);
            message.set_id(ticket.id);
            let bytes = message.to_bytes();
            self.seen.answered(key, bytes.clone());
            self.effects.extend(bytes.map(|bytes| Effect::Send(ticket.peer, bytes)));
            return;
        }
        let acknowledged = ticket.confirmable.then(|| empty(MessageType::Acknowledgement, ticket.id));
        self.seen.answered(key, acknowledged);
        let kind = if ticket.confirmable { MessageType::Confirmable } else { MessageType::NonConfirmable };
        self.transmit(now, ticket.peer, message, kind, None);
    }

    /// Takes back a request that could not be handed over: its repetition is a new one.
    pub fn drop_request(&mut self, ticket: &Ticket) {
        self.seen.forget((ticket.peer, ticket.id));
    }

    /// Nobody takes requests here.
    pub fn reject(&mut self, ticket: &Ticket) {
        self.drop_request(ticket);
        self.send_empty(ticket.peer, MessageType::Reset, ticket.id);
    }

    /// A confirmable notification to an observer (RFC 7641); a reset or silence is [`Effect::Failed`].
    pub fn notify(&mut self, now: Instant, exchange: u64, peer: SocketAddr, token: Token, mut message: Message) {
        message.set_token(token);
        self.transmit(now, peer, message, MessageType::Confirmable, Some(exchange));
    }

    fn fail(&mut self, now: Instant, exchange: u64, why: Failure) {
        self.effects.push(Effect::Failed(exchange, why));
        self.forget(now, exchange);
    }

    /// Repeats what is due, gives up what was repeated enough.
    pub fn tick(&mut self, now: Instant) {
        let due: Vec<_> = self.sent.iter().filter(|(_, sent)| sent.due <= now).map(|(key, _)| *key).collect();
        for key in due {
            let Some(sent) = self.sent.get_mut(&key) else { continue };
            if sent.repeated >= self.params.retries {
                if let Some(Sent { exchange: Some(exchange), .. }) = self.sent.remove(&key) {
                    self.fail(now, exchange, Failure::Timeout);
                }
                continue;
            }
            sent.repeated += 1;
            sent.wait *= 2;
            sent.due = now + sent.wait;
            self.effects.push(Effect::Send(key.0, sent.bytes.clone()));
        }
        let late = |open: &Open| open.due.is_some_and(|due| due <= now);
        let late: Vec<u64> = self.open.iter().filter(|(_, open)| late(open)).map(|(id, _)| *id).collect();
        for exchange in late {
            self.fail(now, exchange, Failure::Timeout);
        }
        for (peer, id) in self.seen.tick(now) {
            self.send_empty(peer, MessageType::Acknowledgement, id);
        }
    }

    /// When [`Exchanges::tick`] has something to do next.
    pub fn next_tick(&self) -> Option<Instant> {
        let sent = self.sent.values().map(|sent| sent.due);
        let open = self.open.values().filter_map(|open| open.due);
        sent.chain(open).chain(self.seen.next_tick()).min()
    }

    /// Sends the next request of a peer whose line is free.
    fn advance(&mut self, now: Instant, peer: SocketAddr) {
        let Some(line) = self.lines.get_mut(&peer) else { return };
        if line.busy.is_some() {
            return;
        }
        match line.queue.pop_front() {
            Some((exchange, message)) => {
                line.busy = Some(exchange);
                self.transmit(now, peer, message, MessageType::Confirmable, Some(exchange));
            }
            None => drop(self.lines.remove(&peer)),
        }
    }

    fn free(&mut self, now: Instant, peer: SocketAddr, exchange: u64) {
        if let Some(line) = self.lines.get_mut(&peer)
            && line.busy == Some(exchange)
        {
            line.busy = None;
            self.advance(now, peer);
        }
    }

    fn transmit(
        &mut self,
        now: Instant,
        peer: SocketAddr,
        mut message: Message,
        kind: MessageType,
        exchange: Option<u64>,
    ) {
        self.next_id = self.next_id.wrapping_add(1);
        message.set_id(self.next_id);
        message.set_kind(kind);
        let Some(bytes) = message.to_bytes() else {
            return if let Some(exchange) = exchange {
                self.fail(now, exchange, Failure::TooLarge)
            };
        };
        if kind == MessageType::Confirmable {
            // ACK_RANDOM_FACTOR 1.5: the id is as good as random here, and keeps this a pure value.
            let spread = self.params.ack_timeout.mul_f64(f64::from(self.next_id.wrapping_mul(40_503) >> 8) / 512.0);
            let wait = self.params.ack_timeout + spread;
            let sent = Sent { bytes: bytes.clone(), repeated: 0, wait, due: now + wait, exchange };
            self.sent.insert((peer, self.next_id), sent);
        }
        self.effects.push(Effect::Send(peer, bytes));
    }

    fn send_empty(&mut self, peer: SocketAddr, kind: MessageType, id: u16) {
        self.effects.push(Effect::Send(peer, empty(kind, id)));
    }
}

/// A message of four bytes: acknowledgement or reset.
fn empty(kind: MessageType, id: u16) -> Vec<u8> {
    let kind = match kind {
        MessageType::Confirmable => 0,
        MessageType::NonConfirmable => 1,
        MessageType::Acknowledgement => 2,
        MessageType::Reset => 3,
    };
    let [high, low] = id.to_be_bytes();
    vec![0x40 | kind << 4, 0, high, low]
}

#[cfg(test)]
mod tests;
