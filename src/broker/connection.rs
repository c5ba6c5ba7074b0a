//! One connection after CONNACK: reads, answers and writes in one task, never waiting for one where another could go on.
//!
//! ```text
//!  socket ─▶ input ─▶ packets ─┬─ ingested: outbox ─▶ keeper ─▶ committed ─┐
//!                              └─ others ──────────────────────────────────┴▶ routed ─▶ stored ─▶ ack ─▶ output ─▶ socket
//!                                          a session's queue ─────────────────────────────────────────▶ output
//! ```
//!
//! Acks leave in the order in which the messages came (MQTT 5, 4.6): `owed` holds them back until then.

mod end;
mod errors;
mod owed;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    convert::Infallible,
    panic::AssertUnwindSafe,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::BytesMut;
use futures_util::FutureExt;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::{Instant, timeout},
};

pub use self::end::End;
use self::errors::Errors;
use super::{
    connect::LAST_WORDS,
    hub::Hub,
    life::Attached,
    outgoing::{HIGH_WATER, Writer},
    pending::{Ack, Committing, Storing},
    session::Session,
    wire::{self, Fault, Version, encode, reason},
};
use crate::{
    bus::{ChildEvent, Inbound},
    clock,
};

/// Packets handled before others get their turn, however often more can be read meanwhile.
const TURN: usize = 64;
/// Bytes read at once at least, and at most: a thousand busy children have a buffer each.
const ROOM: usize = 4 * 1024;
const AT_ONCE: usize = 16 * 1024;
/// Messages whose ack is outstanding before the socket is left unread.
const OUTSTANDING: usize = 512;
/// How often a quiet connection looks at its clocks.
const LOOK: Duration = Duration::from_secs(5);
/// How long messages that were accepted may take to be committed after their connection has gone.
const DRAIN: Duration = Duration::from_secs(10);

/// What client and broker agreed on.
pub struct Terms {
    pub version: Version,
    /// Silence after which the client counts as gone.
    pub keep_alive: Option<Duration>,
    pub packet_maximum: usize,
    pub alias_maximum: u16,
    pub problem_information: bool,
    /// Whether DISCONNECT may set a session expiry (MQTT 5, 3.14.2.2.2).
    pub may_extend: bool,
}

/// Writes some of `output`; once it is empty, what still waits below. Bytes written.
async fn send(socket: &mut (impl AsyncWrite + Unpin), output: &mut BytesMut) -> std::io::Result<usize> {
    if output.is_empty() {
        return socket.flush().await.map(|()| 0);
    }
    match socket.write_buf(output).await? {
        0 => Err(std::io::Error::other("the connection closed")),
        n => Ok(n),
    }
}

pub struct Connection {
    pub(super) hub: Arc<Hub>,
    pub(super) session: Arc<Session>,
    attached: Attached,
    pub(super) terms: Terms,
    writer: Writer,
    input: BytesMut,
    pub(super) output: BytesMut,
    /// Messages on their way to the keeper.
    pub(super) outbox: Vec<Inbound>,
    pub(super) committing: VecDeque<Committing>,
    storing: VecDeque<Storing>,
    /// SUBACK, UNSUBACK and PUBCOMP: they wait for the broker's own store, never behind the keeper's.
    answering: VecDeque<Storing>,
    /// QoS 2 packet ids from an earlier connection that are not released yet: outside the receive maximum of this one.
    pub(super) inherited: HashSet<u16>,
    /// Topics the client's aliases stand for.
    pub(super) aliases: HashMap<u16, Arc<str>>,
    /// QoS 1 messages of the client that are not acknowledged yet.
    pub(super) unacked: usize,
    pub(super) errors: Errors,
    heard: Instant,
    told_seen: Instant,
    wrote: Instant,
    /// More whole packets may lie in `input`.
    more: bool,
    /// Packets handled since others had their turn.
    turn: usize,
    /// Bytes left `output` and wait below: in TLS records or frames that the socket did not take.
    unflushed: bool,
}

impl Connection {
    pub fn new(hub: Arc<Hub>, attached: Attached, terms: Terms, input: BytesMut, output: BytesMut) -> Self {
        let now = Instant::now();
        let inherited = attached.session.state().incoming.clone();
        let writer = Writer {
            version: terms.version,
            packet_maximum: terms.packet_maximum,
            aliases: HashMap::new(),
            alias_maximum: terms.alias_maximum,
        };
        Self {
            session: attached.session.clone(),
            hub,
            terms,
            writer,
            more: !input.is_empty(),
            turn: 0,
            input,
            output,
            outbox: Vec::new(),
            committing: VecDeque::new(),
            storing: VecDeque::new(),
            answering: VecDeque::new(),
            inherited,
            aliases: HashMap::new(),
            unacked: 0,
            errors: Errors::new(now),
            heard: now,
            told_seen: now,
            wrote: now,
            unflushed: false,
            attached,
        }
    }

