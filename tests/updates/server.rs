//! A firmware server on loopback that can be told to misbehave.

use std::{
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use aws_lc_rs::digest;

/// A firmware server that can be told to misbehave.
#[derive(Default)]
pub struct Manners {
    /// Ends each answer after so many bytes of body.
    pub cut_after: Mutex<Option<usize>>,
    pub weak: AtomicBool,
    /// Answers with this status instead.
    pub status: Mutex<Option<u16>>,
    pub requests: AtomicUsize,
    pub ranges: Mutex<Vec<Option<String>>>,
    pub image: Mutex<Vec<u8>>,
}

pub fn serve(image: Vec<u8>) -> (String, Arc<Manners>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("port");
    let url = format!("http://{}/fw.bin", listener.local_addr().expect("address"));
    let manners = Arc::new(Manners { image: Mutex::new(image), ..Manners::default() });
    let shared = manners.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let shared = shared.clone();
            std::thread::spawn(move || answer(stream, &shared));
        }
    });
    (url, manners)
}

fn answer(mut stream: TcpStream, manners: &Manners) -> Option<()> {
    let mut range = None;
    let mut if_range = None;
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    while let Some(Ok(line)) = lines.next() {
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').unwrap_or((&line, ""));
        match name.to_ascii_lowercase().as_str() {
            "range" => range = Some(value.trim().to_owned()),
            "if-range" => if_range = Some(value.trim().to_owned()),
            _ => {}
        }
    }
    manners.requests.fetch_add(1, Ordering::SeqCst);
    manners.ranges.lock().expect("lock").push(range.clone());
    let image = manners.image.lock().expect("lock").clone();
    if let Some(status) = *manners.status.lock().expect("lock") {
        let _ = write!(stream, "HTTP/1.1 {status} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        return Some(());
    }
    let strong = format!("\"{}\"", &hex::encode(digest::digest(&digest::SHA256, &image))[..12]);
    let etag = if manners.weak.load(Ordering::SeqCst) { format!("W/{strong}") } else { strong };
    let start = range.as_deref().and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    let start = start.filter(|start| *start < image.len() && if_range.as_deref().is_none_or(|tag| tag == etag));
    let body = &image[start.unwrap_or(0)..];
    let (status, extra) = match start {
        Some(start) => ("206 Partial", format!("Content-Range: bytes {start}-{}/{}\r\n", image.len() - 1, image.len())),
        None => ("200 OK", String::new()),
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nETag: {etag}\r\n{extra}Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    )
    .ok()?;
    let cut = manners.cut_after.lock().expect("lock").unwrap_or(usize::MAX).min(body.len());
    stream.write_all(&body[..cut]).ok()
}
