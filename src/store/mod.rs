//! The only room that speaks SQL: one writer thread with grouped commits behind a cheap handle, readers beside it.
//!
//! A write is a closure that runs inside the current transaction; its future resolves after that transaction is
//! committed and synced. Each file of this room owns some tables, their migrations and the methods of [`Store`] that
//! use them; nobody outside sees a connection.

mod migrate;
mod writer;

pub mod alarms;
pub mod artifacts;
pub mod audit;
pub mod credentials;
pub mod devices;
pub mod history;
pub mod jobs;
pub mod log;
pub mod retained;
pub mod sessions;
pub mod settings;
pub mod shadows;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rusqlite::{Connection, OpenFlags};
use tokio::sync::{mpsc, oneshot};

pub use writer::Writer;

/// Why the store did not do it. Nothing that ends in an error was stored.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The disk is full, read-only or failing; writes are tried again when it recovers.
    #[error("the disk refuses: {0}")]
    Unavailable(String),
    #[error("the store has stopped")]
    Stopped,
    #[error("database: {0}")]
    Sql(Arc<rusqlite::Error>),
    /// The database was written by a newer version.
    #[error("{0}")]
    Newer(String),
    /// What was stored cannot be read back as what it should be.
    #[error("damaged: {0}")]
    Damaged(String),
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode::{CannotOpen, DiskFull, ReadOnly, SystemIoFailure};
        match error.sqlite_error_code() {
            Some(DiskFull | ReadOnly | SystemIoFailure | CannotOpen) => StoreError::Unavailable(error.to_string()),
            _ => StoreError::Sql(Arc::new(error)),
        }
    }
}

/// The handle: cheap to clone, dropped by all when the daemon stops.
#[derive(Clone)]
pub struct Store {
    queue: mpsc::Sender<writer::Message>,
    readers: Arc<Readers>,
    log: log::Watch,
}

/// The writer's thread; join it after the last [`Store`] is gone or after [`Store::stop`].
pub struct WriterThread(std::thread::JoinHandle<()>);

impl WriterThread {
    pub fn join(self) {
        let _ = self.0.join();
    }
}

impl Store {
    /// Opens or creates the database in `folder`, brings its tables up to date and starts the writer.
    pub fn open(folder: &Path) -> Result<(Store, WriterThread), StoreError> {
        let path = folder.join("headgate.db");
        let (queue, thread, log) = writer::start(&path)?;
        Ok((Store { queue, readers: Arc::new(Readers { path, idle: Default::default() }), log }, WriterThread(thread)))
    }

    /// Runs `work` in the current transaction; resolves after it is committed and synced. Work that returns an error
    /// is undone alone; the others of its group are not touched.
    async fn write<R: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Writer) -> Result<R, StoreError> + Send + 'static,
    ) -> Result<R, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.write_then(work, move |result| drop(reply.send(result))).await?;
        answer.await.map_err(|_| StoreError::Stopped)?
    }

    /// Like [`Store::write`], with a callback on the writer's thread instead of a future. Returns when queued.
    async fn write_then<R: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Writer) -> Result<R, StoreError> + Send + 'static,
        then: impl FnOnce(Result<R, StoreError>) + Send + 'static,
    ) -> Result<(), StoreError> {
        let message = writer::Message::job(work, then);
        self.queue.send(message).await.map_err(|_| StoreError::Stopped)
    }

    /// Runs `query` on a read-only connection, beside the writer.
    async fn read<R: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> Result<R, StoreError> + Send + 'static,
    ) -> Result<R, StoreError> {
        let readers = self.readers.clone();
        let done = tokio::task::spawn_blocking(move || {
            let connection = readers.take()?;
            let result = query(&connection);
            readers.give_back(connection);
            result
        });
        done.await.map_err(|_| StoreError::Stopped)?
    }

    /// Commits what is queued, checkpoints and ends the writer.
    pub async fn stop(&self) {
        let (reply, done) = oneshot::channel();
        if self.queue.send(writer::Message::Stop(reply)).await.is_ok() {
            let _ = done.await;
        }
    }
}

/// Read-only connections that wait for the next reader.
struct Readers {
    path: PathBuf,
    idle: std::sync::Mutex<Vec<Connection>>,
}

impl Readers {
    const KEEP: usize = 2;

    fn take(&self) -> Result<Connection, StoreError> {
        if let Some(connection) = self.idle.lock().unwrap_or_else(|e| e.into_inner()).pop() {
            return Ok(connection);
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags)?;
        connection.busy_timeout(std::time::Duration::from_secs(5))?;
        connection.pragma_update(None, "cache_size", -512)?;
        Ok(connection)
    }

    fn give_back(&self, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(|e| e.into_inner());
        if idle.len() < Self::KEEP {
            idle.push(connection);
        }
    }
}
