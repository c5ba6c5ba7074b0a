//! What a simulated unit answers to a request: every function of the driver, with the exceptions of the specification.

use super::memory::{Registers, Unit};
use crate::{config::modbus::kind::Table, drivers::modbus::pdu};

const ILLEGAL_FUNCTION: u8 = 1;
const ILLEGAL_ADDRESS: u8 = 2;
const ILLEGAL_VALUE: u8 = 3;

/// The reply PDU for a request PDU, an exception where that is due.
pub(super) fn answer(registers: &Registers, unit: u8, request: &[u8]) -> Vec<u8> {
    let function = request.first().copied().unwrap_or(0);
    let result = registers.with(unit, |unit| respond(unit, function, request));
    result.unwrap_or_else(|code| vec![function | 0x80, code])
}

fn word(request: &[u8], at: usize) -> Result<u16, u8> {
    match request.get(at..at + 2) {
        Some(pair) => Ok(u16::from_be_bytes([pair[0], pair[1]])),
        None => Err(ILLEGAL_VALUE),
    }
}

fn respond(unit: &mut Unit, function: u8, request: &[u8]) -> Result<Vec<u8>, u8> {
    match function {
        1..=4 => {
            let table = [Table::Coil, Table::Discrete, Table::Holding, Table::Input][usize::from(function - 1)];
            let most = if table.is_bits() { 2000 } else { 125 };
            let words = read(unit, table, word(request, 1)?, word(request, 3)?, most)?;
            Ok(if table.is_bits() { bits_reply(function, &words) } else { words_reply(function, &words) })
        }
        5 => {
            let value = match word(request, 3)? {
                0xFF00 => 1,
                0 => 0,
                _ => return Err(ILLEGAL_VALUE),
            };
            write(unit, Table::Coil, word(request, 1)?, &[value])?;
            Ok(request.to_vec())
        }
        6 => {
            write(unit, Table::Holding, word(request, 1)?, &[word(request, 3)?])?;
            Ok(request.to_vec())
        }
        15 => {
            let count = usize::from(word(request, 3)?);
            let packed = request.get(6..).unwrap_or_default();
            if !(1..=1968).contains(&count) || packed.len() != count.div_ceil(8) {
                return Err(ILLEGAL_VALUE);
            }
            let bits: Vec<u16> = (0..count).map(|n| u16::from(packed[n / 8] >> (n % 8) & 1)).collect();
            write(unit, Table::Coil, word(request, 1)?, &bits)?;
            Ok(request[..5].to_vec())
        }
        16 => {
            let words = words_of(request, 3, 6)?;
            write(unit, Table::Holding, word(request, 1)?, &words)?;
            Ok(request[..5].to_vec())
        }
        22 => {
            let (address, and, or) = (word(request, 1)?, word(request, 3)?, word(request, 5)?);
            let old = read(unit, Table::Holding, address, 1, 1)?[0];
            write(unit, Table::Holding, address, &[(old & and) | (or & !and)])?;
            Ok(request.to_vec())
        }
        23 => {
            let words = words_of(request, 7, 10)?;
            write(unit, Table::Holding, word(request, 5)?, &words)?;
            let words = read(unit, Table::Holding, word(request, 1)?, word(request, 3)?, 125)?;
            Ok(words_reply(function, &words))
        }
        20 => file_read(unit, request),
        21 => file_write(unit, request),
        24 => queue(unit, word(request, 1)?),
        7 => Ok(vec![7, 0]),
        // Loopback; other diagnostics are of the serial line, which is none.
        8 if word(request, 1)? == 0 => Ok(request.to_vec()),
        17 => server_id(unit),
        0x2B if request.get(1) == Some(&0x0E) => identify(unit, request),
        _ => Err(ILLEGAL_FUNCTION),
    }
}

fn read(unit: &Unit, table: Table, address: u16, count: u16, most: u16) -> Result<Vec<u16>, u8> {
    if count == 0 || count > most {
        return Err(ILLEGAL_VALUE);
    }
    unit.get(table, address, count).ok_or(ILLEGAL_ADDRESS)
}

fn write(unit: &mut Unit, table: Table, address: u16, words: &[u16]) -> Result<(), u8> {
    if words.is_empty() {
        return Err(ILLEGAL_VALUE);
    }
    if unit.get(table, address, words.len() as u16).is_none() {
        return Err(ILLEGAL_ADDRESS);
    }
    unit.put(table, address, words);
    Ok(())
}

/// Registers after their count at `count_at` and a byte count; data begins at `from`.
fn words_of(request: &[u8], count_at: usize, from: usize) -> Result<Vec<u16>, u8> {
    let count = usize::from(word(request, count_at)?);
    let data = request.get(from..).unwrap_or_default();
    if count == 0 || data.len() != count * 2 {
        return Err(ILLEGAL_VALUE);
    }
    Ok(data.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect())
}

