//! The numeric half of the codec: raw bits to numbers with scale, offset, limits, and back.

use crate::{
    config::modbus::{kind::Kind, point::Point},
    model::reading::Value,
};

use super::codec::{NoValue, NotWritable, ones, titled};

/// A number before scale and offset.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Plain {
    Int(i64),
    Uint(u64),
    Float(f64),
}

pub(super) fn decode(point: &Point, raw: u64, exponent: i32) -> Result<Value, NoValue> {
    let kind = point.kind;
    let width = bits_of(kind);
    let raw = raw & ones(width);
    if point.invalid.iter().any(|marker| (*marker as u64) & ones(width) == raw) {
        return Err(NoValue::Invalid);
    }
    if let Some((shift, width)) = point.bits {
        let part = (raw >> shift) & ones(width);
        if let Some(title) = titled(point, part as i64) {
            return Ok(Value::Text(title));
        }
        return match (kind, width) {
            (Kind::Bool, 1) => Ok(Value::Bool(part == 1)),
            (Kind::Int(_), _) => scaled(point, Plain::Int(sign(part, width)), exponent),
            _ => scaled(point, Plain::Uint(part), exponent),
        };
    }
    let plain = match kind {
        Kind::Bool => {
            let bit = raw != 0;
            return Ok(titled(point, i64::from(bit)).map_or(Value::Bool(bit), Value::Text));
        }
        Kind::Uint(_) => Plain::Uint(raw),
        Kind::Int(bits) => Plain::Int(sign(raw, bits)),
        Kind::SignMagnitude(bits) => {
            let magnitude = (raw & ones(bits - 1)) as i64;
            Plain::Int(if raw >> (bits - 1) & 1 == 1 { -magnitude } else { magnitude })
        }
        Kind::Bcd(bits) => Plain::Uint(from_bcd(raw, bits).ok_or(NoValue::NotDecimal)?),
        Kind::Float(16) => Plain::Float(from_half(raw as u16)),
        Kind::Float(32) => Plain::Float(shortest(f32::from_bits(raw as u32))),
        Kind::Float(_) => Plain::Float(f64::from_bits(raw)),
        Kind::Fixed(bits, fraction) => Plain::Float(sign(raw, bits) as f64 / (1_u64 << fraction) as f64),
        Kind::Text(_) | Kind::Raw(_) | Kind::Date(_) => return Err(NoValue::NotANumber),
    };
    match plain {
        Plain::Float(number) if !number.is_finite() => return Err(NoValue::NotANumber),
        Plain::Int(number) => {
            if let Some(title) = titled(point, number) {
                return Ok(Value::Text(title));
            }
        }
        Plain::Uint(number) => {
            if let Some(title) = i64::try_from(number).ok().and_then(|n| titled(point, n)) {
                return Ok(Value::Text(title));
            }
        }
        Plain::Float(_) => {}
    }
    scaled(point, plain, exponent)
}

/// Bits of a numeric kind.
fn bits_of(kind: Kind) -> u8 {
    match kind {
        Kind::Bool => 16,
        Kind::Uint(bits)
        | Kind::Int(bits)
        | Kind::SignMagnitude(bits)
        | Kind::Float(bits)
        | Kind::Bcd(bits)
        | Kind::Fixed(bits, _) => bits,
        Kind::Text(_) | Kind::Raw(_) | Kind::Date(_) => 64,
    }
}

/// Two's complement of this width.
fn sign(raw: u64, bits: u8) -> i64 {
    let unused = 64 - u32::from(bits.clamp(1, 64));
    ((raw << unused) as i64) >> unused
}

/// Scale, offset, clamp and rounding. An integer that nothing touches keeps all its digits; what outgrows the
/// largest float is no number.
fn scaled(point: &Point, plain: Plain, exponent: i32) -> Result<Value, NoValue> {
    let untouched = point.scale == 1.0 && point.offset == 0.0 && exponent == 0 && point.clamp.is_none();
    let number = match plain {
        Plain::Int(number) if untouched => return Ok(Value::Int(number)),
        Plain::Uint(number) if untouched => {
            return Ok(i64::try_from(number).map_or(Value::Uint(number), Value::Int));
        }
        Plain::Int(number) => number as f64,
        Plain::Uint(number) => number as f64,
        Plain::Float(number) => number,
    };
    let mut number = times(times(number, point.scale), power_of_ten(exponent)) + point.offset;
    if let Some((low, high)) = point.clamp {
        number = number.max(low).min(high);
    }
    if let Some(decimals) = point.decimals {
        let factor = power_of_ten(i32::from(decimals));
        let rounded = (number * factor).round() / factor;
        // Beyond the largest float there is no decimal left to round.
        number = if rounded.is_finite() { rounded } else { number };
    } else if point.offset != 0.0 {
        // 21.5 + 0.1 must not show as 21.6000000000000014.
        number = tidy(number, 12);
    }
    if number == 0.0 {
        number = 0.0; // no negative zero
    }
    // A whole-numbered scale keeps an integer an integer.
    let whole = point.scale.fract() == 0.0 && point.offset.fract() == 0.0 && exponent >= 0;
    if whole && !matches!(plain, Plain::Float(_)) && number.abs() < 9e15 {
        return Ok(Value::Int(number as i64));
    }
    if number.is_finite() { Ok(Value::Float(number)) } else { Err(NoValue::NotANumber) }
}

/// `number * scale`, dividing where scale is one over a whole number: 2304 x 0.1 is 230.4, not 230.40000000000003.
fn times(number: f64, scale: f64) -> f64 {
    if scale == 1.0 {
        return number;
    }
    let inverse = (1.0 / scale).round();
    if scale.abs() < 1.0 && (inverse * scale - 1.0).abs() < 1e-12 {
        number / inverse
    } else if scale.fract() == 0.0 {
        number * scale
    } else {
        tidy(number * scale, 15)
    }
}

