//! What is said when the store has finished with a shadow: accepted, delta, documents, rejected, and to those who wait.

use std::sync::Arc;

use serde_json::{Map, Value as Json};

use super::{
    done::Purpose,
    keeper::{Keeping, unavailable},
    shadows::{Source, as_refusal},
    voice,
};
use crate::{
    bus::{LocalMessage, Reply},
    clock,
    model::{
        event::Event,
        ids::DeviceId,
        shadow::{self, Document, Outcome, Patch, Rejection, State},
        topic::ShadowOperation,
        view,
    },
    store::{
        StoreError,
        history::{self, Entry},
        shadows::{Deleted, Updated},
    },
};

impl Keeping {
    /// An update is on disk, or was refused.
    pub async fn updated(
        &mut self,
        device: DeviceId,
        name: Arc<str>,
        source: Source,
        result: Result<Result<Updated, Rejection>, StoreError>,
    ) {
        let operation = ShadowOperation::Update;
        match result {
            Ok(Ok(Updated::Changed(outcome))) => {
                let read_back = matches!(source, Source::Driver);
                self.announce(&device, &name, &outcome, read_back).await;
                match source {
                    Source::Topic(reply) | Source::State(reply) => drop(reply.send(Ok(()))),
                    Source::Order(reply) => drop(reply.send(Ok(accepted_order(&outcome.current)))),
                    Source::Driver | Source::Gateway => {}
                }
            }
            Ok(Ok(Updated::Unchanged(document))) => {
                if let Source::Order(reply) = source {
                    self.send_delta(&device, &document);
                    let _ = reply.send(Ok(accepted_order(&document)));
                }
            }
            Ok(Err(rejection)) => match source {
                Source::Topic(reply) => self.reject(&device, &name, operation, &rejection, reply),
                Source::State(reply) => {
                    self.refuse(&device, &voice::child(&device, "state"), as_refusal(&rejection), reply);
                }
                Source::Order(reply) => drop(reply.send(Err(as_refusal(&rejection)))),
                Source::Driver | Source::Gateway => {
                    tracing::warn!(%device, shadow = &*name, %rejection, "reported values do not fit the shadow");
                    self.voice.error(&device, &voice::child(&device, "state"), &as_refusal(&rejection), clock::now());
                }
            },
            Err(error) => self.not_stored(&device, &name, operation, source, &error),
        }
    }

    pub fn deleted(
        &mut self,
        device: &DeviceId,
        name: &Arc<str>,
        token: Option<String>,
        source: Source,
        result: Result<Deleted, StoreError>,
    ) {
        let operation = ShadowOperation::Delete;
        let named = (!name.is_empty()).then_some(&**name);
        match result {
            Ok(Deleted::Version(version)) => {
                let answer = shadow::deleted(version, clock::now(), token);
                self.voice.say(LocalMessage::new(voice::shadow(device, name, "delete/accepted"), answer));
                self.tell_shadow(device, name, version);
                match source {
                    Source::Topic(reply) | Source::State(reply) => drop(reply.send(Ok(()))),
                    Source::Order(reply) => drop(reply.send(Ok(serde_json::json!({ "version": version })))),
                    Source::Driver | Source::Gateway => {}
                }
            }
            Ok(other) => {
                let rejection = match other {
                    Deleted::Other => Rejection::new(409, "Version conflict", token),
                    _ => Rejection::no_shadow(device.as_str(), named, token),
                };
                match source {
                    Source::Topic(reply) => self.reject(device, name, operation, &rejection, reply),
                    Source::Order(reply) => drop(reply.send(Err(as_refusal(&rejection)))),
                    _ => {}
                }
            }
            Err(error) => self.not_stored(device, name, operation, source, &error),
        }
    }

    pub fn got(
        &mut self,
        device: &DeviceId,
        name: &Arc<str>,
        purpose: Purpose,
        result: Result<Option<Arc<Document>>, StoreError>,
    ) {
        let operation = ShadowOperation::Get;
        match (purpose, result) {
            (Purpose::Answer { token, reply }, Ok(Some(document))) => {
                let answer = shadow::got(&document, clock::now(), token);
                self.voice.say(LocalMessage::new(voice::shadow(device, name, "get/accepted"), answer));
                let _ = reply.send(Ok(()));
            }
            (Purpose::Answer { token, reply }, Ok(None)) => {
                let named = (!name.is_empty()).then_some(&**name);
                self.reject(device, name, operation, &Rejection::no_shadow(device.as_str(), named, token), reply);
            }
            (Purpose::Answer { reply, .. }, Err(error)) => {
                self.not_stored(device, name, operation, Source::Topic(reply), &error);
            }
            (Purpose::Level, Ok(Some(document))) => self.send_delta(device, &document),
            (Purpose::Level | Purpose::Remarks, Ok(_)) => {}
            (Purpose::Level | Purpose::Remarks, Err(error)) => {
                tracing::warn!(%device, %error, "the shadow could not be read")
            }
            (Purpose::Fetch(reply), Ok(document)) => {
                let delta = document.map(|document| document.delta().to_map()).unwrap_or_default();
                let _ = reply.send(Ok(Json::Object(delta)));
            }
            (Purpose::Fetch(reply), Err(error)) => drop(reply.send(Err(unavailable(&error)))),
        }
    }

