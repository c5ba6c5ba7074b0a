//! A message on its way through the broker: made once, shared by every queue that holds it.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    model::time::Millis,
    store::{retained::RetainedRow, sessions::QueuedRow},
};

/// What a queued message costs beside its bytes: the shared value, its place in a queue.
const OVERHEAD: usize = 160;

#[derive(Debug, Clone)]
pub struct Message {
    pub topic: Arc<str>,
    /// In memory of its own, never a view into a connection's read buffer.
    pub payload: Bytes,
    /// MQTT 5 properties that travel with it, encoded.
    pub properties: Bytes,
    pub qos: u8,
    /// The RETAIN flag as it was published.
    pub retain: bool,
    /// Not to be delivered after this.
    pub expires: Option<Millis>,
    /// The client that published it, for no-local.
    pub from: Option<Arc<str>>,
}

impl Message {
    pub fn cost(&self) -> usize {
        OVERHEAD + self.topic.len() + self.payload.len() + self.properties.len()
    }

    pub fn expired(&self, now: Millis) -> bool {
        self.expires.is_some_and(|at| at <= now)
    }

    /// Whole seconds that are left, rounded up (MQTT 5, 3.3.2.3.3).
    pub fn seconds_left(&self, now: Millis) -> Option<u32> {
        self.expires.map(|at| u32::try_from((at.since(now).max(0) + 999) / 1000).unwrap_or(u32::MAX))
    }

    pub fn from_retained(row: RetainedRow) -> Self {
        Self {
            topic: row.topic.into(),
            payload: row.payload.into(),
            properties: row.properties.into(),
            qos: row.qos.min(2),
            retain: true,
            expires: row.expires,
            from: None,
        }
    }

    pub fn to_retained(&self) -> RetainedRow {
        RetainedRow {
            topic: self.topic.to_string(),
            payload: self.payload.to_vec(),
            qos: self.qos,
            properties: self.properties.to_vec(),
            expires: self.expires,
        }
    }
}

/// A message in one session's queue, with what its subscription makes of it.
#[derive(Debug, Clone)]
pub struct Queued {
    pub message: Arc<Message>,
    pub qos: u8,
    pub retain: bool,
    /// Subscription identifiers.
    pub identifiers: Box<[u32]>,
    /// Where it lies in the store; 0 where it does not.
    pub place: i64,
    /// The group of the shared subscription it came by: another member gets it if this session ends.
    pub group: Option<Arc<str>>,
}

impl Queued {
    pub fn to_row(&self, packet: u16) -> QueuedRow {
        QueuedRow {
            place: self.place,
            topic: self.message.topic.to_string(),
            payload: self.message.payload.to_vec(),
            flags: self.qos << 1 | u8::from(self.retain),
            properties: self.message.properties.to_vec(),
            expires: self.message.expires,
            identifiers: self.identifiers.iter().flat_map(|id| id.to_be_bytes()).collect(),
            packet,
            released: false,
            group: self.group.as_deref().map(str::to_owned),
        }
    }

    pub fn from_row(row: QueuedRow) -> Self {
        let (qos, retain) = ((row.flags >> 1 & 0b11).min(2), row.flags & 1 != 0);
        let identifiers =
            row.identifiers.chunks_exact(4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]])).collect();
        let message = Message {
            topic: row.topic.into(),
            payload: row.payload.into(),
            properties: row.properties.into(),
            qos,
            retain,
            expires: row.expires,
            from: None,
        };
        let group = row.group.map(Arc::from);
        Self { message: Arc::new(message), qos, retain, identifiers, place: row.place, group }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queued_message_is_the_same_after_the_store() {
        let message = Message {
            topic: "a/b".into(),
            payload: Bytes::from_static(b"x"),
            properties: Bytes::from_static(&[1, 1]),
            qos: 2,
            retain: false,
            expires: Some(Millis(99)),
            from: Some("c".into()),
        };
        let queued = Queued {
            message: Arc::new(message),
            qos: 1,
            retain: true,
            identifiers: [7, 70_000].into(),
            place: 3,
            group: Some("g".into()),
        };
        let back = Queued::from_row(queued.to_row(9));
        assert_eq!(back.to_row(9), queued.to_row(9));
        assert_eq!((back.qos, back.retain, &back.identifiers[..]), (1, true, &[7, 70_000][..]));
        assert_eq!(back.group.as_deref(), Some("g"));
    }

    #[test]
    fn expiry_counts_down_in_whole_seconds() {
        let message = Message {
            expires: Some(Millis(5_500)),
            ..Message::from_retained(RetainedRow {
                topic: "t".into(),
                payload: vec![],
                qos: 0,
                properties: vec![],
                expires: None,
            })
        };
        assert_eq!(message.seconds_left(Millis(500)), Some(5));
        assert_eq!(message.seconds_left(Millis(501)), Some(5));
        assert_eq!(message.seconds_left(Millis(1_500)), Some(4));
        assert!(!message.expired(Millis(5_499)) && message.expired(Millis(5_500)));
    }
}
