//! What the broker has the store keep, as values: sessions, what belongs to them, and each change of it.

use crate::{
    model::time::Millis,
    store::{retained, wills},
};

/// A session as it is kept.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SessionRow {
    pub client: String,
    pub device: String,
    pub groups: Vec<String>,
    /// Seconds after the connection is gone; `u32::MAX` is for ever (MQTT 5, 3.1.2.11.2).
    pub expiry: u32,
    /// `None` while it is connected.
    pub away_since: Option<Millis>,
    pub subscriptions: Vec<SubscriptionRow>,
    pub queue: Vec<QueuedRow>,
    /// Packet ids of QoS 2 messages that were received and not yet released by the client.
    pub incoming: Vec<u16>,
    /// Those of them that were logged and had not found their subscribers yet.
    pub unrouted: Vec<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriptionRow {
    pub filter: String,
    /// The options byte of MQTT 5, 3.8.3.1.
    pub options: u8,
    /// Subscription identifier, 0 for none.
    pub identifier: u32,
}

/// A message that waits for a session or is on its way to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueuedRow {
    /// Order of arrival, unique in the broker.
    pub place: i64,
    pub topic: String,
    pub payload: Vec<u8>,
    /// QoS in bits 1 and 2, retain in bit 0, as in the packet.
    pub flags: u8,
    /// Properties as they stand in an MQTT 5 packet.
    pub properties: Vec<u8>,
    pub expires: Option<Millis>,
    /// Subscription identifiers, four bytes each, big-endian.
    pub identifiers: Vec<u8>,
    /// The packet id it was sent with, 0 while it waits.
    pub packet: u16,
    /// The client has it (QoS 2) and its PUBCOMP is missing.
    pub released: bool,
    /// The group of the shared subscription it came by.
    pub group: Option<String>,
}

/// One change of what is kept. The order of a batch is kept.
#[derive(Debug, Clone)]
pub enum SessionChange {
    /// Makes or updates the session itself; its lists are other changes.
    Session {
        client: String,
        device: String,
        groups: Vec<String>,
        expiry: u32,
        away_since: Option<Millis>,
    },
    /// The session and everything of it ends.
    End {
        client: String,
    },
    Subscribe {
        client: String,
        row: SubscriptionRow,
    },
    Unsubscribe {
        client: String,
        filter: String,
    },
    Queue {
        client: String,
        row: QueuedRow,
    },
    /// It was sent under this packet id, or released.
    Sent {
        client: String,
        place: i64,
        packet: u16,
        released: bool,
    },
    Done {
        client: String,
        place: i64,
    },
    Received {
        client: String,
        packet: u16,
    },
    Released {
        client: String,
        packet: u16,
    },
    Will(wills::WillRow),
    /// The will was said, or is not wanted any more.
    NoWill {
        place: i64,
    },
    Retain(retained::RetainedRow),
    /// Removes a retained message.
    Forget {
        topic: String,
    },
}
