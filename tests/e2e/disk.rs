//! A disk that fails under the running daemon: nothing is acknowledged, everybody is told why, and when the disk is well
//! again it goes on without a restart.

use std::{fs, io::Write, path::PathBuf, process::Command};

use serde_json::json;

use super::{
    eventually,
    gateway::Gateway,
    preload::Preload,
    site::{Child, Ground, assert_gap_free, output},
};

/// What a child with MQTT 5 is told of one reading.
fn told(ground: &Ground, child: &Child, n: u64) -> String {
    let (port, topic) = (ground.mqtt.to_string(), format!("devices/{}/telemetry", child.device));
    let reading = json!({"n": n}).to_string();
    let address = ["-V", "5", "-d", "-h", "127.0.0.1", "-p", &port, "-q", "1", "-t", &topic, "-m", &reading];
    let who = ["-i", "room/5", "-u", &child.device, "-P", child.token()];
    output("timeout", &[&["20", "mosquitto_pub"], &address[..], &who].concat())
}

/// Whether the database is whole, in the eyes of a program that nobody here wrote.
fn integrity(gateway: &Gateway) -> String {
    let check =
        "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute('PRAGMA integrity_check').fetchone()[0])";
    output("python3", &["-c", check, &gateway.state_folder().join("headgate.db").display().to_string()])
}

/// Every reading of `numbers` is in the cloud, numbered without a hole.
fn all_there(ground: &Ground, numbers: std::ops::RangeInclusive<u64>) {
    let account = || ground.counted("room").account("room");
    eventually("the last reading", || (account().own.last()? == *numbers.end()).then_some(()));
    let own = account().own;
    let missing: Vec<u64> = numbers.filter(|n| !own.runs().any(|run| run.contains(n))).collect();
    assert_eq!(missing, Vec::<u64>::new(), "acknowledged to the child, and not in the cloud");
    assert_gap_free(&ground.telemetry("room"));
    assert!(ground.cloud.on("devices/gw/gaps").is_empty(), "nothing was given up");
}

fn waits_for(how: &str, reason: &str) {
    let (disk, ground) = (Preload::new("failing.c", "HEADGATE_TEST_DISK"), Ground::new());
    let mut gateway = disk.around(ground.gateway("")).start();
    let child = ground.child(&gateway, "room");
    assert!(child.measures(1..=50), "before");
    let errors = child.listens("errors");

    disk.obeys(how);
    let refused = told(&ground, &child, 51);
    assert!(refused.contains("failed: Implementation specific error"), "{refused}");
    let error = errors.expect("devices/room/errors", |error| error["code"] == "store-unavailable");
    assert!(error["message"].as_str().is_some_and(|why| why.contains(reason)), "{error}");
    // Whoever looks at the gateway sees it as well.
    let why =
        gateway.eventually("the reason", |gateway| gateway.get("/v1/log")["refusing"].as_str().map(str::to_owned));
    assert!(why.contains(reason), "{why}");
    let notices = gateway.get("/v1/status")["notices"].to_string();
    assert!(notices.contains("nothing is acknowledged") && notices.contains(reason), "{notices}");
    let status = gateway.cli(&["status"]);
    assert!(String::from_utf8_lossy(&status.stdout).contains(reason), "{status:?}");
    for n in 51..=55 {
        assert!(told(&ground, &child, n).contains("failed"), "acknowledged while nothing can be stored");
    }

    disk.rests();
    gateway.eventually("well again", |gateway| gateway.get("/v1/log")["refusing"].is_null().then_some(()));
    assert!(child.measures(51..=150), "after, without a restart");
    all_there(&ground, 1..=150);
    gateway.kill();
    assert_eq!(integrity(&gateway), "ok\n");
    gateway.start_again();
    assert!(child.measures(151..=160));
    all_there(&ground, 1..=160);
}

#[test]
fn syncs_that_fail_are_waited_for() {
    waits_for("sync", "disk I/O error");
}

#[test]
fn a_full_disk_is_waited_for() {
    waits_for("full", "full");
}

#[test]
fn a_disk_that_turned_read_only_is_waited_for() {
    waits_for("read-only", "disk");
}

#[test]
fn an_acknowledgement_does_not_wait_while_the_log_is_moved_into_the_database() {
    let (disk, ground) = (Preload::new("failing.c", "HEADGATE_TEST_DISK"), Ground::new());
    let gateway = disk.around(ground.gateway("[log]\nmax_size = \"4MiB\"\n")).start();
    let child = ground.child(&gateway, "room");
    disk.obeys("hold");
    let begun = (1..500).find(|n| {
        assert!(told(&ground, &child, *n).contains("PUBACK"), "{n}");
        disk.holds()
    });
    let begun = begun.expect("the log is moved at some time");
    for n in begun + 1..=begun + 10 {
        assert!(told(&ground, &child, n).contains("PUBACK"), "{n}");
    }
    disk.rests();
    all_there(&ground, 1..=begun + 10);
}

fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let done = Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if done.status.success() { Ok(text(&done.stdout)) } else { Err(format!("{program}: {}", text(&done.stderr))) }
}

/// ext4 on a loop device, which turns read-only at the first error it finds, as most systems mount it.
struct Card {
    folder: tempfile::TempDir,
    device: String,
}

