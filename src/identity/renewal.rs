//! When a certificate falls due, and how a child renews it by itself: the old certificate vouches for the new request.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use aws_lc_rs::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use base64::{Engine, prelude::BASE64_STANDARD};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use x509_parser::public_key::PublicKey;

use super::{
    CredentialKind, Identity, IdentityError, certificate,
    child::Principal,
    credentials::{Issue, Issued},
    door::still_good,
    request::Request,
    secret::sha256,
    table::Entry,
    trail::Knock,
};
use crate::{
    clock,
    model::{ids::DeviceId, time::Millis},
};

/// Renewals a child may ask for at once, as if each answer was lost, and how long it takes until it is one more.
const ASKS: u32 = 20;
const ASK_EVERY: Duration = Duration::from_secs(60);

impl Identity {
    /// From when on this certificate is to be renewed; `None` for what does not run out.
    ///
    /// Within the first half of the renewal window each device has a moment of its own, so that a fleet that was
    /// enrolled on one day is not renewed on one day, and half the window is left for who was switched off.
    pub(super) fn due(&self, entry: &Entry) -> Option<Millis> {
        let stored = &entry.stored;
        let window = i64::try_from(self.config().renewal_window.as_millis()).unwrap_or(i64::MAX / 4);
        let expires = stored.expires?;
        let spread = spread(stored.device.as_str(), window / 2);
        let by_age = expires.plus(-window).plus(spread);
        let authorities = self.authorities();
        let ours = stored.serial.is_some();
        if ours && authorities.retiring.is_some() && !authorities.in_force(stored.issuer.as_deref()) {
            return Some(by_age.min(authorities.current.begun.plus(spread)));
        }
        Some(by_age)
    }

    /// Renews a certificate that is due: `certificate` (PEM) is the one in use, `request` (PKCS #10, PEM) asks for the
    /// next. A request for the same key proves itself; one for a new key carries in `proof` (Base64) the old key's
    /// signature over the request's DER: ECDSA or RSA (PKCS #1 v1.5) with SHA-256, or Ed25519.
    pub async fn renew(
        &self,
        certificate: &str,
        request: String,
        proof: Option<&str>,
        address: Option<SocketAddr>,
    ) -> Result<Issued, IdentityError> {
        match self.vouched(certificate, &request, proof) {
            Ok((old, device)) => {
                self.may_ask(&device)?;
                self.succeed(&old, &device, request, address).await
            }
            // Nothing can be guessed here, so nobody is slowed down.
            Err(refused) => {
                let address = address.map(|address| address.ip());
                self.knocked(Knock { device: None, address, reason: "renewal", text: refused.clone() }).await;
                Err(IdentityError::Refused(refused))
            }
        }
    }

    /// The same for a child on a connection that its certificate opened: the handshake has proved that it holds the
    /// old key, so that the request (PEM) may be for any.
    pub async fn renew_connected(
        &self,
        principal: &Principal,
        request: String,
        address: Option<SocketAddr>,
    ) -> Result<Issued, IdentityError> {
        let Principal { device, credential, kind, .. } = principal;
        self.may_ask(device)?;
        let found = match kind {
            CredentialKind::Certificate => {
                let table = self.table();
                let entry = table.get(&credential.0).ok_or_else(|| "this credential is gone".to_owned());
                entry.and_then(|entry| self.ripe(entry))
            }
            CredentialKind::Token | CredentialKind::Password => Err(format!(
                "this connection was opened with a {}, and only certificates are renewed by the child; a {0} does not \
                 run out and is replaced at the gateway (headgate credential rotate)",
                kind.as_str()
            )),
        };
        let issued = match found {
            Ok(()) => self.succeed(&credential.0, device, request, address).await,
            Err(refused) => Err(IdentityError::Refused(refused)),
        };
        if let Err(error) = &issued {
            let (device, address) = (Some(device.as_str()), address.map(|address| address.ip()));
            self.knocked(Knock { device, address, reason: "renewal", text: error.to_string() }).await;
        }
        issued
    }

    /// A certificate that may be renewed has a successor made for the key in `request`.
    async fn succeed(
        &self,
        old: &str,
        device: &DeviceId,
        request: String,
        address: Option<SocketAddr>,
    ) -> Result<Issued, IdentityError> {
        let known = self.inner.store.device(device).await?;
        if let Some(lifecycle) = known.map(|device| device.lifecycle).filter(|l| !l.may_talk()) {
            return Err(IdentityError::Refused(format!("{device} is {lifecycle:?}").to_lowercase()));
        }
        self.forget_unused(old, device).await?;
        let issued = self.rotate(old, Some(Issue::Request(request)), device.as_str()).await?;
        let from = address.map(|address| address.to_string()).unwrap_or_default();
        tracing::info!(%device, address = from, "a child renewed its certificate");
        Ok(issued)
    }

