//! One open connection: requests out, their answers in, deadlines kept. Waits for one answer at a time; where frames
//! carry transaction ids, requests that will be wanted next may be on their way already. No policy.

mod owed;

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use tokio::time::{Instant, sleep_until, timeout_at};

use self::owed::{Owed, longest};
use super::{
    frame::{self, Frame, Side, Step},
    pdu::{LONGEST, Request},
    port::{Io, Port},
};
use crate::config::modbus::{Bus, Framing};

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

/// A frame that passed, for the scope.
#[derive(Debug, Clone)]
pub struct Traced {
    pub at: Instant,
    pub unit: u8,
    pub sent: bool,
    pub bytes: Bytes,
    pub note: Option<&'static str>,
}

/// What came back, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub pdu: Bytes,
    /// From the last byte sent (as far as is known) to the whole reply.
    pub latency: Duration,
    /// When it came, which may be a while before somebody asked for it.
    pub came: Instant,
}

/// A request on its way before anybody waits for it.
#[derive(Debug)]
struct Ahead {
    transaction: u16,
    unit: u8,
    request: Request,
    sent: Instant,
    answer: Option<(Bytes, Instant)>,
    /// Something was written meanwhile: the answer may be older than the write.
    void: bool,
}

#[derive(Debug)]
pub struct Wire {
    port: Port,
    framing: Framing,
    gap: Duration,
    turnaround: Duration,
    any_transaction: bool,
    /// How long a unit may take at most, whatever a question waits.
    longest: Duration,
    transaction: u16,
    outgoing: BytesMut,
    ahead: Vec<Ahead>,
    /// One for each unit at most.
    owed: Vec<Owed>,
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
            port: Port::new(io, bus),
            framing: bus.framing,
            gap: bus.gap,
            turnaround: bus.turnaround,
            any_transaction: bus.any_transaction,
            longest: longest(bus),
            transaction: 0,
            outgoing: BytesMut::with_capacity(512),
            ahead: Vec::new(),
            owed: Vec::new(),
            unsettled: true,
            strays: 0,
            traced: Vec::new(),
            tracing: false,
        }
    }

    /// Takes over pauses and tolerances that changed while the wire itself did not.
    pub fn adopt(&mut self, bus: &Bus) {
        (self.gap, self.turnaround, self.any_transaction) = (bus.gap, bus.turnaround, bus.any_transaction);
        self.longest = longest(bus);
    }

    /// Sends a request and waits for its answer; one that was sent ahead is only waited for. `timeout` runs from the
    /// last byte sent to the first byte back; time on a serial line is added. `gap` is the pause this unit wants on top
    /// of the bus's own.
    pub async fn exchange(
        &mut self,
        unit: u8,
        request: &Request,
        timeout: Duration,
        gap: Duration,
    ) -> Result<Answer, WireError> {
        if let Some(ahead) = self.taken_ahead(unit, request, timeout) {
            if let Some((pdu, came)) = ahead.answer {
                return Ok(Answer { pdu, latency: came.saturating_duration_since(ahead.sent), came });
            }
            return self.answer(ahead.transaction, unit, request, ahead.sent, timeout).await;
        }
        let gap = self.gap.max(gap);
        self.port.silence(gap).await;
        self.await_owed(unit, request).await?;
        // What came unasked ends with a silence as well. Bounded: an endpoint that floods is not waited for for ever.
        for _ in 0..8 {
            if !self.settle()? {
                break;
            }
            self.port.silence(gap).await;
        }
        let sent = self.send(unit, request, timeout).await?;
        if self.broadcast(unit) {
            sleep_until(sent + self.turnaround).await;
            self.port.last_byte = Instant::now();
            return Ok(Answer { pdu: Bytes::new(), latency: Duration::ZERO, came: sent });
        }
        let result = self.answer(self.transaction, unit, request, sent, timeout).await;
        self.unsettled = result.is_err();
        match &result {
            Err(WireError::Timeout(_)) if !self.tells_apart() => self.owe(unit, request, sent, timeout),
            Ok(answer) => self.still_owed(unit, answer.came, timeout),
            Err(_) => {}
        }
        result
    }

    /// Whether requests may be sent before their turn: replies are told apart by their transaction ids.
    pub fn tells_apart(&self) -> bool {
        self.framing == Framing::Tcp && !self.any_transaction
    }

    /// Requests on their way that nobody waits for yet.
    pub fn under_way(&self) -> usize {
        self.ahead.iter().filter(|ahead| ahead.answer.is_none() && !ahead.void).count()
    }

    pub fn is_ahead(&self, unit: u8, request: &Request) -> bool {
        self.ahead.iter().any(|ahead| !ahead.void && ahead.unit == unit && ahead.request == *request)
    }

    /// Sends a request that will be wanted soon. What nobody asked for within a while is forgotten.
    pub async fn send_ahead(&mut self, unit: u8, request: Request, timeout: Duration) -> Result<(), WireError> {
        self.ahead.retain(|ahead| ahead.sent.elapsed() < timeout.max(Duration::from_secs(1)) * 2);
        let sent = self.send(unit, &request, timeout).await?;
        let transaction = self.transaction;
        self.ahead.push(Ahead { transaction, unit, request, sent, answer: None, void: false });
        Ok(())
    }

    /// Reads sent ahead to a unit tell nothing any more once something is written to it.
    fn taken_ahead(&mut self, unit: u8, request: &Request, timeout: Duration) -> Option<Ahead> {
        if !request.only_reads() {
            self.ahead.iter_mut().filter(|ahead| ahead.unit == unit).for_each(|ahead| ahead.void = true);
        }
        let wanted = |ahead: &Ahead| !ahead.void && ahead.unit == unit && ahead.request == *request;
        let ahead = self.ahead.swap_remove(self.ahead.iter().position(wanted)?);
        // An answer that has waited for long is no measurement of now.
        let fresh = ahead.answer.as_ref().is_none_or(|(_, came)| came.elapsed() < timeout.min(Duration::from_secs(1)));
        fresh.then_some(ahead)
    }

    async fn send(&mut self, unit: u8, request: &Request, timeout: Duration) -> Result<Instant, WireError> {
        self.transaction = self.transaction.wrapping_add(1);
        self.outgoing.clear();
        frame::encode(self.framing, self.transaction, unit, request.bytes(), &mut self.outgoing);
        if self.tracing {
            let bytes = self.outgoing.clone().freeze();
            self.traced.push(Traced { at: Instant::now(), unit, sent: true, bytes, note: None });
        }
        self.port.send(&self.outgoing, timeout).await
    }

    /// Unit 0 is a broadcast on serial lines; behind TCP it is the endpoint itself.
    fn broadcast(&self, unit: u8) -> bool {
        unit == 0 && self.port.serial.is_some()
    }

    async fn answer(
        &mut self,
        transaction: u16,
        unit: u8,
        request: &Request,
        sent: Instant,
        timeout: Duration,
    ) -> Result<Answer, WireError> {
        let mut deadline = sent + timeout;
        let mut begun = false;
        loop {
            match frame::decode(self.framing, Side::Reply, &mut self.port.incoming) {
                Step::Frame(frame) => {
                    let came = self.port.last_byte;
                    if self.is_answer(&frame, transaction, unit, request) {
                        self.trace_frame(&frame, None);
                        return Ok(Answer { pdu: frame.pdu, latency: came.saturating_duration_since(sent), came });
                    }
                    if self.keep_for_later(&frame, came) {
                        // The other side works through a queue: ours comes after what it has just done.
                        deadline = deadline.max(came + timeout);
                        continue;
                    }
                    // A late or foreign reply: the right one may follow.
                    self.trace_frame(&frame, Some("stray"));
                    self.strays += 1;
                    continue;
                }
                Step::Wait => {}
                Step::Damaged => {
                    self.drop_damaged(unit).await;
                    return Err(WireError::Damaged);
                }
                Step::Foreign => return Err(WireError::Foreign),
            }
            match timeout_at(deadline, self.port.read()).await {
                Ok(Ok(())) => {
                    if !begun && let Some(serial) = &self.port.serial {
                        // The rest of the reply needs its time on the line; adapters deliver it in portions.
                        let expected = request.reply_len().unwrap_or(LONGEST);
                        let rest = serial.time_of(frame::wire_len(self.framing, expected));
                        deadline = deadline.max(self.port.last_byte + rest + Duration::from_millis(50));
                    }
                    begun = true;
                }
                Ok(Err(error)) => return Err(error),
                Err(_) if self.framing != Framing::Tcp && !self.port.incoming.is_empty() => {
                    self.drop_damaged(unit).await;
                    return Err(WireError::Damaged);
                }
                Err(_) => return Err(WireError::Timeout(timeout)),
            }
        }
    }

    fn is_answer(&self, frame: &Frame, transaction: u16, unit: u8, request: &Request) -> bool {
        let known = self.framing != Framing::Tcp || self.any_transaction || frame.transaction == transaction;
        known && frame.unit == unit && request.is_answered_by(&frame.pdu)
    }

    /// The answer to something that was sent ahead.
    fn keep_for_later(&mut self, frame: &Frame, came: Instant) -> bool {
        let answered = |ahead: &Ahead| {
            ahead.transaction == frame.transaction
                && ahead.unit == frame.unit
                && ahead.answer.is_none()
                && ahead.request.is_answered_by(&frame.pdu)
        };
        let Some(place) = self.ahead.iter().position(answered) else { return false };
        self.trace_frame(frame, None);
        if self.ahead[place].void {
            self.ahead.swap_remove(place);
        } else {
            self.ahead[place].answer = Some((frame.pdu.clone(), came));
        }
        true
    }

    /// Throws away what came unasked. On TCP whole late frames are told by their transaction, so only what cannot be
    /// told apart is dropped. Whether there was something.
    fn settle(&mut self) -> Result<bool, WireError> {
        if self.tells_apart() || !(self.unsettled || self.port.serial.is_some()) {
            return Ok(false);
        }
        // Bounded: an endpoint that floods is not read for ever.
        for _ in 0..64 {
            match self.port.read().now_or_never() {
                Some(read) => read?,
                None => break,
            }
        }
        let unasked = !self.port.incoming.is_empty();
        if unasked {
            self.strays += 1;
            self.trace_raw(0, "unasked");
            self.port.incoming.clear();
        }
        Ok(unasked)
    }

    /// After damage the rest of the frame is awaited until the line is silent.
    async fn drop_damaged(&mut self, unit: u8) {
        self.trace_raw(unit, "damaged");
        self.port.drain().await;
    }

    fn trace_frame(&mut self, frame: &Frame, note: Option<&'static str>) {
        if self.tracing {
            let mut bytes = BytesMut::new();
            frame::encode(self.framing, frame.transaction, frame.unit, &frame.pdu, &mut bytes);
            let (at, unit) = (self.port.last_byte, frame.unit);
            self.traced.push(Traced { at, unit, sent: false, bytes: bytes.freeze(), note });
        }
    }

    fn trace_raw(&mut self, unit: u8, note: &'static str) {
        if self.tracing {
            let bytes = Bytes::copy_from_slice(&self.port.incoming);
            self.traced.push(Traced { at: self.port.last_byte, unit, sent: false, bytes, note: Some(note) });
        }
    }
}
