//! Frames of TCP, RTU and ASCII, to and from bytes.
//!
//! Why not `tokio-modbus`' codecs (0.17): its client gives no access to raw frames (the bus scope shows them), turns
//! damage into dropped bytes (we count CRC errors apart), takes each chunk of a custom function (20, 21) as a whole
//! frame, and after one late TCP reply stays one reply behind until it is reconnected. It serves as a peer in the tests.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::config::modbus::Framing;

/// Which side's frames are read: lengths differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Request,
    Reply,
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// 0 on serial lines.
    pub transaction: u16,
    pub unit: u8,
    pub pdu: Bytes,
}

/// What the bytes at hand amount to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// More bytes are needed.
    Wait,
    Frame(Frame),
    /// CRC or LRC is wrong; the bytes are still there, for the reader to drop after a silence.
    Damaged,
    /// This is no such protocol; a stream cannot be trusted any more.
    Foreign,
}

/// Appends a frame.
pub fn encode(framing: Framing, transaction: u16, unit: u8, pdu: &[u8], out: &mut BytesMut) {
    match framing {
        Framing::Tcp => {
            out.put_u16(transaction);
            out.put_u16(0);
            out.put_u16(pdu.len() as u16 + 1);
            out.put_u8(unit);
            out.put_slice(pdu);
        }
        Framing::Rtu => {
            let start = out.len();
            out.put_u8(unit);
            out.put_slice(pdu);
            let sum = crc(&out[start..]);
            out.put_u16_le(sum);
        }
        Framing::Ascii => {
            let sum = pdu.iter().fold(unit, |sum, byte| sum.wrapping_add(*byte)).wrapping_neg();
            out.put_u8(b':');
            for byte in [unit].iter().chain(pdu).chain(&[sum]) {
                out.put_slice(&hex_digits(*byte));
            }
            out.put_slice(b"\r\n");
        }
    }
}

/// Takes the next frame from `buffer`.
pub fn decode(framing: Framing, side: Side, buffer: &mut BytesMut) -> Step {
    match framing {
        Framing::Tcp => decode_tcp(buffer),
        Framing::Rtu => decode_rtu(side, buffer),
        Framing::Ascii => decode_ascii(buffer),
    }
}

fn decode_tcp(buffer: &mut BytesMut) -> Step {
    let Some(header) = buffer.first_chunk::<6>() else { return Step::Wait };
    let transaction = u16::from_be_bytes([header[0], header[1]]);
    let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
    if header[2..4] != [0, 0] || !(2..=254).contains(&length) {
        return Step::Foreign;
    }
    if buffer.len() < 6 + length {
        return Step::Wait;
    }
    let mut frame = buffer.split_to(6 + length).freeze();
    frame.advance(6);
    let unit = frame.get_u8();
    Step::Frame(Frame { transaction, unit, pdu: frame })
}

fn decode_rtu(side: Side, buffer: &mut BytesMut) -> Step {
    let length = match rtu_len(side, buffer) {
        Length::Wait => return Step::Wait,
        Length::Known(length) if buffer.len() < length => return Step::Wait,
        Length::Known(length) => length,
        // Only the CRC tells where a frame of an unknown function ends.
        Length::Unknown if buffer.len() >= 4 && crc_holds(buffer) => buffer.len(),
        Length::Unknown if buffer.len() > 256 => return Step::Damaged,
        Length::Unknown => return Step::Wait,
    };
    if !(4..=260).contains(&length) || !crc_holds(&buffer[..length]) {
        return Step::Damaged;
    }
    let mut frame = buffer.split_to(length).freeze();
    frame.truncate(length - 2);
    let unit = frame.get_u8();
    Step::Frame(Frame { transaction: 0, unit, pdu: frame })
}

enum Length {
    Wait,
    Known(usize),
    Unknown,
}

