//! Normative statements of MQTT 3.1.1 and 5, one probe each: what is said, byte by byte, and what must come back. Run over
//! TCP and over WebSocket. `HEADGATE_PROBE=127.0.0.1:1883 cargo test --test broker probes -- --nocapture` runs them
//! against another broker and prints what it does otherwise; nothing fails then.

mod connecting;
mod malformed;
mod publishing;
mod sessions;
mod steps;
mod subscribing;
mod time;
mod wire;

use std::net::SocketAddr;

use futures_util::future::join_all;
use headgate::{
    broker::Kind,
    model::access::{Access, Grantee},
};
use steps::{Probe, Road, run};

use crate::stand::{Client, Stand, config, grant, v5};

fn all() -> Vec<Probe> {
    // a filter that names everything comes before anything is retained
    let tables = [connecting::probes(), malformed::probes(), subscribing::probes(), publishing::probes()];
    tables.into_iter().flatten().chain(sessions::probes()).collect()
}

/// What failed. Probes that wait run beside each other; the others one after another.
async fn run_all(address: SocketAddr, road: Road, strict: bool) -> (usize, Vec<String>) {
    let mut failed = Vec::new();
    let (probes, slow) = (all(), time::probes());
    for probe in &probes {
        if let Err(why) = run(probe, address, road, strict).await {
            failed.push(format!("{road:?}: {}: {why}", probe.name));
        }
    }
    let outcomes = join_all(slow.iter().map(|probe| run(probe, address, road, strict))).await;
    for (probe, outcome) in slow.iter().zip(outcomes) {
        failed.extend(outcome.err().map(|why| format!("{road:?}: {}: {why}", probe.name)));
    }
    (probes.len() + slow.len(), failed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_probe_finds_the_behaviour_of_the_standard() {
    if let Ok(other) = std::env::var("HEADGATE_PROBE") {
        let (count, failed) = run_all(other.parse().expect("an address"), Road::Tcp, false).await;
        println!("{} of {count} as the standard says\n{}", count - failed.len(), failed.join("\n"));
        return;
    }
    let mut failed = Vec::new();
    for (road, kind) in [(Road::Tcp, Kind::Tcp), (Road::WebSocket, Kind::WebSocket)] {
        let folder = tempfile::tempdir().expect("folder");
        let mut config = config();
        config.websocket = vec![SocketAddr::from(([127, 0, 0, 1], 0))];
        let everything = [Grantee::Everyone];
        let access = Access { grants: vec![grant(&everything, &["#"], &["#", "$f5/#", "$x/#"])], ..Access::default() };
        let stand = Stand::with(folder.path(), config, access, None, std::sync::Arc::new(|_| Ok(()))).await;
        let mut witness = Client::connect(stand.address(), &v5("witness")).await;
        failed.extend(run_all(stand.at(kind), road, true).await.1);
        // whatever they did, they did to themselves
        witness.nothing().await;
        stand.stop().await;
    }
    assert!(failed.is_empty(), "{} failed:\n{}", failed.len(), failed.join("\n"));
}
