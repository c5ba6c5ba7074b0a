//! The one writer: takes work from the queue, groups it into transactions, answers after the sync.
//!
//! ```text
//!  gather ──▶ begin ─▶ jobs and records ─▶ make room, write blocks ─▶ commit + sync ──▶ answers
//!    ▲                                                                  │ fails
//!    └── what nobody waits for is kept and tried again ◀── refusing ◀───┘ (nothing is acknowledged)
//! ```

use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use super::{StoreError, StoreHealth, faults, history, log, open::Database, shadows};
use crate::{
    clock,
    model::{ids::DeviceId, record::NewRecord},
};

/// Jobs in one transaction at most. While one commit syncs the next group gathers by itself.
const GROUP: usize = 512;
/// Messages the queue holds before its senders wait.
const QUEUE: usize = 4096;
/// Records kept in memory while nothing can be stored; older ones beyond it are counted and declared.
const KEPT: usize = 20_000;
/// Devices of whom something else is expected, until a listener that is behind looks at all.
const EXPECTS: usize = 1024;
/// How often a disk that refuses is tried when no work comes.
const PROBE: Duration = Duration::from_secs(1);

/// What a job may use: the connection inside a transaction, and the caches that live and die with it.
pub struct Writer {
    pub(super) connection: Connection,
    pub(super) log: log::Tail,
    pub(super) shadows: shadows::Cache,
    pub(super) history: history::Sweeper,
    /// Of whom something else may be expected once this transaction stands; `None` is all.
    pub(super) expects: Vec<Option<DeviceId>>,
}

type Completion = Box<dyn FnOnce(Option<&StoreError>) + Send>;
type Job = Box<dyn FnOnce(Result<&mut Writer, &StoreError>) -> (bool, Completion) + Send>;

pub enum Message {
    Job(Job),
    /// Records, and who waits for their numbers. Those nobody waits for may linger.
    Append(Vec<NewRecord>, Option<oneshot::Sender<Result<Vec<u64>, StoreError>>>),
    Stop(oneshot::Sender<()>),
}

impl Message {
    pub fn job<R: Send + 'static>(
        work: impl FnOnce(&mut Writer) -> Result<R, StoreError> + Send + 'static,
        then: impl FnOnce(Result<R, StoreError>) + Send + 'static,
    ) -> Message {
        Message::Job(Box::new(move |writer| {
            let result = writer.map_err(Clone::clone).and_then(work);
            let good = result.is_ok();
            let completion: Completion = Box::new(move |failed| match failed {
                Some(error) if result.is_ok() => then(Err(error.clone())),
                _ => then(result),
            });
            (good, completion)
        }))
    }

    fn may_linger(&self) -> bool {
        matches!(self, Message::Append(_, None))
    }

    fn bytes(&self) -> usize {
        match self {
            Message::Append(records, _) => records.iter().map(|record| record.body.len() + 64).sum(),
            _ => 0,
        }
    }
}

/// The handle's ends of a writer that runs.
pub struct Started {
    pub queue: mpsc::Sender<Message>,
    pub thread: std::thread::JoinHandle<()>,
    pub log: log::Watch,
    pub health: watch::Receiver<StoreHealth>,
    pub written: watch::Receiver<log::Written>,
    pub expects: broadcast::Sender<Option<DeviceId>>,
}

/// Opens the database for writing and starts the thread.
pub fn start(mut database: Database) -> Result<Started, StoreError> {
    let (connection, log, log_watch) = database.open()?;
    let (queue, inbox) = mpsc::channel(QUEUE);
    let (health_tell, health) = watch::channel(database.health());
    let (written_tell, written) = watch::channel(log::Written::default());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.map_err(|e| StoreError::Unavailable(e.to_string()))?;
    let expects = broadcast::Sender::new(EXPECTS);
    let shadows = shadows::Cache::default();
    let writer = Writer { connection, log, shadows, history: Default::default(), expects: Vec::new() };
    let mut group = Group {
        writer,
        database,
        health: health_tell,
        written: written_tell,
        expects: expects.clone(),
        held: Vec::new(),
    };
    let thread = std::thread::Builder::new()
        .name("store".into())
        .spawn(move || runtime.block_on(group.run(inbox)))
        .map_err(|e| StoreError::Unavailable(e.to_string()))?;
    Ok(Started { queue, thread, log: log_watch, health, written, expects })
}

