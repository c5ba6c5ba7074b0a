//! What the log knows of time: the newest stamp it holds, and how far the stamps of a start were off.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Store, StoreError};
use crate::{clock, model::time::Millis};

/// How often an unbelieved clock is looked at.
const LOOK: Duration = Duration::from_secs(2);

impl Store {
    /// The newest time any record bears: the floor below which the clock cannot be right.
    pub async fn newest_stamp(&self) -> Result<Millis, StoreError> {
        self.read(super::log::newest_stamp).await
    }

    /// Adds `repair` milliseconds to the flagged stamps of this run, now and whenever they are read.
    pub async fn repair_stamps(&self, repair: i64) -> Result<(), StoreError> {
        self.write(move |writer| {
            let sql = "INSERT INTO log_boots VALUES (?1, ?2) ON CONFLICT (boot) DO UPDATE SET repair = excluded.repair";
            writer.connection.execute(sql, (writer.log.boot(), repair))?;
            Ok(())
        })
        .await
    }
}

/// Begins the clock at what the log knows, and repairs stamps when the clock is set. Ends then, or with `stopping`.
pub async fn keep_clock(store: Store, stopping: CancellationToken) {
    match store.newest_stamp().await {
        Ok(newest) => clock::begin(newest),
        Err(error) => {
            tracing::warn!(%error, "the newest stamp is not known");
            clock::begin(Millis(0));
        }
    }
    while !clock::trusted() {
        tokio::select! {
            () = stopping.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        if let Ok(Some(repair)) = tokio::task::spawn_blocking(clock::look).await {
            while let Err(error) = store.repair_stamps(repair).await {
                tracing::warn!(%error, "stamps cannot be repaired yet");
                tokio::select! {
                    () = stopping.cancelled() => return,
                    () = tokio::time::sleep(LOOK) => {}
                }
            }
        }
    }
}
