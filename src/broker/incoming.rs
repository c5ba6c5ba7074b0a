//! What a client's packets do, QoS by QoS, and what it is told when it may not.
//!
//! A refused publish is never silence: a v5 client gets the code in PUBACK or PUBREC; a 3.1.1 client, which would only
//! send it again for ever, gets its plain ack and the reason on `devices/{d}/errors`. Only where the disk refuses it
//! gets no ack and the end of its connection, and sends again later; the reason is on `errors` then as well.

use std::sync::{Arc, atomic::Ordering};

use bytes::Bytes;
use tokio::{sync::oneshot, time::Instant};

use super::{
    connection::{Connection, End},
    life::door,
    message::Message,
    pending::{Ack, Committing, Storing},
    wire::{Fault, Packet, Publish, Version, encode, reason},
};
use crate::{
    bus::{Inbound, Mark},
    clock,
    model::{
        access::Who,
        command::{Refusal, RefusalCode},
        topic::LocalTopic,
    },
    store::sessions::SessionChange,
};

impl Connection {
    pub(super) fn packet(&mut self, packet: Packet) -> Result<(), End> {
        match packet {
            Packet::Publish(publish) => self.publish(publish)?,
            Packet::PubAck { packet } => self.fits(packet, 1)?.done(packet),
            Packet::PubRec { packet, reason } => self.fits(packet, 2)?.received(packet, reason),
            Packet::PubRel { packet } => self.released(packet),
            Packet::PubComp { packet } => self.completed(packet)?,
            Packet::Subscribe { packet, identifier, filters } => self.subscribe(packet, identifier, filters)?,
            Packet::Unsubscribe { packet, filters } => self.unsubscribe(packet, filters)?,
            Packet::PingReq => encode::pong(&mut self.output),
            Packet::Disconnect { reason: code, expiry } => {
                if let Some(expiry) = expiry {
                    if expiry > 0 && !self.terms.may_extend {
                        let text = "a session expiry after CONNECT asked for none";
                        return Err(Fault::new(reason::PROTOCOL_ERROR, text).into());
                    }
                    let most = u32::try_from(self.hub.limits.session.as_secs()).unwrap_or(u32::MAX - 1);
                    self.session.state().expiry = expiry.min(most);
                }
                return Err(End::Goodbye { will: code != reason::SUCCESS });
            }
        }
        Ok(())
    }

    fn publish(&mut self, publish: Publish) -> Result<(), Fault> {
        self.session.counters.messages_in.fetch_add(1, Ordering::Relaxed);
        self.hub.totals.received.fetch_add(1, Ordering::Relaxed);
        let topic = self.topic(&publish)?;
        let Publish { qos, packet, .. } = publish;
        let mut logged = false;
        let mut mark = None;
        if qos > 0 {
            let mut state = self.session.state();
            logged = qos == 2 && state.unrouted.remove(&packet);
            if state.incoming.contains(&packet) && !logged {
                drop(state);
                return self.again(qos, packet);
            }
            if qos == 2 && state.persistent() {
                mark = Some(Mark { client: self.session.client.clone(), packet });
            }
            let outstanding = self.unacked + state.incoming.len().saturating_sub(self.inherited.len());
            if self.terms.version == Version::V5 && outstanding >= usize::from(self.hub.limits.receive) {
                return Err(Fault::new(
                    reason::RECEIVE_MAXIMUM,
                    "more unacknowledged messages than the receive maximum",
                ));
            }
            if qos == 2 {
                state.incoming.insert(packet);
            } else {
                self.unacked += 1;
            }
        }
        if topic.len() > self.hub.limits.topic || topic.split('/').count() > self.hub.limits.levels {
            let text = format!(
                "the topic is longer than {} bytes or deeper than {} levels",
                self.hub.limits.topic, self.hub.limits.levels
            );
            self.refuse(&topic[..floor(&topic, 80)], qos, packet, &Refusal::new(RefusalCode::TopicInvalid, text));
            return Ok(());
        }
        let who = Who { device: &self.session.device, groups: &self.session.groups };
        let judged = self.hub.access.borrow().may_publish(who, &topic);
        if let Err(denied) = judged {
            self.refuse(&topic, qos, packet, &Refusal::new(RefusalCode::NotAuthorized, denied.to_string()));
            return Ok(());
        }
        let at = clock::now();
        let parsed = LocalTopic::parse(&topic);
        // a request is never retained
        let request = topic.starts_with('$') || matches!(parsed, LocalTopic::Renewal(_));
        let clears = publish.retain && publish.payload.is_empty() && !request;
        let message = Arc::new(Message {
            topic,
            payload: Bytes::copy_from_slice(&publish.payload),
            properties: publish.properties,
            qos,
            retain: publish.retain && !request,
            expires: publish.expiry.map(|seconds| at.plus(i64::from(seconds) * 1000)),
            from: Some(self.session.client.clone()),
        });
        match parsed {
            LocalTopic::Ingest(device, topic) if !clears && !logged => {
                let (reply, answer) = oneshot::channel();
                let door = door(&self.session.device, &device);
                self.outbox.push(Inbound { device, topic, payload: message.payload.clone(), at, door, reply, mark });
                self.committing.push_back(Committing::waiting(answer, message, packet));
            }
            LocalTopic::Renewal(device) if device != self.session.device => {
                let text = format!("{device} alone renews its credential, on a connection of its own");
                self.refuse(&message.topic, qos, packet, &Refusal::new(RefusalCode::NotAuthorized, text));
            }
            LocalTopic::Renewal(_) if !logged => {
                let aloud = self.errors.allows(Instant::now());
                let answer = self.hub.renew(&self.session, &message.payload, aloud);
                self.committing.push_back(Committing::waiting(answer, message, packet));
            }
            _ => {
                let storing = self.routed(&message, packet);
                self.later(storing.0, storing.1);
            }
        }
        Ok(())
    }

