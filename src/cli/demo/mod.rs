//! `headgate demo`: simulated devices, the gateway and a stand-in cloud in one process on free loopback ports, and a
//! story with an independent count at its end. Its parts serve the tests too.

pub mod cloud;
pub mod http;
pub mod oracle;
mod screen;
mod stage;
mod story;
pub mod wire;

use std::{process::ExitCode, time::Duration};

use super::exit;
use crate::logging::Logs;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// How long to play, at most; the story itself takes about a minute and a half
    #[arg(long, value_name = "N", default_value_t = 5.0)]
    minutes: f64,
    /// Port of the page; any free one without it
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    web: u16,
    /// End after the story instead of going on until the time is up
    #[arg(long)]
    story_only: bool,
}

/// Plays; the exit code tells whether the count held.
pub fn run(arguments: &Arguments) -> ExitCode {
    // The story is told on the screen; the log would run through it.
    let logs = match Logs::start("error") {
        Ok(logs) => logs,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::from(exit::UNAVAILABLE);
        }
    };
    let minutes = arguments.minutes.clamp(0.1, 7.0 * 24.0 * 60.0);
    let length = Duration::from_secs_f64(minutes * 60.0);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("the demo could not start: {error}");
            return ExitCode::from(exit::UNAVAILABLE);
        }
    };
    let played = runtime.block_on(async {
        let stage = stage::Stage::set(arguments.web, logs).await?;
        anyhow::Ok(story::play(stage, length, arguments.story_only).await)
    });
    match played {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("the demo could not start: {error:#}");
            ExitCode::from(exit::UNAVAILABLE)
        }
    }
}
