//! What comes in: acknowledgements and what they mean, orders of the cloud, and what the end of a connection tells.

use std::time::Instant;

use futures_util::FutureExt;
use serde_json::json;

use super::{End, Session, TURN};
use crate::{
    clock,
    model::record::{Lane, Record},
    uplink::{
        flights::Cargo,
        inbox::Settled,
        status::{BARE_ACK, on_wire},
        wire::{Down, Minds, Verdict, WireEvent},
    },
};

impl Session<'_> {
    /// One event, and those that are there already.
    pub(super) async fn events(&mut self, first: Result<WireEvent, Down>) -> Result<(), Down> {
        let begun = Instant::now();
        self.event(first?).await?;
        while begun.elapsed() < TURN {
            let Some(event) = self.wire.next().now_or_never() else { break };
            self.event(event?).await?;
        }
        if self.incoming > 0 {
            self.road.counters.received(on_wire(std::mem::take(&mut self.incoming), self.tls));
            self.road.counters.sent(BARE_ACK);
        }
        Ok(())
    }

    pub(super) async fn event(&mut self, event: WireEvent) -> Result<(), Down> {
        match event {
            WireEvent::Sent(id) => self.flights.sent(id, Instant::now()),
            WireEvent::Acked { id, verdict } => {
                self.incoming += 4;
                if let Some(cargo) = self.flights.acked(id, Instant::now()) {
                    self.landed(cargo, verdict).await?;
                }
            }
            WireEvent::Message(message) => {
                self.incoming += message.payload.len() + message.topic.len() + 8;
                let line = self.road.line.as_mut();
                if line.is_some_and(|line| line.hear(&message.topic, &message.payload)) {
                    self.wire.acknowledge(&message.receipt);
                } else if let Some(settled) = self.inbox.accept(message) {
                    self.settle(settled);
                }
            }
            WireEvent::Subscribed { refused } => {
                if refused > 0 {
                    let text =
                        format!("the broker refused {refused} subscriptions: orders for some devices will not arrive");
                    tracing::warn!(refused, "the broker refused subscriptions");
                    self.road.counters.error(text);
                }
                if self.awaited > 0 {
                    self.awaited -= 1;
                    self.shadows_may_ask();
                }
            }
            WireEvent::Ping => {
                self.outgoing += 2;
                self.incoming += 2;
            }
            WireEvent::Up { .. } | WireEvent::Other => {}
        }
        Ok(())
    }

    pub(super) async fn landed(&mut self, cargo: Cargo, verdict: Verdict) -> Result<(), Down> {
        let Cargo::Records { lane, positions } = cargo else { return Ok(()) };
        match verdict {
            Verdict::Good => {
                self.acks += 1;
                self.road.narrow_again();
                self.road.counters.acknowledged(positions.len() as u64);
                self.drain.acknowledge(lane, &positions);
                Ok(())
            }
            // What is behind it must not overtake it: the connection begins anew at the cursor.
            Verdict::Later(reason) => Err(Down::later(format!("the broker asks to wait: {reason}"))),
            Verdict::NotAllowed(reason) => {
                Err(Down::refused(format!("the broker does not allow a publish ({} lane): {reason}", lane.name())))
            }
            Verdict::Never(reason) => {
                tracing::error!(reason, records = positions.len(), "the broker will never take this; set aside");
                for position in positions {
                    self.abandon(lane, position, "refused").await?;
                }
                Ok(())
            }
        }
    }

    /// Answers and acknowledges a message of the cloud.
    pub(super) fn settle(&mut self, settled: Settled) {
        if let Some(refused) = settled.refused {
            tracing::warn!(topic = refused.topic, code = ?refused.refusal.code, reason = refused.refusal.message, "an order was refused");
            let body = json!({
                "topic": refused.topic, "code": refused.refusal.code, "message": refused.refusal.message,
                "ts": clock::now(),
            });
            let body = body.to_string().into_bytes();
            if let Some((topic, correlation)) = refused.response
                && self.wire.answer(topic, correlation, body.clone())
            {
                self.flights.queue(Cargo::Aside, body.len(), Instant::now());
            }
            let device = refused.device.unwrap_or_else(|| self.road.gateway.clone());
            self.publish_aside(self.road.native.topic(&device, "errors"), body, false);
        }
        self.wire.acknowledge(&settled.receipt);
    }

    /// Declares that the record at `position` will not be delivered, if it is still there.
    async fn abandon(&mut self, lane: Lane, position: u64, cause: &str) -> Result<(), Down> {
        let read = self.road.store.read_after(lane, position - 1, 1, 1).await;
        let record = read.ok().and_then(|records| records.into_iter().next());
        let Some(Record { seq, record, .. }) = record.filter(|record| record.position == position) else {
            return Ok(());
        };
        tracing::error!(device = %record.device, seq, bytes = record.body.len(), cause, "set aside and declared");
        self.aside(record.device, lane, seq, record.ts, position, cause).await
    }

    /// What the end of a connection says about the size of what was on its way.
    pub(super) async fn judge_end(&mut self, end: &End) {
        let End::Down(down) = end else { return };
        if down.minds == Some(Minds::Size) {
            // The broker said so: the largest on its way was meant.
            if let Some((Cargo::Records { lane, positions }, bytes)) = self.flights.largest() {
                match positions[..] {
                    [position] => drop(self.abandon(lane, position, "too-large").await),
                    _ => self.road.narrow = (bytes / 2).max(256),
                }
            }
            return;
        }
        let Some(Cargo::Records { lane, positions }) = self.flights.oldest().cloned() else { return };
        if self.acks > 0 || down.minds.is_some() || down.reason.contains("link is dead") {
            return;
        }
        // A connection that ends again and again over the same first publish: it may be too large for a broker that
        // cannot say so.
        self.road.barren += 1;
        if self.road.barren >= 2 {
            self.road.narrow = (self.bounds.bytes / 4).max(1024);
        }
        let large = self.flights.largest().is_some_and(|(_, bytes)| bytes > 4096);
        if self.road.barren >= 8 && positions.len() == 1 && large {
            let _ = self.abandon(lane, positions[0], "too-large").await;
            self.road.barren = 0;
        }
    }
}
