//! One Modbus device: its unit id, its profile with the file's own changes applied, and what it can take.

use std::{collections::HashSet, sync::Arc, time::Duration};

use serde_json::Value as Json;

use super::{
    firmware::Source,
    kind::Order,
    limits::{Limits, PartialLimits},
    point::{Defaults, ORDERS, Point},
    profile::{Detect, Profile, ProfileCommand, Profiles, check_twins},
};
use crate::{
    config::{amount::parse_duration, device::Common, read::Section},
    model::{
        ids::DeviceId,
        version::{Condition, Version},
    },
};

/// A unit behind a bus. Points are final here: defaults, profile, overrides and inline registers are folded in.
#[derive(Debug, Clone, PartialEq)]
pub struct Device {
    pub id: DeviceId,
    /// 0 to 255; 1 to 247 on a serial line.
    pub unit: u8,
    pub profile: Option<Arc<str>>,
    /// To the first byte of the reply; the time on the wire is added.
    pub timeout: Duration,
    /// More tries after a timeout. Busy answers and damaged frames have three of their own.
    pub retries: u8,
    /// Pause this device needs between requests.
    pub gap: Duration,
    pub limits: Limits,
    /// Requests it can take at a time on one TCP connection, as its profile says.
    pub in_flight: u8,
    /// All there may be, whatever firmware it runs.
    pub points: Vec<Arc<Point>>,
    /// What tells the version of its firmware.
    pub firmware: Option<Source>,
    /// Written after each (re)connect.
    pub setup: Vec<(Arc<str>, Json)>,
    pub commands: Vec<ProfileCommand>,
    pub detect: Vec<Detect>,
    /// Id, type, tags and groups, as every device has them.
    pub common: Common,
}

/// What the `[bus]` section says for all its devices.
pub(super) struct DeviceDefaults {
    pub timeout: Duration,
    pub retries: u8,
    pub order: Option<Order>,
    pub interval: Option<Duration>,
    pub limits: PartialLimits,
}

impl Device {
    /// A device with nothing but points, for tests and tools.
    pub fn bare(id: DeviceId, unit: u8, points: Vec<Arc<Point>>) -> Self {
        let (kind, tags, groups) = (String::new(), Vec::new(), Vec::new());
        let common = Common { id: id.clone(), kind, tags, groups, expect_every: None, serial_number: None };
        Self {
            id,
            unit,
            profile: None,
            timeout: Duration::from_secs(1),
            retries: 1,
            gap: Duration::ZERO,
            limits: Limits::default(),
            in_flight: 1,
            points,
            firmware: None,
            setup: Vec::new(),
            commands: Vec::new(),
            detect: Vec::new(),
            common,
        }
    }

    pub fn point(&self, name: &str) -> Option<&Arc<Point>> {
        self.points.iter().find(|p| &*p.name == name)
    }

    /// Whether anything of it is asked for: there are devices that are only written to.
    pub(super) fn is_read(&self) -> bool {
        let asked = matches!(self.firmware, Some(Source::Object(_) | Source::Register { .. }));
        asked || self.points.iter().any(|point| point.readable())
    }

    /// Each value once: as the newest firmware has it, where it depends on that.
    pub fn newest(&self) -> impl Iterator<Item = &Arc<Point>> {
        let open = |point: &Point| point.firmware.as_ref().is_none_or(Condition::is_open);
        self.points.iter().enumerate().filter_map(move |(index, point)| {
            let mut others =
                self.points.iter().enumerate().filter(|(at, other)| *at != index && other.name == point.name);
            let best = open(point) || !others.any(|(at, other)| open(other) || at < index);
            best.then_some(point)
        })
    }

    pub(super) fn read(section: &Section<'_>, bus: &DeviceDefaults, profiles: &Profiles) -> Option<Device> {
        let common = Common::read(section);
        let unit = section.integer("unit", 0..=255).map(|u| u as u8);
        if !section.has("unit") {
            section.problem("unit", "is missing", "give the unit id the device is set to, such as unit = 1");
        }
        let profile = section.text("profile").and_then(|name| {
            let found = profiles.get(&name).cloned();
            if found.is_none() {
                let near = profiles.iter().map(|p| &*p.name).filter(|p| p.contains(&*name) || name.contains(p));
                let near: Vec<&str> = near.take(5).collect();
                let hint = match near.is_empty() {
                    true => "see `headgate profile show` for all of them".to_owned(),
                    false => format!("did you mean one of: {}?", near.join(", ")),
                };
                section.problem("profile", format!("there is no profile {name:?}"), hint);
            }
            found
        });
        let interval = section.duration("interval");
        let order: Option<Order> = section.parsed("order", ORDERS, str::parse);
        let points = points(section, bus, profile.as_deref(), interval, order);
        let firmware = firmware(section, profile.as_deref(), order, &points);
        let limits = Limits::read(section).over(&bus.limits, profile.as_deref());
        let timeout = section.duration("timeout").or(profile.as_ref().and_then(|p| p.timeout));
        let gap = section.duration("gap").or(profile.as_ref().and_then(|p| p.gap));
        let retries = section.integer("retries", 0..=10).map_or(bus.retries, |n| n as u8);
        if points.is_empty() && (profile.is_some() || !section.has("profile")) {
            section.problem("register", "the device has nothing to read", "name a profile or add [[device.register]]");
        }
        check_forbidden(section, &limits, &points, firmware.as_ref());
        let mut common = common?;
        let mut device = Device::bare(common.id.clone(), unit?, points);
        device.timeout = timeout.unwrap_or(bus.timeout).max(Duration::from_millis(1));
        device.retries = retries;
        device.gap = gap.unwrap_or_default();
        device.limits = limits;
        device.firmware = firmware;
        if let Some(profile) = profile {
            if common.kind.is_empty() {
                common.kind = profile.name.to_string();
            }
            device.profile = Some(profile.name.clone());
            device.in_flight = profile.in_flight;
            device.setup = profile.setup.clone();
            device.commands = profile.commands.clone();
            device.detect = profile.detect.clone();
        }
        device.common = common;
        Some(device)
    }
}

