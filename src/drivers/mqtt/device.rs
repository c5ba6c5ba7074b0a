//! A simulated room sensor as a pure value: what it measures, what it says, how it takes what it is told.

use std::{collections::VecDeque, f64::consts::TAU, time::Duration};

use serde_json::{Map, Value as Json, json};

use crate::model::{
    time::Millis,
    update::{UpdateOrder, UpdateProgress, UpdateStatus},
};

/// Answers remembered, so that a redelivered command is answered again and not done again.
const REMEMBERED: usize = 32;
/// Seconds in which the room's temperature closes two thirds of its distance to the setpoint.
const INERTIA: f64 = 30.0;

/// Something it says: the topic below its own root, and the payload.
#[derive(Debug, Clone, PartialEq)]
pub struct Say {
    pub topic: String,
    pub payload: Json,
}

/// What it does beside talking.
#[derive(Debug, Clone, PartialEq)]
pub enum Act {
    Measure,
    /// Drops its connection and comes back.
    Reboot,
    Download(UpdateOrder),
}

#[derive(Debug)]
pub struct Device {
    pub firmware: String,
    pub every: Duration,
    pub reported: Map<String, Json>,
    pub update: Option<UpdateProgress>,
    config_version: i64,
    temperature: f64,
    measured: u64,
    last: Option<Millis>,
    booted: Millis,
    answered: VecDeque<(String, Json)>,
}

impl Device {
    pub fn new(firmware: String, every: Duration, now: Millis) -> Self {
        let mut reported = Map::new();
        reported.insert("firmwareVersion".into(), json!(firmware));
        reported.insert("setpoint".into(), json!(21.0));
        reported.insert("interval".into(), json!(every.as_millis() as u64));
        Self {
            firmware,
            every,
            reported,
            update: None,
            config_version: 0,
            temperature: 18.0,
            measured: 0,
            last: None,
            booted: now,
            answered: VecDeque::new(),
        }
    }

    /// Everything it says when it has connected.
    pub fn introduce(&self, now: Millis) -> Vec<Say> {
        vec![self.state(), self.heartbeat(now)]
    }

    /// A reading, with a running number `n` from 1 by which anybody can count what arrived.
    pub fn measure(&mut self, now: Millis) -> (u64, Json) {
        let elapsed = self.last.map_or(0.0, |last| now.since(last) as f64 / 1000.0);
        self.last = Some(now);
        let setpoint = self.reported.get("setpoint").and_then(Json::as_f64).unwrap_or(21.0);
        self.temperature += (setpoint - self.temperature) * (1.0 - (-elapsed.max(0.0) / INERTIA).exp());
        self.measured += 1;
        let wave = (TAU * self.measured as f64 / 60.0).sin();
        let round = |x: f64| (x * 100.0).round() / 100.0;
        let reading = json!({
            "ts": now,
            "n": self.measured,
            "temperature": round(self.temperature + 0.15 * wave),
            "humidity": round(48.0 - 4.0 * wave),
            "heating": self.temperature < setpoint - 0.1,
        });
        (self.measured, reading)
    }

    pub fn heartbeat(&self, now: Millis) -> Say {
        let uptime = now.since(self.booted).max(0) / 1000;
        let payload = json!({"uptime": uptime, "firmwareVersion": self.firmware, "freeMemory": 131_072, "networkSignalStrength": -58});
        Say { topic: "heartbeat".into(), payload }
    }

    pub fn state(&self) -> Say {
        Say { topic: "state".into(), payload: json!({"reported": self.reported}) }
    }

    /// A message from the gateway; `topic` is below its own root. What it does not understand it leaves alone.
    pub fn hear(&mut self, topic: &str, payload: &[u8], now: Millis) -> (Vec<Say>, Option<Act>) {
        let Ok(document) = serde_json::from_slice::<Json>(payload) else { return Default::default() };
        match topic {
            "delta" => (self.delta(&document), None),
            "config/desired" => (self.config(&document), None),
            "update/command" => self.order(document),
            "diagnostics/request" => (Self::diagnose(&document, now), None),
            _ => match topic.strip_prefix("commands/") {
                Some(name) if !name.contains('/') => self.command(name, &document, now),
                _ => Default::default(),
            },
        }
    }

