//! What children say about their updates, and the pieces they ask for over MQTT.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_json::json;

use super::worker::Worker;
use crate::{
    bus::ImagePiece,
    clock,
    model::{
        ids::DeviceId,
        update::{ChildUpdate, Stage, UpdateProgress, UpdateStatus},
    },
};

/// Percent of progress between two stored steps; what lies between is shown, not stored.
const STORED_STEP: u8 = 10;

impl Worker {
    /// A child's own words; the keeper has logged them, so nothing of this goes up again.
    pub(super) async fn reported(&mut self, device: DeviceId, said: UpdateProgress) {
        let Some(before) = self.updates.get(&device).filter(|update| update.stage.is_active()) else { return };
        if said.job_id.as_ref().is_some_and(|job| *job != before.order.job_id) {
            tracing::debug!(%device, job = said.job_id, "a report about another update");
            return;
        }
        let before = before.clone();
        let update = fold(before.clone(), &said);
        if update.stage == Stage::Completed && said.to.as_ref().is_some_and(|to| *to != update.order.target_version) {
            let why = format!(
                "the device reports {} as done, ordered was {}",
                said.to.unwrap_or_default(),
                update.order.target_version
            );
            return self.end(before, Stage::Failed, Some(why)).await;
        }
        self.tell(&update, said.status);
        let moved = update.progress.unwrap_or(0).abs_diff(before.progress.unwrap_or(0)) >= STORED_STEP;
        if update.stage != before.stage || update.child != before.child || moved {
            let sha256 = update.order.sha256.clone();
            self.change(update, before.stage).await;
            self.release(&sha256);
        } else {
            self.updates.insert(device, update);
        }
    }

    /// The proof: the child runs what was ordered, whatever it said or could not say on the way.
    pub(super) async fn runs(&mut self, device: DeviceId, version: String) {
        if let Some(update) = self.updates.get(&device).filter(|update| update.stage.is_active()).cloned() {
            if update.order.target_version == version {
                self.end(update, Stage::Completed, None).await;
            } else if update.from.is_none() {
                self.updates.entry(device.clone()).and_modify(|update| update.from = Some(version.clone()));
            }
        }
        self.running.insert(device, version);
    }
}

/// An update after what its child said.
fn fold(mut update: ChildUpdate, said: &UpdateProgress) -> ChildUpdate {
    update.stage = match said.status {
        UpdateStatus::Completed => Stage::Completed,
        UpdateStatus::Failed => Stage::Failed,
        UpdateStatus::RolledBack => Stage::RolledBack,
        _ if update.stage.is_open() => Stage::Installing,
        _ => update.stage,
    };
    update.child = Some(said.status);
    update.from = said.from.clone().or(update.from);
    update.error = said.error.clone();
    update.progress = match update.stage {
        Stage::Completed => Some(100),
        _ => said.progress.map(|percent| percent.min(100)).or(update.progress),
    };
    update.changed_at = clock::now();
    update
}

/// `devices/{d}/update/chunk/get`: `{"offset", "len"}`, bytes; `jobId` is given back where it is there.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ChunkRequest {
    pub offset: u64,
    pub len: u32,
    job_id: Option<String>,
}

impl ChunkRequest {
    pub fn parse(payload: &[u8]) -> Result<ChunkRequest, String> {
        let request: ChunkRequest = serde_json::from_slice(payload)
            .map_err(|e| format!("{e}; expected {{\"offset\": 0, \"len\": 16384}} in bytes"))?;
        match request.len {
            0 => Err("len is 0; ask for at least one byte".into()),
            _ => Ok(request),
        }
    }

    /// `{"offset", "total", "sha256", "data"}` with base64 data; fewer bytes than asked for at the image's end or at
    /// the limit of [`super::LARGEST_PIECE`].
    pub fn answer(&self, piece: &ImagePiece) -> Vec<u8> {
        let mut answer = json!({
            "offset": self.offset,
            "total": piece.total,
            "sha256": &*piece.sha256,
            "data": STANDARD.encode(&piece.bytes),
        });
        if let Some(job) = &self.job_id {
            answer["jobId"] = job.clone().into();
        }
        serde_json::to_vec(&answer).unwrap_or_default()
    }
}
