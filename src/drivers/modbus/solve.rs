//! The byte-order solver: the number on the device's display against every type, order, scale and neighbour address.

use std::collections::BTreeSet;

use serde::Serialize;

use super::codec;
use crate::config::modbus::{
    kind::{Kind, Order, Table},
    point::Point,
};

/// One way to read the registers that gives the number.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Candidate {
    pub address: u16,
    #[serde(rename = "type")]
    pub kind: String,
    pub order: &'static str,
    pub scale: f64,
    pub value: f64,
    /// Difference to the display in percent.
    pub off_by: f64,
    /// 0 to 100: how likely, from how exact it is, how usual the reading and how near the address.
    pub score: f64,
    pub registers: Vec<u16>,
}

/// Scales that devices use, the usual first.
const SCALES: [f64; 9] = [1.0, 0.1, 0.01, 0.001, 10.0, 100.0, 1000.0, 0.0001, 0.5];

/// So many candidates are told, whatever they are.
const MOST: usize = 20;

/// The best candidates, best first, and the best exact one of each type. `registers` are (address, word) in order of address, holes allowed.
pub fn solve(registers: &[(u16, u16)], address: u16, display: f64) -> Vec<Candidate> {
    let mut found = Vec::new();
    for start in 0..registers.len() {
        for kind in Kind::numbers() {
            let length = usize::from(kind.len());
            let Some(part) = registers.get(start..start + length) else { continue };
            let whole = part.windows(2).all(|pair| pair[1].0 == pair[0].0 + 1);
            if !whole {
                continue;
            }
            let words: Vec<u16> = part.iter().map(|(_, word)| *word).collect();
            let mut seen = BTreeSet::new();
            for (rank, (_, order)) in Order::ALL.iter().enumerate() {
                // Orders that arrange these words alike are one order.
                let mut arranged = words.clone();
                codec::arrange(&mut arranged, *order);
                if seen.insert(arranged) {
                    found.extend(scales(part[0].0, kind, *order, rank, &words, address, display));
                }
            }
        }
    }
    found.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.address.cmp(&b.address)));
    // A small number in a large type reads alike in many ways: whoever knows the type from a manual finds it all the same.
    let mut exact = BTreeSet::new();
    let mut place = 0..;
    found.retain(|one| {
        let first = one.off_by == 0.0 && exact.insert(one.kind.clone());
        place.next().is_some_and(|place| place < MOST) || first
    });
    found
}

fn scales(
    place: u16,
    kind: Kind,
    order: Order,
    order_rank: usize,
    words: &[u16],
    address: u16,
    display: f64,
) -> Option<Candidate> {
    let mut point = Point::plain("x", Table::Holding, place, kind);
    point.order = order;
    let (score, scale, value) = SCALES
        .iter()
        .enumerate()
        .filter_map(|(rank, scale)| {
            point.scale = *scale;
            let value = codec::decode(&point, words, None).ok()?.as_f64()?;
            let off = off_by(value, display)?;
            // Many digits that agree prove more than one or two that do.
            let digits = display.abs().max(value.abs()).max(1.0).log10() + decimals(display);
            let mut score = 100.0 - off * 40.0 - rank as f64 * 2.0 - order_rank as f64 * 3.0;
            score -= f64::from(place.abs_diff(address)) * 4.0 + unusual(kind);
            score -= (3.0 - digits).max(0.0) * 5.0;
            if matches!(kind, Kind::Float(_)) && *scale != 1.0 {
                score -= 12.0;
            }
            Some((score, *scale, value))
        })
        .max_by(|a, b| a.0.total_cmp(&b.0))?;
    let off_by = off_by(value, display)?;
    Some(Candidate {
        address: place,
        kind: kind.to_string(),
        order: order.name(),
        scale,
        value,
        off_by: (off_by * 1000.0).round() / 1000.0,
        score: (score.max(0.0) * 10.0).round() / 10.0,
        registers: words.to_vec(),
    })
}

/// Percent apart; `None` beyond what a reading that moved meanwhile explains.
fn off_by(value: f64, display: f64) -> Option<f64> {
    let apart = (value - display).abs();
    // A display rounds to its last digit.
    let last_digit = 0.5 * 10f64.powf(-decimals(display)) * 1.01;
    if apart <= last_digit {
        return Some(0.0);
    }
    let percent = apart / display.abs().max(1e-9) * 100.0;
    (percent <= 2.0).then_some(percent)
}

/// Decimal places the display shows.
fn decimals(display: f64) -> f64 {
    let text = format!("{display}");
    text.split_once('.').map_or(0.0, |(_, digits)| digits.len() as f64)
}

/// How seldom devices use a type.
fn unusual(kind: Kind) -> f64 {
    match kind {
        Kind::Uint(16) | Kind::Int(16) | Kind::Float(32) => 0.0,
        Kind::Uint(32) | Kind::Int(32) => 1.0,
        Kind::Uint(64) | Kind::Int(64) | Kind::Float(64) => 4.0,
        Kind::Uint(48) | Kind::Int(48) | Kind::Bcd(_) => 8.0,
        _ => 14.0,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        drivers::modbus::codec::{Encoded, encode},
        model::reading::Value,
    };

    #[test]
    fn a_voltage_on_the_display_is_found_in_each_order() {
        for (words, order) in [([0x4366u16, 0x6666u16], "ABCD"), ([0x6666, 0x4366], "CDAB"), ([0x6643, 0x6666], "BADC")]
        {
            let registers = [(9, 17), (10, words[0]), (11, words[1]), (12, 3)];
            let best = &solve(&registers, 10, 230.4)[0];
            assert_eq!((best.address, best.kind.as_str(), best.order), (10, "f32", order), "{best:?}");
        }
        let best = &solve(&[(5, 2304)], 5, 230.4)[0];
        assert_eq!((best.kind.as_str(), best.scale), ("u16", 0.1));
    }

    #[test]
    fn a_maker_who_counts_from_one_is_found_next_door() {
        let best = &solve(&[(9, 0x4366), (10, 0x6666), (11, 0)], 10, 230.4)[0];
        assert_eq!((best.address, best.kind.as_str()), (9, "f32"));
    }

    #[test]
    fn a_small_number_in_a_large_type_is_found_by_who_knows_the_type() {
        // Byte-swapped u64 of 26882: shorter types and other orders explain it in more than twenty ways.
        let registers: Vec<(u16, u16)> = (100..).zip([0, 0, 0, 0x0269]).collect();
        let found = solve(&registers, 100, 26882.0);
        let sought = found.iter().find(|one| one.kind == "u64").expect("among them");
        assert_eq!((sought.address, sought.order, sought.off_by), (100, "BADC", 0.0), "{found:?}");
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_among_the_candidates(
            number in 100.0..60_000.0f64, kind in prop::sample::select(vec![Kind::Uint(16), Kind::Int(32), Kind::Float(32), Kind::Uint(64), Kind::Float(64)]),
            order in prop::sample::select(Order::ALL.map(|(_, order)| order).to_vec()),
        ) {
            let number = number.round();
            let mut point = Point::plain("x", Table::Holding, 0, kind);
            point.order = order;
            let Ok(Encoded::Registers { words, .. }) = encode(&point, &Value::Float(number), None) else { return Ok(()) };
            let registers: Vec<(u16, u16)> = (100..).zip(words.iter().copied()).collect();
            let found = solve(&registers, 100, number);
            prop_assert!(found.iter().any(|c| c.kind == kind.to_string() && c.off_by == 0.0), "{found:?}");
        }
    }
}
