//! A simulated MQTT child on a real connection: measures through outages, forgets nothing unacknowledged, honours its
//! delta, does its commands, downloads its firmware.

mod outbox;

use std::{
    collections::{HashMap, VecDeque},
    pin::Pin,
    time::Duration,
};

use rumqttc::{AsyncClient, ConnectReturnCode, Event, EventLoop, MqttOptions, Outgoing, Packet, QoS};
use serde_json::{Map, Value as Json};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use self::outbox::Tag;
use super::{
    device::{Act, Device, Say},
    download::{Means, download},
};
use crate::{
    clock,
    model::{
        ids::DeviceId,
        update::{UpdateOrder, UpdateProgress, UpdateStatus},
    },
    tasks::Tasks,
};

const HEARTBEAT: Duration = Duration::from_secs(10);
/// How long a reboot takes.
const REBOOT: Duration = Duration::from_secs(1);
/// How long a child that is told to stop waits for its last acknowledgements.
const FAREWELL: Duration = Duration::from_secs(3);

/// Who it is and where it goes.
#[derive(Clone)]
pub struct Child {
    pub id: DeviceId,
    pub host: String,
    pub port: u16,
    pub login: Option<(String, String)>,
    /// Time between readings; a desired `interval` changes it.
    pub every: Duration,
    pub firmware: String,
    /// Bytes per second of its firmware download; `None` as fast as it goes.
    pub download_rate: Option<u64>,
    /// Stops measuring after so many readings.
    pub readings: Option<u64>,
}

impl std::fmt::Debug for Child {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "child {} of {}:{}", self.id, self.host, self.port)
    }
}

/// What can be seen of it from outside.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct State {
    pub connected: bool,
    /// Readings measured, acknowledged by the gateway, and lost because too many waited.
    pub measured: u64,
    pub acknowledged: u64,
    pub lost: u64,
    pub firmware: String,
    pub reported: Map<String, Json>,
    pub update: Option<UpdateProgress>,
    /// The latest refusal on `devices/{d}/errors`, and how many there were.
    pub refused: Option<Json>,
    pub refusals: u64,
    /// Why there is no connection.
    pub error: Option<String>,
}

/// Starts it; it runs until `tasks` stop or everything asked for is acknowledged.
pub fn start(child: Child, tasks: &Tasks) -> watch::Receiver<State> {
    let (state, seen) = watch::channel(State::default());
    let (stop, own) = (tasks.stopping(), tasks.clone());
    tasks.spawn(format!("simulated {}", child.id), async move {
        Running::new(child, state, own).run(stop).await;
    });
    seen
}

type Polling = Pin<Box<dyn Future<Output = (EventLoop, Result<Event, rumqttc::ConnectionError>)> + Send>>;
type Downloading = Pin<Box<dyn Future<Output = (UpdateOrder, Result<Vec<u8>, String>)> + Send>>;

struct Running {
    child: Child,
    device: Device,
    client: AsyncClient,
    state: watch::Sender<State>,
    tasks: Tasks,
    connected: bool,
    /// Readings without acknowledgement, oldest first; the first `sent` of them are on this connection.
    outbox: VecDeque<String>,
    sent: usize,
    /// Publishes handed to the client, in order, until it names their packet id.
    handed: VecDeque<Tag>,
    flying: HashMap<u16, Tag>,
    /// An image that was verified, to be run after the reboot.
    verified: Option<UpdateOrder>,
    /// An update that ended with the reboot is yet to be told.
    tell_update: bool,
    pause: Duration,
}

impl Running {
    fn new(child: Child, state: watch::Sender<State>, tasks: Tasks) -> Self {
        let device = Device::new(child.firmware.clone(), child.every, clock::now());
        // Replaced by the first connection.
        let (client, _) = AsyncClient::new(options(&child), 1);
        Self {
            child,
            device,
            client,
            state,
            tasks,
            connected: false,
            outbox: VecDeque::new(),
            sent: 0,
            handed: VecDeque::new(),
            flying: HashMap::new(),
            verified: None,
            tell_update: false,
            pause: Duration::ZERO,
        }
    }