    /// Tells everybody of an accepted update, in this order: delta, documents, accepted.
    pub async fn announce(&mut self, device: &DeviceId, name: &Arc<str>, outcome: &Outcome, read_back: bool) {
        let delta = outcome.current.delta();
        if let Some(message) = outcome.delta_message(&delta) {
            self.voice.say(LocalMessage::new(voice::shadow(device, name, "update/delta"), message));
        }
        self.voice.say(LocalMessage::new(voice::shadow(device, name, "update/documents"), outcome.documents()));
        self.voice.say(LocalMessage::new(voice::shadow(device, name, "update/accepted"), outcome.accepted()));
        self.tell_shadow(device, name, outcome.current.version);
        if !name.is_empty() {
            return;
        }
        let State::Sections { desired, reported } = &outcome.request.state else { return };
        let before = outcome.previous.as_ref().map(|document| document.delta()).unwrap_or_default();
        if *desired != Patch::Untouched || !before.same_values(&delta) {
            self.send_delta(device, &outcome.current);
        } else {
            self.pursue(device, delta.to_map());
        }
        if let Patch::Merge(reported) = reported {
            if read_back {
                let state = serde_json::json!({ "reported": reported, "ts": outcome.at }).to_string();
                self.voice.mirror(voice::child(device, "state"), state.into_bytes());
            }
            if let Some(Json::String(version)) = reported.get("firmwareVersion") {
                Box::pin(self.firmware(device, version, outcome.at, false)).await;
            }
        }
    }

    /// `devices/{d}/delta`, where anything is outstanding; to the driver, where there is one.
    fn send_delta(&mut self, device: &DeviceId, document: &Document) {
        let delta = document.delta();
        let delta = delta.to_map();
        if !delta.is_empty() {
            let payload = serde_json::to_vec(&delta).unwrap_or_default();
            self.voice.say(LocalMessage::new(voice::child(device, "delta"), payload));
        }
        self.pursue(device, delta);
    }

    fn tell_shadow(&self, device: &DeviceId, name: &Arc<str>, version: u64) {
        if self.events.watched() {
            let name = (!name.is_empty()).then(|| name.clone());
            self.events.tell(Event::Shadow { device: device.clone(), name, version });
        }
    }

    /// A request that is refused by its content is answered on its topic; its door may acknowledge it.
    pub(super) fn reject(
        &self,
        device: &DeviceId,
        name: &str,
        operation: ShadowOperation,
        rejection: &Rejection,
        reply: Reply,
    ) {
        let topic = voice::shadow(device, name, &format!("{}/rejected", operation.word()));
        self.voice.say(LocalMessage::new(topic, rejection.to_bytes(clock::now())));
        let _ = reply.send(Ok(()));
    }

    /// The disk refuses: the answer says so, and the door does not acknowledge.
    fn not_stored(
        &mut self,
        device: &DeviceId,
        name: &str,
        operation: ShadowOperation,
        source: Source,
        error: &StoreError,
    ) {
        tracing::warn!(%device, shadow = name, %error, "a shadow request could not be stored");
        match source {
            Source::Topic(reply) => {
                let rejection = Rejection::new(500, "Internal service failure", None);
                let topic = voice::shadow(device, name, &format!("{}/rejected", operation.word()));
                self.voice.say(LocalMessage::new(topic, rejection.to_bytes(clock::now())));
                let _ = reply.send(Err(unavailable(error)));
            }
            Source::State(reply) => self.refuse(device, &voice::child(device, "state"), unavailable(error), reply),
            Source::Order(reply) => drop(reply.send(Err(unavailable(error)))),
            Source::Driver | Source::Gateway => {}
        }
    }
}

fn accepted_order(document: &Document) -> Json {
    serde_json::json!({ "version": document.version, "delta": document.delta().to_map() })
}

/// An entry of the history as the page shows it: one change per section, nested members by their
/// path, null where one was removed.
pub(super) fn as_changes(entry: Entry) -> Vec<view::Change> {
    let shown = |section: &str, change: Json, before: Map<String, Json>| view::Change {
        at: entry.at,
        door: entry.door.clone(),
        shadow: (!entry.shadow.is_empty()).then(|| entry.shadow.clone()),
        section: section.to_owned(),
        note: (section == history::CLOUD).then(|| history::meaning(&change)).flatten().map(str::to_owned),
        change,
        before: (!before.is_empty()).then_some(Json::Object(before)),
        version: Some(entry.version),
        refusal: None,
    };
    if entry.deleted {
        return vec![shown("deleted", Json::Null, Map::new())];
    }
    let mut sections: std::collections::BTreeMap<&str, (Map<String, Json>, Map<String, Json>)> = Default::default();
    for change in &entry.changes {
        let (section, path) = change.path.split_once('/').unwrap_or((&change.path, ""));
        let (after, before) = sections.entry(section).or_default();
        after.insert(path.to_owned(), change.to.clone().unwrap_or_default());
        before.extend(change.from.clone().map(|from| (path.to_owned(), from)));
    }
    sections.into_iter().map(|(section, (after, before))| shown(section, Json::Object(after), before)).collect()
}
