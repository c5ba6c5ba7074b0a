//! Which images are fetched now, for whom, and what follows when one is here or is not.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use super::{
    obtain::{Missing, Obtain},
    verify::{Digest, acceptable},
    worker::Worker,
};
use crate::{
    clock,
    model::update::{ChildUpdate, Stage},
};

/// Fetches at the same time, so that one slow server does not hold up all others.
const FETCHES: usize = 2;
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(900);

/// An image on its way.
pub(super) struct Fetching {
    url: String,
    size: u64,
    pub(super) done: Arc<AtomicU64>,
    pub(super) stop: CancellationToken,
}

/// How far a transfer came before it broke, and how often it broke since without coming further.
#[derive(Default)]
pub(super) struct Broken {
    reached: u64,
    fruitless: u32,
}

impl Broken {
    /// How long to wait before the next try: a line that carries some bytes each time is worth asking again soon.
    fn wait(&mut self, reached: u64) -> Duration {
        self.fruitless = if reached > self.reached { 0 } else { self.fruitless.saturating_add(1) };
        self.reached = reached;
        back_off(self.fruitless)
    }
}

pub(super) type Fetched = (Digest, Result<(), Missing>);

impl Worker {
    pub(super) async fn fetch_what_is_due(&mut self) {
        let now = clock::now();
        let due: Vec<ChildUpdate> = (self.updates.values())
            .filter(|update| update.stage == Stage::Waiting && update.retry_at.is_none_or(|at| at <= now))
            .cloned()
            .collect();
        for mut update in due {
            let Ok((digest, key)) = acceptable(&update.order, &self.settings.config.keys, u64::MAX) else { continue };
            let under_way = self.fetching.get(&digest);
            if under_way.is_none() && self.fetching.len() >= FETCHES {
                continue;
            }
            if under_way.is_some_and(|fetching| fetching.stop.is_cancelled()) {
                continue;
            }
            let first = under_way.is_none();
            update.stage = Stage::Fetching;
            update.attempts += u32::from(first);
            update.retry_at = None;
            let order = update.order.clone();
            if !self.change(update, Stage::Waiting).await || !first {
                continue;
            }
            let fetching = Fetching {
                url: order.url.clone(),
                size: order.size,
                done: Arc::default(),
                stop: CancellationToken::new(),
            };
            let obtain = Obtain {
                digest,
                key,
                pinned: self.pinned(),
                reserved: self.fetching.values().map(|f| f.size.saturating_sub(f.done.load(Ordering::Relaxed))).sum(),
                done: fetching.done.clone(),
                stop: fetching.stop.clone(),
                order,
            };
            self.fetching.insert(digest, fetching);
            let (cache, store, config) = (self.handle.cache.clone(), self.store.clone(), self.settings.config.clone());
            let answer = self.fetched.0.clone();
            self.tasks.spawn("updates-fetch", async move {
                let result = obtain.run(cache, store, config).await;
                let _ = answer.send((digest, result)).await;
            });
        }
    }

    pub(super) async fn fetched(&mut self, digest: Digest, result: Result<(), Missing>) {
        let Some(fetching) = self.fetching.remove(&digest) else { return };
        let wait = match &result {
            Err(Missing::Later(_)) => {
                self.broken.entry(digest).or_default().wait(fetching.done.load(Ordering::Relaxed))
            }
            _ => {
                self.broken.remove(&digest);
                Duration::ZERO
            }
        };
        let waiting = |update: &&ChildUpdate| {
            update.stage == Stage::Fetching && Digest::parse(&update.order.sha256) == Some(digest)
        };
        let waiting: Vec<ChildUpdate> = self.updates.values().filter(waiting).cloned().collect();
        for mut update in waiting {
            match &result {
                Ok(()) if update.order.size != fetching.size => {
                    let why = format!("the image has {} bytes, ordered were {}", fetching.size, update.order.size);
                    self.end(update, Stage::Failed, Some(why)).await;
                }
                Ok(()) => {
                    update.stage = Stage::Offered;
                    update.progress = None;
                    update.error = None;
                    if self.change(update.clone(), Stage::Fetching).await {
                        tracing::info!(device = %update.device, %digest, "firmware verified and offered");
                        self.offer(&update).await;
                    }
                }
                Err(Missing::Never(why))
                    if (&update.order.url, update.order.size) == (&fetching.url, fetching.size) =>
                {
                    self.end(update, Stage::Failed, Some(why.clone())).await;
                }
                Err(missing) => {
                    let (why, wait) = match missing {
                        Missing::Later(why) => (Some(why.clone()), wait),
                        // Another order's place or size failed, or the fetch was stopped for one that was withdrawn.
                        Missing::Never(_) | Missing::Stopped => (None, Duration::ZERO),
                    };
                    tracing::warn!(device = %update.device, ?why, ?wait, "firmware not fetched yet");
                    update.stage = Stage::Waiting;
                    update.progress = None;
                    update.error = why;
                    update.retry_at = Some(clock::now().plus(wait.as_millis() as i64));
                    self.change(update, Stage::Fetching).await;
                }
            }
        }
    }
}

/// Doubles from one second to fifteen minutes, half of it by chance.
fn back_off(fruitless: u32) -> Duration {
    let full = FIRST_RETRY.saturating_mul(1 << fruitless.min(16)).min(LAST_RETRY);
    let mut byte = [0];
    let _ = aws_lc_rs::rand::fill(&mut byte);
    full / 2 + full * u32::from(byte[0]) / 512
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_back_off_within_bounds() {
        for fruitless in 0..40 {
            let wait = back_off(fruitless);
            assert!(wait >= FIRST_RETRY / 2 && wait <= LAST_RETRY, "{fruitless}: {wait:?}");
        }
    }

    #[test]
    fn a_line_that_carries_something_each_time_is_asked_again_soon() {
        let mut broken = Broken::default();
        for reached in 1..50 {
            assert!(broken.wait(reached) <= FIRST_RETRY);
        }
        for _ in 0..20 {
            broken.wait(49);
        }
        assert!(broken.wait(49) >= LAST_RETRY / 2, "a dead one is left alone for longer and longer");
        assert!(broken.wait(50) <= FIRST_RETRY);
    }
}
