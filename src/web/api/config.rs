//! What is wrong with the configuration on disk, and loading it again: `/v1/config/…`.

use axum::{Json, extract::State};

use super::Answer;
use crate::{
    bus::{ConfigReport, Question},
    web::{App, access::Caller},
};

pub async fn problems(State(app): State<App>) -> Answer<ConfigReport> {
    Ok(Json(app.questions.ask(Question::Config).await?))
}

pub async fn reload(State(app): State<App>, caller: Caller) -> Answer<ConfigReport> {
    tracing::info!(who = %caller.name, "configuration reload asked for");
    Ok(Json(app.questions.ask(Question::Reload).await?))
}
