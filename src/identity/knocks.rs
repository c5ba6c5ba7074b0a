//! Logins of children leave their trace: counted, listed for people, and in measure written into the audit.

use std::{collections::BTreeMap, net::SocketAddr};

use super::{
    Identity,
    child::{Login, LoginRefused, Principal},
    door::account,
    handshake::HandshakeRefused,
    trail::{Knock, Refused},
};
use crate::{
    clock,
    model::{ids::DeviceId, time::Millis},
    store::audit::AuditEntry,
};

/// A name as it may be shown: what a stranger sent, unless a token was put where a name belongs.
pub fn shown(name: &str) -> &str {
    if name.contains("hg1_") { "***" } else { name }
}

impl Identity {
    /// Refusals of late, the latest first; the same one stands there once, with its count.
    pub fn refusals(&self) -> Vec<Refused> {
        self.inner.trail.lock().unwrap_or_else(|e| e.into_inner()).list()
    }

    /// Logins since the start: refused ones by reason, and admitted ones.
    pub fn logins(&self) -> (BTreeMap<&'static str, u64>, u64) {
        self.inner.trail.lock().unwrap_or_else(|e| e.into_inner()).totals()
    }

    /// A TLS handshake failed at `address`.
    pub async fn handshake_refused(&self, address: SocketAddr, refused: &HandshakeRefused) {
        let knock = Knock {
            device: refused.device().map(DeviceId::as_str),
            address: Some(address.ip()),
            reason: refused.word(),
            text: format!("TLS: {refused}"),
        };
        self.knocked(knock).await;
    }

    /// Somebody was turned away before, or for more than, the proof of who it is: `reason` is a word for counting.
    /// `true` where it is news, and not one of many of its kind.
    pub async fn turned_away(
        &self,
        address: SocketAddr,
        device: Option<&DeviceId>,
        reason: &'static str,
        text: String,
    ) -> bool {
        self.knocked(Knock { device: device.map(DeviceId::as_str), address: Some(address.ip()), reason, text }).await
    }

    pub(super) async fn trace(&self, login: &Login<'_>, judged: &Result<Principal, LoginRefused>, now: Millis) {
        let address = login.address.map(|address| address.ip());
        match judged {
            Ok(principal) => {
                let first = {
                    let mut trail = self.inner.trail.lock().unwrap_or_else(|e| e.into_inner());
                    trail.admitted(&principal.credential.0, address, now)
                };
                if first {
                    let from = address.map(|address| format!(" from {address}")).unwrap_or_default();
                    let entry = AuditEntry::done(principal.device.as_str(), "child.login", &*principal.credential.0);
                    self.write_down(entry.detail(format!("{}{from}", principal.kind.as_str()))).await;
                }
            }
            Err(refused) => self.trace_refused(login, refused).await,
        }
    }

    pub(super) async fn trace_refused(&self, login: &Login<'_>, refused: &LoginRefused) {
        let address = login.address.map(|address| address.ip());
        // A name that is no device id may be anything, a password too.
        let said = account(login);
        let named = DeviceId::new(said).is_ok() && shown(said) == said;
        let device = refused.device().map(DeviceId::as_str).or(named.then_some(said));
        let text = refused.to_string();
        self.knocked(Knock { device, address, reason: refused.word(), text }).await;
    }

    /// Whether it went into the audit.
    pub(super) async fn knocked(&self, knock: Knock<'_>) -> bool {
        let entry = self.inner.trail.lock().unwrap_or_else(|e| e.into_inner()).refused(knock, clock::now());
        let news = entry.is_some();
        if let Some(entry) = entry {
            self.write_down(entry).await;
        }
        news
    }

    async fn write_down(&self, entry: AuditEntry) {
        if let Err(error) = self.inner.store.audit_later(entry).await {
            tracing::warn!(%error, "a login could not be written into the audit");
        }
    }
}