fn power_of_ten(exponent: i32) -> f64 {
    10f64.powi(exponent.clamp(-30, 30))
}

/// `number` with this many significant digits.
fn tidy(number: f64, digits: i32) -> f64 {
    if number == 0.0 || !number.is_finite() {
        return number;
    }
    let places = digits - 1 - number.abs().log10().floor() as i32;
    if !(-300..=22).contains(&places) {
        return number;
    }
    let factor = 10f64.powi(places.abs());
    if places >= 0 { (number * factor).round() / factor } else { (number / factor).round() * factor }
}

/// The shortest decimal that still is this f32: 230.4, not 230.39999389648438.
fn shortest(number: f32) -> f64 {
    let wide = f64::from(number);
    for digits in [7, 8] {
        let tidied = tidy(wide, digits);
        if tidied as f32 == number {
            return tidied;
        }
    }
    wide
}

fn from_bcd(raw: u64, bits: u8) -> Option<u64> {
    let digits = u32::from(bits / 4);
    (0..digits).rev().try_fold(0, |number, place| {
        let digit = raw >> (4 * place) & 0xF;
        (digit < 10).then_some(number * 10 + digit)
    })
}

fn to_bcd(number: u64, bits: u8) -> Option<u64> {
    let (mut rest, mut raw) = (number, 0);
    for place in 0..u32::from(bits / 4) {
        raw |= (rest % 10) << (4 * place);
        rest /= 10;
    }
    (rest == 0).then_some(raw)
}

/// IEEE 754 binary16.
fn from_half(raw: u16) -> f64 {
    let sign = if raw >> 15 == 1 { -1.0 } else { 1.0 };
    let fraction = f64::from(raw & 0x3FF);
    match raw >> 10 & 0x1F {
        0 => sign * fraction * 2f64.powi(-24),
        31 if fraction == 0.0 => sign * f64::INFINITY,
        31 => f64::NAN,
        exponent => sign * (1.0 + fraction / 1024.0) * 2f64.powi(i32::from(exponent) - 15),
    }
}

/// The nearest binary16, `None` beyond its range.
fn to_half(number: f64) -> Option<u16> {
    let sign = if number.is_sign_negative() { 0x8000 } else { 0 };
    let magnitude = number.abs();
    if magnitude < 2f64.powi(-14) {
        // Subnormal; rounding up to 1024 gives the first normal number, as it should.
        return Some(sign | (magnitude / 2f64.powi(-24)).round_ties_even() as u16);
    }
    let exponent = magnitude.log2().floor() as i32;
    let fraction = ((magnitude / 2f64.powi(exponent) - 1.0) * 1024.0).round_ties_even() as u32;
    let bits = (((exponent + 15) as u32) << 10) + fraction;
    (bits < 0x7C00).then_some(sign | bits as u16)
}

/// Raw bits of a number for this point: offset and scale undone, then the type.
pub(super) fn encode(point: &Point, value: &Value, exponent: i32) -> Result<u64, NotWritable> {
    let wide = value.as_f64().unwrap_or(f64::NAN);
    let misfit = || NotWritable::Width { value: wide, kind: point.kind };
    let untouched = point.scale == 1.0 && point.offset == 0.0 && exponent == 0;
    let number = if untouched {
        wide
    } else {
        let shifted = tidy(wide - point.offset, 15);
        tidy(shifted / point.scale / power_of_ten(exponent), 15)
    };
    if !number.is_finite() {
        return Err(misfit());
    }
    // 64-bit integers do not pass through f64 where nothing scales them.
    let whole: i128 = match value {
        Value::Int(i) if untouched => i128::from(*i),
        Value::Uint(u) if untouched => i128::from(*u),
        _ => number.round() as i128,
    };
    let (width, signed) = match (point.bits, point.kind) {
        (Some((_, width)), kind) => (width, matches!(kind, Kind::Int(_))),
        (None, Kind::Int(bits)) => (bits, true),
        (None, kind) => (bits_of(kind), false),
    };
    if point.bits.is_some() || matches!(point.kind, Kind::Bool | Kind::Uint(_) | Kind::Int(_)) {
        let limit = 1_i128 << (width - u8::from(signed));
        let least = if signed { -limit } else { 0 };
        return if (least..limit).contains(&whole) { Ok(whole as u64 & ones(width)) } else { Err(misfit()) };
    }
    match point.kind {
        Kind::SignMagnitude(bits) => {
            let magnitude = u64::try_from(whole.unsigned_abs()).map_err(|_| misfit())?;
            if magnitude > ones(bits - 1) {
                return Err(misfit());
            }
            Ok(if whole < 0 { magnitude | 1 << (bits - 1) } else { magnitude })
        }
        Kind::Bcd(bits) => u64::try_from(whole).ok().and_then(|n| to_bcd(n, bits)).ok_or_else(misfit),
        Kind::Float(16) => to_half(number).map(u64::from).ok_or_else(misfit),
        Kind::Float(32) => {
            let narrow = number as f32;
            if narrow.is_finite() { Ok(u64::from(narrow.to_bits())) } else { Err(misfit()) }
        }
        Kind::Float(_) => Ok(number.to_bits()),
        Kind::Fixed(bits, fraction) => {
            let fixed = (number * (1_u64 << fraction) as f64).round() as i128;
            let limit = 1_i128 << (bits - 1);
            if (-limit..limit).contains(&fixed) { Ok(fixed as u64 & ones(bits)) } else { Err(misfit()) }
        }
        _ => Err(misfit()),
    }
}
