//! A stand-in cloud: a control plane that speaks the contract (`docs/mqtt.md`, cloud side) over any MQTT broker, counts
//! what arrives by itself, and orders what a real one orders.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use aws_lc_rs::{
    digest,
    signature::{Ed25519KeyPair, KeyPair},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
use serde_json::{Value as Json, json};
use tokio::{
    sync::{broadcast, watch},
    time::{Instant, sleep, timeout_at},
};

use super::{http::Files, oracle::Oracle};
use crate::{clock, model::update::UpdateOrder, tasks::Tasks};

/// What comes up, below a device's root.
const UP: &[&str] = &[
    "telemetry",
    "state",
    "status",
    "heartbeat",
    "update/status",
    "config/ack",
    "commands/+/response",
    "diagnostics/response",
    "events",
    "gaps",
    "jobs/+/status",
];

#[derive(Debug, Clone)]
pub struct Settings {
    pub host: String,
    pub port: u16,
    pub login: Option<(String, String)>,
    pub client_id: String,
    /// `devices/{device}`, or any other root the gateway is configured with; `{device}` stands for one level.
    pub root: String,
}

impl Settings {
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        let (client_id, root) = ("stand-in-cloud".to_owned(), "devices/{device}".to_owned());
        Self { host: host.into(), port, login: None, client_id, root }
    }
}

/// A message as it came up.
#[derive(Debug, Clone, PartialEq)]
pub struct Heard {
    pub device: String,
    /// Below the device's root: `telemetry`, `update/status`, …
    pub topic: String,
    pub payload: Json,
    pub retained: bool,
}

/// What the cloud knows, as a copy.
#[derive(Debug, Clone, Default)]
pub struct View {
    pub connected: bool,
    pub messages: u64,
    pub oracle: Oracle,
    /// The latest message of each device and topic.
    pub latest: BTreeMap<(String, String), Json>,
    /// Messages that are no JSON, by topic.
    pub unreadable: Vec<String>,
}

impl View {
    pub fn latest(&self, device: &str, topic: &str) -> Option<&Json> {
        self.latest.get(&(device.to_owned(), topic.to_owned()))
    }
}

/// The handle; the cloud lives as long as its tasks.
#[derive(Clone)]
pub struct Cloud {
    client: AsyncClient,
    settings: Arc<Settings>,
    view: Arc<Mutex<View>>,
    heard: broadcast::Sender<Arc<Heard>>,
    connected: watch::Receiver<bool>,
    files: Files,
    key: Arc<Ed25519KeyPair>,
}

/// Why the cloud could not start.
#[derive(Debug, thiserror::Error)]
pub enum CloudError {
    #[error("the file server could not listen: {0}")]
    Files(#[from] std::io::Error),
    #[error("no signing key could be made")]
    Key,
}

impl Cloud {
    /// Connects to the broker, for ever, and starts the file server.
    pub async fn start(settings: Settings, tasks: &Tasks) -> Result<Cloud, CloudError> {
        let mut options = MqttOptions::new(&settings.client_id, &settings.host, settings.port);
        // A session that stays, so that a hiccup of this side loses nothing of the count.
        options.set_clean_session(false).set_keep_alive(Duration::from_secs(20)).set_max_packet_size(4 << 20, 4 << 20);
        if let Some((user, password)) = &settings.login {
            options.set_credentials(user, password);
        }
        let (client, eventloop) = AsyncClient::new(options, 256);
        let (connected_in, connected) = watch::channel(false);
        let cloud = Cloud {
            client,
            settings: Arc::new(settings),
            view: Arc::default(),
            heard: broadcast::channel(16 * 1024).0,
            connected,
            files: Files::start(tasks).await?,
            key: Arc::new(Ed25519KeyPair::generate().map_err(|_| CloudError::Key)?),
        };
        let (own, stop) = (cloud.clone(), tasks.stopping());
        tasks.spawn("stand-in cloud", async move {
            let mut eventloop = eventloop;
            while let Some(event) = stop.run_until_cancelled(eventloop.poll()).await {
                match event {
                    Ok(event) => own.event(event, &connected_in),
                    Err(error) => {
                        tracing::debug!(%error, "the stand-in cloud has no connection");
                        connected_in.send_replace(false);
                        own.note(|view| view.connected = false);
                        sleep(Duration::from_millis(200)).await;
                    }
                }
            }
        });
        Ok(cloud)
    }

