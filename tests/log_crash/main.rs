//! kill -9 at random and at named points, while publishers run at full rate and the wire to the cloud breaks: nothing
//! that was acknowledged may be lost. The counting is done here, from what a child process said was acknowledged and
//! what `mosquitto_sub` saw arrive; the store is never asked.
//!
//! `HEADGATE_KILLS=500 cargo test --test log_crash` for the long run; with `--features faults` the named points and the
//! planted bugs are run as well, and each planted bug must be caught.

#[path = "../log_uplink/cloud.rs"]
mod cloud;
#[path = "../log_uplink/wire.rs"]
#[allow(dead_code)] // shared with other tests
mod wire;

use std::{
    collections::{BTreeMap, HashMap},
    hash::{BuildHasher, Hasher, RandomState},
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use cloud::Cloud;
use headgate::{
    bus::{Events, Orders},
    config::{
        log::LogConfig,
        uplink::{Address, UplinkConfig, Version},
    },
    model::{
        event::LinkState,
        ids::DeviceId,
        record::{Kind, NewRecord},
    },
    store::{Store, StoreOptions},
    tasks::Tasks,
    uplink::{self, Surroundings},
};
use serde_json::Value as Json;
use wire::TcpWire;

const DEVICES: usize = 8;

fn id(text: &str) -> DeviceId {
    DeviceId::new(text).expect("id")
}

// ---- the child: a store, the road, and publishers ----------------------------------------------------------------

/// `child <folder> <port> <first n> <publish|drain> <cap>`: says `ready`, then `a <device> <seq> <n>` for every
/// acknowledged record; with `drain` it ends when the cloud has everything.
#[tokio::main]
async fn child(args: &[String]) {
    let [folder, port, first, mode, cap] = args else { panic!("child <folder> <port> <first n> <mode> <cap>") };
    let log = LogConfig { keep_free: 0, max_bytes: cap.parse().expect("bytes"), ..LogConfig::default() };
    let (store, thread) =
        Store::open_with(Path::new(folder), StoreOptions { log, gateway: id("gw") }).expect("the store opens");
    let nobody = || tokio::sync::mpsc::channel(1).0;
    let tasks = Tasks::new();
    let config = UplinkConfig {
        broker: Some(Address { host: "127.0.0.1".into(), port: port.parse().expect("port"), tls: false }),
        version: if first.len() % 2 == 0 { Version::V3 } else { Version::V5 },
        keep_alive: Duration::from_secs(5),
        unacked_timeout: Duration::from_secs(1),
        retry: (Duration::from_millis(20), Duration::from_millis(200)),
        batch: 20,
        ..UplinkConfig::default()
    };
    let around = Surroundings {
        gateway: id("gw"),
        store: store.clone(),
        orders: Orders { keeper: nobody(), updates: nobody(), diagnostics: nobody(), jobs: nobody() },
        events: Events::new(),
        tls: None,
        children: tokio::sync::watch::channel(Vec::new()).1,
        endurance: 1,
        tasks: tasks.clone(),
    };
    let uplink = uplink::start(config, around);
    println!("ready");
    if mode == "publish" {
        let first: u64 = first.parse().expect("number");
        // At a small cap the records are large and do not compress, so that it is reached.
        let pad = if cap.parse::<u64>().expect("bytes") < 64 << 20 { 1200 } else { 150 };
        for device in 0..DEVICES {
            let store = store.clone();
            tasks.spawn("publisher", async move {
                let mut state = first + device as u64;
                for n in first.. {
                    let noise = std::iter::repeat_with(|| {
                        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                        char::from(b'a' + (state >> 33) as u8 % 26)
                    });
                    let noise: String = noise.take(pad).collect();
                    let body = format!("{{\"values\":{{\"n\":{n},\"pad\":\"{noise}\"}}}}").into();
                    let device = format!("d{device}");
                    let ts = headgate::clock::now();
                    let record = NewRecord { device: id(&device), kind: Kind::Telemetry, name: None, ts, body };
                    match store.append(vec![record]).await {
                        Ok(seqs) => println!("a {device} {} {n}", seqs[0]),
                        Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                    }
                }
            });
        }
        std::future::pending::<()>().await;
    }
    let mut state = uplink.state();
    loop {
        let live = state.borrow_and_update().0 == LinkState::Live;
        if live && uplink.log_status().await.expect("status").waiting == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    tasks.stop_and_wait().await;
    store.stop().await;
    thread.join();
}

// ---- the judge ----------------------------------------------------------------------------------------------------

struct Run<'r> {
    kills: usize,
    /// `HEADGATE_FAULT` of each child in turn, where points are tried.
    points: &'r [&'r str],
    bug: Option<&'r str>,
    cap: u64,
}