    async fn run(&mut self, stop: CancellationToken) {
        let (percents_in, mut percents) = mpsc::channel(8);
        let mut downloading: Option<Downloading> = None;
        let mut polling = self.connect();
        let (mut measure_at, mut beat_at) = (Instant::now(), Instant::now() + HEARTBEAT);
        let mut farewell = None;
        loop {
            let act = tokio::select! {
                (eventloop, event) = &mut polling => {
                    let act = self.event(event);
                    polling = poll(eventloop, std::mem::take(&mut self.pause));
                    act
                }
                () = sleep_until(measure_at), if farewell.is_none() && self.wants_more() => {
                    measure_at = (measure_at + self.device.every).max(Instant::now());
                    Some(Act::Measure)
                }
                () = sleep_until(beat_at), if self.connected => {
                    beat_at = Instant::now() + HEARTBEAT;
                    self.say(vec![self.device.heartbeat(clock::now())]);
                    None
                }
                Some(percent) = percents.recv() => {
                    self.percent(percent);
                    None
                }
                (order, image) = async { downloading.as_mut().expect("guarded").as_mut().await }, if downloading.is_some() => {
                    downloading = None;
                    self.downloaded(order, image)
                }
                () = stop.cancelled(), if farewell.is_none() => {
                    farewell = Some(Instant::now() + FAREWELL);
                    None
                }
                () = sleep_until(farewell.unwrap_or_else(Instant::now)), if farewell.is_some() => break,
            };
            match act {
                Some(Act::Measure) => self.measure(),
                Some(Act::Reboot) => {
                    self.say_goodbye(polling).await;
                    sleep(REBOOT).await;
                    polling = self.boot();
                }
                Some(Act::Download(order)) => {
                    let means = Means {
                        login: self.child.login.clone(),
                        rate: self.child.download_rate,
                        progress: percents_in.clone(),
                        tasks: self.tasks.clone(),
                    };
                    downloading = Some(Box::pin(async move { (order.clone(), download(order, means).await) }));
                }
                None => {}
            }
            self.flush();
            self.show();
            if farewell.is_some() && (self.outbox.is_empty() || !self.connected) {
                break;
            }
        }
        self.say_goodbye(polling).await;
    }

    fn wants_more(&self) -> bool {
        self.child.readings.is_none_or(|readings| self.state.borrow().measured < readings)
    }

    fn connect(&mut self) -> Polling {
        let (client, eventloop) = AsyncClient::new(options(&self.child), 256);
        self.client = client;
        poll(eventloop, Duration::ZERO)
    }

    /// Everything in memory is gone; what was verified is installed.
    fn boot(&mut self) -> Polling {
        self.device.reboot(clock::now());
        if let Some(order) = self.verified.take() {
            self.device.install(&order);
            self.device.progress(&order, UpdateStatus::Completed, Some(100), None);
            self.tell_update = true;
        }
        self.connect()
    }

    async fn say_goodbye(&mut self, mut polling: Polling) {
        if self.connected && self.client.try_disconnect().is_ok() {
            // Until the connection has ended, with what was queued before the goodbye.
            let _ = timeout(Duration::from_secs(1), async {
                loop {
                    match polling.await {
                        (eventloop, Ok(_)) => polling = poll(eventloop, Duration::ZERO),
                        (_, Err(_)) => return,
                    }
                }
            })
            .await;
        }
        self.lost_connection(None);
        self.show();
    }

    fn lost_connection(&mut self, error: Option<String>) {
        self.connected = false;
        self.sent = 0;
        self.handed.clear();
        self.flying.clear();
        self.state.send_modify(|state| state.error = error);
    }

