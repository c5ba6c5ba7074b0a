//! What makes the daemon load its configuration again: SIGHUP, and changes below the folder once they have settled.

use std::{path::Path, time::Duration};

use notify::{RecursiveMode, Watcher};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

/// Editors and package managers write several times; the configuration is read when nothing moved for this long.
const SETTLE: Duration = Duration::from_millis(400);

/// Why a reload was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    Signal,
    Files,
}

/// Watches until it is dropped.
pub struct Triggers {
    hangup: tokio::signal::unix::Signal,
    files: mpsc::Receiver<()>,
    _watcher: Option<notify::RecommendedWatcher>,
}

impl Triggers {
    /// Listens for SIGHUP and watches `folder`, where there is one. A folder that cannot be watched is logged; the
    /// signal works all the same.
    pub fn new(folder: Option<&Path>) -> std::io::Result<Self> {
        let (changed, files) = mpsc::channel(1);
        let watcher = folder.and_then(|folder| {
            watch(folder, changed)
                .inspect_err(|error| tracing::warn!(%error, folder = %folder.display(), "folder cannot be watched; reload by SIGHUP"))
                .ok()
        });
        Ok(Self { hangup: signal(SignalKind::hangup())?, files, _watcher: watcher })
    }

    /// Resolves when it is time to load again.
    pub async fn next(&mut self) -> Trigger {
        tokio::select! {
            Some(()) = self.hangup.recv() => Trigger::Signal,
            Some(()) = self.files.recv() => {
                while let Ok(Some(())) = tokio::time::timeout(SETTLE, self.files.recv()).await {}
                Trigger::Files
            }
            else => std::future::pending().await,
        }
    }
}

fn watch(folder: &Path, changed: mpsc::Sender<()>) -> notify::Result<notify::RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let Ok(event) = event else { return };
        let matters =
            !event.kind.is_access() && event.paths.iter().any(|path| path.extension().is_some_and(|e| e == "toml"));
        if matters {
            // Full means that a change is already waiting to be seen.
            let _ = changed.try_send(());
        }
    })?;
    watcher.watch(folder, RecursiveMode::NonRecursive)?;
    for below in ["devices.d", "profiles"].map(|name| folder.join(name)).iter().filter(|path| path.is_dir()) {
        watcher.watch(below, RecursiveMode::NonRecursive)?;
    }
    Ok(watcher)
}
