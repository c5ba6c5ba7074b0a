//! The gateway as a CoAP server: the door for children that push what they measure and fetch what waits for them.
//!
//! Plain CoAP proves nothing about its sender. The door is open to devices that the configuration names, with a token
//! where it names one; an answer to anybody else, or to a device without a token, is at most three times its request,
//! so that nobody can be flooded through it under a forged address. Whether a device may talk is asked with each request,
//! because there is no connection that could end.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use coap_lite::CoapOption;
use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{net::UdpSocket, sync::watch};
use tokio_util::sync::CancellationToken;

use super::{
    DriverError,
    answers::{self, Asked},
    blocks::{self, Upload, Uploads},
    endpoint::Endpoint,
    exchange::{Params, Ticket},
    wire::{LARGEST_DATAGRAM, Message, code},
};
use crate::{
    bus::{
        ChildEvent, ChildEvents, FetchSender, Inbound, InboundSender, TurnedAway, TurnedAwaySender, UpdateAskSender,
    },
    clock,
    config::coap::Server,
    model::{
        device::{Lifecycle, Lives, Protocol},
        ids::DeviceId,
        topic::LocalTopic,
    },
};

/// The ends the door holds.
#[derive(Clone)]
pub struct ServerPorts {
    pub inbound: InboundSender,
    pub children: ChildEvents,
    pub fetch: FetchSender,
    pub updates: UpdateAskSender,
    /// Who may talk.
    pub lives: watch::Receiver<Arc<Lives>>,
    pub turned_away: TurnedAwaySender,
}

/// How much larger than its request an answer may be while its asker has proved nothing.
const AMPLIFICATION: usize = 3;
const SEEN_EVERY: Duration = Duration::from_secs(1);
/// A device that was silent for longer is announced as connected again.
const AWAY_AFTER: Duration = Duration::from_secs(300);
const AT_ONCE: usize = 64;

