//! Sessions of technicians: random ids kept as hashes, ended by idleness, age, number, sign-out and password change.

use std::{collections::HashMap, net::SocketAddr};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::Serialize;

use super::{
    Identity,
    login::{Role, SignInRefused, technician, text},
    secret::{Secret, random, sha256},
};
use crate::{
    clock,
    model::time::Millis,
    store::{
        accounts::{StoredAccount, StoredSession},
        audit::AuditEntry,
    },
};

const MINUTE: i64 = 60_000;
/// A session ends after this long without a request.
const IDLE: i64 = 15 * MINUTE;
/// A session ends this long after it began.
const LIFE: i64 = 12 * 60 * MINUTE;
/// Sessions of one account; the one that was idle longest makes room.
const MOST: usize = 5;
/// How long a password counts as just given.
const FRESH: i64 = 5 * MINUTE;

/// Who sits behind a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Technician {
    pub name: String,
    pub role: Role,
    /// Whether the password was given within the last five minutes: asked for before grave deeds.
    pub fresh: bool,
}

impl Technician {
    pub fn may(&self, role: Role) -> bool {
        self.role >= role
    }
}

/// A session as it may be shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SessionView {
    /// Names the session for [`Identity::end_session`]; opens nothing.
    pub handle: String,
    pub account: String,
    pub address: String,
    pub created: Millis,
    pub seen: Millis,
}

/// All sessions, by the hash of their id.
#[derive(Default)]
pub(super) struct Sessions {
    live: HashMap<Vec<u8>, StoredSession>,
    /// Seen since they were last stored.
    touched: Vec<Vec<u8>>,
}

impl Sessions {
    pub fn load(stored: Vec<StoredSession>, now: Millis) -> Self {
        let live = stored.into_iter().filter(|s| lives(s, now)).map(|s| (s.proof.clone(), s)).collect();
        Self { live, touched: Vec::new() }
    }

    fn get(&mut self, id: &str, now: Millis, touch: bool) -> Option<&mut StoredSession> {
        let proof = sha256(id.as_bytes()).to_vec();
        let session = self.live.get_mut(&proof).filter(|session| lives(session, now))?;
        if touch {
            session.seen = now;
            if !self.touched.contains(&proof) {
                self.touched.push(proof);
            }
        }
        Some(session)
    }

    /// Adds a session and removes those of the same account that it leaves no room for.
    fn add(&mut self, session: StoredSession) -> Vec<Vec<u8>> {
        let mut others: Vec<(Millis, Vec<u8>)> =
            self.live.values().filter(|s| s.account == session.account).map(|s| (s.seen, s.proof.clone())).collect();
        others.sort();
        let surplus = (others.len() + 1).saturating_sub(MOST);
        let ended: Vec<Vec<u8>> = others.into_iter().take(surplus).map(|(_, proof)| proof).collect();
        self.end(&ended);
        self.live.insert(session.proof.clone(), session);
        ended
    }

    fn end(&mut self, ended: &[Vec<u8>]) {
        for proof in ended {
            self.live.remove(proof);
        }
        self.touched.retain(|proof| !ended.contains(proof));
    }

    fn which(&self, wanted: impl Fn(&StoredSession) -> bool) -> Vec<Vec<u8>> {
        self.live.values().filter(|session| wanted(session)).map(|session| session.proof.clone()).collect()
    }
}

fn lives(session: &StoredSession, now: Millis) -> bool {
    // A clock that went back ends sessions too: nobody can say how old they are.
    (-MINUTE..IDLE).contains(&now.since(session.seen)) && (-MINUTE..LIFE).contains(&now.since(session.created))
}

fn handle(proof: &[u8]) -> String {
    hex::encode(&proof[..proof.len().min(6)])
}

impl Identity {
    /// Who holds session `id`, if it lives. `touch` for requests of a person: it keeps the session from ending; not
    /// for what a page asks by itself.
    pub fn session(&self, id: &str, touch: bool) -> Option<Technician> {
        let now = clock::now();
        let session = self.sessions_now(|sessions| sessions.get(id, now, touch).cloned())?;
        let account = self.inner.desk.account(&session.account)?;
        Some(Technician {
            fresh: (-MINUTE..FRESH).contains(&now.since(session.proved)),
            role: account.role.parse().ok()?,
            name: account.name,
        })
    }

