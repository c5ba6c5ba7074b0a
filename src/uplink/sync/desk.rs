//! All pairs and whose turn it is: how many requests may be under way, and how many a second. A plain value.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};

use super::{
    look::Key,
    pair::Pair,
    words::{Heard, Looked, Next, Patience, Request, Settle},
};
use crate::{
    model::{ids::DeviceId, time::Millis},
    store::sync::Refused,
};

/// Requests under way at a time: the cloud answers the eleventh with 429.
const PLACES: usize = 10;
/// Requests per second of one thing: 15 evenly and 5 at once make at most 20 in any second, which is what is allowed.
const THING: (i64, i64) = (66, 5);

/// Lets through one thing every `every` milliseconds, and `burst` at once after a rest.
#[derive(Debug, Clone, Copy)]
struct Pace {
    every: i64,
    burst: i64,
    /// When the next one would be due at an even pace.
    due: i64,
}

impl Pace {
    fn new(every: i64, burst: i64) -> Pace {
        Pace { every, burst, due: i64::MIN / 2 }
    }

    /// When the next may go.
    fn ready(&self) -> Millis {
        Millis(self.due.saturating_sub(self.every * (self.burst - 1)))
    }

    fn take(&mut self, now: Millis) {
        self.due = self.due.max(now.0) + self.every;
    }

    /// What was taken is not needed.
    fn give_back(&mut self) {
        self.due -= self.every;
    }
}

pub struct Desk {
    pairs: HashMap<Key, Pair>,
    /// May have something to do, in the order in which that came up.
    due: VecDeque<Key>,
    queued: HashSet<Key>,
    timers: BTreeSet<(Millis, Key)>,
    timer_of: HashMap<Key, Millis>,
    patience: Patience,
    pace: Pace,
    things: HashMap<DeviceId, Pace>,
    under_way: usize,
    up: bool,
    token: u64,
}

impl Desk {
    /// `rate`: requests per second of all pairs together.
    pub fn new(patience: Patience, rate: u32) -> Desk {
        let rate = i64::from(rate.max(1));
        Desk {
            pairs: HashMap::new(),
            due: VecDeque::new(),
            queued: HashSet::new(),
            timers: BTreeSet::new(),
            timer_of: HashMap::new(),
            patience,
            pace: Pace::new((1000 / rate).max(1), (rate / 5).max(1)),
            things: HashMap::new(),
            under_way: 0,
            up: false,
            // Tokens of an earlier life are told apart by their prefix, not by their number.
            token: 0,
        }
    }

    pub fn add(&mut self, key: Key, refused: Option<Refused>) {
        if !self.pairs.contains_key(&key) {
            self.pairs.insert(key.clone(), Pair::new(refused));
            self.touch(key);
        }
    }

    /// The device is no longer ours.
    pub fn forget(&mut self, device: &DeviceId) {
        let gone: Vec<Key> = self.pairs.keys().filter(|key| key.0 == *device).cloned().collect();
        for key in gone {
            if self.pairs.remove(&key).is_some_and(|pair| pair.is_under_way()) {
                self.under_way -= 1;
            }
            self.unset_timer(&key);
        }
        self.things.remove(device);
    }

    pub fn pairs(&self) -> impl Iterator<Item = (&Key, &Pair)> {
        self.pairs.iter()
    }

    pub fn line_up(&mut self, resumed: bool) {
        self.up = true;
        self.all(|pair| pair.line_up(resumed));
    }

    pub fn line_down(&mut self) {
        self.up = false;
        self.all(Pair::line_down);
    }

    /// Something of the cloud may have been missed.
    pub fn missed(&mut self) {
        self.all(Pair::doubt);
    }

    fn all(&mut self, change: impl Fn(&mut Pair)) {
        self.pairs.values_mut().for_each(change);
        self.under_way = self.pairs.values().filter(|pair| pair.is_under_way()).count();
        for key in self.pairs.keys().cloned().collect::<Vec<_>>() {
            self.touch(key);
        }
    }

    pub fn changed_here(&mut self, key: Key) {
        if let Some(pair) = self.pairs.get_mut(&key) {
            pair.changed_here();
            self.touch(key);
        }
    }

    /// Something was heard of a shadow; a shadow nobody knew is known from now on.
    pub fn hear(&mut self, key: &Key, heard: Heard, now: Millis) -> Option<Settle> {
        if !self.pairs.contains_key(key) {
            self.add(key.clone(), None);
            return None;
        }
        let patience = self.patience;
        let settle = self.with(key, |pair| pair.hear(heard, now, &patience)).flatten();
        self.touch(key.clone());
        settle
    }

