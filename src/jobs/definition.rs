//! What a job order means (`docs/mqtt.md`, section 4): checked once, when it comes.

mod filter;
mod window;

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value as Json;

pub use self::{filter::Filter, window::Window};
use crate::{
    config::amount::parse_duration,
    model::{
        command::{Command, Refusal, RefusalCode},
        jobs::JobOrder,
        time::Millis,
        update::UpdateOrder,
    },
};

/// What is done to each device.
#[derive(Debug, Clone, PartialEq)]
pub enum Work {
    Firmware(UpdateOrder),
    Config {
        version: u64,
        document: Json,
    },
    /// `command`, and `restart` as the command `reboot`.
    Command(Command),
    Diagnostic(Json),
    /// A document for the device's own jobs topics.
    Document(Json),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Definition {
    pub work: Work,
    pub filter: Filter,
    pub start: Option<Millis>,
    /// Devices whose turn has not come by then are skipped.
    pub end: Option<Millis>,
    pub window: Option<Window>,
    pub max_parallel: usize,
    pub stagger: i64,
    pub attempts: u32,
    pub backoff: f64,
    /// How long one device may take, in milliseconds.
    pub patience: i64,
    /// At least one; the last one reaches every device.
    pub stages: Vec<Stage>,
    /// Where too many fail, the job ends instead of waiting for a person.
    pub abort: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stage {
    /// Of all devices, cumulative.
    pub percent: f64,
    pub soak: i64,
    pub max_error_rate: f64,
}

impl Definition {
    pub fn read(order: &JobOrder) -> Result<Definition, Refusal> {
        if order.job_id.is_empty() || order.job_id.len() > 64 || order.job_id.contains(['/', '+', '#', '$', '\0']) {
            return Err(wrong("jobId", "1 to 64 bytes without / + # $"));
        }
        let (work, patience) = work(order)?;
        let schedule = &order.schedule;
        let retry = &schedule["retryPolicy"];
        let rollout = order.rollout.as_ref().unwrap_or(&Json::Null);
        Ok(Definition {
            work,
            filter: Filter::read(&order.device_filter)?,
            start: time(schedule, "startTime")?,
            end: time(schedule, "endTime")?,
            window: Window::read(&schedule["window"])?,
            max_parallel: whole(schedule, "maxParallel", 4, 1..=1000)? as usize,
            stagger: whole(schedule, "staggerMs", 0, 0..=86_400_000)? as i64,
            attempts: whole(retry, "maxAttempts", 1, 1..=100)? as u32,
            backoff: number(retry, "backoffMultiplier", 2.0, 1.0..=10.0)?,
            patience: whole(&order.payload, "timeoutMs", patience as u64, 1000..=604_800_000)? as i64,
            stages: stages(&rollout["stages"])?,
            abort: !matches!(rollout["abort"], Json::Null | Json::Bool(false)),
        })
    }

    /// When a device may be tried again after its `attempt`-th failure.
    pub fn retry_after(&self, attempt: u32) -> i64 {
        const FIRST: f64 = 30_000.0;
        const LONGEST: f64 = 3_600_000.0;
        (FIRST * self.backoff.powi(attempt.saturating_sub(1) as i32)).min(LONGEST) as i64
    }
}

fn work(order: &JobOrder) -> Result<(Work, i64), Refusal> {
    const MINUTE: i64 = 60_000;
    let payload = &order.payload;
    match order.kind.as_str() {
        "firmware-update" => {
            let mut document = payload.clone();
            if let Some(map) = document.as_object_mut() {
                map.insert("jobId".into(), Json::from(order.job_id.as_str()));
            }
            let order: UpdateOrder =
                serde_json::from_value(document).map_err(|e| wrong("payload", &format!("a firmware order: {e}")))?;
            Ok((Work::Firmware(order), 24 * 60 * MINUTE))
        }
        "config-sync" => {
            let version = payload["version"].as_u64().ok_or_else(|| wrong("payload.version", "a whole number"))?;
            if !payload["config"].is_object() {
                return Err(wrong("payload.config", "a JSON object"));
            }
            Ok((Work::Config { version, document: payload.clone() }, 5 * MINUTE))
        }
        "command" => {
            let name = payload["name"].as_str().filter(|name| !name.is_empty() && !name.contains(['/', '+', '#']));
            let name = name.ok_or_else(|| wrong("payload.name", "the name of a command"))?;
            Ok((Work::Command(command(name, payload["params"].clone())), MINUTE))
        }
        "restart" => Ok((Work::Command(command("reboot", payload["params"].clone())), 2 * MINUTE)),
        "diagnostic" => {
            if !payload["type"].is_string() {
                return Err(wrong("payload.type", "the type of a diagnostics request"));
            }
            Ok((Work::Diagnostic(payload.clone()), 2 * MINUTE))
        }
        "job-document" => {
            let document = payload["document"].is_object().then(|| payload["document"].clone());
            let document = document.ok_or_else(|| wrong("payload.document", "a JSON object"))?;
            Ok((Work::Document(document), 24 * 60 * MINUTE))
        }
        other => {
            let known = "firmware-update, config-sync, command, restart, diagnostic or job-document";
            Err(wrong("type", &format!("{known}; found {other:?}")))
        }
    }
}

fn command(name: &str, params: Json) -> Command {
    Command { name: name.to_owned(), command_id: String::new(), params, expires_at: None }
}

fn stages(json: &Json) -> Result<Vec<Stage>, Refusal> {
    let whole = Stage { percent: 100.0, soak: 0, max_error_rate: 1.0 };
    let list = match json {
        Json::Null => return Ok(vec![whole]),
        Json::Array(list) => list,
        _ => return Err(wrong("rollout.stages", "a list of stages")),
    };
    let mut stages: Vec<Stage> = Vec::new();
    for json in list {
        let percent = number(json, "percent", f64::NAN, 0.01..=100.0)?;
        if stages.last().is_some_and(|before| before.percent >= percent) || percent.is_nan() {
            return Err(wrong("rollout.stages.percent", "a growing share of all devices, up to 100"));
        }
        let soak = match &json["soak"] {
            Json::Null => Duration::ZERO,
            Json::String(text) => parse_duration(text).map_err(|e| wrong("rollout.stages.soak", &e))?,
            _ => return Err(wrong("rollout.stages.soak", "a time span such as \"4h\"")),
        };
        let soak = i64::try_from(soak.as_millis()).unwrap_or(i64::MAX);
        stages.push(Stage { percent, soak, max_error_rate: number(json, "maxErrorRate", 1.0, 0.0..=1.0)? });
    }
    match stages.last().copied() {
        None => stages.push(whole),
        Some(last) if last.percent < 100.0 => stages.push(Stage { percent: 100.0, soak: 0, ..last }),
        Some(_) => {}
    }
    Ok(stages)
}

fn time(json: &Json, key: &str) -> Result<Option<Millis>, Refusal> {
    match &json[key] {
        Json::Null => Ok(None),
        Json::String(text) => match text.parse::<Timestamp>() {
            Ok(at) => Ok(Some(Millis(at.as_millisecond()))),
            Err(_) => {
                Err(wrong(&format!("schedule.{key}"), "Unix milliseconds, or a time such as 2026-01-31T22:00:00Z"))
            }
        },
        other => match other.as_i64() {
            Some(millis) => Ok(Some(Millis(millis))),
            None => Err(wrong(&format!("schedule.{key}"), "Unix milliseconds, or a time such as 2026-01-31T22:00:00Z")),
        },
    }
}

fn whole(json: &Json, key: &str, normal: u64, range: std::ops::RangeInclusive<u64>) -> Result<u64, Refusal> {
    match &json[key] {
        Json::Null => Ok(normal),
        other => other
            .as_u64()
            .filter(|n| range.contains(n))
            .ok_or_else(|| wrong(key, &format!("a whole number from {} to {}", range.start(), range.end()))),
    }
}

fn number(json: &Json, key: &str, normal: f64, range: std::ops::RangeInclusive<f64>) -> Result<f64, Refusal> {
    match &json[key] {
        Json::Null => Ok(normal),
        other => {
            let found = other.as_f64().filter(|n| range.contains(n));
            found.ok_or_else(|| wrong(key, &format!("a number from {} to {}", range.start(), range.end())))
        }
    }
}

fn wrong(key: &str, expected: &str) -> Refusal {
    Refusal::new(RefusalCode::PayloadInvalid, format!("{key}: expected {expected}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(mut job: Json) -> Result<Definition, Refusal> {
        job["jobId"] = json!("j");
        Definition::read(&serde_json::from_value(job).expect("an order"))
    }

    #[test]
    fn an_order_is_read_with_its_defaults() {
        let definition = read(json!({"type": "command", "payload": {"name": "identify"}})).expect("good");
        assert_eq!((definition.max_parallel, definition.attempts, definition.stages.len()), (4, 1, 1));
        let stages = json!({"stages": [{"percent": 5, "soak": "4h", "maxErrorRate": 0.1}, {"percent": 25}]});
        let job = json!({"type": "restart", "rollout": stages, "schedule": {"startTime": "2026-01-01T00:00:00Z"}});
        let definition = read(job).expect("good");
        assert_eq!(definition.stages.iter().map(|s| s.percent).collect::<Vec<_>>(), vec![5.0, 25.0, 100.0]);
        assert_eq!(definition.stages[0].soak, 4 * 3_600_000);
        assert_eq!(definition.start, Some(Millis(1_767_225_600_000)));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (job, word) in [
            (json!({"type": "dance"}), "type"),
            (json!({"type": "command", "payload": {}}), "payload.name"),
            (json!({"type": "firmware-update", "payload": {"url": "x"}}), "payload"),
            (json!({"type": "job-document", "payload": {"document": 5}}), "payload.document"),
            (json!({"type": "restart", "deviceFilter": {"tag": ["a"]}}), "\"tag\""),
            (json!({"type": "restart", "schedule": {"maxParallel": 0}}), "maxParallel"),
            (json!({"type": "restart", "schedule": {"window": {"from": "25:00", "to": "1:00"}}}), "window.from"),
            (json!({"type": "restart", "rollout": {"stages": [{"percent": 50}, {"percent": 5}]}}), "percent"),
        ] {
            let refusal = read(job.clone()).expect_err("refused");
            assert!(refusal.message.contains(word), "{job}: {refusal}");
        }
    }
}
