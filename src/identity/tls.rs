//! TLS ends: the broker's server side, swapped without dropping anyone, and the uplink's client side.

use std::sync::Arc;

use tokio::sync::watch;

/// The server side's configuration for listeners on which a client certificate is asked for but not demanded.
#[derive(Clone)]
pub struct Server {
    configs: watch::Receiver<Arc<rustls::ServerConfig>>,
}

impl Server {
    /// The newest configuration: borrow it for each accepted connection, so that a new certificate or revocation
    /// list counts from the next handshake on.
    pub fn watch(&self) -> watch::Receiver<Arc<rustls::ServerConfig>> {
        self.configs.clone()
    }
}
