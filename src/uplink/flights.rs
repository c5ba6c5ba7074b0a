//! Publishes on their way: which packet id carries what, how many there may be, and whether the link is dead. Plain.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::{Duration, Instant},
};

use crate::model::record::Lane;

/// What a publish carried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cargo {
    Records {
        lane: Lane,
        positions: Vec<u64>,
    },
    /// Nothing of the log: a status, an answer.
    Aside,
}

#[derive(Debug)]
struct Flight {
    /// Counts publishes of this connection.
    number: u64,
    cargo: Cargo,
    bytes: usize,
}

/// Smallest and largest sum of bytes in flight.
const NARROW: usize = 2 << 10;
const WIDE: usize = 4 << 20;
/// How long what is urgent may wait behind what is on its way, beyond what the link takes anyhow.
const QUEUED: Duration = Duration::from_millis(4);

/// The publishes of one connection that are not acknowledged.
pub struct Flights {
    most: usize,
    timeout: Duration,
    /// Queued, in the order in which they will be sent.
    queued: VecDeque<Flight>,
    sent: HashMap<u16, (Flight, Instant)>,
    /// Since when each number is queued or sent.
    open: BTreeMap<u64, Instant>,
    next: u64,
    bytes: usize,
    last_ack: Instant,
    /// The shortest time an acknowledgement took: what the link takes with nothing in the way.
    best: Duration,
    shrunk: Instant,
    /// Bytes that may be on their way: grows while acknowledgements come as soon as they can, shrinks when they queue
    /// up behind each other. What is urgent waits behind all of these bytes, and a slow link must not be taken for a
    /// dead one.
    pub window: usize,
}

impl Flights {
    pub fn new(most: usize, timeout: Duration, window: usize, now: Instant) -> Self {
        Self {
            most,
            timeout,
            queued: VecDeque::new(),
            sent: HashMap::new(),
            open: BTreeMap::new(),
            next: 0,
            bytes: 0,
            last_ack: now,
            best: Duration::MAX,
            shrunk: now,
            window: window.clamp(NARROW, WIDE),
        }
    }

    pub fn len(&self) -> usize {
        self.open.len()
    }

    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Whether another publish may go; what is urgent does not wait for bytes to be acknowledged. Packet ids are reused
    /// in turn: the span from the oldest to the newest must stay below their number as well, or the client stops.
    pub fn has_room(&self, lane: Lane) -> bool {
        let span = self.open.first_key_value().map_or(0, |(oldest, _)| self.next - oldest);
        let bytes = lane == Lane::Urgent || self.bytes < self.window || self.open.is_empty();
        bytes && self.open.len() < self.most && span < self.most as u64
    }

    pub fn queue(&mut self, cargo: Cargo, bytes: usize, now: Instant) {
        if self.open.is_empty() {
            self.last_ack = now;
        }
        self.open.insert(self.next, now);
        self.queued.push_back(Flight { number: self.next, cargo, bytes });
        self.next += 1;
        self.bytes += bytes;
    }

    /// The oldest queued one went out.
    pub fn sent(&mut self, id: u16, now: Instant) {
        if let Some(flight) = self.queued.pop_front() {
            self.open.insert(flight.number, now);
            self.sent.insert(id, (flight, now));
        }
    }

    /// Its cargo, when something was on its way under this id.
    pub fn acked(&mut self, id: u16, now: Instant) -> Option<Cargo> {
        let (flight, since) = self.sent.remove(&id)?;
        self.open.remove(&flight.number);
        self.bytes -= flight.bytes;
        self.last_ack = now;
        let took = now.saturating_duration_since(since);
        // Links change: what was possible once is forgotten over some thousands of acknowledgements.
        self.best = took.min(self.best.saturating_add(self.best / 2048));
        if took > self.timeout / 2 {
            self.window = (self.window / 2).max(NARROW);
        } else if took > self.best.saturating_mul(3).saturating_add(QUEUED) {
            // Once for what was on its way: the effect shows with what is sent after it.
            if now.saturating_duration_since(self.shrunk) > took {
                self.window = (self.window / 4 * 3).max(NARROW);
                self.shrunk = now;
            }
        } else if took < self.best.saturating_mul(2).saturating_add(QUEUED / 4) {
            self.window = (self.window + flight.bytes).min(WIDE);
        }
        Some(flight.cargo)
    }