/// Serves until `stop`; without a listener in the configuration it waits for one.
pub async fn run(
    mut config: watch::Receiver<Arc<Server>>,
    ports: ServerPorts,
    stop: CancellationToken,
) -> Result<(), DriverError> {
    loop {
        let listen = config.borrow_and_update().listen;
        let current = config.clone();
        let moved = async {
            while config.changed().await.is_ok() {
                if config.borrow_and_update().listen != listen {
                    return true;
                }
            }
            false
        };
        let door = async {
            match listen {
                Some(address) => run_on(UdpSocket::bind(address).await?, current, &ports).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            ended = door => return ended,
            () = stop.cancelled() => return Ok(()),
            moved = moved => if !moved { return Ok(()) },
        }
    }
}

/// Serves a socket that is already bound.
pub async fn run_on(
    socket: UdpSocket,
    config: watch::Receiver<Arc<Server>>,
    ports: &ServerPorts,
) -> Result<(), DriverError> {
    if let Ok(address) = socket.local_addr() {
        tracing::info!(%address, "coap door open");
    }
    let (endpoint, work, mut requests) = Endpoint::on(socket, Params::default());
    let (lives, turned_away) = (ports.lives.clone(), ports.turned_away.clone());
    let (uploads, seen, waiting) = (Uploads::default(), HashMap::new(), HashSet::new());
    let mut door = Door { config, lives, turned_away, uploads, seen, waiting };
    let serve = async {
        let mut answering = FuturesUnordered::new();
        let mut round = Vec::new();
        loop {
            tokio::select! {
                count = requests.recv_many(&mut round, AT_ONCE) => if count == 0 { return },
                Some(()) = answering.next() => continue,
            }
            let mut batch = Vec::new();
            for (ticket, request) in round.drain(..) {
                let (asked, most) = door.judge(&ticket, &request, &mut batch);
                if let Some(event) = door.event(&asked, ticket.peer) {
                    ports.children.send(event).await;
                }
                let (endpoint, ports) = (endpoint.clone(), ports.clone());
                answering.push(async move {
                    let answer = answers::answer(asked, &request, most, &ports).await;
                    endpoint.respond(ticket, in_proportion(answer, most)).await;
                });
            }
            if !batch.is_empty() && ports.inbound.send(batch).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = work.run() => Ok(()),
        () = serve => Err(DriverError::Closed),
    }
}

struct Door {
    config: watch::Receiver<Arc<Server>>,
    lives: watch::Receiver<Arc<Lives>>,
    turned_away: TurnedAwaySender,
    uploads: Uploads,
    seen: HashMap<DeviceId, Instant>,
    /// Of whom it was told that they wait for approval.
    waiting: HashSet<DeviceId>,
}

impl Door {
    /// What a request asks for, and how many bytes its answer may have. What is for the keeper joins `batch`.
    fn judge(&mut self, ticket: &Ticket, request: &Message, batch: &mut Vec<Inbound>) -> (Asked, usize) {
        let small = ticket.size * AMPLIFICATION;
        let refuse = |code, why: &str| (Asked::Nothing(blocks::refuse(code, why)), small);
        let known = [
            CoapOption::UriHost,
            CoapOption::UriPort,
            CoapOption::UriPath,
            CoapOption::UriQuery,
            CoapOption::Accept,
            CoapOption::Block1,
            CoapOption::Block2,
        ];
        if request.has_critical_besides(&known) {
            return refuse(code::BAD_OPTION, "a critical option is not known here");
        }
        let Some(path) = request.path() else { return refuse(code::BAD_REQUEST, "the path is not UTF-8") };
        if path == ".well-known/core" {
            return match request.code() {
                code::GET => (Asked::Links, small),
                _ => refuse(code::METHOD_NOT_ALLOWED, "GET only"),
            };
        }
        let parts = path.strip_prefix("devices/").and_then(|rest| rest.split_once('/'));
        let named = parts.and_then(|(id, rest)| Some((DeviceId::new(id).ok()?, rest.to_owned())));
        let Some((device, rest)) = named else { return refuse(code::NOT_FOUND, "devices/{id}/telemetry") };
        let config = self.config.borrow().clone();
        let (most, wrong) = match config.unprotected.get(&device) {
            None => (small, Some(("no-credentials", "not among those that may use plain CoAP ([coap] unprotected)"))),
            Some(None) => (small, None),
            Some(Some(digest)) => match request.query("token") {
                None => (small, Some(("no-credentials", "no token was given ([coap.tokens])"))),
                Some(token) if digest.fits(&token) => (LARGEST_DATAGRAM, None),
                Some(_) => (small, Some(("bad-credentials", "wrong token"))),
            },
        };
        if let Some((reason, why)) = wrong {
            self.turn_away(device, ticket.peer, reason, why);
            return refuse(code::UNAUTHORIZED, "not allowed by plain CoAP, or a wrong token");
        }
        let lifecycle = self.lives.borrow().of(&device);
        if !lifecycle.may_talk() {
            let why = format!("device {device} is {lifecycle:?}");
            self.turn_away(device.clone(), ticket.peer, "not-active", &why);
            return (Asked::Barred { device, lifecycle }, most);
        }
        let asked = match request.code() {
            code::GET => Asked::Get { device, what: rest },
            code::POST | code::PUT => match LocalTopic::parse(&path) {
                LocalTopic::Ingest(device, topic) if answers::takes(&topic) => {
                    match self.uploads.take(Instant::now(), ticket.peer, request, config.largest as usize) {
                        Upload::Answer(answer) => Asked::Nothing(answer),
                        Upload::Whole(body, block) => {
                            match answers::inbound(&device, topic, request, body, clock::now()) {
                                Ok((inbound, reply, delta)) => {
                                    batch.push(inbound);
                                    Asked::Stored { device, reply, block, delta }
                                }
                                Err(refusal) => Asked::Nothing(refusal),
                            }
                        }
                    }
                }
                LocalTopic::GatewayOnly(_) => Asked::Nothing(blocks::refuse(code::METHOD_NOT_ALLOWED, "GET only")),
                _ => Asked::Nothing(blocks::refuse(code::NOT_FOUND, "no such topic")),
            },
            _ => Asked::Nothing(blocks::refuse(code::METHOD_NOT_ALLOWED, "GET, POST or PUT")),
        };
        (asked, most)
    }

    /// Whoever floods the door is not counted to the last.
    fn turn_away(&self, device: DeviceId, address: SocketAddr, reason: &'static str, why: &str) {
        let text = format!("CoAP: {why}");
        let _ = self.turned_away.try_send(TurnedAway { device, address, reason, text });
    }

    /// What the other rooms learn of it: a sign of life, or that somebody new waits for approval.
    fn event(&mut self, asked: &Asked, peer: SocketAddr) -> Option<ChildEvent> {
        if let Asked::Barred { device, lifecycle: Lifecycle::Pending } = asked {
            let first = self.waiting.insert(device.clone());
            return first.then(|| ChildEvent::Waiting { device: device.clone(), protocol: Protocol::Coap });
        }
        let (Asked::Get { device, .. } | Asked::Stored { device, .. }) = asked else { return None };
        let (device, now, at) = (device.clone(), Instant::now(), clock::now());
        let before = self.seen.get(&device).map(|before| now.duration_since(*before));
        if before.is_some_and(|before| before < SEEN_EVERY) {
            return None;
        }
        self.seen.insert(device.clone(), now);
        Some(match before {
            Some(before) if before < AWAY_AFTER => ChildEvent::Seen { device, at },
            _ => ChildEvent::Connected { device, address: Some(peer), protocol: "coap", at },
        })
    }
}

/// An answer that would be too large for who asked loses its payload, which is for people; blocks are small already.
fn in_proportion(answer: Message, most: usize) -> Message {
    let size = answer.to_bytes().map_or(usize::MAX, |bytes| bytes.len());
    if size > most && !code::is_success(answer.code()) { Message::new(answer.code()) } else { answer }
}
