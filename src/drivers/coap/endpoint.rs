//! A UDP socket with the message layer on it: requests go out and get their answers, requests come in and get a ticket.

use std::{
    collections::{HashMap, VecDeque},
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::{
    net::UdpSocket,
    sync::{mpsc, oneshot},
};

use super::{
    exchange::{Effect, Exchanges, Failure, Params, Ticket},
    wire::{Message, Token},
};

/// Datagrams larger than this are cut, and then no CoAP any more.
const BUFFER: usize = 4096;
const NOTIFICATIONS: usize = 64;
const REQUESTS: usize = 256;

type Answers = mpsc::Sender<Result<Message, Failure>>;

enum Ask {
    Request { peer: SocketAddr, message: Message, keeps: bool, answers: Answers },
    Respond { ticket: Ticket, message: Message },
    Notify { peer: SocketAddr, token: Token, message: Message, refused: oneshot::Sender<Failure> },
}

/// The handle: cheap to clone. Works while [`Work::run`] is polled.
#[derive(Debug, Clone)]
pub struct Endpoint {
    asks: mpsc::Sender<Ask>,
}

/// The socket's side of an [`Endpoint`].
pub struct Work {
    socket: UdpSocket,
    layer: Exchanges,
    asks: mpsc::Receiver<Ask>,
    requests: mpsc::Sender<(Ticket, Message)>,
    waiting: HashMap<u64, Answers>,
    notified: HashMap<u64, oneshot::Sender<Failure>>,
    next: u64,
}

/// Requests that come in, in order.
pub type Requests = mpsc::Receiver<(Ticket, Message)>;

impl Endpoint {
    /// Opens a socket. Requests are rejected once their receiver is dropped.
    pub async fn bind(address: SocketAddr, params: Params) -> io::Result<(Endpoint, Work, Requests)> {
        Ok(Self::on(UdpSocket::bind(address).await?, params))
    }

    pub fn on(socket: UdpSocket, params: Params) -> (Endpoint, Work, Requests) {
        let (asks, asks_in) = mpsc::channel(64);
        let (requests, requests_in) = mpsc::channel(REQUESTS);
        let mut id = [0; 2];
        let _ = aws_lc_rs::rand::fill(&mut id);
        let work = Work {
            socket,
            layer: Exchanges::new(params, u16::from_be_bytes(id)),
            asks: asks_in,
            requests,
            waiting: HashMap::new(),
            notified: HashMap::new(),
            next: 0,
        };
        (Endpoint { asks }, work, requests_in)
    }

    /// Sends a confirmable request and waits for its answer.
    pub async fn request(&self, peer: SocketAddr, message: Message) -> Result<Message, Failure> {
        let (answers, mut answer) = mpsc::channel(1);
        self.ask(Ask::Request { peer, message: named(message), keeps: false, answers }).await?;
        answer.recv().await.unwrap_or(Err(Failure::Stopped))
    }

    /// Sends a request whose answers go on coming until the receiver is dropped.
    pub async fn observe(
        &self,
        peer: SocketAddr,
        message: Message,
    ) -> Result<mpsc::Receiver<Result<Message, Failure>>, Failure> {
        let (answers, receiver) = mpsc::channel(NOTIFICATIONS);
        self.ask(Ask::Request { peer, message: named(message), keeps: true, answers }).await?;
        Ok(receiver)
    }

    pub async fn respond(&self, ticket: Ticket, message: Message) {
        let _ = self.ask(Ask::Respond { ticket, message }).await;
    }

    /// Sends a notification; the receiver fires where the observer rejects it or is silent.
    pub async fn notify(&self, peer: SocketAddr, token: Token, message: Message) -> oneshot::Receiver<Failure> {
        let (refused, receiver) = oneshot::channel();
        let _ = self.ask(Ask::Notify { peer, token, message, refused }).await;
        receiver
    }

    async fn ask(&self, ask: Ask) -> Result<(), Failure> {
        self.asks.send(ask).await.map_err(|_| Failure::Stopped)
    }
}

/// A token of 64 random bits: whoever does not see the request cannot answer it (RFC 7252 section 5.3.1).
fn named(mut message: Message) -> Message {
    let mut token = vec![0; 8];
    let _ = aws_lc_rs::rand::fill(&mut token);
    message.set_token(token);
    message
}

impl Work {
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Serves the socket until every [`Endpoint`] is gone.
    pub async fn run(mut self) {
        let mut buffer = vec![0; BUFFER];
        loop {
            self.act().await;
            let wait = self
                .layer
                .next_tick()
                .map_or(Duration::from_secs(60), |at| at.saturating_duration_since(Instant::now()));
            tokio::select! {
                received = self.socket.recv_from(&mut buffer) => match received {
                    Ok((length, peer)) => self.layer.datagram(Instant::now(), peer, &buffer[..length]),
                    Err(error) => {
                        tracing::debug!(%error, "coap socket");
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                },
                ask = self.asks.recv() => match ask {
                    Some(ask) => self.ask(ask),
                    None => return,
                },
                () = tokio::time::sleep(wait) => self.layer.tick(Instant::now()),
            }
        }
    }

    fn ask(&mut self, ask: Ask) {
        let now = Instant::now();
        match ask {
            Ask::Request { peer, message, keeps, answers } => {
                self.next += 1;
                self.waiting.insert(self.next, answers);
                self.layer.request(now, self.next, peer, message, keeps);
            }
            Ask::Respond { ticket, message } => self.layer.respond(now, &ticket, message),
            Ask::Notify { peer, token, message, refused } => {
                self.next += 1;
                self.notified.retain(|_, refused| !refused.is_closed());
                self.notified.insert(self.next, refused);
                self.layer.notify(now, self.next, peer, token, message);
            }
        }
    }

    async fn act(&mut self) {
        // Whoever stopped waiting is forgotten, so that its answers are rejected and its place is free.
        let gone: Vec<u64> =
            self.waiting.iter().filter(|(_, answers)| answers.is_closed()).map(|(id, _)| *id).collect();
        for exchange in gone {
            self.waiting.remove(&exchange);
            self.layer.forget(Instant::now(), exchange);
        }
        let mut effects = VecDeque::from(self.layer.take_effects());
        while let Some(effect) = effects.pop_front() {
            match effect {
                Effect::Send(peer, bytes) => {
                    if let Err(error) = self.socket.send_to(&bytes, peer).await {
                        tracing::debug!(%peer, %error, "coap datagram not sent");
                    }
                }
                Effect::Request(ticket, message) => {
                    match self.requests.try_send((ticket, message)) {
                        Ok(()) => {}
                        // A full queue is like loss on the wire: the peer repeats itself.
                        Err(mpsc::error::TrySendError::Full((ticket, _))) => self.layer.drop_request(&ticket),
                        Err(mpsc::error::TrySendError::Closed((ticket, _))) => self.layer.reject(&ticket),
                    }
                    effects.extend(self.layer.take_effects());
                }
                Effect::Answer(exchange, message) => {
                    if let Some(answers) = self.waiting.get(&exchange) {
                        let _ = answers.try_send(Ok(message));
                    }
                }
                Effect::Failed(exchange, why) => {
                    if let Some(answers) = self.waiting.remove(&exchange) {
                        let _ = answers.try_send(Err(why));
                    }
                    if let Some(refused) = self.notified.remove(&exchange) {
                        let _ = refused.send(why);
                    }
                }
            }
        }
    }
}
