//! `headgate modbus simulate`: devices that are not there, with faults on request.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use clap::Args;

use crate::{
    cli::ConfigFolder,
    config::modbus::{
        Framing,
        profile::{Profile, Profiles},
    },
    drivers::modbus::{
        simulate::{Modbus, Unit, capture, faults::Fault},
        tools::units,
    },
    model::version::Version,
    tasks::Tasks,
};

#[derive(Debug, Args)]
pub struct Arguments {
    /// Devices of this profile, by name (`headgate profile show` lists them) or from a file NAME.toml
    #[arg(long, default_value = "eastron-sdm630")]
    profile: String,
    /// Devices as a capture of the bus scope saw them
    #[arg(long, value_name = "FILE", conflicts_with = "profile")]
    capture: Option<PathBuf>,
    /// The devices run this firmware, where the profile depends on it; the newest it knows of otherwise
    #[arg(long, value_name = "VERSION", value_parser = version, conflicts_with = "capture")]
    firmware: Option<Version>,
    #[command(flatten)]
    config: ConfigFolder,
    /// Unit ids, such as 1-10
    #[arg(long, default_value = "1")]
    units: String,
    /// Serve TCP here
    #[arg(long, default_value = "127.0.0.1:1502")]
    listen: SocketAddr,
    /// RTU frames on the TCP port
    #[arg(long)]
    rtu_over_tcp: bool,
    /// Serve RTU on a pseudo terminal instead, reachable under this path
    #[arg(long, value_name = "LINK", conflicts_with = "rtu_over_tcp")]
    pty: Option<PathBuf>,
    /// ASCII frames on the pseudo terminal
    #[arg(long, requires = "pty")]
    ascii: bool,
    /// The pseudo terminal is a line of this speed: replies take their time, and other speeds are not understood
    #[arg(long)]
    baud: Option<u32>,
    /// What goes wrong: UNIT:delay=200ms,exception=6,drop=10,damage=5,transaction=5,halves=5,doubles=5,close=1,echo,mute
    /// (unit 0: all; may be given several times)
    #[arg(long, value_name = "UNIT:FAULTS")]
    fault: Vec<String>,
}

pub fn run(arguments: &Arguments) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let served = match runtime {
        Ok(runtime) => runtime.block_on(serve(arguments)),
        Err(error) => Err(error.to_string()),
    };
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(arguments: &Arguments) -> Result<(), String> {
    let tasks = Tasks::new();
    let made = made(arguments)?;
    let simulator = match &arguments.pty {
        Some(link) => {
            let simulator = Modbus::pty(&tasks, framing(arguments), arguments.baud, made).map_err(|e| e.to_string())?;
            let _ = fs::remove_file(link);
            std::os::unix::fs::symlink(simulator.path(), link).map_err(|e| format!("{}: {e}", link.display()))?;
            println!("serving on {} ({})", link.display(), simulator.path().display());
            simulator
        }
        None => {
            let simulator = Modbus::tcp_framed(&tasks, arguments.listen, framing(arguments), made).await;
            let simulator = simulator.map_err(|e| format!("{}: {e}", arguments.listen))?;
            println!("serving Modbus on {}", simulator.address());
            simulator
        }
    };
    for text in &arguments.fault {
        let (unit, fault) = text.split_once(':').ok_or_else(|| format!("{text:?}: write UNIT:drop=10"))?;
        let unit = unit.parse::<u8>().map_err(|_| format!("{unit:?} is no unit id"))?;
        simulator.faults.set(unit, fault.parse::<Fault>()?);
    }
    println!("Ctrl-C ends it. A file for devices.d:\n\n{}", device_file(arguments, &simulator)?);
    let ended = tokio::signal::ctrl_c().await;
    if let Some(link) = &arguments.pty {
        let _ = fs::remove_file(link);
    }
    println!("{} requests answered", simulator.requests());
    ended.map_err(|e| e.to_string())
}

fn framing(arguments: &Arguments) -> Framing {
    match &arguments.pty {
        Some(_) if arguments.ascii => Framing::Ascii,
        Some(_) => Framing::Rtu,
        None if arguments.rtu_over_tcp => Framing::Rtu,
        None => Framing::Tcp,
    }
}

/// What `devices.d` needs to take these devices in, as TOML.
fn device_file(arguments: &Arguments, simulator: &Modbus) -> Result<String, String> {
    let mut text = match (&arguments.pty, arguments.rtu_over_tcp) {
        (Some(link), _) => {
            let port = std::path::absolute(link).unwrap_or_else(|_| link.clone());
            let baud = arguments.baud.unwrap_or(9600);
            let protocol = if arguments.ascii { "modbus-ascii" } else { "modbus-rtu" };
            format!(
                "[bus]\nname = \"bench\"\nprotocol = \"{protocol}\"\nport = \"{}\"\nbaud = {baud}\n",
                port.display()
            )
        }
        (None, framed) => {
            let protocol = if framed { "modbus-rtu-over-tcp" } else { "modbus-tcp" };
            format!("[bus]\nname = \"bench\"\nprotocol = \"{protocol}\"\naddress = \"{}\"\n", simulator.address())
        }
    };
    // Of a capture nobody knows what the registers mean.
    let name = Path::new(&arguments.profile).file_stem().unwrap_or_default().to_string_lossy();
    let profile = if arguments.capture.is_some() { "…" } else { &*name };
    let captured = arguments.capture.is_some().then(|| made(arguments)).transpose()?;
    let units = captured.map_or_else(|| units(&arguments.units), |made| Ok(made.into_keys().collect()))?;
    for unit in units {
        text += &format!("\n[[device]]\nid = \"bench-{unit}\"\nunit = {unit}\nprofile = \"{profile}\"\n");
    }
    Ok(text)
}

fn made(arguments: &Arguments) -> Result<BTreeMap<u8, Unit>, String> {
    if let Some(file) = &arguments.capture {
        let text = fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
        return capture::units(&text);
    }
    let name = arguments.profile.as_str();
    let profile = &*profile(name, &arguments.config.profiles())?;
    let made = |unit| match &arguments.firmware {
        Some(firmware) => Unit::with_firmware(profile, unit, firmware),
        None => Unit::from_profile(profile, unit),
    };
    Ok(units(&arguments.units)?.into_iter().map(|unit| (unit, made(unit))).collect())
}

fn version(text: &str) -> Result<Version, String> {
    Version::parse(text).ok_or_else(|| "write a version, such as 2.1".into())
}

/// A profile by its name, or the one in a file.
fn profile(name: &str, overlay: &Path) -> Result<Arc<Profile>, String> {
    let said = |problem: &crate::config::problem::Problem| eprintln!("{problem}");
    if name.ends_with(".toml") {
        let text = fs::read_to_string(name).map_err(|e| format!("{name}: {e}"))?;
        let (profile, problems) = Profile::parse(name, &text);
        problems.iter().for_each(said);
        return profile.map(Arc::new).ok_or_else(|| format!("{name} is no profile"));
    }
    let (profiles, problems) = Profiles::with_overlay(overlay);
    problems.iter().for_each(said);
    let found = profiles.get(name).cloned();
    found.ok_or_else(|| format!("there is no profile {name:?}; see `headgate profile show`"))
}
