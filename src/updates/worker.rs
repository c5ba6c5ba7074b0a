//! Each child's update from order to end. Owns the state; every step is stored before it is acted upon.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::{Value as Json, json};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{
    Ports, Request, Settings, Updates,
    obtain::{Missing, Obtain},
    verify::{Digest, acceptable},
};
use crate::{
    bus::{ChildEvent, Events, LocalMessage, LocalSender, Order, OrderKind, Reply, UpdateAsk},
    clock,
    model::{
        command::{Refusal, RefusalCode},
        event::Event,
        ids::DeviceId,
        time::Millis,
        update::{ChildUpdate, Stage, UpdateOrder, UpdateStatus},
    },
    store::{Store, artifacts::Placed},
    tasks::Tasks,
};

/// Fetches at the same time, so that one slow server does not hold up all others.
const FETCHES: usize = 2;
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(900);

pub(super) struct Worker {
    pub(super) settings: Settings,
    pub(super) store: Store,
    pub(super) local: LocalSender,
    pub(super) events: Events,
    pub(super) handle: Updates,
    pub(super) tasks: Tasks,
    /// Per child the active update, or the last one.
    pub(super) updates: BTreeMap<DeviceId, ChildUpdate>,
    publish: watch::Sender<Arc<Vec<ChildUpdate>>>,
    fetching: HashMap<Digest, Fetching>,
    fetched: (mpsc::Sender<Fetched>, mpsc::Receiver<Fetched>),
    /// What children last said they run.
    pub(super) running: HashMap<DeviceId, String>,
}

struct Fetching {
    url: String,
    size: u64,
    done: Arc<AtomicU64>,
    stop: CancellationToken,
}

type Fetched = (Digest, Result<(), Missing>);

impl Worker {
    pub(super) fn new(
        settings: Settings,
        ports: &Ports,
        handle: Updates,
        known: Vec<ChildUpdate>,
        publish: watch::Sender<Arc<Vec<ChildUpdate>>>,
        tasks: Tasks,
    ) -> Worker {
        let mut updates: BTreeMap<DeviceId, ChildUpdate> = BTreeMap::new();
        for update in known {
            let shown = updates.get(&update.device);
            if shown.is_none_or(|shown| !shown.stage.is_active()) {
                updates.insert(update.device.clone(), update);
            }
        }
        Worker {
            settings,
            store: ports.store.clone(),
            local: ports.local.clone(),
            events: ports.events.clone(),
            handle,
            tasks,
            updates,
            publish,
            fetching: HashMap::new(),
            fetched: mpsc::channel(16),
            running: HashMap::new(),
        }
    }

    pub(super) async fn run(mut self, mut ports: Ports, mut inbox: mpsc::Receiver<Request>, stop: CancellationToken) {
        self.resume().await;
        loop {
            self.fetch_what_is_due().await;
            self.show();
            let wake = self.next_wake();
            tokio::select! {
                () = stop.cancelled() => break,
                Some(order) = ports.orders.recv() => self.order(order).await,
                Some((device, said)) = ports.reports.recv() => self.reported(device, said).await,
                Some(ask) = ports.asks.recv() => self.asked(ask).await,
                Some(event) = ports.children.recv() => self.child(event).await,
                Some(request) = inbox.recv() => self.request(request).await,
                Some((digest, result)) = self.fetched.1.recv() => self.fetched(digest, result).await,
                () = tokio::time::sleep(wake) => self.deadlines().await,
            }
        }
        for fetching in self.fetching.values() {
            fetching.stop.cancel();
        }
    }

    /// After a start: an intent without a result is taken up again, an open offer must still deserve it.
    async fn resume(&mut self) {
        let keys = self.settings.config.keys.clone();
        let active: Vec<ChildUpdate> = self.updates.values().filter(|u| u.stage.is_active()).cloned().collect();
        let wanted: Vec<Digest> = active.iter().filter_map(|u| Digest::parse(&u.order.sha256)).collect();
        self.handle.cache.sweep_parts(|digest| wanted.contains(&digest));
        for mut update in active {
            let (from, now) = (update.stage, clock::now());
            match acceptable(&update.order, &keys, u64::MAX) {
                Err(why) => self.end(update, Stage::Failed, Some(why.to_string())).await,
                Ok(_) if from == Stage::Fetching => {
                    update.stage = Stage::Waiting;
                    update.retry_at = Some(now);
                    self.change(update, from).await;
                }
                // Its image is verified anew; `image` says so to this worker's inbox where it is not what it was.
                Ok((digest, _)) if from.is_open() => {
                    let handle = self.handle.clone();
                    self.tasks.spawn("updates-check", async move { drop(handle.image(digest).await) });
                }
                Ok(_) => {}
            }
        }
    }

