//! `headgate device`: look at devices, write to them, call their commands, move them through their life.

mod print;
mod set;

use std::{
    io::{self, Write as _},
    process::ExitCode,
    time::Duration,
};

use hyper::Method;
use serde_json::{Value as Json, json};

use super::{
    client::{Client, ClientError, Daemon},
    credential::escaped,
};
use crate::{
    clock,
    config::amount::parse_duration,
    model::view::{Change, CommandView, DeviceRow, DeviceView, Trend},
};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    daemon: Daemon,
    #[command(subcommand)]
    what: What,
    /// Print as JSON, for scripts
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// List all devices: presence, last sign of life, first values
    List,
    /// Show one device: values with quality and unit, shadow, connection, drift
    Show { device: String },
    /// Set desired values and say what became of them
    ///
    /// Values are JSON where they read as JSON (22.5, true, null, "text"), else text. null withdraws a wish. Exit code 0:
    /// the device reports all of them; 1: refused, with the reason; 75: still open when --wait was over. An open wish
    /// waits on, survives restarts and reaches the device when it can.
    #[command(after_help = "Example: headgate device set hvac-roof setpoint=22.5 mode=heat")]
    Set {
        device: String,
        #[arg(required = true, value_name = "NAME=VALUE", value_parser = set::pair)]
        values: Vec<(String, Json)>,
        /// How long to wait for the device; 0s does not wait
        #[arg(long, value_name = "TIME", default_value = "15s", value_parser = parse_duration)]
        wait: Duration,
    },
    /// Call a command of a device and show its answer; without a name, list the calls of the past
    #[command(after_help = "Example: headgate device command pump-7 restart delay=5")]
    Command {
        device: String,
        name: Option<String>,
        #[arg(value_name = "PARAM=VALUE", value_parser = set::pair)]
        params: Vec<(String, Json)>,
        /// How long to wait for the answer; 0s does not wait
        #[arg(long, value_name = "TIME", default_value = "15s", value_parser = parse_duration)]
        wait: Duration,
    },
    /// Move a device through its life; only active and maintenance devices may talk
    Lifecycle {
        device: String,
        #[arg(value_parser = ["pending", "active", "maintenance", "suspended", "quarantined", "decommissioned"])]
        state: String,
    },
    /// Keep a value from being written, whoever desires it
    Lock {
        device: String,
        /// The value, by name
        name: String,
        /// For how long; without it until it is unlocked
        #[arg(long = "for", value_name = "TIME", value_parser = parse_duration)]
        span: Option<Duration>,
    },
    /// Let a locked value be written again
    Unlock { device: String, name: String },
    /// Show the recent past of a number
    Trend {
        device: String,
        /// The value, by name
        name: String,
        /// How far to look back
        #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_duration)]
        last: Duration,
        /// Rows to thin to
        #[arg(long, default_value_t = 24)]
        points: usize,
    },
    /// Show who changed the device's shadows, when and through which door; newest first
    History {
        device: String,
        #[arg(long, default_value_t = 20)]
        limit: usize,
    },
}

pub fn run(arguments: &Arguments) -> ExitCode {
    let done = arguments.daemon.run(async |client| act(&client, &arguments.what, arguments.json).await);
    match done {
        Ok((text, code)) => {
            // Whoever reads only the first lines closes the pipe early.
            let _ = writeln!(io::stdout(), "{}", text.trim_end());
            code
        }
        Err(code) => code,
    }
}

async fn act(client: &Client, what: &What, json: bool) -> Result<(String, ExitCode), ClientError> {
    let text = match what {
        What::List => {
            let found: Json = client.get("/v1/devices").await?;
            shown(found, json, |rows: Vec<DeviceRow>| print::list(clock::now(), &rows))?
        }
        What::Show { device } => {
            let found: Json = client.get(&path(device, "")).await?;
            let mut text = shown(found, json, |view: DeviceView| print::one(clock::now(), &view))?;
            match client.get(&path(device, "/shadow")).await {
                _ if json => {}
                Ok(shadow) => text += &print::shadow(&shadow),
                Err(ClientError::Refused { code, .. }) if code == "not-found" => {}
                Err(error) => return Err(error),
            }
            text
        }
        What::Set { device, values, wait } => return set::set(client, device, values, *wait, json).await,
        What::Command { device, name: None, .. } => {
            let found: Json = client.get(&path(device, "/commands")).await?;
            shown(found, json, |commands: Vec<CommandView>| print::commands(&commands))?
        }
        What::Command { device, name: Some(name), params, wait } => {
            return set::call(client, device, name, params, *wait, json).await;
        }
        What::Lifecycle { device, state } => {
            let answer =
                client.send(Method::PUT, &path(device, "/lifecycle"), Some(&json!({ "lifecycle": state }))).await?;
            if json { format!("{answer:#}") } else { format!("{device} is {state}") }
        }
        What::Lock { device, name, span } => {
            let until = span.map(|span| clock::now().plus(i64::try_from(span.as_millis()).unwrap_or(i64::MAX)));
            let place = path(device, &format!("/locks/{}", escaped(name)));
            let answer = client.send(Method::PUT, &place, Some(&json!({ "until": until }))).await?;
            if json { format!("{answer:#}") } else { format!("{name} of {device} is locked") }
        }
        What::Unlock { device, name } => {
            let place = path(device, &format!("/locks/{}", escaped(name)));
            let answer = client.send(Method::DELETE, &place, None).await?;
            if json { format!("{answer:#}") } else { format!("{name} of {device} is no longer locked") }
        }
        What::Trend { device, name, last, points } => {
            let to = clock::now();
            let from = to.plus(-i64::try_from(last.as_millis()).unwrap_or(i64::MAX).max(1));
            let query = format!("/trend?name={}&from={}&to={}&points={points}", escaped(name), from.0, to.0);
            let found: Json = client.get(&path(device, &query)).await?;
            shown(found, json, |trend: Trend| print::trend(&trend))?
        }
        What::History { device, limit } => {
            let found: Json = client.get(&path(device, &format!("/history?limit={limit}"))).await?;
            shown(found, json, |changes: Vec<Change>| print::history(&changes))?
        }
    };
    Ok((text, ExitCode::SUCCESS))
}

/// As the daemon sent it, or as a person reads it.
fn shown<T: serde::de::DeserializeOwned>(
    found: Json,
    json: bool,
    words: impl FnOnce(T) -> String,
) -> Result<String, ClientError> {
    if json {
        return Ok(format!("{found:#}"));
    }
    let value = serde_json::from_value(found).map_err(|error| ClientError::Broken(error.to_string()))?;
    Ok(words(value))
}

fn path(device: &str, rest: &str) -> String {
    format!("/v1/devices/{}{rest}", escaped(device))
}
