//! The load tool: clients that speak just enough MQTT 3.1.1 to be fast, the same for every broker.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::{sleep_until, timeout},
};
use tokio_rustls::TlsConnector;

const PATIENCE: Duration = Duration::from_secs(60);

pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// Certificates are not what is measured.
#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

pub fn connector() -> TlsConnector {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = versions.expect("versions").dangerous().with_custom_certificate_verifier(Arc::new(Anyone));
    TlsConnector::from(Arc::new(config.with_no_client_auth()))
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    let mut length = body.len();
    loop {
        let byte = (length % 128) as u8;
        length /= 128;
        out.push(if length > 0 { byte | 128 } else { byte });
        if length == 0 {
            break;
        }
    }
    out.extend(body);
    out
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u16).to_be_bytes()[..], text.as_bytes()].concat()
}

/// A connection that was accepted.
pub async fn connect(port: u16, tls: Option<&TlsConnector>, id: &str, clean: bool) -> io::Result<Box<dyn Stream>> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    let mut stream: Box<dyn Stream> = match tls {
        None => Box::new(stream),
        Some(tls) => Box::new(tls.connect(ServerName::try_from("localhost").expect("a name"), stream).await?),
    };
    let mut body = text("MQTT");
    body.extend([4, if clean { 2 } else { 0 }, 0, 0]);
    body.extend(text(id));
    stream.write_all(&packet(0x10, &body)).await?;
    stream.flush().await?;
    let mut answer = [0; 4];
    timeout(PATIENCE, stream.read_exact(&mut answer)).await??;
    if answer[3] == 0 { Ok(stream) } else { Err(io::Error::other(format!("CONNACK {}", answer[3]))) }
}

/// Whole packets in what was read: first byte, length of body, and where it begins. Returns the bytes used.
fn packets(input: &[u8], mut each: impl FnMut(u8, &[u8])) -> usize {
    let mut used = 0;
    loop {
        let rest = &input[used..];
        let (mut length, mut header) = (0, 1);
        loop {
            let Some(byte) = rest.get(header) else { return used };
            length |= usize::from(byte & 127) << (7 * (header - 1));
            header += 1;
            if byte & 128 == 0 {
                break;
            }
        }
        if rest.len() < header + length {
            return used;
        }
        each(rest[0], &rest[header..header + length]);
        used += header + length;
    }
}

/// What all clients of a run share.
pub struct Run {
    pub begun: Instant,
    pub stop: AtomicBool,
    pub published: AtomicU64,
    pub acknowledged: AtomicU64,
    pub delivered: AtomicU64,
    /// Part of every topic of this run, so that what an earlier one left on its way is not counted.
    pub mark: String,
}

/// QoS 0 messages on their way at a time, all publishers together: as many as no broker has to drop.
const AHEAD: u64 = 1500;

impl Run {
    pub fn new() -> Arc<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        Arc::new(Self {
            mark: format!("r{}-", COUNT.fetch_add(1, Ordering::Relaxed)),
            published: AtomicU64::new(0),
            begun: Instant::now(),
            stop: AtomicBool::new(false),
            acknowledged: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
        })
    }
}

/// How a publisher publishes.
#[derive(Clone)]
pub struct Manner {
    pub topic: String,
    pub qos: u8,
    /// Bytes of payload.
    pub size: usize,
    /// QoS 1 messages on their way at a time; QoS 0 messages said at once, or 0 for no restraint at all.
    pub window: usize,
    /// Between messages, of QoS 0 between as many as are said at once; flat out without it.
    pub every: Option<Duration>,
}

