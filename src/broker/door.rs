//! Listeners: accepts, counts per address, shakes hands beside each other, hands whoever stands there to [`connect`].

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::{Instant, error::Elapsed, timeout_at},
};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::{
    connect::{self, Peer},
    hub::Hub,
    websocket,
};
use crate::{config::broker::Limits, identity::tls, tasks::Tasks};

/// Seconds of the connect rate that may come at once.
const BURST: f64 = 10.0;

pub type Tls = watch::Receiver<Arc<rustls::ServerConfig>>;

/// What is spoken below MQTT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Tcp,
    Tls,
    WebSocket,
    WebSocketTls,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Tcp => "tcp",
            Kind::Tls => "tls",
            Kind::WebSocket => "websocket",
            Kind::WebSocketTls => "websocket, tls",
        }
    }

    pub fn encrypted(self) -> bool {
        matches!(self, Kind::Tls | Kind::WebSocketTls)
    }
}

/// Who may come in, by address.
pub struct Doorkeeper {
    limits: Limits,
    guests: Mutex<Guests>,
}

#[derive(Default)]
struct Guests {
    inside: usize,
    addresses: HashMap<IpAddr, Address>,
}

struct Address {
    inside: usize,
    /// Connects that may come at once now.
    tokens: f64,
    filled: Instant,
}

/// A place inside, given back when dropped.
pub struct Place {
    keeper: Arc<Doorkeeper>,
    address: IpAddr,
}

/// Why there is no place for a connection.
#[derive(Debug, thiserror::Error)]
pub enum NoPlace {
    #[error("the gateway has its {0} connections")]
    All(usize),
    #[error("its address has its {0} connections")]
    Address(usize),
    #[error("its address connects more than {0} times a second")]
    Rate(u32),
}

impl NoPlace {
    fn word(&self) -> &'static str {
        match self {
            NoPlace::All(_) => "connections",
            NoPlace::Address(_) => "connections-of-address",
            NoPlace::Rate(_) => "connect-rate",
        }
    }
}

impl Doorkeeper {
    pub fn new(limits: Limits) -> Self {
        Self { limits, guests: Mutex::default() }
    }

