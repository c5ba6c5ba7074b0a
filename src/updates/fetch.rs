//! One image over HTTP(S), from where the last try ended (RFC 9110: Range, If-Range on a strong ETag). Blocking.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use ureq::{
    Agent,
    http::{Response, header},
    tls::{Certificate, RootCerts, TlsConfig, TlsProvider, parse_pem},
};

/// What to fetch, and where to.
#[derive(Debug, Clone)]
pub struct Errand {
    pub url: String,
    /// Bytes; not one more is written.
    pub size: u64,
    pub part: PathBuf,
    pub ca: Option<PathBuf>,
    /// Bytes of the part so far, for those who watch.
    pub done: Arc<AtomicU64>,
    pub stop: CancellationToken,
}

/// Why an image was not fetched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// The road or the server failed: worth another try.
    #[error("{0}")]
    Transport(String),
    /// What the server has is not what was ordered: trying again cannot help.
    #[error("{0}")]
    Refused(String),
    /// The disk of this gateway failed.
    #[error("{0}")]
    Disk(String),
    #[error("stopped")]
    Stopped,
}

/// Beside a part: where it comes from, so that a changed image is never glued to the head of an old one.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    url: String,
    etag: String,
}

/// Without a byte for so long, a connection is given up; the next try continues.
const SILENCE: Duration = Duration::from_secs(15);
const SYNC_EVERY: u64 = 8 << 20;

/// Fetches the whole image into its part file and syncs it. Content is not judged here. Returns whether an earlier
/// try was continued.
pub fn fetch(errand: &Errand) -> Result<bool, FetchError> {
    let mut continued = true;
    let (mut file, mut have) = open_part(errand)?;
    errand.done.store(have, Ordering::Relaxed);
    if have < errand.size {
        let agent = agent(errand.ca.as_deref())?;
        let response = ask(&agent, errand, have)?;
        have = judge(&response, errand, have)?;
        continued = have > 0;
        errand.done.store(have, Ordering::Relaxed);
        write_note(errand, &response)?;
        file.set_len(have).map_err(disk)?;
        file.seek(SeekFrom::Start(have)).map_err(disk)?;
        receive(response.into_body().into_reader(), &mut file, have, errand)?;
    }
    file.sync_all().map_err(disk)?;
    Ok(continued)
}

fn open_part(errand: &Errand) -> Result<(File, u64), FetchError> {
    let mut options = OpenOptions::new();
    let file = options.create(true).truncate(false).read(true).write(true).open(&errand.part).map_err(disk)?;
    let length = file.metadata().map_err(disk)?.len();
    let continues = read_note(errand).is_some() && length <= errand.size;
    Ok((file, if continues { length } else { 0 }))
}

fn ask(agent: &Agent, errand: &Errand, have: u64) -> Result<Response<ureq::Body>, FetchError> {
    let mut request = agent.get(&errand.url);
    if have > 0
        && let Some(note) = read_note(errand)
    {
        request = request.header(header::RANGE, format!("bytes={have}-")).header(header::IF_RANGE, note.etag);
    }
    match request.call() {
        Ok(response) => Ok(response),
        Err(ureq::Error::BadUri(why)) => Err(FetchError::Refused(format!("the url is not one: {why}"))),
        Err(error) => Err(FetchError::Transport(format!("{}: {error}", errand.url))),
    }
}

/// Where the body of this answer begins in the image, or why it is of no use.
fn judge(response: &Response<ureq::Body>, errand: &Errand, have: u64) -> Result<u64, FetchError> {
    let status = response.status().as_u16();
    let text = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
    let start = match status {
        200 => 0,
        206 => {
            let range = text(header::CONTENT_RANGE).unwrap_or_default();
            let (start, total) = parse_content_range(range)
                .ok_or_else(|| FetchError::Transport(format!("the server's Content-Range {range:?} makes no sense")))?;
            if start != have {
                return Err(FetchError::Transport(format!("the server sent bytes from {start} instead of {have}")));
            }
            if total.is_some_and(|total| total != errand.size) {
                return Err(size_refused(total.unwrap_or(0), errand.size));
            }
            start
        }
        416 => {
            let _ = fs::remove_file(note_path(&errand.part));
            return Err(FetchError::Transport("the server cannot continue there; beginning anew".into()));
        }
        408 | 425 | 429 | 500..=599 => {
            return Err(FetchError::Transport(format!("the firmware server answered {status}")));
        }
        _ => return Err(FetchError::Refused(format!("the firmware server answered {status} for {}", errand.url))),
    };
    let length = text(header::CONTENT_LENGTH).and_then(|text| text.parse::<u64>().ok());
    match length {
        Some(length) if start + length != errand.size => Err(size_refused(start + length, errand.size)),
        _ => Ok(start),
    }
}

