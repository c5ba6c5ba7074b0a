//! A little of the disk that is held for a bad day: what a start needs on a disk that others have filled, so that the
//! gateway comes up and can say what is wrong.

use std::{fs, path::Path};

use rustix::fs::{FallocateFlags, fallocate};

use super::open::free_space;

/// Bytes held: SQLite's index of the write-ahead log and the few transactions of a start.
pub const BYTES: u64 = 512 << 10;
const NAME: &str = "reserve";

/// Holds the reserve beside the database at `path`, where the disk can spare it. Without it a start on a full disk fails;
/// nothing else does.
pub fn hold(path: &Path) {
    let file = path.with_file_name(NAME);
    let held = fs::metadata(&file).is_ok_and(|meta| meta.len() >= BYTES);
    if held || free_space(path).is_none_or(|free| free < 4 * BYTES) {
        return;
    }
    let made = fs::File::create(&file)
        .and_then(|file| fallocate(&file, FallocateFlags::empty(), 0, BYTES).map_err(std::io::Error::from));
    if let Err(error) = made {
        tracing::debug!(%error, "no room is held for a start on a full disk");
        let _ = fs::remove_file(&file);
    }
}

/// Gives the reserve back to a disk that is full; whether it is, and there was one.
pub fn release(path: &Path) -> bool {
    free_space(path).is_some_and(|free| free < BYTES) && fs::remove_file(path.with_file_name(NAME)).is_ok()
}