/// The writer's thread: gathers, commits, recovers.
struct Group {
    writer: Writer,
    database: Database,
    health: watch::Sender<StoreHealth>,
    written: watch::Sender<log::Written>,
    expects: broadcast::Sender<Option<DeviceId>>,
    /// Records nobody waits for, from commits that failed.
    held: Vec<NewRecord>,
}

enum Answer {
    Job(Completion),
    Append(Result<Vec<u64>, StoreError>, oneshot::Sender<Result<Vec<u64>, StoreError>>),
}

impl Group {
    async fn run(&mut self, mut inbox: mpsc::Receiver<Message>) {
        let mut gathered = Vec::new();
        loop {
            let stop = self.gather(&mut inbox, &mut gathered).await;
            self.commit(&mut gathered);
            match stop {
                Gathered::More => {}
                Gathered::Stop(reply) => {
                    self.database.close(&mut self.writer.connection);
                    if let Some(reply) = reply {
                        let _ = reply.send(());
                    }
                    return;
                }
            }
        }
    }

    /// Waits for work. Work somebody waits for begins a commit at once; other work may wait for company.
    async fn gather(&mut self, inbox: &mut mpsc::Receiver<Message>, into: &mut Vec<Message>) -> Gathered {
        let refusing = *self.health.borrow() != StoreHealth::Good;
        let first = if refusing || !self.held.is_empty() {
            match tokio::time::timeout(PROBE, inbox.recv()).await {
                Ok(first) => first,
                Err(_) => return Gathered::More,
            }
        } else {
            inbox.recv().await
        };
        let mut next = match first {
            None => return Gathered::Stop(None),
            first => first,
        };
        let mut bytes = 0;
        let mut lingering = None;
        while let Some(message) = next {
            if let Message::Stop(reply) = message {
                return Gathered::Stop(Some(reply));
            }
            let lazy = message.may_linger();
            bytes += message.bytes();
            into.push(message);
            if into.len() >= GROUP || bytes >= self.database.group_bytes() {
                return Gathered::More;
            }
            let until = *lingering.get_or_insert_with(|| tokio::time::Instant::now() + self.database.linger());
            let wait = lazy && into.iter().all(Message::may_linger);
            next = match inbox.try_recv() {
                Ok(message) => Some(message),
                Err(_) if wait => tokio::time::timeout_at(until, inbox.recv()).await.unwrap_or(None),
                Err(_) => None,
            };
        }
        Gathered::More
    }

    /// One transaction with all that was gathered, and the answers.
    fn commit(&mut self, gathered: &mut Vec<Message>) {
        if let Err(error) = self.database.ready(&mut self.writer) {
            return self.failed(error, std::mem::take(gathered), Vec::new());
        }
        let mut answers: Vec<Answer> = Vec::with_capacity(gathered.len());
        let mut result = self.say("BEGIN IMMEDIATE");
        if result.is_ok() && *self.health.borrow() != StoreHealth::Good {
            // An empty transaction would succeed on the fullest disk.
            result = self.writer.set("store.probe", clock::now().0.to_string().as_bytes());
        }
        if result.is_ok() {
            self.database.extend_log();
            for record in self.held.iter() {
                self.writer.log.append(record.clone(), true);
            }
            for message in gathered.drain(..) {
                match message {
                    Message::Job(job) => answers.push(Answer::Job(self.writer.run(job))),
                    Message::Append(records, reply) => {
                        let lazy = reply.is_none();
                        let seqs: Vec<u64> = records.into_iter().map(|r| self.writer.log.append(r, lazy)).collect();
                        answers.extend(reply.map(|reply| Answer::Append(Ok(seqs), reply)));
                    }
                    Message::Stop(_) => {}
                }
            }
            if faults::planted("ack-before-commit") {
                answers.drain(..).for_each(|answer| answer.give(None));
            }
            result = self.finish();
        }
        match result {
            Ok(()) => self.succeeded(answers),
            Err(error) => self.failed(error, std::mem::take(gathered), answers),
        }
    }

