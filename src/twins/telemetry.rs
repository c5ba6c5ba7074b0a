//! What a child says on `devices/{d}/telemetry`, from bytes to record bodies in one pass over borrowed text.
//!
//! Accepted are one set or an array of sets, flat (`{"ts"?, "temp": 21.4}`) or with `values`. Numbers, booleans and texts
//! become values; `ts`, `deviceId` and `firmwareVersion` are recognised and are none. The raw text of a value goes into
//! the log as it came, so that no digit is lost.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::model::time::Millis;

/// A message, parsed: the sets of all its values, and what it says of the device.
#[derive(Debug, Default)]
pub struct Message<'p> {
    pub sets: Vec<Set<'p>>,
    pub firmware: Option<Cow<'p, str>>,
}

/// Values measured at one time.
#[derive(Debug, Default)]
pub struct Set<'p> {
    /// When the child says it was measured.
    pub ts: Option<Millis>,
    /// Name and raw JSON of numbers, booleans and texts.
    pub values: Vec<(Cow<'p, str>, &'p str)>,
    firmware: Option<Cow<'p, str>>,
}

/// Why a message was refused, for the one who wrote the device's program.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadTelemetry(pub String);

/// Parses a telemetry message; all of it or nothing.
pub fn parse(payload: &[u8]) -> Result<Message<'_>, BadTelemetry> {
    let text = std::str::from_utf8(payload).map_err(|_| BadTelemetry("telemetry is not UTF-8".into()))?;
    let wrong = |error: serde_json::Error| BadTelemetry(format!("telemetry is not what the topic says: {error}"));
    let mut sets = match text.trim_ascii_start().as_bytes().first() {
        Some(b'[') => serde_json::from_str::<Sets<'_>>(text).map_err(wrong)?.0,
        _ => vec![serde_json::from_str::<Set<'_>>(text).map_err(wrong)?],
    };
    let firmware = sets.iter_mut().rev().find_map(|set| set.firmware.take());
    sets.retain(|set| !set.values.is_empty());
    if sets.is_empty() && firmware.is_none() {
        let why =
            "telemetry holds no value; expected {\"ts\"?, \"name\": number, boolean or text, …} or an array of these";
        return Err(BadTelemetry(why.into()));
    }
    Ok(Message { sets, firmware })
}

impl Set<'_> {
    /// The record body: `{"values": {…}}`.
    pub fn body(&self) -> Vec<u8> {
        let length: usize = self.values.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
        let mut body = Vec::with_capacity(length + 12);
        body.extend_from_slice(b"{\"values\":{");
        for (index, (name, value)) in self.values.iter().enumerate() {
            if index > 0 {
                body.push(b',');
            }
            match name {
                // Borrowed means: it stood in the message without escapes.
                Cow::Borrowed(name) => {
                    body.push(b'"');
                    body.extend_from_slice(name.as_bytes());
                    body.push(b'"');
                }
                Cow::Owned(name) => {
                    serde_json::to_writer(&mut body, name).expect("a text can be written as JSON");
                }
            }
            body.push(b':');
            body.extend_from_slice(value.as_bytes());
        }
        body.extend_from_slice(b"}}");
        body
    }
}

struct Sets<'p>(Vec<Set<'p>>);

impl<'de> Deserialize<'de> for Sets<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SetsVisitor;
        impl<'de> Visitor<'de> for SetsVisitor {
            type Value = Sets<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of reading sets")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
                let mut sets = Vec::new();
                while let Some(set) = items.next_element()? {
                    sets.push(set);
                }
                Ok(Sets(sets))
            }
        }
        deserializer.deserialize_seq(SetsVisitor)
    }
}

impl<'de> Deserialize<'de> for Set<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(SetVisitor { nested: false })
    }
}

struct SetVisitor {
    /// Inside `values`: nothing is recognised there, everything is a value.
    nested: bool,
}

impl<'de> Visitor<'de> for SetVisitor {
    type Value = Set<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object: {\"ts\"?, \"name\": value, …} or {\"ts\"?, \"values\": {…}}")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Set<'de>, A::Error> {
        let mut set = Set { values: Vec::with_capacity(members.size_hint().unwrap_or(4)), ..Set::default() };
        let mut only_values = false;
        while let Some(Name(name)) = members.next_key()? {
            let raw: &'de str = members.next_value::<&RawValue>()?.get();
            if !self.nested {
                match &*name {
                    "ts" => {
                        set.ts = Some(parse_ts(raw).map_err(serde::de::Error::custom)?);
                        continue;
                    }
                    "deviceId" => continue,
                    "firmwareVersion" => {
                        set.firmware = text_of(raw);
                        continue;
                    }
                    "values" if raw.starts_with('{') => {
                        let mut below = serde_json::Deserializer::from_str(raw);
                        let inner = below
                            .deserialize_map(SetVisitor { nested: true })
                            .map_err(|error| serde::de::Error::custom(format!("in \"values\": {error}")))?;
                        set.values = inner.values;
                        only_values = true;
                        continue;
                    }
                    _ => {}
                }
            }
            if !only_values && is_value(raw) {
                // As raw text half a surrogate pair passes; whoever reads the record later could not.
                if raw.contains("\\u") && text_of(raw).is_none() {
                    let what = format!("the text of {name:?} holds half a character (a \\u surrogate alone)");
                    return Err(serde::de::Error::custom(what));
                }
                set.values.push((name, raw));
            }
        }
        Ok(set)
    }
}

