//! Device profiles: one TOML file per device type that says what its registers mean, how to recognise it and how to set it up.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc, time::Duration};

use serde_json::Value as Json;

use super::{
    firmware,
    kind::{Kind, Order, Table},
    point::{Defaults, ORDERS, Point},
    shipped,
};
use crate::config::{
    problem::Problem,
    read::{Document, Section},
};

/// A device type.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    /// What devices name it by: lower case letters, digits and dashes.
    pub name: Arc<str>,
    pub title: Arc<str>,
    pub maker: Arc<str>,
    pub kind: Arc<str>,
    pub version: u32,
    /// Where the register map is published.
    pub source: Arc<str>,
    /// What the map was held against: a document, a program, a device.
    pub checked: Option<Arc<str>>,
    /// Most registers the device gives in one read, where it is less than 125.
    pub max_registers: Option<u16>,
    /// Most unused registers between two points that are read along with them.
    pub merge_gap: Option<u16>,
    /// Requests it takes at a time on one TCP connection.
    pub in_flight: u8,
    /// Pause the device needs between requests.
    pub gap: Option<Duration>,
    pub timeout: Option<Duration>,
    pub detect: Vec<Detect>,
    pub points: Vec<Arc<Point>>,
    pub setup: Vec<(Arc<str>, Json)>,
    pub commands: Vec<ProfileCommand>,
    /// What tells the version of its firmware.
    pub firmware_version: Option<firmware::Source>,
    /// How firmware gets into the device, for people.
    pub firmware: Option<Arc<str>>,
    /// Comes with the program, or from the overlay folder.
    pub shipped: bool,
}

/// One thing that must hold for a device to be of this type.
#[derive(Debug, Clone, PartialEq)]
pub enum Detect {
    /// Object of function 43/14 (0 vendor, 1 product, 2 revision, 5 model …) contains this text, whatever the case.
    Object { object: u8, contains: String },
    /// A point reads as a number within these ends.
    Between { point: Box<Point>, min: f64, max: f64 },
    /// A point reads as text that contains this, whatever the case.
    Text { point: Box<Point>, contains: String },
    /// The SunSpec marker is there, and a model with one of these numbers.
    SunSpec { models: Vec<u16> },
}

/// A verb of the device: values written in order.
#[derive(Debug, Clone, PartialEq)]
pub struct ProfileCommand {
    pub name: Arc<str>,
    pub about: Option<Arc<str>>,
    pub writes: Vec<(Arc<str>, Json)>,
}

impl Profile {
    /// Reads one profile file, with all problems.
    pub fn parse(file: &str, text: &str) -> (Option<Profile>, Vec<Problem>) {
        let document = Document::parse(file, text);
        let profile = read(&document.root());
        (profile, document.into_problems())
    }

    pub fn point(&self, name: &str) -> Option<&Arc<Point>> {
        self.points.iter().find(|p| &*p.name == name)
    }
}

fn read(root: &Section<'_>) -> Option<Profile> {
    let name = root.parsed("name", "lower case letters, digits and dashes, such as \"eastron-sdm630\"", |text| {
        let fits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if fits { Ok(text.to_owned()) } else { Err("is not a profile name".into()) }
    });
    if !root.has("name") {
        root.problem("name", "is missing", "give the profile a name, such as \"eastron-sdm630\"");
    }
    let hint = "name the public document or source this register map comes from";
    let source = root.required_text("source", hint).unwrap_or_default();
    let defaults = Defaults {
        order: root.parsed("order", ORDERS, str::parse).unwrap_or_default(),
        interval: root.duration("interval").unwrap_or(Duration::from_secs(10)),
    };
    let mut points: Vec<Arc<Point>> = Vec::new();
    for section in root.sections("register") {
        let Some(point) = Point::read(&section, &defaults) else { continue };
        check_twins(&section, &point, &points);
        points.push(Arc::new(point));
    }
    if points.is_empty() {
        root.problem("register", "there is no register", "add at least one [[register]]");
    }
    check_links(root, &points);
    let firmware_version = firmware::Source::read(root, &points);
    if !root.has("firmware_version") && points.iter().any(|point| point.firmware.is_some()) {
        root.problem(
            "firmware_version",
            "is missing, and there are registers with a condition on the firmware",
            SOURCES,
        );
    }
    let known = |section: &Section<'_>, writes: &[(Arc<str>, Json)]| {
        for (name, _) in writes {
            if !points.iter().any(|p| p.name == *name && p.writable()) {
                section.problem(
                    "write",
                    format!("{name:?} is no writable register here"),
                    "name a [[register]] with access = \"rw\" or \"w\"",
                );
            }
        }
    };
    let writes = |section: &Section<'_>| {
        let entries = section.entries("write");
        let writes: Vec<(Arc<str>, Json)> = entries.into_iter().map(|(k, v)| (Arc::from(k), v)).collect();
        known(section, &writes);
        writes
    };
    let setup = root.section("setup").map(|section| writes(&section)).unwrap_or_default();
    let mut commands = Vec::new();
    for section in root.sections("command") {
        let name = section.required_text("name", "give the command a name, such as \"reset-energy\"");
        let writes = writes(&section);
        let about = section.text("about").map(Into::into);
        if let Some(name) = name {
            commands.push(ProfileCommand { name: name.into(), about, writes });
        }
    }
    let registers = |key| root.integer(key, 1..=125).and_then(|n| u16::try_from(n).ok());
    let profile = Profile {
        name: name?.into(),
        title: root.required_text("title", "say what the device is, for people").unwrap_or_default().into(),
        maker: root.text("maker").unwrap_or_default().into(),
        kind: root.text("kind").unwrap_or_else(|| "other".into()).into(),
        version: root.integer("version", 1..=i64::from(u32::MAX)).map_or(1, |v| v as u32),
        source: source.into(),
        checked: root.text("checked").map(Into::into),
        max_registers: registers("max_registers"),
        merge_gap: root.integer("merge_gap", 0..=125).map(|n| n as u16),
        in_flight: root.integer("in_flight", 1..=16).map_or(1, |n| n as u8),
        gap: root.duration("gap"),
        timeout: root.duration("timeout"),
        detect: root.sections("detect").iter().filter_map(|s| detect(s, &defaults)).collect(),
        points,
        setup,
        commands,
        firmware_version,
        firmware: root.text("firmware").map(Into::into),
        shipped: false,
    };
    Some(profile)
}

