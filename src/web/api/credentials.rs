//! Credentials of children: `/v1/credentials/…`, their enrolment, and the authority they are to trust.

use std::net::SocketAddr;

use axum::{
    Extension, Json,
    extract::{Path, Query, State, rejection::QueryRejection},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Answer, Body, device};
use crate::{
    identity::{AuthorityView, CredentialView, IdentityError, Issue, Refused, Secret},
    model::command::{Refusal, RefusalCode},
    web::{
        App,
        access::{Caller, Via},
        failure::Failure,
    },
};

impl From<IdentityError> for Failure {
    fn from(error: IdentityError) -> Self {
        match error {
            IdentityError::Unknown(message) => Failure::not_found(message),
            IdentityError::Authority(_) | IdentityError::Tls(_) => match Refusal::from(error) {
                refusal if refusal.code == RefusalCode::Internal => Failure::inside(refusal.message),
                refusal => refusal.into(),
            },
            other => Refusal::from(other).into(),
        }
    }
}

#[derive(Deserialize)]
pub struct Of {
    #[serde(default)]
    device: Option<String>,
}

pub async fn list(State(app): State<App>, query: Result<Query<Of>, QueryRejection>) -> Answer<Vec<CredentialView>> {
    let Query(of) = query.map_err(|error| Failure::invalid(error.body_text()))?;
    let of = of.device.as_deref().map(device).transpose()?;
    Ok(Json(app.identity.credentials(of.as_ref())))
}

/// What is wanted; the kind decides what else must be given.
#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Wanted {
    Token,
    Password {
        password: String,
    },
    /// Without a request the key is made here and handed out once.
    Certificate {
        #[serde(default)]
        request: Option<String>,
    },
    /// A certificate of another authority, in PEM.
    Register {
        certificate: String,
    },
}

impl From<Wanted> for Issue {
    fn from(wanted: Wanted) -> Self {
        match wanted {
            Wanted::Token => Issue::Token,
            Wanted::Password { password } => Issue::Password(Secret::new(password)),
            Wanted::Certificate { request: Some(request) } => Issue::Request(request),
            Wanted::Certificate { request: None } => Issue::Certificate,
            Wanted::Register { certificate } => Issue::Register(certificate),
        }
    }
}

/// `{"device", "kind", …}`: the answer holds what is shown once.
pub async fn issue(State(app): State<App>, caller: Caller, Body(mut body): Body<Value>) -> Answer<Value> {
    let id = body.as_object_mut().and_then(|body| body.remove("device"));
    let id = id.as_ref().and_then(Value::as_str).ok_or_else(|| Failure::invalid("give a \"device\""))?;
    let wanted: Wanted =
        serde_json::from_value(body).map_err(|error| Failure::invalid(format!("the body: {error}")))?;
    let issued = app.identity.issue(&device(id)?, wanted.into(), &caller.who()).await?;
    Ok(Json(issued.handout()))
}

/// A successor; the old one counts until the new one was used. `{}` keeps the kind.
pub async fn rotate(
    State(app): State<App>,
    Path(id): Path<String>,
    caller: Caller,
    Body(body): Body<Value>,
) -> Answer<Value> {
    let wanted = match body.as_object() {
        Some(empty) if empty.is_empty() => None,
        _ => {
            let wanted: Wanted =
                serde_json::from_value(body).map_err(|error| Failure::invalid(format!("the body: {error}")))?;
            Some(wanted.into())
        }
    };
    Ok(Json(app.identity.rotate(&id, wanted, &caller.who()).await?.handout()))
}

#[derive(Deserialize)]
pub struct Because {
    #[serde(default)]
    reason: Option<String>,
}

pub async fn revoke(
    State(app): State<App>,
    Path(id): Path<String>,
    query: Result<Query<Because>, QueryRejection>,
    caller: Caller,
) -> Answer<Value> {
    let Query(because) = query.map_err(|error| Failure::invalid(error.body_text()))?;
    let reason = because.reason.unwrap_or_else(|| format!("revoked by {}", caller.name));
    app.identity.revoke(&id, &reason, &caller.who()).await?;
    Ok(Json(json!({})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct For {
    device: String,
}

/// A short-lived code with which a child fetches its own credential once.
pub async fn code(State(app): State<App>, caller: Caller, Body(wanted): Body<For>) -> Answer<Value> {
    let device = device(&wanted.device)?;
    let (code, expires) = app.identity.enrolment_code(&device, &caller.who()).await?;
    Ok(Json(json!({ "device": device, "code": code.expose(), "expires": expires })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Enrolment {
    code: String,
    /// PKCS #10 in PEM; a token is handed out without one.
    #[serde(default)]
    request: Option<String>,
}

/// For children: a code becomes a credential.
pub async fn enrol(
    State(app): State<App>,
    Extension(via): Extension<Via>,
    Body(enrolment): Body<Enrolment>,
) -> Answer<Value> {
    Ok(Json(app.identity.enrol(&enrolment.code, enrolment.request, peer(&via)).await?.handout()))
}

fn peer(via: &Via) -> Option<SocketAddr> {
    match via {
        Via::Net { peer, .. } => Some(*peer),
        Via::Socket { .. } => None,
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Renewal {
    /// The certificate in use, in PEM.
    certificate: String,
    /// PKCS #10 in PEM.
    request: String,
    /// The old key's signature over the request, where that is for another key.
    #[serde(default)]
    proof: Option<String>,
}

/// For children: a certificate that is due vouches for the next one.
pub async fn renew(
    State(app): State<App>,
    Extension(via): Extension<Via>,
    Body(renewal): Body<Renewal>,
) -> Answer<Value> {
    let Renewal { certificate, request, proof } = renewal;
    Ok(Json(app.identity.renew(&certificate, request, proof.as_deref(), peer(&via)).await?.handout()))
}

/// Who was refused at the doors, and why.
pub async fn refused(State(app): State<App>) -> Json<Vec<Refused>> {
    Json(app.identity.refusals())
}

/// The gateway's certificate authority, to be pinned after its fingerprint was compared.
pub async fn authority(State(app): State<App>) -> Json<AuthorityView> {
    Json(app.identity.authority())
}

/// Begins the change to a new authority.
pub async fn rotate_authority(State(app): State<App>, caller: Caller) -> Answer<AuthorityView> {
    Ok(Json(app.identity.rotate_authority(&caller.who()).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retirement {
    /// Revoke what the old authority signed and nobody renewed.
    #[serde(default)]
    force: bool,
}

/// Ends the change: the old authority is trusted no longer.
pub async fn retire_authority(
    State(app): State<App>,
    caller: Caller,
    Body(Retirement { force }): Body<Retirement>,
) -> Answer<Value> {
    Ok(Json(json!({ "revoked": app.identity.retire_authority(force, &caller.who()).await? })))
}
