//! A serial port, what its line is set to, and how long characters take on it.

use std::{path::PathBuf, time::Duration};

use crate::config::read::Section;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Serial {
    /// Best a stable name below `/dev/serial/by-id/`.
    pub port: PathBuf,
    pub baud: u32,
    pub parity: Parity,
    pub data_bits: u8,
    pub stop_bits: u8,
    pub rts: Rts,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Parity {
    None,
    Even,
    Odd,
}

/// Who turns an RS-485 transceiver round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rts {
    /// The adapter or the kernel does.
    None,
    /// RTS is high while sending.
    High,
    /// RTS is low while sending.
    Low,
}

impl Serial {
    /// Bits of one character on the wire, start, parity and stop bits included.
    pub fn bits_per_character(&self) -> u32 {
        1 + u32::from(self.data_bits) + u32::from(self.parity != Parity::None) + u32::from(self.stop_bits)
    }

    /// Time of `characters` on the wire.
    pub fn time_of(&self, characters: usize) -> Duration {
        let bits = u64::from(self.bits_per_character()) * characters as u64;
        Duration::from_nanos(bits * 1_000_000_000 / u64::from(self.baud.max(1)))
    }

    /// The silence between frames: 3.5 characters, 1.75 ms above 19200 baud (Modbus over Serial Line V1.02, 2.5.1.1).
    pub fn silence(&self) -> Duration {
        if self.baud > 19_200 { Duration::from_micros(1750) } else { self.time_of(7) / 2 }
    }

    /// The same port with other settings, such as `19200 8E1`.
    pub fn with_line(&self, text: &str) -> Option<Serial> {
        let (baud, format) = text.trim().split_once(' ')?;
        let parity = match format.as_bytes().get(1)? {
            b'N' => Parity::None,
            b'E' => Parity::Even,
            b'O' => Parity::Odd,
            _ => return None,
        };
        let digit = |at: usize, allowed: [u8; 2]| {
            let digit = format.as_bytes().get(at)?.wrapping_sub(b'0');
            allowed.contains(&digit).then_some(digit)
        };
        let (data_bits, stop_bits) = (digit(0, [7, 8])?, digit(2, [1, 2])?);
        let baud = baud.parse().ok().filter(|baud| (300..=4_000_000).contains(baud))?;
        Some(Serial { baud, parity, data_bits, stop_bits, ..self.clone() })
    }

    /// Such as `9600 8N1`.
    pub fn line(&self) -> String {
        let parity = match self.parity {
            Parity::None => 'N',
            Parity::Even => 'E',
            Parity::Odd => 'O',
        };
        format!("{} {}{parity}{}", self.baud, self.data_bits, self.stop_bits)
    }
}

/// The serial line of a `[bus]`, where there is a port.
pub(super) fn read(section: &Section<'_>, port: Option<&str>) -> Option<Serial> {
    let parities = [("none", Parity::None), ("even", Parity::Even), ("odd", Parity::Odd)];
    let rts = [("none", Rts::None), ("high", Rts::High), ("low", Rts::Low)];
    let parity = section.choice("parity", &parities).unwrap_or(Parity::None);
    let serial = Serial {
        port: PathBuf::from(port.unwrap_or_default()),
        baud: section.integer("baud", 300..=4_000_000).map_or(9600, |b| b as u32),
        parity,
        data_bits: section.integer("data_bits", 7..=8).map_or(8, |b| b as u8),
        stop_bits: section.integer("stop_bits", 1..=2).map_or(1, |b| b as u8),
        rts: section.choice("rts", &rts).unwrap_or(Rts::None),
    };
    port.is_some().then_some(serial)
}
