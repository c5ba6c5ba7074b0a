//! One connection to the cloud's broker, MQTT 3.1.1 or 5, as one stream of events. Of the road to the cloud only this
//! file and the two below it, one for each version, name rumqttc.
//!
//! A connection has its own client and its own event loop: nothing of an earlier one can surface in it. What was not
//! acknowledged is published again from the log, never from the client's memory.

mod mqtt3;
mod mqtt5;

use std::{pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use rumqttc::v5;

use crate::config::uplink::{Address, Version};

/// The largest message that is taken from the cloud.
const MOST_INCOMING: usize = 1 << 20;

/// What a connection needs to know.
#[derive(Clone)]
pub struct Dial {
    pub address: Address,
    pub version: Version,
    pub client_id: String,
    pub login: Option<(String, String)>,
    pub tls: Option<Arc<rustls::ClientConfig>>,
    pub keep_alive: Duration,
    /// Publishes in flight, and requests that may queue.
    pub in_flight: u16,
    /// Retained topic and payload, said by the broker when we are gone.
    pub will: (String, Vec<u8>),
}

/// What happens on a connection.
#[derive(Debug)]
pub enum WireEvent {
    Up {
        session_present: bool,
        max_packet: Option<u32>,
        receive_max: Option<u16>,
    },
    /// The oldest publish not yet sent went out under this id.
    Sent(u16),
    Acked {
        id: u16,
        verdict: Verdict,
    },
    Message(Message),
    /// So many filters of a subscription were refused.
    Subscribed {
        refused: usize,
    },
    /// A PINGREQ went out.
    Ping,
    Other,
}

/// What the broker says of a publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Good,
    /// Later: a quota, a rate.
    Later(String),
    /// Not before somebody changes the rights.
    NotAllowed(String),
    /// Never: this message cannot be taken.
    Never(String),
}

/// A message from the cloud.
#[derive(Debug)]
pub struct Message {
    pub topic: String,
    pub payload: Bytes,
    /// Where its sender wants an answer (MQTT 5).
    pub response: Option<(String, Option<Bytes>)>,
    pub receipt: Receipt,
}

/// What must be given back to acknowledge a message.
#[derive(Debug, Clone)]
pub enum Receipt {
    V3(rumqttc::Publish),
    V5(v5::mqttbytes::v5::Publish),
}

/// Why a connection ended or did not begin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Down {
    pub reason: String,
    /// Trying again soon will not help: credentials, rights, protocol.
    pub refused: bool,
    /// What the broker minds, where it said so.
    pub minds: Option<Minds>,
}

/// What a broker ends a connection over that would otherwise go on for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Minds {
    /// It wants less, or later: each further attempt waits longer, whatever was acknowledged meanwhile.
    Rate,
    /// A packet was too large for it.
    Size,
}

impl Down {
    pub fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), refused: false, minds: None }
    }

    /// The broker asks to wait.
    pub fn later(reason: impl Into<String>) -> Self {
        Self { minds: Some(Minds::Rate), ..Self::new(reason) }
    }

    pub fn refused(reason: impl Into<String>) -> Self {
        Self { refused: true, ..Self::new(reason) }
    }
}

enum Client {
    V3(rumqttc::AsyncClient),
    V5(v5::AsyncClient),
}

/// A connection; dropped, it is closed.
pub struct Wire {
    client: Client,
    events: Pin<Box<dyn Stream<Item = Result<WireEvent, Down>> + Send>>,
}

impl Wire {
    /// Begins to connect: the first event is [`WireEvent::Up`] or an error.
    pub fn dial(dial: &Dial) -> Wire {
        // Acknowledgements, subscriptions and asides queue beside the publishes.
        let queue = usize::from(dial.in_flight) + 256;
        match dial.version {
            Version::V3 => {
                let (client, events) = rumqttc::AsyncClient::new(mqtt3::options(dial), queue);
                let events = stream::unfold(events, |mut events| async {
                    let event = events.poll().await;
                    Some((event.map(mqtt3::event).unwrap_or_else(|e| Err(mqtt3::down(e))), events))
                });
                Wire { client: Client::V3(client), events: Box::pin(events) }
            }
            Version::V5 => {
                let (client, events) = v5::AsyncClient::new(mqtt5::options(dial), queue);
                let events = stream::unfold(events, |mut events| async {
                    let event = events.poll().await;
                    Some((event.map(mqtt5::event).unwrap_or_else(|e| Err(mqtt5::down(e))), events))
                });
                Wire { client: Client::V5(client), events: Box::pin(events) }
            }
        }
    }

