//! The contract's own dialect (`docs/mqtt.md`, cloud side): records as they are, with `ts`, `seq` and `late` spliced in.

use bytes::Bytes;
use serde_json::{Value as Json, json};

use crate::{
    bus::OrderKind,
    model::{
        command::{Command, Refusal, RefusalCode},
        ids::DeviceId,
        jobs::{JobControl, JobOrder},
        record::{Kind, Record},
        update::UpdateOrder,
    },
};

/// What is subscribed below the root of every device.
const DOWN: [&str; 9] = [
    "delta",
    "desired",
    "config/desired",
    "update/command",
    "commands/+",
    "diagnostics/request",
    "diagnostics/log-request",
    "diagnostics/metrics",
    "diagnostics/ping",
];
/// And below that of the gateway.
const DOWN_GATEWAY: [&str; 2] = ["jobs/notify", "jobs/+/control"];

/// Topics below a root such as `devices/{device}`.
#[derive(Debug, Clone)]
pub struct Native {
    before: String,
    after: String,
    gateway: DeviceId,
}

impl Native {
    /// `root` contains `{device}` once; `{gateway}` is filled in here.
    pub fn new(root: &str, gateway: DeviceId) -> Native {
        let root = root.replace("{gateway}", gateway.as_str());
        let (before, after) = root.split_once("{device}").unwrap_or((root.as_str(), ""));
        Native { before: before.to_owned(), after: format!("{after}/"), gateway }
    }

    /// A topic below the root of `device`.
    pub fn topic(&self, device: &DeviceId, rest: &str) -> String {
        [&self.before, device.as_str(), &self.after, rest].concat()
    }

    pub fn topic_of(&self, record: &Record) -> String {
        let name = record.record.name.as_deref().unwrap_or("unknown");
        let rest = match record.record.kind {
            Kind::Telemetry => "telemetry",
            Kind::State => "state",
            Kind::Status => "status",
            Kind::Heartbeat => "heartbeat",
            Kind::UpdateStatus => "update/status",
            Kind::ConfigAck => "config/ack",
            Kind::DiagnosticsResponse => "diagnostics/response",
            Kind::Event => "events",
            Kind::Gap => "gaps",
            Kind::CommandResponse => return self.topic(&record.record.device, &format!("commands/{name}/response")),
            Kind::JobStatus => return self.topic(&record.record.device, &format!("jobs/{name}/status")),
        };
        self.topic(&record.record.device, rest)
    }

    /// Filters to subscribe: with wildcards where the root names the gateway, so that all of its devices are ours;
    /// else for each device by name.
    pub fn filters(&self, children: &[DeviceId]) -> Vec<String> {
        let mut filters: Vec<String> = DOWN_GATEWAY.iter().map(|rest| self.topic(&self.gateway, rest)).collect();
        if self.is_ours_alone() {
            filters.extend(DOWN.iter().map(|rest| [&self.before, "+", &self.after, rest].concat()));
        } else {
            filters.extend(self.filters_of(&self.gateway));
            filters.extend(children.iter().filter(|id| **id != self.gateway).flat_map(|id| self.filters_of(id)));
        }
        filters
    }

    /// Filters for one device that came or went; none where a wildcard covers it.
    pub fn filters_of(&self, device: &DeviceId) -> Vec<String> {
        DOWN.iter().map(|rest| self.topic(device, rest)).collect()
    }

    pub fn is_ours_alone(&self) -> bool {
        self.before.split('/').any(|level| level == self.gateway.as_str())
    }

