//! Programs that nobody here wrote, as child processes: mosquitto as the cloud's broker and as a child's client,
//! libcoap's server. A program that is missing fails the test by name.

#[path = "../road/ports.rs"]
mod ports;

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, OnceLock},
    time::{Duration, Instant},
};

pub use ports::{free_port, free_udp_port};
use serde_json::Value as Json;

fn start(program: &str, arguments: &[&str], output: Stdio) -> Child {
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("{program} is needed for this test (tests/run.sh installs it): {error}"))
}

/// A child process that ends with the test.
pub struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// mosquitto, in the place of the cloud's broker.
pub struct Mosquitto {
    pub port: u16,
    folder: tempfile::TempDir,
    process: Option<Process>,
}

impl Mosquitto {
    pub fn start() -> Self {
        let mut broker = Self { port: free_port(), folder: tempfile::tempdir().expect("folder"), process: None };
        broker.start_again();
        broker
    }

    pub fn stop(&mut self) {
        self.process = None;
    }

    pub fn start_again(&mut self) {
        let config = self.folder.path().join("mosquitto.conf");
        let text = format!(
            "listener {} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\nmax_inflight_messages 1000\npersistence false\n",
            self.port
        );
        fs::write(&config, text).expect("written");
        self.process = Some(mosquitto(&config, self.port));
    }

    /// Everything below `filter`, as mosquitto_sub hears it.
    pub fn listen(&self, filter: &str) -> Heard {
        Heard::subscribe(self.port, filter, &[])
    }

    /// Publishes with mosquitto_pub, QoS 1.
    pub fn publish(&self, topic: &str, payload: &str) {
        publish(self.port, &[], topic, payload);
    }
}

/// mosquitto with a configuration file, once it listens on `port`.
pub fn mosquitto(config: &Path, port: u16) -> Process {
    let process = Process(start("mosquitto", &["-c", &config.display().to_string()], Stdio::null()));
    super::eventually("mosquitto listens", || TcpStream::connect(("127.0.0.1", port)).ok());
    process
}

/// mosquitto_pub, QoS 1, waiting for the acknowledgement.
pub fn publish(port: u16, login: &[&str], topic: &str, payload: &str) {
    let port = port.to_string();
    let mut arguments = vec!["-h", "127.0.0.1", "-p", &port, "-q", "1", "-t", topic, "-m", payload];
    arguments.extend(login);
    let status = start("mosquitto_pub", &arguments, Stdio::null()).wait().expect("waited");
    assert!(status.success(), "mosquitto_pub to {topic} failed");
}

/// Publishes each line of `lines` as one message over one connection, QoS 1; true when all were acknowledged.
pub fn publish_lines(port: u16, login: &[&str], topic: &str, lines: &[String]) -> bool {
    let port = port.to_string();
    let mut arguments = vec!["-h", "127.0.0.1", "-p", &port, "-q", "1", "-t", topic, "-l"];
    arguments.extend(login);
    let mut child = Command::new("mosquitto_pub")
        .args(&arguments)
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("mosquitto_pub");
    let mut stdin = child.stdin.take().expect("piped");
    for line in lines {
        if writeln!(stdin, "{line}").is_err() {
            break;
        }
    }
    drop(stdin);
    // A client that lost its broker would try for ever.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(20) {
        match child.try_wait().expect("waited") {
            Some(status) => return status.success(),
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    }
    drop(Process(child));
    false
}

/// What a subscriber heard so far.
pub struct Heard {
    messages: Arc<Mutex<Vec<(String, String)>>>,
    _process: Process,
}