    /// A message under the id of a QoS 2 message that is not released yet.
    fn again(&mut self, qos: u8, packet: u16) -> Result<(), Fault> {
        let code = match (qos, self.terms.version) {
            // it came before; the answer to it went, or goes, its way
            (2, _) => reason::SUCCESS,
            (_, Version::V5) => reason::PACKET_IN_USE,
            (_, Version::V4) => return Err(Fault::new(reason::PROTOCOL_ERROR, "a packet id that is in use")),
        };
        self.later(Ack::Publish { qos, packet, code, why: None }, None);
        Ok(())
    }

    /// Routes a message that may be routed; its ack, and what the ack waits for.
    fn routed(&mut self, message: &Arc<Message>, packet: u16) -> (Ack, Option<super::journal::Ticket>) {
        // A QoS 2 id and what its message leads to are stored together: after a power cut neither is there, or both.
        let received = message.qos == 2 && self.session.state().persistent();
        let client = || self.session.client.to_string();
        let received = received.then(|| SessionChange::Received { client: client(), packet });
        let ticket = match self.hub.publish_with(message, received) {
            Ok(ticket) => ticket,
            Err(fault) => {
                let refusal = Refusal::new(RefusalCode::Busy, fault.text);
                self.tell(&message.topic, &refusal);
                return (self.refusal(&message.topic, message.qos, packet, fault.code, &refusal), None);
            }
        };
        if message.qos == 0 {
            return (Ack::Nothing, None);
        }
        (Ack::Publish { qos: message.qos, packet, code: reason::SUCCESS, why: None }, ticket)
    }

    /// The topic's name, by alias where one stands for it (MQTT 5, 3.3.2.3.4).
    fn topic(&mut self, publish: &Publish) -> Result<Arc<str>, Fault> {
        let name = std::str::from_utf8(&publish.topic)
            .map_err(|_| Fault::new(reason::MALFORMED, "a topic that is not UTF-8"))?;
        if name.contains(['+', '#']) {
            return Err(Fault::new(reason::TOPIC_INVALID, "a wildcard in the topic of a PUBLISH"));
        }
        let Some(alias) = publish.alias else {
            if name.is_empty() {
                return Err(Fault::new(reason::PROTOCOL_ERROR, "a PUBLISH with neither topic nor alias"));
            }
            return Ok(name.into());
        };
        if alias > self.hub.limits.aliases {
            return Err(Fault::new(reason::ALIAS_INVALID, "a topic alias above the maximum"));
        }
        if name.is_empty() {
            let unknown = || Fault::new(reason::PROTOCOL_ERROR, "a topic alias that stands for nothing yet");
            return self.aliases.get(&alias).cloned().ok_or_else(unknown);
        }
        let topic: Arc<str> = name.into();
        self.aliases.insert(alias, topic.clone());
        Ok(topic)
    }

    /// Refuses what the broker itself does not take. What the keeper refuses, the keeper tells.
    fn refuse(&mut self, topic: &str, qos: u8, packet: u16, refusal: &Refusal) {
        self.tell(topic, refusal);
        let ack = self.refusal(topic, qos, packet, code_of(refusal.code), refusal);
        self.later(ack, None);
    }

