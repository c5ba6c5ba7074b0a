//! The judging of a child's login: proof first, then the client id, then the device's place in its life.

use std::{sync::Arc, time::Instant};

use aws_lc_rs::hmac;

use super::{
    Identity, certificate,
    child::{CredentialId, Login, LoginRefused, Principal},
    password,
    secret::{read_token, same},
    table::Entry,
};
use crate::{
    clock,
    model::{ids::DeviceId, time::Millis},
    store::credentials::{CredentialKind, StoredCredential},
};

/// Logins with the same credential within this many milliseconds are noted once.
const NOTE_EVERY: i64 = 3_600_000;

impl Identity {
    /// Who is at the door? Call it for every CONNECT; on a TLS connection hand in the verified client certificates.
    ///
    /// A certificate decides alone: name and password beside it are ignored. A right token or certificate is never
    /// locked out (256 bits are not guessed, and a lock would let anybody silence a child); wrong ones count. Whoever
    /// refuses the connection writes the reason down.
    pub async fn authenticate(&self, login: Login<'_>) -> Result<Principal, LoginRefused> {
        let now = clock::now();
        let judged = match self.prove(&login, now).await {
            Ok(proved) => self.admit(&login, proved, now).await,
            Err(refused) => Err(refused),
        };
        self.trace(&login, &judged, now).await;
        judged
    }

    async fn prove(&self, login: &Login<'_>, now: Millis) -> Result<StoredCredential, LoginRefused> {
        let cheap = match (login.certificates.and_then(<[_]>::first), login.password) {
            (Some(leaf), _) => self.by_certificate(leaf, now),
            (None, None) => return Err(LoginRefused::NoCredentials),
            (None, Some(password)) => match read_token(password) {
                Some((id, hash)) => self.by_token(login, id, &hash, now),
                None => return self.by_password(login, password, now).await,
            },
        };
        cheap.map_err(|refused| if refused == LoginRefused::BadCredentials { self.count(login) } else { refused })
    }

    /// Counts a failure; the answer is the lock where there was one before.
    fn count(&self, login: &Login<'_>) -> LoginRefused {
        let (account, address) = (account(login), login.address.map(|a| a.ip()));
        let mut failures = self.inner.failures.lock().unwrap_or_else(|e| e.into_inner());
        let waiting = failures.wait(account, address, Instant::now());
        failures.failed(account, address, Instant::now());
        waiting.map_or(LoginRefused::BadCredentials, |retry_after| LoginRefused::Locked { retry_after })
    }

    fn by_certificate(
        &self,
        leaf: &rustls_pki_types::CertificateDer<'_>,
        now: Millis,
    ) -> Result<StoredCredential, LoginRefused> {
        let presented = certificate::read(leaf).map_err(|error| {
            tracing::debug!(error, "a verified certificate cannot be read");
            LoginRefused::BadCredentials
        })?;
        let table = self.table();
        let unknown = || LoginRefused::UnknownCertificate {
            device: presented.device.clone(),
            fingerprint: hex::encode(presented.fingerprint),
        };
        let entry = table.by_fingerprint(&presented.fingerprint).ok_or_else(unknown)?;
        // Only our own certificates must name their child; one that a person registered is bound by that.
        if entry.stored.serial.is_some() && presented.device.as_ref() != Some(&entry.stored.device) {
            return Err(LoginRefused::BadCredentials);
        }
        still_good(entry, now)
    }

    fn by_token(
        &self,
        login: &Login<'_>,
        id: &str,
        hash: &[u8; 32],
        now: Millis,
    ) -> Result<StoredCredential, LoginRefused> {
        let table = self.table();
        let entry = table.get(id).filter(|entry| entry.stored.kind == CredentialKind::Token);
        // Always one comparison of the same length, known id or not.
        let right = same(hash, entry.map_or(&[0; 32], |entry| &entry.stored.proof));
        let entry = entry.filter(|_| right).ok_or(LoginRefused::BadCredentials)?;
        // A name, where one is sent, must be the child's own.
        if login.username.is_some_and(|name| !name.is_empty() && name != entry.stored.device.as_str()) {
            return Err(LoginRefused::BadCredentials);
        }
        still_good(entry, now)
    }

    async fn by_password(
        &self,
        login: &Login<'_>,
        password: &[u8],
        now: Millis,
    ) -> Result<StoredCredential, LoginRefused> {
        let (account, address) = (account(login), login.address.map(|a| a.ip()));
        let quick = self.quick(password);
        let candidate = DeviceId::new(account).ok().and_then(|device| {
            let table = self.table();
            // The newest that still counts; otherwise one that does not, so that its owner learns why.
            let entries = table.of(&device).filter(|entry| entry.stored.kind == CredentialKind::Password);
            entries.max_by_key(|entry| (entry.active(now), entry.stored.created)).cloned()
        });
        if let Some(entry) = &candidate
            && entry.quick.is_some_and(|known| same(&known, &quick))
        {
            return still_good(entry, now);
        }
        {
            let mut failures = self.inner.failures.lock().unwrap_or_else(|e| e.into_inner());
            if let Some(retry_after) = failures.wait(account, address, Instant::now()) {
                return Err(LoginRefused::Locked { retry_after });
            }
            failures.attempted(account, address, Instant::now());
        }
        let stored = candidate.as_ref().and_then(|entry| std::str::from_utf8(&entry.stored.proof).ok());
        let right =
            self.inner.hashing.verify(password, stored).await.map_err(|password::Crowded| {
                LoginRefused::Unavailable("too many passwords are being checked".into())
            })?;
        self.inner.failures.lock().unwrap_or_else(|e| e.into_inner()).judged(right, account, address, Instant::now());
        let entry = candidate.filter(|_| right).ok_or(LoginRefused::BadCredentials)?;
        let stored = still_good(&entry, now)?;
        if let Some(entry) = self.table_mut().get_mut(&stored.id) {
            entry.quick = Some(quick);
        }
        Ok(stored)
    }