    fn finish(&mut self) -> Result<(), StoreError> {
        // Some errors end the transaction by themselves, whatever job met them.
        if self.writer.connection.is_autocommit() {
            return Err(StoreError::Unavailable("the transaction was ended by the disk".into()));
        }
        let limits = self.database.limits();
        self.writer.log.flush(&self.writer.connection, limits)?;
        faults::point("before-commit");
        self.say("COMMIT")?;
        faults::point("after-commit");
        Ok(())
    }

    /// A statement of every commit, parsed once.
    fn say(&self, sql: &str) -> Result<(), StoreError> {
        self.writer.connection.prepare_cached(sql)?.execute([])?;
        Ok(())
    }

    fn succeeded(&mut self, answers: Vec<Answer>) {
        self.held.clear();
        self.writer.log.committed();
        for device in self.writer.expects.drain(..) {
            let _ = self.expects.send(device);
        }
        for answer in answers {
            answer.give(None);
        }
        self.written.send_replace(self.writer.log.written);
        if *self.health.borrow() != StoreHealth::Good {
            tracing::info!("the disk takes data again");
            self.health.send_replace(StoreHealth::Good);
        }
        self.writer.log.tidy();
        let shrunk = std::mem::take(&mut self.writer.log.shrunk);
        self.database.bound_wal(&self.writer.connection, shrunk);
    }

    fn failed(&mut self, error: StoreError, unseen: Vec<Message>, answers: Vec<Answer>) {
        let _ = self.writer.connection.execute_batch("ROLLBACK");
        let mut kept = self.writer.log.take_lazy();
        if kept.is_empty() {
            kept = std::mem::take(&mut self.held);
        }
        for message in unseen {
            match message {
                Message::Append(records, None) => kept.extend(records),
                Message::Append(_, Some(reply)) => drop(reply.send(Err(error.clone()))),
                // Its completion learns of the failure without the work having run.
                Message::Job(job) => job(Err(&error)).1(Some(&error)),
                Message::Stop(_) => {}
            }
        }
        if kept.len() > KEPT {
            for record in kept.drain(..kept.len() - KEPT) {
                self.writer.log.lose(&record);
            }
        }
        self.held = kept;
        for answer in answers {
            answer.give(Some(&error));
        }
        let reason = error.to_string();
        let known = matches!(&*self.health.borrow(), StoreHealth::Refusing { reason: known, .. } if *known == reason);
        if !known {
            tracing::error!(%error, "nothing can be stored; nothing is acknowledged until it can");
            self.health.send_replace(StoreHealth::Refusing { reason, since: clock::now() });
        }
        self.database.broken(error);
        self.writer.shadows.forget();
        // What is salvaged may be less than there was.
        self.writer.expects = vec![None];
    }
}

enum Gathered {
    More,
    Stop(Option<oneshot::Sender<()>>),
}

impl Answer {
    fn give(self, failed: Option<&StoreError>) {
        match (self, failed) {
            (Answer::Job(completion), failed) => completion(failed),
            (Answer::Append(_, reply), Some(error)) => drop(reply.send(Err(error.clone()))),
            (Answer::Append(result, reply), None) => drop(reply.send(result)),
        }
    }
}

impl Writer {
    /// Runs one job inside a savepoint, so that its failure undoes nothing but itself.
    fn run(&mut self, job: Job) -> Completion {
        let mark = self.log.mark();
        let saved = self.connection.execute_batch("SAVEPOINT job").is_ok();
        let (good, completion) = job(Ok(self));
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
}
