//! One connection from CONNACK to its end: publishes go out, acknowledgements move the cursor, orders come in.

mod inward;
mod outward;

use std::{
    future::Future,
    pin::Pin,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use serde_json::json;
use tokio::time::MissedTickBehavior;

use super::{
    batches::{Bounds, Outgoing},
    drain::{Drain, Wanted},
    encoding::Encoder,
    flights::Flights,
    inbox::Inbox,
    pace::Pace,
    road::Road,
    wire::{Down, Wire},
};
use crate::{
    clock,
    model::{
        event::LinkState,
        ids::DeviceId,
        record::{Lane, Record},
    },
    store::StoreError,
};

/// How often cursors are written down, the link is judged and the state is told.
const TICK: Duration = Duration::from_millis(250);
/// How often the loss ledger is asked for something new.
const LEDGER: Duration = Duration::from_secs(5);
/// How long acknowledgements are waited for when the gateway stops.
const GOODBYE: Duration = Duration::from_secs(3);
/// Filters in one SUBSCRIBE: what the strictest known broker takes.
const FILTERS: usize = 8;
/// Bytes of topic and headers that are left room for in a broker's largest packet.
const HEADERS: usize = 512;
/// How long one thing is done before it is looked whether something urgent came.
const TURN: Duration = Duration::from_millis(1);

/// How long a moved cursor may wait to be written down, unless it moved far: after a kill as much is sent again, and
/// every commit costs flash.
const SAVE: Duration = Duration::from_secs(2);
const FAR: u64 = 2000;

/// Bytes up and down that a connection costs before the first publish: TCP and MQTT; with TLS two certificates more.
const SET_UP: (usize, usize) = (500, 250);
const SET_UP_TLS: (usize, usize) = (2200, 3800);

type Saving = Pin<Box<dyn Future<Output = ([u64; 4], Result<(), StoreError>)> + Send>>;
type Reading = Pin<Box<dyn Future<Output = (Wanted, Result<Vec<Record>, StoreError>)> + Send>>;

/// Why the loop ended.
pub enum End {
    Down(Down),
    Stopping,
}

pub struct Session<'r> {
    road: &'r mut Road,
    wire: Wire,
    drain: Drain,
    flights: Flights,
    inbox: Inbox,
    bounds: Bounds,
    /// Made, but there was no room yet.
    ready: std::collections::VecDeque<Outgoing>,
    readings: FuturesUnordered<Reading>,
    /// Late records that may go now; refilled by the rate.
    tokens: f64,
    refilled: Instant,
    saved: [u64; 4],
    children: Vec<DeviceId>,
    ledger_asked: Instant,
    /// Subscriptions not answered yet, before the shadows may ask; and whether the broker kept our session.
    awaited: usize,
    resumed: bool,
    /// Publishes of the log, where the cloud takes only so many a second.
    pace: Pace,
    /// Publishes that were acknowledged.
    pub acks: u64,
    /// Bytes of packets since the last look, for the account of what the link costs.
    outgoing: usize,
    incoming: usize,
    tls: bool,
    /// Since when readings wait for company.
    waits: Option<Instant>,
    saving: Option<Saving>,
    save_due: Instant,
}