    /// The password once more, before grave deeds: makes session `id` fresh.
    pub async fn prove_again(
        &self,
        id: &str,
        password: &Secret,
        address: Option<SocketAddr>,
    ) -> Result<(), SignInRefused> {
        let who = self.session(id, true).ok_or(SignInRefused::BadCredentials)?;
        self.prove_password(&who.name, password, address).await?;
        self.sessions_now(|sessions| {
            if let Some(session) = sessions.get(id, clock::now(), true) {
                session.proved = clock::now();
            }
        });
        Ok(())
    }

    /// Ends session `id`.
    pub async fn sign_out(&self, id: &str) -> Result<(), SignInRefused> {
        let proof = sha256(id.as_bytes()).to_vec();
        let ended = self.sessions_now(|sessions| sessions.live.get(&proof).cloned());
        let Some(session) = ended else { return Ok(()) };
        let trace = AuditEntry::done(technician(&session.account), "logout", &*session.account);
        self.end(vec![proof], Some(trace)).await
    }

    /// The live sessions, newest first.
    pub fn sessions(&self) -> Vec<SessionView> {
        let now = clock::now();
        let mut views: Vec<SessionView> = self.sessions_now(|sessions| {
            let live = sessions.live.values().filter(|session| lives(session, now));
            live.map(|s| SessionView {
                handle: handle(&s.proof),
                account: s.account.clone(),
                address: s.address.clone(),
                created: s.created,
                seen: s.seen,
            })
            .collect()
        });
        views.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| a.handle.cmp(&b.handle)));
        views
    }

    /// Ends the session that [`SessionView::handle`] names; `false` where there is none.
    pub async fn end_session(&self, named: &str, by: &str) -> Result<bool, SignInRefused> {
        let ended = self.sessions_now(|sessions| sessions.which(|session| handle(&session.proof) == named));
        let some = !ended.is_empty();
        if some {
            self.end(ended, Some(AuditEntry::done(by, "session.end", named))).await?;
        }
        Ok(some)
    }

    pub(super) async fn begin_session(
        &self,
        account: &StoredAccount,
        address: Option<SocketAddr>,
    ) -> Result<(Secret, Technician), SignInRefused> {
        let id = Secret::new(BASE64_URL_SAFE_NO_PAD.encode(random::<32>()));
        let now = clock::now();
        let session = StoredSession {
            proof: sha256(id.expose().as_bytes()).to_vec(),
            account: account.name.clone(),
            address: text(address),
            created: now,
            seen: now,
            proved: now,
        };
        let ended = self.sessions_now(|sessions| sessions.add(session.clone()));
        let trace = AuditEntry::done(technician(&account.name), "login", &*account.name).detail(text(address));
        let stored = self.inner.store.put_login_sessions(vec![session.clone()], ended, Some(trace)).await;
        if let Err(error) = stored {
            self.sessions_now(|sessions| sessions.end(&[session.proof]));
            return Err(error.into());
        }
        let role = account.role.parse().map_err(SignInRefused::Refused)?;
        Ok((id, Technician { name: account.name.clone(), role, fresh: true }))
    }

    /// Ends all sessions of an account, but for the one with this id.
    pub(super) async fn end_sessions_of(&self, account: &str, but: Option<&str>) -> Result<(), SignInRefused> {
        let but = but.map(|id| sha256(id.as_bytes()).to_vec());
        let ended = self.sessions_now(|sessions| {
            sessions.which(|session| session.account == account && Some(&session.proof) != but.as_ref())
        });
        if ended.is_empty() { Ok(()) } else { self.end(ended, None).await }
    }

    /// Stores when sessions were last seen, and forgets those that ended by themselves.
    pub(super) async fn sweep_sessions(&self, now: Millis) {
        let (seen, ended) = self.sessions_now(|sessions| {
            let ended = sessions.which(|session| !lives(session, now));
            sessions.end(&ended);
            let touched = std::mem::take(&mut sessions.touched);
            let seen: Vec<StoredSession> =
                touched.iter().filter_map(|proof| sessions.live.get(proof).cloned()).collect();
            (seen, ended)
        });
        if seen.is_empty() && ended.is_empty() {
            return;
        }
        if let Err(error) = self.inner.store.put_login_sessions(seen, ended, None).await {
            tracing::warn!(%error, "sessions could not be stored");
        }
    }

    async fn end(&self, ended: Vec<Vec<u8>>, trace: Option<AuditEntry>) -> Result<(), SignInRefused> {
        self.sessions_now(|sessions| sessions.end(&ended));
        Ok(self.inner.store.put_login_sessions(Vec::new(), ended, trace).await?)
    }

    fn sessions_now<R>(&self, work: impl FnOnce(&mut Sessions) -> R) -> R {
        work(&mut self.inner.desk.sessions.lock().unwrap_or_else(|e| e.into_inner()))
    }
}
