//! One point of a device: where it lies, what it is, how it is shown, when it is read, reported and may be written.

use std::{sync::Arc, time::Duration};

use super::{
    kind::{Kind, Order, Table},
    place::{parse_bits, place},
};
use crate::{config::read::Section, model::version::Condition};

/// A named value of a device. Built from `[[register]]` in a profile or below a device.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    pub name: Arc<str>,
    pub table: Table,
    /// Zero-based, as on the wire. Counted from the model's first register where `model` is given.
    pub address: u16,
    /// The SunSpec model this address is counted from.
    pub model: Option<u16>,
    pub kind: Kind,
    pub order: Order,
    /// `(shift, width)`: the part of the register that is meant.
    pub bits: Option<(u8, u8)>,
    pub scale: f64,
    pub offset: f64,
    /// A point of the same device that holds the power of ten to scale by (SunSpec `sunssf`).
    pub scale_from: Option<Arc<str>>,
    /// Decimal places kept.
    pub decimals: Option<u8>,
    /// Values outside are set to the nearer end.
    pub clamp: Option<(f64, f64)>,
    pub unit: Option<Arc<str>>,
    /// Names of raw values.
    pub titles: Arc<[(i64, Arc<str>)]>,
    /// Raw values that mean "no value".
    pub invalid: Arc<[i64]>,
    pub access: Access,
    pub class: Class,
    pub interval: Duration,
    /// 0 is read first among what is due at the same time.
    pub priority: u8,
    pub never_merge: bool,
    pub report: Report,
    pub write: WriteRule,
    pub alarm: AlarmHint,
    /// The firmware it is there with; `None`: with any.
    pub firmware: Option<Condition>,
    /// What it is, for people.
    pub about: Option<Arc<str>>,
    /// Where its maker says so: a name, number or page in the document that the profile names.
    pub source: Option<Arc<str>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Read,
    ReadWrite,
    WriteOnly,
}

/// Which way a value goes: the log, the shadow's reported part, or both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    Telemetry,
    State,
    Both,
}

/// Which reads become readings.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Report {
    /// Only where it differs from the last one reported.
    pub on_change: bool,
    /// Least difference, in the value's own unit.
    pub deadband: f64,
    /// Least difference, in percent of the last reported value.
    pub deadband_percent: f64,
    /// Not more often than this, whatever changes.
    pub min_interval: Option<Duration>,
    /// At least this often, even unchanged.
    pub max_interval: Option<Duration>,
}

/// How and within which limits a point is written.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct WriteRule {
    pub address: Option<u16>,
    /// 5, 6, 15, 16 or 22 instead of what the type asks for.
    pub function: Option<u8>,
    /// Smallest and largest value accepted, in the value's own unit.
    pub min: Option<f64>,
    pub max: Option<f64>,
}

/// What the maker calls abnormal; `rules` may turn it into alarms.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct AlarmHint {
    pub above: Option<f64>,
    pub below: Option<f64>,
    /// Raw values that are faults.
    pub when: Arc<[i64]>,
}

/// What a point takes from its device where it says nothing itself.
#[derive(Debug, Clone, Copy)]
pub struct Defaults {
    pub order: Order,
    pub interval: Duration,
}

impl Point {
    /// A holding register of type u16 with nothing special: for tests, tools and as a start.
    pub fn plain(name: &str, table: Table, address: u16, kind: Kind) -> Self {
        Self {
            name: name.into(),
            table,
            address,
            model: None,
            kind,
            order: Order::default(),
            bits: None,
            scale: 1.0,
            offset: 0.0,
            scale_from: None,
            decimals: None,
            clamp: None,
            unit: None,
            titles: Arc::default(),
            invalid: Arc::default(),
            access: Access::Read,
            class: Class::Telemetry,
            interval: Duration::from_secs(1),
            priority: 5,
            never_merge: false,
            report: Report::default(),
            write: WriteRule::default(),
            alarm: AlarmHint::default(),
            firmware: None,
            about: None,
            source: None,
        }
    }

