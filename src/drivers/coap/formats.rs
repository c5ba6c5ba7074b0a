//! Bodies to values and back: text, JSON, CBOR (RFC 8949) and SenML (RFC 8428), by their content format, never guessed.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value as Json, json};

use crate::{
    config::coap::Format,
    model::{reading::Value, time::Millis},
};

/// Arrays and maps inside one another at most; deeper bodies are refused before they can exhaust the stack.
const DEEPEST: usize = 16;
/// SenML times below this count from now (RFC 8428 section 4.5.3): 2^28 seconds.
const ABSOLUTE: f64 = 268_435_456.0;

/// A SenML record after its base values were applied.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    pub name: String,
    pub value: Value,
    pub ts: Millis,
}

/// What a body says.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    /// Text, JSON or CBOR: one value or a document.
    Document(Json),
    /// A SenML pack: named values, each with its time.
    Points(Vec<Point>),
}

/// Reads a body; `now` is the time relative SenML times count from.
pub fn decode(format: Format, bytes: &[u8], now: Millis) -> Result<Body, String> {
    match format {
        Format::Text => {
            let text = std::str::from_utf8(bytes).map_err(|_| "the text is not UTF-8".to_owned())?;
            Ok(Body::Document(scalar(text.trim())))
        }
        Format::Json => json_of(bytes).map(Body::Document),
        Format::Cbor => cbor(bytes, false).map(Body::Document),
        Format::SenmlJson => senml(&json_of(bytes)?, now).map(Body::Points),
        Format::SenmlCbor => senml(&cbor(bytes, true)?, now).map(Body::Points),
    }
}

/// A body as the JSON the contract's topics carry: a SenML pack becomes reading sets, one per time.
pub fn to_contract(format: Format, bytes: &[u8], now: Millis) -> Result<Json, String> {
    match decode(format, bytes, now)? {
        Body::Document(json) => Ok(json),
        Body::Points(points) => {
            let mut sets: Vec<(Millis, Map<String, Json>)> = Vec::new();
            for point in points {
                let value = point.value.to_json();
                match sets.iter_mut().find(|(ts, _)| *ts == point.ts) {
                    Some((_, values)) => drop(values.insert(point.name, value)),
                    None => sets.push((point.ts, Map::from_iter([(point.name, value)]))),
                }
            }
            Ok(sets.into_iter().map(|(ts, values)| json!({ "ts": ts, "values": values })).collect())
        }
    }
}

/// One value to write, as a resource of this format takes it; in an object under `member` where that is given.
pub fn encode(format: Format, name: &str, member: Option<&str>, value: &Json) -> Result<Vec<u8>, String> {
    let wrapped = match member {
        Some(member) => json!({ member: value }),
        None => value.clone(),
    };
    match format {
        Format::Text => match value {
            Json::String(text) => Ok(text.clone().into_bytes()),
            Json::Number(_) | Json::Bool(_) => Ok(value.to_string().into_bytes()),
            _ => Err("a text resource takes one value".into()),
        },
        Format::Json => serde_json::to_vec(&wrapped).map_err(|e| e.to_string()),
        Format::Cbor => to_cbor(&wrapped),
        Format::SenmlJson | Format::SenmlCbor => {
            let (label, number) = match value {
                Json::Bool(_) => ("vb", 4),
                Json::String(_) => ("vs", 3),
                Json::Number(_) => ("v", 2),
                _ => return Err("a SenML record takes one value".into()),
            };
            let name = member.unwrap_or(name);
            if format == Format::SenmlJson {
                return serde_json::to_vec(&json!([{ "n": name, label: value }])).map_err(|e| e.to_string());
            }
            // Labels are integers in SenML-CBOR (RFC 8428 table 6): array(1), map(2), 0 => name, number => value.
            let mut bytes = vec![0x81, 0xa2, 0x00];
            bytes.extend(to_cbor(&json!(name))?);
            bytes.push(number);
            bytes.extend(to_cbor(value)?);
            Ok(bytes)
        }
    }
}

pub fn to_cbor(json: &Json) -> Result<Vec<u8>, String> {
    minicbor_serde::to_vec(json).map_err(|e| e.to_string())
}

fn json_of(bytes: &[u8]) -> Result<Json, String> {
    serde_json::from_slice(bytes).map_err(|e| format!("not JSON: {e}"))
}

