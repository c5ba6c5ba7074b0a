//! Devices: the list, one, its past, its commands, its place in life: `/v1/devices/…`.

use aws_lc_rs::rand;
use axum::{
    Json,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::StatusCode,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Answer, Body, device};
use crate::{
    bus::{OrderKind, Question},
    clock,
    model::{
        command::{Command, Lock},
        device::Lifecycle,
        time::Millis,
        update::UpdateOrder,
        view::{Change, CommandView, DeviceRow, DeviceView, Trend},
    },
    store::audit::AuditEntry,
    web::{App, access::Caller, failure::Failure},
};

const HOUR: i64 = 3_600_000;

pub async fn list(State(app): State<App>) -> Answer<Vec<DeviceRow>> {
    Ok(Json(app.questions.ask(Question::Devices).await?))
}

pub async fn one(State(app): State<App>, Path(id): Path<String>) -> Answer<DeviceView> {
    let device = device(&id)?;
    Ok(Json(app.questions.ask(|reply| Question::Device(device, reply)).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Life {
    lifecycle: Lifecycle,
}

pub async fn lifecycle(
    State(app): State<App>,
    Path(id): Path<String>,
    caller: Caller,
    Body(life): Body<Life>,
) -> Answer<Value> {
    let (device, lifecycle, door) = (device(&id)?, life.lifecycle, caller.door());
    let entry = AuditEntry::done(caller.who(), "device.lifecycle", id).detail(format!("{lifecycle:?}").to_lowercase());
    app.questions.ask(|reply| Question::SetLifecycle { device, lifecycle, door, reply }).await?;
    app.note(entry).await;
    Ok(Json(json!({ "lifecycle": lifecycle })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Until {
    #[serde(default)]
    until: Option<Millis>,
}

/// 202: whoever desires it, the value is not written while the lock holds.
pub async fn lock(
    State(app): State<App>,
    Path(place): Path<(String, String)>,
    caller: Caller,
    Body(Until { until }): Body<Until>,
) -> Result<(StatusCode, Json<Value>), Failure> {
    let lock = Lock { by: caller.who(), until };
    set_lock(&app, place, caller, Some(lock)).await
}

pub async fn unlock(
    State(app): State<App>,
    Path(place): Path<(String, String)>,
    caller: Caller,
) -> Result<(StatusCode, Json<Value>), Failure> {
    set_lock(&app, place, caller, None).await
}

async fn set_lock(
    app: &App,
    (id, name): (String, String),
    caller: Caller,
    lock: Option<Lock>,
) -> Result<(StatusCode, Json<Value>), Failure> {
    if name.is_empty() || name.len() > 128 {
        return Err(Failure::invalid("the name of a value has 1 to 128 bytes"));
    }
    let (device, door, answer) = (device(&id)?, caller.door(), json!({ "lock": lock }));
    let verb = if lock.is_some() { "device.lock" } else { "device.unlock" };
    let entry = AuditEntry::done(caller.who(), verb, id).detail(&*name);
    app.questions.ask(|reply| Question::SetLock { device, name, lock, door, reply }).await?;
    app.note(entry).await;
    Ok((StatusCode::ACCEPTED, Json(answer)))
}

#[derive(Deserialize)]
pub struct Past {
    #[serde(default)]
    before: Option<Millis>,
    #[serde(default)]
    limit: Option<usize>,
}

pub async fn history(
    State(app): State<App>,
    Path(id): Path<String>,
    query: Result<Query<Past>, QueryRejection>,
) -> Answer<Vec<Change>> {
    let device = device(&id)?;
    let Query(Past { before, limit }) = query.map_err(|error| Failure::invalid(error.body_text()))?;
    let limit = limit.unwrap_or(50).clamp(1, 500);
    Ok(Json(app.questions.ask(|reply| Question::History { device, before, limit, reply }).await?))
}

#[derive(Deserialize)]
pub struct Stretch {
    name: String,
    #[serde(default)]
    from: Option<Millis>,
    #[serde(default)]
    to: Option<Millis>,
    #[serde(default)]
    points: Option<usize>,
}

pub async fn trend(
    State(app): State<App>,
    Path(id): Path<String>,
    query: Result<Query<Stretch>, QueryRejection>,
) -> Answer<Trend> {
    let device = device(&id)?;
    let Query(Stretch { name, from, to, points }) = query.map_err(|error| Failure::invalid(error.body_text()))?;
    let to = to.unwrap_or_else(clock::now);
    let from = from.unwrap_or(to.plus(-HOUR));
    if from >= to {
        return Err(Failure::invalid("\"from\" must lie before \"to\" (Unix milliseconds)"));
    }
    let points = points.unwrap_or(240).clamp(1, 2000);
    Ok(Json(app.questions.ask(|reply| Question::Trend { device, name, from, to, points, reply }).await?))
}

pub async fn commands(State(app): State<App>, Path(id): Path<String>) -> Answer<Vec<CommandView>> {
    let device = device(&id)?;
    Ok(Json(app.questions.ask(|reply| Question::Commands(device, reply)).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct CommandBody {
    #[serde(default)]
    command_id: Option<String>,
    #[serde(default)]
    params: Value,
    #[serde(default)]
    expires_at: Option<Millis>,
}

/// 202: the command is on disk; its outcome shows in the list of commands.
pub async fn command(
    State(app): State<App>,
    Path((id, name)): Path<(String, String)>,
    caller: Caller,
    Body(body): Body<CommandBody>,
) -> Result<(StatusCode, Json<Value>), Failure> {
    if name.is_empty() || name.len() > 64 || name.contains(['/', '+', '#', '\0']) {
        return Err(Failure::invalid("a command's name has 1 to 64 bytes and none of / + #"));
    }
    let command_id = body.command_id.unwrap_or_else(fresh_id);
    let params = if body.params.is_null() { json!({}) } else { body.params };
    let entry = AuditEntry::done(caller.who(), "device.command", &*id).detail(&*name);
    let command = Command { name, command_id: command_id.clone(), params, expires_at: body.expires_at };
    app.orders.place(device(&id)?, caller.door(), OrderKind::Command(command)).await?;
    app.note(entry).await;
    Ok((StatusCode::ACCEPTED, Json(json!({ "commandId": command_id }))))
}

/// `{"version", "config"}`, as on `devices/{d}/config/desired`.
pub async fn config(
    State(app): State<App>,
    Path(id): Path<String>,
    caller: Caller,
    Body(document): Body<Value>,
) -> Result<(StatusCode, Json<Value>), Failure> {
    let stored = app.orders.place(device(&id)?, caller.door(), OrderKind::Config(document)).await?;
    app.note(AuditEntry::done(caller.who(), "device.config", id)).await;
    Ok((StatusCode::ACCEPTED, Json(stored)))
}

pub async fn update(
    State(app): State<App>,
    Path(id): Path<String>,
    caller: Caller,
    Body(order): Body<UpdateOrder>,
) -> Result<(StatusCode, Json<Value>), Failure> {
    let entry = AuditEntry::done(caller.who(), "device.update", &*id).detail(&*order.target_version);
    let stored = app.orders.place(device(&id)?, caller.door(), OrderKind::Update(order)).await?;
    app.note(entry).await;
    Ok((StatusCode::ACCEPTED, Json(stored)))
}

fn fresh_id() -> String {
    let mut bytes = [0; 8];
    rand::fill(&mut bytes).expect("the system's random source answers");
    format!("local-{}", hex::encode(bytes))
}
