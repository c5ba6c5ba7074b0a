//! The page's own files, compiled in: HTML, CSS and small hand-written modules that load nothing from elsewhere.

use std::sync::LazyLock;

use aws_lc_rs::digest;
use axum::{
    extract::Path,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

use super::failure::Failure;

/// (name, media type, text)
const FILES: &[(&str, &str, &str)] = &[
    ("icon.svg", "image/svg+xml", include_str!("page/icon.svg")),
    ("style.css", "text/css; charset=utf-8", include_str!("page/style.css")),
    ("app.js", JS, include_str!("page/app.js")),
    ("api.js", JS, include_str!("page/api.js")),
    ("dom.js", JS, include_str!("page/dom.js")),
    ("login.js", JS, include_str!("page/login.js")),
    ("overview.js", JS, include_str!("page/overview.js")),
    ("devices.js", JS, include_str!("page/devices.js")),
    ("device.js", JS, include_str!("page/device.js")),
    ("plot.js", JS, include_str!("page/plot.js")),
    ("set.js", JS, include_str!("page/set.js")),
    ("shadow.js", JS, include_str!("page/shadow.js")),
    ("jobs.js", JS, include_str!("page/jobs.js")),
    ("updates.js", JS, include_str!("page/updates.js")),
    ("tools.js", JS, include_str!("page/tools.js")),
    ("config.js", JS, include_str!("page/config.js")),
    ("access.js", JS, include_str!("page/access.js")),
    ("log.js", JS, include_str!("page/log.js")),
];
const JS: &str = "text/javascript; charset=utf-8";
const INDEX: &str = include_str!("page/index.html");

/// Changes with what the files say, so that a browser asks again after an update and not before.
static TAG: LazyLock<HeaderValue> = LazyLock::new(|| {
    let mut hash = digest::Context::new(&digest::SHA256);
    hash.update(INDEX.as_bytes());
    FILES.iter().for_each(|(_, _, text)| hash.update(text.as_bytes()));
    let tag = format!("\"{}\"", hex::encode(&hash.finish().as_ref()[..8]));
    HeaderValue::from_str(&tag).expect("hex in quotes")
});

pub async fn index(headers: HeaderMap) -> Response {
    file(&headers, "text/html; charset=utf-8", INDEX)
}

pub async fn asset(headers: HeaderMap, Path(name): Path<String>) -> Result<Response, Failure> {
    let found = FILES.iter().find(|(file, _, _)| *file == name);
    let (_, kind, text) = found.ok_or_else(|| Failure::not_found("the page has no such file"))?;
    Ok(file(&headers, kind, text))
}

fn file(headers: &HeaderMap, kind: &'static str, text: &'static str) -> Response {
    let caching = [(header::CACHE_CONTROL, HeaderValue::from_static("no-cache")), (header::ETAG, TAG.clone())];
    if headers.get(header::IF_NONE_MATCH) == Some(&*TAG) {
        return (StatusCode::NOT_MODIFIED, caching).into_response();
    }
    (caching, [(header::CONTENT_TYPE, kind)], text).into_response()
}
