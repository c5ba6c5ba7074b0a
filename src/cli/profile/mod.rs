//! `headgate profile …`: look at device profiles, check them, begin one, make one from a table.

mod columns;
mod import;
mod register;
mod words;

use std::{fs, path::PathBuf, process::ExitCode};

use clap::{Args, Subcommand};

use super::{ConfigFolder, exit};
use crate::config::modbus::{
    kind::Kind,
    point::{Access, Point},
    profile::{Profile, Profiles},
};

#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Check profile files; shows all problems and what looks odd
    Check { files: Vec<PathBuf> },
    /// List all profiles, or show one: by its name, or from a file
    Show {
        name: Option<String>,
        #[command(flatten)]
        config: ConfigFolder,
    },
    /// Print a commented profile to begin with
    New { name: String },
    /// Turn a maker's register table (CSV with a heading line) into a profile, printed
    ///
    /// Columns by their heading, in any order: name (or parameter), address, register or reference, function or table,
    /// type (or format), length, order, scale (or factor), offset, unit, access, min, max, interval, remarks.
    /// Separated by comma, semicolon or tab.
    Import {
        file: PathBuf,
        /// Name of the new profile
        #[arg(long)]
        name: String,
        /// What the device is, for people
        #[arg(long)]
        title: Option<String>,
        #[arg(long)]
        maker: Option<String>,
        /// The document the table is from
        #[arg(long)]
        source: Option<String>,
    },
}

pub fn run(arguments: &Arguments) -> ExitCode {
    match &arguments.what {
        What::Check { files } => check(files),
        What::Show { name: None, config } => {
            let (profiles, problems) = Profiles::with_overlay(&config.profiles());
            for profile in profiles.iter() {
                let own = if profile.shipped { "" } else { "  (yours)" };
                println!("{:<28} {:<16} {}{own}", profile.name, profile.kind, profile.title);
            }
            problems.iter().for_each(|problem| eprintln!("{problem}"));
            ExitCode::SUCCESS
        }
        What::Show { name: Some(file), .. } if file.ends_with(".toml") => show_file(file),
        What::Show { name: Some(name), config } => match Profiles::with_overlay(&config.profiles()).0.get(name) {
            Some(profile) => {
                show(profile);
                ExitCode::SUCCESS
            }
            None => {
                eprintln!("there is no profile {name:?}; `headgate profile show` lists all");
                ExitCode::FAILURE
            }
        },
        What::New { name } => {
            print!("{}", START.replace("NAME", name));
            ExitCode::SUCCESS
        }
        What::Import { file, name, title, maker, source } => {
            let (title, maker, source) = (title.clone(), maker.clone(), source.clone());
            let about = import::About { name: name.clone(), title, maker, source };
            match fs::read_to_string(file).map_err(|e| e.to_string()).and_then(|t| import::import(&t, &about)) {
                Ok(imported) => {
                    print!("{}", imported.profile);
                    imported.remarks.iter().for_each(|remark| eprintln!("{remark}"));
                    ExitCode::SUCCESS
                }
                Err(error) => {
                    eprintln!("{}: {error}", file.display());
                    ExitCode::FAILURE
                }
            }
        }
    }
}

const START: &str = r#"# Put this file into /etc/headgate/profiles and check it with `headgate profile check FILE`.
name = "NAME"
title = "What the device is, in words"
maker = "Its maker"
kind = "energy-meter"          # sensor, inverter, drive, io, ventilation, heat-pump …
version = 1
source = "Title and revision of the document with the register table"
checked = "what it was compared with: the document, the display of a device with firmware …"
interval = "10s"               # how often, where a register says nothing else
order = "ABCD"                 # ABCD highest byte first; CDAB low word first; `headgate modbus solve` finds it

# How it is recognised in a scan; leave out what you do not know.
[[detect]]
object = 0                     # identification (function 43/14): 0 vendor, 1 product
contains = "maker"

[[register]]
name = "voltage"
table = "input"                # holding, input, coil, discrete
address = 0                    # as on the wire; or reference = 30001 as in the maker's table
type = "f32"                   # u16 i16 u32 i32 f32 … text:8 bool
unit = "V"

[[register]]
name = "setpoint"
address = 100
type = "i16"
scale = 0.1
unit = "°C"
access = "rw"
min = 5
max = 30

[[register]]
name = "mode"
address = 101
access = "rw"
titles = { 0 = "off", 1 = "auto", 2 = "manual" }
"#;

fn check(files: &[PathBuf]) -> ExitCode {
    let mut bad = 0;
    for file in files {
        let name = file.display().to_string();
        let text = match fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) => {
                eprintln!("{name}: {error}");
                bad += 1;
                continue;
            }
        };
        let (profile, problems) = Profile::parse(&name, &text);
        problems.iter().for_each(|problem| eprintln!("{problem}"));
        bad += problems.len();
        let Some(profile) = profile else { continue };
        let odd = odd(&profile);
        odd.iter().for_each(|line| println!("{name}: {line}"));
        if problems.is_empty() {
            println!("{name}: {} with {} registers, in order", profile.name, profile.points.len());
        }
    }
    if bad == 0 { ExitCode::SUCCESS } else { ExitCode::from(exit::CONFIG) }
}

