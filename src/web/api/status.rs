//! The gateway as a whole: `/v1/status`, `/v1/log`, `/v1/connections`, `/v1/updates`.

use axum::{Json, extract::State};

use super::Answer;
use crate::{
    bus::Question,
    model::view::{Connection, LogStatus, Overview, UpdateView},
    web::App,
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

pub async fn updates(State(app): State<App>) -> Answer<Vec<UpdateView>> {
    Ok(Json(app.questions.ask(Question::Updates).await?))
}
