//! The brokers of the benchmark as processes of their own: the real daemon, and Debian's mosquitto in two settings.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

pub struct Peer {
    pub name: &'static str,
    pub plain: u16,
    pub tls: u16,
    child: Child,
    _folder: tempfile::TempDir,
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").port()
}

/// A folder on the disk that the build is on: what is synced must meet a real disk.
fn folder() -> tempfile::TempDir {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    tempfile::tempdir_in(target).expect("a folder")
}

impl Peer {
    pub fn headgate() -> Peer {
        let (folder, plain, tls) = (folder(), free_port(), free_port());
        let main = format!(
            "[gateway]\nid = \"gw\"\nstate = \"{}\"\nlog_level = \"error\"\n[log]\nkeep_free = \"1MiB\"\n[broker]\n\
             tcp = [\"127.0.0.1:{plain}\"]\ntls = [\"127.0.0.1:{tls}\"]\nanonymous = \"by_client_id\"\n\
             [broker.limits]\nconnections_per_address = 4096\nanonymous_devices = 100000\nconnects_per_second = 10000\n[web]\nenabled = false\n",
            folder.path().join("state").display()
        );
        fs::write(folder.path().join("headgate.toml"), main).expect("written");
        let grant =
            "[[grant]]\nto = [\"everyone\"]\nread = [\"bench/#\", \"devices/+/telemetry\"]\nwrite = [\"bench/#\"]\n";
        fs::write(folder.path().join("access.toml"), grant).expect("written");
        let mut command = Command::new(env!("CARGO_BIN_EXE_headgate"));
        command.args(["run", "--config"]).arg(folder.path()).env_remove("JOURNAL_STREAM");
        Self::start("headgate", command, folder, plain, tls)
    }

    /// As Debian ships it, with ports, TLS and longer queues: with its 1,000 messages it would drop what is measured.
    pub fn mosquitto(saving: bool) -> Peer {
        let (folder, plain, tls) = (folder(), free_port(), free_port());
        let path = |name: &str| folder.path().join(name).display().to_string();
        let key = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
        fs::write(path("cert.pem"), key.cert.pem()).expect("written");
        fs::write(path("key.pem"), key.signing_key.serialize_pem()).expect("written");
        let mut main = format!(
            "user root\nallow_anonymous true\nmax_queued_messages 0\nlog_type error\nlistener {plain} 127.0.0.1\n\
             listener {tls} 127.0.0.1\ncertfile {}\nkeyfile {}\n",
            path("cert.pem"),
            path("key.pem")
        );
        if saving {
            main.push_str("persistence true\nautosave_on_changes true\nautosave_interval 1\n");
            main.push_str(&format!("persistence_location {}/\n", folder.path().display()));
        }
        fs::write(path("mosquitto.conf"), main).expect("written");
        let mut command = Command::new("mosquitto");
        command.arg("-c").arg(path("mosquitto.conf"));
        let name = if saving { "mosquitto, saving every change" } else { "mosquitto" };
        Self::start(name, command, folder, plain, tls)
    }

    fn start(name: &'static str, mut command: Command, folder: tempfile::TempDir, plain: u16, tls: u16) -> Peer {
        let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = quiet.spawn().unwrap_or_else(|error| panic!("{name} starts (apt-get install mosquitto): {error}"));
        let until = Instant::now() + Duration::from_secs(20);
        while [plain, tls].iter().any(|port| TcpStream::connect(("127.0.0.1", *port)).is_err()) {
            assert!(Instant::now() < until, "{name} does not listen");
            thread::sleep(Duration::from_millis(20));
        }
        Peer { name, plain, tls, child, _folder: folder }
    }

    fn proc(&self, file: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).unwrap_or_default()
    }

    /// Seconds of processor time so far.
    pub fn cpu(&self) -> f64 {
        let stat = self.proc("stat");
        let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
        let ticks: Vec<f64> = after.split_whitespace().skip(11).take(2).filter_map(|word| word.parse().ok()).collect();
        ticks.iter().sum::<f64>() / 100.0
    }

    /// Resident memory now, MB.
    pub fn memory(&self) -> f64 {
        self.status("VmRSS:")
    }

    /// What of it is not pages of the program file and its libraries, which the system may drop and share.
    pub fn own_memory(&self) -> f64 {
        self.status("RssAnon:")
    }

    fn status(&self, key: &str) -> f64 {
        let status = self.proc("status");
        let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or("");
        line.split_whitespace().next().and_then(|kb| kb.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