impl Heard {
    /// Subscribes with mosquitto_sub, QoS 1; returns when the broker has accepted it.
    pub fn subscribe(port: u16, filter: &str, login: &[&str]) -> Self {
        let port = port.to_string();
        // Line by line: into a pipe it would keep its "Subscribed" to itself until much more is to be told.
        let mut arguments = vec!["-oL", "mosquitto_sub", "-h", "127.0.0.1", "-p", &port, "-q", "1"];
        arguments.extend(["-t", filter, "-F", "%t %p", "-d"]);
        arguments.extend(login);
        let mut process = Process(start("stdbuf", &arguments, Stdio::piped()));
        let stdout = process.0.stdout.take().expect("piped");
        let messages = Arc::new(Mutex::new(Vec::new()));
        let (subscribed, accepted) = std::sync::mpsc::channel();
        let sink = messages.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if line.starts_with("Subscribed") {
                    let _ = subscribed.send(());
                    continue;
                }
                if line.starts_with("Client ") {
                    continue;
                }
                if let Some((topic, payload)) = line.split_once(' ') {
                    sink.lock().expect("lock").push((topic.to_owned(), payload.to_owned()));
                }
            }
        });
        accepted.recv_timeout(Duration::from_secs(20)).expect("mosquitto_sub subscribes");
        Self { messages, _process: process }
    }

    pub fn all(&self) -> Vec<(String, String)> {
        self.messages.lock().expect("lock").clone()
    }

    /// The payloads heard on `topic`, as JSON.
    pub fn on(&self, topic: &str) -> Vec<Json> {
        let all = self.messages.lock().expect("lock");
        let matching = all.iter().filter(|(heard, _)| heard == topic);
        matching.map(|(_, payload)| serde_json::from_str(payload).unwrap_or(Json::String(payload.clone()))).collect()
    }

    /// Waits for a message on `topic` that `is` the one.
    pub fn expect(&self, topic: &str, is: impl Fn(&Json) -> bool) -> Json {
        super::eventually(&format!("a message on {topic}"), || self.on(topic).into_iter().find(|message| is(message)))
    }
}

/// Python's own web server on `folder`, and its address.
pub fn web_server(folder: &Path) -> (Process, String) {
    let port = free_port();
    let (text, folder) = (port.to_string(), folder.display().to_string());
    let arguments = ["-m", "http.server", "--bind", "127.0.0.1", "--directory", &folder, &text];
    let process = Process(start("python3", &arguments, Stdio::null()));
    super::eventually("the web server listens", || TcpStream::connect(("127.0.0.1", port)).ok());
    (process, format!("http://127.0.0.1:{port}"))
}

/// libcoap's example server; its resources appear by PUT, and `/time` changes every second.
pub fn coap_server(port: u16) -> Process {
    let text = port.to_string();
    let process = Process(start("coap-server-notls", &["-A", "127.0.0.1", "-p", &text, "-d", "20"], Stdio::null()));
    super::eventually("coap-server answers", || {
        let uri = format!("coap://127.0.0.1:{port}/time");
        let answered = Command::new("coap-client-notls").args(["-B", "1", "-m", "get", &uri]).output().ok()?;
        (!answered.stdout.is_empty()).then_some(())
    });
    process
}

/// libmodbus as a slave: 200 of each table, register n holds n at first.
pub struct ModbusSlave {
    pub port: u16,
    process: Option<Process>,
}

impl ModbusSlave {
    pub fn start() -> Self {
        let mut slave = Self { port: free_port(), process: None };
        slave.start_again();
        slave
    }

    pub fn stop(&mut self) {
        self.process = None;
    }

    /// On the same port, with all registers as at first.
    pub fn start_again(&mut self) {
        let mut process = Process(start(&compiled_slave(), &["tcp", &self.port.to_string()], Stdio::piped()));
        let mut line = String::new();
        let out = process.0.stdout.take().expect("piped");
        BufReader::new(out).read_line(&mut line).expect("a line");
        assert_eq!(line, "ready\n");
        self.process = Some(process);
    }
}

fn compiled_slave() -> String {
    static BUILT: OnceLock<String> = OnceLock::new();
    let build = || {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/modbus/peers/slave.c");
        let program = format!("{}/e2e-slave-{}", env!("CARGO_TARGET_TMPDIR"), std::process::id());
        let arguments = ["-O1", "-o", &program, source, "-I/usr/include/modbus", "-lmodbus"];
        let status = start("cc", &arguments, Stdio::null()).wait().expect("waited");
        assert!(status.success(), "libmodbus-dev is needed for this test (tests/run.sh installs it)");
        program
    };
    BUILT.get_or_init(build).clone()
}

/// What mbpoll reads in a holding register, counted from 0; the slave serves one master at a time.
pub fn modbus_register(port: u16, register: u16) -> Option<i64> {
    let (port, register) = (port.to_string(), register.to_string());
    let arguments =
        ["-0", "-m", "tcp", "-p", &port, "-a", "1", "-r", &register, "-c", "1", "-1", "-t", "4", "127.0.0.1"];
    let done = Command::new("mbpoll").args(arguments).output().expect("mbpoll is needed for this test");
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("[{register}]:")))?;
    line.trim().parse().ok()
}
