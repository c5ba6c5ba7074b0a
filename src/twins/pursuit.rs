//! What is still to be written to a device that cannot subscribe: pure planning of attempts, refusals and pauses.
//!
//! ```text
//!  delta ─▶ plan ─▶ write ─▶ refused for good (out of range, not writable) ─▶ a problem until the value changes
//!             ▲       └────▶ refused for now (timeout, busy)              ─▶ a problem, again after a pause
//!             └── pause ◀──  accepted, but not reported within a pause     ─▶ again
//! ```

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json};

use crate::model::{
    command::{Lock, Refusal, RefusalCode},
    time::Millis,
};

const FIRST_PAUSE: i64 = 5_000;
const LONGEST_PAUSE: i64 = 300_000;

/// One device's attempts. Level-triggered: planned anew from the delta each time.
#[derive(Debug, Default)]
pub struct Pursuit {
    tries: BTreeMap<String, Try>,
    /// A write is on its way; nothing else is planned until it ends.
    pub writing: bool,
}

#[derive(Debug)]
struct Try {
    value: Json,
    count: u32,
    /// Not before; `None` waits for another value.
    next: Option<Millis>,
    refusal: Option<Refusal>,
}

impl Pursuit {
    /// The values to write now. Members that are no longer outstanding are forgotten.
    pub fn plan(
        &mut self,
        delta: &Map<String, Json>,
        locks: &BTreeMap<String, Lock>,
        now: Millis,
    ) -> Map<String, Json> {
        self.forget(delta);
        let mut write = Map::new();
        for (name, value) in delta {
            let before = self.tries.get_mut(name).filter(|before| before.value == *value);
            if let Some(lock) = locks.get(name).filter(|lock| lock.holds(now)) {
                let refusal = Refusal::new(RefusalCode::NotAuthorized, lock_text(lock));
                let held = Try { value: value.clone(), count: 0, next: Some(now), refusal: Some(refusal) };
                self.tries.insert(name.clone(), held);
                continue;
            }
            match before {
                Some(before) if before.next.is_none_or(|next| now < next) => continue,
                Some(before) => {
                    before.count += 1;
                    before.next = Some(now.plus(pause(before.count)));
                }
                None => {
                    let next = Some(now.plus(FIRST_PAUSE));
                    self.tries.insert(name.clone(), Try { value: value.clone(), count: 0, next, refusal: None });
                }
            }
            write.insert(name.clone(), value.clone());
        }
        write
    }

    /// Members that are no longer outstanding are no problem any more.
    pub fn forget(&mut self, delta: &Map<String, Json>) {
        self.tries.retain(|name, _| delta.contains_key(name));
    }

    /// A write has ended. `refused` names what was not taken; the rest is waited for in the reported part.
    pub fn ended(
        &mut self,
        written: &Map<String, Json>,
        refused: Result<Vec<(String, Refusal)>, Refusal>,
        now: Millis,
    ) {
        self.writing = false;
        let refused: BTreeMap<String, Refusal> = match refused {
            Ok(refused) => refused.into_iter().collect(),
            Err(refusal) => written.keys().map(|name| (name.clone(), refusal.clone())).collect(),
        };
        for (name, value) in written {
            let Some(attempt) = self.tries.get_mut(name).filter(|attempt| attempt.value == *value) else { continue };
            attempt.refusal = refused.get(name).cloned();
            attempt.next = match &attempt.refusal {
                Some(refusal) if for_good(refusal.code) => None,
                _ => Some(now.plus(pause(attempt.count))),
            };
        }
    }

    /// The device is back, or was configured anew: everything may be tried again; with `all`, what was refused for
    /// good as well.
    pub fn refresh(&mut self, all: bool, now: Millis) {
        for attempt in self.tries.values_mut().filter(|attempt| all || attempt.next.is_some()) {
            (attempt.next, attempt.count) = (Some(now), 0);
        }
    }

    /// Why what is outstanding is outstanding, per member with the refused value.
    pub fn problems(&self) -> BTreeMap<&str, (&Json, &Refusal)> {
        self.tries
            .iter()
            .filter_map(|(name, attempt)| Some((name.as_str(), (&attempt.value, attempt.refusal.as_ref()?))))
            .collect()
    }

