//! The time of day. The only place that asks the system for it.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use crate::model::time::Millis;

static TRUSTED: AtomicBool = AtomicBool::new(true);

/// Now, as Unix milliseconds.
pub fn now() -> Millis {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => Millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX)),
        Err(before) => Millis(-i64::try_from(before.duration().as_millis()).unwrap_or(i64::MAX)),
    }
}

/// Whether [`now`] is believed to be the time of day.
pub fn trusted() -> bool {
    TRUSTED.load(Ordering::Relaxed)
}
