//! The log as those see it who rely on it: the cap is held and losses are declared, a full disk is waited for, damage
//! is survived.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use headgate::{
    config::log::LogConfig,
    model::{
        ids::DeviceId,
        record::{Kind, Lane, NewRecord, Record},
        time::Millis,
    },
    store::{Store, StoreHealth, StoreOptions},
};
use serde_json::Value as Json;

fn reading(device: &str, n: u64, size: usize) -> NewRecord {
    // Digits that compress badly, so that sizes are what they seem.
    let mut state = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let noise: String = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        char::from(33 + (state >> 33) as u8 % 90)
    })
    .filter(|c| *c != '"' && *c != '\\')
    .take(size)
    .collect();
    NewRecord {
        device: DeviceId::new(device).expect("id"),
        kind: Kind::Telemetry,
        name: None,
        ts: Millis(1_760_000_000_000 + n as i64),
        body: format!("{{\"values\":{{\"n\":{n},\"noise\":\"{noise}\"}}}}").into(),
    }
}

fn options(max_bytes: u64) -> StoreOptions {
    let log = LogConfig { max_bytes, keep_free: 0, ..LogConfig::default() };
    StoreOptions { log, gateway: DeviceId::new("gw").expect("id") }
}

async fn all(store: &Store, lane: Lane) -> Vec<Record> {
    let mut records: Vec<Record> = Vec::new();
    loop {
        let after = records.last().map_or(0, |record| record.position);
        let more = store.read_after(lane, after, 1000, 1 << 20).await.expect("read");
        if more.is_empty() {
            return records;
        }
        records.extend(more);
    }
}

/// Per device of telemetry: everything from 1 to `upto` is either there or declared, nothing both.
async fn is_complete(store: &Store, upto: u64, devices: &[&str]) -> BTreeMap<String, u64> {
    let mut causes = BTreeMap::new();
    let mut seen: BTreeMap<String, Vec<(u64, u64)>> = BTreeMap::new();
    for record in all(store, Lane::Urgent).await {
        assert_eq!(record.record.kind, Kind::Gap);
        let gap: Json = serde_json::from_slice(&record.record.body).expect("json");
        if gap["class"] != "telemetry" {
            continue;
        }
        let range = (gap["fromSeq"].as_u64().expect("from"), gap["toSeq"].as_u64().expect("to"));
        assert_eq!(gap["count"].as_u64().unwrap_or(range.1 - range.0 + 1), range.1 - range.0 + 1);
        *causes.entry(gap["cause"].as_str().expect("cause").to_owned()).or_default() += range.1 - range.0 + 1;
        seen.entry(gap["device"].as_str().expect("device").to_owned()).or_default().push(range);
    }
    for record in all(store, Lane::Telemetry).await {
        seen.entry(record.record.device.to_string()).or_default().push((record.seq, record.seq));
    }
    for device in devices {
        let ranges = seen.get_mut(*device).unwrap_or_else(|| panic!("{device}: nothing"));
        ranges.sort_unstable();
        let mut next = 1;
        for (from, to) in ranges.iter() {
            assert_eq!(*from, next, "{device}: a hole or a double before {from}");
            next = to + 1;
        }
        assert!(next > upto, "{device}: ends at {next}, expected {upto}");
    }
    causes
}

fn bytes_in(folder: &Path) -> u64 {
    // What vanishes while it is looked at has no size.
    let size =
        |entry: std::io::Result<fs::DirEntry>| entry.and_then(|entry| entry.metadata()).map_or(0, |meta| meta.len());
    fs::read_dir(folder).expect("folder").map(size).sum()
}

/// The most that the files of a folder ever had together, looked at as fast as it goes.
struct Watcher {
    done: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<u64>,
}