fn words_reply(function: u8, words: &[u16]) -> Vec<u8> {
    let mut reply = vec![function, (words.len() * 2) as u8];
    reply.extend(words.iter().flat_map(|word| word.to_be_bytes()));
    reply
}

fn bits_reply(function: u8, words: &[u16]) -> Vec<u8> {
    let bits: Vec<bool> = words.iter().map(|word| *word != 0).collect();
    let packed = pdu::pack(&bits);
    let mut reply = vec![function, packed.len() as u8];
    reply.extend(packed);
    reply
}

/// Files are windows on the holding registers: record n of any file is register n. Several groups in one request.
fn file_read(unit: &Unit, request: &[u8]) -> Result<Vec<u8>, u8> {
    let groups = request.get(2..).unwrap_or_default();
    if groups.is_empty() || groups.len() % 7 != 0 || request.get(1) != Some(&(groups.len() as u8)) {
        return Err(ILLEGAL_VALUE);
    }
    let mut reply = vec![20, 0];
    for group in groups.chunks_exact(7) {
        if group[0] != 6 {
            return Err(ILLEGAL_ADDRESS);
        }
        let words = read(unit, Table::Holding, word(group, 3)?, word(group, 5)?, 121)?;
        reply.extend([(words.len() * 2 + 1) as u8, 6]);
        reply.extend(words.iter().flat_map(|word| word.to_be_bytes()));
        if reply.len() > pdu::LONGEST {
            return Err(ILLEGAL_VALUE);
        }
    }
    reply[1] = (reply.len() - 2) as u8;
    Ok(reply)
}

fn file_write(unit: &mut Unit, request: &[u8]) -> Result<Vec<u8>, u8> {
    let mut groups = request.get(2..).unwrap_or_default();
    if groups.is_empty() || request.get(1) != Some(&(groups.len() as u8)) {
        return Err(ILLEGAL_VALUE);
    }
    while !groups.is_empty() {
        let length = 7 + 2 * usize::from(word(groups, 5)?);
        let (group, rest) = groups.split_at_checked(length).ok_or(ILLEGAL_VALUE)?;
        if group[0] != 6 {
            return Err(ILLEGAL_ADDRESS);
        }
        write(unit, Table::Holding, word(group, 3)?, &words_of(group, 5, 7)?)?;
        groups = rest;
    }
    Ok(request.to_vec())
}

/// A queue is its count in the register that is named, and what follows it.
fn queue(unit: &Unit, pointer: u16) -> Result<Vec<u8>, u8> {
    let count = read(unit, Table::Holding, pointer, 1, 1)?[0];
    if count > 31 {
        return Err(ILLEGAL_VALUE);
    }
    let words = if count == 0 { Vec::new() } else { read(unit, Table::Holding, pointer.saturating_add(1), count, 31)? };
    let mut reply = vec![24];
    let bytes = [(words.len() * 2 + 2) as u16, count];
    reply.extend(bytes.iter().chain(&words).flat_map(|word| word.to_be_bytes()));
    Ok(reply)
}

/// Maker and product, and that it runs.
fn server_id(unit: &Unit) -> Result<Vec<u8>, u8> {
    let texts: Vec<&str> = unit.identity.iter().filter(|(o, _)| *o < 2).map(|(_, text)| &**text).collect();
    let text = texts.join(" ");
    let text = text.as_bytes().get(..text.len().min(200)).unwrap_or_default();
    if text.is_empty() {
        return Err(ILLEGAL_FUNCTION);
    }
    Ok([&[17, text.len() as u8 + 1], text, &[0xFF]].concat())
}

fn identify(unit: &Unit, request: &[u8]) -> Result<Vec<u8>, u8> {
    let (Some(&category), Some(&first)) = (request.get(2), request.get(3)) else { return Err(ILLEGAL_VALUE) };
    let wanted = |object: u8| match category {
        1 => object <= 2,
        2 => object <= 0x7F,
        3 => true,
        _ => object == first,
    };
    if !(1..=4).contains(&category) || unit.identity.is_empty() {
        return Err(if unit.identity.is_empty() { ILLEGAL_FUNCTION } else { ILLEGAL_VALUE });
    }
    let objects: Vec<&(u8, String)> = unit.identity.iter().filter(|(o, _)| wanted(*o) && *o >= first).collect();
    if objects.is_empty() {
        return Err(ILLEGAL_ADDRESS);
    }
    let mut reply = vec![0x2B, 0x0E, category, 0x83, 0, 0, 0];
    for (object, text) in objects {
        let text = &text.as_bytes()[..text.len().min(120)];
        if reply.len() + 2 + text.len() > pdu::LONGEST {
            (reply[4], reply[5]) = (0xFF, *object);
            break;
        }
        reply[6] += 1;
        reply.extend([*object, text.len() as u8]);
        reply.extend(text);
    }
    Ok(reply)
}
