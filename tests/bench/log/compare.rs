//! Acknowledged, kill -9, restart, count: the real daemon beside mosquitto as a bridge. The cloud is away while
//! publishers publish; then the edge is killed, started again, and the cloud returns. What was acknowledged and never
//! reaches the cloud is lost.

use std::{
    collections::{HashMap, HashSet},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rumqttc::{AsyncClient, Event, MqttOptions, Outgoing, Packet, QoS};
use serde_json::Value as Json;

use super::{
    peers::{Broker, bridge_to, free_port},
    road::wire::TcpWire,
};

/// Acknowledgements after which the edge is killed, or this time.
const ENOUGH: usize = 10_000;
const LONG: Duration = Duration::from_secs(10);
const DEVICE: &str = "pump";

enum Edge {
    Mosquitto(Broker),
    Headgate(Headgate),
}

struct Headgate {
    port: u16,
    folder: tempfile::TempDir,
    child: Option<Child>,
    token: String,
}

impl Headgate {
    fn start(cloud: u16) -> Headgate {
        let folder = tempfile::tempdir_in(".").expect("folder");
        let (port, web) = (free_port(), free_port());
        let text = format!(
            "[gateway]\nid = \"gw\"\nstate = \"{}\"\n[broker]\ntcp = [\"127.0.0.1:{port}\"]\ntls = []\n[web]\nlisten = [\"127.0.0.1:{web}\"]\n\
             [uplink]\nbroker = \"mqtt://127.0.0.1:{cloud}\"\nretry_first = \"100ms\"\nretry_most = \"1s\"\n",
            std::fs::canonicalize(folder.path()).expect("a path").join("state").display()
        );
        std::fs::write(folder.path().join("headgate.toml"), text).expect("written");
        std::fs::create_dir_all(folder.path().join("devices.d")).expect("made");
        let mut gateway = Headgate { port, folder, child: None, token: String::new() };
        gateway.start_again();
        gateway.token = gateway.issue();
        gateway
    }

    fn start_again(&mut self) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_headgate"));
        command.args(["run", "--config"]).arg(self.folder.path());
        self.child = Some(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts"));
        until_it_listens(self.port);
    }

    fn issue(&self) -> String {
        let issue = |folder: &Path| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_headgate"));
            let done = command.args(["credential", "issue", DEVICE, "--config"]).arg(folder).output().expect("runs");
            let text = String::from_utf8_lossy(&done.stdout).into_owned();
            text.split_whitespace().find(|word| word.starts_with("hg1_")).map(str::to_owned)
        };
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(token) = issue(self.folder.path()) {
                return token;
            }
            assert!(Instant::now() < until, "no credential was issued");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Headgate {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn until_it_listens(port: u16) {
    let until = Instant::now() + Duration::from_secs(20);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < until, "the edge did not start");
        std::thread::sleep(Duration::from_millis(10));
    }
}

impl Edge {
    fn login(&self) -> MqttOptions {
        let port = match self {
            Edge::Mosquitto(broker) => broker.port,
            Edge::Headgate(gateway) => gateway.port,
        };
        let mut options = MqttOptions::new(DEVICE, "127.0.0.1", port);
        if let Edge::Headgate(gateway) = self {
            options.set_credentials(DEVICE, &gateway.token);
        }
        options.set_inflight(100);
        options
    }

    fn kill_and_restart(&mut self) {
        match self {
            Edge::Mosquitto(broker) => {
                broker.kill();
                broker.start_again();
            }
            Edge::Headgate(gateway) => {
                if let Some(mut child) = gateway.child.take() {
                    child.kill().expect("killed");
                    child.wait().expect("waited");
                }
                gateway.start_again();
            }
        }
    }
}

pub async fn compare() {
    println!(
        "QoS 1 readings, the cloud away; kill -9 after {ENOUGH} acknowledgements or {LONG:?}; restart, cloud back, count"
    );
    println!("{:>44} {:>12} {:>8} {:>8} {:>8} {:>8}", "edge", "acknowledged", "per s", "arrived", "lost", "doubled");
    for name in ["mosquitto bridge, as shipped", "mosquitto bridge, saved at every change", "headgate"] {
        let cloud = Broker::start("");
        let wire = TcpWire::to(cloud.port);
        let bridge =
            |save: &str| Edge::Mosquitto(Broker::start(&format!("persistence true\n{save}\n{}", bridge_to(wire.port))));
        let mut edge = match name {
            "headgate" => Edge::Headgate(Headgate::start(wire.port)),
            "mosquitto bridge, as shipped" => bridge(""),
            _ => bridge("autosave_interval 1\nautosave_on_changes true"),
        };
        let witness = witness(cloud.port);
        wire.cut();
        let (acknowledged, rate) = publish(&edge).await;
        edge.kill_and_restart();
        wire.heal();
        let (arrived, doubled) = witness.await.expect("counts");
        let lost = acknowledged.difference(&arrived).count();
        println!("{name:>44} {:>12} {rate:>8.0} {:>8} {lost:>8} {doubled:>8}", acknowledged.len(), arrived.len());
    }
}

/// Publishes numbered readings; returns the numbers that were acknowledged, and how many a second.
async fn publish(edge: &Edge) -> (HashSet<u64>, f64) {
    let (client, mut events) = AsyncClient::new(edge.login(), 200);
    let begun = Instant::now();
    let (mut next, mut sent) = (0u64, 0u64);
    let mut open: HashMap<u16, u64> = HashMap::new();
    let mut acknowledged = HashSet::new();
    while acknowledged.len() < ENOUGH && begun.elapsed() < LONG {
        // As many in the queue as it takes without waiting.
        while next < sent + 100 {
            let payload = format!("{{\"n\":{next},\"temperature\":{:.2}}}", 20.0 + (next % 700) as f64 / 100.0);
            if client.try_publish(format!("devices/{DEVICE}/telemetry"), QoS::AtLeastOnce, false, payload).is_err() {
                break;
            }
            next += 1;
        }
        match tokio::time::timeout(LONG, events.poll()).await {
            Ok(Ok(Event::Outgoing(Outgoing::Publish(id)))) => {
                open.insert(id, sent);
                sent += 1;
            }
            Ok(Ok(Event::Incoming(Packet::PubAck(ack)))) => acknowledged.extend(open.remove(&ack.pkid)),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => panic!("the publisher lost its edge: {error}"),
            Err(_) => break,
        }
    }
    let rate = acknowledged.len() as f64 / begun.elapsed().as_secs_f64();
    (acknowledged, rate)
}

/// Counts the numbers that reach the cloud until nothing came for five seconds, once something did or after thirty.
fn witness(port: u16) -> tokio::task::JoinHandle<(HashSet<u64>, usize)> {
    #[expect(clippy::disallowed_methods, reason = "a benchmark's own task; its result is what is wanted of it")]
    tokio::spawn(async move {
        let mut options = MqttOptions::new("witness", "127.0.0.1", port);
        options.set_keep_alive(Duration::from_secs(60));
        options.set_max_packet_size(1 << 24, 1 << 20);
        let (client, mut events) = AsyncClient::new(options, 16);
        client.subscribe("devices/+/telemetry", QoS::AtLeastOnce).await.expect("queued");
        let (mut arrived, mut doubled) = (HashSet::new(), 0);
        let begun = Instant::now();
        loop {
            match tokio::time::timeout(Duration::from_secs(5), events.poll()).await {
                Ok(event) => {
                    let Event::Incoming(Packet::Publish(publish)) = event.expect("the cloud stays") else { continue };
                    let json: Json = serde_json::from_slice(&publish.payload).unwrap_or_default();
                    let one = [json.clone()];
                    for reading in json.as_array().map_or(&one[..], Vec::as_slice) {
                        let n = reading["n"].as_u64().or(reading["values"]["n"].as_u64());
                        doubled += usize::from(n.is_some_and(|n| !arrived.insert(n)));
                    }
                }
                Err(_) if !arrived.is_empty() || begun.elapsed() > Duration::from_secs(40) => {
                    return (arrived, doubled);
                }
                Err(_) => {}
            }
        }
    })
}
