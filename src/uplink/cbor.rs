//! JSON text to CBOR (RFC 8949) without losing a digit: what is no exact binary number becomes a decimal fraction.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

/// Major types, RFC 8949 section 3.1.
const UNSIGNED: u8 = 0;
const NEGATIVE: u8 = 1;
const TEXT: u8 = 3;
const ARRAY: u8 = 4;
const MAP: u8 = 5;
const TAG: u8 = 6;
const SIMPLE: u8 = 7;
/// Decimal fraction, RFC 8949 section 3.4.4.
const DECIMAL: u64 = 4;

fn head(out: &mut Vec<u8>, major: u8, value: u64) {
    let major = major << 5;
    match value {
        0..24 => out.push(major | value as u8),
        24..0x100 => out.extend([major | 24, value as u8]),
        0x100..0x1_0000 => {
            out.push(major | 25);
            out.extend((value as u16).to_be_bytes());
        }
        0x1_0000..0x1_0000_0000 => {
            out.push(major | 26);
            out.extend((value as u32).to_be_bytes());
        }
        _ => {
            out.push(major | 27);
            out.extend(value.to_be_bytes());
        }
    }
}

pub fn array(out: &mut Vec<u8>, items: usize) {
    head(out, ARRAY, items as u64);
}

pub fn map(out: &mut Vec<u8>, members: usize) {
    head(out, MAP, members as u64);
}

