//! Technicians on the page and the API: the first code, accounts with roles, signing in, sessions.
//!
//! There is no default password: while no account exists a one-time code is printed at start, and whoever has it sets
//! a name and a password of their own.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Mutex, RwLock},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{
    Identity, IdentityError,
    password::{self, BadPassword, Crowded, check_password},
    secret::{Secret, new_code, read_code},
    tend::guesser,
};
use crate::{
    clock,
    model::time::Millis,
    store::{Store, StoreError, accounts::StoredAccount, audit::AuditEntry, credentials::StoredCode},
};

use super::sessions::Sessions;
pub use super::sessions::{SessionView, Technician};

/// How long a first code, an invitation or a reset may be used.
const CODE_LIFE: i64 = 86_400_000;

/// What somebody may do; each role may do all that those before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Looks.
    Viewer,
    /// Works on devices: desired values, commands, updates, approval.
    Technician,
    /// Also accounts, credentials and the configuration.
    Admin,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Technician => "technician",
            Self::Admin => "admin",
        }
    }
}

impl std::str::FromStr for Role {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Viewer, Self::Technician, Self::Admin]
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| format!("{text:?} is no role; one of: viewer, technician, admin"))
    }
}

/// Why somebody was not let in, or not given what was asked for. `Display` may be shown to them.
#[derive(Debug, thiserror::Error)]
pub enum SignInRefused {
    /// Unknown name or wrong password: the same answer, after the same time.
    #[error("unknown name or wrong password")]
    BadCredentials,
    #[error("too many failures; try again in {} s", retry_after.as_secs().max(1))]
    Locked { retry_after: Duration },
    #[error(
        "this code is unknown, was used, or has run out; `headgate credential login-code` on the gateway makes a new one"
    )]
    BadCode,
    #[error("a name has 2 to 32 of the characters a-z 0-9 . _ -")]
    BadName,
    #[error(transparent)]
    Password(#[from] BadPassword),
    /// Not possible, and why.
    #[error("{0}")]
    Refused(String),
    #[error("too many passwords are being checked; try again")]
    Crowded,
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<Crowded> for SignInRefused {
    fn from(_: Crowded) -> Self {
        Self::Crowded
    }
}

/// An account as it may be shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AccountView {
    pub name: String,
    pub role: Role,
    pub created: Millis,
    /// When its password or role last changed.
    pub changed: Millis,
}

/// Accounts and sessions in memory.
pub(super) struct Desk {
    pub(super) accounts: RwLock<BTreeMap<String, StoredAccount>>,
    pub(super) sessions: Mutex<Sessions>,
}

impl Desk {
    pub async fn load(store: &Store) -> Result<Desk, StoreError> {
        let accounts = store.accounts().await?.into_iter().map(|account| (account.name.clone(), account)).collect();
        let sessions = Sessions::load(store.login_sessions().await?, clock::now());
        Ok(Desk { accounts: RwLock::new(accounts), sessions: Mutex::new(sessions) })
    }

    pub(super) fn account(&self, name: &str) -> Option<StoredAccount> {
        self.accounts.read().unwrap_or_else(|e| e.into_inner()).get(name).cloned()
    }
}

impl Identity {
    /// A new code for the first administrator, to be printed at start; `None` once an account exists. An earlier code
    /// becomes void.
    pub async fn first_code(&self) -> Result<Option<(Secret, Millis)>, IdentityError> {
        if !self.inner.desk.accounts.read().unwrap_or_else(|e| e.into_inner()).is_empty() {
            return Ok(None);
        }
        self.login_code("", Role::Admin, "gateway").await.map(Some).map_err(|refused| match refused {
            SignInRefused::Store(error) => error.into(),
            other => IdentityError::Refused(other.to_string()),
        })
    }

    /// A code with which `name` sets a password: an invitation, a reset, or the way back in from the console. An empty
    /// name leaves it to whoever redeems the code. Returns when it runs out.
    pub async fn login_code(&self, name: &str, role: Role, by: &str) -> Result<(Secret, Millis), SignInRefused> {
        if !name.is_empty() {
            check_name(name)?;
        }
        let (code, proof) = new_code();
        let expires = clock::now().plus(CODE_LIFE);
        let stored = StoredCode {
            proof: proof.to_vec(),
            purpose: "account".into(),
            subject: name.to_owned(),
            role: Some(role.as_str().to_owned()),
            created_by: by.to_owned(),
            expires,
        };
        let trace = AuditEntry::done(by, "login.code", name).detail(role.as_str());
        self.inner.store.add_code(stored, trace).await?;
        Ok((code, expires))
    }

