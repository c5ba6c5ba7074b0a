//! A stalled north never slows the south: how long children wait for their acknowledgement, whatever the cloud does.

use std::time::{Duration, Instant};

use headgate::{config::uplink::UplinkConfig, model::event::LinkState, tasks::Tasks};

use super::{
    CAP, middle_and_high,
    peers::Broker,
    reading, readings,
    road::{self, open, wire::TcpWire},
};

/// The cap of a log that is full, and that row of the table.
const SMALL: u64 = 64 << 20;
const FULL: &str = "cut, the log full";

pub async fn south() {
    println!("sixteen children, one reading each at a time, every one waits for its sync; ten seconds each");
    for north in ["live", "cut", "black hole", "throttled to 1 kB/s", FULL] {
        let broker = Broker::start("");
        let wire = TcpWire::to(broker.port);
        let folder = tempfile::tempdir_in(".").expect("folder");
        let (store, thread) = open(folder.path(), if north == FULL { SMALL } else { CAP });
        if north == FULL {
            for n in 0..SMALL / 32 / 1000 {
                store.append(readings(n * 1000, (n + 1) * 1000)).await.expect("stored");
            }
        }
        let tasks = Tasks::new();
        let uplink = road::start(&store, &tasks, UplinkConfig { client_id: None, ..road::config(wire.port) });
        let mut state = uplink.state();
        state.wait_for(|(state, _)| *state == LinkState::Live).await.expect("runs");
        match north {
            "cut" | FULL => wire.cut(),
            "black hole" => wire.stall(),
            "live" => {}
            _ => wire.throttle(1000),
        }
        let (tell, mut told) = tokio::sync::mpsc::channel(1024);
        let until = Instant::now() + Duration::from_secs(10);
        for child in 0..16 {
            let (store, tell) = (store.clone(), tell.clone());
            tasks.spawn("child", async move {
                let mut n = child;
                while Instant::now() < until {
                    let begun = Instant::now();
                    store.append(vec![reading(n)]).await.expect("stored");
                    let _ = tell.send(begun.elapsed().as_secs_f64() * 1e3).await;
                    n += 16;
                }
            });
        }
        drop(tell);
        let mut took = Vec::new();
        while let Some(one) = told.recv().await {
            took.push(one);
        }
        let count = took.len();
        let (middle, high) = middle_and_high(took);
        println!("cloud {north:>20}: {:>7.0} readings/s, median {middle:.1} ms, p99 {high:.1} ms", count as f64 / 10.0);
        wire.heal();
        tasks.stop_and_wait().await;
        store.stop().await;
        thread.join();
    }
}
