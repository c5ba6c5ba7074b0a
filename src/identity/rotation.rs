//! The change of the gateway's authority while children keep coming in: begin, overlap, retire.

use std::sync::Arc;

use serde::Serialize;

use super::{Identity, IdentityError, authorities::Authorities, authority::Authority, secret::sha256};
use crate::{clock, model::ids::DeviceId, store::audit::AuditEntry};

/// Devices that a refusal names; the rest is counted.
const NAMED: usize = 10;

/// What children are to trust.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthorityView {
    /// PEM; two certificates during a change, the new one first.
    pub certificate: String,
    /// SHA-256 of the one in force, in hex with colons, to be compared by eye.
    pub fingerprint: String,
    /// The same of the one that is being retired.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retiring: Option<String>,
}

impl Identity {
    /// The authority in force, and the one before it during a change.
    pub fn authority(&self) -> AuthorityView {
        let authorities = self.authorities();
        AuthorityView {
            certificate: authorities.bundle(),
            fingerprint: fingerprint(&authorities.current),
            retiring: authorities.retiring.as_ref().map(fingerprint),
        }
    }

    /// The certificates to be handed to children as what they trust (PEM).
    pub fn authority_pem(&self) -> String {
        self.authorities().bundle()
    }

    /// Begins a change: from now on a new authority signs children, both are trusted, and every certificate of the old
    /// one falls due for renewal, spread over half the renewal window. What the listeners show is still signed by the
    /// old one.
    pub async fn rotate_authority(&self, by: &str) -> Result<AuthorityView, IdentityError> {
        let _one_at_a_time = self.inner.ceremony.lock().await;
        if let Some(old) = &self.authorities().retiring {
            let text = format!("a change is under way: retire the authority {} first", fingerprint(old));
            return Err(IdentityError::Refused(text));
        }
        self.take_over(Authorities::replace(&self.inner.folder, &self.inner.name, clock::now())?)?;
        let view = self.authority();
        let trace = AuditEntry::done(by, "authority.rotate", view.fingerprint.clone());
        self.inner.store.audit(trace).await?;
        tracing::info!(fingerprint = view.fingerprint, "a new certificate authority signs from now on");
        Ok(view)
    }

    /// Ends a change: the old authority is trusted no longer, and the new one signs what the listeners show. Refused
    /// while certificates of the old one count, unless `force`: they are revoked then. Returns how many were.
    pub async fn retire_authority(&self, force: bool, by: &str) -> Result<usize, IdentityError> {
        let _one_at_a_time = self.inner.ceremony.lock().await;
        let authorities = self.authorities();
        let Some(old) = &authorities.retiring else {
            return Err(IdentityError::Refused("no authority is being retired".into()));
        };
        let (ids, devices) = self.of_retiring(&authorities);
        if !ids.is_empty() && !force {
            let named: Vec<&str> = devices.iter().take(NAMED).map(DeviceId::as_str).collect();
            let more = devices.len().saturating_sub(NAMED);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            return Err(IdentityError::Refused(format!(
                "{} certificates of the old authority still count ({}{more}): renew them first, or force it and they \
                 are revoked",
                ids.len(),
                named.join(", "),
            )));
        }
        let (count, gone) = (ids.len(), fingerprint(old));
        if count > 0 {
            self.retire(ids, "its authority was retired", by).await?;
        }
        self.take_over(Authorities::retire(&self.inner.folder, &self.inner.name, clock::now())?)?;
        let trace = AuditEntry::done(by, "authority.retire", gone.clone()).detail(format!("{count} revoked"));
        self.inner.store.audit(trace).await?;
        tracing::info!(fingerprint = gone, revoked = count, "the old certificate authority is trusted no longer");
        Ok(count)
    }

    fn take_over(&self, authorities: Authorities) -> Result<(), IdentityError> {
        *self.inner.authorities.write().unwrap_or_else(|e| e.into_inner()) = Arc::new(authorities);
        self.refresh_tls()
    }

    /// Certificates of the retiring authority that count, and whose they are.
    fn of_retiring(&self, authorities: &Authorities) -> (Vec<Arc<str>>, Vec<DeviceId>) {
        let (now, table) = (clock::now(), self.table());
        let theirs = table.all().filter(|entry| {
            let stored = &entry.stored;
            entry.active(now) && stored.serial.is_some() && !authorities.in_force(stored.issuer.as_deref())
        });
        let mut found: Vec<_> = theirs.map(|entry| (entry.stored.device.clone(), entry.stored.id.clone())).collect();
        found.sort();
        let (mut devices, ids): (Vec<_>, Vec<_>) = found.into_iter().unzip();
        devices.dedup();
        (ids, devices)
    }
}

fn fingerprint(authority: &Authority) -> String {
    sha256(&authority.certificate).map(|byte| format!("{byte:02X}")).join(":")
}
