//! Builds, wires, supervises, reloads and stops all rooms. The only room that knows all others.
//!
//! ```text
//!  start: store → identity → registry → keeper → updates → broker → drivers → uplink → page → "ready"
//!  stop:  drivers → uplink → updates, diagnostics → broker → keeper → registry → store commits → page
//! ```

mod answers;
mod apply;
mod build;
mod devices;
mod heartbeat;
pub mod load;
mod points;
mod state;
mod stop;
pub mod supervise;
mod triggers;

use std::path::PathBuf;

use crate::{config::Config, logging::Logs};

pub use build::Rooms;
pub use run::{Daemon, run};

mod refusals;
mod road;
mod run;

/// Why the daemon is not running any more; decides the exit code.
#[derive(Debug)]
pub enum Failure {
    /// It never got up: a port is taken, a folder cannot be written.
    Start(anyhow::Error),
    /// It was up, and something vital died.
    Died(String),
}

/// What a daemon is started with.
pub struct Start {
    /// Where the configuration lies; `None` where the defaults run.
    pub folder: Option<PathBuf>,
    pub config: Config,
    pub logs: Logs,
}
