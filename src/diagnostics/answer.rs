//! What each kind of request is answered with.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde_json::{Value as Json, json};
use tokio::sync::oneshot;

use super::{
    Restart, Room, dump,
    metrics::{self, Page},
    request::{Request, What},
    system,
};
use crate::{
    bus::{LocalMessage, Order, OrderKind, Question},
    clock,
    model::{
        command::{Command, Door, RefusalCode},
        device::{Device, Presence, Protocol},
        ids::DeviceId,
        view::Connection,
    },
};

/// An answer; with an error, the payload may say how to do better.
#[derive(Debug)]
pub struct Answer {
    pub payload: Json,
    pub error: Option<String>,
    /// What to do once the answer is on disk.
    pub then: Option<Restart>,
}

impl Answer {
    pub fn ok(payload: Json) -> Self {
        Self { payload, error: None, then: None }
    }

    pub fn error(text: impl Into<String>) -> Self {
        Self { payload: Json::Null, error: Some(text.into()), then: None }
    }
}

impl Room {
    pub(super) async fn about_gateway(&self, request: &Request) -> Answer {
        match request.what {
            What::Ping => Answer::ok(ping(request)),
            What::SystemInfo => self.system_info().await,
            What::Network => Answer::ok(blocking(system::network).await),
            What::LogTail => self.log_tail(request).await,
            What::Metrics => Answer::ok(json!({"format": "prometheus-text-0.0.4", "text": self.metrics().await})),
            What::ConfigDump => {
                let folder = self.settings.config.clone();
                Answer::ok(blocking(move || dump::config(folder.as_deref())).await)
            }
            What::Capture => self.capture(request).await,
            What::Reboot => self.reboot(request),
        }
    }

    /// `None` where the child itself will answer.
    pub(super) async fn about_child(&self, device: &DeviceId, request: &Request, door: Door) -> Option<Answer> {
        let id = device.clone();
        let view = match self.questions.ask(|reply| Question::Device(id, reply)).await {
            Ok(view) => view,
            Err(refusal) => return Some(Answer::error(refusal.message)),
        };
        let about = &view.row.device;
        if !about.lifecycle.may_talk() {
            return Some(Answer::error(format!("{device} is {:?} and is not asked", about.lifecycle).to_lowercase()));
        }
        if request.what == What::Reboot {
            let purpose = format!("reboot {device}");
            return match self.confirmed(request, &purpose) {
                Ok(()) => self.command(device, request, door).await,
                Err(answer) => Some(answer),
            };
        }
        if about.protocol != Protocol::Mqtt {
            return Some(match request.what {
                What::Ping => polled_ping(about, request),
                What::SystemInfo => {
                    Answer::ok(json!({"device": about, "counters": view.counters, "address": view.address}))
                }
                what => Answer::error(format!("{device} has no {}; ask it for system-info or ping", what.word())),
            });
        }
        if about.presence == Presence::Offline {
            let since = about.presence_since.map_or(String::new(), |at| format!(" since {}", at.0));
            return Some(Answer::error(format!("{device} is offline{since}; ask again when it is back")));
        }
        let topic = format!("devices/{device}/diagnostics/request");
        match self.local.send(LocalMessage::new(topic, request.whole.to_string())).await {
            Ok(()) => None,
            Err(_) => Some(Answer::error("the gateway is stopping")),
        }
    }

    async fn system_info(&self) -> Answer {
        let folder = self.settings.state.clone();
        let mut info = blocking(move || system::info(&folder)).await;
        info["gateway"] = json!(self.settings.gateway);
        match self.questions.ask(Question::Overview).await {
            Ok(overview) => info["overview"] = json!(overview),
            Err(refusal) => info["overview"] = json!({"error": refusal.message}),
        }
        Answer::ok(info)
    }

    async fn log_tail(&self, request: &Request) -> Answer {
        let lines = request.number("lines", 200, 1..=5000) as usize;
        let level = request.text("level").unwrap_or("info").to_lowercase();
        if !["error", "warn", "info", "debug", "trace"].contains(&level.as_str()) {
            return Answer::error(format!("level {level:?} is not known; one of error, warn, info, debug, trace"));
        }
        match self.questions.ask(|reply| Question::LogTail { lines, level, reply }).await {
            Ok(lines) => Answer::ok(json!({"lines": lines})),
            Err(refusal) => Answer::error(refusal.message),
        }
    }

    async fn metrics(&self) -> String {
        let mut page = Page::default();
        if let Ok(overview) = self.questions.ask(Question::Overview).await {
            metrics::overview(&mut page, &overview);
        }
        if let Ok(rows) = self.questions.ask(Question::Devices).await {
            metrics::devices(&mut page, &rows);
        }
        if let Ok(connections) = self.questions.ask(Question::Connections).await {
            metrics::connections(&mut page, &connections);
        }
        page.into_text()
    }

