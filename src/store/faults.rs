//! Places where a test may end the process, and bugs it may plant to see that it would be caught. Nothing of this is
//! in a daemon that was built without the feature `faults`.

/// Ends the process at once, as a power cut would, when `HEADGATE_FAULT` is `name` or `name:n` (the n-th passage).
#[cfg(feature = "faults")]
pub fn point(name: &str) {
    use std::sync::atomic::{AtomicU64, Ordering};
    static PASSED: AtomicU64 = AtomicU64::new(0);
    let Ok(wanted) = std::env::var("HEADGATE_FAULT") else { return };
    let (wanted, count) = wanted.split_once(':').map_or((wanted.as_str(), 1), |(w, n)| (w, n.parse().unwrap_or(1)));
    if wanted == name && PASSED.fetch_add(1, Ordering::Relaxed) + 1 >= count {
        std::process::abort();
    }
}

/// Whether `HEADGATE_BUG` plants this bug.
#[cfg(feature = "faults")]
pub fn planted(name: &str) -> bool {
    std::env::var("HEADGATE_BUG").is_ok_and(|bug| bug == name)
}

#[cfg(not(feature = "faults"))]
pub fn point(_: &str) {}

#[cfg(not(feature = "faults"))]
pub fn planted(_: &str) -> bool {
    false
}
