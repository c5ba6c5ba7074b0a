//! A simulated farm, and gateways that bring its values to a broker.

use std::time::{Duration, Instant};

use headgate::{
    drivers::modbus::simulate::{Modbus, Unit, faults::Fault},
    tasks::Tasks,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::sleep,
};

use crate::{
    counter::{Broker, Counter},
    gateways::{Gateway, Job, REGISTERS},
    process::Usage,
    support::loopback,
};

/// How long each gateway is measured, after its first values came.
const WINDOW: Duration = Duration::from_secs(15);
/// Until the first values come.
const PATIENCE: Duration = Duration::from_secs(60);

/// What one gateway did.
struct Row {
    /// From its start to the first value at the broker.
    first: Duration,
    /// Values per second that the intervals ask for; none where the farm sets the pace.
    wanted: Option<u64>,
    delivered: f64,
    /// CPU seconds per 100,000 delivered values.
    cpu: f64,
    share: f64,
    usage: Usage,
    bytes: f64,
    requests: f64,
    farm_share: f64,
    broker_share: f64,
}

/// `delay` is what a device takes for an answer.
async fn farm(tasks: &Tasks, devices: usize, delay: Duration) -> Vec<Modbus> {
    let mut farm = Vec::new();
    for n in 0..devices {
        let words: Vec<u16> = (0..REGISTERS).map(|register| (n * 37 + register * 11) as u16).collect();
        let device = Modbus::tcp(tasks, loopback(), [(1, Unit::holding(&words))]).await.expect("a simulated device");
        device.faults.set(1, Fault { delay, ..Fault::default() });
        farm.push(device);
    }
    farm
}

/// Requests per second that the farm answers to nobody but loops that ask again as soon as they were answered.
async fn bare(devices: usize, delay: Duration) -> f64 {
    let tasks = Tasks::new();
    let farm = farm(&tasks, devices, delay).await;
    let asking = farm.iter().map(async |device| {
        let mut socket = TcpStream::connect(device.address()).await.expect("a device");
        socket.set_nodelay(true).expect("an option");
        let mut reply = [0; 9 + 2 * REGISTERS];
        while socket.write_all(&[0, 1, 0, 0, 0, 6, 1, 3, 0, 0, 0, REGISTERS as u8]).await.is_ok() {
            socket.read_exact(&mut reply).await.expect("a reply");
        }
    });
    let window = Duration::from_secs(3);
    let _ = tokio::time::timeout(window, futures_util::future::join_all(asking)).await;
    farm.iter().map(Modbus::requests).sum::<u64>() as f64 / window.as_secs_f64()
}

async fn run(gateway: Gateway, devices: usize, interval_ms: u64, delay: Duration) -> Result<Row, String> {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let tasks = Tasks::new();
    let farm = farm(&tasks, devices, delay).await;
    let endpoints: Vec<u16> = farm.iter().map(|device| device.address().port()).collect();
    let broker = Broker::start(folder.path()).await;
    let counter = Counter::start(broker.port, &tasks).await;
    let home = folder.path().join(gateway.name());
    let job = Job { endpoints: &endpoints, interval_ms, broker: broker.port, folder: &home };
    let started = Instant::now();
    let mut process = gateway.start(&job)?;
    let ended = |process: &mut crate::process::Process| match process.has_ended() {
        true => {
            let said = std::fs::read_to_string(home.join("output.log")).unwrap_or_default();
            let tail: Vec<&str> = said.lines().rev().take(5).collect();
            Err(format!("it ended: {}", tail.into_iter().rev().collect::<Vec<_>>().join(" / ")))
        }
        false => Ok(()),
    };
    while counter.values() == 0 {
        ended(&mut process)?;
        if started.elapsed() > PATIENCE {
            let said = std::fs::read_to_string(home.join("output.log")).unwrap_or_default();
            let tail: Vec<&str> = said.lines().rev().take(5).collect();
            return Err(format!("no value within {} s: {}", PATIENCE.as_secs(), tail.join(" / ")));
        }
        sleep(Duration::from_millis(10)).await;
    }
    let first = started.elapsed();
    // Until everybody is connected and what a start costs is behind.
    sleep(Duration::from_secs(5)).await;
    ended(&mut process)?;
    let asked = |farm: &[Modbus]| farm.iter().map(Modbus::requests).sum::<u64>();
    let before = (process.usage(), counter.values(), counter.bytes(), Usage::own().cpu, broker.cpu(), asked(&farm));
    let window = Instant::now();
    sleep(WINDOW).await;
    let (usage, values) = (process.usage(), counter.values() - before.1);
    let seconds = window.elapsed().as_secs_f64();
    ended(&mut process)?;
    let spent = usage.cpu - before.0.cpu;
    let per_second = |now: f64, then: f64| (now - then) / seconds;
    Ok(Row {
        first,
        wanted: (devices * REGISTERS * 1000).checked_div(interval_ms as usize).map(|wanted| wanted as u64),
        delivered: values as f64 / seconds,
        cpu: spent / values.max(1) as f64 * 100_000.0,
        share: spent / seconds * 100.0,
        usage,
        bytes: (counter.bytes() - before.2) as f64 / values.max(1) as f64,
        requests: per_second(asked(&farm) as f64, before.5 as f64),
        farm_share: per_second(Usage::own().cpu, before.3) * 100.0,
        broker_share: per_second(broker.cpu(), before.4) * 100.0,
    })
}