const SOURCES: &str = "say where the device tells its version: [firmware_version] with register = \"…\", or object = 2";

/// A name may be there again for another firmware only.
pub(super) fn check_twins(section: &Section<'_>, point: &Point, before: &[Arc<Point>]) {
    for twin in before.iter().filter(|twin| twin.name == point.name) {
        let Some(both) = twin.together(point) else { continue };
        let when = both.map_or_else(String::new, |both| format!(" with firmware {both}"));
        let hint = "each name once, or with conditions that exclude each other: firmware = \"< 2.0\" and \">= 2.0\"";
        section.problem("name", format!("{:?} is there twice{when}", point.name), hint);
    }
}

/// Scale factors must be points of the same profile.
fn check_links(root: &Section<'_>, points: &[Arc<Point>]) {
    for point in points {
        if let Some(from) = &point.scale_from
            && !points.iter().any(|p| p.name == *from)
        {
            root.problem(
                "register",
                format!("{}: scale_from = {from:?} is not a register here", point.name),
                "add that register",
            );
        }
    }
}

fn detect(section: &Section<'_>, defaults: &Defaults) -> Option<Detect> {
    if section.has("sunspec") {
        let models = section.integers("sunspec", 1..=65535).into_iter().filter_map(|m| u16::try_from(m).ok()).collect();
        return Some(Detect::SunSpec { models });
    }
    let contains = section.text("contains").map(|text| text.to_lowercase());
    if let Some(object) = section.integer("object", 0..=255) {
        return Some(Detect::Object { object: object as u8, contains: contains.unwrap_or_default() });
    }
    let table = section.choice("table", &Table::WORDS).unwrap_or(Table::Holding);
    let address = section.integer("address", 0..=65535).map(|a| a as u16);
    let kind = section.parsed("type", "a type as in [[register]]", str::parse::<Kind>).unwrap_or(Kind::Uint(16));
    let order: Option<Order> = section.parsed("order", ORDERS, str::parse);
    let equals = section.number("equals");
    let (min, max) = (section.number("min").or(equals), section.number("max").or(equals));
    let Some(address) = address else {
        section.problem(
            "address",
            "is missing",
            "a [[detect]] has object, sunspec, or address with equals, min/max or contains",
        );
        return None;
    };
    let mut point = Box::new(Point::plain("detect", table, address, kind));
    point.order = order.unwrap_or(defaults.order);
    match (contains, min, max) {
        (Some(contains), _, _) => Some(Detect::Text { point, contains }),
        (None, Some(min), Some(max)) => Some(Detect::Between { point, min, max }),
        _ => {
            section.problem(
                "equals",
                "is missing",
                "say what must be read: equals = 33, min and max, or contains = \"text\"",
            );
            None
        }
    }
}

/// All profiles there are: those that come with the program, and the user's own, which win by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Profiles {
    by_name: BTreeMap<Arc<str>, Arc<Profile>>,
}

impl Profiles {
    /// The ones in the program.
    pub fn shipped() -> Self {
        let mut profiles = Self::default();
        for (file, text) in shipped::FILES {
            let (profile, problems) = Profile::parse(file, text);
            debug_assert!(problems.is_empty(), "{problems:?}");
            if let Some(profile) = profile {
                profiles.add(Profile { shipped: true, ..profile });
            }
        }
        profiles
    }

    /// The ones in the program and those of `folder` (`*.toml`), which may not exist.
    pub fn with_overlay(folder: &Path) -> (Self, Vec<Problem>) {
        let mut profiles = Self::shipped();
        let mut problems = Vec::new();
        let Ok(entries) = fs::read_dir(folder) else { return (profiles, problems) };
        let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        paths.sort();
        for path in paths.iter().filter(|path| path.extension().is_some_and(|e| e == "toml")) {
            let file = path.display().to_string();
            match fs::read_to_string(path) {
                Ok(text) => {
                    let (profile, found) = Profile::parse(&file, &text);
                    problems.extend(found);
                    profile.into_iter().for_each(|profile| profiles.add(profile));
                }
                Err(error) => problems.push(Problem {
                    file,
                    line: 0,
                    key: String::new(),
                    found: format!("cannot be read: {error}"),
                    hint: "give the gateway's user the right to read it".into(),
                }),
            }
        }
        (profiles, problems)
    }

    pub fn add(&mut self, profile: Profile) {
        self.by_name.insert(profile.name.clone(), Arc::new(profile));
    }

    pub fn get(&self, name: &str) -> Option<&Arc<Profile>> {
        self.by_name.get(name)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Profile>> {
        self.by_name.values()
    }
}
