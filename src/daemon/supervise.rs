//! Keeps tasks running: a vital one that ends takes the daemon down with it, a restartable one is begun again after a
//! growing pause, for ever, and its state can be seen.

use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};

use crate::{
    clock,
    model::time::Millis,
    tasks::{Ended, Tasks, caught},
};

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A task that ran this long is healthy: its next failure begins with the shortest pause again.
const HEALTHY: Duration = Duration::from_secs(60);

/// How a restartable task fares.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Health {
    pub running: bool,
    pub restarts: u32,
    pub last_error: Option<String>,
    pub since: Millis,
}

/// Cheap to clone; all clones watch over the same tasks.
#[derive(Clone)]
pub struct Supervisor {
    tasks: Tasks,
    /// The name and reason of the vital task that ended, once one has.
    dead: watch::Sender<Option<String>>,
    health: watch::Sender<Arc<BTreeMap<String, Health>>>,
    first_pause: Duration,
}

impl Supervisor {
    pub fn new(tasks: Tasks) -> Self {
        Self { tasks, dead: watch::Sender::new(None), health: watch::Sender::default(), first_pause: FIRST_PAUSE }
    }

    /// Resolves with name and reason when a vital task has ended.
    pub async fn vital_death(&self) -> String {
        let mut dead = self.dead.subscribe();
        let reason = dead.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
        match reason {
            Some(reason) => reason,
            None => std::future::pending().await,
        }
    }

    pub fn health(&self) -> Arc<BTreeMap<String, Health>> {
        self.health.borrow().clone()
    }

    /// Says that something the daemon cannot live without is gone.
    pub fn report_death(&self, reason: String) {
        self.dead.send_if_modified(|dead| {
            let first = dead.is_none();
            if first {
                *dead = Some(reason);
            }
            first
        });
    }

    /// Runs `make()` again and again until `group` stops. An error or panic is followed by a pause with jitter; a
    /// plain return means the work is done.
    pub fn restartable<F, E>(
        &self,
        group: &Tasks,
        name: impl Into<String>,
        make: impl Fn() -> F + Send + Sync + 'static,
    ) where
        F: Future<Output = Result<(), E>> + Send,
        E: std::fmt::Display,
    {
        let name = name.into();
        let stop = group.stopping();
        let this = self.clone();
        group.spawn(name.clone(), async move {
            let mut pause = this.first_pause;
            let mut restarts = 0;
            loop {
                this.note(&name, true, restarts, None);
                let begun = Instant::now();
                let mut failure = None;
                let work = async { failure = make().await.err().map(|error| error.to_string()) };
                if let Ended::Panicked(message) = caught(work).await {
                    failure = Some(format!("panicked: {message}"));
                }
                let Some(error) = failure else { break };
                if stop.is_cancelled() {
                    break;
                }
                if begun.elapsed() >= HEALTHY {
                    pause = this.first_pause;
                }
                tracing::warn!(task = name, error, pause = ?pause, "ended, will be started again");
                this.note(&name, false, restarts, Some(error));
                restarts += 1;
                tokio::select! {
                    () = tokio::time::sleep(with_jitter(pause)) => {}
                    () = stop.cancelled() => break,
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            this.forget(&name);
        });
    }

    pub fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    fn note(&self, name: &str, running: bool, restarts: u32, error: Option<String>) {
        self.health.send_modify(|all| {
            let all = Arc::make_mut(all);
            let before = all.get(name).and_then(|health| health.last_error.clone());
            let health = Health { running, restarts, last_error: error.or(before), since: clock::now() };
            all.insert(name.to_owned(), health);
        });
    }

    fn forget(&self, name: &str) {
        self.health.send_modify(|all| drop(Arc::make_mut(all).remove(name)));
    }
}

/// Between half and all of `pause`, so that a site after a power cut does not knock in step.
fn with_jitter(pause: Duration) -> Duration {
    let mut byte = [0_u8];
    let _ = aws_lc_rs::rand::fill(&mut byte);
    pause.mul_f64(0.5 + f64::from(byte[0]) / 512.0)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_failing_task_is_tried_again_and_a_panic_is_a_failure() {
        let tasks = Tasks::new();
        let mut supervisor = Supervisor::new(tasks.clone());
        supervisor.first_pause = Duration::from_millis(1);
        let runs = Arc::new(AtomicU32::new(0));
        let counter = runs.clone();
        let (done, finished) = tokio::sync::oneshot::channel();
        let done = Arc::new(std::sync::Mutex::new(Some(done)));
        supervisor.restartable(&tasks, "line", move || {
            let (run, done) = (counter.fetch_add(1, Ordering::Relaxed), done.clone());
            async move {
                match run {
                    0 => Err("no such port".to_owned()),
                    1 => panic!("a bug"),
                    _ => {
                        let done = done.lock().expect("lock").take();
                        let _ = done.expect("once").send(());
                        Ok(())
                    }
                }
            }
        });
        finished.await.expect("third run");
        assert_eq!(runs.load(Ordering::Relaxed), 3);
        tasks.stop_and_wait().await;
        assert!(supervisor.health().is_empty(), "done tasks are forgotten");
    }

    #[tokio::test]
    async fn the_first_vital_death_is_told() {
        let supervisor = Supervisor::new(Tasks::new());
        supervisor.report_death("store: gone".into());
        supervisor.report_death("keeper: gone".into());
        assert_eq!(supervisor.vital_death().await, "store: gone");
    }
}
