//! What lies in a device's registers: data types and the orders of their bytes and words. Names only; `drivers::modbus::codec` decodes.

use std::{fmt, str::FromStr};

/// The four tables of the Modbus data model (Modbus Application Protocol V1.1b3, section 4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    Coil,
    Discrete,
    Holding,
    Input,
}

impl Table {
    pub const WORDS: [(&'static str, Table); 4] =
        [("coil", Table::Coil), ("discrete", Table::Discrete), ("holding", Table::Holding), ("input", Table::Input)];

    pub fn is_bits(self) -> bool {
        matches!(self, Table::Coil | Table::Discrete)
    }

    pub fn word(self) -> &'static str {
        match self {
            Table::Coil => "coil",
            Table::Discrete => "discrete",
            Table::Holding => "holding",
            Table::Input => "input",
        }
    }

    /// The function that reads this table (1 to 4).
    pub fn read_function(self) -> u8 {
        match self {
            Table::Coil => 1,
            Table::Discrete => 2,
            Table::Holding => 3,
            Table::Input => 4,
        }
    }
}

impl FromStr for Table {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::WORDS.iter().find(|(word, _)| *word == text);
        found.map(|(_, table)| *table).ok_or_else(|| "is not a table; one of coil, discrete, holding, input".to_owned())
    }
}

/// The data type of a point. Widths are in bits; a number narrower than its registers lies in their low end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A coil, a discrete input, or a register that is 0 or not.
    Bool,
    Uint(u8),
    Int(u8),
    /// Highest bit is the sign, the rest the magnitude.
    SignMagnitude(u8),
    /// IEEE 754: 16, 32 or 64.
    Float(u8),
    /// Four bits a decimal digit.
    Bcd(u8),
    /// Signed fixed point of this width with this many fraction bits.
    Fixed(u8, u8),
    /// Characters of this many registers, ended by NUL or by the last register; trailing blanks are no part of it.
    Text(u8),
    /// Bytes of this many registers, shown as hexadecimal.
    Raw(u8),
    Date(Date),
}

/// Date and time blocks; decoded to `2025-01-31T23:59:59`, in the device's own zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Date {
    /// Seconds since 1970 as u32; decoded with a trailing `Z`.
    Unix32,
    /// Six registers: year, month, day, hour, minute, second.
    Ymdhms,
    /// Four registers (IEC 870-5-4 as Schneider Electric uses it): year 0-127, month/day, hour/minute, milliseconds.
    Iec870,
}

impl Kind {
    /// How many registers (or, for a bool in a bit table, how many bits) it takes.
    pub fn len(self) -> u16 {
        match self {
            Kind::Bool => 1,
            Kind::Uint(bits)
            | Kind::Int(bits)
            | Kind::SignMagnitude(bits)
            | Kind::Float(bits)
            | Kind::Bcd(bits)
            | Kind::Fixed(bits, _) => u16::from(bits).div_ceil(16),
            Kind::Text(registers) | Kind::Raw(registers) => u16::from(registers),
            Kind::Date(Date::Unix32) => 2,
            Kind::Date(Date::Ymdhms) => 6,
            Kind::Date(Date::Iec870) => 4,
        }
    }

    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// A number that scale and limits can be applied to.
    pub fn is_number(self) -> bool {
        !matches!(self, Kind::Bool | Kind::Text(_) | Kind::Raw(_) | Kind::Date(_))
    }

    /// Every numeric type there is, for the solver and for tests.
    pub fn numbers() -> Vec<Kind> {
        let widths = [8, 16, 24, 32, 48, 64];
        let mut kinds: Vec<Kind> = widths.iter().flat_map(|w| [Kind::Uint(*w), Kind::Int(*w)]).collect();
        kinds.extend([Kind::Float(16), Kind::Float(32), Kind::Float(64)]);
        kinds.extend([Kind::Bcd(16), Kind::Bcd(32), Kind::Bcd(48), Kind::Bcd(64)]);
        kinds.extend([Kind::SignMagnitude(16), Kind::SignMagnitude(32), Kind::SignMagnitude(64)]);
        kinds.extend([Kind::Fixed(16, 8), Kind::Fixed(32, 16)]);
        kinds
    }
}

impl FromStr for Kind {
    type Err = String;

