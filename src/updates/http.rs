//! Images to children over HTTP: `GET|HEAD /{sha256}` with Range and If-Range (RFC 9110), to whom they are offered only.
//!
//! The web room mounts [`router`] under `/v1/firmware`. A child shows who it is with `Authorization: Bearer <token>` or
//! `Basic`; it gets the image of its own open offer and no other. Memory stays constant: one piece at a time.

use std::{net::SocketAddr, ops::Range, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, Path, Request, State},
    http::{HeaderMap, Method, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures_util::stream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    Updates,
    cache::{Image, PIECE},
    verify::Digest,
};
use crate::{
    identity::{Identity, Login, LoginRefused},
    model::ids::DeviceId,
};

/// Transfers at the same time; more are asked to come again.
const TRANSFERS: usize = 16;

#[derive(Clone)]
struct Door {
    updates: Updates,
    identity: Identity,
    transfers: Arc<Semaphore>,
}

/// The firmware door; mount it under `/v1/firmware`. The listener should give `ConnectInfo<SocketAddr>`.
pub fn router(updates: Updates, identity: Identity) -> Router {
    let door = Door { updates, identity, transfers: Arc::new(Semaphore::new(TRANSFERS)) };
    Router::new().route("/{sha256}", get(enter)).with_state(door)
}

async fn enter(State(door): State<Door>, Path(sha256): Path<String>, request: Request) -> Response {
    let address = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0);
    let device = match authenticate(&door.identity, request.headers(), address).await {
        Ok(device) => device,
        Err(refused) => {
            let outside = refused.outside();
            return match refused {
                LoginRefused::Locked { retry_after } => {
                    let wait = retry_after.as_secs().max(1).to_string();
                    (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, wait)], outside).into_response()
                }
                LoginRefused::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, outside).into_response(),
                _ => {
                    let ask = [(header::WWW_AUTHENTICATE, "Bearer realm=\"headgate\", Basic realm=\"headgate\"")];
                    (StatusCode::UNAUTHORIZED, ask, outside).into_response()
                }
            };
        }
    };
    let Ok(permit) = door.transfers.clone().try_acquire_owned() else {
        let wait = [(header::RETRY_AFTER, "5")];
        return (StatusCode::SERVICE_UNAVAILABLE, wait, "too many transfers at once; try again").into_response();
    };
    serve(&door.updates, &device, &sha256, request.method(), request.headers(), permit).await
}

async fn authenticate(
    identity: &Identity,
    headers: &HeaderMap,
    address: Option<SocketAddr>,
) -> Result<DeviceId, LoginRefused> {
    let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let (scheme, rest) = value.and_then(|value| value.split_once(' ')).ok_or(LoginRefused::NoCredentials)?;
    let (username, password) = match scheme.to_ascii_lowercase().as_str() {
        "bearer" => (None, rest.trim().as_bytes().to_vec()),
        "basic" => {
            let decoded = STANDARD.decode(rest.trim()).map_err(|_| LoginRefused::BadCredentials)?;
            let colon = decoded.iter().position(|byte| *byte == b':').ok_or(LoginRefused::BadCredentials)?;
            let username = String::from_utf8(decoded[..colon].to_vec()).map_err(|_| LoginRefused::BadCredentials)?;
            (Some(username), decoded[colon + 1..].to_vec())
        }
        _ => return Err(LoginRefused::NoCredentials),
    };
    let login = Login {
        client_id: username.as_deref().unwrap_or(""),
        username: username.as_deref(),
        password: Some(&password),
        certificates: None,
        address,
    };
    Ok(identity.authenticate(login).await?.device)
}

