//! What makes the daemon load its configuration again: SIGHUP, and changes below the folder once they have settled.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use notify::{RecursiveMode, Watcher};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::Instant,
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
    /// When the files that changed have settled, if nothing moves until then.
    settles: Option<Instant>,
    watcher: Option<(notify::RecommendedWatcher, PathBuf)>,
}

/// Folders below the configuration that hold files of it.
const BELOW: [&str; 2] = ["devices.d", "profiles"];

impl Triggers {
    /// Listens for SIGHUP and watches `folder`, where there is one. A folder that cannot be watched is logged; the
    /// signal works all the same.
    pub fn new(folder: Option<&Path>) -> std::io::Result<Self> {
        let (changed, files) = mpsc::channel(1);
        let watcher = folder.and_then(|folder| {
            watch(folder, changed)
                .inspect_err(|error| tracing::warn!(%error, folder = %folder.display(), "folder cannot be watched; reload by SIGHUP"))
                .ok()
                .map(|watcher| (watcher, folder.to_owned()))
        });
        Ok(Self { hangup: signal(SignalKind::hangup())?, files, settles: None, watcher })
    }

    /// Resolves when it is time to load again. May be dropped while it waits: a change that still settles is kept.
    pub async fn next(&mut self) -> Trigger {
        loop {
            let settled = async {
                match self.settles {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(()) = self.hangup.recv() => return Trigger::Signal,
                Some(()) = self.files.recv() => self.settles = Some(Instant::now() + SETTLE),
                () = settled => {
                    self.settles = None;
                    // One of the folders may be new. What was put there before this is found by loading now.
                    if let Some((watcher, folder)) = &mut self.watcher {
                        watch_below(watcher, folder);
                    }
                    return Trigger::Files;
                }
            }
        }
    }
}

fn watch(folder: &Path, changed: mpsc::Sender<()>) -> notify::Result<notify::RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let Ok(event) = event else { return };
        let matters = !event.kind.is_access()
            && event.paths.iter().any(|path| path.extension().is_some_and(|e| e == "toml") || is_below(path));
        if matters {
            // Full means that a change is already waiting to be seen.
            let _ = changed.try_send(());
        }
    })?;
    watcher.watch(folder, RecursiveMode::NonRecursive)?;
    watch_below(&mut watcher, folder);
    Ok(watcher)
}

fn is_below(path: &Path) -> bool {
    path.file_name().is_some_and(|name| BELOW.iter().any(|below| name == *below))
}

/// Watches those of the folders below that exist; watching one again changes nothing.
fn watch_below(watcher: &mut notify::RecommendedWatcher, folder: &Path) {
    for below in BELOW.map(|name| folder.join(name)).iter().filter(|path| path.is_dir()) {
        if let Err(error) = watcher.watch(below, RecursiveMode::NonRecursive) {
            tracing::warn!(%error, folder = %below.display(), "folder cannot be watched; reload by SIGHUP");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_change_that_settles_is_not_forgotten_while_others_are_served() {
        let (changed, files) = mpsc::channel(1);
        let hangup = signal(SignalKind::hangup()).expect("signal");
        let mut triggers = Triggers { hangup, files, settles: None, watcher: None };
        changed.send(()).await.expect("taken");
        let begun = Instant::now();
        // The daemon answers a question every 25 ms, and drops what it waited for each time.
        let trigger = loop {
            if let Ok(trigger) = tokio::time::timeout(Duration::from_millis(25), triggers.next()).await {
                break trigger;
            }
            assert!(begun.elapsed() < 50 * SETTLE, "forgotten");
        };
        assert_eq!(trigger, Trigger::Files);
        assert!(begun.elapsed() >= SETTLE, "it settled first");
    }
}