    /// Nothing was acknowledged for too long although something waits for it.
    pub fn is_dead(&self, now: Instant) -> bool {
        self.open.first_key_value().is_some_and(|(_, since)| {
            now.saturating_duration_since(*since) > self.timeout
                && now.saturating_duration_since(self.last_ack) > self.timeout
        })
    }

    /// The largest that was sent and not acknowledged, with its bytes; among equals the one that went first.
    pub fn largest(&self) -> Option<(Cargo, usize)> {
        let sent = self.sent.values().map(|(flight, _)| flight);
        let largest = sent.max_by_key(|flight| (flight.bytes, std::cmp::Reverse(flight.number)))?;
        Some((largest.cargo.clone(), largest.bytes))
    }

    /// What went first and was never acknowledged.
    pub fn oldest(&self) -> Option<&Cargo> {
        let (number, _) = self.open.first_key_value()?;
        let sent = self.sent.values().map(|(flight, _)| flight).find(|flight| flight.number == *number);
        sent.or_else(|| self.queued.front()).map(|flight| &flight.cargo)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(n: u64) -> Cargo {
        Cargo::Records { lane: Lane::Telemetry, positions: vec![n] }
    }

    #[test]
    fn acknowledgements_in_any_order_find_their_cargo_and_the_span_is_bounded() {
        let now = Instant::now();
        let mut flights = Flights::new(3, Duration::from_secs(10), WIDE, now);
        for n in 0..3 {
            assert!(flights.has_room(Lane::Telemetry));
            flights.queue(records(n), 10, now);
        }
        assert!(!flights.has_room(Lane::Urgent));
        (1..=3).for_each(|id| flights.sent(id, now));
        assert_eq!(flights.acked(2, now), Some(records(1)));
        assert_eq!(flights.acked(2, now), None);
        assert!(!flights.has_room(Lane::Urgent), "the oldest still holds its id");
        assert_eq!(flights.oldest(), Some(&records(0)));
        assert_eq!(flights.acked(1, now), Some(records(0)));
        assert!(flights.has_room(Lane::Telemetry));
    }

    #[test]
    fn what_is_urgent_does_not_wait_for_bytes_that_are_on_their_way() {
        let now = Instant::now();
        let mut flights = Flights::new(100, Duration::from_secs(10), 64 << 10, now);
        flights.queue(records(1), 80_000, now);
        assert!(!flights.has_room(Lane::Telemetry));
        assert!(flights.has_room(Lane::Urgent));
    }

    #[test]
    fn the_window_grows_until_acknowledgements_queue_up() {
        let begin = Instant::now();
        let mut flights = Flights::new(100, Duration::from_secs(10), 64 << 10, begin);
        // A link of 1 MB/s and 100 ms: what is beyond 100 KB on its way waits in a queue.
        let mut now = begin + Duration::from_secs(1);
        for id in 1..=2000 {
            let queued = Duration::from_micros((flights.window as u64).saturating_sub(100_000));
            flights.queue(records(1), 10_000, now);
            flights.sent(id, now);
            now += Duration::from_millis(100) + queued;
            flights.acked(id, now);
        }
        assert!((100_000..600_000).contains(&flights.window), "{}", flights.window);
    }

    #[test]
    fn a_link_is_dead_when_nothing_comes_back_and_slow_when_it_comes_late() {
        let now = Instant::now();
        let timeout = Duration::from_secs(10);
        let mut flights = Flights::new(100, timeout, 64 << 10, now);
        assert!(!flights.is_dead(now + timeout * 2), "nothing waits");
        flights.queue(records(1), 1000, now);
        flights.queue(records(2), 1000, now);
        flights.sent(1, now);
        flights.sent(2, now);
        assert!(!flights.is_dead(now + timeout / 2));
        assert!(flights.is_dead(now + timeout * 2));
        flights.acked(1, now + timeout - Duration::from_secs(1));
        assert_eq!(flights.window, 32 << 10);
        assert!(!flights.is_dead(now + timeout + Duration::from_secs(1)), "one came back a moment ago");
    }
}
