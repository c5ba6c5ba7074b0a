//! What Modbus buses counted, as metrics: whom to blame for a gap in the values, and how full a bus is.

use serde_json::Value as Json;

use super::Page;

/// What each unit counts, and what it means. `damaged` is what a wrong checksum makes of a reply.
const OF_UNITS: [(&str, &str); 7] = [
    ("requests", "Requests to a unit, retries too."),
    ("replies", "Replies of a unit, exceptions too."),
    ("timeouts", "Requests without a reply in time."),
    ("damaged", "Replies with a wrong checksum, or cut off."),
    ("retries", "Requests that were repeated."),
    ("values", "Values read from a unit."),
    ("writes", "Values written to a unit."),
];
const OF_BUSES: [(&str, &str); 2] = [
    ("strays", "Frames that answered nothing that was asked: late, doubled, foreign."),
    ("reconnects", "Times the wire was lost."),
];

/// `buses` as `Question::Buses` gives them.
pub fn buses(page: &mut Page, buses: &[Json]) {
    if buses.is_empty() {
        return;
    }
    let name = |bus: &Json| text(&bus["bus"]);
    page.head("headgate_modbus_connected", "gauge", "1 while the wire of a bus is open.");
    for bus in buses {
        page.line("headgate_modbus_connected", &[("bus", &name(bus))], u8::from(bus["connected"] == true));
    }
    page.head("headgate_modbus_utilisation", "gauge", "Share of the time a bus was busy, 0 to 1.");
    for bus in buses {
        page.line("headgate_modbus_utilisation", &[("bus", &name(bus))], number(&bus["utilisation"]));
    }
    for (what, help) in OF_BUSES {
        let metric = format!("headgate_modbus_{what}_total");
        page.head(&metric, "counter", help);
        for bus in buses {
            page.line(&metric, &[("bus", &name(bus))], number(&bus["counters"][what]));
        }
    }
    let units: Vec<(String, String, &Json)> = buses
        .iter()
        .flat_map(|bus| bus["units"].as_array().into_iter().flatten().map(move |unit| (bus, unit)))
        .map(|(bus, unit)| (name(bus), text(&unit["device"]), unit))
        .collect();
    for (what, help) in OF_UNITS {
        let metric = format!("headgate_modbus_{what}_total");
        page.head(&metric, "counter", help);
        for (bus, device, unit) in &units {
            page.line(&metric, &[("bus", bus), ("device", device)], number(&unit["counters"][what]));
        }
    }
    page.head("headgate_modbus_exceptions_total", "counter", "Exceptions of a unit, by code.");
    for (bus, device, unit) in &units {
        for (code, count) in unit["counters"]["exceptions"].as_object().into_iter().flatten() {
            let labels = [("bus", bus.as_str()), ("device", device), ("code", code)];
            page.line("headgate_modbus_exceptions_total", &labels, count);
        }
    }
    page.head("headgate_modbus_latency_seconds", "gauge", "Time a unit takes for an answer, since the start.");
    for (bus, device, unit) in &units {
        let latency = &unit["counters"]["latency"];
        for (key, quantile) in [("p50", "0.5"), ("p90", "0.9"), ("p99", "0.99"), ("max", "1")] {
            let labels = [("bus", bus.as_str()), ("device", device), ("quantile", quantile)];
            page.line("headgate_modbus_latency_seconds", &labels, number(&latency[key]) / 1e6);
        }
    }
    for (metric, kind, key, scale, help) in [
        (
            "headgate_modbus_cycle_planned_seconds",
            "gauge",
            "plannedMs",
            1e3,
            "How often a group of values is to be read.",
        ),
        ("headgate_modbus_cycle_seconds", "gauge", "actualMs", 1e3, "How often it is read; 0 before the second time."),
        ("headgate_modbus_cycles_missed_total", "counter", "missed", 1.0, "Cycles left out since the bus was full."),
    ] {
        page.head(metric, kind, help);
        for (bus, device, unit) in &units {
            for (group, cycle) in unit["cycles"].as_array().into_iter().flatten().enumerate() {
                let labels = [("bus", bus.as_str()), ("device", device), ("group", &group.to_string())];
                page.line(metric, &labels, number(&cycle[key]) / scale);
            }
        }
    }
}

fn text(value: &Json) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn number(value: &Json) -> f64 {
    value.as_f64().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_counter_of_a_bus_has_its_line() {
        let counters = json!({
            "requests": 9, "replies": 8, "timeouts": 1, "damaged": 2, "retries": 3, "strays": 4, "reconnects": 5,
            "values": 70, "writes": 6, "exceptions": { "2": 7 },
            "latency": { "p50": 1500, "p90": 2000, "p99": 3000, "max": 4000 }
        });
        let bus = json!({
            "bus": "cellar", "connected": true, "utilisation": 0.25, "counters": counters,
            "units": [{ "device": "meter", "unit": 1, "counters": counters,
                        "cycles": [{ "plannedMs": 1000, "actualMs": 1100, "missed": 2 }] }]
        });
        let mut page = Page::default();
        buses(&mut page, &[bus]);
        for line in [
            "headgate_modbus_connected{bus=\"cellar\"} 1",
            "headgate_modbus_utilisation{bus=\"cellar\"} 0.25",
            "headgate_modbus_strays_total{bus=\"cellar\"} 4",
            "headgate_modbus_reconnects_total{bus=\"cellar\"} 5",
            "headgate_modbus_requests_total{bus=\"cellar\",device=\"meter\"} 9",
            "headgate_modbus_timeouts_total{bus=\"cellar\",device=\"meter\"} 1",
            "headgate_modbus_damaged_total{bus=\"cellar\",device=\"meter\"} 2",
            "headgate_modbus_exceptions_total{bus=\"cellar\",device=\"meter\",code=\"2\"} 7",
            "headgate_modbus_latency_seconds{bus=\"cellar\",device=\"meter\",quantile=\"0.99\"} 0.003",
            "headgate_modbus_cycle_planned_seconds{bus=\"cellar\",device=\"meter\",group=\"0\"} 1",
            "headgate_modbus_cycle_seconds{bus=\"cellar\",device=\"meter\",group=\"0\"} 1.1",
            "headgate_modbus_cycles_missed_total{bus=\"cellar\",device=\"meter\",group=\"0\"} 2",
        ] {
            assert!(page.0.lines().any(|found| found == line), "{line} is not in\n{}", page.0);
        }
    }
}
