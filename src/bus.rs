//! The typed ends of every channel between rooms, and who may hold which.
//!
//! Work goes over bounded channels: when one is full its sender waits, so polling slows and sockets push back. State
//! goes over `watch`. [`Events`] is the one lossy channel, for those who watch.

mod questions;

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use serde_json::Value as Json;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use crate::model::{
    command::{Command, CommandResponse, Door, Refusal},
    device::Protocol,
    event::Event,
    executions::{Execution, Given},
    ids::DeviceId,
    jobs::{JobControl, JobOrder},
    reading::Reading,
    time::Millis,
    topic::ChildTopic,
    update::{UpdateOrder, UpdateProgress},
};

pub use questions::{ConfigReport, PATIENCE, Question, Questions};

/// Entries a work channel holds before its sender waits.
pub const WORK: usize = 1024;

/// The answer to a piece of work: sent after its effect is on disk.
pub type Reply<T = ()> = oneshot::Sender<Result<T, Refusal>>;

// ---- children to keeper -------------------------------------------------------------------------------------------

/// Something a child said through a door (MQTT or CoAP), already known to come from that child.
#[derive(Debug)]
pub struct Inbound {
    pub device: DeviceId,
    pub topic: ChildTopic,
    pub payload: Bytes,
    /// When it arrived.
    pub at: Millis,
    /// Who said it: usually the device itself, or another identity with a grant.
    pub door: Door,
    /// Answered after the commit; the door acknowledges only then.
    pub reply: Reply,
    /// Stored in the transaction of the record, for topics that are logged as they are.
    pub mark: Option<Mark>,
}

/// The packet id of a QoS 2 message of a session that is kept: with it in the message's own transaction, a power cut
/// can neither double nor lose the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    pub client: Arc<str>,
    pub packet: u16,
}

/// Held by the doors; the keeper holds the other end. A batch per wake-up of a connection keeps the hop cheap.
pub type InboundSender = mpsc::Sender<Vec<Inbound>>;
pub type InboundReceiver = mpsc::Receiver<Vec<Inbound>>;

/// What a driver measured.
#[derive(Debug)]
pub enum FromDriver {
    /// Telemetry: appended to the log, shown, mirrored on the local broker. Folded into nothing.
    Reading(Reading),
    /// Read back from the device: merged into the shadow's reported part.
    Reported { device: DeviceId, ts: Millis, reported: serde_json::Map<String, Json> },
    /// The driver's view of a device changed: it answers, or it does not and why.
    Reachable { device: DeviceId, at: Millis, reachable: bool, reason: Option<String> },
}

/// Held by drivers; the keeper holds the other end.
pub type DriverSender = mpsc::Sender<FromDriver>;
pub type DriverReceiver = mpsc::Receiver<FromDriver>;

/// What a driver is asked to do to one of its devices.
#[derive(Debug)]
pub enum ToDriver {
    /// Desired values to write, read back and report: the reply tells per name what was refused and why.
    /// An accepted value shows as `FromDriver::Reported`, never by this reply alone.
    Write { device: DeviceId, values: serde_json::Map<String, Json>, reply: Reply<Vec<(String, Refusal)>> },
    /// A command by name (`read-now`, a profile's own verbs, …).
    Call { device: DeviceId, command: Command, reply: Reply<CommandResponse> },
    /// A commissioning tool that works on the driver's bus beside its polling: request and answer are JSON documents
    /// described by the driver (`drivers::modbus::tools`). Partial results go to `progress`.
    Tool { request: Json, progress: Option<mpsc::Sender<Json>>, reply: Reply<Json> },
}

/// Held by the keeper and the web room, one per driver; the driver holds the other end.
pub type ToDriverSender = mpsc::Sender<ToDriver>;
pub type ToDriverReceiver = mpsc::Receiver<ToDriver>;

// ---- signs of life ------------------------------------------------------------------------------------------------

/// What was noticed about a device, for the registry, which makes presence, drift and the device list of it.
#[derive(Debug, Clone)]
pub enum Sign {
    /// The device itself was heard: a packet of it was accepted, or a poll brought at least one good value. Not for a
    /// reading that is stale throughout. Once a second per device is plenty.
    Seen { device: DeviceId, at: Millis },
    /// `FromDriver::Reachable`, passed on as it came.
    Reachable { device: DeviceId, at: Millis, reachable: bool, reason: Option<String> },
    /// A version the device named, in a heartbeat, its telemetry, its reported state or a completed update.
    Firmware { device: DeviceId, at: Millis, version: Arc<str> },
    /// Met on a wire and known to nobody: becomes a discovered device, which may do nothing until it is approved.
    Found { device: DeviceId, at: Millis, protocol: Protocol, kind: Arc<str> },
}

