//! Every bound of the broker as somebody meets it who breaks it, and where a technician then finds the reason.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use serde_json::Value as Json;

use super::{gateway::Gateway, peers::free_port};

struct Stand {
    gateway: Gateway,
    port: u16,
}

fn stand(limits: &str) -> Stand {
    let port = free_port();
    let gateway = Gateway::builder()
        .toml(&format!(
            "[broker]\ntcp = [\"127.0.0.1:{port}\"]\ntls = []\nanonymous = \"by_client_id\"\n[broker.limits]\n{limits}\n\
             [web]\nenabled = false"
        ))
        .start();
    Stand { gateway, port }
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let (mut out, mut left) = (vec![first], body.len());
    loop {
        let byte = (left % 128) as u8;
        left /= 128;
        out.push(if left > 0 { byte | 128 } else { byte });
        if left == 0 {
            break;
        }
    }
    out.extend(body);
    out
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u16).to_be_bytes()[..], text.as_bytes()].concat()
}

fn publish(topic: &str, bytes: usize) -> Vec<u8> {
    packet(0x30, &[text(topic), vec![b'x'; bytes]].concat())
}

fn subscribe(filter: &str) -> Vec<u8> {
    packet(0x82, &[vec![0, 9], text(filter), vec![0]].concat())
}

impl Stand {
    fn knock(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).expect("connected");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("timeout");
        stream
    }

    /// A client of 3.1.1 with a clean session: nothing of it is kept for its own sake.
    fn client(&self, id: &str) -> TcpStream {
        let mut stream = self.knock();
        stream.write_all(&packet(0x10, &[text("MQTT"), vec![4, 2, 0, 0], text(id)].concat())).expect("sent");
        let mut connack = [0; 4];
        stream.read_exact(&mut connack).expect("CONNACK");
        assert_eq!(connack, [0x20, 2, 0, 0], "{id}");
        stream
    }

    fn row(&self, client: &str, what: &str, fits: impl Fn(&Json) -> bool) -> Json {
        self.gateway.eventually(&format!("{client}: {what}"), |gateway| {
            let rows = gateway.get("/v1/connections");
            rows.as_array().expect("a list").iter().find(|row| row["clientId"] == client && fits(row)).cloned()
        })
    }

    fn failed(&self, client: &str, error: &str) -> Json {
        self.row(client, error, |row| row["lastError"].as_str().is_some_and(|said| said.contains(error)))
    }

    /// Who was refused for `reason`, with its count.
    fn refused(&self, reason: &str, least: u64) -> Json {
        self.gateway.eventually(reason, |gateway| {
            let rows = gateway.get("/v1/credentials/refused");
            let fits = |row: &&Json| row["reason"] == reason && row["count"].as_u64() >= Some(least);
            rows.as_array().expect("a list").iter().find(fits).cloned()
        })
    }
}

/// Reads until the other side closes.
fn closed(mut stream: TcpStream) {
    let _ = stream.read_to_end(&mut Vec::new());
}

