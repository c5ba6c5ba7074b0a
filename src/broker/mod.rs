//! The local MQTT broker, where every MQTT child stands: 3.1.1 and 5 on the same ports, over TCP, TLS and WebSocket.
//!
//! A PUBACK means "on disk": what the gateway ingests is acknowledged when the keeper has committed it, what waits for
//! a persistent session or is retained when the store has it. Nothing a child sends ends anything but its own
//! connection.
//!
//! ```text
//!  door (accept, TLS) ─▶ connect (who, may it) ─▶ connection ─▶ hub (subscriptions, retained) ─▶ sessions ─▶ connections
//!                                                   └─▶ keeper ─▶ store                └─▶ journal ─▶ store
//! ```
//!
//! A client id is the identity's own (`{d}`) or begins with `{d}/`: device ids hold no slash, so no two identities can
//! claim the same one. Of rumqttd only the packet codec is used, and only by `wire`.

mod connect;
mod connection;
mod door;
mod hub;
mod incoming;
mod journal;
mod life;
mod message;
mod newcomers;
mod outgoing;
mod past;
mod pending;
mod renewal;
mod restore;
mod retained;
mod session;
mod status;
mod subscribing;
mod trie;
mod websocket;
mod wills;
#[doc(hidden)] // for tests/fuzz
pub mod wire;

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use tokio::sync::broadcast::error::RecvError;

pub use door::{Kind, Tls};

use crate::{
    bus::{ChildEvents, InboundSender, LocalMessage, LocalReceiver},
    config::broker::Broker as Config,
    identity::{Identity, LoginRefused},
    model::{access::Access, ids::DeviceId, view::Connection as ConnectionStatus},
    store::{Store, StoreError},
    tasks::Tasks,
};
use door::Doorkeeper;
use hub::Hub;
use message::Message;
use newcomers::Newcomers;
use session::Session;
use wire::reason;

/// Local messages handled at once before others get their turn.
const LOCAL_BATCH: usize = 256;

/// What the broker is given to speak through.
pub struct Ports {
    pub identity: Identity,
    pub inbound: InboundSender,
    pub local: LocalReceiver,
    pub children: ChildEvents,
    pub store: Store,
}

