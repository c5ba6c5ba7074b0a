//! The SunSpec chain of a simulated device: marker, models one after the other, end. Points of a profile that are offsets
//! in a model get their addresses here.

use std::{collections::BTreeMap, sync::Arc};

use super::memory::Unit;
use crate::config::modbus::{kind::Table, point::Point};

/// "SunS", and where it lies here (SunSpec Device Information Model Specification, 6.2).
const MARKER: [u16; 2] = [0x5375, 0x6E53];
const BASE: u16 = 40_000;
/// Registers of the common model behind its id and length.
const COMMON: u16 = 66;

/// Lays the models of a profile out in the unit's registers; gives all points with the addresses they have there.
pub(super) fn located(unit: &mut Unit, points: &[Arc<Point>]) -> Vec<Arc<Point>> {
    let mut lengths: BTreeMap<u16, u16> = BTreeMap::new();
    for point in points {
        let Some(model) = point.model else { continue };
        let end = point.address.saturating_add(point.len()).saturating_sub(2);
        let length = lengths.entry(model).or_insert(if model == 1 { COMMON } else { 2 });
        *length = (*length).max(end);
    }
    if lengths.is_empty() {
        return points.to_vec();
    }
    // Every SunSpec device begins with the common model.
    lengths.entry(1).or_insert(COMMON);
    unit.put(Table::Holding, BASE, &MARKER);
    let mut bases: BTreeMap<u16, u16> = BTreeMap::new();
    let mut at = BASE + 2;
    for (model, length) in lengths {
        bases.insert(model, at);
        unit.put(Table::Holding, at, &[model, length]);
        unit.put(Table::Holding, at + 2, &vec![0; usize::from(length)]);
        at = at.saturating_add(2).saturating_add(length);
    }
    unit.put(Table::Holding, at, &[0xFFFF, 0]);
    let placed = points.iter().map(|point| match point.model.and_then(|model| bases.get(&model)) {
        None => point.clone(),
        Some(base) => {
            let mut point = Arc::clone(point);
            let own = Arc::make_mut(&mut point);
            (own.address, own.model) = (base.saturating_add(own.address), None);
            point
        }
    });
    placed.collect()
}
