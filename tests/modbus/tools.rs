//! Commissioning tools beside polling: taking back what was written, a capture that becomes a device, SunSpec models.

use std::time::Duration;

use headgate::{
    config::modbus::{kind::Table, profile::Profiles},
    drivers::modbus::simulate::{Modbus, Unit, capture},
    model::reading::Value,
    tasks::Tasks,
};
use serde_json::{Value as Json, json};
use tokio::{
    sync::{mpsc, oneshot},
    time::{sleep, timeout},
};

use crate::support::{PATIENCE, Rig, loopback, tcp_bus};

const PUMP: &str = "[[device]]\nid = \"pump\"\nunit = 1\ninterval = \"20ms\"\n[[device.register]]\nname = \"level\"\naddress = 0\n\
                    [[device.register]]\nname = \"speed\"\naddress = 5\naccess = \"rw\"\nmin = 0\nmax = 100\nscale = 0.5\n";

async fn pump(tasks: &Tasks) -> Modbus {
    Modbus::tcp(tasks, loopback(), [(1, Unit::holding(&[7, 0, 0, 0, 0, 40]))]).await.expect("a simulator")
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{what}"));
}

#[tokio::test]
async fn a_tried_value_is_taken_back_while_polling_goes_on() {
    let tasks = Tasks::new();
    let simulator = pump(&tasks).await;
    let rig = Rig::start(tcp_bus(simulator.address(), PUMP));
    let (progress, mut steps) = mpsc::channel(8);
    let request = json!({ "tool": "write", "device": "pump", "name": "speed", "value": 30, "revertAfterMs": 300 });
    let answer = rig.tool_with(request, Some(progress)).await.expect("written");
    let step = steps.recv().await.expect("told at once");
    assert_eq!((&step["written"]["readBack"], &step["revertsInMs"]), (&json!(30.0), &json!(300)), "{step}");
    assert_eq!((&answer["before"], &answer["verified"]), (&json!(20.0), &json!(true)), "{answer}");
    assert_eq!((&answer["reverted"], &answer["now"]), (&json!(true), &json!(20.0)), "{answer}");
    assert_eq!(simulator.registers.read(1, Table::Holding, 5, 1), Some(vec![40]));
    let refused = rig.tool(json!({ "tool": "write", "device": "pump", "name": "speed", "value": 101 })).await;
    assert_eq!(refused.expect_err("refused").message, "101 is above 100, the most allowed");
}

#[tokio::test]
async fn a_tried_value_is_taken_back_though_its_asker_has_gone() {
    let tasks = Tasks::new();
    let simulator = pump(&tasks).await;
    let rig = Rig::start(tcp_bus(simulator.address(), PUMP));
    let request = json!({ "tool": "write", "device": "pump", "name": "speed", "value": 30, "revertAfterMs": 1000 });
    let (reply, answer) = oneshot::channel();
    let message = headgate::bus::ToDriver::Tool { request, progress: None, reply };
    rig.inbox.send(message).await.expect("the bus is alive");
    let holds = |word: u16| simulator.registers.read(1, Table::Holding, 5, 1) == Some(vec![word]);
    until("written", || holds(60)).await;
    drop(answer);
    until("taken back", || holds(40)).await;
}

#[tokio::test]
async fn what_a_scope_captured_is_a_device_that_says_the_same() {
    let tasks = Tasks::new();
    let simulator = pump(&tasks).await;
    let mut rig = Rig::start(tcp_bus(simulator.address(), PUMP));
    rig.reading("pump").await;
    let (progress, mut frames) = mpsc::channel(10_000);
    let request = json!({ "tool": "scope", "seconds": 1 });
    let summary = rig.tool_with(request, Some(progress)).await.expect("a summary");
    let mut text = String::new();
    while let Some(frame) = frames.recv().await {
        text += &format!("{frame}\n");
    }
    assert_eq!(summary["frames"].as_u64(), Some(text.lines().count() as u64), "{summary}");
    let units = capture::units(&text).expect("a capture");
    let replay = Modbus::tcp(&tasks, loopback(), units).await.expect("a simulator");
    let mut again = Rig::start(tcp_bus(replay.address(), PUMP));
    assert_eq!(again.sample("pump", "level").await.0, Some(Value::Int(7)));
}

