//! The room as others use it: an [`Identity`] over a real store in a temporary folder.

mod door;
mod login;
mod rotation;
pub mod tls;

use std::net::SocketAddr;

use super::*;
use crate::store::WriterThread;

pub struct Home {
    pub identity: Identity,
    pub store: Store,
    pub folder: tempfile::TempDir,
    _thread: WriterThread,
}

impl Home {
    pub async fn new() -> Home {
        Home::with(IdentityConfig::default()).await
    }

    pub async fn with(config: IdentityConfig) -> Home {
        Home::inside(tempfile::tempdir().expect("folder"), config).await
    }

    pub async fn inside(folder: tempfile::TempDir, config: IdentityConfig) -> Home {
        let (store, thread) = Store::open(folder.path()).expect("store");
        let identity = Identity::open(store.clone(), &config, folder.path(), "gw-1").await.expect("identity");
        Home { identity, store, folder, _thread: thread }
    }

    /// Stops everything and starts again over the same folder.
    pub async fn restarted(self) -> Home {
        let Home { identity, store, folder, _thread } = self;
        drop(identity);
        store.stop().await;
        _thread.join();
        drop(store);
        Home::inside(folder, IdentityConfig::default()).await
    }
}

pub fn id(text: &str) -> DeviceId {
    DeviceId::new(text).expect("a device id")
}

pub fn address(text: &str) -> Option<SocketAddr> {
    Some(text.parse().expect("an address"))
}

/// A login with user name, password and the device's own client id.
pub fn login<'a>(device: &'a str, password: &'a str) -> Login<'a> {
    Login {
        client_id: device,
        username: Some(device),
        password: Some(password.as_bytes()),
        certificates: None,
        address: Some(SocketAddr::from(([10, 0, 0, 9], 40_000))),
    }
}