/// Bytes of the RTU frame that begins in `buffer`, CRC included.
fn rtu_len(side: Side, buffer: &[u8]) -> Length {
    let Some(function) = buffer.get(1) else { return Length::Wait };
    // Where a byte at `at` counts the bytes that follow it.
    let counted = |at: usize| buffer.get(at).map_or(Length::Wait, |n| Length::Known(at + 1 + usize::from(*n) + 2));
    match (side, function) {
        (Side::Reply, 0x80..) => Length::Known(5),
        (Side::Reply, 1..=4 | 12 | 17 | 20 | 21 | 23) => counted(2),
        (Side::Reply, 7) => Length::Known(5),
        (Side::Request, 7 | 11 | 12 | 17) => Length::Known(4),
        (Side::Request, 1..=4) | (_, 5 | 6) | (Side::Reply, 11 | 15 | 16) => Length::Known(8),
        (Side::Request, 15 | 16) => counted(6),
        (_, 22) => Length::Known(10),
        (Side::Request, 24) => Length::Known(6),
        // Its byte count has two bytes.
        (Side::Reply, 24) => match buffer.get(2..4) {
            Some(count) => Length::Known(6 + usize::from(u16::from_be_bytes([count[0], count[1]]))),
            None => Length::Wait,
        },
        (Side::Request, 23) => counted(10),
        (Side::Request, 20 | 21) => counted(2),
        (Side::Request, 0x2B) if buffer.get(2) == Some(&0x0E) => Length::Known(7),
        (Side::Reply, 0x2B) => match buffer.get(2) {
            None => Length::Wait,
            Some(0x0E) => objects_len(buffer),
            Some(_) => Length::Unknown,
        },
        _ => Length::Unknown,
    }
}

fn objects_len(buffer: &[u8]) -> Length {
    let Some(count) = buffer.get(7) else { return Length::Wait };
    let mut at = 8;
    for _ in 0..*count {
        match buffer.get(at + 1) {
            Some(length) => at += 2 + usize::from(*length),
            None => return Length::Wait,
        }
    }
    Length::Known(at + 2)
}

fn decode_ascii(buffer: &mut BytesMut) -> Step {
    // Anything before the colon is noise.
    let start = buffer.iter().position(|b| *b == b':').unwrap_or(buffer.len());
    buffer.advance(start);
    let Some(end) = buffer.iter().position(|b| *b == b'\n') else {
        return if buffer.len() > 600 { Step::Damaged } else { Step::Wait };
    };
    let line = buffer.split_to(end + 1);
    let digits = line[1..].trim_ascii_end();
    match hex::decode(digits) {
        Ok(bytes) if bytes.len() >= 3 && bytes.iter().fold(0u8, |sum, b| sum.wrapping_add(*b)) == 0 => {
            let mut frame = Bytes::from(bytes);
            frame.truncate(frame.len() - 1);
            let unit = frame.get_u8();
            Step::Frame(Frame { transaction: 0, unit, pdu: frame })
        }
        _ => Step::Damaged,
    }
}

fn hex_digits(byte: u8) -> [u8; 2] {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]
}

/// Bytes on the wire for a PDU of this length.
pub fn wire_len(framing: Framing, pdu: usize) -> usize {
    match framing {
        Framing::Tcp => 7 + pdu,
        Framing::Rtu => 3 + pdu,
        Framing::Ascii => 2 * (pdu + 2) + 3,
    }
}

fn crc_holds(frame: &[u8]) -> bool {
    // Over a frame with its own CRC at the end the sum is zero.
    crc(frame) == 0
}

/// CRC-16/MODBUS (Modbus over Serial Line V1.02, 6.2.2).
pub fn crc(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0xFFFF, |sum, byte| sum >> 8 ^ CRC_TABLE[usize::from(sum as u8 ^ *byte)])
}

