//! An update request as bytes to a checked value, in the order of checks of `docs/shadow.md`.

use std::borrow::Cow;

use serde_json::{Map, Value as Json};

use super::{Limits, tree::Mirror};
use crate::model::time::Millis;

/// Longest client token, bytes: of jobs too.
pub(in crate::model) const TOKEN_BYTES: usize = 64;

/// Why a shadow request was refused; becomes the `rejected` answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Rejection {
    /// As in HTTP: 400, 403, 404, 409, 413, 415, 500.
    pub code: u16,
    pub message: Cow<'static, str>,
    /// The request's client token, where it had a usable one.
    pub token: Option<String>,
}

impl Rejection {
    pub fn new(code: u16, message: impl Into<Cow<'static, str>>, token: Option<String>) -> Self {
        Self { code, message: message.into(), token }
    }

    pub fn no_shadow(thing: &str, name: Option<&str>, token: Option<String>) -> Self {
        let message = match name {
            None => format!("No shadow exists with name: '{thing}'"),
            Some(name) => format!("No shadow exists with name: '{thing}~{name}'"),
        };
        Self::new(404, message, token)
    }

    /// The `rejected` answer.
    pub fn to_bytes(&self, now: Millis) -> Vec<u8> {
        let mut answer = serde_json::json!({
            "code": self.code, "message": self.message, "timestamp": now.seconds(),
        });
        if let Some(token) = &self.token {
            answer["clientToken"] = Json::String(token.clone());
        }
        answer.to_string().into_bytes()
    }
}

/// What a request does to one section.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Patch {
    #[default]
    Untouched,
    /// `null`: the section and its metadata go.
    Remove,
    Merge(Map<String, Json>),
}

/// The request's `state`.
#[derive(Debug, Clone, PartialEq)]
pub enum State {
    /// `null`: both sections go.
    Remove,
    Sections {
        desired: Patch,
        reported: Patch,
    },
}

/// An update request that is right in itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    pub state: State,
    pub token: Option<String>,
    /// The version the sender believes to be current.
    pub version: Option<u64>,
}

impl Request {
    pub fn parse(payload: &[u8], limits: &Limits) -> Result<Request, Rejection> {
        let text = std::str::from_utf8(payload)
            .map_err(|_| Rejection::new(415, "Unsupported documented encoding; supported encoding is UTF-8", None))?;
        let json: Json = serde_json::from_str(text).map_err(|error| {
            let deep = error.to_string().starts_with("recursion limit");
            Rejection::new(400, if deep { TOO_DEEP } else { "Invalid JSON" }, None)
        })?;
        Self::from_json(json, limits)
    }

    pub fn from_json(json: Json, limits: &Limits) -> Result<Request, Rejection> {
        let Json::Object(mut members) = json else {
            return Err(Rejection::new(400, "Request document must be an object", None));
        };
        let token = match members.remove("clientToken") {
            None => None,
            Some(Json::String(token)) if token.len() <= TOKEN_BYTES => Some(token),
            Some(_) => return Err(Rejection::new(400, "Invalid clientToken", None)),
        };
        match Self::checked(members, limits) {
            Ok((state, version)) => Ok(Request { state, token, version }),
            Err(message) => Err(Rejection::new(400, message, token)),
        }
    }

    /// A request of the gateway's own making: `reported` merged, nothing else.
    pub fn reported(reported: Map<String, Json>) -> Request {
        Self::sections(Patch::Untouched, Patch::Merge(reported))
    }

    /// A request of the gateway's own making: `desired` merged, nothing else.
    pub fn desired(desired: Map<String, Json>) -> Request {
        Self::sections(Patch::Merge(desired), Patch::Untouched)
    }

    pub fn sections(desired: Patch, reported: Patch) -> Request {
        Request { state: State::Sections { desired, reported }, token: None, version: None }
    }

    /// For requests that did not come as bytes through [`Request::parse`]: levels and nulls in arrays.
    pub fn check(self, limits: &Limits) -> Result<Request, Rejection> {
        if let State::Sections { desired, reported } = &self.state {
            for patch in [desired, reported] {
                if let Patch::Merge(map) = patch {
                    check_values(map, 1, limits).map_err(|message| Rejection::new(400, message, self.token.clone()))?;
                }
            }
        }
        Ok(self)
    }

