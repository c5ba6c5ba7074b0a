//! Registers to values and back: every type, order and transform, as pure functions. `encode` undoes `decode`.

use std::sync::Arc;

use crate::{
    config::modbus::{
        kind::{Kind, Order, Words},
        point::Point,
    },
    model::reading::Value,
};

use super::number;

/// Why registers are no value, in words for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoValue {
    #[error("marked invalid by the device")]
    Invalid,
    #[error("not a number")]
    NotANumber,
    #[error("not decimal digits")]
    NotDecimal,
    #[error("not a date")]
    NotADate,
    #[error("too few registers")]
    Short,
    #[error("scale factor not known yet")]
    NoScale,
}

/// Why a value cannot be written into registers.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum NotWritable {
    #[error("{value} is not {expected}")]
    Type { value: String, expected: &'static str },
    #[error("{} is {side} {limit}, the {end} allowed", short(*value))]
    Limit { value: f64, side: &'static str, end: &'static str, limit: f64 },
    #[error("{} does not fit into {kind}", short(*value))]
    Width { value: f64, kind: Kind },
    #[error("{found:?} is none of: {titles}")]
    Title { found: String, titles: String },
    #[error("the scale factor has not been read yet")]
    NoScale,
}

/// A number as people write it: 70000, but 1e300.
fn short(number: f64) -> String {
    if number.abs() < 1e16 { number.to_string() } else { format!("{number:e}") }
}

/// Registers as the type sees them: highest byte first, highest word first.
///
/// An order is its own inverse, so the same function serves both directions.
pub fn arrange(words: &mut [u16], order: Order) {
    match order.words {
        Words::Big => {}
        Words::Little => words.reverse(),
        Words::SwappedInHalves => words.chunks_exact_mut(2).for_each(|pair| pair.swap(0, 1)),
        // Two halves of two words; a value of another length has no 32-bit halves.
        Words::HalvesSwapped => {
            if words.len() == 4 {
                words.rotate_left(2);
            }
        }
    }
    if order.swap_bytes {
        words.iter_mut().for_each(|word| *word = word.swap_bytes());
    }
}

/// The unsigned number in up to four words, highest first.
fn join(words: &[u16]) -> u64 {
    words.iter().fold(0, |number, word| number << 16 | u64::from(*word))
}

fn split(number: u64, words: &mut [u16]) {
    let mut rest = number;
    for word in words.iter_mut().rev() {
        *word = rest as u16;
        rest >>= 16;
    }
}

/// All ones in the lowest `bits`.
pub(super) fn ones(bits: u8) -> u64 {
    if bits >= 64 { u64::MAX } else { (1 << bits) - 1 }
}

/// Decodes the registers of one point. `exponent` is the power of ten its scale factor point holds.
pub fn decode(point: &Point, registers: &[u16], exponent: Option<i32>) -> Result<Value, NoValue> {
    let length = usize::from(point.kind.len());
    let registers = registers.get(..length).ok_or(NoValue::Short)?;
    match point.kind {
        Kind::Text(_) => return Ok(Value::Text(text(registers, point.order).into())),
        Kind::Raw(_) => return Ok(Value::Text(hex_of(registers, point.order).into())),
        Kind::Date(date) => {
            let mut words = [0; 6];
            let words = &mut words[..length];
            words.copy_from_slice(registers);
            if length <= 2 {
                arrange(words, point.order);
            }
            let text = super::date::decode(date, words).ok_or(NoValue::NotADate)?;
            return Ok(Value::Text(text.into()));
        }
        _ => {}
    }
    let mut words = [0; 4];
    let words = words.get_mut(..length).ok_or(NoValue::Short)?;
    words.copy_from_slice(registers);
    arrange(words, point.order);
    let raw = join(words);
    let scale_wanted = point.scale_from.is_some();
    if scale_wanted && exponent.is_none() {
        return Err(NoValue::NoScale);
    }
    number::decode(point, raw, exponent.unwrap_or(0))
}

/// Decodes a bit of a bit table.
pub fn decode_bit(point: &Point, bit: bool) -> Value {
    match titled(point, i64::from(bit)) {
        Some(title) => Value::Text(title),
        None => Value::Bool(bit),
    }
}

/// The title of a raw value, where the point has one.
pub fn titled(point: &Point, raw: i64) -> Option<Arc<str>> {
    point.titles.iter().find(|(number, _)| *number == raw).map(|(_, title)| title.clone())
}

/// What to write: one bit, or registers of which only the bits in `mask` are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Encoded {
    Bit(bool),
    Registers {
        words: Vec<u16>,
        /// Per register, where the point is a part of it; the other bits must be kept.
        mask: Option<Vec<u16>>,
    },
}

