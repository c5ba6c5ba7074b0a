//! The log and the road beside the limits of the same machine in the same run.
//!
//! `cargo bench --bench log` runs all; `-- ingest`, `-- drain`, `-- bytes`, `-- backlog 10000000` one of them.
//! Peers: a bare SQLite writer and a bare rumqttc publisher with the same row size, batch and durability.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use headgate::{
    bus::{Events, Orders},
    config::{
        log::LogConfig,
        uplink::{Address, UplinkConfig, Version},
    },
    model::{
        ids::DeviceId,
        record::{Kind, Lane, NewRecord},
        time::Millis,
    },
    store::{Store, StoreOptions, WriterThread},
    tasks::Tasks,
    uplink::{self, Surroundings, Uplink},
};
use rusqlite::Connection;

fn id(text: &str) -> DeviceId {
    DeviceId::new(text).expect("id")
}

/// A reading of about 200 bytes with numbers that move, as a meter has them.
fn body(n: u64) -> String {
    let value = |k: u64| (n.wrapping_mul(2_654_435_761).wrapping_add(k * 7919) % 10_000) as f64 / 100.0;
    let names = ["voltage_l1", "voltage_l2", "voltage_l3", "current_l1", "current_l2", "current_l3", "power", "energy"];
    let values: Vec<String> =
        names.iter().zip(1..).map(|(name, k)| format!("\"{name}\":{:.2}", 220.0 + value(k))).collect();
    format!("{{\"values\":{{{}}}}}", values.join(","))
}

fn reading(n: u64) -> NewRecord {
    let device = id(&format!("meter-{:02}", n % 20));
    let ts = Millis(1_760_000_000_000 + n as i64 * 50);
    NewRecord { device, kind: Kind::Telemetry, name: None, ts, body: body(n).into() }
}

fn open(folder: &Path) -> (Store, WriterThread) {
    let log = LogConfig { max_bytes: 64 << 30, keep_free: 0, ..LogConfig::default() };
    Store::open_with(folder, StoreOptions { log, gateway: id("gw") }).expect("store")
}

fn bare(folder: &Path) -> Connection {
    let connection = Connection::open(folder.join("bare.db")).expect("open");
    connection.pragma_update(None, "journal_mode", "WAL").expect("wal");
    connection.pragma_update(None, "synchronous", "FULL").expect("full");
    let sql = "CREATE TABLE log (position INTEGER PRIMARY KEY, device TEXT NOT NULL, seq INTEGER NOT NULL, ts INTEGER NOT NULL, body BLOB NOT NULL)";
    connection.execute(sql, []).expect("table");
    connection
}

fn insert(connection: &mut Connection, records: &[NewRecord], first: u64) {
    let change = connection.transaction().expect("begin");
    {
        let mut statement = change.prepare_cached("INSERT INTO log VALUES (?1, ?2, ?3, ?4, ?5)").expect("sql");
        for (n, record) in records.iter().enumerate() {
            let seq = first + n as u64;
            statement.execute((seq, record.device.as_str(), seq, record.ts.0, &record.body[..])).expect("insert");
        }
    }
    change.commit().expect("commit");
}

/// `write_bytes` of this process: what reached the storage layer.
fn device_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    text.lines().find_map(|line| line.strip_prefix("write_bytes: ")?.parse().ok()).unwrap_or(0)
}

fn memory() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kb = text
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kb.unwrap_or(0) * 1024
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

// ---- durable ingest -------------------------------------------------------------------------------------------------

async fn ingest() {
    println!("durable ingest, rows of {} bytes, one writer, each batch synced before the next", body(1).len());
    println!("{:>8} {:>14} {:>14} {:>8}", "batch", "SQLite rows/s", "headgate/s", "ratio");
    for batch in [1u64, 10, 100, 1000] {
        let rounds = (20_000 / batch).clamp(20, 300);
        let (mut sqlite, mut ours) = (Vec::new(), Vec::new());
        for _ in 0..5 {
            let folder = tempfile::tempdir_in(".").expect("folder");
            let mut connection = bare(folder.path());
            let batches: Vec<Vec<NewRecord>> =
                (0..rounds).map(|round| (round * batch..(round + 1) * batch).map(reading).collect()).collect();
            let begun = Instant::now();
            for (round, records) in (0u64..).zip(&batches) {
                insert(&mut connection, records, round * batch + 1);
            }
            sqlite.push((rounds * batch) as f64 / begun.elapsed().as_secs_f64());
            drop(connection);
            let (store, thread) = open(folder.path());
            let begun = Instant::now();
            for records in batches {
                store.append(records).await.expect("stored");
            }
            ours.push((rounds * batch) as f64 / begun.elapsed().as_secs_f64());
            store.stop().await;
            thread.join();
        }
        let (sqlite, ours) = (median(sqlite), median(ours));
        println!("{batch:>8} {sqlite:>14.0} {ours:>14.0} {:>7.0}%", ours / sqlite * 100.0);
    }
    let folder = tempfile::tempdir_in(".").expect("folder");
    let (store, thread) = open(folder.path());
    let tasks = Tasks::new();
    let (each, publishers) = (2000u64, 64u64);
    let begun = Instant::now();
    for publisher in 0..publishers {
        let store = store.clone();
        tasks.spawn("publisher", async move {
            for n in 0..each {
                store.append(vec![reading(publisher * each + n)]).await.expect("stored");
            }
        });
    }
    tasks.stop_and_wait().await;
    let rate = (each * publishers) as f64 / begun.elapsed().as_secs_f64();
    println!("{publishers} publishers, one record each, each waits for its sync: {rate:.0} records/s");
    store.stop().await;
    thread.join();
}

