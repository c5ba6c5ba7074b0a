//! Protocol data units: what is asked, what may be answered, and what an exception means (Modbus Application Protocol
//! V1.1b3). Bytes only; framing is in `frame`.

use std::fmt;

use crate::config::modbus::kind::Table;

/// Longest PDU in bytes.
pub const LONGEST: usize = 253;

/// A request, ready for a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request(Vec<u8>);

impl Request {
    /// Functions 1 to 4.
    pub fn read(table: Table, address: u16, count: u16) -> Self {
        Self::with(table.read_function(), &[address, count])
    }

    /// Function 5.
    pub fn write_bit(address: u16, bit: bool) -> Self {
        Self::with(5, &[address, if bit { 0xFF00 } else { 0 }])
    }

    /// Function 6.
    pub fn write_register(address: u16, word: u16) -> Self {
        Self::with(6, &[address, word])
    }

    /// Function 15; at most 1968 bits.
    pub fn write_bits(address: u16, bits: &[bool]) -> Self {
        let mut request = Self::with(15, &[address, bits.len() as u16]);
        let packed = pack(bits);
        request.0.push(packed.len() as u8);
        request.0.extend(packed);
        request
    }

    /// Function 16; at most 123 registers.
    pub fn write_registers(address: u16, words: &[u16]) -> Self {
        let mut request = Self::with(16, &[address, words.len() as u16]);
        request.0.push((words.len() * 2) as u8);
        request.words(words);
        request
    }

    /// Function 22: `new = (old AND and) OR (or AND NOT and)`.
    pub fn mask(address: u16, and: u16, or: u16) -> Self {
        Self::with(22, &[address, and, or])
    }

    /// Function 23: writes first, then reads.
    pub fn read_write(read: u16, count: u16, write: u16, words: &[u16]) -> Self {
        let mut request = Self::with(23, &[read, count, write, words.len() as u16]);
        request.0.push((words.len() * 2) as u8);
        request.words(words);
        request
    }

    /// Function 43/14: device identification; category 1 basic, 2 regular, 3 extended, 4 one object.
    pub fn identify(category: u8, object: u8) -> Self {
        Self(vec![0x2B, 0x0E, category, object])
    }

    /// Function 20, one sub-request.
    pub fn read_file(file: u16, record: u16, count: u16) -> Self {
        let mut request = Self(vec![20, 7, 6]);
        request.words(&[file, record, count]);
        request
    }

    /// Function 21, one sub-request; at most 122 registers.
    pub fn write_file(file: u16, record: u16, words: &[u16]) -> Self {
        let mut request = Self(vec![21, (7 + words.len() * 2) as u8, 6]);
        request.words(&[file, record, words.len() as u16]);
        request.words(words);
        request
    }

    /// Function 17: report server id.
    pub fn server_id() -> Self {
        Self(vec![17])
    }

    /// Any other function, as bytes.
    pub fn custom(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }

    /// It changes nothing in the device.
    pub fn only_reads(&self) -> bool {
        matches!(self.function(), 1..=4 | 7 | 11 | 12 | 17 | 20 | 24 | 0x2B)
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub fn function(&self) -> u8 {
        self.0.first().copied().unwrap_or(0)
    }

    /// Bytes the reply's PDU will have, where the request tells it.
    pub fn reply_len(&self) -> Option<usize> {
        let count = usize::from(word(&self.0, 3).unwrap_or(0));
        match self.function() {
            1 | 2 => Some(2 + count.div_ceil(8)),
            3 | 4 | 23 => Some(2 + 2 * count),
            5 | 6 | 15 | 16 => Some(5),
            22 => Some(7),
            _ => None,
        }
    }

    /// Whether `reply` is an answer to this request: same function, right length, same address where it is echoed.
    /// An exception to the same function is an answer, too.
    pub fn is_answered_by(&self, reply: &[u8]) -> bool {
        let Some(function) = reply.first() else { return false };
        if *function == self.function() | 0x80 {
            return reply.len() == 2;
        }
        if *function != self.function() {
            return false;
        }
        match self.function() {
            1..=4 | 23 => {
                Some(reply.len()) == self.reply_len() && reply.get(1).map(|n| usize::from(*n) + 2) == Some(reply.len())
            }
            5 | 6 | 22 => reply == self.0,
            15 | 16 => Some(reply) == self.0.get(..5),
            20 => reply.get(1).map(|n| usize::from(*n) + 2) == Some(reply.len()),
            21 => reply == self.0,
            0x2B => reply.get(1..3) == self.0.get(1..3) && reply.len() >= 7,
            _ => true,
        }
    }

    fn with(function: u8, words: &[u16]) -> Self {
        let mut request = Self(Vec::with_capacity(1 + words.len() * 2));
        request.0.push(function);
        request.words(words);
        request
    }

    fn words(&mut self, words: &[u16]) {
        self.0.extend(words.iter().flat_map(|word| word.to_be_bytes()));
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

/// Bits to bytes, lowest first.
pub fn pack(bits: &[bool]) -> Vec<u8> {
    bits.chunks(8).map(|byte| byte.iter().rev().fold(0, |packed, bit| packed << 1 | u8::from(*bit))).collect()
}

/// The registers in the reply to function 3, 4 or 23.
pub fn registers(reply: &[u8]) -> Vec<u16> {
    reply.get(2..).unwrap_or_default().chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect()
}

/// The bit at `index` in the reply to function 1 or 2.
pub fn bit(reply: &[u8], index: usize) -> Option<bool> {
    reply.get(2 + index / 8).map(|byte| byte >> (index % 8) & 1 == 1)
}

/// The registers of the only group in the reply to function 20.
pub fn file_registers(reply: &[u8]) -> Option<Vec<u16>> {
    let length = usize::from(*reply.get(2)?).checked_sub(1)?;
    let data = reply.get(4..4 + length)?;
    Some(data.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect())
}

/// The printable part of the reply to function 17: makers put a name between an id and a run indicator.
pub fn server_id(reply: &[u8]) -> Option<String> {
    let &[17, count, ref rest @ ..] = reply else { return None };
    let data = rest.get(..usize::from(count))?;
    let text: String = data.iter().map(|b| char::from(*b)).filter(|c| c.is_ascii_graphic() || *c == ' ').collect();
    Some(text.trim().to_owned()).filter(|text| text.len() > 1)
}

/// Part of the reply to 43/14.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identification {
    pub conformity: u8,
    /// The object to ask for next, where more follow.
    pub next: Option<u8>,
    pub objects: Vec<(u8, String)>,
}

/// Reads the reply to 43/14; `None` where it is malformed.
pub fn identification(reply: &[u8]) -> Option<Identification> {
    let &[0x2B, 0x0E, _, conformity, more, next, count, ref rest @ ..] = reply else { return None };
    let mut rest = rest;
    let mut objects = Vec::new();
    for _ in 0..count {
        let (&object, tail) = rest.split_first()?;
        let (&length, tail) = tail.split_first()?;
        let (value, tail) = tail.split_at_checked(usize::from(length))?;
        objects.push((object, value.iter().map(|b| char::from(*b)).filter(|c| !c.is_control()).collect()));
        rest = tail;
    }
    Some(Identification { conformity, next: (more == 0xFF).then_some(next), objects })
}

/// Name of an identification object, as the specification calls it (6.21).
pub fn object_name(object: u8) -> String {
    match object {
        0 => "vendor".into(),
        1 => "product".into(),
        2 => "revision".into(),
        3 => "vendorUrl".into(),
        4 => "productName".into(),
        5 => "model".into(),
        6 => "application".into(),
        other => format!("object{other}"),
    }
}

/// An exception code (7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Exception(pub u8);

impl Exception {
    /// The device asks to be asked again.
    pub fn is_busy(self) -> bool {
        matches!(self.0, 5 | 6)
    }

    /// The address or the amount is not there: a smaller request may succeed.
    pub fn is_about_address(self) -> bool {
        matches!(self.0, 2 | 3)
    }

    /// Asking again brings the same answer: no such function, address or amount.
    pub fn is_lasting(self) -> bool {
        matches!(self.0, 1..=3)
    }

    /// A gateway answers in place of a device that did not.
    pub fn is_gateway(self) -> bool {
        matches!(self.0, 10 | 11)
    }
}

impl fmt::Display for Exception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self.0 {
            1 => "illegal function",
            2 => "illegal data address",
            3 => "illegal data value",
            4 => "server device failure",
            5 => "acknowledge, still working",
            6 => "server device busy",
            7 => "negative acknowledge",
            8 => "memory parity error",
            10 => "gateway path unavailable",
            11 => "gateway target device failed to respond",
            other => return write!(f, "exception {other}"),
        };
        write!(f, "exception {} ({text})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn requests_are_the_bytes_of_the_specification() {
        // The examples of Modbus Application Protocol V1.1b3, sections 6.1 to 6.17.
        assert_eq!(Request::read(Table::Coil, 0x13, 0x13).bytes(), [1, 0, 0x13, 0, 0x13]);
        assert_eq!(Request::read(Table::Holding, 0x6B, 3).bytes(), [3, 0, 0x6B, 0, 3]);
        assert_eq!(Request::write_bit(0xAC, true).bytes(), [5, 0, 0xAC, 0xFF, 0]);
        assert_eq!(Request::write_register(1, 3).bytes(), [6, 0, 1, 0, 3]);
        let bits = [true, false, true, true, false, false, true, true, true, false];
        assert_eq!(Request::write_bits(0x13, &bits).bytes(), [15, 0, 0x13, 0, 10, 2, 0xCD, 1]);
        assert_eq!(Request::write_registers(1, &[10, 0x102]).bytes(), [16, 0, 1, 0, 2, 4, 0, 10, 1, 2]);
        assert_eq!(Request::mask(4, 0xF2, 0x25).bytes(), [22, 0, 4, 0, 0xF2, 0, 0x25]);
        let request = Request::read_write(3, 6, 14, &[0xFF; 3]);
        assert_eq!(request.bytes(), [23, 0, 3, 0, 6, 0, 14, 0, 3, 6, 0, 0xFF, 0, 0xFF, 0, 0xFF]);
        assert_eq!(request.reply_len(), Some(14));
        assert_eq!(Request::read_file(4, 1, 2).bytes(), [20, 7, 6, 0, 4, 0, 1, 0, 2]);
        let write = Request::write_file(4, 7, &[0x06AF, 0x04BE, 0x100D]);
        assert_eq!(write.bytes(), [21, 13, 6, 0, 4, 0, 7, 0, 3, 6, 0xAF, 4, 0xBE, 0x10, 0x0D]);
        assert_eq!(server_id(&[17, 6, 1, b'P', b'M', b'5', b'0', 0xFF]).as_deref(), Some("PM50"));
        assert_eq!(file_registers(&[20, 6, 5, 6, 0x0D, 0xFE, 0, 0x20]), Some(vec![0x0DFE, 0x20]));
    }

    #[test]
    fn a_reply_of_another_length_or_address_is_no_answer() {
        let read = Request::read(Table::Holding, 0, 2);
        assert!(read.is_answered_by(&[3, 4, 0, 1, 0, 2]));
        assert!(read.is_answered_by(&[0x83, 2]));
        assert!(!read.is_answered_by(&[3, 2, 0, 1]));
        assert!(!read.is_answered_by(&[4, 4, 0, 1, 0, 2]));
        assert!(!Request::write_registers(5, &[1]).is_answered_by(&[16, 0, 6, 0, 1]));
    }

    proptest! {
        #[test]
        fn no_reply_makes_the_decoders_panic(bytes in prop::collection::vec(any::<u8>(), 0..260), index in 0usize..3000) {
            let _ = identification(&bytes);
            let _ = file_registers(&bytes);
            let _ = server_id(&bytes);
            let _ = registers(&bytes);
            let _ = bit(&bytes, index);
            for request in [Request::read(Table::Coil, 1, 9), Request::identify(1, 0), Request::custom(&bytes), Request::mask(1, 2, 3)] {
                let _ = request.is_answered_by(&bytes);
                let _ = request.reply_len();
            }
        }
    }
}
