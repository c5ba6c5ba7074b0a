//! The shadow service and the plain topics that lead to the same documents.

use std::sync::Arc;

use serde_json::{Map, Value as Json};

use super::{
    done::{Done, Purpose, REQUEST},
    keeper::{Keeping, unavailable},
    voice,
};
use crate::{
    bus::{Inbound, LocalMessage, OrderKind, Reply},
    clock,
    model::{
        command::{Door, Refusal, RefusalCode},
        event::Event,
        ids::DeviceId,
        shadow::{self, Document, OWN_SHADOW, Outcome, Patch, Rejection, Request, State},
        time::Millis,
        topic::{ChildTopic, ShadowOperation, ShadowTopic},
        view,
    },
    store::{
        StoreError,
        history::Entry,
        shadows::{Deleted, How, Updated},
    },
};

/// Where a change came from, and who waits for its end.
pub(super) enum Source {
    /// A request on a shadow topic: answered there.
    Topic(Reply),
    /// `devices/{d}/state`.
    State(Reply),
    Order(Reply<Json>),
    /// A read-back: mirrored as `devices/{d}/state`.
    Driver,
    /// The gateway's own remarks; nobody waits.
    Gateway,
}

/// A request to delete a shadow; with a version only that one is deleted.
pub(super) struct Deletion {
    pub token: Option<String>,
    pub version: Option<u64>,
}

impl Keeping {
    /// A request on a shadow topic, or reported state on its plain topic.
    pub async fn shadow_inbound(&mut self, inbound: Inbound) {
        let Inbound { device, topic, payload, at, door, reply } = inbound;
        match topic {
            ChildTopic::Shadow(ShadowTopic { name, operation }) => {
                let name: Arc<str> = name.unwrap_or_default().into();
                let classic = name.is_empty();
                let mut rejected = None;
                if !classic && !shadow::name_is_valid(&name) {
                    rejected = Some(Rejection::new(400, "Invalid shadow name", shadow::token_of(&payload)));
                } else if *name == *OWN_SHADOW && operation != ShadowOperation::Get {
                    rejected = Some(Rejection::new(403, "Forbidden", shadow::token_of(&payload)));
                }
                let how = self.how(door, at);
                match (rejected, operation) {
                    (Some(rejection), _) => self.reject(&device, &name, operation, &rejection, reply),
                    (None, ShadowOperation::Get) => {
                        let token = shadow::token_of(&payload);
                        self.read_shadow(device, name, Purpose::Answer { token, reply }).await;
                    }
                    (None, ShadowOperation::Delete) => {
                        let token = shadow::token_of(&payload);
                        let request = Deletion { token, version: None };
                        self.delete_shadow(device, name, request, how, Source::Topic(reply)).await;
                    }
                    (None, ShadowOperation::Update) => match Request::parse(&payload, &self.limits) {
                        Ok(request) => self.update_shadow(device, name, request, how, Source::Topic(reply)).await,
                        Err(rejection) => self.reject(&device, &name, operation, &rejection, reply),
                    },
                }
            }
            _ => match state_request(&payload) {
                Ok(request) => match request.check(&self.limits) {
                    Ok(request) => {
                        let how = self.how(door, at);
                        self.update_shadow(device, "".into(), request, how, Source::State(reply)).await;
                    }
                    Err(rejection) => {
                        self.refuse(&device, &voice::child(&device, "state"), as_refusal(&rejection), reply);
                    }
                },
                Err(why) => {
                    let refusal = Refusal::new(RefusalCode::PayloadInvalid, why);
                    self.refuse(&device, &voice::child(&device, "state"), refusal, reply);
                }
            },
        }
    }

    /// Desired values from the cloud or a technician.
    pub async fn shadow_order(&mut self, device: DeviceId, door: Door, what: OrderKind, reply: Reply<Json>) {
        let mut how = self.how(door, clock::now());
        let mut until =
            self.settings.desired_expiry.map(|span| how.at.plus(i64::try_from(span.as_millis()).unwrap_or(i64::MAX)));
        how.until = until;
        let request = match what {
            OrderKind::ShadowUpdate { name, document } => {
                let name: Arc<str> = name.unwrap_or_default().into();
                return match Request::from_json(document, &self.limits) {
                    Ok(request) => self.update_shadow(device, name, request, how, Source::Order(reply)).await,
                    Err(rejection) => drop(reply.send(Err(as_refusal(&rejection)))),
                };
            }
            OrderKind::Delta(Json::Object(desired)) => Ok(Request::desired(desired)),
            OrderKind::Desired(document) => {
                if let Some(at) = document.get("expiresAt").and_then(Json::as_i64) {
                    until = Some(Millis(at));
                }
                desired_request(document)
            }
            _ => Err("expected a JSON object: {\"name\": value, …}".to_owned()),
        };
        // At least once means twice at times: the second time changes nothing.
        how.only_changes = true;
        how.until = until;
        if let Some(until) = until {
            self.next_expiry = Some(self.next_expiry.map_or(until, |next| next.min(until)));
        }
        let checked = match request {
            Ok(request) => request.check(&self.limits).map_err(|rejection| as_refusal(&rejection)),
            Err(why) => Err(Refusal::new(RefusalCode::PayloadInvalid, why)),
        };
        match checked {
            Ok(request) => self.update_shadow(device, "".into(), request, how, Source::Order(reply)).await,
            Err(refusal) => drop(reply.send(Err(refusal))),
        }
    }

