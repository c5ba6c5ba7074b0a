//! The read planner: which requests read which points. A pure function of points, limits and what was learned.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::config::modbus::{Limits, kind::Table, point::Point};

/// Most registers and bits in one read (Modbus Application Protocol V1.1b3, 6.1 to 6.4).
pub const MOST_REGISTERS: u16 = 125;
pub const MOST_BITS: u16 = 2000;

/// One read request and the points it serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    pub table: Table,
    pub address: u16,
    pub count: u16,
    /// Places in the device's list of points, in order of address.
    pub points: Vec<u32>,
}

impl Block {
    /// First address behind it.
    fn end(&self) -> u32 {
        u32::from(self.address) + u32::from(self.count)
    }
}

/// Points that are read at the same pace, and the requests that do it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    pub interval: Duration,
    pub priority: u8,
    pub blocks: Vec<Block>,
}

/// What a device taught by answering "illegal address" or "illegal value". Kept across restarts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Learned {
    /// Requests must not reach across these addresses: (read function, first address behind the cut).
    pub cuts: BTreeSet<(u8, u16)>,
    /// The true maximum of registers in one read.
    pub max_registers: Option<u16>,
    pub max_bits: Option<u16>,
}

/// Plans all groups. Every readable point that does not lie where reading is forbidden is in exactly one block of the group
/// with its interval and priority.
pub fn plan<'p>(points: impl IntoIterator<Item = &'p Point>, limits: &Limits, learned: &Learned) -> Vec<Group> {
    let mut paces: BTreeMap<(Duration, u8), Vec<(u32, &Point)>> = BTreeMap::new();
    for (index, point) in points.into_iter().enumerate() {
        if point.readable() && !point.is_empty() && !limits.forbids(point) {
            paces.entry((point.interval, point.priority)).or_default().push((index as u32, point));
        }
    }
    paces
        .into_iter()
        .map(|((interval, priority), mut points)| {
            points.sort_by_key(|(_, p)| (p.table, p.address, p.len()));
            Group { interval, priority, blocks: blocks(&points, limits, learned) }
        })
        .collect()
}

/// Blocks for points sorted by table and address.
fn blocks(points: &[(u32, &Point)], limits: &Limits, learned: &Learned) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut open = false;
    for (index, point) in points {
        let end = u32::from(point.address) + u32::from(point.len());
        let joined = match blocks.last_mut() {
            Some(block) if open && !point.never_merge && fits(block, point, limits, learned) => {
                let count = end.max(block.end()) - u32::from(block.address);
                block.count = count as u16;
                block.points.push(*index);
                true
            }
            _ => false,
        };
        if !joined {
            let (table, address, count) = (point.table, point.address, point.len());
            blocks.push(Block { table, address, count, points: vec![*index] });
        }
        open = !point.never_merge;
    }
    blocks
}

fn fits(block: &Block, point: &Point, limits: &Limits, learned: &Learned) -> bool {
    let bits = point.table.is_bits();
    let (most, gap) = if bits {
        (limits.max_bits.min(learned.max_bits.unwrap_or(MOST_BITS)).min(MOST_BITS), limits.merge_gap_bits)
    } else {
        let most = limits.max_registers.min(learned.max_registers.unwrap_or(MOST_REGISTERS));
        (most.min(MOST_REGISTERS), limits.merge_gap)
    };
    let end = (u32::from(point.address) + u32::from(point.len())).max(block.end());
    let start = u32::from(point.address);
    let hole = start.saturating_sub(block.end());
    block.table == point.table
        && end - u32::from(block.address) <= u32::from(most)
        && hole <= u32::from(gap)
        && !forbidden_between(block, point, limits)
        && !cut_between(block, point, learned)
}

/// A forbidden range touches the registers that lie between.
fn forbidden_between(block: &Block, point: &Point, limits: &Limits) -> bool {
    let between = block.end()..u32::from(point.address);
    limits.forbidden.iter().any(|forbidden| forbidden.reaches_into(point.table, between.clone()))
}

fn cut_between(block: &Block, point: &Point, learned: &Learned) -> bool {
    let function = point.table.read_function();
    let (first, last) = (block.address.saturating_add(1), point.address);
    first <= last && learned.cuts.range((function, first)..=(function, last)).next().is_some()
}

