//! Devices, their values and their past as a person at a terminal reads them.

use std::{collections::BTreeSet, fmt::Write as _};

use serde_json::Value as Json;

use crate::{
    cli::status::{plain, span},
    model::{
        command::Door,
        device::{Device, Presence},
        reading::{Quality, Value},
        time::Millis,
        view::{Change, CommandView, DeviceRow, DeviceView, Live, Trend},
    },
};

/// Values named in the list.
const FIRST: usize = 3;

pub fn list(now: Millis, rows: &[DeviceRow]) -> String {
    if rows.is_empty() {
        return "no devices yet: describe one in devices.d, or let an MQTT child log in".into();
    }
    let mut lines = vec![["DEVICE", "TYPE", "STATE", "SEEN", "VALUES"].map(str::to_owned)];
    for row in rows {
        let values = row.values.iter().take(FIRST).map(|live| format!("{}={}", plain(&live.name), value(live, row)));
        let mut values = values.collect::<Vec<_>>().join(" ");
        if row.values.len() > FIRST {
            let _ = write!(values, " (+{})", row.values.len() - FIRST);
        }
        let device = &row.device;
        lines.push([device.id.to_string(), plain(&device.kind), state(device), seen(now, device), values]);
    }
    table(&lines)
}

pub fn one(now: Millis, view: &DeviceView) -> String {
    let (row, device) = (&view.row, &view.row.device);
    let mut out = format!("{} ({:?}), {}", device.id, device.protocol, state(device)).to_lowercase();
    let _ = writeln!(out);
    let mut fact = |name: &str, text: Option<String>| {
        if let Some(text) = text.filter(|text| !text.is_empty()) {
            let _ = writeln!(out, "{name:>11}  {}", plain(&text));
        }
    };
    fact("type", Some(device.kind.to_string()));
    fact("address", view.address.clone());
    fact("reason", device.reason.clone());
    fact("last seen", device.last_seen.map(|at| format!("{} ago", span(now.since(at).max(0) as f64 / 1000.0))));
    fact("firmware", device.firmware_version.clone());
    fact("groups", Some(device.groups.join(", ")));
    fact("tags", Some(device.tags.join(", ")));
    fact(
        "connection",
        view.connection.as_ref().filter(|connection| connection.connected).map(|connection| {
            format!("{} from {}", connection.protocol, connection.address.as_deref().unwrap_or("an unknown address"))
        }),
    );
    fact(
        "config",
        view.config.as_ref().map(|config| {
            let version = |version: Option<i64>| version.map_or("none".to_owned(), |version| version.to_string());
            let status = config.status.as_deref().unwrap_or("unknown");
            let pushes = match config.pushes {
                0 => String::new(),
                1 => ", pushed once".to_owned(),
                n => format!(", pushed {n} times"),
            };
            let (wanted, applied) = (version(config.desired_version), version(config.applied_version));
            format!("wanted {wanted}, applied {applied}: {status}{pushes}")
        }),
    );
    for drift in &view.drift {
        fact(
            "drift",
            Some(format!(
                "{}: {}, since {}{}",
                drift.kind.word(),
                drift.text,
                time(drift.since),
                if drift.alarmed { ", alarmed" } else { "" }
            )),
        );
    }
    fact("open", Some(row.open.join(", ")));
    fact("commands", Some(view.commands.join(", ")));
    let mut lines = vec![["NAME", "VALUE", "QUALITY", "MEASURED"].map(str::to_owned)];
    for live in &row.values {
        let age = format!("{} ago", span(now.since(live.ts).max(0) as f64 / 1000.0));
        lines.push([plain(&live.name), value(live, row), quality(&live.quality), age]);
    }
    if !row.values.is_empty() {
        let _ = write!(out, "\n{}", table(&lines));
    }
    out
}

/// State that the device reports or that is desired of it, the same names beside each other.
pub fn shadow(document: &Json) -> String {
    let section = |name: &str| document["state"][name].as_object().cloned().unwrap_or_default();
    let (reported, desired) = (section("reported"), section("desired"));
    let names: BTreeSet<&String> = reported.keys().chain(desired.keys()).collect();
    if names.is_empty() {
        return String::new();
    }
    let cell = |value: Option<&Json>| match value {
        None => String::new(),
        Some(Json::String(text)) => plain(text),
        Some(other) => plain(&other.to_string()),
    };
    let mut lines = vec![["STATE", "REPORTED", "DESIRED"].map(str::to_owned)];
    lines.extend(names.into_iter().map(|name| [plain(name), cell(reported.get(name)), cell(desired.get(name))]));
    format!("\n{}", table(&lines))
}

