//! One connection from CONNACK to its end: publishes go out, acknowledgements move the cursor, orders come in.

use std::{
    future::Future,
    pin::Pin,
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use serde_json::json;
use tokio::time::MissedTickBehavior;

use super::{
    Road,
    drain::{Bounds, Drain, Outgoing, Wanted},
    flights::{Cargo, Flights},
    inbox::{Inbox, Settled},
    wire::{Down, Verdict, Wire, WireEvent},
};
use crate::{
    clock,
    model::{
        event::LinkState,
        ids::DeviceId,
        record::{Lane, Record},
    },
    store::{StoreError, faults},
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
    reading: Option<Reading>,
    /// Late records that may go now; refilled by the rate.
    tokens: f64,
    refilled: Instant,
    saved: [u64; 4],
    children: Vec<DeviceId>,
    ledger_asked: Instant,
    pub acks: u64,
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
        let drain = Drain::new(road.native.clone(), cursors, newest, config.live_first);
        let flights = Flights::new(in_flight, config.unacked_timeout, road.window, now);
        let inbox = Inbox::new(road.native.clone(), road.orders.clone());
        Ok(Session {
            bounds: Bounds { records: config.batch, bytes, most },
            wire,
            drain,
            flights,
            inbox,
            ready: Default::default(),
            reading: None,
            tokens: 0.0,
            refilled: now,
            saved: cursors,
            children: Vec::new(),
            ledger_asked: now,
            acks: 0,
            road,
        })
    }

    /// Runs until the connection ends or the gateway stops.
    pub async fn run(&mut self, resumed: bool) -> End {
        self.say_hello(resumed);
        let end = self.serve().await;
        self.road.window = self.flights.window;
        if let End::Stopping = end {
            self.say_goodbye().await;
        } else {
            self.judge_end(&end).await;
        }
        self.save().await;
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
            if let Err(down) = self.send().await {
                return End::Down(down);
            }
            tokio::select! {
                () = stopping.cancelled() => return End::Stopping,
                event = self.wire.next() => {
                    if let Err(down) = self.events(event).await {
                        return End::Down(down);
                    }
                }
                read = async { self.reading.as_mut().expect("guarded").await }, if self.reading.is_some() => {
                    self.reading = None;
                    match read {
                        (wanted, Ok(records)) => self.drain.fill(wanted, records),
                        (_, Err(error)) => return End::Down(Down::new(format!("the log cannot be read: {error}"))),
                    }
                }
                Ok(()) = appended.changed() => {
                    let newest = *appended.borrow_and_update();
                    self.drain.grown(newest);
                }
                Ok(()) = children.changed() => {
                    let now = children.borrow_and_update().clone();
                    self.follow(now);
                }
                settled = self.inbox.settled() => self.settle(settled),
                _ = tick.tick() => {
                    if let Err(down) = self.tick().await {
                        return End::Down(down);
                    }
                }
            }
        }
    }

    /// Presence, subscriptions.
    fn say_hello(&mut self, resumed: bool) {
        let body = json!({ "state": "online", "since": clock::now() });
        let topic = self.road.native.topic(&self.road.gateway, "status");
        self.publish_aside(topic, body.to_string().into_bytes(), true);
        self.children = self.road.children.borrow().clone();
        let filters = self.road.native.filters(&self.children);
        // A session that is resumed has them, unless children came meanwhile.
        if !resumed || self.road.subscribed != filters {
            for some in filters.chunks(FILTERS) {
                self.wire.subscribe(some);
            }
            self.road.subscribed = filters;
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
        if !self.road.native.is_ours_alone() {
            let native = &self.road.native;
            for child in now.iter().filter(|child| !self.children.contains(child)) {
                for some in native.filters_of(child).chunks(FILTERS) {
                    self.wire.subscribe(some);
                }
            }
            for child in self.children.iter().filter(|child| !now.contains(child) && **child != self.road.gateway) {
                for filter in native.filters_of(child) {
                    self.wire.unsubscribe(&filter);
                }
            }
        }
        self.road.subscribed = self.road.native.filters(&now);
        self.children = now;
    }

    /// Publishes as much as there is room for, and reads ahead.
    async fn send(&mut self) -> Result<(), Down> {
        self.refill();
        while self.flights.has_room() {
            if self.ready.is_empty() {
                self.make_ready().await?;
            }
            let Some(out) = self.ready.pop_front() else { break };
            let bytes = out.payload.len() + out.topic.len() + 8;
            if !self.wire.publish(out.topic, out.payload, out.retain) {
                return Err(Down::new("the client's queue is full"));
            }
            self.road.counters.sent(bytes);
            if faults::planted("cursor-before-puback") {
                self.drain.acknowledge(out.lane, &out.positions);
            }
            let cargo = Cargo::Records { lane: out.lane, positions: out.positions };
            self.flights.queue(cargo, bytes, Instant::now());
        }
        if self.reading.is_none()
            && let Some(wanted) = self.drain.wanted()
        {
            let store = self.road.store.clone();
            self.reading = Some(Box::pin(async move {
                let read = store.read_after(wanted.lane, wanted.after, wanted.records, 2 << 20).await;
                (wanted, read)
            }));
        }
        self.road.counters.in_flight(self.flights.len() as u64);
        Ok(())
    }

    async fn make_ready(&mut self) -> Result<(), Down> {
        let mut oversize = Vec::new();
        let allowed = if self.road.config.backlog_rate == 0 { usize::MAX } else { self.tokens.max(0.0) as usize };
        let lanes = self.road.budget.lanes(clock::now());
        // A batch that takes a slow link longer than it is waited for would never be acknowledged.
        let bounds = Bounds { bytes: self.bounds.bytes.min(self.flights.window / 2), ..self.bounds };
        let out = self.drain.next(bounds, lanes, allowed, &mut oversize);
        let late: usize = out.iter().filter(|out| out.late).map(|out| out.positions.len()).sum();
        self.tokens -= late as f64;
        self.ready.extend(out);
        for record in oversize {
            tracing::error!(device = %record.device, seq = record.seq, bytes = record.bytes, most = self.bounds.most,
                "a record is larger than the broker takes; set aside and declared");
            let ts = crate::model::time::Millis(record.ts);
            self.aside(record.device, record.lane, record.seq, ts, record.position, "too-large").await?;
        }
        Ok(())
    }

    async fn aside(
        &mut self,
        device: DeviceId,
        lane: Lane,
        seq: u64,
        ts: crate::model::time::Millis,
        position: u64,
        cause: &str,
    ) -> Result<(), Down> {
        let done = self.road.store.set_aside(device, lane, seq, ts, cause).await;
        done.map_err(|error| Down::new(format!("a loss cannot be declared: {error}")))?;
        self.drain.acknowledge(lane, &[position]);
        Ok(())
    }

    fn refill(&mut self) {
        let rate = f64::from(self.road.config.backlog_rate);
        let now = Instant::now();
        let earned = rate * now.saturating_duration_since(self.refilled).as_secs_f64();
        self.tokens = (self.tokens + earned).min(rate);
        self.refilled = now;
    }

    /// One event, and all that are there already.
    async fn events(&mut self, first: Result<WireEvent, Down>) -> Result<(), Down> {
        self.event(first?).await?;
        for _ in 0..256 {
            let Some(event) = self.wire.next().now_or_never() else { break };
            self.event(event?).await?;
        }
        Ok(())
    }

    async fn event(&mut self, event: WireEvent) -> Result<(), Down> {
        match event {
            WireEvent::Sent(id) => self.flights.sent(id, Instant::now()),
            WireEvent::Acked { id, verdict } => {
                self.road.counters.received(4);
                if let Some(cargo) = self.flights.acked(id, Instant::now()) {
                    self.landed(cargo, verdict).await?;
                }
            }
            WireEvent::Message(message) => {
                self.road.counters.received(message.payload.len() + message.topic.len() + 8);
                if let Some(settled) = self.inbox.accept(message) {
                    self.settle(settled);
                }
            }
            WireEvent::Subscribed { refused } if refused > 0 => {
                let text =
                    format!("the broker refused {refused} subscriptions: orders for some devices will not arrive");
                tracing::warn!(refused, "the broker refused subscriptions");
                self.road.counters.error(text);
            }
            WireEvent::Subscribed { .. } | WireEvent::Up { .. } | WireEvent::Other => {}
        }
        Ok(())
    }

    async fn landed(&mut self, cargo: Cargo, verdict: Verdict) -> Result<(), Down> {
        let Cargo::Records { lane, positions } = cargo else { return Ok(()) };
        match verdict {
            Verdict::Good => {
                self.acks += 1;
                self.road.narrow_again();
                self.road.counters.acknowledged(positions.len() as u64);
                self.drain.acknowledge(lane, &positions);
                Ok(())
            }
            // What is behind it must not overtake it: the connection begins anew at the cursor.
            Verdict::Later(reason) => Err(Down::new(format!("the broker asks to wait: {reason}"))),
            Verdict::NotAllowed(reason) => {
                Err(Down::refused(format!("the broker does not allow a publish ({} lane): {reason}", lane.name())))
            }
            Verdict::Never(reason) => {
                tracing::error!(reason, records = positions.len(), "the broker will never take this; set aside");
                for position in positions {
                    let read = self.road.store.read_after(lane, position - 1, 1, 1).await;
                    let record = read.ok().and_then(|records| records.into_iter().next());
                    if let Some(record) = record.filter(|record| record.position == position) {
                        let Record { seq, record, .. } = record;
                        self.aside(record.device, lane, seq, record.ts, position, "refused").await?;
                    }
                }
                Ok(())
            }
        }
    }

    /// Answers and acknowledges a message of the cloud.
    fn settle(&mut self, settled: Settled) {
        if let Some(refused) = settled.refused {
            tracing::warn!(topic = refused.topic, code = ?refused.refusal.code, reason = refused.refusal.message, "an order was refused");
            let body = json!({
                "topic": refused.topic, "code": refused.refusal.code, "message": refused.refusal.message,
                "ts": clock::now(),
            });
            let body = body.to_string().into_bytes();
            if let Some((topic, correlation)) = refused.response
                && self.wire.answer(topic, correlation, body.clone())
            {
                self.flights.queue(Cargo::Aside, body.len(), Instant::now());
            }
            let device = refused.device.unwrap_or_else(|| self.road.gateway.clone());
            self.publish_aside(self.road.native.topic(&device, "errors"), body, false);
        }
        self.wire.acknowledge(&settled.receipt);
    }

    fn publish_aside(&mut self, topic: String, body: Vec<u8>, retain: bool) {
        let bytes = body.len() + topic.len() + 8;
        if self.wire.publish(topic, body, retain) {
            self.road.counters.sent(bytes);
            self.flights.queue(Cargo::Aside, bytes, Instant::now());
        }
    }

    async fn tick(&mut self) -> Result<(), Down> {
        let now = Instant::now();
        if self.flights.is_dead(now) {
            self.road.window = (self.flights.window / 2).max(2 << 10);
            self.flights.window = self.road.window;
            let after = self.road.config.unacked_timeout;
            return Err(Down::new(format!("nothing was acknowledged for {after:?}: the link is dead")));
        }
        self.save().await;
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

    /// Writes down how far the cloud has everything.
    async fn save(&mut self) {
        let now: [u64; 4] = std::array::from_fn(|lane| self.drain.cursor(Lane::ALL[lane]));
        let moved: Vec<(Lane, u64)> =
            Lane::ALL.into_iter().map(|l| (l, now[l as usize])).filter(|(l, n)| *n > self.saved[*l as usize]).collect();
        if moved.is_empty() {
            return;
        }
        match self.road.store.move_cursors(&self.road.consumer, moved).await {
            Ok(()) => self.saved = now,
            // It is only a repetition that this costs.
            Err(error) => tracing::warn!(%error, "the cursor could not be written down"),
        }
    }

    /// A connection that ends again and again over the same first publish: it may be too large for a broker that
    /// cannot say so.
    async fn judge_end(&mut self, end: &End) {
        let End::Down(down) = end else { return };
        let Some(Cargo::Records { lane, positions }) = self.flights.oldest().cloned() else { return };
        if self.acks > 0 || down.reason.contains("link is dead") {
            return;
        }
        self.road.barren += 1;
        if self.road.barren >= 2 {
            self.road.narrow = (self.bounds.bytes / 4).max(1024);
        }
        if self.road.barren >= 8 && positions.len() == 1 {
            let read = self.road.store.read_after(lane, positions[0] - 1, 1, 1).await;
            let record = read.ok().and_then(|records| records.into_iter().next());
            if let Some(Record { seq, position, record, .. }) = record
                && record.body.len() > 4096
            {
                tracing::error!(device = %record.device, seq, bytes = record.body.len(), "the broker ends the connection over this record; set aside and declared");
                let _ = self.aside(record.device, lane, seq, record.ts, position, "too-large").await;
                self.road.barren = 0;
            }
        }
    }
}
