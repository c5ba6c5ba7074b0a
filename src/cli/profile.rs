//! `headgate profile …`: look at device profiles, check them, begin one, make one from a table.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::PathBuf, process::ExitCode};

use clap::{Args, Subcommand};

use super::exit;
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
    /// List all profiles, or show one
    Show {
        name: Option<String>,
        /// Folder with profiles of your own
        #[arg(long, value_name = "DIR", default_value = "/etc/headgate/profiles")]
        profiles: PathBuf,
    },
    /// Print a commented profile to begin with
    New { name: String },
    /// Turn a table (CSV with a heading line) into a profile, printed
    ///
    /// Columns by their heading, in any order: name, address or reference, table, type, order, scale, offset, unit,
    /// access, min, max, interval, about. Separated by comma, semicolon or tab.
    Import {
        file: PathBuf,
        /// Name of the new profile
        #[arg(long)]
        name: String,
    },
}

pub fn run(arguments: &Arguments) -> ExitCode {
    match &arguments.what {
        What::Check { files } => check(files),
        What::Show { name: None, profiles } => {
            let (profiles, problems) = Profiles::with_overlay(profiles);
            for profile in profiles.iter() {
                let own = if profile.shipped { "" } else { "  (yours)" };
                println!("{:<28} {:<16} {}{own}", profile.name, profile.kind, profile.title);
            }
            problems.iter().for_each(|problem| eprintln!("{problem}"));
            ExitCode::SUCCESS
        }
        What::Show { name: Some(name), profiles } => match Profiles::with_overlay(profiles).0.get(name) {
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
        What::Import { file, name } => {
            match fs::read_to_string(file).map_err(|e| e.to_string()).and_then(|t| import(&t, name)) {
                Ok(profile) => {
                    print!("{profile}");
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
    let readable: Vec<&Point> = profile.points.iter().map(AsRef::as_ref).filter(|p| p.readable()).collect();
    for (index, point) in readable.iter().enumerate() {
        for other in &readable[..index] {
            let same = (point.table, point.model) == (other.table, other.model);
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

fn show(profile: &Profile) {
    println!("{}  {}", profile.name, profile.title);
    println!("maker {}, {}, version {}", profile.maker, profile.kind, profile.version);
    println!("source {}\n", profile.source);
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
    for command in &profile.commands {
        println!("command {}: {}", command.name, command.about.as_deref().unwrap_or(""));
    }
}

/// A table as a profile; only columns with a heading that is known are taken.
fn import(text: &str, name: &str) -> Result<String, String> {
    let mut lines = text.lines().filter(|line| !line.trim().is_empty());
    let heading = lines.next().ok_or("the file is empty")?;
    let separator = [';', '\t', ','].into_iter().max_by_key(|c| heading.matches(*c).count()).unwrap_or(',');
    let columns: Vec<String> = cells(heading, separator).iter().map(|cell| cell.to_lowercase()).collect();
    const TEXTS: [&str; 8] = ["name", "table", "type", "order", "unit", "access", "interval", "about"];
    const NUMBERS: [&str; 6] = ["address", "reference", "scale", "offset", "min", "max"];
    if !columns.iter().any(|c| c == "name") || !columns.iter().any(|c| c == "address" || c == "reference") {
        return Err(format!("the heading needs name and address (or reference); found {}", columns.join(", ")));
    }
    let mut profile = format!(
        "name = \"{name}\"\ntitle = \"{name}\"\nmaker = \"\"\nkind = \"other\"\nversion = 1\nsource = \"imported table; name its document\"\n"
    );
    for line in lines {
        let cells = cells(line, separator);
        let row: BTreeMap<&str, &str> = columns
            .iter()
            .map(String::as_str)
            .zip(cells.iter().map(|cell| cell.trim()))
            .filter(|(_, c)| !c.is_empty())
            .collect();
        profile.push_str("\n[[register]]\n");
        for (column, cell) in TEXTS.iter().filter_map(|column| Some((column, row.get(column)?))) {
            let _ = writeln!(profile, "{column} = {}", toml::Value::from(*cell));
        }
        for (column, cell) in NUMBERS.iter().filter_map(|column| Some((column, row.get(column)?))) {
            let number = cell.replace(',', ".");
            let _ = writeln!(profile, "{column} = {number}");
        }
    }
    let (_, problems) = Profile::parse("imported", &profile);
    for problem in problems {
        eprintln!("{problem}");
    }
    Ok(profile)
}

/// The cells of a line; quotes hold separators together.
fn cells(line: &str, separator: char) -> Vec<String> {
    let mut cells = vec![String::new()];
    let mut quoted = false;
    for c in line.chars() {
        match c {
            '"' => quoted = !quoted,
            c if c == separator && !quoted => cells.push(String::new()),
            c => cells.last_mut().expect("there is always a cell").push(c),
        }
    }
    cells.iter().map(|cell| cell.trim().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_and_an_imported_table_are_profiles_without_problems() {
        let (profile, problems) = Profile::parse("new", &START.replace("NAME", "my-meter"));
        assert!(problems.is_empty() && profile.is_some(), "{problems:#?}");
        let table =
            "Name;Address;Type;Scale;Unit;About\nvoltage;0;u16;0,1;V;\"phase; to neutral\"\nenergy;0x10;u32;1;kWh;\n";
        let text = import(table, "my-meter").expect("a table");
        let (profile, problems) = Profile::parse("imported", &text);
        assert!(problems.is_empty(), "{problems:#?}");
        let profile = profile.expect("a profile");
        assert_eq!((profile.points[0].scale, profile.points[1].address), (0.1, 16));
        assert!(import("a,b\n1,2\n", "x").is_err());
    }
}
