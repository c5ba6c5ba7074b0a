//! A child's download of an image from the gateway: HTTP/1.1 with Range and If-Range, going on where it was cut.

use std::{collections::VecDeque, time::Duration};

use aws_lc_rs::digest;
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{
    Request, StatusCode, Uri,
    body::Incoming,
    header::{AUTHORIZATION, ETAG, HOST, IF_RANGE, RANGE},
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    sync::mpsc,
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::{model::update::UpdateOrder, tasks::Tasks};

/// Tries in a row that bring nothing new before the download has failed.
const TRIES: u32 = 8;
/// Without a byte for so long, a connection is given up.
const SILENCE: Duration = Duration::from_secs(10);

/// What a download may use.
pub struct Means {
    pub login: Option<(String, String)>,
    /// Bytes per second; a real child's radio is slow, and a bar that can be seen moving is worth watching.
    pub rate: Option<u64>,
    /// Percents, as they are reached.
    pub progress: mpsc::Sender<u8>,
    pub tasks: Tasks,
}

/// Fetches and verifies the image of `order`; its bytes, or why there are none.
pub async fn download(order: UpdateOrder, means: Means) -> Result<Vec<u8>, String> {
    let uri: Uri = order.url.parse().map_err(|e| format!("the address {:?} is none: {e}", order.url))?;
    let size = usize::try_from(order.size).map_err(|_| "the image is too large".to_owned())?;
    let mut got = Got { image: Vec::new(), etag: None, size };
    let (mut tries, mut last) = (0, String::new());
    while got.image.len() < size {
        if tries == TRIES {
            return Err(format!("gave up after {TRIES} tries at byte {}: {last}", got.image.len()));
        }
        let before = got.image.len();
        match got.more(&uri, &means).await {
            Ok(()) => last = "the server sent less than it promised".to_owned(),
            Err(End::Final(why)) => return Err(why),
            Err(End::Again(why)) => last = why,
        }
        tries = if got.image.len() > before { 0 } else { tries + 1 };
        if got.image.len() < size {
            tracing::debug!(at = got.image.len(), of = size, why = last, "a child's download goes on");
            sleep(Duration::from_millis(200) * 2u32.pow(tries.min(6))).await;
        }
    }
    let digest = hex::encode(digest::digest(&digest::SHA256, &got.image));
    if digest != order.sha256 {
        return Err(format!("the image has SHA-256 {digest}, ordered was {}", order.sha256));
    }
    Ok(got.image)
}

struct Got {
    image: Vec<u8>,
    etag: Option<String>,
    size: usize,
}

enum End {
    Again(String),
    Final(String),
}

impl From<std::io::Error> for End {
    fn from(error: std::io::Error) -> Self {
        End::Again(error.to_string())
    }
}

impl From<hyper::Error> for End {
    fn from(error: hyper::Error) -> Self {
        End::Again(error.to_string())
    }
}

impl Got {
    async fn more(&mut self, uri: &Uri, means: &Means) -> Result<(), End> {
        let host = uri.host().ok_or_else(|| End::Final("the address names no host".into()))?;
        if uri.scheme_str() != Some("http") {
            return Err(End::Final(format!("a simulated child speaks http only, not {uri}")));
        }
        let stream = timeout(SILENCE, TcpStream::connect((host, uri.port_u16().unwrap_or(80)))).await;
        let stream = stream.map_err(|_| End::Again("no connection".into()))??;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        means.tasks.spawn("simulated download", async move {
            let _ = connection.await;
        });
        let path = uri.path_and_query().map_or("/", |p| p.as_str());
        let mut request = Request::get(path).header(HOST, uri.authority().map_or(host, |a| a.as_str()));
        if let Some((user, password)) = &means.login {
            request = request.header(AUTHORIZATION, format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))));
        }
        if let (Some(etag), false) = (&self.etag, self.image.is_empty()) {
            request = request.header(RANGE, format!("bytes={}-", self.image.len())).header(IF_RANGE, etag);
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(|e| End::Final(e.to_string()))?;
        let response = timeout(SILENCE, sender.send_request(request)).await;
        let response = response.map_err(|_| End::Again("no answer".into()))??;
        match response.status() {
            StatusCode::PARTIAL_CONTENT => {}
            StatusCode::OK => self.image.clear(),
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                return Err(End::Again(format!("the server says {status}")));
            }
            status => return Err(End::Final(format!("the server says {status}"))),
        }
        self.etag = response.headers().get(ETAG).and_then(|e| e.to_str().ok()).map(str::to_owned);
        self.body(response.into_body(), means).await
    }

    async fn body(&mut self, mut body: Incoming, means: &Means) -> Result<(), End> {
        let began = Instant::now();
        let (mut here, mut told) = (0, self.percent());
        while let Some(frame) = timeout(SILENCE, body.frame()).await.map_err(|_| End::Again("silence".into()))? {
            let Ok(data) = frame?.into_data() else { continue };
            let mut pieces = VecDeque::from([data]);
            while let Some(mut piece) = pieces.pop_front() {
                // Small sips, so that the rate holds for a server that sends it all at once.
                let sip = means.rate.map_or(piece.len(), |rate| (rate as usize / 10).max(1));
                if piece.len() > sip {
                    pieces.push_front(piece.split_off(sip));
                }
                if self.image.len() + piece.len() > self.size {
                    return Err(End::Final(format!("the server sent more than the {} bytes ordered", self.size)));
                }
                self.image.extend_from_slice(&piece);
                here += piece.len();
                if self.percent() != told {
                    told = self.percent();
                    let _ = means.progress.send(told).await;
                }
                if let Some(rate) = means.rate {
                    sleep_until(began + Duration::from_secs_f64(here as f64 / rate as f64)).await;
                }
            }
        }
        Ok(())
    }

    fn percent(&self) -> u8 {
        u8::try_from(self.image.len() * 100 / self.size.max(1)).unwrap_or(100)
    }
}