    /// When the next attempt is due.
    pub fn next(&self) -> Option<Millis> {
        self.tries.values().filter_map(|attempt| attempt.next).min().filter(|_| !self.writing)
    }
}

fn lock_text(lock: &Lock) -> String {
    match lock.until {
        Some(until) => format!("locked by {} until {}", lock.by, until.0),
        None => format!("locked by {}", lock.by),
    }
}

/// Before the next attempt, after `count` attempts that came to nothing.
pub(super) fn pause(count: u32) -> i64 {
    FIRST_PAUSE.saturating_mul(1 << count.min(10)).min(LONGEST_PAUSE)
}

/// Refusals that trying again cannot mend: the value itself is wrong.
fn for_good(code: RefusalCode) -> bool {
    use RefusalCode::{NotAuthorized, NotWritable, OutOfRange, PayloadInvalid, TooLarge, UnknownDevice};
    matches!(code, NotAuthorized | NotWritable | OutOfRange | PayloadInvalid | TooLarge | UnknownDevice)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn map(value: Json) -> Map<String, Json> {
        value.as_object().cloned().expect("an object")
    }

    fn refused(name: &str, code: RefusalCode) -> Result<Vec<(String, Refusal)>, Refusal> {
        Ok(vec![(name.to_owned(), Refusal::new(code, "no"))])
    }

    #[test]
    fn a_wrong_value_is_tried_once_and_again_only_when_it_changes() {
        let (mut pursuit, locks) = (Pursuit::default(), BTreeMap::new());
        let delta = map(json!({"a": 1000, "b": 2}));
        let write = pursuit.plan(&delta, &locks, Millis(0));
        assert_eq!(write, delta);
        pursuit.ended(&write, refused("a", RefusalCode::OutOfRange), Millis(10));
        assert_eq!(pursuit.problems().keys().collect::<Vec<_>>(), [&"a"]);
        let delta = map(json!({"a": 1000}));
        assert!(pursuit.plan(&delta, &locks, Millis(1_000_000)).is_empty());
        pursuit.refresh(false, Millis(1_000_000));
        assert!(pursuit.plan(&delta, &locks, Millis(1_000_000)).is_empty());
        let delta = map(json!({"a": 20}));
        assert_eq!(pursuit.plan(&delta, &locks, Millis(1_000_001)), delta);
        assert!(pursuit.problems().is_empty());
    }

    #[test]
    fn a_silent_device_is_tried_with_growing_pauses_and_at_once_when_it_is_back() {
        let (mut pursuit, locks) = (Pursuit::default(), BTreeMap::new());
        let delta = map(json!({"a": 1}));
        let mut now = Millis(0);
        let mut pauses = Vec::new();
        for _ in 0..9 {
            let write = pursuit.plan(&delta, &locks, now);
            assert_eq!(write, delta);
            assert!(pursuit.plan(&delta, &locks, now).is_empty(), "not twice");
            pursuit.ended(&write, Err(Refusal::new(RefusalCode::DeviceFailed, "timeout")), now);
            let next = pursuit.next().expect("again");
            pauses.push(next.since(now) / 1000);
            now = next;
        }
        assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 300, 300, 300]);
        let write = pursuit.plan(&delta, &locks, now);
        pursuit.ended(&write, Err(Refusal::new(RefusalCode::DeviceFailed, "timeout")), now);
        pursuit.refresh(false, now);
        assert_eq!(pursuit.plan(&delta, &locks, now), delta);
        assert!(pursuit.plan(&Map::new(), &locks, now).is_empty());
        assert_eq!((pursuit.problems().len(), pursuit.next()), (0, None), "reported agrees: nothing is left");
    }

    #[test]
    fn a_lock_holds_the_value_back_and_says_who_until_it_ends() {
        let mut pursuit = Pursuit::default();
        let locks = BTreeMap::from([("a".to_owned(), Lock { by: "anna".into(), until: Some(Millis(100)) })]);
        let delta = map(json!({"a": 1}));
        assert!(pursuit.plan(&delta, &locks, Millis(0)).is_empty());
        assert!(pursuit.problems()["a"].1.message.contains("anna"));
        assert_eq!(pursuit.plan(&delta, &locks, Millis(100)), delta);
    }
}
