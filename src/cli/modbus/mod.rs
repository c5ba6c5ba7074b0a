//! `headgate modbus …`: commissioning tools, through the running daemon where it owns the bus, else directly.

mod arguments;
mod direct;
mod print;
pub mod simulate;

use std::{fs::File, io::Write as _, process::ExitCode};

use serde_json::{Value as Json, json};

pub use self::arguments::Arguments;
use self::arguments::{Tool, Where};
use super::client::{Client, ClientError};
use crate::{
    config::{
        modbus::{self, profile::Profiles},
        read::Document,
    },
    drivers::modbus::{
        budget,
        tools::{Place, ToolRequest},
    },
};

/// Runs one tool; prints its answer.
pub fn run(arguments: Arguments) -> ExitCode {
    let (place, request) = match arguments.tool {
        Tool::Simulate(arguments) => return simulate::run(&arguments),
        Tool::Budget { file: Some(file), place } => return file_budget(&file, &place),
        Tool::Budget { place, .. } => (place, ToolRequest::Budget {}),
        Tool::Scan { place, units, timeout, lines, probes } => {
            (place, ToolRequest::Scan { units, timeout_ms: timeout, lines, probes })
        }
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
                (_, Err(error)) => {
                    return complain(&format!("--revert-after {}: {error}", revert_after.unwrap_or_default()));
                }
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
        Tool::Raw { place, whom, pdu } => match whom.target() {
            Ok(target) => (place, ToolRequest::Raw { target, pdu }),
            Err(error) => return complain(&error),
        },
        Tool::Solve { place, whom, table, address, display, around } => match whom.target() {
            Ok(target) => (place, ToolRequest::Solve { target, table, address, display, around }),
            Err(error) => return complain(&error),
        },
        Tool::Scope { place, time, unit, capture } => {
            let seconds = match crate::config::amount::parse_duration(&time) {
                Ok(time) => time.as_secs_f64(),
                Err(error) => return complain(&format!("--time {time}: {error}")),
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
    // Written as they come, so that an interrupted watch keeps what it saw.
    let mut file = match capture.map(|path| (path, File::create(path))) {
        None => None,
        Some((_, Ok(file))) => Some(file),
        Some((path, Err(error))) => return complain(&format!("{}: {error}", path.display())),
    };
    let json = place.json;
    let mut unwritten = None;
    let result = place.ask(request, |frame| {
        print::frame(&frame, json);
        if let Some(file) = &mut file
            && let Err(error) = writeln!(file, "{frame}")
        {
            unwritten = Some(error);
        }
    });
    if let Some(error) = unwritten {
        return complain(&format!("the capture is not whole: {error}"));
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
fn file_budget(file: &std::path::Path, place: &Where) -> ExitCode {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) => return complain(&format!("{}: {error}", file.display())),
    };
    let document = Document::parse(file.display().to_string(), &text);
    let (profiles, mut problems) = Profiles::with_overlay(&place.daemon.profiles());
    let bus = modbus::read(&document.root(), &profiles);
    problems.extend(document.into_problems());
    problems.iter().for_each(|problem| eprintln!("{problem}"));
    match bus {
        Some(bus) if problems.is_empty() => {
            let dealt = bus.dealt();
            let predicted = |bus: &modbus::Bus| json!({ "connection": bus.name, "predicted": budget::budget(bus) });
            if let (true, [_, _, ..]) = (place.json, dealt.as_slice()) {
                println!("{}", Json::from_iter(dealt.iter().map(predicted)));
                return ExitCode::SUCCESS;
            }
            for bus in &dealt {
                if dealt.len() > 1 {
                    println!("connection {}:", bus.name);
                }
                print::answer(&ToolRequest::Budget {}, &predicted(bus), place.json);
            }
            ExitCode::SUCCESS
        }
        _ => ExitCode::from(super::exit::CONFIG),
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
                    Asked::Answer(answer) => Ok(answer),
                    Asked::NotThere(why) => match direct {
                        Some(bus) => direct::run(bus, &self.daemon.profiles(), asked, each).await,
                        None => Err(format!(
                            "{why}\nFor a bus the daemon does not have, name a port with --port or an address with --tcp."
                        )),
                    },
                },
                Err(not_running) => match direct {
                    Some(bus) => direct::run(bus, &self.daemon.profiles(), asked, each).await,
                    None => Err(format!("{not_running}\nOr name a port with --port or an address with --tcp.")),
                },
            }
        })
    }
}

/// What became of a question to the daemon.
enum Asked {
    Answer(Json),
    /// The daemon does not have that bus, in its own words.
    NotThere(String),
}

async fn through(client: &Client, asked: &Json, each: &mut impl FnMut(Json)) -> Result<Asked, String> {
    let mut last = None;
    let asking = client.lines("/v1/tools/modbus", asked, |mut line| match line.get_mut("progress") {
        Some(progress) => each(progress.take()),
        None => last = Some(line),
    });
    match asking.await {
        Ok(()) => {}
        // The driver does not run at all, or has no such bus: the bus is free.
        Err(ClientError::Refused { code, message, .. })
            if message.contains("does not run") || (code == "unknown-device" && asked.get("device").is_none()) =>
        {
            return Ok(Asked::NotThere(message));
        }
        Err(ClientError::Refused { message, .. }) => return Err(message),
        Err(error) => return Err(error.to_string()),
    }
    let Some(mut last) = last else { return Err("the daemon gave no answer".into()) };
    if let Some(result) = last.get_mut("result") {
        return Ok(Asked::Answer(result.take()));
    }
    Err(last["error"]["message"].as_str().unwrap_or("the daemon refused").to_owned())
}
