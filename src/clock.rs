//! The time of day, and whether it can be believed. The only place that asks the system for it.
//!
//! A gateway without a battery-backed clock wakes up in the past. Until the time comes from somewhere better its clock
//! runs from a floor: the newest time it has ever seen, so that time never goes back over a power cut. Records of that
//! span are flagged; when the system's clock is set the distance between the two is known, and the log repairs them.

use std::{
    path::Path,
    process::Command,
    sync::{
        RwLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crate::model::time::Millis;

/// Nothing was ever measured before this was built. A reproducible build says when that was.
const BUILT: Millis = Millis(1_793_491_200_000);

/// How long after the clock was set a stamp may still come from before.
const GRACE: Duration = Duration::from_secs(60);

static TRUSTED: AtomicBool = AtomicBool::new(true);
static FACE: RwLock<Option<Face>> = RwLock::new(None);

/// The clock of a start without a believable time.
#[derive(Debug, Clone, Copy)]
struct Face {
    /// The floor, and when it counted.
    floor: Millis,
    since: Instant,
    /// When the system's clock was believed.
    trusted: Option<Instant>,
}

impl Face {
    fn at(&self, now: Instant) -> Millis {
        let gone = now.saturating_duration_since(self.since).as_millis();
        self.floor.plus(i64::try_from(gone).unwrap_or(i64::MAX))
    }

    /// Whether `ts` was taken from this face rather than from the system's clock.
    fn gave(&self, ts: Millis, system: Millis, now: Instant) -> bool {
        match self.trusted {
            None => true,
            Some(at) if now.saturating_duration_since(at) > GRACE => false,
            Some(_) => ts.since(self.at(now)).abs() < ts.since(system).abs(),
        }
    }
}

/// Now, as Unix milliseconds: the system's clock, or the floor and what has passed since where that is not believed.
pub fn now() -> Millis {
    if TRUSTED.load(Relaxed) {
        return system();
    }
    let face = *FACE.read().unwrap_or_else(|e| e.into_inner());
    face.map_or_else(system, |face| face.at(Instant::now()))
}

/// Whether [`now`] is believed to be the time of day.
pub fn trusted() -> bool {
    TRUSTED.load(Relaxed)
}

/// Whether a stamp was taken while the clock was not believed.
pub fn doubtful(ts: Millis) -> bool {
    let face = *FACE.read().unwrap_or_else(|e| e.into_inner());
    face.is_some_and(|face| face.gave(ts, system(), Instant::now()))
}

/// Decides at the start whether the system's clock is believed. `newest` is the newest time that was ever stored.
pub fn begin(newest: Millis) {
    let floor = Millis(newest.0.max(built().0));
    if believable(floor) {
        return;
    }
    let face = Face { floor: Millis(floor.0.max(system().0)), since: Instant::now(), trusted: None };
    *FACE.write().unwrap_or_else(|e| e.into_inner()) = Some(face);
    TRUSTED.store(false, Relaxed);
    tracing::warn!(floor = floor.0, "the clock is not believed until it is set");
}

/// Looks whether the clock was set meanwhile. If so it is believed from now on; returns what must be added to the
/// stamps that were given out before.
pub fn look() -> Option<i64> {
    if trusted() || !believable(built()) {
        return None;
    }
    let mut face = FACE.write().unwrap_or_else(|e| e.into_inner());
    let face = face.as_mut()?;
    let now = Instant::now();
    let repair = system().since(face.at(now));
    face.trusted = Some(now);
    TRUSTED.store(true, Relaxed);
    tracing::info!(repair_ms = repair, "the clock was set and is believed");
    Some(repair)
}

/// Whether the system's clock has a source: the time service says so, or a battery kept it. Where nothing can tell (a
/// container) a time after the floor is believed.
fn believable(floor: Millis) -> bool {
    if Path::new("/run/systemd/timesync/synchronized").exists() {
        return true;
    }
    if system() < floor {
        return false;
    }
    if std::fs::read_to_string("/sys/class/rtc/rtc0/hctosys").is_ok_and(|text| text.trim() == "1") {
        return true;
    }
    let told = Command::new("timedatectl").args(["show", "-p", "NTPSynchronized", "--value"]).output();
    told.map_or(true, |told| !told.status.success() || told.stdout.starts_with(b"yes"))
}

fn built() -> Millis {
    let epoch = option_env!("SOURCE_DATE_EPOCH").and_then(|text| text.parse::<i64>().ok());
    epoch.map_or(BUILT, |seconds| Millis(seconds.saturating_mul(1000)))
}

fn system() -> Millis {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => Millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX)),
        Err(before) => Millis(-i64::try_from(before.duration().as_millis()).unwrap_or(i64::MAX)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_of_before_and_after_are_told_apart_for_a_while() {
        let start = Instant::now();
        let mut face = Face { floor: Millis(1_000_000), since: start, trusted: None };
        let later = start + Duration::from_secs(5);
        assert_eq!(face.at(later), Millis(1_005_000));
        assert!(face.gave(Millis(1_004_000), Millis(0), later));
        // The clock is set ten years ahead.
        face.trusted = Some(later);
        let system = Millis(315_360_000_000);
        assert!(face.gave(Millis(1_004_990), system, later));
        assert!(!face.gave(Millis(315_360_000_000), system, later));
        assert!(!face.gave(Millis(1_004_990), system, later + GRACE * 2));
    }
}
