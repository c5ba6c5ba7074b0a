//! One open connection: frames out, frames in, silence and deadlines kept. Knows one request at a time, no policy.

use std::{io, time::Duration};

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::{Instant, sleep_until, timeout_at},
};
use tokio_serial::{SerialPort, SerialStream};

use super::{
    frame::{self, Frame, Side, Step},
    pdu::Request,
};
use crate::config::modbus::{Bus, Framing, Rts, Serial};

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

/// Why a request got no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("no reply within {} ms", .0.as_millis())]
    Timeout(Duration),
    #[error("damaged reply (checksum)")]
    Damaged,
    #[error("what answers there does not speak this protocol")]
    Foreign,
    #[error("{0}")]
    Closed(String),
}

impl WireError {
    /// Whether the connection cannot be used any more.
    pub fn ends_connection(&self) -> bool {
        matches!(self, WireError::Foreign | WireError::Closed(_))
    }
}

/// A frame that passed, for the scope.
#[derive(Debug, Clone)]
pub struct Traced {
    pub at: Instant,
    pub sent: bool,
    pub bytes: Bytes,
    pub note: Option<&'static str>,
}

/// Time that a request and its answer took.
#[derive(Debug, Clone)]
pub struct Answer {
    pub pdu: Bytes,
    /// From the last byte sent (as far as is known) to the whole reply.
    pub latency: Duration,
}

#[derive(Debug)]
pub struct Wire {
    io: Io,
    framing: Framing,
    serial: Option<Serial>,
    gap: Duration,
    turnaround: Duration,
    any_transaction: bool,
    echo: bool,
    transaction: u16,
    incoming: BytesMut,
    outgoing: BytesMut,
    /// When the last byte went either way.
    last_byte: Instant,
    /// Something may still come that answers an earlier request.
    unsettled: bool,
    /// Frames that answered nothing that was asked.
    pub strays: u64,
    /// Filled while `tracing` is on.
    pub traced: Vec<Traced>,
    pub tracing: bool,
}

impl Wire {
    pub fn new(io: Io, bus: &Bus) -> Self {
        Self {
            io,
            framing: bus.framing,
            serial: bus.serial().cloned(),
            gap: bus.gap,
            turnaround: bus.turnaround,
            any_transaction: bus.any_transaction,
            echo: bus.echo,
            transaction: 0,
            incoming: BytesMut::with_capacity(512),
            outgoing: BytesMut::with_capacity(512),
            last_byte: Instant::now(),
            unsettled: true,
            strays: 0,
            traced: Vec::new(),
            tracing: false,
        }
    }

    /// Takes over pauses and tolerances that changed while the wire itself did not.
    pub fn adopt(&mut self, bus: &Bus) {
        (self.gap, self.turnaround, self.any_transaction) = (bus.gap, bus.turnaround, bus.any_transaction);
    }

    /// Sends a request and waits for its answer. `timeout` runs from the last byte sent to the first byte back; time
    /// on a serial line is added. `gap` is the pause this unit wants on top of the bus's own.
    pub async fn exchange(
        &mut self,
        unit: u8,
        request: &Request,
        timeout: Duration,
        gap: Duration,
    ) -> Result<Answer, WireError> {
        self.silence(gap).await;
        self.settle()?;
        self.transaction = self.transaction.wrapping_add(1);
        self.outgoing.clear();
        frame::encode(self.framing, self.transaction, unit, request.bytes(), &mut self.outgoing);
        let sent = self.send(timeout).await?;
        if self.broadcast(unit) {
            sleep_until(sent + self.turnaround).await;
            self.last_byte = Instant::now();
            return Ok(Answer { pdu: Bytes::new(), latency: Duration::ZERO });
        }
        let result = self.answer(unit, request, sent, timeout).await;
        self.unsettled = result.is_err();
        result
    }

    /// Unit 0 is a broadcast on serial lines; behind TCP it is the endpoint itself.
    fn broadcast(&self, unit: u8) -> bool {
        unit == 0 && self.serial.is_some()
    }