    /// The next event. May be dropped while it waits: nothing is lost by it.
    pub async fn next(&mut self) -> Result<WireEvent, Down> {
        self.events.next().await.unwrap_or_else(|| Err(Down::new("the connection ended")))
    }

    /// Bytes of a QoS 1 publish without properties (MQTT 3.1.1 and 5, section 3.3).
    pub fn publish_bytes(&self, topic: &str, payload: &[u8]) -> usize {
        let properties = usize::from(matches!(self.client, Client::V5(_)));
        let rest = 2 + topic.len() + 2 + properties + payload.len();
        1 + (1..4).find(|digits| rest < 1 << (7 * digits)).unwrap_or(4) + rest
    }

    /// Queues a publish with QoS 1; false where the queue is full.
    pub fn publish(&self, topic: String, payload: Vec<u8>, retain: bool) -> bool {
        match &self.client {
            Client::V3(client) => client.try_publish(topic, rumqttc::QoS::AtLeastOnce, retain, payload).is_ok(),
            Client::V5(client) => client.try_publish(topic, v5::mqttbytes::QoS::AtLeastOnce, retain, payload).is_ok(),
        }
    }

    /// Queues an answer to a message that asked for one.
    pub fn answer(&self, topic: String, correlation: Option<Bytes>, payload: Vec<u8>) -> bool {
        match &self.client {
            Client::V3(_) => self.publish(topic, payload, false),
            Client::V5(client) => {
                let properties = v5::mqttbytes::v5::PublishProperties {
                    correlation_data: correlation,
                    ..v5::mqttbytes::v5::PublishProperties::default()
                };
                let qos = v5::mqttbytes::QoS::AtLeastOnce;
                client.try_publish_with_properties(topic, qos, false, payload, properties).is_ok()
            }
        }
    }

    /// Queues a subscription with QoS 1.
    pub fn subscribe(&self, filters: &[String]) -> bool {
        match &self.client {
            Client::V3(client) => {
                let qos = rumqttc::QoS::AtLeastOnce;
                let filters = filters.iter().map(|path| rumqttc::SubscribeFilter::new(path.clone(), qos));
                client.try_subscribe_many(filters).is_ok()
            }
            Client::V5(client) => {
                let qos = v5::mqttbytes::QoS::AtLeastOnce;
                let filters = filters.iter().map(|path| v5::mqttbytes::v5::Filter::new(path.clone(), qos));
                client.try_subscribe_many(filters).is_ok()
            }
        }
    }

    pub fn unsubscribe(&self, filter: &str) -> bool {
        match &self.client {
            Client::V3(client) => client.try_unsubscribe(filter).is_ok(),
            Client::V5(client) => client.try_unsubscribe(filter).is_ok(),
        }
    }

    /// Tells the cloud that its message is on disk.
    pub fn acknowledge(&self, receipt: &Receipt) -> bool {
        match (&self.client, receipt) {
            (Client::V3(client), Receipt::V3(publish)) => client.try_ack(publish).is_ok(),
            (Client::V5(client), Receipt::V5(publish)) => client.try_ack(publish).is_ok(),
            _ => false,
        }
    }

    pub fn disconnect(&self) {
        let _ = match &self.client {
            Client::V3(client) => client.try_disconnect().is_ok(),
            Client::V5(client) => client.try_disconnect().is_ok(),
        };
    }
}

/// The host as rumqttc looks it up: it puts the port behind it, and checks certificates against it.
fn host(dial: &Dial) -> String {
    match dial.address.host.contains(':') && dial.tls.is_none() {
        true => format!("[{}]", dial.address.host),
        false => dial.address.host.clone(),
    }
}

#[cfg(test)]
impl Receipt {
    pub fn of_test(topic: &str, payload: &str) -> Receipt {
        Receipt::V3(rumqttc::Publish::new(topic, rumqttc::QoS::AtLeastOnce, payload))
    }
}
