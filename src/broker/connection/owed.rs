//! What a connection still owes its client: each answer waits for the keeper or the store and leaves in its turn, also
//! when no more is read.

use tokio::sync::oneshot::error::TryRecvError;

use super::{Connection, End};
use crate::{
    broker::{
        journal::Ticket,
        pending::{Ack, Committing, Storing},
        wire::{Fault, Version, encode, reason},
    },
    store::StoreError,
};

impl Connection {
    /// An answer that leaves behind those of earlier messages.
    pub(in crate::broker) fn later(&mut self, ack: Ack, ticket: Option<Ticket>) {
        if ticket.is_none() && self.committing.is_empty() && self.storing.is_empty() {
            return self.say(ack);
        }
        let storing = Storing::new(ack, ticket);
        if self.committing.is_empty() {
            self.storing.push_back(storing);
        } else {
            self.committing.push_back(Committing::passing(storing));
        }
    }

    /// An answer that no order holds back (MQTT 5, 4.6): it waits for its own ticket only.
    pub(in crate::broker) fn answer(&mut self, ack: Ack, ticket: Option<Ticket>) {
        if ticket.is_none() && self.answering.is_empty() {
            return self.say(ack);
        }
        self.answering.push_back(Storing::new(ack, ticket));
    }

    /// Messages whose answer is not said yet.
    pub(super) fn outstanding(&self) -> usize {
        self.committing.len() + self.storing.len() + self.answering.len()
    }

    /// Takes every answer that is there, in order.
    pub(super) fn settle(&mut self) -> Result<(), End> {
        while let Some(front) = self.committing.front_mut() {
            match front.poll() {
                Err(TryRecvError::Empty) => break,
                outcome => {
                    let Some(committed) = self.committing.pop_front() else { break };
                    let storing = self.committed(committed, outcome.ok())?;
                    self.storing.push_back(storing);
                }
            }
        }
        while let Some(front) = self.storing.front_mut() {
            let Some(outcome) = front.poll() else { break };
            let Some(stored) = self.storing.pop_front() else { break };
            self.acknowledge(stored.ack, outcome)?;
        }
        while let Some(front) = self.answering.front_mut() {
            let Some(outcome) = front.poll() else { break };
            let Some(stored) = self.answering.pop_front() else { break };
            self.acknowledge(stored.ack, outcome)?;
        }
        Ok(())
    }

    /// What waits for an answer when no more is read still finds its way to subscribers.
    pub(super) async fn drain(&mut self) {
        if !self.outbox.is_empty() && self.hub.inbound.send(std::mem::take(&mut self.outbox)).await.is_err() {
            return;
        }
        while self.outstanding() > 0 {
            tokio::select! {
                () = Committing::front(&mut self.committing) => {}
                () = Storing::front(&mut self.storing) => {}
                () = Storing::front(&mut self.answering) => {}
            }
            // an ack that may not be said any more has nobody who waits for it
            drop(self.settle());
        }
    }

    /// Says an ack whose time has come, or that it could not be stored.
    fn acknowledge(&mut self, ack: Ack, stored: Result<(), StoreError>) -> Result<(), End> {
        let Err(error) = stored else {
            self.say(ack);
            return Ok(());
        };
        match ack {
            Ack::Publish { packet, .. } if self.terms.version == Version::V4 => {
                return Err(self.not_stored(packet, &error.to_string()));
            }
            Ack::Publish { qos, packet, .. } => {
                self.session.state().incoming.remove(&packet);
                let why = Some(format!("the message could not be stored: {error}"));
                self.say(Ack::Publish { qos, packet, code: reason::IMPLEMENTATION, why });
            }
            Ack::Many { kind, packet, mut codes, replay, filters } => {
                codes.iter_mut().filter(|code| **code < 0x80).for_each(|code| *code = reason::IMPLEMENTATION);
                self.say(Ack::Many { kind, packet, codes, replay, filters });
            }
            other => self.say(other),
        }
        Ok(())
    }

    /// Says an ack.
    fn say(&mut self, ack: Ack) {
        let version = self.terms.version;
        match ack {
            Ack::Nothing => {}
            Ack::Publish { qos, packet, code, why } => {
                if qos == 1 && code != reason::PACKET_IN_USE {
                    self.unacked = self.unacked.saturating_sub(1);
                }
                // fixed header, packet id, code, two lengths and an identifier
                let fits = |why: &String| why.len().min(encode::MOST_TEXT) + 12 <= self.terms.packet_maximum;
                let why = why.filter(|why| self.terms.problem_information && fits(why));
                encode::ack(&mut self.output, version, 3 + qos, packet, code, why.as_deref());
            }
            Ack::Release { packet, code } => encode::ack(&mut self.output, version, 6, packet, code, None),
            Ack::LetGo { packets } => self.session.state().let_go(&packets),
            Ack::Complete { packet, code } => encode::ack(&mut self.output, version, 7, packet, code, None),
            Ack::Many { kind, packet, codes, replay, filters } => {
                encode::many_ack(&mut self.output, version, kind, packet, &codes);
                self.session.state().replay.extend(replay);
                self.subscribed(filters);
            }
        }
    }

    pub(in crate::broker) fn not_stored(&mut self, packet: u16, why: &str) -> End {
        self.session.state().incoming.remove(&packet);
        End::Fault(Fault::new(reason::IMPLEMENTATION, format!("the message could not be stored: {why}")))
    }
}
