//! The registers of simulated units: what is there, what moves, what was written.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    config::modbus::{
        firmware::Source,
        kind::{Kind, Table},
        point::Point,
        profile::Profile,
    },
    drivers::modbus::codec::{self, Encoded},
    model::{
        reading::Value,
        version::{Condition, Version},
    },
};

/// The registers of all units of one simulator. Clones share them; tests read and write beside the server.
#[derive(Debug, Clone, Default)]
pub struct Registers(Arc<Mutex<HashMap<u8, Unit>>>);

/// The power of ten in every scale factor of a simulated device: tenths.
const EXPONENT: i32 = -1;

/// One simulated unit.
#[derive(Debug, Clone, Default)]
pub struct Unit {
    words: BTreeMap<(Table, u16), u16>,
    moving: Vec<Moving>,
    /// Objects of function 43/14.
    pub identity: Vec<(u8, String)>,
    /// Recorded changes, in order of time; they start again from the beginning when they are through.
    playback: Vec<(Duration, Table, u16, Vec<u16>)>,
    started: Option<Instant>,
    moved: Option<Instant>,
}

/// A value that changes believably with time.
#[derive(Debug, Clone)]
struct Moving {
    point: Arc<Point>,
    middle: f64,
    swing: f64,
    /// Seconds of one swing.
    period: f64,
    /// Grows for ever instead of swinging: an energy counter.
    counts: bool,
}

impl Unit {
    /// A unit with these holding registers from address 0 on.
    pub fn holding(words: &[u16]) -> Self {
        let mut unit = Self::default();
        unit.put(Table::Holding, 0, words);
        unit
    }

    /// A unit as the profile describes it, with values in the middle of what is usual and moving.
    pub fn from_profile(profile: &Profile, unit_id: u8) -> Self {
        Self::with_firmware(profile, unit_id, &newest(profile))
    }

    /// The same with this firmware: it tells the version as the profile says, and has the registers of that version.
    pub fn with_firmware(profile: &Profile, unit_id: u8, firmware: &Version) -> Self {
        let mut unit =
            Self { identity: vec![(0, profile.maker.to_string()), (1, profile.name.to_string())], ..Self::default() };
        unit.identity.push((2, firmware.to_string()));
        let there = |point: &&Arc<Point>| point.firmware.as_ref().is_none_or(|condition| condition.holds(firmware));
        let there: Vec<Arc<Point>> = profile.points.iter().filter(there).cloned().collect();
        let points = super::models::located(&mut unit, &there);
        let factors: HashSet<&str> = points.iter().filter_map(|point| point.scale_from.as_deref()).collect();
        for point in &points {
            unit.add_point(point, unit_id);
            if factors.contains(&*point.name) {
                unit.moving.retain(|moving| moving.point.name != point.name);
                unit.put(point.table, point.address, &[EXPONENT as u16]);
            }
        }
        match &profile.firmware_version {
            Some(Source::Object(object)) if *object != 2 => unit.identity.push((*object, firmware.to_string())),
            Some(source @ Source::Register { point: telling, .. }) => {
                unit.moving.retain(|moving| moving.point.name != telling.name);
                let point = points.iter().find(|point| point.name == telling.name);
                if let (Some(point), Some(value)) = (point, source.value(firmware)) {
                    unit.set(point, &value);
                }
            }
            _ => {}
        }
        unit
    }

    /// Adds one point; numbers that are only read move.
    pub fn add_point(&mut self, point: &Arc<Point>, seed: u8) {
        let count = point.len();
        self.put(point.table, point.address, &vec![0; usize::from(count)]);
        let number = point.kind.is_number() && point.titles.is_empty() && point.bits.is_none();
        if number && !point.writable() && !point.table.is_bits() {
            let (middle, swing, counts) = usual(point);
            let period = 20.0 + f64::from(seed) + f64::from(point.address % 37);
            self.moving.push(Moving { point: point.clone(), middle, swing, period, counts });
            return;
        }
        let value = match point.kind {
            Kind::Text(n) => Value::Text("SIM12345".chars().take(usize::from(n) * 2).collect::<String>().into()),
            Kind::Date(_) => Value::Text("2025-01-31T23:59:58".into()),
            _ => match (point.titles.first(), point.write.min) {
                (Some((raw, _)), _) => Value::Int(*raw),
                (None, Some(min)) => Value::Float(min.max(0.0).min(point.write.max.unwrap_or(f64::MAX))),
                _ => Value::Int(0),
            },
        };
        self.set(point, &value);
    }

    /// Makes registers or bits (0 or 1) exist with these values.
    pub fn put(&mut self, table: Table, address: u16, words: &[u16]) {
        for (place, word) in (usize::from(address)..65536).zip(words) {
            self.words.insert((table, place as u16), *word);
        }
    }

    /// Removes registers: reading them is an illegal address.
    pub fn remove(&mut self, table: Table, address: u16, count: u16) {
        for n in 0..count {
            self.words.remove(&(table, address.wrapping_add(n)));
        }
    }

