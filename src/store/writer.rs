//! The one writer: takes work from the queue, groups it into transactions, answers after the sync.

use std::path::Path;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::{StoreError, log, migrate, shadows};

/// Jobs in one transaction at most. While one commit syncs the next group gathers by itself.
const GROUP: usize = 512;
/// Messages the queue holds before its senders wait.
const QUEUE: usize = 4096;

/// What a job may use: the connection inside a transaction, and the caches that live and die with it.
pub struct Writer {
    pub(super) connection: Connection,
    pub(super) log: log::Tail,
    pub(super) shadows: shadows::Cache,
}

type Completion = Box<dyn FnOnce(Option<&StoreError>) + Send>;
type Job = Box<dyn FnOnce(&mut Writer) -> (bool, Completion) + Send>;

pub enum Message {
    Job(Job),
    Stop(oneshot::Sender<()>),
}

impl Message {
    pub fn job<R: Send + 'static>(
        work: impl FnOnce(&mut Writer) -> Result<R, StoreError> + Send + 'static,
        then: impl FnOnce(Result<R, StoreError>) + Send + 'static,
    ) -> Message {
        Message::Job(Box::new(move |writer| {
            let result = work(writer);
            let good = result.is_ok();
            let completion: Completion = Box::new(move |failed| match failed {
                Some(error) if result.is_ok() => then(Err(error.clone())),
                _ => then(result),
            });
            (good, completion)
        }))
    }
}

/// Opens the database for writing and starts the thread.
pub fn start(path: &Path) -> Result<(mpsc::Sender<Message>, std::thread::JoinHandle<()>, log::Watch), StoreError> {
    let mut connection = Connection::open(path)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", "ON")?;
    connection.set_prepared_statement_cache_capacity(64);
    migrate::run(&mut connection)?;
    let (tail, watch) = log::Tail::load(&connection)?;
    let mut writer = Writer { connection, log: tail, shadows: shadows::Cache::default() };
    let (queue, mut inbox) = mpsc::channel(QUEUE);
    let thread = std::thread::Builder::new()
        .name("store".into())
        .spawn(move || run(&mut writer, &mut inbox))
        .map_err(|e| StoreError::Unavailable(e.to_string()))?;
    Ok((queue, thread, watch))
}

fn run(writer: &mut Writer, inbox: &mut mpsc::Receiver<Message>) {
    while let Some(first) = inbox.blocking_recv() {
        let mut next = Some(first);
        let mut done: Vec<Completion> = Vec::new();
        let mut stop = None;
        let mut begun = writer.connection.execute_batch("BEGIN IMMEDIATE").map_err(StoreError::from);
        while let Some(message) = next {
            match message {
                Message::Job(job) => done.push(writer.run(job)),
                Message::Stop(reply) => {
                    stop = Some(reply);
                    break;
                }
            }
            next = if done.len() < GROUP { inbox.try_recv().ok() } else { None };
        }
        if begun.is_ok() {
            begun = writer.log.flush(&writer.connection);
        }
        if begun.is_ok() {
            begun = writer.connection.execute_batch("COMMIT").map_err(StoreError::from);
        }
        if let Err(error) = &begun {
            tracing::error!(%error, jobs = done.len(), "commit failed; nothing of it is acknowledged");
            let _ = writer.connection.execute_batch("ROLLBACK");
            writer.forget();
        } else {
            writer.log.committed();
        }
        for completion in done {
            completion(begun.as_ref().err());
        }
        if let Some(reply) = stop {
            let _ = writer.connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)");
            let _ = reply.send(());
            return;
        }
    }
}

impl Writer {
    /// Runs one job inside a savepoint, so that its failure undoes nothing but itself.
    fn run(&mut self, job: Job) -> Completion {
        let mark = self.log.mark();
        let saved = self.connection.execute_batch("SAVEPOINT job").is_ok();
        let (good, completion) = job(self);
        if saved {
            if good {
                let _ = self.connection.execute_batch("RELEASE job");
            } else {
                let _ = self.connection.execute_batch("ROLLBACK TO job; RELEASE job");
                self.log.back_to(mark);
                self.shadows.forget();
            }
        }
        completion
    }

    /// After a failed commit: the caches say what is on disk again.
    fn forget(&mut self) {
        self.shadows.forget();
        if let Err(error) = self.log.reload(&self.connection) {
            tracing::error!(%error, "the log's tail could not be read again");
        }
    }
}
