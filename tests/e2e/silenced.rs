//! Devices without a connection that may not talk: not heard at the CoAP door, not asked, not written to, until they may.

use serde_json::{Value as Json, json};

use super::{
    eventually,
    gateway::Gateway,
    peers::{ModbusSlave, coap_server, free_udp_port},
    site::{Ground, output},
    wishes::hvac,
};

fn live(gateway: &Gateway, id: &str, lifecycle: &str) {
    let done = gateway.cli(&["device", "lifecycle", id, lifecycle]);
    assert!(done.status.success(), "{id} {lifecycle}: {}", String::from_utf8_lossy(&done.stderr));
}

fn shown(gateway: &Gateway, id: &str) -> Json {
    gateway.get(&format!("/v1/devices/{id}"))
}

/// Waits until `id` has this presence for this reason.
fn stands(gateway: &Gateway, id: &str, presence: &str, reason: &Json) {
    gateway.eventually(&format!("{id} is {presence}: {reason}"), |gateway| {
        let device = shown(gateway, id);
        (device["presence"] == presence && device["reason"] == *reason).then_some(())
    });
}

fn door(port: u16, more: &str) -> String {
    format!("[coap]\nlisten = \"127.0.0.1:{port}\"\nunprotected = [\"sensor\"]\n{more}")
}

/// The answer to telemetry of `sensor`.
fn post(port: u16, n: u64) -> String {
    let (payload, uri) = (format!("{{\"n\": {n}}}"), format!("coap://127.0.0.1:{port}/devices/sensor/telemetry"));
    output("coap-client-notls", &["-v", "6", "-B", "20", "-m", "post", "-t", "50", "-e", &payload, &uri])
}

/// The row of `headgate credential refused` about `sensor`.
fn refused(gateway: &Gateway, word: &str) -> Json {
    gateway.eventually("the refusal is listed", |gateway| {
        let rows = gateway.get("/v1/credentials/refused");
        let fits = |row: &&Json| row["device"] == "sensor" && row["text"].as_str().is_some_and(|t| t.contains(word));
        rows.as_array().expect("a list").iter().find(fits).cloned()
    })
}

#[test]
fn nothing_of_a_suspended_coap_client_is_stored_until_it_is_active_again() {
    let ground = Ground::new();
    let port = free_udp_port();
    let mut gateway = ground.gateway(&door(port, "")).start();
    assert!(post(port, 1).contains("2.04"));
    ground.cloud.expect("devices/sensor/telemetry", |reading| reading["values"]["n"] == 1);
    for lifecycle in ["suspended", "quarantined"] {
        live(&gateway, "sensor", lifecycle);
        let answer = post(port, 2);
        assert!(answer.contains("4.03") && answer.contains(lifecycle), "{answer}");
        stands(&gateway, "sensor", "offline", &json!(lifecycle));
    }
    let row = refused(&gateway, "Quarantined");
    assert_eq!(
        (&row["reason"], &row["address"], &row["count"]),
        (&json!("not-active"), &json!("127.0.0.1"), &json!(2))
    );
    let (_, metrics) = gateway.api("GET", "/v1/metrics", None);
    assert!(metrics.as_str().expect("text").contains("headgate_logins_refused_total{reason=\"not-active\"} 2"));
    gateway.kill();
    gateway.start_again();
    assert!(post(port, 3).contains("4.03"), "after a restart");
    live(&gateway, "sensor", "active");
    assert!(post(port, 4).contains("2.04"));
    stands(&gateway, "sensor", "online", &Json::Null);
    ground.cloud.expect("devices/sensor/telemetry", |reading| reading["values"]["n"] == 4);
    let heard: Vec<_> = ground.telemetry("sensor").iter().map(|reading| reading["values"]["n"].clone()).collect();
    assert!(heard.iter().all(|n| *n == 1 || *n == 4), "{heard:?}");
    live(&gateway, "sensor", "decommissioned");
    assert!(post(port, 5).contains("this device is decommissioned"));
}

