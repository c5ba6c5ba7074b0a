//! One unit of a bus as it is now: its plan, its health, the last values, what it taught. No wire.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::{
    codec,
    health::Health,
    patience::Patience,
    pdu::Exception,
    plan::{self, Block, Group, Learned},
    report::Filter,
    schedule::again,
    status::{Counters, Cycle, UnitStatus},
    variant::Firmware,
};
use crate::{
    config::modbus::{
        Device,
        point::{Class, Point},
    },
    model::{
        reading::{Quality, Sample, Value},
        time::Millis,
    },
};

/// After how long a register that was refused is asked for again.
const REFUSED_PAUSE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct Unit {
    pub device: Arc<Device>,
    /// The device's points that are there, with model-relative addresses resolved.
    pub points: Vec<Arc<Point>>,
    pub groups: Vec<Group>,
    pub paces: Vec<Pace>,
    pub health: Health,
    pub learned: Learned,
    pub generation: u32,
    pub counters: Counters,
    pub last_heard: Option<Millis>,
    /// Why it is away.
    pub reason: Option<Arc<str>>,
    /// Set-up registers were written since it came online.
    pub set_up: bool,
    /// Addresses of SunSpec models were found (or none are needed).
    pub located: bool,
    /// Where its SunSpec models begin.
    pub models: BTreeMap<u16, u16>,
    pub firmware: Firmware,
    /// Its last answer was still "busy" after all retries.
    pub busy: bool,
    pub patience: Patience,
    /// Blocks of a group's cycle that got no reply yet, and when that cycle was due.
    pub late: HashMap<usize, (Vec<Block>, Instant)>,
    states: Vec<PointState>,
    /// Scale factors that no block has brought yet were asked for one by one.
    factors_asked: bool,
    /// Powers of ten by the name of the point that holds them; `None` until it was read.
    exponents: HashMap<Arc<str>, Option<i32>>,
}

/// Measured pace of a group.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pace {
    begun: Option<Instant>,
    mean_ms: f64,
    pub missed: u64,
}

#[derive(Debug, Clone, Default)]
struct PointState {
    filter: Filter,
    /// The last good value and when it was measured.
    last: Option<(Value, Millis)>,
    /// Last value reported into the shadow.
    reported: Option<Value>,
    refused: Option<(Instant, Arc<str>)>,
}

/// What a block brought: samples for the log, values for the shadow.
#[derive(Debug, Default)]
pub struct Taken {
    pub samples: Vec<Sample>,
    pub reported: Vec<(Arc<str>, Value)>,
    pub values: u64,
}

impl Unit {
    pub fn new(device: Arc<Device>, learned: Learned, now: Instant) -> Self {
        let located = device.points.iter().all(|point| point.model.is_none());
        let mut unit = Self {
            states: Vec::new(),
            firmware: Firmware::new(device.firmware.as_ref(), now),
            device,
            points: Vec::new(),
            groups: Vec::new(),
            paces: Vec::new(),
            health: Health::new(now),
            learned,
            generation: 0,
            counters: Counters::default(),
            last_heard: None,
            reason: None,
            set_up: false,
            located,
            models: BTreeMap::new(),
            busy: false,
            patience: Patience::default(),
            late: HashMap::new(),
            factors_asked: false,
            exponents: HashMap::new(),
        };
        unit.settle();
        unit
    }

    /// Plans anew, after a lesson or when addresses became known.
    pub fn replan(&mut self) {
        let points = self.points.iter().map(Arc::as_ref);
        let ready = self.located && !self.firmware.is_open();
        self.groups = if ready { plan::plan(points, &self.device.limits, &self.learned) } else { Vec::new() };
        self.paces.resize(self.groups.len(), Pace::default());
        self.supersede();
    }

    /// What is in the schedule so far is void; gives the generation of what comes after it.
    pub fn supersede(&mut self) -> u32 {
        self.late.clear();
        self.generation = self.generation.wrapping_add(1);
        self.generation
    }

    /// These are its points now; what was known of others is forgotten.
    pub fn has(&mut self, points: Vec<Arc<Point>>) {
        self.exponents = points.iter().filter_map(|point| Some((point.scale_from.clone()?, None))).collect();
        self.states = vec![PointState::default(); points.len()];
        self.points = points;
        self.factors_asked = false;
        self.replan();
    }

