//! Making, replacing and ending the credentials of children; enrolment by one-time code.

use std::sync::Arc;

use serde_json::{Value as Json, json};

use super::{
    Identity, IdentityError, certificate,
    child::CredentialId,
    password::{self, check_password},
    secret::{Secret, new_code, new_id, new_token, read_code},
    table::Entry,
    trail::Knock,
};
use crate::{
    clock,
    model::{ids::DeviceId, time::Millis},
    store::{
        audit::AuditEntry,
        credentials::{CredentialKind, StoredCode, StoredCredential},
    },
};

const DAY: i64 = 86_400_000;
/// Credentials of one device that still count at the same time, at most.
const MOST: usize = 8;

/// What kind of credential is wanted.
#[derive(Debug, Clone)]
pub enum Issue {
    Token,
    /// Chosen by a person; checked for length and guessability.
    Password(Secret),
    /// For the key in a PKCS #10 request (PEM): the private key stays where it was made.
    Request(String),
    /// With a key made here and handed out once.
    Certificate,
    /// A certificate (PEM) of another authority (`client_authorities`), bound to the device.
    Register(String),
}

/// A new credential, with what is handed out exactly once.
#[derive(Debug, Clone)]
pub struct Issued {
    pub id: CredentialId,
    pub device: DeviceId,
    pub kind: CredentialKind,
    pub expires: Option<Millis>,
    /// From when on it may be renewed, and should.
    pub renew_after: Option<Millis>,
    /// `hg1_<id>.<secret>`: the MQTT password.
    pub token: Option<Secret>,
    /// PEM.
    pub certificate: Option<String>,
    /// PEM; the private key of a certificate whose key was made here.
    pub key: Option<Secret>,
    /// PEM; what the child verifies this gateway with.
    pub authority: String,
}

impl Issued {
    /// The document for the one it is handed to. Holds the secret: send it nowhere else, keep it nowhere.
    pub fn handout(&self) -> Json {
        let mut document = json!({
            "id": self.id,
            "device": self.device,
            "kind": self.kind,
            "username": self.device,
            "authority": self.authority,
        });
        let optional = [
            ("expires", self.expires.map(|at| json!(at))),
            ("renewAfter", self.renew_after.map(|at| json!(at))),
            ("token", self.token.as_ref().map(|secret| json!(secret.expose()))),
            ("certificate", self.certificate.as_ref().map(|pem| json!(pem))),
            ("key", self.key.as_ref().map(|secret| json!(secret.expose()))),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                document[name] = value;
            }
        }
        document
    }
}

impl Identity {
    /// Makes a credential for `device`. `by` is who asks: it stands in the audit.
    pub async fn issue(&self, device: &DeviceId, what: Issue, by: &str) -> Result<Issued, IdentityError> {
        let (issued, stored) = self.make(device, what, by, None).await?;
        let trace = trace(by, "credential.issue", &stored);
        self.inner.store.add_credential(stored.clone(), trace).await?;
        self.count_in(stored);
        Ok(issued)
    }

    /// Makes a successor of credential `id`. Both count until the first login with the new one retires the old. A
    /// certificate whose key the child holds needs a new request; without one the key is made here.
    pub async fn rotate(&self, id: &str, what: Option<Issue>, by: &str) -> Result<Issued, IdentityError> {
        let old = self.table().get(id).map(|entry| entry.stored.clone());
        let old = old.ok_or_else(|| unknown(id))?;
        let revoked =
            || IdentityError::Refused(format!("credential {id} was revoked; issue a new one for {}", old.device));
        if old.revoked.is_some() {
            return Err(revoked());
        }
        let what = match (what, old.kind) {
            (Some(what), _) => what,
            (None, CredentialKind::Token) => Issue::Token,
            (None, CredentialKind::Certificate) => Issue::Certificate,
            (None, CredentialKind::Password) => {
                return Err(IdentityError::Refused("give the new password, or rotate to a token".into()));
            }
        };
        let (issued, stored) = self.make(&old.device, what, by, Some(old.id.clone())).await?;
        let trace = trace(by, "credential.rotate", &stored).detail(format!("{} replaces {id}", stored.id));
        if !self.inner.store.add_credential(stored.clone(), trace).await? {
            return Err(revoked());
        }
        self.count_in(stored);
        Ok(issued)
    }

