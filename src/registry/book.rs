//! What is known of every device and what follows from a sign of life or from silence. A pure value: time is an
//! argument, and what must be written or told is collected until it is taken.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use serde_json::{Value as Json, json};

use super::{
    Configured,
    entry::{Entry, MOST_EVENTS, Now},
};
use crate::{
    config::presence::Presence as Settings,
    model::{
        device::{Device, Lifecycle, Lives, Presence, Protocol},
        event::Event,
        ids::DeviceId,
        record::{Kind, NewRecord},
        time::Millis,
    },
};

/// What is to be written in one transaction and told afterwards.
#[derive(Debug, Default)]
pub struct Batch {
    pub devices: Vec<Device>,
    pub records: Vec<NewRecord>,
    pub events: Vec<Event>,
    owed: Vec<(DeviceId, Option<bool>, Vec<(Millis, Json)>)>,
}

impl Batch {
    pub fn is_empty(&self) -> bool {
        self.devices.is_empty() && self.records.is_empty() && self.events.is_empty()
    }

    /// What is to be written of one device, if anything is.
    fn add(&mut self, entry: &mut Entry, seen: usize, now: Now) {
        let status = entry.status_due(now);
        let seen = entry.seen_dirty && self.devices.len() < seen;
        if !(entry.dirty || status.is_some() || !entry.events.is_empty() || seen) {
            return;
        }
        let id = &entry.device.id;
        entry.dirty = false;
        entry.seen_dirty = false;
        self.devices.push(entry.device.clone());
        let events = std::mem::take(&mut entry.events);
        self.records.extend(events.iter().map(|(ts, body)| record(id, Kind::Event, *ts, body)));
        let before = entry.told;
        if let Some(online) = status {
            let since = entry.device.presence_since.unwrap_or(now.at);
            let mut body = json!({"state": if online { "online" } else { "offline" }, "since": since});
            if let (false, Some(reason)) = (online, &entry.device.reason) {
                body["reason"] = json!(reason);
            }
            self.records.push(record(id, Kind::Status, now.at, &body));
            entry.told = Some(online);
        }
        self.owed.push((id.clone(), before, events));
    }
}

#[derive(Debug)]
pub struct Book {
    settings: Settings,
    beat: Duration,
    entries: BTreeMap<DeviceId, Entry>,
    /// Who was heard or changed since something was taken: of thousands of devices a sign of life concerns one.
    touched: Vec<DeviceId>,
    tell: Vec<Event>,
    /// The set of devices, a lifecycle or a firmware changed since this was last looked at.
    pub reshaped: bool,
}

impl Book {
    pub fn new(settings: Settings, devices: Vec<Device>) -> Self {
        let entries = devices.into_iter().map(|device| (device.id.clone(), Entry::new(device, None))).collect();
        let beat = beat(settings.interval);
        Self { settings, beat, entries, touched: Vec::new(), tell: Vec::new(), reshaped: true }
    }

