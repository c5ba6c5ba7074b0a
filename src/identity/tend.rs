//! What happens by itself: the server certificate is renewed, the revocation list stays fresh, files that changed on
//! disk are taken up, credentials that run out are told of.

use std::{
    collections::BTreeSet,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_util::sync::CancellationToken;

use super::{
    Identity, IdentityError,
    authorities::Authorities,
    authority::{Authority, SERVER_DAYS},
    certificate, files, names,
    overview::{Expiring, urgency},
    table::Table,
    tls::Material,
};
use crate::{bus::Events, clock, config::identity::IdentityConfig, model::time::Millis};

const DAY: i64 = 86_400_000;
/// How often it is looked whether something is to be done.
const LOOK: Duration = Duration::from_secs(10);
/// Every how many looks the machine's addresses are compared with the certificate.
const NAMES_EVERY: u32 = 30;
/// Every how many looks old rows are removed.
const PURGE_EVERY: u32 = 8640;
/// Every how many looks it is looked what runs out.
const WARN_EVERY: u32 = 30;
/// How long credentials that ended are kept for people to see.
const KEEP: i64 = 365 * DAY;

/// What the listeners show at present, to see when it has to change.
pub(super) struct Shown {
    names: BTreeSet<String>,
    /// Whether the server certificate is from our own authority.
    own: bool,
    expires: Millis,
    list_made: Millis,
    stamps: Vec<(PathBuf, Stamp)>,
}

type Stamp = Option<(SystemTime, u64)>;

/// Reads or makes all that the listeners need.
pub(super) fn material(
    folder: &Path,
    config: &IdentityConfig,
    authorities: &Authorities,
    table: &Table,
    now: Millis,
) -> Result<(Material, Shown), IdentityError> {
    let names = names::server_names(&config.names);
    let own = config.server_certificate.is_none();
    let (certificate_path, key_path) = match (&config.server_certificate, &config.server_key) {
        (Some(certificate), Some(key)) => (certificate.clone(), key.clone()),
        _ => (folder.join("server.pem"), folder.join("server.key")),
    };
    let watched = [Some(&certificate_path), Some(&key_path), config.client_authorities.as_ref()];
    let (chain, key) = if own {
        own_server(&certificate_path, &key_path, authorities.of_server(), &names, now)?
    } else {
        (files::read_certificates(&certificate_path)?, files::read_key(&key_path)?)
    };
    let leaf = certificate::read(&chain[0])
        .map_err(|error| files::FileError::content(&certificate_path, error, "a certificate for this gateway"))?;
    let others = config.client_authorities.as_deref().map(files::read_certificates).transpose()?.unwrap_or_default();
    let revoked = table.revoked_serials(now);
    let ours = authorities
        .all()
        .map(|one| Ok((one.certificate.clone(), one.revocation_list(&revoked, now)?)))
        .collect::<Result<_, IdentityError>>()?;
    let stamps = watched.into_iter().flatten().map(|path| (path.clone(), stamp(path))).collect();
    let material = Material { chain, key, ours, others };
    Ok((material, Shown { names, own, expires: leaf.expires, list_made: now, stamps }))
}

/// Our own server certificate: the one on disk while it fits, otherwise a new one.
fn own_server(
    certificate_path: &Path,
    key_path: &Path,
    authority: &Authority,
    names: &BTreeSet<String>,
    now: Millis,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), IdentityError> {
    if certificate_path.exists() && key_path.exists() {
        let read = (files::read_certificates(certificate_path), files::read_key(key_path));
        if let (Ok(chain), Ok(key)) = read
            && authority.fits(&chain[0], &key, names, now)
        {
            return Ok((chain, key));
        }
    }
    let (leaf, key) = authority.make_server(names, now)?;
    // A kill between the two leaves a pair that does not fit, which the next start sees.
    files::write_private(key_path, key.expose().as_bytes())?;
    files::write_public(certificate_path, leaf.pem.as_bytes())?;
    tracing::info!(names = ?names, "made a new server certificate");
    Ok((vec![leaf.der], files::read_key(key_path)?))
}

impl Authority {
    /// Whether a server certificate is ours, belongs to `key`, has all `names` and two thirds of its life before it.
    fn fits(
        &self,
        certificate: &CertificateDer<'_>,
        key: &PrivateKeyDer<'_>,
        names: &BTreeSet<String>,
        now: Millis,
    ) -> bool {
        let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else { return false };
        let Ok((_, ours)) = x509_parser::parse_x509_certificate(&self.certificate) else { return false };
        let PrivateKeyDer::Pkcs8(pkcs8) = key else { return false };
        let pkcs8 = PrivatePkcs8KeyDer::from(pkcs8.secret_pkcs8_der());
        let Ok(pair) = rcgen::KeyPair::try_from(&pkcs8) else { return false };
        let belongs = rcgen::PublicKeyData::subject_public_key_info(&pair) == parsed.public_key().raw;
        let signed = parsed.verify_signature(Some(ours.public_key())).is_ok();
        let begins = parsed.validity().not_before.timestamp() * 1000;
        let left = parsed.validity().not_after.timestamp() * 1000 - now.0;
        belongs && signed && begins <= now.0 && left > SERVER_DAYS * DAY / 3 && certificate::names(&parsed) == *names
    }
}

impl Identity {
    /// Looks after certificates and sessions until `stop`. The daemon runs it as one task.
    pub async fn tend(&self, events: Events, stop: CancellationToken) {
        let mut last = clock::now();
        let mut looks = 0u32;
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(LOOK) => {}
            }
            looks = looks.wrapping_add(1);
            let now = clock::now();
            if self.has_changed(now, looks.is_multiple_of(NAMES_EVERY))
                && let Err(error) = self.refresh_tls()
            {
                tracing::error!(%error, "the listeners keep their earlier certificate");
            }
            self.tell_expired(last, now);
            if looks % WARN_EVERY == 1 {
                self.warn(&events, now).await;
            }
            if looks.is_multiple_of(PURGE_EVERY) {
                let purged = self.inner.store.purge_credentials(now.plus(-KEEP), now).await;
                if let Err(error) = purged {
                    tracing::warn!(%error, "old credentials could not be removed");
                }
            }
            self.sweep_sessions(now).await;
            last = now;
        }
        self.sweep_sessions(clock::now()).await;
    }

    /// Takes up another configuration: all of it, or on an error nothing.
    pub fn configure(&self, config: &IdentityConfig) -> Result<(), IdentityError> {
        let before = std::mem::replace(
            &mut *self.inner.config.write().unwrap_or_else(|e| e.into_inner()),
            Arc::new(config.clone()),
        );
        self.refresh_tls().inspect_err(|_| {
            *self.inner.config.write().unwrap_or_else(|e| e.into_inner()) = before;
        })
    }

    /// Reads keys and certificates again and gives them to new connections. On an error the earlier ones stay.
    pub fn refresh_tls(&self) -> Result<(), IdentityError> {
        // One at a time, so that an older list never replaces a newer one.
        let mut shown = self.inner.shown.lock().unwrap_or_else(|e| e.into_inner());
        let now = clock::now();
        let made = {
            let table = self.table();
            material(&self.inner.folder, &self.config(), &self.authorities(), &table, now)
        };
        let result = made.and_then(|(material, newer)| {
            self.inner.tls.replace(&material)?;
            Ok(newer)
        });
        match result {
            Ok(newer) => {
                *shown = newer;
                Ok(())
            }
            Err(error) => {
                // What is wrong stays wrong until a file changes: say it once.
                for (path, seen) in &mut shown.stamps {
                    *seen = stamp(path);
                }
                Err(error)
            }
        }
    }

    fn has_changed(&self, now: Millis, names_too: bool) -> bool {
        let shown = self.inner.shown.lock().unwrap_or_else(|e| e.into_inner());
        let renew = shown.own && shown.expires.since(now) < SERVER_DAYS * DAY / 3;
        // Also when the clock was set: the list must be good for the time that it is now.
        let stale = !(-DAY / 48..DAY).contains(&now.since(shown.list_made));
        let renamed = names_too && shown.own && names::server_names(&self.config().names) != shown.names;
        renew || stale || renamed || shown.stamps.iter().any(|(path, seen)| stamp(path) != *seen)
    }

    fn tell_expired(&self, last: Millis, now: Millis) {
        let expired = |at: Option<Millis>| at.is_some_and(|at| at > last && at <= now);
        let table = self.table();
        for entry in table.all().filter(|e| e.stored.revoked.is_none() && expired(e.stored.expires)) {
            tracing::warn!(device = %entry.stored.device, credential = %entry.stored.id, "credential has run out");
            let _ = self.inner.changed.send(entry.stored.device.clone());
        }
    }

    /// The gateway's own certificates that run out: its authority, and a server certificate that it cannot renew.
    pub(super) fn own_expiring(&self, now: Millis) -> Vec<Expiring> {
        let shown = self.inner.shown.lock().unwrap_or_else(|e| e.into_inner());
        let server = (!shown.own).then_some((shown.expires, "the server certificate"));
        let own = [Some((self.authorities().current.expires, "the gateway's certificate authority")), server];
        let one = |(expires, what): (Millis, &str)| {
            let (severity, when) = urgency(expires, now)?;
            Some(Expiring { device: None, credential: None, expires, severity, text: format!("{what} {when}") })
        };
        own.into_iter().flatten().filter_map(one).collect()
    }

    /// Refuses where somebody at `address` must wait after wrong codes.
    pub(super) fn slowed(&self, what: &str, address: Option<IpAddr>) -> Result<(), IdentityError> {
        let failures = self.inner.failures.lock().unwrap_or_else(|e| e.into_inner());
        match failures.wait(&guesser(what, address), address, Instant::now()) {
            Some(wait) => Err(IdentityError::Busy(format!("too many failures; try again in {} s", wait.as_secs() + 1))),
            None => Ok(()),
        }
    }

    pub(super) fn blame(&self, what: &str, address: Option<IpAddr>) {
        let account = guesser(what, address);
        self.inner.failures.lock().unwrap_or_else(|e| e.into_inner()).failed(&account, address, Instant::now());
    }
}

/// Codes are guessed for nobody in particular: one who guesses must not lock out those who come from elsewhere.
pub(super) fn guesser(what: &str, address: Option<IpAddr>) -> String {
    address.map_or_else(|| what.to_owned(), |address| format!("{what} {address}"))
}

fn stamp(path: &Path) -> Stamp {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}
