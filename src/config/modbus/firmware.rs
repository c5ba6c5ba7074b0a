//! Where a device says which firmware it runs: `[firmware_version]` of a profile, or `firmware` of a device.

use std::sync::Arc;

use super::{kind::Kind, point::Point};
use crate::{
    config::read::Section,
    model::{reading::Value, version::Version},
};

/// What tells the version of a device's firmware.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// The device's file, for one that does not tell itself.
    Said(Version),
    /// An object of function 43/14; 2 is the revision.
    Object(u8),
    Register {
        point: Arc<Point>,
        parts: Option<Parts>,
    },
}

/// How the bits of a register are the numbers of a version, from the highest bit down.
#[derive(Debug, Clone, PartialEq)]
pub struct Parts {
    widths: Vec<u8>,
    /// 0x21 is 21.
    bcd: bool,
}

impl Source {
    /// The version in the value of the register.
    pub fn version(&self, value: &Value) -> Option<Version> {
        let Source::Register { point, parts } = self else { return None };
        match (value, parts) {
            (Value::Text(text), _) => Version::parse(text),
            (Value::Int(_) | Value::Uint(_), Some(parts)) => {
                let raw = match value {
                    Value::Uint(raw) => *raw,
                    _ => value.as_f64()? as u64,
                };
                Some(parts.version(raw))
            }
            // 210 at a scale of 0.01 is version 2.10, not 2.1.
            (_, None) => Version::parse(&format!("{:.*}", decimals(point), value.as_f64()?)),
            _ => None,
        }
    }

    /// What the register holds with this version; for simulators.
    pub fn value(&self, version: &Version) -> Option<Value> {
        let Source::Register { point, parts } = self else { return None };
        match (parts, point.kind) {
            (Some(parts), _) => Some(Value::Uint(parts.raw(version))),
            (None, Kind::Text(registers)) => Some(Value::Text(
                version.to_string().chars().take(2 * usize::from(registers)).collect::<String>().into(),
            )),
            (None, _) => format!("{}.{}", version.number(0), version.number(1)).parse().ok().map(Value::Float),
        }
    }

    /// Reads `[firmware_version]`.
    pub(super) fn read(root: &Section<'_>, points: &[Arc<Point>]) -> Option<Source> {
        let section = root.section("firmware_version")?;
        let (register, object) = (section.text("register"), section.integer("object", 0..=255));
        let widths = section.integers("parts", 1..=32);
        let bcd = section.bool("bcd").unwrap_or(false);
        let name = match (register, object) {
            (Some(name), None) => name,
            (None, Some(object)) => return Some(Source::Object(object as u8)),
            _ => {
                let hint =
                    "say where the device tells it: register = \"…\" of this profile, or object = 2 (function 43/14)";
                section.problem("register", "one of register and object is wanted", hint);
                return None;
            }
        };
        let Some(point) = points.iter().find(|point| *point.name == *name) else {
            section.problem("register", format!("{name:?} is no register here"), "add that register");
            return None;
        };
        if point.firmware.is_some() {
            let hint = "the register that tells the firmware must be there with every firmware";
            section.problem("register", format!("{name:?} has a condition on the firmware itself"), hint);
        }
        let text = matches!(point.kind, Kind::Text(_));
        if !point.readable() || !(text || point.kind.is_number()) || point.scale_from.is_some() {
            let hint = "a version is told by a text or a number that can be read, without scale_from";
            section.problem("register", format!("{name:?} cannot tell a version"), hint);
        }
        let bits: i64 = widths.iter().sum();
        let whole = point.scale == 1.0
            && point.offset == 0.0
            && matches!(point.kind, Kind::Uint(width) if i64::from(width) == bits);
        if !widths.is_empty() && !whole {
            let hint = "the widths of all parts together are those of the register: parts = [8, 8] for a u16";
            section.problem("parts", format!("{bits} bits of {} {}", point.kind, point.name), hint);
            return None;
        }
        let widths: Vec<u8> = widths.into_iter().map(|width| width as u8).collect();
        let parts = (!widths.is_empty()).then_some(Parts { widths, bcd });
        Some(Source::Register { point: point.clone(), parts })
    }
}

