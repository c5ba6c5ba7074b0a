//! From the body of a resource to named values, as its configuration says; pure.

use serde_json::{Map, Value as Json};

use super::formats::{Body, decode, encode};
use crate::{
    config::coap::{Format, Resource},
    model::{
        command::{Refusal, RefusalCode},
        reading::Value,
        time::Millis,
    },
};

/// A value under the name it has here.
pub type Named = (String, Value);

/// The values of an answer, grouped by the time they were measured.
pub fn values(
    resource: &Resource,
    format: Option<u16>,
    body: &[u8],
    now: Millis,
) -> Result<Vec<(Millis, Vec<Named>)>, String> {
    let format = known_format(resource, format)?;
    match decode(format, body, now)? {
        Body::Document(json) => {
            let mut named = Vec::new();
            document(resource, &json, &mut named)?;
            Ok(vec![(now, named)])
        }
        Body::Points(points) => {
            let single = points.len() == 1;
            let mut groups: Vec<(Millis, Vec<Named>)> = Vec::new();
            for point in points {
                let name = match &resource.name {
                    Some(name) if single => name.clone(),
                    _ => renamed(resource, &point.name),
                };
                match groups.iter_mut().find(|(ts, _)| *ts == point.ts) {
                    Some((_, named)) => named.push((name, point.value)),
                    None => groups.push((point.ts, vec![(name, point.value)])),
                }
            }
            Ok(groups)
        }
    }
}

/// The format the device names, or the configured one where it names none.
pub fn known_format(resource: &Resource, named: Option<u16>) -> Result<Format, String> {
    match named {
        Some(number) => {
            Format::from_number(number).ok_or_else(|| format!("content format {number} carries no values known here"))
        }
        None => {
            resource.format.ok_or_else(|| "the device names no content format; set format for this resource".into())
        }
    }
}

fn document(resource: &Resource, json: &Json, named: &mut Vec<Named>) -> Result<(), String> {
    let own = || resource.name.clone().unwrap_or_else(|| last_segment(&resource.path).to_owned());
    if let Some(member) = &resource.member {
        let value = json.get(member).and_then(Value::from_json);
        named.push((own(), value.ok_or_else(|| format!("the body has no value {member:?}"))?));
        return Ok(());
    }
    match json {
        Json::Object(map) => flatten(resource, resource.name.as_deref().unwrap_or(""), map, named),
        json => named.push((own(), Value::from_json(json).ok_or("the body is no value and no object of values")?)),
    }
    Ok(())
}

/// Objects inside objects become `outer.inner`; what is no value is left out.
fn flatten(resource: &Resource, prefix: &str, map: &Map<String, Json>, named: &mut Vec<Named>) {
    for (key, json) in map {
        let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        match json {
            Json::Object(inner) => flatten(resource, &name, inner, named),
            json => named.extend(Value::from_json(json).map(|value| (renamed(resource, &name), value))),
        }
    }
}

fn renamed(resource: &Resource, name: &str) -> String {
    resource.rename.get(name).cloned().unwrap_or_else(|| name.to_owned())
}

fn last_segment(path: &str) -> &str {
    let path = path.split('?').next().unwrap_or(path);
    path.rsplit('/').next().unwrap_or(path)
}

/// The body that sets a writable resource to `value`, or why it may not be set so.
pub fn to_write(resource: &Resource, format: Format, value: &Json) -> Result<Vec<u8>, Refusal> {
    let refuse = |code, why: String| Refusal::new(code, why);
    if Value::from_json(value).is_none() {
        return Err(refuse(RefusalCode::PayloadInvalid, "takes a number, a text, true or false".into()));
    }
    let bounded = resource.min.is_some() || resource.max.is_some();
    match value.as_f64() {
        Some(number) => {
            let (min, max) = (resource.min.unwrap_or(f64::NEG_INFINITY), resource.max.unwrap_or(f64::INFINITY));
            if number < min || number > max {
                return Err(refuse(RefusalCode::OutOfRange, format!("{number} is not between {min} and {max}")));
            }
        }
        None if bounded => return Err(refuse(RefusalCode::PayloadInvalid, format!("{value} is not a number"))),
        None => {}
    }
    let name = resource.name.as_deref().unwrap_or_default();
    encode(format, name, resource.member.as_deref(), value).map_err(|why| refuse(RefusalCode::PayloadInvalid, why))
}

/// Whether a value that was read back is the one that was written; floats may have lost digits in 32 bits.
pub fn agrees(written: &Json, read: &Value) -> bool {
    match (written.as_f64(), read) {
        (Some(a), Value::Int(_) | Value::Uint(_) | Value::Float(_)) => {
            let b = read.as_f64().unwrap_or(f64::NAN);
            (a - b).abs() <= 1e-6 * a.abs().max(b.abs())
        }
        _ => *written == read.to_json(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::coap::Mode;
    use serde_json::json;

    fn resource() -> Resource {
        Resource {
            path: "sensors/climate?fast=1".into(),
            mode: Mode::Poll,
            every: std::time::Duration::from_secs(1),
            format: None,
            name: None,
            member: None,
            rename: [("t".to_owned(), "temperature".to_owned())].into(),
            state: false,
            writable: false,
            min: None,
            max: None,
        }
    }

    #[test]
    fn names_come_from_the_body_or_the_configuration() {
        let read = |resource: &Resource, format, body: &str| {
            let groups = values(resource, format, body.as_bytes(), Millis(5)).expect("values");
            groups.into_iter().flat_map(|(_, named)| named).collect::<Vec<_>>()
        };
        let whole = read(&resource(), Some(50), r#"{"t": 21.5, "air": {"co2": 400}, "list": [1]}"#);
        assert_eq!(whole, [("air.co2".into(), Value::Int(400)), ("temperature".into(), Value::Float(21.5))]);
        assert_eq!(read(&resource(), Some(0), "7"), [("climate".into(), Value::Int(7))]);
        let member = Resource { member: Some("v".into()), name: Some("x".into()), ..resource() };
        assert_eq!(read(&member, Some(50), r#"{"v": 1, "w": 2}"#), [("x".into(), Value::Int(1))]);
        assert!(values(&resource(), None, b"7", Millis(5)).is_err_and(|why| why.contains("set format")));
        assert!(values(&resource(), Some(42), b"7", Millis(5)).is_err());
    }

    #[test]
    fn a_value_is_checked_before_it_is_written() {
        let bounded = Resource { min: Some(5.0), max: Some(30.0), ..resource() };
        assert_eq!(to_write(&bounded, Format::Text, &json!(21)), Ok(b"21".to_vec()));
        assert_eq!(to_write(&bounded, Format::Text, &json!(31)).expect_err("range").code, RefusalCode::OutOfRange);
        assert_eq!(to_write(&bounded, Format::Text, &json!("x")).expect_err("text").code, RefusalCode::PayloadInvalid);
        assert_eq!(
            to_write(&resource(), Format::Json, &json!([1])).expect_err("list").code,
            RefusalCode::PayloadInvalid
        );
        assert!(agrees(&json!(21.3), &Value::Float(f64::from(21.3f32))) && !agrees(&json!(21), &Value::Int(22)));
    }
}
