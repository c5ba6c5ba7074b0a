//! `headgate run`: the daemon in the foreground, as the init system or a person starts it.

use std::process::ExitCode;

use super::{ConfigFolder, check, exit};
use crate::{config, daemon, logging::Logs};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    config: ConfigFolder,
}

pub fn run(arguments: &Arguments) -> ExitCode {
    let folder = arguments.config.resolve();
    let config = match daemon::load::load(folder.as_deref()) {
        Ok(config) => config,
        Err(problems) => {
            check::show(&problems);
            // Text is mended by a person only; a certificate and its key may be on their way right now.
            let mended_by_time = config::load::load(folder.as_deref()).is_ok();
            return ExitCode::from(if mended_by_time { exit::UNAVAILABLE } else { exit::CONFIG });
        }
    };
    let logs = match Logs::start(&config.gateway.log_level) {
        Ok(logs) => logs,
        Err(why) => {
            eprintln!("gateway.log_level: {why}");
            return ExitCode::from(exit::CONFIG);
        }
    };
    match daemon::run(daemon::Start { folder, config, logs }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(daemon::Failure::Start(error)) => {
            eprintln!("headgate could not start: {error:#}");
            ExitCode::from(exit::UNAVAILABLE)
        }
        Err(daemon::Failure::Died(reason)) => {
            eprintln!("headgate ended, because something it cannot live without did: {reason}");
            ExitCode::from(exit::SOFTWARE)
        }
    }
}