/// Decimal places that the number of a version has.
fn decimals(point: &Point) -> usize {
    let by_scale = (1..=6).find(|places| (point.scale * 10f64.powi(*places) - 1.0).abs() < 1e-9);
    match (point.decimals, point.kind) {
        (Some(decimals), _) => usize::from(decimals),
        (None, Kind::Float(_) | Kind::Fixed(..)) if by_scale.is_none() => 2,
        _ => by_scale.unwrap_or(0) as usize,
    }
}

impl Parts {
    fn version(&self, raw: u64) -> Version {
        let mut left: u32 = self.widths.iter().map(|width| u32::from(*width)).sum();
        let numbers = self.widths.iter().map(|width| {
            left -= u32::from(*width);
            let number = (raw >> left) & ((1 << width) - 1);
            if self.bcd { digits(number).unwrap_or(number) } else { number }
        });
        Version::of(&numbers.collect::<Vec<u64>>())
    }

    fn raw(&self, version: &Version) -> u64 {
        self.widths.iter().enumerate().fold(0, |raw, (part, width)| {
            let number = version.number(part);
            let coded = format!("{number}").bytes().fold(0, |coded, digit| (coded << 4) | u64::from(digit - b'0'));
            let fits = |number: u64| number < 1 << width;
            let number = if self.bcd && fits(coded) && number <= 99_999_999 { coded } else { number };
            (raw << width) | number.min((1 << width) - 1)
        })
    }
}

/// The number whose decimal digits these are in hexadecimal; `None` where one of them is none.
fn digits(coded: u64) -> Option<u64> {
    format!("{coded:x}").parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::modbus::profile::Profile;

    fn source(register: &str, rest: &str) -> Source {
        let text = format!(
            "name = \"p\"\ntitle = \"t\"\nsource = \"s\"\n[firmware_version]\nregister = \"v\"\n{rest}\n[[register]]\nname = \"v\"\naddress = 0\n{register}\n"
        );
        let (profile, problems) = Profile::parse("p.toml", &text);
        assert!(problems.is_empty(), "{problems:#?}");
        profile.and_then(|profile| profile.firmware_version).expect("a source")
    }

    #[test]
    fn a_register_tells_a_version_as_text_as_a_number_or_in_its_bits() {
        let told = |source: &Source, value| source.version(&value).expect("a version").to_string();
        let text = source("type = \"text:4\"", "");
        assert_eq!(text.version(&Value::Text("V1.10".into())), Version::parse("1.10"));
        assert_eq!(text.version(&Value::Text("unknown".into())), None);
        assert_eq!(told(&source("scale = 0.01", ""), Value::Float(2.1)), "2.10");
        assert_eq!(told(&source("", ""), Value::Int(7)), "7");
        assert_eq!(told(&source("", "parts = [4, 4, 8]"), Value::Int(0x1203)), "1.2.3");
        let victron = source("type = \"u32\"", "parts = [8, 8, 8, 8]\nbcd = true");
        assert_eq!(told(&victron, Value::Int(0x0001_21FF)), "0.1.21.255");
        assert_eq!(victron.value(&Version::of(&[0, 1, 22, 2])), Some(Value::Uint(0x0001_2202)));
    }

    proptest! {
        #[test]
        fn what_a_simulator_holds_is_the_version_it_was_given(major in 0u64..16, minor in 0u64..16, patch in 0u64..100) {
            let version = Version::of(&[major, minor, patch]);
            for source in [source("type = \"text:8\"", ""), source("", "parts = [4, 4, 8]")] {
                let value = source.value(&version).expect("a value");
                prop_assert_eq!(source.version(&value), Some(version.clone()));
            }
            let coded = source("type = \"u32\"", "parts = [8, 8, 16]\nbcd = true");
            prop_assert_eq!(coded.version(&coded.value(&version).expect("a value")), Some(version));
        }

        #[test]
        fn no_register_is_too_much(raw in any::<u64>(), widths in prop::collection::vec(1u8..=32, 1..3), bcd: bool) {
            let _ = Parts { widths, bcd }.version(raw);
        }
    }
}