#[test]
fn a_client_that_breaks_a_bound_is_seen_with_its_reason_also_when_it_has_gone_and_come_back() {
    let stand =
        stand("packet = \"1KiB\"\ntopic = 64\nlevels = 5\nsubscriptions = 2\nqueued = \"1MiB\"\nwrite_within = \"2s\"");
    let grant = "[[grant]]\nto = [\"device:loud\"]\nwrite = [\"devices/slow/notes\"]\n";
    std::fs::write(stand.gateway.config_folder().join("access.toml"), grant).expect("written");
    let mut big = stand.client("big");
    big.write_all(&publish("devices/big/telemetry", 2000)).expect("sent");
    closed(big);
    let row = stand.failed("big", "at most 1024");
    assert!(row["ended"] == true && row["connected"] == false && row["lastErrorAt"].is_number(), "{row}");
    assert!(row["address"].as_str().is_some_and(|a| a.starts_with("127.0.0.1:")) && row["protocol"] == "mqtt 3.1.1");
    let screen = String::from_utf8(stand.gateway.cli(&["status"]).stdout).expect("UTF-8");
    assert!(screen.contains("at most 1024"), "{screen}");
    let again = stand.client("big");
    let row = stand.failed("big", "at most 1024");
    assert!(row["connected"] == true && row["ended"] == false, "back, and still with what happened: {row}");
    drop(again);

    let mut deep = stand.client("deep");
    deep.write_all(&publish("devices/deep/telemetry/a/b/c", 2)).expect("sent");
    let row = stand.failed("deep", "5 levels");
    assert_eq!(row["dropped"]["refused-topic-invalid"], 1, "{row}");
    deep.write_all(&publish(&format!("devices/deep/{}", "t".repeat(60)), 2)).expect("sent");
    stand.row("deep", "too long", |row| row["dropped"]["refused-topic-invalid"] == 2);
    for filter in ["devices/deep/delta", "devices/deep/commands/#", "devices/deep/config"] {
        deep.write_all(&subscribe(filter)).expect("sent");
    }
    stand.failed("deep", "at most 2 subscriptions");

    // A reader that takes nothing: what does not fit is dropped and counted, and in the end it is sent away.
    let mut slow = stand.client("slow");
    slow.write_all(&subscribe("devices/slow/notes")).expect("sent");
    slow.read_exact(&mut [0; 5]).expect("SUBACK");
    let loud = stand.client("loud");
    let flood = publish("devices/slow/notes", 900).repeat(1000);
    let dropped = |row: &Json| row["dropped"]["slow-reader-qos-0"].as_u64().is_some_and(|n| n > 0);
    // the flood goes on until the systems between have no room either
    let row = stand.row("slow", "takes nothing", |row| {
        (&loud).write_all(&flood).expect("sent");
        row["lastError"].as_str().is_some_and(|said| said.contains("takes nothing"))
    });
    assert!(row["ended"] == true && dropped(&row), "{row}");
    let (_, metrics) = stand.gateway.api("GET", "/v1/metrics", None);
    let name = "headgate_broker_dropped_total{device=\"slow\",client=\"slow\",reason=\"slow-reader-qos-0\"}";
    assert!(metrics.as_str().expect("text").contains(name), "{metrics}");
}

#[test]
fn whoever_is_not_let_in_is_listed_with_the_reason() {
    let stand = stand("connections_per_address = 4\nconnects_per_second = 3\nconnect_within = \"2s\"");
    // Four that say nothing fill the address; the fifth finds no place, and the four must go in time.
    let silent: Vec<TcpStream> = (0..4).map(|_| stand.knock()).collect();
    closed(stand.knock());
    let row = stand.refused("connections-of-address", 1);
    assert!(row["address"] == "127.0.0.1" && row["text"].as_str().is_some_and(|t| t.contains('4')), "{row}");
    silent.into_iter().for_each(closed);
    let row = stand.refused("too-slow", 4);
    assert!(row["text"].as_str().is_some_and(|text| text.contains("no CONNECT in time")), "{row}");

    let mut browser = stand.knock();
    browser.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("sent");
    closed(browser);
    stand.refused("not-mqtt", 1);
    let mut will = stand.knock();
    let connect = [text("MQTT"), vec![4, 6, 0, 0], text("pump"), text("elsewhere"), text("gone")].concat();
    will.write_all(&packet(0x10, &connect)).expect("sent");
    closed(will);
    let row = stand.refused("will-refused", 1);
    assert!(row["device"] == "pump" && row["text"].as_str().is_some_and(|text| text.contains("elsewhere")), "{row}");

    // Ten seconds' worth may come at once, and more is too often.
    let row = stand.gateway.eventually("connect-rate", |gateway| {
        (0..10).for_each(|_| drop(stand.knock()));
        let rows = gateway.get("/v1/credentials/refused");
        rows.as_array().expect("a list").iter().find(|row| row["reason"] == "connect-rate").cloned()
    });
    assert!(row["text"].as_str().is_some_and(|text| text.contains("3 times a second")), "{row}");
    let listed = String::from_utf8(stand.gateway.cli(&["credential", "refused"]).stdout).expect("UTF-8");
    assert!(listed.contains("no CONNECT in time") && listed.contains("its address has its 4 connections"), "{listed}");
    let (_, metrics) = stand.gateway.api("GET", "/v1/metrics", None);
    assert!(metrics.as_str().expect("text").contains("headgate_logins_refused_total{reason=\"connect-rate\"}"));
    let screen = String::from_utf8(stand.gateway.cli(&["status"]).stdout).expect("UTF-8");
    assert!(screen.contains("refused at the door"), "{screen}");
    // And it lets in again who waits.
    stand.gateway.eventually("a place", |_| {
        let mut stream = stand.knock();
        let connect = packet(0x10, &[text("MQTT"), vec![4, 2, 0, 0], text("pump")].concat());
        (stream.write_all(&connect).is_ok() && stream.read_exact(&mut [0; 4]).is_ok()).then_some(())
    });
}

