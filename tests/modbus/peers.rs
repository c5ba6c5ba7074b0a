//! Peers that nobody here wrote: libmodbus as a slave, mbpoll as a master, tokio-modbus as a second client library.

#[path = "../road/ports.rs"]
mod ports;

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use headgate::{
    config::modbus::kind::Table,
    drivers::modbus::simulate::{Modbus, Unit},
    model::reading::{Quality, Value},
    tasks::Tasks,
};
pub use ports::free_port;
use serde_json::{Value as Json, json};
use tokio_modbus::client::{Reader, Writer};

use crate::support::{Rig, loopback, rtu_bus, tcp_bus};

/// A child process that ends with the test.
pub struct Peer(pub Child);

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn must<T>(result: std::io::Result<T>, what: &str) -> T {
    result.unwrap_or_else(|e| panic!("{what} is needed for this test (README, Tests): {e}"))
}

/// The libmodbus slave, compiled once per run.
fn slave() -> PathBuf {
    static BUILT: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
    let build = || {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/modbus/peers/slave.c");
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("libmodbus-slave-{}", std::process::id()));
        let mut cc = Command::new("cc");
        cc.arg("-O1").arg("-o").arg(&program).arg(&source).args(["-I/usr/include/modbus", "-lmodbus"]);
        assert!(must(cc.status(), "cc").success(), "libmodbus-dev is needed for this test (README, Tests)");
        program
    };
    BUILT.get_or_init(build).clone()
}

fn start_slave(arguments: &[&str]) -> Peer {
    let child = Command::new(slave()).args(arguments).stdout(Stdio::piped()).spawn();
    let mut child = must(child, "the libmodbus slave");
    let mut line = String::new();
    let out = child.stdout.take().expect("a pipe");
    BufReader::new(out).read_line(&mut line).expect("a line");
    assert_eq!(line, "ready\n");
    Peer(child)
}

/// Two ends of a serial line.
pub fn serial_line(folder: &Path) -> (Peer, PathBuf, PathBuf) {
    let (ours, theirs) = (folder.join("ours"), folder.join("theirs"));
    let end = |path: &Path| format!("pty,raw,echo=0,link={}", path.display());
    let socat = must(Command::new("socat").arg(end(&ours)).arg(end(&theirs)).spawn(), "socat");
    let socat = Peer(socat);
    for _ in 0..3000 {
        if ours.exists() && theirs.exists() {
            return (socat, ours, theirs);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("socat made no terminals");
}

pub const EVERYTHING: &str = r#"
[[device]]
id = "slave"
unit = 5
timeout = "5s"
interval = "100ms"
[[device.register]]
name = "coil"
table = "coil"
address = 3
access = "rw"
[[device.register]]
name = "discrete"
table = "discrete"
address = 4
[[device.register]]
name = "input"
table = "input"
address = 199
[[device.register]]
name = "word"
address = 10
access = "rw"
[[device.register]]
name = "long"
address = 20
type = "i32"
order = "CDAB"
access = "rw"
[[device.register]]
name = "float"
address = 30
type = "f64"
order = "GHEFCDAB"
access = "rw"
[[device.register]]
name = "masked"
address = 40
type = "u16"
bits = "4:4"
access = "rw"
write_function = 22
[[device.register]]
name = "mode"
address = 41
type = "u16"
bits = "0:2"
access = "rw"
[[device.register]]
name = "text"
address = 50
type = "text:6"
order = "BADC"
access = "rw"
[[device.register]]
name = "single"
address = 60
type = "u32"
access = "rw"
write_function = 6
"#;

/// Reads every table and writes every way of writing; each value must come back from the slave.
pub async fn everything(mut rig: Rig) {
    assert_eq!(rig.sample("slave", "discrete").await, (Some(Value::Bool(false)), Quality::Good));
    assert_eq!(rig.sample("slave", "input").await, (Some(Value::Int(199)), Quality::Good));
    for (name, value) in [
        ("coil", json!(false)),
        ("word", json!(4711)),
        ("long", json!(-123_456)),
        ("float", json!(-0.1)),
        ("masked", json!(9)),
        ("mode", json!(2)),
        ("text", json!("libmodbus")),
        ("single", json!(70_000)),
    ] {
        assert_eq!(rig.write("slave", name, value.clone()).await, Ok(vec![]), "{name}");
        while rig.reported("slave", name).await != value {}
    }
    let read = |place: Json| {
        let mut request = json!({ "tool": "read", "device": "slave" });
        request.as_object_mut().expect("an object").extend(place.as_object().expect("an object").clone());
        rig.tool(request)
    };
    // Word order on writes is that of reads: looked at as plain registers. 40 was 0b10_1000, bits 4 to 7 became 9.
    let long = read(json!({ "address": 20, "count": 2 })).await.expect("registers");
    assert_eq!(long["registers"], json!([(-123_456_i32) as u32 as u16, ((-123_456_i32) as u32 >> 16) as u16]));
    let masked = read(json!({ "address": 40, "count": 2 })).await.expect("registers");
    assert_eq!(masked["registers"], json!([0x98, 0x2A]));
    let refused = read(json!({ "address": 199, "count": 2 })).await.expect_err("beyond the end");
    assert_eq!(refused.message, "exception 2 (illegal data address)");
    let status = rig.status().await;
    let count = |what: &str| status["counters"][what].as_u64().expect("a counter");
    // A unit that was always quick is waited for a tenth of a second only: a busy machine may miss that now and then.
    assert!(count("damaged") == 0 && count("timeouts") * 10 <= count("requests"), "{status:#}");
}

#[tokio::test]
async fn libmodbus_over_tcp_gives_and_takes_every_kind_of_value() {
    let port = free_port();
    let _slave = start_slave(&["tcp", &port.to_string()]);
    everything(Rig::start(tcp_bus(([127, 0, 0, 1], port).into(), EVERYTHING))).await;
}

#[tokio::test]
async fn libmodbus_on_a_serial_line_gives_and_takes_every_kind_of_value() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_socat, ours, theirs) = serial_line(folder.path());
    let _slave = start_slave(&["rtu", &theirs.display().to_string(), "115200", "5"]);
    everything(Rig::start(rtu_bus(&ours, 115_200, EVERYTHING))).await;
}

