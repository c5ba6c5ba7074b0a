//! kill -9 of the real daemon, and power cuts under it, at random moments while children publish with QoS 1 and 2 through the broker's door: nothing
//! that was acknowledged may be lost, and of QoS 2 nothing may be there, or be heard by a
//! subscriber whose session is kept, twice. Counted by clients of our own and by
//! what `mosquitto_sub` saw arrive upstream; the daemon's store is never asked.
//!
//! `HEADGATE_KILLS=200 cargo test --test broker_crash` for the long run; `-- kills` or `-- power` for one of the two.

mod client;
#[allow(dead_code)] // shared with other tests
#[path = "../road/cloud.rs"]
mod cloud;
#[allow(dead_code)]
#[path = "../road/disk.rs"]
mod disk;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fs::{self, File},
    hash::{BuildHasher, Hasher, RandomState},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    sync::{Arc, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};

use client::{Publisher, Shared, Subscriber};
use cloud::Cloud;
use disk::PowerDisk;

/// Device, QoS, MQTT 5.
const DEVICES: [(&str, u8, bool); 6] =
    [("a4", 1, false), ("a5", 1, true), ("b5", 1, true), ("x4", 2, false), ("x5", 2, true), ("y5", 2, true)];
/// How long a start, or the way of the last message, may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

fn random(below: u64) -> u64 {
    RandomState::new().build_hasher().finish() % below
}

fn configure(folder: &Path, port: u16, cloud: u16) {
    let main = format!(
        "[gateway]\nid = \"gw\"\nstate = \"{}\"\nlog_level = \"warn\"\n[log]\nkeep_free = \"1MiB\"\n[broker]\n\
         tcp = [\"127.0.0.1:{port}\"]\ntls = []\nanonymous = \"by_client_id\"\n[broker.limits]\n\
         connects_per_second = 10000\n[web]\nenabled = false\n[uplink]\nbroker = \"mqtt://127.0.0.1:{cloud}\"\n\
         retry_first = \"100ms\"\nretry_most = \"500ms\"\n",
        folder.join("state").display()
    );
    fs::write(folder.join("headgate.toml"), main).expect("written");
    let grant = "[[grant]]\nto = [\"device:hmi\"]\nread = [\"devices/+/telemetry\"]\n";
    fs::write(folder.join("access.toml"), grant).expect("written");
    for name in ["headgate.toml", "access.toml"] {
        File::open(folder.join(name)).and_then(|file| file.sync_all()).expect("there after a power cut");
    }
}

/// What the daemon's folder lies on, and so what the end of a round is.
enum Ground {
    /// A kill.
    Folder(tempfile::TempDir),
    /// A power cut.
    Power(PowerDisk),
}

impl Ground {
    fn path(&self) -> PathBuf {
        match self {
            Ground::Folder(folder) => folder.path().to_owned(),
            Ground::Power(disk) => disk.path(),
        }
    }

    fn ends(&mut self, daemon: Child) {
        let Ground::Power(disk) = self else { return end(daemon) };
        // It is stopped first: a dying file system lets single syncs return without error (tests/log_crash), and what a
        // daemon without power would have said after one of them nobody could have heard.
        stop(&daemon);
        disk.cut();
        end(daemon);
        disk.restore().expect("the power comes back");
    }
}

/// No thread of it runs on, except inside the kernel.
fn stop(daemon: &Child) {
    let pid = daemon.id();
    assert!(Command::new("kill").args(["-STOP", &pid.to_string()]).status().expect("kill").success());
    let running = || {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("its threads");
        tasks.flatten().any(|task| {
            let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['T', 'D']))
        })
    };
    let begun = Instant::now();
    while running() {
        assert!(begun.elapsed() < PATIENCE, "the daemon does not stop");
        thread::sleep(Duration::from_millis(1));
    }
}

fn start(folder: &Path) -> Child {
    let log = File::options().create(true).append(true).open(folder.join("log")).expect("a log");
    Command::new(env!("CARGO_BIN_EXE_headgate"))
        .args(["run", "--config"])
        .arg(folder)
        .env_remove("JOURNAL_STREAM")
        .env_remove("STATE_DIRECTORY")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("headgate starts")
}

fn end(mut daemon: Child) {
    let _ = daemon.kill();
    let _ = daemon.wait();
}

/// Waits until the children are acknowledged again.
fn moving(shared: &Shared, folder: &Path) {
    let before = shared.acknowledged.load(Ordering::Relaxed);
    let begun = Instant::now();
    while shared.acknowledged.load(Ordering::Relaxed) == before {
        if begun.elapsed() > PATIENCE {
            let log = fs::read_to_string(folder.join("log")).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(20).collect();
            panic!("nothing is acknowledged any more; the daemon said\n{}", tail.join("\n"));
        }
        thread::sleep(Duration::from_millis(2));
    }
}