    fn tell(&mut self, topic: &str, refusal: &Refusal) {
        if self.errors.allows(Instant::now()) {
            self.hub.tell_error(&self.session.device, topic, refusal.code, &refusal.message);
        }
    }

    /// Counts a refusal; the ack that says it.
    fn refusal(&mut self, topic: &str, qos: u8, packet: u16, code: u8, refusal: &Refusal) -> Ack {
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

    /// The keeper answered: what is committed is routed, what is refused is told.
    pub(super) fn committed(
        &mut self,
        committing: Committing,
        outcome: Option<Result<(), Refusal>>,
    ) -> Result<Storing, End> {
        let (message, packet) = match committing {
            Committing::Passing(storing) => return Ok(storing),
            Committing::Waiting { message, packet, .. } => (message, packet),
        };
        match outcome {
            Some(Ok(())) => {
                let (ack, ticket) = self.routed(&message, packet);
                Ok(Storing::new(ack, ticket))
            }
            Some(Err(refusal)) => {
                if message.qos == 0 {
                    self.hub.totals.lost_ingests.fetch_add(1, Ordering::Relaxed);
                }
                if refusal.code == RefusalCode::StoreUnavailable {
                    self.tell(&message.topic, &refusal);
                    if message.qos > 0 && self.terms.version == Version::V4 {
                        return Err(self.not_stored(packet, &refusal.message));
                    }
                }
                let code = code_of(refusal.code);
                Ok(Storing::new(self.refusal(&message.topic, message.qos, packet, code, &refusal), None))
            }
            None => Err(Fault::new(reason::SHUTTING_DOWN, "the gateway stops").into()),
        }
    }

    /// An ack of the wrong kind for the message on its way under this id is a protocol error; one for no message is
    /// late, and harmless.
    fn fits(&mut self, packet: u16, qos: u8) -> Result<&mut Self, Fault> {
        let state = self.session.state();
        let fits = state.inflight.iter().all(|i| i.packet != packet || i.queued.qos == qos);
        drop(state);
        if fits {
            Ok(self)
        } else {
            Err(Fault::new(reason::PROTOCOL_ERROR, "an ack that does not fit the message's QoS"))
        }
    }

    /// PUBCOMP answers PUBREL, and nothing earlier.
    fn completed(&mut self, packet: u16) -> Result<(), Fault> {
        let early = self.session.state().inflight.iter().any(|i| i.packet == packet && !i.released);
        if early {
            return Err(Fault::new(reason::PROTOCOL_ERROR, "a PUBCOMP without PUBREC and PUBREL before it"));
        }
        self.done(packet);
        Ok(())
    }

    /// PUBACK or PUBCOMP: one message less on its way.
    fn done(&mut self, packet: u16) {
        let done = self.session.state().done(packet);
        if let Some(queued) = done.filter(|queued| queued.place != 0) {
            let client = self.session.client.to_string();
            self.hub.journal.note([SessionChange::Done { client, place: queued.place }]);
        }
    }

    /// PUBREC.
    fn received(&mut self, packet: u16, code: u8) {
        if code >= 0x80 {
            return self.done(packet);
        }
        let mut state = self.session.state();
        let found = state.release(packet).map(|inflight| inflight.queued.place);
        drop(state);
        // stored before PUBREL: a message whose release was forgotten would be sent to a client that has let go of it
        let ticket = found.filter(|place| *place != 0).map(|place| {
            let client = self.session.client.to_string();
            self.hub.journal.write([SessionChange::Sent { client, place, packet, released: true }])
        });
        let code = if found.is_some() { reason::SUCCESS } else { reason::PACKET_NOT_FOUND };
        self.answer(Ack::Release { packet, code }, ticket);
    }

    /// PUBREL: the client forgets the id, and so does the session before it says so.
    fn released(&mut self, packet: u16) {
        let mut state = self.session.state();
        let known = state.incoming.remove(&packet);
        state.unrouted.remove(&packet);
        self.inherited.remove(&packet);
        let stored = known && state.persistent();
        drop(state);
        let client = self.session.client.to_string();
        let ticket = stored.then(|| self.hub.journal.write([SessionChange::Released { client, packet }]));
        let code = if known { reason::SUCCESS } else { reason::PACKET_NOT_FOUND };
        self.answer(Ack::Complete { packet, code }, ticket);
    }
}

/// The largest length of at most `most` bytes that ends between two characters.
fn floor(text: &str, most: usize) -> usize {
    let mut end = most.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    end
}

/// The reason code a v5 client sees for a refusal.
fn code_of(code: RefusalCode) -> u8 {
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
