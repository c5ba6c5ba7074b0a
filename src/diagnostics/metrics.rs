//! Metrics as Prometheus text (exposition format 0.0.4): a page that is filled when it is asked for, so that nothing is
//! counted twice and nothing is counted for nobody.

use std::fmt::Write;

use crate::model::{
    device::Presence,
    event::LinkState,
    view::{Connection, DeviceRow, Overview},
};

/// A page under construction. Samples of one name stand together, under one `HELP` and one `TYPE`.
#[derive(Debug, Default)]
pub struct Page {
    text: String,
    last: String,
}

impl Page {
    /// A number that only grows until the daemon starts anew; its name ends in `_total`.
    pub fn counter(&mut self, name: &str, help: &str, labels: &[(&str, &str)], value: u64) {
        self.sample(name, help, "counter", labels, value as f64);
    }

    pub fn gauge(&mut self, name: &str, help: &str, labels: &[(&str, &str)], value: f64) {
        self.sample(name, help, "gauge", labels, value);
    }

    /// A gauge that is left out where nothing is known.
    pub fn known(&mut self, name: &str, help: &str, labels: &[(&str, &str)], value: Option<f64>) {
        if let Some(value) = value {
            self.gauge(name, help, labels, value);
        }
    }

    pub fn into_text(self) -> String {
        self.text
    }

    fn sample(&mut self, name: &str, help: &str, kind: &str, labels: &[(&str, &str)], value: f64) {
        // Writing to a String cannot fail.
        if self.last != name {
            name.clone_into(&mut self.last);
            let help = help.replace('\\', "\\\\").replace('\n', "\\n");
            let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        }
        self.text.push_str(name);
        for (index, (label, value)) in labels.iter().enumerate() {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.text, "{}{label}=\"{value}\"", if index == 0 { '{' } else { ',' });
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.text, "{end} {value}");
    }
}

/// The gateway at a glance.
pub fn overview(page: &mut Page, overview: &Overview) {
    let o = overview;
    page.gauge(
        "headgate_info",
        "Version of the daemon.",
        &[("version", &o.version), ("gateway", o.gateway.as_str())],
        1.0,
    );
    page.gauge("headgate_start_time_seconds", "When the daemon started.", &[], o.started.0 as f64 / 1000.0);
    page.gauge(
        "headgate_clock_trusted",
        "1 where the time of day is trusted.",
        &[],
        f64::from(u8::from(o.clock_trusted)),
    );
    page.known("headgate_resident_bytes", "Resident memory of the daemon.", &[], o.memory.map(|m| m as f64));
    let up = matches!(o.link.state, LinkState::Live | LinkState::CatchingUp { .. });
    page.gauge("headgate_link_up", "1 where the cloud is connected.", &[], f64::from(u8::from(up)));
    page.gauge("headgate_link_in_flight", "Publishes not acknowledged yet.", &[], o.link.in_flight as f64);
    page.counter("headgate_link_acknowledged_total", "Records acknowledged by the cloud.", &[], o.link.acknowledged);
    for (direction, bytes) in [("sent", o.link.bytes_sent), ("received", o.link.bytes_received)] {
        page.counter(
            "headgate_link_bytes_total",
            "Bytes on the wire to the cloud.",
            &[("direction", direction)],
            bytes,
        );
    }
    for budget in &o.link.budgets {
        for (what, bytes) in [("limit", budget.limit), ("used", budget.used), ("forecast", budget.forecast)] {
            let labels = [("span", budget.span.as_str()), ("what", what)];
            page.gauge("headgate_link_budget_bytes", "Bytes on the wire in this period.", &labels, bytes as f64);
        }
    }
    page.gauge("headgate_log_in_per_second", "Records into the log per second.", &[], o.log.rate_in);
    page.gauge("headgate_log_out_per_second", "Records acknowledged by the cloud per second.", &[], o.log.rate_out);
    page.known("headgate_log_drained_in_seconds", "Time until nothing older waits.", &[], o.log.drained_in);
    for lane in &o.log.lanes {
        let labels = [("lane", lane.lane.name())];
        page.gauge("headgate_log_waiting", "Records that wait for the cloud.", &labels, lane.waiting as f64);
    }
    let age = o.log.oldest.map(|oldest| o.now.since(oldest).max(0) as f64 / 1000.0);
    page.known("headgate_log_oldest_seconds", "Age of the oldest record that waits.", &[], age);
    page.gauge("headgate_log_bytes", "Bytes of the log on disk.", &[], o.log.bytes as f64);
    page.gauge("headgate_log_quota_bytes", "What the log may use.", &[], o.log.quota as f64);
    page.known("headgate_log_full_in_seconds", "Time until something must be dropped.", &[], o.log.full_in);
    let written = o.log.written_per_day;
    page.known(
        "headgate_written_bytes_per_day",
        "Bytes to storage per day, at the rate since the start.",
        &[],
        written,
    );
    page.known("headgate_card_years", "Years the storage lasts at that rate.", &[], o.log.card_years);
    for (cause, count) in &o.log.dropped {
        page.counter("headgate_log_dropped_total", "Records dropped and declared.", &[("cause", cause)], *count);
    }
    let refusing = f64::from(u8::from(o.log.refusing.is_some()));
    page.gauge("headgate_store_refusing", "1 where the disk refuses to store.", &[], refusing);
    page.gauge("headgate_config_problems", "Problems of the configuration on disk.", &[], o.config.problems as f64);
    let d = &o.devices;
    let counts = [("online", d.online), ("late", d.late), ("offline", d.offline), ("never-seen", d.never_seen)];
    for (presence, count) in counts {
        page.gauge("headgate_devices", "Devices by presence.", &[("presence", presence)], count as f64);
    }
}

