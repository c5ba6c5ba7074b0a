//! Who children are: tokens, passwords, certificates, and the gateway as their certificate authority.
//!
//! ```text
//!  CONNECT ─▶ door ─ table (memory) ─▶ Principal          technician ─▶ login ─▶ session
//!  issue, rotate, revoke, enrol ─▶ store (with its trace) ─▶ table ─▶ TLS swapped ─▶ revoked()
//! ```
//!
//! Knows nothing of MQTT or HTTP: the broker and the page call [`Identity`].

mod authorities;
mod authority;
mod backoff;
mod certificate;
mod child;
mod credentials;
mod door;
mod files;
mod guess;
mod handshake;
mod knocks;
mod names;
mod overview;
mod password;
mod renewal;
mod request;
mod rotation;
mod secret;
mod sessions;
mod table;
mod tend;
mod trail;
mod unproved;
mod warnings;

pub mod login;
pub mod pem;
pub mod tls;

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Instant,
};

use tokio::sync::broadcast;

pub use authority::AuthorityError;
pub use child::{CredentialId, Login, LoginRefused, Principal};
pub use credentials::{Issue, Issued};
pub use files::FileError;
pub use knocks::shown;
pub use overview::{CredentialView, Expiring, Standing};
pub use password::{BadPassword, check_password};
pub use rotation::AuthorityView;
pub use secret::Secret;
pub use trail::Refused;

pub use crate::store::credentials::CredentialKind;

use crate::{
    clock,
    config::identity::IdentityConfig,
    model::{
        command::{Refusal, RefusalCode},
        device::Lifecycle,
        ids::DeviceId,
    },
    store::{Store, StoreError},
};

/// Devices whose standing changed that a slow listener may lag behind before it must look at all of its sessions.
const CHANGES: usize = 256;

/// Why the identity room could not do it.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    #[error(transparent)]
    Password(#[from] BadPassword),
    /// What was asked for does not exist.
    #[error("{0}")]
    Unknown(String),
    /// What was asked for is not possible, and why.
    #[error("{0}")]
    Refused(String),
    /// Too much is going on; ask again.
    #[error("{0}")]
    Busy(String),
}

impl From<IdentityError> for Refusal {
    fn from(error: IdentityError) -> Self {
        let code = match &error {
            IdentityError::Store(_) | IdentityError::File(_) => RefusalCode::StoreUnavailable,
            IdentityError::Authority(AuthorityError::Request(_))
            | IdentityError::Password(_)
            | IdentityError::Refused(_) => RefusalCode::PayloadInvalid,
            IdentityError::Unknown(_) => RefusalCode::UnknownDevice,
            IdentityError::Busy(_) => RefusalCode::Busy,
            IdentityError::Authority(_) | IdentityError::Tls(_) => RefusalCode::Internal,
        };
        Refusal::new(code, error.to_string())
    }
}

/// Cheap handle: the credentials in memory over the store, the authority, the listeners' TLS, the technicians.
#[derive(Clone)]
pub struct Identity {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    /// `<state>/identity`.
    folder: PathBuf,
    config: RwLock<Arc<IdentityConfig>>,
    /// The gateway's id.
    name: String,
    authorities: RwLock<Arc<authorities::Authorities>>,
    /// Held while the authority is changed.
    ceremony: tokio::sync::Mutex<()>,
    trail: Mutex<trail::Trail>,
    table: RwLock<table::Table>,
    failures: Mutex<backoff::Failures>,
    hashing: password::Hashing,
    /// Key of the keyed hashes of passwords that were right once; lives as long as the process.
    quick: aws_lc_rs::hmac::Key,
    changed: broadcast::Sender<DeviceId>,
    /// Who asked for renewal of late, and when its share is full again.
    renewals: Mutex<HashMap<DeviceId, Instant>>,
    tls: tls::Swap,
    shown: Mutex<tend::Shown>,
    desk: login::Desk,
    /// What a device becomes that the registry has not met.
    newcomers: Mutex<Lifecycle>,
}

impl Identity {
    /// Loads the credentials and makes what is missing below `state` (`identity/`, mode 0700: the authority, the
    /// server's certificate). `name` is the gateway's id. Fails where a file or the user's own certificate is wrong.
    pub async fn open(
        store: Store,
        config: &IdentityConfig,
        state: &Path,
        name: &str,
    ) -> Result<Identity, IdentityError> {
        let folder = state.join("identity");
        files::private_folder(&folder)?;
        let authorities = authorities::Authorities::open(&folder, name, clock::now())?;
        let table = table::Table::new(store.credentials().await?);
        let desk = login::Desk::load(&store).await?;
        let (material, shown) = tend::material(&folder, config, &authorities, &table, clock::now())?;
        let inner = Inner {
            tls: tls::Swap::new(&material)?,
            shown: Mutex::new(shown),
            store,
            folder,
            config: RwLock::new(Arc::new(config.clone())),
            name: name.to_owned(),
            authorities: RwLock::new(Arc::new(authorities)),
            ceremony: tokio::sync::Mutex::default(),
            trail: Mutex::default(),
            table: RwLock::new(table),
            failures: Mutex::default(),
            hashing: password::Hashing::new(),
            quick: aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &secret::random::<32>()),
            changed: broadcast::channel(CHANGES).0,
            renewals: Mutex::default(),
            desk,
            newcomers: Mutex::new(Lifecycle::Active),
        };
        Ok(Identity { inner: Arc::new(inner) })
    }

    /// Devices whose standing changed: a credential was made, was revoked or has run out, or the lifecycle says stop.
    /// For each one ask [`Identity::still_stands`] about its live sessions, or [`Identity::unproved_stands`] where no
    /// credential was shown, and drop those that may not go on. After `Lagged` ask about all sessions.
    pub fn revoked(&self) -> broadcast::Receiver<DeviceId> {
        self.inner.changed.subscribe()
    }

    /// `device` has another place in its life (the registry has stored it): its live sessions are looked at again, and
    /// the credentials of a decommissioned device end for good.
    pub async fn lifecycle_changed(&self, device: &DeviceId, lifecycle: Lifecycle) -> Result<(), IdentityError> {
        self.table_mut().bar(device, !lifecycle.may_talk());
        let _ = self.inner.changed.send(device.clone());
        if lifecycle == Lifecycle::Decommissioned {
            self.revoke_all(device, "decommissioned", "registry").await?;
        }
        Ok(())
    }

    /// What a device becomes that the registry has not met: one that waits for approval is not let in before it has it.
    pub fn admit_newcomers_as(&self, lifecycle: Lifecycle) {
        *self.inner.newcomers.lock().unwrap_or_else(|e| e.into_inner()) = lifecycle;
    }

    fn newcomers(&self) -> Lifecycle {
        *self.inner.newcomers.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The listeners' TLS.
    pub fn tls(&self) -> tls::Server {
        self.inner.tls.server()
    }

    fn config(&self) -> Arc<IdentityConfig> {
        self.inner.config.read().unwrap_or_else(|e| e.into_inner()).clone()
    }

    fn authorities(&self) -> Arc<authorities::Authorities> {
        self.inner.authorities.read().unwrap_or_else(|e| e.into_inner()).clone()
    }

    fn table(&self) -> RwLockReadGuard<'_, table::Table> {
        self.inner.table.read().unwrap_or_else(|e| e.into_inner())
    }

    fn table_mut(&self) -> RwLockWriteGuard<'_, table::Table> {
        self.inner.table.write().unwrap_or_else(|e| e.into_inner())
    }
}
