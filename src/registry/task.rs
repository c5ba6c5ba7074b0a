//! The task that owns the book: folds in what is heard, answers the handle, writes what changed.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    Request,
    book::{Batch, Book},
    entry::{Entry, Now},
};
use crate::{
    bus::{ChildEvent, Events, Sign, SignsReceiver},
    clock,
    model::{
        command::{Door, Refusal, RefusalCode},
        device::{Device, Lifecycle, Lives, Protocol},
        ids::DeviceId,
    },
    store::{Store, StoreError},
};

/// The time a device was last seen is written this often at most: flash wears.
const WRITE_SEEN: Duration = Duration::from_secs(60);
/// So many of these times in one transaction: with thousands of devices others would wait for it.
const SEEN_AT_ONCE: usize = 500;
/// Signs folded in before the changes they made are written together.
const BATCH: usize = 256;
/// How often it is told at most that newcomers are there: that concerns everyone who has a list of devices.
const TELL_NEW: Duration = Duration::from_millis(250);

pub(super) struct Task {
    book: Book,
    store: Store,
    events: Events,
    ids: watch::Sender<Vec<DeviceId>>,
    lives: watch::Sender<Arc<Lives>>,
    moved: watch::Sender<u64>,
    began: Instant,
    seen_written: Instant,
    reshaped: Instant,
}

impl Task {
    pub(super) fn new(
        book: Book,
        store: Store,
        events: Events,
        ids: watch::Sender<Vec<DeviceId>>,
        lives: watch::Sender<Arc<Lives>>,
        moved: watch::Sender<u64>,
    ) -> Self {
        let now = Instant::now();
        let mut task = Self { book, store, events, ids, lives, moved, began: now, seen_written: now, reshaped: now };
        task.reshape();
        task
    }

    pub(super) async fn run(
        &mut self,
        stop: CancellationToken,
        mut inbox: mpsc::Receiver<Request>,
        mut children: mpsc::Receiver<ChildEvent>,
        mut signs: SignsReceiver,
    ) {
        let (mut some_children, mut some_signs) = (Vec::new(), Vec::new());
        let mut beat = self.beat();
        loop {
            let mut seen = 0;
            tokio::select! {
                () = stop.cancelled() => return,
                request = inbox.recv() => match request {
                    Some(request) => self.answer(request).await,
                    None => return,
                },
                n = children.recv_many(&mut some_children, BATCH), if !children.is_closed() || !children.is_empty() => {
                    tracing::trace!(n, "door events");
                    some_children.drain(..).for_each(|event| self.child(event));
                }
                n = signs.recv_many(&mut some_signs, BATCH), if !signs.is_closed() || !signs.is_empty() => {
                    tracing::trace!(n, "signs of life");
                    some_signs.drain(..).for_each(|sign| self.sign(sign));
                }
                () = sleep_until(self.reshaped + TELL_NEW), if self.book.reshaped => {}
                _ = beat.tick() => {
                    self.book.judge(self.now());
                    seen = if self.seen_written.elapsed() >= WRITE_SEEN { SEEN_AT_ONCE } else { 0 };
                }
            }
            if beat.period() != self.book.beat() {
                beat = self.beat();
            }
            self.write(seen).await;
        }
    }

    fn beat(&self) -> tokio::time::Interval {
        let mut beat = interval(self.book.beat());
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        beat
    }

    fn now(&self) -> Now {
        Now { at: clock::now(), since_start: self.began.elapsed() }
    }

    fn child(&mut self, event: ChildEvent) {
        let now = self.now();
        match event {
            ChildEvent::Connected { device, protocol, at, .. } => {
                let protocol = if protocol.starts_with("coap") { Protocol::Coap } else { Protocol::Mqtt };
                self.book.connected(&device, protocol, at, now);
            }
            ChildEvent::Waiting { device, protocol } => self.book.waiting(&device, protocol, now),
            ChildEvent::Disconnected { device, reason, .. } => self.book.disconnected(&device, reason, now),
            ChildEvent::Subscribed { device, at, .. } | ChildEvent::Seen { device, at } => {
                self.book.heard(&device, Protocol::Mqtt, at, now);
            }
        }
    }

    fn sign(&mut self, sign: Sign) {
        let now = self.now();
        match sign {
            Sign::Seen { device, at } => self.book.heard(&device, Protocol::Mqtt, at, now),
            Sign::Reachable { device, at, reachable, reason } => {
                self.book.reachable(&device, reachable, reason, at, now);
            }
            Sign::Firmware { device, at, version } => self.book.firmware(&device, &version, at, now),
            Sign::Found { device, protocol, kind, .. } => self.book.found(&device, protocol, &kind, now),
        }
    }

