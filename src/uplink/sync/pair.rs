//! One shadow and its twin in the cloud, as far as that is known: what to do next. A plain value with the time given.
//!
//! ```text
//!  unknown ──ask (get)──▶ asked ──answer──▶ news ──look──▶ equal ◀──confirmed── sent (update, delete)
//!     ▲                     │ nothing, 429, 500              │  ▲                  │
//!     └── after a pause ◀───┴──── 409, nothing, a gap ◀──────┼──┼──────────────────┘ 413, 403, …: refused
//!                                                            └──┘ a change heard in turn, or made here
//! ```
//! The cloud's messages come at least once and in any order; versions order them. What is one ahead of what is known is
//! worked in, what is older is dropped, and any doubt ends in a question for the whole document.

mod hearing;

use super::words::{Looked, News, Next, Patience, Request};
use crate::{model::time::Millis, store::sync::Refused};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Knows {
    /// Nothing that counts: it must be asked.
    Nothing,
    /// Enough to leave it alone, not enough to build on.
    Partly,
    /// What is agreed on is what the cloud holds.
    Exactly,
}

#[derive(Debug, Clone, PartialEq)]
enum Asked {
    Get,
    Update { version: Option<u64>, bytes: u64 },
    Delete,
}

#[derive(Debug, Clone)]
struct Flight {
    token: u64,
    asked: Asked,
    since: Millis,
}

#[derive(Debug, Clone)]
pub struct Pair {
    /// The cloud's version as last heard.
    version: u64,
    /// The cloud holds no such shadow: numbering may begin anew.
    missing: bool,
    knows: Knows,
    /// The highest version heard since the question under way was asked.
    heard: u64,
    flight: Option<Flight>,
    news: Option<News>,
    changed: bool,
    busy: bool,
    failures: u32,
    not_before: Millis,
    sent_at: Millis,
    verify_at: Millis,
    refused: Option<Refused>,
    /// Refused here: both sides differ, and only a change of one of them mends it.
    kept_out: Option<Refused>,
    /// Not even questions are allowed.
    mute: bool,
}

impl Pair {
    /// Nothing is known of the cloud's side but what it refused before.
    pub fn new(refused: Option<Refused>) -> Pair {
        Pair {
            version: 0,
            missing: false,
            knows: Knows::Nothing,
            heard: 0,
            flight: None,
            news: None,
            changed: false,
            busy: false,
            failures: 0,
            not_before: Millis(0),
            sent_at: Millis(i64::MIN / 2),
            verify_at: Millis(i64::MAX),
            refused,
            kept_out: None,
            mute: false,
        }
    }

    /// Something waits for an answer or is being worked on: it holds one of the few places.
    pub fn is_under_way(&self) -> bool {
        self.busy || self.flight.is_some()
    }

    pub fn is_equal(&self) -> bool {
        !self.is_under_way() && self.news.is_none() && !self.changed && self.knows != Knows::Nothing
    }

    pub fn refused(&self) -> Option<&Refused> {
        self.refused.as_ref()
    }

    /// Why both sides are not equal and will not be by trying again.
    pub fn trouble(&self) -> Option<&Refused> {
        self.refused.as_ref().or(self.kept_out.as_ref())
    }

    /// Whether an update to values of so many bytes may be tried although the cloud refused one before.
    pub fn may_send(&self, bytes: u64) -> bool {
        self.refused.as_ref().is_none_or(|refused| refused.bytes.is_some_and(|too_many| bytes < too_many))
    }

    /// The shadow was changed here.
    pub fn changed_here(&mut self) {
        self.changed = true;
    }

    /// There is a road. Where the broker kept the session nothing was missed, else anything may have been.
    pub fn line_up(&mut self, resumed: bool) {
        if !resumed {
            self.doubt();
        }
        (self.failures, self.not_before) = (0, Millis(0));
        // What failed for a passing reason is tried again, what was refused is not.
        if self.refused.as_ref().is_some_and(|refused| refused.reason.starts_with(GAVE_UP)) {
            (self.refused, self.mute) = (None, false);
            self.doubt();
        }
    }

    /// The road ended: what became of a request under way is unknown.
    pub fn line_down(&mut self) {
        if self.flight.take().is_some() {
            self.doubt();
        }
    }

    /// Whatever is believed of the cloud may be wrong.
    pub fn doubt(&mut self) {
        self.knows = Knows::Nothing;
        self.news = None;
    }