    /// `bool`, `u8`…`u64`, `i8`…`i64` (8, 16, 24, 32, 48, 64), `f16 f32 f64`, `bcd16`…`bcd64`, `sm16 sm32 sm64`,
    /// `q8.8` (whole.fraction bits), `text:8` and `raw:4` (registers), `date-unix`, `date-ymdhms`, `date-iec870`.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || Err("is not a type".to_owned());
        let number = |digits: &str| digits.parse::<u8>().ok();
        let one_of = |bits: Option<u8>, allowed: &[u8]| bits.filter(|b| allowed.contains(b));
        match text {
            "bool" => return Ok(Kind::Bool),
            "date-unix" => return Ok(Kind::Date(Date::Unix32)),
            "date-ymdhms" => return Ok(Kind::Date(Date::Ymdhms)),
            "date-iec870" => return Ok(Kind::Date(Date::Iec870)),
            _ => {}
        }
        if let Some((word, registers)) = text.split_once(':') {
            let Some(registers) = number(registers).filter(|n| (1..=123).contains(n)) else {
                return Err("needs a number of registers from 1 to 123 after the colon".into());
            };
            return match word {
                "text" => Ok(Kind::Text(registers)),
                "raw" => Ok(Kind::Raw(registers)),
                _ => wrong(),
            };
        }
        let widths = [8, 16, 24, 32, 48, 64];
        let found = if let Some(rest) = text.strip_prefix("bcd") {
            one_of(number(rest), &[16, 32, 48, 64]).map(Kind::Bcd)
        } else if let Some(rest) = text.strip_prefix("sm") {
            one_of(number(rest), &[16, 32, 64]).map(Kind::SignMagnitude)
        } else if let Some(rest) = text.strip_prefix('u') {
            one_of(number(rest), &widths).map(Kind::Uint)
        } else if let Some(rest) = text.strip_prefix('i') {
            one_of(number(rest), &widths).map(Kind::Int)
        } else if let Some(rest) = text.strip_prefix('f') {
            one_of(number(rest), &[16, 32, 64]).map(Kind::Float)
        } else if let Some((whole, fraction)) = text.strip_prefix('q').and_then(|rest| rest.split_once('.')) {
            let (whole, fraction) = (number(whole).unwrap_or(0), number(fraction).unwrap_or(0));
            one_of(whole.checked_add(fraction), &[16, 32, 64]).map(|bits| Kind::Fixed(bits, fraction))
        } else {
            None
        };
        found.map_or_else(wrong, Ok)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Bool => f.write_str("bool"),
            Kind::Uint(bits) => write!(f, "u{bits}"),
            Kind::Int(bits) => write!(f, "i{bits}"),
            Kind::SignMagnitude(bits) => write!(f, "sm{bits}"),
            Kind::Float(bits) => write!(f, "f{bits}"),
            Kind::Bcd(bits) => write!(f, "bcd{bits}"),
            Kind::Fixed(bits, fraction) => write!(f, "q{}.{fraction}", bits - fraction),
            Kind::Text(registers) => write!(f, "text:{registers}"),
            Kind::Raw(registers) => write!(f, "raw:{registers}"),
            Kind::Date(Date::Unix32) => f.write_str("date-unix"),
            Kind::Date(Date::Ymdhms) => f.write_str("date-ymdhms"),
            Kind::Date(Date::Iec870) => f.write_str("date-iec870"),
        }
    }
}

/// The order of bytes in a word and of words in a value. Each is its own inverse, so one rule serves both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Order {
    /// The two bytes of each register are exchanged.
    pub swap_bytes: bool,
    pub words: Words,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Words {
    /// Highest word first.
    #[default]
    Big,
    /// Lowest word first.
    Little,
    /// Words exchanged within each 32-bit half, halves in place (`CDABGHEF`).
    SwappedInHalves,
    /// 32-bit halves exchanged, words in place (`EFGHABCD`).
    HalvesSwapped,
}

impl Order {
    /// Every order in use, as the eight letters of a 64-bit value; the first four letters tell it for 32 bits.
    pub const ALL: [(&'static str, Order); 8] = [
        ("ABCDEFGH", Order { swap_bytes: false, words: Words::Big }),
        ("GHEFCDAB", Order { swap_bytes: false, words: Words::Little }),
        ("BADCFEHG", Order { swap_bytes: true, words: Words::Big }),
        ("HGFEDCBA", Order { swap_bytes: true, words: Words::Little }),
        ("CDABGHEF", Order { swap_bytes: false, words: Words::SwappedInHalves }),
        ("EFGHABCD", Order { swap_bytes: false, words: Words::HalvesSwapped }),
        ("DCBAHGFE", Order { swap_bytes: true, words: Words::SwappedInHalves }),
        ("FEHGBADC", Order { swap_bytes: true, words: Words::HalvesSwapped }),
    ];

    pub fn name(self) -> &'static str {
        match (self.swap_bytes, self.words) {
            (false, Words::Big) => "ABCD",
            (false, Words::Little) => "CDAB",
            (true, Words::Big) => "BADC",
            (true, Words::Little) => "DCBA",
            (swap_bytes, words) => {
                Self::ALL.iter().find(|(_, o)| *o == Order { swap_bytes, words }).map_or("ABCD", |(name, _)| name)
            }
        }
    }
}

impl FromStr for Order {
    type Err = String;

    /// Four letters (`ABCD` highest byte first, `CDAB` lowest word first, `BADC`, `DCBA`), the eight of a 64-bit
    /// value, or the words `big`, `word-swap`, `byte-swap`, `little`.
    fn from_str(text: &str) -> Result<Self, String> {
        let order = |swap_bytes, words| Ok(Order { swap_bytes, words });
        match text {
            "ABCD" | "AB" | "big" => order(false, Words::Big),
            "CDAB" | "word-swap" => order(false, Words::Little),
            "BADC" | "BA" | "byte-swap" => order(true, Words::Big),
            "DCBA" | "little" => order(true, Words::Little),
            _ => match Self::ALL.iter().find(|(name, _)| *name == text) {
                Some((_, order)) => Ok(*order),
                None => Err("is not an order".into()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_and_order_is_read_back_from_its_own_name() {
        let mut kinds = Kind::numbers();
        kinds.extend([Kind::Bool, Kind::Text(8), Kind::Raw(3), Kind::Date(Date::Ymdhms), Kind::Date(Date::Iec870)]);
        for kind in kinds {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
        for (name, order) in Order::ALL {
            assert_eq!(name.parse(), Ok(order));
            assert_eq!(order.name().parse(), Ok(order));
        }
        for wrong in ["u7", "text:0", "text:200", "q5.5", "", "float", "i128"] {
            assert!(wrong.parse::<Kind>().is_err(), "{wrong}");
        }
    }
}
