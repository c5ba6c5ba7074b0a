//! The database file as the writer holds it: opened, bounded, and opened again when the disk recovers.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use rusqlite::{Connection, hooks::Wal};

use super::{
    Readers, StoreError, StoreHealth, StoreOptions, Writer,
    ahead::{Ahead, INDEX},
    checkpoint::{Checkpoints, depth},
    faults,
    log::{self, Limits},
    migrate, reserve, salvage,
};
use crate::clock;

/// Bytes of a page, SQLite's default; small pages spare flash where commits are small.
pub(super) const PAGE: u64 = 4096;
/// The log keeps this much even where others fill the file system.
const LEAST: u64 = 1 << 20;
/// For so long it is believed that others left as much room on the file system as they did.
const LOOK: Duration = Duration::from_millis(50);
/// Bytes of a frame of the write-ahead log.
const FRAME: u64 = PAGE + 24;

pub struct Database {
    path: PathBuf,
    options: StoreOptions,
    readers: Arc<Readers>,
    checkpoints: Checkpoints,
    ahead: Ahead,
    /// Frames in the write-ahead log after the last commit.
    frames: Arc<AtomicU64>,
    /// Pages there is room for, and when that was looked up.
    room: Option<(Instant, u64)>,
    state: State,
}

/// What must happen before the next transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Good,
    /// The transaction failed: what is in memory is ahead of the disk.
    Reload,
    /// The disk failed under the connection: what it believes may be wrong.
    Reopen(String),
    /// The file is damaged.
    Replace(String),
}

impl Database {
    pub fn new(path: PathBuf, options: StoreOptions, readers: Arc<Readers>) -> Result<Self, StoreError> {
        let (checkpoints, ahead) = (Checkpoints::start()?, Ahead::default());
        Ok(Self { path, options, readers, checkpoints, ahead, frames: Arc::default(), room: None, state: State::Good })
    }

    pub fn linger(&self) -> Duration {
        self.options.log.linger
    }

    /// Bytes of records in one transaction at most, so that the write-ahead log stays within its share.
    pub fn group_bytes(&self) -> usize {
        (self.wal_share() / 4).min(1 << 20) as usize
    }

    pub fn health(&self) -> StoreHealth {
        match &self.state {
            State::Reopen(reason) => StoreHealth::Refusing { reason: reason.clone(), since: clock::now() },
            _ => StoreHealth::Good,
        }
    }

    /// Opens the file for the first time. Damage is mended, a refusing disk leaves a stand-in that takes nothing.
    pub fn open(&mut self) -> Result<(Connection, log::Tail, log::Watch), StoreError> {
        let opened = match self.mend() {
            Err(StoreError::Unavailable(reason)) if reserve::release(&self.path) => {
                tracing::error!(reason, "the disk is full; starting with what was held for that");
                self.mend()
            }
            other => other,
        };
        match opened {
            Ok(opened) => {
                reserve::hold(&self.path);
                Ok(opened)
            }
            Err(StoreError::Unavailable(reason)) => {
                tracing::error!(reason, "the database cannot be opened; nothing is stored until it can");
                self.state = State::Reopen(reason);
                let mut stand_in = Connection::open_in_memory()?;
                migrate::run(&mut stand_in)?;
                self.load(stand_in)
            }
            other => other,
        }
    }

    /// Opens the file, or what could be salvaged of it.
    fn mend(&mut self) -> Result<(Connection, log::Tail, log::Watch), StoreError> {
        let whole = salvage::finish(&self.path).and_then(|()| salvage::inspect(&self.path));
        match whole.and_then(|()| self.connect()).and_then(|opened| self.load(opened)) {
            Err(error) if error.is_damage() => {
                self.replace(&error.to_string())?;
                let begun = self.connect()?;
                self.load(begun)
            }
            other => other,
        }
    }

    fn load(&self, connection: Connection) -> Result<(Connection, log::Tail, log::Watch), StoreError> {
        let (tail, watch) = log::Tail::load(&connection, self.options.gateway.clone())?;
        Ok((connection, tail, watch))
    }