    /// Redeems a code: sets the password of `name` (and makes the account), ends its other sessions and signs in.
    pub async fn redeem(
        &self,
        code: &str,
        name: &str,
        password: &Secret,
        address: Option<SocketAddr>,
    ) -> Result<(Secret, Technician), SignInRefused> {
        let name = name.trim().to_lowercase();
        let ip = address.map(|a| a.ip());
        self.patience(&guesser("login code", ip), ip)?;
        let now = clock::now();
        let found = match read_code(code) {
            Some(proof) => self.inner.store.code(proof.to_vec(), now).await?,
            None => None,
        };
        let fits = |c: &StoredCode| c.purpose == "account" && (c.subject.is_empty() || c.subject == name);
        let Some(found) = found.filter(fits) else {
            self.blame("login code", ip);
            let trace = AuditEntry::refused("unknown", "login.code", "").detail(text(address));
            self.inner.store.audit(trace).await?;
            return Err(SignInRefused::BadCode);
        };
        check_name(&name)?;
        check_password(password.expose(), &name)?;
        let existing = self.inner.desk.account(&name);
        if existing.is_some() && found.subject.is_empty() && found.created_by != "console" {
            return Err(SignInRefused::Refused(format!("there is an account {name:?} already; choose another name")));
        }
        let role = found.role.as_deref().and_then(|role| role.parse().ok()).unwrap_or(Role::Viewer);
        let account = StoredAccount {
            password: self.inner.hashing.hash(password.expose().as_bytes()).await?,
            role: role.as_str().to_owned(),
            created: existing.map_or(now, |account| account.created),
            changed: now,
            name,
        };
        let trace = AuditEntry::done(technician(&account.name), "account.set", &*account.name).detail(role.as_str());
        if !self.inner.store.put_account(account.clone(), Some((found.proof, now)), trace).await? {
            return Err(SignInRefused::BadCode);
        }
        self.keep(account.clone());
        self.end_sessions_of(&account.name, None).await?;
        self.forgive(&account.name, address);
        self.begin_session(&account, address).await
    }

    /// Signs in with name and password. Returns the session's id: it goes into the cookie and is kept nowhere else.
    pub async fn sign_in(
        &self,
        name: &str,
        password: &Secret,
        address: Option<SocketAddr>,
    ) -> Result<(Secret, Technician), SignInRefused> {
        let name = name.trim().to_lowercase();
        let account = self.prove_password(&name, password, address).await?;
        self.begin_session(&account, address).await
    }

    /// Changes the own password of whoever holds session `id`; all other sessions of the account end.
    pub async fn change_password(
        &self,
        id: &str,
        old: &Secret,
        new: &Secret,
        address: Option<SocketAddr>,
    ) -> Result<(), SignInRefused> {
        let who = self.session(id, true).ok_or(SignInRefused::BadCredentials)?;
        check_password(new.expose(), &who.name)?;
        let mut account = self.prove_password(&who.name, old, address).await?;
        account.password = self.inner.hashing.hash(new.expose().as_bytes()).await?;
        account.changed = clock::now();
        let trace = AuditEntry::done(technician(&who.name), "account.password", &*who.name);
        self.inner.store.put_account(account.clone(), None, trace).await?;
        self.keep(account);
        self.end_sessions_of(&who.name, Some(id)).await
    }

    pub fn accounts(&self) -> Vec<AccountView> {
        let accounts = self.inner.desk.accounts.read().unwrap_or_else(|e| e.into_inner());
        let view = |a: &StoredAccount| AccountView {
            name: a.name.clone(),
            role: a.role.parse().unwrap_or(Role::Viewer),
            created: a.created,
            changed: a.changed,
        };
        accounts.values().map(view).collect()
    }

    /// Gives `name` another role. The last administrator stays one.
    pub async fn set_role(&self, name: &str, role: Role, by: &str) -> Result<(), SignInRefused> {
        let mut account = self.existing(name)?;
        self.leaves_an_admin(name, role)?;
        account.role = role.as_str().to_owned();
        account.changed = clock::now();
        let trace = AuditEntry::done(by, "account.role", name).detail(role.as_str());
        self.inner.store.put_account(account.clone(), None, trace).await?;
        self.keep(account);
        self.end_sessions_of(name, None).await
    }

