//! Commands: stored, sent when the device can be reached, answered or expired, and logged exactly once.
//!
//! An MQTT child gets a command again on every connect and subscribe until it answers; its id makes that harmless. A
//! driver gets it once: a write to a dumb device cannot be told from its repetition, so a command that was under way
//! when the gateway stopped is answered as failed, with the reason.

use serde_json::{Value as Json, json};
use tokio::sync::oneshot;

use super::{
    done::Done,
    keeper::{Child, Keeping, unavailable},
    pursuit, voice,
};
use crate::{
    bus::{LocalMessage, Outcome, Reply, ToDriver},
    clock,
    model::{
        command::{Command, CommandResponse, CommandStatus, Door, Refusal, RefusalCode},
        ids::DeviceId,
        time::Millis,
    },
    store::{
        StoreError,
        commands::{Open, Placed},
    },
};

/// How long the id of a command that has ended is remembered, in milliseconds.
const REMEMBERED: i64 = 7 * 86_400_000;

impl Keeping {
    /// An order for a command: stored, answered, sent.
    pub fn command_order(&mut self, device: DeviceId, door: Door, command: Command, reply: Reply<Json>) {
        let now = clock::now();
        if command.command_id.is_empty() || command.name.is_empty() || command.name.contains(['/', '+', '#']) {
            let wrong = "a command needs a name without / + # and a commandId";
            let _ = reply.send(Err(Refusal::new(RefusalCode::PayloadInvalid, wrong)));
            return;
        }
        if command.expires_at.is_some_and(|at| at <= now) {
            let _ = reply.send(Err(Refusal::new(RefusalCode::Expired, "the command had expired when it arrived")));
            return;
        }
        if let Some(at) = command.expires_at {
            self.next_command = Some(self.next_command.map_or(at, |next| next.min(at)));
        }
        let (store, done) = (self.store.clone(), self.loose_end());
        self.tasks.spawn("place a command", async move {
            match store.place_command(&device, &command, &door, now).await {
                Ok(placed) => {
                    let status = match &placed {
                        Placed::New => "waiting",
                        Placed::Known(status) => status,
                    };
                    let _ = reply.send(Ok(json!({ "commandId": command.command_id, "status": status })));
                    if placed == Placed::New {
                        let _ = done.send(Done::Commands {
                            device,
                            open: Ok(vec![Open { command, sent: false }]),
                            fresh: true,
                        });
                    }
                }
                Err(error) => drop(reply.send(Err(unavailable(&error)))),
            }
        });
    }

    /// Time to send again what waits: the device is there.
    pub fn resend_commands(&mut self, device: &DeviceId) {
        let (store, done, device) = (self.store.clone(), self.loose_end(), device.clone());
        self.tasks.spawn("open commands", async move {
            let open = store.open_commands(&device).await;
            if !matches!(&open, Ok(open) if open.is_empty()) {
                let _ = done.send(Done::Commands { device, open, fresh: false });
            }
        });
    }

    /// Commands that wait for their answer, to be sent now.
    pub fn send_commands(&mut self, device: &DeviceId, open: Result<Vec<Open>, StoreError>, fresh: bool) {
        let now = clock::now();
        let open = match open {
            Ok(open) => open,
            Err(error) => return tracing::warn!(%device, %error, "open commands could not be read"),
        };
        let child = self.child(device);
        let driver = child.driver.clone();
        let reachable = child.reachable != Some(false);
        for Open { command, sent } in open {
            if command.expires_at.is_some_and(|at| at <= now) {
                continue;
            }
            let Some(driver) = &driver else {
                let mut payload = json!({ "commandId": command.command_id, "params": command.params });
                if let Some(at) = command.expires_at {
                    payload["expiresAt"] = json!(at);
                }
                let topic = voice::child(device, &format!("commands/{}", command.name));
                self.voice.say(LocalMessage::new(topic, payload.to_string()));
                continue;
            };
            let running = self.child(device).calls.contains(&command.command_id);
            if running || !reachable {
                continue;
            }
            self.child(device).calls.insert(command.command_id.clone());
            let (store, done, of) = (self.store.clone(), self.loose_end(), device.clone());
            if sent && !fresh {
                let lost =
                    "the gateway stopped while the command was under way; whether it was carried out is not known";
                let response = failed(&command, "unknown", lost);
                self.tasks.spawn("answer a lost command", async move {
                    let result = store.command_answered(&of, &command.name, response.clone(), now).await;
                    let _ = done.send(Done::Called { device: of, command, response: Some(response), result });
                });
                continue;
            }
            let driver = driver.clone();
            self.aside_task("command to a driver", async move {
                match store.command_sent(&of, &command.command_id).await {
                    Ok(true) => {}
                    result => {
                        let _ = done.send(Done::Called { device: of, command, response: None, result });
                        return;
                    }
                }
                let (reply, answer) = oneshot::channel();
                let call = ToDriver::Call { device: of.clone(), command: command.clone(), reply };
                let gone = || Err(Refusal::new(RefusalCode::Busy, "the driver was stopped"));
                let answer = match driver.send(call).await {
                    Ok(()) => answer.await.unwrap_or_else(|_| gone()),
                    Err(_) => gone(),
                };
                let response = match answer {
                    Ok(response) => response,
                    // The driver says that it has not begun: it waits for the next chance.
                    Err(refusal) if refusal.code == RefusalCode::Busy => {
                        let result = store.command_waits(&of, &command.command_id).await;
                        let _ = done.send(Done::Called { device: of, command, response: None, result });
                        return;
                    }
                    Err(refusal) => rejected(&command, &refusal),
                };
                let result = store.command_answered(&of, &command.name, response.clone(), clock::now()).await;
                let _ = done.send(Done::Called { device: of, command, response: Some(response), result });
            });
        }
    }

