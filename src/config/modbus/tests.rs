//! What a `devices.d` file turns into, and what is said about a wrong one.

use std::time::Duration;

use super::{
    Bus, Framing, Link, Parity,
    kind::{Kind, Table},
    profile::{Profile, Profiles},
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

#[test]
fn keys_of_a_bus_that_exclude_each_other_are_a_problem() {
    let said = |keys: &str| {
        let (_, problems) = parse(&format!("[bus]\n{keys}\n"));
        problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    let tcp = "protocol = \"modbus-tcp\"\naddress = \"192.0.2.7\"\n";
    assert_eq!(said(&format!("{tcp}in_flight = 4")), "");
    assert_eq!(said(&format!("{tcp}in_flight = 1\ngap = \"5ms\"")), "");
    assert!(said(&format!("{tcp}in_flight = 4\ngap = \"5ms\"")).contains("in_flight: 4 beside a gap"));
    assert!(
        said(&format!("{tcp}in_flight = 4\ntransaction_id = \"ignore\""))
            .contains("in_flight: 4 beside transaction_id")
    );
    let serial = said("protocol = \"modbus-rtu\"\nport = \"/dev/ttyS0\"\nin_flight = 4");
    assert!(serial.contains("in_flight: 4 on a bus whose frames bear no number"), "{serial}");
    assert!(said(&format!("{tcp}listen = \"0.0.0.0:5502\"")).contains("listen: is given beside address"));
}

/// What is said of a bus and a device with one register.
fn bus_with(bus: &str, device: &str, register: &str) -> Vec<String> {
    let register = register_of("x", register);
    let (_, problems) = parse(&format!("[bus]\n{bus}\n[[device]]\nid = \"d\"\n{device}\n{register}"));
    problems.iter().map(ToString::to_string).collect()
}

fn register_of(name: &str, rest: &str) -> String {
    format!("[[device.register]]\nname = \"{name}\"\naddress = 8\n{rest}\n")
}

const TCP: &str = "protocol = \"modbus-tcp\"\naddress = \"192.0.2.7\"\n";
const SERIAL: &str = "protocol = \"modbus-rtu\"\nport = \"/dev/ttyS0\"\n";

#[test]
fn keys_that_do_nothing_on_this_wire_are_problems() {
    let line = "baud = 19200\nparity = \"even\"\ndata_bits = 8\nstop_bits = 1\nrts = \"none\"\n";
    assert!(bus_with(&format!("{SERIAL}{line}"), "unit = 1", "").is_empty());
    for wire in [TCP, "protocol = \"modbus-rtu-over-tcp\"\nlisten = \"0.0.0.0:5502\"\n"] {
        let said = bus_with(&format!("{wire}{line}"), "unit = 1", "");
        assert_eq!(said.len(), 5, "{said:#?}");
        assert!(said[0].starts_with("bus.toml:4: bus.baud: has no effect on a TCP bus"), "{said:#?}");
    }
    let network = "address = \"192.0.2.7\"\ntransaction_id = \"check\"\n";
    assert_eq!(bus_with(&format!("{SERIAL}{network}"), "unit = 1", "").len(), 2);
    let dialled = "protocol = \"modbus-tcp\"\nlisten = \"0.0.0.0:5502\"\nbackup_address = \"192.0.2.8\"\n";
    assert_eq!(bus_with(dialled, "unit = 1", "").len(), 1);
}

#[test]
fn nobody_answers_a_broadcast() {
    let said = bus_with(SERIAL, "unit = 0", "");
    assert!(said.len() == 1 && said[0].contains("bus.toml:7: device[0].unit: 0 on a serial line"), "{said:#?}");
    assert!(bus_with(SERIAL, "unit = 0", "access = \"w\"").is_empty(), "it may be written to");
    assert!(bus_with(TCP, "unit = 0", "").is_empty(), "behind TCP it is the endpoint itself");
}

#[test]
fn what_is_read_does_not_lie_where_reading_is_forbidden() {
    for (device, register) in [("6-8", ""), ("8", ""), ("9-9", "type = \"u32\"")] {
        let device = format!("unit = 1\nforbidden = [\"holding:{device}\"]");
        let said = bus_with(TCP, &device, register);
        assert!(said.len() == 1 && said[0].contains("what is read lies there: x\n"), "{said:#?}");
    }
    let said = bus_with(&format!("{TCP}forbidden = [\"holding:0-9\", \"input:8\"]"), "unit = 1", "");
    assert!(said.len() == 1 && said[0].contains("holding:0-9 must never be asked for"), "{said:#?}");
    for (range, register) in [("9", ""), ("7", ""), ("8", "access = \"w\""), ("8", "table = \"input\"")] {
        let device = format!("unit = 1\nforbidden = [\"holding:{range}\"]");
        assert!(bus_with(TCP, &device, register).is_empty(), "{range} {register}");
    }
    let device = "unit = 1\nprofile = \"xy-md02\"\nforbidden = [\"input:1\"]\n";
    let said = bus_with(TCP, device, "");
    assert!(said.len() == 1 && said[0].contains("skip = [\"temperature\"]"), "{said:#?}");
    assert!(bus_with(TCP, &format!("{device}skip = [\"temperature\"]"), "").is_empty());
}

#[test]
fn an_address_that_is_none_is_one_problem() {
    let said = profile("[[register]]\nname = \"x\"\naddress = 70000\n");
    assert!(said.iter().any(|line| line.contains("found 70000")), "{said:#?}");
    assert!(!said.iter().any(|line| line.contains("address: is missing")), "{said:#?}");
}

/// A profile with these registers; what is said about it.
fn profile(text: &str) -> Vec<String> {
    let head = "name = \"p\"\ntitle = \"t\"\nsource = \"s\"\n";
    let (_, problems) = Profile::parse("p.toml", &format!("{head}{text}"));
    problems.iter().map(ToString::to_string).collect()
}

fn register(name: &str, rest: &str) -> String {
    format!("[[register]]\nname = \"{name}\"\naddress = 1\n{rest}\n")
}

#[test]
fn a_name_may_be_there_again_for_another_firmware() {
    let source = "[firmware_version]\nobject = 2\n";
    let twice = |a: &str, b: &str| profile(&format!("{source}{}{}", register("x", a), register("x", b)));
    assert!(twice("firmware = \"< 2\"", "firmware = \">= 2.0\"").is_empty());
    let said = twice("firmware = \"< 2.1\"", "firmware = \">= 2.0\"").join("\n");
    assert!(said.contains("\"x\" is there twice with firmware >= 2.0, < 2.1"), "{said}");
    assert!(twice("", "firmware = \">= 2.0\"").join("").contains("twice with firmware >= 2.0"));
    assert!(twice("", "").join("").contains("\"x\" is there twice"));
    for (a, b) in [("firmware = \"2.0\"", ""), ("", "firmware = 2"), ("firmware = \"< 2\"", "firmware = \">> 2\"")] {
        let said = twice(a, b).join("\n");
        assert!(
            said.contains("firmware") && !said.contains("twice"),
            "a condition nobody can read excludes nothing: {said}"
        );
    }
}

#[test]
fn all_problems_with_firmware_are_told_at_once() {
    let registers = register("a", "firmware = \"2.0\"")
        + &register("b", "firmware = \">= 2, < 1\"")
        + &register("c", "firmware = \"< 3\"");
    let said = profile(&registers).join("\n");
    for part in ["has no sign before the version", "no version is like that", "firmware_version: is missing"] {
        assert!(said.contains(part), "{part} is missing in {said}");
    }
    for (source, part) in [
        ("register = \"nobody\"", "\"nobody\" is no register here"),
        ("register = \"c\"", "\"c\" has a condition on the firmware itself"),
        ("register = \"flag\"", "\"flag\" cannot tell a version"),
        ("register = \"plain\"\nparts = [8, 4]", "12 bits of u16 plain"),
        ("", "one of register and object is wanted"),
        ("object = 2\nregister = \"plain\"", "one of register and object is wanted"),
        ("object = 300", "found 300"),
    ] {
        let registers =
            register("c", "firmware = \"< 3\"") + &register("plain", "") + &register("flag", "type = \"bool\"");
        let said = profile(&format!("[firmware_version]\n{source}\n{registers}")).join("\n");
        assert!(said.contains(part), "{part} is missing in {said}");
    }
}

#[test]
fn a_device_that_does_not_tell_its_firmware_is_described_with_it() {
    let device = |rest: &str| {
        let conditional = register("x", "firmware = \"< 2\"") + &register("x", "type = \"u32\"\nfirmware = \">= 2\"");
        let conditional = conditional.replace("[[register]]", "[[device.register]]");
        parse(&format!(
            "[bus]\nprotocol = \"modbus-tcp\"\naddress = \"a\"\n[[device]]\nid = \"d\"\nunit = 1\n{rest}\n{conditional}"
        ))
    };
    let (bus, problems) = device("firmware = \"V2.1\"\nintervals = { x = \"3s\" }");
    assert!(problems.is_empty(), "{problems:#?}");
    let device_1 = &bus.expect("a bus").devices[0];
    assert_eq!(device_1.points.iter().map(|point| point.interval.as_secs()).collect::<Vec<_>>(), [3, 3]);
    assert_eq!(device_1.newest().map(|point| point.len()).collect::<Vec<_>>(), [2]);
    let said: Vec<String> = device("").1.iter().map(ToString::to_string).collect();
    assert!(said.len() == 1 && said[0].contains("firmware: is missing"), "{said:#?}");
    assert!(device("firmware = \"new\"").1[0].to_string().contains("is no version"));
}

#[test]
fn units_are_dealt_out_among_connections_by_their_number_alone() {
    let file = |connections: u8, units: &[u8]| {
        let device = |unit: &u8| {
            format!("[[device]]\nid = \"u{unit}\"\nunit = {unit}\n[[device.register]]\nname = \"x\"\naddress = 0\n")
        };
        let devices: String = units.iter().map(device).collect();
        parse(&format!(
            "[bus]\nname = \"plc\"\nprotocol = \"modbus-tcp\"\naddress = \"a\"\nconnections = {connections}\n{devices}"
        ))
    };
    let dealt = |connections, units: &[u8]| -> Vec<(String, Vec<u8>)> {
        let (bus, problems) = file(connections, units);
        assert!(problems.is_empty(), "{problems:#?}");
        let shown = |bus: Bus| (bus.name.to_string(), bus.devices.iter().map(|device| device.unit).collect());
        bus.expect("a bus").dealt().into_iter().map(shown).collect()
    };
    assert_eq!(dealt(1, &[1, 2, 3]), [("plc".into(), vec![1, 2, 3])]);
    assert_eq!(dealt(2, &[0, 1, 2, 3, 255]), [("plc".into(), vec![1, 3, 255]), ("plc/2".into(), vec![0, 2])]);
    assert_eq!(dealt(2, &[1, 3]), [("plc".into(), vec![1, 3])], "none is empty");
    assert_eq!(dealt(8, &[10]), [("plc".into(), vec![]), ("plc/2".into(), vec![10])]);
    assert!(file(9, &[1]).1[0].to_string().contains("found 9"));
    let (_, problems) = parse(
        "[bus]\nprotocol = \"modbus-rtu\"\nport = \"/dev/ttyS0\"\nconnections = 2\n[[device]]\nid = \"a\"\nunit = 1\nprofile = \"xy-md02\"\n",
    );
    assert!(problems.len() == 1 && problems[0].to_string().contains("2 on a serial port"), "{problems:#?}");
}
