//! The shadows of AWS IoT Core: `$aws/things/{thing}/shadow…` of the cloud. What is sent of the log stays in the
//! contract's own dialect; a shadow is a document that both sides keep, so it is synced and not streamed.

use serde_json::{Map, Value as Json};

use crate::{
    config::shadow_sync::Subscribe,
    model::{
        ids::DeviceId,
        shadow::{name_is_valid, reconcile::Sections},
        topic::THINGS_ROOT,
    },
    uplink::sync::{
        look::Key,
        words::{Heard, Request, Token},
    },
};

/// Topics and payloads of one gateway's shadows.
#[derive(Debug, Clone)]
pub struct Aws {
    subscribe: Subscribe,
    named: bool,
    /// What the tokens of this gateway begin with, and those of this life.
    gateway: String,
    life: String,
}

impl Aws {
    /// `life` differs from start to start.
    pub fn new(gateway: &DeviceId, life: u64, subscribe: Subscribe, named: bool) -> Aws {
        // A token has 64 bytes at most, an id may have as many by itself.
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, gateway.as_str().as_bytes());
        let gateway = format!("headgate-{}", hex::encode(&digest.as_ref()[..6]));
        Aws { subscribe, named, life: format!("{gateway}-{life:x}-"), gateway }
    }

    /// Answers only: what a shadow looks like is told by them, and each message less is paid for once less.
    pub fn filters(&self, children: &[DeviceId]) -> Vec<String> {
        match self.subscribe {
            Subscribe::Wildcard => self.filters_below("+"),
            Subscribe::Each => children.iter().flat_map(|child| self.filters_of(child)).collect(),
        }
    }

    /// Filters for one device that came or went; none where a wildcard covers it.
    pub fn filters_of(&self, child: &DeviceId) -> Vec<String> {
        match self.subscribe {
            Subscribe::Wildcard => Vec::new(),
            Subscribe::Each => self.filters_below(child.as_str()),
        }
    }

    fn filters_below(&self, thing: &str) -> Vec<String> {
        let mut filters: Vec<String> =
            ["accepted", "rejected"].iter().map(|end| format!("{THINGS_ROOT}{thing}/shadow/+/{end}")).collect();
        if self.named {
            filters.extend(
                ["accepted", "rejected"].iter().map(|end| format!("{THINGS_ROOT}{thing}/shadow/name/+/+/{end}")),
            );
        }
        filters
    }

    /// A request as topic and payload.
    pub fn request(&self, (device, name): &Key, request: &Request, token: u64) -> (String, Vec<u8>) {
        let (operation, mut body) = match request {
            Request::Get => ("get", Map::new()),
            Request::Delete => ("delete", Map::new()),
            Request::Update { state, version, .. } => {
                let mut body = Map::from_iter([("state".to_owned(), state.clone())]);
                body.extend(version.map(|version| ("version".to_owned(), version.into())));
                ("update", body)
            }
        };
        body.insert("clientToken".to_owned(), format!("{}{token:x}", self.life).into());
        let topic = match name.as_str() {
            "" => format!("{THINGS_ROOT}{device}/shadow/{operation}"),
            name => format!("{THINGS_ROOT}{device}/shadow/name/{name}/{operation}"),
        };
        (topic, Json::Object(body).to_string().into_bytes())
    }

    /// What a message says of which shadow; `None` for what is no answer of the shadow service.
    pub fn heard(&self, topic: &str, payload: &[u8]) -> Option<(Key, Heard)> {
        let levels: Vec<&str> = topic.strip_prefix(THINGS_ROOT)?.split('/').collect();
        let (thing, name, operation, end) = match levels[..] {
            [thing, "shadow", operation, end] => (thing, "", operation, end),
            [thing, "shadow", "name", name, operation, end] if name_is_valid(name) => (thing, name, operation, end),
            _ => return None,
        };
        let key = (DeviceId::new(thing).ok()?, name.to_owned());
        let body: Json = serde_json::from_slice(payload).ok()?;
        let token = body.get("clientToken").and_then(Json::as_str).and_then(|token| self.token(token));
        let version = body.get("version").and_then(Json::as_u64);
        let heard = match (operation, end) {
            ("update", "accepted") => {
                Heard::Updated { version: version?, state: body.get("state").cloned().unwrap_or_default(), token }
            }
            ("delete", "accepted") => Heard::Deleted { version: version?, token },
            ("get", "accepted") => {
                let values = Sections::from_state(body.get("state").unwrap_or(&Json::Null));
                Heard::Got { version: version?, values, token }
            }
            ("get" | "update" | "delete", "rejected") => Heard::Rejected {
                code: body.get("code").and_then(Json::as_u64).and_then(|code| u16::try_from(code).ok())?,
                message: body.get("message").and_then(Json::as_str).unwrap_or_default().to_owned(),
                token,
            },
            _ => return None,
        };
        Some((key, heard))
    }

    fn token(&self, token: &str) -> Option<Token> {
        if let Some(number) = token.strip_prefix(&self.life) {
            return Some(Token { number: u64::from_str_radix(number, 16).ok()?, ours_now: true });
        }
        token.strip_prefix(&self.gateway)?.strip_prefix('-').map(|_| Token { number: 0, ours_now: false })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn id(text: &str) -> DeviceId {
        DeviceId::new(text).expect("id")
    }

    #[test]
    fn requests_and_answers_find_their_shadow_and_their_token() {
        let aws = Aws::new(&id("gw"), 7, Subscribe::Wildcard, true);
        let later = Aws::new(&id("gw"), 8, Subscribe::Wildcard, true);
        let other = Aws::new(&id("gx"), 7, Subscribe::Wildcard, true);
        let request = Request::Update { state: json!({"reported": {"a": 1}}), version: Some(4), bytes: 7 };
        for name in ["", "name", "get"] {
            let key = (id("d"), name.to_owned());
            let (topic, payload) = aws.request(&key, &request, 0x1f);
            let sent: Json = serde_json::from_slice(&payload).expect("JSON");
            assert_eq!((&sent["version"], &sent["state"]["reported"]["a"]), (&json!(4), &json!(1)));
            assert!(sent["clientToken"].as_str().expect("a token").len() <= 64);
            let answer = json!({"state": sent["state"], "version": 5, "clientToken": sent["clientToken"]}).to_string();
            let (found, heard) = aws.heard(&format!("{topic}/accepted"), answer.as_bytes()).expect("an answer");
            assert_eq!(found, key);
            let token = |number, ours_now| Some(Token { number, ours_now });
            let of = |heard: Heard| match heard {
                Heard::Updated { version: 5, token, .. } => token,
                other => panic!("{other:?}"),
            };
            assert_eq!(of(heard), token(0x1f, true));
            let heard = later.heard(&format!("{topic}/accepted"), answer.as_bytes()).expect("an answer").1;
            assert_eq!(of(heard), token(0, false), "ours, from an earlier life");
            let heard = other.heard(&format!("{topic}/accepted"), answer.as_bytes()).expect("an answer").1;
            assert_eq!(of(heard), None);
        }
        let rejected = aws.heard("$aws/things/d/shadow/get/rejected", br#"{"code":404,"message":"No shadow"}"#);
        assert!(matches!(rejected, Some((_, Heard::Rejected { code: 404, .. }))));
        assert!(aws.heard("$aws/things/d/shadow/update/delta", b"{}").is_none());
        assert!(aws.heard("$aws/things/d/shadow/get/accepted", b"no json").is_none());
    }

    #[test]
    fn without_a_wildcard_each_thing_has_its_own_filters() {
        let each = Aws::new(&id("gw"), 1, Subscribe::Each, true);
        assert_eq!(each.filters(&[id("a"), id("b")]).len(), 8);
        assert!(each.filters_of(&id("a")).contains(&"$aws/things/a/shadow/name/+/+/rejected".to_owned()));
        let all = Aws::new(&id("gw"), 1, Subscribe::Wildcard, false);
        assert_eq!(all.filters(&[id("a")]), ["$aws/things/+/shadow/+/accepted", "$aws/things/+/shadow/+/rejected"]);
        assert!(all.filters_of(&id("a")).is_empty());
    }
}
