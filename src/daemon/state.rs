//! The state folder: made where it is missing, private, and held by one daemon at a time.

use std::{
    fs::{self, File, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use rustix::fs::{FlockOperation, flock};

/// Holds the folder for as long as it lives.
#[derive(Debug)]
pub struct StateFolder {
    path: PathBuf,
    _lock: File,
}

impl StateFolder {
    /// Makes and locks `path`.
    pub fn hold(path: &Path) -> anyhow::Result<Self> {
        if !path.is_dir() {
            fs::create_dir_all(path).with_context(|| format!("the state folder {} cannot be made", path.display()))?;
            fs::set_permissions(path, Permissions::from_mode(0o700))?;
        }
        let path = path.canonicalize()?;
        let lock = File::options().create(true).truncate(false).write(true).open(path.join("lock"));
        let lock =
            lock.with_context(|| format!("the state folder {} cannot be written by this user", path.display()))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            bail!(
                "another headgate holds the state folder {}; stop it, or give this one a folder of its own (gateway.state)",
                path.display()
            );
        }
        Ok(Self { path, _lock: lock })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_daemon_holds_a_folder() {
        let folder = tempfile::tempdir().expect("folder");
        let held = StateFolder::hold(folder.path()).expect("first");
        let error = StateFolder::hold(folder.path()).expect_err("second");
        assert!(error.to_string().contains("another headgate"), "{error}");
        drop(held);
        StateFolder::hold(folder.path()).expect("after the first is gone");
    }
}
