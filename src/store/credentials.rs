//! Children's tokens, passwords and certificates; one-time codes are in `codes`. Secrets lie here as hashes only.

mod codes;

use std::{fmt, sync::Arc};

use rusqlite::Row;
use serde::{Deserialize, Serialize};

pub use self::codes::StoredCode;
use super::{Store, StoreError, Writer, audit::AuditEntry};
use crate::model::{ids::DeviceId, time::Millis};

pub const MIGRATIONS: &[&str] = &[
    "
    CREATE TABLE credentials (
        id TEXT PRIMARY KEY,
        device TEXT NOT NULL,
        kind TEXT NOT NULL,
        proof BLOB NOT NULL,
        serial BLOB,
        created INTEGER NOT NULL,
        created_by TEXT NOT NULL,
        expires INTEGER,
        revoked INTEGER,
        reason TEXT,
        last_used INTEGER,
        replaces TEXT
    ) WITHOUT ROWID;
    CREATE TABLE codes (
        proof BLOB PRIMARY KEY,
        purpose TEXT NOT NULL,
        subject TEXT NOT NULL,
        role TEXT,
        created_by TEXT NOT NULL,
        expires INTEGER NOT NULL
    ) WITHOUT ROWID;
",
    "ALTER TABLE credentials ADD COLUMN issuer TEXT",
];

/// How a child proves who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CredentialKind {
    /// 256 random bits made here.
    Token,
    /// Chosen by a person.
    Password,
    /// X.509 over mutual TLS.
    Certificate,
}

impl CredentialKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Password => "password",
            Self::Certificate => "certificate",
        }
    }

    fn parse(text: &str) -> Result<Self, StoreError> {
        [Self::Token, Self::Password, Self::Certificate]
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| StoreError::Damaged(format!("credentials: {text:?} is no kind of credential")))
    }
}

/// One proof of one child.
#[derive(Clone, PartialEq, Eq)]
pub struct StoredCredential {
    pub id: Arc<str>,
    pub device: DeviceId,
    pub kind: CredentialKind,
    /// SHA-256 of a token's secret, a password's PHC string, SHA-256 of a certificate.
    pub proof: Vec<u8>,
    /// The certificate's serial number, where our authority signed it.
    pub serial: Option<Vec<u8>>,
    /// Which of our authorities signed it; absent from certificates of before there could be two.
    pub issuer: Option<Arc<str>>,
    pub created: Millis,
    pub created_by: String,
    pub expires: Option<Millis>,
    pub revoked: Option<Millis>,
    pub reason: Option<String>,
    pub last_used: Option<Millis>,
    /// The credential that is retired when this one is used for the first time.
    pub replaces: Option<Arc<str>>,
}

impl fmt::Debug for StoredCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} of {} (proof ***)", self.kind.as_str(), self.id, self.device)
    }
}

impl Writer {
    fn insert_credential(&mut self, c: &StoredCredential) -> Result<(), StoreError> {
        self.connection
            .prepare_cached("INSERT INTO credentials VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)")?
            .execute(rusqlite::params![
                &*c.id,
                c.device.as_str(),
                c.kind.as_str(),
                c.proof,
                c.serial,
                c.created.0,
                c.created_by,
                c.expires.map(|t| t.0),
                c.revoked.map(|t| t.0),
                c.reason,
                c.last_used.map(|t| t.0),
                c.replaces.as_deref(),
                c.issuer.as_deref(),
            ])?;
        Ok(())
    }
}

impl Store {
    /// All credentials, revoked ones too.
    pub async fn credentials(&self) -> Result<Vec<StoredCredential>, StoreError> {
        self.read(|connection| {
            let mut statement = connection.prepare("SELECT * FROM credentials ORDER BY device, created, id")?;
            let mut rows = statement.query([])?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                found.push(read_credential(row)?);
            }
            Ok(found)
        })
        .await
    }

    /// Stores a credential. `false`: the one that it replaces was revoked in the meantime, nothing was stored.
    pub async fn add_credential(&self, credential: StoredCredential, trace: AuditEntry) -> Result<bool, StoreError> {
        self.write(move |writer| {
            if let Some(old) = &credential.replaces {
                let sql = "SELECT EXISTS (SELECT 1 FROM credentials WHERE id = ?1 AND revoked IS NULL)";
                if !writer.connection.prepare_cached(sql)?.query_row([&**old], |row| row.get(0))? {
                    return Ok(false);
                }
            }
            writer.insert_credential(&credential)?;
            writer.audit(&trace)?;
            Ok(true)
        })
        .await
    }

    /// Uses up an enrolment code and stores what it was good for, in one transaction. `false`: the code was used or
    /// ran out in the meantime, nothing was stored.
    pub async fn enrol(
        &self,
        code: Vec<u8>,
        now: Millis,
        credential: StoredCredential,
        trace: AuditEntry,
    ) -> Result<bool, StoreError> {
        self.write(move |writer| {
            let fits = |c: &StoredCode| c.purpose == "enrol" && c.subject == credential.device.as_str();
            if !writer.take_code(&code, now)?.is_some_and(|c| fits(&c)) {
                return Ok(false);
            }
            writer.insert_credential(&credential)?;
            writer.audit(&trace)?;
            Ok(true)
        })
        .await
    }

    /// Marks credentials as revoked; those that were already keep their first time and reason.
    pub async fn revoke_credentials(
        &self,
        ids: Vec<Arc<str>>,
        at: Millis,
        reason: String,
        trace: AuditEntry,
    ) -> Result<(), StoreError> {
        self.write(move |writer| {
            for id in &ids {
                writer
                    .connection
                    .prepare_cached(
                        "UPDATE credentials SET revoked = ?2, reason = ?3 WHERE id = ?1 AND revoked IS NULL",
                    )?
                    .execute((&**id, at.0, &reason))?;
            }
            writer.audit(&trace)
        })
        .await
    }

    /// Notes a login; does not wait for the disk.
    pub async fn credential_used(&self, id: Arc<str>, at: Millis) -> Result<(), StoreError> {
        let note = move |writer: &mut Writer| {
            let mut statement =
                writer.connection.prepare_cached("UPDATE credentials SET last_used = ?2 WHERE id = ?1")?;
            Ok(statement.execute((&*id, at.0))?)
        };
        self.write_then(note, |_| ()).await
    }

    /// Forgets credentials that were revoked or ran out before `before`, and codes that ran out.
    pub async fn purge_credentials(&self, before: Millis, now: Millis) -> Result<(), StoreError> {
        self.write(move |writer| {
            // A revoked certificate stays on the list until it would have run out by itself.
            writer.connection.execute(
                "DELETE FROM credentials WHERE COALESCE(expires, revoked) < ?1 AND COALESCE(revoked, expires) < ?1",
                [before.0],
            )?;
            writer.connection.execute("DELETE FROM codes WHERE expires < ?1", [now.0])?;
            Ok(())
        })
        .await
    }
}