    /// Takes over each setting it can and reports what it then has. Firmware comes by its own way.
    fn delta(&mut self, document: &Json) -> Vec<Say> {
        let Some(wanted) = document.as_object() else { return Vec::new() };
        for (name, value) in wanted.iter().filter(|(name, _)| *name != "firmwareVersion") {
            let value = match name.as_str() {
                "setpoint" => match value.as_f64() {
                    Some(degrees) => json!(degrees.clamp(5.0, 35.0)),
                    None => continue,
                },
                "interval" => match self.pace(value) {
                    Some(millis) => json!(millis),
                    None => continue,
                },
                _ => value.clone(),
            };
            self.reported.insert(name.clone(), value);
        }
        vec![self.state()]
    }

    fn pace(&mut self, millis: &Json) -> Option<u64> {
        let millis = millis.as_u64().filter(|m| (20..=3_600_000).contains(m))?;
        self.every = Duration::from_millis(millis);
        Some(millis)
    }

    fn config(&mut self, document: &Json) -> Vec<Say> {
        let Some(version) = document.get("version").and_then(Json::as_i64) else { return Vec::new() };
        let mut ack = json!({"version": version, "status": "applied"});
        if version > self.config_version {
            let interval = document.pointer("/config/interval");
            if interval.is_some_and(|interval| self.pace(interval).is_none()) {
                ack["status"] = json!("rejected");
                ack["reason"] = json!("interval: expected 20 to 3600000 milliseconds");
            } else {
                self.config_version = version;
                self.reported.insert("interval".into(), json!(self.every.as_millis() as u64));
            }
        }
        vec![Say { topic: "config/ack".into(), payload: ack }, self.state()]
    }

    fn command(&mut self, name: &str, document: &Json, now: Millis) -> (Vec<Say>, Option<Act>) {
        let Some(id) = document.get("commandId").and_then(Json::as_str) else { return Default::default() };
        let say = |answer: Json| vec![Say { topic: format!("commands/{name}/response"), payload: answer }];
        if let Some((_, answer)) = self.answered.iter().find(|(known, _)| known == id) {
            return (say(answer.clone()), None);
        }
        let expired = document.get("expiresAt").and_then(Json::as_i64).is_some_and(|at| Millis(at) <= now);
        let (status, result, act) = match name {
            _ if expired => ("rejected", json!({"reason": "expired"}), None),
            "identify" => ("succeeded", json!({"blinked": 3}), None),
            "read-now" => ("succeeded", json!({"n": self.measured + 1}), Some(Act::Measure)),
            "reboot" => ("succeeded", json!({"in": "1 s"}), Some(Act::Reboot)),
            "fail" => ("failed", json!({"reason": "the simulator fails when it is told to"}), None),
            _ => {
                let known = "identify, read-now, reboot, fail";
                ("rejected", json!({"reason": format!("no command {name:?}; known: {known}")}), None)
            }
        };
        let answer = json!({"commandId": id, "status": status, "result": result});
        if self.answered.len() == REMEMBERED {
            self.answered.pop_front();
        }
        self.answered.push_back((id.to_owned(), answer.clone()));
        (say(answer), act)
    }

    fn order(&mut self, document: Json) -> (Vec<Say>, Option<Act>) {
        let Ok(order) = serde_json::from_value::<UpdateOrder>(document) else { return Default::default() };
        if order.target_version == self.firmware {
            return (vec![self.progress(&order, UpdateStatus::Completed, Some(100), None), self.state()], None);
        }
        let busy = self.update.as_ref().is_some_and(|update| !update.status.is_final());
        if busy {
            return Default::default();
        }
        (vec![self.progress(&order, UpdateStatus::Started, Some(0), None)], Some(Act::Download(order)))
    }

    /// A step of an update, said and remembered.
    pub fn progress(
        &mut self,
        order: &UpdateOrder,
        status: UpdateStatus,
        progress: Option<u8>,
        error: Option<String>,
    ) -> Say {
        let from = match &self.update {
            Some(update) if update.job_id.as_ref() == Some(&order.job_id) => update.from.clone(),
            _ => Some(self.firmware.clone()),
        };
        let update = UpdateProgress {
            device: None,
            job_id: Some(order.job_id.clone()),
            from,
            to: Some(order.target_version.clone()),
            status,
            progress,
            error,
        };
        let payload = json!(update);
        self.update = Some(update);
        Say { topic: "update/status".into(), payload }
    }