    async fn order(&mut self, order: Order) {
        let Order { device, what, reply, .. } = order;
        let result = match what {
            OrderKind::Update(update) => self.place(device, update).await,
            _ => Err(Refusal::new(RefusalCode::Internal, "this order is not for the update room")),
        };
        let _ = reply.send(result);
    }

    async fn place(&mut self, device: DeviceId, mut order: UpdateOrder) -> Result<Json, Refusal> {
        let now = clock::now();
        order.sha256.make_ascii_lowercase();
        let unstored = |e: crate::store::StoreError| Refusal::new(RefusalCode::StoreUnavailable, e.to_string());
        let checked = acceptable(&order, &self.settings.config.keys, self.settings.config.largest);
        let late = order.deadline.filter(|deadline| *deadline <= now);
        if let Some(why) =
            checked.err().map(|e| e.to_string()).or(late.map(|_| "the order's deadline has passed".into()))
        {
            tracing::warn!(%device, job = order.job_id, why, "firmware order refused");
            let refused = self.store.refuse_update(device.clone(), order, why.clone(), now).await.map_err(unstored)?;
            if let Some(update) = refused {
                self.tell(&update, UpdateStatus::Failed);
                if self.updates.get(&device).is_none_or(|shown| !shown.stage.is_active()) {
                    self.updates.insert(device, update);
                }
            }
            return Err(Refusal::new(RefusalCode::PayloadInvalid, why));
        }
        match self.store.place_update(device.clone(), order, now).await.map_err(unstored)? {
            Placed::Known(update) => Ok(json!({ "jobId": update.order.job_id, "stage": update.stage })),
            Placed::Busy(update) => Err(Refusal::new(
                RefusalCode::Busy,
                format!("the device is in the middle of {} to {}", update.order.job_id, update.order.target_version),
            )),
            Placed::New { mut update, superseded } => {
                if let Some(old) = superseded {
                    self.tell(&old, UpdateStatus::Failed);
                    self.release(&old.order.sha256);
                }
                tracing::info!(%device, job = update.order.job_id, to = update.order.target_version, "firmware ordered");
                update.from = self.running.get(&device).cloned();
                let answer = json!({ "jobId": update.order.job_id, "stage": update.stage });
                self.updates.insert(device.clone(), update.clone());
                if update.from.as_ref() == Some(&update.order.target_version) {
                    self.end(update, Stage::Completed, None).await;
                }
                Ok(answer)
            }
        }
    }

    async fn fetch_what_is_due(&mut self) {
        let now = clock::now();
        let due: Vec<ChildUpdate> = (self.updates.values())
            .filter(|update| update.stage == Stage::Waiting && update.retry_at.is_none_or(|at| at <= now))
            .cloned()
            .collect();
        for mut update in due {
            let Ok((digest, key)) = acceptable(&update.order, &self.settings.config.keys, u64::MAX) else { continue };
            let under_way = self.fetching.get(&digest);
            if under_way.is_none() && self.fetching.len() >= FETCHES {
                continue;
            }
            if under_way.is_some_and(|fetching| fetching.stop.is_cancelled()) {
                continue;
            }
            let first = under_way.is_none();
            update.stage = Stage::Fetching;
            update.attempts += u32::from(first);
            update.retry_at = None;
            let order = update.order.clone();
            if !self.change(update, Stage::Waiting).await || !first {
                continue;
            }
            let fetching = Fetching {
                url: order.url.clone(),
                size: order.size,
                done: Arc::default(),
                stop: CancellationToken::new(),
            };
            let obtain = Obtain {
                digest,
                key,
                pinned: self.pinned(),
                reserved: self.fetching.values().map(|f| f.size.saturating_sub(f.done.load(Ordering::Relaxed))).sum(),
                done: fetching.done.clone(),
                stop: fetching.stop.clone(),
                order,
            };
            self.fetching.insert(digest, fetching);
            let (cache, store, config) = (self.handle.cache.clone(), self.store.clone(), self.settings.config.clone());
            let answer = self.fetched.0.clone();
            self.tasks.spawn("updates-fetch", async move {
                let result = obtain.run(cache, store, config).await;
                let _ = answer.send((digest, result)).await;
            });
        }
    }

