//! What each cloud is known to hold of each shadow: where a three-way merge starts from.

use rusqlite::{Connection, OptionalExtension, params};

use super::{Store, StoreError, shadows::load};
use crate::model::{
    ids::DeviceId,
    shadow::{Document, Slot},
};

/// The table itself was made with the shadows. `sent` is what an update under way will make of the cloud's document,
/// written down before it leaves: after a crash nobody takes our own change for one of the cloud.
pub const MIGRATIONS: &[&str] = &["
    ALTER TABLE shadow_sync ADD COLUMN sent BLOB;
    ALTER TABLE shadow_sync ADD COLUMN sent_version INTEGER;
    ALTER TABLE shadow_sync ADD COLUMN refused_bytes INTEGER;
"];

/// What one cloud is known to hold of a shadow.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Synced {
    /// Our version when both sides were last equal.
    pub local_version: u64,
    /// The cloud's version when it was last heard; 0 where it has none.
    pub cloud_version: u64,
    /// The document both sides agreed on; `None` where they agreed that there is none.
    pub document: Option<Document>,
    /// On its way to the cloud and not yet answered: what both will then hold (`None`: nothing, it is deleted), and our
    /// version it was made from.
    pub sent: Option<(Option<Document>, u64)>,
    pub refused: Option<Refused>,
}

/// Why the cloud refuses a shadow for good.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Refused {
    pub reason: String,
    /// Bytes of the document that was too large; `None` where it was refused for something else.
    pub bytes: Option<u64>,
}

/// Both sides of a shadow as they are on disk.
#[derive(Debug, Clone, Default)]
pub struct Standing {
    /// Our version; of a deleted shadow the one its deletion took, 0 where there never was one.
    pub version: u64,
    pub local: Option<Document>,
    /// `None` where this cloud was never asked about it.
    pub synced: Option<Synced>,
}

/// A row of [`Store::synced_all`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    pub device: DeviceId,
    /// Empty for the classic shadow.
    pub name: String,
    pub refused: Option<Refused>,
}

impl Store {
    /// A shadow as it is here and as `cloud` is known to hold it.
    pub async fn standing_of(&self, cloud: &str, device: &DeviceId, name: &str) -> Result<Standing, StoreError> {
        let (cloud, device, name) = (cloud.to_owned(), device.clone(), name.to_owned());
        self.read(move |connection| {
            let slot = load(connection, &device, &name)?.map(|(_, slot)| slot).unwrap_or_default();
            let (version, local) = match slot {
                Slot::Absent => (0, None),
                Slot::Live(document) => (document.version, Some(Document::clone(&document))),
                Slot::Tombstone { version, .. } => (version, None),
            };
            Ok(Standing { version, local, synced: synced(connection, &cloud, &device, &name)? })
        })
        .await
    }

    pub async fn set_synced(&self, cloud: &str, device: &DeviceId, name: &str, to: Synced) -> Result<(), StoreError> {
        let (cloud, device, name) = (cloud.to_owned(), device.as_str().to_owned(), name.to_owned());
        self.write(move |writer| {
            let mut put = writer.connection.prepare_cached(
                "INSERT OR REPLACE INTO shadow_sync
                 (cloud, device, name, local_version, cloud_version, document, refused, refused_bytes, sent, sent_version)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            )?;
            put.execute(params![
                cloud,
                device,
                name,
                to.local_version as i64,
                to.cloud_version as i64,
                to.document.as_ref().map(Document::encode),
                to.refused.as_ref().map(|refused| &refused.reason),
                to.refused.as_ref().and_then(|refused| refused.bytes).map(|bytes| bytes as i64),
                to.sent.as_ref().map(|(document, _)| document.as_ref().map(Document::encode).unwrap_or_default()),
                to.sent.as_ref().map(|(_, version)| *version as i64),
            ])?;
            Ok(())
        })
        .await
    }

    /// The cloud took what was sent: from now on both agree on it, and the cloud's version is `version`.
    pub async fn confirm_sent(
        &self,
        cloud: &str,
        device: &DeviceId,
        name: &str,
        version: u64,
    ) -> Result<(), StoreError> {
        let (cloud, device, name) = (cloud.to_owned(), device.as_str().to_owned(), name.to_owned());
        self.write(move |writer| {
            let mut confirm = writer.connection.prepare_cached(
                "UPDATE shadow_sync SET document = NULLIF(sent, x''), local_version = sent_version, cloud_version = ?4,
                 sent = NULL, sent_version = NULL, refused = NULL, refused_bytes = NULL
                 WHERE cloud = ?1 AND device = ?2 AND name = ?3 AND sent IS NOT NULL",
            )?;
            confirm.execute(params![cloud, device, name, version as i64])?;
            Ok(())
        })
        .await
    }

    /// Everything `cloud` was ever asked about.
    pub async fn synced_all(&self, cloud: &str) -> Result<Vec<Known>, StoreError> {
        let cloud = cloud.to_owned();
        self.read(move |connection| {
            let sql = "SELECT device, name, refused, refused_bytes FROM shadow_sync WHERE cloud = ?1";
            let mut select = connection.prepare_cached(sql)?;
            let rows = select.query_map([cloud], |row| {
                let refused = row.get::<_, Option<String>>(2)?;
                let bytes = row.get::<_, Option<i64>>(3)?.map(i64::unsigned_abs);
                Ok((row.get::<_, String>(0)?, row.get(1)?, refused.map(|reason| Refused { reason, bytes })))
            })?;
            rows.map(|row| {
                let (device, name, refused) = row?;
                let device = DeviceId::new(&device).map_err(|e| StoreError::Damaged(e.to_string()))?;
                Ok(Known { device, name, refused })
            })
            .collect()
        })
        .await
    }