/// Answers a child whose name is known.
async fn serve(
    updates: &Updates,
    device: &DeviceId,
    sha256: &str,
    method: &Method,
    headers: &HeaderMap,
    permit: OwnedSemaphorePermit,
) -> Response {
    let offer = updates.open_offer(device).filter(|offer| offer.order.sha256 == sha256);
    let (Some(_), Some(digest)) = (offer, Digest::parse(sha256)) else {
        return (StatusCode::NOT_FOUND, "this image is not on offer for this device\n").into_response();
    };
    let image = match updates.image(digest).await {
        Ok(image) => image,
        Err(error) => {
            let wait = [(header::RETRY_AFTER, "30")];
            return (StatusCode::SERVICE_UNAVAILABLE, wait, format!("{error}\n")).into_response();
        }
    };
    let etag = format!("\"{digest}\"");
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if text(header::IF_NONE_MATCH).is_some_and(|tags| tags == "*" || tags.split(',').any(|tag| tag.trim() == etag)) {
        return (StatusCode::NOT_MODIFIED, [(header::ETAG, etag)]).into_response();
    }
    // A range that belongs to another image is not continued: the whole is sent (RFC 9110 section 13.1.5).
    let same = text(header::IF_RANGE).is_none_or(|tag| tag == etag);
    let asked = if same { parse_range(text(header::RANGE), image.size) } else { Asked::Whole };
    let (status, range) = match asked {
        Asked::Whole => (StatusCode::OK, 0..image.size),
        Asked::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
        Asked::Unsatisfiable => {
            let range = [(header::CONTENT_RANGE, format!("bytes */{}", image.size))];
            return (StatusCode::RANGE_NOT_SATISFIABLE, range).into_response();
        }
    };
    let mut response = Response::builder()
        .status(status)
        .header(header::ETAG, etag)
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .header(header::CACHE_CONTROL, "private, no-transform")
        .header(header::CONTENT_LENGTH, range.end - range.start)
        .header("repr-digest", format!("sha-256=:{}:", STANDARD.encode(digest.0)));
    if status == StatusCode::PARTIAL_CONTENT {
        let value = format!("bytes {}-{}/{}", range.start, range.end - 1, image.size);
        response = response.header(header::CONTENT_RANGE, value);
    }
    let body = if *method == Method::HEAD { Body::empty() } else { body(updates.clone(), image, range, permit) };
    response.body(body).unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

/// Piece after verified piece; an altered one ends the connection before a byte of it is sent.
fn body(updates: Updates, image: Arc<Image>, range: Range<u64>, permit: OwnedSemaphorePermit) -> Body {
    let next = move |(updates, image, at, permit): (Updates, Arc<Image>, u64, OwnedSemaphorePermit)| async move {
        if at >= range.end {
            return None;
        }
        let until = ((at / PIECE + 1) * PIECE).min(range.end);
        match updates.read(&image, at, until - at).await {
            Ok(bytes) => Some((Ok(Bytes::from(bytes)), (updates, image, until, permit))),
            Err(error) => Some((Err(error), (updates, image, u64::MAX, permit))),
        }
    };
    Body::from_stream(stream::unfold((updates, image, range.start, permit), next))
}

#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Whole,
    Part(Range<u64>),
    Unsatisfiable,
}

/// One range of bytes. Several ranges, or what is no range of bytes, get the whole, as RFC 9110 section 14.2 allows.
fn parse_range(header: Option<&str>, size: u64) -> Asked {
    let Some(spec) = header.and_then(|text| text.strip_prefix("bytes=")) else { return Asked::Whole };
    let Some((first, last)) = spec.trim().split_once('-') else { return Asked::Whole };
    let (first, last) = (first.trim(), last.trim());
    let range = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) if first <= last => first..last.saturating_add(1).min(size),
        (Ok(first), Err(_)) if last.is_empty() => first..size,
        (Err(_), Ok(tail)) if first.is_empty() => size.saturating_sub(tail)..size,
        _ => return Asked::Whole,
    };
    if range.is_empty() { Asked::Unsatisfiable } else { Asked::Part(range) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_by_the_letter_of_rfc_9110() {
        assert_eq!(parse_range(None, 10), Asked::Whole);
        assert_eq!(parse_range(Some("bytes=0-0"), 10), Asked::Part(0..1));
        assert_eq!(parse_range(Some("bytes=4-"), 10), Asked::Part(4..10));
        assert_eq!(parse_range(Some("bytes=4-100"), 10), Asked::Part(4..10));
        assert_eq!(parse_range(Some("bytes=-3"), 10), Asked::Part(7..10));
        assert_eq!(parse_range(Some("bytes=-100"), 10), Asked::Part(0..10));
        assert_eq!(parse_range(Some("bytes=10-"), 10), Asked::Unsatisfiable);
        assert_eq!(parse_range(Some("bytes=-0"), 10), Asked::Unsatisfiable);
        assert_eq!(parse_range(Some("bytes=5-4"), 10), Asked::Whole);
        assert_eq!(parse_range(Some("bytes=0-1,4-5"), 10), Asked::Whole);
        assert_eq!(parse_range(Some("items=0-1"), 10), Asked::Whole);
        assert_eq!(parse_range(Some("bytes=0-18446744073709551615"), 10), Asked::Part(0..10));
    }
}
