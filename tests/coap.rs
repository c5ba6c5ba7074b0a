//! CoAP against programs nobody here wrote (libcoap's client and server), and against the sensor that ships with it.

#[path = "road/ports.rs"]
mod ports;

use std::{
    net::{SocketAddr, UdpSocket},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use headgate::{
    bus::{FromDriver, ToDriver},
    config::{coap::Device, read::Document},
    drivers::coap::{Ports, run, simulate},
    model::{command::Refusal, ids::DeviceId, reading::Quality},
    tasks::Tasks,
};
use serde_json::{Map, Value as Json, json};
use tokio::sync::{mpsc, oneshot, watch};

const SOON: Duration = Duration::from_secs(30);

/// A peer program, ended with the test.
struct Peer(Child);

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// libcoap's program; Debian installs it with `libcoap3-bin` under one of these names.
fn libcoap(name: &str) -> PathBuf {
    let names = [name.to_owned(), format!("{name}-notls"), format!("{name}-openssl"), format!("{name}-gnutls")];
    let path = std::env::var("PATH").unwrap_or_default();
    let folders = || path.split(':').map(PathBuf::from);
    let found = names.iter().flat_map(|name| folders().map(move |folder| folder.join(name))).find(|file| file.exists());
    found.unwrap_or_else(|| panic!("{name} is missing: apt-get install libcoap3-bin"))
}

fn free_address() -> SocketAddr {
    ([127, 0, 0, 1], ports::free_udp_port()).into()
}

fn device(text: &str) -> Arc<Device> {
    let document = Document::parse("device.toml", text);
    let device = document.root().sections("device").first().and_then(|section| {
        assert_eq!(section.text("protocol").as_deref(), Some("coap"));
        Device::read(section)
    });
    let problems = document.into_problems();
    assert!(problems.is_empty(), "{problems:#?}");
    Arc::new(device.expect("device"))
}

struct Driver {
    readings: mpsc::Receiver<FromDriver>,
    commands: mpsc::Sender<ToDriver>,
    config: watch::Sender<Arc<Device>>,
    tasks: Tasks,
}

fn drive(device: Arc<Device>) -> Driver {
    let (config, config_out) = watch::channel(device);
    let (readings, readings_out) = mpsc::channel(64);
    let (commands, commands_in) = mpsc::channel(8);
    let tasks = Tasks::new();
    let stop = tasks.stopping();
    tasks.spawn("driver", async move {
        run(config_out, Ports { readings, commands: commands_in }, stop).await.expect("driver");
    });
    Driver { readings: readings_out, commands, config, tasks }
}

impl Driver {
    /// The next message that `wanted` takes for its own.
    async fn until<T>(&mut self, mut wanted: impl FnMut(&FromDriver) -> Option<T>) -> T {
        let search = async {
            loop {
                let message = self.readings.recv().await.expect("driver runs");
                if let Some(found) = wanted(&message) {
                    return found;
                }
            }
        };
        tokio::time::timeout(SOON, search).await.expect("in time")
    }

    async fn value(&mut self, name: &str) -> Json {
        self.until(|message| match message {
            FromDriver::Reading(reading) => {
                let sample = reading.samples.iter().find(|s| &*s.name == name && s.quality.is_good())?;
                sample.value.as_ref().map(|value| value.to_json())
            }
            FromDriver::Reported { reported, .. } => reported.get(name).cloned(),
            FromDriver::Reachable { .. } => None,
        })
        .await
    }

    async fn reachable(&mut self, wanted: bool) -> Option<String> {
        self.until(|message| match message {
            FromDriver::Reachable { reachable, reason, .. } if *reachable == wanted => Some(reason.clone()),
            _ => None,
        })
        .await
    }

    async fn write(&mut self, name: &str, value: Json) -> Vec<(String, Refusal)> {
        let (reply, answer) = oneshot::channel();
        let values = Map::from_iter([(name.to_owned(), value)]);
        let write = ToDriver::Write { device: DeviceId::new("d").expect("id"), values, reply };
        self.commands.send(write).await.expect("driver runs");
        // What it reads back is handed to the keeper meanwhile: keep that road free.
        let drain = async { while self.readings.recv().await.is_some() {} };
        tokio::select! {
            answer = answer => answer.expect("answered").expect("tried"),
            () = drain => panic!("the driver ended"),
        }
    }
}

async fn sensor() -> (SocketAddr, Tasks) {
    let address = free_address();
    let sensor = simulate::Sensor::bind(address, Duration::from_millis(200)).await.expect("sensor");
    let tasks = Tasks::new();
    tasks.spawn("sensor", sensor.run(tasks.stopping()));
    (address, tasks)
}

/// Runs coap-client to its end; what it printed.
async fn coap_client(arguments: &[&str]) -> String {
    let mut command = Command::new(libcoap("coap-client"));
    command.args(["-B", "20"]).args(arguments);
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("ran").expect("coap-client");
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// libcoap's server with resources that PUT creates.
fn coap_server(extra: &[&str]) -> (SocketAddr, Peer) {
    let address = free_address();
    let mut command = Command::new(libcoap("coap-server"));
    command.args(["-A", "127.0.0.1", "-p", &address.port().to_string(), "-d", "10", "-v", "0"]).args(extra);
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("coap-server");
    let socket = UdpSocket::bind("127.0.0.1:0").expect("socket");
    socket.set_read_timeout(Some(Duration::from_millis(100))).expect("timeout");
    let started = Instant::now();
    // A ping until it answers: ready, without waiting for a guess of time.
    while socket.send_to(&[0x40, 0, 0, 1], address).is_err() || socket.recv(&mut [0; 16]).is_err() {
        assert!(started.elapsed() < SOON, "coap-server does not answer");
    }
    (address, Peer(child))
}

#[tokio::test]
async fn the_sensor_is_observed_written_and_read_back() {
    let (address, sensor) = sensor().await;
    let mut driver = drive(device(&simulate::device_file("d", address)));
    driver.reachable(true).await;
    let first = driver.value("temperature").await;
    let second = driver.until(|m| match m {
        FromDriver::Reading(r) => r.samples.iter().find(|s| &*s.name == "temperature").and_then(|s| s.value.clone()),
        _ => None,
    });
    assert_ne!(second.await.to_json(), first, "it warms up, and notifications say so");
    assert_eq!(driver.value("setpoint").await, json!(21.0));
    assert_eq!(driver.write("setpoint", json!(24.5)).await, []);
    assert_eq!(driver.value("setpoint").await, json!(24.5));
    let refused = driver.write("setpoint", json!(99)).await;
    assert!(refused[0].1.message.contains("between 5 and 30"), "{refused:?}");
    assert!(driver.write("humidity", json!(1)).await[0].1.message.contains("not writable"));
    sensor.stop_and_wait().await;
    driver.tasks.stop_and_wait().await;
}

#[tokio::test]
async fn a_silent_sensor_is_unreachable_stale_and_found_again() {
    let (address, sensor) = sensor().await;
    let file = simulate::device_file("d", address)
        .replace("type = ", "timeout = \"100ms\"\nretries = 1\ntype = ")
        .replace("mode = \"observe\"\n", "mode = \"poll\"\nevery = \"200ms\"\n");
    let mut driver = drive(device(&file));
    driver.value("humidity").await;
    sensor.stop_and_wait().await;
    let stale = driver.until(|message| match message {
        FromDriver::Reading(reading) if !reading.samples[0].quality.is_good() => Some(reading.samples[0].clone()),
        _ => None,
    });
    let stale = stale.await;
    assert!(stale.value.is_some() && matches!(stale.quality, Quality::Stale { .. }), "{stale:?}");
    assert_eq!(driver.reachable(false).await.as_deref(), Some("no answer"));
    let sensor = simulate::Sensor::bind(address, Duration::from_millis(200)).await.expect("sensor again");
    let tasks = Tasks::new();
    tasks.spawn("sensor", sensor.run(tasks.stopping()));
    driver.reachable(true).await;
    driver.value("humidity").await;
    tasks.stop_and_wait().await;
    driver.tasks.stop_and_wait().await;
}

#[tokio::test]
async fn libcoaps_server_is_observed_polled_and_written() {
    let (address, _server) = coap_server(&[]);
    let text = format!(
        "[[device]]\nid = \"d\"\nprotocol = \"coap\"\naddress = \"{address}\"\n\
         [[device.resource]]\npath = \"time\"\nname = \"time\"\nformat = \"text\"\n\
         [[device.resource]]\npath = \"example_data\"\nname = \"data\"\nformat = \"text\"\nwritable = true\nmode = \"poll\"\nevery = \"1h\"\n"
    );
    let mut driver = drive(device(&text));
    // The clock is observed; its first notification may still be of the second in which it was asked for.
    let first = driver.value("time").await;
    while driver.value("time").await == first {}
    assert_eq!(driver.write("data", json!(42)).await, []);
    let (reply, answer) = oneshot::channel();
    let discover = ToDriver::Tool { request: json!({"tool": "discover"}), progress: None, reply };
    driver.commands.send(discover).await.expect("driver runs");
    let drain = async { while driver.readings.recv().await.is_some() {} };
    let found =
        tokio::select! { found = answer => found.expect("answered").expect("found"), () = drain => panic!("ended") };
    let paths: Vec<&str> =
        found["resources"].as_array().expect("list").iter().filter_map(|r| r["path"].as_str()).collect();
    assert!(paths.contains(&"/time") && paths.contains(&"/example_data"), "{paths:?}");
    driver.tasks.stop_and_wait().await;
}

#[tokio::test]
async fn large_bodies_go_to_libcoap_and_back_in_blocks_also_with_loss() {
    let (address, _server) = coap_server(&["-l", "20%"]);
    let text = format!(
        "[[device]]\nid = \"d\"\nprotocol = \"coap\"\naddress = \"{address}\"\ntimeout = \"100ms\"\nretries = 8\n\
         [[device.resource]]\npath = \"example_data\"\nname = \"data\"\nformat = \"text\"\nwritable = true\nmode = \"poll\"\nevery = \"1h\"\n"
    );
    let mut driver = drive(device(&text));
    driver.reachable(true).await;
    let large = "0123456789".repeat(1_000);
    // libcoap 4.3.1 leaves a hole where a block came twice, filled with what its memory held before: zeros, or bytes
    // that are no text. The read-back notices either, and the write is tried again.
    let hole = |message: &str| message.contains("reads back as") || message.ends_with("the text is not UTF-8");
    let mut refused = driver.write("data", json!(large)).await;
    for _ in 0..9 {
        if refused.is_empty() {
            break;
        }
        assert!(hole(&refused[0].1.message), "{refused:?}");
        refused = driver.write("data", json!(large)).await;
    }
    assert_eq!(refused, [], "10 kB by Block1, read back by Block2, one in five lost");
    driver.tasks.stop_and_wait().await;
}

#[tokio::test]
async fn libcoaps_client_reads_observes_and_writes_the_sensor() {
    let (address, sensor) = sensor().await;
    let url = |path: &str| format!("coap://{address}/{path}");
    let links = coap_client(&["-m", "get", &url(".well-known/core")]).await;
    assert!(links.contains("</sensors/climate>"), "{links}");
    assert!(coap_client(&["-m", "get", &url("sensors/climate")]).await.contains("\"humidity\""));
    let senml = coap_client(&["-m", "get", "-A", "110", &url("sensors/climate")]).await;
    assert!(senml.contains("\"n\":\"humidity\""), "{senml}");
    let log = coap_client(&["-m", "get", "-b", "64", &url("log")]).await;
    assert!(log.contains("0000 ") && log.contains("0059 "), "all blocks: {log}");
    coap_client(&["-m", "put", "-e", "23", &url("setpoint")]).await;
    assert!(coap_client(&["-m", "get", &url("setpoint")]).await.contains("23"));
    let refused = coap_client(&["-m", "put", "-e", "99", &url("setpoint")]).await;
    assert!(refused.contains("not between 5 and 30"), "{refused}");
    let observed = coap_client(&["-m", "get", "-s", "2", "-w", &url("sensors/temperature")]).await;
    assert!(observed.lines().count() >= 4, "{observed}");
    // Its second and fourth datagram are lost. A share of all, left to chance, would lose one of them several times in
    // a row now and then, and each time in a row doubles its two seconds.
    let begun = Instant::now();
    let log = coap_client(&["-m", "get", "-l", "2,4", "-b", "512", &url("log")]).await;
    assert!(log.contains("0059 "), "with loss: {log}");
    assert!(begun.elapsed() > Duration::from_secs(4), "nothing was lost");
    sensor.stop_and_wait().await;
}

#[tokio::test]
async fn a_new_configuration_is_taken_up_at_once() {
    let (address, sensor) = sensor().await;
    let file = simulate::device_file("d", address);
    let mut driver = drive(device(&file));
    driver.value("temperature").await;
    let renamed = file.replace("mode = \"observe\"\n\n", "mode = \"observe\"\nrename = { temperature = \"t\" }\n\n");
    driver.config.send_replace(device(&renamed));
    driver.value("t").await;
    driver.tasks.stop_and_wait().await;
    sensor.stop_and_wait().await;
}
