//! Ways to a device besides the plain one: dialled in, by a backup, at another speed, on a cable that was pulled; and
//! several requests under way.

use std::{
    os::unix::fs::symlink,
    path::Path,
    time::{Duration, Instant},
};

use headgate::{
    config::modbus::{Framing, kind::Table},
    drivers::modbus::simulate::{Modbus, Unit, faults::Fault},
    model::reading::Value,
    tasks::Tasks,
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};

use crate::{
    peers::free_port,
    support::{PATIENCE, Rig, bus, loopback, rtu_bus, tcp_bus},
};

const ONE: &str = "timeout = \"300ms\"\n[[device]]\nid = \"u\"\nunit = 1\ninterval = \"50ms\"\n[[device.register]]\nname = \"r\"\naddress = 0\naccess = \"rw\"\nas = \"both\"\ninterval = \"50ms\"\n";

/// A modem: dials the gateway and hands through to the device, until it is dropped.
async fn dial(gateway: u16, device: std::net::SocketAddr) {
    let ours = async {
        loop {
            match TcpStream::connect(("127.0.0.1", gateway)).await {
                Ok(stream) => return stream,
                Err(_) => sleep(Duration::from_millis(20)).await,
            }
        }
    };
    let mut ours = timeout(PATIENCE, ours).await.expect("the gateway listens");
    let mut theirs = TcpStream::connect(device).await.expect("the device");
    let _ = copy_bidirectional(&mut ours, &mut theirs).await;
}

