//! The real daemon as a child process, with the test as its init system: readiness instead of sleeping.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::{UnixDatagram, UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use serde_json::Value as Json;

/// How long a daemon may take to be ready on a loaded machine.
const READY: Duration = Duration::from_secs(60);

/// What the configuration of a test gateway holds; every listener is on loopback with a port of its own choice.
pub struct Builder {
    folder: tempfile::TempDir,
    main: String,
    state: PathBuf,
    env: Vec<(&'static str, PathBuf)>,
}

/// A gateway that runs, was killed or was stopped; its folder stays until the test ends.
pub struct Gateway {
    folder: tempfile::TempDir,
    state: PathBuf,
    env: Vec<(&'static str, PathBuf)>,
    child: Option<Child>,
    notify: UnixDatagram,
    /// What it wrote to stderr so far, line by line.
    log: mpsc::Receiver<String>,
}

impl Gateway {
    pub fn builder() -> Builder {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir_all(folder.path().join("devices.d")).expect("devices.d");
        let state = folder.path().join("state");
        Builder { folder, main: String::new(), state, env: Vec::new() }
    }

    pub fn config_folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn state_folder(&self) -> PathBuf {
        self.state.clone()
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("running").id()
    }

    /// Bytes of memory it holds (`VmRSS`).
    pub fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("running");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
    }

    /// kill -9: nothing is flushed, nothing is said.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("running");
        child.kill().expect("killed");
        child.wait().expect("waited");
    }

    /// SIGTERM, and the exit code.
    pub fn stop(&mut self) -> i32 {
        let mut child = self.child.take().expect("running");
        signal(child.id(), "TERM");
        child.wait().expect("waited").code().unwrap_or(-1)
    }

    /// Asks for a reload with SIGHUP.
    pub fn hup(&self) {
        signal(self.pid(), "HUP");
    }

    pub fn start_again(&mut self) {
        self.start_until("READY=1");
    }

    /// Starts, and waits until it says to the init system what begins like this.
    pub fn start_until(&mut self, words: &str) {
        assert!(self.child.is_none(), "still running");
        let (child, log) = spawn(self.folder.path(), &self.env);
        self.child = Some(child);
        self.log = log;
        self.says(words);
    }

    /// Waits until it says to the init system what begins like this.
    pub fn says(&self, words: &str) {
        wait_for(words, &self.notify, &self.log);
    }

    /// Runs the command line of the project against this gateway.
    pub fn cli(&self, arguments: &[&str]) -> std::process::Output {
        Command::new(env!("CARGO_BIN_EXE_headgate"))
            .args(arguments)
            .arg("--config")
            .arg(self.folder.path())
            .output()
            .expect("headgate runs")
    }

    /// A request on the control socket: status code and JSON body.
    pub fn api(&self, method: &str, path: &str, body: Option<&Json>) -> (u16, Json) {
        let mut stream = UnixStream::connect(self.state_folder().join("control.sock")).expect("control socket");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("timeout");
        let body = body.map(Json::to_string).unwrap_or_default();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n\
             headgate: 1\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
        .expect("sent");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("answered");
        parse(&answer)
    }

    pub fn get(&self, path: &str) -> Json {
        let (code, body) = self.api("GET", path, None);
        assert_eq!(code, 200, "GET {path}: {body}");
        body
    }

    /// Asks `question` until it gives something; fails with `what` when it takes too long.
    pub fn eventually<T>(&self, what: &str, question: impl FnMut(&Self) -> Option<T>) -> T {
        let mut question = question;
        super::eventually(what, || question(self))
    }

    /// Everything the daemon has logged since the last call.
    pub fn logged(&self) -> Vec<String> {
        self.log.try_iter().collect()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            for line in self.log.try_iter().collect::<Vec<_>>().iter().rev().take(60).rev() {
                eprintln!("headgate: {line}");
            }
        }
    }
}

impl Builder {
    /// Adds lines to headgate.toml.
    pub fn toml(mut self, text: &str) -> Self {
        self.main.push_str(text);
        self.main.push('\n');
        self
    }

    /// Writes a file of `devices.d`.
    pub fn devices(self, name: &str, text: &str) -> Self {
        fs::write(self.folder.path().join("devices.d").join(name), text).expect("written");
        self
    }

    /// Keeps its state in another folder.
    pub fn state(self, state: PathBuf) -> Self {
        Self { state, ..self }
    }

    /// What it finds in its environment, also when it is started again.
    pub fn env(mut self, name: &'static str, value: PathBuf) -> Self {
        self.env.push((name, value));
        self
    }

    pub fn start(self) -> Gateway {
        let main = format!("[gateway]\nid = \"gw\"\nstate = \"{}\"\n{}", self.state.display(), self.main);
        fs::write(self.folder.path().join("headgate.toml"), main).expect("written");
        let notify = UnixDatagram::bind(self.folder.path().join("notify")).expect("notify socket");
        notify.set_read_timeout(Some(Duration::from_millis(200))).expect("timeout");
        let (child, log) = spawn(self.folder.path(), &self.env);
        let Builder { folder, state, env, .. } = self;
        let gateway = Gateway { folder, state, env, child: Some(child), notify, log };
        gateway.says("READY=1");
        gateway
    }
}

fn spawn(folder: &Path, env: &[(&'static str, PathBuf)]) -> (Child, mpsc::Receiver<String>) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_headgate"))
        .args(["run", "--config"])
        .arg(folder)
        .env("NOTIFY_SOCKET", folder.join("notify"))
        .env_remove("JOURNAL_STREAM")
        .env_remove("STATE_DIRECTORY")
        .envs(env.iter().map(|(name, value)| (*name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("headgate starts");
    let stderr = child.stderr.take().expect("piped");
    let (lines, log) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            if lines.send(line).is_err() {
                break;
            }
        }
    });
    (child, log)
}

fn wait_for(words: &str, notify: &UnixDatagram, log: &mpsc::Receiver<String>) {
    let begun = std::time::Instant::now();
    let mut buffer = [0_u8; 4096];
    while begun.elapsed() < READY {
        if let Ok(length) = notify.recv(&mut buffer)
            && String::from_utf8_lossy(&buffer[..length]).lines().any(|line| line.starts_with(words))
        {
            return;
        }
    }
    panic!("no {words}; it said:\n{}", log.try_iter().collect::<Vec<_>>().join("\n"));
}

fn signal(pid: u32, name: &str) {
    let done = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status().expect("kill runs");
    assert!(done.success(), "kill -{name} {pid}");
}

/// Status code and JSON body of an HTTP/1.1 answer, chunked or not.
fn parse(answer: &[u8]) -> (u16, Json) {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    let body =
        if head.to_ascii_lowercase().contains("transfer-encoding: chunked") { unchunk(body) } else { body.into() };
    (code, serde_json::from_str(&body).unwrap_or(Json::String(body)))
}

fn unchunk(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let Ok(size) = usize::from_str_radix(size.trim(), 16) else { break };
        if size == 0 || rest.len() < size {
            break;
        }
        whole.push_str(&rest[..size]);
        body = rest[size..].trim_start_matches("\r\n");
    }
    whole
}
