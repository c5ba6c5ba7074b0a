//! What a job says: the order for one device, its status for the cloud, and why a device failed.

use bytes::Bytes;
use serde_json::{Map, Value as Json, json};

use super::definition::Work;
use crate::{
    bus::OrderKind,
    clock,
    model::{
        command::Command,
        executions::Given,
        ids::DeviceId,
        jobs::{Job, Target, TargetStatus},
        record::{Kind, NewRecord},
        update::UpdateOrder,
    },
};

/// Devices whose states a job's status carries; of larger jobs it carries those that failed, up to as many.
const SHOWN: usize = 100;

/// The order for one device; `id` names the attempt in it.
pub fn order_for(work: Work, target: &Target, id: &str) -> OrderKind {
    match work {
        Work::Firmware(order) => {
            let deadline = order.deadline.or(target.at);
            OrderKind::Update(UpdateOrder { job_id: id.to_owned(), deadline, ..order })
        }
        Work::Config { document, .. } => OrderKind::Config(document),
        Work::Command(command) => {
            OrderKind::Command(Command { command_id: id.to_owned(), expires_at: target.at, ..command })
        }
        Work::Document(document) => {
            // What the device has begun ends when it is given up here.
            let left = target.at.map_or(0, |at| at.since(clock::now()).max(0));
            let minutes = u32::try_from(left / 60_000 + 1).unwrap_or(u32::MAX).clamp(1, 10_080);
            OrderKind::Execution(Given { job_id: id.to_owned(), document, minutes: Some(minutes), retries: 0 })
        }
        Work::Diagnostic(mut request) => {
            request["requestId"] = json!(id);
            request["expiresAt"] = json!(target.at);
            OrderKind::Diagnostics(request)
        }
    }
}

/// `devices/{gw}/jobs/{jobId}/status`.
pub fn status_record(gateway: &DeviceId, job: &Job) -> NewRecord {
    let all = job.targets.len() <= SHOWN;
    let shown = job.targets.iter().filter(|target| all || target.status == TargetStatus::Failed).take(SHOWN);
    let devices: Map<String, Json> = shown
        .map(|target| {
            let mut about = json!({"status": target.status, "attempt": target.attempt});
            if let Some(error) = &target.error {
                about["error"] = json!(error);
            }
            (target.device.to_string(), about)
        })
        .collect();
    let mut body = json!({
        "status": job.state.status,
        "stage": job.state.stage + 1,
        "progress": job.progress(),
        "devices": devices,
    });
    if let Some(reason) = &job.state.reason {
        body["reason"] = json!(reason);
    }
    if let Some(until) = job.state.soak_until {
        body["soakUntil"] = json!(until);
    }
    NewRecord {
        device: gateway.clone(),
        kind: Kind::JobStatus,
        name: Some(job.order.job_id.as_str().into()),
        ts: job.state.changed,
        body: Bytes::from(body.to_string()),
    }
}

/// What a device said of its failure, shortly.
pub fn said(result: &Option<Json>, otherwise: &str) -> String {
    let reason = result.as_ref().and_then(|r| r.get("reason").and_then(Json::as_str).map(str::to_owned));
    let text = reason.or_else(|| result.as_ref().map(Json::to_string)).unwrap_or_else(|| otherwise.to_owned());
    text.chars().take(200).collect()
}
