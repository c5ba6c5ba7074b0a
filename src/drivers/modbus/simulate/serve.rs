//! The simulator's loop: a request in, a reply (or a fault) out.

use std::{
    io,
    path::PathBuf,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::sleep,
};
use tokio_serial::{SerialPort, SerialStream};

use super::{Modbus, answer::answer, faults::Faults, memory::Registers};
use crate::{
    config::modbus::Framing,
    drivers::modbus::{
        frame::{self, Side, Step},
        pause,
        port::Duplex,
    },
    tasks::Tasks,
};

/// What a connection needs to know.
#[derive(Debug, Clone)]
pub(super) struct Server {
    framing: Framing,
    registers: Registers,
    faults: Faults,
    /// Replies take the time they would need on a line of this speed.
    baud: Option<u32>,
}

pub(super) async fn accept(listener: TcpListener, server: Server, tasks: Tasks) {
    let stop = tasks.stopping();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        let Ok((socket, peer)) = accepted else {
            // Out of file descriptors, most likely: later is better.
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        let _ = socket.set_nodelay(true);
        let (server, stop) = (server.clone(), stop.clone());
        tasks.spawn(format!("simulated modbus for {peer}"), async move {
            tokio::select! {
                () = server.serve(socket, || true) => {}
                () = stop.cancelled() => {}
            }
        });
    }
}

impl Server {
    pub(super) fn new(framing: Framing, simulator: &Modbus, baud: Option<u32>) -> Self {
        let (registers, faults) = (simulator.registers.clone(), simulator.faults.clone());
        Self { framing, registers, faults, baud }
    }

    /// Answers until the connection ends. What comes while `understood` is false is noise.
    pub(super) async fn serve(self, mut io: impl Duplex, understood: impl Fn() -> bool) {
        let mut buffer = BytesMut::with_capacity(512);
        let mut out = BytesMut::with_capacity(512);
        loop {
            match frame::decode(self.framing, Side::Request, &mut buffer) {
                Step::Frame(frame) => {
                    let before = buffer.len();
                    if self.one(&mut io, &mut out, frame).await.is_err() {
                        return;
                    }
                    debug_assert!(buffer.len() == before);
                }
                Step::Wait => match io.read_buf(&mut buffer).await {
                    Ok(0) => return,
                    Ok(_) if !understood() => buffer.clear(),
                    Ok(_) => {}
                    // A terminal that nobody has open yet.
                    Err(error) if error.raw_os_error() == Some(5) => sleep(Duration::from_millis(20)).await,
                    Err(_) => return,
                },
                Step::Damaged => buffer.clear(),
                Step::Foreign => return,
            }
        }
    }

    async fn one(&self, io: &mut impl Duplex, out: &mut BytesMut, request: frame::Frame) -> io::Result<()> {
        let came = tokio::time::Instant::now();
        if request.unit != 0 && !self.registers.has(request.unit) {
            return Ok(());
        }
        let fate = self.faults.fate(request.unit);
        out.clear();
        if fate.echo {
            frame::encode(self.framing, request.transaction, request.unit, &request.pdu, out);
        }
        let echo = out.len();
        self.registers.move_on(request.unit, Instant::now());
        let reply = match fate.exception {
            Some(code) => vec![request.pdu.first().copied().unwrap_or(0) | 0x80, code],
            None => answer(&self.registers, request.unit, &request.pdu),
        };
        if fate.close {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let refused = reply.first().is_some_and(|function| function & 0x80 != 0);
        if fate.drop || (fate.mute && refused) || (request.unit == 0 && self.framing != Framing::Tcp) {
            return io.write_all(out).await;
        }
        let transaction = request.transaction.wrapping_add(if fate.wrong_transaction { 7 } else { 0 });
        frame::encode(self.framing, transaction, request.unit, &reply, out);
        if fate.damage
            && let Some(last) = out.last_mut()
        {
            *last ^= 0x55;
        }
        if fate.double {
            let again = out[echo..].to_vec();
            out.extend_from_slice(&again);
        }
        if !fate.delay.is_zero() {
            sleep(fate.delay).await;
        }
        if let Some(baud) = self.baud {
            // The request took its time to get here, silence ended it, and the reply takes its own.
            let request_len = frame::wire_len(self.framing, request.pdu.len());
            let characters = (request_len + out.len()) as u64;
            let silence = if baud > 19_200 { 1_750_000 } else { 35_000_000_000 / u64::from(baud) };
            let on_line = characters * 10_000_000_000 / u64::from(baud);
            pause::until(came + fate.delay + Duration::from_nanos(on_line + silence)).await;
        }
        if fate.halves {
            let half = out.split_to(out.len() / 2);
            io.write_all(&half).await?;
            io.flush().await?;
            sleep(Duration::from_millis(30)).await;
        }
        io.write_all(out).await?;
        io.flush().await
    }
}

/// Whether the driver has set its end of the line to this speed.
pub(super) fn same_speed(line: &SerialStream, baud: Option<u32>) -> bool {
    baud.is_none_or(|baud| line.baud_rate().is_ok_and(|set| set == baud))
}

/// Both ends of a pseudo terminal in raw mode, and the path a driver opens. The other end stays open here: otherwise
/// each close of the driver's would read as an error on ours.
pub(super) fn open_terminal() -> io::Result<(SerialStream, SerialStream, PathBuf)> {
    let (ours, theirs) = SerialStream::pair()?;
    let path = theirs.name().ok_or_else(|| io::Error::other("the pseudo terminal has no name"))?;
    Ok((ours, theirs, PathBuf::from(path)))
}