    /// The next thing to be done, where there is room for it.
    pub fn next(&mut self, now: Millis) -> Option<(Key, Next, Option<Refused>)> {
        while let Some((at, key)) = self.timers.first().cloned() {
            if at > now {
                break;
            }
            self.unset_timer(&key);
            self.touch(key);
        }
        if !self.up {
            return None;
        }
        let mut looked = self.due.len();
        while looked > 0 && self.under_way < PLACES && self.pace.ready() <= now {
            looked -= 1;
            let key = self.due.pop_front()?;
            self.queued.remove(&key);
            let thing = self.things.get(&key.0).map_or(Millis(i64::MIN), Pace::ready);
            if thing > now {
                self.set_timer(&key, thing);
                continue;
            }
            let patience = self.patience;
            let Some(next) = self.with(&key, |pair| pair.next(now, &patience)) else { continue };
            let Some(next) = next else {
                if let Some(at) = self.pairs.get(&key).and_then(|pair| pair.wake(&patience)) {
                    self.set_timer(&key, at.max(now.plus(1)));
                }
                continue;
            };
            // Taken now, because what a look finds to send goes at once.
            self.pace.take(now);
            let (every, burst) = THING;
            self.things.entry(key.0.clone()).or_insert_with(|| Pace::new(every, burst)).take(now);
            if self.things.len() > 4096 {
                self.things.retain(|_, pace| pace.due > now.0);
            }
            let refused = self.pairs.get(&key).and_then(|pair| pair.refused().cloned());
            return Some((key, next, refused));
        }
        None
    }

    /// A request goes out; its token.
    pub fn send(&mut self, key: &Key, request: &Request, now: Millis) -> u64 {
        self.token += 1;
        let token = self.token;
        self.with(key, |pair| pair.sent(request, token, now));
        let at = now.plus(self.patience.answer);
        self.set_timer(key, at);
        token
    }

    /// A look has ended; true where what it wants to send may go.
    pub fn looked(&mut self, key: &Key, looked: &Looked, now: Millis) -> bool {
        let (patience, up) = (self.patience, self.up);
        let may = self.with(key, |pair| {
            let may = pair.looked(looked, now, &patience);
            if may && !up {
                // Written down as sent, and it never went: the next answer tells.
                pair.doubt();
            }
            may && up
        });
        self.touch(key.clone());
        let may = may.unwrap_or(false);
        if !may {
            self.pace.give_back();
            if let Some(thing) = self.things.get_mut(&key.0) {
                thing.give_back();
            }
        }
        may
    }

    pub fn settled(&mut self, key: &Key, good: bool, now: Millis) {
        let patience = self.patience;
        self.with(key, |pair| pair.settled(good, now, &patience));
        self.touch(key.clone());
    }

    /// When there may be something to do although nothing happens.
    pub fn wake(&self, now: Millis) -> Option<Millis> {
        let timer = self.timers.first().map(|(at, _)| *at);
        let waits = self.up && !self.due.is_empty() && self.under_way < PLACES;
        let pace = waits.then(|| self.pace.ready().max(now.plus(1)));
        timer.into_iter().chain(pace).min()
    }

    /// Changes a pair and keeps count of those under way.
    fn with<T>(&mut self, key: &Key, change: impl FnOnce(&mut Pair) -> T) -> Option<T> {
        let pair = self.pairs.get_mut(key)?;
        let before = pair.is_under_way();
        let done = change(pair);
        match (before, pair.is_under_way()) {
            (false, true) => self.under_way += 1,
            (true, false) => self.under_way -= 1,
            _ => {}
        }
        Some(done)
    }

    fn touch(&mut self, key: Key) {
        if self.queued.insert(key.clone()) {
            self.due.push_back(key);
        }
    }

    fn set_timer(&mut self, key: &Key, at: Millis) {
        self.unset_timer(key);
        self.timer_of.insert(key.clone(), at);
        self.timers.insert((at, key.clone()));
    }

    fn unset_timer(&mut self, key: &Key) {
        if let Some(at) = self.timer_of.remove(key) {
            self.timers.remove(&(at, key.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn one_thing_is_asked_for_at_most_20_times_in_any_second(
            rests in prop::collection::vec(prop_oneof![9 => Just(0), 1 => 0_i64..1000], 200),
        ) {
            let (mut pace, mut now, mut taken) = (Pace::new(THING.0, THING.1), 0, Vec::new());
            for rest in rests {
                now = (now + rest).max(pace.ready().0);
                pace.take(Millis(now));
                taken.push(now);
            }
            for (index, first) in taken.iter().enumerate() {
                let within = taken[index..].iter().take_while(|next| *next - first < 1000).count();
                prop_assert!(within <= 20, "{within} after {first}");
            }
        }
    }
}
