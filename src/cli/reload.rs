//! `headgate reload`: the running gateway takes in what is on disk now, whole or not at all.

use std::process::ExitCode;

use hyper::Method;
use serde_json::Value as Json;

use super::{client::Daemon, exit, status::plain};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    daemon: Daemon,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

/// Exit code 78 where the configuration was refused; the earlier one runs on then.
pub fn run(arguments: &Arguments) -> ExitCode {
    let report = arguments.daemon.run(async |client| client.send(Method::POST, "/v1/config/reload", None).await);
    let report = match report {
        Ok(report) => report,
        Err(code) => return code,
    };
    let list = |name: &str| report[name].as_array().cloned().unwrap_or_default();
    let problems = list("problems");
    if arguments.json {
        println!("{report:#}");
    } else if problems.is_empty() {
        let changes = list("changes");
        changes.iter().for_each(|change| println!("{}", plain(change.as_str().unwrap_or_default())));
        println!("{}", if changes.is_empty() { "nothing has changed" } else { "the new configuration runs" });
    } else {
        problems.iter().for_each(|problem| eprintln!("{}", told(problem)));
        eprintln!("the earlier configuration runs on");
    }
    if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(exit::CONFIG) }
}

fn told(problem: &Json) -> String {
    let part = |name: &str| plain(problem[name].as_str().unwrap_or_default());
    // Line 0 is the file as a whole.
    let line = problem["line"].as_u64().filter(|line| *line > 0).map(|line| format!(":{line}")).unwrap_or_default();
    let hint =
        Some(part("hint")).filter(|hint| !hint.is_empty()).map(|hint| format!("\n    {hint}")).unwrap_or_default();
    format!("{}{line} {}: {}{hint}", part("file"), part("key"), part("found"))
}
