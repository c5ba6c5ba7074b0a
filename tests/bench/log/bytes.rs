//! Bytes per reading: kept on disk and written to the device, and carried on the wire, beside one JSON message per
//! reading and beside mosquitto as a bridge with persistence.

use std::time::Duration;

use headgate::{
    config::uplink::{Encoding, UplinkConfig, Version},
    tasks::Tasks,
};
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, QoS};

use super::{
    CAP, body, device_bytes,
    peers::{Broker, bare, bare_publisher, bridge_to, free_port, insert},
    readings,
    road::{self, open, wire::TcpWire},
};

const COUNT: u64 = 20_000;

// ---- on disk --------------------------------------------------------------------------------------------------------

pub async fn disk() {
    println!(
        "bytes per reading of {} bytes, no cloud: kept on disk, and written to the device meanwhile",
        body(1).len()
    );
    println!(
        "{:>24} {:>10} {:>10} {:>10} {:>10}",
        "readings per commit", "rows kept", "written", "ours kept", "written"
    );
    for batch in [1u64, 10, 100, 1000] {
        // Both write-ahead logs have begun anew before anything is counted: a file's first growth is not what a card lives with.
        let before = (350_000 / batch).clamp(350, 3500);
        let rounds = before + (COUNT / batch).clamp(20, 2000);
        let folder = tempfile::tempdir_in(".").expect("folder");
        let (count, all) = (((rounds - before) * batch) as f64, (rounds * batch) as f64);
        let mut connection = bare(folder.path());
        let mut written = 0;
        for round in 0..rounds {
            if round == before {
                written = device_bytes("self");
            }
            insert(&mut connection, &readings(round * batch, (round + 1) * batch), round * batch + 1);
        }
        connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").expect("checkpoint");
        let theirs = (device_bytes("self") - written) as f64 / count;
        drop(connection);
        let size = |name: &str| std::fs::metadata(folder.path().join(name)).expect("file").len() as f64 / all;
        let their_size = size("bare.db");
        let (store, thread) = open(folder.path(), CAP);
        for round in 0..rounds {
            if round == before {
                written = device_bytes("self");
            }
            store.append(readings(round * batch, (round + 1) * batch)).await.expect("stored");
        }
        store.stop().await;
        thread.join();
        let ours = (device_bytes("self") - written) as f64 / count;
        println!("{batch:>24} {their_size:>10.0} {theirs:>10.0} {:>10.0} {ours:>10.0}", size("headgate.db"));
    }
    let away = bridge_to(free_port());
    for (name, save, count) in [
        ("saved when told to", "autosave_interval 1800", COUNT),
        ("saved every 100 changes", "autosave_interval 100\nautosave_on_changes true", COUNT),
        ("saved at every change", "autosave_interval 1\nautosave_on_changes true", 1000),
    ] {
        let broker = Broker::start(&format!("persistence true\n{save}\n{away}"));
        bare_publisher(broker.port, Version::V3, count).await;
        broker.save();
        let kept = std::fs::metadata(broker.folder.path().join("mosquitto.db")).map_or(0, |meta| meta.len());
        let written = device_bytes(&broker.process()) as f64 / count as f64;
        println!("mosquitto bridge, {name}: {:.0} kept, {written:.0} written", kept as f64 / count as f64);
    }
}

// ---- on the wire ----------------------------------------------------------------------------------------------------

/// Counts what reaches the cloud's broker, beside the wire.
async fn witness(port: u16) -> (AsyncClient, EventLoop) {
    let (client, mut events) = AsyncClient::new(MqttOptions::new("witness", "127.0.0.1", port), 16);
    client.subscribe("devices/#", QoS::AtMostOnce).await.expect("queued");
    while !matches!(events.poll().await.expect("connected"), Event::Incoming(Packet::SubAck(_))) {}
    (client, events)
}

pub async fn wire() {
    println!(
        "bytes per reading of {} bytes on the wire: TCP payload of {COUNT} readings of 20 devices, both directions",
        body(1).len()
    );
    let cloud = Broker::start("");
    let wire = TcpWire::to(cloud.port);
    bare_publisher(wire.port, Version::V3, COUNT).await;
    println!("{:>44}: {:>6.1}", "one JSON message per reading", wire.carried() as f64 / COUNT as f64);

    let cloud = Broker::start("");
    let wire = TcpWire::to(cloud.port);
    let (_client, mut events) = witness(cloud.port).await;
    let bridge = Broker::start(&format!("persistence true\n{}", bridge_to(wire.port)));
    let arrive = async {
        let mut arrived = 0;
        while arrived < COUNT {
            arrived +=
                u64::from(matches!(events.poll().await.expect("connected"), Event::Incoming(Packet::Publish(_))));
        }
    };
    let (_, arrived) = tokio::join!(
        bare_publisher(bridge.port, Version::V3, COUNT),
        tokio::time::timeout(Duration::from_secs(60), arrive)
    );
    let text = "mosquitto bridge";
    match arrived {
        Ok(()) => println!("{text:>44}: {:>6.1}", wire.carried() as f64 / COUNT as f64),
        Err(_) => println!("{text:>44}: not all arrived within a minute"),
    }
    for (batch, encoding, zstd) in [
        (1, Encoding::Json, false),
        (1, Encoding::Cbor, false),
        (10, Encoding::Json, false),
        (10, Encoding::Json, true),
        (10, Encoding::Cbor, true),
        (500, Encoding::Json, false),
        (500, Encoding::Cbor, false),
        (500, Encoding::Senml, false),
        (500, Encoding::Json, true),
        (500, Encoding::Cbor, true),
        (500, Encoding::Senml, true),
    ] {
        let (carried, told) = ours(batch, encoding, zstd).await;
        let pressed = if zstd { " + zstd" } else { "" };
        let text = format!("headgate, {encoding:?}{pressed}, up to {batch} per publish");
        println!("{text:>44}: {carried:>6.1}, {told:.1} with TCP/IP headers as the gateway counts them");
    }
}

async fn ours(batch: usize, encoding: Encoding, zstd: bool) -> (f64, f64) {
    let cloud = Broker::start("");
    let wire = TcpWire::to(cloud.port);
    let folder = tempfile::tempdir_in(".").expect("folder");
    let (store, thread) = open(folder.path(), CAP);
    for first in (0..COUNT).step_by(1000) {
        store.append(readings(first, first + 1000)).await.expect("stored");
    }
    let tasks = Tasks::new();
    let config = UplinkConfig { batch, encoding, zstd, version: Version::V3, ..road::config(wire.port) };
    let uplink = road::start(&store, &tasks, config);
    while uplink.link_status().acknowledged < COUNT {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let figures = (wire.carried() as f64 / COUNT as f64, uplink.link_status().bytes_per_record.unwrap_or(0.0));
    tasks.stop_and_wait().await;
    store.stop().await;
    thread.join();
    figures
}