const CRC_TABLE: [u16; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut sum = index as u16;
        let mut bit = 0;
        while bit < 8 {
            sum = if sum & 1 == 1 { sum >> 1 ^ 0xA001 } else { sum >> 1 };
            bit += 1;
        }
        table[index] = sum;
        index += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: [Framing; 3] = [Framing::Tcp, Framing::Rtu, Framing::Ascii];

    #[test]
    fn checksums_are_those_of_the_specification() {
        assert_eq!(crc(b"123456789"), 0x4B37);
        let mut out = BytesMut::new();
        encode(Framing::Rtu, 0, 2, &[7], &mut out);
        assert_eq!(out[..], [2, 7, 0x41, 0x12]);
        let mut out = BytesMut::new();
        encode(Framing::Ascii, 0, 0xF7, &[3, 0x13, 0x89, 0, 0x0A], &mut out);
        assert_eq!(out[..], *b":F7031389000A60\r\n");
    }

    #[test]
    fn a_flipped_bit_is_damage_and_a_foreign_stream_is_seen() {
        let mut out = BytesMut::new();
        encode(Framing::Rtu, 0, 1, &[3, 2, 0, 7], &mut out);
        out[4] ^= 1;
        assert_eq!(decode(Framing::Rtu, Side::Reply, &mut out), Step::Damaged);
        let mut http = BytesMut::from(&b"HTTP/1.1 400 Bad Request\r\n"[..]);
        assert_eq!(decode(Framing::Tcp, Side::Reply, &mut http), Step::Foreign);
    }

    fn any_request() -> impl Strategy<Value = Vec<u8>> {
        use crate::{config::modbus::kind::Table, drivers::modbus::pdu::Request};
        let words = || prop::collection::vec(any::<u16>(), 1..100);
        prop_oneof![
            (any::<u16>(), 1u16..126).prop_map(|(a, n)| Request::read(Table::Input, a, n)),
            (any::<u16>(), any::<bool>()).prop_map(|(a, b)| Request::write_bit(a, b)),
            (any::<u16>(), words()).prop_map(|(a, w)| Request::write_registers(a, &w)),
            (any::<u16>(), prop::collection::vec(any::<bool>(), 1..1000)).prop_map(|(a, b)| Request::write_bits(a, &b)),
            (any::<u16>(), words()).prop_map(|(a, w)| Request::read_write(a, 9, a, &w)),
            (any::<u16>(), any::<u16>()).prop_map(|(a, o)| Request::mask(a, a, o)),
            (1u8..5, any::<u8>()).prop_map(|(c, o)| Request::identify(c, o)),
            (any::<u16>(), words()).prop_map(|(a, w)| Request::write_file(a, a, &w)),
            prop::collection::vec(any::<u8>(), 1..200).prop_map(|b| Request::custom(&[&[0x41], &b[..]].concat())),
        ]
        .prop_map(|request| request.bytes().to_vec())
    }

    proptest! {
        #[test]
        fn every_request_survives_its_frame(pdu in any_request(), unit in any::<u8>(), transaction in any::<u16>()) {
            for framing in ALL {
                let mut out = BytesMut::new();
                encode(framing, transaction, unit, &pdu, &mut out);
                prop_assert_eq!(out.len(), wire_len(framing, pdu.len()));
                let transaction = if framing == Framing::Tcp { transaction } else { 0 };
                let frame = Frame { transaction, unit, pdu: Bytes::copy_from_slice(&pdu) };
                prop_assert_eq!(decode(framing, Side::Request, &mut out), Step::Frame(frame));
                prop_assert!(out.is_empty());
            }
        }

        #[test]
        fn a_frame_in_pieces_waits_until_it_is_whole(pdu in any_request(), unit in 1u8..248) {
            // The length of a function of the maker's own shows only by its checksum, which a part of it may fit too.
            let known = pdu.first() != Some(&0x41);
            for framing in ALL.into_iter().filter(|framing| known || *framing != Framing::Rtu) {
                let mut whole = BytesMut::new();
                encode(framing, 1, unit, &pdu, &mut whole);
                let mut part = BytesMut::from(&whole[..whole.len() - 1]);
                prop_assert_eq!(decode(framing, Side::Request, &mut part), Step::Wait);
            }
        }

        #[test]
        fn no_bytes_make_a_decoder_panic_or_stand_still(bytes in prop::collection::vec(any::<u8>(), 0..700)) {
            for framing in ALL {
                for side in [Side::Request, Side::Reply] {
                    let mut buffer = BytesMut::from(&bytes[..]);
                    loop {
                        let before = buffer.len();
                        match decode(framing, side, &mut buffer) {
                            Step::Frame(_) => prop_assert!(buffer.len() < before),
                            _ => break,
                        }
                    }
                }
            }
        }
    }
}
