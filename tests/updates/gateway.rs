//! The update room with its channel ends in the hands of a test.

use std::{path::Path, time::Duration};

use aws_lc_rs::{
    digest,
    signature::{Ed25519KeyPair, KeyPair},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use headgate::{
    bus::{ChildEvent, Events, ImagePiece, LocalMessage, Order, OrderKind, UpdateAsk},
    config::updates::{PublicKey, Updates as Config},
    model::{
        command::{Door, Refusal},
        ids::DeviceId,
        record::Lane,
        update::{ChildUpdate, Stage, UpdateOrder, UpdateProgress, UpdateStatus},
    },
    store::{Store, WriterThread},
    tasks::Tasks,
    updates::{self, Ports, Settings, Updates},
};
use serde_json::Value as Json;
use tokio::sync::{mpsc, oneshot};

/// How long anything may take on a loaded machine.
pub const SOON: Duration = Duration::from_secs(30);

pub struct Gateway {
    pub store: Store,
    pub writer: Option<WriterThread>,
    pub tasks: Tasks,
    pub updates: Updates,
    pub orders: mpsc::Sender<Order>,
    pub reports: mpsc::Sender<(DeviceId, UpdateProgress)>,
    pub asks: mpsc::Sender<UpdateAsk>,
    pub children: mpsc::Sender<ChildEvent>,
    pub local: mpsc::Receiver<LocalMessage>,
}

pub fn pair(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).expect("seed")
}

pub fn public(seed: u8) -> PublicKey {
    PublicKey(pair(seed).public_key().as_ref().try_into().expect("32 bytes"))
}

pub fn signed(url: &str, image: &[u8], job: &str) -> UpdateOrder {
    let digest = digest::digest(&digest::SHA256, image);
    UpdateOrder {
        job_id: job.into(),
        target_version: "2.0".into(),
        url: url.into(),
        size: image.len() as u64,
        sha256: hex::encode(digest),
        signature: Some(STANDARD.encode(pair(1).sign(digest.as_ref()))),
        deadline: None,
    }
}

pub fn image() -> Vec<u8> {
    (0..300_000u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).take(900_001).collect()
}

pub fn device(name: &str) -> DeviceId {
    DeviceId::new(name).expect("id")
}

impl Gateway {
    pub async fn start(folder: &Path) -> Gateway {
        let config = Config { keys: vec![public(1)], keep_free: 0, ..Config::default() };
        Self::with(folder, config).await
    }

    pub async fn with(folder: &Path, config: Config) -> Gateway {
        let (store, writer) = Store::open(folder).expect("store");
        let tasks = Tasks::new();
        let (orders, orders_in) = mpsc::channel(16);
        let (reports, reports_in) = mpsc::channel(16);
        let (asks, asks_in) = mpsc::channel(16);
        let (children, children_in) = mpsc::channel(16);
        let (local_out, local) = mpsc::channel(16);
        let ports = Ports {
            orders: orders_in,
            reports: reports_in,
            asks: asks_in,
            children: children_in,
            local: local_out,
            events: Events::new(),
            store: store.clone(),
        };
        let settings = Settings { config, folder: folder.join("firmware"), base_url: "http://10.0.0.1:8080".into() };
        let updates = updates::start(settings, ports, &tasks).await.expect("start");
        Gateway { store, writer: Some(writer), tasks, updates, orders, reports, asks, children, local }
    }

    pub async fn stop(mut self) {
        self.tasks.stop_and_wait().await;
        self.store.stop().await;
        self.writer.take().expect("thread").join();
    }

    pub async fn order(&self, name: &str, order: UpdateOrder) -> Result<Json, Refusal> {
        let (reply, answer) = oneshot::channel();
        let order = Order { device: device(name), door: Door::Cloud, what: OrderKind::Update(order), reply };
        self.orders.send(order).await.expect("room");
        answer.await.expect("answer")
    }

    /// Waits until the child's update is as `wanted`.
    pub async fn until(&self, name: &str, wanted: impl Fn(&ChildUpdate) -> bool) -> ChildUpdate {
        let mut view = self.updates.watch();
        let found = view.wait_for(|all| all.iter().any(|u| u.device.as_str() == name && wanted(u)));
        let found = tokio::time::timeout(SOON, found).await;
        match found {
            Ok(found) => {
                found.expect("room").iter().find(|u| u.device.as_str() == name && wanted(u)).cloned().expect("found")
            }
            Err(_) => panic!("not in time: {:#?}", self.updates.status()),
        }
    }

    pub async fn stage(&self, name: &str, stage: Stage) -> ChildUpdate {
        self.until(name, |update| update.stage == stage).await
    }

    pub async fn heard(&mut self) -> (String, Json) {
        let message = tokio::time::timeout(SOON, self.local.recv()).await.expect("in time").expect("open");
        (message.topic, serde_json::from_slice(&message.payload).expect("json"))
    }

    pub async fn piece(&self, name: &str, offset: u64, length: u32) -> Result<ImagePiece, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.asks.send(UpdateAsk::Piece { device: device(name), offset, length, reply }).await.expect("room");
        answer.await.expect("answer")
    }

    pub async fn whole(&self, name: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        loop {
            let piece = self.piece(name, bytes.len() as u64, 40_000).await.expect("piece");
            bytes.extend_from_slice(&piece.bytes);
            if bytes.len() as u64 == piece.total {
                return bytes;
            }
        }
    }

    /// What went up as `update/status`.
    pub async fn up(&self) -> Vec<Json> {
        let records = self.store.read_after(Lane::Urgent, 0, 1000, 1 << 20).await.expect("log");
        records.iter().map(|r| serde_json::from_slice(&r.record.body).expect("json")).collect()
    }

    pub async fn reports(&self, name: &str, status: UpdateStatus, progress: Option<u8>, to: Option<&str>) {
        let said = UpdateProgress {
            device: None,
            job_id: None,
            from: Some("1.0".into()),
            to: to.map(str::to_owned),
            status,
            progress,
            error: None,
        };
        self.reports.send((device(name), said)).await.expect("room");
    }
}
