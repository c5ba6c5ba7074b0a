//! What a client is told when its message may not pass.
//!
//! A refused publish is never silence: a v5 client gets the code in PUBACK or PUBREC; a 3.1.1 client, which would only
//! send it again for ever, gets its plain ack and the reason on `devices/{d}/errors`. Only where the disk refuses it
//! gets no ack and the end of its connection, and sends again later; the reason is on `errors` then as well.

use std::sync::atomic::Ordering;

use tokio::time::Instant;

use crate::{
    broker::{
        connection::Connection,
        pending::Ack,
        wire::{Version, reason},
    },
    model::command::{Refusal, RefusalCode},
};

impl Connection {
    /// Refuses what the broker itself does not take. What the keeper refuses, the keeper tells.
    pub(super) fn refuse(&mut self, topic: &str, qos: u8, packet: u16, refusal: &Refusal) {
        self.tell(topic, refusal);
        let ack = self.refusal(topic, qos, packet, code_of(refusal.code), refusal);
        self.later(ack, None);
    }

    pub(super) fn tell(&mut self, topic: &str, refusal: &Refusal) {
        if self.errors.allows(Instant::now()) {
            self.hub.tell_error(&self.session.device, topic, refusal.code, &refusal.message);
        }
    }

    /// Counts a refusal; the ack that says it.
    pub(super) fn refusal(&mut self, topic: &str, qos: u8, packet: u16, code: u8, refusal: &Refusal) -> Ack {
        self.hub.totals.refused_publishes.fetch_add(1, Ordering::Relaxed);
        let first = {
            let mut state = self.session.state();
            state.failed(format!("{topic}: {}", refusal.message));
            // a v5 client knows from the code that this id is free again
            if qos == 2 && self.terms.version == Version::V5 {
                state.incoming.remove(&packet);
            }
            state.count_drop(name_of(refusal.code))
        };
        if first {
            tracing::warn!(client = &*self.session.client, topic, code = ?refusal.code, why = refusal.message, "a message is refused");
        }
        match (qos, self.terms.version) {
            (0, _) => Ack::Nothing,
            (_, Version::V4) => Ack::Publish { qos, packet, code: reason::SUCCESS, why: None },
            // this code says it all
            (_, Version::V5) if code == reason::NOT_AUTHORIZED => Ack::Publish { qos, packet, code, why: None },
            (_, Version::V5) => Ack::Publish { qos, packet, code, why: Some(refusal.message.clone()) },
        }
    }
}

/// The reason code a v5 client sees for a refusal.
pub(super) fn code_of(code: RefusalCode) -> u8 {
    match code {
        RefusalCode::PayloadInvalid | RefusalCode::OutOfRange => reason::PAYLOAD_INVALID,
        RefusalCode::TopicInvalid => reason::TOPIC_INVALID,
        RefusalCode::NotAuthorized | RefusalCode::UnknownDevice | RefusalCode::NotWritable => reason::NOT_AUTHORIZED,
        RefusalCode::TooLarge | RefusalCode::Busy => reason::QUOTA,
        _ => reason::IMPLEMENTATION,
    }
}

/// The name under which a refusal is counted.
fn name_of(code: RefusalCode) -> &'static str {
    match code {
        RefusalCode::PayloadInvalid => "refused-payload-invalid",
        RefusalCode::TopicInvalid => "refused-topic-invalid",
        RefusalCode::NotAuthorized => "refused-not-authorized",
        RefusalCode::StoreUnavailable => "refused-store-unavailable",
        RefusalCode::TooLarge => "refused-too-large",
        RefusalCode::Busy => "refused-busy",
        _ => "refused",
    }
}
