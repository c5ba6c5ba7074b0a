//! Moves what is committed from the write-ahead log into the database, on a thread of its own: a slow card takes seconds
//! for it, and no acknowledgement shall wait for that.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    mpsc::{SyncSender, sync_channel},
};

use rusqlite::Connection;

use super::StoreError;

/// The thread; it ends when this is dropped.
pub struct Checkpoints {
    file: Held,
    ask: SyncSender<()>,
}

/// The thread's own connection to the file that is in use.
type Held = Arc<Mutex<Option<Connection>>>;

/// Frames in the write-ahead log, and how many of them the database has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Depth {
    pub frames: u64,
    pub moved: u64,
}

impl Checkpoints {
    pub fn start() -> Result<Self, StoreError> {
        let file = Held::default();
        let (ask, asked) = sync_channel(1);
        let held = file.clone();
        let work = move || {
            while asked.recv().is_ok() {
                // Whatever fails leaves the frames where they are, synced; the next one tries again.
                if let Some(connection) = &*lock(&held)
                    && let Err(error) = depth(connection, "PRAGMA wal_checkpoint(PASSIVE)")
                {
                    tracing::warn!(%error, "the write-ahead log could not be moved into the database");
                }
            }
        };
        let thread = std::thread::Builder::new().name("checkpoint".into()).spawn(work);
        thread.map_err(|e| StoreError::Unavailable(e.to_string()))?;
        Ok(Self { file, ask })
    }

    /// Works on another file from now on, or on none. Waits for what is under way: a checkpoint that saw the old file and the
    /// log of the new one would mix them.
    pub fn serve(&self, connection: Option<Connection>) {
        *lock(&self.file) = connection;
    }

    /// Asks for a checkpoint, unless one is asked for already.
    pub fn ask(&self) {
        let _ = self.ask.try_send(());
    }
}

fn lock(held: &Held) -> MutexGuard<'_, Option<Connection>> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Says one of the checkpoint pragmas, all of which answer with the depth; NOOP does nothing else.
pub fn depth(connection: &Connection, pragma: &str) -> rusqlite::Result<Depth> {
    connection.prepare_cached(pragma)?.query_row([], |row| {
        let number = |index| row.get::<_, i64>(index).map(|n| u64::try_from(n).unwrap_or(0));
        Ok(Depth { frames: number(1)?, moved: number(2)? })
    })
}
