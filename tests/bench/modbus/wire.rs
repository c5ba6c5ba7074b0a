//! What a bus carries: a serial line at its real speed, a bus with sick units, and a million failures.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    time::{Duration, Instant},
};

use headgate::{
    bus::FromDriver,
    drivers::modbus::simulate::{Modbus, Unit, faults::Fault},
    tasks::Tasks,
};

use crate::{
    process::Usage,
    support::{Rig, loopback, rtu_bus, tcp_bus},
};

fn farm(units: u8, registers: usize, interval: &str, timeout: &str) -> String {
    let mut text = format!("timeout = \"{timeout}\"\n");
    for unit in 1..=units {
        let _ = write!(text, "[[device]]\nid = \"u{unit}\"\nunit = {unit}\ninterval = \"{interval}\"\n");
        for register in 0..registers {
            let _ = write!(text, "[[device.register]]\nname = \"r{register}\"\naddress = {register}\n");
        }
    }
    text
}

/// Requests per second on a line that takes the time a real one would, beside what it could carry.
pub async fn line() {
    println!("\nserial line on a pseudo terminal, reads of ten registers, one after the other");
    println!("{:>8} {:>12} {:>12} {:>7} {:>8}", "baud", "requests/s", "theory/s", "share", "core %");
    for baud in [9600u32, 19_200, 38_400, 57_600, 115_200] {
        let tasks = Tasks::new();
        let simulator = Modbus::rtu_pty(&tasks, Some(baud), [(1, Unit::holding(&[1; 10]))]).expect("a simulator");
        let mut rig = Rig::start(rtu_bus(simulator.path(), baud, &farm(1, 10, "0ms", "500ms")));
        rig.reading("u1").await;
        let (from, started, cpu) = (simulator.requests(), Instant::now(), Usage::own().cpu);
        while started.elapsed() < Duration::from_secs(8) {
            rig.reading("u1").await;
        }
        let seconds = started.elapsed().as_secs_f64();
        let rate = (simulator.requests() - from) as f64 / seconds;
        // 8 characters there and 25 back, ten bits each, the silence that ends the request and the one before the next.
        let silence = if baud > 19_200 { 0.00175 } else { 35.0 / f64::from(baud) };
        let theory = 1.0 / (330.0 / f64::from(baud) + 2.0 * silence);
        let core = (Usage::own().cpu - cpu) / seconds * 100.0;
        println!("{baud:>8} {rate:>12.1} {theory:>12.1} {:>6.0}% {core:>8.1}", rate / theory * 100.0);
    }
}

/// One unit of ten is dead, one answers only "busy", one takes 60 ms: what the other seven lose.
pub async fn sick() {
    println!("\nten units behind one TCP endpoint, each every 250 ms; unit 1 dead, 2 always busy, 3 slow (60 ms)");
    let tasks = Tasks::new();
    let units = (1..=10).map(|n| (n, Unit::holding(&[u16::from(n); 10])));
    let simulator = Modbus::tcp(&tasks, loopback(), units).await.expect("a simulator");
    let mut rig = Rig::start(tcp_bus(simulator.address(), &farm(10, 10, "250ms", "300ms")));
    let window = Duration::from_secs(20);
    let well = count(&mut rig, window).await;
    simulator.faults.set(1, Fault { drop: 100, ..Fault::default() });
    simulator.faults.set(2, Fault { exception: Some(6), ..Fault::default() });
    simulator.faults.set(3, Fault { delay: Duration::from_millis(60), ..Fault::default() });
    let falling = count(&mut rig, Duration::from_secs(5)).await;
    let sick = count(&mut rig, window).await;
    let worst = |counts: &BTreeMap<String, u64>, before: &BTreeMap<String, u64>, scale: f64| {
        let share = |n: usize| {
            let name = format!("u{n}");
            counts.get(&name).copied().unwrap_or(0) as f64 * scale / before.get(&name).copied().unwrap_or(1) as f64
        };
        (4..=10).map(share).fold(f64::INFINITY, f64::min) * 100.0
    };
    println!("the least of the seven keeps {:.1} % of its rate", worst(&sick, &well, 1.0));
    println!("in the first 5 s, while the dead one is found dead: {:.1} %", worst(&falling, &well, 4.0));
}

