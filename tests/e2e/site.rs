//! A site: the real daemon between mosquitto as the cloud, a wire that can be cut, and children that nobody here wrote.

use std::{
    collections::BTreeMap,
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use headgate::{
    cli::demo::{oracle::Oracle, wire::Wire},
    tasks::Tasks,
};
use serde_json::{Value as Json, json};

use super::{
    gateway::{Builder, Gateway},
    peers::{Heard, Mosquitto, free_port, publish, publish_lines},
};

/// Everything outside the daemon, there before it starts.
pub struct Ground {
    pub mosquitto: Mosquitto,
    pub wire: Wire,
    /// All that reached the cloud's broker.
    pub cloud: Heard,
    pub mqtt: u16,
    pub runtime: tokio::runtime::Runtime,
    pub tasks: Tasks,
}

impl Ground {
    pub fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let (mosquitto, tasks) = (Mosquitto::start(), Tasks::new());
        let wire = runtime.block_on(Wire::start(format!("127.0.0.1:{}", mosquitto.port), &tasks)).expect("a wire");
        let cloud = mosquitto.listen("devices/#");
        Self { mosquitto, wire, cloud, mqtt: free_port(), runtime, tasks }
    }

    /// A gateway that meets its children on a port of its own and the cloud behind the wire; `more` follows its [uplink].
    pub fn gateway(&self, more: &str) -> Builder {
        Gateway::builder().toml(&format!(
            "[broker]\ntcp = [\"127.0.0.1:{}\"]\ntls = []\n[web]\nlisten = [\"127.0.0.1:{}\"]\n[uplink]\n\
             broker = \"mqtt://{}\"\nretry_first = \"100ms\"\nretry_most = \"1s\"\nunacked_timeout = \"2s\"\n{more}",
            self.mqtt,
            free_port(),
            self.wire.address(),
        ))
    }

    /// A child with a token of its own.
    pub fn child(&self, gateway: &Gateway, device: &str) -> Child {
        Child::of(gateway, device, self.mqtt)
    }

    /// Waits until what the cloud says arrives: the gateway asks for its own topics and its children's in one breath.
    pub fn reaches_the_gateway(&self) {
        super::eventually("an answer of the gateway to the cloud", || {
            self.says("gw", "diagnostics/request", r#"{"requestId": "reach", "type": "ping"}"#);
            self.cloud
                .on("devices/gw/diagnostics/response")
                .iter()
                .find(|answer| answer["requestId"] == "reach")
                .map(drop)
        });
    }

    /// Publishes below a device's root as the cloud.
    pub fn says(&self, device: &str, topic: &str, payload: &str) {
        self.mosquitto.publish(&format!("devices/{device}/{topic}"), payload);
    }

    /// The telemetry of `device` that reached the cloud, in the order of arrival, one by one.
    pub fn telemetry(&self, device: &str) -> Vec<Json> {
        telemetry(&self.cloud, device)
    }

    /// What an observer counts who has only what reached the cloud.
    pub fn counted(&self, device: &str) -> Oracle {
        let mut oracle = Oracle::default();
        self.telemetry(device).iter().for_each(|message| oracle.telemetry(device, message));
        oracle
    }
}

/// The telemetry of `device` that was heard, in the order of arrival, one by one.
pub fn telemetry(heard: &Heard, device: &str) -> Vec<Json> {
    let one_by_one = heard.on(&format!("devices/{device}/telemetry")).into_iter().flat_map(|message| match message {
        Json::Array(many) => many,
        one => vec![one],
    });
    one_by_one.collect()
}

/// A child on MQTT: mosquitto_pub and mosquitto_sub with its login.
pub struct Child {
    pub device: String,
    token: String,
    port: u16,
    connections: AtomicU32,
}

impl Child {
    /// With a token of its own, of a gateway that listens on `port`.
    pub fn of(gateway: &Gateway, device: &str, port: u16) -> Child {
        let (code, answer) = gateway.api("POST", "/v1/credentials", Some(&json!({"device": device, "kind": "token"})));
        assert_eq!(code, 200, "{answer}");
        let token = answer["token"].as_str().expect("a token").to_owned();
        Child { device: device.to_owned(), token, port, connections: AtomicU32::new(0) }
    }

    fn with_login<T>(&self, with: impl FnOnce(&[&str]) -> T) -> T {
        let id = format!("{}/{}", self.device, self.connections.fetch_add(1, Ordering::Relaxed));
        with(&["-i", &id, "-u", &self.device, "-P", &self.token])
    }

    pub fn token(&self) -> &str {
        &self.token
    }

    fn topic(&self, topic: &str) -> String {
        format!("devices/{}/{topic}", self.device)
    }

    pub fn says(&self, topic: &str, payload: &str) {
        self.with_login(|login| publish(self.port, login, &self.topic(topic), payload));
    }

    /// Sends `payloads` over one connection; true where all were acknowledged.
    pub fn says_all(&self, topic: &str, payloads: &[String]) -> bool {
        self.with_login(|login| publish_lines(self.port, login, &self.topic(topic), payloads))
    }

    /// Sends readings numbered by `n`; true where all were acknowledged.
    pub fn measures(&self, numbers: std::ops::RangeInclusive<u64>) -> bool {
        let lines: Vec<String> = numbers.map(|n| json!({"n": n, "temp": 20.5}).to_string()).collect();
        self.says_all("telemetry", &lines)
    }

    /// Connects and hears what is below `topic` of its own.
    pub fn listens(&self, topic: &str) -> Heard {
        self.with_login(|login| Heard::subscribe(self.port, &self.topic(topic), login))
    }
}

/// Fails unless `messages` are numbered 1 to n without a hole, repeat a number only with the same content, and hold the
/// device's own numbers in their order.
pub fn assert_gap_free(messages: &[Json]) {
    let mut by_seq: BTreeMap<u64, &Json> = BTreeMap::new();
    for message in messages {
        let seq = message["seq"].as_u64().unwrap_or_else(|| panic!("without a number: {message}"));
        let values = &message["values"];
        let first = by_seq.entry(seq).or_insert(message);
        assert_eq!(&first["values"], values, "number {seq} stands for two readings");
    }
    let numbers: Vec<u64> = by_seq.keys().copied().collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>(), "a hole");
    let mut highest = 0;
    let mut known = std::collections::BTreeSet::new();
    for (seq, message) in by_seq {
        let Some(own) = message["values"]["n"].as_u64() else { continue };
        // A client that never saw the acknowledgement may say the same again: only the first time has an order.
        if known.insert(own) {
            assert!(own > highest, "reading {own} at number {seq} follows reading {highest}");
            highest = own;
        }
    }
}

/// What a program says that ends by itself.
pub fn output(program: &str, arguments: &[&str]) -> String {
    let done = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let done = done.unwrap_or_else(|error| panic!("{program} is needed for this test (README, Tests): {error}"));
    format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr))
}