    fn checked(mut members: Map<String, Json>, limits: &Limits) -> Result<(State, Option<u64>), Cow<'static, str>> {
        let state = match members.remove("state") {
            None => return Err("Missing required node: state".into()),
            Some(Json::Null) => State::Remove,
            Some(Json::Object(mut sections)) => {
                let desired = sections.remove("desired");
                let reported = sections.remove("reported");
                if let Some(other) = sections.keys().next() {
                    return Err(format!("State contains an invalid node: '{other}'").into());
                }
                let desired = patch(desired, "Desired node must be an object")?;
                let reported = patch(reported, "Reported node must be an object")?;
                for section in [&desired, &reported] {
                    if let Patch::Merge(map) = section {
                        check_values(map, 1, limits)?;
                    }
                }
                State::Sections { desired, reported }
            }
            Some(_) => return Err("State node must be an object".into()),
        };
        let version = match members.remove("version") {
            None => None,
            Some(version) => Some(version.as_u64().ok_or("Invalid version")?),
        };
        Ok((state, version))
    }
}

const TOO_DEEP: &str = "JSON contains too many levels of nesting; maximum is 6";

fn patch(section: Option<Json>, wrong: &'static str) -> Result<Patch, &'static str> {
    match section {
        None => Ok(Patch::Untouched),
        Some(Json::Null) => Ok(Patch::Remove),
        Some(Json::Object(map)) => Ok(Patch::Merge(map)),
        Some(_) => Err(wrong),
    }
}

/// Levels of members, and no null inside an array.
fn check_values(map: &Map<String, Json>, level: usize, limits: &Limits) -> Result<(), &'static str> {
    if level > limits.depth && !map.is_empty() {
        return Err(TOO_DEEP);
    }
    map.values().try_for_each(|value| match value {
        Json::Object(below) => check_values(below, level + 1, limits),
        Json::Array(items) => check_items(items, level, limits),
        _ => Ok(()),
    })
}

fn check_items(items: &[Json], level: usize, limits: &Limits) -> Result<(), &'static str> {
    items.iter().try_for_each(|item| match item {
        Json::Null => Err("Arrays must not contain null"),
        Json::Array(below) => check_items(below, level, limits),
        Json::Object(below) => check_values_in_array(below, level + 1, limits),
        _ => Ok(()),
    })
}

fn check_values_in_array(map: &Map<String, Json>, level: usize, limits: &Limits) -> Result<(), &'static str> {
    if level > limits.depth && !map.is_empty() {
        return Err(TOO_DEEP);
    }
    map.values().try_for_each(|value| check_items(std::slice::from_ref(value), level, limits))
}

impl Patch {
    /// As it was sent; `None` where it was not.
    pub fn to_json(&self) -> Option<Json> {
        match self {
            Patch::Untouched => None,
            Patch::Remove => Some(Json::Null),
            Patch::Merge(map) => Some(Json::Object(map.clone())),
        }
    }
}

impl State {
    /// As it was sent.
    pub fn to_json(&self) -> Json {
        match self {
            State::Remove => Json::Null,
            State::Sections { desired, reported } => {
                let sections = [("desired", desired), ("reported", reported)];
                let sent = sections.into_iter().filter_map(|(name, patch)| Some((name.to_owned(), patch.to_json()?)));
                Json::Object(sent.collect())
            }
        }
    }
}

/// The state as sent, and its metadata, for the `accepted` answer.
pub(super) fn echo(state: &State, stamp: i64) -> (Json, Json) {
    let sent = state.to_json();
    let metadata = serde_json::to_value(Mirror { value: &sent, stamp }).unwrap_or_default();
    (sent, metadata)
}

/// The client token of a `get` or `delete`: anything else in their payload is ignored.
pub fn token_of(payload: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Asked {
        #[serde(rename = "clientToken")]
        token: Json,
    }
    match serde_json::from_slice::<Asked>(payload).ok()?.token {
        Json::String(token) if token.len() <= TOKEN_BYTES => Some(token),
        _ => None,
    }
}