#[derive(Debug, Default)]
struct Verdict {
    acknowledged: usize,
    arrived: usize,
    repeated: usize,
    declared: u64,
    faults: Vec<String>,
}

fn random(below: u64) -> u64 {
    RandomState::new().build_hasher().finish() % below
}

fn start(
    folder: &Path,
    port: u16,
    round: usize,
    mode: &str,
    cap: u64,
    env: &[(&str, &str)],
) -> (Child, mpsc::Receiver<String>) {
    let mut command = Command::new(std::env::current_exe().expect("a path"));
    let first = (round as u64 * 1_000_000).to_string();
    command.arg("child").arg(folder).args([&port.to_string(), &first, mode, &cap.to_string()]);
    let mut child = command.envs(env.iter().copied()).stdout(Stdio::piped()).spawn().expect("starts");
    let out = child.stdout.take().expect("piped");
    let (tell, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            if tell.send(line).is_err() {
                break;
            }
        }
    });
    (child, lines)
}

fn run(run: &Run<'_>) -> Verdict {
    let (cloud, folder) = (Cloud::start(), tempfile::tempdir().expect("folder"));
    let wire = TcpWire::to(cloud.port);
    let mut acknowledged: HashMap<(String, u64), u64> = HashMap::new();
    let mut verdict = Verdict::default();
    for round in 0..run.kills {
        let point = run.points.get(round % run.points.len().max(1)).copied();
        let mut env: Vec<(&str, &str)> = run.bug.map(|bug| ("HEADGATE_BUG", bug)).into_iter().collect();
        env.extend(point.map(|point| ("HEADGATE_FAULT", point)));
        let (mut child, lines) = start(folder.path(), wire.port, round, "publish", run.cap, &env);
        let begun = Instant::now();
        let ready = lines.recv_timeout(Duration::from_secs(20));
        if ready.as_deref() != Ok("ready") && point.is_none() {
            verdict.faults.push(format!("round {round}: not ready within 20 s"));
        }
        let trouble = || match random(4) {
            0 => wire.cut(),
            1 => wire.stall(),
            _ => wire.heal(),
        };
        trouble();
        // Now and then it lives long enough to notice a dead wire.
        if point.is_none() && (run.bug.is_some() || random(10) == 0) {
            wire.heal();
            thread::sleep(Duration::from_millis(100 + random(400)));
            trouble();
            thread::sleep(Duration::from_millis(1500));
        }
        if point.is_some() {
            // It ends itself, or is ended when the point is never passed.
            while begun.elapsed() < Duration::from_secs(5) && child.try_wait().expect("child").is_none() {
                thread::sleep(Duration::from_millis(5));
            }
        } else {
            thread::sleep(Duration::from_millis(5 + random(250)));
        }
        let _ = child.kill();
        let _ = child.wait();
        // What it managed to say before the end, it has promised.
        for line in lines {
            let words: Vec<&str> = line.split(' ').collect();
            let ["a", device, seq, n] = words[..] else { continue };
            let (Ok(seq), Ok(n)) = (seq.parse(), n.parse()) else { continue };
            if let Some(before) = acknowledged.insert((device.to_owned(), seq), n) {
                verdict.faults.push(format!("{device} {seq} was acknowledged for {before} and again for {n}"));
            }
        }
    }
    wire.heal();
    let (mut child, _lines) = start(folder.path(), wire.port, run.kills, "drain", run.cap, &[]);
    let until = Instant::now() + Duration::from_secs(120);
    while child.try_wait().expect("child").is_none() {
        if Instant::now() > until {
            verdict.faults.push("the rest was not delivered within 120 s".into());
            let _ = child.kill();
            break;
        }
        thread::sleep(Duration::from_millis(20));
    }
    // The witness has it when its own last message is through.
    cloud.publish("witness/last", "{}", false);
    cloud.wait("the witness", Duration::from_secs(30), |seen| seen.iter().any(|(topic, _)| topic == "witness/last"));
    judge(&cloud, &acknowledged, &mut verdict);
    verdict
}

