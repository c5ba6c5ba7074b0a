//! Reading: one cycle of a group, probes of units that are away, and what is said about both.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use serde_json::Map;
use tokio::time::Instant;

use super::{
    ask::Fault,
    health::Change,
    owner::Owner,
    pdu::Request,
    plan::{self, Block},
    schedule::{Due, UnitKey, again},
    unit::Taken,
};
use crate::{
    bus::FromDriver,
    clock,
    config::modbus::kind::Table,
    model::{
        reading::{Reading, Sample},
        time::Millis,
    },
};

/// Values read within this time of each other go into one reading.
const ONE_TIME: i64 = 100;
/// How soon a device whose models were not found is looked through again.
const LOCATE_AGAIN: Duration = Duration::from_secs(30);

/// A block to read, and the refused block it is a half of.
struct Item {
    block: Block,
    half_of: Option<usize>,
}

/// A block without holes that was refused: is it too long, or is something in it missing?
struct Halved {
    cuts: BTreeSet<(u8, u16)>,
    table: Table,
    open: usize,
    all_good: bool,
    longest: u16,
}

impl Owner<'_> {
    /// Reads all blocks of a group, then says when it comes again.
    pub async fn cycle(&mut self, due: Due, group: usize) {
        let key = due.unit;
        let Some(unit) = self.units.get_mut(&key) else { return };
        if unit.firmware.is_due(Instant::now()) {
            return self.read_firmware(key).await;
        }
        let (mut blocks, beat) = match unit.late.remove(&group) {
            Some(late) => late,
            None => {
                unit.begin_cycle(group, due.at, Instant::now());
                (unit.groups.get(group).map(|g| g.blocks.clone()).unwrap_or_default(), due.at)
            }
        };
        if !unit.set_up && unit.health.is_online() {
            self.set_up(key).await;
        }
        let missing = self.units.get_mut(&key).map(super::unit::Unit::missing_factors).unwrap_or_default();
        for factor in missing {
            // Where it cannot be had the values say so.
            let _ = self.fetch(key, &factor).await;
        }
        let answered = self.read_blocks(key, &mut blocks, true).await;
        let late = matches!(answered, Err(Fault::Late(_)));
        self.after(key, answered.map(|_| ())).await;
        let Some(unit) = self.units.get_mut(&key) else { return };
        if unit.generation != due.generation {
            return;
        }
        let Some(interval) = unit.groups.get(group).map(|group| group.interval) else { return };
        let now = Instant::now();
        let at = if late { now } else { again(beat, interval, now) };
        if late {
            unit.late.insert(group, (blocks, beat));
        }
        self.schedule.add(Due { at, ..due });
    }

    /// One cheap request to a unit that is away, or the search for the models of one that is new.
    pub async fn probe(&mut self, key: UnitKey) {
        let Some(unit) = self.units.get(&key) else { return };
        if !unit.located {
            let found = self.locate(key).await;
            let located = matches!(found, Ok(true));
            self.after(key, found.map(|_| ())).await;
            let away = self.units.get(&key).is_some_and(|unit| unit.health.is_doubtful());
            let later = if located || away { Instant::now() } else { Instant::now() + LOCATE_AGAIN };
            self.start(key, later);
            return;
        }
        if unit.firmware.is_due(Instant::now()) {
            return self.read_firmware(key).await;
        }
        let Some(block) = unit.cheapest() else { return };
        let answered = match self.poll(key, &Request::read(block.table, block.address, block.count)).await {
            Ok(_) | Err(Fault::Exception(_)) => Ok(()),
            Err(fault) => Err(fault),
        };
        self.after(key, answered).await;
        self.start(key, Instant::now());
    }

    /// Reads blocks, learns from refusals, tells what was read. `Err` where the unit fell silent on the way.
    ///
    /// With `polite` set, writes that arrive meanwhile go first, and a unit that may only be late holds nobody up. What
    /// was not read for lack of a reply stays in `blocks`.
    pub async fn read_blocks(
        &mut self,
        key: UnitKey,
        blocks: &mut Vec<Block>,
        polite: bool,
    ) -> Result<Vec<Sample>, Fault> {
        let mut items: VecDeque<Item> = blocks.drain(..).map(|block| Item { block, half_of: None }).collect();
        let mut halved: Vec<Halved> = Vec::new();
        let mut pending: Option<Reading> = None;
        let mut all = Vec::new();
        let mut learned = false;
        let mut result = Ok(());
        while let Some(Item { block, half_of: parent }) = items.pop_front() {
            if polite {
                self.between().await;
            }
            let Some(unit) = self.units.get(&key) else { return Ok(all) };
            if !unit.worth_asking(&block, Instant::now()) {
                continue;
            }
            self.send_ahead(key, std::iter::once(&block).chain(items.iter().map(|item| &item.block))).await;
            let request = Request::read(block.table, block.address, block.count);
            let answer = if polite { self.poll(key, &request).await } else { self.ask(key, &request).await };
            let (now, came) = (Instant::now(), answer.as_ref().map(|answer| answer.came).ok());
            // What was sent ahead was measured when it came, not when its turn was.
            let waited = came.map_or(Duration::ZERO, |came| now.saturating_duration_since(came));
            let ts = clock::now().plus(-(waited.as_millis() as i64));
            if !matches!(answer, Err(Fault::Silent(_) | Fault::Late(_))) {
                self.heard(key, now).await;
            }
            let Some(unit) = self.units.get_mut(&key) else { return Ok(all) };
            let good = answer.is_ok();
            let taken = match answer {
                Ok(reply) => unit.take(&block, &reply.pdu, ts, now),
                Err(Fault::Exception(code)) if code.is_about_address() && block.points.len() > 1 => {
                    let cuts = plan::cuts(&block, |index| unit.point_at(index));
                    let in_the_middle = cuts.len() == 1 && no_holes(&block, cuts.iter().next(), unit);
                    let mut tried = unit.learned.clone();
                    tried.cuts.extend(&cuts);
                    let pieces = plan::pieces(&block, |index| unit.point_at(index), &unit.device.limits, &tried);
                    if !cuts.is_empty() && pieces.len() > 1 {
                        let half_of = in_the_middle.then_some(halved.len());
                        if in_the_middle {
                            let (open, table) = (pieces.len(), block.table);
                            halved.push(Halved { cuts, table, open, all_good: true, longest: 0 });
                        } else {
                            unit.learned.cuts.extend(cuts);
                            learned = true;
                        }
                        pieces.into_iter().rev().for_each(|block| items.push_front(Item { block, half_of }));
                        finish(&mut halved, parent, false, 0, unit, &mut learned);
                        continue;
                    }
                    unit.refuse(&block, code, ts, now)
                }
                Err(Fault::Exception(code)) => unit.refuse(&block, code, ts, now),
                Err(fault) => {
                    blocks.push(block);
                    blocks.extend(items.drain(..).map(|item| item.block));
                    result = Err(fault);
                    break;
                }
            };
            finish(&mut halved, parent, good, block.count, unit, &mut learned);
            all.extend(taken.samples.iter().cloned());
            self.collect(key, taken, ts, &mut pending).await;
        }
        if let Some(reading) = pending {
            self.tell(FromDriver::Reading(reading)).await;
        }
        if learned {
            if let Some(unit) = self.units.get_mut(&key) {
                unit.replan();
            }
            self.keep_lesson(key);
            self.start(key, Instant::now() + Duration::from_millis(50));
        }
        result.map(|()| all)
    }

    /// Samples join the reading under way where they were measured at (about) the same time.
    async fn collect(&mut self, key: UnitKey, taken: Taken, ts: Millis, pending: &mut Option<Reading>) {
        let Some(unit) = self.units.get_mut(&key) else { return };
        unit.counters.values += taken.values;
        self.counters.values += taken.values;
        let device = unit.device.id.clone();
        if !taken.reported.is_empty() {
            let reported: Map<_, _> = taken.reported.iter().map(|(n, v)| (n.to_string(), v.to_json())).collect();
            self.tell(FromDriver::Reported { device: device.clone(), ts, reported }).await;
        }
        if taken.samples.is_empty() {
            return;
        }
        match pending {
            Some(reading) if ts.since(reading.ts) < ONE_TIME && ts.since(reading.ts) >= 0 => {
                reading.samples.extend(taken.samples);
            }
            _ => {
                let reading = Reading { device, ts, samples: taken.samples };
                if let Some(before) = pending.replace(reading) {
                    self.tell(FromDriver::Reading(before)).await;
                }
            }
        }
    }

    /// The unit answered: if that is news, it is told before the values are.
    async fn heard(&mut self, key: UnitKey, now: Instant) {
        let Some(unit) = self.units.get_mut(&key) else { return };
        if unit.health.heard(now) != Change::CameOnline {
            return;
        }
        unit.fresh(now);
        unit.reason = None;
        let device = unit.device.id.clone();
        tracing::info!(device = %device, "answers");
        self.tell(FromDriver::Reachable { device, at: clock::now(), reachable: true, reason: None }).await;
    }

    /// What a cycle or probe means for the unit's health.
    pub async fn after(&mut self, key: UnitKey, answered: Result<(), Fault>) {
        let now = Instant::now();
        match answered {
            Ok(()) | Err(Fault::Exception(_)) => self.heard(key, now).await,
            Err(Fault::Late(_)) => {}
            Err(Fault::Silent(reason)) => self.failed(key, reason, now).await,
        }
    }

    async fn failed(&mut self, key: UnitKey, reason: Arc<str>, now: Instant) {
        let Some(unit) = self.units.get_mut(&key) else { return };
        let change = unit.health.failed(now);
        unit.reason = Some(reason.clone());
        let device = unit.device.id.clone();
        let stale = if change == Change::WentOffline { unit.stale(&reason, self.started) } else { Default::default() };
        // Its groups rest; a single probe finds out when it is back.
        self.start(key, now);
        if change != Change::WentOffline {
            return;
        }
        tracing::warn!(device = %device, reason = &*reason, "does not answer");
        let told = Some(reason.to_string());
        self.tell(FromDriver::Reachable { device: device.clone(), at: clock::now(), reachable: false, reason: told })
            .await;
        for (ts, samples) in stale {
            self.tell(FromDriver::Reading(Reading { device: device.clone(), ts, samples })).await;
        }
    }
}