    async fn fetched(&mut self, digest: Digest, result: Result<(), Missing>) {
        let Some(fetching) = self.fetching.remove(&digest) else { return };
        let waiting = |update: &&ChildUpdate| {
            update.stage == Stage::Fetching && Digest::parse(&update.order.sha256) == Some(digest)
        };
        let waiting: Vec<ChildUpdate> = self.updates.values().filter(waiting).cloned().collect();
        for mut update in waiting {
            match &result {
                Ok(()) if update.order.size != fetching.size => {
                    let why = format!("the image has {} bytes, ordered were {}", fetching.size, update.order.size);
                    self.end(update, Stage::Failed, Some(why)).await;
                }
                Ok(()) => {
                    update.stage = Stage::Offered;
                    update.progress = None;
                    update.error = None;
                    if self.change(update.clone(), Stage::Fetching).await {
                        tracing::info!(device = %update.device, %digest, "firmware verified and offered");
                        self.offer(&update).await;
                    }
                }
                Err(Missing::Never(why)) if update.order.url == fetching.url => {
                    self.end(update, Stage::Failed, Some(why.clone())).await;
                }
                Err(missing) => {
                    let (why, wait) = match missing {
                        Missing::Later(why) => (Some(why.clone()), back_off(update.attempts)),
                        // Another order's place failed, or the fetch was stopped for one that was withdrawn.
                        Missing::Never(_) | Missing::Stopped => (None, Duration::ZERO),
                    };
                    tracing::warn!(device = %update.device, ?why, ?wait, "firmware not fetched yet");
                    update.stage = Stage::Waiting;
                    update.progress = None;
                    update.error = why;
                    update.retry_at = Some(clock::now().plus(wait.as_millis() as i64));
                    self.change(update, Stage::Fetching).await;
                }
            }
        }
    }

    async fn deadlines(&mut self) {
        let now = clock::now();
        for fetching in self.updates.values_mut().filter(|update| update.stage == Stage::Fetching) {
            let digest = Digest::parse(&fetching.order.sha256);
            if let Some(under_way) = digest.and_then(|digest| self.fetching.get(&digest)) {
                let done = under_way.done.load(Ordering::Relaxed);
                fetching.progress = Some((done * 100 / fetching.order.size.max(1)).min(100) as u8);
                let progress = fetching.report(UpdateStatus::Started);
                self.events.tell(Event::Update(Arc::new(progress)));
            }
        }
        let late = |update: &&ChildUpdate| update.stage.is_active() && self.deadline(update) <= now;
        let late: Vec<ChildUpdate> = self.updates.values().filter(late).cloned().collect();
        for update in late {
            let last = update.error.as_deref().map(|e| format!("; last error: {e}")).unwrap_or_default();
            let why = format!("the deadline passed while it was {}{last}", update.stage.word());
            self.end(update, Stage::Failed, Some(why)).await;
        }
    }

    async fn request(&mut self, request: Request) {
        match request {
            Request::Cancel { device, by, reply } => {
                let _ = reply.send(self.cancel(&device, &by).await);
            }
            Request::Altered { digest, why } => {
                self.handle.cache.throw_away(digest);
                let open = |u: &&ChildUpdate| u.stage.is_open() && Digest::parse(&u.order.sha256) == Some(digest);
                let open: Vec<ChildUpdate> = self.updates.values().filter(open).cloned().collect();
                for mut update in open {
                    tracing::error!(device = %update.device, %digest, why, "firmware withdrawn; it is fetched again");
                    let from = std::mem::replace(&mut update.stage, Stage::Waiting);
                    update.error = Some(why.clone());
                    update.retry_at = None;
                    self.change(update, from).await;
                }
            }
        }
    }

