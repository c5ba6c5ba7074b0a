//! What a read may look like: how long, across which holes, and where never.

use std::{
    fmt,
    ops::{Range, RangeInclusive},
};

use super::{kind::Table, place::parse_range, point::Point, profile::Profile};
use crate::config::read::Section;

/// What a read may look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Registers in one read, at most 125.
    pub max_registers: u16,
    /// Bits in one read, at most 2000.
    pub max_bits: u16,
    /// Unused registers read along to make one request of two.
    pub merge_gap: u16,
    /// Unused bits, likewise.
    pub merge_gap_bits: u16,
    /// Never asked for.
    pub forbidden: Vec<Forbidden>,
}

/// Addresses that a device must never be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forbidden {
    pub table: Table,
    pub addresses: RangeInclusive<u16>,
}

impl Forbidden {
    pub fn touches(&self, point: &Point) -> bool {
        let start = u32::from(point.address);
        self.reaches_into(point.table, start..start + u32::from(point.len()))
    }

    /// Whether any of `addresses` is one of these; none are in an empty range.
    pub fn reaches_into(&self, table: Table, addresses: Range<u32>) -> bool {
        let (first, last) = (u32::from(*self.addresses.start()), u32::from(*self.addresses.end()));
        self.table == table && !addresses.is_empty() && first < addresses.end && addresses.start <= last
    }
}

/// As it is written.
impl fmt::Display for Forbidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = Table::WORDS.iter().find(|(_, table)| *table == self.table).map_or("", |(word, _)| word);
        let (first, last) = (self.addresses.start(), self.addresses.end());
        write!(f, "{word}:{first}")?;
        if first == last { Ok(()) } else { write!(f, "-{last}") }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_registers: 125, max_bits: 2000, merge_gap: 16, merge_gap_bits: 128, forbidden: Vec::new() }
    }
}

impl Limits {
    pub fn forbids(&self, point: &Point) -> bool {
        self.forbidden.iter().any(|forbidden| forbidden.touches(point))
    }

    pub(super) fn read(section: &Section<'_>) -> PartialLimits {
        let number = |key, range| section.integer(key, range).and_then(|n| u16::try_from(n).ok());
        let mut forbidden = Vec::new();
        for text in section.texts("forbidden") {
            match parse_range(&text) {
                Ok((table, addresses)) => forbidden.push(Forbidden { table, addresses }),
                Err(why) => {
                    section.problem("forbidden", format!("{text:?}: {why}"), "write forbidden = [\"holding:10-20\"]");
                }
            }
        }
        PartialLimits {
            max_registers: number("max_registers", 1..=125),
            max_bits: number("max_bits", 1..=2000),
            merge_gap: number("merge_gap", 0..=125),
            merge_gap_bits: number("merge_gap_bits", 0..=2000),
            forbidden,
        }
    }
}

/// Limits as far as they were written.
#[derive(Debug, Clone, Default)]
pub(super) struct PartialLimits {
    max_registers: Option<u16>,
    max_bits: Option<u16>,
    merge_gap: Option<u16>,
    merge_gap_bits: Option<u16>,
    forbidden: Vec<Forbidden>,
}

impl PartialLimits {
    pub(super) fn over(self, bus: &PartialLimits, profile: Option<&Profile>) -> Limits {
        let usual = Limits::default();
        let mut forbidden = self.forbidden;
        forbidden.extend(bus.forbidden.iter().cloned());
        let profile_registers = profile.and_then(|p| p.max_registers);
        let profile_gap = profile.and_then(|p| p.merge_gap);
        Limits {
            max_registers: self
                .max_registers
                .or(profile_registers)
                .or(bus.max_registers)
                .unwrap_or(usual.max_registers),
            max_bits: self.max_bits.or(bus.max_bits).unwrap_or(usual.max_bits),
            merge_gap: self.merge_gap.or(profile_gap).or(bus.merge_gap).unwrap_or(usual.merge_gap),
            merge_gap_bits: self.merge_gap_bits.or(bus.merge_gap_bits).unwrap_or(usual.merge_gap_bits),
            forbidden,
        }
    }
}
