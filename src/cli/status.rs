//! `headgate status`: how the running gateway is, on one screen.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal, Write as _},
    process::ExitCode,
};

use serde_json::{Value as Json, json};

use super::{
    client::{Client, ClientError, Daemon},
    connections,
};
use crate::model::{
    alarm::Alarm,
    device::{Lifecycle, Presence},
    drift::Compliance,
    event::{LinkState, Severity},
    time::Millis,
    view::{BudgetStatus, Connection, DeviceRow, LogStatus, Overview},
};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    daemon: Daemon,
    /// Print everything as one JSON document, for scripts
    #[arg(long)]
    json: bool,
}

/// Devices that are named on the screen; the rest is counted.
const NAMED: usize = 12;

pub fn run(arguments: &Arguments) -> ExitCode {
    let shown = arguments.daemon.run(async |client| match arguments.json {
        true => document(&client).await,
        false => screen(&client, io::stdout().is_terminal()).await,
    });
    match shown {
        Ok(text) => {
            // Whoever reads only the first lines closes the pipe early.
            let _ = writeln!(io::stdout(), "{}", text.trim_end());
            ExitCode::SUCCESS
        }
        Err(code) => code,
    }
}

async fn document(client: &Client) -> Result<String, ClientError> {
    let document = json!({
        "status": client.get::<Json>("/v1/status").await?,
        "devices": client.get::<Json>("/v1/devices").await?,
        "connections": client.get::<Json>("/v1/connections").await?,
        "alarms": client.get::<Json>("/v1/alarms").await?,
        "refused": client.get::<Json>("/v1/credentials/refused").await?,
        "config": client.get::<Json>("/v1/config/problems").await?,
    });
    Ok(format!("{document:#}"))
}

async fn screen(client: &Client, colours: bool) -> Result<String, ClientError> {
    let overview: Overview = client.get("/v1/status").await?;
    let devices: Vec<DeviceRow> = client.get("/v1/devices").await?;
    let alarms: Vec<Alarm> = client.get("/v1/alarms").await?;
    let connections: Vec<Connection> = client.get("/v1/connections").await?;
    let config: Json = client.get("/v1/config/problems").await?;
    Ok(render(&overview, &devices, &alarms, &connections, &config, &Paint(colours)))
}

struct Paint(bool);

