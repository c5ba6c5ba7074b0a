//! Whether a tool request is one, said in words for people: every field by its name, what was found, what would be right.

use serde_json::{Map, Value as Json};

use super::tools::ToolRequest;

/// What a field of a request holds.
enum Holds {
    Whole(u64, u64),
    Number,
    Text,
    Texts,
    Anything,
}

/// A bus is not held for longer than this by one request.
const LONGEST_WAIT: u64 = 60_000;
const LONGEST_TRIAL: u64 = 24 * 3_600_000;

const FIELDS: [(&str, Holds); 22] = [
    ("tool", Holds::Text),
    ("bus", Holds::Text),
    ("device", Holds::Text),
    ("unit", Holds::Whole(0, 255)),
    ("timeoutMs", Holds::Whole(5, LONGEST_WAIT)),
    ("name", Holds::Text),
    ("table", Holds::Text),
    ("address", Holds::Whole(0, 65_535)),
    ("file", Holds::Whole(0, 65_535)),
    ("count", Holds::Whole(1, 2000)),
    ("type", Holds::Text),
    ("order", Holds::Text),
    ("scale", Holds::Number),
    ("value", Holds::Anything),
    ("revertAfterMs", Holds::Whole(0, LONGEST_TRIAL)),
    ("units", Holds::Text),
    ("lines", Holds::Texts),
    ("probes", Holds::Texts),
    ("pdu", Holds::Text),
    ("display", Holds::Number),
    ("around", Holds::Whole(0, 65_535)),
    ("seconds", Holds::Number),
];

/// Tools, and what they cannot do without.
const TOOLS: [(&str, &[&str]); 9] = [
    ("status", &[]),
    ("scan", &[]),
    ("identify", &[]),
    ("read", &[]),
    ("write", &["value"]),
    ("raw", &["pdu"]),
    ("solve", &["address", "display"]),
    ("budget", &[]),
    ("scope", &[]),
];

/// The request, or what is wrong with it.
pub(super) fn understand(request: Json) -> Result<ToolRequest, String> {
    let names = || TOOLS.map(|(name, _)| name).join(", ");
    let Json::Object(fields) = &request else {
        return Err(format!(
            "a tool request is an object, such as {{\"tool\": \"status\"}}; the tools are {}",
            names()
        ));
    };
    let tool = fields.get("tool").unwrap_or(&Json::Null);
    let known = TOOLS.iter().find(|(name, _)| tool.as_str() == Some(name));
    let Some((name, needed)) = known else {
        return Err(format!("tool: {} is none; one of {}", short(tool), names()));
    };
    fields.iter().try_for_each(|(name, value)| check(name, value))?;
    if let Some(missing) = needed.iter().find(|field| missing(fields, field)) {
        return Err(format!("{missing} is missing: {name} needs {}", needed.join(" and ")));
    }
    serde_json::from_value(request).map_err(|error| error.to_string())
}

fn missing(fields: &Map<String, Json>, name: &str) -> bool {
    fields.get(name).is_none_or(|value| value.is_null() && name != "value")
}

fn check(name: &str, value: &Json) -> Result<(), String> {
    let Some((_, holds)) = FIELDS.iter().find(|(field, _)| *field == name) else {
        // Not passed over: a revert that is misspelled would not happen.
        let fields = FIELDS.iter().map(|(field, _)| *field);
        let near = fields.filter(|field| field.starts_with(name) || name.starts_with(field)).collect::<Vec<_>>();
        let hint = if near.is_empty() { String::new() } else { format!("; did you mean {}?", near.join(" or ")) };
        return Err(format!("{name} is no field of a tool request{hint}"));
    };
    let wanted = match holds {
        _ if value.is_null() => return Ok(()),
        Holds::Whole(least, most) if !value.as_u64().is_some_and(|number| (*least..=*most).contains(&number)) => {
            format!("a whole number from {least} to {most}")
        }
        Holds::Number if !value.is_number() => "a number".to_owned(),
        Holds::Text if !value.is_string() => "a text".to_owned(),
        Holds::Texts if !value.as_array().is_some_and(|texts| texts.iter().all(Json::is_string)) => {
            "a list of texts".to_owned()
        }
        _ => return Ok(()),
    };
    Err(format!("{name}: found {}, wanted {wanted}", short(value)))
}

/// What was found, without filling a page.
pub(super) fn short(value: &Json) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
