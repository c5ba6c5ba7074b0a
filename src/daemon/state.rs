//! The state folder: made where it is missing, private, and held by one daemon at a time.

use std::{
    fs::{self, File, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};
use rustix::fs::{FlockOperation, flock};

use crate::systemd;

/// How often a disk that refuses is tried.
const RETRY: Duration = Duration::from_secs(1);
/// How often the init system is told that a start is not hung.
const TOLD: Duration = Duration::from_secs(10);

/// Holds the folder for as long as it lives.
#[derive(Debug)]
pub struct StateFolder {
    path: PathBuf,
    _lock: File,
}

impl StateFolder {
    /// Makes and locks `path`; where the disk is read-only or full, as soon as it is not.
    pub async fn await_disk(path: &Path) -> anyhow::Result<Self> {
        let error = match Self::hold(path) {
            Err(error) if disk_refuses(&error) => format!("{error:#}"),
            held => return held,
        };
        let well = async {
            loop {
                tokio::time::sleep(RETRY).await;
                match Self::hold(path) {
                    Err(error) if disk_refuses(&error) => {}
                    held => return held,
                }
            }
        };
        wait(&error, well).await
    }

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

/// Whether the disk refuses for now, as a card does that was mounted read-only after an error.
fn disk_refuses(error: &anyhow::Error) -> bool {
    use std::io::ErrorKind::{ReadOnlyFilesystem, StorageFull};
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|error| matches!(error.kind(), ReadOnlyFilesystem | StorageFull))
}

/// Awaits `well`, and tells the init system why the start takes its time.
pub async fn wait<T>(reason: &str, well: impl Future<Output = T>) -> T {
    tracing::error!(reason, "the disk refuses; the start waits for it");
    tokio::pin!(well);
    loop {
        systemd::status(&format!("waiting for the disk: {reason}"));
        systemd::extend_timeout(3 * TOLD);
        if let Ok(well) = tokio::time::timeout(TOLD, &mut well).await {
            return well;
        }
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
