//! Firmware for children: fetched once, verified, kept, offered; each child's update survives the gateway's restarts.
//!
//! An order passes `verify` (form and signature) before anything is fetched, the image passes `cache` (digest) before
//! anything is offered, and every piece is compared again when it is read. `worker` owns each child's state and stores
//! an intent before it acts on it; [`Updates`] is what other rooms hold.

pub mod cache;
pub mod fetch;
mod fetching;
pub mod http;
mod obtain;
mod offers;
mod reports;
pub mod verify;
mod worker;

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    bus::{ChildEvent, Events, ImagePiece, LocalSender, Order, Reply, UpdateAsk},
    config::updates::Updates as Config,
    model::{
        command::{Refusal, RefusalCode},
        ids::DeviceId,
        update::{ChildUpdate, UpdateProgress},
    },
    store::{Store, StoreError, artifacts::Artifact},
    tasks::Tasks,
};
use cache::{Cache, CacheError, Image};
use verify::Digest;

/// Most bytes of an image in one piece over MQTT or CoAP.
pub const LARGEST_PIECE: u32 = 48 * 1024;

/// Where this room works.
#[derive(Debug, Clone)]
pub struct Settings {
    pub config: Config,
    /// The cache, usually `<state>/firmware`.
    pub folder: PathBuf,
    /// `http://host:port` under which children reach this gateway, without a slash at the end.
    pub base_url: String,
}

/// The ends this room holds.
pub struct Ports {
    /// Update orders; others are answered with an error.
    pub orders: mpsc::Receiver<Order>,
    /// What children say about their updates; already logged.
    pub reports: mpsc::Receiver<(DeviceId, UpdateProgress)>,
    pub asks: mpsc::Receiver<UpdateAsk>,
    pub children: mpsc::Receiver<ChildEvent>,
    pub local: LocalSender,
    pub events: Events,
    pub store: Store,
}

/// Why the room could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Cache(#[from] CacheError),
    #[error("the updates could not be read: {0}")]
    Store(#[from] StoreError),
}

/// What page, API and doors ask of this room. Cheap to clone.
#[derive(Clone)]
pub struct Updates {
    view: watch::Receiver<Arc<Vec<ChildUpdate>>>,
    requests: mpsc::Sender<Request>,
    cache: Arc<Cache>,
    store: Store,
}

enum Request {
    Cancel {
        device: DeviceId,
        by: String,
        reply: Reply,
    },
    /// A reader met bytes that are not the verified ones.
    Altered {
        digest: Digest,
        why: String,
    },
}

/// Where children reach a web listener, for [`Settings::base_url`]: loopback speaks plain HTTP, everything else HTTPS;
/// a listener on all addresses is named by this machine's host name.
pub fn reach(listen: SocketAddr) -> String {
    let ip = listen.ip();
    if ip.is_loopback() {
        return format!("http://{listen}");
    }
    if !ip.is_unspecified() {
        return format!("https://{listen}");
    }
    let system = rustix::system::uname();
    format!("https://{}:{}", system.nodename().to_string_lossy(), listen.port())
}

/// Reads back what is under way and goes on with it.
pub async fn start(settings: Settings, ports: Ports, tasks: &Tasks) -> Result<Updates, StartError> {
    let folder = settings.folder.clone();
    let cache = tokio::task::spawn_blocking(move || Cache::new(&folder)).await;
    let cache = Arc::new(cache.map_err(|_| StoreError::Stopped)??);
    let known = ports.store.updates().await?;
    let (publish, view) = watch::channel(Arc::new(known.clone()));
    let (requests, inbox) = mpsc::channel(64);
    let updates = Updates { view, requests, cache, store: ports.store.clone() };
    let worker = worker::Worker::new(settings, &ports, updates.clone(), known, publish, tasks.clone());
    tasks.spawn("updates", worker.run(ports, inbox, tasks.stopping()));
    Ok(updates)
}

impl Updates {
    /// One entry per child that ever had an update: the active one, or how the last one ended.
    pub fn status(&self) -> Arc<Vec<ChildUpdate>> {
        self.view.borrow().clone()
    }

    /// Wakes whenever [`Updates::status`] changes.
    pub fn watch(&self) -> watch::Receiver<Arc<Vec<ChildUpdate>>> {
        self.view.clone()
    }

    /// Up to twenty earlier updates of one child, newest first.
    pub async fn history(&self, device: DeviceId) -> Result<Vec<ChildUpdate>, StoreError> {
        self.store.update_history(device).await
    }

    /// The images in the cache, least recently used first.
    pub async fn cached(&self) -> Result<Vec<Artifact>, StoreError> {
        self.store.artifacts().await
    }

    /// Withdraws an update that the child has not begun; `by` is shown as the reason.
    pub async fn cancel(&self, device: DeviceId, by: impl Into<String>) -> Result<(), Refusal> {
        let (reply, answer) = oneshot::channel();
        let gone = || Refusal::new(RefusalCode::Busy, "the gateway is stopping");
        self.requests.send(Request::Cancel { device, by: by.into(), reply }).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// The update whose image this child may fetch now.
    pub fn open_offer(&self, device: &DeviceId) -> Option<ChildUpdate> {
        self.view.borrow().iter().find(|update| update.device == *device && update.stage.is_open()).cloned()
    }

    /// The verified image; hashes it on first use. An altered one is thrown away and fetched again.
    async fn image(&self, digest: Digest) -> Result<Arc<Image>, CacheError> {
        let cache = self.cache.clone();
        let opened = tokio::task::spawn_blocking(move || cache.open(digest)).await;
        let opened = opened.unwrap_or(Err(CacheError::Absent));
        if let Err(error @ (CacheError::Altered(_) | CacheError::Absent)) = &opened {
            let _ = self.requests.send(Request::Altered { digest, why: error.to_string() }).await;
        }
        opened
    }

    /// Verified bytes of an open image; see [`Updates::image`].
    async fn read(&self, image: &Arc<Image>, offset: u64, length: u64) -> Result<Vec<u8>, CacheError> {
        let (digest, reader) = (image.digest, image.clone());
        let read = tokio::task::spawn_blocking(move || reader.read(offset, length)).await;
        let read = read.unwrap_or(Err(CacheError::Absent));
        if let Err(error) = &read {
            let _ = self.requests.send(Request::Altered { digest, why: error.to_string() }).await;
        }
        read
    }

    /// A piece of the image that is on offer for `device`; at most [`LARGEST_PIECE`] bytes.
    async fn piece(&self, device: &DeviceId, offset: u64, length: u32) -> Result<ImagePiece, Refusal> {
        let none = || Refusal::new(RefusalCode::NotAuthorized, "no update is on offer for this device");
        let offer = self.open_offer(device).ok_or_else(none)?;
        let digest = Digest::parse(&offer.order.sha256).ok_or_else(none)?;
        let unreadable = |e: CacheError| Refusal::new(RefusalCode::StoreUnavailable, e.to_string());
        let image = self.image(digest).await.map_err(unreadable)?;
        if offset > image.size {
            let why = format!("offset {offset} is beyond the image's {} bytes", image.size);
            return Err(Refusal::new(RefusalCode::OutOfRange, why));
        }
        let length = u64::from(length.min(LARGEST_PIECE));
        let bytes = self.read(&image, offset, length).await.map_err(unreadable)?;
        Ok(ImagePiece { sha256: digest.to_string().into(), total: image.size, bytes: bytes.into() })
    }
}
