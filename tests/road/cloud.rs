//! A cloud nobody here wrote: Debian's mosquitto, and `mosquitto_sub` as the witness of what arrived.

#[path = "ports.rs"]
pub mod ports;

use std::{
    io::{BufRead, BufReader},
    net::TcpStream,
    process::{Child, Command, Stdio},
    sync::{Arc, Condvar, Mutex},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value as Json;

/// How long its programs may take to start on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Cloud {
    pub port: u16,
    broker: Child,
    witness: Option<Child>,
    seen: Arc<(Mutex<Vec<(String, String)>>, Condvar)>,
    config: tempfile::TempDir,
}

impl Cloud {
    /// A broker that takes everything, and a witness that has subscribed to everything.
    pub fn start() -> Cloud {
        Self::start_with("")
    }

    pub fn start_with(more: &str) -> Cloud {
        let port = ports::free_port();
        let config = tempfile::tempdir().expect("folder");
        let path = config.path().join("mosquitto.conf");
        let text = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\nmax_inflight_messages 0\n{more}\n"
        );
        std::fs::write(&path, text).expect("written");
        let broker = Command::new("mosquitto")
            .arg("-c")
            .arg(&path)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("mosquitto is installed (apt-get install mosquitto mosquitto-clients)");
        let until = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < until, "mosquitto did not start");
            thread::sleep(Duration::from_millis(10));
        }
        let seen: Arc<(Mutex<Vec<(String, String)>>, Condvar)> = Arc::default();
        let mut cloud = Cloud { port, broker, witness: None, seen, config };
        cloud.witness = Some(cloud.watch());
        cloud.publish("witness/ready", "{}", false);
        cloud.wait("the witness", PATIENCE, |seen| seen.iter().any(|(topic, _)| topic == "witness/ready"));
        cloud
    }

    #[expect(clippy::zombie_processes, reason = "whoever holds it waits for it; the other way out fails the test")]
    fn watch(&self) -> Child {
        let mut child = Command::new("mosquitto_sub")
            .args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-q", "1", "-t", "#", "-F", "%t\t%p"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("mosquitto_sub is installed");
        let out = child.stdout.take().expect("piped");
        let seen = self.seen.clone();
        thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if let Some((topic, payload)) = line.split_once('\t') {
                    seen.0.lock().expect("lock").push((topic.to_owned(), payload.to_owned()));
                    seen.1.notify_all();
                }
            }
        });
        // Its subscription is known to stand when the first message comes back; retained ones make up for the time.
        let ready = Instant::now() + PATIENCE;
        loop {
            self.publish("witness/ready", "{}", false);
            let (seen, _) =
                self.seen.1.wait_timeout(self.seen.0.lock().expect("lock"), Duration::from_millis(50)).expect("lock");
            if !seen.is_empty() {
                return child;
            }
            assert!(Instant::now() < ready, "mosquitto_sub did not start");
        }
    }

    pub fn publish(&self, topic: &str, payload: &str, retain: bool) {
        let mut command = Command::new("mosquitto_pub");
        command.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-q", "1", "-t", topic, "-m", payload]);
        if retain {
            command.arg("-r");
        }
        assert!(command.status().expect("mosquitto_pub is installed").success());
    }

    /// Waits until what arrived satisfies `enough`.
    pub fn wait(&self, what: &str, within: Duration, enough: impl Fn(&[(String, String)]) -> bool) {
        let until = Instant::now() + within;
        let mut seen = self.seen.0.lock().expect("lock");
        while !enough(&seen) {
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{what} did not come within {within:?}; {} messages did", seen.len());
            seen = self.seen.1.wait_timeout(seen, left).expect("lock").0;
        }
    }

    /// Every record that arrived under `devices/{device}/{rest}`, batches unfolded, in order of arrival.
    pub fn records(&self, device: &str, rest: &str) -> Vec<Json> {
        let topic = format!("devices/{device}/{rest}");
        let mut records = Vec::new();
        for (_, payload) in self.seen.0.lock().expect("lock").iter().filter(|(seen, _)| *seen == topic) {
            match serde_json::from_str(payload).expect("json") {
                Json::Array(items) => records.extend(items),
                one => records.push(one),
            }
        }
        records
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        for child in [Some(&mut self.broker), self.witness.as_mut()].into_iter().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = &self.config;
    }
}