    /// Appends a record as it is sent.
    pub fn encode(&self, record: &Record, late: bool, out: &mut Vec<u8>) {
        use std::io::Write;
        let (ts, seq) = (record.record.ts.0, record.seq);
        let _ = write!(out, "{{\"ts\":{ts},\"seq\":{seq}");
        if late {
            out.extend_from_slice(b",\"late\":true");
        }
        if record.clock_untrusted {
            out.extend_from_slice(b",\"clockUntrusted\":true");
        }
        match record.record.body.trim_ascii().strip_prefix(b"{") {
            Some(rest) if rest.trim_ascii_start().starts_with(b"}") => out.push(b'}'),
            Some(rest) => {
                out.push(b',');
                out.extend_from_slice(rest);
            }
            // No object: kept whole, under a name.
            None => {
                out.extend_from_slice(b",\"value\":");
                out.extend_from_slice(&record.record.body);
                out.push(b'}');
            }
        }
    }

    /// What a message of the cloud asks for. An error names the device where it can be told.
    pub fn order(&self, topic: &str, payload: &Bytes) -> Result<(DeviceId, OrderKind), (Option<DeviceId>, Refusal)> {
        let no_topic = |text: &str| Refusal::new(RefusalCode::TopicInvalid, format!("{topic}: {text}"));
        let parts = topic.strip_prefix(&self.before).and_then(|rest| rest.split_once(self.after.as_str()));
        let Some((id, rest)) = parts else { return Err((None, no_topic("is not below the root of a device"))) };
        let device = DeviceId::new(id).map_err(|e| (None, no_topic(&e.to_string())))?;
        match order(rest, payload) {
            Ok(order) => Ok((device, order)),
            Err(refusal) => Err((Some(device), refusal)),
        }
    }
}

fn order(rest: &str, payload: &Bytes) -> Result<OrderKind, Refusal> {
    if let Some(job) = rest.strip_prefix("jobs/").and_then(|rest| rest.strip_suffix("/control")) {
        return Ok(OrderKind::JobControl { job_id: job.to_owned(), control: control(payload)? });
    }
    let json: Json = if payload.is_empty() {
        json!({})
    } else {
        serde_json::from_slice(payload).map_err(|e| invalid(format!("the payload is not JSON: {e}")))?
    };
    if !json.is_object() {
        return Err(invalid("the payload is not a JSON object"));
    }
    let levels: Vec<&str> = rest.split('/').collect();
    match levels[..] {
        ["delta"] => Ok(OrderKind::Delta(json)),
        ["desired"] => Ok(OrderKind::Desired(json)),
        ["config", "desired"] => Ok(OrderKind::Config(json)),
        ["update", "command"] => Ok(OrderKind::Update(typed::<UpdateOrder>(json)?)),
        ["commands", name] if !name.is_empty() => {
            let mut command: Command = typed(json)?;
            command.name = name.to_owned();
            Ok(OrderKind::Command(command))
        }
        ["diagnostics", "request"] => Ok(OrderKind::Diagnostics(json)),
        ["diagnostics", "log-request"] => Ok(OrderKind::Diagnostics(with_type(json, "log-tail"))),
        ["diagnostics", "metrics"] => Ok(OrderKind::Diagnostics(with_type(json, "metrics"))),
        ["diagnostics", "ping"] => Ok(OrderKind::Diagnostics(with_type(json, "ping"))),
        ["jobs", "notify"] => Ok(OrderKind::Job(typed::<JobOrder>(json)?)),
        _ => Err(Refusal::new(RefusalCode::TopicInvalid, format!("{rest:?} is nothing a device is asked"))),
    }
}

/// The bare word, as a JSON text or not, or an object that leaves room for more: `{"control": "pause"}`.
fn control(payload: &Bytes) -> Result<JobControl, Refusal> {
    let word = match serde_json::from_slice(payload) {
        Ok(Json::Object(object)) => {
            object.get("control").or_else(|| object.get("action")).cloned().unwrap_or(Json::Null)
        }
        Ok(json) => json,
        Err(_) => Json::String(String::from_utf8_lossy(payload).trim().to_owned()),
    };
    typed(word)
}

fn with_type(mut json: Json, kind: &str) -> Json {
    json["type"] = json!(kind);
    json
}

fn typed<T: serde::de::DeserializeOwned>(json: Json) -> Result<T, Refusal> {
    serde_json::from_value(json).map_err(|e| invalid(format!("the payload is not what the topic says: {e}")))
}