    /// Encodes a value into the point's registers; what cannot be encoded is left as it is.
    pub fn set(&mut self, point: &Point, value: &Value) {
        let exponent = if point.scale_from.is_some() { EXPONENT } else { 0 };
        match codec::encode(point, value, Some(exponent)) {
            Ok(Encoded::Bit(bit)) => self.put(point.table, point.address, &[u16::from(bit)]),
            Ok(Encoded::Registers { words, .. }) => self.put(point.table, point.address, &words),
            Err(_) => {}
        }
    }

    /// Plays these recorded values in a loop.
    pub fn play(&mut self, mut recorded: Vec<(Duration, Table, u16, Vec<u16>)>) {
        recorded.sort_by_key(|(at, ..)| *at);
        for (_, table, address, words) in recorded.iter().rev() {
            self.put(*table, *address, words);
        }
        self.playback = recorded;
    }

    /// The words there, `None` where one of them is not.
    pub fn get(&self, table: Table, address: u16, count: u16) -> Option<Vec<u16>> {
        let last = address.checked_add(count.checked_sub(1)?)?;
        let words: Vec<u16> = self.words.range((table, address)..=(table, last)).map(|(_, word)| *word).collect();
        (words.len() == usize::from(count)).then_some(words)
    }

    /// Lets time pass for what moves.
    fn move_on(&mut self, now: Instant) {
        let started = *self.started.get_or_insert(now);
        if self.moved.is_some_and(|moved| now.saturating_duration_since(moved) < Duration::from_millis(50)) {
            return;
        }
        self.moved = Some(now);
        let seconds = now.saturating_duration_since(started).as_secs_f64();
        let moving = std::mem::take(&mut self.moving);
        for moving in &moving {
            self.set(&moving.point, &Value::Float(moving.at(seconds)));
        }
        self.moving = moving;
        let Some((length, ..)) = self.playback.last() else { return };
        let length = length.as_secs_f64().max(0.001);
        let place = Duration::from_secs_f64(seconds % length);
        let recorded = std::mem::take(&mut self.playback);
        for (_, table, address, words) in recorded.iter().take_while(|(at, ..)| *at <= place) {
            self.put(*table, *address, words);
        }
        self.playback = recorded;
    }
}

impl Moving {
    fn at(&self, seconds: f64) -> f64 {
        let value = if self.counts {
            self.middle + seconds * self.swing
        } else {
            self.middle + self.swing * (std::f64::consts::TAU * seconds / self.period).sin()
        };
        (value * 1000.0).round() / 1000.0
    }
}

/// A version with which as much as can be of a profile is there: the newest that a register asks for.
fn newest(profile: &Profile) -> Version {
    let conditions = profile.points.iter().filter_map(|point| point.firmware.as_ref());
    let wanted = conditions.filter(|condition| condition.is_open()).map(Condition::oldest);
    wanted.max().unwrap_or_else(|| Version::of(&[1, 0]))
}

/// Middle, swing (or growth per second) and whether it counts, by unit of measure and limits.
fn usual(point: &Point) -> (f64, f64, bool) {
    let by_unit = match point.unit.as_deref().unwrap_or("") {
        "V" => (231.0, 3.0, false),
        "A" => (6.0, 2.5, false),
        "W" | "VA" => (1400.0, 500.0, false),
        "kW" | "kVA" => (1.4, 0.5, false),
        "var" => (120.0, 40.0, false),
        "Hz" => (50.0, 0.02, false),
        "°C" => (21.5, 2.0, false),
        "%RH" | "%" => (47.0, 6.0, false),
        "ppm" => (620.0, 150.0, false),
        "kWh" | "kvarh" | "Wh" | "varh" => (1234.5, 0.0004, true),
        _ => match (point.alarm.below, point.alarm.above) {
            (Some(low), Some(high)) => ((low + high) / 2.0, (high - low) / 4.0, false),
            _ => (10.0, 4.0, false),
        },
    };
    // What the type cannot hold at its scale would not be encoded at all.
    let factor = if point.scale_from.is_some() { 10f64.powi(EXPONENT) } else { 1.0 };
    let most = if point.kind.len() == 1 { 30_000.0 * point.scale.abs() * factor } else { f64::MAX };
    (by_unit.0.min(most), by_unit.1.min(most / 4.0), by_unit.2)
}

impl Registers {
    pub fn new(units: impl IntoIterator<Item = (u8, Unit)>) -> Self {
        Self(Arc::new(Mutex::new(units.into_iter().collect())))
    }

    /// Works on one unit; made where it does not exist.
    pub fn with<T>(&self, unit: u8, work: impl FnOnce(&mut Unit) -> T) -> T {
        let mut units = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        work(units.entry(unit).or_default())
    }

    /// Words as they are now, `None` where the unit or one of the registers does not exist.
    pub fn read(&self, unit: u8, table: Table, address: u16, count: u16) -> Option<Vec<u16>> {
        let units = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        units.get(&unit)?.get(table, address, count)
    }

    pub fn write(&self, unit: u8, table: Table, address: u16, words: &[u16]) {
        self.with(unit, |unit| unit.put(table, address, words));
    }

    pub fn unit_ids(&self) -> Vec<u8> {
        let units = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut ids: Vec<u8> = units.keys().copied().collect();
        ids.sort_unstable();
        ids
    }

    pub fn has(&self, unit: u8) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&unit)
    }

    pub(super) fn move_on(&self, unit: u8, now: Instant) {
        self.with(unit, |unit| unit.move_on(now));
    }
}
