//! One request with its retries: timeouts, busy answers and damaged frames counted apart, the wire opened and dropped.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};

use super::{
    owner::Owner,
    pdu::{Exception, Request},
    schedule::UnitKey,
    wire::{Answer, WireError},
};
use crate::{clock, config::modbus::Link};

/// Tries again after "busy" and after a damaged frame.
const BUSY_RETRIES: u8 = 3;
const DAMAGE_RETRIES: u8 = 2;
/// Requests without any reply after which a TCP connection is made anew.
const SILENT_LIMIT: u32 = 3;

/// Why a unit gave no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It is there, and says no.
    #[error("{0}")]
    Exception(Exception),
    /// No reply, which may happen once: to be asked again after what is due.
    #[error("{0}")]
    Late(Arc<str>),
    /// It is not there: silence, damage to the end, a gateway speaking for it, or no wire at all.
    #[error("{0}")]
    Silent(Arc<str>),
}

/// Who waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// Somebody for just this one: it has its whole timeout, and its retries at once.
    Wanted,
    /// Nobody in particular, since it comes again anyway: it has what is usual for the unit, and retries come after what
    /// is due for others.
    Polled,
}

impl Owner<'_> {
    /// Opens the wire; on success every unit that was away is tried at once.
    pub async fn open(&mut self) {
        let (bus, stop) = (self.bus.clone(), self.stop.clone());
        let opened = tokio::select! {
            opened = self.opener.open(&bus) => opened,
            () = stop.cancelled() => return,
        };
        let Some(wire) = opened else { return };
        tracing::info!(bus = &*bus.name, "wire open");
        self.wire = Some(wire);
        self.silent = 0;
        let now = Instant::now();
        // Who dropped the connection may have started anew, with other firmware.
        self.units.values_mut().for_each(|unit| unit.firmware.doubt(unit.device.firmware.as_ref(), now));
        let away: Vec<UnitKey> =
            self.units.iter().filter(|(_, unit)| unit.health.is_doubtful()).map(|(key, _)| *key).collect();
        for key in away {
            if let Some(unit) = self.units.get_mut(&key) {
                unit.health.hurry(now);
            }
            if self.working != Some(key) {
                self.start(key, now);
            }
        }
    }

    /// One request, no retries, for any unit id.
    pub async fn exchange(
        &mut self,
        unit: u8,
        request: &Request,
        timeout: Duration,
        gap: Duration,
    ) -> Result<Answer, WireError> {
        if self.wire.is_none() && Instant::now() >= self.opener.next {
            self.open().await;
        }
        let tracing = !self.scopes.is_empty();
        let Some(wire) = &mut self.wire else { return Err(WireError::Closed(self.opener.reason.clone())) };
        wire.tracing = tracing;
        self.counters.requests += 1;
        let began = Instant::now();
        let result = wire.exchange(unit, request, timeout, gap).await;
        self.meter.add(began.elapsed());
        if tracing {
            let traced = std::mem::take(&mut wire.traced);
            self.show(traced);
        }
        match &result {
            Ok(answer) => {
                self.silent = 0;
                self.opener.proven();
                self.counters.replies += 1;
                self.counters.latency.add(answer.latency);
                if let Some(code) = exception(&answer.pdu) {
                    *self.counters.exceptions.entry(code.0).or_default() += 1;
                }
            }
            Err(WireError::Timeout(_)) => {
                self.counters.timeouts += 1;
                self.silent += 1;
                if self.silent >= SILENT_LIMIT && !matches!(self.bus.link, Link::Serial(_)) {
                    // Nothing at all comes back: the peer may be gone without a word. A new connection costs little.
                    self.drop_wire("nothing comes back");
                    self.opener.next = Instant::now();
                }
            }
            Err(WireError::Damaged) => self.counters.damaged += 1,
            Err(error) => self.drop_wire(&error.to_string()),
        }
        result
    }

    fn drop_wire(&mut self, reason: &str) {
        if let Some(wire) = self.wire.take() {
            tracing::info!(bus = &*self.bus.name, reason, "wire dropped");
            self.counters.strays += wire.strays;
            self.counters.reconnects += 1;
            self.opener.lost(reason);
        }
    }

    /// Asks one of the bus's own units, with retries where they make sense.
    pub async fn ask(&mut self, key: UnitKey, request: &Request) -> Result<Answer, Fault> {
        self.ask_in(Manner::Wanted, key, request).await
    }

    /// The same for what is read again and again: a silent unit holds the others up for as short as can be, and is
    /// `Late` as long as it has retries.
    pub async fn poll(&mut self, key: UnitKey, request: &Request) -> Result<Answer, Fault> {
        self.ask_in(Manner::Polled, key, request).await
    }

    async fn ask_in(&mut self, manner: Manner, key: UnitKey, request: &Request) -> Result<Answer, Fault> {
        let Some(unit) = self.units.get(&key) else { return Err(Fault::Silent("removed".into())) };
        let (id, gap) = (unit.device.unit, unit.device.gap);
        let timeout = match manner {
            // What was sent ahead also waits for those before it; and behind a gateway that still waits for the unit that
            // was silent just now, everybody does.
            Manner::Polled if self.bus.in_flight < 2 && self.silent == 0 => {
                unit.patience.wait(&unit.health, unit.device.timeout, Instant::now())
            }
            _ => unit.device.timeout,
        };
        let retries = if unit.health.is_doubtful() { 0 } else { unit.device.retries };
        let mut silent_left = retries;
        let mut busy_left = if unit.busy { 0 } else { BUSY_RETRIES };
        let mut damage_left = DAMAGE_RETRIES;
        let mut reopen_left = 1;
        loop {
            let connected = self.wire.is_some();
            let result = self.exchange(id, request, timeout, gap).await;
            let Some(unit) = self.units.get_mut(&key) else { return Err(Fault::Silent("removed".into())) };
            unit.counters.requests += 1;
            match result {
                Ok(answer) => {
                    unit.counters.replies += 1;
                    unit.counters.latency.add(answer.latency);
                    let code = exception(&answer.pdu);
                    if !code.is_some_and(Exception::is_gateway) {
                        unit.patience.answered(answer.latency);
                    }
                    let Some(code) = code else {
                        unit.busy = false;
                        unit.last_heard = Some(clock::now());
                        return Ok(answer);
                    };
                    *unit.counters.exceptions.entry(code.0).or_default() += 1;
                    if code.is_gateway() {
                        return Err(Fault::Silent(code.to_string().into()));
                    }
                    unit.last_heard = Some(clock::now());
                    if !code.is_busy() {
                        return Err(Fault::Exception(code));
                    }
                    if busy_left == 0 {
                        // It stays busy: the next request is not repeated, so that others do not wait for it.
                        unit.busy = true;
                        return Err(Fault::Exception(code));
                    }
                    busy_left -= 1;
                    unit.counters.retries += 1;
                    sleep(Duration::from_millis(20) * u32::from(BUSY_RETRIES - busy_left)).await;
                }
                Err(error) => {
                    let left = match &error {
                        WireError::Timeout(_) => {
                            unit.counters.timeouts += 1;
                            if manner == Manner::Polled && unit.patience.misses < retries {
                                unit.patience.misses += 1;
                                unit.counters.retries += 1;
                                self.counters.retries += 1;
                                return Err(Fault::Late(error.to_string().into()));
                            }
                            if manner == Manner::Polled {
                                silent_left = 0;
                            }
                            &mut silent_left
                        }
                        WireError::Damaged => {
                            unit.counters.damaged += 1;
                            &mut damage_left
                        }
                        // A server that closes idle connections is asked again over a new one, once.
                        WireError::Closed(_) if connected => {
                            self.opener.next = Instant::now();
                            &mut reopen_left
                        }
                        _ => return Err(Fault::Silent(error.to_string().into())),
                    };
                    if *left == 0 {
                        return Err(Fault::Silent(error.to_string().into()));
                    }
                    *left -= 1;
                    unit.counters.retries += 1;
                    self.counters.retries += 1;
                }
            }
        }
    }
}

/// The exception in a reply, if it is one.
pub fn exception(pdu: &[u8]) -> Option<Exception> {
    match pdu {
        [function, code] if function & 0x80 != 0 => Some(Exception(*code)),
        _ => None,
    }
}