async fn count(rig: &mut Rig, time: Duration) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    let until = tokio::time::Instant::now() + time;
    while let Ok(Some(told)) = tokio::time::timeout_at(until, rig.told.recv()).await {
        if let FromDriver::Reading(reading) = told
            && reading.samples.iter().all(|sample| sample.quality.is_good())
        {
            *counts.entry(reading.device.to_string()).or_default() += 1;
        }
    }
    counts
}

/// Buses at which requests go unanswered at the same time.
const BUSES: usize = 16;

/// Exceptions and timeouts by the hundred thousand, as many of each: what stays of them.
pub async fn leaks(wanted: u64) {
    exceptions(wanted).await;
    timeouts(wanted).await;
}

async fn exceptions(wanted: u64) {
    println!("\n{wanted} exceptions, one bus with a unit that fails and one that is always busy");
    let tasks = Tasks::new();
    let units = [(1, Unit::holding(&[1; 100])), (2, Unit::holding(&[2; 100]))];
    let simulator = Modbus::tcp(&tasks, loopback(), units).await.expect("a simulator");
    let mut rig = Rig::start(tcp_bus(simulator.address(), &farm(2, 100, "0ms", "1s")));
    rig.reading("u1").await;
    simulator.faults.set(1, Fault { exception: Some(4), ..Fault::default() });
    simulator.faults.set(2, Fault { exception: Some(6), ..Fault::default() });
    watch(std::slice::from_mut(&mut rig), wanted, |counters| {
        counters["exceptions"].as_object().map_or(0, |codes| codes.values().filter_map(|n| n.as_u64()).sum())
    })
    .await;
}

/// Units that leave most requests unanswered, and get ten retries: few are away for long, so that a million timeouts,
/// each of its millisecond or two, take minutes. One unit of each bus is dead throughout.
async fn timeouts(wanted: u64) {
    println!("\n{wanted} timeouts, {BUSES} buses with nine units that answer four of ten requests and a dead one");
    let tasks = Tasks::new();
    let (mut simulators, mut rigs) = (Vec::new(), Vec::new());
    for _ in 0..BUSES {
        let units = (1..=10).map(|n| (n, Unit::holding(&[1; 10])));
        let simulator = Modbus::tcp(&tasks, loopback(), units).await.expect("a simulator");
        simulator.faults.set(0, Fault { drop: 60, ..Fault::default() });
        simulator.faults.set(1, Fault { drop: 100, ..Fault::default() });
        rigs.push(Rig::start(tcp_bus(
            simulator.address(),
            &farm(10, 10, "0ms", "1ms").replacen("1ms\"", "1ms\"\nretries = 10", 1),
        )));
        simulators.push(simulator);
    }
    watch(&mut rigs, wanted, |counters| counters["timeouts"].as_u64().unwrap_or(0)).await;
}

/// A line per tenth of the way, until the buses have counted so many.
async fn watch(rigs: &mut [Rig], wanted: u64, counted: impl Fn(&serde_json::Value) -> u64) {
    println!("{:>10} {:>10} {:>10} {:>10}", "counted", "seconds", "RSS MiB", "messages");
    let (started, mut told, mut next) = (Instant::now(), 0u64, wanted / 10);
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let mut count = 0;
        for rig in &mut *rigs {
            while rig.told.try_recv().is_ok() {
                told += 1;
            }
            count += counted(&rig.status().await["counters"]);
        }
        if count >= next {
            let (seconds, resident) = (started.elapsed().as_secs_f64(), Usage::own().resident);
            println!("{count:>10} {seconds:>10.1} {resident:>10.1} {told:>10}");
            next = (count / (wanted / 10) + 1) * (wanted / 10);
        }
        if count >= wanted {
            break;
        }
    }
    let total = rigs.iter().map(async |rig| rig.status().await);
    let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
    for status in futures_util::future::join_all(total).await {
        for what in ["requests", "replies", "timeouts", "strays", "retries", "reconnects"] {
            *sums.entry(what).or_default() += status["counters"][what].as_u64().unwrap_or(0);
        }
    }
    println!("counted: {sums:?}");
}