    /// What is to be done now. A look counts as begun.
    pub fn next(&mut self, now: Millis, patience: &Patience) -> Option<Next> {
        if self.flight.as_ref().is_some_and(|flight| now.since(flight.since) >= patience.answer) {
            self.flight = None;
            self.fail("the cloud did not answer", now, patience);
        }
        if self.is_under_way() {
            return None;
        }
        if self.news.is_some() {
            (self.busy, self.changed) = (true, false);
            return Some(Next::Look { news: self.news.take(), version: self.version });
        }
        if self.mute || now < self.not_before {
            return None;
        }
        match self.knows {
            Knows::Nothing => Some(Next::Ask),
            _ if now >= self.verify_at => Some(Next::Ask),
            _ if !self.changed || now.since(self.sent_at) < self.interval(patience) => None,
            Knows::Partly => Some(Next::Ask),
            Knows::Exactly => {
                (self.busy, self.changed) = (true, false);
                Some(Next::Look { news: None, version: self.version })
            }
        }
    }

    /// When [`Pair::next`] may have something to do although nothing happens.
    pub fn wake(&self, patience: &Patience) -> Option<Millis> {
        if let Some(flight) = &self.flight {
            return Some(flight.since.plus(patience.answer));
        }
        if self.busy || self.mute {
            return None;
        }
        let work = match self.knows {
            _ if self.news.is_some() => Some(Millis(0)),
            Knows::Nothing => Some(self.not_before),
            _ if self.changed => Some(self.not_before.max(self.sent_at.plus(self.interval(patience)))),
            _ => None,
        };
        let verify = Some(self.verify_at.max(self.not_before)).filter(|at| at.0 != i64::MAX);
        work.into_iter().chain(verify).min()
    }

    /// What is refused is looked at rarely, however often it changes.
    fn interval(&self, patience: &Patience) -> i64 {
        match self.refused {
            Some(_) => patience.interval.max(patience.pause.1),
            None => patience.interval,
        }
    }

    /// A request is on its way.
    pub fn sent(&mut self, request: &Request, token: u64, now: Millis) {
        let asked = match request {
            Request::Get => {
                self.heard = 0;
                Asked::Get
            }
            Request::Update { version, bytes, .. } => Asked::Update { version: *version, bytes: *bytes },
            Request::Delete => Asked::Delete,
        };
        self.sent_at = now;
        self.flight = Some(Flight { token, asked, since: now });
    }

    /// A look has ended. True where what it wants to send may go: nothing was heard meanwhile.
    pub fn looked(&mut self, looked: &Looked, now: Millis, patience: &Patience) -> bool {
        self.busy = false;
        match looked {
            Looked::Settled { exact, kept_out } => {
                self.failures = 0;
                self.kept_out.clone_from(kept_out);
                if self.knows != Knows::Nothing {
                    self.knows = if *exact { Knows::Exactly } else { Knows::Partly };
                }
                false
            }
            Looked::Send(_) => {
                self.kept_out = None;
                self.knows != Knows::Nothing
            }
            Looked::Later => {
                self.doubt();
                self.pause(now, patience);
                false
            }
        }
    }

    /// The store has written down what [`Pair::hear`] asked for.
    pub fn settled(&mut self, good: bool, now: Millis, patience: &Patience) {
        self.busy = false;
        if !good {
            self.doubt();
            self.pause(now, patience);
        }
    }

    /// Something failed for a reason that may pass: asked again after a pause, but not for ever.
    fn fail(&mut self, why: &str, now: Millis, patience: &Patience) {
        self.doubt();
        if self.failures >= patience.attempts {
            let reason = format!("{GAVE_UP} {} attempts: {why}", self.failures);
            (self.refused, self.mute) = (Some(Refused { reason, bytes: None }), true);
            return;
        }
        self.pause(now, patience);
    }

    fn pause(&mut self, now: Millis, patience: &Patience) {
        let (first, most) = patience.pause;
        let span = first.saturating_mul(1 << self.failures.min(20)).min(most);
        self.failures += 1;
        // Spread over the second half, so that many that failed together do not come back together.
        let spread = (now.0 ^ (self.version as i64).wrapping_mul(0x9E37_79B9)).rem_euclid(span / 2 + 1);
        self.not_before = now.plus(span / 2 + spread);
    }
}

/// How the reason begins of what is tried again when there is a new connection.
const GAVE_UP: &str = "gave up after";
