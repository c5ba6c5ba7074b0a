//! Whether a unit is there: a small state machine per unit, so that one dead unit never costs the others their pace.
//!
//! ```text
//!              failed                    silent > 3 s and 2 failed cycles
//!   Online ──────────────▶ Suspect ───────────────────────────────────────▶ Offline
//!     ▲  asked at its pace    │ asked once a second, one request, no retry     │ one probe per back-off, 1 s … cap
//!     └───────────────────────┴──────────────── heard ─────────────────────────┘
//! ```

use std::time::Duration;

use tokio::time::Instant;

/// Silence after which a unit may be called offline.
pub const SILENCE: Duration = Duration::from_secs(3);
/// Failed cycles after which a unit may be called offline.
pub const FAILURES: u32 = 2;
/// Pause between requests to a unit that just failed.
const SUSPECT_PAUSE: Duration = Duration::from_secs(1);
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
/// Longest pause between probes of a dead unit.
pub const LONGEST_BACKOFF: Duration = Duration::from_secs(30);

/// What a cycle changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    None,
    CameOnline,
    WentOffline,
}

#[derive(Debug, Clone)]
pub struct Health {
    state: State,
    /// Last answer, or the start.
    heard: Instant,
    ever: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    /// Nothing known yet: the first answer brings it online, the first silence makes it suspect.
    Unknown,
    Online,
    Suspect {
        failures: u32,
        next: Instant,
    },
    Offline {
        backoff: Duration,
        next: Instant,
    },
}

impl Health {
    pub fn new(now: Instant) -> Self {
        Self { state: State::Unknown, heard: now, ever: false }
    }

    pub fn is_online(&self) -> bool {
        matches!(self.state, State::Online)
    }

    pub fn is_offline(&self) -> bool {
        matches!(self.state, State::Offline { .. })
    }

    /// It failed lately: ask once, without retries.
    pub fn is_doubtful(&self) -> bool {
        matches!(self.state, State::Suspect { .. } | State::Offline { .. })
    }

    /// Whether one more silence that ends at `then` makes it offline.
    pub fn decides(&self, then: Instant) -> bool {
        let silent = then.saturating_duration_since(self.heard);
        matches!(self.state, State::Suspect { failures, .. } if failures + 1 >= FAILURES && silent > SILENCE)
    }

    /// The pause between probes of a unit that is offline; none for others.
    pub fn backoff(&self) -> Duration {
        match self.state {
            State::Offline { backoff, .. } => backoff,
            _ => Duration::ZERO,
        }
    }

    /// When a single request should find out whether it is back; `None` while it is asked at its own pace.
    pub fn next_probe(&self) -> Option<Instant> {
        match self.state {
            State::Unknown | State::Online => None,
            State::Suspect { next, .. } | State::Offline { next, .. } => Some(next),
        }
    }

    /// Time since the last answer, `None` where there never was one.
    pub fn silent_for(&self, now: Instant) -> Option<Duration> {
        self.ever.then(|| now.saturating_duration_since(self.heard))
    }

    pub fn word(&self) -> &'static str {
        match self.state {
            State::Unknown => "unknown",
            State::Online => "online",
            State::Suspect { .. } => "suspect",
            State::Offline { .. } => "offline",
        }
    }

    /// It answered, be it with an exception.
    pub fn heard(&mut self, now: Instant) -> Change {
        let known = std::mem::replace(&mut self.ever, true);
        self.heard = now;
        match std::mem::replace(&mut self.state, State::Online) {
            State::Online => Change::None,
            // A cough: nobody was told that it was away.
            State::Suspect { .. } if known => Change::None,
            _ => Change::CameOnline,
        }
    }

    /// A cycle ended without an answer.
    pub fn failed(&mut self, now: Instant) -> Change {
        match self.state {
            State::Unknown | State::Online => {
                self.state = State::Suspect { failures: 1, next: now + SUSPECT_PAUSE };
                Change::None
            }
            State::Suspect { failures, .. } if !self.decides(now) => {
                self.state = State::Suspect { failures: failures + 1, next: now + SUSPECT_PAUSE };
                Change::None
            }
            State::Suspect { .. } => {
                self.state = State::Offline { backoff: FIRST_BACKOFF, next: now + FIRST_BACKOFF };
                Change::WentOffline
            }
            State::Offline { backoff, .. } => {
                let backoff = (backoff * 2).min(LONGEST_BACKOFF);
                self.state = State::Offline { backoff, next: now + backoff };
                Change::None
            }
        }
    }

    /// The wire came back: whatever the back-off was, the unit may be asked at once.
    pub fn hurry(&mut self, now: Instant) {
        if let State::Offline { .. } = self.state {
            self.state = State::Offline { backoff: FIRST_BACKOFF / 2, next: now };
        } else if let State::Suspect { failures, .. } = self.state {
            self.state = State::Suspect { failures, next: now };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    #[test]
    fn offline_needs_both_silence_and_two_failed_cycles() {
        let start = Instant::now();
        let mut health = Health::new(start);
        assert_eq!(health.heard(start), Change::CameOnline);
        assert_eq!(health.failed(at(start, 500)), Change::None);
        assert_eq!(health.failed(at(start, 2000)), Change::None, "silent for 2 s only");
        assert_eq!(health.failed(at(start, 3500)), Change::WentOffline);
        let mut slow = Health::new(start);
        slow.heard(start);
        assert_eq!(slow.failed(at(start, 10_000)), Change::None, "one failed cycle only");
        assert_eq!(slow.failed(at(start, 11_000)), Change::WentOffline);
    }

    #[test]
    fn the_back_off_grows_to_its_cap_and_one_answer_ends_it() {
        let start = Instant::now();
        let mut health = Health::new(start);
        let mut now = at(start, 4000);
        health.failed(now);
        assert_eq!(health.failed(now), Change::WentOffline);
        let mut pauses = Vec::new();
        for _ in 0..8 {
            let next = health.next_probe().expect("a probe");
            pauses.push((next - now).as_secs());
            now = next;
            assert_eq!(health.failed(now), Change::None);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30, 30]);
        assert_eq!(health.heard(now), Change::CameOnline);
        assert_eq!(health.next_probe(), None);
    }

    #[test]
    fn a_cough_is_no_news_but_the_first_answer_is() {
        let start = Instant::now();
        let mut health = Health::new(start);
        health.failed(start);
        assert_eq!(health.heard(at(start, 1)), Change::CameOnline);
        health.failed(at(start, 2));
        assert_eq!(health.heard(at(start, 3)), Change::None);
    }
}