#[tokio::test]
async fn a_tool_gets_its_turn_on_a_bus_that_is_never_idle() {
    let tasks = Tasks::new();
    let simulator = pump(&tasks).await;
    let rig = Rig::start(tcp_bus(simulator.address(), &PUMP.replace("20ms", "0ms")));
    let scan = rig.tool(json!({ "tool": "scan", "units": "1-3", "timeoutMs": 500 }));
    let found: Json = timeout(PATIENCE, scan).await.expect("in time").expect("a scan");
    assert_eq!(found["found"][0]["unit"], json!(1), "{found}");
}

#[tokio::test]
async fn a_unit_that_is_silent_where_it_should_refuse_is_found_and_recognised() {
    let tasks = Tasks::new();
    let mut sensor = Unit::from_profile(Profiles::shipped().get("xy-md02").expect("a profile"), 2);
    sensor.identity.clear();
    let simulator = Modbus::tcp(&tasks, loopback(), [(2, sensor)]).await.expect("a simulator");
    simulator.faults.set(2, "mute".parse().expect("a fault"));
    let rig = Rig::start(tcp_bus(simulator.address(), ""));
    let ask = json!({ "tool": "scan", "units": "1-3", "timeoutMs": 500, "probes": ["holding:0", "input:1"] });
    let found = rig.tool(ask).await.expect("a scan");
    assert_eq!(found["found"][0]["profiles"], json!(["xy-md02"]), "{found}");
    let nobody = rig.tool(json!({ "tool": "identify", "unit": 3, "timeoutMs": 20 })).await.expect_err("nobody");
    assert_eq!(nobody.message, "no reply within 20 ms");
}

#[tokio::test]
async fn slips_of_a_technician_are_told_by_their_cause_and_write_nothing() {
    let tasks = Tasks::new();
    let simulator = pump(&tasks).await;
    let rig = Rig::start(tcp_bus(simulator.address(), PUMP));
    for (request, why) in [
        (json!({ "tool": "read", "unit": 1, "address": 40101 }), "its address on the wire is 100"),
        (json!({ "tool": "read", "unit": 1, "address": 0, "type": "float" }), "one of bool, u8 u16"),
        (json!({ "tool": "read", "unit": 1, "address": 0, "order": "BIG" }), "one of ABCD"),
        (json!({ "tool": "read", "unit": 1 }), "say where"),
        (json!({ "tool": "read", "unit": 1, "address": 0, "count": 126 }), "1 to 125 registers"),
        (json!({ "tool": "write", "unit": 1, "table": "input", "address": 5, "value": 1 }), "can only be read"),
        (
            json!({ "tool": "write", "unit": 1, "file": 4, "address": 5, "value": 1, "revertAfterMs": 5 }),
            "not taken back",
        ),
        (json!({ "tool": "raw", "unit": 1, "pdu": "no" }), "not hexadecimal"),
        (json!({ "tool": "raw", "unit": 1, "pdu": "83 00" }), "a function from 1 to 127"),
        (json!({ "tool": "scan", "units": "1", "probes": ["input"] }), "such as input:1"),
    ] {
        let refused = rig.tool(request.clone()).await.expect_err("refused");
        assert!(refused.message.contains(why), "{request}: {}", refused.message);
    }
    assert_eq!(simulator.registers.read(1, Table::Holding, 5, 1), Some(vec![40]));
}

