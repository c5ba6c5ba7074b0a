//! A damaged database: set aside under a name of its own, what can be read taken over, the loss declared.
//!
//! ```text
//!  marker written ─▶ file renamed to …damaged-<n> ─▶ new file built beside ─▶ renamed into place ─▶ marker removed
//! ```
//! A kill at any point is continued at the next start. The damaged file is kept for whoever wants to look at it; of a card
//! that fails again and again the last few are kept, so that they do not fill it.

use std::{
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use rusqlite::{Connection, OpenFlags, types::Value};

use super::{
    StoreError, StoreOptions, faults,
    log::{Limits, Tail},
    migrate,
    open::{PAGE, beside, wal_of},
    wal,
};
use crate::clock;

/// How far the numbers of a stream are moved on, because the end of it may have been lost after it was sent.
const AHEAD: u64 = 1_000_000;
/// Damaged databases that are kept at most.
pub(super) const KEPT: usize = 3;

/// Finds the damage that SQLite passes over in silence: an empty file is a new database to it, whose write-ahead log it
/// deletes, and a log ends for it where a frame does not fit, whatever comes after.
pub fn inspect(path: &Path) -> Result<(), StoreError> {
    let damaged = |what: &str| Err(StoreError::Damaged(what.into()));
    let log = fs::metadata(wal_of(path)).map_or(0, |meta| meta.len());
    match fs::metadata(path) {
        Ok(meta) if !meta.is_file() => return damaged("something that is no file is in its place"),
        // It is made whole beside its place, so it was not begun just now.
        Ok(meta) if meta.len() == 0 => return damaged("the file is empty"),
        Ok(_) => {}
        Err(_) if log > 0 => return damaged("the file is gone, its write-ahead log is not"),
        Err(_) => return Ok(()),
    }
    if wal::is_damaged(&wal_of(path)).map_err(disk)? {
        return damaged("the write-ahead log has lost transactions");
    }
    Ok(())
}

/// Makes a new database, whole or not at all.
pub fn begin(path: &Path) -> Result<(), StoreError> {
    let fresh = beside(path, ".new");
    blank(&fresh)?.execute_batch("PRAGMA journal_mode = DELETE")?;
    fs::File::open(&fresh).and_then(|file| file.sync_all()).map_err(disk)?;
    fs::rename(&fresh, path).map_err(disk)?;
    sync(path)
}

/// The damaged databases that lie in `folder`, oldest first.
pub fn set_aside(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.retain(|name| number(name).is_some());
    names.sort_by_key(|name| number(name));
    names
}

/// Which of the damaged databases it is, where it is one.
fn number(name: &str) -> Option<u64> {
    name.split_once(".damaged-")?.1.parse().ok()
}

/// A name that none had before, and room for what will bear it.
fn next_aside(path: &Path) -> PathBuf {
    let names = set_aside(path.parent().unwrap_or(Path::new(".")));
    let last = names.last().and_then(|name| number(name)).unwrap_or(0);
    for name in names.iter().rev().skip(KEPT - 1) {
        let old = path.with_file_name(name);
        // Something else in the database's place may have been a folder: one that holds anything is left alone.
        let removed = if old.is_dir() { fs::remove_dir(&old) } else { fs::remove_file(&old) };
        match removed {
            Ok(()) => tracing::warn!(name, kept = KEPT, "the oldest of the damaged databases was removed"),
            Err(error) => tracing::warn!(name, %error, "the oldest of the damaged databases cannot be removed"),
        }
        for left in [wal_of(&old), beside(&old, "-shm")] {
            let _ = fs::remove_file(left);
        }
    }
    beside(path, &format!(".damaged-{}", last + 1))
}

/// Continues a salvage that a kill interrupted.
pub fn finish(path: &Path) -> Result<(), StoreError> {
    let Ok(name) = fs::read_to_string(beside(path, ".salvaging")) else { return Ok(()) };
    let aside = path.with_file_name(name.trim());
    if path.exists() && aside.exists() {
        return done(path);
    }
    Err(StoreError::Damaged("a salvage was interrupted".into()))
}

/// Sets the file aside and puts a new one in its place that holds what could be read.
pub fn replace(path: &Path, options: &StoreOptions, why: &str) -> Result<(), StoreError> {
    let marker = beside(path, ".salvaging");
    let aside = match fs::read_to_string(&marker) {
        Ok(name) => path.with_file_name(name.trim()),
        Err(_) => {
            let aside = next_aside(path);
            fs::write(&marker, aside.file_name().unwrap_or_default().as_encoded_bytes()).map_err(disk)?;
            sync(path)?;
            aside
        }
    };
    for (from, to) in [(path.to_owned(), aside.clone()), (wal_of(path), wal_of(&aside))] {
        if from.exists() && !to.exists() {
            fs::rename(&from, &to).map_err(disk)?;
            faults::point("set-aside");
        }
    }
    let _ = fs::remove_file(beside(path, "-shm"));
    sync(path)?;
    let fresh = beside(path, ".new");
    let saved = build(&fresh, &aside, options)?;
    fs::rename(&fresh, path).map_err(disk)?;
    faults::point("put-in-place");
    done(path)?;
    tracing::warn!(why, set_aside = %aside.display(), rows = saved, "a new database was begun with what could be read");
    Ok(())
}

fn done(path: &Path) -> Result<(), StoreError> {
    sync(path)?;
    fs::remove_file(beside(path, ".salvaging")).map_err(disk)?;
    sync(path)
}

/// A database with all tables and nothing in them.
fn blank(fresh: &Path) -> Result<Connection, StoreError> {
    for left in [fresh.to_owned(), wal_of(fresh), beside(fresh, "-shm")] {
        let _ = fs::remove_file(left);
    }
    let mut new = Connection::open(fresh)?;
    migrate::prepare(&new)?;
    migrate::run(&mut new)?;
    Ok(new)
}

/// Gives a damaged file the hundred bytes without which SQLite looks at nothing of it, where it has lost them; they are
/// the same in all our databases. A file that is gone becomes one page, so that its write-ahead log is read.
fn give_header(aside: &Path, fresh: &Path) -> std::io::Result<()> {
    if aside.is_dir() {
        return Ok(());
    }
    let file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(aside)?;
    let (mut known, mut here) = ([0; 100], [0; 16]);
    fs::File::open(fresh)?.read_exact_at(&mut known, 0)?;
    let _ = file.read_exact_at(&mut here, 0);
    if here == known[..16] {
        return Ok(());
    }
    let pages = file.metadata()?.len().div_ceil(PAGE).max(1);
    file.set_len(pages * PAGE)?;
    // Its pages, none of them known to be free (sqlite.org/fileformat.html, 1.3).
    known[28..32].copy_from_slice(&u32::try_from(pages).unwrap_or(u32::MAX).to_be_bytes());
    known[32..40].fill(0);
    file.write_all_at(&known, 0)
}

/// A new database with all rows of the old one that can be read; returns how many.
fn build(fresh: &Path, aside: &Path, options: &StoreOptions) -> Result<u64, StoreError> {
    let mut new = blank(fresh)?;
    // Numbers that stood only in what the write-ahead log has lost are known to nobody.
    let mut numbers = !wal::is_damaged(&wal_of(aside)).unwrap_or(true);
    give_header(aside, fresh).map_err(disk)?;
    let old = Connection::open_with_flags(aside, OpenFlags::SQLITE_OPEN_READ_WRITE);
    new.pragma_update(None, "foreign_keys", "OFF")?;
    let mut saved = 0;
    let change = new.transaction()?;
    if let Ok(old) = old {
        // Reads a file also that has lost its end.
        let _ = old.pragma_update(None, "writable_schema", "ON");
        let tables: Vec<String> = {
            let sql = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' AND name <> 'migrations'";
            let mut statement = change.prepare(sql)?;
            statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?
        };
        // References may point at rows that are lost; what is left is more worth than the rule.
        for table in tables {
            let (rows, whole) = copy(&old, &change, &table);
            saved += rows;
            numbers &= whole || table != "log_streams";
        }
    } else {
        numbers = false;
    }
    if !numbers {
        // A stream of which nothing is left begins where it cannot have been.
        let base = u64::try_from(clock::now().seconds()).unwrap_or(1) * 1000;
        let sql = "INSERT OR REPLACE INTO settings VALUES ('log.seq-base', ?1)";
        change.execute(sql, [base.to_string().into_bytes()])?;
        // All blocks are read for the numbers in them, not only those after a snapshot.
        change.execute("DELETE FROM log_lanes", [])?;
    }
    let (mut tail, _) = Tail::load(&change, options.gateway.clone())?;
    declare(&mut tail, &change)?;
    tail.flush(&change, Limits { pages: u64::MAX, room: u64::MAX, age: [i64::MAX; 4] })?;
    change.commit()?;
    new.execute_batch("PRAGMA journal_mode = DELETE")?;
    drop(new);
    fs::File::open(fresh).and_then(|file| file.sync_all()).map_err(disk)?;
    Ok(saved)
}

/// Copies a table from both ends towards the damage; returns the rows and whether it was the whole.
fn copy(old: &Connection, new: &Connection, table: &str) -> (u64, bool) {
    let columns = |connection: &Connection| -> Vec<String> {
        let sql = format!("SELECT name FROM pragma_table_info('{table}') ORDER BY pk = 0, pk, cid");
        let Ok(mut statement) = connection.prepare(&sql) else { return Vec::new() };
        statement.query_map([], |row| row.get(0)).map(|rows| rows.flatten().collect()).unwrap_or_default()
    };
    let there = columns(old);
    let shared: Vec<String> = columns(new).into_iter().filter(|name| there.contains(name)).collect();
    let Some(key) = shared.first() else { return (0, false) };
    let list = shared.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
    let marks = vec!["?"; shared.len()].join(", ");
    let insert = format!("INSERT OR IGNORE INTO \"{table}\" ({list}) VALUES ({marks})");
    let mut saved = 0;
    for direction in ["ASC", "DESC"] {
        let select = format!("SELECT {list} FROM \"{table}\" ORDER BY \"{key}\" {direction}");
        let (Ok(mut rows), Ok(mut insert)) = (old.prepare(&select), new.prepare(&insert)) else { continue };
        let Ok(mut rows) = rows.query([]) else { continue };
        loop {
            match rows.next() {
                Ok(Some(row)) => {
                    let values = (0..shared.len()).map(|index| row.get::<_, Value>(index));
                    let Ok(values) = values.collect::<Result<Vec<_>, _>>() else { continue };
                    saved += insert.execute(rusqlite::params_from_iter(values)).unwrap_or(0) as u64;
                }
                // The whole table was read: the other direction has nothing to add.
                Ok(None) => return (saved, direction == "ASC"),
                Err(error) => {
                    tracing::warn!(table, direction, %error, "a table could be read in part only");
                    break;
                }
            }
        }
    }
    (saved, false)
}

/// Moves every stream on and declares what may have been lost: holes within what was read, and the unknown end.
fn declare(tail: &mut Tail, connection: &Connection) -> Result<(), StoreError> {
    let mut lost = tail.holes(connection)?;
    lost.iter_mut().for_each(|gap| tail.leave_base(gap));
    lost.extend(tail.skip_ahead(AHEAD));
    for gap in lost {
        tail.declare(connection, gap)?;
    }
    tail.snapshot(connection)
}

/// Makes renames in the folder durable.
fn sync(path: &Path) -> Result<(), StoreError> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(disk)
}

fn disk(error: std::io::Error) -> StoreError {
    StoreError::Unavailable(error.to_string())
}
