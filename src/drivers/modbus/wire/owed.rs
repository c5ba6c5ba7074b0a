//! Replies that were given up and may still come, on a wire that cannot tell them from those to later questions.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::{Request, Wire, WireError};
use crate::config::modbus::Bus;

/// A reply that was given up and may still come, on a wire that cannot tell it from the next one's.
#[derive(Debug)]
pub(super) struct Owed {
    unit: u8,
    request: Request,
    asked: Instant,
    until: Instant,
    /// The same question was asked again, and answered by whichever of its replies came first.
    answered: bool,
}

impl Wire {
    pub(super) fn owe(&mut self, unit: u8, request: &Request, asked: Instant, timeout: Duration) {
        let now = Instant::now();
        self.owed.retain(|owed| owed.unit != unit && owed.until > now);
        let until = (now + timeout).max(asked + self.longest);
        self.owed.push(Owed { unit, request: request.clone(), asked, until, answered: false });
    }

    /// Before another question to a unit that was late: its reply to the first would pass for the reply to this one. The
    /// same question again needs no wait, whichever of its replies comes first; but then the second one is still owed.
    pub(super) async fn await_owed(&mut self, unit: u8, request: &Request) -> Result<(), WireError> {
        let other = |owed: &Owed| owed.unit == unit && owed.request != *request;
        let Some(place) = self.owed.iter().position(other) else { return Ok(()) };
        let owed = self.owed.swap_remove(place);
        while self.port.incoming.is_empty() {
            match timeout_at(owed.until, self.port.read()).await {
                Ok(read) => read?,
                Err(_) => return Ok(()),
            }
        }
        self.strays += 1;
        self.trace_raw(unit, "late");
        self.port.drain().await;
        Ok(())
    }

    /// After an answer that came late: of a question that was asked twice another one may come.
    pub(super) fn still_owed(&mut self, unit: u8, came: Instant, timeout: Duration) {
        let recent = |owed: &Owed| !owed.answered && came < owed.until + timeout;
        if let Some(owed) = self.owed.iter_mut().find(|owed| owed.unit == unit && recent(owed)) {
            // A unit that hung answers what has piled up: the second reply takes no longer than the first.
            (owed.until, owed.answered) = (came + (came - owed.asked), true);
        }
    }
}

/// How long a unit of this bus may take at most.
pub(super) fn longest(bus: &Bus) -> Duration {
    bus.devices.iter().map(|device| device.timeout).max().unwrap_or_default()
}