/// `21.5`, `true`, or the text itself.
fn scalar(text: &str) -> Json {
    match text {
        "true" => return Json::Bool(true),
        "false" => return Json::Bool(false),
        _ => {}
    }
    let integer = text.parse::<i64>().ok().map(Json::from);
    let float = || text.parse::<f64>().ok().filter(|f| f.is_finite()).and_then(Number::from_f64).map(Json::Number);
    integer.or_else(float).unwrap_or_else(|| Json::String(text.to_owned()))
}

fn cbor(bytes: &[u8], labels: bool) -> Result<Json, String> {
    let mut deserializer = minicbor_serde::Deserializer::new(bytes);
    let value = Tree { depth: 0, labels }.deserialize(&mut deserializer).map_err(|e| format!("not CBOR: {e}"))?;
    match deserializer.decoder().position() {
        end if end == bytes.len() => Ok(value),
        end => Err(format!("not CBOR: {} bytes after its end", bytes.len() - end)),
    }
}

/// CBOR to JSON: integer keys become text (SenML labels their names), bytes become base64.
#[derive(Clone, Copy)]
struct Tree {
    depth: usize,
    labels: bool,
}

impl Tree {
    fn deeper<E: serde::de::Error>(self) -> Result<Tree, E> {
        match self.depth {
            DEEPEST => Err(E::custom("nested too deeply")),
            depth => Ok(Tree { depth: depth + 1, ..self }),
        }
    }