    /// Runs the new firmware from now on.
    pub fn install(&mut self, order: &UpdateOrder) {
        self.firmware.clone_from(&order.target_version);
        self.reported.insert("firmwareVersion".into(), json!(self.firmware));
    }

    pub fn reboot(&mut self, now: Millis) {
        self.booted = now;
    }

    fn diagnose(document: &Json, now: Millis) -> Vec<Say> {
        let Some(id) = document.get("requestId").and_then(Json::as_str) else { return Vec::new() };
        let mut answer = json!({"requestId": id, "chunk": 1, "totalChunks": 1, "deviceTs": now, "status": "ok"});
        match document.get("type").and_then(Json::as_str) {
            Some("ping") => answer["payload"] = json!({"timestamp": document.pointer("/params/timestamp")}),
            Some("system-info") => answer["payload"] = json!({"model": "simulated room sensor"}),
            other => {
                answer["status"] = json!("error");
                answer["error"] = json!(format!("{} is not known here", other.unwrap_or("a request without type")));
            }
        }
        vec![Say { topic: "diagnostics/response".into(), payload: answer }]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device() -> Device {
        Device::new("1.0.0".into(), Duration::from_secs(1), Millis(0))
    }

    fn hear(device: &mut Device, topic: &str, document: Json) -> (Vec<Say>, Option<Act>) {
        device.hear(topic, document.to_string().as_bytes(), Millis(1000))
    }

    #[test]
    fn a_desired_setting_is_taken_over_and_reported_but_firmware_is_not() {
        let mut device = device();
        let (said, _) =
            hear(&mut device, "delta", json!({"setpoint": 99, "interval": 250, "firmwareVersion": "2.0.0"}));
        let reported = &said[0].payload["reported"];
        assert_eq!((&reported["setpoint"], &reported["firmwareVersion"]), (&json!(35.0), &json!("1.0.0")));
        assert_eq!(device.every, Duration::from_millis(250));
    }

    #[test]
    fn a_command_is_done_once_and_answered_each_time() {
        let mut device = device();
        let command = json!({"commandId": "c1", "params": {}});
        let (first, act) = hear(&mut device, "commands/reboot", command.clone());
        assert_eq!(act, Some(Act::Reboot));
        assert_eq!(hear(&mut device, "commands/reboot", command), (first, None));
        let (said, act) = hear(&mut device, "commands/dance", json!({"commandId": "c2"}));
        assert_eq!((said[0].payload["status"].as_str(), act), (Some("rejected"), None));
        let (said, act) = hear(&mut device, "commands/reboot", json!({"commandId": "c3", "expiresAt": 999}));
        assert_eq!((said[0].payload["result"]["reason"].as_str(), act), (Some("expired"), None));
    }

    #[test]
    fn an_offer_is_taken_once_and_one_that_is_installed_is_confirmed() {
        let mut device = device();
        let offer = json!({"jobId": "j", "targetVersion": "1.1.0", "url": "http://x/y", "size": 1, "sha256": "00"});
        let (_, act) = hear(&mut device, "update/command", offer.clone());
        let Some(Act::Download(order)) = act else { panic!("no download") };
        assert_eq!(hear(&mut device, "update/command", offer.clone()), (Vec::new(), None));
        device.install(&order);
        let said = device.progress(&order, UpdateStatus::Completed, Some(100), None);
        assert_eq!((&said.payload["from"], &said.payload["to"]), (&json!("1.0.0"), &json!("1.1.0")));
        let (said, act) = hear(&mut device, "update/command", offer);
        assert_eq!((said[0].payload["status"].as_str(), act), (Some("completed"), None));
    }

    #[test]
    fn what_it_does_not_understand_it_leaves_alone() {
        let mut device = device();
        for (topic, payload) in
            [("delta", "[]"), ("delta", "{"), ("update/command", "{}"), ("commands/x/y", "{}"), ("", "")]
        {
            assert_eq!(device.hear(topic, payload.as_bytes(), Millis(0)), (Vec::new(), None), "{topic}");
        }
    }
}