#[test]
fn devices_that_only_say_who_they_are_are_bounded_and_known_ones_go_on() {
    let mut stand = stand("anonymous_devices = 2");
    // with the properties' length behind the keep-alive where it is MQTT 5
    let connack = |stand: &Stand, id: &str, version: u8| {
        let header = [text("MQTT"), vec![version, 2, 0, 0]].concat();
        let properties = if version == 5 { vec![0] } else { vec![] };
        let mut stream = stand.knock();
        stream.write_all(&packet(0x10, &[header, properties, text(id)].concat())).expect("sent");
        let mut connack = [0; 4];
        stream.read_exact(&mut connack).expect("CONNACK");
        connack[3]
    };
    let known = |stand: &Stand, id: &str| {
        stand.gateway.eventually(id, |gateway| {
            gateway.get("/v1/devices").as_array()?.iter().find(|row| row["id"] == id).map(drop)
        });
    };
    let unknown = |stand: &Stand, id: &str| {
        let rows = stand.gateway.get("/v1/devices");
        assert!(!rows.as_array().expect("a list").iter().any(|row| row["id"] == id), "{rows}");
    };
    assert_eq!([connack(&stand, "one", 4), connack(&stand, "two", 5)], [0, 0]);
    for (version, code) in [(5, 0x97), (4, 3)] {
        assert_eq!(connack(&stand, "three", version), code, "version {version}");
    }
    let row = stand.refused("anonymous-devices", 2);
    let said = row["text"].as_str().expect("text");
    assert!(row["device"] == "three" && said.contains("its 2 devices"), "{row}");
    let (_, metrics) = stand.gateway.api("GET", "/v1/metrics", None);
    assert!(metrics.as_str().expect("text").contains("headgate_logins_refused_total{reason=\"anonymous-devices\"} 2"));
    let listed = String::from_utf8(stand.gateway.cli(&["credential", "refused"]).stdout).expect("UTF-8");
    assert!(listed.contains("three") && listed.contains("anonymous_devices"), "{listed}");
    assert_eq!([connack(&stand, "one", 5), connack(&stand, "two", 4)], [0, 0], "they are known");
    ["one", "two"].iter().for_each(|id| known(&stand, id));
    unknown(&stand, "three");
    // Who asks again and again says nothing new in the log.
    (0..200).for_each(|_| assert_eq!(connack(&stand, "three", 4), 3));
    let logged = stand.gateway.logged();
    let lines = logged.iter().filter(|line| line.contains("anonymous_devices")).count();
    assert!((1..=12).contains(&lines), "{lines} lines");

    // A device of the configuration is known before it comes, and what is known outlasts a kill.
    let file = stand.gateway.config_folder().join("devices.d/four.toml");
    std::fs::write(file, "[[device]]\nid = \"four\"\nprotocol = \"mqtt\"\n").expect("written");
    stand.gateway.says("READY=1");
    known(&stand, "four");
    assert_eq!(connack(&stand, "four", 5), 0);
    stand.gateway.kill();
    stand.gateway.start_again();
    for id in ["one", "two", "four"] {
        assert_eq!(connack(&stand, id, 5), 0, "{id}");
    }
    assert_eq!(connack(&stand, "three", 5), 0x97);
}
