//! The content-addressed cache of verified images: `sha256/ab/cdef…`, and half-fetched ones under `parts/`.
//!
//! An image enters only by a rename after its whole content was hashed and synced. When it is opened the first time in
//! a run it is hashed again, and the digest of each 64 KiB piece is kept; every piece that is served is compared with
//! its own. So whatever happens to the disk, an altered byte is never sent.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use super::verify::{Digest, Hasher};

/// Bytes of one piece.
pub const PIECE: u64 = 64 * 1024;

/// Why an image cannot be had from the cache.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    #[error("the image is not in the cache")]
    Absent,
    /// It was moved out of the way, and must be fetched again.
    #[error("the cached image was altered on disk ({0}); it was thrown away")]
    Altered(String),
    #[error("the image has SHA-256 {found}, ordered was {ordered}")]
    Mismatch { found: Digest, ordered: Digest },
    #[error("no room for {needed} bytes of firmware: {why}")]
    NoRoom { needed: u64, why: String },
    #[error("the firmware cache at {path}: {error}")]
    Disk { path: String, error: io::Error },
}

/// A verified image, open for reading. Stays readable when the cache lets go of it.
#[derive(Debug)]
pub struct Image {
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    file: File,
    pieces: Vec<Digest>,
}

impl Image {
    /// Hashes all of `file`; the result is trusted only where its digest is the one that is wanted.
    fn hash(mut file: File) -> io::Result<Image> {
        let mut whole = Hasher::new();
        let mut pieces = Vec::new();
        let mut size = 0;
        let mut buffer = vec![0; PIECE as usize];
        loop {
            let mut filled = 0;
            while filled < buffer.len() {
                match file.read(&mut buffer[filled..]) {
                    Ok(0) => break,
                    Ok(n) => filled += n,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(e),
                }
            }
            if filled == 0 {
                break;
            }
            whole.add(&buffer[..filled]);
            pieces.push(Digest::of(&buffer[..filled]));
            size += filled as u64;
        }
        Ok(Image { digest: whole.finish(), size, file, pieces })
    }

    /// The bytes of `offset..offset + length`, cut at the image's end, each compared with what was verified.
    /// Blocks on the disk.
    pub fn read(&self, offset: u64, length: u64) -> Result<Vec<u8>, CacheError> {
        let end = offset.saturating_add(length).min(self.size);
        let mut bytes = Vec::new();
        let mut at = offset;
        while at < end {
            let number = at / PIECE;
            let start = number * PIECE;
            let mut piece = vec![0; PIECE.min(self.size - start) as usize];
            let unreadable = |e: io::Error| CacheError::Altered(format!("byte {start}: {e}"));
            self.file.read_exact_at(&mut piece, start).map_err(unreadable)?;
            if self.pieces.get(number as usize) != Some(&Digest::of(&piece)) {
                return Err(CacheError::Altered(format!("within {PIECE} bytes from byte {start}")));
            }
            let until = (end - start).min(piece.len() as u64);
            bytes.extend_from_slice(&piece[(at - start) as usize..until as usize]);
            at = start + until;
        }
        Ok(bytes)
    }
}

/// The folder and the images that were verified in this run.
#[derive(Debug)]
pub struct Cache {
    folder: PathBuf,
    open: Mutex<HashMap<Digest, Arc<Image>>>,
}

impl Cache {
    /// Creates the folders where they are missing.
    pub fn new(folder: &Path) -> Result<Cache, CacheError> {
        let cache = Cache { folder: folder.to_owned(), open: Mutex::default() };
        for part in ["sha256", "parts"] {
            let path = folder.join(part);
            fs::create_dir_all(&path).map_err(|e| disk(&path, e))?;
        }
        Ok(cache)
    }

