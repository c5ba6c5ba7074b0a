//! Bytes of one open connection, out and in: writing, RTS, local echo, silence between frames. Knows no frame.

use std::{io, time::Duration};

use bytes::BytesMut;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::{Instant, sleep_until, timeout_at},
};
use tokio_serial::{SerialPort, SerialStream};

use super::wire::WireError;
use crate::config::modbus::{Bus, Rts, Serial};

/// Anything bytes go through in both directions.
pub trait Duplex: AsyncRead + AsyncWrite + Unpin + Send + Sync {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + Sync> Duplex for T {}

pub enum Io {
    Stream(Box<dyn Duplex>),
    Serial(Box<SerialStream>),
}

impl std::fmt::Debug for Io {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Io::Stream(_) => "stream",
            Io::Serial(_) => "serial",
        })
    }
}

#[derive(Debug)]
pub(super) struct Port {
    io: Io,
    pub serial: Option<Serial>,
    echo: bool,
    /// What came and was not yet understood.
    pub incoming: BytesMut,
    /// When the last byte went either way.
    pub last_byte: Instant,
}

impl Port {
    pub fn new(io: Io, bus: &Bus) -> Self {
        Self {
            io,
            serial: bus.serial().cloned(),
            echo: bus.echo,
            incoming: BytesMut::with_capacity(512),
            last_byte: Instant::now(),
        }
    }

    /// Writes a frame; gives the time at which its last byte is (about) on the line.
    pub async fn send(&mut self, frame: &[u8], timeout: Duration) -> Result<Instant, WireError> {
        let on_line = self.serial.as_ref().map_or(Duration::ZERO, |serial| serial.time_of(frame.len()));
        let rts = self.serial.as_ref().map_or(Rts::None, |serial| serial.rts);
        self.turn(rts, true)?;
        let started = Instant::now();
        let limit = started + timeout.max(Duration::from_secs(1)) + on_line;
        let writing = async {
            match &mut self.io {
                Io::Stream(stream) => stream.write_all(frame).await,
                Io::Serial(serial) => serial.write_all(frame).await,
            }
        };
        match timeout_at(limit, writing).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(closed(&error)),
            Err(_) => return Err(WireError::Closed("the connection takes no more bytes".into())),
        }
        let sent = started + on_line;
        if rts != Rts::None {
            sleep_until(sent).await;
            self.turn(rts, false)?;
        }
        self.last_byte = sent;
        if self.echo {
            self.swallow_echo(frame, sent + timeout).await?;
        }
        Ok(sent)
    }

    fn turn(&mut self, rts: Rts, sending: bool) -> Result<(), WireError> {
        let level = match rts {
            Rts::None => return Ok(()),
            Rts::High => sending,
            Rts::Low => !sending,
        };
        match &mut self.io {
            Io::Serial(serial) => {
                serial.write_request_to_send(level).map_err(|e| WireError::Closed(format!("RTS cannot be set: {e}")))
            }
            Io::Stream(_) => Ok(()),
        }
    }

    async fn swallow_echo(&mut self, frame: &[u8], deadline: Instant) -> Result<(), WireError> {
        while self.incoming.len() < frame.len() {
            match timeout_at(deadline, self.read()).await {
                Ok(read) => read?,
                Err(_) => return Err(WireError::Closed("no local echo; set echo = false".into())),
            }
        }
        if self.incoming.starts_with(frame) {
            let _ = self.incoming.split_to(frame.len());
            return Ok(());
        }
        self.incoming.clear();
        Err(WireError::Damaged)
    }

    /// Waits for bytes.
    pub async fn read(&mut self) -> Result<(), WireError> {
        let read = match &mut self.io {
            Io::Stream(stream) => stream.read_buf(&mut self.incoming).await,
            Io::Serial(serial) => serial.read_buf(&mut self.incoming).await,
        };
        match read {
            Ok(0) => Err(WireError::Closed("closed by the other side".into())),
            Ok(_) => {
                self.last_byte = Instant::now();
                Ok(())
            }
            Err(error) => Err(closed(&error)),
        }
    }

    /// Waits until the line was silent for 3.5 characters and this pause has passed.
    pub async fn silence(&self, pause: Duration) {
        let line = self.serial.as_ref().map_or(Duration::ZERO, Serial::silence);
        let pause = line.max(pause);
        if !pause.is_zero() {
            super::pause::until(self.last_byte + pause).await;
        }
    }

    /// Reads until nothing came for a silence, then forgets all of it.
    pub async fn drain(&mut self) {
        let silence = self.serial.as_ref().map_or(Duration::from_millis(5), Serial::silence);
        let silence = silence.max(Duration::from_millis(5));
        for _ in 0..64 {
            match timeout_at(Instant::now() + silence, self.read()).await {
                Ok(Ok(())) => {}
                _ => break,
            }
        }
        self.incoming.clear();
    }
}

fn closed(error: &io::Error) -> WireError {
    WireError::Closed(match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => "closed by the other side".into(),
        _ => error.to_string(),
    })
}
