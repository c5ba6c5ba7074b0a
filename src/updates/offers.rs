//! What the gateway says to children about their updates: the offer as a level, and pieces over MQTT.

use serde_json::Value as Json;

use super::{reports::ChunkRequest, worker::Worker};
use crate::{
    bus::{ChildEvent, LocalMessage, Reply, UpdateAsk},
    model::{
        command::{Refusal, RefusalCode},
        ids::DeviceId,
        update::{ChildUpdate, UpdateOrder, UpdateStatus},
    },
};

impl Worker {
    /// Sends the level: what the child should install, until it has.
    pub(super) async fn offer(&self, update: &ChildUpdate) {
        // Before the child hears of it: it may ask for the image at once, at a door that looks there.
        self.show();
        let document = self.offer_document(update);
        let topic = format!("devices/{}/update/command", update.device);
        let payload = serde_json::to_vec(&document).unwrap_or_default();
        let _ = self.local.send(LocalMessage::new(topic, payload)).await;
        self.tell(update, update.child.unwrap_or(UpdateStatus::Started));
    }

    fn offer_document(&self, update: &ChildUpdate) -> Json {
        let url = format!("{}/v1/firmware/{}", self.settings.base_url, update.order.sha256);
        serde_json::to_value(UpdateOrder { url, ..update.order.clone() }).unwrap_or_default()
    }

    pub(super) async fn child(&mut self, event: ChildEvent) {
        let device = match event {
            ChildEvent::Connected { device, .. } => device,
            ChildEvent::Subscribed { device, filter, .. } if concerns_updates(&filter) => device,
            _ => return,
        };
        if let Some(update) = self.updates.get(&device).filter(|update| update.stage.is_open()) {
            self.offer(update).await;
        }
    }

    pub(super) async fn asked(&mut self, ask: UpdateAsk) {
        match ask {
            UpdateAsk::Running { device, version } => self.runs(device, version).await,
            UpdateAsk::Offer { device, reply } => {
                let open = self.updates.get(&device).filter(|update| update.stage.is_open());
                let _ = reply.send(Ok(open.map_or(Json::Null, |update| self.offer_document(update))));
            }
            UpdateAsk::Piece { device, offset, length, reply } => {
                let handle = self.handle.clone();
                self.tasks.spawn("updates-piece", async move {
                    let _ = reply.send(handle.piece(&device, offset, length).await);
                });
            }
            UpdateAsk::Chunk { device, payload, reply } => self.chunk(device, &payload, reply),
        }
    }

    fn chunk(&self, device: DeviceId, payload: &[u8], reply: Reply) {
        let request = match ChunkRequest::parse(payload) {
            Ok(request) => request,
            Err(why) => return drop(reply.send(Err(Refusal::new(RefusalCode::PayloadInvalid, why)))),
        };
        let (handle, local) = (self.handle.clone(), self.local.clone());
        self.tasks.spawn("updates-chunk", async move {
            let result = match handle.piece(&device, request.offset, request.len).await {
                Ok(piece) => {
                    let payload = request.answer(&piece);
                    let message =
                        LocalMessage { qos: 0, ..LocalMessage::new(format!("devices/{device}/update/chunk"), payload) };
                    local.send(message).await.map_err(|_| Refusal::new(RefusalCode::Busy, "the broker is stopping"))
                }
                Err(refusal) => Err(refusal),
            };
            let _ = reply.send(result);
        });
    }
}

/// Whether a subscription would hear `devices/{d}/update/command`.
fn concerns_updates(filter: &str) -> bool {
    let mut levels = filter.split('/').skip(2);
    match (levels.next(), levels.next()) {
        (Some("#"), _) => true,
        (Some("update" | "+"), Some("command" | "+" | "#")) => true,
        _ => filter == "#" || filter == "devices/#",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_subscriptions_that_hear_the_command_ask_for_it() {
        for filter in ["devices/a/update/command", "devices/+/update/+", "devices/a/#", "#", "devices/a/update/#"] {
            assert!(concerns_updates(filter), "{filter}");
        }
        for filter in ["devices/a/update/status", "devices/a/delta", "devices/a/+", "other/a/b"] {
            assert!(!concerns_updates(filter), "{filter}");
        }
    }
}
