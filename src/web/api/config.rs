//! What is wrong with the configuration on disk, and loading it again: `/v1/config/…`.

use axum::{Json, extract::State};

use super::Answer;
use crate::{
    bus::{ConfigReport, Question},
    store::audit::AuditEntry,
    web::{App, access::Caller},
};

pub async fn problems(State(app): State<App>) -> Answer<ConfigReport> {
    Ok(Json(app.questions.ask(Question::Config).await?))
}

pub async fn reload(State(app): State<App>, caller: Caller) -> Answer<ConfigReport> {
    let report = app.questions.ask(Question::Reload).await?;
    let problems = report.problems.len();
    let mut entry = AuditEntry::done(caller.who(), "config.reload", report.folder.clone().unwrap_or_default());
    entry.ok = problems == 0;
    app.note(entry.detail(format!("{problems} problems"))).await;
    Ok(Json(report))
}