fn invalid(text: impl Into<String>) -> Refusal {
    Refusal::new(RefusalCode::PayloadInvalid, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{record::NewRecord, time::Millis};

    fn id(text: &str) -> DeviceId {
        DeviceId::new(text).expect("id")
    }

    fn record(kind: Kind, body: &'static [u8]) -> Record {
        let record = NewRecord {
            device: id("d1"),
            kind,
            name: Some("reboot".into()),
            ts: Millis(5),
            body: Bytes::from_static(body),
        };
        Record { position: 9, seq: 7, clock_untrusted: false, record }
    }

    #[test]
    fn every_kind_is_json_under_its_topic() {
        let native = Native::new("gateways/{gateway}/devices/{device}", id("gw"));
        for kind in Kind::ALL {
            let topic = native.topic_of(&record(kind, b"{}"));
            assert!(topic.starts_with("gateways/gw/devices/d1/"), "{topic}");
        }
        let shown = |body, late| {
            let mut out = Vec::new();
            native.encode(&record(Kind::Telemetry, body), late, &mut out);
            serde_json::from_slice::<Json>(&out).expect("json").to_string()
        };
        assert_eq!(shown(b"{\"values\":{\"t\":1}}", true), "{\"late\":true,\"seq\":7,\"ts\":5,\"values\":{\"t\":1}}");
        assert_eq!(shown(b" { } ", false), "{\"seq\":7,\"ts\":5}");
        assert_eq!(shown(b"[1]", false), "{\"seq\":7,\"ts\":5,\"value\":[1]}");
    }

    #[test]
    fn orders_are_read_under_any_root_and_bad_ones_name_their_device() {
        for root in ["devices/{device}", "site/{gateway}/d/{device}/x"] {
            let native = Native::new(root, id("gw"));
            let order = |rest: &str, payload: &'static str| {
                native.order(&native.topic(&id("d1"), rest), &Bytes::from_static(payload.as_bytes()))
            };
            assert!(matches!(order("delta", "{\"a\":1}"), Ok((d, OrderKind::Delta(_))) if d == id("d1")));
            let Ok((_, OrderKind::Command(command))) = order("commands/reboot", "{\"commandId\":\"c\"}") else {
                panic!("no command")
            };
            assert_eq!((command.name.as_str(), command.command_id.as_str()), ("reboot", "c"));
            let Ok((_, OrderKind::Diagnostics(json))) = order("diagnostics/ping", "") else { panic!("no request") };
            assert_eq!(json["type"], "ping");
            for said in ["pause", "\"pause\"", "{\"control\":\"pause\"}", "{\"action\": \"pause\"}"] {
                let control = order("jobs/j1/control", said);
                assert!(matches!(control, Ok((_, OrderKind::JobControl { control: JobControl::Pause, .. }))), "{said}");
            }
            assert!(order("jobs/j1/control", "explode").is_err());
            let (device, refusal) = order("desired", "[1]").expect_err("no object");
            assert_eq!((device, refusal.code), (Some(id("d1")), RefusalCode::PayloadInvalid));
            let (_, refusal) = order("update/command", "{\"jobId\":\"j\"}").expect_err("incomplete");
            assert!(refusal.message.contains("targetVersion"), "{}", refusal.message);
            assert!(native.order("elsewhere/d1/delta", &Bytes::new()).is_err());
        }
    }

    #[test]
    fn a_root_of_our_own_needs_one_wildcard_per_topic() {
        let own = Native::new("gateways/{gateway}/devices/{device}", id("gw"));
        assert_eq!(own.filters(&[id("a"), id("b")]).len(), 11);
        assert!(own.filters(&[]).contains(&"gateways/gw/devices/+/commands/+".to_owned()));
        let shared = Native::new("devices/{device}", id("gw"));
        assert_eq!(shared.filters(&[id("a"), id("gw")]).len(), 2 + 9 + 9);
    }
}
