//! Shadows kept equal with those of a cloud that has its own: a thin task around plain values.
//!
//! ```text
//!  keeper ─Event::Shadow─▶ ┌────────┐ ─Request─▶ session ─▶ cloud
//!                          │  desk  │
//!  session ─answers──────▶ └────────┘ ─look──▶ hands ─▶ keeper (order), store (what both agree on)
//! ```
//! The desk says whose turn it is ([`desk`]), a pair what to do next ([`pair`]), a look what makes both sides equal
//! (`model::shadow::reconcile`); the session holds a `line`. Everything is level-triggered: after any doubt the cloud is
//! asked for the whole.

pub mod desk;
mod line;
pub mod look;
pub mod pair;
#[cfg(test)]
mod tests;
pub mod words;

use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::sync::{broadcast::error::RecvError, mpsc, watch};

pub use self::line::Line;
use self::{
    desk::Desk,
    line::FromCloud,
    look::{Hands, Key},
    words::{Looked, Next, Patience, Request, Settle},
};
use super::dialect::aws::Aws;
use crate::{
    bus::{Events, Orders},
    clock,
    config::shadow_sync::ShadowSync,
    model::{event::Event, ids::DeviceId, shadow::OWN_SHADOW, time::Millis, view::ShadowSyncStatus},
    store::{Store, sync::Refused},
    tasks::Tasks,
};

/// Messages that may wait on their way between the session and the sync.
const QUEUE: usize = 1024;
/// Failures in a row after which the next connection is waited for.
const ATTEMPTS: u32 = 10;
/// The first pause after a failure and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// How often the figures are told.
const TELL: Duration = Duration::from_secs(1);
/// Refused shadows that are named.
const NAMED: usize = 100;

/// What the sync needs of its surroundings.
pub struct Surroundings {
    pub gateway: DeviceId,
    pub store: Store,
    pub orders: Orders,
    pub events: Events,
    pub children: watch::Receiver<Vec<DeviceId>>,
    pub tasks: Tasks,
    /// The name of the cloud in the store.
    pub cloud: &'static str,
}

/// Starts to sync; the session holds the other end.
pub fn start(config: &ShadowSync, around: Surroundings) -> (Line, watch::Receiver<ShadowSyncStatus>) {
    let millis = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
    let patience = Patience {
        answer: millis(config.answer_timeout),
        interval: millis(config.interval),
        verify: millis(config.verify),
        pause: (millis(PAUSE.0), millis(PAUSE.1)),
        attempts: ATTEMPTS,
    };
    let life = clock::now().0.unsigned_abs();
    let aws = Aws::new(&around.gateway, life, config.subscribe, config.named);
    let (tell, heard) = mpsc::channel(QUEUE);
    let (out, outgoing) = mpsc::channel(QUEUE);
    let (status, watch) = watch::channel(ShadowSyncStatus::default());
    let hands =
        Hands { store: around.store.clone(), orders: around.orders, cloud: around.cloud, policy: config.conflict };
    let sync = Sync {
        desk: Desk::new(patience, config.rate),
        hands,
        aws: aws.clone(),
        named: config.named,
        out,
        status,
        store: around.store,
        cloud: around.cloud,
        began: Instant::now(),
        jobs: FuturesUnordered::new(),
        known: Vec::new(),
    };
    let (events, tasks) = (around.events, around.tasks.clone());
    around.tasks.spawn("shadow sync", sync.run(heard, events, around.children, tasks));
    (Line::new(aws, tell, outgoing), watch)
}

enum Job {
    Looked(Key, Looked),
    Settled(Key, bool),
}

struct Sync {
    desk: Desk,
    hands: Hands,
    aws: Aws,
    named: bool,
    out: mpsc::Sender<(String, Vec<u8>)>,
    status: watch::Sender<ShadowSyncStatus>,
    store: Store,
    cloud: &'static str,
    /// The sync's own time: it never jumps.
    began: Instant,
    jobs: FuturesUnordered<futures_util::future::BoxFuture<'static, Job>>,
    /// Whose shadows are synced.
    known: Vec<DeviceId>,
}