fn main() -> ExitCode {
    // the listing of test runners
    if std::env::args().any(|argument| argument == "--list") {
        return ExitCode::SUCCESS;
    }
    let asked = |name: &str| {
        let mut names = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).peekable();
        names.peek().is_none() || names.any(|argument| name.contains(&argument))
    };
    let kills: usize = std::env::var("HEADGATE_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(12);
    let mut faults = Vec::new();
    if asked("kills") {
        faults.extend(run("kills", kills, Ground::Folder(tempfile::tempdir().expect("folder"))));
    }
    if asked("power cuts") {
        match PowerDisk::new(512) {
            Ok(disk) => faults.extend(run("power cuts", kills / 2, Ground::Power(disk))),
            Err(why) => println!("not run: power cuts: {why}"),
        }
    }
    for fault in faults.iter().take(20) {
        println!("FAILED {fault}");
    }
    if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Publishes through so many ends of the daemon; what went wrong.
fn run(name: &str, ends: usize, mut ground: Ground) -> Vec<String> {
    let (cloud, folder) = (Cloud::start(), ground.path());
    let port = cloud::ports::free_port();
    configure(&folder, port, cloud.port);
    let shared = Arc::new(Shared::default());
    let mut daemon = start(&folder);
    let subscriber = thread::spawn({
        let shared = shared.clone();
        move || Subscriber::run(port, DEVICES.len(), &shared)
    });
    let begun = Instant::now();
    while !shared.listening.load(Ordering::Relaxed) {
        assert!(begun.elapsed() < PATIENCE, "the subscriber is not heard");
        thread::sleep(Duration::from_millis(2));
    }
    let publishers: Vec<_> = DEVICES
        .iter()
        .map(|(device, qos, v5)| {
            let (publisher, shared) = (Publisher::new((*device).to_owned(), *qos, *v5, port), shared.clone());
            thread::spawn(move || publisher.run(&shared))
        })
        .collect();
    for _ in 0..ends {
        moving(&shared, &folder);
        thread::sleep(Duration::from_millis(random(250)));
        ground.ends(daemon);
        daemon = start(&folder);
    }
    moving(&shared, &folder);
    shared.finish.store(true, Ordering::Relaxed);
    let publishers: Vec<Publisher> = publishers.into_iter().map(|one| one.join().expect("a publisher")).collect();
    let subscriber = subscriber.join().expect("the subscriber");
    cloud.wait("the last message of every device", PATIENCE, |seen| {
        let last = seen.iter().rev().take(2000).filter(|(_, payload)| payload.contains("\"end\":1"));
        last.map(|(topic, _)| topic).collect::<HashSet<_>>().len() == DEVICES.len()
    });
    end(daemon);
    judge(&cloud, &publishers, &subscriber, &format!("{ends} {name}"), &shared)
}

fn judge(cloud: &Cloud, publishers: &[Publisher], subscriber: &Subscriber, what: &str, shared: &Shared) -> Vec<String> {
    let mut faults = std::mem::take(&mut *shared.faults.lock().expect("lock"));
    let (mut total, mut doubled, mut heard_twice) = (0, 0, 0);
    for publisher in publishers {
        let (device, qos) = (&publisher.device, publisher.qos);
        // a number of the child to the numbers of the log it has: a repetition upstream keeps its number of the log
        let mut arrived: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
        for record in cloud.records(device, "telemetry") {
            if let (Some(n), Some(seq)) = (record["values"]["n"].as_u64(), record["seq"].as_u64()) {
                arrived.entry(n).or_default().insert(seq);
            }
        }
        let heard = subscriber.got.get(device).cloned().unwrap_or_default();
        let lost: Vec<u64> = publisher.acknowledged.iter().filter(|n| !arrived.contains_key(n)).copied().collect();
        let unheard = publisher.acknowledged.iter().filter(|n| !heard.contains_key(n)).count();
        let twice = arrived.values().filter(|seqs| seqs.len() > 1).count();
        let again = heard.values().filter(|count| **count > 1).count();
        if !lost.is_empty() {
            faults.push(format!("{device} (QoS {qos}): {} acknowledged and lost, such as {}", lost.len(), lost[0]));
        }
        if unheard > 0 {
            faults.push(format!("{device} (QoS {qos}): {unheard} acknowledged and never heard by the subscriber"));
        }
        if qos == 2 && twice > 0 {
            faults.push(format!("{device} (QoS 2): {twice} are in the log twice"));
        }
        if qos == 2 && again > 0 {
            faults.push(format!("{device} (QoS 2): {again} were heard twice by the subscriber"));
        }
        heard_twice += again;
        total += publisher.acknowledged.len();
        doubled += twice;
    }
    println!(
        "{what}: {total} acknowledged, {} faults; {doubled} of QoS 1 logged twice, {heard_twice} heard twice by \
         the local subscriber",
        faults.len()
    );
    faults
}
