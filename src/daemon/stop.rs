//! The way down, along the data: whoever brings data stops first, whoever keeps it last. Every stage has its time; a
//! second signal skips what is left.

use std::time::Duration;

use super::build::Built;
use crate::{systemd, tasks::Tasks};

/// Longest for one stage; all together stay below the init system's patience (`TimeoutStopSec=45`).
const STAGE: Duration = Duration::from_secs(5);

/// Stops all rooms in order. Resolves when the last commit is synced.
pub async fn stop(built: Built, hurry: impl Future<Output = ()>) {
    systemd::stopping("stopping");
    let Built { rooms, stages, drivers, road, writer, state, .. } = built;
    let orderly = async {
        if tokio::time::timeout(STAGE, drivers.stop()).await.is_err() {
            tracing::warn!(stage = "drivers", "did not end in {STAGE:?}; going on without them");
        }
        let order: [(&str, &Tasks); 5] = [
            ("uplink", road.tasks()),
            ("updates and diagnostics", &stages.work),
            // Before the broker: children that go because the gateway goes are not offline.
            ("registry", &stages.registry),
            ("broker", &stages.broker),
            ("keeper", &stages.keeper),
        ];
        for (name, tasks) in order {
            if tokio::time::timeout(STAGE, tasks.stop_and_wait()).await.is_err() {
                tracing::warn!(stage = name, "did not end in {STAGE:?}; going on without it");
            }
        }
    };
    tokio::select! {
        () = orderly => {}
        () = hurry => tracing::warn!("told twice to stop: skipping ahead"),
    }
    if tokio::time::timeout(STAGE * 2, rooms.store.stop()).await.is_ok() {
        let _ = tokio::task::spawn_blocking(|| writer.join()).await;
    }
    if tokio::time::timeout(STAGE, stages.web.stop_and_wait()).await.is_err() {
        tracing::warn!("the page did not end in {STAGE:?}");
    }
    drop(state);
    tracing::info!("stopped");
}