    /// What a driver read back from the device.
    pub async fn read_back(&mut self, device: DeviceId, ts: Millis, reported: Map<String, Json>) {
        self.heard(&device, clock::now());
        let how = How { only_changes: true, ..self.how(Door::Device, ts) };
        self.update_shadow(device, "".into(), Request::reported(reported), how, Source::Driver).await;
    }

    /// Reported values the gateway knows by other means.
    pub async fn report(&mut self, device: DeviceId, reported: Map<String, Json>, door: Door, at: Millis) {
        let how = How { only_changes: true, ..self.how(door, at) };
        self.update_shadow(device, "".into(), Request::reported(reported), how, Source::Gateway).await;
    }

    pub async fn update_shadow(
        &mut self,
        device: DeviceId,
        name: Arc<str>,
        request: Request,
        how: How,
        source: Source,
    ) {
        let done = self.begin(REQUEST);
        let (of, called) = (device.clone(), name.clone());
        let then = move |result| drop(done.send(Done::Updated { device: of, name: called, source, result }));
        let _ = self.store.shadow_update_then(device, name, request, how, then).await;
    }

    pub async fn delete_shadow(
        &mut self,
        device: DeviceId,
        name: Arc<str>,
        request: Deletion,
        how: How,
        source: Source,
    ) {
        let done = self.begin(REQUEST);
        let (of, called) = (device.clone(), name.clone());
        let Deletion { token, version } = request;
        let then = move |result| drop(done.send(Done::Deleted { device: of, name: called, token, source, result }));
        let _ = self.store.shadow_delete_then(device, name, version, how, then).await;
    }

    /// Reads a shadow as it is after all that was queued before.
    pub async fn read_shadow(&mut self, device: DeviceId, name: Arc<str>, purpose: Purpose) {
        let done = self.begin(REQUEST);
        let (of, called) = (device.clone(), name.clone());
        let then = move |result| drop(done.send(Done::Got { device: of, name: called, purpose, result }));
        let _ = self.store.shadow_get_then(device, name, then).await;
    }

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
    fn reject(&self, device: &DeviceId, name: &str, operation: ShadowOperation, rejection: &Rejection, reply: Reply) {
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

/// `devices/{d}/state`: `{"reported": {…}, "desired": null?}`.
fn state_request(payload: &[u8]) -> Result<Request, String> {
    let shape = "expected {\"reported\": {…}, \"desired\": null?}";
    let json: Json = serde_json::from_slice(payload).map_err(|error| format!("{shape}: {error}"))?;
    let Json::Object(mut members) = json else { return Err(shape.to_owned()) };
    let reported = match members.remove("reported") {
        Some(Json::Object(reported)) => Patch::Merge(reported),
        Some(Json::Null) => Patch::Remove,
        Some(_) => return Err(format!("{shape}; \"reported\" is not an object")),
        None if members.contains_key("desired") => Patch::Untouched,
        None => return Err(format!("{shape}; \"reported\" is missing")),
    };
    let desired = match members.remove("desired") {
        None => Patch::Untouched,
        Some(Json::Null) => Patch::Remove,
        Some(_) => return Err(format!("{shape}; a device may clear \"desired\" with null, not set it")),
    };
    Ok(Request::sections(desired, reported))
}

/// `desired` from the cloud: `{"desired": {…}, "version"?, "expiresAt"?}`.
fn desired_request(document: Json) -> Result<Request, String> {
    let shape = "expected {\"desired\": {…}, \"version\"?}";
    let Json::Object(mut members) = document else { return Err(shape.to_owned()) };
    let desired = match members.remove("desired") {
        Some(Json::Object(desired)) => Patch::Merge(desired),
        Some(Json::Null) => Patch::Remove,
        _ => return Err(shape.to_owned()),
    };
    let mut request = Request::sections(desired, Patch::Untouched);
    request.version = match members.remove("version") {
        None | Some(Json::Null) => None,
        Some(version) => Some(version.as_u64().ok_or_else(|| format!("{shape}; \"version\" is no whole number"))?),
    };
    Ok(request)
}

/// A rejection in the words of the plain topics and orders.
pub(super) fn as_refusal(rejection: &Rejection) -> Refusal {
    let code = match rejection.code {
        403 | 401 => RefusalCode::NotAuthorized,
        404 => RefusalCode::UnknownDevice,
        409 => RefusalCode::VersionConflict,
        413 => RefusalCode::TooLarge,
        500.. => RefusalCode::Internal,
        _ => RefusalCode::PayloadInvalid,
    };
    Refusal::new(code, rejection.message.clone())
}

/// An entry of the history as the page shows it: one change per section, nested members by their
/// path, null where one was removed.
pub(super) fn as_changes(entry: Entry) -> Vec<view::Change> {
    let shown = |section: &str, change: Json| view::Change {
        at: entry.at,
        door: entry.door.clone(),
        shadow: (!entry.shadow.is_empty()).then(|| entry.shadow.clone()),
        section: section.to_owned(),
        change,
        version: Some(entry.version),
        refusal: None,
    };
    if entry.deleted {
        return vec![shown("deleted", Json::Null)];
    }
    let mut sections: std::collections::BTreeMap<&str, Map<String, Json>> = Default::default();
    for change in &entry.changes {
        let (section, path) = change.path.split_once('/').unwrap_or((&change.path, ""));
        sections.entry(section).or_default().insert(path.to_owned(), change.to.clone().unwrap_or_default());
    }
    sections.into_iter().map(|(section, changes)| shown(section, Json::Object(changes))).collect()
}