impl<'r> Session<'r> {
    pub async fn begin(
        road: &'r mut Road,
        wire: Wire,
        max_packet: Option<u32>,
        receive_max: Option<u16>,
    ) -> Result<Session<'r>, StoreError> {
        let now = Instant::now();
        let config = &road.config;
        let mut cursors = [0; 4];
        for lane in Lane::ALL {
            cursors[lane as usize] = road.store.cursor(&road.consumer, lane).await?;
        }
        // Losses are said first: they explain what is missing in what follows.
        if let Err(error) = road.store.settle_gaps().await {
            tracing::debug!(%error, "the loss ledger waits");
        }
        let newest = *road.store.appended().borrow();
        let announced = max_packet.map_or(usize::MAX, |bytes| (bytes as usize).saturating_sub(HEADERS));
        let bytes = config.batch_bytes.min(announced).min(road.narrow);
        // A broker that announces nothing is tried with what MQTT allows.
        let most = announced.min(256 << 20);
        let in_flight = usize::from(config.in_flight.min(receive_max.unwrap_or(u16::MAX)));
        let encoder = Encoder::new(config.encoding, config.zstd);
        let mut drain = Drain::new(road.native.clone(), encoder, cursors, newest, config.live_first);
        road.aside.retain(|(lane, position)| *position > cursors[*lane as usize]);
        for (lane, position) in &road.aside {
            drain.acknowledge(*lane, &[*position]);
        }
        let flights = Flights::new(in_flight, config.unacked_timeout, road.window, now);
        let inbox = Inbox::new(road.native.clone(), road.orders.clone());
        Ok(Session {
            bounds: Bounds { records: config.batch, bytes, most },
            wire,
            drain,
            flights,
            inbox,
            ready: Default::default(),
            readings: FuturesUnordered::new(),
            tokens: 0.0,
            refilled: now,
            saved: cursors,
            children: Vec::new(),
            ledger_asked: now,
            awaited: 0,
            resumed: false,
            pace: Pace::new(road.config.log_rate(), now),
            acks: 0,
            outgoing: 0,
            incoming: 0,
            tls: road.config.broker.as_ref().is_some_and(|address| address.tls),
            waits: None,
            saving: None,
            save_due: now,
            road,
        })
    }

    /// Runs until the connection ends or the gateway stops.
    pub async fn run(&mut self, resumed: bool) -> End {
        self.say_hello(resumed);
        let end = self.serve().await;
        if let Some(line) = &mut self.road.line {
            line.down();
        }
        self.road.window = self.flights.window;
        if let End::Stopping = end {
            self.say_goodbye().await;
        } else {
            self.judge_end(&end).await;
        }
        if let Some(saving) = self.saving.take() {
            self.saved(saving.await);
        }
        if let Some(saving) = self.save() {
            self.saved(saving.await);
        }
        self.road.counters.in_flight(0);
        end
    }

    async fn serve(&mut self) -> End {
        let stopping = self.road.tasks.stopping();
        let mut appended = self.road.store.appended();
        appended.mark_changed();
        let mut children = self.road.children.clone();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let more = match self.send().await {
                Ok(more) => more,
                Err(down) => return End::Down(down),
            };
            let paced = self.pace.wait(Instant::now());
            tokio::select! {
                // What came into the log first, what goes out of it last: the one may be urgent.
                biased;
                () = stopping.cancelled() => return End::Stopping,
                Ok(()) = appended.changed() => {
                    let newest = *appended.borrow_and_update();
                    self.drain.grown(newest);
                }
                Some((wanted, read)) = self.readings.next() => match read {
                    Ok(records) => self.drain.fill(wanted, records),
                    Err(error) => return End::Down(Down::new(format!("the log cannot be read: {error}"))),
                },
                _ = tick.tick() => {
                    if let Err(down) = self.tick().await {
                        return End::Down(down);
                    }
                }
                () = tokio::time::sleep_until(paced.unwrap_or_else(Instant::now).into()), if paced.is_some() => {}
                (topic, payload) = async { self.road.line.as_mut().expect("guarded").outgoing().await },
                    if self.road.line.is_some() && self.flights.has_room(Lane::State) =>
                {
                    self.publish_aside(topic, payload, false);
                }
                saved = async { self.saving.as_mut().expect("guarded").await }, if self.saving.is_some() => {
                    self.saving = None;
                    self.saved(saved);
                }
                Ok(()) = children.changed() => {
                    let now = children.borrow_and_update().clone();
                    self.follow(now);
                }
                settled = self.inbox.settled() => self.settle(settled),
                event = self.wire.next() => {
                    if let Err(down) = self.events(event).await {
                        return End::Down(down);
                    }
                }
                () = tokio::task::yield_now(), if more => {}
            }
        }
    }

    /// Presence, subscriptions.
    fn say_hello(&mut self, resumed: bool) {
        let (up, down) = if self.tls { SET_UP_TLS } else { SET_UP };
        self.road.counters.sent(up);
        self.road.counters.received(down);
        let body = json!({ "state": "online", "since": clock::now() });
        let topic = self.road.native.topic(&self.road.gateway, "status");
        self.publish_aside(topic, body.to_string().into_bytes(), true);
        self.children = self.road.children.borrow().clone();
        let filters = self.filters(&self.children);
        // A session that is resumed has them, unless children came meanwhile.
        self.resumed = resumed && self.road.subscribed == filters;
        if !self.resumed {
            for some in filters.chunks(FILTERS) {
                self.awaited += usize::from(self.wire.subscribe(some));
            }
            self.road.subscribed = filters;
        }
        self.shadows_may_ask();
    }

    fn filters(&self, children: &[DeviceId]) -> Vec<String> {
        let mut filters = self.road.native.filters(children);
        filters.extend(self.road.line.iter().flat_map(|line| line.filters(children)));
        filters
    }

    /// Filters for one device that came or went; none where wildcards cover it.
    fn filters_of(&self, child: &DeviceId) -> Vec<String> {
        let native = &self.road.native;
        let mut filters = if native.is_ours_alone() { Vec::new() } else { native.filters_of(child) };
        filters.extend(self.road.line.iter().flat_map(|line| line.filters_of(child)));
        filters
    }

    /// As soon as their answers can arrive.
    fn shadows_may_ask(&mut self) {
        if let Some(line) = self.road.line.as_mut().filter(|_| self.awaited == 0) {
            line.up(self.resumed);
        }
    }

    async fn say_goodbye(&mut self) {
        let body = json!({ "state": "offline", "since": clock::now(), "reason": "stopped" });
        let topic = self.road.native.topic(&self.road.gateway, "status");
        self.publish_aside(topic, body.to_string().into_bytes(), true);
        let until = tokio::time::Instant::now() + GOODBYE;
        while !self.flights.is_empty() {
            match tokio::time::timeout_at(until, self.wire.next()).await {
                Ok(Ok(event)) => drop(self.event(event).await),
                _ => break,
            }
        }
        self.wire.disconnect();
        let _ = tokio::time::timeout(Duration::from_millis(200), self.wire.next()).await;
    }

    /// Subscriptions follow the children that come and go.
    fn follow(&mut self, now: Vec<DeviceId>) {
        for child in now.iter().filter(|child| !self.children.contains(child)) {
            for some in self.filters_of(child).chunks(FILTERS) {
                self.wire.subscribe(some);
            }
        }
        for child in self.children.iter().filter(|child| !now.contains(child) && **child != self.road.gateway) {
            for filter in self.filters_of(child) {
                self.wire.unsubscribe(&filter);
            }
        }
        self.road.subscribed = self.filters(&now);
        self.children = now;
    }

    async fn tick(&mut self) -> Result<(), Down> {
        let now = Instant::now();
        if self.flights.is_dead(now) {
            self.road.window = (self.flights.window / 2).max(2 << 10);
            self.flights.window = self.road.window;
            let after = self.road.config.unacked_timeout;
            return Err(Down::new(format!("nothing was acknowledged for {after:?}: the link is dead")));
        }
        self.road.counters.reached(Lane::ALL.map(|lane| self.drain.cursor(lane)));
        let moved: u64 = Lane::ALL.iter().map(|lane| self.drain.cursor(*lane) - self.saved[*lane as usize]).sum();
        if self.saving.is_none() && (moved >= FAR || now >= self.save_due) {
            self.save_due = now + SAVE;
            self.saving = self.save();
        }
        if let Some(line) = &mut self.road.line {
            line.tick();
        }
        if now.saturating_duration_since(self.ledger_asked) > LEDGER {
            self.ledger_asked = now;
            if let Err(error) = self.road.store.settle_gaps().await {
                tracing::debug!(%error, "the loss ledger waits");
            }
        }
        let late = self.drain.late();
        let state = if late == 0 { LinkState::Live } else { LinkState::CatchingUp { backlog: self.drain.waiting() } };
        self.road.tell(state);
        Ok(())
    }

    /// Writes down how far the cloud has everything, and what that has cost; nothing where nothing moved.
    fn save(&mut self) -> Option<Saving> {
        let now: [u64; 4] = std::array::from_fn(|lane| self.drain.cursor(Lane::ALL[lane]));
        let moved: Vec<(Lane, u64)> =
            Lane::ALL.into_iter().map(|l| (l, now[l as usize])).filter(|(l, n)| *n > self.saved[*l as usize]).collect();
        if moved.is_empty() {
            return None;
        }
        let (store, consumer, cost) = (self.road.store.clone(), self.road.consumer.clone(), self.road.budget_setting());
        Some(Box::pin(async move { (now, store.move_cursors_and(&consumer, moved, cost).await) }))
    }

    fn saved(&mut self, (at, done): ([u64; 4], Result<(), StoreError>)) {
        match done {
            Ok(()) => self.saved = at,
            // The store says loudly enough that the disk refuses.
            Err(error @ StoreError::Unavailable(_)) => tracing::debug!(%error, "the cursor waits for the disk"),
            // It is only a repetition that this costs.
            Err(error) => tracing::warn!(%error, "the cursor could not be written down"),
        }
    }
}
