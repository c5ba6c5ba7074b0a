//! Coming in and going out: `/v1/session`, and who else is in: `/v1/sessions`, `/v1/accounts`.

use axum::{
    Extension, Json,
    extract::{Path, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Answer, Body};
use crate::{
    identity::{
        Secret,
        login::{AccountView, Role, SessionView, SignInRefused, Technician},
    },
    web::{
        App,
        access::{Caller, Via},
        doorstep::cookie_name,
        failure::Failure,
    },
};

impl From<SignInRefused> for Failure {
    fn from(refused: SignInRefused) -> Self {
        let message = refused.to_string();
        let failure = |status, code| Failure::new(status, code, message.clone());
        match refused {
            SignInRefused::BadCredentials => failure(StatusCode::UNAUTHORIZED, "bad-credentials"),
            SignInRefused::BadCode => failure(StatusCode::UNAUTHORIZED, "bad-code"),
            SignInRefused::Locked { retry_after } => {
                failure(StatusCode::TOO_MANY_REQUESTS, "locked").retry_after(retry_after.as_secs().max(1))
            }
            SignInRefused::Crowded => failure(StatusCode::SERVICE_UNAVAILABLE, "busy").retry_after(1),
            SignInRefused::BadName => failure(StatusCode::UNPROCESSABLE_ENTITY, "bad-name"),
            SignInRefused::Password(_) => failure(StatusCode::UNPROCESSABLE_ENTITY, "bad-password"),
            SignInRefused::Refused(_) => failure(StatusCode::CONFLICT, "refused"),
            SignInRefused::Store(error) => {
                tracing::error!(%error, "a login could not be stored");
                let message = "the gateway cannot store this now";
                Failure::new(StatusCode::SERVICE_UNAVAILABLE, "store-unavailable", message)
            }
        }
    }
}

/// Who is asking; with nobody logged in, whether the first account is still to be made.
pub async fn whoami(State(app): State<App>, caller: Option<Extension<Caller>>) -> Json<Value> {
    Json(match caller {
        Some(Extension(caller)) => {
            json!({ "account": caller.name, "role": caller.role, "fresh": caller.fresh, "local": caller.session.is_none() })
        }
        None => json!({ "account": null, "firstLogin": app.identity.accounts().is_empty() }),
    })
}

/// With a code: sets the password of `account` first. The password is never part of an error.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credentials {
    account: String,
    password: String,
    #[serde(default)]
    code: Option<String>,
}

pub async fn log_in(
    State(app): State<App>,
    Extension(via): Extension<Via>,
    Body(given): Body<Credentials>,
) -> Result<Response, Failure> {
    let Via::Net { tls, peer, .. } = via else {
        return Err(Failure::invalid("the control socket needs no login"));
    };
    let password = Secret::new(given.password);
    let opened = match given.code {
        Some(code) => app.identity.redeem(&code, &given.account, &password, Some(peer)).await,
        None => app.identity.sign_in(&given.account, &password, Some(peer)).await,
    };
    let (id, technician) = opened?;
    Ok(with_cookie(tls, Some(&id), Json(described(&technician))))
}

fn described(technician: &Technician) -> Value {
    json!({ "account": technician.name, "role": technician.role })
}

pub async fn log_out(
    State(app): State<App>,
    Extension(via): Extension<Via>,
    caller: Caller,
) -> Result<Response, Failure> {
    if let Some(session) = &caller.session {
        app.identity.sign_out(session.expose()).await?;
    }
    let tls = matches!(via, Via::Net { tls: true, .. });
    Ok(with_cookie(tls, None, Json(json!({}))))
}

/// Only the browser reads it, only for this origin; under TLS the prefix forbids that anything else sets it.
fn with_cookie(tls: bool, id: Option<&Secret>, body: impl IntoResponse) -> Response {
    let (name, secure) = (cookie_name(tls), if tls { "; Secure" } else { "" });
    let (value, age) = id.map_or(("", "; Max-Age=0"), |id| (id.expose(), ""));
    let text = format!("{name}={value}; Path=/; HttpOnly; SameSite=Strict{secure}{age}");
    let mut response = body.into_response();
    let mut cookie = HeaderValue::from_str(&text).expect("base64url in a cookie");
    cookie.set_sensitive(true);
    response.headers_mut().insert(header::SET_COOKIE, cookie);
    response
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proof {
    password: String,
}

fn own_session(caller: &Caller) -> Result<&str, Failure> {
    let session = caller.session.as_deref().map(Secret::expose);
    session.ok_or_else(|| Failure::invalid("the control socket has no session"))
}

fn peer(via: &Via) -> Option<std::net::SocketAddr> {
    match via {
        Via::Net { peer, .. } => Some(*peer),
        Via::Socket { .. } => None,
    }
}

pub async fn prove(
    State(app): State<App>,
    Extension(via): Extension<Via>,
    caller: Caller,
    Body(proof): Body<Proof>,
) -> Answer<Value> {
    app.identity.prove_again(own_session(&caller)?, &Secret::new(proof.password), peer(&via)).await.map_err(wrong)?;
    Ok(Json(json!({})))
}

/// A wrong password here is no reason to log in again.
fn wrong(refused: SignInRefused) -> Failure {
    match refused {
        SignInRefused::BadCredentials => Failure::new(StatusCode::FORBIDDEN, "bad-credentials", "wrong password"),
        other => other.into(),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewPassword {
    old: String,
    new: String,
}

pub async fn change_password(
    State(app): State<App>,
    Extension(via): Extension<Via>,
    caller: Caller,
    Body(body): Body<NewPassword>,
) -> Answer<Value> {
    let (old, new) = (Secret::new(body.old), Secret::new(body.new));
    app.identity.change_password(own_session(&caller)?, &old, &new, peer(&via)).await.map_err(wrong)?;
    Ok(Json(json!({})))
}

pub async fn sessions(State(app): State<App>) -> Json<Vec<SessionView>> {
    Json(app.identity.sessions())
}

pub async fn end(State(app): State<App>, Path(handle): Path<String>, caller: Caller) -> Answer<Value> {
    if !app.identity.end_session(&handle, &caller.who()).await? {
        return Err(Failure::not_found("there is no such session (any more)"));
    }
    Ok(Json(json!({})))
}

pub async fn accounts(State(app): State<App>) -> Json<Vec<AccountView>> {
    Json(app.identity.accounts())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Invitation {
    /// Empty: whoever redeems the code chooses.
    #[serde(default)]
    account: String,
    role: Role,
}

/// A one-time code with which somebody sets a password: an invitation, or the way back in.
pub async fn invite(State(app): State<App>, caller: Caller, Body(wanted): Body<Invitation>) -> Answer<Value> {
    let account = wanted.account.trim().to_lowercase();
    let (code, expires) = app.identity.login_code(&account, wanted.role, &caller.who()).await?;
    Ok(Json(json!({ "code": code.expose(), "expires": expires })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewRole {
    role: Role,
}

pub async fn set_role(
    State(app): State<App>,
    Path(name): Path<String>,
    caller: Caller,
    Body(wanted): Body<NewRole>,
) -> Answer<Value> {
    app.identity.set_role(&name, wanted.role, &caller.who()).await?;
    Ok(Json(json!({})))
}

pub async fn remove(State(app): State<App>, Path(name): Path<String>, caller: Caller) -> Answer<Value> {
    app.identity.remove_account(&name, &caller.who()).await?;
    Ok(Json(json!({})))
}
