//! pymodbus as a slave over every transport, with its replies spoiled on the way.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use headgate::{config::modbus::Framing, drivers::modbus::simulate::Modbus, tasks::Tasks};
use serde_json::json;

use crate::{
    peers::{EVERYTHING, Peer, everything, free_port, must, serial_line, unit_for_mbpoll},
    support::{PATIENCE, Rig, bus, loopback, rtu_bus, tcp_bus},
};

/// Debian's Python, whose pymodbus is the package's, or the one a developer names.
fn python(program: &str) -> Command {
    let python = std::env::var("PYMODBUS_PYTHON").unwrap_or_else(|_| "/usr/bin/python3".into());
    let mut command = Command::new(python);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/modbus/peers").join(program));
    command
}

fn start(arguments: &[&str]) -> Peer {
    start_with(python("pymodbus_slave.py"), arguments)
}

/// The slave with this revision in its identification.
pub fn start_revision(revision: &str, port: u16) -> Peer {
    let mut command = python("pymodbus_slave.py");
    command.env("REVISION", revision);
    start_with(command, &["tcp", &port.to_string()])
}

fn start_with(mut command: Command, arguments: &[&str]) -> Peer {
    command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = must(command.spawn(), "python3");
    let out = child.stdout.take().expect("a pipe");
    let peer = Peer(child);
    let ready = BufReader::new(out).lines().map_while(Result::ok).any(|line| line == "ready");
    assert!(ready, "python3-pymodbus, python3-serial and python3-serial-asyncio are needed for this test");
    peer
}

#[tokio::test]
async fn pymodbus_over_tcp_gives_and_takes_every_kind_of_value() {
    let port = free_port();
    let _slave = start(&["tcp", &port.to_string()]);
    let rig = Rig::start(tcp_bus(([127, 0, 0, 1], port).into(), EVERYTHING));
    let who = rig.tool(json!({ "tool": "identify", "device": "slave" })).await.expect("an answer");
    assert_eq!(who["identity"]["vendor"], "pymodbus", "{who}");
    files(&rig).await;
    everything(rig).await;
}

/// Records of its file 4 are read and written, and any function is sent as bytes.
async fn files(rig: &Rig) {
    let read = json!({ "tool": "read", "unit": 5, "file": 4, "address": 10, "count": 3 });
    let read = rig.tool(read).await.expect("records");
    assert_eq!(read["registers"], json!([4010, 4011, 4012]), "{read}");
    let write =
        json!({ "tool": "write", "unit": 5, "file": 4, "address": 20, "type": "f32", "order": "CDAB", "value": 21.5 });
    let written = rig.tool(write).await.expect("written");
    assert_eq!((&written["readBack"], &written["verified"]), (&json!(21.5), &json!(true)), "{written}");
    let words =
        rig.tool(json!({ "tool": "read", "unit": 5, "file": 4, "address": 20, "count": 2 })).await.expect("records");
    assert_eq!(words["registers"], json!([0, 0x41AC]), "{words}");
    let status = rig.tool(json!({ "tool": "raw", "unit": 5, "pdu": "07" })).await.expect("an answer");
    assert_eq!(status["reply"], json!("0700"), "{status}");
    let bare = rig.tool(json!({ "tool": "raw", "unit": 5, "pdu": "03 00 07 00 01" })).await.expect("an answer");
    assert_eq!(bare["reply"], json!("03020007"), "{bare}");
}

#[tokio::test]
async fn pymodbus_with_rtu_frames_over_tcp_gives_and_takes_every_kind_of_value() {
    let port = free_port();
    let _slave = start(&["rtu-over-tcp", &port.to_string()]);
    let head = format!("[bus]\nprotocol = \"modbus-rtu-over-tcp\"\naddress = \"127.0.0.1:{port}\"\n");
    let rig = Rig::start(bus(&(head + EVERYTHING)));
    files(&rig).await;
    everything(rig).await;
}

#[tokio::test]
async fn pymodbus_on_a_serial_line_gives_and_takes_every_kind_of_value() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_socat, ours, theirs) = serial_line(folder.path());
    let _slave = start(&["rtu", &theirs.display().to_string(), "115200"]);
    everything(Rig::start(rtu_bus(&ours, 115_200, EVERYTHING))).await;
}

#[tokio::test]
async fn pymodbus_with_ascii_frames_gives_and_takes_every_kind_of_value() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_socat, ours, theirs) = serial_line(folder.path());
    let _slave = start(&["ascii", &theirs.display().to_string(), "115200"]);
    let head = format!("[bus]\nprotocol = \"modbus-ascii\"\nport = \"{}\"\nbaud = 115200\n", ours.display());
    everything(Rig::start(bus(&(head + EVERYTHING)))).await;
}