    /// Runs to the end and gives the session back.
    pub async fn run(mut self, mut reader: impl AsyncRead + Unpin, mut socket: impl AsyncWrite + Unpin) {
        // A panic ends this connection only, and its session is given back like any other.
        let end = match AssertUnwindSafe(self.talk(&mut reader, &mut socket)).catch_unwind().await {
            Ok(Err(end)) => end,
            Ok(Ok(never)) => match never {},
            Err(_) => {
                tracing::error!(client = &*self.session.client, "a connection panicked");
                Fault::new(reason::IMPLEMENTATION, "internal error").into()
            }
        };
        let (goodbye, gone) = (matches!(end, End::Goodbye { .. }), matches!(end, End::Gone(_)));
        let (ending, last) = end.ending();
        let linger = last.as_ref().is_some_and(|fault| fault.code != reason::SHUTTING_DOWN);
        if goodbye {
            // what was sent before DISCONNECT is still answered: a client may have sent it all in one piece
            drop(timeout(LAST_WORDS, self.drain()).await);
        }
        if let Some(fault) = last {
            let fits = fault.text.len() + 8 <= self.terms.packet_maximum;
            let text = if fits { &*fault.text } else { "" };
            encode::disconnect(&mut self.output, self.terms.version, fault.code, text);
        }
        if gone {
            self.output.clear();
        }
        let words = async {
            socket.write_all_buf(&mut self.output).await?;
            socket.shutdown().await
        };
        drop(timeout(LAST_WORDS, words).await);
        if timeout(DRAIN, self.drain()).await.is_err() {
            tracing::warn!(
                client = &*self.session.client,
                "messages of a closed connection were not committed in time"
            );
        }
        tracing::info!(device = %self.session.device, client = &*self.session.client, reason = ending.reason, "a child disconnected");
        self.hub.detach(self.attached, ending).await;
        // A socket that is closed with bytes unread resets, and the client would never see why it was sent away.
        if linger {
            self.input.clear();
            let rest = async {
                while reader.read_buf(&mut self.input).await.is_ok_and(|n| n > 0) {
                    self.input.clear();
                }
            };
            drop(timeout(LAST_WORDS, rest).await);
        }
    }