fn judge(cloud: &Cloud, acknowledged: &HashMap<(String, u64), u64>, verdict: &mut Verdict) {
    let mut declared: Vec<(String, u64, u64)> = Vec::new();
    for gap in cloud.records("gw", "gaps") {
        if gap["class"] == "telemetry" {
            let number = |key: &str| gap[key].as_u64().unwrap_or(0);
            declared.push((gap["device"].as_str().unwrap_or("").to_owned(), number("fromSeq"), number("toSeq")));
            verdict.declared += number("count");
        }
    }
    let is_declared =
        |device: &str, seq: u64| declared.iter().any(|(d, from, to)| d == device && (*from..=*to).contains(&seq));
    let mut arrived: HashMap<(String, u64), u64> = HashMap::new();
    for device in (0..DEVICES).map(|n| format!("d{n}")) {
        let mut highest = 0;
        for record in cloud.records(&device, "telemetry") {
            let (seq, n) = (record["seq"].as_u64().expect("seq"), value(&record));
            match arrived.insert((device.clone(), seq), n) {
                Some(before) if before != n => {
                    verdict.faults.push(format!("{device} {seq} came as {before} and as {n}"));
                }
                Some(_) => verdict.repeated += 1,
                None if seq < highest => verdict.faults.push(format!("{device} {seq} came first after {highest}")),
                None => highest = seq,
            }
        }
        let missing =
            (1..=highest).filter(|seq| !arrived.contains_key(&(device.clone(), *seq)) && !is_declared(&device, *seq));
        if let Some(first) = missing.clone().next() {
            verdict
                .faults
                .push(format!("{device}: {} numbers neither arrived nor declared, first {first}", missing.count()));
        }
    }
    let mut lost: BTreeMap<&str, usize> = BTreeMap::new();
    for ((device, seq), n) in acknowledged {
        match arrived.get(&(device.clone(), *seq)) {
            Some(came) if came == n => {}
            Some(came) => verdict.faults.push(format!("{device} {seq} was acknowledged as {n} and came as {came}")),
            None if is_declared(device, *seq) => {}
            None => *lost.entry(device).or_default() += 1,
        }
    }
    if !lost.is_empty() {
        verdict.faults.push(format!("acknowledged and lost: {lost:?}"));
    }
    verdict.acknowledged = acknowledged.len();
    verdict.arrived = arrived.len();
}

fn value(record: &Json) -> u64 {
    record["values"]["n"].as_u64().expect("n")
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|first| first == "child") {
        child(&args[1..]);
        return ExitCode::SUCCESS;
    }
    // The listing of test runners.
    if args.iter().any(|arg| arg == "--list") {
        return ExitCode::SUCCESS;
    }
    let kills = std::env::var("HEADGATE_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(20);
    let mut good = true;
    let mut report = |name: &str, verdict: Verdict, wanted: bool| {
        let as_wanted = verdict.faults.is_empty() == wanted;
        good &= as_wanted;
        println!(
            "{} {name}: {} acknowledged, {} arrived, {} repeated, {} declared{}",
            if as_wanted { "ok    " } else { "FAILED" },
            verdict.acknowledged,
            verdict.arrived,
            verdict.repeated,
            verdict.declared,
            if wanted { String::new() } else { format!("; the planted bug shows: {}", !verdict.faults.is_empty()) },
        );
        for fault in verdict.faults.iter().take(5) {
            println!("         {fault}");
        }
    };
    let big = 256 << 20;
    report("random kills", run(&Run { kills, points: &[], bug: None, cap: big }), true);
    report("random kills at the cap", run(&Run { kills: kills / 2, points: &[], bug: None, cap: 4 << 20 }), true);
    if cfg!(feature = "faults") {
        let points = [
            "before-commit:3",
            "after-commit:3",
            "before-commit:40",
            "after-commit:40",
            "before-cursor:1",
            "before-cursor:3",
        ];
        report("named points", run(&Run { kills: points.len() * 3, points: &points, bug: None, cap: big }), true);
        for bug in ["ack-before-commit", "cursor-before-puback"] {
            report(bug, run(&Run { kills: 30, points: &[], bug: Some(bug), cap: big }), false);
        }
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
