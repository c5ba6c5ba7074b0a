//! What was measured: values with a name, a time and a quality.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, json};

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
    /// The record body: `{"values": {…}, "q": {…}?}` (`docs/mqtt.md`, telemetry).
    pub fn body(&self) -> Json {
        let mut values = Map::new();
        let mut quality = Map::new();
        for sample in &self.samples {
            if let Some(value) = &sample.value {
                values.insert(sample.name.to_string(), value.to_json());
            }
            if let Some(q) = sample.quality.wire() {
                quality.insert(sample.name.to_string(), Json::String(q));
            }
        }
        let mut body = Map::from_iter([("values".to_owned(), Json::Object(values))]);
        if !quality.is_empty() {
            body.insert("q".to_owned(), Json::Object(quality));
        }
        Json::Object(body)
    }
}
