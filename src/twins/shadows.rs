//! The shadow service and the plain topics that lead to the same documents.

use std::sync::Arc;

use serde_json::{Map, Value as Json};

use super::{
    done::{Done, Purpose, REQUEST},
    keeper::Keeping,
    voice,
};
use crate::{
    bus::{Inbound, OrderKind, Reply},
    clock,
    model::{
        command::{Door, Refusal, RefusalCode},
        ids::DeviceId,
        shadow::{self, OWN_SHADOW, Patch, Rejection, Request},
        time::Millis,
        topic::{ChildTopic, ShadowOperation, ShadowTopic},
    },
    store::shadows::How,
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
        let Inbound { device, topic, payload, at, door, reply, .. } = inbound;
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
                if let Ok(Some(at)) = expires_at(&document) {
                    if at <= how.at {
                        let late = Refusal::new(RefusalCode::Expired, "the order had expired when it arrived");
                        return drop(reply.send(Err(late)));
                    }
                    until = Some(at);
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
    let shape = "expected {\"desired\": {…}, \"version\"?, \"expiresAt\"?}";
    expires_at(&document).map_err(|why| format!("{shape}; {why}"))?;
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

fn expires_at(document: &Json) -> Result<Option<Millis>, &'static str> {
    match document.get("expiresAt") {
        None | Some(Json::Null) => Ok(None),
        Some(at) => at.as_i64().map(|at| Some(Millis(at))).ok_or("\"expiresAt\" is no Unix time in milliseconds"),
    }
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
