//! A tiny file server for the stand-in cloud: GET with Range and If-Range, and the faults of real servers on demand.

use std::{
    collections::HashMap,
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::{Frame, Incoming},
    header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, ETAG, IF_RANGE, RANGE},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, time::sleep};

use crate::tasks::Tasks;

/// Bytes of one frame.
const PIECE: usize = 16 * 1024;
const FLUSH: Duration = Duration::from_millis(20);

type Body = BoxBody<Bytes, io::Error>;

/// The handle; the server lives as long as its tasks.
#[derive(Debug, Clone)]
pub struct Files {
    address: SocketAddr,
    shelf: Arc<Shelf>,
}

#[derive(Debug, Default)]
struct Shelf {
    files: Mutex<HashMap<String, Bytes>>,
    /// The connection breaks after so many bytes of a body; 0 for never.
    cut_after: AtomicU64,
    requests: AtomicU64,
    served: AtomicU64,
}

impl Files {
    /// Listens on a free loopback port.
    pub async fn start(tasks: &Tasks) -> io::Result<Files> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let files = Files { address: listener.local_addr()?, shelf: Arc::default() };
        let (shelf, stop, all) = (files.shelf.clone(), tasks.stopping(), tasks.clone());
        tasks.spawn("file server", async move {
            while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
                let Ok((stream, _)) = accepted else { continue };
                let (shelf, stop) = (shelf.clone(), stop.clone());
                all.spawn("file server connection", async move {
                    let service = service_fn(move |request: Request<Incoming>| {
                        let answer = shelf.answer(request.method(), request.uri().path(), request.headers());
                        async move { Ok::<_, Infallible>(answer) }
                    });
                    let connection =
                        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                    let _ = stop.run_until_cancelled(connection).await;
                });
            }
        });
        Ok(files)
    }

    /// Offers `content` under `name`, in place of what was there; returns its address.
    pub fn put(&self, name: &str, content: impl Into<Bytes>) -> String {
        let mut files = self.shelf.files.lock().unwrap_or_else(|e| e.into_inner());
        files.insert(format!("/{name}"), content.into());
        format!("http://{}/{name}", self.address)
    }

    /// From now on every body breaks off after so many bytes; 0 mends it.
    pub fn cut_after(&self, bytes: u64) {
        self.shelf.cut_after.store(bytes, Ordering::Relaxed);
    }

    pub fn requests(&self) -> u64 {
        self.shelf.requests.load(Ordering::Relaxed)
    }

    /// Bytes of bodies sent so far.
    pub fn served(&self) -> u64 {
        self.shelf.served.load(Ordering::Relaxed)
    }
}

