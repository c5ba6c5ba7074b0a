//! The gateway as a whole: `/v1/status`, `/v1/log`, `/v1/connections`, `/v1/buses`, `/v1/updates`, `/v1/alarms`.

use axum::{
    Json,
    extract::{Path, State},
};

use serde_json::Value;

use super::{Answer, device};
use crate::{
    bus::Question,
    model::{
        alarm::Alarm,
        view::{Connection, LogStatus, Overview, UpdateView},
    },
    store::audit::AuditEntry,
    web::{App, access::Caller, failure::Failure},
};

pub async fn status(State(app): State<App>) -> Answer<Overview> {
    Ok(Json(app.questions.ask(Question::Overview).await?))
}

pub async fn log(State(app): State<App>) -> Answer<LogStatus> {
    Ok(Json(app.questions.ask(Question::Log).await?))
}

pub async fn connections(State(app): State<App>) -> Answer<Vec<Connection>> {
    Ok(Json(app.questions.ask(Question::Connections).await?))
}

pub async fn buses(State(app): State<App>) -> Answer<Vec<Value>> {
    Ok(Json(app.questions.ask(Question::Buses).await?))
}

pub async fn updates(State(app): State<App>) -> Answer<Vec<UpdateView>> {
    Ok(Json(app.questions.ask(Question::Updates).await?))
}

pub async fn alarms(State(app): State<App>) -> Answer<Vec<Alarm>> {
    Ok(Json(app.questions.ask(Question::Alarms).await?))
}

/// An alarm that nobody raised is not found; one that was seen before stays as it is.
pub async fn acknowledge(
    State(app): State<App>,
    Path((id, kind)): Path<(String, String)>,
    caller: Caller,
) -> Answer<Alarm> {
    let (device, by) = (device(&id)?, caller.who());
    let known = app.questions.ask(Question::Alarms).await?;
    if !known.iter().any(|alarm| alarm.device == device && alarm.kind == kind) {
        return Err(Failure::not_found("there is no such alarm").hint("GET /v1/alarms lists those there are"));
    }
    let entry = AuditEntry::done(caller.who(), "alarm.acknowledge", id).detail(&*kind);
    let alarm = app.questions.ask(|reply| Question::Acknowledge { device, kind, by, reply }).await?;
    app.note(entry).await;
    Ok(Json(alarm))
}
