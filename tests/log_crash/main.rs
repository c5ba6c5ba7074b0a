//! kill -9 at random and at named points, power cuts and full disks, while publishers run at full rate and the wire to
//! the cloud breaks: nothing that was acknowledged may be lost. The counting is done here, from what a child process
//! said was acknowledged and what `mosquitto_sub` saw arrive; the store is never asked.
//!
//! `HEADGATE_KILLS=500 cargo test --test log_crash` for the long run; with `--features faults` the named points and the
//! planted bugs are run as well, and each planted bug must be caught.

mod child;
mod judge;
#[path = "../road/mod.rs"]
mod road;

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use judge::{Acknowledged, Verdict, judge};
use road::{
    cloud::Cloud,
    disk::{PowerDisk, SmallDisk},
    wire::TcpWire,
};

const DEVICES: usize = 8;
const ROOMY: u64 = 256 << 20;
/// Runs of ten kills that a planted bug may stay hidden for.
const TRIES: usize = 10;

/// What the log lies on.
enum Ground {
    Folder(tempfile::TempDir),
    /// The end of a round is a power cut, not only a kill.
    Power(PowerDisk),
    /// Full in about half of the rounds.
    Small(SmallDisk),
}

impl Ground {
    fn folder() -> Ground {
        Ground::Folder(tempfile::tempdir().expect("folder"))
    }

    fn path(&self) -> PathBuf {
        match self {
            Ground::Folder(folder) => folder.path().to_owned(),
            Ground::Power(disk) => disk.path(),
            Ground::Small(disk) => disk.path().to_owned(),
        }
    }
}

/// What the wire does in a round.
#[derive(Clone, Copy, PartialEq)]
enum Weather {
    Random,
    /// No cloud at all.
    Away,
    /// Whole at first; then it swallows what is on its way, and the process lives on until it has noticed.
    Swallows,
}

struct Run<'r> {
    kills: usize,
    /// `HEADGATE_FAULT` of each child in turn, where points are tried.
    points: &'r [&'r str],
    bug: Option<&'r str>,
    cap: u64,
    weather: Weather,
}

impl Default for Run<'_> {
    fn default() -> Self {
        Run { kills: 20, points: &[], bug: None, cap: ROOMY, weather: Weather::Random }
    }
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

/// The life of one child between its start and its end.
fn live(run: &Run<'_>, ground: &Ground, wire: &TcpWire, child: &mut Child, point: bool) {
    let begun = Instant::now();
    let millis = |least: u64, span: u64| thread::sleep(Duration::from_millis(least + random(span)));
    let trouble = || match random(4) {
        0 => wire.cut(),
        1 => wire.stall(),
        _ => wire.heal(),
    };
    match run.weather {
        Weather::Away => wire.cut(),
        Weather::Swallows => {
            wire.heal();
            millis(300, 300);
            wire.stall();
            // Longer than the process takes to notice (`unacked_timeout` of the child): it writes its cursor down then.
            millis(1400, 100);
        }
        Weather::Random => {
            trouble();
            // Now and then it lives long enough to notice a dead wire.
            if !point && random(10) == 0 {
                wire.heal();
                millis(100, 400);
                trouble();
                millis(1500, 1);
            }
        }
    }
    if point {
        // It ends itself, or is ended when the point is never passed.
        while begun.elapsed() < Duration::from_secs(5) && child.try_wait().expect("child").is_none() {
            thread::sleep(Duration::from_millis(5));
        }
        return;
    }
    if let Ground::Small(disk) = ground {
        match random(2) {
            0 => disk.fill(random(200_000)),
            _ => disk.free(),
        }
    }
    millis(5, 250);
}

/// Ends a child and returns what it said before its end.
fn end(ground: &mut Ground, wire: &TcpWire, child: &mut Child, lines: mpsc::Receiver<String>) -> Vec<String> {
    let mut said = Vec::new();
    if let Ground::Power(disk) = ground {
        // Without power nobody hears anything any more. The dying file system makes that rule necessary: ext4 that is being shut
        // down lets one sync of a growing file return without error whose blocks never come to be (9 of 100 cuts of a program
        // that does nothing but append, sync and count), which no machine without power could still tell anybody.
        wire.cut();
        said.extend(lines.try_iter());
        disk.cut();
    }
    let _ = child.kill();
    let _ = child.wait();
    match ground {
        Ground::Power(disk) => disk.restore().expect("the power comes back"),
        _ => said.extend(lines),
    }
    said
}

