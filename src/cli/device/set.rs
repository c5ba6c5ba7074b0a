//! What is wanted of a device, and what becomes of it: wishes are followed until the device reports or refuses them,
//! commands until they are answered.

use std::{
    fmt::Write as _,
    process::ExitCode,
    time::{Duration, Instant},
};

use hyper::Method;
use serde_json::{Map, Value as Json, json};

use super::path;
use crate::{
    cli::{
        client::{Client, ClientError},
        exit,
        status::plain,
    },
    model::{command::RefusalCode, shadow::OWN_SHADOW, view::CommandView},
};

const LOOK: Duration = Duration::from_millis(200);
/// How long a refusal of the very same wish before may still stand in the shadow.
const SETTLE: Duration = Duration::from_secs(1);

/// `setpoint=22.5`: JSON where it reads as JSON, text otherwise.
pub fn pair(text: &str) -> Result<(String, Json), String> {
    let (name, value) = text.split_once('=').ok_or("write name=value, such as setpoint=22.5")?;
    if name.is_empty() {
        return Err("the name before = is missing".into());
    }
    Ok((name.to_owned(), serde_json::from_str(value).unwrap_or_else(|_| Json::String(value.to_owned()))))
}

/// Where one wish stands.
#[derive(Debug, Clone, PartialEq)]
enum Fate {
    Reported,
    Withdrawn,
    Refused(String),
    /// Waits, and why where that is known.
    Open(Option<String>),
}

impl Fate {
    fn of(name: &str, wanted: &Json, shadow: &Json, problems: &Json, settled: bool) -> Fate {
        if wanted.is_null() {
            let gone = shadow["state"]["desired"].get(name).is_none();
            return if gone { Fate::Withdrawn } else { Fate::Open(None) };
        }
        let open = shadow["state"]["delta"].get(name).is_some();
        if !open && shadow["state"]["reported"].get(name).is_some() {
            return Fate::Reported;
        }
        match problems.get(name).filter(|problem| settled && problem["value"] == *wanted) {
            Some(problem) => {
                let code = problem["code"].as_str().unwrap_or_default();
                let text = format!("{} ({code})", plain(problem["message"].as_str().unwrap_or_default()));
                // What trying again may mend is tried again by the gateway.
                if passing(code) { Fate::Open(Some(text)) } else { Fate::Refused(text) }
            }
            None => Fate::Open(None),
        }
    }
}

fn passing(code: &str) -> bool {
    let code = serde_json::from_value(json!(code)).ok();
    matches!(code, Some(RefusalCode::Busy | RefusalCode::DeviceFailed | RefusalCode::StoreUnavailable))
}

pub async fn set(
    client: &Client,
    device: &str,
    values: &[(String, Json)],
    wait: Duration,
    json: bool,
) -> Result<(String, ExitCode), ClientError> {
    let desired: Map<String, Json> = values.iter().cloned().collect();
    client.send(Method::PATCH, &path(device, "/shadow"), Some(&json!({ "desired": desired }))).await?;
    let began = Instant::now();
    let fates = loop {
        let shadow: Json = client.get(&path(device, "/shadow")).await?;
        let own = client.get(&path(device, &format!("/shadows/{OWN_SHADOW}"))).await;
        // A device without any problem so far has no such shadow.
        let own: Json = own.unwrap_or_default();
        let (problems, settled) = (&own["state"]["reported"]["problems"], began.elapsed() >= SETTLE);
        let fate =
            |(name, wanted): (&String, &Json)| (name.clone(), Fate::of(name, wanted, &shadow, problems, settled));
        let fates: Vec<(String, Fate)> = desired.iter().map(fate).collect();
        let open = fates.iter().any(|(_, fate)| matches!(fate, Fate::Open(_)));
        if !open || began.elapsed() >= wait {
            break fates;
        }
        tokio::time::sleep(LOOK).await;
    };
    let any = |which: fn(&Fate) -> bool| fates.iter().any(|(_, fate)| which(fate));
    let code = if any(|fate| matches!(fate, Fate::Refused(_))) {
        ExitCode::FAILURE
    } else if any(|fate| matches!(fate, Fate::Open(_))) {
        ExitCode::from(exit::TEMPFAIL)
    } else {
        ExitCode::SUCCESS
    };
    Ok((told(device, &desired, &fates, json), code))
}