    fn guests(&self) -> std::sync::MutexGuard<'_, Guests> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a connection from `address`, or why there is none.
    pub fn admit(self: &Arc<Self>, address: IpAddr, now: Instant) -> Result<Place, NoPlace> {
        let mut guests = self.guests();
        if guests.inside >= self.limits.connections {
            return Err(NoPlace::All(self.limits.connections));
        }
        let rate = f64::from(self.limits.connects_per_second);
        if guests.addresses.len() > 10_000 {
            let full = |a: &Address| now.duration_since(a.filled).as_secs_f64() > BURST;
            guests.addresses.retain(|_, a| a.inside > 0 || !full(a));
        }
        let entry = guests.addresses.entry(address).or_insert(Address { inside: 0, tokens: rate * BURST, filled: now });
        let gained = now.duration_since(entry.filled).as_secs_f64() * rate;
        entry.tokens = (entry.tokens + gained).min(rate * BURST);
        entry.filled = now;
        if entry.inside >= self.limits.connections_per_address {
            return Err(NoPlace::Address(self.limits.connections_per_address));
        }
        if entry.tokens < 1.0 {
            return Err(NoPlace::Rate(self.limits.connects_per_second));
        }
        entry.tokens -= 1.0;
        entry.inside += 1;
        guests.inside += 1;
        drop(guests);
        Ok(Place { keeper: self.clone(), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut guests = self.keeper.guests();
        guests.inside = guests.inside.saturating_sub(1);
        if let Some(entry) = guests.addresses.get_mut(&self.address) {
            entry.inside = entry.inside.saturating_sub(1);
        }
    }
}

/// Binds one address; `SO_REUSEADDR` is on, so that a restart does not wait for old connections.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Accepts until `stop`; every connection is a task of its own from its first byte, TLS handshake included.
pub async fn accept(
    hub: Arc<Hub>,
    kind: Kind,
    listener: TcpListener,
    tls: Option<Tls>,
    keeper: Arc<Doorkeeper>,
    tasks: Tasks,
    stop: CancellationToken,
) {
    let mut refused = 0_u64;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // out of file descriptors, mostly: let others finish
                tracing::warn!(%error, kind = kind.name(), "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let place = match keeper.admit(address.ip(), Instant::now()) {
            Ok(place) => place,
            Err(why) => {
                refused += 1;
                if refused.is_power_of_two() {
                    tracing::warn!(%address, %why, refused, "a connection is not let in");
                }
                let hub = hub.clone();
                tasks.spawn("refused", async move { hub.turn_away(address, None, why.word(), why.to_string()).await });
                continue;
            }
        };
        let (hub, tls) = (hub.clone(), tls.clone());
        let deadline = Instant::now() + hub.limits.connect_within;
        tasks.spawn("mqtt", async move {
            let _place = place;
            let _ = stream.set_nodelay(true);
            let peer = Peer { address, transport: kind.name(), certificates: None, deadline };
            greet(hub, kind, stream, tls, peer).await;
        });
    }
}

/// Each kind of stream gets a future of its own size: a plain connection should not pay for TLS below a WebSocket.
async fn greet(hub: Arc<Hub>, kind: Kind, stream: TcpStream, config: Option<Tls>, peer: Peer) {
    match kind {
        Kind::Tcp => Box::pin(connect::serve(hub, stream, peer)).await,
        Kind::WebSocket => Box::pin(frames(hub, stream, peer)).await,
        Kind::Tls | Kind::WebSocketTls => {
            let Some(config) = config.map(|config| config.borrow().clone()) else { return };
            let Some((stream, peer)) = Box::pin(encrypted(&hub, stream, config, peer)).await else { return };
            match kind {
                Kind::Tls => Box::pin(connect::serve(hub, stream, peer)).await,
                _ => Box::pin(frames(hub, stream, peer)).await,
            }
        }
    }
}

/// The TLS handshake; the stream and who is at its other end.
async fn encrypted(
    hub: &Hub,
    stream: TcpStream,
    config: Arc<rustls::ServerConfig>,
    mut peer: Peer,
) -> Option<(Box<TlsStream<TcpStream>>, Peer)> {
    match timeout_at(peer.deadline, tls::accept(config, stream)).await {
        Ok(Ok(stream)) => {
            peer.certificates = stream.get_ref().1.peer_certificates().map(<[_]>::to_vec);
            return Some((Box::new(stream), peer));
        }
        Ok(Err(refused)) => {
            hub.totals.refused_connects.fetch_add(1, Ordering::Relaxed);
            tracing::info!(peer = %peer.address, %refused, "a TLS handshake failed");
            hub.identity.handshake_refused(peer.address, &refused).await;
        }
        Err(_) => hub.turn_away(peer.address, None, "too-slow", "no TLS handshake in time".into()).await,
    }
    None
}

/// MQTT in a WebSocket, after its handshake.
async fn frames(hub: Arc<Hub>, stream: impl AsyncRead + AsyncWrite + Unpin, peer: Peer) {
    let handshake = Box::pin(timeout_at(peer.deadline, websocket::accept(stream, hub.limits.packet)));
    match handshake.await {
        Ok(Ok(stream)) => connect::serve(hub, stream, peer).await,
        other => no_websocket(&hub, &peer, other.map(drop)).await,
    }
}

async fn no_websocket(hub: &Hub, peer: &Peer, outcome: Result<(), Elapsed>) {
    let (word, text) = match outcome {
        Ok(()) => ("websocket", "no WebSocket handshake for MQTT"),
        Err(_) => ("too-slow", "no WebSocket handshake in time"),
    };
    hub.turn_away(peer.address, None, word, text.into()).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_so_many_places_and_so_many_tries() {
        let limits = Limits { connections_per_address: 2, connects_per_second: 1, connections: 3, ..Limits::default() };
        let keeper = Arc::new(Doorkeeper::new(limits));
        let now = Instant::now();
        let (one, other): (IpAddr, IpAddr) = ([127, 0, 0, 1].into(), [127, 0, 0, 2].into());
        let a = keeper.admit(one, now).expect("first");
        let _b = keeper.admit(one, now).expect("second");
        assert!(keeper.admit(one, now).is_err(), "two are inside");
        let _c = keeper.admit(other, now).expect("another address");
        assert!(keeper.admit(other, now).is_err(), "three are inside in all");
        drop(a);
        for _ in 0..8 {
            drop(keeper.admit(one, now).expect("a burst"));
        }
        assert!(keeper.admit(one, now).is_err(), "the burst is used up");
        assert!(keeper.admit(one, now + Duration::from_millis(1100)).is_ok());
    }
}