// ---- drain ----------------------------------------------------------------------------------------------------------

struct Broker(std::process::Child, u16, tempfile::TempDir);

impl Broker {
    fn start() -> Broker {
        let port = std::net::TcpListener::bind("127.0.0.1:0").expect("port").local_addr().expect("bound").port();
        let folder = tempfile::tempdir().expect("folder");
        let config = folder.path().join("mosquitto.conf");
        std::fs::write(&config, format!("listener {port} 127.0.0.1\nallow_anonymous true\n")).expect("written");
        let mut command = Command::new("mosquitto");
        let child = command.arg("-c").arg(&config).stderr(Stdio::null()).spawn().expect("mosquitto is installed");
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            std::thread::sleep(Duration::from_millis(10));
        }
        Broker(child, port, folder)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        let _ = &self.2;
    }
}

fn road(store: &Store, tasks: &Tasks, port: u16, change: impl FnOnce(&mut UplinkConfig)) -> Uplink {
    let mut config = UplinkConfig {
        broker: Some(Address { host: "127.0.0.1".into(), port, tls: false }),
        ..UplinkConfig::default()
    };
    change(&mut config);
    let nobody = || tokio::sync::mpsc::channel(1).0;
    let around = Surroundings {
        gateway: id("gw"),
        store: store.clone(),
        orders: Orders { keeper: nobody(), updates: nobody(), diagnostics: nobody(), jobs: nobody() },
        events: Events::new(),
        tls: None,
        children: tokio::sync::watch::channel(Vec::new()).1,
        endurance: 1,
        tasks: tasks.clone(),
    };
    uplink::start(config, around)
}

/// Publishes per second of rumqttc alone, QoS 1, same payload and number in flight.
async fn bare_publisher(port: u16, count: u64) -> f64 {
    let mut options = rumqttc::MqttOptions::new("bare", "127.0.0.1", port);
    options.set_inflight(256);
    let (client, mut events) = rumqttc::AsyncClient::new(options, 512);
    let tasks = Tasks::new();
    let begun = Instant::now();
    tasks.spawn("publisher", async move {
        for n in 0..count {
            let topic = format!("devices/meter-{:02}/telemetry", n % 20);
            client.publish(topic, rumqttc::QoS::AtLeastOnce, false, body(n)).await.expect("queued");
        }
        std::future::pending::<()>().await;
    });
    let mut acked = 0;
    while acked < count {
        if let rumqttc::Event::Incoming(rumqttc::Packet::PubAck(_)) = events.poll().await.expect("connected") {
            acked += 1;
        }
    }
    count as f64 / begun.elapsed().as_secs_f64()
}