    /// Ends credential `id` now: no login any more, no TLS handshake, and its live session is told of in
    /// [`Identity::revoked`].
    pub async fn revoke(&self, id: &str, reason: &str, by: &str) -> Result<(), IdentityError> {
        let known = self.table().get(id).map(|entry| entry.stored.id.clone());
        self.retire(vec![known.ok_or_else(|| unknown(id))?], reason, by).await
    }

    /// Ends all credentials of `device`, and open enrolment codes with them; returns how many ended.
    pub async fn revoke_all(&self, device: &DeviceId, reason: &str, by: &str) -> Result<usize, IdentityError> {
        let ids: Vec<Arc<str>> = {
            let table = self.table();
            let open = table.of(device).filter(|entry| entry.stored.revoked.is_none());
            open.map(|entry| entry.stored.id.clone()).collect()
        };
        self.inner.store.drop_codes("enrol", device.as_str()).await?;
        if !ids.is_empty() {
            self.retire(ids.clone(), reason, by).await?;
        }
        Ok(ids.len())
    }

    /// Disk first, then memory, then TLS, then those who hold sessions.
    pub(super) async fn retire(&self, ids: Vec<Arc<str>>, reason: &str, by: &str) -> Result<(), IdentityError> {
        let now = clock::now();
        let names: Vec<&str> = ids.iter().map(|id| &**id).collect();
        let trace = AuditEntry::done(by, "credential.revoke", names.join(" ")).detail(reason);
        self.inner.store.revoke_credentials(ids.clone(), now, reason.to_owned(), trace).await?;
        let devices = self.table_mut().revoke(&ids, now, reason);
        let refreshed = self.refresh_tls();
        for device in devices {
            tracing::info!(%device, reason, "credential revoked");
            let _ = self.inner.changed.send(device);
        }
        refreshed
    }

    /// A code with which `device` may fetch one credential, once and within the configured time (24 h). A new code
    /// makes an earlier one void.
    pub async fn enrolment_code(&self, device: &DeviceId, by: &str) -> Result<(Secret, Millis), IdentityError> {
        let (code, proof) = new_code();
        let life = i64::try_from(self.config().enrolment_code_lifetime.as_millis()).unwrap_or(DAY);
        let expires = clock::now().plus(life);
        let stored = StoredCode {
            proof: proof.to_vec(),
            purpose: "enrol".into(),
            subject: device.to_string(),
            role: None,
            created_by: by.to_owned(),
            expires,
        };
        let trace = AuditEntry::done(by, "enrolment.code", device.as_str());
        self.inner.store.add_code(stored, trace).await?;
        Ok((code, expires))
    }