impl Paint {
    fn with(&self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn strong(&self, text: &str) -> String {
        self.with("1", text)
    }

    fn soft(&self, text: &str) -> String {
        self.with("2", text)
    }

    fn good(&self, text: &str) -> String {
        self.with("32", text)
    }

    fn warn(&self, text: &str) -> String {
        self.with("33", text)
    }

    fn bad(&self, text: &str) -> String {
        self.with("31", text)
    }
}

fn render(
    overview: &Overview,
    devices: &[DeviceRow],
    alarms: &[Alarm],
    connections: &[Connection],
    config: &Json,
    paint: &Paint,
) -> String {
    let mut out = String::new();
    let up = span(overview.now.since(overview.started) as f64 / 1000.0);
    let memory = overview.memory.map(|memory| format!(", {}", bytes(memory))).unwrap_or_default();
    let about = format!("headgate {}, up {up}{memory}", overview.version);
    let _ = writeln!(out, "{}  {}\n", paint.strong(overview.gateway.as_str()), paint.soft(&about));
    let mut line = |name: &str, text: String| {
        let _ = writeln!(out, "{}  {text}", paint.soft(&format!("{name:>7}")));
    };
    line("cloud", link(overview, paint));
    for text in budgets(overview, paint) {
        line("", text);
    }
    for (index, text) in log(overview, paint).into_iter().enumerate() {
        line(if index == 0 { "log" } else { "" }, text);
    }
    let counts = &overview.devices;
    let mut parts = vec![format!("{} of {} online", counts.online, counts.total)];
    let more = [
        (counts.late, "late"),
        (counts.offline, "offline"),
        (counts.never_seen, "never seen"),
        (counts.waiting, "to approve"),
    ];
    parts.extend(more.iter().filter(|(n, _)| *n > 0).map(|(n, word)| format!("{n} {word}")));
    line("devices", parts.join(", "));
    line("", compliance(&overview.compliance, paint));
    for (index, text) in connections::lines(connections, overview.now).into_iter().enumerate() {
        line(if index == 0 { "broker" } else { "" }, text);
    }
    if !overview.clock_trusted {
        line("clock", paint.warn("not trusted yet; readings are stamped provisionally"));
    }
    let problems = config["problems"].as_array().map(Vec::as_slice).unwrap_or_default();
    match problems.len() {
        0 => line("config", "in order".into()),
        n => line("config", paint.bad(&format!("{n} problems on disk; the earlier configuration runs on"))),
    }
    for problem in problems {
        let part = |name: &str| plain(problem[name].as_str().unwrap_or_default());
        let _ = writeln!(out, "         {}:{} {}: {}", part("file"), problem["line"], part("key"), part("found"));
    }
    for notice in &overview.notices {
        let text = plain(&notice.text);
        let _ = writeln!(out, "         {}", if notice.urgent { paint.bad(&text) } else { paint.warn(&text) });
    }
    for alarm in alarms.iter().filter(|alarm| alarm.active || !alarm.acknowledged).take(NAMED) {
        let _ = writeln!(out, "         {}", told(alarm, overview.now, paint));
    }
    list(&mut out, overview.now, devices, paint);
    out
}

/// An alarm that stands, or that nobody has seen yet.
fn told(alarm: &Alarm, now: Millis, paint: &Paint) -> String {
    let since = span(now.since(alarm.last).max(0) as f64 / 1000.0);
    let seen = if alarm.acknowledged { ", acknowledged" } else { "" };
    let over = if alarm.active { "" } else { ", over by now" };
    let text = format!("{}: {} ({since} ago{over}{seen})", alarm.device, plain(&alarm.text));
    match alarm.active && alarm.severity >= Severity::Major {
        true => paint.bad(&text),
        false => paint.warn(&text),
    }
}

/// How many devices are what they should be, and what the others are not.
fn compliance(counts: &Compliance, paint: &Paint) -> String {
    let as_wanted = format!("{} of {} as they should be", counts.compliant, counts.devices);
    let kinds = [(counts.configuration, "configuration"), (counts.firmware, "firmware"), (counts.identity, "identity")];
    let drifted: Vec<String> = kinds.iter().filter(|(n, _)| *n > 0).map(|(n, word)| format!("{n} in {word}")).collect();
    match drifted.is_empty() {
        true => as_wanted,
        false => paint.warn(&format!("{as_wanted}; drifted: {}, {} alarmed", drifted.join(", "), counts.alarmed)),
    }
}

fn link(overview: &Overview, paint: &Paint) -> String {
    let link = &overview.link;
    let state = match &link.state {
        LinkState::Disabled => return "none configured".into(),
        LinkState::Connecting => paint.warn("connecting"),
        LinkState::Live => paint.good("live"),
        LinkState::CatchingUp { .. } => paint.good("catching up"),
        LinkState::BackingOff { until, reason } => {
            let wait = span(until.since(overview.now).max(0) as f64 / 1000.0);
            paint.bad(&format!("away: {}; next try in {wait}", plain(reason)))
        }
        LinkState::Refused { reason } => paint.bad(&format!("refuses: {}", plain(reason))),
    };
    let mut parts = vec![state];
    parts.extend(link.since.map(|since| format!("for {}", span(overview.now.since(since).max(0) as f64 / 1000.0))));
    parts.extend(link.broker.as_deref().map(plain));
    parts.push(format!("{} confirmed, {} in flight", count(link.acknowledged), count(link.in_flight)));
    parts.join(", ")
}

/// What a metered link has cost.
fn budgets(overview: &Overview, paint: &Paint) -> Vec<String> {
    let budget = |budget: &BudgetStatus| {
        let (used, limit, forecast) = (bytes(budget.used), bytes(budget.limit), bytes(budget.forecast));
        let mut text = format!("{used} of {limit} this {}, {forecast} expected", budget.span);
        if !budget.held.is_empty() {
            let held: Vec<&str> = budget.held.iter().map(|lane| lane.name()).collect();
            let left = span(budget.ends.since(overview.now).max(0) as f64 / 1000.0);
            text = paint.warn(&format!("{text}; {} waits for {left}", held.join(", ")));
        }
        text
    };
    overview.link.budgets.iter().map(budget).collect()
}

fn log(overview: &Overview, paint: &Paint) -> Vec<String> {
    let log: &LogStatus = &overview.log;
    let mut first = format!("{} waiting", count(log.waiting));
    if let Some(oldest) = log.oldest.filter(|_| log.waiting > 0) {
        let age = overview.now.since(oldest).max(0) as f64 / 1000.0;
        let _ = write!(first, ", oldest from {} ago", span(age));
    }
    let _ = write!(first, ", in {:.1}/s, out {:.1}/s", log.rate_in, log.rate_out);
    if let Some(drained) = log.drained_in.filter(|_| log.waiting > 0) {
        let _ = write!(first, ", caught up in {}", span(drained));
    }
    let room = match log.full_in {
        Some(seconds) if overview.link.state == LinkState::Disabled => format!("room for {}", span(seconds)),
        Some(seconds) => format!("can be offline for {}", span(seconds)),
        None => "no limit in sight".to_owned(),
    };
    let dropped: Vec<String> =
        log.dropped.iter().filter(|(_, n)| **n > 0).map(|(cause, n)| format!("{} ({cause})", count(*n))).collect();
    let dropped = match dropped.is_empty() {
        true => "nothing dropped".to_owned(),
        false => paint.bad(&format!("dropped and declared: {}", dropped.join(", "))),
    };
    let mut lines = vec![first, format!("{room} ({} of {}), {dropped}", bytes(log.bytes), bytes(log.quota))];
    if let (Some(day), Some(years)) = (log.written_per_day, log.card_years) {
        lines.push(format!("the card lasts {} at {} a day", span(years * 365.25 * 86_400.0), bytes(day as u64)));
    }
    if let Some(why) = &log.refusing {
        lines.push(paint.bad(&format!("NOTHING CAN BE STORED: {}", plain(why))));
    }
    lines
}

/// Trouble first, then by name.
fn list(out: &mut String, now: Millis, devices: &[DeviceRow], paint: &Paint) {
    let rank = |row: &DeviceRow| match (row.device.lifecycle, row.device.presence) {
        (Lifecycle::Discovered | Lifecycle::Pending, _) => 0,
        (_, Presence::Offline) => 1,
        (_, Presence::Late) => 2,
        (_, Presence::Online) => 3,
        (_, Presence::NeverSeen) => 4,
    };
    let mut rows: Vec<&DeviceRow> = devices.iter().collect();
    rows.sort_by_key(|row| (rank(row), row.device.id.clone()));
    let width = rows.iter().take(NAMED).map(|row| row.device.id.as_str().len()).max().unwrap_or(0);
    if !rows.is_empty() {
        out.push('\n');
    }
    for row in rows.iter().take(NAMED) {
        let device = &row.device;
        let (word, dot) = match (device.lifecycle.may_talk(), device.presence) {
            (false, _) => (format!("{:?}", device.lifecycle).to_lowercase(), paint.soft("○")),
            (_, Presence::Online) => ("online".into(), paint.good("●")),
            (_, Presence::Late) => ("late".into(), paint.warn("●")),
            (_, Presence::Offline) => ("offline".into(), paint.bad("●")),
            (_, Presence::NeverSeen) => ("never seen".into(), paint.soft("○")),
        };
        let seen = device.last_seen.map(|seen| span(now.since(seen).max(0) as f64 / 1000.0)).unwrap_or_default();
        let mut notes = Vec::new();
        notes.extend(
            device
                .reason
                .as_deref()
                .filter(|_| device.lifecycle.may_talk() && device.presence != Presence::Online)
                .map(plain),
        );
        if !row.open.is_empty() {
            notes.push(format!("open: {}", plain(&row.open.join(", "))));
        }
        if let Some(update) = row.update.as_ref().filter(|update| !update.status.is_final()) {
            notes.push(format!(
                "updating to {} ({} %)",
                plain(update.to.as_deref().unwrap_or("?")),
                update.progress.unwrap_or(0)
            ));
        }
        let notes = paint.soft(&notes.join("; "));
        let line = format!("{dot} {:<width$}  {word:<12} {seen:>10}  {notes}", device.id.as_str());
        let _ = writeln!(out, "{}", line.trim_end());
    }
    if rows.len() > NAMED {
        let _ = writeln!(out, "  … and {} more; --json lists all", rows.len() - NAMED);
    }
}

/// What children and clouds say may hold escape codes; a terminal must not obey them.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Two units at most: `9 d 4 h`.
pub fn span(seconds: f64) -> String {
    let s = if seconds.is_finite() { seconds.max(0.0).round() as u64 } else { u64::MAX };
    if s > 3650 * 86_400 {
        return "more than 10 years".into();
    }
    let parts = [(s / 86_400, "d"), (s / 3600 % 24, "h"), (s / 60 % 60, "min"), (s % 60, "s")];
    let Some(first) = parts.iter().position(|(n, _)| *n > 0) else { return "0 s".into() };
    let shown = parts.iter().skip(first).take(2).filter(|(n, _)| *n > 0);
    shown.map(|(n, unit)| format!("{n} {unit}")).collect::<Vec<_>>().join(" ")
}

pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let power = (0..5).rev().find(|power| n >= 1 << (10 * power)).unwrap_or(0);
    match power {
        0 => format!("{n} B"),
        _ => format!("{:.1} {}", n as f64 / (1_u64 << (10 * power)) as f64, UNITS[power]),
    }
}

/// `4 882 113`, grouped so that a person can read it.
fn count(n: u64) -> String {
    let digits = n.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).expect("digits")).collect();
    groups.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_amounts_read_well() {
        assert_eq!(span(792_000.0), "9 d 4 h");
        assert_eq!(span(3_605.0), "1 h");
        assert_eq!(span(0.2), "0 s");
        assert_eq!(span(f64::INFINITY), "more than 10 years");
        assert_eq!(bytes(536_870_912), "512.0 MiB");
        assert_eq!(bytes(512), "512 B");
        assert_eq!(count(4_882_113), "4 882 113");
        assert_eq!(count(7), "7");
    }

    #[test]
    fn escape_codes_of_children_do_not_reach_the_terminal() {
        assert!(!plain("\x1b[2J\x07evil\n").contains(char::is_control));
    }
}
