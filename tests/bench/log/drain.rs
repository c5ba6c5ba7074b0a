//! Draining a log to a local mosquitto beside a bare rumqttc publisher over the same protocol.

use std::time::{Duration, Instant};

use headgate::{
    config::uplink::{UplinkConfig, Version},
    tasks::Tasks,
};

use super::{
    CAP,
    peers::{Broker, bare_publisher},
    readings,
    road::{self, open},
};

const COUNT: u64 = 100_000;

pub async fn drain() {
    println!("drain of {COUNT} records to mosquitto on this machine, QoS 1, 256 in flight");
    let broker = Broker::start("");
    for (name, version) in [("3.1.1", Version::V3), ("5", Version::V5)] {
        let bare = bare_publisher(broker.port, version, COUNT).await;
        println!("bare rumqttc over {name}, one record per publish: {bare:.0}/s");
        for (how, batch) in [("one per publish", 1), ("batches", 500)] {
            let rate = ours(broker.port, version, batch).await;
            println!("headgate over {name}, {how}: {rate:.0} records/s ({:.0}% of bare)", rate / bare * 100.0);
        }
    }
}

async fn ours(port: u16, version: Version, batch: usize) -> f64 {
    let folder = tempfile::tempdir_in(".").expect("folder");
    let (store, thread) = open(folder.path(), CAP);
    for first in (0..COUNT).step_by(1000) {
        store.append(readings(first, first + 1000)).await.expect("stored");
    }
    let tasks = Tasks::new();
    let begun = Instant::now();
    let uplink = road::start(&store, &tasks, UplinkConfig { batch, version, ..road::config(port) });
    while uplink.link_status().acknowledged < COUNT {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let rate = COUNT as f64 / begun.elapsed().as_secs_f64();
    tasks.stop_and_wait().await;
    store.stop().await;
    thread.join();
    rate
}