/// Held by the keeper (for doors and drivers), `updates` and discovery; the registry holds the other end.
pub type Signs = mpsc::Sender<Sign>;
pub type SignsReceiver = mpsc::Receiver<Sign>;

// ---- what came of it: keeper and updates to the jobs and rules rooms --------------------------------------------------

/// The end of something that was ordered, for those who ordered it. Sent for every such end; whoever did not order it
/// ignores it.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// From the keeper: a child or a driver answered a command.
    Command { device: DeviceId, response: CommandResponse },
    /// From the keeper: `config/ack`.
    Config { device: DeviceId, version: u64, applied: bool, reason: Option<String> },
    /// From `updates`: each step of an update, its final one above all.
    Update { device: DeviceId, progress: UpdateProgress },
    /// From the keeper: a child has ended its part of a job (or the gateway has, for it) on the jobs topics.
    Execution { device: DeviceId, execution: Box<Execution> },
    /// From the keeper (children) and `diagnostics` (the gateway): the last chunk of an answer.
    Diagnostics { device: DeviceId, request_id: String, error: Option<String> },
}

/// Held by the keeper, `updates` and `diagnostics`; `jobs` holds the other end.
pub type Outcomes = mpsc::Sender<Outcome>;

/// Where readings go as they were stored: to `rules`, and only while a rule exists. Held by the keeper.
pub type Readings = watch::Receiver<Option<mpsc::Sender<Arc<Reading>>>>;

// ---- the broker's doorstep ----------------------------------------------------------------------------------------

/// What happens to a child's connection: sent by doors to all who keep levels (keeper, registry, updates).
#[derive(Debug, Clone)]
pub enum ChildEvent {
    Connected {
        device: DeviceId,
        address: Option<SocketAddr>,
        protocol: &'static str,
        at: Millis,
    },
    Disconnected {
        device: DeviceId,
        reason: String,
        at: Millis,
    },
    /// A subscription that matches one of the gateway's own topics for this child: time to send the level again.
    Subscribed {
        device: DeviceId,
        filter: Arc<str>,
        at: Millis,
    },
    /// Not let in, because it waits for approval: one that nobody has met is to be listed.
    Waiting {
        device: DeviceId,
        protocol: Protocol,
    },
    /// Any other accepted packet; sent at most once a second per child.
    Seen {
        device: DeviceId,
        at: Millis,
    },
}

/// Held by the doors: every listener gets every event.
#[derive(Debug, Clone, Default)]
pub struct ChildEvents(Vec<mpsc::Sender<ChildEvent>>);

impl ChildEvents {
    pub fn new(listeners: Vec<mpsc::Sender<ChildEvent>>) -> Self {
        Self(listeners)
    }

    pub async fn send(&self, event: ChildEvent) {
        for listener in &self.0 {
            // A listener that has gone is on its way down with the daemon.
            let _ = listener.send(event.clone()).await;
        }
    }
}

/// Somebody whom a door turned away that does not know who children are; for the list of refusals.
#[derive(Debug)]
pub struct TurnedAway {
    pub device: DeviceId,
    pub address: SocketAddr,
    /// A word for counting.
    pub reason: &'static str,
    /// What was wrong, for people.
    pub text: String,
}

/// Held by the CoAP door, which waits for nobody here; the daemon holds the other end.
pub type TurnedAwaySender = mpsc::Sender<TurnedAway>;

/// Something the gateway says on its own broker. Messages that matter are level-triggered: they may be dropped here
/// and are sent again from the store on connect and on subscribe.
#[derive(Debug, Clone)]
pub struct LocalMessage {
    pub topic: String,
    pub payload: Bytes,
    pub retain: bool,
    /// 0 or 1.
    pub qos: u8,
}

impl LocalMessage {
    /// QoS 1, not retained.
    pub fn new(topic: impl Into<String>, payload: impl Into<Bytes>) -> Self {
        Self { topic: topic.into(), payload: payload.into(), retain: false, qos: 1 }
    }
}

/// Held by rooms that speak on the local broker; the broker holds the other end.
pub type LocalSender = mpsc::Sender<LocalMessage>;
pub type LocalReceiver = mpsc::Receiver<LocalMessage>;

// ---- orders: cloud, page and command line to the rooms --------------------------------------------------------------

/// Something that is wanted of a device, from the cloud or from a technician. Idempotent by its id or version.
#[derive(Debug)]
pub struct Order {
    pub device: DeviceId,
    pub door: Door,
    pub what: OrderKind,
    /// Answered when the order is on disk (not when it is carried out).
    pub reply: Reply<Json>,
}