/// After exception 2 or 3 to a block of several points: where to cut it. First at its holes, then in the middle.
pub fn cuts<'p>(block: &Block, point: impl Fn(u32) -> &'p Point) -> BTreeSet<(u8, u16)> {
    let function = block.table.read_function();
    let mut holes = BTreeSet::new();
    let mut end = u32::from(block.address);
    for index in &block.points {
        let point = point(*index);
        if u32::from(point.address) > end {
            holes.insert((function, point.address));
        }
        end = end.max(u32::from(point.address) + u32::from(point.len()));
    }
    if holes.is_empty() {
        // Points that begin at the same register cannot be cut apart; the next beginning can.
        let starts: BTreeSet<u16> =
            block.points.iter().map(|i| point(*i).address).filter(|a| *a > block.address).collect();
        let middle = starts.iter().nth(starts.len() / 2);
        holes.extend(middle.map(|address| (function, *address)));
    }
    holes
}

/// The pieces of `block` after `learned` got new cuts.
pub fn pieces<'p>(block: &Block, point: impl Fn(u32) -> &'p Point, limits: &Limits, learned: &Learned) -> Vec<Block> {
    let points: Vec<(u32, &Point)> = block.points.iter().map(|index| (*index, point(*index))).collect();
    blocks(&points, limits, learned)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::modbus::{Forbidden, kind::Kind};

    fn holding(address: u16, kind: Kind) -> Point {
        Point::plain(&format!("p{address}"), Table::Holding, address, kind)
    }

    fn holding_range(addresses: std::ops::RangeInclusive<u16>) -> Forbidden {
        Forbidden { table: Table::Holding, addresses }
    }

    fn spans(groups: &[Group]) -> Vec<(u16, u16)> {
        groups.iter().flat_map(|g| &g.blocks).map(|b| (b.address, b.count)).collect()
    }

    #[test]
    fn neighbours_are_merged_across_holes_up_to_the_limit() {
        let points = [
            holding(0, Kind::Float(32)),
            holding(2, Kind::Uint(16)),
            holding(10, Kind::Uint(16)),
            holding(40, Kind::Uint(16)),
        ];
        let limits = Limits { merge_gap: 7, ..Limits::default() };
        assert_eq!(spans(&plan(&points, &limits, &Learned::default())), [(0, 11), (40, 1)]);
        let limits = Limits { merge_gap: 6, ..Limits::default() };
        assert_eq!(spans(&plan(&points, &limits, &Learned::default())), [(0, 3), (10, 1), (40, 1)]);
    }

    #[test]
    fn forbidden_registers_and_lonely_points_are_respected() {
        let mut points = vec![
            holding(0, Kind::Uint(16)),
            holding(3, Kind::Uint(16)),
            holding(4, Kind::Uint(16)),
            holding(5, Kind::Uint(16)),
        ];
        let limits = Limits { forbidden: vec![holding_range(1..=1)], ..Limits::default() };
        assert_eq!(spans(&plan(&points, &limits, &Learned::default())), [(0, 1), (3, 3)]);
        let limits = Limits { forbidden: vec![holding_range(4..=4)], ..limits };
        assert_eq!(spans(&plan(&points, &limits, &Learned::default())), [(0, 4), (5, 1)], "a value that lies there");
        let limits = Limits { forbidden: vec![holding_range(1..=1)], ..limits };
        points[2].never_merge = true;
        assert_eq!(spans(&plan(&points, &limits, &Learned::default())), [(0, 1), (3, 1), (4, 1), (5, 1)]);
    }

    #[test]
    fn a_refused_block_is_cut_at_its_holes_and_then_in_halves() {
        let points = [
            holding(0, Kind::Uint(16)),
            holding(1, Kind::Uint(16)),
            holding(5, Kind::Uint(16)),
            holding(6, Kind::Uint(16)),
        ];
        let limits = Limits::default();
        let mut learned = Learned::default();
        let block = plan(&points, &limits, &learned).remove(0).blocks.remove(0);
        learned.cuts = cuts(&block, |i| &points[i as usize]);
        let parts = pieces(&block, |i| &points[i as usize], &limits, &learned);
        assert_eq!(parts.iter().map(|b| (b.address, b.count)).collect::<Vec<_>>(), [(0, 2), (5, 2)]);
        learned.cuts.extend(cuts(&parts[0], |i| &points[i as usize]));
        let parts = pieces(&parts[0], |i| &points[i as usize], &limits, &learned);
        assert_eq!(parts.iter().map(|b| (b.address, b.count)).collect::<Vec<_>>(), [(0, 1), (1, 1)]);
        assert_eq!(spans(&plan(&points, &limits, &learned)), [(0, 1), (1, 1), (5, 2)]);
    }

    fn any_point() -> impl Strategy<Value = Point> {
        let kinds = vec![Kind::Uint(16), Kind::Float(32), Kind::Uint(64), Kind::Text(20)];
        let tables = Table::WORDS.map(|(_, t)| t).to_vec();
        (0u16..600, prop::sample::select(kinds), prop::sample::select(tables), 1u64..3, any::<bool>(), 0u8..20)
            .prop_map(|(address, kind, table, seconds, fast, lonely)| {
                let kind = if table.is_bits() { Kind::Bool } else { kind };
                let mut point = Point::plain("p", table, address, kind);
                point.interval = Duration::from_secs(seconds);
                point.priority = if fast { 0 } else { 5 };
                point.never_merge = lonely == 0;
                point
            })
    }

    proptest! {
        #[test]
        fn every_point_is_read_once_within_all_limits(
            points in prop::collection::vec(any_point(), 0..80), max_registers in 20u16..=125, max_bits in 1u16..=2000,
            merge_gap in 0u16..40, first in 0u16..600, length in 0u16..30,
            cuts in prop::collection::btree_set((1u8..=4, 0u16..600), 0..10), learned_max in prop::option::of(20u16..=125),
        ) {
            let forbidden = vec![holding_range(first..=first + length)];
            let limits = Limits { max_registers, max_bits, merge_gap, merge_gap_bits: merge_gap, forbidden };
            let learned = Learned { cuts, max_registers: learned_max, max_bits: None };
            let groups = plan(&points, &limits, &learned);
            let mut seen = vec![0u8; points.len()];
            for group in &groups {
                for block in &group.blocks {
                    let bits = block.table.is_bits();
                    let most = if bits { max_bits } else { max_registers.min(learned_max.unwrap_or(125)) };
                    prop_assert!(block.count >= 1 && block.count <= most);
                    let mut covered = vec![false; usize::from(block.count)];
                    for index in &block.points {
                        let point = &points[*index as usize];
                        seen[*index as usize] += 1;
                        prop_assert_eq!((point.interval, point.priority, point.table), (group.interval, group.priority, block.table));
                        prop_assert!(point.address >= block.address);
                        prop_assert!(u32::from(point.address) + u32::from(point.len()) <= block.end());
                        prop_assert!(!point.never_merge || block.points.len() == 1);
                        let start = usize::from(point.address - block.address);
                        covered[start..start + usize::from(point.len())].fill(true);
                    }
                    let mut hole = 0;
                    for (offset, covered) in covered.iter().enumerate() {
                        hole = if *covered { 0 } else { hole + 1 };
                        prop_assert!(hole <= merge_gap);
                        let address = block.address + offset as u16;
                        let forbidden = block.table == Table::Holding && (first..=first + length).contains(&address);
                        prop_assert!(!forbidden);
                    }
                    for (function, cut) in &learned.cuts {
                        let across = *function == block.table.read_function() && block.points.iter().any(|i| points[*i as usize].address >= *cut)
                            && block.address < *cut;
                        prop_assert!(!across || block.points.iter().all(|i| points[*i as usize].address < *cut) );
                    }
                }
            }
            for (point, seen) in points.iter().zip(seen) {
                prop_assert_eq!(seen, u8::from(!limits.forbids(point)));
            }
        }

        #[test]
        fn cutting_always_ends_in_blocks_that_cannot_be_cut(points in prop::collection::vec(any_point(), 1..40)) {
            let limits = Limits::default();
            let mut learned = Learned::default();
            for _ in 0..40 {
                let groups = plan(&points, &limits, &learned);
                let mut more = BTreeSet::new();
                groups.iter().flat_map(|g| &g.blocks).for_each(|b| more.extend(cuts(b, |i| &points[i as usize])));
                if more.is_empty() {
                    break;
                }
                let before = learned.cuts.len();
                learned.cuts.extend(more);
                prop_assert!(learned.cuts.len() > before);
            }
            for block in plan(&points, &limits, &learned).iter().flat_map(|g| &g.blocks) {
                prop_assert!(block.points.iter().all(|i| points[*i as usize].address == block.address));
            }
        }
    }
}
