//! What a `devices.d` file turns into, and what is said about a wrong one.

use std::time::Duration;

use super::{
    Bus, Framing, Link, Parity,
    kind::{Kind, Table},
    profile::Profiles,
    read,
};
use crate::config::{problem::Problem, read::Document};

fn parse(text: &str) -> (Option<Bus>, Vec<Problem>) {
    let document = Document::parse("bus.toml", text);
    let bus = read(&document.root(), &Profiles::shipped());
    (bus, document.into_problems())
}

#[test]
fn a_serial_bus_with_a_profile_and_a_register_of_its_own() {
    let (bus, problems) = parse(
        r#"
[bus]
name = "cellar"
protocol = "modbus-rtu"
port = "/dev/serial/by-id/usb-FTDI"
baud = 19200
parity = "even"
timeout = "300ms"

[[device]]
id = "meter-1"
unit = 3
profile = "eastron-sdm630"
interval = "2s"
intervals = { energyImport = "10m" }
skip = ["neutralCurrent"]
tags = ["floor-1"]

[[device.register]]
name = "relay"
table = "coil"
address = 4
access = "rw"
"#,
    );
    assert!(problems.is_empty(), "{problems:#?}");
    let bus = bus.expect("a bus");
    assert_eq!(bus.framing, Framing::Rtu);
    let serial = bus.serial().expect("serial");
    assert_eq!((serial.baud, serial.parity, serial.bits_per_character()), (19200, Parity::Even, 11));
    assert_eq!(serial.silence(), Duration::from_nanos(7 * 11 * 1_000_000_000 / 19200 / 2));
    let device = &bus.devices[0];
    assert_eq!((device.unit, device.timeout, device.limits.max_registers), (3, Duration::from_millis(300), 80));
    assert_eq!(device.point("voltageL1").expect("point").interval, Duration::from_secs(2));
    assert_eq!(device.point("energyImport").expect("point").interval, Duration::from_secs(600));
    assert!(device.point("neutralCurrent").is_none());
    let relay = device.point("relay").expect("relay");
    assert_eq!((relay.table, relay.kind, relay.writable()), (Table::Coil, Kind::Bool, true));
}

#[test]
fn all_problems_of_a_file_are_told_at_once() {
    let (bus, problems) = parse(
        r#"
[bus]
protocol = "modbus-tpc"
[[device]]
id = "a b"
unit = 300
profile = "sdm630"
[[device.register]]
name = "x"
type = "u31"
address = 70000
"#,
    );
    assert!(bus.is_none());
    let text: Vec<String> = problems.iter().map(ToString::to_string).collect();
    for part in [
        "did you mean \"modbus-tcp\"",
        "may not contain ' '",
        "found 300",
        "eastron-sdm630",
        "\"u31\": is not a type",
        "found 70000",
    ] {
        assert!(text.iter().any(|line| line.contains(part)), "{part} is missing in {text:#?}");
    }
}

#[test]
fn addresses_get_their_port_and_references_their_table() {
    let (bus, problems) = parse(
        r#"
[bus]
protocol = "modbus-tcp"
address = "192.0.2.7"
backup_address = "[2001:db8::1]:1502"
transaction_id = "ignore"
[[device]]
id = "plc"
unit = 0
[[device.register]]
name = "level"
reference = 30011
type = "f32"
order = "CDAB"
"#,
    );
    assert!(problems.is_empty(), "{problems:#?}");
    let bus = bus.expect("a bus");
    let addresses = vec!["192.0.2.7:502".to_owned(), "[2001:db8::1]:1502".to_owned()];
    assert_eq!(bus.link, Link::Tcp { addresses, tls: None });
    assert!(bus.any_transaction);
    let level = bus.devices[0].point("level").expect("point");
    assert_eq!((level.table, level.address), (Table::Input, 10));
}
