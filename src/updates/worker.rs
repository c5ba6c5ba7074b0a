//! Each child's update from order to end. Owns the state; every step is stored before it is acted upon.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use serde_json::{Value as Json, json};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{
    Ports, Request, Settings, Updates,
    fetching::{Broken, Fetched, Fetching},
    verify::{Digest, acceptable},
};
use crate::{
    bus::{Events, LocalSender, Order, OrderKind},
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
    pub(super) fetching: HashMap<Digest, Fetching>,
    /// Images whose transfer broke.
    pub(super) broken: HashMap<Digest, Broken>,
    pub(super) fetched: (mpsc::Sender<Fetched>, mpsc::Receiver<Fetched>),
    /// What children last said they run.
    pub(super) running: HashMap<DeviceId, String>,
}

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
            broken: HashMap::new(),
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

    pub(super) fn pinned(&self) -> Vec<Digest> {
        let active = self.updates.values().filter(|update| update.stage.is_active());
        active.filter_map(|update| Digest::parse(&update.order.sha256)).collect()
    }

    fn deadline(&self, update: &ChildUpdate) -> Millis {
        let default = update.created_at.plus(self.settings.config.deadline.as_millis() as i64);
        update.order.deadline.unwrap_or(default)
    }

    pub(super) fn show(&self) {
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
}