/// Whether each device is there. One sample per device and family; values themselves are telemetry, not metrics.
pub fn devices(page: &mut Page, rows: &[DeviceRow]) {
    for row in rows {
        let up = matches!(row.device.presence, Presence::Online | Presence::Late);
        let labels = [("device", row.device.id.as_str()), ("type", &*row.device.kind)];
        page.gauge("headgate_device_up", "1 where the device answers.", &labels, f64::from(u8::from(up)));
    }
    for row in rows {
        let seen = row.device.last_seen.map(|at| at.0 as f64 / 1000.0);
        let labels = [("device", row.device.id.as_str())];
        page.known("headgate_device_last_seen_seconds", "When the device was last heard.", &labels, seen);
    }
}

/// Traffic of each child on the local broker.
pub fn connections(page: &mut Page, connections: &[Connection]) {
    type Family = (&'static str, &'static str, fn(&Connection) -> (u64, u64));
    let families: [Family; 2] = [
        ("headgate_child_messages_total", "Messages of a child.", |c| (c.messages_in, c.messages_out)),
        ("headgate_child_bytes_total", "Bytes of a child.", |c| (c.bytes_in, c.bytes_out)),
    ];
    for (name, help, counts) in families {
        for connection in connections {
            let (into, out) = counts(connection);
            let labels = |direction| [("device", connection.device.as_str()), ("direction", direction)];
            page.counter(name, help, &labels("in"), into);
            page.counter(name, help, &labels("out"), out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_explained_once_and_labels_are_escaped() {
        let mut page = Page::default();
        page.counter("a_total", "As.", &[("x", "say \"hi\"\n")], 3);
        page.counter("a_total", "As.", &[("x", "b\\c"), ("y", "")], 4);
        page.gauge("b", "Bs.", &[], 0.5);
        page.known("c", "Cs.", &[], None);
        let text = page.into_text();
        let expected = "# HELP a_total As.\n# TYPE a_total counter\na_total{x=\"say \\\"hi\\\"\\n\"} 3\n\
                        a_total{x=\"b\\\\c\",y=\"\"} 4\n# HELP b Bs.\n# TYPE b gauge\nb 0.5\n";
        assert_eq!(text, expected);
    }
}
