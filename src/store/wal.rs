//! The write-ahead log as bytes (sqlite.org/fileformat.html, chapter 4), read for one question only: did it lose
//! transactions that SQLite will not miss?

use std::{
    fs,
    io::{self, Read},
    path::Path,
};

const HEADER: usize = 32;
const FRAME: usize = 24;

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].try_into().map_or(0, u32::from_be_bytes)
}

/// The running checksum of the format, over words in the byte order that the log's first word names.
fn sum(bytes: &[u8], big: bool, (mut a, mut b): (u32, u32)) -> (u32, u32) {
    for pair in bytes.chunks_exact(8) {
        let read = |at: usize| if big { word(pair, at) } else { word(pair, at).swap_bytes() };
        a = a.wrapping_add(read(0)).wrapping_add(b);
        b = b.wrapping_add(read(4)).wrapping_add(a);
    }
    (a, b)
}

/// Whether committed transactions follow a place that cannot be read. One alone proves nothing: the last transaction
/// before a power cut may have reached the disk in part, and was acknowledged to nobody.
pub fn is_damaged(path: &Path) -> io::Result<bool> {
    match fs::File::open(path) {
        Ok(file) => lost(io::BufReader::with_capacity(64 << 10, file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn lost(mut log: impl Read) -> io::Result<bool> {
    let mut header = [0; HEADER];
    if !fill(&mut log, &mut header)? {
        return Ok(false);
    }
    let big = header[3] & 1 == 1;
    let mut running = sum(&header[..24], big, (0, 0));
    let page = word(&header, 8) as usize;
    // It is synced before the first frame is written. A size that reached the disk without any content is no log.
    if word(&header, 0) & !1 != 0x377f_0682 || running != (word(&header, 24), word(&header, 28)) {
        let mut frame = [0; FRAME];
        return Ok(fill(&mut log, &mut frame)? && (header != [0; HEADER] || frame != [0; FRAME]));
    }
    let mut frame = vec![0; FRAME + page];
    let (mut whole, mut commits) = (true, 0);
    while fill(&mut log, &mut frame)? {
        // What an earlier log left behind this one has other salts.
        let ours = frame[8..16] == header[16..24];
        if whole {
            running = sum(&frame[FRAME..], big, sum(&frame[..8], big, running));
            whole = ours && running == (word(&frame, 16), word(&frame, 20));
        }
        if !whole && ours && word(&frame, 4) != 0 {
            commits += 1;
        }
    }
    Ok(commits > 1)
}

/// False where the log ends before `part` is full.
fn fill(log: &mut impl Read, part: &mut [u8]) -> io::Result<bool> {
    match log.read_exact(part) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        done => done.map(|()| true),
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::{lost as lost_in, *};

    /// The log of ten transactions, behind which an earlier log of twenty left its frames.
    fn log() -> Vec<u8> {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("x.db");
        let connection = Connection::open(&path).expect("open");
        connection.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (b BLOB)").expect("table");
        let insert = |times| {
            for _ in 0..times {
                connection.execute("INSERT INTO t VALUES (randomblob(5000))", []).expect("inserted");
            }
        };
        insert(20);
        connection.execute_batch("PRAGMA wal_checkpoint(RESTART)").expect("checkpoint");
        insert(10);
        fs::read(folder.path().join("x.db-wal")).expect("log")
    }

    #[test]
    fn only_what_was_committed_and_cannot_be_read_is_damage() {
        let whole = log();
        let lost = |bytes: &[u8]| lost_in(bytes).expect("read");
        assert!(!lost(&whole));
        assert!(!lost(&[]) && !lost(&[0; 9000]));
        let spoiled = |from: usize, to: usize| {
            let mut bytes = whole.clone();
            bytes[from..to].fill(0x5a);
            lost(&bytes)
        };
        assert!(spoiled(0, 8), "the header");
        assert!(spoiled(HEADER + FRAME + 100, HEADER + FRAME + 200), "an early frame");
        assert!(!spoiled(whole.len() - 2000, whole.len()), "what an earlier log left");
        // Where the log ends: everything up to a torn last transaction is as a power cut leaves it.
        let ours = |frame: &[u8]| frame[8..16] == whole[16..24];
        let frames = whole[HEADER..].chunks_exact(FRAME + 4096).take_while(|frame| ours(frame)).count();
        let end = HEADER + frames * (FRAME + 4096);
        assert!(!spoiled(end - 3000, end), "the last transaction");
        assert!(!lost(&whole[..end - 3000]), "cut off");
    }
}