impl Card {
    /// `None`, and a word about it, where the machine does not allow it.
    fn here() -> Option<Card> {
        Card::new().inspect_err(|why| println!("not run: this needs the right to mount: {why}")).ok()
    }

    fn new() -> Result<Card, String> {
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let mut card = Card { folder, device: String::new() };
        fs::create_dir(card.path()).map_err(|error| error.to_string())?;
        let image = card.image();
        fs::File::create(&image).and_then(|file| file.set_len(64 << 20)).map_err(|error| error.to_string())?;
        // Nothing is kept for root: it may be who runs this.
        run("mkfs.ext4", &["-q", "-m", "0", &image])?;
        card.insert()?;
        Ok(card)
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("mounted")
    }

    fn image(&self) -> String {
        self.folder.path().join("image").display().to_string()
    }

    /// On a device of its own: while the daemon holds files of the old one, that one still stands there.
    fn insert(&mut self) -> Result<(), String> {
        self.device = run("losetup", &["--find", "--show", &self.image()])?;
        run("mount", &["-o", "errors=remount-ro", &self.device, &self.path().display().to_string()]).map(drop)
    }

    /// Others take all of it.
    fn fill(&self) {
        let mut file = fs::File::create(self.path().join("others")).expect("a file");
        let mut chunk = vec![0x55_u8; 1 << 20];
        while !chunk.is_empty() {
            if file.write_all(&chunk).is_err() {
                chunk.truncate(chunk.len() / 2);
            }
        }
    }

    fn tidy(&self) {
        fs::remove_file(self.path().join("others")).expect("removed");
    }

    fn mount_again(&self, how: &str) {
        run("mount", &["-o", &format!("remount,{how}"), &self.path().display().to_string()]).expect("mounted");
    }

    fn error(&self) -> Result<(), String> {
        let name = self.device.trim_start_matches("/dev/");
        fs::write(format!("/sys/fs/ext4/{name}/trigger_fs_error"), "1").map_err(|error| error.to_string())
    }

    fn take_out(&self) {
        let _ = run("umount", &["-l", &self.path().display().to_string()]);
        // Gone as soon as nobody holds a file of it any more.
        let _ = run("losetup", &["--detach", &self.device]);
    }
}

impl Drop for Card {
    fn drop(&mut self) {
        self.take_out();
    }
}

#[test]
fn a_card_that_breaks_and_is_mounted_again_is_written_to_without_a_restart() {
    let Some(mut card) = Card::here() else { return };
    let ground = Ground::new();
    let mut gateway = ground.gateway("").state(card.path().join("state")).start();
    let child = ground.child(&gateway, "room");
    assert!(child.measures(1..=50), "before");
    all_there(&ground, 1..=50);

    card.error().expect("ext4 finds an error");
    let refused = told(&ground, &child, 51);
    assert!(refused.contains("failed: Implementation specific error"), "{refused}");
    let status = gateway.get("/v1/status");
    assert!(status["log"]["refusing"].is_string(), "{status}");
    assert!(status["notices"].to_string().contains("nothing is acknowledged"), "{status}");

    card.take_out();
    card.insert().expect("mounted again");
    eventually("taken in again", || (!told(&ground, &child, 52).contains("failed")).then_some(()));
    assert!(child.measures(53..=150), "after, without a restart");
    all_there(&ground, 52..=150);
    gateway.stop();
    assert_eq!(integrity(&gateway), "ok\n");
    gateway.start_again();
    assert!(child.measures(151..=160));
    all_there(&ground, 52..=160);
    drop(gateway);
}

#[test]
fn a_gateway_comes_up_on_a_disk_that_others_have_filled_and_says_so() {
    let Some(card) = Card::here() else { return };
    let ground = Ground::new();
    let mut gateway = ground.gateway("[log]\nkeep_free = \"1MiB\"\n").state(card.path().join("state")).start();
    let child = ground.child(&gateway, "room");
    assert!(child.measures(1..=50), "before");
    all_there(&ground, 1..=50);
    gateway.stop();

    card.fill();
    gateway.start_again();
    // What little was held for this lasts for some readings.
    let first = (51..20_000).find(|n| told(&ground, &child, *n).contains("failed")).expect("full");
    let status = gateway.get("/v1/status");
    assert!(status["notices"].to_string().contains("nothing is acknowledged"), "{status}");

    card.tidy();
    gateway.eventually("well again", |gateway| gateway.get("/v1/log")["refusing"].is_null().then_some(()));
    assert!(child.measures(first..=first + 50), "after, without a restart");
    all_there(&ground, 1..=first + 50);
    gateway.stop();
    card.fill();
    gateway.start_again();
    gateway.get("/v1/status");
    drop(gateway);
}

#[test]
fn a_gateway_that_starts_on_a_read_only_disk_waits_for_it_and_says_why() {
    let Some(card) = Card::here() else { return };
    let ground = Ground::new();
    let mut gateway = ground.gateway("").state(card.path().join("state")).start();
    let child = ground.child(&gateway, "room");
    assert!(child.measures(1..=50), "before");
    gateway.stop();

    card.mount_again("ro");
    gateway.start_until("STATUS=waiting for the disk: the state folder");
    card.mount_again("rw");
    gateway.says("READY=1");
    assert!(child.measures(51..=60), "after, without a restart");
    all_there(&ground, 1..=60);
    drop(gateway);
}
