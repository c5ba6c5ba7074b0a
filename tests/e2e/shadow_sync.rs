//! The shadows of the real daemon and those of a cloud, kept equal through outages, mischief, deletions and kills.

use serde_json::{Value as Json, json};

use super::{
    gateway::{Builder, Gateway},
    shadow_cloud::{Mischief, ShadowCloud, too_many},
    site::Ground,
};

const ROOM: &str = "[[device]]\nid = \"room\"\nprotocol = \"mqtt\"\n[[device]]\nid = \"hall\"\nprotocol = \"mqtt\"\n";

fn gateway(ground: &Ground, more: &str) -> Builder {
    let more = format!("dialect = \"aws\"\n[uplink.shadows]\ninterval = \"50ms\"\nanswer_timeout = \"1s\"\n{more}");
    ground.gateway(&more).devices("room.toml", ROOM)
}

/// What the gateway holds: the stored sections, without delta.
fn here(gateway: &Gateway, device: &str, name: &str) -> Option<Json> {
    let path = match name {
        "" => format!("/v1/devices/{device}/shadow"),
        name => format!("/v1/devices/{device}/shadows/{name}"),
    };
    let (code, shadow) = gateway.api("GET", &path, None);
    let mut state = (code == 200).then(|| shadow["state"].clone())?;
    state.as_object_mut()?.remove("delta");
    Some(state)
}

/// Waits until both sides hold the same and `wanted` likes it.
fn equal(gateway: &Gateway, cloud: &ShadowCloud, (device, name): (&str, &str), wanted: impl Fn(Option<&Json>) -> bool) {
    let mut last = (None, None);
    let begun = std::time::Instant::now();
    while begun.elapsed() < std::time::Duration::from_secs(45) {
        last = (here(gateway, device, name), cloud.shadow(device, name).map(|(state, _)| state));
        if last.0 == last.1 && wanted(last.0.as_ref()) {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(25));
    }
    panic!("{device} {name:?} is not equal, or not as wanted:\n here {:?}\nthere {:?}", last.0, last.1);
}

fn desire(gateway: &Gateway, device: &str, desired: Json) {
    let body = json!({ "desired": desired });
    let (code, answer) = gateway.api("PATCH", &format!("/v1/devices/{device}/shadow"), Some(&body));
    assert!(code == 200 || code == 202, "{code} {answer}");
}

fn history(gateway: &Gateway, device: &str) -> Vec<Json> {
    gateway.get(&format!("/v1/devices/{device}/history")).as_array().cloned().unwrap_or_default()
}

