//! Talks to the running daemon: HTTP/1.1 over its control socket, and good words where nobody answers.

use std::{fmt, io, path::PathBuf, pin::pin, process::ExitCode};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, StatusCode, body::Incoming, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;
use tokio::net::UnixStream;

use super::{ConfigFolder, exit};
use crate::config;

/// Where a packaged daemon keeps its state.
const INSTALLED: &str = "/var/lib/headgate";

/// Which daemon a command means.
#[derive(Debug, Clone, clap::Args)]
pub struct Daemon {
    #[command(flatten)]
    config: ConfigFolder,
    /// Control socket of the daemon [default: control.sock in the configured state folder, else in /var/lib/headgate]
    #[arg(long, value_name = "PATH", env = "HEADGATE_SOCKET", global = true)]
    socket: Option<PathBuf>,
}

impl Daemon {
    /// The places to look at, in order.
    fn sockets(&self) -> Vec<PathBuf> {
        if let Some(socket) = &self.socket {
            return vec![socket.clone()];
        }
        let folder = self.config.resolve();
        let state = config::load::load(folder.as_deref()).map(|config| config.gateway.state).ok();
        // A configuration with problems may still belong to a daemon that runs an earlier one.
        let written = || std::fs::read_to_string(folder?.join("headgate.toml")).ok();
        let state = state.or_else(|| config::load::state_in(&written()?));
        let mut folders: Vec<PathBuf> = Vec::new();
        for folder in state.into_iter().chain([PathBuf::from(INSTALLED), "state".into()]) {
            if !folders.contains(&folder) {
                folders.push(folder);
            }
        }
        folders.into_iter().map(|folder| folder.join("control.sock")).collect()
    }

    /// Where this gateway's user keeps profiles of their own.
    pub fn profiles(&self) -> PathBuf {
        self.config.profiles()
    }

    /// The daemon, where it runs.
    pub async fn find(&self) -> Result<Client, ClientError> {
        Client::find(self.sockets()).await
    }

    /// Runs `work` with a connection to the daemon; turns what went wrong into words and an exit code.
    pub fn run<T>(&self, work: impl AsyncFnOnce(Client) -> Result<T, ClientError>) -> Result<T, ExitCode> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let done = match runtime {
            Ok(runtime) => runtime.block_on(async { work(Client::find(self.sockets()).await?).await }),
            Err(error) => Err(ClientError::Broken(error.to_string())),
        };
        done.map_err(|error| {
            eprintln!("{error}");
            match error {
                ClientError::NotRunning(_) => ExitCode::from(exit::UNAVAILABLE),
                _ => ExitCode::FAILURE,
            }
        })
    }
}

/// Why the daemon did not do it.
#[derive(Debug)]
pub enum ClientError {
    /// Nobody answers; where was looked and what was found.
    NotRunning(Vec<(PathBuf, io::Error)>),
    /// The daemon said no.
    Refused { code: String, message: String, hint: String },
    /// It hung up, or said something that is no answer.
    Broken(String),
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRunning(looked) => {
                if let Some((path, _)) = looked.iter().find(|(_, e)| e.kind() == io::ErrorKind::PermissionDenied) {
                    writeln!(f, "{} may not be opened by this user.", path.display())?;
                    return write!(f, "Use sudo, or run as the user of the daemon.");
                }
                writeln!(f, "No running headgate found. Looked for its control socket at:")?;
                for (path, error) in looked {
                    let found = match error.kind() {
                        io::ErrorKind::NotFound => "not there".to_owned(),
                        io::ErrorKind::ConnectionRefused => "left over; nobody listens".to_owned(),
                        _ => error.to_string(),
                    };
                    writeln!(f, "    {} ({found})", path.display())?;
                }
                write!(f, "Start it with `systemctl start headgate` or `headgate run`, or name it with --socket.")
            }
            Self::Refused { message, hint, .. } if hint.is_empty() => f.write_str(message),
            Self::Refused { message, hint, .. } => write!(f, "{message}\n    {hint}"),
            Self::Broken(why) => write!(f, "the daemon hung up: {why}"),
        }
    }
}

impl std::error::Error for ClientError {}

/// A found daemon.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    async fn find(sockets: Vec<PathBuf>) -> Result<Client, ClientError> {
        let mut looked = Vec::new();
        for socket in sockets {
            match UnixStream::connect(&socket).await {
                Ok(_) => return Ok(Client { socket }),
                Err(error) => looked.push((socket, error)),
            }
        }
        Err(ClientError::NotRunning(looked))
    }

    /// GET as a value of ours.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let answer = self.send(Method::GET, path, None).await?;
        serde_json::from_value(answer).map_err(|error| ClientError::Broken(format!("{path}: {error}")))
    }

    pub async fn send(&self, method: Method, path: &str, body: Option<&Json>) -> Result<Json, ClientError> {
        let mut text = Vec::new();
        self.exchange(method, path, body, |chunk| text.extend_from_slice(&chunk)).await?;
        serde_json::from_slice(&text).map_err(|error| ClientError::Broken(format!("{path}: {error}")))
    }

    /// POSTs and hands over each line of the answer as it comes: `/v1/tools/…`.
    pub async fn lines(&self, path: &str, body: &Json, mut each: impl FnMut(Json)) -> Result<(), ClientError> {
        let mut rest = Vec::new();
        let mut wrong = None;
        let take = |chunk: Bytes| {
            rest.extend_from_slice(&chunk);
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                match serde_json::from_slice(&line) {
                    Ok(document) => each(document),
                    Err(error) => wrong = Some(error),
                }
            }
        };
        self.exchange(Method::POST, path, Some(body), take).await?;
        wrong.map_or(Ok(()), |error| Err(ClientError::Broken(format!("{path}: {error}"))))
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<&Json>,
        mut take: impl FnMut(Bytes),
    ) -> Result<(), ClientError> {
        let broken = |error: hyper::Error| ClientError::Broken(error.to_string());
        let stream = UnixStream::connect(&self.socket).await;
        let stream = stream.map_err(|error| ClientError::NotRunning(vec![(self.socket.clone(), error)]))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let text = body.map(Json::to_string).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "headgate")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(text)))
            .map_err(|error| ClientError::Broken(error.to_string()))?;
        let work = async {
            let mut response = sender.send_request(request).await.map_err(broken)?;
            if !response.status().is_success() {
                return Err(refusal(&mut response).await);
            }
            while let Some(frame) = response.frame().await {
                if let Ok(chunk) = frame.map_err(broken)?.into_data() {
                    take(chunk);
                }
            }
            Ok(())
        };
        // The connection must be driven beside the request; it may end first, with the answer already handed over.
        let (mut work, mut connection) = (pin!(work), pin!(connection));
        tokio::select! {
            done = &mut work => return done,
            _ = &mut connection => {}
        }
        work.await
    }
}

async fn refusal(response: &mut hyper::Response<Incoming>) -> ClientError {
    let status = response.status();
    let mut text = Vec::new();
    while let Some(Ok(frame)) = response.frame().await {
        if let Ok(chunk) = frame.into_data() {
            text.extend_from_slice(&chunk);
        }
    }
    let body: Json = serde_json::from_slice(&text).unwrap_or_default();
    let part = |name: &str| body.get(name).and_then(Json::as_str).unwrap_or_default().to_owned();
    match part("message") {
        message if message.is_empty() => ClientError::Broken(format!("it answered {}", words(status))),
        message => ClientError::Refused { code: part("code"), message, hint: part("hint") },
    }
}

fn words(status: StatusCode) -> String {
    format!("{} {}", status.as_u16(), status.canonical_reason().unwrap_or_default())
}