    async fn talk(
        &mut self,
        reader: &mut (impl AsyncRead + Unpin),
        socket: &mut (impl AsyncWrite + Unpin),
    ) -> Result<Infallible, End> {
        let stop = self.hub.tasks.stopping();
        let hub = self.hub.clone();
        let session = self.session.clone();
        let timer = tokio::time::sleep(LOOK.min(self.terms.keep_alive.unwrap_or(LOOK)));
        tokio::pin!(timer);
        loop {
            self.control()?;
            self.packets()?;
            if self.told_seen.elapsed() >= Duration::from_secs(1) && self.heard > self.told_seen {
                self.told_seen = Instant::now();
                let event = ChildEvent::Seen { device: session.device.clone(), at: clock::now() };
                hub.children.send(event).await;
            }
            self.settle()?;
            let before = self.output.len();
            // one large burst must not stay in memory for the life of the connection
            if before == 0 && self.output.capacity() > HIGH_WATER {
                self.output = BytesMut::new();
            }
            if self.input.is_empty() && self.input.capacity() > 2 * AT_ONCE {
                self.input = BytesMut::new();
            }
            if let Some((packets, ticket)) = self.writer.fill(&session, &hub, &mut self.output) {
                self.answering.push_back(Storing::new(Ack::LetGo { packets }, Some(ticket)));
            }
            if before == 0 && !self.unflushed {
                self.wrote = Instant::now();
            }
            let pressed = hub.journal.under_pressure();
            let reading = !self.more && !pressed && self.may_take();
            let more = self.more && !pressed && self.may_take();
            // the tail of a buffer would cut off one message, and cost it a commit of its own
            if reading && self.input.capacity() - self.input.len() < ROOM {
                self.input.reserve(ROOM);
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => {
                    return Err(Fault::new(reason::SHUTTING_DOWN, "the gateway stops").into());
                }
                _ = self.attached.control.changed() => {}
                written = send(socket, &mut self.output), if self.unflushed || !self.output.is_empty() => match written {
                    Ok(n) => {
                        self.wrote = Instant::now();
                        self.unflushed = n > 0 && !matches!(socket.flush().now_or_never(), Some(Ok(())));
                        session.counters.bytes_out.fetch_add(n as u64, Ordering::Relaxed);
                        hub.totals.bytes_sent.fetch_add(n as u64, Ordering::Relaxed);
                    }
                    Err(error) => return Err(End::Gone(error.to_string())),
                },
                () = Committing::front(&mut self.committing) => {}
                () = Storing::front(&mut self.storing) => {}
                () = Storing::front(&mut self.answering) => {}
                () = session.wake.notified(), if self.output.len() < HIGH_WATER => {}
                read = reader.read_buf(&mut self.input), if reading => match read {
                    Ok(0) => return Err(End::Gone("the connection closed without DISCONNECT".into())),
                    Ok(n) => {
                        self.more = true;
                        // whoever fills the buffer gets a larger one, up to a bound
                        if self.input.len() == self.input.capacity() {
                            self.input.reserve(self.input.capacity().clamp(4096, AT_ONCE));
                        }
                        session.counters.bytes_in.fetch_add(n as u64, Ordering::Relaxed);
                        hub.totals.bytes_received.fetch_add(n as u64, Ordering::Relaxed);
                    }
                    // rustls has a page to recommend here
                    Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                        return Err(End::Gone("the connection closed without DISCONNECT".into()));
                    }
                    Err(error) => return Err(End::Gone(error.to_string())),
                },
                // after the socket: what has arrived together is committed together
                permit = hub.inbound.reserve(), if !self.outbox.is_empty() => match permit {
                    Ok(permit) => permit.send(std::mem::take(&mut self.outbox)),
                    Err(_) => return Err(Fault::new(reason::SHUTTING_DOWN, "the gateway stops").into()),
                },
                () = hub.journal.relieved(), if pressed => {}
                () = &mut timer => {
                    let next = self.clocks()?;
                    timer.as_mut().reset(Instant::now() + next);
                }
                () = tokio::task::yield_now(), if more => self.turn = 0,
            }
        }
    }

    /// Whether another packet may be looked at: nothing of this client is piled up anywhere.
    fn may_take(&self) -> bool {
        self.outstanding() < OUTSTANDING && self.output.len() < 4 * HIGH_WATER
    }

    /// Orders from outside: a newer connection, or an administrator.
    fn control(&mut self) -> Result<(), Fault> {
        let control = self.attached.control.borrow_and_update();
        if control.newest != self.attached.begun.newest {
            return Err(Fault::new(reason::TAKEN_OVER, "another connection took this session over"));
        }
        if control.kicks != self.attached.begun.kicks {
            let (code, why) = control.kick.clone();
            return Err(Fault::new(code, why));
        }
        Ok(())
    }

    /// Handles whole packets in the input, up to one turn's worth.
    fn packets(&mut self) -> Result<(), End> {
        if !self.more || self.hub.journal.under_pressure() {
            return Ok(());
        }
        while self.turn < TURN {
            if self.outstanding() >= OUTSTANDING || self.output.len() >= 4 * HIGH_WATER {
                break;
            }
            let Some(frame) = wire::frame(&mut self.input, Some(self.terms.version), self.hub.limits.packet)? else {
                self.more = false;
                break;
            };
            self.heard = Instant::now();
            if frame.is_connect() {
                return Err(Fault::new(reason::PROTOCOL_ERROR, "a second CONNECT").into());
            }
            self.turn += 1;
            let packet = wire::packet(self.terms.version, frame)?;
            self.packet(packet)?;
        }
        Ok(())
    }

    /// Keep-alive and slow readers. When to look again.
    fn clocks(&self) -> Result<Duration, Fault> {
        let now = Instant::now();
        if (self.unflushed || !self.output.is_empty()) && now.duration_since(self.wrote) > self.hub.limits.write_within
        {
            return Err(Fault::new(reason::IMPLEMENTATION, "the client takes nothing from its connection"));
        }
        let Some(keep_alive) = self.terms.keep_alive else { return Ok(LOOK) };
        let silent = now.duration_since(self.heard);
        if silent >= keep_alive {
            return Err(Fault::new(reason::KEEP_ALIVE, "nothing was heard for one and a half times the keep-alive"));
        }
        Ok(LOOK.min(keep_alive - silent))
    }
}