/// What mbpoll prints behind each `[n]:`.
fn mbpoll(arguments: &[&str]) -> Vec<String> {
    let output = must(Command::new("mbpoll").args(arguments).output(), "mbpoll");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{arguments:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    let values = text.lines().filter_map(|line| Some(line.strip_prefix('[')?.split_once("]:")?.1.trim().to_owned()));
    values.collect()
}

/// A unit with everything mbpoll can ask for.
pub fn unit_for_mbpoll() -> Unit {
    let mut unit = Unit::holding(&[1, 0xFFFE, 0x4366, 0x6666, 5, 6, 7, 8]);
    unit.put(Table::Input, 0, &[100, 200]);
    unit.put(Table::Coil, 0, &[1, 0, 1, 1]);
    unit.put(Table::Discrete, 0, &[0, 1]);
    unit
}

#[tokio::test(flavor = "multi_thread")]
async fn mbpoll_reads_and_writes_the_simulator_over_tcp() {
    let tasks = Tasks::new();
    let simulator = Modbus::tcp(&tasks, loopback(), [(9, unit_for_mbpoll())]).await.expect("a simulator");
    let port = simulator.address().port().to_string();
    let ask = |extra: &[&str]| {
        let base = ["-m", "tcp", "-p", &port, "-a", "9", "-1", "-0", "-q"];
        mbpoll(&[&base[..], extra].concat())
    };
    assert_eq!(ask(&["-t", "4", "-r", "0", "-c", "2", "127.0.0.1"]), ["1", "65534 (-2)"]);
    assert_eq!(ask(&["-t", "4:float", "-B", "-r", "2", "-c", "1", "127.0.0.1"]), ["230.4"]);
    assert_eq!(ask(&["-t", "3", "-r", "0", "-c", "2", "127.0.0.1"]), ["100", "200"]);
    assert_eq!(ask(&["-t", "0", "-r", "0", "-c", "4", "127.0.0.1"]), ["1", "0", "1", "1"]);
    assert_eq!(ask(&["-t", "1", "-r", "0", "-c", "2", "127.0.0.1"]), ["0", "1"]);
    ask(&["-t", "4", "-r", "4", "127.0.0.1", "41", "42"]);
    assert_eq!(simulator.registers.read(9, Table::Holding, 4, 2), Some(vec![41, 42]));
    ask(&["-t", "0", "-r", "1", "127.0.0.1", "1"]);
    assert_eq!(simulator.registers.read(9, Table::Coil, 0, 4), Some(vec![1, 1, 1, 1]));
}

#[tokio::test(flavor = "multi_thread")]
async fn mbpoll_reads_the_simulator_on_a_serial_line() {
    let tasks = Tasks::new();
    let simulator = Modbus::rtu_pty(&tasks, None, [(9, unit_for_mbpoll())]).expect("a simulator");
    let path = simulator.path().display().to_string();
    let base = ["-m", "rtu", "-b", "19200", "-P", "none", "-a", "9", "-1", "-0", "-q", "-o", "1"];
    let read = mbpoll(&[&base[..], &["-t", "4", "-r", "4", "-c", "3", &path]].concat());
    assert_eq!(read, ["5", "6", "7"]);
}

#[tokio::test]
async fn tokio_modbus_as_a_client_finds_every_function_in_the_simulator() {
    let tasks = Tasks::new();
    let mut unit = unit_for_mbpoll();
    unit.identity = vec![(0, "Maker".into()), (1, "Product".into())];
    let simulator = Modbus::tcp(&tasks, loopback(), [(9, unit)]).await.expect("a simulator");
    let slave = tokio_modbus::Slave(9);
    let mut client = tokio_modbus::client::tcp::connect_slave(simulator.address(), slave).await.expect("a connection");
    assert_eq!(client.read_holding_registers(0, 3).await.expect("io").expect("no exception"), [1, 0xFFFE, 0x4366]);
    assert_eq!(client.read_discrete_inputs(0, 2).await.expect("io").expect("no exception"), [false, true]);
    client.write_multiple_coils(0, &[false, true, false]).await.expect("io").expect("no exception");
    assert_eq!(client.read_coils(0, 3).await.expect("io").expect("no exception"), [false, true, false]);
    client.masked_write_register(4, 0xFFF0, 0x000A).await.expect("io").expect("no exception");
    let both = client.read_write_multiple_registers(4, 2, 5, &[77]).await.expect("io").expect("no exception");
    assert_eq!(both, [0x0A, 77]);
    let missing = client.read_input_registers(50, 1).await.expect("io").expect_err("an exception");
    assert_eq!(missing, tokio_modbus::ExceptionCode::IllegalDataAddress);
}