/// Runs `work` until the tasks given back are stopped.
fn until_stopped(tasks: &Tasks, work: impl Future<Output = ()> + Send + 'static) -> Tasks {
    let own = tasks.child();
    let stop = own.stopping();
    own.spawn("until stopped", async move {
        tokio::select! {
            () = work => {}
            () = stop.cancelled() => {}
        }
    });
    own
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_dials_in_is_polled_and_may_dial_again() {
    let tasks = Tasks::new();
    let simulator = Modbus::tcp(&tasks, loopback(), [(1, Unit::holding(&[7]))]).await.expect("a simulator");
    let (port, device) = (free_port(), simulator.address());
    let head = format!("[bus]\nprotocol = \"modbus-tcp\"\nlisten = \"127.0.0.1:{port}\"\n");
    let mut rig = Rig::start(bus(&(head + ONE)));
    let modem = until_stopped(&tasks, dial(port, device));
    assert_eq!(rig.sample("u", "r").await.0, Some(Value::Int(7)));
    modem.stop_and_wait().await;
    simulator.registers.write(1, Table::Holding, 0, &[8]);
    let modem = until_stopped(&tasks, dial(port, device));
    while rig.sample("u", "r").await.0 != Some(Value::Int(8)) {}
    modem.stop_and_wait().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_used_where_the_first_address_does_not_answer() {
    let tasks = Tasks::new();
    let first = Modbus::tcp(&tasks, loopback(), [(1, Unit::holding(&[1]))]).await.expect("a simulator");
    let backup = Modbus::tcp(&tasks, loopback(), [(1, Unit::holding(&[2]))]).await.expect("a simulator");
    let rest = format!("backup_address = \"{}\"\n{ONE}", backup.address());
    let mut rig = Rig::start(tcp_bus(first.address(), &rest));
    assert_eq!(rig.sample("u", "r").await.0, Some(Value::Int(1)));
    assert_eq!(backup.requests(), 0);
    drop(first);
    while rig.sample("u", "r").await.0 != Some(Value::Int(2)) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_finds_the_speed_of_a_line_and_polling_goes_on() {
    let tasks = Tasks::new();
    let units = [(3, Unit::holding(&[3; 4]))];
    let simulator = Modbus::rtu_pty(&tasks, Some(19_200), units).expect("a simulator");
    // The bus is configured with the wrong speed: nothing is understood.
    let rest = ONE.replace("unit = 1", "unit = 3");
    let mut rig = Rig::start(rtu_bus(simulator.path(), 9600, &rest));
    let scan =
        json!({ "tool": "scan", "units": "2-4", "timeoutMs": 300, "lines": ["9600 8N1", "19200 8N1", "38400 8N1"] });
    let found = rig.tool(scan).await.expect("a scan");
    assert_eq!(found["found"].as_array().map(Vec::len), Some(1), "{found:#}");
    assert_eq!((&found["found"][0]["unit"], &found["found"][0]["line"]), (&json!(3), &json!("19200 8N1")));
    rig.config.send(rtu_bus(simulator.path(), 19_200, &rest).into()).expect("the bus is alive");
    assert_eq!(rig.sample("u", "r").await.0, Some(Value::Int(3)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adapter_that_was_pulled_resumes_under_its_stable_name() {
    let tasks = Tasks::new();
    let folder = tempfile::tempdir().expect("a folder");
    let stable = folder.path().join("usb-adapter-if00");
    let plug = |to: &Path| symlink(to, &stable).expect("plugged in");
    let adapter = Modbus::rtu_pty(&tasks, None, [(1, Unit::holding(&[1]))]).expect("a simulator");
    plug(adapter.path());
    let mut rig = Rig::start(rtu_bus(&stable, 19_200, ONE));
    assert!(rig.reachable("u").await.0);
    std::fs::remove_file(&stable).expect("pulled");
    drop(adapter);
    let (reachable, reason) = rig.reachable("u").await;
    assert!(!reachable, "{reason:?}");
    let status = rig.status().await;
    assert_eq!(status["connected"], json!(false), "{status:#}");
    let adapter = Modbus::rtu_pty(&tasks, None, [(1, Unit::holding(&[2]))]).expect("another terminal");
    plug(adapter.path());
    let back = Instant::now();
    assert!(rig.reachable("u").await.0);
    assert!(back.elapsed() < PATIENCE, "{:?}", back.elapsed());
    while rig.sample("u", "r").await.0 != Some(Value::Int(2)) {}
}

/// An endpoint that collects four requests before it answers any, last first: whoever asks one by one never gets on.
async fn answers_by_fours(listener: TcpListener) {
    let (mut stream, _) = listener.accept().await.expect("a connection");
    let mut waiting: Vec<[u8; 12]> = Vec::new();
    loop {
        let mut request = [0; 12];
        if stream.read_exact(&mut request).await.is_err() {
            return;
        }
        waiting.push(request);
        if waiting.len() < 4 {
            continue;
        }
        for request in waiting.drain(..).rev() {
            // Unit and address make the value.
            let mut reply = request[..2].to_vec();
            reply.extend([0, 0, 0, 5, request[6], 3, 2, request[6], request[9]]);
            stream.write_all(&reply).await.expect("sent");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_requests_are_under_way_where_the_endpoint_permits_it() {
    let listener = TcpListener::bind(loopback()).await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let tasks = Tasks::new();
    let endpoint = until_stopped(&tasks, answers_by_fours(listener));
    let mut text = "in_flight = 4\ntimeout = \"2s\"\nretries = 0\n".to_owned();
    for unit in 1..=4 {
        text += &format!("[[device]]\nid = \"u{unit}\"\nunit = {unit}\ninterval = \"0ms\"\n");
        for register in [0, 60] {
            text += &format!("[[device.register]]\nname = \"r{register}\"\naddress = {register}\n");
        }
    }
    // Until each unit has answered once it is asked alone; the first round is let through by a kinder endpoint.
    let kind =
        Modbus::tcp(&tasks, loopback(), (1..=4).map(|n| (n, Unit::holding(&[0; 61])))).await.expect("a simulator");
    let mut rig = Rig::start(tcp_bus(kind.address(), &text));
    for unit in 1..=4 {
        rig.reading(&format!("u{unit}")).await;
    }
    rig.config.send(tcp_bus(address, &text).into()).expect("the bus is alive");
    let mut right = 0;
    while right < 200 {
        let reading = rig.reading("u3").await;
        for sample in reading.samples {
            let register: i64 = sample.name[1..].parse().expect("a number");
            match sample.value {
                Some(Value::Int(0)) => {} // from the kinder one
                Some(value) => {
                    assert_eq!(value, Value::Int(3 << 8 | register));
                    right += 1;
                }
                None => {}
            }
        }
    }
    endpoint.stop_and_wait().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_several_under_way_faults_spoil_only_themselves_and_a_write_is_never_undone_by_an_older_read() {
    let tasks = Tasks::new();
    let units = (1..=4).map(|n| (n, Unit::holding(&[u16::from(n); 4])));
    let simulator = Modbus::tcp(&tasks, loopback(), units).await.expect("a simulator");
    let fault = Fault { drop: 3, wrong_transaction: 3, doubles: 10, halves: 5, ..Fault::default() };
    (2..=4).for_each(|unit| simulator.faults.set(unit, fault.clone()));
    let mut text = "in_flight = 8\ntimeout = \"100ms\"\n".to_owned();
    for unit in 1..=4 {
        text += &format!(
            "[[device]]\nid = \"u{unit}\"\nunit = {unit}\n[[device.register]]\nname = \"r\"\naddress = 0\ninterval = \"1ms\"\n\
             access = \"rw\"\nas = \"both\"\n"
        );
    }
    let mut rig = Rig::start(tcp_bus(simulator.address(), &text));
    rig.sample("u1", "r").await;
    for value in 100..110 {
        assert_eq!(rig.write("u1", "r", json!(value)).await, Ok(vec![]));
        // What was told before the write was done waits here; all that is told from here on is the new value.
        while rig.told.try_recv().is_ok() {}
        for _ in 0..20 {
            let reading = rig.reading("u1").await;
            let held = &reading.samples[0].value;
            assert!(held == &Some(Value::Int(value)), "{held:?} after {value} was written");
        }
    }
    for unit in 2..=4 {
        let (value, quality) = rig.sample(&format!("u{unit}"), "r").await;
        assert!(!quality.is_good() || value == Some(Value::Int(unit)), "{value:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ascii_frames_on_a_terminal_are_read_and_captured() {
    let tasks = Tasks::new();
    let simulator = Modbus::pty(&tasks, Framing::Ascii, None, [(1, Unit::holding(&[42]))]).expect("a simulator");
    let head = format!("[bus]\nprotocol = \"modbus-ascii\"\nport = \"{}\"\n", simulator.path().display());
    let mut rig = Rig::start(bus(&(head + ONE)));
    assert_eq!(rig.sample("u", "r").await.0, Some(Value::Int(42)));
    let (progress, mut frames) = tokio::sync::mpsc::channel(1000);
    let summary = rig.tool_with(json!({ "tool": "scope", "seconds": 1 }), Some(progress)).await.expect("a scope");
    assert!(summary["frames"].as_u64() >= Some(2), "{summary}");
    let frame = frames.recv().await.expect("a frame");
    assert!(frame["text"].as_str().is_some_and(|text| text.starts_with("read holding")), "{frame}");
}
