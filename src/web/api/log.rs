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
    web::{App, failure::Failure},
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

/// A diagnostics request of `docs/mqtt.md`, answered whole.
pub async fn diagnose(State(app): State<App>, Body(request): Body<Value>) -> Answer<Value> {
    if request.get("type").and_then(Value::as_str).is_none() {
        return Err(Failure::invalid("give a \"type\", such as \"system-info\" or \"metrics\""));
    }
    Ok(Json(app.questions.ask(|reply| Question::Diagnose { request, reply }).await?))
}