    fn event(&mut self, event: Result<Event, rumqttc::ConnectionError>) -> Option<Act> {
        match event {
            Ok(Event::Incoming(Packet::ConnAck(ack))) if ack.code == ConnectReturnCode::Success => {
                self.lost_connection(None);
                self.connected = true;
                let topics =
                    ["delta", "errors", "update/command", "config/desired", "diagnostics/request", "commands/+"];
                for topic in topics {
                    let _ = self.client.try_subscribe(format!("devices/{}/{topic}", self.child.id), QoS::AtLeastOnce);
                }
                let mut said = self.device.introduce(clock::now());
                if let (true, Some(update)) = (std::mem::take(&mut self.tell_update), &self.device.update) {
                    said.push(Say { topic: "update/status".into(), payload: serde_json::json!(update) });
                }
                self.say(said);
            }
            Ok(Event::Incoming(Packet::PubAck(ack))) => self.acknowledged(ack.pkid),
            Ok(Event::Outgoing(Outgoing::Publish(id))) => self.left(id),
            Ok(Event::Incoming(Packet::Publish(publish))) => return self.hear(&publish.topic, &publish.payload),
            Ok(_) => {}
            Err(error) => {
                self.lost_connection(Some(error.to_string()));
                self.pause = Duration::from_millis(500);
            }
        }
        None
    }

    fn hear(&mut self, topic: &str, payload: &[u8]) -> Option<Act> {
        let topic = topic.strip_prefix("devices/")?.strip_prefix(self.child.id.as_str())?.strip_prefix('/')?;
        if topic == "errors" {
            let refused = serde_json::from_slice(payload).ok();
            self.state.send_modify(|state| {
                state.refusals += 1;
                state.refused = refused;
            });
            return None;
        }
        let (said, act) = self.device.hear(topic, payload, clock::now());
        self.say(said);
        act
    }

    fn percent(&mut self, percent: u8) {
        let Some(update) = self.device.update.clone() else { return };
        if update.status.is_final() || percent % 2 == 1 {
            return;
        }
        let update = UpdateProgress { status: UpdateStatus::Downloading, progress: Some(percent), ..update };
        self.say(vec![Say { topic: "update/status".into(), payload: serde_json::json!(update) }]);
        self.device.update = Some(update);
    }

    fn downloaded(&mut self, order: UpdateOrder, image: Result<Vec<u8>, String>) -> Option<Act> {
        let said = match image {
            Err(why) => vec![self.device.progress(&order, UpdateStatus::Failed, None, Some(why))],
            Ok(_) => {
                let steps = [UpdateStatus::Verifying, UpdateStatus::Installing, UpdateStatus::Rebooting];
                let said = steps.map(|step| self.device.progress(&order, step, Some(100), None));
                self.verified = Some(order);
                said.to_vec()
            }
        };
        self.say(said);
        self.verified.is_some().then_some(Act::Reboot)
    }

    fn show(&self) {
        self.state.send_if_modified(|state| {
            let changed = state.connected != self.connected
                || state.firmware != self.device.firmware
                || state.update != self.device.update
                || state.reported != self.device.reported;
            if changed {
                state.connected = self.connected;
                state.firmware.clone_from(&self.device.firmware);
                state.update.clone_from(&self.device.update);
                state.reported.clone_from(&self.device.reported);
            }
            changed
        });
    }
}

fn options(child: &Child) -> MqttOptions {
    let mut options = MqttOptions::new(child.id.as_str(), &child.host, child.port);
    // A session of its own each time: what matters is said again by both sides, as the contract has it.
    options.set_clean_session(true).set_keep_alive(Duration::from_secs(15)).set_max_packet_size(1 << 20, 1 << 20);
    if let Some((user, password)) = &child.login {
        options.set_credentials(user, password);
    }
    options
}

/// One step of the connection. Never dropped half-way: a packet half written would be lost.
fn poll(mut eventloop: EventLoop, after: Duration) -> Polling {
    Box::pin(async move {
        sleep(after).await;
        let event = eventloop.poll().await;
        (eventloop, event)
    })
}