impl Watcher {
    fn start(folder: &Path) -> Watcher {
        let (folder, done) = (folder.to_owned(), Arc::new(AtomicBool::new(false)));
        let seen = done.clone();
        let thread = std::thread::spawn(move || {
            let mut most = 0;
            while !seen.load(Ordering::Relaxed) {
                most = most.max(bytes_in(&folder));
                std::thread::yield_now();
            }
            most
        });
        Watcher { done, thread }
    }

    fn most(self) -> u64 {
        self.done.store(true, Ordering::Relaxed);
        self.thread.join().expect("counted")
    }
}

#[tokio::test]
async fn the_cap_holds_within_a_page_and_what_goes_is_declared_once() {
    let folder = tempfile::tempdir().expect("folder");
    let cap = 4 << 20;
    let (store, thread) = Store::open_with(folder.path(), options(cap)).expect("open");
    let watcher = Watcher::start(folder.path());
    for batch in 0..100 {
        let records = (0..200).map(|n| reading(["a", "b"][n % 2], batch * 200 + n as u64, 400)).collect();
        store.append(records).await.expect("stored");
    }
    assert!(store.settle_gaps().await.expect("settled") > 0);
    let causes = is_complete(&store, 10_000, &["a", "b"]).await;
    assert!(causes["quota"] > 5_000, "{causes:?}");
    let most = watcher.most();
    assert!(most <= cap + 4096, "database, write-ahead log and its index grew to {most} of {cap}");
    let status = store.log_status("cloud").await.expect("status");
    assert_eq!(status.dropped["quota"], causes["quota"]);
    store.stop().await;
    thread.join();
}

#[tokio::test]
async fn each_class_has_an_age_of_its_own() {
    let folder = tempfile::tempdir().expect("folder");
    let mut options = options(8 << 20);
    options.log.max_age[Lane::Logs as usize] = Duration::ZERO;
    let log = |n| NewRecord { kind: Kind::DiagnosticsResponse, ..reading("a", n, 100) };
    let (store, thread) = Store::open_with(folder.path(), options.clone()).expect("open");
    store.append(vec![reading("a", 1, 100), log(1)]).await.expect("stored");
    store.stop().await;
    thread.join();
    // Ages are looked at with the first commit of a run.
    let (store, _thread) = Store::open_with(folder.path(), options).expect("open");
    store.append(vec![reading("a", 2, 100), log(2)]).await.expect("stored");
    assert_eq!(all(&store, Lane::Telemetry).await.len(), 2);
    assert_eq!(all(&store, Lane::Logs).await.iter().map(|record| record.seq).collect::<Vec<_>>(), [2]);
    assert_eq!(store.log_status("cloud").await.expect("status").dropped["age"], 1);
}

#[tokio::test]
async fn what_the_cloud_has_goes_first_and_is_no_loss() {
    let folder = tempfile::tempdir().expect("folder");
    let (store, _thread) = Store::open_with(folder.path(), options(4 << 20)).expect("open");
    for batch in 0..60 {
        let records = (0..200).map(|n| reading("a", batch * 200 + n, 400)).collect();
        store.append(records).await.expect("stored");
        for lane in Lane::ALL {
            let newest = store.appended().borrow()[lane as usize];
            store.move_cursor("cloud", lane, newest).await.expect("moved");
        }
    }
    assert_eq!(store.settle_gaps().await.expect("settled"), 0);
    assert!(all(&store, Lane::Telemetry).await[0].seq > 1_000);
}

