//! What the cloud wishes of a device: down to the register of one nobody here wrote, or kept until a child returns.

use serde_json::{Value as Json, json};

use super::{
    gateway::Gateway,
    peers::{ModbusSlave, modbus_register},
    site::Ground,
};

/// A unit of libmodbus' slave: register n holds n at first.
pub fn hvac(port: u16) -> String {
    format!(
        "[bus]\nname = \"hall\"\nprotocol = \"modbus-tcp\"\naddress = \"127.0.0.1:{port}\"\n\n[[device]]\nid = \"hvac\"\n\
         unit = 1\ninterval = \"200ms\"\n[[device.register]]\nname = \"setpoint\"\naddress = 10\naccess = \"rw\"\nmin = 5\n\
         max = 30\ninterval = \"200ms\"\n[[device.register]]\nname = \"level\"\naddress = 20\n"
    )
}

fn shadow(gateway: &Gateway, device: &str) -> Option<Json> {
    let (code, shadow) = gateway.api("GET", &format!("/v1/devices/{device}/shadow"), None);
    (code == 200).then_some(shadow)
}

/// Waits until nothing is outstanding and `name` is reported as `value`.
fn obeyed(gateway: &Gateway, device: &str, name: &str, value: &Json) {
    gateway.eventually(&format!("{device} has {name} = {value}, and no delta"), |gateway| {
        let shadow = shadow(gateway, device)?;
        let agrees = shadow["state"]["reported"][name] == *value && shadow["state"]["desired"][name] == *value;
        (agrees && shadow["state"]["delta"].get(name).is_none()).then_some(())
    });
}