/// A member's name, borrowed where it has no escapes.
struct Name<'p>(Cow<'p, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor;
        impl<'de> Visitor<'de> for NameVisitor {
            type Value = Name<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(NameVisitor)
    }
}

/// Unix milliseconds, whole or with a fraction.
fn parse_ts(raw: &str) -> Result<Millis, String> {
    if let Ok(whole) = raw.parse::<i64>() {
        return Ok(Millis(whole));
    }
    match raw.parse::<f64>() {
        Ok(number) if number.abs() < 9e15 => Ok(Millis(number as i64)),
        _ => Err(format!("\"ts\" is {raw}; expected Unix time in milliseconds as a number")),
    }
}

fn text_of(raw: &str) -> Option<Cow<'_, str>> {
    raw.starts_with('"').then(|| serde_json::from_str::<Name<'_>>(raw).ok().map(|name| name.0)).flatten()
}

/// Numbers that a double can hold, booleans and texts.
fn is_value(raw: &str) -> bool {
    match raw.as_bytes().first() {
        Some(b'"' | b't' | b'f') => true,
        Some(b'-' | b'0'..=b'9') => raw.len() < 300 && !raw.contains(['e', 'E']) || finite(raw),
        _ => false,
    }
}

fn finite(raw: &str) -> bool {
    raw.parse::<f64>().is_ok_and(f64::is_finite)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bodies(payload: &str) -> Vec<(Option<i64>, String)> {
        let message = parse(payload.as_bytes()).expect(payload);
        let body = |set: &Set<'_>| String::from_utf8(set.body()).expect("utf-8");
        message.sets.iter().map(|set| (set.ts.map(|ts| ts.0), body(set))).collect()
    }

    #[test]
    fn flat_and_nested_and_arrays_mean_the_same() {
        let expected = vec![(Some(5), r#"{"values":{"temp":21.40,"on":true,"mode":"a\"b"}}"#.to_owned())];
        let flat = r#" {"ts":5,"temp":21.40,"deviceId":"x","on":true,"mode":"a\"b","nothing":null,"list":[1]}"#;
        assert_eq!(bodies(flat), expected);
        assert_eq!(bodies(r#"{"other":1,"values":{"temp":21.40,"on":true,"mode":"a\"b"},"late":2,"ts":5}"#), expected);
        assert_eq!(bodies(r#"[{"a":1},{"ts":2.5,"b":2}]"#).len(), 2);
        assert_eq!(bodies(r#"{"t\u0065mp":1}"#), [(None, r#"{"values":{"temp":1}}"#.to_owned())]);
    }

    #[test]
    fn digits_are_kept_as_they_came() {
        assert_eq!(
            bodies(r#"{"n":18446744073709551615,"x":0.10}"#)[0].1,
            r#"{"values":{"n":18446744073709551615,"x":0.10}}"#
        );
        assert_eq!(bodies(r#"{"huge":1e999,"x":1e3}"#)[0].1, r#"{"values":{"x":1e3}}"#);
    }

    #[test]
    fn firmware_is_recognised_without_being_a_value() {
        let message = parse(br#"{"firmwareVersion":"1.2.0"}"#).expect("good");
        assert_eq!((message.firmware.as_deref(), message.sets.len()), (Some("1.2.0"), 0));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (payload, part) in [
            (&b"{}"[..], "holds no value"),
            (b"[]", "holds no value"),
            (b"21.4", "expected an object"),
            (b"{\"ts\":\"noon\",\"a\":1}", "Unix time in milliseconds"),
            (b"{\"a\":1", "EOF"),
            (b"\xff", "UTF-8"),
            (b"", "EOF"),
            (b"[{\"a\":1},3]", "expected an object"),
        ] {
            let error = parse(payload).expect_err("refused").to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_every_body_is_json(payload in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(message) = parse(&payload) {
                for set in message.sets {
                    serde_json::from_slice::<serde_json::Value>(&set.body()).expect("a body is JSON");
                }
            }
        }

        #[test]
        fn any_name_survives(name in "\\PC{1,12}", value in any::<i32>()) {
            let payload = serde_json::json!({ "values": { name.clone(): value } }).to_string();
            let message = parse(payload.as_bytes()).expect("good");
            let body: serde_json::Value = serde_json::from_slice(&message.sets[0].body()).expect("JSON");
            prop_assert_eq!(&body["values"][&name], value);
        }
    }
}