/// What must never be asked for cannot hold a value that is read. Where a SunSpec value lies, only the device tells.
fn check_forbidden(section: &Section<'_>, limits: &Limits, points: &[Arc<Point>], firmware: Option<&Source>) {
    let source = match firmware {
        Some(Source::Register { point, .. }) => Some(point),
        _ => None,
    };
    for range in &limits.forbidden {
        let mut names: Vec<&str> = Vec::new();
        for point in points.iter().chain(source).filter(|point| point.readable() && point.model.is_none()) {
            if range.touches(point) && !names.contains(&&*point.name) {
                names.push(&point.name);
            }
        }
        let Some(first) = names.first() else { continue };
        let (shown, others) = (names[..names.len().min(5)].join(", "), names.len().saturating_sub(5));
        let others = if others > 0 { format!(" and {others} more") } else { String::new() };
        section.problem(
            "forbidden",
            format!("{range} must never be asked for, but what is read lies there: {shown}{others}"),
            format!(
                "narrow the range, or leave the value out: skip = [{first:?}] where it is the profile's, else remove its \
                 [[device.register]]"
            ),
        );
    }
}

/// What tells its firmware: the file, else the profile.
fn firmware(
    section: &Section<'_>,
    profile: Option<&Profile>,
    order: Option<Order>,
    points: &[Arc<Point>],
) -> Option<Source> {
    let hint = "write the version it runs, such as firmware = \"2.1\"; leave it out where the device tells it itself";
    let said = |text: &str| Version::parse(text).ok_or_else(|| "is no version".to_owned());
    let said = section.parsed("firmware", hint, said).map(Source::Said);
    let mut source = said.or_else(|| profile?.firmware_version.clone());
    if let (Some(Source::Register { point, .. }), Some(order)) = (&mut source, order) {
        Arc::make_mut(point).order = order;
    }
    if source.is_none() && !section.has("firmware") && points.iter().any(|point| point.firmware.is_some()) {
        let hint = "write the version it runs, firmware = \"2.1\", or use a profile with [firmware_version]";
        section.problem("firmware", "is missing, and there are registers with a condition on it", hint);
    }
    source
}

/// The profile's points with `interval`, `intervals`, `only` and `skip` applied, then the device's own registers.
fn points(
    section: &Section<'_>,
    bus: &DeviceDefaults,
    profile: Option<&Profile>,
    interval: Option<Duration>,
    order: Option<Order>,
) -> Vec<Arc<Point>> {
    let (only, skip) = (section.texts("only"), section.texts("skip"));
    let intervals = section.entries("intervals");
    let mut points: Vec<Arc<Point>> = Vec::new();
    let known: HashSet<&str> = profile.iter().flat_map(|p| p.points.iter()).map(|p| &*p.name).collect();
    let needed: HashSet<&str> =
        profile.iter().flat_map(|p| p.points.iter()).filter_map(|p| p.scale_from.as_deref()).collect();
    if profile.is_some() {
        let named = only.iter().map(|n| ("only", n)).chain(skip.iter().map(|n| ("skip", n)));
        for (key, name) in named.chain(intervals.iter().map(|(n, _)| ("intervals", n))) {
            if !known.contains(name.as_str()) {
                section.problem(
                    key,
                    format!("{name:?} is not in the profile"),
                    "see `headgate profile show` for its names",
                );
            }
        }
    }
    for point in profile.iter().flat_map(|p| p.points.iter()) {
        let named = |list: &[String]| list.iter().any(|n| **n == *point.name);
        if (!only.is_empty() && !named(&only) && !needed.contains(&*point.name)) || named(&skip) {
            continue;
        }
        let mut point = Arc::clone(point);
        // A device-wide interval speeds up or slows down what is telemetry; state keeps the profile's own pace.
        if let Some(interval) = interval
            && point.class != super::point::Class::State
        {
            Arc::make_mut(&mut point).interval = interval;
        }
        if let Some(order) = order {
            Arc::make_mut(&mut point).order = order;
        }
        points.push(point);
    }
    let defaults = Defaults {
        order: order.or(bus.order).unwrap_or_default(),
        interval: interval.or(bus.interval).unwrap_or(Duration::from_secs(10)),
    };
    let mut own: Vec<Arc<Point>> = Vec::new();
    for section in section.sections("register") {
        let Some(point) = Point::read(&section, &defaults) else { continue };
        check_twins(&section, &point, &own);
        own.push(Arc::new(point));
    }
    points.retain(|p| own.iter().all(|own| own.name != p.name));
    points.extend(own);
    for (name, value) in intervals {
        let parsed = value.as_str().ok_or_else(|| "is not a text".to_owned()).and_then(parse_duration);
        match parsed {
            Ok(interval) => {
                let named = points.iter_mut().filter(|p| *p.name == *name);
                named.for_each(|point| Arc::make_mut(point).interval = interval);
            }
            Err(why) => {
                section.problem(
                    "intervals",
                    format!("{name} = {value}: {why}"),
                    "write intervals = { voltage = \"1s\" }",
                );
            }
        }
    }
    points
}
