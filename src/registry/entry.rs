//! One device as the registry sees it: what its signs of life and its silence mean. Pure; time is an argument.

use std::{collections::VecDeque, time::Duration};

use serde_json::{Value as Json, json};

use crate::{
    config::presence::Presence as Settings,
    model::{
        device::{Device, Lifecycle, Presence, Protocol},
        event::Event,
        time::Millis,
    },
};

/// A flapping device's state is told again after it held for this long.
const CALM: Duration = Duration::from_secs(60);
/// Events that wait for a disk that refuses; more of one device say nothing new.
pub(super) const MOST_EVENTS: usize = 16;

/// Now, twice: the time of day for people, and time since the start for measuring, which never jumps.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    pub at: Millis,
    pub since_start: Duration,
}

#[derive(Debug)]
pub struct Entry {
    pub device: Device,
    /// Named in the configuration (as it is now, not as it was).
    pub configured: bool,
    pub(super) interval: Option<Duration>,
    /// The door's view; the text is why it ended.
    pub(super) connected: Result<(), String>,
    /// The driver's view, where it has said something.
    pub(super) unreachable: Option<String>,
    /// Last sign of life since the start, or since it may talk again.
    heard: Option<Duration>,
    /// What it became when it might talk again.
    back: Option<Lifecycle>,
    changes: VecDeque<Duration>,
    flapping: bool,
    /// Before this time nothing follows from silence alone.
    pub(super) next_look: Duration,
    /// What the cloud was told last.
    pub(super) told: Option<bool>,
    /// The row differs from the one on disk in more than the time last seen.
    pub(super) dirty: bool,
    pub(super) seen_dirty: bool,
    pub(super) events: Vec<(Millis, Json)>,
}

impl Entry {
    pub(super) fn new(device: Device, fresh: Option<()>) -> Self {
        let told = match device.presence {
            Presence::NeverSeen => None,
            Presence::Offline => Some(false),
            Presence::Online | Presence::Late => Some(true),
        };
        Self {
            device,
            configured: false,
            interval: None,
            connected: Err("is not connected".into()),
            unreachable: None,
            heard: None,
            back: None,
            changes: VecDeque::new(),
            flapping: false,
            next_look: Duration::ZERO,
            told,
            dirty: fresh.is_some(),
            seen_dirty: false,
            events: Vec::new(),
        }
    }

    pub(super) fn hear(&mut self, at: Millis, now: Now) {
        self.heard = Some(now.since_start);
        self.dirty |= self.device.first_seen.is_none();
        self.device.first_seen.get_or_insert(at);
        self.device.last_seen = self.device.last_seen.max(Some(at));
        self.seen_dirty = true;
    }

    pub(super) fn live(&mut self, next: Lifecycle, by: Json, now: Now, tell: &mut Vec<Event>) {
        let before = std::mem::replace(&mut self.device.lifecycle, next);
        if next.may_talk() && !before.may_talk() {
            (self.heard, self.unreachable, self.back) = (None, None, Some(next));
        }
        self.next_look = Duration::ZERO;
        self.dirty = true;
        self.owe(now.at, json!({"event": "lifecycle", "from": before, "to": next, "by": by}));
        tell.push(Event::Lifecycle { device: self.device.id.clone(), lifecycle: next, at: now.at });
    }

    pub(super) fn owe(&mut self, at: Millis, event: Json) {
        if self.events.len() < MOST_EVENTS {
            self.events.push((at, event));
        }
    }

    pub(super) fn judge(&mut self, settings: &Settings, now: Now, tell: &mut Vec<Event>) {
        let (presence, reason) = self.presence(settings, now);
        self.device.reason.clone_from(&reason);
        if presence != self.device.presence {
            let before = std::mem::replace(&mut self.device.presence, presence);
            self.device.presence_since = Some(now.at);
            self.dirty = true;
            if before != Presence::NeverSeen && is_online(before) != is_online(presence) {
                self.changes.push_back(now.since_start);
            }
            tell.push(Event::Presence { device: self.device.id.clone(), presence, at: now.at, reason });
        }
        while self.changes.front().is_some_and(|c| now.since_start.saturating_sub(*c) > settings.flapping_window) {
            self.changes.pop_front();
        }
        let changes = self.changes.len();
        if !self.flapping && changes >= settings.flapping_changes {
            self.flapping = true;
            let minutes = settings.flapping_window.as_secs_f64() / 60.0;
            self.owe(now.at, json!({"event": "flapping", "state": "raised", "changes": changes, "minutes": minutes}));
        } else if self.flapping && changes == 0 {
            self.flapping = false;
            self.owe(now.at, json!({"event": "flapping", "state": "cleared"}));
        }
        while self.changes.len() > 1000 {
            self.changes.pop_front();
        }
        self.next_look = self.look_again(settings, now).unwrap_or(Duration::MAX);
    }

