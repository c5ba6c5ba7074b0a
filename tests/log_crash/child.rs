//! The process that is killed: a store, the road, and publishers at full rate.

use std::{path::Path, time::Duration};

use headgate::{
    config::uplink::{UplinkConfig, Version},
    model::{
        event::LinkState,
        record::{Kind, NewRecord},
    },
    tasks::Tasks,
};

use super::{
    DEVICES,
    road::{self, id, noise},
};

/// `child <folder> <port> <first n> <publish|drain> <cap>`: says `ready`, then `a <device> <seq> <n>` for every
/// acknowledged record; with `drain` it ends when the cloud has everything.
#[tokio::main]
pub async fn child(args: &[String]) {
    let [folder, port, first, mode, cap] = args else { panic!("child <folder> <port> <first n> <mode> <cap>") };
    let cap: u64 = cap.parse().expect("bytes");
    let (store, thread) = road::open(Path::new(folder), cap);
    let tasks = Tasks::new();
    let config = UplinkConfig {
        version: if first.len() % 2 == 0 { Version::V3 } else { Version::V5 },
        keep_alive: Duration::from_secs(5),
        unacked_timeout: Duration::from_secs(1),
        retry: (Duration::from_millis(20), Duration::from_millis(200)),
        batch: 20,
        ..road::config(port.parse().expect("port"))
    };
    let uplink = road::start(&store, &tasks, config);
    println!("ready");
    if mode == "publish" {
        let first: u64 = first.parse().expect("number");
        // At a small cap the records are large, so that it is reached.
        let pad = if cap < 64 << 20 { 1200 } else { 150 };
        for device in 0..DEVICES {
            let store = store.clone();
            tasks.spawn("publisher", async move {
                for n in first.. {
                    let noise = noise(n * DEVICES as u64 + device as u64, pad);
                    let body = format!("{{\"values\":{{\"n\":{n},\"pad\":\"{noise}\"}}}}").into();
                    let device = format!("d{device}");
                    let ts = headgate::clock::now();
                    let record = NewRecord { device: id(&device), kind: Kind::Telemetry, name: None, ts, body };
                    match store.append(vec![record]).await {
                        Ok(seqs) => println!("a {device} {} {n}", seqs[0]),
                        Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                    }
                }
            });
        }
        std::future::pending::<()>().await;
    }
    let mut state = uplink.state();
    loop {
        let live = state.borrow_and_update().0 == LinkState::Live;
        if live && uplink.log_status().await.expect("status").waiting == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    tasks.stop_and_wait().await;
    store.stop().await;
    thread.join();
}
