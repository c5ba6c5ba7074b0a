//! `headgate check`: all problems of a configuration at once, exit code 78 if there are any.

use std::process::ExitCode;

use super::{ConfigFolder, exit};
use crate::{
    config::{self, problem::Problem},
    daemon,
};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    config: ConfigFolder,
    /// Print the problems as JSON
    #[arg(long)]
    json: bool,
    /// Print the documented default configuration and exit
    #[arg(long)]
    defaults: bool,
}

pub fn run(arguments: &Arguments) -> ExitCode {
    if arguments.defaults {
        print!("{}", config::DOCUMENTED);
        return ExitCode::SUCCESS;
    }
    let folder = arguments.config.resolve();
    match daemon::load::load(folder.as_deref()) {
        Ok(config) if arguments.json => {
            println!("{}", serde_json::json!({"ok": true, "devices": config.devices().len()}));
            ExitCode::SUCCESS
        }
        Ok(config) => {
            let place = folder.map_or("built-in defaults".to_owned(), |folder| folder.display().to_string());
            let count = config.devices().len();
            let devices = if count == 1 { "1 device".to_owned() } else { format!("{count} devices") };
            println!("{place}: good; gateway {:?}, {devices}", config.gateway.id);
            ExitCode::SUCCESS
        }
        Err(problems) => {
            if arguments.json {
                println!("{}", serde_json::json!({"ok": false, "problems": problems}));
            } else {
                show(&problems);
            }
            ExitCode::from(exit::CONFIG)
        }
    }
}

/// Prints every problem, then how many there are.
pub fn show(problems: &[Problem]) {
    for problem in problems {
        eprintln!("{problem}");
    }
    let noun = if problems.len() == 1 { "problem" } else { "problems" };
    eprintln!("{} {noun}; nothing was started or changed", problems.len());
}