fn run(run: &Run<'_>, ground: &mut Ground) -> Verdict {
    let cloud = Cloud::start();
    let (folder, wire) = (ground.path(), TcpWire::to(cloud.port));
    let mut acknowledged = Acknowledged::new();
    let mut verdict = Verdict::default();
    for round in 0..run.kills {
        let point = run.points.get(round % run.points.len().max(1)).copied();
        let mut env: Vec<(&str, &str)> = run.bug.map(|bug| ("HEADGATE_BUG", bug)).into_iter().collect();
        env.extend(point.map(|point| ("HEADGATE_FAULT", point)));
        let (mut child, lines) = start(&folder, wire.port, round, "publish", run.cap, &env);
        let ready = lines.recv_timeout(Duration::from_secs(20));
        if ready.as_deref() != Ok("ready") && point.is_none() {
            verdict.faults.push(format!("round {round}: not ready within 20 s"));
        }
        live(run, ground, &wire, &mut child, point.is_some());
        let said = end(ground, &wire, &mut child, lines);
        // What it managed to say before the end, it has promised.
        for line in said {
            let words: Vec<&str> = line.split(' ').collect();
            let ["a", device, seq, n] = words[..] else { continue };
            let (Ok(seq), Ok(n)) = (seq.parse(), n.parse()) else { continue };
            if let Some(before) = acknowledged.insert((device.to_owned(), seq), n) {
                verdict.faults.push(format!("{device} {seq} was acknowledged for {before} and again for {n}"));
            }
        }
    }
    if let Ground::Small(disk) = ground {
        disk.free();
    }
    wire.heal();
    let (mut child, _lines) = start(&folder, wire.port, run.kills, "drain", run.cap, &[]);
    let until = Instant::now() + Duration::from_secs(120);
    while child.try_wait().expect("child").is_none() {
        if Instant::now() > until {
            verdict.faults.push("the rest was not delivered within 120 s".into());
            let _ = child.kill();
            break;
        }
        thread::sleep(Duration::from_millis(20));
    }
    let _ = child.wait();
    // The witness has it when its own last message is through.
    cloud.publish("witness/last", "{}", false);
    cloud.wait("the witness", Duration::from_secs(30), |seen| seen.iter().any(|(topic, _)| topic == "witness/last"));
    judge(&cloud, &acknowledged, &mut verdict);
    verdict
}

/// Says what came of each run, and whether all came as it should.
struct Report {
    good: bool,
}

impl Report {
    fn say(&mut self, name: &str, verdict: &Verdict, wanted: bool) {
        let as_wanted = verdict.faults.is_empty() == wanted;
        self.good &= as_wanted;
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
    }

    /// Runs with a planted bug. A kill meets it by chance: it has some more of them, each time on new ground.
    fn try_until_caught(&mut self, name: &str, ground: impl Fn() -> Result<Ground, String>, what: &Run<'_>) {
        for left in (0..TRIES).rev() {
            let mut ground = match ground() {
                Ok(ground) => ground,
                Err(why) => return println!("not run: {name}: {why}"),
            };
            let verdict = run(what, &mut ground);
            if left == 0 || !verdict.faults.is_empty() {
                return self.say(name, &verdict, false);
            }
        }
    }

    /// Runs on a ground that the machine may not give.
    fn try_on(&mut self, name: &str, ground: Result<Ground, String>, what: &Run<'_>) {
        match ground {
            Ok(mut ground) => self.say(name, &run(what, &mut ground), true),
            Err(why) => println!("not run: {name}: {why}"),
        }
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|first| first == "child") {
        child::child(&args[1..]);
        return ExitCode::SUCCESS;
    }
    // The listing of test runners.
    if args.iter().any(|arg| arg == "--list") {
        return ExitCode::SUCCESS;
    }
    // `cargo test --test log_crash -- power`: only the runs that are named so.
    let wanted = |name: &str| args.iter().all(|arg| arg.starts_with('-')) || args.iter().any(|arg| name.contains(arg));
    let kills = std::env::var("HEADGATE_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(20);
    let mut report = Report { good: true };
    let power = || PowerDisk::new(512).map(Ground::Power);
    let small = || SmallDisk::new(24).map(Ground::Small);
    for name in ["random kills", "random kills at the cap", "power cuts", "random kills with a full disk between"] {
        if !wanted(name) {
            continue;
        }
        match name {
            "random kills" => report.say(name, &run(&Run { kills, ..Run::default() }, &mut Ground::folder()), true),
            "random kills at the cap" => {
                let at_cap = Run { kills: kills / 2, cap: 4 << 20, ..Run::default() };
                report.say(name, &run(&at_cap, &mut Ground::folder()), true);
            }
            "power cuts" => report.try_on(name, power(), &Run { kills: kills / 2, ..Run::default() }),
            _ => report.try_on(name, small(), &Run { kills, cap: 16 << 20, ..Run::default() }),
        }
    }
    if cfg!(feature = "faults") {
        let points = [
            "before-commit:3",
            "after-commit:3",
            "before-commit:40",
            "after-commit:40",
            "before-cursor:1",
            "before-cursor:3",
        ];
        if wanted("named points") {
            let run_points = Run { kills: points.len() * 3, points: &points, ..Run::default() };
            report.say("named points", &run(&run_points, &mut Ground::folder()), true);
        }
        for (bug, weather) in [
            ("ack-before-commit", Weather::Random),
            ("cursor-before-puback", Weather::Swallows),
            ("skip-sync", Weather::Away),
        ] {
            if !wanted(bug) {
                continue;
            }
            let planted = Run { kills: 10, bug: Some(bug), weather, ..Run::default() };
            // A process that dies takes nothing from the page cache with it: only a power cut shows a sync that was skipped.
            let ground = || if bug == "skip-sync" { power() } else { Ok(Ground::folder()) };
            report.try_until_caught(bug, ground, &planted);
        }
    }
    if report.good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
