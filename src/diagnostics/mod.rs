//! Remote diagnostics (`docs/mqtt.md`, section 3): requests in, chunked answers into the log, for the gateway and on
//! behalf of its children. Every request is answered: with what was asked, or with why not.

mod answer;
mod chunks;
mod confirm;
mod dump;
pub mod metrics;
mod request;
pub mod system;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use serde_json::{Value as Json, json};
use tokio::sync::{Semaphore, mpsc};

use self::{
    answer::Answer,
    confirm::Confirmations,
    request::{Request, What, id_of},
};
use crate::{
    bus::{LocalSender, Order, OrderKind, Outcome, Outcomes, Questions},
    clock,
    model::{
        command::{Refusal, RefusalCode},
        ids::DeviceId,
        record::{Kind, NewRecord},
    },
    store::Store,
    tasks::Tasks,
};

pub use chunks::LIMIT;

/// Requests worked on at a time.
const PARALLEL: usize = 4;
/// Request ids remembered, so that a redelivered request is not carried out twice.
const REMEMBERED: usize = 256;

/// What the operator asked to have started anew; sent to the daemon after the answer is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// The daemon; the init system starts it again.
    Service,
    /// The whole machine.
    Gateway,
}

#[derive(Debug, Clone)]
pub struct Settings {
    pub gateway: DeviceId,
    /// Where the state lies; its disk is reported.
    pub state: PathBuf,
    /// Where the configuration lies; `None` where the defaults run.
    pub config: Option<PathBuf>,
    /// Bytes of one message at most.
    pub chunk: usize,
}

/// What the room is wired to.
pub struct Ports {
    pub orders: mpsc::Receiver<Order>,
    /// Commands to children go to the keeper.
    pub keeper: mpsc::Sender<Order>,
    pub local: LocalSender,
    pub questions: Questions,
    pub restart: mpsc::Sender<Restart>,
    /// Where jobs learn that a request was answered.
    pub outcomes: Option<Outcomes>,
    pub store: Store,
}

/// The handle: cheap to clone.
#[derive(Clone)]
pub struct Diagnostics(Arc<Room>);

struct Room {
    settings: Settings,
    keeper: mpsc::Sender<Order>,
    local: LocalSender,
    questions: Questions,
    restart: mpsc::Sender<Restart>,
    outcomes: Option<Outcomes>,
    store: Store,
    confirmations: Mutex<Confirmations>,
    remembered: Mutex<VecDeque<String>>,
}

/// Starts the task that takes orders.
pub fn start(settings: Settings, ports: Ports, tasks: &Tasks) -> Diagnostics {
    let Ports { mut orders, keeper, local, questions, restart, outcomes, store } = ports;
    let room = Arc::new(Room {
        settings,
        keeper,
        local,
        questions,
        restart,
        outcomes,
        store,
        confirmations: Mutex::default(),
        remembered: Mutex::default(),
    });
    let (handle, stop, workers) = (Diagnostics(room.clone()), tasks.stopping(), tasks.clone());
    tasks.spawn("diagnostics", async move {
        let slots = Arc::new(Semaphore::new(PARALLEL));
        loop {
            let order = tokio::select! {
                () = stop.cancelled() => return,
                order = orders.recv() => order,
            };
            let Some(order) = order else { return };
            let Ok(slot) = slots.clone().acquire_owned().await else { return };
            let (room, stop) = (room.clone(), stop.clone());
            workers.spawn("diagnostics request", async move {
                // A capture takes a minute; the daemon does not wait for it when it stops.
                let _ = stop.run_until_cancelled(room.carry_out(order)).await;
                drop(slot);
            });
        }
    });
    handle
}

impl Diagnostics {
    /// Answers a request about the gateway at once and whole, for the page and the command line.
    pub async fn answer(&self, document: &Json) -> Result<Json, Refusal> {
        let request = Request::read(document, clock::now())?;
        let Answer { payload, error, then } = self.0.about_gateway(&request).await;
        if let Some(error) = error {
            let mut refusal = Refusal::new(RefusalCode::NotAuthorized, error);
            if let Some(token) = payload.get("confirmationToken").and_then(Json::as_str) {
                refusal.message = format!("{} (confirmationToken {token})", refusal.message);
            }
            return Err(refusal);
        }
        if let Some(restart) = then {
            let _ = self.0.restart.send(restart).await;
        }
        Ok(payload)
    }
}

impl Room {
    async fn carry_out(&self, order: Order) {
        let Order { device, what, reply, door } = order;
        let OrderKind::Diagnostics(document) = what else {
            let _ = reply.send(Err(Refusal::new(RefusalCode::Internal, "not a diagnostics request")));
            return;
        };
        let id = id_of(&document).map(str::to_owned);
        let request = match Request::read(&document, clock::now()) {
            Ok(request) => request,
            Err(refusal) => {
                let told = self.tell(&device, id.as_deref(), Answer::error(refusal.message.clone())).await;
                let _ = reply.send(told.and(Err(refusal)));
                return;
            }
        };
        if self.known(&device, &request.id) {
            let _ = reply.send(Ok(json!({"requestId": request.id, "repeated": true})));
            return;
        }
        let mut reply = Some(reply);
        if request.what == What::Capture
            && let Some(reply) = reply.take()
        {
            // Takes its time; whoever placed the order is not made to wait.
            let _ = reply.send(Ok(json!({"requestId": request.id})));
        }
        let answer = if device == self.settings.gateway {
            Some(self.about_gateway(&request).await)
        } else {
            self.about_child(&device, &request, door).await
        };
        let Some(answer) = answer else {
            reply.map(|reply| reply.send(Ok(json!({"requestId": request.id, "forwarded": true}))));
            return;
        };
        let (error, then) = (answer.error.clone(), answer.then);
        let told = self.tell(&device, Some(&request.id), answer).await;
        let written = told.is_ok();
        if let Some(reply) = reply {
            let _ = reply.send(told.map(|()| json!({"requestId": request.id})));
        }
        if let Some(outcomes) = &self.outcomes {
            let outcome = Outcome::Diagnostics { device, request_id: request.id, error };
            let _ = outcomes.send(outcome).await;
        }
        if let (Some(restart), true) = (then, written) {
            tracing::warn!(?restart, "ordered by a diagnostics request");
            let _ = self.restart.send(restart).await;
        }
    }

    /// Whether this request was seen before; remembers it.
    fn known(&self, device: &DeviceId, request_id: &str) -> bool {
        let mut remembered = self.remembered.lock().unwrap_or_else(|e| e.into_inner());
        let key = format!("{device} {request_id}");
        if remembered.contains(&key) {
            return true;
        }
        if remembered.len() == REMEMBERED {
            remembered.pop_front();
        }
        remembered.push_back(key);
        false
    }

    /// Appends the answer to the log.
    async fn tell(&self, device: &DeviceId, request_id: Option<&str>, answer: Answer) -> Result<(), Refusal> {
        let now = clock::now();
        let messages = chunks::chunks(request_id, answer.payload, answer.error.as_deref(), now, self.settings.chunk);
        let record = |message: Json| NewRecord {
            device: device.clone(),
            kind: Kind::DiagnosticsResponse,
            name: None,
            ts: now,
            body: Bytes::from(message.to_string()),
        };
        let told = self.store.append(messages.into_iter().map(record).collect()).await;
        told.map(drop).map_err(|error| Refusal::new(RefusalCode::StoreUnavailable, error.to_string()))
    }
}
