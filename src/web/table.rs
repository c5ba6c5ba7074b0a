//! Every route with the least role that may use it: the one place that says who may do what. A route that is not here
//! does not exist.

use Access::{From, Open, Proved};
use Role::{Admin, Technician, Viewer};
use axum::{
    Router,
    handler::Handler,
    http::{Method, StatusCode},
    middleware,
    routing::{MethodFilter, MethodRouter, on},
};

use super::{
    App,
    access::{Access, guard},
    api::{config, credentials, devices, jobs, log, session, shadows, status, tools},
    doorstep::doorstep,
    events,
    failure::Failure,
    metrics, page,
};
use crate::identity::login::Role;

struct Route {
    method: Method,
    path: &'static str,
    access: Access,
    handler: MethodRouter<App>,
}

fn route<H, T>(method: Method, path: &'static str, access: Access, handler: H) -> Route
where
    H: Handler<T, App>,
    T: 'static,
{
    let filter = MethodFilter::try_from(method.clone()).expect("a standard method");
    Route { method, path, access, handler: on(filter, handler) }
}

#[rustfmt::skip]
fn routes() -> Vec<Route> {
    const GET: Method = Method::GET;
    const POST: Method = Method::POST;
    const PATCH: Method = Method::PATCH;
    const PUT: Method = Method::PUT;
    const DELETE: Method = Method::DELETE;
    vec![
        // the page
        route(GET,    "/",                                    Open,             page::index),
        route(GET,    "/assets/{file}",                       Open,             page::asset),
        // coming in
        route(GET,    "/v1/session",                          Open,             session::whoami),
        route(POST,   "/v1/session",                          Open,             session::log_in),
        route(DELETE, "/v1/session",                          From(Viewer),     session::log_out),
        route(POST,   "/v1/session/proof",                    From(Viewer),     session::prove),
        route(POST,   "/v1/session/password",                 From(Viewer),     session::change_password),
        route(GET,    "/v1/sessions",                         From(Admin),      session::sessions),
        route(DELETE, "/v1/sessions/{session}",               From(Admin),      session::end),
        route(GET,    "/v1/accounts",                         From(Admin),      session::accounts),
        route(POST,   "/v1/accounts/codes",                   Proved(Admin),    session::invite),
        route(PUT,    "/v1/accounts/{account}/role",          Proved(Admin),    session::set_role),
        route(DELETE, "/v1/accounts/{account}",               Proved(Admin),    session::remove),
        // children's credentials
        route(GET,    "/v1/authority",                        Open,             credentials::authority),
        route(POST,   "/v1/authority/rotate",                 Proved(Admin),    credentials::rotate_authority),
        route(POST,   "/v1/authority/retire",                 Proved(Admin),    credentials::retire_authority),
        route(POST,   "/v1/enrol",                            Open,             credentials::enrol),
        route(POST,   "/v1/renew",                            Open,             credentials::renew),
        route(GET,    "/v1/credentials",                      From(Technician), credentials::list),
        route(GET,    "/v1/credentials/refused",              From(Technician), credentials::refused),
        route(POST,   "/v1/credentials",                      Proved(Admin),    credentials::issue),
        route(POST,   "/v1/credentials/codes",                From(Admin),      credentials::code),
        route(POST,   "/v1/credentials/{id}/rotate",          Proved(Admin),    credentials::rotate),
        route(DELETE, "/v1/credentials/{id}",                 From(Admin),      credentials::revoke),
        // the gateway
        route(GET,    "/v1/status",                           From(Viewer),     status::status),
        route(GET,    "/v1/log",                              From(Viewer),     status::log),
        route(GET,    "/v1/log/tail",                         From(Viewer),     log::tail),
        route(GET,    "/v1/audit",                            From(Admin),      log::audit),
        route(GET,    "/v1/connections",                      From(Viewer),     status::connections),
        route(GET,    "/v1/buses",                            From(Viewer),     status::buses),
        route(GET,    "/v1/updates",                          From(Viewer),     status::updates),
        route(GET,    "/v1/alarms",                           From(Viewer),     status::alarms),
        route(POST,   "/v1/alarms/{device}/{kind}/acknowledge", From(Technician), status::acknowledge),
        route(GET,    "/v1/jobs",                             From(Viewer),     jobs::list),
        route(POST,   "/v1/jobs",                             From(Technician), jobs::order),
        route(POST,   "/v1/jobs/{job}/control",               From(Technician), jobs::control),
        route(GET,    "/v1/metrics",                          From(Viewer),     metrics::metrics),
        route(GET,    "/v1/events",                           From(Viewer),     events::events),
        route(GET,    "/v1/config/problems",                  From(Viewer),     config::problems),
        route(POST,   "/v1/config/reload",                    From(Admin),      config::reload),
        route(POST,   "/v1/diagnostics",                      From(Technician), log::diagnose),
        route(POST,   "/v1/tools/modbus",                     From(Technician), tools::modbus),
        // devices
        route(GET,    "/v1/devices",                          From(Viewer),     devices::list),
        route(GET,    "/v1/devices/{device}",                 From(Viewer),     devices::one),
        route(PUT,    "/v1/devices/{device}/lifecycle",       From(Technician), devices::lifecycle),
        route(PUT,    "/v1/devices/{device}/locks/{name}",    From(Technician), devices::lock),
        route(DELETE, "/v1/devices/{device}/locks/{name}",    From(Technician), devices::unlock),
        route(GET,    "/v1/devices/{device}/history",         From(Viewer),     devices::history),
        route(GET,    "/v1/devices/{device}/trend",           From(Viewer),     devices::trend),
        route(GET,    "/v1/devices/{device}/commands",        From(Viewer),     devices::commands),
        route(POST,   "/v1/devices/{device}/commands/{name}", From(Technician), devices::command),
        route(PUT,    "/v1/devices/{device}/config",          From(Technician), devices::config),
        route(POST,   "/v1/devices/{device}/update",          From(Technician), devices::update),
        route(GET,    "/v1/devices/{device}/shadow",          From(Viewer),     shadows::classic),
        route(PATCH,  "/v1/devices/{device}/shadow",          From(Technician), shadows::desire),
        route(GET,    "/v1/devices/{device}/shadows",         From(Viewer),     shadows::names),
        route(GET,    "/v1/devices/{device}/shadows/{name}",  From(Viewer),     shadows::named),
        route(PATCH,  "/v1/devices/{device}/shadows/{name}",  From(Technician), shadows::desire_named),
        route(DELETE, "/v1/devices/{device}/shadows/{name}",  From(Admin),      shadows::delete_named),
    ]
}

/// The table as values: (method, path, access). For the documentation's test and the role matrix.
pub fn permissions() -> Vec<(Method, &'static str, Access)> {
    routes().into_iter().map(|route| (route.method, route.path, route.access)).collect()
}

pub(super) fn router(app: App) -> Router {
    let add = |router: Router<App>, route: Route| {
        let guard = middleware::from_fn_with_state((app.clone(), route.access), guard);
        router.route(route.path, route.handler.layer(guard))
    };
    (routes().into_iter().fold(Router::new(), add))
        .fallback(async || Failure::not_found("there is nothing here").hint("docs/api.md lists what there is"))
        .method_not_allowed_fallback(async || {
            Failure::new(StatusCode::METHOD_NOT_ALLOWED, "method", "this cannot be done here")
        })
        .layer(middleware::from_fn_with_state(app.clone(), doorstep))
        .with_state(app)
}