    async fn answer(
        &mut self,
        unit: u8,
        request: &Request,
        sent: Instant,
        timeout: Duration,
    ) -> Result<Answer, WireError> {
        let mut deadline = sent + timeout;
        let mut begun = false;
        loop {
            match frame::decode(self.framing, Side::Reply, &mut self.incoming) {
                Step::Frame(frame) => {
                    let ours = self.is_answer(&frame, unit, request);
                    self.trace_frame(&frame, (!ours).then_some("stray"));
                    if ours {
                        let latency = self.last_byte.saturating_duration_since(sent);
                        return Ok(Answer { pdu: frame.pdu, latency });
                    }
                    // A late or foreign reply: the right one may follow.
                    self.strays += 1;
                    continue;
                }
                Step::Wait => {}
                Step::Damaged => {
                    self.drop_damaged().await;
                    return Err(WireError::Damaged);
                }
                Step::Foreign => return Err(WireError::Foreign),
            }
            match timeout_at(deadline, self.read()).await {
                Ok(Ok(())) => {
                    if !begun && let Some(serial) = &self.serial {
                        // The rest of the reply needs its time on the line; adapters deliver it in portions.
                        let expected = request.reply_len().unwrap_or(super::pdu::LONGEST);
                        let rest = serial.time_of(frame::wire_len(self.framing, expected));
                        deadline = deadline.max(self.last_byte + rest + Duration::from_millis(50));
                    }
                    begun = true;
                }
                Ok(Err(error)) => return Err(error),
                Err(_) if self.framing != Framing::Tcp && !self.incoming.is_empty() => {
                    self.drop_damaged().await;
                    return Err(WireError::Damaged);
                }
                Err(_) => return Err(WireError::Timeout(timeout)),
            }
        }
    }

    fn is_answer(&self, frame: &Frame, unit: u8, request: &Request) -> bool {
        let known = self.framing != Framing::Tcp || self.any_transaction || frame.transaction == self.transaction;
        known && frame.unit == unit && request.is_answered_by(&frame.pdu)
    }

    /// Writes what is in `outgoing`; gives the time at which its last byte is (about) on the line.
    async fn send(&mut self, timeout: Duration) -> Result<Instant, WireError> {
        let on_line = self.serial.as_ref().map_or(Duration::ZERO, |serial| serial.time_of(self.outgoing.len()));
        let rts = self.serial.as_ref().map_or(Rts::None, |serial| serial.rts);
        self.turn(rts, true)?;
        let started = Instant::now();
        let limit = started + timeout.max(Duration::from_secs(1)) + on_line;
        let writing = async {
            match &mut self.io {
                Io::Stream(stream) => stream.write_all(&self.outgoing).await,
                Io::Serial(serial) => serial.write_all(&self.outgoing).await,
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
        if self.tracing {
            let bytes = self.outgoing.clone().freeze();
            self.traced.push(Traced { at: started, sent: true, bytes, note: None });
        }
        if self.echo {
            self.swallow_echo(sent + timeout).await?;
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

    async fn swallow_echo(&mut self, deadline: Instant) -> Result<(), WireError> {
        while self.incoming.len() < self.outgoing.len() {
            match timeout_at(deadline, self.read()).await {
                Ok(read) => read?,
                Err(_) => return Err(WireError::Closed("no local echo; set echo = false".into())),
            }
        }
        if self.incoming.starts_with(&self.outgoing) {
            let _ = self.incoming.split_to(self.outgoing.len());
            return Ok(());
        }
        self.incoming.clear();
        Err(WireError::Damaged)
    }

    async fn read(&mut self) -> Result<(), WireError> {
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

    /// Waits until the line was silent for 3.5 characters and the configured gaps have passed.
    async fn silence(&self, gap: Duration) {
        let line = self.serial.as_ref().map_or(Duration::ZERO, Serial::silence);
        let pause = line.max(self.gap).max(gap);
        if !pause.is_zero() {
            super::pause::until(self.last_byte + pause).await;
        }
    }

    /// Throws away what came unasked. On TCP whole late frames are told by their transaction, so only what cannot be
    /// told apart is dropped.
    fn settle(&mut self) -> Result<(), WireError> {
        let tells_apart = self.framing == Framing::Tcp && !self.any_transaction;
        if tells_apart || !(self.unsettled || self.serial.is_some()) {
            return Ok(());
        }
        // Bounded: an endpoint that floods is not read for ever.
        for _ in 0..64 {
            match self.read().now_or_never() {
                Some(read) => read?,
                None => break,
            }
        }
        if !self.incoming.is_empty() {
            self.strays += 1;
            self.trace_raw("unasked");
            self.incoming.clear();
        }
        Ok(())
    }

    /// After damage the rest of the frame is awaited until the line is silent.
    async fn drop_damaged(&mut self) {
        self.trace_raw("damaged");
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

    fn trace_frame(&mut self, frame: &Frame, note: Option<&'static str>) {
        if self.tracing {
            let mut bytes = BytesMut::new();
            frame::encode(self.framing, frame.transaction, frame.unit, &frame.pdu, &mut bytes);
            self.traced.push(Traced { at: self.last_byte, sent: false, bytes: bytes.freeze(), note });
        }
    }

    fn trace_raw(&mut self, note: &'static str) {
        if self.tracing {
            let bytes = Bytes::copy_from_slice(&self.incoming);
            self.traced.push(Traced { at: self.last_byte, sent: false, bytes, note: Some(note) });
        }
    }
}

fn closed(error: &io::Error) -> WireError {
    WireError::Closed(match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => "closed by the other side".into(),
        _ => error.to_string(),
    })
}