/// An authority, and with it the certificate and key of each name.
fn certificates(folder: &Path, names: &[&str]) {
    let key = || rcgen::KeyPair::generate().expect("a key");
    let mut root = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
    root.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    root.distinguished_name.push(rcgen::DnType::CommonName, "plant authority");
    let root_key = key();
    let certificate = root.self_signed(&root_key).expect("signed");
    let write = |name: String, text: String| std::fs::write(folder.join(name), text).expect("written");
    write("ca.pem".into(), certificate.pem());
    let issuer = rcgen::Issuer::new(root, root_key);
    for name in names {
        let params = rcgen::CertificateParams::new(vec![(*name).to_owned()]).expect("parameters");
        let own = key();
        write(format!("{name}.pem"), params.signed_by(&own, &issuer).expect("signed").pem());
        write(format!("{name}.key"), own.serialize_pem());
    }
}

#[tokio::test]
async fn pymodbus_behind_tls_wants_our_certificate_and_shows_its_own() {
    let folder = tempfile::tempdir().expect("a folder");
    certificates(folder.path(), &["meter.test", "gateway.test"]);
    let file = |name: &str| folder.path().join(name).display().to_string();
    let port = free_port();
    let _slave = start(&["tls", &port.to_string(), &file("ca.pem"), &file("meter.test.pem"), &file("meter.test.key")]);
    let with = |server_name: &str| {
        let (ca, certificate, key) = (file("ca.pem"), file("gateway.test.pem"), file("gateway.test.key"));
        bus(&format!(
            "[bus]\nprotocol = \"modbus-tcp\"\naddress = \"127.0.0.1:{port}\"\n[bus.tls]\nca = \"{ca}\"\n\
             certificate = \"{certificate}\"\nkey = \"{key}\"\nserver_name = \"{server_name}\"\n{EVERYTHING}"
        ))
    };
    everything(Rig::start(with("meter.test"))).await;
    // Another name than the certificate's: not a byte of Modbus is said.
    let stranger = Rig::start(with("other.test"));
    let refused = stranger.tool(json!({ "tool": "read", "unit": 5, "address": 0 })).await.expect_err("refused");
    assert!(refused.message.contains("TLS"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pymodbus_as_a_master_finds_every_function_in_the_simulator() {
    let tasks = Tasks::new();
    for (framing, word) in [(Framing::Tcp, "tcp"), (Framing::Rtu, "rtu-over-tcp")] {
        let mut unit = unit_for_mbpoll();
        unit.identity = vec![(0, "Maker".into()), (1, "Product".into())];
        let simulator = Modbus::tcp_framed(&tasks, loopback(), framing, [(9, unit)]).await.expect("a simulator");
        let mut master = python("pymodbus_master.py");
        let port = simulator.address().port().to_string();
        let said = tokio::task::spawn_blocking(move || must(master.args([word, &port]).output(), "python3"));
        let said = said.await.expect("it ends");
        assert!(said.status.success(), "{word}: {}", String::from_utf8_lossy(&said.stderr));
    }
}

/// Reads single registers until 150 came good; each must hold its own number.
async fn no_value_is_anothers(mut rig: Rig) {
    let started = Instant::now();
    let mut good = 0;
    while good < 150 {
        assert!(started.elapsed() < PATIENCE * 6, "{good} values only");
        for sample in rig.reading("slave").await.samples.iter().filter(|sample| sample.quality.is_good()) {
            let number: f64 = sample.name[1..].parse().expect("a number");
            assert_eq!(sample.value.as_ref().and_then(|value| value.as_f64()), Some(number));
            good += 1;
        }
    }
    let status = rig.status().await;
    assert!(status["counters"]["retries"].as_u64() > Some(5), "there was something to repeat: {status:#}");
}

fn singles(timeout: &str) -> String {
    let register = |n| format!("[[device.register]]\nname = \"r{n}\"\naddress = {n}\nnever_merge = true\n");
    let device = "[[device]]\nid = \"slave\"\nunit = 5\ninterval = \"1ms\"\n";
    format!("timeout = \"{timeout}\"\nretries = 3\n{device}") + &(100..110).map(register).collect::<String>()
}

#[tokio::test]
async fn lost_late_and_foreign_replies_of_pymodbus_spoil_no_value() {
    let port = free_port();
    let _slave = start(&["tcp", &port.to_string(), "drop,stray,late"]);
    no_value_is_anothers(Rig::start(tcp_bus(([127, 0, 0, 1], port).into(), &singles("150ms")))).await;
}

#[tokio::test]
async fn lost_and_damaged_replies_of_pymodbus_spoil_no_value() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_socat, ours, theirs) = serial_line(folder.path());
    let _slave = start(&["rtu", &theirs.display().to_string(), "115200", "drop,damage,damage"]);
    // Later than its timeout no unit may be on a line whose frames are not numbered: on a busy machine this one is.
    no_value_is_anothers(Rig::start(rtu_bus(&ours, 115_200, &singles("2s")))).await;
}
