//! Where a point lies: table and address or the maker's number, part of a register, ranges.

use std::ops::RangeInclusive;

use super::kind::Table;
use crate::config::read::Section;

/// `table` + `address`, or the maker's `reference` (30001, 40001, 400001, 1, 10001).
pub(super) fn place(section: &Section<'_>) -> Option<(Table, u16)> {
    let table = section.choice("table", &Table::WORDS);
    let address = section.integer("address", 0..=65535).and_then(|a| u16::try_from(a).ok());
    let reference = section.integer("reference", 1..=465_536);
    match (address, reference) {
        (Some(address), None) => Some((table.unwrap_or(Table::Holding), address)),
        (None, Some(reference)) => {
            let (table, first) = match reference {
                1..=9_999 => (Table::Coil, 1),
                10_001..=19_999 => (Table::Discrete, 10_001),
                30_001..=39_999 => (Table::Input, 30_001),
                40_001..=49_999 => (Table::Holding, 40_001),
                100_001..=165_536 => (Table::Discrete, 100_001),
                300_001..=365_536 => (Table::Input, 300_001),
                400_001..=465_536 => (Table::Holding, 400_001),
                _ => {
                    section.problem(
                        "reference",
                        reference.to_string(),
                        "use table = \"holding\" and address = 0 … 65535 instead",
                    );
                    return None;
                }
            };
            u16::try_from(reference - first).ok().map(|address| (table, address))
        }
        (Some(_), Some(_)) => {
            section.problem("reference", "is given beside address", "give one of them");
            None
        }
        (None, None) if section.has("address") || section.has("reference") => None,
        (None, None) => {
            let hint =
                "give the zero-based address as on the wire (address = 12), or the maker's number (reference = 40013)";
            section.problem("address", "is missing", hint);
            None
        }
    }
}

pub(super) fn parse_bits(text: &str) -> Result<(u8, u8), String> {
    let (shift, width) = text.split_once(':').unwrap_or((text, "1"));
    let shift: u8 = shift.trim().parse().map_err(|_| "has no shift".to_owned())?;
    let width: u8 = width.trim().parse().map_err(|_| "has no width".to_owned())?;
    if width == 0 || u32::from(shift) + u32::from(width) > 64 {
        return Err("reaches beyond the 64 bits of the widest type".into());
    }
    Ok((shift, width))
}

/// `"holding:10-20"`: a range a device must never be asked for.
pub(super) fn parse_range(text: &str) -> Result<(Table, RangeInclusive<u16>), String> {
    let (table, range) = text.split_once(':').ok_or("has no table")?;
    let table: Table = table.trim().parse()?;
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let number = |digits: &str| digits.trim().parse::<u16>().map_err(|_| "has no address".to_owned());
    let (first, last) = (number(first)?, number(last)?);
    if first > last {
        return Err("ends before it begins".into());
    }
    Ok((table, first..=last))
}
