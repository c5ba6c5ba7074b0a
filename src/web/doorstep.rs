//! What every request passes before any route: the name it was sent to, where it came from, whose it is; and what
//! every answer carries for the browser's own defences.

use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::{
    body::to_bytes,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use tokio::time::timeout;

use super::{
    App,
    access::{Caller, Via},
    failure::Failure,
};
use crate::identity::{Secret, login::Role};

/// Sent by the page with everything that is not a GET: a form of another site cannot.
pub const OWN_HEADER: &str = "headgate";
/// Sent by the page with what it asks by itself, so that an unattended page does not keep a login alive.
pub const BACKGROUND: &str = "headgate-background";

/// Largest request body, in bytes, and how long it may take to arrive.
const BODY: usize = 256 * 1024;
const BODY_WITHIN: Duration = Duration::from_secs(20);

/// The page's own files and nothing else, no inline code or styles, in nobody's frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
                      manifest-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

pub(super) async fn doorstep(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let checked = check(&app, &mut request);
    // Read whole before any answer: a connection that closes on unread bytes is reset, and the answer lost with it.
    let whole = whole(request).await;
    let mut response = match checked.and(whole) {
        Ok(request) => next.run(request).await,
        Err(failure) => failure.into_response(),
    };
    let headers = response.headers_mut();
    let mut set = |name: header::HeaderName, value: &'static str| headers.insert(name, HeaderValue::from_static(value));
    set(header::CONTENT_SECURITY_POLICY, POLICY);
    set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(header::REFERRER_POLICY, "no-referrer");
    set(header::X_FRAME_OPTIONS, "DENY");
    set(header::HeaderName::from_static("cross-origin-opener-policy"), "same-origin");
    set(header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin");
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// The request with its body in memory.
async fn whole(request: Request) -> Result<Request, Failure> {
    let (parts, body) = request.into_parts();
    match timeout(BODY_WITHIN, to_bytes(body, BODY)).await {
        Ok(Ok(bytes)) => Ok(Request::from_parts(parts, bytes.into())),
        Ok(Err(_)) => {
            let message = "the body is larger than 256 KiB or did not arrive whole";
            Err(Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", message))
        }
        Err(_) => Err(Failure::new(StatusCode::REQUEST_TIMEOUT, "too-slow", "the body did not arrive within 20 s")),
    }
}

fn check(app: &App, request: &mut Request) -> Result<(), Failure> {
    let via = request.extensions().get::<Via>().cloned();
    let Some(via) = via else {
        return Err(Failure::inside("a request without a listener"));
    };
    let caller = match &via {
        Via::Socket { account } => {
            Some(Caller { name: account.clone(), role: Role::Admin, session: None, fresh: true })
        }
        Via::Net { tls, local, .. } => {
            known_host(app, request.headers(), local.ip())?;
            same_origin(request.method(), request.headers())?;
            let touch = !request.headers().contains_key(BACKGROUND);
            cookie(request.headers(), cookie_name(*tls)).and_then(|id| {
                let technician = app.identity.session(id, touch)?;
                let session = Some(Arc::new(Secret::new(id)));
                let (name, role) = (technician.name.into(), technician.role);
                Some(Caller { name, role, session, fresh: technician.fresh })
            })
        }
    };
    if let Some(caller) = caller {
        request.extensions_mut().insert(caller);
    }
    Ok(())
}

/// A page under another name, resolved to this machine's address, is not ours (DNS rebinding).
fn known_host(app: &App, headers: &HeaderMap, local: IpAddr) -> Result<(), Failure> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (host, more) = (hosts.next().and_then(|host| host.to_str().ok()).unwrap_or(""), hosts.next());
    let name = without_port(host).to_ascii_lowercase();
    let address = name.trim_matches(['[', ']']).parse::<IpAddr>().ok();
    let known = match address {
        Some(address) => address == local || app.hosts.contains(&name),
        None => app.hosts.contains(name.trim_end_matches('.')) && !name.is_empty(),
    };
    if known && more.is_none() {
        return Ok(());
    }
    tracing::warn!(host, "a request for a name this gateway does not have");
    let message = "this gateway does not answer under that name";
    Err(Failure::new(StatusCode::MISDIRECTED_REQUEST, "unknown-host", message)
        .hint("use its address, or add the name to web.hosts"))
}

/// Everything that may change something must come from our own page (or from no page at all) and say so.
fn same_origin(method: &Method, headers: &HeaderMap) -> Result<(), Failure> {
    if matches!(*method, Method::GET | Method::HEAD) {
        return Ok(());
    }
    let text = |name: header::HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let host = text(header::HOST).unwrap_or("");
    let origin = text(header::ORIGIN).is_none_or(|origin| {
        let authority = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
        authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host))
    });
    let site = text(header::HeaderName::from_static("sec-fetch-site"));
    let site = site.is_none_or(|site| matches!(site, "same-origin" | "none"));
    if origin && site && headers.contains_key(OWN_HEADER) {
        return Ok(());
    }
    Err(Failure::new(StatusCode::FORBIDDEN, "cross-site", "this request does not come from the gateway's own page")
        .hint("programs send the header \"Headgate: 1\" with everything that is not a GET"))
}

pub(super) fn cookie_name(tls: bool) -> &'static str {
    if tls { "__Host-headgate" } else { "headgate" }
}

fn cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let pairs = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = pairs.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(found, _)| *found == name).map(|(_, value)| value)
}

fn without_port(host: &str) -> &str {
    match (host.rfind(':'), host.rfind(']')) {
        (Some(colon), Some(bracket)) if colon < bracket => host,
        (Some(colon), _) => &host[..colon],
        (None, _) => host,
    }
}

/// The names this machine answers to: loopback's, its own, and those of the configuration.
pub(super) fn own_names(configured: &[String]) -> Arc<std::collections::HashSet<String>> {
    let mut names: std::collections::HashSet<String> =
        configured.iter().map(|name| name.to_ascii_lowercase()).collect();
    names.insert("localhost".into());
    let own = rustix::system::uname().nodename().to_string_lossy().to_ascii_lowercase();
    if !own.is_empty() {
        names.insert(format!("{own}.local"));
        names.insert(own);
    }
    Arc::new(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_cut_off_and_addresses_are_not() {
        for (host, name) in [("a.b:80", "a.b"), ("a", "a"), ("[::1]:8080", "[::1]"), ("[::1]", "[::1]"), ("", "")] {
            assert_eq!(without_port(host), name);
        }
    }

    #[test]
    fn a_cookie_is_found_by_its_whole_name() {
        let mut headers = HeaderMap::new();
        headers.append(header::COOKIE, HeaderValue::from_static("xheadgate=1; headgate=right; headgatex=2"));
        assert_eq!(cookie(&headers, "headgate"), Some("right"));
        assert_eq!(cookie(&headers, "__Host-headgate"), None);
    }
}