    /// Opens, sets the bounds and migrates.
    fn connect(&mut self) -> Result<Connection, StoreError> {
        if free_space(&self.path).is_some_and(|free| free < INDEX) {
            return Err(full());
        }
        if !self.path.exists() {
            salvage::begin(&self.path)?;
        }
        let mut connection = Connection::open(&self.path)?;
        connection.busy_timeout(Duration::from_secs(5))?;
        migrate::prepare(&connection)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        if !self.ahead.begin(&beside(&self.path, "-shm")) {
            return Err(full());
        }
        set_sync(&connection)?;
        connection.pragma_update(None, "foreign_keys", "ON")?;
        // What undoes one job stays in memory; else SQLite writes every page that a job changes to a temporary file too, as
        // soon as one job was large.
        connection.pragma_update(None, "temp_store", "MEMORY")?;
        connection.pragma_update(None, "max_page_count", self.most_pages())?;
        connection.pragma_update(None, "wal_autocheckpoint", 0)?;
        connection.pragma_update(None, "journal_size_limit", self.wal_share())?;
        connection.set_prepared_statement_cache_capacity(128);
        self.frames.store(0, Relaxed);
        let frames = self.frames.clone();
        connection.wal_hook(Some(move |_: &mut Wal, pages: i32| {
            frames.store(u64::try_from(pages).unwrap_or(0), Relaxed);
            Ok(())
        }))?;
        migrate::run(&mut connection)?;
        let second = Connection::open(&self.path)?;
        set_sync(&second)?;
        self.checkpoints.serve(Some(second));
        Ok(connection)
    }

    /// Sets the damaged file aside and begins a new one with what could be read.
    fn replace(&mut self, why: &str) -> Result<(), StoreError> {
        tracing::error!(why, path = %self.path.display(), "the database is damaged; salvaging it");
        self.checkpoints.serve(None);
        salvage::replace(&self.path, &self.options, why)?;
        self.readers.replaced();
        Ok(())
    }

    /// What a failed transaction means for the next one.
    pub fn broken(&mut self, error: StoreError) {
        self.room = None;
        let next = match &error {
            error if error.is_damage() => State::Replace(error.to_string()),
            StoreError::Unavailable(reason) if !reason.contains("full") => State::Reopen(reason.clone()),
            _ => State::Reload,
        };
        // What is worse stays until it is mended.
        let worse = matches!(next, State::Replace(_)) || matches!(self.state, State::Good | State::Reload);
        if worse {
            self.state = next;
        }
    }

    /// Mends what the last failure broke; an error means that it cannot be mended yet.
    pub fn ready(&mut self, writer: &mut Writer) -> Result<(), StoreError> {
        match self.state.clone() {
            State::Good => return Ok(()),
            State::Reload => {}
            State::Reopen(_) => {
                writer.connection = self.connect()?;
                // After a failed sync the system may hold pages as clean that are not on disk: write all anew.
                let sql = "PRAGMA wal_checkpoint(TRUNCATE)";
                let busy: i64 = writer.connection.query_row(sql, [], |row| row.get(0))?;
                if busy != 0 {
                    return Err(StoreError::Unavailable("the write-ahead log is still in use".into()));
                }
                self.readers.replaced();
            }
            State::Replace(why) => {
                writer.connection = Connection::open_in_memory()?;
                self.replace(&why)?;
                writer.connection = self.connect()?;
            }
        }
        writer.log.reload(&writer.connection)?;
        writer.shadows.forget();
        self.state = State::Good;
        reserve::hold(&self.path);
        Ok(())
    }

    /// What the write-ahead log may occupy.
    fn wal_share(&self) -> u64 {
        (self.options.log.max_bytes / 8).clamp(1 << 20, 16 << 20)
    }

    fn most_pages(&self) -> u64 {
        (self.options.log.max_bytes - self.wal_share() - INDEX - reserve::BYTES) / PAGE
    }

