//! `/v1/metrics`: the overview as Prometheus text (exposition format 0.0.4).

mod modbus;

use std::{
    collections::BTreeMap,
    fmt::{Display, Write},
};

use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};

use super::{App, failure::Failure};
use crate::{
    bus::Question,
    model::{
        event::LinkState,
        view::{Connection, Overview},
    },
};

pub async fn metrics(State(app): State<App>) -> Result<Response, Failure> {
    let overview = app.questions.ask(Question::Overview).await?;
    let connections = app.questions.ask(Question::Connections).await?;
    let buses = app.questions.ask(Question::Buses).await?;
    let mut page = render(&overview, &connections, &app.identity.logins());
    modbus::buses(&mut page, &buses);
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page.0).into_response())
}

/// Refused logins by reason, and admitted ones.
type Logins = (BTreeMap<&'static str, u64>, u64);

fn render(overview: &Overview, connections: &[Connection], logins: &Logins) -> Page {
    let mut page = Page::default();
    let seconds = overview.now.since(overview.started) as f64 / 1000.0;
    let state = match overview.link.state {
        LinkState::Disabled => "disabled",
        LinkState::Connecting => "connecting",
        LinkState::Live => "live",
        LinkState::CatchingUp { .. } => "catching-up",
        LinkState::BackingOff { .. } => "backing-off",
        LinkState::Refused { .. } => "refused",
    };
    page.head("headgate_info", "gauge", "Version of the daemon and id of the gateway.");
    page.line("headgate_info", &[("version", &overview.version), ("gateway", overview.gateway.as_str())], 1);
    page.one("headgate_uptime_seconds", "gauge", "Seconds since the daemon started.", seconds);
    if let Some(memory) = overview.memory {
        page.one("headgate_resident_bytes", "gauge", "Resident memory of the daemon.", memory);
    }
    page.head("headgate_link_state", "gauge", "1 for the state the road to the cloud is in.");
    for name in ["disabled", "connecting", "live", "catching-up", "backing-off", "refused"] {
        page.line("headgate_link_state", &[("state", name)], u8::from(name == state));
    }
    let link = &overview.link;
    page.one("headgate_link_in_flight", "gauge", "Publishes the cloud has not acknowledged yet.", link.in_flight);
    page.one("headgate_link_acknowledged_total", "counter", "Records the cloud has acknowledged.", link.acknowledged);
    page.one("headgate_link_sent_bytes_total", "counter", "Bytes sent to the cloud.", link.bytes_sent);
    page.one("headgate_link_received_bytes_total", "counter", "Bytes received from the cloud.", link.bytes_received);
    if !link.budgets.is_empty() {
        page.head("headgate_link_budget_bytes", "gauge", "Bytes on the wire in this period: limit, used and forecast.");
    }
    for budget in &link.budgets {
        for (what, bytes) in [("limit", budget.limit), ("used", budget.used), ("forecast", budget.forecast)] {
            page.line("headgate_link_budget_bytes", &[("span", &budget.span), ("what", what)], bytes);
        }
    }
    let log = &overview.log;
    page.head("headgate_log_waiting_records", "gauge", "Records that wait for the cloud, by lane.");
    for lane in &log.lanes {
        page.line("headgate_log_waiting_records", &[("lane", lane.lane.name())], lane.waiting);
    }
    let age = log.oldest.map_or(0.0, |oldest| overview.now.since(oldest).max(0) as f64 / 1000.0);
    page.one("headgate_log_oldest_seconds", "gauge", "Age of the oldest record that waits.", age);
    page.one("headgate_log_bytes", "gauge", "Bytes of the log on disk.", log.bytes);
    page.one("headgate_log_quota_bytes", "gauge", "Bytes the log may reach.", log.quota);
    page.one("headgate_log_in_per_second", "gauge", "Records into the log per second.", log.rate_in);
    page.one("headgate_log_out_per_second", "gauge", "Records acknowledged by the cloud per second.", log.rate_out);
    if let Some(full) = log.full_in {
        page.one("headgate_log_full_seconds", "gauge", "Seconds without a cloud until records must be dropped.", full);
    }
    if let Some(drained) = log.drained_in {
        page.one("headgate_log_drained_seconds", "gauge", "Seconds until nothing older waits for the cloud.", drained);
    }
    if let Some(day) = log.written_per_day {
        page.one(
            "headgate_written_bytes_per_day",
            "gauge",
            "Bytes written to storage per day, at the rate since the start.",
            day,
        );
    }
    if let Some(years) = log.card_years {
        page.one("headgate_card_years", "gauge", "Years the storage lasts at that rate.", years);
    }
    page.head("headgate_log_dropped_total", "counter", "Records dropped and declared, by cause.");
    for (cause, count) in &log.dropped {
        page.line("headgate_log_dropped_total", &[("cause", cause)], count);
    }
    page.one("headgate_log_refusing", "gauge", "1 while nothing can be stored.", u8::from(log.refusing.is_some()));
    page.head("headgate_devices", "gauge", "Devices by presence.");
    let devices = &overview.devices;
    let counts = [
        ("online", devices.online),
        ("late", devices.late),
        ("offline", devices.offline),
        ("never-seen", devices.never_seen),
    ];
    for (presence, count) in counts {
        page.line("headgate_devices", &[("presence", presence)], count);
    }
    let compliance = &overview.compliance;
    page.one("headgate_devices_compliant", "gauge", "Devices that are what they should be.", compliance.compliant);
    page.head("headgate_devices_drifted", "gauge", "Devices that are not what they should be, by kind of drift.");
    let kinds = [
        ("configuration", compliance.configuration),
        ("firmware", compliance.firmware),
        ("identity", compliance.identity),
    ];
    for (kind, count) in kinds {
        page.line("headgate_devices_drifted", &[("kind", kind)], count);
    }
    let help = "Devices of which an alarm was raised for their drift.";
    page.one("headgate_devices_drift_alarmed", "gauge", help, compliance.alarmed);
    page.one("headgate_config_problems", "gauge", "Problems of the configuration on disk.", overview.config.problems);
    page.one("headgate_broker_connections", "gauge", "Children connected to the local broker.", overview.connections);
    page.one("headgate_logins_total", "counter", "Logins of children that were admitted.", logins.1);
    page.head("headgate_logins_refused_total", "counter", "Logins and TLS handshakes that were refused, by reason.");
    for (reason, count) in &logins.0 {
        page.line("headgate_logins_refused_total", &[("reason", reason)], count);
    }
    sessions(&mut page, overview, connections);
    page.head("headgate_broker_dropped_total", "counter", "Messages for or of a child that were dropped, by reason.");
    for connection in connections {
        for (reason, count) in &connection.dropped {
            let labels = [
                ("device", connection.device.as_str()),
                ("client", &connection.client_id),
                ("reason", reason.as_str()),
            ];
            page.line("headgate_broker_dropped_total", &labels, count);
        }
    }
    page
}

/// A device may hold several sessions, so the client id is a label too.
fn sessions(page: &mut Page, overview: &Overview, connections: &[Connection]) {
    let labels = |c: &Connection| [("device", c.device.clone()), ("client", c.client_id.clone())];
    let mut gauge = |name: &str, help: &str, value: &dyn Fn(&Connection) -> f64| {
        page.head(name, "gauge", help);
        for connection in connections {
            let labels = labels(connection);
            let labels: Vec<(&str, &str)> = labels.iter().map(|(name, text)| (*name, text.as_str())).collect();
            page.line(name, &labels, value(connection));
        }
    };
    gauge("headgate_broker_connected", "1 while a session of a child has a connection.", &|c| f64::from(c.connected));
    gauge("headgate_broker_state_seconds", "Seconds a session has been connected or away.", &|c| {
        c.since.map_or(0.0, |since| overview.now.since(since).max(0) as f64 / 1000.0)
    });
    gauge("headgate_broker_queued", "Messages that wait for a child.", &|c| c.queued as f64);
    let mut counter = |name: &str, help: &str, values: &dyn Fn(&Connection) -> [u64; 2]| {
        page.head(name, "counter", help);
        for connection in connections {
            let [device, client] = labels(connection);
            for (way, value) in ["in", "out"].into_iter().zip(values(connection)) {
                let labels = [(device.0, device.1.as_str()), (client.0, client.1.as_str()), ("way", way)];
                page.line(name, &labels, value);
            }
        }
    };
    counter("headgate_broker_messages_total", "Messages of a session.", &|c| [c.messages_in, c.messages_out]);
    counter("headgate_broker_bytes_total", "Bytes of a session on the wire.", &|c| [c.bytes_in, c.bytes_out]);
}

#[derive(Default)]
struct Page(String);

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        for (index, (label, text)) in labels.iter().enumerate() {
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.0, "{}{label}=\"{text}\"", if index == 0 { '{' } else { ',' });
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _ = writeln!(self.0, " {value}");
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.head(name, kind, help);
        self.line(name, &[], value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_cannot_break_out() {
        let mut page = Page::default();
        page.line("x", &[("a", "q\"\\\n")], 1);
        assert_eq!(page.0, "x{a=\"q\\\"\\\\\\n\"} 1\n");
    }
}
