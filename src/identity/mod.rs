//! Who children are: tokens, passwords, certificates, and the gateway as their certificate authority.

mod login;

pub mod tls;

use std::{path::Path, sync::Arc};

use tokio::sync::broadcast;

pub use login::{CredentialId, CredentialKind, Login, LoginRefused, Principal};

use crate::{
    config::identity::IdentityConfig,
    model::ids::DeviceId,
    store::{Store, StoreError},
};

/// Devices whose standing changed that a slow listener may lag behind before it must look at all of its sessions.
const CHANGES: usize = 256;

/// Why the identity room could not do it.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Cheap handle: the credentials' tables in memory over the store, the authority, and the stream of changes.
#[derive(Clone)]
pub struct Identity {
    inner: Arc<Inner>,
}

struct Inner {
    #[allow(dead_code)]
    store: Store,
    changed: broadcast::Sender<DeviceId>,
}

impl Identity {
    /// Loads the credentials and makes what is missing below `state` (`identity/`: the authority, the server's
    /// certificate).
    pub async fn open(store: Store, _config: &IdentityConfig, _state: &Path) -> Result<Identity, IdentityError> {
        Ok(Identity { inner: Arc::new(Inner { store, changed: broadcast::channel(CHANGES).0 }) })
    }

    /// Who is at the door? Call it for every CONNECT; on a TLS connection hand in the verified client certificates.
    pub async fn authenticate(&self, _login: Login<'_>) -> Result<Principal, LoginRefused> {
        Err(LoginRefused::BadCredentials)
    }

    /// Devices whose standing changed: a credential was revoked or has run out, or the lifecycle says stop. For each
    /// one ask [`Identity::still_stands`] about its live sessions and drop those for which the answer is no. After
    /// `Lagged` ask about all sessions.
    pub fn revoked(&self) -> broadcast::Receiver<DeviceId> {
        self.inner.changed.subscribe()
    }

    /// Whether a session that was opened as `principal` may go on. Answers from memory.
    pub fn still_stands(&self, _principal: &Principal) -> bool {
        true
    }

    /// For the registry: the lifecycle of `device` changed, its live sessions must be looked at again.
    pub fn lifecycle_changed(&self, device: &DeviceId) {
        let _ = self.inner.changed.send(device.clone());
    }
}
