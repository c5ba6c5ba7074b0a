//! What the cloud asks: each message becomes an order, and is acknowledged when the order is on disk.
//!
//! Orders of one device are placed one after another, those of different devices side by side. A refusal is an answer:
//! it goes to where its sender sees it, and the message is acknowledged. What the gateway cannot take just now is
//! tried again; the broker keeps the message until then.

use std::{
    collections::{HashMap, VecDeque},
    future::Future,
    pin::Pin,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};

use super::{
    dialect::native::Native,
    wire::{Message, Receipt},
};
use crate::{
    bus::{OrderKind, Orders},
    model::{
        command::{Door, Refusal, RefusalCode},
        ids::DeviceId,
    },
};

/// How long the gateway's own trouble is waited out before an order is placed again.
const AGAIN: Duration = Duration::from_secs(2);

/// A message that is dealt with: to be acknowledged, and answered where it was refused.
#[derive(Debug)]
pub struct Settled {
    pub receipt: Receipt,
    pub refused: Option<Refused>,
}

#[derive(Debug)]
pub struct Refused {
    /// Unknown where the topic does not tell.
    pub device: Option<DeviceId>,
    pub topic: String,
    pub refusal: Refusal,
    pub response: Option<(String, Option<Bytes>)>,
}

struct Job {
    device: DeviceId,
    topic: String,
    payload: Bytes,
    response: Option<(String, Option<Bytes>)>,
    receipt: Receipt,
}

type Running = Pin<Box<dyn Future<Output = (DeviceId, Settled)> + Send>>;

pub struct Inbox {
    native: Native,
    orders: Orders,
    running: FuturesUnordered<Running>,
    /// Behind the one that runs, per device; present while one runs.
    behind: HashMap<DeviceId, VecDeque<Job>>,
}

impl Inbox {
    pub fn new(native: Native, orders: Orders) -> Self {
        Self { native, orders, running: FuturesUnordered::new(), behind: HashMap::new() }
    }

    /// Takes a message; what cannot be understood is settled at once.
    pub fn accept(&mut self, message: Message) -> Option<Settled> {
        let Message { topic, payload, response, receipt } = message;
        match self.native.order(&topic, &payload) {
            Err((device, refusal)) => {
                Some(Settled { receipt, refused: Some(Refused { device, topic, refusal, response }) })
            }
            Ok((device, _)) => {
                let job = Job { device: device.clone(), topic, payload, response, receipt };
                match self.behind.get_mut(&device) {
                    Some(behind) => behind.push_back(job),
                    None => {
                        self.behind.insert(device, VecDeque::new());
                        self.start(job);
                    }
                }
                None
            }
        }
    }

    /// The next message that is settled; waits for ever where none runs.
    pub async fn settled(&mut self) -> Settled {
        let Some((device, settled)) = self.running.next().await else { return std::future::pending().await };
        match self.behind.get_mut(&device).and_then(VecDeque::pop_front) {
            Some(job) => self.start(job),
            None => drop(self.behind.remove(&device)),
        }
        settled
    }

    fn start(&mut self, job: Job) {
        let (orders, native) = (self.orders.clone(), self.native.clone());
        self.running.push(Box::pin(async move {
            let refused = loop {
                // Parsed again for each attempt: placing an order consumes it.
                let order = native.order(&job.topic, &job.payload);
                let placed = match order {
                    Ok((device, order)) => place(&orders, device, order).await,
                    Err((_, refusal)) => Err(refusal),
                };
                match placed {
                    Ok(()) => break None,
                    Err(refusal) if matches!(refusal.code, RefusalCode::Busy | RefusalCode::StoreUnavailable) => {
                        tracing::warn!(topic = job.topic, reason = refusal.message, "an order must wait");
                        tokio::time::sleep(AGAIN).await;
                    }
                    Err(refusal) => break Some(refusal),
                }
            };
            let Job { device, topic, response, receipt, .. } = job;
            let refused = refused.map(|refusal| {
                let device = Some(device.clone());
                Refused { device, topic, refusal, response }
            });
            (device, Settled { receipt, refused })
        }));
    }
}

async fn place(orders: &Orders, device: DeviceId, order: OrderKind) -> Result<(), Refusal> {
    orders.place(device, Door::Cloud, order).await.map(drop)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::sync::mpsc;

    use super::*;

    fn message(topic: &str, payload: &str) -> Message {
        let receipt = Receipt::of_test(topic, payload);
        Message { topic: topic.into(), payload: payload.to_owned().into(), response: None, receipt }
    }

    #[tokio::test]
    async fn orders_of_a_device_keep_their_order_and_refusals_are_settled() {
        let (keeper, mut asked) = mpsc::channel(8);
        let (updates, diagnostics, jobs) = (mpsc::channel(1).0, mpsc::channel(1).0, mpsc::channel(1).0);
        let orders = Orders { keeper, updates, diagnostics, jobs };
        let native = Native::new("devices/{device}", DeviceId::new("gw").expect("id"));
        let mut inbox = Inbox::new(native, orders);
        assert!(inbox.accept(message("devices/a/delta", "{\"n\":1}")).is_none());
        assert!(inbox.accept(message("devices/a/delta", "{\"n\":2}")).is_none());
        assert!(inbox.accept(message("devices/b/delta", "{\"n\":3}")).is_none());
        let refused = inbox.accept(message("devices/a/delta", "no json")).expect("settled at once");
        assert_eq!(refused.refused.expect("refused").refusal.code, RefusalCode::PayloadInvalid);

        let answers = async {
            let mut seen = Vec::new();
            for _ in 0..3 {
                let order: crate::bus::Order = asked.recv().await.expect("order");
                let OrderKind::Delta(delta) = order.what else { panic!("no delta") };
                seen.push((order.device.to_string(), delta["n"].as_u64().expect("n")));
                let answer = match delta["n"].as_u64() {
                    Some(2) => Err(Refusal::new(RefusalCode::OutOfRange, "too much")),
                    _ => Ok(json!({})),
                };
                order.reply.send(answer).expect("waits");
            }
            seen
        };
        let settled = async {
            let mut refused = 0;
            for _ in 0..3 {
                refused += usize::from(inbox.settled().await.refused.is_some());
            }
            refused
        };
        let (seen, refused) = tokio::join!(answers, settled);
        let of_a: Vec<u64> = seen.iter().filter(|(device, _)| device == "a").map(|(_, n)| *n).collect();
        assert_eq!((of_a, refused), (vec![1, 2], 1));
    }
}
