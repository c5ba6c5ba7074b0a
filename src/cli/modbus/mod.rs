//! `headgate modbus …`: commissioning tools, through the running daemon where it owns the bus, else directly.

mod direct;
mod print;
pub mod simulate;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Subcommand};
use serde_json::{Value as Json, json};

use super::client::{Client, ClientError, Daemon};
use crate::{
    config::{
        modbus::{self, profile::Profiles},
        read::Document,
    },
    drivers::modbus::{
        budget,
        tools::{Place, Target, ToolRequest},
    },
};

#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    tool: Tool,
}

/// Which bus: one that the daemon has, or one opened here and now.
#[derive(Debug, Clone, Args)]
struct Where {
    #[command(flatten)]
    daemon: Daemon,
    /// Name of a bus of the running daemon
    #[arg(long, conflicts_with_all = ["tcp", "rtu_over_tcp", "port"])]
    bus: Option<String>,
    /// Modbus TCP endpoint, HOST or HOST:PORT
    #[arg(long, value_name = "HOST", conflicts_with_all = ["rtu_over_tcp", "port"])]
    tcp: Option<String>,
    /// RTU frames over a TCP connection, HOST:PORT
    #[arg(long, value_name = "HOST", conflicts_with = "port")]
    rtu_over_tcp: Option<String>,
    /// Serial port
    #[arg(long, value_name = "PATH")]
    port: Option<PathBuf>,
    /// Line settings of the serial port
    #[arg(long, default_value = "9600 8N1")]
    line: String,
    /// Answer as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Args)]
struct Whom {
    /// Unit id
    #[arg(long, short)]
    unit: Option<u8>,
    /// A device the daemon knows
    #[arg(long, conflicts_with = "unit")]
    device: Option<String>,
    /// Milliseconds to wait for a reply
    #[arg(long, value_name = "MS")]
    timeout: Option<u64>,
}

#[derive(Debug, Clone, Args)]
struct What {
    /// A value of the device, by name
    #[arg(long, conflicts_with = "address")]
    name: Option<String>,
    /// coil, discrete, holding or input
    #[arg(long, default_value = "holding")]
    table: String,
    /// Zero-based address
    #[arg(long, short)]
    address: Option<u16>,
    /// u16, i32, f32, text:8 …
    #[arg(long = "type", short = 't', value_name = "TYPE")]
    kind: Option<String>,
    /// ABCD, CDAB, BADC, DCBA …
    #[arg(long, short)]
    order: Option<String>,
    #[arg(long)]
    scale: Option<f64>,
}

#[derive(Debug, Subcommand)]
enum Tool {
    /// Look for units, and say what they are; only reads
    Scan {
        #[command(flatten)]
        place: Where,
        /// Unit ids, such as 1-247 or 1,5,9
        #[arg(long, default_value = "1-247")]
        units: String,
        /// Milliseconds to wait for each
        #[arg(long, default_value_t = 200)]
        timeout: u64,
        /// Line settings to try, such as "9600 8N1" (several times); polling waits meanwhile
        #[arg(long = "try", value_name = "LINE")]
        lines: Vec<String>,
    },
    /// Ask a unit who it is, and which profiles fit
    Identify {
        #[command(flatten)]
        place: Where,
        #[command(flatten)]
        whom: Whom,
    },
    /// Read registers or bits
    Read {
        #[command(flatten)]
        place: Where,
        #[command(flatten)]
        whom: Whom,
        #[command(flatten)]
        what: What,
        /// Registers or bits
        #[arg(long, short = 'n')]
        count: Option<u16>,
    },
    /// Write a value, read it back, and take it back after a time if asked to
    Write {
        #[command(flatten)]
        place: Where,
        #[command(flatten)]
        whom: Whom,
        #[command(flatten)]
        what: What,
        /// The value, in its own unit
        #[arg(allow_negative_numbers = true)]
        value: String,
        /// Fail unless the device holds the value afterwards
        #[arg(long)]
        verify: bool,
        /// Write the old value again after this time, such as 30s
        #[arg(long, value_name = "TIME")]
        revert_after: Option<String>,
    },
    /// Find type, order, scale and address of the number on the device's display
    Solve {
        #[command(flatten)]
        place: Where,
        #[command(flatten)]
        whom: Whom,
        /// coil, discrete, holding or input
        #[arg(long, default_value = "holding")]
        table: String,
        /// About where it should be
        #[arg(long, short)]
        address: u16,
        /// What the display shows
        #[arg(long, allow_negative_numbers = true)]
        display: f64,
        /// Registers looked at on both sides
        #[arg(long, default_value_t = 4)]
        around: u16,
    },
    /// Say how full a bus will be (from a file), or is (from the daemon)
    Budget {
        #[command(flatten)]
        place: Where,
        /// A file for devices.d
        file: Option<PathBuf>,
    },
    /// Show the frames that pass
    Scope {
        #[command(flatten)]
        place: Where,
        /// For how long
        #[arg(long, default_value = "10s")]
        time: String,
        /// Only this unit
        #[arg(long, short)]
        unit: Option<u8>,
        /// Keep them here, for `simulate --capture`
        #[arg(long, value_name = "FILE")]
        capture: Option<PathBuf>,
    },
    /// Serve simulated devices
    Simulate(simulate::Arguments),
}

/// Runs one tool; prints its answer.
pub fn run(arguments: Arguments) -> ExitCode {
    let (place, request) = match arguments.tool {
        Tool::Simulate(arguments) => return simulate::run(&arguments),
        Tool::Budget { file: Some(file), place } => return file_budget(&file, place.json),
        Tool::Budget { place, .. } => (place, ToolRequest::Budget {}),
        Tool::Scan { place, units, timeout, lines } => (place, ToolRequest::Scan { units, timeout_ms: timeout, lines }),
        Tool::Identify { place, whom } => match whom.target() {
            Ok(target) => (place, ToolRequest::Identify { target }),
            Err(error) => return complain(&error),
        },
        Tool::Read { place, whom, what, count } => match whom.target() {
            Ok(target) => (place, ToolRequest::Read { target, place: Place { count, ..what.place() } }),
            Err(error) => return complain(&error),
        },
        Tool::Write { place, whom, what, value, verify, revert_after } => {
            let revert = revert_after.as_deref().map(crate::config::amount::parse_duration).transpose();
            let (target, revert) = match (whom.target(), revert) {
                (Ok(target), Ok(revert)) => (target, revert),
                (Err(error), _) => return complain(&error),
                (_, Err(error)) => return complain(&format!("--revert-after {error}")),
            };
            // `true`, `21.5` and `"text"` as JSON; any other word is a text.
            let value = serde_json::from_str(&value).unwrap_or(Json::String(value));
            let revert_after_ms = revert.map(|time| time.as_millis() as u64);
            let request = ToolRequest::Write { target, place: what.place(), value, revert_after_ms };
            return finish(&place, &request, |answer| {
                if !verify || answer["verified"] == json!(true) {
                    Ok(())
                } else {
                    Err("the device does not hold what was written")
                }
            });
        }
        Tool::Solve { place, whom, table, address, display, around } => match whom.target() {
            Ok(target) => (place, ToolRequest::Solve { target, table, address, display, around }),
            Err(error) => return complain(&error),
        },
        Tool::Scope { place, time, unit, capture } => {
            let seconds = match crate::config::amount::parse_duration(&time) {
                Ok(time) => time.as_secs_f64(),
                Err(error) => return complain(&format!("--time {error}")),
            };
            return scope(&place, &ToolRequest::Scope { seconds, unit }, capture.as_deref());
        }
    };
    finish(&place, &request, |_| Ok(()))
}

fn complain(text: &str) -> ExitCode {
    eprintln!("{text}");
    ExitCode::FAILURE
}

fn finish(place: &Where, request: &ToolRequest, judge: impl FnOnce(&Json) -> Result<(), &'static str>) -> ExitCode {
    let json = place.json;
    match place.ask(request, |progress| print::progress(&progress, json)) {
        Ok(answer) => {
            print::answer(request, &answer, json);
            judge(&answer).map_or_else(complain, |()| ExitCode::SUCCESS)
        }
        Err(error) => complain(&error),
    }
}

fn scope(place: &Where, request: &ToolRequest, capture: Option<&std::path::Path>) -> ExitCode {
    let mut kept = String::new();
    let json = place.json;
    let result = place.ask(request, |frame| {
        print::frame(&frame, json);
        kept.push_str(&frame.to_string());
        kept.push('\n');
    });
    if let Some(path) = capture
        && let Err(error) = std::fs::write(path, &kept)
    {
        return complain(&format!("{}: {error}", path.display()));
    }
    match result {
        Ok(answer) => {
            print::answer(request, &answer, json);
            ExitCode::SUCCESS
        }
        Err(error) => complain(&error),
    }
}

/// The budget of a file that is not in use yet.
fn file_budget(file: &std::path::Path, json: bool) -> ExitCode {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) => return complain(&format!("{}: {error}", file.display())),
    };
    let document = Document::parse(file.display().to_string(), &text);
    let bus = modbus::read(&document.root(), &Profiles::shipped());
    let problems = document.into_problems();
    problems.iter().for_each(|problem| eprintln!("{problem}"));
    match bus {
        Some(bus) if problems.is_empty() => {
            let predicted = json!({ "predicted": budget::budget(&bus) });
            print::answer(&ToolRequest::Budget {}, &predicted, json);
            ExitCode::SUCCESS
        }
        _ => ExitCode::from(super::exit::CONFIG),
    }
}

