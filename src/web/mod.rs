//! The local API and the technician's page: one router, served to browsers after a login and to the command line over
//! a Unix socket. Asks [`bus::Questions`](crate::bus::Questions), places [`bus::Orders`](crate::bus::Orders), and
//! knows no other room of its floor.
//!
//! ```text
//!  listener ─▶ doorstep (host, origin, whose cookie) ─▶ route table ─▶ guard (role) ─▶ api ─▶ questions / orders
//! ```

mod access;
mod api;
mod doorstep;
mod events;
mod failure;
mod metrics;
mod page;
mod serve;
mod table;

use std::{collections::HashSet, net::SocketAddr, path::PathBuf, sync::Arc};

use axum::Router;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use access::Access;
pub use table::permissions;

use crate::{
    bus::{Events, Orders, Questions, ToDriverSender},
    config::web::WebConfig,
    identity::Identity,
    store::{Store, audit::AuditEntry},
    tasks::Tasks,
};

/// What the daemon puts into this room's hands.
pub struct Ports {
    pub questions: Questions,
    pub orders: Orders,
    pub events: Events,
    /// Logins, and the credentials of children.
    pub identity: Identity,
    /// For the audit.
    pub store: Store,
    /// For the commissioning tools.
    pub modbus: Option<ToDriverSender>,
    /// Serves verified images to children; brings its own proof of who may fetch, so no login stands before it.
    pub firmware: Option<Router>,
    /// Where the command line finds the daemon: `<state>/control.sock`.
    pub control: Option<PathBuf>,
}

/// Why the page is not there.
#[derive(Debug, thiserror::Error)]
pub enum WebError {
    #[error("cannot listen on {address}: {error}; is another program there? web.listen chooses the address")]
    Listen { address: SocketAddr, error: std::io::Error },
    #[error("cannot make the control socket {}: {error}", path.display())]
    Control { path: PathBuf, error: std::io::Error },
    #[error("another headgate already answers on {}", path.display())]
    Twice { path: PathBuf },
    #[error("{address} is not loopback, and there is no certificate to speak HTTPS with")]
    NoTls { address: SocketAddr },
}

/// The running room.
#[derive(Debug, Clone)]
pub struct Web {
    /// Where it listens, with the ports the system chose, and whether it speaks HTTPS there.
    pub addresses: Vec<(SocketAddr, bool)>,
}

impl Web {
    /// What to type into a browser, one per listener.
    pub fn urls(&self) -> impl Iterator<Item = String> + '_ {
        self.addresses.iter().map(|(address, tls)| format!("{}://{address}/", if *tls { "https" } else { "http" }))
    }
}

/// What every handler may use. Cheap to clone.
#[derive(Clone)]
struct App(Arc<Inner>);

struct Inner {
    questions: Questions,
    orders: Orders,
    events: Events,
    modbus: Option<ToDriverSender>,
    identity: Identity,
    store: Store,
    hosts: Arc<HashSet<String>>,
    stopping: CancellationToken,
}

impl std::ops::Deref for App {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl App {
    /// Writes down who did what. Where the disk refuses, the log has it.
    async fn note(&self, entry: AuditEntry) {
        tracing::info!(who = entry.who, what = entry.what, target = entry.target, ok = entry.ok, "audit");
        if let Err(error) = self.store.audit(entry).await {
            tracing::error!(%error, "the audit could not be written");
        }
    }
}

/// Binds all listeners and the control socket, then serves until `tasks` stops. Where this returns, connections are
/// accepted.
pub async fn start(
    config: &WebConfig,
    ports: Ports,
    tls: Option<watch::Receiver<Arc<rustls::ServerConfig>>>,
    tasks: &Tasks,
) -> Result<Web, WebError> {
    let app = App(Arc::new(Inner {
        questions: ports.questions,
        orders: ports.orders,
        events: ports.events,
        modbus: ports.modbus,
        identity: ports.identity,
        store: ports.store,
        hosts: doorstep::own_names(&config.hosts),
        stopping: tasks.stopping(),
    }));
    let router = table::router(app);
    let mut addresses = Vec::new();
    if let Some(path) = ports.control {
        serve::socket(path, router.clone(), tasks).await?;
    }
    if config.enabled {
        let firmware = ports.firmware.unwrap_or_default();
        for address in &config.listen {
            let https = config.tls || !address.ip().is_loopback();
            let tls = if https { Some(tls.clone().ok_or(WebError::NoTls { address: *address })?) } else { None };
            addresses.push((serve::net(*address, router.clone(), firmware.clone(), tls, tasks).await?, https));
        }
    }
    Ok(Web { addresses })
}