/// Whether the cut is in the middle of a block without holes.
fn no_holes(block: &Block, cut: Option<&(u8, u16)>, unit: &super::unit::Unit) -> bool {
    let Some((_, cut)) = cut else { return false };
    let ends = |index: &u32| {
        let point = unit.point_at(*index);
        u32::from(point.address) + u32::from(point.len())
    };
    // A hole ends exactly at the cut; without one, something before the cut reaches up to it.
    block.points.iter().map(ends).any(|end| end == u32::from(*cut))
}

/// One half of a refused block is done: when both are, either the block was too long, or the cut stays.
fn finish(
    halved: &mut [Halved],
    half_of: Option<usize>,
    good: bool,
    count: u16,
    unit: &mut super::unit::Unit,
    learned: &mut bool,
) {
    let Some(parent) = half_of.and_then(|index| halved.get_mut(index)) else { return };
    parent.open = parent.open.saturating_sub(1);
    parent.all_good &= good;
    parent.longest = parent.longest.max(count);
    if parent.open > 0 {
        return;
    }
    *learned = true;
    if !parent.all_good {
        unit.learned.cuts.extend(&parent.cuts);
    } else if parent.table.is_bits() {
        unit.learned.max_bits = Some(parent.longest);
    } else {
        unit.learned.max_registers = Some(parent.longest);
    }
}