    /// When [`Entry::judge`] may find something else though nothing is heard.
    fn look_again(&self, settings: &Settings, now: Now) -> Option<Duration> {
        let interval = self.interval.or(settings.interval);
        let silent_for = |intervals: f64| Some(self.heard? + interval?.mul_f64(intervals));
        let offline_after = interval.map(|interval| interval.mul_f64(settings.offline_after));
        let grace = self.heard.is_none().then(|| offline_after.unwrap_or_default().max(settings.grace));
        let silence = [silent_for(settings.late_after), silent_for(settings.offline_after), grace];
        let silence = silence.into_iter().flatten().filter(|at| *at >= now.since_start).min();
        let forgotten = self.changes.front().map(|first| *first + settings.flapping_window);
        let calm = self.changes.back().filter(|_| self.flapping).map(|last| *last + CALM);
        let calm = calm.filter(|at| *at >= now.since_start);
        [silence, forgotten, calm].into_iter().flatten().min()
    }

    fn presence(&self, settings: &Settings, now: Now) -> (Presence, Option<String>) {
        let interval = self.interval.or(settings.interval);
        let offline_after = interval.map(|i| i.mul_f64(settings.offline_after));
        if self.device.protocol == Protocol::Gateway {
            return (Presence::Online, None);
        }
        match (self.device.lifecycle, self.device.presence) {
            (Lifecycle::Decommissioned, _) => return (Presence::Offline, Some("decommissioned".into())),
            (_, Presence::NeverSeen) => {}
            (Lifecycle::Suspended, _) => return (Presence::Offline, Some("suspended".into())),
            (Lifecycle::Quarantined, _) => return (Presence::Offline, Some("quarantined".into())),
            _ => {}
        }
        if self.device.protocol == Protocol::Modbus && !self.configured {
            return (Presence::Offline, Some("no longer in the configuration".into()));
        }
        if let Some(reason) = &self.unreachable {
            return (Presence::Offline, Some(reason.clone()));
        }
        let Some(heard) = self.heard else {
            let grace = offline_after.unwrap_or_default().max(settings.grace);
            return match self.device.presence {
                Presence::NeverSeen => (Presence::NeverSeen, None),
                // The gateway was away, not the child.
                before if self.back.is_none() && now.since_start < grace => (before, self.device.reason.clone()),
                _ => {
                    let since = self.back.map(|life| format!("it became {life:?}").to_lowercase());
                    let since = since.as_deref().unwrap_or("the gateway started");
                    (Presence::Offline, Some(format!("not heard since {since}")))
                }
            };
        };
        match (interval, offline_after) {
            (Some(interval), Some(offline_after)) => {
                let silence = now.since_start.saturating_sub(heard);
                if silence > offline_after {
                    (
                        Presence::Offline,
                        Some(format!("silent for more than {offline_after:.1?}; expected every {interval:.1?}")),
                    )
                } else if silence > interval.mul_f64(settings.late_after) {
                    (Presence::Late, None)
                } else {
                    (Presence::Online, None)
                }
            }
            _ => match (&self.connected, self.device.protocol) {
                (Err(reason), Protocol::Mqtt) => (Presence::Offline, Some(reason.clone())),
                _ => (Presence::Online, None),
            },
        }
    }

    /// The state the cloud should be told now. A flapping device is told when it has held still for a while.
    pub(super) fn status_due(&self, now: Now) -> Option<bool> {
        // The gateway's own status is the uplink's to tell, with its last will.
        if self.device.presence == Presence::NeverSeen || self.device.protocol == Protocol::Gateway {
            return None;
        }
        let online = is_online(self.device.presence);
        let calm = self.changes.back().is_none_or(|last| now.since_start.saturating_sub(*last) >= CALM);
        (self.told != Some(online) && (!self.flapping || calm)).then_some(online)
    }
}

fn is_online(presence: Presence) -> bool {
    matches!(presence, Presence::Online | Presence::Late)
}
