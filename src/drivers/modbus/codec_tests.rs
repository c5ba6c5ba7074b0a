//! Known examples of every type and order, and the law that encoding undoes decoding.

use proptest::prelude::*;

use super::*;
use crate::config::modbus::kind::{Date, Table};

fn point(kind: Kind) -> Point {
    Point::plain("x", Table::Holding, 0, kind)
}

fn registers(encoded: Encoded) -> Vec<u16> {
    match encoded {
        Encoded::Registers { words, .. } => words,
        Encoded::Bit(_) => panic!("a bit"),
    }
}

#[test]
fn a_meter_voltage_reads_the_same_in_all_orders() {
    // 230.4 as f32 is 0x43666666.
    for (order, words) in
        [("ABCD", [0x4366, 0x6666]), ("CDAB", [0x6666, 0x4366]), ("BADC", [0x6643, 0x6666]), ("DCBA", [0x6666, 0x6643])]
    {
        let point = Point { order: order.parse().expect("an order"), ..point(Kind::Float(32)) };
        assert_eq!(decode(&point, &words, None), Ok(Value::Float(230.4)), "{order}");
    }
}

#[test]
fn a_64_bit_counter_keeps_all_its_digits_in_all_eight_orders() {
    let number: u64 = 0x0123_4567_89AB_CDEF;
    for (name, order) in Order::ALL {
        let point = Point { order, ..point(Kind::Uint(64)) };
        let letters: Vec<u8> = name.bytes().map(|b| number.to_be_bytes()[usize::from(b - b'A')]).collect();
        let words: Vec<u16> = letters.chunks(2).map(|p| u16::from_be_bytes([p[0], p[1]])).collect();
        assert_eq!(decode(&point, &words, None), Ok(Value::Int(number as i64)), "{name}");
    }
    let max = point(Kind::Uint(64));
    assert_eq!(decode(&max, &[0xFFFF; 4], None), Ok(Value::Uint(u64::MAX)));
}

#[test]
fn odd_types_mean_what_their_makers_say() {
    assert_eq!(decode(&point(Kind::Bcd(32)), &[0x0012, 0x3456], None), Ok(Value::Int(123_456)));
    assert_eq!(decode(&point(Kind::Bcd(16)), &[0x00A1], None), Err(NoValue::NotDecimal));
    assert_eq!(decode(&point(Kind::SignMagnitude(16)), &[0x8005], None), Ok(Value::Int(-5)));
    assert_eq!(decode(&point(Kind::Fixed(16, 8)), &[0x0180], None), Ok(Value::Float(1.5)));
    assert_eq!(decode(&point(Kind::Float(16)), &[0xC000], None), Ok(Value::Float(-2.0)));
    assert_eq!(decode(&point(Kind::Int(24)), &[0x00FF, 0xFFFE], None), Ok(Value::Int(-2)));
    assert_eq!(decode(&point(Kind::Text(3)), &[0x4142, 0x4320, 0], None), Ok(Value::Text("ABC".into())));
    assert_eq!(decode(&point(Kind::Float(32)), &[0x7FC0, 0], None), Err(NoValue::NotANumber));
    let marked = Point { invalid: vec![0x8000].into(), ..point(Kind::Int(16)) };
    assert_eq!(decode(&marked, &[0x8000], None), Err(NoValue::Invalid));
    let swapped = Point { order: "BADC".parse().expect("an order"), ..point(Kind::Text(2)) };
    assert_eq!(decode(&swapped, &[0x4241, 0x4443], None), Ok(Value::Text("ABCD".into())));
}

#[test]
fn scale_gives_the_number_on_the_display() {
    let tenth = Point { scale: 0.1, ..point(Kind::Uint(16)) };
    assert_eq!(decode(&tenth, &[2304], None), Ok(Value::Float(230.4)));
    let cold = Point { scale: 0.1, offset: -40.0, ..point(Kind::Uint(16)) };
    assert_eq!(decode(&cold, &[615], None), Ok(Value::Float(21.5)));
    assert_eq!(encode(&cold, &Value::Float(21.5), None).map(registers), Ok(vec![615]));
    let sunspec = Point { scale_from: Some("sf".into()), ..point(Kind::Int(16)) };
    assert_eq!(decode(&sunspec, &[1234], Some(-2)), Ok(Value::Float(12.34)));
    assert_eq!(decode(&sunspec, &[1234], None), Err(NoValue::NoScale));
    let kilo = Point { scale: 1000.0, ..point(Kind::Uint(16)) };
    assert_eq!(decode(&kilo, &[7], None), Ok(Value::Int(7000)));
}

#[test]
fn part_of_a_register_is_written_under_a_mask() {
    let mode = Point { bits: Some((4, 3)), ..point(Kind::Uint(16)) };
    assert_eq!(decode(&mode, &[0x0050], None), Ok(Value::Int(5)));
    let encoded = encode(&mode, &Value::Int(6), None).expect("encodes");
    assert_eq!(encoded, Encoded::Registers { words: vec![0x60], mask: Some(vec![0x70]) });
    let titles = vec![(0, "off".into()), (2, "auto".into())];
    let titled = Point { titles: titles.into(), ..point(Kind::Uint(16)) };
    assert_eq!(decode(&titled, &[2], None), Ok(Value::Text("auto".into())));
    assert_eq!(encode(&titled, &Value::Text("auto".into()), None).map(registers), Ok(vec![2]));
    let wrong = encode(&titled, &Value::Text("on".into()), None).expect_err("no such title");
    assert_eq!(wrong.to_string(), "\"on\" is none of: off (0), auto (2)");
}