#[test]
fn what_is_reported_goes_up_what_is_desired_comes_down_and_an_outage_of_both_sides_ends_equal() {
    let mut ground = Ground::new();
    let cloud = ShadowCloud::start(ground.mosquitto.port, &ground.runtime);
    let gateway = gateway(&ground, "").start();
    let child = ground.child(&gateway, "room");
    child.says("state", r#"{"reported": {"temp": 20, "mode": {"a": 1, "b": 1}, "old": 1}}"#);
    equal(&gateway, &cloud, ("room", ""), |state| state.is_some_and(|s| s["reported"]["temp"] == 20));
    let delta = child.listens("delta");
    cloud.update("room", "", json!({"desired": {"setpoint": 21}}));
    delta.expect("devices/room/delta", |delta| delta["setpoint"] == 21);
    equal(&gateway, &cloud, ("room", ""), |state| state.is_some_and(|s| s["desired"]["setpoint"] == 21));
    drop(delta);

    // Both sides go on alone.
    ground.mosquitto.stop();
    child.says("state", r#"{"reported": {"temp": 22, "mode": {"a": 2}, "old": null}}"#);
    desire(&gateway, "room", json!({"setpoint": 25, "fan": 1}));
    cloud.update(
        "room",
        "",
        json!({"desired": {"setpoint": 18, "light": true}, "reported": {"temp": 99, "mode": {"b": 3}}}),
    );
    ground.mosquitto.start_again();
    let merged = json!({
        "desired": {"setpoint": 18, "fan": 1, "light": true},
        "reported": {"temp": 22, "mode": {"a": 2, "b": 3}},
    });
    equal(&gateway, &cloud, ("room", ""), |state| state == Some(&merged));

    let told = gateway.eventually("the history of both conflicts", |gateway| {
        let all = history(gateway, "room");
        let from_cloud =
            all.iter().any(|c| c["door"] == "cloud" && c["change"]["setpoint"] == 18 && c["before"]["setpoint"] == 25);
        let overruled = all.iter().any(|c| {
            let both = c["note"].as_str().is_some_and(|note| note.contains("changed on both sides"));
            c["section"] == "cloud" && c["change"]["reported/temp"] == 22 && c["before"]["reported/temp"] == 99 && both
        });
        let technician =
            all.iter().any(|c| c["door"].to_string().contains("technician") && c["change"]["setpoint"] == 25);
        (from_cloud && overruled && technician).then_some(all)
    });
    assert!(told.iter().any(|c| c["door"] == "device" && c["change"]["temp"] == 22), "{told:?}");
    gateway.eventually("the view says that both are equal", |gateway| {
        (gateway.get("/v1/devices/room/shadow")["sync"]["state"] == "equal").then_some(())
    });
}

#[test]
fn deletions_while_away_reach_the_other_side_classic_and_named() {
    let mut ground = Ground::new();
    let cloud = ShadowCloud::start(ground.mosquitto.port, &ground.runtime);
    let mut gateway = gateway(&ground, "subscribe = \"each\"\n").start();
    let child = ground.child(&gateway, "room");
    child.says("state", r#"{"reported": {"temp": 20}}"#);
    let written = |gateway: &Gateway, name: &str, body: Json| {
        let (code, answer) = gateway.api("PATCH", &format!("/v1/devices/room/shadows/{name}"), Some(&body));
        assert!(code == 200 || code == 202, "{code} {answer}");
    };
    for name in ["a", "b", "c", "d", "get"] {
        written(&gateway, name, json!({"desired": {"n": name}}));
        equal(&gateway, &cloud, ("room", name), |state| state.is_some());
    }
    equal(&gateway, &cloud, ("room", ""), |state| state.is_some());
    ground.mosquitto.stop();
    cloud.delete("room", "");
    cloud.delete("room", "a");
    cloud.delete("room", "get");
    cloud.update("room", "get", json!({"desired": {"n": "again"}}));
    for name in ["b", "d"] {
        let (code, answer) = gateway.api("DELETE", &format!("/v1/devices/room/shadows/{name}"), None);
        assert_eq!(code, 200, "{answer}");
    }
    // Deleted on one side, written on the other: what was written stays.
    cloud.delete("room", "c");
    written(&gateway, "c", json!({"desired": {"new": 1}}));
    cloud.update("room", "d", json!({"desired": {"new": 2}}));
    gateway.kill();
    gateway.start_again();
    // What is asked again is told once.
    cloud.mischief(Mischief { deaf_to_next: Some("delete"), ..Mischief::default() });
    ground.mosquitto.start_again();
    for name in ["", "a", "b"] {
        equal(&gateway, &cloud, ("room", name), |state| state.is_none());
    }
    equal(&gateway, &cloud, ("room", "get"), |state| state.is_some_and(|s| s["desired"]["n"] == "again"));
    equal(&gateway, &cloud, ("room", "c"), |state| state == Some(&json!({"desired": {"new": 1}})));
    equal(&gateway, &cloud, ("room", "d"), |state| state == Some(&json!({"desired": {"new": 2}})));
    let b_is_gone = "deleted here before, and now in the cloud too";
    let all = gateway.eventually("the deletion that the cloud has carried out", |gateway| {
        let all = history(gateway, "room");
        all.iter().any(|c| c["note"].as_str().is_some_and(|note| note.starts_with(b_is_gone))).then_some(all)
    });
    let deleted = |shadow: Json, door: &str, section: &str| {
        all.iter().any(|c| c["shadow"] == shadow && c["door"] == door && c["section"] == section)
    };
    assert!(deleted(Json::Null, "cloud", "deleted") && deleted("a".into(), "cloud", "deleted"), "{all:?}");
    let noted = |shadow: &str, note: &str| {
        let told = |c: &&Json| c["shadow"] == shadow && c["note"].as_str().is_some_and(|said| said.starts_with(note));
        assert_eq!(all.iter().filter(told).count(), 1, "{note:?} of {shadow}: {all:?}");
    };
    noted("b", b_is_gone);
    noted("c", "deleted in the cloud; what was written here meanwhile stays");
    noted("d", "deleted here; what the cloud wrote meanwhile stays");
    // A new life begins above the old one's version.
    child.says("state", r#"{"reported": {"temp": 21}}"#);
    equal(&gateway, &cloud, ("room", ""), |state| state == Some(&json!({"reported": {"temp": 21}})));
}

#[test]
fn a_storm_from_both_sides_through_doubled_shuffled_and_lost_messages_and_a_kill_ends_equal() {
    let mut ground = Ground::new();
    let cloud = ShadowCloud::start(ground.mosquitto.port, &ground.runtime);
    cloud.mischief(Mischief { double: true, shuffle: true, deaf_to: Some(17), ..Mischief::default() });
    let mut gateway = gateway(&ground, "rate = 80\n").start();
    let room = ground.child(&gateway, "room");
    let hall = ground.child(&gateway, "hall");
    for round in 0..40 {
        room.says("state", &json!({"reported": {"n": round, (format!("m{}", round % 7)): round}}).to_string());
        cloud.update("room", "", json!({"desired": {"n": round, (format!("d{}", round % 5)): round}}));
        if round % 3 == 0 {
            hall.says("state", &json!({"reported": {"n": round}}).to_string());
            cloud.update("hall", "", json!({"reported": {"n": -round}, "desired": {"x": round}}));
        }
        if round % 10 == 5 {
            desire(&gateway, "room", json!({"n": 1000 + round, "by": "technician"}));
        }
        match round {
            13 => ground.mosquitto.stop(),
            17 => ground.mosquitto.start_again(),
            25 => {
                gateway.kill();
                gateway.start_again();
            }
            _ => {}
        }
    }
    cloud.mischief(Mischief::default());
    equal(&gateway, &cloud, ("room", ""), |state| {
        state.is_some_and(|s| {
            s["reported"]["n"] == 39 && s["reported"]["m4"] == 39 && s["desired"]["by"] == "technician"
        })
    });
    equal(&gateway, &cloud, ("hall", ""), |state| state.is_some_and(|s| s["reported"]["n"] == 39));
    assert_eq!(too_many(&cloud.asked()), None);
    // Both are equal: no echo goes round.
    super::eventually("nothing is asked any more", || {
        let last = cloud.asked().last().map(|asked| asked.at)?;
        (last.elapsed() > std::time::Duration::from_millis(1500)).then_some(())
    });
}

#[test]
fn what_the_cloud_refuses_for_good_is_shown_and_not_tried_again_while_the_rest_goes_on() {
    let ground = Ground::new();
    let cloud = ShadowCloud::start(ground.mosquitto.port, &ground.runtime);
    cloud.forbid("hall");
    let more = "\n[shadows]\nstate_bytes = \"64KiB\"\n";
    let gateway = gateway(&ground, more).start();
    let room = ground.child(&gateway, "room");
    let hall = ground.child(&gateway, "hall");
    cloud.update("room", "", json!({"desired": {"setpoint": 20}}));
    hall.says("state", r#"{"reported": {"temp": 1}}"#);
    room.says("state", &json!({"reported": {"big": "x".repeat(9000)}}).to_string());
    let refused = |gateway: &Gateway, device: &str, code: &str| {
        gateway.eventually(&format!("{device} shows {code}"), |gateway| {
            let view = gateway.get(&format!("/v1/devices/{device}/shadow"));
            let reason = view["sync"]["reason"].as_str()?.starts_with(code);
            (view["sync"]["state"] == "refused" && reason).then_some(())
        });
    };
    refused(&gateway, "room", "413");
    refused(&gateway, "hall", "403");
    gateway.eventually("the overview tells", |gateway| {
        let overview = gateway.get("/v1/status");
        let shadows = overview["link"]["shadows"].clone();
        (shadows["refused"] == 2 && overview["notices"].to_string().contains("2 of the shadows")).then_some(())
    });
    // Desired still comes down, and the refused update is not repeated.
    let updates =
        |thing: &str| cloud.asked().iter().filter(|asked| asked.thing == thing && asked.operation == "update").count();
    let (of_room, of_hall) = (updates("room"), updates("hall"));
    cloud.update("room", "", json!({"desired": {"setpoint": 23}}));
    cloud.update("hall", "", json!({"desired": {"setpoint": 23}}));
    gateway.eventually("desired comes down", |gateway| {
        (here(gateway, "room", "")?["desired"]["setpoint"] == 23 && here(gateway, "hall", "").is_some()).then_some(())
    });
    for n in 0..5 {
        room.says("state", &json!({"reported": {"n": n}}).to_string());
        hall.says("state", &json!({"reported": {"n": n}}).to_string());
    }
    assert_eq!((updates("room"), updates("hall")), (of_room, of_hall));
    let all = history(&gateway, "room");
    assert!(all.iter().any(|c| c["section"] == "cloud" && c["change"].to_string().contains("413")), "{all:?}");
}

#[test]
fn two_sides_that_are_too_large_together_say_so_until_one_of_them_makes_room() {
    let mut ground = Ground::new();
    let cloud = ShadowCloud::start(ground.mosquitto.port, &ground.runtime);
    let gateway = gateway(&ground, "").start();
    let room = ground.child(&gateway, "room");
    room.says("state", r#"{"reported": {"temp": 20}}"#);
    equal(&gateway, &cloud, ("room", ""), |state| state.is_some_and(|s| s["reported"]["temp"] == 20));

    ground.mosquitto.stop();
    room.says("state", &json!({"reported": {"notes": "x".repeat(5000)}}).to_string());
    cloud.update("room", "", json!({"desired": {"schedule": "y".repeat(5000)}}));
    ground.mosquitto.start_again();
    gateway.eventually("view and overview tell", |gateway| {
        let sync = gateway.get("/v1/devices/room/shadow")["sync"].clone();
        let overview = gateway.get("/v1/status");
        let told = overview["notices"].to_string().contains("1 of the shadows cannot be made equal");
        let ours = sync["reason"].as_str()?.starts_with("not taken by this gateway");
        (sync["state"] == "refused" && ours && overview["link"]["shadows"]["refused"] == 1 && told).then_some(())
    });
    let all = history(&gateway, "room");
    let noted = |c: &Json| c["section"] == "cloud" && c["change"].to_string().contains("not taken by this gateway");
    assert_eq!(all.iter().filter(|change| noted(change)).count(), 1, "{all:?}");

    room.says("state", r#"{"reported": {"notes": null}}"#);
    equal(&gateway, &cloud, ("room", ""), |state| state.is_some_and(|s| s["desired"]["schedule"].is_string()));
    gateway.eventually("nothing is refused any more", |gateway| {
        let sync = gateway.get("/v1/devices/room/shadow")["sync"].clone();
        (sync["state"] == "equal" && gateway.get("/v1/status")["link"]["shadows"]["refused"] == 0).then_some(())
    });
}
