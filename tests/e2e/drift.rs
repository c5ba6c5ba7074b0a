//! A device that is not what it should be: seen, counted, alarmed, mended.

use serde_json::{Value as Json, json};

use super::{gateway::Gateway, site::Ground};

const ROOM: &str = "[[device]]\nid = \"room\"\nprotocol = \"mqtt\"\n";

/// The drift the device is shown with, once it has `kind`.
fn drifted(gateway: &Gateway, kind: &str) -> Json {
    gateway.eventually(&format!("room drifts in its {kind}"), |gateway| {
        let shown = gateway.get("/v1/devices/room");
        shown["drift"].as_array()?.iter().find(|drift| drift["kind"] == kind).cloned()
    })
}

fn alarm(gateway: &Gateway, kind: &str, active: bool) {
    gateway.eventually(&format!("the alarm {kind} is active: {active}"), |gateway| {
        let alarms = gateway.get("/v1/alarms");
        let ours = alarms.as_array()?.iter().find(|alarm| alarm["type"] == kind)?;
        (ours["active"] == active && ours["device"] == "room").then_some(())
    });
}

#[test]
fn another_firmware_than_the_desired_one_is_counted_and_alarmed_until_the_device_runs_it() {
    let ground = Ground::new();
    let gateway = ground.gateway("[shadows]\ndrift_alarm = \"1s\"\n").devices("room.toml", ROOM).start();
    let child = ground.child(&gateway, "room");
    child.says("heartbeat", r#"{"firmwareVersion": "1.0.0"}"#);
    ground.reaches_the_gateway();
    ground.says("room", "delta", r#"{"firmwareVersion": "1.1.0"}"#);

    assert_eq!(drifted(&gateway, "firmware")["text"], "should run firmware 1.1.0, runs 1.0.0");
    alarm(&gateway, "firmware-drift", true);
    ground.cloud.expect("devices/room/events", |event| event["type"] == "firmware-drift" && event["state"] == "raised");
    let counts = &gateway.get("/v1/status")["compliance"];
    let wanted = json!({"devices": 1, "compliant": 0, "configuration": 0, "firmware": 1, "identity": 0, "alarmed": 1});
    assert_eq!(*counts, wanted);
    // The cloud is told the same, on the gateway's own topic.
    let beat = ground.cloud.expect("devices/gw/heartbeat", |beat| beat["compliance"] == wanted);
    assert_eq!(beat["firmwareVersion"], env!("CARGO_PKG_VERSION"), "{beat}");
    let drifted_at = beat["ts"].as_i64().expect("a time");
    assert!(beat["uptime"].is_u64() && beat["freeMemory"].is_u64() && beat["seq"].is_u64(), "{beat}");
    let screen = String::from_utf8(gateway.cli(&["status"]).stdout).expect("text");
    assert!(screen.contains("0 of 1 as they should be; drifted: 1 in firmware, 1 alarmed"), "{screen}");

    child.says("heartbeat", r#"{"firmwareVersion": "1.1.0"}"#);
    alarm(&gateway, "firmware-drift", false);
    assert_eq!(gateway.get("/v1/status")["compliance"]["compliant"], 1);
    ground.cloud.expect("devices/gw/heartbeat", |beat| {
        beat["ts"].as_i64() > Some(drifted_at) && beat["compliance"]["compliant"] == 1
    });
}

#[test]
fn the_gateway_tells_how_it_is_where_nothing_changes_too() {
    let ground = Ground::new();
    let gateway = ground.gateway("heartbeat = \"1s\"\n").devices("room.toml", ROOM).start();
    let counts = json!({"devices": 1, "compliant": 1, "configuration": 0, "firmware": 0, "identity": 0, "alarmed": 0});
    gateway.eventually("three heartbeats that say the same", |_| {
        let beats = ground.cloud.on("devices/gw/heartbeat");
        (beats.iter().filter(|beat| beat["compliance"] == counts).count() >= 3).then_some(())
    });
}

#[test]
fn a_configuration_that_is_not_acknowledged_is_pushed_again_and_alarmed_through_a_kill() {
    let ground = Ground::new();
    let patience = "[shadows]\nconfig_ack = \"1s\"\nconfig_pushes = 2\ndrift_alarm = \"3s\"\n";
    let mut gateway = ground.gateway(patience).devices("room.toml", ROOM).start();
    let child = ground.child(&gateway, "room");
    let heard = child.listens("config/desired");
    let config = json!({"version": 3, "config": {"rate": 5}});
    assert_eq!(gateway.api("PUT", "/v1/devices/room/config", Some(&config)).0, 202);
    let pushed = gateway.eventually("two pushes", |gateway| {
        let config = gateway.get("/v1/devices/room")["config"].clone();
        (config["pushes"] == 2).then_some(config)
    });
    assert_eq!((&pushed["status"], &pushed["appliedHash"]), (&json!("pending"), &Json::Null));
    assert!(pushed["desiredHash"].is_string() && pushed["pushed"].is_number(), "{pushed}");
    heard.expect("devices/room/config/desired", |said| said["version"] == 3);
    let since = drifted(&gateway, "configuration")["since"].clone();
    alarm(&gateway, "config-drift", true);

    gateway.kill();
    gateway.start_again();
    let again = drifted(&gateway, "configuration");
    assert_eq!((&again["since"], &again["alarmed"]), (&since, &json!(true)), "the beginning is kept");
    let child = ground.child(&gateway, "room");
    child.says("config/ack", r#"{"version": 3, "status": "applied"}"#);
    alarm(&gateway, "config-drift", false);
    let shown = gateway.get("/v1/devices/room");
    assert_eq!((&shown["drift"], &shown["config"]["appliedHash"]), (&json!([]), &pushed["desiredHash"]));
}

#[test]
fn another_unit_than_the_registered_one_is_told_and_alarmed_until_it_is_registered() {
    let ground = Ground::new();
    let registered = |serial: &str| format!("{ROOM}serial_number = \"{serial}\"\n");
    let gateway = ground.gateway("[shadows]\ndrift_alarm = \"1s\"\n").devices("room.toml", &registered("A-1")).start();
    let child = ground.child(&gateway, "room");
    child.says("state", r#"{"reported": {"serialNumber": "A-1"}}"#);
    ground.cloud.expect("devices/gw/heartbeat", |beat| beat["compliance"]["compliant"] == 1);
    child.says("state", r#"{"reported": {"serialNumber": "B-2"}}"#);
    assert_eq!(drifted(&gateway, "identity")["text"], "should be serial number A-1, is B-2: another unit");
    alarm(&gateway, "identity-drift", true);
    ground.cloud.expect("devices/gw/heartbeat", |beat| beat["compliance"]["identity"] == 1);

    // Whoever changed the unit writes it down.
    std::fs::write(gateway.config_folder().join("devices.d/room.toml"), registered("B-2")).expect("written");
    assert!(gateway.cli(&["reload"]).status.success());
    alarm(&gateway, "identity-drift", false);
    assert_eq!(gateway.get("/v1/devices/room")["drift"], json!([]));
}
