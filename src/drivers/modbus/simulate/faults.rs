//! What a simulator does wrong, per unit, on request.

use std::{
    collections::HashMap,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use crate::config::amount::parse_duration;

/// Faults of all units; clones share them. Unit 0 stands for every unit without faults of its own.
#[derive(Debug, Clone, Default)]
pub struct Faults(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    units: HashMap<u8, Fault>,
    requests: u64,
    by_unit: HashMap<u8, u64>,
    /// State of a small generator: the same faults in each run.
    dice: u64,
}

/// Faults of one unit. Shares are of 100 requests.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Fault {
    pub delay: Duration,
    /// Every request gets this exception.
    pub exception: Option<u8>,
    /// Share of requests that get no reply; 100 is a dead unit.
    pub drop: u8,
    /// Share of replies with a wrong checksum (serial framing only).
    pub damage: u8,
    /// Share of replies with another transaction id (TCP only).
    pub wrong_transaction: u8,
    /// Share of replies sent in two halves, 30 ms apart.
    pub halves: u8,
    /// Share of replies that are sent twice.
    pub doubles: u8,
    /// Share of requests at which the connection is closed.
    pub close: u8,
    /// Each request comes back before its reply.
    pub echo: bool,
    /// Silence where an exception is due, as many cheap devices have it.
    pub mute: bool,
}

/// What happens to one reply.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Fate {
    pub delay: Duration,
    pub exception: Option<u8>,
    pub drop: bool,
    pub damage: bool,
    pub wrong_transaction: bool,
    pub halves: bool,
    pub double: bool,
    pub close: bool,
    pub echo: bool,
    pub mute: bool,
}

impl Faults {
    /// Sets the faults of a unit; `Fault::default()` heals it.
    pub fn set(&self, unit: u8, fault: Fault) {
        self.lock().units.insert(unit, fault);
    }

    pub fn heal(&self) {
        self.lock().units.clear();
    }

    pub fn requests(&self) -> u64 {
        self.lock().requests
    }

    pub fn requests_to(&self, unit: u8) -> u64 {
        self.lock().by_unit.get(&unit).copied().unwrap_or(0)
    }

    pub(super) fn fate(&self, unit: u8) -> Fate {
        let mut inner = self.lock();
        inner.requests += 1;
        *inner.by_unit.entry(unit).or_default() += 1;
        let Some(fault) = inner.units.get(&unit).or_else(|| inner.units.get(&0)).cloned() else {
            return Fate::default();
        };
        let mut hit = |share: u8| share > 0 && inner.roll() < u64::from(share);
        Fate {
            delay: fault.delay,
            exception: fault.exception,
            drop: hit(fault.drop),
            damage: hit(fault.damage),
            wrong_transaction: hit(fault.wrong_transaction),
            halves: hit(fault.halves),
            double: hit(fault.doubles),
            close: hit(fault.close),
            echo: fault.echo,
            mute: fault.mute,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// 0 to 99, splitmix64.
    fn roll(&mut self) -> u64 {
        self.dice = self.dice.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.dice;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ mixed >> 31) % 100
    }
}

/// A fault as the command line gives it: the unit (0: all) and what is wrong.
impl FromStr for Fault {
    type Err = String;

    /// `delay=200ms,exception=6,drop=10,damage=5,transaction=5,halves=5,doubles=5,close=1,echo,mute`.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut fault = Fault::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (word, value) = part.split_once('=').unwrap_or((part, ""));
            let share = || match value.trim_end_matches('%').parse::<u8>() {
                Ok(share) if share <= 100 => Ok(share),
                _ => Err(format!("{part:?}: give a share from 0 to 100")),
            };
            match word {
                "delay" => fault.delay = parse_duration(value).map_err(|why| format!("{part:?} {why}"))?,
                "exception" => {
                    fault.exception = Some(value.parse().map_err(|_| format!("{part:?}: give a code such as 6"))?);
                }
                "drop" => fault.drop = share()?,
                "damage" | "crc" => fault.damage = share()?,
                "transaction" => fault.wrong_transaction = share()?,
                "halves" => fault.halves = share()?,
                "doubles" => fault.doubles = share()?,
                "close" => fault.close = share()?,
                "echo" => fault.echo = true,
                "mute" => fault.mute = true,
                _ => {
                    let known = "delay, exception, drop, damage, transaction, halves, doubles, close, echo, mute";
                    return Err(format!("{word:?} is no fault; one of {known}"));
                }
            }
        }
        Ok(fault)
    }
}
