//! Requests and answers of the shadow service on the real broker, told by `tests/shadow/vectors.json`: exact documents,
//! codes, texts and order, for classic and named shadows, over MQTT 3.1.1 and 5.
//!
//! In the table `"$t"` is the time of the answer, `"$x:n"` a text of n times `x`, `"$missing"` the text about a shadow
//! that is not there and `"$any"` any text.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rumqttc::{Packet, v5};
use serde_json::{Value as Json, json};

use super::{gateway::Gateway, peers::free_port};

const TABLE: &str = include_str!("../shadow/vectors.json");
const PATIENCE: Duration = Duration::from_secs(20);

/// A device program of either version of MQTT.
enum Client {
    V3(rumqttc::Client, rumqttc::Connection),
    V5(v5::Client, v5::Connection),
}

impl Client {
    /// Connected and subscribed to all that is said of its shadows.
    fn connect(newer: bool, port: u16, device: &str, token: &str) -> Client {
        let filter = format!("$aws/things/{device}/shadow/#");
        let mut client = if newer {
            let mut options = v5::MqttOptions::new(device, "127.0.0.1", port);
            options.set_credentials(device, token).set_max_packet_size(Some(1 << 20));
            let (client, connection) = v5::Client::new(options, 64);
            client.subscribe(filter, v5::mqttbytes::QoS::AtLeastOnce).expect("queued");
            Client::V5(client, connection)
        } else {
            let mut options = rumqttc::MqttOptions::new(device, "127.0.0.1", port);
            options.set_credentials(device, token).set_max_packet_size(1 << 20, 1 << 20);
            let (client, connection) = rumqttc::Client::new(options, 64);
            client.subscribe(filter, rumqttc::QoS::AtLeastOnce).expect("queued");
            Client::V3(client, connection)
        };
        client.until(|event| matches!(event, Heard::Subscribed).then_some(()));
        client
    }

    fn publish(&self, topic: &str, payload: Vec<u8>) {
        match self {
            Client::V3(client, _) => client.publish(topic, rumqttc::QoS::AtLeastOnce, false, payload).expect("queued"),
            Client::V5(client, _) => {
                client.publish(topic, v5::mqttbytes::QoS::AtLeastOnce, false, payload).expect("queued");
            }
        }
    }

    fn until<T>(&mut self, mut wanted: impl FnMut(Heard) -> Option<T>) -> T {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            let left = PATIENCE.saturating_sub(begun.elapsed());
            let heard = match self {
                Client::V3(_, connection) => {
                    match connection.recv_timeout(left).expect("in time").expect("connected") {
                        rumqttc::Event::Incoming(Packet::Publish(publish)) => {
                            Heard::Said(publish.topic, publish.payload.to_vec())
                        }
                        rumqttc::Event::Incoming(Packet::SubAck(_)) => Heard::Subscribed,
                        _ => continue,
                    }
                }
                Client::V5(_, connection) => {
                    match connection.recv_timeout(left).expect("in time").expect("connected") {
                        v5::Event::Incoming(v5::Incoming::Publish(publish)) => {
                            Heard::Said(String::from_utf8_lossy(&publish.topic).into_owned(), publish.payload.to_vec())
                        }
                        v5::Event::Incoming(v5::Incoming::SubAck(_)) => Heard::Subscribed,
                        _ => continue,
                    }
                }
            };
            if let Some(found) = wanted(heard) {
                return found;
            }
        }
        panic!("not within {PATIENCE:?}");
    }

    /// Everything said about one shadow in answer to one request, in its order.
    fn ask(&mut self, prefix: &str, operation: &str, payload: Vec<u8>) -> Vec<(String, Json)> {
        self.publish(&format!("{prefix}/{operation}"), payload);
        // The answer to a second question lies behind all answers to the first.
        let thing = prefix.split("/shadow").next().expect("a prefix").to_owned();
        self.publish(&format!("{thing}/shadow/name/nothing-here/get"), Vec::new());
        let mut said = Vec::new();
        self.until(|event| {
            let Heard::Said(topic, payload) = event else { return None };
            if topic.ends_with("/name/nothing-here/get/rejected") {
                return Some(());
            }
            if let Some(rest) = topic.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('/')) {
                // The filter brings requests too.
                if !["get", "update", "delete", "name/nothing-here/get"].contains(&rest) {
                    said.push((rest.to_owned(), serde_json::from_slice(&payload).expect("an answer is JSON")));
                }
            }
            None
        });
        said
    }
}