    /// Who talked how much for a few seconds.
    async fn capture(&self, request: &Request) -> Answer {
        let seconds = request.number("seconds", 10, 1..=60);
        let before = match self.questions.ask(Question::Connections).await {
            Ok(connections) => connections,
            Err(refusal) => return Answer::error(refusal.message),
        };
        let began = Instant::now();
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        match self.questions.ask(Question::Connections).await {
            Ok(after) => Answer::ok(traffic(&before, &after, began.elapsed())),
            Err(refusal) => Answer::error(refusal.message),
        }
    }

    fn reboot(&self, request: &Request) -> Answer {
        let (restart, word) = match request.text("target").unwrap_or("service") {
            "service" => (Restart::Service, "service"),
            "gateway" => (Restart::Gateway, "gateway"),
            other => return Answer::error(format!("target {other:?} is not known; one of service, gateway")),
        };
        match self.confirmed(request, &format!("reboot {word}")) {
            Ok(()) => Answer { payload: json!({"restarting": word}), error: None, then: Some(restart) },
            Err(answer) => answer,
        }
    }

    /// Either the request bears a good token, or its answer hands one out.
    fn confirmed(&self, request: &Request, purpose: &str) -> Result<(), Answer> {
        let mut open = self.confirmations.lock().unwrap_or_else(|e| e.into_inner());
        let now = clock::now();
        let shown = request.confirmation_token.as_deref();
        if shown.is_some_and(|token| open.accept(token, purpose, now)) {
            return Ok(());
        }
        let Some((token, until)) = open.hand_out(purpose, now) else {
            return Err(Answer::error("the system has no randomness for a confirmation token; try again"));
        };
        let why = match shown {
            Some(_) => "the confirmationToken is not good for this, was used, or has expired",
            None => "this needs a confirmationToken",
        };
        let error = format!("{why}; ask again with the token of this answer and a new requestId within minutes");
        let payload = json!({"confirmationToken": token, "expiresAt": until, "purpose": purpose});
        Err(Answer { payload, error: Some(error), then: None })
    }

    /// Passes a confirmed reboot on as the child's own command; it answers under `commands/reboot/response`.
    async fn command(&self, device: &DeviceId, request: &Request, door: Door) -> Option<Answer> {
        let (reply, placed) = oneshot::channel();
        let command = Command {
            name: "reboot".into(),
            command_id: request.id.clone(),
            params: request.params.clone(),
            expires_at: Some(clock::now().plus(300_000)),
        };
        let order = Order { device: device.clone(), door, what: OrderKind::Command(command), reply };
        let placed = match self.keeper.send(order).await {
            Ok(()) => placed.await.ok(),
            Err(_) => None,
        };
        Some(match placed {
            Some(Ok(_)) => Answer::ok(json!({"command": "reboot", "commandId": request.id})),
            Some(Err(refusal)) if refusal.code == RefusalCode::NotWritable => {
                Answer::error(format!("{device} has no such command: {refusal}"))
            }
            Some(Err(refusal)) => Answer::error(refusal.message),
            None => Answer::error("the gateway is stopping"),
        })
    }
}

/// Echoes what the asker needs to measure the round trip.
fn ping(request: &Request) -> Json {
    let echo = request.params.get("timestamp").or_else(|| request.whole.get("timestamp"));
    json!({"timestamp": echo, "received": clock::now()})
}

/// A polled device is pinged all the time: the answer is its latest.
fn polled_ping(device: &Device, request: &Request) -> Answer {
    if device.presence == Presence::Offline || device.presence == Presence::NeverSeen {
        let why = device.reason.clone().unwrap_or_else(|| "it was never heard".into());
        return Answer::error(format!("{} does not answer: {why}", device.id));
    }
    let mut answer = ping(request);
    answer["lastSeen"] = json!(device.last_seen);
    Answer::ok(answer)
}

fn traffic(before: &[Connection], after: &[Connection], elapsed: Duration) -> Json {
    let earlier: BTreeMap<&str, &Connection> = before.iter().map(|c| (c.client_id.as_str(), c)).collect();
    let none = Connection::default();
    let counted = after.iter().map(|now| {
        // A counter that went back belongs to a connection that began anew.
        let then = earlier.get(now.client_id.as_str()).copied().filter(|t| t.messages_in <= now.messages_in);
        let then = then.unwrap_or(&none);
        json!({
            "device": now.device,
            "messagesIn": now.messages_in.saturating_sub(then.messages_in),
            "messagesOut": now.messages_out.saturating_sub(then.messages_out),
            "bytesIn": now.bytes_in.saturating_sub(then.bytes_in),
            "bytesOut": now.bytes_out.saturating_sub(then.bytes_out),
            "connected": now.connected,
        })
    });
    json!({"seconds": elapsed.as_secs_f64(), "children": counted.collect::<Vec<_>>()})
}

/// Runs what reads files beside the reactor.
async fn blocking(read: impl FnOnce() -> Json + Send + 'static) -> Json {
    tokio::task::spawn_blocking(read).await.unwrap_or_else(|error| json!({"error": error.to_string()}))
}