fn told(device: &str, desired: &Map<String, Json>, fates: &[(String, Fate)], json: bool) -> String {
    if json {
        let fate = |(name, fate): &(String, Fate)| {
            let (status, reason) = match fate {
                Fate::Reported => ("reported", None),
                Fate::Withdrawn => ("withdrawn", None),
                Fate::Refused(reason) => ("refused", Some(reason)),
                Fate::Open(reason) => ("open", reason.as_ref()),
            };
            (name.clone(), json!({ "desired": desired[name], "status": status, "reason": reason }))
        };
        return format!("{:#}", Json::Object(fates.iter().map(fate).collect()));
    }
    let mut out = String::new();
    for (name, fate) in fates {
        let value = plain(&desired[name].to_string());
        let _ = match fate {
            Fate::Reported => writeln!(out, "{name} = {value}, reported by {device}"),
            Fate::Withdrawn => writeln!(out, "{name}: no longer desired"),
            Fate::Refused(reason) => writeln!(out, "{name} = {value} was refused: {reason}"),
            Fate::Open(Some(reason)) => writeln!(out, "{name} = {value} is still open: {reason}; it is tried again"),
            Fate::Open(None) => {
                writeln!(out, "{name} = {value} is on disk and still open: {device} has not reported it")
            }
        };
    }
    out
}

/// Calls a command; where `wait` is over first, it goes on without us.
pub async fn call(
    client: &Client,
    device: &str,
    name: &str,
    params: &[(String, Json)],
    wait: Duration,
    json: bool,
) -> Result<(String, ExitCode), ClientError> {
    let params: Map<String, Json> = params.iter().cloned().collect();
    let to = path(device, &format!("/commands/{}", crate::cli::credential::escaped(name)));
    let placed = client.send(Method::POST, &to, Some(&json!({ "params": params }))).await?;
    let id = placed["commandId"].as_str().unwrap_or_default().to_owned();
    let began = Instant::now();
    loop {
        let calls: Vec<CommandView> = client.get(&path(device, "/commands")).await?;
        let call = calls.into_iter().find(|call| call.command_id == id);
        let ended = call.as_ref().is_some_and(|call| !matches!(call.status.as_str(), "waiting" | "sent"));
        if !ended && began.elapsed() < wait {
            tokio::time::sleep(LOOK).await;
            continue;
        }
        let status = call.as_ref().map_or("waiting", |call| call.status.as_str());
        let code = match (ended, status) {
            (true, "succeeded") => ExitCode::SUCCESS,
            (true, _) => ExitCode::FAILURE,
            (false, _) => ExitCode::from(exit::TEMPFAIL),
        };
        let result = call.as_ref().and_then(|call| call.result.clone());
        let text = match json {
            true => format!("{:#}", json!({ "commandId": id, "status": status, "result": result })),
            false => {
                let result = result.map(|result| format!(": {}", plain(&result.to_string()))).unwrap_or_default();
                format!("{name} ({id}) {status}{result}")
            }
        };
        return Ok((text, code));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_json_where_it_reads_as_json() {
        assert_eq!(pair("a=22.5"), Ok(("a".into(), json!(22.5))));
        assert_eq!(pair("mode=heat"), Ok(("mode".into(), json!("heat"))));
        assert_eq!(pair("note=a=b"), Ok(("note".into(), json!("a=b"))));
        assert!(pair("heat").is_err() && pair("=1").is_err());
    }

    #[test]
    fn a_wish_ends_reported_refused_or_stays_open() {
        let shadow = json!({ "state": { "desired": { "a": 1, "b": 2, "c": 3 }, "reported": { "a": 1 }, "delta": { "b": 2, "c": 3 } } });
        let problems = json!({
            "b": { "code": "out-of-range", "message": "2 is above 1", "value": 2, "at": 0 },
            "c": { "code": "device-failed", "message": "timeout", "value": 3, "at": 0 },
        });
        let fate = |name: &str, wanted: Json| Fate::of(name, &wanted, &shadow, &problems, true);
        assert_eq!(fate("a", json!(1)), Fate::Reported);
        assert_eq!(fate("b", json!(2)), Fate::Refused("2 is above 1 (out-of-range)".into()));
        assert_eq!(fate("c", json!(3)), Fate::Open(Some("timeout (device-failed)".into())));
        assert_eq!(fate("d", json!(4)), Fate::Open(None));
        assert_eq!(fate("d", Json::Null), Fate::Withdrawn);
    }
}
