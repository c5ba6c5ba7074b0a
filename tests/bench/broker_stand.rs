//! A broker on a stand, for conformance suites and load tools: everybody may come without credentials and touch
//! everything; a trivial keeper stands behind it.
//!
//! `cargo run --example broker-stand -- [FOLDER] [PORT] [instant|commit]`: `commit` stores each batch of ingested
//! messages before it answers, `instant` answers at once. Plain TCP on PORT, WebSocket on PORT + 1.

use std::{net::SocketAddr, path::PathBuf};

use headgate::{
    broker::{Ports, start},
    bus::ChildEvents,
    config::{
        broker::{Anonymous, Broker, Limits},
        identity::IdentityConfig,
    },
    identity::Identity,
    model::access::{Access, Filter, Grant, Grantee},
    store::Store,
    tasks::Tasks,
};
use tokio::sync::mpsc;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().unwrap_or_else(|| "target/broker-stand".into()));
    let port: u16 = arguments.next().map_or(Ok(1883), |port| port.parse())?;
    let commit = arguments.next().as_deref() == Some("commit");
    std::fs::create_dir_all(&folder)?;
    let (store, thread) = Store::open(&folder)?;
    let identity = Identity::open(store.clone(), &IdentityConfig::default(), &folder, "stand").await?;
    let tasks = Tasks::new();
    let (inbound, mut arrived) = mpsc::channel::<Vec<headgate::bus::Inbound>>(headgate::bus::WORK);
    let (local, said) = mpsc::channel(headgate::bus::WORK);
    let keeper = store.clone();
    tasks.spawn("keeper", async move {
        let mut batch = Vec::new();
        while arrived.recv_many(&mut batch, 64).await > 0 {
            if commit {
                let bodies: Vec<u8> = batch.iter().flatten().flat_map(|inbound| inbound.payload.to_vec()).collect();
                let _ = keeper.set_setting("stand", bodies).await;
            }
            for inbound in batch.drain(..).flatten() {
                let _ = inbound.reply.send(Ok(()));
            }
        }
    });
    let filters = |texts: &[&str]| -> Vec<Filter> { texts.iter().filter_map(|text| Filter::new(text).ok()).collect() };
    let all = filters(&["#", "$SYS/#", "$aws/#"]);
    // the one filter that the conformance suites want to see refused
    let refused = Grant { to: vec![Grantee::Everyone], read: filters(&["test/nosubscribe"]), write: Vec::new() };
    let access = Access {
        grants: vec![Grant { to: vec![Grantee::Everyone], read: all.clone(), write: all }],
        denials: vec![refused],
    };
    let config = Broker {
        tcp: vec![SocketAddr::from(([127, 0, 0, 1], port))],
        tls: Vec::new(),
        websocket: vec![SocketAddr::from(([127, 0, 0, 1], port + 1))],
        anonymous: Anonymous::ByClientId,
        limits: Limits { connects_per_second: 100_000, anonymous_devices: 1_000_000, ..Limits::default() },
        ..Broker::default()
    };
    let ports = Ports { identity, inbound, local: said, children: ChildEvents::default(), store: store.clone() };
    let broker = start(&config, access, None, ports, &tasks).await?;
    for (kind, address) in broker.listening() {
        println!("{} {address}", kind.name());
    }
    tokio::signal::ctrl_c().await?;
    drop(local);
    // the broker first, then what it writes to
    tasks.stop_and_wait().await;
    store.stop().await;
    thread.join();
    Ok(())
}