    async fn cancel(&mut self, device: &DeviceId, by: &str) -> Result<(), Refusal> {
        match self.updates.get(device).cloned() {
            Some(update) if update.stage == Stage::Installing => Err(Refusal::new(
                RefusalCode::Busy,
                "the device has begun to install; it can only finish, fail or run into its deadline now",
            )),
            Some(update) if update.stage.is_active() => {
                self.end(update, Stage::Cancelled, Some(format!("cancelled by {by}"))).await;
                Ok(())
            }
            _ => Err(Refusal::new(RefusalCode::OutOfRange, "this device has no update to cancel")),
        }
    }

    /// Stores a step. `false` where it could not be stored: then nothing is acted upon, and a later wake tries again.
    pub(super) async fn change(&mut self, mut update: ChildUpdate, from: Stage) -> bool {
        update.changed_at = clock::now();
        match self.store.change_update(update.clone(), from, None).await {
            Ok(true) => {
                self.updates.insert(update.device.clone(), update);
                true
            }
            failed => {
                let error = failed.err().map(|e| e.to_string());
                tracing::error!(device = %update.device, error, "an update's step could not be stored");
                self.updates.entry(update.device).and_modify(|kept| kept.retry_at = Some(clock::now().plus(5_000)));
                false
            }
        }
    }

    /// The gateway's own verdict: stored and said upwards in one commit.
    pub(super) async fn end(&mut self, mut update: ChildUpdate, stage: Stage, error: Option<String>) {
        let from = std::mem::replace(&mut update.stage, stage);
        update.error = error;
        update.retry_at = None;
        update.changed_at = clock::now();
        update.progress = (stage == Stage::Completed).then_some(100);
        let status = if stage == Stage::Completed { UpdateStatus::Completed } else { UpdateStatus::Failed };
        tracing::info!(device = %update.device, job = update.order.job_id, stage = stage.word(), error = update.error, "update ended");
        match self.store.change_update(update.clone(), from, Some(update.report(status))).await {
            Ok(true) => {
                self.tell(&update, status);
                let sha256 = update.order.sha256.clone();
                self.updates.insert(update.device.clone(), update);
                self.release(&sha256);
            }
            Ok(false) => {}
            Err(error) => tracing::error!(device = %update.device, %error, "an update's end could not be stored"),
        }
    }

    /// Stops the fetch of an image that nobody wants any more.
    pub(super) fn release(&mut self, sha256: &str) {
        let wanted = self.updates.values().any(|update| update.stage.is_active() && update.order.sha256 == sha256);
        if let Some(fetching) = Digest::parse(sha256).and_then(|digest| self.fetching.get(&digest))
            && !wanted
        {
            fetching.stop.cancel();
        }
    }

    pub(super) fn tell(&self, update: &ChildUpdate, status: UpdateStatus) {
        self.events.tell(Event::Update(Arc::new(update.report(status))));
    }

    fn pinned(&self) -> Vec<Digest> {
        let active = self.updates.values().filter(|update| update.stage.is_active());
        active.filter_map(|update| Digest::parse(&update.order.sha256)).collect()
    }

    fn deadline(&self, update: &ChildUpdate) -> Millis {
        let default = update.created_at.plus(self.settings.config.deadline.as_millis() as i64);
        update.order.deadline.unwrap_or(default)
    }

    fn show(&self) {
        let all: Vec<ChildUpdate> = self.updates.values().cloned().collect();
        self.publish.send_if_modified(|shown| {
            let changed = **shown != all;
            if changed {
                *shown = Arc::new(all);
            }
            changed
        });
    }

    fn next_wake(&self) -> Duration {
        if !self.fetching.is_empty() {
            return Duration::from_millis(500);
        }
        let now = clock::now();
        let active = self.updates.values().filter(|update| update.stage.is_active());
        let next = active.flat_map(|update| {
            let retry = update.retry_at.filter(|_| update.stage == Stage::Waiting);
            [Some(self.deadline(update)), retry]
        });
        let millis = next.flatten().map(|at| at.since(now)).min().unwrap_or(i64::MAX);
        Duration::from_millis(millis.clamp(100, 3_600_000).unsigned_abs())
    }