fn receive(mut body: impl Read, file: &mut File, mut have: u64, errand: &Errand) -> Result<(), FetchError> {
    let mut buffer = vec![0; 64 * 1024];
    let mut synced = have;
    loop {
        if errand.stop.is_cancelled() {
            return Err(FetchError::Stopped);
        }
        let read = match body.read(&mut buffer) {
            Ok(read) => read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => {
                return Err(FetchError::Transport(format!(
                    "the transfer broke at byte {have} of {}: {e}",
                    errand.size
                )));
            }
        };
        if read == 0 {
            break;
        }
        if have + read as u64 > errand.size {
            return Err(FetchError::Refused(format!(
                "the server sends more than the {} bytes that were ordered",
                errand.size
            )));
        }
        file.write_all(&buffer[..read]).map_err(disk)?;
        have += read as u64;
        errand.done.store(have, Ordering::Relaxed);
        if have - synced >= SYNC_EVERY {
            file.sync_data().map_err(disk)?;
            synced = have;
        }
    }
    match have == errand.size {
        true => Ok(()),
        false => Err(FetchError::Transport(format!("the transfer ended at byte {have} of {}", errand.size))),
    }
}

/// `bytes 5-9/10` to `(5, Some(10))`.
fn parse_content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (start, _) = range.split_once('-')?;
    let total = if total == "*" { None } else { Some(total.parse().ok()?) };
    Some((start.parse().ok()?, total))
}

fn size_refused(found: u64, ordered: u64) -> FetchError {
    FetchError::Refused(format!("the server's image has {found} bytes, ordered were {ordered}"))
}

fn note_path(part: &Path) -> PathBuf {
    part.with_extension("json")
}

fn read_note(errand: &Errand) -> Option<Note> {
    let note: Note = serde_json::from_slice(&fs::read(note_path(&errand.part)).ok()?).ok()?;
    (note.url == errand.url).then_some(note)
}

/// Only a strong ETag proves that two ranges belong together; without one the next try begins anew.
fn write_note(errand: &Errand, response: &Response<ureq::Body>) -> Result<(), FetchError> {
    let etag = response.headers().get(header::ETAG).and_then(|value| value.to_str().ok());
    let path = note_path(&errand.part);
    match etag.filter(|etag| etag.starts_with('"')) {
        Some(etag) => {
            let note = Note { url: errand.url.clone(), etag: etag.to_owned() };
            if read_note(errand).as_ref() == Some(&note) {
                return Ok(());
            }
            // By a rename: a kill between two bytes of it would cost the whole part.
            let fresh = path.with_extension("new");
            fs::write(&fresh, serde_json::to_vec(&note).unwrap_or_default()).map_err(disk)?;
            fs::rename(fresh, path).map_err(disk)
        }
        None => match fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(disk(e)),
            _ => Ok(()),
        },
    }
}

fn disk(error: io::Error) -> FetchError {
    FetchError::Disk(format!("the firmware cache cannot be written: {error}"))
}

/// An agent that lives for one errand: the certificates of the system are not held while nothing is fetched.
fn agent(ca: Option<&Path>) -> Result<Agent, FetchError> {
    let roots: Vec<Certificate<'static>> = match ca {
        Some(path) => {
            let unreadable = |why: String| FetchError::Refused(format!("[updates] ca {}: {why}", path.display()));
            let pem = fs::read(path).map_err(|e| unreadable(e.to_string()))?;
            let items: Result<Vec<_>, _> = parse_pem(&pem).collect();
            let items = items.map_err(|e| unreadable(e.to_string()))?;
            items
                .into_iter()
                .filter_map(|item| if let ureq::tls::PemItem::Certificate(c) = item { Some(c) } else { None })
                .collect()
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            found.certs.iter().map(|certificate| Certificate::from_der(certificate).to_owned()).collect()
        }
    };
    let tls = TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .root_certs(RootCerts::Specific(Arc::new(roots)))
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .build();
    let config = Agent::config_builder()
        .tls_config(tls)
        .http_status_as_error(false)
        .user_agent(concat!("headgate/", env!("CARGO_PKG_VERSION")))
        .timeout_resolve(Some(SILENCE))
        .timeout_connect(Some(SILENCE))
        .timeout_recv_response(Some(SILENCE))
        .timeout_per_read(Some(SILENCE))
        .max_idle_connections(0)
        .build();
    Ok(config.new_agent())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges() {
        assert_eq!(parse_content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(parse_content_range("bytes 0-/*"), Some((0, None)));
        assert_eq!(parse_content_range("bytes */10"), None);
        assert_eq!(parse_content_range("items 1-2/3"), None);
    }
}
