//! What goes out: publishes from the log as far as there is room, reading ahead, and what is said beside the log.

use std::time::Instant;

use super::{Session, TURN};
use crate::{
    clock,
    model::{ids::DeviceId, record::Lane, time::Millis},
    store::faults,
    uplink::{batches::Bounds, flights::Cargo, status::on_wire, wire::Down},
};

impl Session<'_> {
    /// Publishes what there is room for, and reads ahead; true where its turn ended before that.
    pub(super) async fn send(&mut self) -> Result<bool, Down> {
        let begun = Instant::now();
        self.refill();
        let mut more = false;
        while self.pace.wait(Instant::now()).is_none() {
            more = begun.elapsed() > TURN;
            if more {
                break;
            }
            let overtaken = self.drain.has_urgent() && self.ready.front().is_some_and(|out| out.lane != Lane::Urgent);
            if self.ready.is_empty() || overtaken {
                self.make_ready().await?;
            }
            if !self.ready.front().is_some_and(|out| self.flights.has_room(out.lane)) {
                break;
            }
            let Some(out) = self.ready.pop_front() else { break };
            let bytes = self.wire.publish_bytes(&out.topic, &out.payload);
            if !self.wire.publish(out.topic, out.payload, out.retain) {
                return Err(Down::new("the client's queue is full"));
            }
            self.outgoing += bytes;
            if faults::planted("cursor-before-puback") {
                self.drain.acknowledge(out.lane, &out.positions);
            }
            self.pace.take(Instant::now());
            let cargo = Cargo::Records { lane: out.lane, positions: out.positions };
            self.flights.queue(cargo, bytes, Instant::now());
        }
        while let Some(wanted) = self.drain.wanted() {
            let store = self.road.store.clone();
            self.readings.push(Box::pin(async move {
                let read = store.read_after(wanted.lane, wanted.after, wanted.records, 2 << 20).await;
                (wanted, read)
            }));
        }
        self.road.counters.in_flight(self.flights.len() as u64);
        if self.outgoing > 0 {
            self.road.counters.sent(on_wire(std::mem::take(&mut self.outgoing), self.tls));
        }
        Ok(more)
    }

    /// The next publishes; where some are ready, those that are urgent are put before the others.
    async fn make_ready(&mut self) -> Result<(), Down> {
        let mut oversize = Vec::new();
        let allowed = if self.road.config.backlog_rate == 0 { usize::MAX } else { self.tokens.max(0.0) as usize };
        let lanes = match self.ready.is_empty() {
            true => self.road.budget.lanes(clock::now()).min(self.lanes_without_wait()),
            false => Lane::Urgent as usize + 1,
        };
        // A batch that takes a slow link longer than it is waited for would never be acknowledged.
        let bounds = Bounds { bytes: self.bounds.bytes.min(self.flights.window / 2), ..self.bounds };
        let out = self.drain.next(bounds, lanes, allowed, &mut oversize);
        let late: usize = out.iter().filter(|out| out.late).map(|out| out.positions.len()).sum();
        self.tokens -= late as f64;
        out.into_iter().rev().for_each(|out| self.ready.push_front(out));
        for record in oversize {
            tracing::error!(device = %record.device, seq = record.seq, bytes = record.bytes, most = self.bounds.most,
                "a record is larger than the broker takes; set aside and declared");
            let ts = Millis(record.ts);
            self.aside(record.device, record.lane, record.seq, ts, record.position, "too-large").await?;
        }
        Ok(())
    }

    pub(super) async fn aside(
        &mut self,
        device: DeviceId,
        lane: Lane,
        seq: u64,
        ts: Millis,
        position: u64,
        cause: &str,
    ) -> Result<(), Down> {
        let done = self.road.store.set_aside(device, lane, seq, ts, cause).await;
        done.map_err(|error| Down::new(format!("a loss cannot be declared: {error}")))?;
        self.drain.acknowledge(lane, &[position]);
        self.road.aside.push((lane, position));
        Ok(())
    }

    /// How many lanes need no company: readings wait for it up to `batch_wait`, unless there is a backlog or a batch.
    fn lanes_without_wait(&mut self) -> usize {
        let wait = self.road.config.batch_wait;
        let idle = if wait.is_zero() { 0 } else { self.drain.idle() };
        if idle == 0 {
            self.waits = None;
            return Lane::ALL.len();
        }
        let now = Instant::now();
        let since = *self.waits.get_or_insert(now);
        let enough = idle >= self.bounds.records as u64 || self.drain.late() > 0;
        if enough || now.saturating_duration_since(since) >= wait { Lane::ALL.len() } else { Lane::Telemetry as usize }
    }

    fn refill(&mut self) {
        let rate = f64::from(self.road.config.backlog_rate);
        let now = Instant::now();
        let earned = rate * now.saturating_duration_since(self.refilled).as_secs_f64();
        self.tokens = (self.tokens + earned).min(rate);
        self.refilled = now;
    }

    pub(super) fn publish_aside(&mut self, topic: String, body: Vec<u8>, retain: bool) {
        let bytes = self.wire.publish_bytes(&topic, &body);
        if self.wire.publish(topic, body, retain) {
            self.outgoing += bytes;
            self.flights.queue(Cargo::Aside, bytes, Instant::now());
        }
    }
}
