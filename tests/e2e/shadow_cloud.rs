//! A stand-in for the cloud's shadow service behind mosquitto, written from the contract alone (`docs/shadow.md`,
//! section 1): it knows nothing of how this gateway keeps shadows. It can be told to double, shuffle and lose.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
use serde_json::{Map, Value as Json, json};

/// Bytes of state the service takes.
const LIMIT: usize = 8192;

/// How the service's answers travel.
#[derive(Debug, Clone, Copy, Default)]
pub struct Mischief {
    /// Each answer twice.
    pub double: bool,
    /// Answers wait for company and leave in another order.
    pub shuffle: bool,
    /// Every so-manieth request is not heard.
    pub deaf_to: Option<u64>,
    /// The next request of this kind is not heard.
    pub deaf_to_next: Option<&'static str>,
}

#[derive(Debug, Default)]
struct Shadow {
    state: Option<Map<String, Json>>,
    version: u64,
}

/// What was asked, and when.
#[derive(Debug, Clone)]
pub struct Asked {
    pub thing: String,
    pub operation: String,
    pub at: Instant,
}

#[derive(Default)]
struct State {
    shadows: HashMap<(String, String), Shadow>,
    forbidden: Vec<String>,
    asked: Vec<Asked>,
    mischief: Mischief,
    held: Vec<(String, Json)>,
    random: u64,
}

/// The service and its console.
pub struct ShadowCloud {
    state: Arc<Mutex<State>>,
    client: AsyncClient,
    runtime: tokio::runtime::Handle,
}

impl ShadowCloud {
    pub fn start(port: u16, runtime: &tokio::runtime::Runtime) -> Self {
        let mut options = MqttOptions::new("shadow-service", "127.0.0.1", port);
        options.set_keep_alive(Duration::from_secs(5)).set_max_packet_size(1 << 20, 1 << 20);
        let (client, mut events) = AsyncClient::new(options, 4096);
        let state = Arc::new(Mutex::new(State { random: 42, ..State::default() }));
        let (ready, is_ready) = std::sync::mpsc::channel();
        let (kept, speaker) = (state.clone(), client.clone());
        #[allow(clippy::disallowed_methods)] // a peer, not part of the daemon
        runtime.spawn(async move {
            let mut flush = tokio::time::interval(Duration::from_millis(40));
            loop {
                tokio::select! {
                    event = events.poll() => match event {
                        Ok(Event::Incoming(Packet::ConnAck(_))) => {
                            for operation in ["get", "update", "delete"] {
                                let plain = format!("$aws/things/+/shadow/{operation}");
                                let named = format!("$aws/things/+/shadow/name/+/{operation}");
                                let _ = speaker.try_subscribe(plain, QoS::AtLeastOnce);
                                let _ = speaker.try_subscribe(named, QoS::AtLeastOnce);
                            }
                        }
                        Ok(Event::Incoming(Packet::SubAck(_))) => drop(ready.send(())),
                        Ok(Event::Incoming(Packet::Publish(publish))) => {
                            let mut state = kept.lock().expect("lock");
                            if let Some(answer) = state.request(&publish.topic, &publish.payload) {
                                state.held.push(answer);
                            }
                            if !state.mischief.shuffle {
                                state.flush(&speaker);
                            }
                        }
                        Ok(_) => {}
                        Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                    },
                    _ = flush.tick() => kept.lock().expect("lock").flush(&speaker),
                }
            }
        });
        for _ in 0..6 {
            is_ready.recv_timeout(Duration::from_secs(20)).expect("subscribed");
        }
        Self { state, client, runtime: runtime.handle().clone() }
    }

    pub fn mischief(&self, mischief: Mischief) {
        self.state.lock().expect("lock").mischief = mischief;
    }

    /// Updates of this thing are answered with 403 from now on.
    pub fn forbid(&self, thing: &str) {
        self.state.lock().expect("lock").forbidden.push(thing.to_owned());
    }

    /// Somebody at the console changes a shadow.
    pub fn update(&self, thing: &str, name: &str, state: Json) {
        self.console(thing, name, "update", json!({ "state": state }));
    }

    pub fn delete(&self, thing: &str, name: &str) {
        self.console(thing, name, "delete", json!({}));
    }

    /// The state as it is stored, and the version.
    pub fn shadow(&self, thing: &str, name: &str) -> Option<(Json, u64)> {
        let state = self.state.lock().expect("lock");
        let shadow = state.shadows.get(&(thing.to_owned(), name.to_owned()))?;
        Some((Json::Object(shadow.state.clone()?), shadow.version))
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.state.lock().expect("lock").asked.clone()
    }

    fn console(&self, thing: &str, name: &str, operation: &str, body: Json) {
        let _entered = self.runtime.enter();
        let mut state = self.state.lock().expect("lock");
        let (end, answer) = state.answer(thing, name, operation, &body);
        state.held.push((topic(thing, name, &format!("{operation}/{end}")), answer));
        if !state.mischief.shuffle {
            state.flush(&self.client);
        }
    }
}

