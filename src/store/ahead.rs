//! Room that is taken before it is needed, in the two files that SQLite keeps beside the database.

use std::{
    fs::{self, File},
    io::{self, ErrorKind},
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
};

use rustix::fs::{FallocateFlags, fallocate};

/// The shared-memory index of the largest write-ahead log: two of SQLite's 32 KiB regions.
pub const INDEX: u64 = 64 << 10;
/// By so much the write-ahead log is made longer at once: some thirty small commits.
const STEP: u64 = 128 << 10;
static ZEROS: [u8; 4096] = [0; 4096];
/// A small commit fits into this.
const COMMIT: u64 = 32 << 10;

/// What is held of the files beside one database.
#[derive(Default)]
pub struct Ahead {
    /// Never closed while the database is open: closing any descriptor of a file takes all locks that the process has
    /// on it (fcntl(2)), and another process that finds the index unlocked cuts it to nothing under our feet.
    index: Option<File>,
    /// Bytes the write-ahead log is known to have.
    log: u64,
}

impl Ahead {
    /// For a database that was just opened: takes the room of its shared-memory index at `path`. SQLite maps the file into
    /// memory, where a full disk is no error but a signal that ends the process, and holds one byte of each page only: too
    /// few where blocks are smaller. False where the disk is full.
    pub fn begin(&mut self, path: &Path) -> bool {
        self.log = 0;
        // Not every file system can; then it is as without.
        !self.hold_index(path).is_err_and(|error| error.kind() == ErrorKind::StorageFull)
    }

    fn hold_index(&mut self, path: &Path) -> io::Result<()> {
        let found = fs::metadata(path)?;
        let same =
            |held: &File| held.metadata().is_ok_and(|held| (held.dev(), held.ino()) == (found.dev(), found.ino()));
        if !self.index.as_ref().is_some_and(same) {
            self.index = None;
        }
        let index = match &mut self.index {
            Some(held) => held,
            none => none.insert(File::options().write(true).open(path)?),
        };
        Ok(fallocate(index, FallocateFlags::empty(), 0, INDEX)?)
    }

    /// Makes the write-ahead log at `path` longer than the bytes that are in use, up to `most`. A commit that makes it
    /// longer must wait for the file's new length as well, which takes as long again. To be called inside a write
    /// transaction that has written nothing yet, so that nobody else writes to the file; SQLite takes bytes that are no
    /// frame for the end. Where there is no room, SQLite makes it longer by itself.
    pub fn extend_log(&mut self, path: &Path, used: u64, most: u64) {
        if used + COMMIT <= self.log {
            return;
        }
        let length = fs::metadata(path).map_or(0, |found| found.len());
        self.log = length.max(used);
        if used + COMMIT > self.log {
            let end = (self.log + STEP).min(most);
            if let Ok(file) = File::options().write(true).open(path) {
                // Page by page: the kernel keeps together what was written at once, and then counts all of it as written
                // again whenever a page of it is.
                let mut pages = (self.log..end).step_by(ZEROS.len());
                let _ = pages.try_for_each(|at| file.write_all_at(&ZEROS, at));
            }
            // Whether it worked or not: tried again when as much more is used.
            self.log += STEP;
        }
    }

    /// The write-ahead log was cut to nothing.
    pub fn log_cut(&mut self) {
        self.log = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::super::Store;
    use super::*;

    /// The locks that processes have on a file, as `/proc/locks` has them: kind and first byte.
    fn locks(path: &Path) -> Vec<(String, String)> {
        let inode = format!(":{}", fs::metadata(path).expect("there").ino());
        let all = fs::read_to_string("/proc/locks").expect("linux");
        let fields = all.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        fields.filter(|f| f[5].ends_with(&inode)).map(|f| (f[3].to_owned(), f[6].to_owned())).collect()
    }

    #[tokio::test]
    async fn other_processes_see_that_the_index_is_in_use() {
        let folder = tempfile::tempdir().expect("folder");
        let (store, _thread) = Store::open(folder.path()).expect("open");
        store.set_setting("a", "b").await.expect("stored");
        // SQLite's "dead man's switch": whoever opens the index and finds it free cuts it to nothing.
        assert!(locks(&folder.path().join("headgate.db-shm")).contains(&("READ".to_owned(), "128".to_owned())));
    }

    #[tokio::test]
    async fn the_write_ahead_log_is_longer_than_what_is_in_it() {
        let folder = tempfile::tempdir().expect("folder");
        let (store, thread) = Store::open(folder.path()).expect("open");
        let log = folder.path().join("headgate.db-wal");
        let mut lengths = std::collections::BTreeSet::new();
        for n in 0..60 {
            store.set_setting("n", n.to_string()).await.expect("stored");
            lengths.insert(fs::metadata(&log).expect("there").len());
        }
        assert!(lengths.len() <= 4, "60 commits made it longer {} times", lengths.len());
        // As after a kill: what follows the last frame is nothing.
        let copy = tempfile::tempdir().expect("folder");
        for name in ["headgate.db", "headgate.db-wal"] {
            fs::copy(folder.path().join(name), copy.path().join(name)).expect("copied");
        }
        let (again, _) = Store::open(copy.path()).expect("open");
        assert_eq!(again.setting("n").await.expect("read").as_deref(), Some(b"59".as_slice()));
        assert_eq!(again.set_aside_files(), Vec::<String>::new());
        store.stop().await;
        thread.join();
    }
}