    /// Each request that is granted signs and is written down: a child that asks without end gets no further.
    fn may_ask(&self, device: &DeviceId) -> Result<(), IdentityError> {
        let now = Instant::now();
        let mut asked = self.inner.renewals.lock().unwrap_or_else(|e| e.into_inner());
        // Whose share is full again is as one who never asked.
        asked.retain(|_, free_at| *free_at > now);
        let free_at = asked.get(device).copied().unwrap_or(now);
        if free_at > now + ASK_EVERY * (ASKS - 1) {
            let wait = (free_at - now).saturating_sub(ASK_EVERY * (ASKS - 1));
            let text = format!("{device} asks for renewal too often; ask again in {} s", wait.as_secs() + 1);
            return Err(IdentityError::Busy(text));
        }
        asked.insert(device.clone(), free_at + ASK_EVERY);
        Ok(())
    }

    /// Whether this certificate may be renewed now, and why not.
    fn ripe(&self, entry: &Entry) -> Result<(), String> {
        if entry.stored.serial.is_none() {
            return Err("another authority signed this certificate; its successor comes from there".into());
        }
        let now = clock::now();
        still_good(entry, now).map_err(|refused| refused.outside())?;
        match self.due(entry).filter(|due| *due > now) {
            Some(due) => {
                let days = due.since(now) / 86_400_000 + 1;
                Err(format!("this certificate is not due yet; come back in {days} days"))
            }
            None => Ok(()),
        }
    }

    /// Whoever asks again did not get the answer: of successors that were never used only the newest stays, so that a
    /// child on a bad line does not run into the bound on its credentials.
    async fn forget_unused(&self, old: &str, device: &DeviceId) -> Result<(), IdentityError> {
        let mut unused: Vec<(Millis, Arc<str>)> = {
            let table = self.table();
            let successors = table.of(device).map(|entry| &entry.stored).filter(|stored| {
                stored.replaces.as_deref() == Some(old) && stored.last_used.is_none() && stored.revoked.is_none()
            });
            successors.map(|stored| (stored.created, stored.id.clone())).collect()
        };
        unused.sort();
        unused.pop();
        let ids: Vec<Arc<str>> = unused.into_iter().map(|(_, id)| id).collect();
        if ids.is_empty() {
            return Ok(());
        }
        self.retire(ids, "asked for again before it was used", device.as_str()).await
    }

    /// The credential that is renewed and its device.
    fn vouched(&self, pem: &str, request: &str, proof: Option<&str>) -> Result<(String, DeviceId), String> {
        let (presented, _) = certificate::read_pem(pem)?;
        let table = self.table();
        let entry = table.by_fingerprint(&presented.fingerprint);
        let entry = entry.ok_or("this certificate is none of this gateway's")?;
        self.ripe(entry)?;
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|e| e.to_string())?;
        let (_, old) = x509_parser::parse_x509_certificate(&der).map_err(|e| e.to_string())?;
        let wanted = Request::read(request).map_err(|e| e.to_string())?;
        if wanted.raw_key().map_err(|e| e.to_string())? != old.public_key().raw {
            let proof = proof.ok_or("a request for another key needs a \"proof\": the old key's signature over it")?;
            let proof = BASE64_STANDARD.decode(proof.trim()).map_err(|e| format!("the proof is no Base64: {e}"))?;
            let key = old.public_key();
            let kind: &dyn VerificationAlgorithm = match key.parsed() {
                Ok(PublicKey::RSA(_)) => &signature::RSA_PKCS1_2048_8192_SHA256,
                Ok(PublicKey::EC(point)) if point.key_size() == 384 => &signature::ECDSA_P384_SHA256_ASN1,
                Ok(PublicKey::EC(_)) => &signature::ECDSA_P256_SHA256_ASN1,
                _ => &signature::ED25519,
            };
            UnparsedPublicKey::new(kind, &key.subject_public_key.data)
                .verify(wanted.der(), &proof)
                .map_err(|_| "the proof is not the old key's signature over this request")?;
        }
        Ok((entry.stored.id.to_string(), entry.stored.device.clone()))
    }
}

/// A device's own share of `whole` milliseconds, always the same.
fn spread(device: &str, whole: i64) -> i64 {
    (share(device) * whole.max(0) as f64) as i64
}

/// From 0 to 1, as evenly as a hash.
pub(super) fn share(device: &str) -> f64 {
    let hash = sha256(device.as_bytes());
    f64::from(u32::from_be_bytes(hash[..4].try_into().expect("four bytes"))) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fleet_of_one_day_does_not_renew_on_one_day() {
        const DAY: i64 = 86_400_000;
        let mut days = [0_u32; 15];
        for n in 0..3000 {
            days[(spread(&format!("meter-{n}"), 15 * DAY) / DAY) as usize] += 1;
        }
        // 200 on each of the 15 days, give or take what chance does.
        assert!(days.iter().all(|n| (140..=260).contains(n)), "{days:?}");
        assert_eq!(spread("meter-1", 15 * DAY), spread("meter-1", 15 * DAY));
    }
}
