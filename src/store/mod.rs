//! The only room that speaks SQL: one writer thread with grouped commits behind a cheap handle, readers beside it.
//!
//! A write is a closure that runs inside the current transaction; its future resolves after that transaction is
//! committed and synced. Each file of this room owns some tables, their migrations and the methods of [`Store`] that
//! use them; nobody outside sees a connection.

mod ahead;
mod checkpoint;
pub mod faults;
mod migrate;
mod open;
mod reserve;
mod salvage;
mod wal;
mod writer;

pub mod accounts;
pub mod alarms;
pub mod artifacts;
pub mod audit;
pub mod commands;
pub mod configs;
pub mod credentials;
pub mod desired;
pub mod devices;
pub mod drifts;
pub mod executions;
pub mod history;
pub mod intake;
pub mod jobs;
pub mod log;
pub mod retained;
pub mod sessions;
pub mod settings;
pub mod shadows;
pub mod sync;
pub mod time;
pub mod wills;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rusqlite::{Connection, OpenFlags};
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use crate::{
    config::log::LogConfig,
    model::{ids::DeviceId, time::Millis},
};

pub use writer::Writer;

/// The version of the SQLite that is built in.
pub fn sqlite_version() -> &'static str {
    rusqlite::version()
}

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

impl StoreError {
    /// The file is no database, or not a whole one.
    fn is_damage(&self) -> bool {
        use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
        match self {
            StoreError::Sql(error) => matches!(error.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase)),
            StoreError::Damaged(_) => true,
            _ => false,
        }
    }
}

/// Whether writes are taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreHealth {
    Good,
    /// Nothing is stored and nothing acknowledged; tried again every second.
    Refusing {
        reason: String,
        since: Millis,
    },
}

/// What the store must know of its surroundings.
#[derive(Debug, Clone, PartialEq)]
pub struct StoreOptions {
    pub log: LogConfig,
    /// The device that declares losses.
    pub gateway: DeviceId,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self { log: LogConfig::default(), gateway: DeviceId::new("gateway").expect("a valid id") }
    }
}

/// The handle: cheap to clone, dropped by all when the daemon stops.
#[derive(Clone)]
pub struct Store {
    queue: mpsc::Sender<writer::Message>,
    readers: Arc<Readers>,
    log: log::Watch,
    health: watch::Receiver<StoreHealth>,
    written: watch::Receiver<log::Written>,
    expects: broadcast::Sender<Option<DeviceId>>,
    options: Arc<StoreOptions>,
}

/// The writer's thread; join it after the last [`Store`] is gone or after [`Store::stop`].
pub struct WriterThread(std::thread::JoinHandle<()>);

impl WriterThread {
    pub fn join(self) {
        let _ = self.0.join();
    }
}

impl Store {
    /// Opens or creates the database in `folder` with default options.
    pub fn open(folder: &Path) -> Result<(Store, WriterThread), StoreError> {
        Self::open_with(folder, StoreOptions::default())
    }

    /// Opens or creates the database in `folder`, brings its tables up to date and starts the writer. A damaged
    /// database is set aside and salvaged, a disk that refuses is waited for ([`Store::health`]); only a database of
    /// a newer version is an error.
    pub fn open_with(folder: &Path, options: StoreOptions) -> Result<(Store, WriterThread), StoreError> {
        let path = folder.join("headgate.db");
        let readers = Arc::new(Readers { path: path.clone(), idle: Default::default() });
        let started = writer::start(open::Database::new(path, options.clone(), readers.clone())?)?;
        let store = Store {
            queue: started.queue,
            readers,
            log: started.log,
            health: started.health,
            written: started.written,
            expects: started.expects,
            options: Arc::new(options),
        };
        Ok((store, WriterThread(started.thread)))
    }

    /// The names of damaged databases that were set aside and still lie beside the one in use.
    pub fn set_aside_files(&self) -> Vec<String> {
        self.readers.path.parent().map(salvage::set_aside).unwrap_or_default()
    }

    /// Whether writes are taken, and if not why.
    pub fn health(&self) -> watch::Receiver<StoreHealth> {
        self.health.clone()
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
            let result = query(&connection.1);
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
    idle: std::sync::Mutex<Idle>,
}

#[derive(Default)]
struct Idle {
    /// Grows when the file was replaced by another one.
    file: u64,
    connections: Vec<Connection>,
}

impl Readers {
    const KEEP: usize = 2;

    fn take(&self) -> Result<(u64, Connection), StoreError> {
        let file = {
            let mut idle = self.idle.lock().unwrap_or_else(|e| e.into_inner());
            if let Some(connection) = idle.connections.pop() {
                return Ok((idle.file, connection));
            }
            idle.file
        };
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags)?;
        connection.busy_timeout(std::time::Duration::from_secs(5))?;
        connection.pragma_update(None, "cache_size", -512)?;
        Ok((file, connection))
    }

    fn give_back(&self, (file, connection): (u64, Connection)) {
        let mut idle = self.idle.lock().unwrap_or_else(|e| e.into_inner());
        if idle.connections.len() < Self::KEEP && idle.file == file {
            idle.connections.push(connection);
        }
    }

    /// The file is another one now: connections to the old one are of no use.
    fn replaced(&self) {
        let mut idle = self.idle.lock().unwrap_or_else(|e| e.into_inner());
        idle.file += 1;
        idle.connections.clear();
    }
}