    /// A password under a key that lives as long as this process.
    fn quick(&self, password: &[u8]) -> [u8; 32] {
        hmac::sign(&self.inner.quick, password).as_ref().try_into().expect("SHA-256 has 32 bytes")
    }

    async fn admit(&self, login: &Login<'_>, stored: StoredCredential, now: Millis) -> Result<Principal, LoginRefused> {
        let unavailable = |error: crate::store::StoreError| LoginRefused::Unavailable(error.to_string());
        let device = stored.device.clone();
        if !own_client_id(&device, login.client_id) && !self.free_client_id(login.client_id).await? {
            return Err(LoginRefused::ClientId { device, client_id: login.client_id.to_owned() });
        }
        let known = self.inner.store.device(&device).await.map_err(unavailable)?;
        let lifecycle = known.as_ref().map_or_else(|| self.newcomers(), |device| device.lifecycle);
        if !lifecycle.may_talk() {
            return Err(LoginRefused::NotActive { device, lifecycle });
        }
        if let Err(error) = self.note_use(&stored, now).await {
            tracing::warn!(%error, %device, "the use of a credential could not be noted");
        }
        Ok(Principal {
            groups: known.map(|device| device.groups).unwrap_or_default(),
            credential: CredentialId(stored.id),
            kind: stored.kind,
            expires: stored.expires,
            device,
        })
    }

    /// Whether the configuration leaves client ids free and this one is nobody else's.
    async fn free_client_id(&self, client_id: &str) -> Result<bool, LoginRefused> {
        if !self.config().any_client_id {
            return Ok(false);
        }
        let owner = client_id.split('/').next().unwrap_or_default();
        let Ok(owner) = DeviceId::new(owner) else { return Ok(true) };
        if self.table().knows(&owner) {
            return Ok(false);
        }
        let known = self.inner.store.device(&owner).await;
        Ok(known.map_err(|error| LoginRefused::Unavailable(error.to_string()))?.is_none())
    }

    /// The first use of a new credential retires the one that it replaces.
    async fn note_use(&self, stored: &StoredCredential, now: Millis) -> Result<(), super::IdentityError> {
        if stored.last_used.is_some_and(|last| (0..NOTE_EVERY).contains(&now.since(last))) {
            return Ok(());
        }
        let first = {
            let mut table = self.table_mut();
            table.get_mut(&stored.id).is_some_and(|entry| entry.stored.last_used.replace(now).is_none())
        };
        // Before the use is noted: a kill between the two must not leave the old one standing for good.
        if let Some(old) = stored.replaces.clone().filter(|_| first) {
            self.retire(vec![old], "replaced", stored.device.as_str()).await?;
        }
        Ok(self.inner.store.credential_used(stored.id.clone(), now).await?)
    }

    /// Whether a device has credentials of its own; nobody may pass for it without them.
    pub fn knows(&self, device: &DeviceId) -> bool {
        self.table().knows(device)
    }

    /// Whether a session that was opened as `principal` may go on: its credential counts and its device may talk.
    /// Answers from memory.
    pub fn still_stands(&self, principal: &Principal) -> bool {
        let table = self.table();
        let counts = table.get(&principal.credential.0).is_some_and(|entry| entry.active(clock::now()));
        counts && !table.barred(&principal.device)
    }
}

/// The name under which failures are counted.
pub(super) fn account<'a>(login: &Login<'a>) -> &'a str {
    login.username.filter(|name| !name.is_empty()).unwrap_or(login.client_id.split('/').next().unwrap_or_default())
}

fn own_client_id(device: &DeviceId, client_id: &str) -> bool {
    // A device id has no slash, so `meter-1/…` can be nobody's but meter-1's.
    let rest = client_id.strip_prefix(device.as_str());
    client_id.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

pub(super) fn still_good(entry: &Entry, now: Millis) -> Result<StoredCredential, LoginRefused> {
    let stored = &entry.stored;
    if stored.revoked.is_some() {
        return Err(LoginRefused::Revoked { device: stored.device.clone(), credential: id(&stored.id) });
    }
    if !entry.active(now) {
        return Err(LoginRefused::Expired { device: stored.device.clone(), credential: id(&stored.id) });
    }
    Ok(stored.clone())
}

fn id(id: &Arc<str>) -> CredentialId {
    CredentialId(id.clone())
}
