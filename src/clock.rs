//! The time of day. The only place that asks the system for it.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::model::time::Millis;

/// Now, as Unix milliseconds.
pub fn now() -> Millis {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => Millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX)),
        Err(before) => Millis(-i64::try_from(before.duration().as_millis()).unwrap_or(i64::MAX)),
    }
}