/// Encodes a value for one point, after its limits and titles were checked.
pub fn encode(point: &Point, value: &Value, exponent: Option<i32>) -> Result<Encoded, NotWritable> {
    let value = untitled(point, value)?;
    if point.table.is_bits() {
        return Ok(Encoded::Bit(truth(&value)?));
    }
    let length = usize::from(point.kind.len());
    match point.kind {
        Kind::Text(_) => return text_words(&value, length, point.order),
        Kind::Raw(_) => return raw_words(&value, length, point.order),
        Kind::Date(date) => {
            let Value::Text(text) = &value else {
                return Err(mistyped(&value, "a date such as \"2025-01-31T23:59:59\""));
            };
            let expected = "a date such as \"2025-01-31T23:59:59\"";
            let mut words = super::date::encode(date, text).ok_or_else(|| mistyped(&value, expected))?;
            if length <= 2 {
                arrange(&mut words, point.order);
            }
            return Ok(Encoded::Registers { words, mask: None });
        }
        _ => {}
    }
    let number = match (&value, point.kind) {
        (_, Kind::Bool) if point.bits.is_none_or(|(_, width)| width == 1) => Value::Uint(u64::from(truth(&value)?)),
        (Value::Bool(bit), _) => Value::Uint(u64::from(*bit)),
        (Value::Text(_), _) => return Err(mistyped(&value, "a number")),
        _ => value,
    };
    within_limits(point, &number)?;
    if point.scale_from.is_some() && exponent.is_none() {
        return Err(NotWritable::NoScale);
    }
    let raw = number::encode(point, &number, exponent.unwrap_or(0))?;
    let mut words = vec![0; length];
    let (raw, meant) = match point.bits {
        Some((shift, width)) => ((raw & ones(width)) << shift, Some(ones(width) << shift)),
        None => (raw, None),
    };
    split(raw, &mut words);
    arrange(&mut words, point.order);
    let mask = meant.map(|meant| {
        let mut mask = vec![0; length];
        split(meant, &mut mask);
        arrange(&mut mask, point.order);
        mask
    });
    Ok(Encoded::Registers { words, mask })
}

fn mistyped(value: &Value, expected: &'static str) -> NotWritable {
    NotWritable::Type { value: value.to_json().to_string(), expected }
}

/// A title becomes the raw value it stands for; a point with titles takes raw numbers too, but only known ones.
fn untitled(point: &Point, value: &Value) -> Result<Value, NotWritable> {
    if point.titles.is_empty() {
        return Ok(value.clone());
    }
    let found = match value {
        Value::Text(text) => point.titles.iter().find(|(_, title)| title == text),
        other => point.titles.iter().find(|(raw, _)| other.as_f64() == Some(*raw as f64)),
    };
    match found {
        Some((raw, _)) => Ok(Value::Int(*raw)),
        None => {
            let titles: Vec<String> = point.titles.iter().map(|(raw, title)| format!("{title} ({raw})")).collect();
            let found = match value {
                Value::Text(text) => text.to_string(),
                other => other.to_json().to_string(),
            };
            Err(NotWritable::Title { found, titles: titles.join(", ") })
        }
    }
}

fn truth(value: &Value) -> Result<bool, NotWritable> {
    match value {
        Value::Bool(bit) => Ok(*bit),
        Value::Int(0) | Value::Uint(0) => Ok(false),
        Value::Int(1) | Value::Uint(1) => Ok(true),
        _ => Err(mistyped(value, "true or false")),
    }
}

fn within_limits(point: &Point, value: &Value) -> Result<(), NotWritable> {
    let Some(number) = value.as_f64() else { return Ok(()) };
    if !number.is_finite() {
        return Err(mistyped(value, "a finite number"));
    }
    match (point.write.min, point.write.max) {
        (Some(limit), _) if number < limit => {
            Err(NotWritable::Limit { value: number, side: "below", end: "least", limit })
        }
        (_, Some(limit)) if number > limit => {
            Err(NotWritable::Limit { value: number, side: "above", end: "most", limit })
        }
        _ => Ok(()),
    }
}

fn bytes_of(registers: &[u16], order: Order) -> Vec<u8> {
    let swap = |word: &u16| if order.swap_bytes { word.swap_bytes() } else { *word };
    registers.iter().flat_map(|word| swap(word).to_be_bytes()).collect()
}

fn words_of(bytes: &[u8], order: Order) -> Vec<u16> {
    let word = |pair: &[u8]| u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]);
    bytes.chunks(2).map(|pair| if order.swap_bytes { word(pair).swap_bytes() } else { word(pair) }).collect()
}

fn text(registers: &[u16], order: Order) -> String {
    let mut bytes = bytes_of(registers, order);
    if let Some(end) = bytes.iter().position(|b| *b == 0) {
        bytes.truncate(end);
    }
    // Makers use Latin-1 where it is not ASCII; anything that is valid UTF-8 is taken as such.
    let text = String::from_utf8(bytes).unwrap_or_else(|e| e.as_bytes().iter().map(|b| char::from(*b)).collect());
    let clean: String = text.chars().filter(|c| !c.is_control()).collect();
    clean.trim_end().to_owned()
}

fn hex_of(registers: &[u16], order: Order) -> String {
    hex::encode(bytes_of(registers, order))
}

fn text_words(value: &Value, length: usize, order: Order) -> Result<Encoded, NotWritable> {
    let Value::Text(text) = value else { return Err(mistyped(value, "a text")) };
    let mut bytes = text.as_bytes().to_vec();
    if bytes.len() > length * 2 || bytes.contains(&0) {
        return Err(mistyped(value, "a text that fits into the registers"));
    }
    bytes.resize(length * 2, 0);
    Ok(Encoded::Registers { words: words_of(&bytes, order), mask: None })
}

fn raw_words(value: &Value, length: usize, order: Order) -> Result<Encoded, NotWritable> {
    let Value::Text(text) = value else { return Err(mistyped(value, "a text of hexadecimal digits")) };
    match hex::decode(text.as_bytes()) {
        Ok(bytes) if bytes.len() == length * 2 => Ok(Encoded::Registers { words: words_of(&bytes, order), mask: None }),
        _ => Err(mistyped(value, "hexadecimal digits for exactly the registers")),
    }
}

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;
