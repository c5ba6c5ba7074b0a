//! Who did what: rows that each carry the hash of the one before, so that a later change shows.

use aws_lc_rs::digest::{Context, SHA256};
use rusqlite::{Connection, OptionalExtension, Row};
use serde::Serialize;

use super::{Store, StoreError, Writer};
use crate::{clock, model::time::Millis};

pub const MIGRATIONS: &[&str] = &["CREATE TABLE audit (
    seq INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    who TEXT NOT NULL,
    what TEXT NOT NULL,
    target TEXT NOT NULL,
    ok INTEGER NOT NULL,
    detail TEXT NOT NULL,
    before BLOB NOT NULL,
    hash BLOB NOT NULL
)"];

/// Rows that are kept; the oldest kept row still names the hash of its predecessor.
const KEEP: i64 = 100_000;
/// Old rows go in steps of this many.
const STEP: i64 = 1_000;
/// Longest text of one column, in bytes; longer ones are cut.
const MOST: usize = 500;

/// Something that was done or refused, and by whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AuditEntry {
    /// `technician:anna`, `cloud`, `cli`, `gateway`, a device id.
    pub who: String,
    /// A verb of ours: `credential.issue`, `login`, `config.reload`.
    pub what: String,
    /// What it was done to.
    pub target: String,
    pub ok: bool,
    /// Anything that helps later; never a secret.
    pub detail: String,
}

impl AuditEntry {
    pub fn done(who: impl Into<String>, what: impl Into<String>, target: impl Into<String>) -> Self {
        Self { who: who.into(), what: what.into(), target: target.into(), ok: true, detail: String::new() }
    }

    pub fn refused(who: impl Into<String>, what: impl Into<String>, target: impl Into<String>) -> Self {
        Self { ok: false, ..Self::done(who, what, target) }
    }

    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = detail.into();
        self
    }
}

/// An entry in its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AuditRow {
    pub seq: u64,
    pub at: Millis,
    #[serde(flatten)]
    pub entry: AuditEntry,
    /// SHA-256 over the row and the hash of the row before, in hex.
    pub hash: String,
}

impl Writer {
    /// Adds `entry` to the transaction that is being committed: the deed and its trace stand or fall together.
    pub(super) fn audit(&mut self, entry: &AuditEntry) -> Result<(), StoreError> {
        let at = clock::now();
        let last: Option<(i64, Vec<u8>)> = self
            .connection
            .prepare_cached("SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1")?
            .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let (seq, before) = last.map_or((1, vec![0; 32]), |(seq, hash)| (seq + 1, hash));
        let [who, what, target, detail] = [&entry.who, &entry.what, &entry.target, &entry.detail].map(|text| cut(text));
        let hash = link(&before, seq, at, [who, what, target, detail], entry.ok);
        self.connection
            .prepare_cached("INSERT INTO audit VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)")?
            .execute((seq, at.0, who, what, target, entry.ok, detail, before, hash))?;
        if seq % STEP == 0 {
            self.connection.execute("DELETE FROM audit WHERE seq <= ?1", [seq - KEEP])?;
        }
        Ok(())
    }
}

impl Store {
    /// Writes `entry` with the time of now; resolves when it is on disk.
    pub async fn audit(&self, entry: AuditEntry) -> Result<(), StoreError> {
        self.write(move |writer| writer.audit(&entry)).await
    }

    /// Writes `entry` without waiting for the disk.
    pub async fn audit_later(&self, entry: AuditEntry) -> Result<(), StoreError> {
        self.write_then(move |writer| writer.audit(&entry), |_| ()).await
    }

    /// The newest `n` rows, oldest of them first.
    pub async fn audit_tail(&self, n: usize) -> Result<Vec<AuditRow>, StoreError> {
        let n = i64::try_from(n).unwrap_or(i64::MAX);
        self.read(move |connection| {
            let mut statement = connection.prepare_cached("SELECT * FROM audit ORDER BY seq DESC LIMIT ?1")?;
            let mut rows: Vec<AuditRow> = statement.query_map([n], read)?.collect::<Result<_, _>>()?;
            rows.reverse();
            Ok(rows)
        })
        .await
    }

    /// Checks the chain over all kept rows: `None` where it holds, otherwise the first row that was changed, or whose
    /// predecessor is missing.
    pub async fn audit_verify(&self) -> Result<Option<u64>, StoreError> {
        self.read(broken).await
    }
}

fn read(row: &Row<'_>) -> rusqlite::Result<AuditRow> {
    let hash: Vec<u8> = row.get("hash")?;
    Ok(AuditRow {
        seq: row.get::<_, i64>("seq")?.unsigned_abs(),
        at: Millis(row.get("at")?),
        entry: AuditEntry {
            who: row.get("who")?,
            what: row.get("what")?,
            target: row.get("target")?,
            ok: row.get("ok")?,
            detail: row.get("detail")?,
        },
        hash: hex::encode(hash),
    })
}

fn broken(connection: &Connection) -> Result<Option<u64>, StoreError> {
    let mut statement = connection.prepare("SELECT * FROM audit ORDER BY seq")?;
    let mut rows = statement.query([])?;
    let mut expected: Option<(u64, Vec<u8>)> = None;
    while let Some(row) = rows.next()? {
        let before: Vec<u8> = row.get("before")?;
        let hash: Vec<u8> = row.get("hash")?;
        let AuditRow { seq, at, entry, .. } = read(row)?;
        let texts = [&*entry.who, &entry.what, &entry.target, &entry.detail];
        let follows = expected.is_none_or(|(next, last)| next == seq && last == before);
        if !follows || hash != link(&before, seq.cast_signed(), at, texts, entry.ok) {
            return Ok(Some(seq));
        }
        expected = Some((seq + 1, hash));
    }
    Ok(None)
}

fn link(before: &[u8], seq: i64, at: Millis, texts: [&str; 4], ok: bool) -> Vec<u8> {
    let mut context = Context::new(&SHA256);
    context.update(before);
    context.update(&seq.to_le_bytes());
    context.update(&at.0.to_le_bytes());
    for text in texts {
        context.update(&(text.len() as u64).to_le_bytes());
        context.update(text.as_bytes());
    }
    context.update(&[u8::from(ok)]);
    context.finish().as_ref().to_vec()
}

fn cut(text: &str) -> &str {
    let ends = |end: &usize| text.is_char_boundary(*end);
    &text[..(0..=MOST.min(text.len())).rev().find(ends).unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_chain_shows_a_changed_row_and_a_missing_one() {
        let folder = tempfile::tempdir().expect("folder");
        let (store, thread) = Store::open(folder.path()).expect("open");
        for name in ["a", "b", "c"] {
            store.audit(AuditEntry::done("cli", "credential.issue", name).detail("token")).await.expect("audit");
        }
        let tail = store.audit_tail(2).await.expect("tail");
        assert_eq!(tail.iter().map(|row| &*row.entry.target).collect::<Vec<_>>(), ["b", "c"]);
        assert_eq!(store.audit_verify().await.expect("verify"), None);
        store
            .write(|writer| Ok(writer.connection.execute("UPDATE audit SET who = 'nobody' WHERE seq = 2", [])?))
            .await
            .expect("tamper");
        assert_eq!(store.audit_verify().await.expect("verify"), Some(2));
        store.write(|w| Ok(w.connection.execute("DELETE FROM audit WHERE seq = 2", [])?)).await.expect("tamper");
        assert_eq!(store.audit_verify().await.expect("verify"), Some(3));
        store.stop().await;
        thread.join();
    }
}