    /// A call to a driver has ended.
    pub fn called(
        &mut self,
        device: &DeviceId,
        command: &Command,
        response: Option<CommandResponse>,
        result: Result<bool, StoreError>,
    ) {
        let child = self.child(device);
        child.calls.remove(&command.command_id);
        // Without an answer it waits: for a driver that had too much to do, not for a return that may never be told.
        if response.is_none() && child.driver.is_some() {
            child.call_again = Some(clock::now().plus(pursuit::pause(child.busy)));
            child.busy = child.busy.saturating_add(1);
        } else {
            child.busy = 0;
        }
        match (result, response) {
            (Ok(true), Some(response)) => {
                // The local broker shows what a child on MQTT would have said itself.
                let topic = voice::child(device, &format!("commands/{}/response", command.name));
                self.voice.mirror(topic, serde_json::to_vec(&response).unwrap_or_default());
                self.tell_outcome(Outcome::Command { device: device.clone(), response });
            }
            (Ok(_), _) => {}
            (Err(error), _) => {
                tracing::warn!(%device, command = command.command_id, %error, "what became of a command could not be stored");
            }
        }
    }

    /// Once a second: drivers that were too busy for a command are asked again.
    pub fn call_again(&mut self, now: Millis) {
        let due = |child: &Child| child.call_again.is_some_and(|at| at <= now);
        let devices: Vec<DeviceId> =
            self.children.iter().filter(|(_, child)| due(child)).map(|(device, _)| device.clone()).collect();
        for device in devices {
            self.child(&device).call_again = None;
            self.resend_commands(&device);
        }
    }

    /// A child answered a command: logged with the first answer, acknowledged after the commit.
    pub fn command_answer(
        &mut self,
        device: DeviceId,
        name: String,
        response: CommandResponse,
        at: Millis,
        reply: Reply,
    ) {
        let (store, done) = (self.store.clone(), self.loose_end());
        self.tasks.spawn("answer of a command", async move {
            let result = store.command_answered(&device, &name, response.clone(), at).await;
            let _ = reply.send(result.as_ref().map(drop).map_err(unavailable));
            if let Ok(true) = result {
                let outcome = Outcome::Command { device: device.clone(), response };
                let _ = done.send(Done::Told(outcome));
            }
        });
    }

    /// Once a second: commands whose time is over.
    pub fn expire_commands(&mut self, now: Millis) {
        if self.next_command.is_none_or(|next| next > now) {
            return;
        }
        self.next_command = None;
        let (store, done) = (self.store.clone(), self.loose_end());
        self.tasks.spawn("commands that expire", async move {
            match store.expire_commands(now).await {
                Ok(over) => {
                    for (device, response) in over {
                        let _ = done.send(Done::Told(Outcome::Command { device, response }));
                    }
                }
                Err(error) => tracing::warn!(%error, "expired commands could not be ended"),
            }
            let _ = store.forget_commands(now.plus(-REMEMBERED)).await;
            // After a failure it is tried again in a minute.
            let next = store.next_command_expiry().await.unwrap_or_else(|_| Some(now.plus(60_000)));
            let _ = done.send(Done::NextCommand(next));
        });
    }
}

fn failed(command: &Command, code: &str, message: &str) -> CommandResponse {
    let result = Some(json!({ "code": code, "message": message }));
    CommandResponse { command_id: command.command_id.clone(), status: CommandStatus::Failed, result }
}

/// What a driver refused before it did anything is rejected; what went wrong on the way has failed.
fn rejected(command: &Command, refusal: &Refusal) -> CommandResponse {
    let code = serde_json::to_value(refusal.code).unwrap_or_default();
    let response = failed(command, code.as_str().unwrap_or("internal"), &refusal.message);
    match refusal.code {
        RefusalCode::DeviceFailed | RefusalCode::Internal | RefusalCode::StoreUnavailable => response,
        _ => CommandResponse { status: CommandStatus::Rejected, ..response },
    }
}

/// What a child without subscriptions fetches: open commands, oldest first.
pub(super) fn as_list(open: Vec<Open>) -> Json {
    let now = clock::now();
    let wanted = open.into_iter().map(|open| open.command);
    let shown = wanted.filter(|command| command.expires_at.is_none_or(|at| now < at)).map(|command| {
        let mut shown = json!({ "name": command.name, "commandId": command.command_id, "params": command.params });
        if let Some(at) = command.expires_at {
            shown["expiresAt"] = json!(at);
        }
        shown
    });
    Json::Array(shown.collect())
}
