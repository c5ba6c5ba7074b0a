//! What was measured: values with a name, a time and a quality.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::{ids::DeviceId, time::Millis};

/// A measured value. A 64-bit counter keeps all its digits; a float that is not finite never becomes a value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    Bool(bool),
    Int(i64),
    Uint(u64),
    Float(f64),
    Text(Arc<str>),
}

impl Value {
    pub fn to_json(&self) -> Json {
        match self {
            Value::Bool(b) => json!(b),
            Value::Int(i) => json!(i),
            Value::Uint(u) => json!(u),
            Value::Float(f) => json!(f),
            Value::Text(t) => json!(&**t),
        }
    }

    /// `None` for null, arrays and objects: they are no measured values.
    pub fn from_json(json: &Json) -> Option<Value> {
        match json {
            Json::Bool(b) => Some(Value::Bool(*b)),
            Json::Number(n) => (n.as_i64().map(Value::Int))
                .or_else(|| n.as_u64().map(Value::Uint))
                .or_else(|| n.as_f64().filter(|f| f.is_finite()).map(Value::Float)),
            Json::String(s) => Some(Value::Text(s.as_str().into())),
            _ => None,
        }
    }

    /// The value as a number for plots and limits; booleans count as 0 and 1.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Value::Bool(b) => Some(f64::from(u8::from(*b))),
            Value::Int(i) => Some(*i as f64),
            Value::Uint(u) => Some(*u as f64),
            Value::Float(f) => Some(*f),
            Value::Text(_) => None,
        }
    }
}

/// How far a value can be trusted. Anything but `Good` travels with the value and names its reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "camelCase", tag = "quality")]
pub enum Quality {
    #[default]
    Good,
    /// The device is silent; the value is the last one known, measured at `since`.
    Stale { since: Millis, reason: Arc<str> },
    /// The device answered, but this value cannot be had (exception, invalid marker, out of range).
    Bad { reason: Arc<str> },
}

impl Quality {
    pub fn is_good(&self) -> bool {
        matches!(self, Quality::Good)
    }

    /// The short form under `"q"` on the wire: `"stale: timeout"`, `"bad: illegal data address"`.
    pub fn wire(&self) -> Option<String> {
        match self {
            Quality::Good => None,
            Quality::Stale { reason, .. } => Some(format!("stale: {reason}")),
            Quality::Bad { reason } => Some(format!("bad: {reason}")),
        }
    }
}

/// One named value. `value` is `None` only where the quality is not good and no earlier value is known.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    pub name: Arc<str>,
    pub value: Option<Value>,
    pub quality: Quality,
}

impl Sample {
    pub fn good(name: impl Into<Arc<str>>, value: Value) -> Self {
        Self { name: name.into(), value: Some(value), quality: Quality::Good }
    }
}

/// What one device said at one time: the unit that is logged, shown and sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    pub device: DeviceId,
    /// When it was measured, never when it was sent.
    pub ts: Millis,
    pub samples: Vec<Sample>,
}

impl Reading {
    /// The record body as JSON text: `{"values": {…}, "q": {…}?}` (`docs/mqtt.md`, telemetry). Written in one pass:
    /// thousands of values a second go through here.
    pub fn body(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(16 + self.samples.len() * 20);
        body.extend_from_slice(b"{\"values\":{");
        let mut first = true;
        for sample in &self.samples {
            if let Some(value) = &sample.value {
                member(&mut body, &mut first, &sample.name, value);
            }
        }
        body.push(b'}');
        let mut first = true;
        for sample in self.samples.iter().filter(|sample| !sample.quality.is_good()) {
            if first {
                body.extend_from_slice(b",\"q\":{");
            }
            member(&mut body, &mut first, &sample.name, &sample.quality.wire());
        }
        if !first {
            body.push(b'}');
        }
        body.push(b'}');
        body
    }
}

/// Appends `"name":value`, with a comma where it is not the first.
fn member(body: &mut Vec<u8>, first: &mut bool, name: &str, value: &impl Serialize) {
    if !std::mem::replace(first, false) {
        body.push(b',');
    }
    serde_json::to_writer(&mut *body, name).expect("a text can be written as JSON");
    body.push(b':');
    serde_json::to_writer(body, value).expect("a finite number or a text can be written as JSON");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_holds_every_value_and_every_reason() {
        let bad = Quality::Bad { reason: "exception 2".into() };
        let since = Quality::Stale { since: Millis(5), reason: "no \"reply\"".into() };
        let samples = vec![
            Sample::good("a\"b", Value::Float(230.4)),
            Sample::good("n", Value::Uint(u64::MAX)),
            Sample { name: "gone".into(), value: None, quality: bad },
            Sample { name: "old".into(), value: Some(Value::Text("x".into())), quality: since },
        ];
        let mut reading = Reading { device: DeviceId::new("d").expect("an id"), ts: Millis(1), samples };
        let body: Json = serde_json::from_slice(&reading.body()).expect("JSON");
        let expected = json!({
            "values": {"a\"b": 230.4, "n": u64::MAX, "old": "x"},
            "q": {"gone": "bad: exception 2", "old": "stale: no \"reply\""},
        });
        assert_eq!(body, expected);
        reading.samples.truncate(2);
        assert_eq!(serde_json::from_slice::<Json>(&reading.body()).expect("JSON").get("q"), None);
        reading.samples.clear();
        assert_eq!(reading.body(), b"{\"values\":{}}");
    }
}