#[test]
fn what_cannot_be_written_is_refused_with_a_reason() {
    let mut limited = point(Kind::Uint(16));
    (limited.write.min, limited.write.max) = (Some(5.0), Some(30.0));
    let text = |value| encode(&limited, &value, None).expect_err("refused").to_string();
    assert_eq!(text(Value::Int(31)), "31 is above 30, the most allowed");
    assert_eq!(text(Value::Int(-1)), "-1 is below 5, the least allowed");
    assert_eq!(text(Value::Text("hot".into())), "\"hot\" is not a number");
    let wide = encode(&point(Kind::Uint(16)), &Value::Int(70_000), None).expect_err("too wide");
    assert_eq!(wide.to_string(), "70000 does not fit into u16");
    let endless = encode(&point(Kind::Uint(16)), &Value::Float(1e300), None).expect_err("too wide");
    assert_eq!(endless.to_string(), "1e300 does not fit into u16");
    let beyond = encode(&limited, &Value::Float(-1e300), None).expect_err("below");
    assert_eq!(beyond.to_string(), "-1e300 is below 5, the least allowed");
}

#[test]
fn what_outgrows_the_largest_float_is_no_number_and_what_cannot_be_rounded_stays() {
    let huge = f64::MAX.to_bits();
    let words = [(huge >> 48) as u16, (huge >> 32) as u16, (huge >> 16) as u16, huge as u16];
    let rounded = Point { decimals: Some(3), ..point(Kind::Float(64)) };
    assert_eq!(decode(&rounded, &words, None), Ok(Value::Float(f64::MAX)));
    let scaled = Point { scale: 10.0, ..point(Kind::Float(64)) };
    assert_eq!(decode(&scaled, &words, None), Err(NoValue::NotANumber));
}

fn any_kind() -> impl Strategy<Value = Kind> {
    let mut kinds = Kind::numbers();
    kinds.extend([Kind::Bool, Kind::Text(4), Kind::Raw(3)]);
    kinds.extend([Kind::Date(Date::Unix32), Kind::Date(Date::Ymdhms), Kind::Date(Date::Iec870)]);
    prop::sample::select(kinds)
}

fn any_order() -> impl Strategy<Value = Order> {
    prop::sample::select(Order::ALL.map(|(_, order)| order).to_vec())
}

proptest! {
    #[test]
    fn an_order_undoes_itself(words in prop::collection::vec(any::<u16>(), 1..=4), order in any_order()) {
        let mut twice = words.clone();
        arrange(&mut twice, order);
        arrange(&mut twice, order);
        prop_assert_eq!(twice, words);
    }

    #[test]
    fn decoding_never_panics_and_never_gives_a_float_that_is_not_finite(
        kind in any_kind(), order in any_order(), words in prop::collection::vec(any::<u16>(), 0..8),
        scale in -1e6..1e6f64, offset in -1e6..1e6f64, exponent in any::<Option<i32>>(),
        bits in prop::option::of((0u8..64, 1u8..=64).prop_filter("fits", |(s, w)| s + w <= 64)),
    ) {
        let point = Point { order, scale, offset, bits, decimals: Some(3), ..point(kind) };
        if let Ok(Value::Float(number)) = decode(&point, &words, exponent) {
            prop_assert!(number.is_finite());
        }
    }

    #[test]
    fn what_was_decoded_encodes_to_registers_that_decode_to_the_same(
        kind in any_kind(), order in any_order(), words in prop::collection::vec(any::<u16>(), 6),
        scale in prop::sample::select(vec![1.0, 0.1, 0.01, 10.0, 0.5]),
    ) {
        let scale = if kind.is_number() { scale } else { 1.0 };
        let point = Point { order, scale, ..point(kind) };
        if let Ok(value) = decode(&point, &words, None) {
            if matches!(&value, Value::Text(text) if !text.is_ascii()) {
                return Ok(());
            }
            // A scaled 64-bit number has more digits than a float; beyond that it is not written.
            if scale != 1.0 && value.as_f64().is_some_and(|n| n.abs() > 1e14) {
                return Ok(());
            }
            let again = registers(encode(&point, &value, None).map_err(|e| TestCaseError::fail(e.to_string()))?);
            match (decode(&point, &again, None), value) {
                // Dividing by the scale and multiplying again may round the last digit.
                (Ok(Value::Float(back)), Value::Float(first)) => {
                    prop_assert!((back - first).abs() <= first.abs() * 1e-6 + f64::MIN_POSITIVE, "{back} {first}");
                }
                (back, value) => prop_assert_eq!(back, Ok(value)),
            }
        }
    }

    #[test]
    fn integers_come_back_bit_for_bit(
        bits in prop::sample::select(vec![16u8, 32, 48, 64]), signed in any::<bool>(), order in any_order(),
        words in prop::collection::vec(any::<u16>(), 4),
    ) {
        let kind = if signed { Kind::Int(bits) } else { Kind::Uint(bits) };
        let point = Point { order, ..point(kind) };
        let words = &words[..usize::from(kind.len())];
        let value = decode(&point, words, None).expect("every pattern is an integer");
        prop_assert_eq!(registers(encode(&point, &value, None).expect("encodes")), words);
    }

    #[test]
    fn encoding_anything_never_panics(kind in any_kind(), number in any::<f64>(), whole in any::<i64>(), text in ".{0,12}") {
        for value in [Value::Float(number), Value::Int(whole), Value::Uint(whole as u64), Value::Text(text.into()), Value::Bool(true)] {
            let _ = encode(&point(kind), &value, Some(3));
        }
    }
}
