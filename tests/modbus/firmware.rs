//! A device whose registers depend on its firmware, before and after an update.

use headgate::{
    config::modbus::profile::{Profile, Profiles},
    drivers::modbus::simulate::{Modbus, Unit},
    model::{reading::Value, version::Version},
    tasks::Tasks,
};
use serde_json::json;

use crate::{
    peers::free_port,
    pymodbus::start_revision,
    support::{Rig, bus_with, loopback},
};

/// What is told apart by firmware 2.0; how the version is told goes before it.
const REGISTERS: &str = r#"
[[register]]
name = "power"
address = 10
firmware = "< 2.0"

[[register]]
name = "power"
address = 20
firmware = ">= 2.0"

[[register]]
name = "reserve"
address = 30
firmware = ">= 2.0"

[[register]]
name = "limit"
address = 40
access = "rw"
min = 0
max = 100
firmware = ">= 2.0"

[[register]]
name = "always"
address = 50

[setup]
write = { limit = 41 }

[[command]]
name = "open"
write = { limit = 100 }
"#;

fn profile(head: &str) -> Profile {
    let text = format!("name = \"staged\"\ntitle = \"t\"\nsource = \"s\"\n{head}\n{REGISTERS}");
    let (profile, problems) = Profile::parse("staged.toml", &text);
    assert!(problems.is_empty(), "{problems:#?}");
    profile.expect("a profile")
}

fn rig(head: &str, port: u16) -> Rig {
    let mut profiles = Profiles::default();
    profiles.add(profile(head));
    Rig::start(bus_with(
        &profiles,
        &format!(
            "[bus]\nname = \"test\"\nprotocol = \"modbus-tcp\"\naddress = \"127.0.0.1:{port}\"\ntimeout = \"300ms\"\n\
             [[device]]\nid = \"slave\"\nunit = 5\nprofile = \"staged\"\ninterval = \"50ms\"\n"
        ),
    ))
}

impl Rig {
    /// Waits until a value is good and this.
    async fn becomes(&mut self, name: &str, wanted: i64) {
        while self.sample("slave", name).await != (Some(Value::Int(wanted)), headgate::model::reading::Quality::Good) {}
    }
}

#[tokio::test]
async fn a_device_that_was_updated_is_read_by_its_new_registers_when_it_comes_back() {
    let port = free_port();
    let old = start_revision("V1.10", port);
    let mut rig = rig("[firmware_version]\nobject = 2", port);
    assert_eq!(rig.reported("slave", "firmwareVersion").await, json!("V1.10"));
    rig.becomes("power", 10).await;
    let status = rig.status().await;
    let unit = &status["units"][0];
    assert_eq!(unit["firmware"], "V1.10");
    assert_eq!(unit["leftOut"]["reserve"], "needs firmware >= 2.0; this is V1.10", "{unit:#}");
    let refused = rig.write("slave", "limit", json!(50)).await.expect("an answer");
    assert_eq!(refused[0].1.message, "limit needs firmware >= 2.0; this is V1.10");

    drop(old);
    let new = start_revision("V2.3", port);
    assert_eq!(rig.reported("slave", "firmwareVersion").await, json!("V2.3"));
    assert_eq!(rig.reported("slave", "limit").await, json!(41), "the set-up is written once its register is there");
    rig.becomes("reserve", 30).await;
    rig.becomes("power", 20).await;
    assert_eq!(rig.write("slave", "limit", json!(50)).await, Ok(Vec::new()));
    assert!(rig.status().await["units"][0].get("leftOut").is_none());

    drop(new);
    let _odd = start_revision("beta", port);
    let bad = loop {
        let (value, quality) = rig.sample("slave", "reserve").await;
        if let (None, Some(why)) = (value, quality.wire().filter(|why| why.starts_with("bad"))) {
            break why;
        }
    };
    assert_eq!(bad, "bad: needs firmware >= 2.0; which it runs is not known: \"beta\" is no version");
    rig.becomes("always", 50).await;
}

#[tokio::test]
async fn a_version_that_changes_under_a_running_connection_is_heeded() {
    let port = free_port();
    let _slave = start_revision("", port);
    // Register 110 holds 110: version 1.10.
    let head = "[firmware_version]\nregister = \"runs\"\n[[register]]\nname = \"runs\"\naddress = 110\nscale = 0.01";
    let mut rig = rig(head, port);
    rig.becomes("power", 10).await;
    assert_eq!(rig.status().await["units"][0]["firmware"], "1.10");
    let write = json!({ "tool": "write", "unit": 5, "address": 110, "value": 200 });
    rig.tool(write).await.expect("written");
    rig.becomes("power", 20).await;
    assert_eq!(rig.status().await["units"][0]["firmware"], "2.00");
}

#[tokio::test]
async fn a_simulated_device_has_the_registers_of_its_firmware() {
    let tasks = Tasks::new();
    let profile = profile("[firmware_version]\nobject = 2");
    let old = Unit::with_firmware(&profile, 5, &Version::of(&[1, 9]));
    let simulator = Modbus::tcp(&tasks, loopback(), [(5, old)]).await.expect("a simulator");
    let mut rig = rig("[firmware_version]\nobject = 2", simulator.address().port());
    rig.sample("slave", "power").await;
    let status = rig.status().await;
    assert_eq!((&status["units"][0]["firmware"], &status["counters"]["exceptions"]), (&json!("1.9"), &json!({})));
    let gone = rig.tool(json!({ "tool": "read", "unit": 5, "address": 20 })).await.expect_err("not there");
    assert!(gone.message.contains("illegal data address"), "{gone:?}");
    // Of a device of the newest firmware everything is there.
    let newest = Unit::from_profile(&profile, 5);
    assert_eq!(newest.identity[2], (2, "2.0".into()));
}
