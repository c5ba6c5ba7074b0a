//! The store and the road without the rest of a gateway, and the world around them: a cloud nobody here wrote, and a
//! wire that breaks. Shared by the tests and the benchmark of the log.
#![allow(dead_code)] // each of them uses a part

pub mod cloud;
pub mod disk;
pub mod wire;

use std::path::Path;

use headgate::{
    bus::{Events, Orders},
    config::{
        log::LogConfig,
        uplink::{Address, UplinkConfig},
    },
    model::ids::DeviceId,
    store::{Store, StoreOptions, WriterThread},
    tasks::Tasks,
    uplink::{self, Surroundings, Uplink},
};
use tokio::sync::{mpsc, watch};

pub fn id(text: &str) -> DeviceId {
    DeviceId::new(text).expect("id")
}

pub fn options(max_bytes: u64) -> StoreOptions {
    StoreOptions { log: LogConfig { max_bytes, keep_free: 0, ..LogConfig::default() }, gateway: id("gw") }
}

pub fn open(folder: &Path, max_bytes: u64) -> (Store, WriterThread) {
    Store::open_with(folder, options(max_bytes)).expect("the store opens")
}

/// A road to a broker on this machine.
pub fn config(port: u16) -> UplinkConfig {
    UplinkConfig {
        broker: Some(Address { host: "127.0.0.1".into(), port, tls: false }),
        client_id: Some("gw".into()),
        ..UplinkConfig::default()
    }
}

/// What the road needs where nobody takes orders and there are no children.
pub fn surroundings(store: &Store, tasks: &Tasks) -> Surroundings {
    let nobody = || mpsc::channel(1).0;
    Surroundings {
        gateway: id("gw"),
        store: store.clone(),
        orders: Orders { keeper: nobody(), updates: nobody(), diagnostics: nobody(), jobs: nobody() },
        events: Events::new(),
        tls: None,
        children: watch::channel(Vec::new()).1,
        endurance: 1 << 40,
        tasks: tasks.clone(),
    }
}

pub fn start(store: &Store, tasks: &Tasks, config: UplinkConfig) -> Uplink {
    uplink::start(config, surroundings(store, tasks))
}

/// Lower-case letters that compress badly, the same for the same seed.
pub fn noise(seed: u64, length: usize) -> String {
    let mut state = seed;
    let letter = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b'a' + (state >> 33) as u8 % 26)
    };
    std::iter::repeat_with(letter).take(length).collect()
}