    pub fn point(&self, name: &str) -> Option<&Arc<Point>> {
        self.points.iter().find(|p| &*p.name == name)
    }

    pub fn point_at(&self, index: u32) -> &Point {
        &self.points[index as usize]
    }

    /// The smallest request of the plan, to see whether the unit is there.
    pub fn cheapest(&self) -> Option<Block> {
        let blocks = self.groups.iter().flat_map(|group| &group.blocks);
        blocks.min_by_key(|block| (block.count, block.address)).cloned()
    }

    /// Power of ten for a point with a scale factor point.
    pub fn exponent(&self, point: &Point) -> Option<i32> {
        *self.exponents.get(point.scale_from.as_ref()?)?
    }

    /// Scale factors that were not read yet: asked for once, before the values that need them.
    pub fn missing_factors(&mut self) -> Vec<Arc<Point>> {
        if std::mem::replace(&mut self.factors_asked, true) {
            return Vec::new();
        }
        let limits = &self.device.limits;
        let missing =
            |point: &&Arc<Point>| matches!(self.exponents.get(&point.name), Some(None)) && !limits.forbids(point);
        self.points.iter().filter(missing).cloned().collect()
    }

    /// Blocks of a group that are worth asking: those whose only points were refused lately are left out.
    pub fn worth_asking(&self, block: &Block, now: Instant) -> bool {
        block.points.iter().any(|index| {
            let state = &self.states[*index as usize];
            state.refused.as_ref().is_none_or(|(at, _)| now.saturating_duration_since(*at) >= REFUSED_PAUSE)
        })
    }

    /// Notes the beginning of a cycle.
    pub fn begin_cycle(&mut self, group: usize, due: Instant, now: Instant) {
        let Some(interval) = self.groups.get(group).map(|g| g.interval) else { return };
        let pace = &mut self.paces[group];
        if let Some(begun) = pace.begun.replace(now) {
            let took = now.saturating_duration_since(begun).as_secs_f64() * 1000.0;
            pace.mean_ms = if pace.mean_ms == 0.0 { took } else { pace.mean_ms * 0.8 + took * 0.2 };
        }
        let next = again(due, interval, now);
        if !interval.is_zero() {
            let beats = next.saturating_duration_since(due).as_nanos() / interval.as_nanos().max(1);
            pace.missed += u64::try_from(beats.saturating_sub(1)).unwrap_or(0);
        }
    }

    /// Takes the words or bits of a block. `get` gives the registers of an offset and count, or one bit.
    pub fn take(&mut self, block: &Block, reply: &[u8], ts: Millis, now: Instant) -> Taken {
        let registers = if block.table.is_bits() { Vec::new() } else { super::pdu::registers(reply) };
        let mut taken = Taken { samples: Vec::with_capacity(block.points.len()), ..Taken::default() };
        // Scale factors first: values of the same block need them.
        if !self.exponents.is_empty() {
            for index in &block.points {
                let point = &self.points[*index as usize];
                let Some(known) = self.exponents.get_mut(&point.name) else { continue };
                let from = usize::from(point.address - block.address);
                if let Some(Ok(Value::Int(exponent))) = registers.get(from..).map(|r| codec::decode(point, r, None)) {
                    *known = Some(exponent as i32);
                }
            }
        }
        for index in &block.points {
            let point = self.points[*index as usize].clone();
            let from = usize::from(point.address - block.address);
            let decoded = if block.table.is_bits() {
                super::pdu::bit(reply, from).map(|bit| codec::decode_bit(&point, bit)).ok_or(codec::NoValue::Short)
            } else {
                let exponent = self.exponent(&point);
                registers.get(from..).map_or(Err(codec::NoValue::Short), |r| codec::decode(&point, r, exponent))
            };
            taken.values += u64::from(decoded.is_ok());
            if let Ok(value) = &decoded {
                self.heed(&point, value, now);
            }
            let quality = decoded.as_ref().err().map(|why| Arc::from(why.to_string()));
            self.note(*index, decoded.ok(), quality, ts, now, &mut taken);
        }
        taken
    }

