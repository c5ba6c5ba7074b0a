//! Commissioning tools that run on a driver's bus beside its polling: `/v1/tools/…`. The answer is a stream of JSON
//! lines: any number of `{"progress": …}`, then one `{"result": …}` or `{"error": {…}}`. What fails before any progress
//! has the status of its error instead. Who hangs up, cancels.

use std::convert::Infallible;

use axum::{
    body::Body as Stream,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use super::Body;
use crate::{
    bus::ToDriver,
    model::command::{Refusal, RefusalCode},
    store::audit::AuditEntry,
    web::{App, access::Caller, failure::Failure},
};

pub async fn modbus(State(app): State<App>, caller: Caller, Body(request): Body<Value>) -> Result<Response, Failure> {
    let gone = || {
        Failure::new(StatusCode::SERVICE_UNAVAILABLE, "busy", "the Modbus driver does not run")
            .hint("configure a bus in devices.d")
    };
    let driver = app.modbus.as_ref().ok_or_else(gone)?;
    let tool = request.get("tool").and_then(Value::as_str).unwrap_or("?").to_owned();
    app.note(AuditEntry::done(caller.who(), "tool.modbus", tool).detail(request.to_string())).await;
    let (progress, mut partial) = mpsc::channel(32);
    let (reply, mut answer) = oneshot::channel();
    driver.send(ToDriver::Tool { request, progress: Some(progress), reply }).await.map_err(|_| gone())?;
    // A tool's first word decides the status: nothing was said yet that could not be taken back.
    let first = tokio::select! {
        biased;
        Some(step) = partial.recv() => Ok(step),
        outcome = &mut answer => Err(outcome.unwrap_or_else(|_| Err(stopped()))?),
    };
    let (lines, received) = mpsc::channel::<Bytes>(32);
    let pump = async move {
        match first {
            Ok(step) if lines.send(line(json!({ "progress": step }))).await.is_err() => return,
            Ok(_) => {}
            Err(result) => return drop(lines.send(line(json!({ "result": result }))).await),
        }
        let outcome = loop {
            tokio::select! {
                biased;
                Some(step) = partial.recv() => {
                    if lines.send(line(json!({ "progress": step }))).await.is_err() { return }
                }
                outcome = &mut answer => break outcome,
                () = lines.closed() => return,
            }
        };
        let last = match outcome.unwrap_or_else(|_| Err(stopped())) {
            Ok(result) => json!({ "result": result }),
            Err(refusal) => json!({ "error": Failure::from(refusal) }),
        };
        let _ = lines.send(line(last)).await;
    };
    let body = Stream::from_stream(pumped(pump, received));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

fn stopped() -> Refusal {
    Refusal::new(RefusalCode::Busy, "the driver stopped before it was done")
}

fn line(value: Value) -> Bytes {
    format!("{value}\n").into()
}

/// The stream of what `pump` puts into `lines`; the pump runs only while it is read and ends with it.
fn pumped(
    pump: impl Future<Output = ()> + Send + 'static,
    lines: mpsc::Receiver<Bytes>,
) -> impl stream::Stream<Item = Result<Bytes, Infallible>> + Send {
    let pump = Some(Box::pin(pump));
    stream::unfold((pump, lines), |(mut pump, mut lines)| async move {
        loop {
            let Some(work) = pump.as_mut() else {
                let next = lines.recv().await?;
                return Some((Ok(next), (None, lines)));
            };
            tokio::select! {
                biased;
                next = lines.recv() => return next.map(|next| (Ok(next), (pump, lines))),
                () = work => pump = None,
            }
        }
    })
}
