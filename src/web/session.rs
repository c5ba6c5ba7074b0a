//! Who is logged in: random tokens in cookies, their SHA-256 in memory, two clocks that end them. Gone at a restart.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use aws_lc_rs::{digest, rand};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::Serialize;

use super::access::{Caller, Role};
use crate::model::time::Millis;

/// Sessions one account may have at a time; the oldest makes room.
const PER_ACCOUNT: usize = 5;
/// Sessions in all.
const IN_ALL: usize = 200;

/// SHA-256 of a session's token: names the session without being able to open it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionKey([u8; 32]);

impl SessionKey {
    fn of(token: &str) -> Self {
        let mut key = [0; 32];
        key.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
        SessionKey(key)
    }

    /// The short public name in lists and paths.
    pub fn name(&self) -> String {
        hex::encode(&self.0[..8])
    }
}

struct Session {
    account: Arc<str>,
    role: Role,
    address: String,
    started: Instant,
    started_at: Millis,
    used: Instant,
    proved: Instant,
}

/// A session as an admin sees it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionRow {
    pub id: String,
    pub account: String,
    pub role: Role,
    pub address: String,
    pub started: Millis,
    /// Seconds since its last request.
    pub idle: u64,
}

/// All sessions of this web room.
pub struct Sessions {
    idle: Duration,
    max: Duration,
    open: Mutex<HashMap<SessionKey, Session>>,
}

impl Sessions {
    pub fn new(idle: Duration, max: Duration) -> Self {
        Self { idle, max, open: Mutex::default() }
    }

    /// Opens a session; the token goes into the cookie and nowhere else.
    pub fn begin(&self, account: &str, role: Role, address: String) -> String {
        let mut bytes = [0; 32];
        rand::fill(&mut bytes).expect("the system's random source answers");
        let token = BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let now = Instant::now();
        let mut open = self.lock();
        open.retain(|_, session| !self.over(session, now));
        while let Some(key) = crowded(&open, account) {
            open.remove(&key);
        }
        let session = Session {
            account: account.into(),
            role,
            address,
            started: now,
            started_at: crate::clock::now(),
            used: now,
            proved: now,
        };
        open.insert(SessionKey::of(&token), session);
        token
    }

    /// Who holds `token`. `touch` counts as use; requests that a page makes by itself do not.
    pub fn caller(&self, token: &str, touch: bool) -> Option<Caller> {
        let key = SessionKey::of(token);
        let now = Instant::now();
        let mut open = self.lock();
        let session = open.get_mut(&key)?;
        if self.over(session, now) {
            open.remove(&key);
            return None;
        }
        if touch {
            session.used = now;
        }
        Some(Caller {
            name: session.account.clone(),
            role: session.role,
            session: Some(key),
            proved: now.duration_since(session.proved),
        })
    }

    /// Whether a session still stands: asked by streams that outlive their request.
    pub fn stands(&self, key: &SessionKey) -> bool {
        let now = Instant::now();
        self.lock().get(key).is_some_and(|session| !self.over(session, now))
    }

    pub fn prove(&self, key: &SessionKey) {
        if let Some(session) = self.lock().get_mut(key) {
            session.proved = Instant::now();
        }
    }

    pub fn end(&self, key: &SessionKey) {
        self.lock().remove(key);
    }

    /// Ends the session with this public name; false where there is none.
    pub fn end_named(&self, name: &str) -> bool {
        let mut open = self.lock();
        let key = open.keys().find(|key| key.name() == name).copied();
        key.is_some_and(|key| open.remove(&key).is_some())
    }

    /// Ends all sessions of `account` but `keep`: its password or role changed.
    pub fn end_all(&self, account: &str, keep: Option<SessionKey>) {
        self.lock().retain(|key, session| &*session.account != account || Some(*key) == keep);
    }

    pub fn list(&self) -> Vec<SessionRow> {
        let now = Instant::now();
        let open = self.lock();
        let row = |(key, session): (&SessionKey, &Session)| SessionRow {
            id: key.name(),
            account: session.account.to_string(),
            role: session.role,
            address: session.address.clone(),
            started: session.started_at,
            idle: now.duration_since(session.used).as_secs(),
        };
        let mut rows: Vec<SessionRow> = open.iter().filter(|(_, session)| !self.over(session, now)).map(row).collect();
        rows.sort_by_key(|row| row.started);
        rows
    }

    fn over(&self, session: &Session, now: Instant) -> bool {
        now.duration_since(session.used) > self.idle || now.duration_since(session.started) > self.max
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SessionKey, Session>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The session that must make room before `account` may have another.
fn crowded(open: &HashMap<SessionKey, Session>, account: &str) -> Option<SessionKey> {
    let own = open.values().filter(|session| &*session.account == account).count();
    let all = open.len() >= IN_ALL;
    if own < PER_ACCOUNT && !all {
        return None;
    }
    let candidates = open.iter().filter(|(_, session)| all || &*session.account == account);
    candidates.min_by_key(|(_, session)| session.used).map(|(key, _)| *key)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn begin(sessions: &Sessions, account: &str) -> String {
        sessions.begin(account, Role::Technician, "10.0.0.9".into())
    }

    #[test]
    fn a_token_opens_its_own_session_only() {
        let sessions = Sessions::new(HOUR, HOUR);
        let (one, two) = (begin(&sessions, "ann"), begin(&sessions, "bob"));
        assert_ne!(one, two);
        assert_eq!(&*sessions.caller(&one, true).expect("ann").name, "ann");
        assert!(sessions.caller("", true).is_none());
        let key = sessions.caller(&two, true).expect("bob").session.expect("by cookie");
        sessions.end(&key);
        assert!(sessions.caller(&two, true).is_none());
        assert!(sessions.caller(&one, true).is_some());
    }

    #[test]
    fn idle_sessions_end_and_background_requests_do_not_keep_them() {
        let sessions = Sessions::new(Duration::ZERO, HOUR);
        let token = begin(&sessions, "ann");
        std::thread::sleep(Duration::from_millis(2));
        assert!(sessions.caller(&token, false).is_none());
        assert!(sessions.list().is_empty());
    }

    #[test]
    fn the_sixth_login_ends_the_one_used_longest_ago() {
        let sessions = Sessions::new(HOUR, HOUR);
        let tokens: Vec<String> = (0..6).map(|_| begin(&sessions, "ann")).collect();
        assert!(sessions.caller(&tokens[0], true).is_none());
        assert!(tokens[1..].iter().all(|token| sessions.caller(token, true).is_some()));
        sessions.end_all("ann", None);
        assert!(sessions.list().is_empty());
    }
}
