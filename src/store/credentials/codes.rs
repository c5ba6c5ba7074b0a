//! One-time codes: to enrol a child, or to set an account's password.

use rusqlite::{OptionalExtension, Row};

use crate::{
    model::time::Millis,
    store::{Store, StoreError, Writer, audit::AuditEntry},
};

/// A code that may be used once: to enrol a child, or to set an account's password.
#[derive(Clone, PartialEq, Eq)]
pub struct StoredCode {
    /// SHA-256 of the code.
    pub proof: Vec<u8>,
    /// `enrol` or `account`.
    pub purpose: String,
    /// The device, or the account (empty: any new name).
    pub subject: String,
    pub role: Option<String>,
    pub created_by: String,
    pub expires: Millis,
}

impl Writer {
    /// Takes a code out of the table; `None` where it is unknown, used or has run out.
    pub(in crate::store) fn take_code(&mut self, proof: &[u8], now: Millis) -> Result<Option<StoredCode>, StoreError> {
        let mut statement = self.connection.prepare_cached("DELETE FROM codes WHERE proof = ?1 RETURNING *")?;
        let code = statement.query_row([proof], read_code).optional()?;
        Ok(code.filter(|code| code.expires > now))
    }
}

impl Store {
    pub async fn add_code(&self, code: StoredCode, trace: AuditEntry) -> Result<(), StoreError> {
        self.write(move |writer| {
            // One open code per purpose and subject: a new one makes the earlier void.
            writer
                .connection
                .execute("DELETE FROM codes WHERE purpose = ?1 AND subject = ?2", (&code.purpose, &code.subject))?;
            writer.connection.execute(
                "INSERT INTO codes VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                (&code.proof, &code.purpose, &code.subject, &code.role, &code.created_by, code.expires.0),
            )?;
            writer.audit(&trace)
        })
        .await
    }

    /// Makes open codes for `subject` void.
    pub async fn drop_codes(&self, purpose: &'static str, subject: &str) -> Result<(), StoreError> {
        let subject = subject.to_owned();
        self.write(move |writer| {
            let sql = "DELETE FROM codes WHERE purpose = ?1 AND subject = ?2";
            writer.connection.execute(sql, (purpose, subject))?;
            Ok(())
        })
        .await
    }

    /// The code with this hash, unless it has run out. Does not use it up.
    pub async fn code(&self, proof: Vec<u8>, now: Millis) -> Result<Option<StoredCode>, StoreError> {
        self.read(move |connection| {
            let mut statement = connection.prepare_cached("SELECT * FROM codes WHERE proof = ?1")?;
            Ok(statement.query_row([proof], read_code).optional()?.filter(|code| code.expires > now))
        })
        .await
    }
}

fn read_code(row: &Row<'_>) -> rusqlite::Result<StoredCode> {
    Ok(StoredCode {
        proof: row.get("proof")?,
        purpose: row.get("purpose")?,
        subject: row.get("subject")?,
        role: row.get("role")?,
        created_by: row.get("created_by")?,
        expires: Millis(row.get("expires")?),
    })
}