#[tokio::test]
async fn declarations_that_are_lost_are_declared_again() {
    let folder = tempfile::tempdir().expect("folder");
    let (store, _thread) = Store::open_with(folder.path(), options(4 << 20)).expect("open");
    for batch in 0..60 {
        store.append((0..200).map(|n| reading("a", batch * 200 + n, 400)).collect()).await.expect("stored");
        store.settle_gaps().await.expect("settled");
        // Events are as urgent as declarations: enough of them, and declarations must go as well.
        if batch >= 40 {
            let event = |n| NewRecord { kind: Kind::Event, ..reading("e", n, 2000) };
            store.append((0..150).map(event).collect()).await.expect("stored");
        }
    }
    store.settle_gaps().await.expect("settled");
    let mut gone = 0;
    let mut ranges = Vec::new();
    for record in all(&store, Lane::Urgent).await {
        if record.record.kind != Kind::Gap {
            continue;
        }
        let gap: Json = serde_json::from_slice(&record.record.body).expect("json");
        if gap["device"] == "a" {
            gone += gap["count"].as_u64().expect("count");
            ranges.push((gap["fromSeq"].as_u64().expect("from"), gap["toSeq"].as_u64().expect("to")));
        }
    }
    ranges.sort_unstable();
    let kept = all(&store, Lane::Telemetry).await.iter().filter(|record| record.record.device.as_str() == "a").count();
    assert_eq!(gone + kept as u64, 12_000, "{ranges:?}");
}

#[tokio::test]
async fn a_disk_that_refuses_is_waited_for_and_readings_nobody_waited_for_are_kept() {
    let folder = tempfile::tempdir().expect("folder");
    let (store, thread) = Store::open_with(folder.path(), options(8 << 20)).expect("open");
    store.append(vec![reading("a", 1, 20)]).await.expect("stored");
    store.stop().await;
    thread.join();
    // A folder where the write-ahead log should be: the database cannot be opened until it is gone.
    let obstacle = folder.path().join("headgate.db-wal");
    fs::create_dir(&obstacle).expect("in the way");
    let (store, thread) = Store::open_with(folder.path(), options(8 << 20)).expect("boots all the same");
    assert!(matches!(&*store.health().borrow(), StoreHealth::Refusing { .. }));
    store.append(vec![reading("a", 2, 20)]).await.expect_err("not acknowledged");
    store.append_lazy((3..30).map(|n| reading("a", n, 20)).collect()).await.expect("queued");
    fs::remove_dir(&obstacle).expect("removed");
    let mut health = store.health();
    let good = health.wait_for(|health| *health == StoreHealth::Good);
    tokio::time::timeout(Duration::from_secs(10), good).await.expect("recovers").expect("runs");
    let mut appended = store.appended();
    let there = appended.wait_for(|newest| newest[Lane::Telemetry as usize] == 28);
    tokio::time::timeout(Duration::from_secs(10), there).await.expect("kept").expect("runs");
    assert_eq!(all(&store, Lane::Telemetry).await.last().expect("some").seq, 28);
    store.stop().await;
    thread.join();
}

/// A store's files as a kill leaves them: 2000 readings in the database, 2000 more in its write-ahead log.
async fn killed() -> tempfile::TempDir {
    let (folder, image) = (tempfile::tempdir().expect("folder"), tempfile::tempdir().expect("folder"));
    for half in 0..2 {
        let (store, thread) = Store::open_with(folder.path(), options(64 << 20)).expect("open");
        for batch in 0..10 {
            let first = half * 2000 + batch * 200;
            store.append((first..first + 200).map(|n| reading("a", n, 300)).collect()).await.expect("stored");
        }
        store.set_setting("kept", *b"yes").await.expect("set");
        if half == 1 {
            for name in ["headgate.db", "headgate.db-wal"] {
                fs::copy(folder.path().join(name), image.path().join(name)).expect("copied");
            }
        }
        store.stop().await;
        thread.join();
    }
    image
}

fn spoil(path: &Path, from: u64, length: usize) {
    use std::os::unix::fs::FileExt;
    let file = fs::OpenOptions::new().write(true).open(path).expect("file");
    file.write_all_at(&vec![0x5a; length], from).expect("spoiled");
}

