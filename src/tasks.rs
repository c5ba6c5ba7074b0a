//! Tasks that belong to somebody: named, panic-proof, told when to stop and waited for. The only place that spawns.

use std::{future::Future, panic::AssertUnwindSafe};

use futures_util::FutureExt;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// A group of tasks with one stop signal. Clones are the same group.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
}

/// How a task ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    Returned,
    Panicked(String),
}

impl Tasks {
    pub fn new() -> Self {
        Self::default()
    }

    /// A group of its own that stops when this one stops, or earlier.
    pub fn child(&self) -> Tasks {
        Tasks { tracker: TaskTracker::new(), stop: self.stop.child_token() }
    }

    /// Runs `work` to its end; a panic is logged under `name` and ends nothing else.
    #[allow(clippy::disallowed_methods)] // this is the one place
    pub fn spawn(&self, name: impl Into<String>, work: impl Future<Output = ()> + Send + 'static) {
        let name = name.into();
        drop(self.tracker.spawn(caught(work).map(move |ended| {
            if let Ended::Panicked(message) = ended {
                tracing::error!(task = name, message, "a task panicked");
            }
        })));
    }

    /// Cancelled when the group should stop. Every loop waits on it beside its work.
    pub fn stopping(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Tells the group to stop; does not wait.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Tells the group to stop and waits until all its tasks have ended.
    pub async fn stop_and_wait(&self) {
        self.stop.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

/// Runs `work` and turns a panic into a value. No `async` block: each would hold the work a second time, and a
/// connection is as large as its task.
pub fn caught<W: Future<Output = ()>>(work: W) -> impl Future<Output = Ended> {
    AssertUnwindSafe(work).catch_unwind().map(|outcome| match outcome {
        Ok(()) => Ended::Returned,
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
            Ended::Panicked(text.unwrap_or_else(|| "without a message".into()))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_holds_its_work_once_and_a_panic_becomes_a_value() {
        let work = async {
            let large = [1_u8; 10_000];
            tokio::task::yield_now().await;
            assert_eq!(large.len(), 1, "on purpose");
        };
        let own = size_of_val(&work);
        let caught = caught(work);
        assert!(size_of_val(&caught) < own + 100, "{} for {own}", size_of_val(&caught));
        let Ended::Panicked(message) = caught.await else { panic!("it returned") };
        assert!(message.contains("on purpose"), "{message}");
    }
}
