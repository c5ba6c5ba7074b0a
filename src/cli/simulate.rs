//! `headgate simulate`: one child that is not there, of each protocol, to try a gateway or a profile with.

use std::{
    fs,
    io::{self, IsTerminal, Write as _},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use super::{modbus, status::plain};
use crate::{
    config::amount::parse_duration,
    drivers::{coap::simulate as coap, mqtt::simulate as mqtt},
    model::ids::DeviceId,
    tasks::Tasks,
};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Serve Modbus devices as a profile or a capture describes them, over TCP or on a pseudo terminal
    Modbus(Box<modbus::simulate::Arguments>),
    /// Serve a CoAP sensor: /sensors/climate and /sensors/temperature to observe, /setpoint to write, /log
    Coap(Coap),
    /// Be an MQTT child: measure, follow desired values, do commands, install firmware
    Mqtt(Mqtt),
}

#[derive(Debug, clap::Args)]
struct Coap {
    /// Serve UDP here
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:5690")]
    listen: SocketAddr,
    /// Id in the file for devices.d that is printed
    #[arg(long, default_value = "sim-coap")]
    id: DeviceId,
    /// Time between notifications, such as 2s
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse_duration)]
    every: Duration,
}

#[derive(Debug, clap::Args)]
struct Mqtt {
    /// Id of the child, which is its user name as well
    #[arg(long, default_value = "sim-mqtt")]
    id: DeviceId,
    /// Host of the gateway's broker
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// Its port; plain MQTT
    #[arg(long, default_value_t = 1883)]
    port: u16,
    /// Token or password; `headgate credential issue ID` makes one. Others see it in the list of processes: prefer
    /// the file or the environment
    #[arg(long, env = "HEADGATE_TOKEN", hide_env_values = true, conflicts_with = "token_file")]
    token: Option<String>,
    /// File that holds the token
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Time between readings, such as 500ms; a desired `interval` changes it
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_duration)]
    every: Duration,
    /// End when so many readings were measured and acknowledged
    #[arg(long)]
    readings: Option<u64>,
    /// Firmware version it begins with
    #[arg(long, default_value = "1.0.0")]
    firmware: String,
}

pub fn run(arguments: &Arguments) -> ExitCode {
    let done = match &arguments.what {
        What::Modbus(arguments) => return modbus::simulate::run(arguments),
        What::Coap(arguments) => on_runtime(sensor(arguments)),
        What::Mqtt(arguments) => on_runtime(child(arguments)),
    };
    done.unwrap_or_else(|error| {
        eprintln!("{error}");
        ExitCode::FAILURE
    })
}

fn on_runtime(work: impl Future<Output = Result<ExitCode, String>>) -> Result<ExitCode, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    runtime.block_on(work)
}

async fn sensor(arguments: &Coap) -> Result<ExitCode, String> {
    let sensor = coap::Sensor::bind(arguments.listen, arguments.every).await;
    let sensor = sensor.map_err(|e| format!("{}: {e}", arguments.listen))?;
    let address = sensor.address().map_err(|e| e.to_string())?;
    println!("serving a CoAP sensor on coap://{address}");
    println!("Ctrl-C ends it. A file for devices.d:\n\n{}", coap::device_file(arguments.id.as_str(), address));
    let tasks = Tasks::new();
    let stop = tasks.stopping();
    tasks.spawn("coap sensor", sensor.run(stop));
    tokio::signal::ctrl_c().await.map_err(|e| e.to_string())?;
    tasks.stop_and_wait().await;
    Ok(ExitCode::SUCCESS)
}

/// Exit code 0 where every measured reading was acknowledged.
async fn child(arguments: &Mqtt) -> Result<ExitCode, String> {
    let id = &arguments.id;
    let token = match &arguments.token_file {
        Some(file) => Some(fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?.trim().to_owned()),
        None => arguments.token.clone(),
    };
    println!("{id} measures every {:?} for mqtt://{}:{}", arguments.every, arguments.host, arguments.port);
    if token.is_none() {
        println!("Without a token only a gateway with `anonymous` takes it; make one: headgate credential issue {id}");
    }
    println!("Ctrl-C ends it. devices.d need not name it, but may, to say what is expected of it:\n");
    println!("[[device]]\nid = \"{id}\"\nprotocol = \"mqtt\"\nexpect_every = \"{}s\"\n", expected(arguments.every));
    let tasks = Tasks::new();
    let mut seen = mqtt::start(
        mqtt::Child {
            id: id.clone(),
            host: arguments.host.clone(),
            port: arguments.port,
            login: token.map(|token| (id.to_string(), token)),
            every: arguments.every,
            firmware: arguments.firmware.clone(),
            download_rate: None,
            readings: arguments.readings,
        },
        &tasks,
    );
    let mut screen = Screen::default();
    loop {
        let state = seen.borrow_and_update().clone();
        screen.show(&state);
        if arguments.readings.is_some_and(|readings| state.acknowledged + state.lost >= readings) {
            break;
        }
        tokio::select! {
            changed = seen.changed() => if changed.is_err() { break },
            ended = tokio::signal::ctrl_c() => {
                ended.map_err(|e| e.to_string())?;
                break;
            }
        }
    }
    tasks.stop_and_wait().await;
    let last = seen.borrow().clone();
    screen.show(&last);
    screen.end();
    println!(
        "{} measured, {} acknowledged, {} lost, {} refused",
        last.measured, last.acknowledged, last.lost, last.refusals
    );
    Ok(if last.acknowledged == last.measured { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A heartbeat every 10 s is the least it gives.
fn expected(every: Duration) -> u64 {
    every.as_secs().clamp(1, 10)
}

/// What changed, one line each; the counters on a line of their own where a person looks.
#[derive(Default)]
struct Screen {
    last: mqtt::State,
    counting: bool,
}

impl Screen {
    fn show(&mut self, state: &mqtt::State) {
        if state.connected != self.last.connected {
            self.say(if state.connected { "connected" } else { "connection lost" });
        }
        if let Some(error) = state.error.as_ref().filter(|error| self.last.error.as_ref() != Some(error)) {
            self.say(&format!("no connection: {}", plain(error)));
        }
        if let Some(refused) = state.refused.as_ref().filter(|_| state.refusals != self.last.refusals) {
            self.say(&format!("refused: {}", plain(&refused.to_string())));
        }
        for (name, value) in &state.reported {
            if self.last.reported.get(name) != Some(value) {
                self.say(&format!("reports {} = {}", plain(name), plain(&value.to_string())));
            }
        }
        if let Some(update) = state.update.as_ref().filter(|update| self.last.update.as_ref() != Some(update)) {
            let to = plain(update.to.as_deref().unwrap_or("?"));
            let progress = update.progress.map(|percent| format!(" {percent} %")).unwrap_or_default();
            self.say(&format!("update to {to}: {:?}{progress}", update.status).to_lowercase());
        }
        if io::stdout().is_terminal() && state.measured > 0 {
            print!("\r\x1b[K{} measured, {} acknowledged", state.measured, state.acknowledged);
            self.counting = true;
        }
        let _ = io::stdout().flush();
        self.last = state.clone();
    }

    fn say(&mut self, text: &str) {
        self.end();
        println!("{text}");
    }

    fn end(&mut self) {
        if std::mem::take(&mut self.counting) {
            println!();
        }
    }
}