    /// Removes an account and ends its sessions. The last administrator stays.
    pub async fn remove_account(&self, name: &str, by: &str) -> Result<(), SignInRefused> {
        self.existing(name)?;
        self.leaves_an_admin(name, Role::Viewer)?;
        self.inner.store.remove_account(name.to_owned(), AuditEntry::done(by, "account.remove", name)).await?;
        self.inner.desk.accounts.write().unwrap_or_else(|e| e.into_inner()).remove(name);
        self.end_sessions_of(name, None).await
    }

    /// Checks a password with the same answer and time for an unknown name, and delays after failures.
    pub(super) async fn prove_password(
        &self,
        name: &str,
        password: &Secret,
        address: Option<SocketAddr>,
    ) -> Result<StoredAccount, SignInRefused> {
        let (key, ip) = (counted(name), address.map(|a| a.ip()));
        self.patience(&key, ip)?;
        self.inner.failures.lock().unwrap_or_else(|e| e.into_inner()).attempted(&key, ip, Instant::now());
        let account = self.inner.desk.account(name);
        let stored = account.as_ref().map(|account| &*account.password);
        let right = self.inner.hashing.verify(password.expose().as_bytes(), stored).await?;
        self.inner.failures.lock().unwrap_or_else(|e| e.into_inner()).judged(right, &key, ip, Instant::now());
        match account {
            Some(account) if right => Ok(self.rehashed(account, password).await?),
            account => {
                // What was typed as a name may be a password: only known names are written down.
                let known = account.map_or("unknown".to_owned(), |account| technician(&account.name));
                tracing::warn!(who = known, address = text(address), "sign-in refused");
                self.inner.store.audit(AuditEntry::refused(known, "login", "").detail(text(address))).await?;
                Err(SignInRefused::BadCredentials)
            }
        }
    }

    /// A password that was stored with other parameters is stored anew.
    async fn rehashed(&self, mut account: StoredAccount, password: &Secret) -> Result<StoredAccount, SignInRefused> {
        if password::outdated(&account.password) {
            account.password = self.inner.hashing.hash(password.expose().as_bytes()).await?;
            let trace = AuditEntry::done("gateway", "account.rehash", &*account.name);
            self.inner.store.put_account(account.clone(), None, trace).await?;
            self.keep(account.clone());
        }
        Ok(account)
    }

    fn patience(&self, key: &str, ip: Option<std::net::IpAddr>) -> Result<(), SignInRefused> {
        let failures = self.inner.failures.lock().unwrap_or_else(|e| e.into_inner());
        failures.wait(key, ip, Instant::now()).map_or(Ok(()), |retry_after| Err(SignInRefused::Locked { retry_after }))
    }

    fn forgive(&self, name: &str, address: Option<SocketAddr>) {
        let mut failures = self.inner.failures.lock().unwrap_or_else(|e| e.into_inner());
        failures.judged(true, &counted(name), address.map(|a| a.ip()), Instant::now());
    }

    fn keep(&self, account: StoredAccount) {
        self.inner.desk.accounts.write().unwrap_or_else(|e| e.into_inner()).insert(account.name.clone(), account);
    }

    fn existing(&self, name: &str) -> Result<StoredAccount, SignInRefused> {
        self.inner.desk.account(name).ok_or_else(|| SignInRefused::Refused(format!("there is no account {name:?}")))
    }

    fn leaves_an_admin(&self, name: &str, role: Role) -> Result<(), SignInRefused> {
        let others = self.accounts().iter().any(|a| a.name != name && a.role == Role::Admin);
        if role == Role::Admin || others {
            return Ok(());
        }
        Err(SignInRefused::Refused(format!("{name:?} is the last administrator; make another one first")))
    }
}

/// How a technician is named in the audit.
pub(super) fn technician(name: &str) -> String {
    format!("technician:{name}")
}

pub(super) fn text(address: Option<SocketAddr>) -> String {
    address.map(|address| address.to_string()).unwrap_or_default()
}

/// Technicians' failures are counted apart from those of children with the same name.
fn counted(name: &str) -> String {
    format!("technician:{name}")
}

fn check_name(name: &str) -> Result<(), SignInRefused> {
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-');
    if (2..=32).contains(&name.len()) && name.bytes().all(good) { Ok(()) } else { Err(SignInRefused::BadName) }
}