    /// The verified image. Hashes it on its first opening in this run. Blocks on the disk.
    pub fn open(&self, digest: Digest) -> Result<Arc<Image>, CacheError> {
        if let Some(image) = self.images().get(&digest) {
            return Ok(image.clone());
        }
        let path = self.path(digest);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(CacheError::Absent),
            Err(e) => return Err(disk(&path, e)),
        };
        let image = Image::hash(file).map_err(|e| disk(&path, e))?;
        if image.digest != digest {
            self.throw_away(digest);
            return Err(CacheError::Altered(format!("its SHA-256 is {} now", image.digest)));
        }
        let image = Arc::new(image);
        self.images().insert(digest, image.clone());
        Ok(image)
    }

    /// Where an image gathers while it is fetched.
    pub fn part(&self, digest: Digest) -> PathBuf {
        self.folder.join("parts").join(format!("{digest}.part"))
    }

    /// Takes a fetched part in: hash, sync, rename, sync of the folder. What does not match is deleted.
    pub fn admit(&self, digest: Digest) -> Result<Arc<Image>, CacheError> {
        let part = self.part(digest);
        let file = File::open(&part).map_err(|e| disk(&part, e))?;
        file.sync_all().map_err(|e| disk(&part, e))?;
        let image = Image::hash(file).map_err(|e| disk(&part, e))?;
        if image.digest != digest {
            self.drop_part(digest);
            return Err(CacheError::Mismatch { found: image.digest, ordered: digest });
        }
        let path = self.path(digest);
        let shelf = path.parent().unwrap_or(&self.folder);
        fs::create_dir_all(shelf).map_err(|e| disk(shelf, e))?;
        fs::rename(&part, &path).map_err(|e| disk(&path, e))?;
        for folder in [shelf, &self.folder.join("sha256")] {
            File::open(folder).and_then(|f| f.sync_all()).map_err(|e| disk(folder, e))?;
        }
        self.drop_part(digest);
        let image = Arc::new(image);
        self.images().insert(digest, image.clone());
        Ok(image)
    }

    /// Removes a half-fetched image and the note beside it.
    pub fn drop_part(&self, digest: Digest) {
        let part = self.part(digest);
        let _ = fs::remove_file(part.with_extension("json"));
        let _ = fs::remove_file(part);
    }

    pub fn throw_away(&self, digest: Digest) {
        self.images().remove(&digest);
        let path = self.path(digest);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::error!(path = %path.display(), %error, "a firmware image could not be removed");
            }
            _ => {}
        }
    }

    /// Every image on disk with its size in bytes; not verified.
    pub fn list(&self) -> Result<Vec<(Digest, u64)>, CacheError> {
        let root = self.folder.join("sha256");
        let mut found = Vec::new();
        for shelf in fs::read_dir(&root).map_err(|e| disk(&root, e))?.flatten() {
            let head = shelf.file_name();
            for file in fs::read_dir(shelf.path()).into_iter().flatten().flatten() {
                let name = format!("{}{}", head.to_string_lossy(), file.file_name().to_string_lossy());
                let size = file.metadata().map(|m| m.len()).unwrap_or(0);
                found.extend(Digest::parse(&name).map(|digest| (digest, size)));
            }
        }
        Ok(found)
    }

    /// Removes parts of which `wanted` knows nothing: their order is gone.
    pub fn sweep_parts(&self, wanted: impl Fn(Digest) -> bool) {
        for file in fs::read_dir(self.folder.join("parts")).into_iter().flatten().flatten() {
            let name = file.file_name();
            let name = name.to_string_lossy();
            let stem = name.split('.').next().unwrap_or_default();
            if !Digest::parse(stem).is_some_and(&wanted) {
                let _ = fs::remove_file(file.path());
            }
        }
    }

    /// Makes room for an image of `needed` bytes by removing images in the order of `spare` (least recently used
    /// first). Returns what was removed; refuses, removing nothing, where that would not suffice.
    pub fn make_room(
        &self,
        digest: Digest,
        needed: u64,
        limits: Limits,
        spare: &[Digest],
    ) -> Result<Vec<Digest>, CacheError> {
        let images = self.list()?;
        let size_of = |digest: &Digest| images.iter().find(|(d, _)| d == digest).map_or(0, |(_, size)| *size);
        let here = fs::metadata(self.part(digest)).map(|m| m.len()).unwrap_or(0);
        let used: u64 = images.iter().map(|(_, size)| *size).sum();
        let free = free_bytes(&self.folder).map_err(|e| disk(&self.folder, e))?;
        let over_quota = (used + needed).saturating_sub(limits.quota);
        let under_floor = (needed.saturating_sub(here) + limits.keep_free).saturating_sub(free);
        let mut to_free = over_quota.max(under_floor);
        let mut chosen = Vec::new();
        for digest in spare {
            if to_free == 0 {
                break;
            }
            to_free = to_free.saturating_sub(size_of(digest));
            chosen.push(*digest);
        }
        if to_free > 0 {
            let why = if over_quota >= under_floor {
                format!(
                    "the cache holds {used} of {} bytes and all of it that is not in use would not suffice",
                    limits.quota
                )
            } else {
                format!("the disk has {free} bytes left, of which {} are kept free for the log", limits.keep_free)
            };
            return Err(CacheError::NoRoom { needed, why });
        }
        for digest in &chosen {
            self.throw_away(*digest);
        }
        Ok(chosen)
    }

    fn path(&self, digest: Digest) -> PathBuf {
        let name = digest.to_string();
        self.folder.join("sha256").join(&name[..2]).join(&name[2..])
    }

    fn images(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, Arc<Image>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How much the cache may take, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub quota: u64,
    pub keep_free: u64,
}

