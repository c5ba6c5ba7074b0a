//! Who is asking, what a role may, and the guard in front of each route. No route stands without one.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    extract::{FromRequestParts, Request, State},
    http::{StatusCode, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{App, failure::Failure};
use crate::{
    identity::{Secret, login::Role},
    model::command::Door,
    store::audit::AuditEntry,
};

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
    /// Opens the session; absent on the control socket.
    pub session: Option<Arc<Secret>>,
    /// The password was given within the last minutes.
    pub fresh: bool,
}

impl Caller {
    /// Stands in every history as the one who did it.
    pub fn door(&self) -> Door {
        Door::Technician(self.name.to_string())
    }

    /// Stands in the audit as the one who did it.
    pub fn who(&self) -> String {
        match self.session {
            Some(_) => format!("technician:{}", self.name),
            None => "console".into(),
        }
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
    /// From this role, and the password was given within the last minutes: keys, accounts, certificates.
    Proved(Role),
}

impl Access {
    pub fn allows(self, caller: Option<&Caller>) -> Result<(), Failure> {
        let least = match self {
            Access::Open => return Ok(()),
            Access::From(least) | Access::Proved(least) => least,
        };
        let caller = caller.ok_or_else(login_first)?;
        if caller.role < least {
            let message =
                format!("this needs the role {}, and {} has {}", least.as_str(), caller.name, caller.role.as_str());
            return Err(Failure::new(StatusCode::FORBIDDEN, "not-authorized", message));
        }
        if matches!(self, Access::Proved(_)) && !caller.fresh {
            let message = "say once more who you are: this changes who may enter";
            return Err(Failure::new(StatusCode::FORBIDDEN, "prove-again", message).hint("POST /v1/session/proof"));
        }
        Ok(())
    }
}

fn login_first() -> Failure {
    Failure::new(StatusCode::UNAUTHORIZED, "login-first", "log in first").hint("POST /v1/session")
}

/// The middleware in front of a route. A refusal by role is written down.
pub(super) async fn guard(State((app, access)): State<(App, Access)>, request: Request, next: Next) -> Response {
    let caller = request.extensions().get::<Caller>();
    let Err(failure) = access.allows(caller) else {
        return next.run(request).await;
    };
    if let Some(caller) = caller.filter(|_| failure.code == "not-authorized") {
        let what = format!("{} {}", request.method(), request.uri().path());
        app.note(AuditEntry::refused(caller.who(), "api.refused", what).detail(caller.role.as_str())).await;
    }
    failure.into_response()
}