/// Why the broker does not start.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    #[error("cannot listen on {address} ({kind}): {error}; is another broker running there?")]
    Bind { kind: &'static str, address: SocketAddr, error: std::io::Error },
    #[error("cannot read sessions and retained messages: {0}")]
    Store(#[from] StoreError),
    #[error("{0} needs TLS, and there is no certificate")]
    NoTls(SocketAddr),
}

/// Cheap handle.
#[derive(Clone)]
pub struct Broker {
    hub: Arc<Hub>,
    listening: Arc<[(Kind, SocketAddr)]>,
}

/// Loads what was kept, binds every listener and begins to serve. Ends with `tasks`: connections are told, what was
/// accepted is committed, what changed is stored.
pub async fn start(
    config: &Config,
    access: Access,
    tls: Option<Tls>,
    ports: Ports,
    tasks: &Tasks,
) -> Result<Broker, BrokerError> {
    let Ports { identity, inbound, local, children, store } = ports;
    let (kept, places) = restore::load(&store).await?;
    let newcomers = Newcomers::load(config.limits.anonymous_devices, store.clone(), &identity).await?;
    let connections = tasks.child();
    let revoked = identity.revoked();
    let hub = Arc::new(Hub::new(
        config.limits.clone(),
        config.anonymous,
        access,
        identity,
        newcomers,
        inbound,
        children,
        connections.clone(),
        places,
    ));
    hub.restore(kept);
    let mut listeners = Vec::new();
    let wanted = [
        (Kind::Tcp, &config.tcp),
        (Kind::Tls, &config.tls),
        (Kind::WebSocket, &config.websocket),
        (Kind::WebSocketTls, &config.websocket_tls),
    ];
    for (kind, addresses) in wanted {
        for address in addresses {
            if kind.encrypted() && tls.is_none() {
                return Err(BrokerError::NoTls(*address));
            }
            let failed = |error| BrokerError::Bind { kind: kind.name(), address: *address, error };
            let listener = door::bind(*address).await.map_err(failed)?;
            let address = listener.local_addr().map_err(failed)?;
            listeners.push((kind, address, listener));
        }
    }
    let listening: Arc<[_]> = listeners.iter().map(|(kind, address, _)| (*kind, *address)).collect();
    let keeper = Arc::new(Doorkeeper::new(config.limits.clone()));
    for (kind, address, listener) in listeners {
        tracing::info!(kind = kind.name(), %address, "the broker listens");
        let stop = connections.stopping();
        let serve = door::accept(hub.clone(), kind, listener, tls.clone(), keeper.clone(), connections.clone(), stop);
        connections.spawn("listener", serve);
    }
    connections.spawn("sessions", hub.clone().look_after());
    connections.spawn("revoked", follow_revocations(hub.clone(), revoked));
    connections.spawn("sys", status::speak(hub.clone()));
    connections.spawn("local messages", speak(hub.clone(), local));

    // The journal outlives the connections, whose last words it stores.
    let journal = Tasks::new();
    let (writing, kept) = (hub.clone(), store);
    let flushed = journal.stopping();
    journal.spawn("journal", async move { writing.journal.run(kept, flushed).await });
    let stop = tasks.stopping();
    tasks.spawn("broker", async move {
        stop.cancelled().await;
        connections.stop_and_wait().await;
        journal.stop_and_wait().await;
    });
    Ok(Broker { hub, listening })
}

/// Routes what the gateway says.
async fn speak(hub: Arc<Hub>, mut local: LocalReceiver) {
    let stop = hub.tasks.stopping();
    let mut batch = Vec::with_capacity(LOCAL_BATCH);
    loop {
        tokio::select! {
            n = local.recv_many(&mut batch, LOCAL_BATCH) => if n == 0 { return },
            () = stop.cancelled() => return,
        }
        for LocalMessage { topic, payload, retain, qos } in batch.drain(..) {
            let message = Message {
                topic: topic.into(),
                payload,
                properties: Bytes::new(),
                qos: qos.min(1),
                retain,
                expires: None,
                from: None,
            };
            if let Err(fault) = hub.publish(&Arc::new(message)) {
                tracing::warn!(%fault, "a message of the gateway is not retained");
            }
        }
        tokio::task::yield_now().await;
    }
}

/// Drops the sessions of identities that no longer stand.
async fn follow_revocations(hub: Arc<Hub>, mut revoked: tokio::sync::broadcast::Receiver<DeviceId>) {
    let stop = hub.tasks.stopping();
    loop {
        let device = tokio::select! {
            device = revoked.recv() => match device {
                Ok(device) => Some(device),
                Err(RecvError::Lagged(_)) => None,
                Err(RecvError::Closed) => return,
            },
            () = stop.cancelled() => return,
        };
        for session in hub.all_sessions() {
            // a guest may have the client id of a device
            let about = |device: &DeviceId| {
                session.device == *device || session.client.split('/').next() == Some(device.as_str())
            };
            if device.as_ref().is_none_or(about) {
                look_again(&hub, &session).await;
            }
        }
    }
}

/// Sends the client of `session` away if it may not go on.
async fn look_again(hub: &Hub, session: &Session) {
    let Some(principal) = session.state().live.as_ref().map(|live| live.principal.clone()) else { return };
    match principal {
        Some(principal) if hub.identity.still_stands(&principal) => {}
        Some(_) => session.kick(reason::NOT_AUTHORIZED, "this credential is no longer valid"),
        None => match hub.identity.unproved_stands(&session.device, &session.client).await {
            Ok(()) | Err(LoginRefused::Unavailable(_)) => {}
            Err(refused) => session.kick(reason::NOT_AUTHORIZED, &refused.outside()),
        },
    }
}

impl Broker {
    /// Where it listens, with the ports that were bound.
    pub fn listening(&self) -> &[(Kind, SocketAddr)] {
        &self.listening
    }

    /// Every session, connected or away, ordered by client id, and how those ended that ended in trouble.
    pub fn status(&self) -> Vec<ConnectionStatus> {
        status::connections(&self.hub)
    }

    /// Sends every connection of `device` away, ends its sessions with all that waits in them, and gives its place to
    /// others: for a device that is decommissioned, so that it cannot come back meanwhile.
    pub async fn forget(&self, device: &DeviceId) {
        let sessions = || self.hub.all_sessions().into_iter().filter(|session| session.device == *device);
        for session in sessions() {
            session.kick(reason::NOT_AUTHORIZED, "this device is decommissioned");
        }
        for session in sessions() {
            let _gate = session.gate.lock().await;
            self.hub.end_session(&session).await;
        }
        self.hub.past().forget(device);
        self.hub.newcomers.forget(device);
    }

    /// Sends every client away that may not go on: for when the configuration gave names to other devices.
    pub async fn look_again(&self) {
        for session in self.hub.all_sessions() {
            look_again(&self.hub, &session).await;
        }
    }

    /// New rules: subscriptions they no longer allow end at once.
    pub fn set_access(&self, access: Access) {
        self.hub.access.send_replace(Arc::new(access));
        for session in self.hub.all_sessions() {
            self.hub.recheck(&session);
        }
    }
}