#[tokio::test]
async fn an_inverter_is_found_by_its_sunspec_models_and_read_with_its_scale_factors() {
    let tasks = Tasks::new();
    let profiles = Profiles::shipped();
    for name in ["sunspec-inverter-three-phase", "sunspec-inverter-single-phase", "sunspec-inverter-three-phase-float"]
    {
        let inverter = Unit::from_profile(profiles.get(name).expect("a profile"), 1);
        let simulator = Modbus::tcp(&tasks, loopback(), [(1, inverter)]).await.expect("a simulator");
        let rest = format!("[[device]]\nid = \"pv\"\nunit = 1\nprofile = \"{name}\"\ninterval = \"50ms\"\n");
        let mut rig = Rig::start(tcp_bus(simulator.address(), &rest));
        let who = rig.tool(json!({ "tool": "identify", "device": "pv" })).await.expect("an answer");
        assert_eq!(who["profiles"][0], json!(name), "{who}");
        assert!(
            who["sunspec"].as_array().is_some_and(|models| models.contains(&json!(1)) && models.len() == 2),
            "{who}"
        );
        let (volts, quality) = rig.sample("pv", "voltageL1").await;
        assert!(quality.is_good(), "{name}: {quality:?}");
        let volts = volts.and_then(|value| value.as_f64()).expect("a number");
        // Tenths by the scale factor: 231 V, not 2310.
        assert!((220.0..240.0).contains(&volts), "{name}: {volts}");
    }
}

#[tokio::test]
async fn a_wrong_request_is_told_what_is_wrong_and_holds_nothing_up() {
    let tasks = Tasks::new();
    let simulator = pump(&tasks).await;
    let rig = Rig::start(tcp_bus(simulator.address(), PUMP));
    for (request, says) in [
        (json!(null), "a tool request is an object"),
        (json!({}), "tool: null is none; one of status, scan"),
        (json!({ "tool": "explode" }), "tool: \"explode\" is none; one of status"),
        (json!({ "tool": "status", "bus": 5 }), "bus: found 5, wanted a text"),
        (json!({ "tool": "identify", "unit": 300 }), "unit: found 300, wanted a whole number from 0 to 255"),
        (json!({ "tool": "read", "unit": "1", "address": 0 }), "unit: found \"1\", wanted a whole number"),
        (
            json!({ "tool": "read", "unit": 1, "address": 70000 }),
            "address: found 70000, wanted a whole number from 0 to 65535",
        ),
        (json!({ "tool": "read", "unit": 1, "address": 0, "count": 0 }), "count: found 0, wanted"),
        (json!({ "tool": "read", "unit": 1, "address": 0, "count": 9999 }), "count: found 9999, wanted"),
        (json!({ "tool": "read", "unit": 1, "address": 0, "count": 126 }), "a read asks for 1 to 125 registers"),
        // Nobody would get the bus back.
        (
            json!({ "tool": "read", "unit": 9, "address": 0, "timeoutMs": u64::MAX }),
            "timeoutMs: found 18446744073709551615",
        ),
        (
            json!({ "tool": "identify", "unit": 9, "timeoutMs": 0 }),
            "timeoutMs: found 0, wanted a whole number from 5 to 60000",
        ),
        (json!({ "tool": "write", "unit": 1, "address": 5 }), "value is missing: write needs value"),
        // It would stay written.
        (
            json!({ "tool": "write", "unit": 1, "address": 5, "value": 1, "revertAfter": 500 }),
            "did you mean revertAfterMs?",
        ),
        (
            json!({ "tool": "write", "unit": 1, "address": 5, "value": 1, "revertAfterMs": u64::MAX }),
            "revertAfterMs: found",
        ),
        (json!({ "tool": "solve", "unit": 1, "address": 5 }), "display is missing: solve needs address and display"),
        (json!({ "tool": "solve", "unit": 1, "address": 5, "display": "x" }), "display: found \"x\", wanted a number"),
        (json!({ "tool": "raw", "unit": 1, "pdu": 3 }), "pdu: found 3, wanted a text"),
        (json!({ "tool": "scan", "lines": "9600 8N1" }), "lines: found \"9600 8N1\", wanted a list of texts"),
        (json!({ "tool": "scan", "units": "x".repeat(100_000) }), "is no unit id"),
        (json!({ "tool": "scope", "seconds": "x" }), "seconds: found \"x\", wanted a number"),
        (json!({ "tool": "read", "device": "a b", "name": "x" }), "may not contain ' '"),
    ] {
        let shown = request.to_string();
        let refused = timeout(PATIENCE, rig.tool(request)).await.expect("an answer").expect_err("wrong");
        let message = refused.message;
        assert!(message.contains(says) && message.len() < 400, "{shown:.100}: {message:.600}");
    }
    assert_eq!(simulator.registers.read(1, Table::Holding, 5, 1), Some(vec![40]), "nothing was written");
}