enum Heard {
    Said(String, Vec<u8>),
    Subscribed,
}

/// Fills in what the table leaves open.
fn filled(template: &Json, missing: &str) -> Json {
    match template {
        Json::String(text) if text == "$missing" => json!(format!("No shadow exists with name: '{missing}'")),
        Json::String(text) => match text.strip_prefix("$x:").and_then(|count| count.parse().ok()) {
            Some(count) => json!("x".repeat(count)),
            None => template.clone(),
        },
        Json::Array(items) => items.iter().map(|item| filled(item, missing)).collect(),
        Json::Object(members) => members.iter().map(|(name, value)| (name.clone(), filled(value, missing))).collect(),
        _ => template.clone(),
    }
}

/// The answer with its times replaced by `"$t"`, where they are whole seconds of now.
fn without_times(answer: &Json, now: i64) -> Json {
    match answer {
        Json::Object(members) => members
            .iter()
            .map(|(name, value)| {
                let time = name == "timestamp" && value.as_i64().is_some_and(|at| (at - now).abs() <= 30);
                (name.clone(), if time { json!("$t") } else { without_times(value, now) })
            })
            .collect(),
        Json::Array(items) => items.iter().map(|item| without_times(item, now)).collect(),
        _ => answer.clone(),
    }
}

/// As JSON values compare: numbers by value.
fn same(wanted: &Json, is: &Json) -> bool {
    match (wanted, is) {
        (Json::String(any), Json::String(_)) if any == "$any" => true,
        (Json::Number(a), Json::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Json::Array(a), Json::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Json::Object(a), Json::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| same(a, b)))
        }
        _ => wanted == is,
    }
}

fn payload(step: &Json) -> Vec<u8> {
    if let Some(raw) = step["raw"].as_str() {
        return raw.as_bytes().to_vec();
    }
    if let Some(hex) = step["hex"].as_str() {
        let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal");
        return (0..hex.len()).step_by(2).map(byte).collect();
    }
    filled(&step["payload"], "").to_string().into_bytes()
}

#[test]
fn every_request_of_the_table_has_its_answers_classic_and_named_over_both_versions() {
    let table: Vec<Json> = serde_json::from_str(TABLE).expect("the table is JSON");
    assert!(table.len() >= 60);
    let port = free_port();
    let devices: String =
        (0..table.len()).map(|n| format!("[[device]]\nid = \"v{n}\"\nprotocol = \"mqtt\"\n")).collect();
    let main =
        format!("[broker]\ntcp = [\"127.0.0.1:{port}\"]\ntls = []\n[web]\nlisten = [\"127.0.0.1:{}\"]\n", free_port());
    let gateway = Gateway::builder().toml(&main).devices("all.toml", &devices).start();
    let mut wrong = Vec::new();
    for (number, vector) in table.iter().enumerate() {
        let device = format!("v{number}");
        let (code, answer) = gateway.api("POST", "/v1/credentials", Some(&json!({"device": device, "kind": "token"})));
        assert_eq!(code, 200, "{answer}");
        let token = answer["token"].as_str().expect("a token").to_owned();
        for (named, newer) in [(false, number % 2 == 0), (true, number % 2 == 1)] {
            let mut client = Client::connect(newer, port, &device, &token);
            let (prefix, missing) = match named {
                false => (format!("$aws/things/{device}/shadow"), device.clone()),
                true => (format!("$aws/things/{device}/shadow/name/update"), format!("{device}~update")),
            };
            for (at, step) in vector["steps"].as_array().expect("steps").iter().enumerate() {
                let operation = step["ask"].as_str().expect("an operation");
                let said = client.ask(&prefix, operation, payload(step));
                let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs() as i64;
                let is: Json = said.iter().map(|(topic, answer)| json!([topic, without_times(answer, now)])).collect();
                let wanted = filled(&step["expect"], &missing);
                if !same(&wanted, &is) {
                    let how = format!(
                        "{} shadow, MQTT {}",
                        if named { "named" } else { "classic" },
                        if newer { "5" } else { "3.1.1" }
                    );
                    wrong.push(format!("{} (step {at}, {how})\nwanted {wanted}\n    is {is}", vector["name"]));
                    break;
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {} vectors:\n{}", wrong.len(), table.len(), wrong.join("\n"));
}