async fn table(title: &str, gateways: &[Gateway], devices: usize, interval_ms: u64, delay_ms: u64) {
    println!("\n{title}");
    println!(
        "{:<18} {:>8} {:>10} {:>11} {:>11} {:>8} {:>7} {:>9} {:>8} {:>10} {:>7} {:>9}",
        "",
        "first s",
        "wanted/s",
        "delivered/s",
        "CPU s/100k",
        "core %",
        "RSS MiB",
        "anon MiB",
        "B/value",
        "requests/s",
        "farm %",
        "broker %"
    );
    for gateway in gateways {
        match run(*gateway, devices, interval_ms, Duration::from_millis(delay_ms)).await {
            Ok(row) => println!(
                "{:<18} {:>8.2} {:>10} {:>11.0} {:>11.2} {:>8.1} {:>7.1} {:>9.1} {:>8.1} {:>10.0} {:>7.0} {:>9.0}",
                gateway.name(),
                row.first.as_secs_f64(),
                row.wanted.map_or("-".to_owned(), |wanted| wanted.to_string()),
                row.delivered,
                row.cpu,
                row.share,
                row.usage.resident,
                row.usage.anonymous,
                row.bytes,
                row.requests,
                row.farm_share,
                row.broker_share
            ),
            Err(why) => println!("{:<18} skipped: {why}", gateway.name()),
        }
    }
}

fn chosen(names: &[&str]) -> Vec<Gateway> {
    let named = |gateway: &Gateway| names.is_empty() || names.contains(&gateway.name());
    Gateway::ALL.into_iter().filter(named).collect()
}

pub async fn beside_others(names: &[&str]) {
    let gateways = chosen(names);
    table("10 devices x 100 registers, each once a second", &gateways, 10, 1000, 0).await;
    table("100 devices x 100 registers, each once a second", &gateways, 100, 1000, 0).await;
}

pub async fn flat_out(names: &[&str]) {
    let gateways = chosen(names);
    table("10 devices x 100 registers, each a hundred times a second", &gateways, 10, 10, 0).await;
    if gateways.contains(&Gateway::Headgate) {
        let headgate = [Gateway::Headgate];
        table("10 devices x 100 registers, as fast as they answer, which is at once", &headgate, 10, 0, 0).await;
        for (devices, delay) in [(10, 5), (100, 20)] {
            let title = format!("{devices} devices x 100 registers, as fast as they answer, which takes {delay} ms");
            table(&title, &headgate, devices, 0, delay).await;
            let most = bare(devices, Duration::from_millis(delay)).await;
            println!("{:<18} {:>31.0}", "a bare loop", most * REGISTERS as f64);
        }
    }
}