/// Bytes an unprivileged process may still write on the file system of `folder`.
pub fn free_bytes(folder: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(folder)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

fn disk(path: &Path, error: io::Error) -> CacheError {
    CacheError::Disk { path: path.display().to_string(), error }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stocked(image: &[u8]) -> (tempfile::TempDir, Cache, Digest) {
        let folder = tempfile::tempdir().expect("folder");
        let cache = Cache::new(folder.path()).expect("cache");
        let digest = Digest::of(image);
        fs::write(cache.part(digest), image).expect("part");
        cache.admit(digest).expect("admitted");
        (folder, cache, digest)
    }

    #[test]
    fn what_does_not_match_is_not_admitted() {
        let folder = tempfile::tempdir().expect("folder");
        let cache = Cache::new(folder.path()).expect("cache");
        let digest = Digest::of(b"right");
        fs::write(cache.part(digest), b"wrong").expect("part");
        assert!(matches!(cache.admit(digest), Err(CacheError::Mismatch { .. })));
        assert!(!cache.part(digest).exists());
        assert!(matches!(cache.open(digest), Err(CacheError::Absent)));
    }

    #[test]
    fn reads_cross_pieces_and_end_at_the_end() {
        let image: Vec<u8> = (0..200_000u32).map(|i| (i % 251) as u8).collect();
        let (_folder, cache, digest) = stocked(&image);
        let open = cache.open(digest).expect("open");
        for (offset, length) in [(0, 10), (65_530, 20), (0, 200_000), (199_990, 100), (131_072, 65_536), (200_000, 5)] {
            let end = (offset + length).min(image.len());
            assert_eq!(open.read(offset as u64, length as u64).expect("read"), image[offset..end]);
        }
    }

    #[test]
    fn a_bit_flipped_on_disk_is_never_read() {
        let image = vec![7; 150_000];
        let (folder, cache, digest) = stocked(&image);
        let path = cache.path(digest);
        let mut changed = image.clone();
        changed[70_000] ^= 1;
        fs::write(&path, &changed).expect("alter");
        let open = cache.open(digest).expect("warm");
        assert_eq!(open.read(0, 100).expect("untouched piece"), vec![7; 100]);
        assert!(matches!(open.read(69_000, 2_000), Err(CacheError::Altered(_))));
        let cold = Cache::new(folder.path()).expect("cache");
        assert!(matches!(cold.open(digest), Err(CacheError::Altered(_))));
        assert!(!path.exists());
    }

    #[test]
    fn room_is_made_from_the_least_recently_used_or_refused_whole() {
        let (_folder, cache, first) = stocked(&[1; 1000]);
        let second = Digest::of(&[2; 1000]);
        fs::write(cache.part(second), [2; 1000]).expect("part");
        cache.admit(second).expect("admitted");
        let limits = Limits { quota: 2500, keep_free: 0 };
        let new = Digest::of(b"new");
        assert!(matches!(cache.make_room(new, 2000, limits, &[first]), Err(CacheError::NoRoom { .. })));
        assert_eq!(cache.list().expect("list").len(), 2);
        assert_eq!(cache.make_room(new, 1000, limits, &[first, second]).expect("room"), [first]);
        assert_eq!(cache.list().expect("list"), [(second, 1000)]);
    }
}
