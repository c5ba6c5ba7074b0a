//! Polling, writing and failing, against the simulator over real sockets and a pseudo terminal.

use std::time::{Duration, Instant};

use headgate::{
    config::modbus::{kind::Table, profile::Profiles},
    drivers::modbus::simulate::{Modbus, Unit, faults::Fault},
    model::{
        command::RefusalCode,
        reading::{Quality, Value},
    },
    tasks::Tasks,
};
use serde_json::json;

use crate::support::{Rig, loopback, rtu_bus, tcp_bus};

const PLAIN: &str = r#"
timeout = "200ms"
[[device]]
id = "plc"
unit = 1
interval = "100ms"
[[device.register]]
name = "level"
address = 0
[[device.register]]
name = "flow"
address = 1
type = "i16"
scale = 0.1
[[device.register]]
name = "setpoint"
address = 10
type = "f32"
order = "CDAB"
access = "rw"
min = 5
max = 30
"#;

#[tokio::test]
async fn a_meter_over_tcp_gives_values_with_their_time() {
    let tasks = Tasks::new();
    let profiles = Profiles::shipped();
    let meter = Unit::from_profile(profiles.get("eastron-sdm630").expect("a profile"), 1);
    let simulator = Modbus::tcp(&tasks, loopback(), [(1, meter)]).await.expect("a simulator");
    let rest = "[[device]]\nid = \"meter\"\nunit = 1\nprofile = \"eastron-sdm630\"\ninterval = \"200ms\"\n";
    let mut rig = Rig::start(tcp_bus(simulator.address(), rest));
    assert_eq!(rig.reachable("meter").await, (true, None));
    let reading = rig.reading("meter").await;
    let voltage = reading.samples.iter().find(|s| &*s.name == "voltageL1").expect("a voltage");
    let Some(Value::Float(volts)) = voltage.value else { panic!("{voltage:?}") };
    assert!((220.0..240.0).contains(&volts) && voltage.quality.is_good());
    assert!(headgate::clock::now().since(reading.ts) < 2000);
}

#[tokio::test]
async fn a_sensor_on_a_serial_line_is_read_and_written() {
    let tasks = Tasks::new();
    let profiles = Profiles::shipped();
    let sensor = Unit::from_profile(profiles.get("xy-md02").expect("a profile"), 7);
    let simulator = Modbus::rtu_pty(&tasks, None, [(7, sensor)]).expect("a simulator");
    let rest = "[[device]]\nid = \"room\"\nunit = 7\nprofile = \"xy-md02\"\ninterval = \"100ms\"\n";
    let mut rig = Rig::start(rtu_bus(simulator.path(), 9600, rest));
    let (temperature, quality) = rig.sample("room", "temperature").await;
    assert!(quality.is_good(), "{quality:?}");
    assert!(temperature.and_then(|t| t.as_f64()).is_some_and(|t| (18.0..25.0).contains(&t)));
    assert_eq!(rig.write("room", "temperatureCorrection", json!(-1.5)).await, Ok(vec![]));
    assert_eq!(simulator.registers.read(7, Table::Holding, 259, 1), Some(vec![(-15_i16) as u16]));
    while rig.reported("room", "temperatureCorrection").await != json!(-1.5) {}
}

#[tokio::test]
async fn a_write_is_checked_written_read_back_and_only_then_reported() {
    let tasks = Tasks::new();
    let simulator = Modbus::tcp(&tasks, loopback(), [(1, Unit::holding(&[7; 20]))]).await.expect("a simulator");
    let mut rig = Rig::start(tcp_bus(simulator.address(), PLAIN));
    assert_eq!(rig.sample("plc", "level").await, (Some(Value::Int(7)), Quality::Good));
    assert_eq!(rig.write("plc", "setpoint", json!(21.5)).await, Ok(vec![]));
    // Low word first, on writes as on reads: 21.5 is 0x41AC0000.
    assert_eq!(simulator.registers.read(1, Table::Holding, 10, 2), Some(vec![0x0000, 0x41AC]));
    while rig.reported("plc", "setpoint").await != json!(21.5) {}
    let refused = rig.write("plc", "setpoint", json!(31)).await.expect("an answer");
    assert_eq!(refused[0].1.code, RefusalCode::OutOfRange);
    assert_eq!(refused[0].1.message, "setpoint: 31 is above 30, the most allowed");
    let refused = rig.write("plc", "level", json!(1)).await.expect("an answer");
    assert_eq!(refused[0].1.code, RefusalCode::NotWritable);
    simulator.faults.set(1, Fault { exception: Some(4), ..Fault::default() });
    let refused = rig.write("plc", "setpoint", json!(22)).await.expect("an answer");
    assert_eq!(refused[0].1.message, "setpoint: exception 4 (server device failure)");
}

#[tokio::test]
async fn a_dead_unit_is_stale_since_its_last_answer_and_comes_back() {
    let tasks = Tasks::new();
    let simulator = Modbus::tcp(&tasks, loopback(), [(1, Unit::holding(&[7; 20]))]).await.expect("a simulator");
    let mut rig = Rig::start(tcp_bus(simulator.address(), PLAIN));
    assert_eq!(rig.reachable("plc").await, (true, None));
    rig.sample("plc", "level").await;
    simulator.faults.set(1, Fault { drop: 100, ..Fault::default() });
    let died = headgate::clock::now();
    let silence = Instant::now();
    let (reachable, reason) = rig.reachable("plc").await;
    assert!(!reachable && reason.as_deref() == Some("no reply within 200 ms"), "{reason:?}");
    assert!(silence.elapsed() > Duration::from_secs(3));
    let reading = rig.reading("plc").await;
    let level = reading.samples.iter().find(|s| &*s.name == "level").expect("a level");
    assert_eq!(level.value, Some(Value::Int(7)));
    let Quality::Stale { since, .. } = &level.quality else { panic!("{level:?}") };
    assert_eq!(*since, reading.ts, "measured then, not now");
    assert!(since.since(died) < 300);
    let refused = rig.write("plc", "setpoint", json!(22)).await.expect("an answer");
    assert!(refused[0].1.message.contains("plc is offline"), "{refused:?}");
    simulator.faults.heal();
    assert_eq!(rig.reachable("plc").await, (true, None));
    assert_eq!(rig.sample("plc", "level").await, (Some(Value::Int(7)), Quality::Good));
}

#[tokio::test]
async fn an_illegal_address_inside_a_merged_block_spoils_only_its_own_value() {
    let tasks = Tasks::new();
    let mut unit = Unit::holding(&[7; 20]);
    unit.remove(Table::Holding, 1, 1);
    let simulator = Modbus::tcp(&tasks, loopback(), [(1, unit)]).await.expect("a simulator");
    let mut rig = Rig::start(tcp_bus(simulator.address(), PLAIN));
    let (value, quality) = rig.sample("plc", "flow").await;
    assert_eq!((value, quality.wire().as_deref()), (None, Some("bad: exception 2 (illegal data address)")));
    for _ in 0..3 {
        assert_eq!(rig.sample("plc", "level").await, (Some(Value::Int(7)), Quality::Good));
    }
    let status = rig.status().await;
    let cuts = &status["units"][0]["learned"]["cuts"];
    assert_eq!(*cuts, json!([[3, 1], [3, 10]]), "{status:#}");
    assert_eq!(status["units"][0]["refused"]["flow"], json!("exception 2 (illegal data address)"));
}
