//! Who is asking, what a role may, and the guard in front of each route. No route stands without one.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    extract::{FromRequestParts, Request, State},
    http::{StatusCode, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};

use super::{failure::Failure, session::SessionKey};
use crate::model::command::Door;

/// What a person may do; each role may all that the ones before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Looks.
    Viewer,
    /// Sets desired values, sends commands, uses the commissioning tools.
    Technician,
    /// Issues credentials, approves devices, reloads the configuration, ends sessions.
    Admin,
}

impl Role {
    pub const ALL: [Role; 3] = [Role::Viewer, Role::Technician, Role::Admin];

    pub fn name(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::Technician => "technician",
            Role::Admin => "admin",
        }
    }
}

/// How a request came in; put into each by the listener.
#[derive(Debug, Clone)]
pub enum Via {
    /// The control socket: its file mode is the gate, and the account of the other process is the name.
    Socket {
        account: Arc<str>,
    },
    Net {
        tls: bool,
        local: SocketAddr,
        peer: SocketAddr,
    },
}

/// Who is asking; absent from requests of nobody in particular.
#[derive(Debug, Clone)]
pub struct Caller {
    pub name: Arc<str>,
    pub role: Role,
    /// Absent on the control socket.
    pub session: Option<SessionKey>,
    /// How long ago the login was proved.
    pub proved: Duration,
}

impl Caller {
    /// Stands in every history as the one who did it.
    pub fn door(&self) -> Door {
        Door::Technician(self.name.to_string())
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        parts.extensions.get::<Caller>().cloned().ok_or_else(login_first)
    }
}

/// What it takes to use a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Without a login: the page's own files, the login itself.
    Open,
    From(Role),
    /// From this role, and the login was proved within [`RECENT`]: keys, accounts, certificates.
    Proved(Role),
}

/// How fresh a login must be for [`Access::Proved`].
pub const RECENT: Duration = Duration::from_secs(5 * 60);

impl Access {
    pub fn allows(self, caller: Option<&Caller>) -> Result<(), Failure> {
        let least = match self {
            Access::Open => return Ok(()),
            Access::From(least) | Access::Proved(least) => least,
        };
        let caller = caller.ok_or_else(login_first)?;
        if caller.role < least {
            let message =
                format!("this needs the role {}, and {} has {}", least.name(), caller.name, caller.role.name());
            return Err(Failure::new(StatusCode::FORBIDDEN, "not-authorized", message));
        }
        if matches!(self, Access::Proved(_)) && caller.proved > RECENT {
            let message = "say once more who you are: this changes who may enter";
            return Err(Failure::new(StatusCode::FORBIDDEN, "prove-again", message).hint("POST /v1/session/proof"));
        }
        Ok(())
    }
}

fn login_first() -> Failure {
    Failure::new(StatusCode::UNAUTHORIZED, "login-first", "log in first").hint("POST /v1/session")
}

/// The middleware in front of a route.
pub(super) async fn guard(State(access): State<Access>, request: Request, next: Next) -> Response {
    match access.allows(request.extensions().get::<Caller>()) {
        Ok(()) => next.run(request).await,
        Err(failure) => {
            if let Some(caller) = request.extensions().get::<Caller>() {
                let (method, path) = (request.method(), request.uri().path());
                tracing::warn!(who = %caller.name, role = caller.role.name(), %method, path, "refused by role");
            }
            failure.into_response()
        }
    }
}
