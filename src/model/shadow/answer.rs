//! What the shadow service says: the documents of `accepted`, `delta`, `documents`, `get` and `delete`.

use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::Value as Json;

use super::{
    Document, Outcome, Tree,
    request::echo,
    tree::{Metadata, Values},
};
use crate::model::time::Millis;

fn bytes(answer: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(answer).expect("an answer's names are texts and its numbers are JSON's")
}

/// Sections that are empty are not shown.
struct Shown<'d> {
    document: &'d Document,
    delta: Option<&'d Tree>,
    metadata: bool,
}

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (name, tree) in [("desired", &self.document.desired), ("reported", &self.document.reported)] {
            if tree.is_empty() {
                continue;
            }
            match self.metadata {
                true => map.serialize_entry(name, &Metadata(tree))?,
                false => map.serialize_entry(name, &Values(tree))?,
            }
        }
        if let Some(delta) = self.delta {
            map.serialize_entry("delta", &Values(delta))?;
        }
        map.end()
    }
}

fn values(document: &Document) -> Shown<'_> {
    Shown { document, delta: None, metadata: false }
}

fn metadata(document: &Document) -> Shown<'_> {
    Shown { document, delta: None, metadata: true }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer<V: Serialize, M: Serialize> {
    state: V,
    metadata: M,
    version: u64,
    timestamp: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_token: Option<String>,
}

impl Outcome {
    /// `update/accepted`: the request again, with the metadata it caused.
    pub fn accepted(&self) -> Vec<u8> {
        let timestamp = self.at.seconds();
        let (state, metadata) = echo(&self.request.state, timestamp);
        let client_token = self.request.token.clone();
        bytes(&Answer::<Json, Json> { state, metadata, version: self.current.version, timestamp, client_token })
    }

    /// `update/delta`, where anything is outstanding after the update.
    pub fn delta_message(&self, delta: &Tree) -> Option<Vec<u8>> {
        (!delta.is_empty()).then(|| {
            bytes(&Answer {
                state: Values(delta),
                metadata: Metadata(delta),
                version: self.current.version,
                timestamp: self.at.seconds(),
                client_token: self.request.token.clone(),
            })
        })
    }

    /// `update/documents`: the whole before and after.
    pub fn documents(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct Whole<'d> {
            state: Shown<'d>,
            metadata: Shown<'d>,
            version: u64,
        }
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Documents<'d> {
            previous: Option<Whole<'d>>,
            current: Whole<'d>,
            timestamp: i64,
            #[serde(skip_serializing_if = "Option::is_none")]
            client_token: Option<&'d str>,
        }
        let whole =
            |document| Whole { state: values(document), metadata: metadata(document), version: document.version };
        bytes(&Documents {
            previous: self.previous.as_deref().map(whole),
            current: whole(&self.current),
            timestamp: self.at.seconds(),
            client_token: self.request.token.as_deref(),
        })
    }
}

/// `get/accepted`.
pub fn got(document: &Document, now: Millis, token: Option<String>) -> Vec<u8> {
    let delta = document.delta();
    let delta = (!delta.is_empty()).then_some(&delta);
    bytes(&Answer {
        state: Shown { document, delta, metadata: false },
        metadata: metadata(document),
        version: document.version,
        timestamp: now.seconds(),
        client_token: token,
    })
}

/// `delete/accepted`: `version` is the one that was deleted.
pub fn deleted(version: u64, now: Millis, token: Option<String>) -> Vec<u8> {
    let mut answer = serde_json::json!({ "version": version, "timestamp": now.seconds() });
    if let Some(token) = token {
        answer["clientToken"] = Json::String(token);
    }
    answer.to_string().into_bytes()
}
