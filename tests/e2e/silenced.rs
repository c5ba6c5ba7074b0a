//! Devices without a connection that may not talk: not heard at the CoAP door until they may.

use serde_json::{Value as Json, json};

use super::{
    gateway::Gateway,
    peers::free_udp_port,
    site::{Ground, output},
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