pub fn text(out: &mut Vec<u8>, text: &str) {
    head(out, TEXT, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

pub fn boolean(out: &mut Vec<u8>, value: bool) {
    head(out, SIMPLE, if value { 21 } else { 20 });
}

pub fn integer(out: &mut Vec<u8>, value: i64) {
    match u64::try_from(value) {
        Ok(value) => head(out, UNSIGNED, value),
        // -1 - n is written as n: the complement.
        Err(_) => head(out, NEGATIVE, !value as u64),
    }
}

/// `mantissa · 10^exponent`.
pub fn decimal(out: &mut Vec<u8>, mantissa: i64, exponent: i64) {
    head(out, TAG, DECIMAL);
    array(out, 2);
    integer(out, exponent);
    integer(out, mantissa);
}

/// Any JSON document; false where it is none.
pub fn json(out: &mut Vec<u8>, document: &str) -> bool {
    let document = document.trim();
    match document.as_bytes().first() {
        Some(b'{') => {
            let Ok(members) = serde_json::from_str::<BTreeMap<String, &RawValue>>(document) else { return false };
            map(out, members.len());
            members.iter().all(|(name, value)| {
                text(out, name);
                json(out, value.get())
            })
        }
        Some(b'[') => {
            let Ok(items) = serde_json::from_str::<Vec<&RawValue>>(document) else { return false };
            array(out, items.len());
            items.iter().all(|item| json(out, item.get()))
        }
        Some(b'"') => {
            let Ok(said) = serde_json::from_str::<String>(document) else { return false };
            text(out, &said);
            true
        }
        _ => match document {
            "true" | "false" => {
                boolean(out, document == "true");
                true
            }
            "null" => {
                head(out, SIMPLE, 22);
                true
            }
            _ => number(out, document),
        },
    }
}

/// A JSON number, in the shortest form that means the same.
fn number(out: &mut Vec<u8>, digits: &str) -> bool {
    if let Ok(value) = digits.parse::<u64>() {
        head(out, UNSIGNED, value);
        return true;
    }
    if let Ok(value) = digits.parse::<i64>() {
        integer(out, value);
        return true;
    }
    let Ok(value) = digits.parse::<f64>() else { return false };
    if f64::from(value as f32) == value {
        match half(value as f32) {
            Some(half) => {
                out.push(SIMPLE << 5 | 25);
                out.extend(half.to_be_bytes());
            }
            None => {
                out.push(SIMPLE << 5 | 26);
                out.extend((value as f32).to_be_bytes());
            }
        }
    } else if let Some((mantissa, exponent)) = parts(digits) {
        decimal(out, mantissa, exponent);
    } else {
        out.push(SIMPLE << 5 | 27);
        out.extend(value.to_be_bytes());
    }
    true
}

/// Mantissa and exponent of a decimal number, where they fit.
fn parts(digits: &str) -> Option<(i64, i64)> {
    let (digits, exponent) = match digits.split_once(['e', 'E']) {
        Some((digits, exponent)) => (digits, exponent.parse::<i64>().ok()?),
        None => (digits, 0),
    };
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    let part = part.trim_end_matches('0');
    let mantissa = [whole, part].concat().parse().ok()?;
    Some((mantissa, exponent.checked_sub(i64::try_from(part.len()).ok()?)?))
}

/// The same number in sixteen bits, where it fits (RFC 8949 appendix D tells the layout).
fn half(value: f32) -> Option<u16> {
    let bits = value.to_bits();
    let (sign, exponent, mantissa) = ((bits >> 16) as u16 & 0x8000, (bits >> 23 & 0xff) as i32 - 127, bits & 0x7f_ffff);
    if value == 0.0 {
        return Some(sign);
    }
    let fits = (-14..=15).contains(&exponent) && mantissa.trailing_zeros() >= 13;
    fits.then(|| sign | ((exponent + 15) as u16) << 10 | (mantissa >> 13) as u16)
}

#[cfg(test)]
pub mod tests {
    use proptest::prelude::*;
    use serde_json::{Value as Json, json};

    use super::*;

    /// A reader of its own: CBOR back to JSON, with text keys or numbers as keys.
    pub fn read(data: &mut &[u8]) -> Json {
        let mut take = |n: usize| {
            let (taken, rest) = data.split_at(n);
            *data = rest;
            taken.iter().fold(0u64, |value, byte| value << 8 | u64::from(*byte))
        };
        let first = take(1);
        let (major, short) = (first >> 5, first & 31);
        let value = match short {
            24..=27 => take(1 << (short - 24)),
            short => short,
        };
        match major {
            0 => json!(value),
            1 => json!(-1 - value as i64),
            3 => {
                let (text, rest) = data.split_at(value as usize);
                *data = rest;
                json!(std::str::from_utf8(text).expect("text"))
            }
            4 => (0..value).map(|_| read(data)).collect(),
            5 => {
                let name = |key: Json| key.as_str().map_or(key.to_string(), str::to_owned);
                let members = (0..value).map(|_| (name(read(data)), read(data)));
                Json::Object(members.collect())
            }
            6 => {
                let parts = read(data);
                let text = format!("{}e{}", parts[1], parts[0]);
                json!(text.parse::<f64>().expect("decimal"))
            }
            _ => match short {
                20 | 21 => json!(short == 21),
                22 => Json::Null,
                25 => {
                    let (exponent, mantissa) = ((value >> 10 & 31) as i32, (value & 1023) as f64);
                    let size = if exponent == 0 { 0.0 } else { (1.0 + mantissa / 1024.0) * 2f64.powi(exponent - 15) };
                    json!(if value & 0x8000 == 0 { size } else { -size })
                }
                26 => json!(f64::from(f32::from_bits(value as u32))),
                _ => json!(f64::from_bits(value)),
            },
        }
    }

    fn bytes(document: &str) -> Vec<u8> {
        let mut out = Vec::new();
        assert!(json(&mut out, document), "{document}");
        out
    }

    #[test]
    fn the_examples_of_the_standard() {
        // RFC 8949, appendix A, and section 3.4.4 for the decimal fraction.
        for (document, hex) in [
            ("0", "00"),
            ("100", "1864"),
            ("1000000000000", "1b000000e8d4a51000"),
            ("18446744073709551615", "1bffffffffffffffff"),
            ("-1000", "3903e7"),
            ("1.5", "f93e00"),
            ("-4.0", "f9c400"),
            ("100000.0", "fa47c35000"),
            ("273.15", "c48221196ab3"),
            ("true", "f5"),
            ("null", "f6"),
            ("\"\u{fc}\"", "62c3bc"),
            ("[1,[2,3]]", "8201820203"),
            ("{\"a\":1,\"b\":[2,3]}", "a26161016162820203"),
        ] {
            assert_eq!(hex::encode(bytes(document)), hex, "{document}");
        }
        assert!(!json(&mut Vec::new(), "nonsense"));
    }

    proptest! {
        #[test]
        fn every_number_comes_back(value in prop_oneof![any::<f64>().prop_filter("finite", |v| v.is_finite()), (-10_000_000i64..10_000_000).prop_map(|n| n as f64 / 1000.0)]) {
            let text = json!({ "v": value }).to_string();
            let back = read(&mut &bytes(&text)[..]);
            prop_assert_eq!(back["v"].as_f64(), Some(value));
        }
    }
}
