//! What the simulated child says: a reading waits here until it is acknowledged, over as many connections as that
//! takes; everything else is said once.

use rumqttc::QoS;

use super::Running;
use crate::{clock, drivers::mqtt::device::Say};

/// Readings sent and not acknowledged yet, at most.
const WINDOW: usize = 16;
/// Readings kept through an outage; the oldest go first, and are counted.
const OUTBOX: usize = 100_000;

/// What a packet in flight carries.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Tag {
    Reading,
    Other,
}

impl Running {
    pub(super) fn measure(&mut self) {
        let (_, reading) = self.device.measure(clock::now());
        if self.outbox.len() >= OUTBOX && self.outbox.remove(self.sent).is_some() {
            self.state.send_modify(|state| state.lost += 1);
        }
        self.outbox.push_back(reading.to_string());
        self.state.send_modify(|state| state.measured += 1);
    }

    /// Hands readings to the connection, as many as the window allows.
    pub(super) fn flush(&mut self) {
        while self.connected && self.sent < WINDOW.min(self.outbox.len()) {
            let reading = self.outbox[self.sent].clone();
            if !self.publish("telemetry", reading, Tag::Reading) {
                return;
            }
            self.sent += 1;
        }
    }

    pub(super) fn say(&mut self, said: Vec<Say>) {
        if self.connected {
            for Say { topic, payload } in said {
                self.publish(&topic, payload.to_string(), Tag::Other);
            }
        }
    }

    fn publish(&mut self, topic: &str, payload: String, tag: Tag) -> bool {
        let topic = format!("devices/{}/{topic}", self.child.id);
        let handed = self.client.try_publish(topic, QoS::AtLeastOnce, false, payload).is_ok();
        if handed {
            self.handed.push_back(tag);
        }
        handed
    }

    /// The client names the packet id under which the next of what it was handed left.
    pub(super) fn left(&mut self, id: u16) {
        if let Some(tag) = self.handed.pop_front() {
            self.flying.insert(id, tag);
        }
    }

    pub(super) fn acknowledged(&mut self, id: u16) {
        if self.flying.remove(&id) == Some(Tag::Reading) {
            self.outbox.pop_front();
            self.sent = self.sent.saturating_sub(1);
            self.state.send_modify(|state| state.acknowledged += 1);
        }
    }
}