    /// Sends the level: what the child should install, until it has.
    pub(super) async fn offer(&self, update: &ChildUpdate) {
        let document = self.offer_document(update);
        let topic = format!("devices/{}/update/command", update.device);
        let payload = serde_json::to_vec(&document).unwrap_or_default();
        let _ = self.local.send(LocalMessage::new(topic, payload)).await;
        self.tell(update, update.child.unwrap_or(UpdateStatus::Started));
    }

    pub(super) fn offer_document(&self, update: &ChildUpdate) -> Json {
        let url = format!("{}/v1/firmware/{}", self.settings.base_url, update.order.sha256);
        serde_json::to_value(UpdateOrder { url, ..update.order.clone() }).unwrap_or_default()
    }

    async fn child(&mut self, event: ChildEvent) {
        let device = match event {
            ChildEvent::Connected { device, .. } => device,
            ChildEvent::Subscribed { device, filter, .. } if concerns_updates(&filter) => device,
            _ => return,
        };
        if let Some(update) = self.updates.get(&device).filter(|update| update.stage.is_open()) {
            self.offer(update).await;
        }
    }

    async fn asked(&mut self, ask: UpdateAsk) {
        match ask {
            UpdateAsk::Running { device, version } => self.runs(device, version).await,
            UpdateAsk::Offer { device, reply } => {
                let open = self.updates.get(&device).filter(|update| update.stage.is_open());
                let _ = reply.send(Ok(open.map_or(Json::Null, |update| self.offer_document(update))));
            }
            UpdateAsk::Piece { device, offset, length, reply } => {
                let handle = self.handle.clone();
                self.tasks.spawn("updates-piece", async move {
                    let _ = reply.send(handle.piece(&device, offset, length).await);
                });
            }
            UpdateAsk::Chunk { device, payload, reply } => self.chunk(device, &payload, reply),
        }
    }

    fn chunk(&self, device: DeviceId, payload: &[u8], reply: Reply) {
        let request = match super::reports::ChunkRequest::parse(payload) {
            Ok(request) => request,
            Err(why) => return drop(reply.send(Err(Refusal::new(RefusalCode::PayloadInvalid, why)))),
        };
        let (handle, local) = (self.handle.clone(), self.local.clone());
        self.tasks.spawn("updates-chunk", async move {
            let result = match handle.piece(&device, request.offset, request.len).await {
                Ok(piece) => {
                    let payload = request.answer(&piece);
                    let message =
                        LocalMessage { qos: 0, ..LocalMessage::new(format!("devices/{device}/update/chunk"), payload) };
                    local.send(message).await.map_err(|_| Refusal::new(RefusalCode::Busy, "the broker is stopping"))
                }
                Err(refusal) => Err(refusal),
            };
            let _ = reply.send(result);
        });
    }
}

/// Whether a subscription would hear `devices/{d}/update/command`.
fn concerns_updates(filter: &str) -> bool {
    let mut levels = filter.split('/').skip(2);
    match (levels.next(), levels.next()) {
        (Some("#"), _) => true,
        (Some("update" | "+"), Some("command" | "+" | "#")) => true,
        _ => filter == "#" || filter == "devices/#",
    }
}

/// Doubles from one second to fifteen minutes, half of it by chance.
fn back_off(attempts: u32) -> Duration {
    let full = FIRST_RETRY.saturating_mul(1 << attempts.saturating_sub(1).min(16)).min(LAST_RETRY);
    let mut byte = [0];
    let _ = aws_lc_rs::rand::fill(&mut byte);
    full / 2 + full * u32::from(byte[0]) / 512
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_subscriptions_that_hear_the_command_ask_for_it() {
        for filter in ["devices/a/update/command", "devices/+/update/+", "devices/a/#", "#", "devices/a/update/#"] {
            assert!(concerns_updates(filter), "{filter}");
        }
        for filter in ["devices/a/update/status", "devices/a/delta", "devices/a/+", "other/a/b"] {
            assert!(!concerns_updates(filter), "{filter}");
        }
    }

    #[test]
    fn retries_back_off_within_bounds() {
        for attempts in 0..40 {
            let wait = back_off(attempts);
            assert!(wait >= FIRST_RETRY / 2 && wait <= LAST_RETRY, "{attempts}: {wait:?}");
        }
    }
}
