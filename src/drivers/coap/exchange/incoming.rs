//! What a peer's datagram does: it acknowledges or answers what was sent, asks something new, or is told that nobody
//! here knows it.

use std::{net::SocketAddr, time::Instant};

use coap_lite::{CoapOption, MessageType};

use super::{Effect, Exchanges, Failure, Sent, Ticket, empty, seen::Met};
use crate::drivers::coap::wire::{Message, code};

impl Exchanges {
    pub fn datagram(&mut self, now: Instant, peer: SocketAddr, datagram: &[u8]) {
        let Some(message) = Message::parse(datagram) else {
            // A confirmable message that cannot be read is rejected so that its sender knows (section 4.2).
            if let [first, _, high, low, ..] = *datagram
                && first >> 4 == 0b0100
            {
                self.send_empty(peer, MessageType::Reset, u16::from_be_bytes([high, low]));
            }
            return;
        };
        match message.kind() {
            MessageType::Acknowledgement => {
                let Some(sent) = self.sent.remove(&(peer, message.id())) else { return };
                match (message.code(), sent.exchange) {
                    (0, Some(exchange)) => {
                        let due = now + self.params.answer_within;
                        self.open.entry(exchange).and_modify(|open| open.due = Some(due));
                    }
                    (_, Some(exchange)) => {
                        let fits = self.open.get(&exchange).is_some_and(|open| open.token == message.token());
                        if fits && code::is_response(message.code()) {
                            self.answer(now, exchange, message);
                        }
                    }
                    (_, None) => {}
                }
            }
            MessageType::Reset => {
                if let Some(Sent { exchange: Some(exchange), .. }) = self.sent.remove(&(peer, message.id())) {
                    self.fail(now, exchange, Failure::Reset);
                }
            }
            kind => self.incoming(now, peer, message, kind == MessageType::Confirmable, datagram.len()),
        }
    }

    fn incoming(&mut self, now: Instant, peer: SocketAddr, message: Message, confirmable: bool, size: usize) {
        let id = message.id();
        if message.code() == 0 {
            // An empty confirmable message is a ping (section 4.3).
            return if confirmable {
                self.send_empty(peer, MessageType::Reset, id)
            };
        }
        match self.seen.met((peer, id), confirmable) {
            Met::New => {}
            Met::Before => return,
            Met::Acknowledge => return self.send_empty(peer, MessageType::Acknowledgement, id),
            Met::Answered(bytes) => return self.effects.push(Effect::Send(peer, bytes)),
        }
        if code::is_request(message.code()) {
            if !self.seen.open(now, (peer, id), confirmable) {
                return;
            }
            let ticket = Ticket { peer, id, token: message.token().to_vec(), confirmable, size };
            return self.effects.push(Effect::Request(ticket, message));
        }
        let known = self.tokens.get(&(peer, message.token().to_vec())).copied();
        match known {
            Some(exchange) if code::is_response(message.code()) => {
                if confirmable {
                    self.send_empty(peer, MessageType::Acknowledgement, id);
                }
                let reply = confirmable.then(|| empty(MessageType::Acknowledgement, id));
                self.seen.note(now, (peer, id), reply);
                self.answer(now, exchange, message);
            }
            // An answer nobody waits for: its sender stops observing for us.
            _ => self.send_empty(peer, MessageType::Reset, id),
        }
    }

    fn answer(&mut self, now: Instant, exchange: u64, message: Message) {
        let Some(open) = self.open.get_mut(&exchange) else { return };
        let peer = open.peer;
        let observed = open.keeps && code::is_success(message.code()) && message.uint(CoapOption::Observe).is_some();
        open.waiting = false;
        open.due = None;
        self.sent.retain(|_, sent| sent.exchange != Some(exchange));
        self.effects.push(Effect::Answer(exchange, message));
        match observed {
            true => self.free(now, peer, exchange),
            false => self.forget(now, exchange),
        }
    }
}