    /// Shadows (and tombstones) that are not as `cloud` last held them: what a sync has to look at after it missed
    /// something.
    pub async fn unsynced(&self, cloud: &str) -> Result<Vec<(DeviceId, String)>, StoreError> {
        let cloud = cloud.to_owned();
        self.read(move |connection| {
            let mut select = connection.prepare_cached(
                "SELECT s.device, s.name FROM shadows s
                 LEFT JOIN shadow_sync y ON y.cloud = ?1 AND y.device = s.device AND y.name = s.name
                 WHERE y.local_version IS NOT s.version AND (s.deleted IS NULL OR y.cloud IS NOT NULL)",
            )?;
            let rows = select.query_map([cloud], |row| Ok((row.get::<_, String>(0)?, row.get(1)?)))?;
            rows.map(|row| {
                let (device, name) = row?;
                Ok((DeviceId::new(&device).map_err(|e| StoreError::Damaged(e.to_string()))?, name))
            })
            .collect()
        })
        .await
    }
}

fn synced(connection: &Connection, cloud: &str, device: &DeviceId, name: &str) -> Result<Option<Synced>, StoreError> {
    let mut select = connection.prepare_cached(
        "SELECT local_version, cloud_version, document, refused, refused_bytes, sent, sent_version FROM shadow_sync
         WHERE cloud = ?1 AND device = ?2 AND name = ?3",
    )?;
    let row = select.query_row((cloud, device.as_str(), name), |row| {
        let refused = row.get::<_, Option<String>>(3)?;
        let bytes = row.get::<_, Option<i64>>(4)?.map(i64::unsigned_abs);
        Ok((
            (row.get::<_, i64>(0)?.unsigned_abs(), row.get::<_, i64>(1)?.unsigned_abs()),
            row.get::<_, Option<Vec<u8>>>(2)?,
            refused.map(|reason| Refused { reason, bytes }),
            row.get::<_, Option<Vec<u8>>>(5)?.zip(row.get::<_, Option<i64>>(6)?.map(i64::unsigned_abs)),
        ))
    });
    let Some(((local_version, cloud_version), document, refused, sent)) = row.optional()? else { return Ok(None) };
    let decode = |bytes: Vec<u8>, version| Document::decode(&bytes, version).map_err(StoreError::Damaged);
    let document = document.map(|bytes| decode(bytes, cloud_version)).transpose()?;
    let sent = sent.map(|(bytes, version)| {
        // No bytes: a deletion.
        let document = (!bytes.is_empty()).then(|| decode(bytes, version)).transpose()?;
        Ok::<_, StoreError>((document, version))
    });
    let sent = sent.transpose()?;
    Ok(Some(Synced { local_version, cloud_version, document, sent, refused }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::{
        command::Door,
        shadow::{Limits, Request},
        time::Millis,
    };

    #[tokio::test]
    async fn what_was_sent_becomes_what_both_agree_on_when_the_cloud_took_it() {
        let folder = tempfile::tempdir().expect("folder");
        let (store, thread) = Store::open(folder.path()).expect("store");
        let device = DeviceId::new("d").expect("id");
        let how = crate::store::shadows::How {
            door: Door::Device,
            at: Millis(1000),
            limits: Limits::default(),
            only_changes: false,
            until: None,
        };
        let request = Request::reported(json!({"a": 1}).as_object().cloned().unwrap_or_default());
        store.shadow_update(&device, "", request, how).await.expect("stored").expect("accepted");
        assert_eq!(store.unsynced("c").await.expect("read").len(), 1);
        let standing = store.standing_of("c", &device, "").await.expect("read");
        assert_eq!((standing.version, &standing.synced), (1, &None));
        let local = standing.local.expect("a document");
        let refused = Some(Refused { reason: "no".into(), bytes: Some(9) });
        let sent = Synced { sent: Some((Some(local.clone()), 1)), cloud_version: 4, refused, ..Synced::default() };
        store.set_synced("c", &device, "", sent.clone()).await.expect("stored");
        assert_eq!(store.standing_of("c", &device, "").await.expect("read").synced, Some(sent));
        assert_eq!(store.synced_all("c").await.expect("read")[0].refused.as_ref().and_then(|r| r.bytes), Some(9));
        store.confirm_sent("c", &device, "", 5).await.expect("stored");
        let synced = store.standing_of("c", &device, "").await.expect("read").synced.expect("a row");
        assert_eq!((synced.local_version, synced.cloud_version, synced.sent, synced.refused), (1, 5, None, None));
        assert_eq!(synced.document.expect("agreed").reported, local.reported);
        assert!(store.unsynced("c").await.expect("read").is_empty());
        assert_eq!(store.unsynced("other").await.expect("read").len(), 1);
        store.stop().await;
        thread.join();
    }
}