/// Publishes until stopped; counts acknowledgements.
pub async fn publish(mut stream: Box<dyn Stream>, manner: Manner, run: Arc<Run>) -> io::Result<()> {
    let mut input = Vec::with_capacity(4096);
    let (mut open, mut id) = (0_usize, 0_u16);
    let mut output = Vec::with_capacity(64 * 1024);
    let mut next = tokio::time::Instant::now();
    while !run.stop.load(Ordering::Relaxed) {
        let room = match (manner.every, manner.qos) {
            (Some(_), 0) => manner.window.max(1),
            (Some(_), _) => 1,
            (None, 0) if manner.window == 0 => 64,
            (None, 0) => {
                let ahead = run.published.load(Ordering::Relaxed).saturating_sub(run.delivered.load(Ordering::Relaxed));
                if ahead > AHEAD {
                    tokio::task::yield_now().await;
                    continue;
                }
                manner.window
            }
            (None, _) => manner.window - open,
        };
        if let Some(every) = manner.every {
            sleep_until(next).await;
            next += every;
        }
        output.clear();
        for _ in 0..room {
            id = id.checked_add(1).unwrap_or(1);
            let mut body = text(&manner.topic);
            if manner.qos > 0 {
                body.extend(id.to_be_bytes());
            }
            let head = format!("{{\"t\":{},\"p\":\"", run.begun.elapsed().as_micros());
            body.extend(head.as_bytes());
            body.resize(body.len() + manner.size.saturating_sub(head.len() + 2), b'x');
            body.extend(b"\"}");
            output.extend(packet(0x30 | manner.qos << 1, &body));
        }
        stream.write_all(&output).await?;
        stream.flush().await?;
        run.published.fetch_add(room as u64, Ordering::Relaxed);
        if manner.qos == 0 {
            continue;
        }
        open += room;
        let limit = if manner.every.is_some() { 1 } else { manner.window };
        while open >= limit {
            if stream.read_buf(&mut input).await? == 0 {
                return Err(io::Error::other("closed"));
            }
            let mut acks = 0;
            let used = packets(&input, |_, _| acks += 1);
            input.drain(..used);
            open -= acks;
            run.acknowledged.fetch_add(acks as u64, Ordering::Relaxed);
        }
    }
    Ok(())
}

/// Subscribes, then takes everything until the connection ends or the run stops: microseconds from publisher to here.
pub async fn subscribe(mut stream: Box<dyn Stream>, filter: &str, qos: u8, run: Arc<Run>, latencies: bool) -> Vec<u32> {
    let mut body = vec![0, 1];
    body.extend(text(filter));
    body.push(qos);
    let mut found = Vec::new();
    if stream.write_all(&packet(0x82, &body)).await.is_err() || stream.flush().await.is_err() {
        return found;
    }
    let mut input = Vec::with_capacity(256 * 1024);
    let mut output = Vec::new();
    while !run.stop.load(Ordering::Relaxed) {
        match timeout(Duration::from_millis(50), stream.read_buf(&mut input)).await {
            Err(_) => continue,
            Ok(Ok(n)) if n > 0 => {}
            Ok(_) => break,
        }
        let now = run.begun.elapsed().as_micros() as u64;
        let mut count = 0;
        let used = packets(&input, |first, body| {
            if first >> 4 != 3 {
                return;
            }
            let at = 2 + usize::from(u16::from_be_bytes([body[0], body[1]]));
            let own = body[2..at].windows(run.mark.len()).any(|window| window == run.mark.as_bytes());
            count += u64::from(own);
            if first & 6 != 0 {
                output.extend([0x40, 2, body[at], body[at + 1]]);
            }
            if latencies && own {
                let digits = &body[at + usize::from(first & 6 != 0) * 2 + 5..];
                let sent =
                    digits.iter().take_while(|b| b.is_ascii_digit()).fold(0_u64, |n, b| n * 10 + u64::from(b - b'0'));
                found.push(now.saturating_sub(sent) as u32);
            }
        });
        input.drain(..used);
        run.delivered.fetch_add(count, Ordering::Relaxed);
        if !output.is_empty() {
            if stream.write_all(&output).await.is_err() || stream.flush().await.is_err() {
                break;
            }
            output.clear();
        }
    }
    found
}