impl Whom {
    fn target(&self) -> Result<Target, String> {
        let device =
            self.device.as_deref().map(|text| text.parse().map_err(|e| format!("--device {text}: {e}"))).transpose()?;
        if device.is_none() && self.unit.is_none() {
            return Err("say which: --unit 1, or --device NAME".into());
        }
        Ok(Target { device, unit: self.unit, timeout_ms: self.timeout })
    }
}

impl What {
    fn place(&self) -> Place {
        let (name, kind, order, scale) = (self.name.clone(), self.kind.clone(), self.order.clone(), self.scale);
        Place { name, table: Some(self.table.clone()), address: self.address, count: None, kind, order, scale }
    }
}

impl Where {
    /// What a person would call the bus.
    fn called(&self) -> Option<String> {
        let port = self.port.as_ref().map(|port| port.display().to_string());
        self.bus.clone().or(self.tcp.clone()).or(self.rtu_over_tcp.clone()).or(port)
    }

    /// Asks the daemon if it runs and has that bus; opens the bus here where it does not.
    fn ask(&self, request: &ToolRequest, mut each: impl FnMut(Json)) -> Result<Json, String> {
        let mut asked = serde_json::to_value(request).map_err(|error| error.to_string())?;
        if let Some(bus) = self.called() {
            asked["bus"] = json!(bus);
        }
        let direct = direct::bus(self)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
        runtime.block_on(async {
            match self.daemon.find().await {
                Ok(client) => match through(&client, &asked, &mut each).await? {
                    Some(answer) => Ok(answer),
                    None => match direct {
                        Some(bus) => direct::run(bus, asked, each).await,
                        None => {
                            Err("the daemon has no such bus; name a port with --port or an address with --tcp".into())
                        }
                    },
                },
                Err(not_running) => match direct {
                    Some(bus) => direct::run(bus, asked, each).await,
                    None => Err(format!("{not_running}\nOr name a port with --port or an address with --tcp.")),
                },
            }
        })
    }
}

/// `None` where the daemon does not have that bus.
async fn through(client: &Client, asked: &Json, each: &mut impl FnMut(Json)) -> Result<Option<Json>, String> {
    let mut last = None;
    let asking = client.lines("/v1/tools/modbus", asked, |mut line| match line.get_mut("progress") {
        Some(progress) => each(progress.take()),
        None => last = Some(line),
    });
    match asking.await {
        Ok(()) => {}
        // The driver does not run at all: the bus is free.
        Err(ClientError::Refused { message, .. }) if message.contains("does not run") => return Ok(None),
        Err(error) => return Err(error.to_string()),
    }
    let Some(mut last) = last else { return Err("the daemon gave no answer".into()) };
    if let Some(result) = last.get_mut("result") {
        return Ok(Some(result.take()));
    }
    let error = &last["error"];
    if error["code"] == json!("unknown-device") && asked.get("device").is_none() {
        return Ok(None);
    }
    Err(error["message"].as_str().unwrap_or("the daemon refused").to_owned())
}