#[tokio::test]
async fn whatever_is_damaged_it_starts_and_each_reading_is_there_or_declared() {
    let image = killed().await;
    let cut = |path: &Path, bytes: u64| {
        fs::OpenOptions::new().write(true).open(path).and_then(|file| file.set_len(bytes)).expect("cut off");
    };
    let wal = |path: &Path| path.with_file_name("headgate.db-wal");
    // What is done to the database, whether all of it must be set aside, and how many readings must be left.
    type Case<'c> = (&'static str, &'c dyn Fn(&Path), bool, usize);
    let cases: [Case<'_>; 9] = [
        ("nothing", &|_| (), false, 4000),
        ("its header", &|path| spoil(path, 0, 100), false, 4000),
        (
            "its header and all of its log",
            &|path| (spoil(path, 0, 100), fs::remove_file(wal(path)).expect("gone")).1,
            true,
            2000,
        ),
        ("pages in the middle", &|path| spoil(path, 400 << 10, 40 << 10), false, 3000),
        (
            "its second half, and its log",
            &|path| (cut(path, 400 << 10), fs::remove_file(wal(path)).expect("gone")).1,
            true,
            500,
        ),
        ("all of it", &|path| cut(path, 0), true, 0),
        ("the header of its log", &|path| spoil(&wal(path), 0, 32), true, 2000),
        ("the middle of its log", &|path| spoil(&wal(path), 400 << 10, 8 << 10), true, 2500),
        (
            "its place is taken",
            &|path| (fs::remove_file(path).expect("gone"), fs::create_dir(path).expect("made")).1,
            true,
            0,
        ),
    ];
    for (what, damage, aside, least) in cases {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("headgate.db");
        for name in ["headgate.db", "headgate.db-wal"] {
            fs::copy(image.path().join(name), folder.path().join(name)).expect("copied");
        }
        damage(&path);
        let (store, thread) = Store::open_with(folder.path(), options(64 << 20)).expect(what);
        let seq = store.append(vec![reading("a", 1, 20)]).await.expect(what)[0];
        // Damage deep inside shows when it is met.
        let kept = all(&store, Lane::Telemetry).await.len() - 1;
        assert!(kept >= least, "{what}: {kept} are left");
        assert!(!aside || store.set_aside_files() == ["headgate.db.damaged-1"], "{what}");
        assert!(seq > 4000, "{what}: number {seq} is given twice");
        store.settle_gaps().await.expect("settled");
        let known = is_complete(&store, seq, &["a"]).await;
        assert_eq!(kept < 4000, known.contains_key("damage"), "{what}: {known:?}");
        if least > 0 {
            assert_eq!(store.setting("kept").await.expect("read"), Some(b"yes".to_vec()), "{what}");
        }
        store.stop().await;
        thread.join();
    }
}

#[tokio::test]
async fn of_a_card_that_fails_again_and_again_the_last_damaged_databases_are_kept() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("headgate.db");
    for n in 1..=12 {
        let (store, thread) = Store::open_with(folder.path(), options(64 << 20)).expect("it starts");
        store.append(vec![reading("a", n, 20)]).await.expect("stored");
        let kept: Vec<String> = (n.saturating_sub(3).max(1)..n).map(|n| format!("headgate.db.damaged-{n}")).collect();
        assert_eq!(store.set_aside_files(), kept, "after {} failures", n - 1);
        store.stop().await;
        thread.join();
        spoil(&path, 0, fs::metadata(&path).expect("there").len() as usize);
    }
    let left: Vec<String> = fs::read_dir(folder.path())
        .expect("folder")
        .map(|entry| entry.expect("entry").file_name().into_string().expect("a name"))
        .filter(|name| name.contains("damaged"))
        .collect();
    assert!(left.iter().all(|name| ["-9", "-10", "-11"].iter().any(|kept| name.contains(kept))), "{left:?}");
}