    /// Resolves when its subscriptions are sent on a connection that stands.
    pub async fn connected(&self) {
        let _ = self.connected.clone().wait_for(|connected| *connected).await;
    }

    /// A copy of everything known.
    pub fn view(&self) -> View {
        self.view.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    pub fn files(&self) -> &Files {
        &self.files
    }

    /// The Ed25519 public key that vouches for its images, as `[updates] keys` takes it: base64 of 32 bytes.
    pub fn public_key(&self) -> String {
        STANDARD.encode(self.key.public_key().as_ref())
    }

    // ---- orders ---------------------------------------------------------------------------------------------------

    /// A desired change as `{"key": value}`.
    pub async fn delta(&self, device: &str, change: Json) {
        self.publish(device, "delta", &change).await;
    }

    /// `{"desired": {…}, "version"?}`.
    pub async fn desired(&self, device: &str, document: Json) {
        self.publish(device, "desired", &document).await;
    }

    pub async fn config(&self, device: &str, version: i64, config: Json) {
        self.publish(device, "config/desired", &json!({"version": version, "config": config})).await;
    }

    pub async fn command(&self, device: &str, name: &str, id: &str, params: Json) {
        let command = json!({"commandId": id, "params": params, "expiresAt": clock::now().plus(60_000)});
        self.publish(device, &format!("commands/{name}"), &command).await;
    }

    /// Puts `image` on the file server, signs it and returns the order for it, which a caller may spoil.
    pub fn release(&self, job: &str, version: &str, image: impl Into<Bytes>) -> UpdateOrder {
        let image = image.into();
        let digest = digest::digest(&digest::SHA256, &image);
        UpdateOrder {
            job_id: job.to_owned(),
            target_version: version.to_owned(),
            size: image.len() as u64,
            sha256: hex::encode(digest),
            signature: Some(STANDARD.encode(self.key.sign(digest.as_ref()))),
            deadline: None,
            url: self.files.put(&format!("firmware-{version}.bin"), image),
        }
    }

    pub async fn update(&self, device: &str, order: &UpdateOrder) {
        self.publish(device, "update/command", &json!(order)).await;
    }

    pub async fn job(&self, gateway: &str, job: Json) {
        self.publish(gateway, "jobs/notify", &job).await;
    }

    /// `pause`, `resume`, `abort` or `retry`.
    pub async fn job_control(&self, gateway: &str, job: &str, word: &str) {
        self.publish(gateway, &format!("jobs/{job}/control"), &json!({"control": word})).await;
    }

    /// Any message below a device's root, as it is: for what a well-meaning cloud would not send.
    pub async fn raw(&self, device: &str, topic: &str, payload: impl Into<Vec<u8>>) {
        let topic = format!("{}/{topic}", self.settings.root.replace("{device}", device));
        let _ = self.client.publish(topic, QoS::AtLeastOnce, false, payload.into()).await;
    }

    /// Asks and joins the chunks; `Err` is the error of the answer, or that none came in time.
    pub async fn diagnose(&self, device: &str, request: Json, within: Duration) -> Result<Json, String> {
        let id = request.get("requestId").cloned().unwrap_or_default();
        let mut heard = self.heard.subscribe();
        self.publish(device, "diagnostics/request", &request).await;
        let until = Instant::now() + within;
        let mut chunks: BTreeMap<u64, Json> = BTreeMap::new();
        loop {
            let Ok(Ok(message)) = timeout_at(until, heard.recv()).await else {
                return Err(format!("no whole answer within {within:?}; {} chunks came", chunks.len()));
            };
            let answer = &message.payload;
            if message.device != device || message.topic != "diagnostics/response" || answer["requestId"] != id {
                continue;
            }
            if answer["status"] != "ok" {
                return Err(answer["error"].as_str().unwrap_or("an error without words").to_owned());
            }
            chunks.insert(answer["chunk"].as_u64().unwrap_or(0), answer["payload"].clone());
            if Some(chunks.len() as u64) == answer["totalChunks"].as_u64() {
                if chunks.len() == 1 {
                    return Ok(answer["payload"].clone());
                }
                let text: String = chunks.values().filter_map(Json::as_str).collect();
                return serde_json::from_str(&text).map_err(|e| format!("the chunks do not join: {e}"));
            }
        }
    }

    // ---- watching -------------------------------------------------------------------------------------------------

    /// Everything heard from now on.
    pub fn listen(&self) -> broadcast::Receiver<Arc<Heard>> {
        self.heard.subscribe()
    }

    /// Waits until the latest message of `device` under `topic` satisfies `wanted`: it may have come already.
    pub async fn expect(
        &self,
        device: &str,
        topic: &str,
        within: Duration,
        wanted: impl Fn(&Json) -> bool,
    ) -> Result<Json, String> {
        let mut heard = self.heard.subscribe();
        let latest = self.view().latest(device, topic).cloned();
        if let Some(latest) = latest.clone().filter(|latest| wanted(latest)) {
            return Ok(latest);
        }
        let (until, mut last) = (Instant::now() + within, latest);
        loop {
            match timeout_at(until, heard.recv()).await {
                Ok(Err(broadcast::error::RecvError::Lagged(_))) => {
                    if let Some(latest) = self.view().latest(device, topic).filter(|latest| wanted(latest)) {
                        return Ok(latest.clone());
                    }
                }
                Ok(Ok(message)) if message.device == device && message.topic == topic => {
                    if wanted(&message.payload) {
                        return Ok(message.payload.clone());
                    }
                    last = Some(message.payload.clone());
                }
                Ok(Err(broadcast::error::RecvError::Closed)) | Err(_) => {
                    let last = last.map_or("nothing".to_owned(), |last| last.to_string());
                    return Err(format!("{device}/{topic} was not as expected within {within:?}; last came {last}"));
                }
                Ok(_) => {}
            }
        }
    }

    /// Waits until the view satisfies `wanted`.
    pub async fn until(&self, within: Duration, wanted: impl Fn(&View) -> bool) -> Result<View, View> {
        let until = Instant::now() + within;
        let mut heard = self.heard.subscribe();
        loop {
            let view = self.view();
            if wanted(&view) {
                return Ok(view);
            }
            if timeout_at(until, heard.recv()).await.is_err() {
                return Err(view);
            }
            // The rest of what came meanwhile is in the next view.
            heard = heard.resubscribe();
        }
    }

    // ---- the connection -------------------------------------------------------------------------------------------

    async fn publish(&self, device: &str, topic: &str, payload: &Json) {
        self.raw(device, topic, payload.to_string()).await;
    }

    fn event(&self, event: Event, connected: &watch::Sender<bool>) {
        match event {
            Event::Incoming(Packet::ConnAck(_)) => {
                let filters = UP.iter().map(|topic| rumqttc::SubscribeFilter {
                    path: format!("{}/{topic}", self.settings.root.replace("{device}", "+")),
                    qos: QoS::AtLeastOnce,
                });
                // Fails only where 256 orders wait already; the session then still has the old subscriptions.
                let _ = self.client.try_subscribe_many(filters);
            }
            Event::Incoming(Packet::SubAck(_)) => {
                self.note(|view| view.connected = true);
                connected.send_replace(true);
            }
            Event::Incoming(Packet::Publish(publish)) => {
                self.hear(&publish.topic, &publish.payload, publish.retain);
            }
            _ => {}
        }
    }

    fn hear(&self, topic: &str, payload: &[u8], retained: bool) {
        let Some((device, below)) = self.place(topic) else { return };
        let Ok(payload) = serde_json::from_slice::<Json>(payload) else {
            self.note(|view| view.unreadable.push(topic.to_owned()));
            return;
        };
        let heard = Heard { device: device.to_owned(), topic: below.to_owned(), payload, retained };
        self.note(|view| {
            view.messages += 1;
            match below {
                "telemetry" => view.oracle.telemetry(device, &heard.payload),
                "gaps" => view.oracle.gap(&heard.payload),
                _ => {}
            }
            view.latest.insert((heard.device.clone(), heard.topic.clone()), heard.payload.clone());
        });
        let _ = self.heard.send(Arc::new(heard));
    }

    /// The device a topic belongs to, and the rest of the topic.
    fn place<'t>(&self, topic: &'t str) -> Option<(&'t str, &'t str)> {
        let (before, after) = self.settings.root.split_once("{device}")?;
        let (device, rest) = topic.strip_prefix(before)?.split_once('/')?;
        let rest = rest.strip_prefix(after.strip_prefix('/').unwrap_or(after))?;
        Some((device, rest.strip_prefix('/').unwrap_or(rest)))
    }

    fn note(&self, change: impl FnOnce(&mut View)) {
        change(&mut self.view.lock().unwrap_or_else(|e| e.into_inner()));
    }
}