#[derive(Debug)]
pub enum OrderKind {
    /// `delta` from a control plane: merged into desired.
    Delta(Json),
    /// `desired`: `{"desired": {…}, "version"?}`.
    Desired(Json),
    /// A whole shadow request document, classic or named, with its own version check.
    ShadowUpdate {
        name: Option<String>,
        document: Json,
    },
    /// Refused where the shadow has another version than `version` by now, if one is named.
    ShadowDelete {
        name: Option<String>,
        version: Option<u64>,
    },
    /// `config/desired`: `{"version", "config"}`.
    Config(Json),
    Command(Command),
    /// A job the device finds on its jobs topics.
    Execution(Given),
    /// Such a job is withdrawn, unless the device has begun it.
    Withdraw {
        job_id: String,
    },
    Update(UpdateOrder),
    /// Diagnostics request of the contract, section 3; for the gateway itself or a child.
    Diagnostics(Json),
    Job(JobOrder),
    JobControl {
        job_id: String,
        control: JobControl,
    },
}

/// Held by `uplink` and `web`: each order goes to the room that carries it out.
#[derive(Debug, Clone)]
pub struct Orders {
    pub keeper: mpsc::Sender<Order>,
    pub updates: mpsc::Sender<Order>,
    pub diagnostics: mpsc::Sender<Order>,
    pub jobs: mpsc::Sender<Order>,
}

impl Orders {
    /// Sends an order on its way and waits until it is on disk. A room that has gone answers as busy.
    pub async fn place(&self, device: DeviceId, door: Door, what: OrderKind) -> Result<Json, Refusal> {
        use crate::model::command::RefusalCode::Busy;
        let room = match &what {
            OrderKind::Update(_) => &self.updates,
            OrderKind::Diagnostics(_) => &self.diagnostics,
            OrderKind::Job(_) | OrderKind::JobControl { .. } => &self.jobs,
            _ => &self.keeper,
        };
        let (reply, answer) = oneshot::channel();
        let gone = || Refusal::new(Busy, "the gateway is stopping; ask again when it is back");
        room.send(Order { device, door, what, reply }).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

/// What a child said about its update; from the keeper (which logged it) to `updates`.
pub type UpdateReports = mpsc::Sender<(DeviceId, UpdateProgress)>;

/// What a door or the keeper asks of `updates`.
#[derive(Debug)]
pub enum UpdateAsk {
    /// The child said which firmware it runs (telemetry, heartbeat or state): evidence that completes an update.
    Running { device: DeviceId, version: String },
    /// `devices/{d}/update/chunk/get`, payload as it came: `updates` answers on `devices/{d}/update/chunk`, the reply
    /// says whether the request was understood.
    Chunk { device: DeviceId, payload: Bytes, reply: Reply },
    /// The open offer as on `devices/{d}/update/command`, for doors without subscriptions; `null` where there is none.
    Offer { device: DeviceId, reply: Reply<Json> },
    /// A piece of the offered image, as bytes; for CoAP block-wise transfer.
    Piece { device: DeviceId, offset: u64, length: u32, reply: Reply<ImagePiece> },
}

/// Held by the keeper and the CoAP door; `updates` holds the other end.
pub type UpdateAskSender = mpsc::Sender<UpdateAsk>;

/// A piece of a verified image.
#[derive(Debug, Clone)]
pub struct ImagePiece {
    /// Lower-case hex; names the image for as long as its pieces are fetched.
    pub sha256: Arc<str>,
    /// Bytes of the whole image.
    pub total: u64,
    pub bytes: Bytes,
}

/// What a child on a door without subscriptions (CoAP) fetches when it wakes; the keeper answers from the store.
#[derive(Debug)]
pub struct Fetch {
    pub device: DeviceId,
    pub what: FetchKind,
    pub reply: Reply<Json>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FetchKind {
    /// As on `devices/{d}/delta`; `{}` where reported agrees with desired.
    Delta,
    /// As on `devices/{d}/config/desired`; `null` where none was ever set.
    Config,
    /// An array of open commands, oldest first: `[{"name", "commandId", "params", "expiresAt"?}]`.
    Commands,
}

/// Held by the CoAP door; the keeper holds the other end.
pub type FetchSender = mpsc::Sender<Fetch>;

// ---- for those who watch --------------------------------------------------------------------------------------------

/// The lossy broadcast; cheap where nobody listens.
#[derive(Debug, Clone)]
pub struct Events(broadcast::Sender<Event>);

impl Events {
    pub fn new() -> Self {
        Self(broadcast::channel(1024).0)
    }

    pub fn tell(&self, event: Event) {
        let _ = self.0.send(event);
    }

    /// Whether anybody would hear: lets a hot path skip building the event.
    pub fn watched(&self) -> bool {
        self.0.receiver_count() > 0
    }

    pub fn watch(&self) -> broadcast::Receiver<Event> {
        self.0.subscribe()
    }
}

impl Default for Events {
    fn default() -> Self {
        Self::new()
    }
}