async fn drain() {
    let count = 100_000;
    println!("drain of {count} records to mosquitto on this machine");
    let broker = Broker::start();
    let bare = bare_publisher(broker.1, count).await;
    println!("bare rumqttc, one record per publish: {bare:.0}/s");
    for (name, batch, version) in [
        ("3.1.1, one per publish", 1, Version::V3),
        ("5, one per publish", 1, Version::V5),
        ("5, batches", 500, Version::V5),
    ] {
        let folder = tempfile::tempdir_in(".").expect("folder");
        let (store, thread) = open(folder.path());
        for first in (0..count).step_by(1000) {
            store.append((first..first + 1000).map(reading).collect()).await.expect("stored");
        }
        let tasks = Tasks::new();
        let begun = Instant::now();
        let uplink = road(&store, &tasks, broker.1, |config| {
            config.batch = batch;
            config.version = version;
        });
        while uplink.link_status().acknowledged < count {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let rate = count as f64 / begun.elapsed().as_secs_f64();
        let status = uplink.link_status();
        let wire = (status.bytes_sent + status.bytes_received) as f64 / count as f64;
        println!(
            "headgate, {name}: {rate:.0} records/s ({:.0}% of bare), {wire:.0} bytes on the wire each",
            rate / bare * 100.0
        );
        tasks.stop_and_wait().await;
        store.stop().await;
        thread.join();
    }
}

// ---- bytes on disk --------------------------------------------------------------------------------------------------

async fn bytes() {
    println!("bytes on disk and to the device per reading of {} bytes", body(1).len());
    println!("{:>8} {:>22} {:>22}", "commit", "one JSON row each", "headgate");
    for batch in [1u64, 10, 100, 1000] {
        let rounds = (20_000 / batch).clamp(20, 2000);
        let folder = tempfile::tempdir_in(".").expect("folder");
        let count = (rounds * batch) as f64;
        let mut connection = bare(folder.path());
        let before = device_bytes();
        for round in 0..rounds {
            let records: Vec<NewRecord> = (round * batch..(round + 1) * batch).map(reading).collect();
            insert(&mut connection, &records, round * batch + 1);
        }
        connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").expect("checkpoint");
        let theirs = (device_bytes() - before) as f64 / count;
        drop(connection);
        let their_size = std::fs::metadata(folder.path().join("bare.db")).expect("file").len() as f64 / count;
        let (store, thread) = open(folder.path());
        let before = device_bytes();
        for round in 0..rounds {
            store.append((round * batch..(round + 1) * batch).map(reading).collect()).await.expect("stored");
        }
        store.stop().await;
        thread.join();
        let ours = (device_bytes() - before) as f64 / count;
        let our_size = std::fs::metadata(folder.path().join("headgate.db")).expect("file").len() as f64 / count;
        let shown = |size: f64, written: f64| format!("{size:.0} kept {written:.0} written");
        println!("{batch:>8} {:>22} {:>22}", shown(their_size, theirs), shown(our_size, ours));
    }
}

// ---- a large backlog ------------------------------------------------------------------------------------------------

async fn backlog(count: u64) {
    let folder = tempfile::tempdir_in(".").expect("folder");
    let (store, thread) = open(folder.path());
    let begun = Instant::now();
    let mut first = 0;
    while first < count {
        let next = (first + 2000).min(count);
        store.append((first..next).map(reading).collect()).await.expect("stored");
        first = next;
    }
    println!("{count} records written in {:.1} s", begun.elapsed().as_secs_f64());
    store.stop().await;
    thread.join();
    let size = std::fs::metadata(folder.path().join("headgate.db")).expect("file").len();
    println!("{} MB on disk, {:.1} bytes each", size >> 20, size as f64 / count as f64);
    // A process of its own, so that memory is that of a start.
    let path = std::env::current_exe().expect("path");
    let status = Command::new(path).arg("child").arg(folder.path()).status().expect("starts");
    assert!(status.success());
}

/// Opens a log with a backlog, drains for ten seconds with live records on top, and says what that took.
async fn child(folder: &Path) {
    let base = memory();
    let begun = Instant::now();
    let (store, thread) = open(folder);
    let opened = begun.elapsed();
    let waiting = store.log_status("cloud").await.expect("status").waiting;
    println!(
        "start-up with {waiting} waiting: {:.0} ms, {:.1} MB resident",
        opened.as_secs_f64() * 1e3,
        memory() as f64 / 1e6
    );
    let broker = Broker::start();
    let p99 = |mut millis: Vec<f64>| {
        millis.sort_by(f64::total_cmp);
        (millis[millis.len() / 2], millis[millis.len() * 99 / 100])
    };
    // An alarm's way to the cloud's acknowledgement: first with nothing else to do, then above the backlog.
    let alarm = || NewRecord { kind: Kind::Event, ..reading(0) };
    let latency = async |store: &Store, lane: Lane, seconds: u64| {
        let mut took = Vec::new();
        let until = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < until {
            let begun = Instant::now();
            store.append(vec![alarm()]).await.expect("stored");
            let position = store.appended().borrow()[lane as usize];
            while store.cursor("cloud", lane).await.expect("cursor") < position {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            took.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        took
    };
    let tasks = Tasks::new();
    let idle = tempfile::tempdir_in(".").expect("folder");
    let (empty, empty_thread) = open(idle.path());
    let quiet = road(&empty, &tasks, broker.1, |config| config.client_id = Some("quiet".into()));
    let without = p99(latency(&empty, Lane::Urgent, 5).await);
    drop(quiet);
    let uplink = road(&store, &tasks, broker.1, |_| ());
    let before = uplink.link_status().acknowledged;
    let began = Instant::now();
    let most = memory();
    let with = p99(latency(&store, Lane::Urgent, 10).await);
    let drained = uplink.link_status().acknowledged - before;
    println!(
        "drained {:.0} records/s; resident {:.1} MB at the start, {:.1} MB before and {:.1} MB after ten seconds of draining",
        drained as f64 / began.elapsed().as_secs_f64(),
        base as f64 / 1e6,
        most as f64 / 1e6,
        memory() as f64 / 1e6,
    );
    println!(
        "an alarm from append to the cursor behind its acknowledgement: median {:.0} ms, p99 {:.0} ms idle; {:.0} and {:.0} ms while draining",
        without.0, without.1, with.0, with.1,
    );
    tasks.stop_and_wait().await;
    for (store, thread) in [(store, thread), (empty, empty_thread)] {
        store.stop().await;
        thread.join();
    }
}

#[tokio::main]
async fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        ["child", folder] => child(Path::new(folder)).await,
        ["ingest"] => ingest().await,
        ["drain"] => drain().await,
        ["bytes"] => bytes().await,
        ["backlog", count] => backlog(count.parse().expect("a number of records")).await,
        _ => {
            ingest().await;
            drain().await;
            bytes().await;
            backlog(1_000_000).await;
        }
    }
}
