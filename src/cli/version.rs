//! `headgate version`: what exactly runs here, for a report of a fault.

use std::{
    env::consts::{ARCH, OS},
    process::ExitCode,
};

use serde_json::json;

use crate::store;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &Arguments) -> ExitCode {
    let version = env!("CARGO_PKG_VERSION");
    let features: Vec<&str> = [("systemd", cfg!(feature = "systemd")), ("faults", cfg!(feature = "faults"))]
        .into_iter()
        .filter_map(|(name, on)| on.then_some(name))
        .collect();
    let libc = if cfg!(target_env = "musl") { "musl" } else { "gnu" };
    let (target, build) = (format!("{ARCH}-{OS}-{libc}"), if cfg!(debug_assertions) { "debug" } else { "release" });
    let sqlite = store::sqlite_version();
    if arguments.json {
        let document =
            json!({ "version": version, "target": target, "build": build, "features": features, "sqlite": sqlite });
        println!("{document:#}");
    } else {
        let features = if features.is_empty() { "none".to_owned() } else { features.join(", ") };
        println!(
            "headgate {version}\n  target    {target}, {build} build\n  features  {features}\n  sqlite    {sqlite}"
        );
    }
    ExitCode::SUCCESS
}
