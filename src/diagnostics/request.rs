//! A diagnostics request as it is asked (`docs/mqtt.md`, diagnostics), read leniently and refused with a reason.

use serde_json::Value as Json;

use crate::model::{
    command::{Refusal, RefusalCode},
    time::Millis,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    SystemInfo,
    LogTail,
    Metrics,
    ConfigDump,
    Ping,
    Network,
    Reboot,
    Capture,
}

impl What {
    const WORDS: [(&'static str, What); 8] = [
        ("system-info", What::SystemInfo),
        ("log-tail", What::LogTail),
        ("metrics", What::Metrics),
        ("config-dump", What::ConfigDump),
        ("ping", What::Ping),
        ("network", What::Network),
        ("reboot", What::Reboot),
        ("capture", What::Capture),
    ];

    pub fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(_, what)| *what == self).map_or("", |(word, _)| word)
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    pub id: String,
    pub what: What,
    pub params: Json,
    pub confirmation_token: Option<String>,
    /// As it came, to be passed on or echoed.
    pub whole: Json,
}

/// Longest request id, in bytes.
const MAX_ID: usize = 128;

/// The id a document names, even where the rest of it is wrong: an error answer bears it.
pub fn id_of(document: &Json) -> Option<&str> {
    document.get("requestId")?.as_str().filter(|id| !id.is_empty() && id.len() <= MAX_ID)
}

impl Request {
    pub fn read(document: &Json, now: Millis) -> Result<Request, Refusal> {
        let invalid = |text: String| Refusal::new(RefusalCode::PayloadInvalid, text);
        if !document.is_object() {
            return Err(invalid("a diagnostics request is a JSON object with requestId and type".into()));
        }
        let Some(id) = id_of(document) else {
            return Err(invalid(format!("requestId is missing; expected a text of 1 to {MAX_ID} bytes")));
        };
        let words = || What::WORDS.map(|(word, _)| word).join(", ");
        let what = match document.get("type").and_then(Json::as_str) {
            None => return Err(invalid(format!("type is missing; one of {}", words()))),
            Some(word) => match What::WORDS.iter().find(|(known, _)| *known == word) {
                Some((_, what)) => *what,
                None => return Err(invalid(format!("type {word:?} is not known; one of {}", words()))),
            },
        };
        match document.get("expiresAt") {
            None | Some(Json::Null) => {}
            Some(at) => match at.as_i64() {
                Some(at) if Millis(at) <= now => {
                    return Err(Refusal::new(RefusalCode::Expired, format!("the request expired at {at}")));
                }
                Some(_) => {}
                None => return Err(invalid("expiresAt is not a time in Unix milliseconds".into())),
            },
        }
        let params = document.get("params").cloned().unwrap_or_default();
        if !(params.is_null() || params.is_object()) {
            return Err(invalid("params is not a JSON object".into()));
        }
        let token = document.get("confirmationToken").or_else(|| params.get("confirmationToken"));
        Ok(Request {
            id: id.to_owned(),
            what,
            confirmation_token: token.and_then(Json::as_str).map(str::to_owned),
            params,
            whole: document.clone(),
        })
    }

    /// A whole number of `params`, held within `range`.
    pub fn number(&self, name: &str, normal: u64, range: std::ops::RangeInclusive<u64>) -> u64 {
        let found = self.params.get(name).and_then(Json::as_u64).unwrap_or(normal);
        found.clamp(*range.start(), *range.end())
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        self.params.get(name).and_then(Json::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_wrong_is_said_and_what_would_be_right() {
        let now = Millis(1000);
        let code = |document: Json| Request::read(&document, now).expect_err("refused").code;
        assert_eq!(code(json!([1])), RefusalCode::PayloadInvalid);
        assert_eq!(code(json!({"type": "ping"})), RefusalCode::PayloadInvalid);
        assert_eq!(code(json!({"requestId": "a", "type": "ping", "expiresAt": 1000})), RefusalCode::Expired);
        assert_eq!(code(json!({"requestId": "a", "type": "ping", "expiresAt": "soon"})), RefusalCode::PayloadInvalid);
        let refusal = Request::read(&json!({"requestId": "a", "type": "pong"}), now).expect_err("refused");
        assert!(refusal.message.contains("log-tail"), "{refusal}");
        let read = Request::read(&json!({"requestId": "a", "type": "log-tail", "params": {"lines": 9000}}), now);
        assert_eq!(read.expect("read").number("lines", 200, 1..=2000), 2000);
    }
}
