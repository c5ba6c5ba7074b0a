//! Short pauses kept to a fraction of a millisecond, which the runtime's own timer (1 ms, rounded up) cannot do.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Waits until `moment`. The last stretch below the timer's grain is passed by yielding, so other tasks run on.
pub(super) async fn until(moment: Instant) {
    const GRAIN: Duration = Duration::from_millis(2);
    loop {
        let left = moment.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        if left > GRAIN {
            sleep_until(moment - GRAIN).await;
        } else {
            tokio::task::yield_now().await;
        }
    }
}