#[test]
fn a_value_the_cloud_desires_stands_in_the_register_and_is_reported() {
    let ground = Ground::new();
    let slave = ModbusSlave::start();
    let mut gateway = ground.gateway("").devices("hall.toml", &hvac(slave.port)).start();
    ground.cloud.expect("devices/hvac/state", |state| state["reported"]["setpoint"] == 10);
    ground.says("hvac", "delta", r#"{"setpoint": 22}"#);
    ground.cloud.expect("devices/hvac/state", |state| state["reported"]["setpoint"] == 22);
    obeyed(&gateway, "hvac", "setpoint", &json!(22));
    assert_eq!(gateway.stop(), 0);
    assert_eq!(modbus_register(slave.port, 10), Some(22), "as another master reads it");
}

#[test]
fn a_value_out_of_range_is_refused_where_everyone_sees_it() {
    let ground = Ground::new();
    let slave = ModbusSlave::start();
    let mut gateway = ground.gateway("").devices("hall.toml", &hvac(slave.port)).start();
    let child = ground.child(&gateway, "hvac");
    let local = child.listens("errors");
    ground.cloud.expect("devices/hvac/state", |state| state["reported"]["setpoint"] == 10);
    ground.says("hvac", "delta", r#"{"setpoint": 99}"#);

    local.expect("devices/hvac/errors", |error| error["code"] == "out-of-range");
    let event = ground.cloud.expect("devices/hvac/events", |event| event.to_string().contains("desired-refused"));
    assert!(event.to_string().contains("30"), "it says what is allowed: {event}");
    let problem = gateway.eventually("the problem in the shadow", |gateway| {
        let (_, shadow) = gateway.api("GET", "/v1/devices/hvac/shadows/headgate", None);
        shadow.pointer("/state/reported/problems/setpoint").cloned()
    });
    assert_eq!((&problem["code"], &problem["value"]), (&json!("out-of-range"), &json!(99)), "{problem}");

    ground.says("hvac", "delta", r#"{"setpoint": 25}"#);
    obeyed(&gateway, "hvac", "setpoint", &json!(25));
    gateway.eventually("the problem is gone", |gateway| {
        let (_, shadow) = gateway.api("GET", "/v1/devices/hvac/shadows/headgate", None);
        shadow.pointer("/state/reported/problems/setpoint").is_none().then_some(())
    });
    assert_eq!(gateway.stop(), 0);
    assert_eq!(modbus_register(slave.port, 10), Some(25));
}

#[test]
fn a_wish_for_a_child_that_is_away_waits_for_it_through_a_kill() {
    let ground = Ground::new();
    let mut gateway =
        ground.gateway("").devices("room.toml", "[[device]]\nid = \"room\"\nprotocol = \"mqtt\"\n").start();
    let child = ground.child(&gateway, "room");
    let desired = |gateway: &Gateway, value: i64| {
        gateway.eventually("the wish is on disk", |gateway| {
            (shadow(gateway, "room")?["state"]["desired"]["setpoint"] == value).then_some(())
        });
    };
    ground.reaches_the_gateway();
    ground.says("room", "delta", r#"{"setpoint": 21}"#);
    desired(&gateway, 21);
    let back = child.listens("delta");
    back.expect("devices/room/delta", |delta| delta["setpoint"] == 21);
    child.says("state", r#"{"reported": {"setpoint": 21}}"#);
    ground.cloud.expect("devices/room/state", |state| state["reported"]["setpoint"] == 21);
    obeyed(&gateway, "room", "setpoint", &json!(21));
    drop(back);

    ground.says("room", "delta", r#"{"setpoint": 23}"#);
    desired(&gateway, 23);
    gateway.kill();
    gateway.start_again();
    let back = child.listens("delta");
    back.expect("devices/room/delta", |delta| delta["setpoint"] == 23);
    child.says("state", r#"{"reported": {"setpoint": 23}}"#);
    ground.cloud.expect("devices/room/state", |state| state["reported"]["setpoint"] == 23);
    obeyed(&gateway, "room", "setpoint", &json!(23));
}

#[test]
fn commands_and_configuration_for_a_child_that_is_away_wait_for_it_through_a_kill() {
    let ground = Ground::new();
    let mut gateway =
        ground.gateway("").devices("room.toml", "[[device]]\nid = \"room\"\nprotocol = \"mqtt\"\n").start();
    let child = ground.child(&gateway, "room");
    ground.reaches_the_gateway();
    ground.says("room", "commands/blink", r#"{"commandId": "c1", "params": {"times": 3}}"#);
    ground.says("room", "config/desired", r#"{"version": 7, "config": {"interval": 60}}"#);
    gateway.eventually("the command is on disk", |gateway| {
        let (_, commands) = gateway.api("GET", "/v1/devices/room/commands", None);
        commands.to_string().contains("\"c1\"").then_some(())
    });
    let held = child.listens("config/desired");
    held.expect("devices/room/config/desired", |config| config["version"] == 7);
    drop(held);
    gateway.kill();
    gateway.start_again();
    let back = child.listens("#");
    let command = back.expect("devices/room/commands/blink", |command| command["commandId"] == "c1");
    assert_eq!(command["params"], json!({"times": 3}));
    let config = back.expect("devices/room/config/desired", |config| config["version"] == 7);
    assert_eq!(config["config"], json!({"interval": 60}));
    child.says("commands/blink/response", r#"{"commandId": "c1", "status": "succeeded", "result": {"blinked": 3}}"#);
    child.says("config/ack", r#"{"version": 7, "status": "applied"}"#);
    let answer = ground.cloud.expect("devices/room/commands/blink/response", |answer| answer["commandId"] == "c1");
    assert_eq!((&answer["status"], &answer["result"]["blinked"]), (&json!("succeeded"), &json!(3)), "{answer}");
    ground.cloud.expect("devices/room/config/ack", |ack| ack["version"] == 7 && ack["status"] == "applied");
    // Answered once, it is not given again to a child that connects anew; the wish that follows shows that it was heard.
    drop(back);
    let again = child.listens("#");
    ground.says("room", "delta", r#"{"marker": 1}"#);
    again.expect("devices/room/delta", |delta| delta["marker"] == 1);
    assert_eq!(again.on("devices/room/commands/blink"), Vec::<Json>::new());
}

#[test]
fn a_wish_for_a_modbus_device_that_is_away_is_written_when_it_answers_again() {
    let ground = Ground::new();
    let mut slave = ModbusSlave::start();
    let bus = hvac(slave.port).replace("\n\n[[device]]", "\ntimeout = \"300ms\"\n\n[[device]]");
    let mut gateway = ground.gateway("").devices("hall.toml", &bus).start();
    let child = ground.child(&gateway, "room");
    ground.cloud.expect("devices/hvac/status", |status| status["state"] == "online");
    ground.cloud.expect("devices/hvac/state", |state| state["reported"]["setpoint"] == 10);
    slave.stop();
    ground.cloud.expect("devices/hvac/status", |status| status["state"] == "offline");
    ground.says("hvac", "delta", r#"{"setpoint": 28}"#);
    gateway.eventually("the wish is on disk", |gateway| {
        (shadow(gateway, "hvac")?["state"]["desired"]["setpoint"] == 28).then_some(())
    });
    assert!(child.measures(1..=10), "others go on");
    gateway.kill();
    gateway.start_again();
    slave.start_again();
    ground.cloud.expect("devices/hvac/state", |state| state["reported"]["setpoint"] == 28);
    obeyed(&gateway, "hvac", "setpoint", &json!(28));
    ground.cloud.expect("devices/hvac/status", |status| status["state"] == "online");
    assert_eq!(gateway.stop(), 0);
    assert_eq!(modbus_register(slave.port, 10), Some(28));
    super::site::assert_gap_free(&ground.telemetry("hvac"));
}

#[test]
fn a_value_that_a_technician_locked_is_written_only_when_the_lock_is_off() {
    let ground = Ground::new();
    let slave = ModbusSlave::start();
    let gateway = ground.gateway("").devices("hall.toml", &hvac(slave.port)).start();
    ground.cloud.expect("devices/hvac/state", |state| state["reported"]["setpoint"] == 10);
    assert!(gateway.cli(&["device", "lock", "hvac", "setpoint"]).status.success());
    ground.says("hvac", "delta", r#"{"setpoint": 24}"#);
    let problem = gateway.eventually("the reason in the shadow", |gateway| {
        let (_, shadow) = gateway.api("GET", "/v1/devices/hvac/shadows/headgate", None);
        shadow.pointer("/state/reported/problems/setpoint").cloned()
    });
    assert!(problem["message"].as_str().is_some_and(|why| why.contains("locked by")), "{problem}");
    assert_eq!(shadow(&gateway, "hvac").expect("a shadow")["state"]["reported"]["setpoint"], 10);
    assert!(gateway.cli(&["device", "unlock", "hvac", "setpoint"]).status.success());
    obeyed(&gateway, "hvac", "setpoint", &json!(24));
}