    async fn answer(&mut self, request: Request) {
        match request {
            Request::List(reply) => {
                let _ = reply.send(self.book.devices().map(|e| e.device.clone()).collect());
            }
            Request::Get(id, reply) => {
                let _ = reply.send(self.book.get(&id).map(|e| e.device.clone()));
            }
            Request::Live(id, next, by, reply) => {
                let answer = self.set_lifecycle(&id, next, &by).await;
                let _ = reply.send(answer);
            }
            Request::Label(id, tags, groups, reply) => {
                let answer = self.set_labels(&id, tags, groups).await;
                let _ = reply.send(answer);
            }
            Request::Sync(configured, settings, reply) => {
                self.book.sync(configured, settings, self.now());
                self.reshape();
                self.write(0).await;
                let _ = reply.send(());
            }
        }
    }

    async fn set_lifecycle(&mut self, id: &DeviceId, next: Lifecycle, by: &Door) -> Result<Device, Refusal> {
        let entry = self.book.get(id).ok_or_else(|| unknown(id))?;
        let before = entry.device.lifecycle;
        if before == next {
            return Ok(entry.device.clone());
        }
        if !before.may_become(next) {
            let text = format!("{id} is {before:?} and cannot become {next:?}");
            return Err(Refusal::new(RefusalCode::OutOfRange, text.to_lowercase()));
        }
        self.book.live(id, next, json!(by), self.now());
        self.book.judge(self.now());
        self.reshape();
        self.finish(id).await
    }

    async fn set_labels(&mut self, id: &DeviceId, tags: Vec<String>, groups: Vec<String>) -> Result<Device, Refusal> {
        let entry = self.book.get(id).ok_or_else(|| unknown(id))?;
        if entry.configured {
            let text = format!("{id} is named in the configuration; its tags and groups are written there");
            return Err(Refusal::new(RefusalCode::NotWritable, text));
        }
        self.book.label(id, tags, groups, self.now());
        self.finish(id).await
    }

    /// Writes; where the disk refuses, the change stands in memory, is tried again, and its sender is told so.
    async fn finish(&mut self, id: &DeviceId) -> Result<Device, Refusal> {
        match self.write(0).await {
            None => self.book.get(id).map(|e| e.device.clone()).ok_or_else(|| unknown(id)),
            Some(error) => Err(refused(&error)),
        }
    }

    /// Writes what changed, and of no more than `seen` devices when they were last seen.
    pub(super) async fn write(&mut self, seen: usize) -> Option<StoreError> {
        if self.book.reshaped && self.reshaped.elapsed() >= TELL_NEW {
            self.reshape();
        }
        let mut batch = self.book.take(seen, self.now());
        if batch.devices.len() < seen {
            self.seen_written = Instant::now();
        }
        if batch.is_empty() {
            return None;
        }
        for event in batch.events.drain(..) {
            self.events.tell(event);
        }
        if batch.devices.is_empty() {
            return None;
        }
        let saved = self.store.save_devices(batch.devices.clone(), batch.records.clone()).await;
        saved.err().inspect(|error| self.keep(batch, error))
    }

    fn keep(&mut self, batch: Batch, error: &StoreError) {
        tracing::warn!(%error, devices = batch.devices.len(), "device states not written; tried again");
        self.book.not_written(batch);
    }

    /// Tells everyone which devices there are, and which of them may talk.
    fn reshape(&mut self) {
        (self.book.reshaped, self.reshaped) = (false, Instant::now());
        let part =
            |e: &&Entry| e.device.lifecycle.may_talk() && (e.configured || e.device.protocol != Protocol::Modbus);
        let ids: Vec<DeviceId> = self.book.devices().filter(part).map(|e| e.device.id.clone()).collect();
        let lives = self.book.lives();
        self.ids.send_if_modified(|now| {
            let changed = *now != ids;
            *now = ids;
            changed
        });
        self.lives.send_if_modified(|now| {
            let changed = **now != lives;
            *now = Arc::new(lives);
            changed
        });
        self.moved.send_modify(|times| *times += 1);
    }
}

fn unknown(id: &DeviceId) -> Refusal {
    Refusal::new(RefusalCode::UnknownDevice, format!("no device is called {id}"))
}

fn refused(error: &StoreError) -> Refusal {
    Refusal::new(RefusalCode::StoreUnavailable, format!("not written yet: {error}"))
}
