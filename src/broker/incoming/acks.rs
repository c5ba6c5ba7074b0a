//! What a client's own acks do: PUBACK, PUBREC and PUBCOMP move a message of its session on, PUBREL lets go of one that
//! the client sent.

use crate::{
    broker::{
        connection::Connection,
        pending::Ack,
        wire::{Fault, reason},
    },
    store::sessions::SessionChange,
};

impl Connection {
    /// An ack of the wrong kind for the message on its way under this id is a protocol error; one for no message is
    /// late, and harmless.
    pub(super) fn fits(&mut self, packet: u16, qos: u8) -> Result<&mut Self, Fault> {
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
    pub(super) fn completed(&mut self, packet: u16) -> Result<(), Fault> {
        let early = self.session.state().inflight.iter().any(|i| i.packet == packet && !i.released);
        if early {
            return Err(Fault::new(reason::PROTOCOL_ERROR, "a PUBCOMP without PUBREC and PUBREL before it"));
        }
        self.done(packet);
        Ok(())
    }

    /// PUBACK or PUBCOMP: one message less on its way.
    pub(super) fn done(&mut self, packet: u16) {
        let done = self.session.state().done(packet);
        if let Some(queued) = done.filter(|queued| queued.place != 0) {
            let client = self.session.client.to_string();
            self.hub.journal.note([SessionChange::Done { client, place: queued.place }]);
        }
    }

    /// PUBREC.
    pub(super) fn received(&mut self, packet: u16, code: u8) {
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
    pub(super) fn released(&mut self, packet: u16) {
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
