//! Shadows: what a device reported, what is desired of it, what is still open: `/v1/devices/{device}/shadow(s)`.

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Answer, Body, device};
use crate::{
    bus::{OrderKind, Question},
    store::audit::AuditEntry,
    web::{App, access::Caller, failure::Failure},
};

/// What is wanted: names to values; `null` withdraws a wish.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Desire {
    desired: Map<String, Value>,
    /// Refuse unless the shadow still has this version.
    #[serde(default)]
    version: Option<u64>,
}

pub async fn names(State(app): State<App>, Path(id): Path<String>) -> Answer<Vec<String>> {
    let device = device(&id)?;
    Ok(Json(app.questions.ask(|reply| Question::Shadows(device, reply)).await?))
}

pub async fn classic(State(app): State<App>, Path(id): Path<String>) -> Answer<Value> {
    shadow(app, &id, None).await
}

pub async fn named(State(app): State<App>, Path((id, name)): Path<(String, String)>) -> Answer<Value> {
    shadow(app, &id, Some(name)).await
}

async fn shadow(app: App, id: &str, name: Option<String>) -> Answer<Value> {
    let device = device(id)?;
    let found = app.questions.ask(|reply| Question::Shadow { device, name, reply }).await?;
    found.map(Json).ok_or_else(|| Failure::not_found("this device has no such shadow (yet)"))
}

/// 202: the wish is on disk; whether the device does it shows in the shadow and its history.
pub async fn desire(
    State(app): State<App>,
    Path(id): Path<String>,
    caller: Caller,
    Body(desire): Body<Desire>,
) -> Result<(StatusCode, Json<Value>), Failure> {
    if desire.desired.is_empty() {
        return Err(Failure::invalid("\"desired\" is empty: name at least one value"));
    }
    let mut document = json!({ "desired": desire.desired });
    if let Some(version) = desire.version {
        document["version"] = version.into();
    }
    let stored = app.orders.place(device(&id)?, caller.door(), OrderKind::Desired(document)).await?;
    Ok((StatusCode::ACCEPTED, Json(stored)))
}

pub async fn desire_named(
    State(app): State<App>,
    Path((id, name)): Path<(String, String)>,
    caller: Caller,
    Body(desire): Body<Desire>,
) -> Result<(StatusCode, Json<Value>), Failure> {
    let mut document = json!({ "state": { "desired": desire.desired } });
    if let Some(version) = desire.version {
        document["version"] = version.into();
    }
    let order = OrderKind::ShadowUpdate { name: Some(name), document };
    let stored = app.orders.place(device(&id)?, caller.door(), order).await?;
    Ok((StatusCode::ACCEPTED, Json(stored)))
}

pub async fn delete_named(
    State(app): State<App>,
    Path((id, name)): Path<(String, String)>,
    caller: Caller,
) -> Answer<Value> {
    let entry = AuditEntry::done(caller.who(), "shadow.delete", &*id).detail(&*name);
    let order = OrderKind::ShadowDelete { name: Some(name), version: None };
    let deleted = app.orders.place(device(&id)?, caller.door(), order).await?;
    app.note(entry).await;
    Ok(Json(deleted))
}