#[test]
fn a_coap_client_waits_for_approval_from_its_first_message_on() {
    let ground = Ground::new();
    let port = free_udp_port();
    let gateway = ground.gateway(&door(port, "[presence]\nadmit = \"pending\"\n")).start();
    for n in [1, 2] {
        let answer = post(port, n);
        assert!(answer.contains("4.03") && answer.contains("pending"), "{answer}");
        gateway.eventually("it is listed", |gateway| {
            let devices = gateway.get("/v1/devices");
            let row = devices.as_array()?.iter().find(|row| row["id"] == "sensor")?.clone();
            let facts = (&row["lifecycle"], &row["protocol"], &row["presence"]);
            assert_eq!(facts, (&json!("pending"), &json!("coap"), &json!("never-seen")));
            Some(())
        });
    }
    live(&gateway, "sensor", "active");
    assert!(post(port, 3).contains("2.04"));
    let reading = ground.cloud.expect("devices/sensor/telemetry", |_| true);
    assert_eq!((&reading["values"]["n"], &reading["seq"]), (&json!(3), &json!(1)), "the first of all");
}

#[test]
fn a_suspended_device_is_neither_asked_nor_written_to_until_it_is_active_again() {
    let ground = Ground::new();
    let (slave, port) = (ModbusSlave::start(), free_udp_port());
    let _server = coap_server(port);
    let clocks: String = ["clock", "hands"]
        .map(|id| {
            format!(
                "[[device]]\nid = \"{id}\"\nprotocol = \"coap\"\naddress = \"127.0.0.1:{port}\"\n[[device.resource]]\n\
                 path = \"time\"\nname = \"time\"\nformat = \"text\"\nmode = \"poll\"\nevery = \"300ms\"\n"
            )
        })
        .concat();
    let mut gateway =
        ground.gateway("").devices("clocks.toml", &clocks).devices("hall.toml", &hvac(slave.port)).start();
    // The other one on the same server tells the time: whoever were asked would have been, by its next values.
    let later = || {
        let before = ground.telemetry("clock").len();
        eventually("three more values of clock", || (ground.telemetry("clock").len() >= before + 3).then_some(()));
    };
    stands(&gateway, "hands", "online", &Json::Null);
    ground.cloud.expect("devices/hvac/state", |state| state["reported"]["setpoint"] == 10);
    for id in ["hands", "hvac"] {
        live(&gateway, id, "suspended");
        stands(&gateway, id, "offline", &json!("suspended"));
    }
    // What was under way when they were suspended is over then.
    later();
    let silent = |gateway: &Gateway| {
        let last = ["hands", "hvac"].map(|id| shown(gateway, id)["values"].clone());
        later();
        assert_eq!(["hands", "hvac"].map(|id| shown(gateway, id)["values"].clone()), last);
    };
    gateway.cli(&["device", "set", "hvac", "setpoint=22", "--wait", "0s"]);
    silent(&gateway);
    // Neither a start nor another configuration asks them again.
    gateway.kill();
    gateway.start_again();
    silent(&gateway);
    std::fs::write(gateway.config_folder().join("devices.d/clocks.toml"), clocks.replace("300ms", "250ms"))
        .expect("written");
    gateway.eventually("the new configuration", |gateway| {
        gateway.get("/v1/config/problems")["changes"].to_string().contains("clock changed").then_some(())
    });
    silent(&gateway);
    let (_, shadow) = gateway.api("GET", "/v1/devices/hvac/shadow", None);
    assert_eq!(shadow["state"]["delta"]["setpoint"], 22, "it waits: {shadow}");
    let before = ground.telemetry("hands").len();
    for id in ["hands", "hvac"] {
        live(&gateway, id, "active");
        stands(&gateway, id, "online", &Json::Null);
    }
    ground.cloud.expect("devices/hvac/state", |state| state["reported"]["setpoint"] == 22);
    eventually("hands tell the time again", || (ground.telemetry("hands").len() > before).then_some(()));
    for id in ["hands", "hvac"] {
        live(&gateway, id, "decommissioned");
        stands(&gateway, id, "offline", &json!("decommissioned"));
    }
    later();
    silent(&gateway);
}
