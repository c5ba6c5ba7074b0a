//! A large backlog: how long a start takes, how much memory, and whether what is urgent now is held up by draining.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use headgate::{
    config::uplink::UplinkConfig,
    model::record::{Kind, NewRecord},
    store::Store,
    tasks::Tasks,
};

use super::{
    CAP, middle_and_high,
    peers::Broker,
    reading, readings,
    road::{self, open},
};

/// Resident bytes, and those of them that are the process's own and no cache of a file.
fn memory() -> (f64, f64) {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let megabytes = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB"));
        line.and_then(|kb| kb.trim().parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
    };
    (megabytes("VmRSS:"), megabytes("RssAnon:"))
}

pub async fn backlog(count: u64) {
    let folder = tempfile::tempdir_in(".").expect("folder");
    let (store, thread) = open(folder.path(), CAP);
    let begun = Instant::now();
    let mut first = 0;
    while first < count {
        let next = (first + 5000).min(count);
        store.append(readings(first, next)).await.expect("stored");
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

/// Opens a log with a backlog, drains all of it with alarms on top, and says what that took.
pub async fn child(folder: &Path) {
    let base = memory();
    let begun = Instant::now();
    let (store, thread) = open(folder, CAP);
    let waiting = store.log_status("cloud").await.expect("status").waiting;
    let opened = begun.elapsed().as_secs_f64() * 1e3;
    let up = memory();
    println!("start-up with {waiting} waiting: {opened:.0} ms");
    let broker = Broker::start("");
    let tasks = Tasks::new();
    let idle = tempfile::tempdir_in(".").expect("folder");
    let (empty, empty_thread) = open(idle.path(), CAP);
    let named = |name: &str| UplinkConfig { client_id: Some(name.into()), ..road::config(broker.port) };
    let quiet_tasks = Tasks::new();
    let quiet = road::start(&empty, &quiet_tasks, named("quiet"));
    let without = alarms(&empty, broker.port, |_| quiet.link_status().acknowledged > 500).await;
    quiet_tasks.stop_and_wait().await;
    let uplink = road::start(&store, &tasks, named("gateway"));
    let began = Instant::now();
    let mut most = memory();
    let with = alarms(&store, broker.port, |_| {
        let now = memory();
        most = (most.0.max(now.0), most.1.max(now.1));
        began.elapsed() > Duration::from_secs(15) || uplink.link_status().acknowledged >= waiting
    })
    .await;
    let drained = uplink.link_status().acknowledged as f64;
    println!("drained {drained:.0} records, {:.0}/s", drained / began.elapsed().as_secs_f64());
    println!(
        "resident (of it anonymous): {:.1} ({:.1}) MB before, {:.1} ({:.1}) MB opened, at most {:.1} ({:.1}) MB while draining",
        base.0, base.1, up.0, up.1, most.0, most.1,
    );
    println!(
        "an alarm from append to a subscriber of the cloud: median {:.1} ms, p99 {:.1} ms idle; {:.1} and {:.1} ms while draining",
        without.0, without.1, with.0, with.1,
    );
    tasks.stop_and_wait().await;
    for (store, thread) in [(store, thread), (empty, empty_thread)] {
        store.stop().await;
        thread.join();
    }
}

/// One alarm after the other, each timed until a subscriber at the cloud has it; until `enough`, but at least five seconds.
async fn alarms(store: &Store, port: u16, mut enough: impl FnMut(usize) -> bool) -> (f64, f64) {
    let mut options = rumqttc::MqttOptions::new("witness", "127.0.0.1", port);
    options.set_keep_alive(Duration::from_secs(30));
    let (client, mut events) = rumqttc::AsyncClient::new(options, 16);
    client.subscribe("devices/+/events", rumqttc::QoS::AtLeastOnce).await.expect("queued");
    use rumqttc::{Event, Packet};
    while !matches!(events.poll().await.expect("connected"), Event::Incoming(Packet::SubAck(_))) {}
    let begun = Instant::now();
    let mut took = Vec::new();
    while begun.elapsed() < Duration::from_secs(5) || !enough(took.len()) {
        let alarm = NewRecord { kind: Kind::Event, ..reading(0) };
        let asked = Instant::now();
        store.append(vec![alarm]).await.expect("stored");
        let heard =
            async { while !matches!(events.poll().await.expect("connected"), Event::Incoming(Packet::Publish(_))) {} };
        tokio::time::timeout(Duration::from_secs(30), heard).await.expect("an alarm arrives");
        took.push(asked.elapsed().as_secs_f64() * 1e3);
        if begun.elapsed() > Duration::from_secs(60) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    middle_and_high(took)
}
