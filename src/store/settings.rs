//! Small things that must survive a restart: one value per name.

use rusqlite::OptionalExtension;

use super::{Store, StoreError, Writer};

pub const MIGRATIONS: &[&str] = &["CREATE TABLE settings (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID"];

impl Writer {
    pub(super) fn set(&mut self, name: &str, value: &[u8]) -> Result<(), StoreError> {
        let mut statement = self.connection.prepare_cached(
            "INSERT INTO settings VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        )?;
        statement.execute((name, value))?;
        Ok(())
    }
}

impl Store {
    pub async fn setting(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let name = name.to_owned();
        self.read(move |connection| {
            let mut statement = connection.prepare_cached("SELECT value FROM settings WHERE name = ?1")?;
            Ok(statement.query_row([name], |row| row.get(0)).optional()?)
        })
        .await
    }

    pub async fn set_setting(&self, name: &str, value: impl Into<Vec<u8>>) -> Result<(), StoreError> {
        let (name, value) = (name.to_owned(), value.into());
        self.write(move |writer| writer.set(&name, &value)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_setting_survives_a_restart() {
        let folder = tempfile::tempdir().expect("folder");
        let (store, thread) = Store::open(folder.path()).expect("open");
        assert_eq!(store.setting("boot").await.expect("read"), None);
        store.set_setting("boot", *b"1").await.expect("write");
        store.set_setting("boot", *b"2").await.expect("write");
        store.stop().await;
        thread.join();
        let (store, _thread) = Store::open(folder.path()).expect("open again");
        assert_eq!(store.setting("boot").await.expect("read"), Some(b"2".to_vec()));
    }
}