/// A file system of a few megabytes, where the machine lets us make one.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(megabytes: u32) -> Option<SmallDisk> {
        let folder = tempfile::tempdir().expect("folder");
        let mut mount = std::process::Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "tmpfs"]).arg(folder.path());
        let mounted = mount.stderr(std::process::Stdio::null()).status().is_ok_and(|status| status.success());
        if !mounted {
            println!("not run: this needs the right to mount (try `unshare -rm cargo test --test log`)");
        }
        mounted.then_some(SmallDisk(folder))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_full_disk_acknowledges_nothing_and_recovers_without_a_restart() {
    let Some(disk) = SmallDisk::new(8) else { return };
    let (store, thread) = Store::open_with(disk.path(), options(64 << 20)).expect("open");
    let ballast = disk.path().join("ballast");
    fs::write(&ballast, vec![1; 5 << 20]).expect("room for it");
    let mut acknowledged = Vec::new();
    let mut refused = 0;
    for n in 0..6000 {
        match store.append(vec![reading("a", n, 1000)]).await {
            Ok(seqs) => acknowledged.push((seqs[0], n)),
            Err(_) => refused += 1,
        }
        if refused == 50 {
            break;
        }
    }
    assert_eq!(refused, 50, "the disk was never full");
    assert!(matches!(&*store.health().borrow(), StoreHealth::Refusing { .. }));
    store.append_lazy((0..100).map(|n| reading("b", n, 1000)).collect()).await.expect("queued");
    fs::remove_file(&ballast).expect("removed");
    let mut health = store.health();
    let good = health.wait_for(|health| *health == StoreHealth::Good);
    tokio::time::timeout(Duration::from_secs(10), good).await.expect("recovers").expect("runs");
    acknowledged.push((store.append(vec![reading("a", 9999, 1000)]).await.expect("stored")[0], 9999));
    store.stop().await;
    thread.join();
    let (store, thread) = Store::open_with(disk.path(), options(64 << 20)).expect("open");
    let kept = all(&store, Lane::Telemetry).await;
    for (seq, n) in acknowledged {
        let found = kept.iter().find(|record| record.record.device.as_str() == "a" && record.seq == seq);
        assert_eq!(found.map(|record| &record.record), Some(&reading("a", n, 1000)), "seq {seq}");
    }
    assert_eq!(kept.iter().filter(|record| record.record.device.as_str() == "b").count(), 100);
    store.stop().await;
    thread.join();
}

#[tokio::test]
async fn the_last_of_the_disk_is_left_to_others() {
    let Some(disk) = SmallDisk::new(24) else { return };
    let mut options = options(64 << 20);
    options.log.keep_free = 8 << 20;
    let (store, thread) = Store::open_with(disk.path(), options).expect("open");
    let free = || {
        let space = rustix::fs::statvfs(disk.path()).expect("a disk");
        space.f_bavail * space.f_frsize
    };
    let mut n = 0;
    let mut append = async || {
        store.append((n..n + 20).map(|n| reading("a", n, 1000)).collect()).await.expect("never refused");
        n += 20;
        n
    };
    let held = || {
        let files = ["headgate.db", "headgate.db-wal"].map(|name| fs::metadata(disk.path().join(name)));
        files.into_iter().map(|file| file.expect("file").len()).sum::<u64>()
    };
    while append().await < 6000 {}
    let before = held();
    // Somebody else takes what was to be left: the log gives back what it has, until the floor is there again.
    fs::write(disk.path().join("ballast"), vec![1; (free() - (5 << 20)) as usize]).expect("room for it");
    let until = Instant::now() + Duration::from_secs(40);
    let mut last = 0;
    while free() < (7 << 20) {
        last = append().await;
        assert!(Instant::now() < until, "{} MB free", free() >> 20);
    }
    let after = held();
    assert!(after < before, "the log did not shrink: {before} to {after}");
    assert!(store.settle_gaps().await.expect("settled") > 0, "nothing had to go");
    let causes = is_complete(&store, last, &["a"]).await;
    assert!(causes["quota"] > 0);
    store.stop().await;
    thread.join();
}