    /// The points of a block cannot be had: each is bad with the reason, said once. What the device does not have at
    /// all is not asked for again for a while; a device that is busy or failing is.
    pub fn refuse(&mut self, block: &Block, code: Exception, ts: Millis, now: Instant) -> Taken {
        let reason: Arc<str> = code.to_string().into();
        let mut taken = Taken::default();
        for index in &block.points {
            if code.is_lasting() {
                self.states[*index as usize].refused = Some((now, reason.clone()));
            }
            self.note(*index, None, Some(reason.clone()), ts, now, &mut taken);
        }
        taken
    }

    fn note(
        &mut self,
        index: u32,
        value: Option<Value>,
        bad: Option<Arc<str>>,
        ts: Millis,
        now: Instant,
        taken: &mut Taken,
    ) {
        let point = &self.points[index as usize];
        let state = &mut self.states[index as usize];
        if let Some(value) = &value {
            state.refused = None;
            state.last = Some((value.clone(), ts));
            if point.class != Class::Telemetry && state.reported.as_ref() != Some(value) {
                state.reported = Some(value.clone());
                taken.reported.push((point.name.clone(), value.clone()));
            }
        }
        if point.class == Class::State {
            return;
        }
        if state.filter.passes(&point.report, value.as_ref(), now) {
            let quality = bad.map_or(Quality::Good, |reason| Quality::Bad { reason });
            taken.samples.push(Sample { name: point.name.clone(), value, quality });
        }
    }

    /// The unit went away: the last values with their own times, each stale, grouped by the time they were measured.
    pub fn stale(&mut self, reason: &Arc<str>, started: Millis) -> BTreeMap<Millis, Vec<Sample>> {
        let mut by_time: BTreeMap<Millis, Vec<Sample>> = BTreeMap::new();
        for (point, state) in self.points.iter().zip(&mut self.states) {
            if point.class == Class::State || !point.readable() {
                continue;
            }
            state.filter.reset();
            let (value, since) = match &state.last {
                Some((value, since)) => (Some(value.clone()), *since),
                None => (None, started),
            };
            let quality = Quality::Stale { since, reason: reason.clone() };
            by_time.entry(since).or_default().push(Sample { name: point.name.clone(), value, quality });
        }
        by_time
    }

    /// It is back: everything is reported anew.
    pub fn fresh(&mut self, now: Instant) {
        (self.set_up, self.factors_asked) = (false, false);
        self.firmware.doubt(self.device.firmware.as_ref(), now);
        for state in &mut self.states {
            state.filter.reset();
            (state.reported, state.refused) = (None, None);
        }
    }

    /// The next read of every point is reported, whatever the rules say.
    pub fn forget_reports(&mut self) {
        self.states.iter_mut().for_each(|state| state.filter.reset());
    }

    /// The last good value of a point.
    pub fn last(&self, name: &str) -> Option<&(Value, Millis)> {
        let index = self.points.iter().position(|p| &*p.name == name)?;
        self.states[index].last.as_ref()
    }

    pub fn status(&self) -> UnitStatus {
        let cycle = |(group, pace): (&Group, &Pace)| Cycle {
            planned_ms: group.interval.as_millis() as u64,
            actual_ms: pace.mean_ms.round() as u64,
            requests: group.blocks.len(),
            points: group.blocks.iter().map(|block| block.points.len()).sum(),
            missed: pace.missed,
        };
        let refused = self.points.iter().zip(&self.states).filter_map(|(point, state)| {
            state.refused.as_ref().map(|(_, reason)| (point.name.clone(), reason.clone()))
        });
        UnitStatus {
            device: Some(self.device.id.clone()),
            unit: self.device.unit,
            state: self.health.word(),
            reason: self.reason.as_ref().map(|reason| reason.to_string()),
            last_heard: self.last_heard,
            counters: self.counters.clone(),
            cycles: self.groups.iter().zip(&self.paces).map(cycle).collect(),
            learned: self.learned.clone(),
            refused: refused.collect(),
            firmware: self.firmware.version.as_ref().map(ToString::to_string),
            left_out: self.lacking(),
        }
    }
}
