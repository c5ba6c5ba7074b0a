//! The gateway's own heartbeat to the cloud: how the machine is, and how many of its devices are what they should be.

use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::build::Rooms;
use crate::{
    clock,
    diagnostics::system,
    model::{
        drift::Compliance,
        record::{Kind, NewRecord},
    },
};

/// Changes within this time are told together.
const TOGETHER: Duration = Duration::from_secs(5);

impl Rooms {
    /// Beats at the start, when a count changes, and every `[uplink] heartbeat`; not where there is no cloud.
    pub async fn beat(self, stop: CancellationToken) {
        let (mut drift, mut devices, mut config) = (self.drift.moved(), self.registry.moved(), self.config.clone());
        let mut told: Option<(Compliance, Instant)> = None;
        loop {
            let (cloud, every) = {
                let uplink = &config.borrow_and_update().uplink;
                (uplink.broker.is_some(), uplink.heartbeat)
            };
            let counts = self.compliance(&self.registry.list().await);
            let same = told.filter(|(before, at)| *before == counts && at.elapsed() < every);
            if same.is_none() && cloud {
                if let Err(error) = self.store.append_lazy(vec![self.heartbeat(&counts)]).await {
                    tracing::warn!(%error, "no heartbeat");
                }
                told = Some((counts, Instant::now()));
            }
            let next = told.map_or(every, |(_, at)| every.saturating_sub(at.elapsed()));
            let rest = tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(next) => Duration::ZERO,
                Ok(()) = drift.changed() => TOGETHER,
                Ok(()) = devices.changed() => TOGETHER,
                Ok(()) = config.changed() => TOGETHER,
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(rest) => {}
            }
        }
    }

    fn heartbeat(&self, counts: &Compliance) -> NewRecord {
        let mut body = system::vital();
        body.insert("firmwareVersion".into(), json!(env!("CARGO_PKG_VERSION")));
        body.insert("compliance".into(), json!(counts));
        let body = Bytes::from(serde_json::Value::Object(body).to_string());
        NewRecord { device: self.gateway.clone(), kind: Kind::Heartbeat, name: None, ts: clock::now(), body }
    }
}
