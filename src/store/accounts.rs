//! Technicians' accounts and their sessions on the page. Passwords and session ids lie here as hashes only.

use super::{Store, StoreError, Writer, audit::AuditEntry};
use crate::model::time::Millis;

pub const MIGRATIONS: &[&str] = &["
    CREATE TABLE IF NOT EXISTS accounts (
        name TEXT PRIMARY KEY,
        role TEXT NOT NULL,
        password TEXT NOT NULL,
        created INTEGER NOT NULL,
        changed INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS login_sessions (
        proof BLOB PRIMARY KEY,
        account TEXT NOT NULL,
        address TEXT NOT NULL,
        created INTEGER NOT NULL,
        seen INTEGER NOT NULL,
        proved INTEGER NOT NULL
    ) WITHOUT ROWID;
"];

/// A technician.
#[derive(Clone, PartialEq, Eq)]
pub struct StoredAccount {
    pub name: String,
    pub role: String,
    /// PHC string.
    pub password: String,
    pub created: Millis,
    pub changed: Millis,
}

/// A technician's session on the page.
#[derive(Clone, PartialEq, Eq)]
pub struct StoredSession {
    /// SHA-256 of the session id.
    pub proof: Vec<u8>,
    pub account: String,
    pub address: String,
    pub created: Millis,
    pub seen: Millis,
    /// When the password was last given in it.
    pub proved: Millis,
}

impl Writer {
    fn put_account(&mut self, a: &StoredAccount) -> Result<(), StoreError> {
        self.connection.execute(
            "INSERT INTO accounts VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (name) DO UPDATE \
             SET role = excluded.role, password = excluded.password, changed = excluded.changed",
            (&a.name, &a.role, &a.password, a.created.0, a.changed.0),
        )?;
        Ok(())
    }
}

impl Store {
    pub async fn accounts(&self) -> Result<Vec<StoredAccount>, StoreError> {
        self.read(|connection| {
            let mut statement = connection.prepare("SELECT * FROM accounts ORDER BY name")?;
            let rows = statement.query_map([], |row| {
                Ok(StoredAccount {
                    name: row.get(0)?,
                    role: row.get(1)?,
                    password: row.get(2)?,
                    created: Millis(row.get(3)?),
                    changed: Millis(row.get(4)?),
                })
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }

    /// Makes or changes an account; where `code` is given it is used up in the same transaction. `false`: the code
    /// was used or ran out in the meantime, nothing was stored.
    pub async fn put_account(
        &self,
        account: StoredAccount,
        code: Option<(Vec<u8>, Millis)>,
        trace: AuditEntry,
    ) -> Result<bool, StoreError> {
        self.write(move |writer| {
            if let Some((proof, now)) = code
                && writer.take_code(&proof, now)?.is_none_or(|c| c.purpose != "account")
            {
                return Ok(false);
            }
            writer.put_account(&account)?;
            writer.audit(&trace)?;
            Ok(true)
        })
        .await
    }

    pub async fn remove_account(&self, name: String, trace: AuditEntry) -> Result<(), StoreError> {
        self.write(move |writer| {
            writer.connection.execute("DELETE FROM login_sessions WHERE account = ?1", [&name])?;
            writer.connection.execute("DELETE FROM accounts WHERE name = ?1", [&name])?;
            writer.audit(&trace)
        })
        .await
    }

    pub async fn login_sessions(&self) -> Result<Vec<StoredSession>, StoreError> {
        self.read(|connection| {
            let mut statement = connection.prepare("SELECT * FROM login_sessions")?;
            let rows = statement.query_map([], |row| {
                Ok(StoredSession {
                    proof: row.get(0)?,
                    account: row.get(1)?,
                    address: row.get(2)?,
                    created: Millis(row.get(3)?),
                    seen: Millis(row.get(4)?),
                    proved: Millis(row.get(5)?),
                })
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }

    /// Stores sessions as they are now and forgets those in `ended`.
    pub async fn put_login_sessions(
        &self,
        sessions: Vec<StoredSession>,
        ended: Vec<Vec<u8>>,
        trace: Option<AuditEntry>,
    ) -> Result<(), StoreError> {
        self.write(move |writer| {
            for s in &sessions {
                writer.connection.execute(
                    "INSERT OR REPLACE INTO login_sessions VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                    (&s.proof, &s.account, &s.address, s.created.0, s.seen.0, s.proved.0),
                )?;
            }
            for proof in &ended {
                writer.connection.execute("DELETE FROM login_sessions WHERE proof = ?1", [proof])?;
            }
            trace.map_or(Ok(()), |trace| writer.audit(&trace))
        })
        .await
    }
}