    /// Redeems an enrolment code: with a request (PEM) for a certificate, without one for a token. Whoever guesses is
    /// slowed down by `address`.
    pub async fn enrol(
        &self,
        code: &str,
        request: Option<String>,
        address: Option<std::net::SocketAddr>,
    ) -> Result<Issued, IdentityError> {
        let refused = || IdentityError::Refused("this code is unknown, was used, or has run out".into());
        let ip = address.map(|address| address.ip());
        let now = clock::now();
        let found = match (self.slowed("enrolment", ip), read_code(code)) {
            (Err(busy), _) => Err(busy),
            (Ok(()), Some(proof)) => {
                let found = self.inner.store.code(proof.to_vec(), now).await?;
                found.filter(|code| code.purpose == "enrol").ok_or_else(refused)
            }
            (Ok(()), None) => Err(refused()),
        };
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                if matches!(error, IdentityError::Refused(_)) {
                    self.blame("enrolment", ip);
                }
                let text = format!("enrolment: {error}");
                self.knocked(Knock { device: None, address: ip, reason: "enrolment", text }).await;
                return Err(error);
            }
        };
        let device = DeviceId::new(&found.subject).map_err(|error| IdentityError::Refused(error.to_string()))?;
        let what = request.map_or(Issue::Token, Issue::Request);
        let by = format!("code by {}", found.created_by);
        let (issued, stored) = self.make(&device, what, &by, None).await?;
        let from = address.map(|address| address.to_string()).unwrap_or_default();
        let trace = trace(device.as_str(), "enrolment", &stored).detail(format!("{} from {from}", by));
        if !self.inner.store.enrol(found.proof, now, stored.clone(), trace).await? {
            return Err(refused());
        }
        self.count_in(stored);
        tracing::info!(%device, address = from, kind = issued.kind.as_str(), "child enrolled");
        Ok(issued)
    }

    /// From now on the device must show it: whoever came in under its name without any is looked at again.
    fn count_in(&self, stored: StoredCredential) {
        let device = stored.device.clone();
        self.table_mut().add(stored);
        let _ = self.inner.changed.send(device);
    }

    async fn make(
        &self,
        device: &DeviceId,
        what: Issue,
        by: &str,
        replaces: Option<Arc<str>>,
    ) -> Result<(Issued, StoredCredential), IdentityError> {
        if device.as_str() == self.inner.name {
            return Err(IdentityError::Refused(format!(
                "{device} is the gateway itself; give children ids of their own"
            )));
        }
        let now = clock::now();
        if self.table().of(device).filter(|entry| entry.active(now)).count() >= MOST {
            return Err(IdentityError::Refused(format!(
                "{device} has {MOST} credentials that count; revoke one first"
            )));
        }
        let life = self.config().certificate_lifetime;
        let id: Arc<str> = new_id().into();
        let mut issued = Issued {
            id: CredentialId(id.clone()),
            device: device.clone(),
            kind: CredentialKind::Certificate,
            expires: None,
            token: None,
            certificate: None,
            key: None,
            authority: self.authority_pem(),
            renew_after: None,
        };
        let (mut serial, mut issuer) = (None, None);
        let proof = match what {
            Issue::Token => {
                let (token, hash) = new_token(&id);
                (issued.kind, issued.token) = (CredentialKind::Token, Some(token));
                hash.to_vec()
            }
            Issue::Password(password) => {
                check_password(password.expose(), device.as_str())?;
                issued.kind = CredentialKind::Password;
                let busy = |password::Crowded| IdentityError::Busy("too many passwords are being hashed".into());
                self.inner.hashing.hash(password.expose().as_bytes()).await.map_err(busy)?.into_bytes()
            }
            Issue::Register(pem) => {
                let (presented, pem) = certificate::read_pem(&pem).map_err(IdentityError::Refused)?;
                if presented.expires <= now {
                    return Err(IdentityError::Refused("this certificate has run out".into()));
                }
                if self.table().by_fingerprint(&presented.fingerprint).is_some() {
                    return Err(IdentityError::Refused("this certificate is registered already".into()));
                }
                (issued.expires, issued.certificate) = (Some(presented.expires), Some(pem));
                presented.fingerprint.to_vec()
            }
            what => {
                let authorities = self.authorities();
                let authority = &authorities.current;
                let (leaf, key) = match &what {
                    Issue::Request(request) => (authority.sign_request(request, device, now, life)?, None),
                    _ => authority.make_child(device, now, life).map(|(leaf, key)| (leaf, Some(key)))?,
                };
                (issued.expires, issued.key) = (Some(leaf.expires), key);
                (serial, issuer) = (Some(leaf.serial), Some(authority.id.clone()));
                issued.certificate = Some(leaf.pem);
                super::secret::sha256(&leaf.der).to_vec()
            }
        };
        let stored = StoredCredential {
            id,
            device: device.clone(),
            kind: issued.kind,
            proof,
            serial,
            issuer,
            created: now,
            created_by: by.to_owned(),
            expires: issued.expires,
            revoked: None,
            reason: None,
            last_used: None,
            replaces,
        };
        issued.renew_after = self.due(&Entry { stored: stored.clone(), quick: None });
        Ok((issued, stored))
    }
}

fn trace(by: &str, what: &str, stored: &StoredCredential) -> AuditEntry {
    AuditEntry::done(by, what, stored.device.as_str()).detail(format!("{} {}", stored.kind.as_str(), stored.id))
}

fn unknown(id: &str) -> IdentityError {
    IdentityError::Unknown(format!("there is no credential {id:?}; see the list of credentials"))
}
