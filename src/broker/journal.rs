//! What must outlive the process, on its way to the store: changes gather while the batch before is written, and what
//! undoes itself in between is never written.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use crate::store::{Store, StoreError, sessions::SessionChange};

/// Changes that may gather before publishers are held back.
const PRESSURE: usize = 8192;

/// Resolves when the changes are on disk.
pub type Ticket = oneshot::Receiver<Result<(), StoreError>>;

#[derive(Default)]
pub struct Journal {
    gathered: Mutex<Batch>,
    wake: Notify,
    relief: Notify,
}

#[derive(Default)]
struct Batch {
    /// `None` where a later change undid it.
    changes: Vec<Option<SessionChange>>,
    /// Queued messages of this batch, by their place.
    queued: HashMap<i64, usize>,
    waiting: Vec<oneshot::Sender<Result<(), StoreError>>>,
}

impl Batch {
    fn add(&mut self, change: SessionChange) {
        match &change {
            SessionChange::Queue { row, .. } => drop(self.queued.insert(row.place, self.changes.len())),
            SessionChange::Done { place, .. } => {
                if let Some(index) = self.queued.remove(place) {
                    self.changes[index] = None;
                    return;
                }
            }
            SessionChange::Sent { place, packet, released, .. } => {
                if let Some(SessionChange::Queue { row, .. }) =
                    self.queued.get(place).and_then(|index| self.changes[*index].as_mut())
                {
                    row.packet = *packet;
                    row.released = *released;
                    return;
                }
            }
            _ => {}
        }
        self.changes.push(Some(change));
    }
}

impl Journal {
    fn gathered(&self) -> std::sync::MutexGuard<'_, Batch> {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes changes nobody waits for.
    pub fn note(&self, changes: impl IntoIterator<Item = SessionChange>) {
        let mut batch = self.gathered();
        let before = batch.changes.len();
        changes.into_iter().for_each(|change| batch.add(change));
        let grew = batch.changes.len() > before;
        drop(batch);
        if grew {
            self.wake.notify_one();
        }
    }

    /// Notes changes and says when they, and all before them, are on disk.
    pub fn write(&self, changes: impl IntoIterator<Item = SessionChange>) -> Ticket {
        let (done, ticket) = oneshot::channel();
        let mut batch = self.gathered();
        changes.into_iter().for_each(|change| batch.add(change));
        batch.waiting.push(done);
        drop(batch);
        self.wake.notify_one();
        ticket
    }

    pub fn under_pressure(&self) -> bool {
        self.gathered().changes.len() > PRESSURE
    }

    /// Resolves at the end of a batch that was being written.
    pub async fn relieved(&self) {
        self.relief.notified().await;
    }

    /// Writes until `stop`, then once more.
    pub async fn run(&self, store: Store, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = self.wake.notified() => {}
                () = stop.cancelled() => break,
            }
            if !self.flush(&store).await {
                // the disk refuses: publishers are told, the rest is tried again
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_secs(1)) => self.wake.notify_one(),
                    () = stop.cancelled() => break,
                }
            }
        }
        self.flush(&store).await;
    }

    async fn flush(&self, store: &Store) -> bool {
        let batch = std::mem::take(&mut *self.gathered());
        let changes: Arc<Vec<SessionChange>> = Arc::new(batch.changes.into_iter().flatten().collect());
        let result = if changes.is_empty() { Ok(()) } else { store.change_sessions(changes.clone()).await };
        if let Err(error) = &result {
            tracing::error!(%error, changes = changes.len(), "sessions are not stored");
            let mut now = self.gathered();
            let newer = std::mem::take(&mut *now);
            // Whoever sent these messages was not acknowledged and sends them again; the rest must not be lost.
            changes.iter().filter(|c| !matches!(c, SessionChange::Queue { .. })).for_each(|c| now.add(c.clone()));
            newer.changes.into_iter().flatten().for_each(|c| now.add(c));
            now.waiting = newer.waiting;
        }
        // the last first, as whoever waits waits for the oldest of its own
        for waiting in batch.waiting.into_iter().rev() {
            let _ = waiting.send(result.clone());
        }
        self.relief.notify_waiters();
        result.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sessions::QueuedRow;

    fn queue(place: i64) -> SessionChange {
        let row = QueuedRow {
            place,
            topic: "t".into(),
            payload: vec![],
            flags: 2,
            properties: vec![],
            expires: None,
            identifiers: vec![],
            packet: 0,
            released: false,
            group: None,
        };
        SessionChange::Queue { client: "c".into(), row }
    }

    #[tokio::test]
    async fn what_was_written_for_is_on_disk_and_what_came_and_went_is_not() {
        let folder = tempfile::tempdir().expect("folder");
        let (store, _thread) = Store::open(folder.path()).expect("open");
        let session = SessionChange::Session {
            client: "c".into(),
            device: "d".into(),
            groups: vec![],
            expiry: 9,
            away_since: None,
        };
        let journal = Arc::new(Journal::default());
        let ticket = journal.write([session, queue(1), queue(2), queue(3)]);
        journal.note([SessionChange::Done { client: "c".into(), place: 1 }]);
        journal.note([SessionChange::Sent { client: "c".into(), place: 2, packet: 7, released: false }]);
        assert_eq!(journal.gathered().changes.iter().flatten().count(), 3, "one message came and went");
        let stop = CancellationToken::new();
        stop.cancel();
        journal.run(store.clone(), stop).await;
        ticket.await.expect("answered").expect("stored");
        let sessions = store.sessions().await.expect("read");
        let kept: Vec<(i64, u16)> = sessions[0].queue.iter().map(|row| (row.place, row.packet)).collect();
        assert_eq!(kept, vec![(2, 7), (3, 0)]);
    }
}
