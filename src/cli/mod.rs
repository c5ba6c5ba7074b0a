//! Arguments to one call to an exit code; one file per subcommand.

mod check;
mod client;
mod connections;
mod credential;
pub mod demo;
mod device;
mod modbus;
mod profile;
mod reload;
mod run;
mod simulate;
mod status;
mod version;

use std::{any::Any, panic, path::PathBuf, process::ExitCode};

use clap::{CommandFactory, Parser, Subcommand};

/// Exit codes as `sysexits.h` names them; units and scripts can tell them apart.
pub mod exit {
    /// Could not start: a port is taken, a folder cannot be written.
    pub const UNAVAILABLE: u8 = 69;
    /// A task that the daemon cannot live without died.
    pub const SOFTWARE: u8 = 70;
    /// Not done yet; it goes on, and may be asked again.
    pub const TEMPFAIL: u8 = 75;
    /// The configuration is wrong; `headgate check` says where.
    pub const CONFIG: u8 = 78;
}

/// Edge gateway: field devices in, shadows and a durable log inside, a cloud above. A reading is on disk, or it was
/// never acknowledged.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// Which configuration a command means.
#[derive(Debug, Clone, clap::Args)]
pub struct ConfigFolder {
    /// Folder with headgate.toml, access.toml and devices.d/ [default: /etc/headgate where it exists, else built-in defaults]
    #[arg(long = "config", short = 'c', value_name = "DIR", env = "HEADGATE_CONFIG", global = true)]
    folder: Option<PathBuf>,
}

impl ConfigFolder {
    /// The folder to read; `None` means the built-in defaults.
    pub fn resolve(&self) -> Option<PathBuf> {
        let installed = PathBuf::from("/etc/headgate");
        self.folder.clone().or_else(|| installed.is_dir().then_some(installed))
    }

    /// The folder of the user's own device profiles.
    pub fn profiles(&self) -> PathBuf {
        self.resolve().unwrap_or_else(|| "/etc/headgate".into()).join("profiles")
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway
    Run(run::Arguments),
    /// Play a demonstration: simulated devices, the gateway and a cloud in one process
    Demo(demo::Arguments),
    /// Check a configuration and show all its problems at once
    Check(check::Arguments),
    /// Show how the running gateway is
    Status(status::Arguments),
    /// Look at devices, write to them, call their commands, approve or suspend them
    Device(device::Arguments),
    /// Make the running gateway load its configuration now
    Reload(reload::Arguments),
    /// Issue, list and revoke the credentials of children; make login codes
    Credential(credential::Arguments),
    /// Commission Modbus buses: scan, read, write, solve, watch, simulate
    Modbus(modbus::Arguments),
    /// Serve or play a simulated child, to try a gateway or a profile with
    Simulate(simulate::Arguments),
    /// Look at device profiles, check them, begin or import one
    Profile(profile::Arguments),
    /// Show version, target, features and SQLite version
    Version(version::Arguments),
    /// Print shell completions
    Completions { shell: clap_complete::Shell },
}

/// Exit code where whoever read the output has seen enough (`| head`): that of a program which SIGPIPE ended.
const SEEN_ENOUGH: u8 = 128 + 13;

/// The whole program: parses the arguments, runs one subcommand.
pub fn main() -> ExitCode {
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |told| {
        if !seen_enough(told.payload()) {
            usual(told);
        }
    }));
    match panic::catch_unwind(run_one) {
        Ok(code) => code,
        Err(payload) if seen_enough(&*payload) => ExitCode::from(SEEN_ENOUGH),
        Err(payload) => panic::resume_unwind(payload),
    }
}

/// Whether a panic is that of `println!` on a pipe that nobody reads any more.
fn seen_enough(payload: &(dyn Any + Send)) -> bool {
    let text = payload.downcast_ref::<String>();
    text.is_some_and(|text| text.starts_with("failed printing to stdout") && text.contains("(os error 32)"))
}

fn run_one() -> ExitCode {
    let arguments = Arguments::parse();
    match arguments.command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::Status(arguments) => status::run(&arguments),
        Command::Device(arguments) => device::run(&arguments),
        Command::Reload(arguments) => reload::run(&arguments),
        Command::Version(arguments) => version::run(&arguments),
        Command::Credential(arguments) => credential::run(&arguments),
        Command::Modbus(arguments) => modbus::run(arguments),
        Command::Simulate(arguments) => simulate::run(&arguments),
        Command::Profile(arguments) => profile::run(&arguments),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "headgate", &mut script);
            print!("{}", String::from_utf8_lossy(&script));
            ExitCode::SUCCESS
        }
    }
}
