//! What a caller is told when something is not done: a status, a word for programs, a sentence and a hint for people.
//! What went wrong inside goes to the log, never out.

use axum::{
    Json,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

use crate::model::command::{Refusal, RefusalCode};

/// The body of every answer that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure {
    #[serde(skip)]
    pub status: StatusCode,
    pub code: &'static str,
    pub message: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub hint: &'static str,
    /// Seconds after which it is worth trying again; also as `Retry-After`.
    #[serde(rename = "retryAfter", skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
}

impl Failure {
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), hint: "", retry_after: None }
    }

    pub fn hint(mut self, hint: &'static str) -> Self {
        self.hint = hint;
        self
    }

    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "payload-invalid", message)
    }

    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", message)
    }

    /// Logs what went wrong and tells the outside only that something did.
    pub fn inside(error: impl std::fmt::Display) -> Self {
        tracing::error!(%error, "the local api failed");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "something went wrong inside the gateway")
            .hint("the gateway's log says what")
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        use RefusalCode as Code;
        let (status, code, hint) = match refusal.code {
            Code::PayloadInvalid => (StatusCode::BAD_REQUEST, "payload-invalid", ""),
            Code::TopicInvalid => (StatusCode::BAD_REQUEST, "topic-invalid", ""),
            Code::NotAuthorized => (StatusCode::FORBIDDEN, "not-authorized", ""),
            Code::UnknownDevice => (StatusCode::NOT_FOUND, "unknown-device", "GET /v1/devices lists those there are"),
            Code::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "too-large", ""),
            Code::OutOfRange => (StatusCode::UNPROCESSABLE_ENTITY, "out-of-range", ""),
            Code::NotWritable => (StatusCode::UNPROCESSABLE_ENTITY, "not-writable", ""),
            Code::Expired => (StatusCode::UNPROCESSABLE_ENTITY, "expired", ""),
            Code::VersionConflict => {
                (StatusCode::CONFLICT, "version-conflict", "read the newest version and try again")
            }
            Code::DeviceFailed => (StatusCode::BAD_GATEWAY, "device-failed", ""),
            Code::StoreUnavailable => {
                (StatusCode::SERVICE_UNAVAILABLE, "store-unavailable", "nothing was stored; look at the disk")
            }
            Code::Busy => (StatusCode::SERVICE_UNAVAILABLE, "busy", "try again in a moment"),
            Code::Internal => return Failure::inside(refusal.message),
        };
        Failure::new(status, code, refusal.message).hint(hint)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let retry = self.retry_after;
        let mut response = (self.status, Json(self)).into_response();
        if let Some(seconds) = retry {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_inside_stays_inside() {
        let failure = Failure::from(Refusal::new(RefusalCode::Internal, "no such table: secrets"));
        assert_eq!(failure.status, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(!serde_json::to_string(&failure).expect("json").contains("secrets"));
    }
}