fn topic(thing: &str, name: &str, rest: &str) -> String {
    match name {
        "" => format!("$aws/things/{thing}/shadow/{rest}"),
        name => format!("$aws/things/{thing}/shadow/name/{name}/{rest}"),
    }
}

impl State {
    fn random(&mut self, below: usize) -> usize {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) as usize % below.max(1)
    }

    fn flush(&mut self, speaker: &AsyncClient) {
        let mut held = std::mem::take(&mut self.held);
        if self.mischief.double {
            held.extend(held.clone());
        }
        while !held.is_empty() {
            let next = if self.mischief.shuffle { self.random(held.len()) } else { 0 };
            let (topic, answer) = held.remove(next);
            let _ = speaker.try_publish(topic, QoS::AtLeastOnce, false, answer.to_string());
        }
    }

    fn request(&mut self, asked: &str, payload: &[u8]) -> Option<(String, Json)> {
        let levels: Vec<&str> = asked.strip_prefix("$aws/things/")?.split('/').collect();
        let (thing, name, operation) = match levels[..] {
            [thing, "shadow", operation] => (thing, "", operation),
            [thing, "shadow", "name", name, operation] => (thing, name, operation),
            _ => return None,
        };
        self.asked.push(Asked { thing: thing.to_owned(), operation: operation.to_owned(), at: Instant::now() });
        if self.mischief.deaf_to.is_some_and(|every| (self.asked.len() as u64).is_multiple_of(every)) {
            return None;
        }
        if self.mischief.deaf_to_next.take_if(|kind| *kind == operation).is_some() {
            return None;
        }
        let body: Json = serde_json::from_slice(payload).unwrap_or(Json::Null);
        let (end, mut answer) = self.answer(thing, name, operation, &body);
        if let Some(token) = body.get("clientToken") {
            answer["clientToken"] = token.clone();
        }
        Some((topic(thing, name, &format!("{operation}/{end}")), answer))
    }

    fn answer(&mut self, thing: &str, name: &str, operation: &str, body: &Json) -> (&'static str, Json) {
        let now = 1_760_000_000;
        let no = |code: u16, message: String| ("rejected", json!({"code": code, "message": message, "timestamp": now}));
        if operation == "update" && self.forbidden.iter().any(|forbidden| forbidden == thing) {
            return no(403, "Forbidden".into());
        }
        let missing = || no(404, format!("No shadow exists with name: '{thing}'"));
        let shadow = self.shadows.entry((thing.to_owned(), name.to_owned())).or_default();
        match operation {
            "get" => match &shadow.state {
                Some(state) => ("accepted", json!({"state": state, "version": shadow.version, "timestamp": now})),
                None => missing(),
            },
            "delete" => {
                if shadow.state.take().is_none() {
                    return missing();
                }
                shadow.version += 1;
                ("accepted", json!({"version": shadow.version - 1, "timestamp": now}))
            }
            _ => {
                let current = if shadow.state.is_some() { shadow.version } else { 0 };
                if body.get("version").is_some_and(|version| version.as_u64() != Some(current)) {
                    return no(409, "Version conflict".into());
                }
                let mut next = shadow.state.clone().unwrap_or_default();
                for (section, patch) in body["state"].as_object().into_iter().flatten() {
                    let whole = Map::from_iter([(section.clone(), patch.clone())]);
                    merge(&mut next, &whole);
                    if next.get(section).and_then(Json::as_object).is_some_and(Map::is_empty) {
                        next.remove(section);
                    }
                }
                let bytes: usize = next.values().map(|section| section.to_string().len()).sum();
                if bytes > LIMIT {
                    return no(413, "The payload exceeds the maximum size allowed".into());
                }
                shadow.state = Some(next);
                shadow.version += 1;
                ("accepted", json!({"state": body["state"], "version": shadow.version, "timestamp": now}))
            }
        }
    }
}

fn merge(into: &mut Map<String, Json>, patch: &Map<String, Json>) {
    for (name, value) in patch {
        match value {
            Json::Null => drop(into.remove(name)),
            Json::Object(below) => {
                let place = into.entry(name.clone()).or_insert_with(|| json!({}));
                if !place.is_object() {
                    *place = json!({});
                }
                merge(place.as_object_mut().expect("made so"), below);
            }
            _ => drop(into.insert(name.clone(), value.clone())),
        }
    }
}

/// Where more requests for one thing came within a time than may be asked in it: 20 in any second, of which 5 are at
/// once. A wire or a broker that pauses for up to a second brings later what was asked before.
pub fn too_many(asked: &[Asked]) -> Option<String> {
    for (index, first) in asked.iter().enumerate() {
        let same = asked[index..].iter().filter(|next| next.thing == first.thing);
        for (count, last) in (1..).zip(same) {
            let (within, most) = (last.at - first.at, |time: Duration| 5.0 + 15.0 * time.as_secs_f64());
            if f64::from(count) > most(within + Duration::from_secs(1)) {
                return Some(format!("{}: {count} requests within {within:?}", first.thing));
            }
        }
    }
    None
}