    /// How far the log may grow now: below the cap by what other tables need, and such that the file system keeps what
    /// is to be left to others.
    pub fn limits(&mut self) -> Limits {
        let most = self.most_pages();
        let age = self.options.log.max_age.map(|age| i64::try_from(age.as_millis()).unwrap_or(i64::MAX));
        let room = match self.room {
            Some((at, room)) if at.elapsed() < LOOK => room,
            _ => self.room.insert((Instant::now(), self.look_for_room())).1,
        };
        Limits { pages: (most - (most / 32).max(32)).min(room), room, age }
    }

    /// Pages the file may have so that the file system keeps what is to be left to others.
    fn look_for_room(&self) -> u64 {
        let Some(free) = free_space(&self.path) else { return u64::MAX };
        let file = std::fs::metadata(&self.path).map_or(0, |meta| meta.len());
        (file + free).saturating_sub(self.options.log.keep_free).max(LEAST) / PAGE
    }

    /// For the transaction that just began: there shall be room in the write-ahead log.
    pub fn extend_log(&mut self) {
        self.ahead.extend_log(&wal_of(&self.path), self.frames.load(Relaxed) * FRAME, self.wal_share());
    }

    /// Keeps the write-ahead log within its share. What of it is not in the database is moved there beside the writer; once
    /// all is, the log begins anew by itself. The writer waits only where commits come faster than that, and where `shrunk`
    /// pages are to be given back to the file system.
    pub fn bound_wal(&mut self, connection: &Connection, shrunk: bool) {
        let share = self.wal_share() / PAGE;
        if !shrunk && self.frames.load(Relaxed) <= share / 3 {
            return;
        }
        let Ok(wal) = depth(connection, "PRAGMA wal_checkpoint(NOOP)") else { return };
        // One more transaction must fit.
        if shrunk || wal.frames > share / 4 * 3 {
            let how = if shrunk { "PRAGMA wal_checkpoint(TRUNCATE)" } else { "PRAGMA wal_checkpoint(RESTART)" };
            let _ = connection.execute_batch(how);
            self.frames.store(0, Relaxed);
            if shrunk {
                self.ahead.log_cut();
            }
        } else if wal.frames.saturating_sub(wal.moved) > share / 3 {
            self.checkpoints.ask();
        }
    }

    pub fn close(&self, connection: &mut Connection) {
        self.checkpoints.serve(None);
        let _ = connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)");
    }
}

fn full() -> StoreError {
    StoreError::Unavailable("the disk is full".into())
}

/// Each commit is on the disk when it is acknowledged.
fn set_sync(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "synchronous", if faults::planted("skip-sync") { "OFF" } else { "FULL" })
}

pub(super) fn wal_of(path: &Path) -> PathBuf {
    beside(path, "-wal")
}

pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Bytes of the file system that ordinary processes may still take.
pub(super) fn free_space(path: &Path) -> Option<u64> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let space = rustix::fs::statvfs(folder).ok()?;
    Some(space.f_bavail * space.f_frsize)
}

#[cfg(test)]
mod tests {
    use super::super::{Store, StoreError, Writer};

    #[tokio::test]
    async fn a_large_job_writes_no_temporary_file() {
        let folder = tempfile::tempdir().expect("folder");
        let (store, _thread) = Store::open(folder.path()).expect("open");
        // More pages than SQLite keeps in memory by itself; only those that were there before must be restored.
        let fill = |writer: &mut Writer, value: u8| -> Result<(), StoreError> {
            (0..800).try_for_each(|n| writer.set(&format!("page {n}"), &[value; 300]))
        };
        store.write(move |writer| fill(writer, 1)).await.expect("stored");
        let open = store.write(move |writer| {
            fill(writer, 2)?;
            let open = std::fs::read_dir("/proc/self/fd").map_err(|e| StoreError::Damaged(e.to_string()))?;
            let links = open.flatten().filter_map(|entry| std::fs::read_link(entry.path()).ok());
            // Without a name where the file system can, else with SQLite's own.
            let temporary = |link: &String| link.contains("/#") || link.contains("etilqs_");
            Ok(links.map(|link| link.display().to_string()).filter(temporary).collect::<Vec<_>>())
        });
        assert_eq!(open.await.expect("stored"), Vec::<String>::new());
    }
}
