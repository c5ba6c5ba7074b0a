//! What a client's packets do: its publishes here, its acks in `acks`; what may not pass is answered in `refusals`.

mod acks;
mod refusals;

use std::sync::{Arc, atomic::Ordering};

use bytes::Bytes;
use tokio::{sync::oneshot, time::Instant};

use self::refusals::code_of;
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
}

/// The largest length of at most `most` bytes that ends between two characters.
fn floor(text: &str, most: usize) -> usize {
    let mut end = most.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    end
}
