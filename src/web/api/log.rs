//! The daemon's own log and diagnostics: `/v1/log/tail`, `/v1/diagnostics`.

use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
};
use serde::Deserialize;
use serde_json::Value;

use super::{Answer, Body};
use crate::{
    bus::Question,
    model::view::LogLine,
    store::audit::{AuditEntry, AuditRow},
    web::{App, access::Caller, failure::Failure},
};

#[derive(Deserialize)]
pub struct Tail {
    #[serde(default = "two_hundred")]
    lines: usize,
    #[serde(default = "info")]
    level: String,
}

fn two_hundred() -> usize {
    200
}

fn info() -> String {
    "info".into()
}

pub async fn tail(State(app): State<App>, query: Result<Query<Tail>, QueryRejection>) -> Answer<Vec<LogLine>> {
    let Query(Tail { lines, level }) = query.map_err(|error| Failure::invalid(error.body_text()))?;
    if !matches!(level.as_str(), "error" | "warn" | "info" | "debug" | "trace") {
        return Err(Failure::invalid(format!("level {level:?}: one of error, warn, info, debug, trace")));
    }
    let lines = lines.clamp(1, 2000);
    Ok(Json(app.questions.ask(|reply| Question::LogTail { lines, level, reply }).await?))
}

/// Who did what, oldest first; each row carries the hash of the one before.
pub async fn audit(State(app): State<App>, query: Result<Query<Tail>, QueryRejection>) -> Answer<Vec<AuditRow>> {
    let Query(Tail { lines, .. }) = query.map_err(|error| Failure::invalid(error.body_text()))?;
    Ok(Json(app.store.audit_tail(lines.clamp(1, 2000)).await.map_err(Failure::inside)?))
}

/// A diagnostics request of `docs/mqtt.md`, answered whole.
pub async fn diagnose(State(app): State<App>, caller: Caller, Body(request): Body<Value>) -> Answer<Value> {
    let Some(kind) = request.get("type").and_then(Value::as_str) else {
        return Err(Failure::invalid("give a \"type\", such as \"system-info\" or \"metrics\""));
    };
    app.note(AuditEntry::done(caller.who(), "diagnostics", kind)).await;
    Ok(Json(app.questions.ask(|reply| Question::Diagnose { request, reply }).await?))
}
