//! What peers have sent lately: a repetition is answered from memory and never becomes a second request
//! (RFC 7252, section 4.5). Requests are open here until the application has answered.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

/// After so long without an answer from the application an empty acknowledgement goes out.
const SEPARATE_AFTER: Duration = Duration::from_millis(700);
/// EXCHANGE_LIFETIME of RFC 7252 section 4.8.2: how long a message id is remembered.
const LIFETIME: Duration = Duration::from_secs(247);
/// An application that has not answered by then never will.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// Remembered message ids in all; beyond that the oldest are forgotten.
const MOST_SEEN: usize = 2048;
/// Unanswered requests of one peer, and in all: more are dropped, and repeated by whoever means them.
const OPEN_PER_PEER: usize = 8;
const OPEN_IN_ALL: usize = 512;

/// A peer and the id of one of its messages.
pub(super) type Key = (SocketAddr, u16);

#[derive(Debug)]
enum Known {
    /// With the application; acknowledge at the given time.
    Open { ack_at: Option<Instant>, until: Instant },
    /// Answered with these bytes, or with nothing that needs repeating.
    Done(Option<Vec<u8>>),
}

/// What to do with a message that arrived.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Met {
    New,
    /// Known, and nothing is to be said about it (again).
    Before,
    /// Known and with the application: say that it arrived.
    Acknowledge,
    /// Known and answered: this was the answer.
    Answered(Vec<u8>),
}

#[derive(Debug, Default)]
pub(super) struct Seen {
    known: HashMap<Key, Known>,
    oldest: VecDeque<(Instant, Key)>,
    open: usize,
}

impl Seen {
    pub fn met(&self, key: Key, confirmable: bool) -> Met {
        match self.known.get(&key) {
            None => Met::New,
            Some(Known::Done(Some(bytes))) => Met::Answered(bytes.clone()),
            Some(Known::Open { ack_at: None, .. }) if confirmable => Met::Acknowledge,
            Some(_) => Met::Before,
        }
    }

    /// Opens a request; false where too many are open already, and nothing is remembered of it.
    pub fn open(&mut self, now: Instant, key: Key, confirmable: bool) -> bool {
        let of_peer = |(other, known): &(&Key, &Known)| other.0 == key.0 && matches!(known, Known::Open { .. });
        if self.open >= OPEN_IN_ALL || self.known.iter().filter(of_peer).count() >= OPEN_PER_PEER {
            return false;
        }
        self.open += 1;
        let ack_at = confirmable.then_some(now + SEPARATE_AFTER);
        self.remember(now, key, Known::Open { ack_at, until: now + ANSWER_WITHIN });
        true
    }

    /// Remembers a message that needs no application, and what repeats its answer.
    pub fn note(&mut self, now: Instant, key: Key, answer: Option<Vec<u8>>) {
        self.remember(now, key, Known::Done(answer));
    }

    /// Closes an open request: whether its acknowledgement has yet to go out. `None` where it is not open.
    pub fn close(&mut self, key: Key) -> Option<bool> {
        let known = self.known.get_mut(&key)?;
        let Known::Open { ack_at, .. } = known else { return None };
        let unacknowledged = ack_at.is_some();
        *known = Known::Done(None);
        self.open -= 1;
        Some(unacknowledged)
    }

    /// What repeats the answer to a request that was closed.
    pub fn answered(&mut self, key: Key, answer: Option<Vec<u8>>) {
        self.known.insert(key, Known::Done(answer));
    }

    /// Forgets an open request: its repetition is a new one.
    pub fn forget(&mut self, key: Key) {
        if let Some(Known::Open { .. }) = self.known.remove(&key) {
            self.open -= 1;
        }
    }

    /// Time has passed: gives those that are to be acknowledged now, and forgets what is old.
    pub fn tick(&mut self, now: Instant) -> Vec<Key> {
        let mut acknowledge = Vec::new();
        for (key, known) in &mut self.known {
            match known {
                Known::Open { until, .. } if *until <= now => {
                    self.open -= 1;
                    *known = Known::Done(None);
                }
                Known::Open { ack_at, .. } if ack_at.is_some_and(|at| at <= now) => {
                    *ack_at = None;
                    acknowledge.push(*key);
                }
                _ => {}
            }
        }
        while self.oldest.front().is_some_and(|(until, _)| *until <= now) {
            self.forget_oldest();
        }
        acknowledge
    }

    pub fn next_tick(&self) -> Option<Instant> {
        if self.open == 0 {
            return None;
        }
        let due = |known: &Known| match known {
            Known::Open { ack_at, until } => Some(ack_at.unwrap_or(*until)),
            Known::Done(_) => None,
        };
        self.known.values().filter_map(due).min()
    }

    fn remember(&mut self, now: Instant, key: Key, known: Known) {
        if self.oldest.len() >= MOST_SEEN {
            self.forget_oldest();
        }
        self.known.insert(key, known);
        self.oldest.push_back((now + LIFETIME, key));
    }

    fn forget_oldest(&mut self) {
        if let Some((_, key)) = self.oldest.pop_front() {
            self.forget(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(port: u16, id: u16) -> Key {
        (SocketAddr::from(([127, 0, 0, 1], port)), id)
    }

    #[test]
    fn a_repetition_is_answered_from_memory_for_as_long_as_the_standard_asks() {
        let (mut seen, now) = (Seen::default(), Instant::now());
        assert_eq!(seen.met(key(1, 7), true), Met::New);
        assert!(seen.open(now, key(1, 7), true));
        assert_eq!(seen.met(key(1, 7), true), Met::Before);
        assert_eq!(seen.tick(now + SEPARATE_AFTER), [key(1, 7)]);
        assert_eq!(seen.met(key(1, 7), true), Met::Acknowledge);
        assert_eq!(seen.close(key(1, 7)), Some(false));
        assert_eq!(seen.close(key(1, 7)), None, "once");
        seen.answered(key(1, 7), Some(vec![1]));
        assert_eq!(seen.met(key(1, 7), true), Met::Answered(vec![1]));
        assert_eq!(seen.next_tick(), None);
        seen.tick(now + LIFETIME);
        assert_eq!(seen.met(key(1, 7), true), Met::New);
    }

    #[test]
    fn one_peer_cannot_open_everything_and_what_nobody_answers_is_closed() {
        let (mut seen, now) = (Seen::default(), Instant::now());
        let opened = (0..100).filter(|id| seen.open(now, key(1, *id), true)).count();
        assert_eq!(opened, OPEN_PER_PEER);
        assert!(seen.open(now, key(2, 0), false), "another peer still can");
        seen.tick(now + ANSWER_WITHIN);
        assert!(seen.open(now + ANSWER_WITHIN, key(1, 200), true));
        for id in 0..5000 {
            seen.note(now, key(3, id), None);
        }
        assert!(seen.known.len() <= MOST_SEEN);
    }
}