impl Sync {
    async fn run(
        mut self,
        mut heard: mpsc::Receiver<FromCloud>,
        events: Events,
        mut children: watch::Receiver<Vec<DeviceId>>,
        tasks: Tasks,
    ) {
        let stopping = tasks.stopping();
        let mut events = events.watch();
        let now = children.borrow_and_update().clone();
        self.follow(now).await;
        let mut tell = tokio::time::interval(TELL);
        tell.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.work();
            let wake = self.desk.wake(self.now()).map(|at| Duration::from_millis(at.since(self.now()).max(0) as u64));
            tokio::select! {
                () = stopping.cancelled() => return,
                Some(what) = heard.recv() => self.heard(what),
                Some(job) = self.jobs.next(), if !self.jobs.is_empty() => self.done(job),
                event = events.recv() => match event {
                    Ok(Event::Shadow { device, name, .. }) => {
                        self.changed(device, name.map(|name| name.to_string()).unwrap_or_default());
                    }
                    Ok(_) => {}
                    Err(RecvError::Lagged(_)) => self.look_for_changes().await,
                    Err(RecvError::Closed) => return,
                },
                Ok(()) = children.changed() => {
                    let now = children.borrow_and_update().clone();
                    self.follow(now).await;
                }
                () = tokio::time::sleep(wake.unwrap_or(TELL)), if wake.is_some() => {}
                _ = tell.tick() => self.tell(),
            }
        }
    }

    fn now(&self) -> Millis {
        Millis(i64::try_from(self.began.elapsed().as_millis()).unwrap_or(i64::MAX))
    }

    /// The shadows of children that came, and no longer those of children that went.
    async fn follow(&mut self, now: Vec<DeviceId>) {
        for gone in self.known.iter().filter(|id| !now.contains(id)) {
            self.desk.forget(gone);
        }
        let fresh: Vec<DeviceId> = now.iter().filter(|id| !self.known.contains(id)).cloned().collect();
        self.known = now;
        if fresh.is_empty() {
            return;
        }
        // What was too large stays so; what was not allowed may be by now.
        let mut refused: std::collections::HashMap<Key, Option<Refused>> = Default::default();
        match self.store.synced_all(self.cloud).await {
            Ok(all) => {
                for known in all.into_iter().filter(|known| fresh.contains(&known.device)) {
                    let too_large = known.refused.filter(|refused| refused.bytes.is_some());
                    refused.insert((known.device, known.name), too_large);
                }
            }
            Err(error) => tracing::warn!(%error, "what the cloud holds of the shadows could not be read"),
        }
        match self.store.shadows(None).await {
            Ok(all) => {
                for listed in all.into_iter().filter(|listed| fresh.contains(&listed.device)) {
                    refused.entry((listed.device, listed.name)).or_default();
                }
            }
            Err(error) => tracing::warn!(%error, "the shadows could not be listed"),
        }
        for device in fresh {
            refused.entry((device, String::new())).or_default();
        }
        for (key, refused) in refused.into_iter().filter(|(key, _)| self.named || key.1.is_empty()) {
            self.desk.add(key, refused);
        }
    }

    fn changed(&mut self, device: DeviceId, name: String) {
        if (name.is_empty() || self.named) && self.known.contains(&device) {
            let key = (device, name);
            self.desk.add(key.clone(), None);
            self.desk.changed_here(key);
        }
    }

    /// Events were missed: what differs on disk is what changed.
    async fn look_for_changes(&mut self) {
        match self.store.unsynced(self.cloud).await {
            Ok(all) => all.into_iter().for_each(|(device, name)| self.changed(device, name)),
            Err(error) => tracing::warn!(%error, "what changed in the shadows could not be read"),
        }
    }

    fn heard(&mut self, what: FromCloud) {
        match what {
            FromCloud::Up { resumed } => self.desk.line_up(resumed),
            FromCloud::Down => self.desk.line_down(),
            FromCloud::Missed => self.desk.missed(),
            FromCloud::Message { topic, payload } => {
                let Some((key, heard)) = self.aws.heard(&topic, &payload) else {
                    tracing::debug!(topic, "the cloud said something about shadows that is no answer");
                    return;
                };
                // A wildcard brings the things of others too.
                if !self.known.contains(&key.0) || !(self.named || key.1.is_empty()) {
                    return;
                }
                if let Some(settle) = self.desk.hear(&key, heard, self.now()) {
                    self.settle(key, settle);
                }
            }
        }
    }

    fn settle(&mut self, key: Key, settle: Settle) {
        let hands = self.hands.clone();
        self.jobs.push(Box::pin(async move {
            let good = hands.settle(&key, settle).await;
            Job::Settled(key, good)
        }));
    }

    /// Begins whatever there is room for.
    fn work(&mut self) {
        while let Some((key, next, refused)) = self.desk.next(self.now()) {
            match next {
                Next::Ask => self.send(&key, &Request::Get),
                Next::Look { news, version } => {
                    let mut hands = self.hands.clone();
                    if key.1 == OWN_SHADOW {
                        // The gateway's own remarks are told, not discussed.
                        hands.policy = hands.policy.all_here();
                    }
                    self.jobs.push(Box::pin(async move {
                        let looked = hands.look(&key, news, version, refused).await;
                        Job::Looked(key, looked)
                    }));
                }
            }
        }
    }

    fn done(&mut self, job: Job) {
        let now = self.now();
        match job {
            Job::Settled(key, good) => self.desk.settled(&key, good, now),
            Job::Looked(key, looked) => {
                if self.desk.looked(&key, &looked, now)
                    && let Looked::Send(request) = looked
                {
                    self.send(&key, &request);
                }
            }
        }
    }

    fn send(&mut self, key: &Key, request: &Request) {
        let token = self.desk.send(key, request, self.now());
        tracing::debug!(device = %key.0, shadow = key.1, ?request, "asked the cloud");
        // Where there is no room the answer will be missed, and it is asked again.
        let _ = self.out.try_send(self.aws.request(key, request, token));
    }

    fn tell(&self) {
        let mut status = ShadowSyncStatus::default();
        for ((device, name), pair) in self.desk.pairs() {
            status.total += 1;
            match pair.trouble() {
                Some(refused) => {
                    status.refused += 1;
                    if status.reasons.len() < NAMED {
                        let name = (!name.is_empty()).then(|| name.clone());
                        status.reasons.push((device.clone(), name, refused.reason.clone()));
                    }
                }
                None if pair.is_equal() => status.equal += 1,
                None => status.waiting += 1,
            }
        }
        status.reasons.sort();
        self.status.send_if_modified(|known| std::mem::replace(known, status.clone()) != status);
    }
}
