//! The least a browser is: raw HTTP/1.1 over a socket, so that every header is what the test says it is.

use std::{collections::BTreeMap, net::SocketAddr};

use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};

#[derive(Clone)]
pub struct Browser {
    pub address: SocketAddr,
    pub cookie: Option<String>,
    /// What our own page sends; tests of the doorstep take it away.
    pub headers: BTreeMap<&'static str, String>,
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(found, _)| found == name).map_or("", |(_, value)| value)
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

impl Browser {
    pub fn new(address: SocketAddr) -> Self {
        let headers = [
            ("host", address.to_string()),
            ("origin", format!("http://{address}")),
            ("sec-fetch-site", "same-origin".into()),
            ("headgate", "1".into()),
        ];
        Self { address, cookie: None, headers: headers.into() }
    }

    pub fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.insert(name, value.into());
        self
    }

    pub fn without(mut self, name: &'static str) -> Self {
        self.headers.remove(name);
        self
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, None).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.send("POST", path, Some(body)).await
    }

    pub fn request(&self, method: &str, path: &str, body: Option<&Value>) -> String {
        let mut text = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\n");
        for (name, value) in &self.headers {
            text += &format!("{name}: {value}\r\n");
        }
        if let Some(cookie) = &self.cookie {
            text += &format!("cookie: {cookie}\r\n");
        }
        let body = body.map(Value::to_string).unwrap_or_default();
        if !body.is_empty() {
            text += &format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len());
        }
        text + "\r\n" + &body
    }

    pub async fn send(&self, method: &str, path: &str, body: Option<Value>) -> Answer {
        let stream = TcpStream::connect(self.address).await.expect("connect");
        exchange(stream, &self.request(method, path, body.as_ref())).await
    }

    /// Sends and keeps the session cookie that comes back.
    pub async fn log_in(&mut self, body: Value) -> Answer {
        let answer = self.post("/v1/session", body).await;
        self.cookie = answer.header("set-cookie").split(';').next().filter(|c| !c.is_empty()).map(str::to_owned);
        answer
    }
}

pub async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> Answer {
    stream.write_all(request.as_bytes()).await.expect("send");
    let mut bytes = Vec::new();
    // TLS peers may end without a close_notify; what came counts.
    let _ = stream.read_to_end(&mut bytes).await;
    let text = String::from_utf8(bytes).expect("utf-8");
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|code| code.parse().ok()).unwrap_or(0);
    let split = |line: &str| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned()));
    Answer { status, headers: lines.filter_map(split).collect(), body: body.to_owned() }
}
