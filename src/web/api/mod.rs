//! The handlers of `/v1`, by subject. Each turns a request into one question or order and its answer into JSON.

pub mod config;
pub mod credentials;
pub mod devices;
pub mod jobs;
pub mod log;
pub mod session;
pub mod shadows;
pub mod status;
pub mod tools;

use axum::{
    body::Bytes,
    extract::{FromRequest, Request},
    http::{StatusCode, header},
};
use serde::de::DeserializeOwned;

use super::failure::Failure;
use crate::model::ids::DeviceId;

/// What most handlers answer.
pub type Answer<T> = Result<axum::Json<T>, Failure>;

/// A request's JSON body, with refusals people can read.
pub struct Body<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("");
        if !kind.trim_start().to_ascii_lowercase().starts_with("application/json") {
            let message = "the body must be JSON with the header Content-Type: application/json";
            return Err(Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "payload-invalid", message));
        }
        let bytes = Bytes::from_request(request, state).await.map_err(|rejection| {
            Failure::new(rejection.status(), "too-large", "the body is larger than 256 KiB or did not arrive whole")
        })?;
        serde_json::from_slice(&bytes).map(Body).map_err(|error| Failure::invalid(format!("the body: {error}")))
    }
}

/// The device of a path.
pub fn device(text: &str) -> Result<DeviceId, Failure> {
    DeviceId::new(text).map_err(|error| Failure::invalid(error.to_string()))
}