    pub fn devices(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    pub fn get(&self, id: &DeviceId) -> Option<&Entry> {
        self.entries.get(id)
    }

    pub fn lives(&self) -> Lives {
        let known = self.entries.values().map(|entry| (&entry.device.id, entry.device.lifecycle));
        Lives::new(known, self.settings.admit)
    }

    /// How often silence should be looked at, so that the shortest interval is judged in time.
    pub fn beat(&self) -> Duration {
        self.beat
    }

    /// The configuration as it is now: new devices appear as active (whoever wrote them approved them), others lose
    /// their mark. Never moves a device that a person has suspended, quarantined or decommissioned.
    pub fn sync(&mut self, configured: Vec<Configured>, settings: Option<Settings>, now: Now) {
        if let Some(settings) = settings {
            self.settings = settings;
        }
        for entry in self.entries.values_mut() {
            entry.configured = false;
            entry.interval = None;
            entry.next_look = Duration::ZERO;
        }
        for c in configured {
            let entry = self
                .entries
                .entry(c.id.clone())
                .or_insert_with(|| Entry::new(unseen(c.id.clone(), c.protocol, c.kind.clone()), Some(())));
            entry.configured = true;
            entry.interval = c.interval;
            let device = &mut entry.device;
            let before = (device.protocol, device.kind.clone(), device.tags.clone(), device.groups.clone());
            (device.protocol, device.kind) = (c.protocol, c.kind);
            (device.tags, device.groups) = (c.tags, c.groups);
            entry.dirty |= before != (device.protocol, device.kind.clone(), device.tags.clone(), device.groups.clone());
            if matches!(device.lifecycle, Lifecycle::Discovered | Lifecycle::Pending) {
                entry.live(Lifecycle::Active, json!("gateway"), now, &mut self.tell);
            }
        }
        self.beat = beat(self.entries.values().filter_map(|entry| entry.interval).chain(self.settings.interval).min());
        self.reshaped = true;
        self.judge(now);
    }

    /// A sign of life. An unknown device is registered as `settings.admit` says: the door let it in.
    pub fn heard(&mut self, id: &DeviceId, protocol: Protocol, at: Millis, now: Now) {
        let admit = self.settings.admit;
        let entry = self.entry(id, protocol, "", admit, now);
        if entry.device.lifecycle == Lifecycle::Decommissioned {
            return;
        }
        // A polled device is heard through its driver alone, and the driver says when it is back.
        if entry.unreachable.is_some() && entry.device.protocol == Protocol::Modbus {
            return;
        }
        entry.unreachable = None;
        entry.hear(at, now);
        self.with(id, now, |_| ());
    }

    pub fn connected(&mut self, id: &DeviceId, protocol: Protocol, at: Millis, now: Now) {
        let admit = self.settings.admit;
        self.entry(id, protocol, "", admit, now).connected = Ok(());
        self.heard(id, protocol, at, now);
    }

    pub fn disconnected(&mut self, id: &DeviceId, reason: String, now: Now) {
        self.with(id, now, |entry| entry.connected = Err(reason));
    }

    pub fn reachable(&mut self, id: &DeviceId, reachable: bool, reason: Option<String>, at: Millis, now: Now) {
        self.with(id, now, |entry| {
            if reachable {
                entry.unreachable = None;
                entry.hear(at, now);
            } else {
                entry.unreachable = Some(reason.unwrap_or_else(|| "does not answer".into()));
            }
        });
    }

    /// The version comes on another channel than the connection, and may come first: it registers as being heard does.
    pub fn firmware(&mut self, id: &DeviceId, version: &str, at: Millis, now: Now) {
        let admit = self.settings.admit;
        let known = self.entry(id, Protocol::Mqtt, "", admit, now).device.firmware_version.as_deref() == Some(version);
        self.reshaped |= !known;
        self.with(id, now, |entry| {
            let before = entry.device.firmware_version.replace(version.to_owned());
            if before.as_deref() != Some(version) {
                entry.dirty = true;
                if let Some(before) = before {
                    entry.owe(at, json!({"event": "firmware", "from": before, "to": version}));
                }
            }
        });
    }

    /// Turned away at the door until it is approved: it was not heard, but somebody has to see that it is there.
    pub fn waiting(&mut self, id: &DeviceId, protocol: Protocol, now: Now) {
        let admit = self.settings.admit;
        self.entry(id, protocol, "", admit, now);
    }

    /// Met on a wire, known to nobody.
    pub fn found(&mut self, id: &DeviceId, protocol: Protocol, kind: &str, now: Now) {
        self.entry(id, protocol, kind, Lifecycle::Discovered, now);
    }

    /// Moves a device through its life; the law of [`Lifecycle::may_become`] has been asked already.
    pub fn live(&mut self, id: &DeviceId, next: Lifecycle, by: Json, now: Now) {
        let Self { entries, touched, reshaped, tell, .. } = self;
        if let Some(entry) = entries.get_mut(id) {
            entry.live(next, by, now, tell);
            touched.push(id.clone());
            *reshaped = true;
        }
    }

    pub fn label(&mut self, id: &DeviceId, tags: Vec<String>, groups: Vec<String>, now: Now) {
        self.with(id, now, |entry| {
            (entry.device.tags, entry.device.groups) = (tags, groups);
            entry.dirty = true;
        });
    }

    /// Looks at every silence that may mean something by now.
    pub fn judge(&mut self, now: Now) {
        for (id, entry) in self.entries.iter_mut().filter(|(_, entry)| entry.next_look <= now.since_start) {
            entry.judge(&self.settings, now, &mut self.tell);
            self.touched.push(id.clone());
        }
    }

    /// What is to be written; also the times at which devices were last seen, of no more than `seen` devices.
    pub fn take(&mut self, seen: usize, now: Now) -> Batch {
        let Self { entries, touched, tell, .. } = self;
        let mut batch = Batch { events: std::mem::take(tell), ..Batch::default() };
        let touched = std::mem::take(touched);
        if seen > 0 {
            entries.values_mut().for_each(|entry| batch.add(entry, seen, now));
            return batch;
        }
        for id in touched {
            if let Some(entry) = entries.get_mut(&id) {
                batch.add(entry, 0, now);
            }
        }
        batch
    }

    /// The batch did not reach the disk: everything in it is owed again.
    pub fn not_written(&mut self, batch: Batch) {
        for (id, told, mut events) in batch.owed {
            if let Some(entry) = self.entries.get_mut(&id) {
                self.touched.push(id);
                entry.dirty = true;
                entry.told = told;
                events.append(&mut entry.events);
                events.truncate(MOST_EVENTS);
                entry.events = events;
            }
        }
    }

    fn entry(&mut self, id: &DeviceId, protocol: Protocol, kind: &str, life: Lifecycle, now: Now) -> &mut Entry {
        let Self { entries, tell, reshaped, touched, .. } = self;
        entries.entry(id.clone()).or_insert_with(|| {
            let mut device = unseen(id.clone(), protocol, Arc::from(kind));
            device.lifecycle = Lifecycle::Discovered;
            let mut entry = Entry::new(device, Some(()));
            entry.dirty = true;
            entry.live(life, json!("gateway"), now, tell);
            touched.push(id.clone());
            *reshaped = true;
            entry
        })
    }

    fn with(&mut self, id: &DeviceId, now: Now, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.entries.get_mut(id)
            && entry.device.lifecycle != Lifecycle::Decommissioned
        {
            change(entry);
            entry.judge(&self.settings, now, &mut self.tell);
            self.touched.push(id.clone());
        }
    }
}

fn beat(shortest_interval: Option<Duration>) -> Duration {
    (shortest_interval.unwrap_or(Duration::MAX) / 4).clamp(Duration::from_millis(50), Duration::from_secs(1))
}

pub(super) fn unseen(id: DeviceId, protocol: Protocol, kind: Arc<str>) -> Device {
    Device {
        id,
        protocol,
        kind,
        lifecycle: Lifecycle::Active,
        presence: Presence::NeverSeen,
        presence_since: None,
        reason: None,
        first_seen: None,
        last_seen: None,
        firmware_version: None,
        tags: Vec::new(),
        groups: Vec::new(),
    }
}

fn record(device: &DeviceId, kind: Kind, ts: Millis, body: &Json) -> NewRecord {
    NewRecord { device: device.clone(), kind, name: None, ts, body: Bytes::from(body.to_string()) }
}