pub fn commands(commands: &[CommandView]) -> String {
    if commands.is_empty() {
        return "no command was ever called".into();
    }
    let mut lines = vec![["AT", "NAME", "BY", "STATUS", "RESULT"].map(str::to_owned)];
    for call in commands {
        let by = call.door.as_ref().map(door).unwrap_or_default();
        let result = call.result.as_ref().map(|result| plain(&result.to_string())).unwrap_or_default();
        lines.push([time(call.at), plain(&call.name), by, plain(&call.status), result]);
    }
    table(&lines)
}

pub fn history(changes: &[Change]) -> String {
    if changes.is_empty() {
        return "nothing was changed yet".into();
    }
    let mut lines = vec![["AT", "BY", "WHAT", "CHANGE"].map(str::to_owned)];
    for change in changes {
        let shadow = change.shadow.as_deref().map(|name| format!(" of {name}")).unwrap_or_default();
        let refusal = change.refusal.as_deref().map(|why| format!("  refused: {why}")).unwrap_or_default();
        let what = plain(&format!("{}{shadow}", change.section));
        lines.push([time(change.at), door(&change.door), what, plain(&format!("{}{refusal}", change.change))]);
    }
    table(&lines)
}

pub fn trend(trend: &Trend) -> String {
    if trend.points.is_empty() {
        return format!("{}: no numbers in that time", plain(&trend.name));
    }
    let most = trend.points.iter().fold(f64::MIN, |most, (.., top)| most.max(*top));
    let least = trend.points.iter().fold(f64::MAX, |least, (_, low, ..)| least.min(*low));
    let mut lines = vec![["AT", "LEAST", "MEAN", "GREATEST", ""].map(str::to_owned)];
    for (at, low, mean, top) in &trend.points {
        let share = if most > least { (mean - least) / (most - least) } else { 0.5 };
        let bar = "█".repeat(1 + (share.clamp(0.0, 1.0) * 29.0).round() as usize);
        lines.push([time(*at), number(*low), number(*mean), number(*top), bar]);
    }
    table(&lines)
}

fn state(device: &Device) -> String {
    if !device.lifecycle.may_talk() {
        return format!("{:?}", device.lifecycle).to_lowercase();
    }
    match device.presence {
        Presence::NeverSeen => "never seen".into(),
        other => format!("{other:?}").to_lowercase(),
    }
}

fn seen(now: Millis, device: &Device) -> String {
    device.last_seen.map(|at| span(now.since(at).max(0) as f64 / 1000.0)).unwrap_or_default()
}

fn value(live: &Live, row: &DeviceRow) -> String {
    let text = match &live.value {
        None => "?".to_owned(),
        Some(Value::Float(float)) => number(*float),
        Some(Value::Text(text)) => plain(text),
        Some(other) => other.to_json().to_string(),
    };
    match row.units.get(&live.name) {
        Some(unit) => format!("{text} {}", plain(unit)),
        None => text,
    }
}

fn quality(quality: &Quality) -> String {
    quality.wire().map_or("good".into(), |text| plain(&text))
}

/// At most four decimals: a display, not a record; `--json` has it all.
fn number(value: f64) -> String {
    let rounded = (value * 10_000.0).round() / 10_000.0;
    Json::from(if rounded.is_finite() { rounded } else { value }).to_string()
}

fn door(door: &Door) -> String {
    match door {
        Door::Technician(name) => plain(name),
        Door::Local(device) => device.to_string(),
        other => format!("{other:?}").to_lowercase(),
    }
}

/// UTC, to the second.
fn time(at: Millis) -> String {
    jiff::Timestamp::from_second(at.seconds()).map_or("-".into(), |stamp| stamp.to_string())
}

/// Columns as wide as their widest cell; the last is not padded.
fn table<const N: usize>(lines: &[[String; N]]) -> String {
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let mut out = String::new();
    for line in lines {
        let cells = line.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        let _ = writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn reported_and_desired_state_stand_beside_each_other() {
        let document = json!({"state": {"reported": {"mode": "eco", "setpoint": 21.0}, "desired": {"setpoint": 22, "valve": true}}});
        let shown = shadow(&document);
        let lines: Vec<Vec<&str>> = shown.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
        let wanted: [&[&str]; 4] =
            [&["STATE", "REPORTED", "DESIRED"], &["mode", "eco"], &["setpoint", "21.0", "22"], &["valve", "true"]];
        assert_eq!(lines, wanted);
        assert_eq!(shadow(&json!({"state": {}})), "");
    }
}