    /// Registers or bits it takes.
    pub fn len(&self) -> u16 {
        if self.table.is_bits() { 1 } else { self.kind.len() }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn writable(&self) -> bool {
        self.access != Access::Read
    }

    pub fn readable(&self) -> bool {
        self.access != Access::WriteOnly
    }

    /// With which firmware both are there; `None` where one excludes the other. `Some(None)`: with any.
    pub fn together(&self, other: &Point) -> Option<Option<Condition>> {
        match (&self.firmware, &other.firmware) {
            (Some(a), Some(b)) => a.both(b).map(Some),
            (Some(one), None) | (None, Some(one)) => one.possible().then(|| Some(one.clone())),
            (None, None) => Some(None),
        }
    }

    /// Reads one `[[register]]`; `None` where something essential is missing (and was reported).
    pub fn read(section: &Section<'_>, defaults: &Defaults) -> Option<Point> {
        let name = section.required_text("name", "give the value a name, such as name = \"voltage\"");
        if let Some(name) = &name
            && (name.is_empty() || name.len() > 128 || name.chars().any(char::is_control))
        {
            section.problem("name", format!("{name:?}"), "a name has 1 to 128 printable characters");
        }
        let place = place(section);
        let kind = section.parsed("type", TYPES, str::parse::<Kind>);
        let mut point = Point::plain(name.as_deref().unwrap_or(""), Table::Holding, 0, kind.unwrap_or(Kind::Uint(16)));
        if let Some((table, address)) = place {
            (point.table, point.address) = (table, address);
        }
        if point.table.is_bits() {
            if !matches!(kind, None | Some(Kind::Bool)) {
                section.problem(
                    "type",
                    format!("{} in a table of bits", point.kind),
                    "a coil or discrete input is a bool",
                );
            }
            point.kind = Kind::Bool;
        }
        point.order = section.parsed("order", ORDERS, str::parse).unwrap_or(defaults.order);
        point.model = section.integer("model", 1..=65535).and_then(|m| u16::try_from(m).ok());
        point.bits = section.parsed("bits", "write shift:width, such as bits = \"4:2\"", parse_bits);
        shown(section, &mut point);
        access(section, &mut point);
        let interval = section.duration("interval");
        point.interval = interval.unwrap_or(defaults.interval);
        point.priority = section.integer("priority", 0..=9).map_or(5, |p| p as u8);
        point.never_merge = section.bool("never_merge").unwrap_or(false);
        point.report = report(section);
        point.alarm = AlarmHint {
            above: section.number("alarm_above"),
            below: section.number("alarm_below"),
            when: section.integers("alarm_when", i64::MIN..=i64::MAX).into(),
        };
        let condition = section.parsed("firmware", CONDITIONS, str::parse);
        // One that cannot be read was reported; it is no reason to call its twin one too many.
        point.firmware = condition.or_else(|| section.has("firmware").then(Condition::never));
        point.about = section.text("about").map(Into::into);
        point.source = section.text("source").map(Into::into);
        if u32::from(point.address) + u32::from(point.len()) > 65536 {
            section.problem("address", format!("{} + {} registers", point.address, point.len()), "ends beyond 65535");
            return None;
        }
        (name.is_some() && place.is_some() && !point.name.is_empty()).then_some(point)
    }
}

pub const TYPES: &str = "one of bool, u8 u16 u24 u32 u48 u64, i8 … i64, f16 f32 f64, bcd16 bcd32 bcd48 bcd64, sm16 sm32 sm64, \
q8.8 q16.16, text:N, raw:N (N registers), date-unix, date-ymdhms, date-iec870";
pub const CONDITIONS: &str =
    "compare with <, <=, =, >= or >, several with a comma: \">= 2.0\", \"< 1.4\", \">= 1.2, < 2\"";
pub const ORDERS: &str = "one of ABCD (highest byte first, the usual), CDAB (low word first), BADC (bytes swapped), DCBA (all reversed), or the eight letters of a 64-bit value";

fn shown(section: &Section<'_>, point: &mut Point) {
    point.scale = section.number("scale").unwrap_or(1.0);
    if point.scale == 0.0 {
        section.problem("scale", "0", "a scale of 0 makes every value 0; leave it out for 1");
        point.scale = 1.0;
    }
    point.offset = section.number("offset").unwrap_or(0.0);
    point.scale_from = section.text("scale_from").map(Into::into);
    point.decimals = section.integer("decimals", 0..=12).map(|d| d as u8);
    let clamp = (section.number("clamp_min"), section.number("clamp_max"));
    if clamp.0.is_some() || clamp.1.is_some() {
        point.clamp = Some((clamp.0.unwrap_or(f64::MIN), clamp.1.unwrap_or(f64::MAX)));
    }
    point.unit = section.text("unit").map(Into::into);
    let mut titles = Vec::new();
    for (raw, title) in section.entries("titles") {
        let number = raw.strip_prefix("0x").map_or_else(|| raw.parse(), |hex| i64::from_str_radix(hex, 16));
        match (number, title.as_str()) {
            (Ok(number), Some(title)) => titles.push((number, Arc::from(title))),
            _ => section.problem("titles", format!("{raw} = {title}"), "write titles = { 0 = \"off\", 1 = \"on\" }"),
        }
    }
    titles.sort();
    point.titles = titles.into();
    point.invalid = section.integers("invalid", i64::MIN..=i64::MAX).into();
    let marked = point.scale != 1.0 || point.offset != 0.0 || point.scale_from.is_some();
    if marked && !point.kind.is_number() {
        section.problem("scale", format!("on a {}", point.kind), "only numbers can be scaled");
    }
}

fn access(section: &Section<'_>, point: &mut Point) {
    let words = [("r", Access::Read), ("rw", Access::ReadWrite), ("w", Access::WriteOnly)];
    point.access = section.choice("access", &words).unwrap_or(Access::Read);
    let class = [("telemetry", Class::Telemetry), ("state", Class::State), ("both", Class::Both)];
    let usual = if point.writable() { Class::State } else { Class::Telemetry };
    point.class = section.choice("as", &class).unwrap_or(usual);
    let function = section.integer("write_function", 5..=22).map(|f| f as u8);
    point.write = WriteRule {
        address: section.integer("write_address", 0..=65535).and_then(|a| u16::try_from(a).ok()),
        function: function.filter(|f| [5, 6, 15, 16, 22].contains(f)),
        min: section.number("min"),
        max: section.number("max"),
    };
    if function != point.write.function {
        section.problem("write_function", format!("{function:?}"), "one of 5, 6, 15, 16, 22");
    }
    if point.writable() && matches!(point.table, Table::Input | Table::Discrete) && point.write.address.is_none() {
        section.problem(
            "access",
            format!("\"rw\" in table {}", point.table.word()),
            "only holding and coil can be written; give write_address where the device writes elsewhere",
        );
    }
    if let (Some(min), Some(max)) = (point.write.min, point.write.max)
        && min > max
    {
        section.problem("min", format!("{min} is above max = {max}"), "exchange them");
    }
}

fn report(section: &Section<'_>) -> Report {
    let deadband = section.number("deadband").unwrap_or(0.0);
    let deadband_percent = section.number("deadband_percent").unwrap_or(0.0);
    let asked = section.choice("report", &[("always", false), ("change", true)]);
    for (key, value) in [("deadband", deadband), ("deadband_percent", deadband_percent)] {
        if value < 0.0 {
            section.problem(key, value.to_string(), "a deadband is 0 or more");
        }
    }
    Report {
        on_change: asked.unwrap_or(deadband > 0.0 || deadband_percent > 0.0),
        deadband,
        deadband_percent,
        min_interval: section.duration("min_interval"),
        max_interval: section.duration("max_interval"),
    }
}