/// What is allowed and still looks like a slip.
fn odd(profile: &Profile) -> Vec<String> {
    let mut odd = Vec::new();
    if profile.checked.is_none() {
        odd.push(
            "it does not say what it was compared with; add checked = \"display of a device, firmware 1.4\"".into(),
        );
    }
    if profile.source.starts_with(import::UNNAMED) {
        odd.push("its source is not named; say which document, revision and table".into());
    }
    let readable: Vec<&Point> = profile.points.iter().map(AsRef::as_ref).filter(|p| p.readable()).collect();
    for (index, point) in readable.iter().enumerate() {
        for other in &readable[..index] {
            let same = point.together(other).is_some() && (point.table, point.model) == (other.table, other.model);
            let (a, b) = (u32::from(point.address), u32::from(other.address));
            let overlap = a < b + u32::from(other.len()) && b < a + u32::from(point.len());
            let parts = (point.bits.is_some() && other.bits.is_some()) || (a == b && point.len() == other.len());
            if same && overlap && !parts {
                odd.push(format!("{} and {} share registers", other.name, point.name));
            }
        }
        let number = point.kind.is_number() && point.titles.is_empty() && point.bits.is_none();
        if number && point.unit.is_none() && point.scale != 1.0 {
            odd.push(format!("{} is scaled and has no unit", point.name));
        }
        if point.writable() && number && (point.write.min.is_none() || point.write.max.is_none()) {
            odd.push(format!("{} can be written without limits; add min and max", point.name));
        }
    }
    odd
}

fn show_file(file: &str) -> ExitCode {
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) => {
            eprintln!("{file}: {error}");
            return ExitCode::FAILURE;
        }
    };
    let (profile, problems) = Profile::parse(file, &text);
    problems.iter().for_each(|problem| eprintln!("{problem}"));
    profile.iter().for_each(show);
    if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(exit::CONFIG) }
}

fn show(profile: &Profile) {
    println!("{}  {}", profile.name, profile.title);
    println!("maker {}, {}, version {}", profile.maker, profile.kind, profile.version);
    println!("source {}", profile.source);
    println!("checked {}\n", profile.checked.as_deref().unwrap_or("not said"));
    println!(
        "{:<28} {:<8} {:>6}  {:<10} {:<5} {:>8}  {:<6} {:<3} every",
        "name", "table", "addr", "type", "order", "scale", "unit", ""
    );
    for point in &profile.points {
        let access = match point.access {
            Access::Read => "r",
            Access::ReadWrite => "rw",
            Access::WriteOnly => "w",
        };
        let kind = if point.table.is_bits() { Kind::Bool } else { point.kind };
        let place = point.model.map_or_else(|| point.address.to_string(), |m| format!("{m}+{}", point.address));
        println!(
            "{:<28} {:<8} {place:>6}  {:<10} {:<5} {:>8}  {:<6} {access:<3} {:?}",
            point.name,
            point.table.word(),
            kind.to_string(),
            point.order.name(),
            point.scale,
            point.unit.as_deref().unwrap_or(""),
            point.interval
        );
    }
    let notes: Vec<String> = profile.points.iter().filter_map(|point| note(point)).collect();
    if !notes.is_empty() {
        println!("\n{}\n", notes.join("\n"));
    }
    for command in &profile.commands {
        println!("command {}: {}", command.name, command.about.as_deref().unwrap_or(""));
    }
}

/// What a point is beyond its name, and where its maker says so.
fn note(point: &Point) -> Option<String> {
    let firmware = point.firmware.as_ref().map(|condition| format!("with firmware {condition}"));
    let about = [firmware.as_deref(), point.about.as_deref(), point.source.as_deref()];
    let about: Vec<&str> = about.into_iter().flatten().collect();
    (!about.is_empty()).then(|| format!("{:<28} {}", point.name, about.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_register_says_what_it_is_and_where_its_maker_says_so() {
        let profiles = Profiles::shipped();
        let note = |profile: &str, name: &str| note(profiles.get(profile)?.point(name)?);
        let setpoint = note("systemair-save", "setpoint").expect("a note");
        assert!(
            setpoint.starts_with("setpoint ") && setpoint.ends_with(" supply air set point; 4.1: REG_TC_SP, HR 2001")
        );
        assert!(note("sma-inverter", "power").is_some_and(|note| note.ends_with(" GridMs.TotW")));
        assert_eq!(note("eastron-sdm120", "voltage"), None);
    }

    #[test]
    fn the_start_is_a_profile_without_problems() {
        let (profile, problems) = Profile::parse("new", &START.replace("NAME", "my-meter"));
        assert!(problems.is_empty() && profile.is_some(), "{problems:#?}");
    }

    #[test]
    fn the_profile_in_the_documentation_is_one_without_problems() {
        let text = include_str!("../../../docs/profiles.md");
        let (_, rest) = text.split_once("    name = \"hx-40\"\n").expect("the example");
        let lines = rest.lines().take_while(|line| line.is_empty() || line.starts_with("    ")).map(str::trim_start);
        let example = lines.fold("name = \"hx-40\"\n".to_owned(), |text, line| text + line + "\n");
        let (profile, problems) = Profile::parse("docs/profiles.md", &example);
        assert!(problems.is_empty(), "{problems:#?}");
        let profile = profile.expect("a profile");
        assert!(profile.points.len() >= 8 && odd(&profile).is_empty(), "{:?}", odd(&profile));
    }
}