    fn key(self, key: Json) -> String {
        match (key.as_i64(), key) {
            (Some(number), _) if self.labels => senml_label(number),
            (_, Json::String(text)) => text,
            (_, other) => other.to_string(),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Tree {
    type Value = Json;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree {
    type Value = Json;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(value.into())
    }

    fn visit_f32<E>(self, value: f32) -> Result<Json, E> {
        // By its shortest digits: 21.5f32 and 0.1f32 read as people wrote them.
        Ok(value.to_string().parse::<f64>().ok().and_then(Number::from_f64).map_or(Json::Null, Json::Number))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Json, E> {
        Ok(Number::from_f64(value).map_or(Json::Null, Json::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Json, E> {
        Ok(value.into())
    }

    fn visit_bytes<E>(self, value: &[u8]) -> Result<Json, E> {
        Ok(STANDARD.encode(value).into())
    }

    fn visit_none<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
        let inside = self.deeper()?;
        let mut array = Vec::new();
        while let Some(item) = items.next_element_seed(inside)? {
            array.push(item);
        }
        Ok(Json::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Json, A::Error> {
        let inside = self.deeper()?;
        let mut map = Map::new();
        while let Some(key) = entries.next_key_seed(inside)? {
            map.insert(self.key(key), entries.next_value_seed(inside)?);
        }
        Ok(Json::Object(map))
    }
}

/// RFC 8428 table 6.
fn senml_label(number: i64) -> String {
    let label = match number {
        -6 => "bs",
        -5 => "bv",
        -4 => "bu",
        -3 => "bt",
        -2 => "bn",
        -1 => "bver",
        0 => "n",
        1 => "u",
        2 => "v",
        3 => "vs",
        4 => "vb",
        5 => "s",
        6 => "t",
        7 => "ut",
        8 => "vd",
        other => return other.to_string(),
    };
    label.to_owned()
}

/// Resolves a SenML pack. A record is called by its own name, or by the base name where it has none: whose it is says
/// the device, not a URN before each name.
fn senml(pack: &Json, now: Millis) -> Result<Vec<Point>, String> {
    let records = pack.as_array().ok_or("not SenML: no array of records")?;
    let (mut base_name, mut base_time, mut base_value) = (String::new(), 0.0, 0.0);
    let mut points = Vec::new();
    for (index, record) in records.iter().enumerate() {
        let record = record.as_object().ok_or_else(|| format!("not SenML: record {index} is no object"))?;
        let number = |label: &str| record.get(label).and_then(Json::as_f64);
        if let Some(unknown) = record.keys().find(|key| key.ends_with('_')) {
            return Err(format!("record {index} must be understood whole, and {unknown:?} is not known here"));
        }
        if let Some(name) = record.get("bn").and_then(Json::as_str) {
            base_name = name.to_owned();
        }
        base_time = number("bt").unwrap_or(base_time);
        base_value = number("bv").unwrap_or(base_value);
        let value = match (record.get("v"), record.get("vs"), record.get("vb")) {
            (Some(v), _, _) if base_value == 0.0 => Value::from_json(v),
            (Some(v), _, _) => v.as_f64().map(|v| Value::Float(v + base_value)),
            (_, Some(Json::String(text)), _) => Some(Value::Text(text.as_str().into())),
            (_, _, Some(Json::Bool(flag))) => Some(Value::Bool(*flag)),
            _ => None,
        };
        let Some(value) = value else { continue };
        let own = record.get("n").and_then(Json::as_str).unwrap_or("");
        let name = if own.is_empty() { base_name.trim_end_matches([':', '/']) } else { own };
        if name.is_empty() {
            return Err(format!("record {index} has no name"));
        }
        let seconds = base_time + number("t").unwrap_or(0.0);
        let millis = (seconds * 1000.0) as i64;
        let ts = if seconds < ABSOLUTE { now.plus(millis) } else { Millis(millis) };
        points.push(Point { name: name.to_owned(), value, ts });
    }
    Ok(points)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Millis = Millis(1_760_000_000_000);

    #[test]
    fn text_is_a_value() {
        for (text, value) in [("21.5", json!(21.5)), (" 7\n", json!(7)), ("true", json!(true)), ("NaN", json!("NaN"))] {
            assert_eq!(decode(Format::Text, text.as_bytes(), NOW), Ok(Body::Document(value)));
        }
    }

    #[test]
    fn senml_base_values_and_times() {
        let pack = json!([
            {"bn": "urn:dev:ow:10e2:", "bt": 1_276_020_076.001, "n": "voltage", "v": 120.1},
            {"n": "current", "t": -5, "v": 1.5},
            {"n": "label", "vs": "x"},
            {"bn": "urn:dev:ow:10e2:open", "bt": 0, "vb": true},
            {"n": "sum", "s": 3.0}
        ]);
        let Ok(Body::Points(points)) = decode(Format::SenmlJson, pack.to_string().as_bytes(), NOW) else {
            panic!("no")
        };
        let shown: Vec<(&str, i64)> = points.iter().map(|p| (p.name.as_str(), p.ts.0)).collect();
        assert_eq!(
            shown,
            [
                ("voltage", 1_276_020_076_001),
                ("current", 1_276_020_071_001),
                ("label", 1_276_020_076_001),
                ("urn:dev:ow:10e2:open", NOW.0)
            ]
        );
    }

    #[test]
    fn the_cbor_example_of_rfc_8428_reads_like_its_json() {
        // Section 6: [{-2: "urn:dev:ow:10e2073a0108006:", -3: 1276020076.001, -4: "A", -1: 5, 0: "voltage", 1: "V", 2: 120.1}, …]
        let bytes = hex::decode(
            "87a721781b75726e3a6465763a6f773a3130653230373361303130383030363a22fb41d303a15b00106223614120050067766f6c7461676501615602fb405e066666666666a3006763757272656e74062402fb3ff3333333333333a3006763757272656e74062302fb3ff4cccccccccccda3006763757272656e74062202fb3ff6666666666666a3006763757272656e74062102f93e00a3006763757272656e74062002fb3ff999999999999aa3006763757272656e74060002fb3ffb333333333333",
        )
        .expect("hex");
        let Ok(Body::Points(points)) = decode(Format::SenmlCbor, &bytes, NOW) else { panic!("no") };
        assert_eq!(points.len(), 7);
        assert_eq!((points[0].name.as_str(), &points[0].value), ("voltage", &Value::Float(120.1)));
        assert_eq!((points[4].ts, &points[4].value), (Millis(1_276_020_074_001), &Value::Float(1.5)), "a half float");
    }

    #[test]
    fn what_is_written_reads_back() {
        for (_, format) in Format::ALL {
            for value in [json!(21.5), json!(-3), json!(true), json!("eco")] {
                let bytes = encode(format, "setpoint", None, &value).expect("encodes");
                let back = match decode(format, &bytes, NOW).expect("decodes") {
                    Body::Document(json) => json,
                    Body::Points(points) => points[0].value.to_json(),
                };
                assert_eq!(back, value, "{format:?}");
            }
        }
        assert_eq!(encode(Format::Json, "s", Some("value"), &json!(1)).expect("encodes"), br#"{"value":1}"#);
    }

    #[test]
    fn bottomless_nesting_is_refused() {
        let error = decode(Format::Cbor, &[0x81; 60_000], NOW).expect_err("too deep");
        assert!(error.contains("nested too deeply"), "{error}");
        decode(Format::Json, &[b'['; 60_000], NOW).expect_err("too deep");
        decode(Format::Cbor, &[0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], NOW).expect_err("no such array");
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            for (_, format) in Format::ALL {
                let _ = to_contract(format, &bytes, NOW);
            }
        }
    }
}
