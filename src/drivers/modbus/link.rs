//! Opens the wire of a bus: TCP with a backup, TLS, a listener for those who dial in, or a serial port; and keeps the
//! back-off between tries.

use std::{fs::File, io::BufReader, path::Path, sync::Arc, time::Duration};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::{
    net::{TcpListener, TcpStream},
    time::{Instant, timeout},
};
use tokio_rustls::TlsConnector;
use tokio_serial::SerialPortBuilderExt;

use super::{port::Io, wire::Wire};
use crate::config::modbus::{Bus, Link, Parity, Serial, Tls};

const CONNECT: Duration = Duration::from_secs(3);
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// Longest pause between tries to open the wire: a cable put back is noticed within this.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The way to a wire, kept between connections.
#[derive(Debug)]
pub struct Opener {
    listener: Option<TcpListener>,
    pause: Duration,
    /// When the next try is due.
    pub next: Instant,
    /// Why the last try failed.
    pub reason: String,
    /// Address that answered last: tried first.
    last_good: usize,
}

impl Default for Opener {
    fn default() -> Self {
        Self::new()
    }
}

impl Opener {
    pub fn new() -> Self {
        Self {
            listener: None,
            pause: FIRST_PAUSE,
            next: Instant::now(),
            reason: "not connected yet".into(),
            last_good: 0,
        }
    }

    /// Tries once. After a failure `next` says when it makes sense again.
    pub async fn open(&mut self, bus: &Bus) -> Option<Wire> {
        match self.io(bus).await {
            Ok(io) => {
                self.reason.clear();
                Some(Wire::new(io, bus))
            }
            Err(reason) => {
                if reason != self.reason {
                    tracing::warn!(bus = &*bus.name, reason, "the wire does not open");
                }
                self.reason = reason;
                self.wait();
                None
            }
        }
    }

    /// The wire broke.
    pub fn lost(&mut self, reason: &str) {
        self.reason = reason.to_owned();
        self.wait();
    }

    /// The other side answered: the next loss is tried again soon.
    pub fn proven(&mut self) {
        self.pause = FIRST_PAUSE;
    }

    fn wait(&mut self) {
        self.next = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }

    async fn io(&mut self, bus: &Bus) -> Result<Io, String> {
        match &bus.link {
            Link::Tcp { addresses, tls } => {
                let mut reasons = Vec::new();
                for turn in 0..addresses.len() {
                    let place = (self.last_good + turn) % addresses.len();
                    match connect(&addresses[place], tls.as_ref()).await {
                        Ok(io) => {
                            self.last_good = place;
                            return Ok(io);
                        }
                        Err(reason) => reasons.push(format!("{}: {reason}", addresses[place])),
                    }
                }
                Err(reasons.join("; "))
            }
            Link::Listen { address } => {
                if self.listener.is_none() {
                    let listener =
                        TcpListener::bind(address).await.map_err(|e| format!("cannot listen on {address}: {e}"))?;
                    self.listener = Some(listener);
                }
                let Some(listener) = &self.listener else { return Err("no listener".into()) };
                match timeout(CONNECT, listener.accept()).await {
                    Ok(Ok((socket, _))) => Ok(stream(socket)),
                    Ok(Err(error)) => Err(format!("cannot accept on {address}: {error}")),
                    Err(_) => Err(format!("nobody has dialled in on {address}")),
                }
            }
            Link::Serial(serial) => open_serial(serial),
        }
    }
}

fn stream(socket: TcpStream) -> Io {
    // Requests are small and wait for their answer: never hold them back.
    let _ = socket.set_nodelay(true);
    Io::Stream(Box::new(socket))
}

async fn connect(address: &str, tls: Option<&Tls>) -> Result<Io, String> {
    let socket = match timeout(CONNECT, TcpStream::connect(address)).await {
        Ok(Ok(socket)) => socket,
        Ok(Err(error)) => return Err(error.to_string()),
        Err(_) => return Err("no answer to the connection request".into()),
    };
    let Some(tls) = tls else { return Ok(stream(socket)) };
    let _ = socket.set_nodelay(true);
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
    let name = tls.server_name.clone().unwrap_or_else(|| host.to_owned());
    let name = ServerName::try_from(name.clone()).map_err(|_| format!("{name:?} is no server name"))?;
    let connector = TlsConnector::from(Arc::new(client_config(tls)?));
    match timeout(CONNECT, connector.connect(name, socket)).await {
        Ok(Ok(secured)) => Ok(Io::Stream(Box::new(secured))),
        Ok(Err(error)) => Err(format!("TLS: {error}")),
        Err(_) => Err("TLS: no answer".into()),
    }
}

/// Mutual TLS 1.2 or newer (MB-TCP-Security V21, section 8).
fn client_config(tls: &Tls) -> Result<ClientConfig, String> {
    let certificates = |path: &Path| -> Result<Vec<CertificateDer<'static>>, String> {
        let file = File::open(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let read: Result<Vec<_>, _> = CertificateDer::pem_reader_iter(BufReader::new(file)).collect();
        read.map_err(|e| format!("{}: {e}", path.display()))
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&tls.ca)? {
        roots.add(certificate).map_err(|e| format!("{}: {e}", tls.ca.display()))?;
    }
    let key = PrivateKeyDer::from_pem_file(&tls.key).map_err(|e| format!("{}: {e}", tls.key.display()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots)
        .with_client_auth_cert(certificates(&tls.certificate)?, key)
        .map_err(|e| format!("{}: {e}", tls.certificate.display()))
}

fn open_serial(serial: &Serial) -> Result<Io, String> {
    let parity = match serial.parity {
        Parity::None => tokio_serial::Parity::None,
        Parity::Even => tokio_serial::Parity::Even,
        Parity::Odd => tokio_serial::Parity::Odd,
    };
    let data_bits = if serial.data_bits == 7 { tokio_serial::DataBits::Seven } else { tokio_serial::DataBits::Eight };
    let stop_bits = if serial.stop_bits == 2 { tokio_serial::StopBits::Two } else { tokio_serial::StopBits::One };
    let path = serial.port.to_string_lossy();
    let port = tokio_serial::new(path.as_ref(), serial.baud)
        .parity(parity)
        .data_bits(data_bits)
        .stop_bits(stop_bits)
        .open_native_async()
        .map_err(|error| format!("{path}: {error}"))?;
    Ok(Io::Serial(Box::new(port)))
}