impl Shelf {
    fn answer(self: &Arc<Self>, method: &Method, path: &str, headers: &HeaderMap) -> Response<Body> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let file = self.files.lock().unwrap_or_else(|e| e.into_inner()).get(path).cloned();
        let Some(file) = file else { return plain(StatusCode::NOT_FOUND, "no such file\n") };
        if method != Method::GET && method != Method::HEAD {
            return plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        }
        let etag = format!("\"{}\"", hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &file)));
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let same = text(IF_RANGE).is_none_or(|tag| tag == etag);
        let from = text(RANGE).filter(|_| same).and_then(first_byte);
        let (status, part) = match from {
            Some(from) if from >= file.len() => {
                let mut response = plain(StatusCode::RANGE_NOT_SATISFIABLE, "");
                if let Ok(value) = format!("bytes */{}", file.len()).parse() {
                    response.headers_mut().insert(CONTENT_RANGE, value);
                }
                return response;
            }
            Some(from) => (StatusCode::PARTIAL_CONTENT, file.slice(from..)),
            None => (StatusCode::OK, file.clone()),
        };
        let mut response = Response::builder()
            .status(status)
            .header(ETAG, etag)
            .header(ACCEPT_RANGES, "bytes")
            .header(CONTENT_LENGTH, part.len());
        if let Some(from) = from {
            response = response.header(CONTENT_RANGE, format!("bytes {from}-{}/{}", file.len() - 1, file.len()));
        }
        let body = if method == Method::HEAD { empty() } else { self.clone().body(part) };
        response.body(body).unwrap_or_else(|_| plain(StatusCode::INTERNAL_SERVER_ERROR, ""))
    }

    fn body(self: Arc<Self>, part: Bytes) -> Body {
        let cut = match self.cut_after.load(Ordering::Relaxed) {
            0 => u64::MAX,
            bytes => bytes,
        };
        let frames =
            stream::unfold((self, part, 0), move |(shelf, mut rest, sent): (Arc<Shelf>, Bytes, u64)| async move {
                if rest.is_empty() {
                    return None;
                }
                if sent >= cut {
                    // What was served before the cut goes out first.
                    sleep(FLUSH).await;
                    let broken = io::Error::new(io::ErrorKind::ConnectionReset, "cut as ordered");
                    return Some((Err(broken), (shelf, Bytes::new(), sent)));
                }
                let most = usize::try_from(cut - sent).unwrap_or(usize::MAX);
                let piece = rest.split_to(PIECE.min(rest.len()).min(most));
                let sent = sent + piece.len() as u64;
                shelf.served.fetch_add(piece.len() as u64, Ordering::Relaxed);
                Some((Ok(Frame::data(piece)), (shelf, rest, sent)))
            });
        StreamBody::new(frames).boxed()
    }
}

/// `bytes=N-`: all this server needs to understand.
fn first_byte(range: &str) -> Option<usize> {
    range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
}

fn empty() -> Body {
    Full::default().map_err(|never: Infallible| match never {}).boxed()
}

fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    let body = Full::from(text).map_err(|never: Infallible| match never {}).boxed();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    use super::*;

    async fn ask(files: &Files, request: &str) -> (String, Vec<u8>) {
        let mut stream = TcpStream::connect(files.address).await.expect("connect");
        stream.write_all(request.as_bytes()).await.expect("write");
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let end = answer.windows(4).position(|w| w == b"\r\n\r\n").expect("a head") + 4;
        let body = answer.split_off(end);
        (String::from_utf8_lossy(&answer).to_lowercase(), body)
    }

    #[tokio::test]
    async fn a_part_is_served_where_the_tag_is_the_same_and_a_cut_is_a_cut() {
        let tasks = Tasks::new();
        let files = Files::start(&tasks).await.expect("listen");
        let content: Vec<u8> = (0..100_000u32).map(|n| n as u8).collect();
        assert!(files.put("a", content.clone()).ends_with("/a"));
        let close = "Host: x\r\nConnection: close\r\n";
        let (head, body) = ask(&files, &format!("GET /a HTTP/1.1\r\n{close}\r\n")).await;
        assert!(head.starts_with("http/1.1 200") && body == content, "{head}");
        let etag = head.lines().find_map(|l| l.strip_prefix("etag: ")).expect("a tag").to_owned();
        let part = format!("GET /a HTTP/1.1\r\n{close}Range: bytes=99990-\r\nIf-Range: {etag}\r\n\r\n");
        let (head, body) = ask(&files, &part).await;
        assert!(head.contains("content-range: bytes 99990-99999/100000"), "{head}");
        assert_eq!(body, &content[99_990..]);
        let (head, body) = ask(&files, &part.replace(&etag, "\"other\"")).await;
        assert!(head.starts_with("http/1.1 200") && body.len() == 100_000, "{head}");
        files.cut_after(40_000);
        let (_, body) = ask(&files, &format!("GET /a HTTP/1.1\r\n{close}\r\n")).await;
        assert_eq!(body, &content[..40_000]);
        assert_eq!(files.requests(), 4);
        tasks.stop_and_wait().await;
    }
}
