//! `headgate run`: the daemon in the foreground, as the init system or a person starts it.

use std::process::ExitCode;

use super::{ConfigFolder, check, exit};
use crate::{config, daemon};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    config: ConfigFolder,
}

pub fn run(arguments: &Arguments) -> ExitCode {
    let folder = arguments.config.resolve();
    let config = match config::load::load(folder.as_deref()) {
        Ok(config) => config,
        Err(problems) => {
            check::show(&problems);
            return ExitCode::from(exit::CONFIG);
        }
    };
    match daemon::run(folder, config) {
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
