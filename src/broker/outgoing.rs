//! From a session's queue to the bytes of its connection: aliases, expiry, the client's packet limit.

use std::{collections::HashMap, sync::Arc, sync::atomic::Ordering};

use bytes::BytesMut;

use super::{
    hub::Hub,
    journal::Ticket,
    message::Queued,
    session::{Inflight, Session},
    wire::{
        Version,
        encode::{self, Outgoing},
        reason,
    },
};
use crate::{clock, model::time::Millis, store::sessions::SessionChange};

/// Bytes that may wait for the socket before the queue is left alone.
pub const HIGH_WATER: usize = 64 * 1024;

/// What one connection knows about writing to its client.
pub struct Writer {
    pub version: Version,
    /// Largest packet the client takes, bytes.
    pub packet_maximum: usize,
    /// Topic aliases this connection has given out; the client allows `alias_maximum`.
    pub aliases: HashMap<Arc<str>, u16>,
    pub alias_maximum: u16,
}

impl Writer {
    /// Writes what waits until the bytes reach the high-water mark or the window is full. QoS 2 messages of a session
    /// that is kept are only given their packet ids, which are handed back: they may leave when the ticket says that
    /// the ids are on disk. A client that holds an id which the broker has forgotten would take the next message
    /// under it for a repetition.
    pub fn fill(&mut self, session: &Session, hub: &Hub, out: &mut BytesMut) -> Option<(Vec<u16>, Ticket)> {
        if out.len() >= HIGH_WATER {
            return None;
        }
        let mut held = Vec::new();
        let now = clock::now();
        let mut changes = Vec::new();
        let mut state = session.state();
        let mut written = 0_u64;
        // What was on its way when the connection broke goes first, with DUP and its packet id (3.1.1, 4.4).
        let window = usize::from(state.window);
        for inflight in state.inflight.iter_mut().take(window).filter(|i| !i.sent && i.stored) {
            if out.len() >= HIGH_WATER {
                break;
            }
            inflight.sent = true;
            if inflight.released {
                encode::ack(out, self.version, 6, inflight.packet, reason::SUCCESS, None);
            } else {
                self.publish(&inflight.queued, inflight.packet, !inflight.fresh, now, out);
                inflight.fresh = false;
                written += 1;
            }
        }
        while out.len() < HIGH_WATER {
            // nothing overtakes those that wait for their ids
            if (!held.is_empty() || state.holds()) && state.next_qos().is_some_and(|qos| qos < 2) {
                break;
            }
            let Some(mut queued) = state.next(&hub.budget) else { break };
            let dropped = if queued.message.expired(now) {
                Some("expired")
            } else if self.packet_maximum != usize::MAX && self.size(&queued, now) > self.packet_maximum {
                Some("too-large-for-client")
            } else {
                None
            };
            if let Some(reason) = dropped {
                state.count_drop(reason);
                hub.totals.dropped.fetch_add(1, Ordering::Relaxed);
                if queued.place != 0 {
                    changes.push(SessionChange::Done { client: session.client.to_string(), place: queued.place });
                }
                continue;
            }
            written += u64::from(queued.qos < 2 || !state.persistent());
            if queued.qos == 0 {
                self.publish(&queued, 0, false, now, out);
                continue;
            }
            let packet = state.packet_id();
            let hold = queued.qos == 2 && state.persistent();
            if hold {
                held.push(packet);
            } else {
                self.publish(&queued, packet, false, now, out);
            }
            if state.persistent() {
                let client = session.client.to_string();
                if queued.place == 0 {
                    queued.place = hub.place();
                    changes.push(SessionChange::Queue { client, row: queued.to_row(packet) });
                } else {
                    changes.push(SessionChange::Sent { client, place: queued.place, packet, released: false });
                }
            }
            let inflight = Inflight { queued, packet, released: false, sent: !hold, stored: !hold, fresh: hold };
            state.inflight.push_back(inflight);
        }
        drop(state);
        if written > 0 {
            session.counters.messages_out.fetch_add(written, Ordering::Relaxed);
            hub.totals.sent.fetch_add(written, Ordering::Relaxed);
        }
        if !held.is_empty() {
            return Some((held, hub.journal.write(changes)));
        }
        if !changes.is_empty() {
            hub.journal.note(changes);
        }
        None
    }

    fn size(&self, queued: &Queued, now: Millis) -> usize {
        self.outgoing(queued, 1, false, now).size(self.version)
    }

    fn outgoing<'q>(&self, queued: &'q Queued, packet: u16, dup: bool, now: Millis) -> Outgoing<'q> {
        Outgoing {
            dup,
            qos: queued.qos,
            retain: queued.retain,
            packet,
            topic: &queued.message.topic,
            payload: &queued.message.payload,
            properties: &queued.message.properties,
            expiry: queued.message.seconds_left(now),
            alias: None,
            identifiers: &queued.identifiers,
        }
    }

    fn publish(&mut self, queued: &Queued, packet: u16, dup: bool, now: Millis, out: &mut BytesMut) {
        let mut outgoing = self.outgoing(queued, packet, dup, now);
        if self.alias_maximum > 0 {
            let topic = &queued.message.topic;
            match self.aliases.get(topic) {
                Some(alias) => {
                    outgoing.alias = Some(*alias);
                    outgoing.topic = "";
                }
                None if self.aliases.len() < usize::from(self.alias_maximum) => {
                    let alias = u16::try_from(self.aliases.len() + 1).unwrap_or(u16::MAX);
                    outgoing.alias = Some(alias);
                    // with the alias it must still fit
                    if outgoing.size(self.version) <= self.packet_maximum {
                        self.aliases.insert(topic.clone(), alias);
                    } else {
                        outgoing.alias = None;
                    }
                }
                None => {}
            }
        }
        outgoing.write(self.version, out);
    }
}
