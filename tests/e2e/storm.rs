//! kill -9 in a storm of shadow updates through the daemon's own MQTT door: versions never go back, what was accepted is
//! there, what is open is told again. `HEADGATE_STORMS=200` makes more of them than the few of every run.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use rumqttc::{Client, Connection, Event, MqttOptions, Packet, QoS};
use serde_json::{Value as Json, json};

use super::{gateway::Gateway, peers::free_port};

/// Members the updates are spread over.
const MEMBERS: u64 = 200;

/// What the device has been told so far.
#[derive(Default)]
struct Told {
    /// Version to token.
    accepted: BTreeMap<u64, u64>,
    /// Member to the number it was last accepted with.
    members: BTreeMap<u64, u64>,
}

impl Told {
    /// An `update/accepted`: another version than all before, and a higher one than any of an earlier life.
    fn hear(&mut self, answer: &Json, before: u64) {
        let version = answer["version"].as_u64().expect("a version");
        let number: u64 = answer["clientToken"].as_str().expect("a token").parse().expect("a number");
        assert!(version > before, "version {version} after version {before} of an earlier life");
        let known = self.accepted.insert(version, number);
        assert!(known.is_none_or(|known| known == number), "version {version} stands for {known:?} and {number}");
        let member = self.members.entry(number % MEMBERS).or_insert(0);
        *member = number.max(*member);
    }
}

fn connect(port: u16, token: &str) -> (Client, Connection) {
    let mut options = MqttOptions::new("d", "127.0.0.1", port);
    options.set_credentials("d", token).set_inflight(64).set_max_packet_size(1 << 20, 1 << 20);
    let (client, mut connection) = Client::new(options, 50_000);
    for filter in ["$aws/things/d/shadow/+/accepted", "devices/d/delta"] {
        client.subscribe(filter, QoS::AtLeastOnce).expect("queued");
    }
    let mut granted = 0;
    let begun = Instant::now();
    while granted < 2 {
        assert!(begun.elapsed() < Duration::from_secs(30), "not connected");
        if let Ok(Ok(Event::Incoming(Packet::SubAck(_)))) = connection.recv_timeout(Duration::from_secs(5)) {
            granted += 1;
        }
    }
    (client, connection)
}

/// The next message on `topic`; others go to `aside`.
fn next(connection: &mut Connection, topic: &str, mut aside: impl FnMut(&str, Json)) -> Json {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(30) {
        let event = connection.recv_timeout(Duration::from_secs(30)).expect("in time").expect("connected");
        if let Event::Incoming(Packet::Publish(publish)) = event {
            let json = serde_json::from_slice(&publish.payload).expect("JSON");
            if publish.topic == topic {
                return json;
            }
            aside(&publish.topic, json);
        }
    }
    panic!("nothing on {topic} within 30 s");
}

#[test]
fn kills_in_a_storm_of_updates_take_no_version_back_and_lose_nothing_that_was_accepted() {
    let storms: u64 = std::env::var("HEADGATE_STORMS").ok().and_then(|n| n.parse().ok()).unwrap_or(4);
    let (port, page) = (free_port(), free_port());
    let main = format!("[broker]\ntcp = [\"127.0.0.1:{port}\"]\ntls = []\n[web]\nlisten = [\"127.0.0.1:{page}\"]\n");
    let mut gateway =
        Gateway::builder().toml(&main).devices("d.toml", "[[device]]\nid = \"d\"\nprotocol = \"mqtt\"\n").start();
    let (code, answer) = gateway.api("POST", "/v1/credentials", Some(&json!({"device": "d", "kind": "token"})));
    assert_eq!(code, 200, "{answer}");
    let token = answer["token"].as_str().expect("a token").to_owned();
    let (mut told, mut number, mut random) = (Told::default(), 0_u64, 0x5EED_u64);
    for storm in 1..=storms {
        let before = told.accepted.last_key_value().map_or(0, |(version, _)| *version);
        let (client, mut connection) = connect(port, &token);
        for _ in 0..5000 {
            number += 1;
            let update = json!({"state": {"reported": {(format!("m{}", number % MEMBERS)): number}}, "clientToken": number.to_string()});
            client
                .try_publish("$aws/things/d/shadow/update", QoS::AtLeastOnce, false, update.to_string())
                .expect("queued");
        }
        let wish = json!({"desired": {"wish": storm}});
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let enough = told.accepted.len() + 20 + (random >> 33) as usize % 600;
        // Until as many are accepted as chance says; then a wish is placed, and nothing comes after it.
        loop {
            let answer = next(&mut connection, "$aws/things/d/shadow/update/accepted", |_, _| {});
            told.hear(&answer, before);
            if told.accepted.len() >= enough {
                break;
            }
        }
        let (code, answer) = gateway.api("PATCH", "/v1/devices/d/shadow", Some(&wish));
        assert_eq!(code, 202, "{answer}");
        gateway.kill();
        // What was on the wire before the kill was accepted too; the wish has a version without a token.
        while let Ok(Ok(event)) = connection.recv_timeout(Duration::from_secs(5)) {
            if let Event::Incoming(Packet::Publish(publish)) = event
                && publish.topic.ends_with("update/accepted")
            {
                let answer: Json = serde_json::from_slice(&publish.payload).expect("JSON");
                if answer.get("clientToken").is_some() {
                    told.hear(&answer, before);
                }
            }
        }
        gateway.start_again();
        let (client, mut connection) = connect(port, &token);
        let delta = next(&mut connection, "devices/d/delta", |_, _| {});
        assert_eq!(delta["wish"], storm, "told again without being asked");
        client.publish("$aws/things/d/shadow/get", QoS::AtLeastOnce, false, "").expect("queued");
        let got = next(&mut connection, "$aws/things/d/shadow/get/accepted", |_, _| {});
        let version = got["version"].as_u64().expect("a version");
        let highest = told.accepted.last_key_value().map_or(0, |(version, _)| *version);
        assert!(version >= highest, "version {version} after {highest} was told");
        for (member, least) in &told.members {
            let has = got["state"]["reported"][format!("m{member}")].as_u64().unwrap_or(0);
            assert!(has >= *least, "m{member} is {has}, and {least} was accepted");
        }
        // What was stored and not told counts as well: the next life begins above it.
        told.accepted.insert(version, told.accepted.get(&version).copied().unwrap_or(0));
        drop(client);
    }
    eprintln!("{storms} kills, {} updates accepted", told.accepted.len());
}