fn read_credential(row: &Row<'_>) -> Result<StoredCredential, StoreError> {
    let device: String = row.get("device")?;
    let time = |name: &str| row.get::<_, Option<i64>>(name).map(|t| t.map(Millis));
    Ok(StoredCredential {
        id: row.get::<_, String>("id")?.into(),
        device: DeviceId::new(&device).map_err(|e| StoreError::Damaged(format!("credentials: {e}")))?,
        kind: CredentialKind::parse(&row.get::<_, String>("kind")?)?,
        proof: row.get("proof")?,
        serial: row.get("serial")?,
        issuer: row.get::<_, Option<String>>("issuer")?.map(Into::into),
        created: Millis(row.get("created")?),
        created_by: row.get("created_by")?,
        expires: time("expires")?,
        revoked: time("revoked")?,
        reason: row.get("reason")?,
        last_used: time("last_used")?,
        replaces: row.get::<_, Option<String>>("replaces")?.map(Into::into),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credential(id: &str) -> StoredCredential {
        StoredCredential {
            id: id.into(),
            device: DeviceId::new("meter-1").expect("id"),
            kind: CredentialKind::Token,
            proof: vec![7; 32],
            serial: None,
            issuer: None,
            created: Millis(1),
            created_by: "test".into(),
            expires: None,
            revoked: None,
            reason: None,
            last_used: None,
            replaces: None,
        }
    }

    #[tokio::test]
    async fn what_was_revoked_has_no_successor() {
        let folder = tempfile::tempdir().expect("folder");
        let (store, _thread) = Store::open(folder.path()).expect("open");
        let trace = || AuditEntry::done("test", "credential.rotate", "meter-1");
        let next = |id: &str| StoredCredential { replaces: Some("a".into()), ..credential(id) };
        assert!(store.add_credential(credential("a"), trace()).await.expect("new"));
        assert!(store.add_credential(next("b"), trace()).await.expect("valid still"));
        store.revoke_credentials(vec!["a".into()], Millis(5), "stolen".into(), trace()).await.expect("revoked");
        // As it meets a renewal that began before.
        assert!(!store.add_credential(next("c"), trace()).await.expect("asked"));
        let ids: Vec<String> = store.credentials().await.expect("list").iter().map(|c| c.id.to_string()).collect();
        assert_eq!(ids, ["a", "b"]);
    }

    #[tokio::test]
    async fn a_code_is_good_for_one_credential_and_not_after_its_time() {
        let folder = tempfile::tempdir().expect("folder");
        let (store, _thread) = Store::open(folder.path()).expect("open");
        let trace = || AuditEntry::done("test", "enrol", "meter-1");
        let code = |proof: u8, expires| StoredCode {
            proof: vec![proof; 32],
            purpose: "enrol".into(),
            subject: "meter-1".into(),
            role: None,
            created_by: "test".into(),
            expires: Millis(expires),
        };
        store.add_code(code(1, 100), trace()).await.expect("code");
        assert!(!store.enrol(vec![2; 32], Millis(50), credential("a"), trace()).await.expect("unknown code"));
        assert!(store.enrol(vec![1; 32], Millis(50), credential("a"), trace()).await.expect("first use"));
        assert!(!store.enrol(vec![1; 32], Millis(50), credential("b"), trace()).await.expect("second use"));
        store.add_code(code(3, 100), trace()).await.expect("code");
        assert!(!store.enrol(vec![3; 32], Millis(100), credential("c"), trace()).await.expect("too late"));
        let all = store.credentials().await.expect("list");
        assert_eq!(all, vec![credential("a")]);
        assert!(!format!("{all:?}").contains('7'), "a proof in Debug");
    }

    #[tokio::test]
    async fn revoking_keeps_the_first_time_and_reason() {
        let folder = tempfile::tempdir().expect("folder");
        let (store, _thread) = Store::open(folder.path()).expect("open");
        let trace = || AuditEntry::done("test", "credential.revoke", "a");
        store.add_credential(credential("a"), trace()).await.expect("add");
        for (at, why) in [(5, "lost"), (9, "again")] {
            store.revoke_credentials(vec!["a".into()], Millis(at), why.into(), trace()).await.expect("revoke");
        }
        let all = store.credentials().await.expect("list");
        assert_eq!((all[0].revoked, all[0].reason.as_deref()), (Some(Millis(5)), Some("lost")));
        store.purge_credentials(Millis(6), Millis(6)).await.expect("purge");
        assert!(store.credentials().await.expect("list").is_empty());
    }
}
