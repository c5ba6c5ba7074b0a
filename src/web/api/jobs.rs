//! Bulk jobs: what there is, a new one, and its controls: `/v1/jobs/…`.

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use serde::Deserialize;
use serde_json::Value;

use super::{Answer, Body};
use crate::{
    bus::{OrderKind, Question},
    model::jobs::{Job, JobControl, JobOrder},
    store::audit::AuditEntry,
    web::{App, access::Caller, failure::Failure},
};

pub async fn list(State(app): State<App>) -> Answer<Vec<Job>> {
    Ok(Json(app.questions.ask(Question::Jobs).await?))
}

/// The same document as on `devices/{gw}/jobs/notify`. 202: it is on disk; how it goes shows in the list.
pub async fn order(
    State(app): State<App>,
    caller: Caller,
    Body(order): Body<JobOrder>,
) -> Result<(StatusCode, Json<Value>), Failure> {
    let entry = AuditEntry::done(caller.who(), "job.order", &*order.job_id).detail(&*order.kind);
    place(&app, caller, entry, OrderKind::Job(order)).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Word {
    control: JobControl,
}

pub async fn control(
    State(app): State<App>,
    Path(job_id): Path<String>,
    caller: Caller,
    Body(Word { control }): Body<Word>,
) -> Result<(StatusCode, Json<Value>), Failure> {
    if !app.questions.ask(Question::Jobs).await?.iter().any(|job| job.order.job_id == job_id) {
        return Err(Failure::not_found("there is no such job").hint("GET /v1/jobs lists those there are"));
    }
    let word = format!("{control:?}").to_lowercase();
    let entry = AuditEntry::done(caller.who(), "job.control", &*job_id).detail(word);
    place(&app, caller, entry, OrderKind::JobControl { job_id, control }).await
}

async fn place(
    app: &App,
    caller: Caller,
    entry: AuditEntry,
    what: OrderKind,
) -> Result<(StatusCode, Json<Value>), Failure> {
    let gateway = app.questions.ask(Question::Overview).await?.gateway;
    let stored = app.orders.place(gateway, caller.door(), what).await?;
    app.note(entry).await;
    Ok((StatusCode::ACCEPTED, Json(stored)))
}
