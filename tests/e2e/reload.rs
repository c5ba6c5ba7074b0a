//! A configuration that changes while the daemon runs: taken whole or refused whole, and nobody else is touched.

use std::fs;

use serde_json::Value as Json;

use super::{
    gateway::Gateway,
    peers::ModbusSlave,
    site::{Ground, assert_gap_free},
    wishes::hvac,
};

fn problems(gateway: &Gateway) -> Vec<Json> {
    gateway.get("/v1/config/problems")["problems"].as_array().expect("a list").clone()
}

#[test]
fn a_bad_configuration_keeps_the_old_running_and_names_every_problem() {
    let ground = Ground::new();
    let gateway = ground.gateway("").start();
    let child = ground.child(&gateway, "room");
    let _connected = child.listens("#");
    assert!(child.measures(1..=5));
    let pid = gateway.pid();
    let bad = gateway.config_folder().join("devices.d/bad.toml");
    let text = "[bus]\nprotocol = \"modbus-tcp\"\naddress = \"127.0.0.1:1\"\nbuad = 9600\n[[device]]\nid = \"no such id!\"\n\
                unit = 1\ninterval = \"soon\"\n";
    fs::write(&bad, text).expect("written");
    let found = gateway.eventually("the problems", |gateway| Some(problems(gateway)).filter(|found| found.len() >= 3));
    for key in ["buad", "id", "interval"] {
        let named = |problem: &Json| problem["key"].as_str().is_some_and(|found| found.contains(key));
        let problem = found.iter().find(|problem| named(problem)).unwrap_or_else(|| panic!("{key}: {found:?}"));
        assert!(problem["file"].as_str().is_some_and(|file| file.ends_with("bad.toml")), "{problem}");
        assert!(problem["line"].as_u64() > Some(0), "{problem}");
    }
    let check = gateway.cli(&["check"]);
    let said = String::from_utf8_lossy(&check.stderr).into_owned();
    assert_eq!(check.status.code(), Some(78), "{said}");
    for word in ["buad", "no such id!", "soon", "bad.toml:4"] {
        assert!(said.contains(word), "{word}: {said}");
    }
    assert!(child.measures(6..=10), "the old configuration runs");
    assert_eq!(gateway.pid(), pid);

    fs::remove_file(&bad).expect("removed");
    gateway.eventually("no problems", |gateway| problems(gateway).is_empty().then_some(()));
    assert!(gateway.cli(&["check"]).status.success());
    super::eventually("ten readings", || (ground.telemetry("room").len() >= 10).then_some(()));
    assert_gap_free(&ground.telemetry("room"));
}

/// Adds a device by `tell` and shows that the child stays connected and the first bus polls on, on its one connection.
fn a_device_is_added(tell: impl Fn(&Gateway), trigger: &str) {
    let ground = Ground::new();
    let (first, second) = (ModbusSlave::start(), ModbusSlave::start());
    let gateway = ground.gateway("").devices("hall.toml", &hvac(first.port)).start();
    let child = ground.child(&gateway, "room");
    let held = child.listens("delta");
    ground.cloud.expect("devices/hvac/telemetry", |reading| {
        reading.as_array().map_or(reading, |many| &many[0])["values"]["level"] == 20
    });
    let folder = gateway.config_folder().join("devices.d");
    let text = hvac(second.port).replace("hall", "attic").replace("hvac", "fan");
    fs::write(folder.join("attic.toml.new"), text).expect("written");
    fs::rename(folder.join("attic.toml.new"), folder.join("attic.toml")).expect("renamed");
    tell(&gateway);
    super::eventually("the new device's readings", || {
        ground.telemetry("fan").iter().find(|reading| reading["values"]["level"] == 20).map(drop)
    });
    let logged = gateway.logged();
    assert!(logged.iter().any(|line| line.contains(trigger)), "by the way that was meant: {logged:?}");
    let before = ground.telemetry("hvac").len();
    super::eventually("the old device's readings", || (ground.telemetry("hvac").len() > before + 2).then_some(()));
    assert_gap_free(&ground.telemetry("hvac"));
    let bad = |reading: &Json| reading["q"].is_object();
    assert!(!ground.telemetry("hvac").iter().any(bad), "the first bus never lost its device");
    let presence = ground.cloud.on("devices/hvac/status");
    assert!(presence.iter().all(|status| status["state"] == "online"), "{presence:?}");
    ground.says("room", "delta", r#"{"x": 1}"#);
    held.expect("devices/room/delta", |delta| delta["x"] == 1);
    let presence = ground.cloud.on("devices/room/status");
    assert!(presence.iter().all(|status| status["state"] == "online"), "{presence:?}");
}

#[test]
fn a_device_file_that_appears_starts_its_device_and_touches_no_other() {
    a_device_is_added(|_| {}, "trigger=Files");
}

#[test]
fn a_hangup_signal_loads_what_changed() {
    a_device_is_added(Gateway::hup, "trigger=Signal");
}

#[test]
fn what_cannot_change_while_running_is_refused_by_name() {
    let ground = Ground::new();
    let gateway = ground.gateway("").start();
    let main = gateway.config_folder().join("headgate.toml");
    let good = fs::read_to_string(&main).expect("read");
    fs::write(&main, format!("{good}\n[log]\nmax_size = \"1GiB\"\n")).expect("written");
    let (code, report) = gateway.api("POST", "/v1/config/reload", None);
    assert_eq!(code, 200, "{report}");
    let found = report["problems"].as_array().expect("a list");
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0]["key"], "log");
    assert!(found[0]["hint"].as_str().is_some_and(|hint| hint.contains("restart")), "{found:?}");

    fs::write(&main, good.replace("id = \"gw\"", "id = \"other\"")).expect("written");
    let (_, report) = gateway.api("POST", "/v1/config/reload", None);
    assert_eq!(report["problems"][0]["key"], "gateway.id", "{report}");
    assert_eq!(gateway.get("/v1/status")["gateway"], "gw", "the old one runs on");

    fs::write(&main, good).expect("written");
    let (_, report) = gateway.api("POST", "/v1/config/reload", None);
    assert_eq!(report["problems"].as_array().map(Vec::len), Some(0), "{report}");
}

#[test]
fn a_folder_of_devices_that_is_made_anew_is_followed() {
    let ground = Ground::new();
    let gateway = ground.gateway("").devices("old.toml", "[[device]]\nid = \"old\"\nprotocol = \"mqtt\"\n").start();
    let folder = gateway.config_folder().join("devices.d");
    fs::remove_dir_all(&folder).expect("removed");
    fs::create_dir(&folder).expect("made");
    // The second file appears when the first is known: it is seen only where the new folder itself is watched.
    for device in ["first", "second"] {
        let text = format!("[[device]]\nid = \"{device}\"\nprotocol = \"mqtt\"\n");
        fs::write(folder.join(format!("{device}.toml")), text).expect("written");
        gateway.eventually(&format!("{device} is known"), |gateway| {
            gateway.get("/v1/devices").to_string().contains(&format!("\"{device}\"")).then_some(())
        });
    }
}
