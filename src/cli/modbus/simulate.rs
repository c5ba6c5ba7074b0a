//! `headgate modbus simulate`: devices that are not there, with faults on request.

use std::{collections::BTreeMap, fs, net::SocketAddr, path::PathBuf, process::ExitCode};

use clap::Args;

use crate::{
    config::modbus::{Framing, profile::Profiles},
    drivers::modbus::{
        simulate::{Modbus, Unit, capture, faults::Fault},
        tools::units,
    },
    tasks::Tasks,
};

#[derive(Debug, Args)]
pub struct Arguments {
    /// Devices of this profile; `headgate profile show` lists them
    #[arg(long, default_value = "eastron-sdm630")]
    profile: String,
    /// Devices as a capture of the bus scope saw them
    #[arg(long, value_name = "FILE", conflicts_with = "profile")]
    capture: Option<PathBuf>,
    /// Folder with profiles of your own
    #[arg(long, value_name = "DIR", default_value = "/etc/headgate/profiles")]
    profiles: PathBuf,
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
    /// Pace the pseudo terminal like a line of this speed
    #[arg(long)]
    baud: Option<u32>,
    /// What goes wrong: UNIT:delay=200ms,exception=6,drop=10,damage=5,transaction=5,halves=5,doubles=5,close=1,echo
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
            let simulator = Modbus::rtu_pty(&tasks, arguments.baud, made).map_err(|e| e.to_string())?;
            let _ = fs::remove_file(link);
            std::os::unix::fs::symlink(simulator.path(), link).map_err(|e| format!("{}: {e}", link.display()))?;
            println!("serving RTU on {} ({})", link.display(), simulator.path().display());
            simulator
        }
        None => {
            let framing = if arguments.rtu_over_tcp { Framing::Rtu } else { Framing::Tcp };
            let simulator = Modbus::tcp_framed(&tasks, arguments.listen, framing, made).await;
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

/// What `devices.d` needs to take these devices in, as TOML.
fn device_file(arguments: &Arguments, simulator: &Modbus) -> Result<String, String> {
    let mut text = match (&arguments.pty, arguments.rtu_over_tcp) {
        (Some(link), _) => {
            let port = std::path::absolute(link).unwrap_or_else(|_| link.clone());
            let baud = arguments.baud.unwrap_or(9600);
            format!(
                "[bus]\nname = \"bench\"\nprotocol = \"modbus-rtu\"\nport = \"{}\"\nbaud = {baud}\n",
                port.display()
            )
        }
        (None, framed) => {
            let protocol = if framed { "modbus-rtu-over-tcp" } else { "modbus-tcp" };
            format!("[bus]\nname = \"bench\"\nprotocol = \"{protocol}\"\naddress = \"{}\"\n", simulator.address())
        }
    };
    // Of a capture nobody knows what the registers mean.
    let profile = if arguments.capture.is_some() { "…" } else { arguments.profile.as_str() };
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
    let (profiles, problems) = Profiles::with_overlay(&arguments.profiles);
    problems.iter().for_each(|problem| eprintln!("{problem}"));
    let name = arguments.profile.as_str();
    let profile =
        profiles.get(name).ok_or_else(|| format!("there is no profile {name:?}; see `headgate profile show`"))?;
    Ok(units(&arguments.units)?.into_iter().map(|unit| (unit, Unit::from_profile(profile, unit))).collect())
}
