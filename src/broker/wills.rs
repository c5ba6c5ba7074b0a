//! Wills: kept in the store from CONNECT until they are said or taken back, and said once more rather than never.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::{hub::Hub, life::door, message::Message, session::Session, wire::Will};
use crate::{
    bus::Inbound,
    clock,
    model::{
        access::Who,
        command::RefusalCode,
        ids::DeviceId,
        time::Millis,
        topic::{ChildTopic, LocalTopic},
    },
    store::{sessions::SessionChange, wills::WillRow},
};

/// A will and its place in the store.
#[derive(Debug, Clone)]
pub struct Testament {
    pub will: Will,
    pub place: i64,
}

/// Whose will it is.
pub struct Speaker {
    client: Arc<str>,
    device: DeviceId,
    groups: Vec<String>,
}

impl Speaker {
    pub fn of(session: &Session) -> Self {
        Self { client: session.client.clone(), device: session.device.clone(), groups: session.groups.clone() }
    }
}

pub fn will_change(session: &Session, testament: &Testament, due: Option<Millis>) -> SessionChange {
    let Testament { will, place } = testament;
    SessionChange::Will(WillRow {
        place: *place,
        client: session.client.to_string(),
        device: session.device.to_string(),
        groups: session.groups.clone(),
        topic: will.topic.clone(),
        payload: will.payload.to_vec(),
        flags: will.qos << 1 | u8::from(will.retain),
        properties: will.properties.to_vec(),
        delay: will.delay,
        expiry: will.expiry,
        due,
    })
}

impl Hub {
    /// Publishes a will, if its identity may still speak there. On an ingested topic it goes to the keeper like any
    /// message; the shadow's reserved topics do not listen to wills (`docs/shadow.md`). It leaves the store when it has
    /// been said, so that a power cut in between says it twice rather than never.
    pub fn say_will(self: &Arc<Self>, speaker: &Speaker, testament: Testament) {
        let Testament { will, place } = testament;
        let who = Who { device: &speaker.device, groups: &speaker.groups };
        if let Err(denied) = self.access.borrow().may_publish(who, &will.topic) {
            tracing::warn!(client = &*speaker.client, topic = will.topic, %denied, "a will is not published");
            self.journal.note([SessionChange::NoWill { place }]);
            return;
        }
        let at = clock::now();
        let shadow = will.topic.starts_with('$');
        let message = Arc::new(Message {
            topic: will.topic.as_str().into(),
            payload: will.payload.clone(),
            properties: will.properties.clone(),
            qos: will.qos,
            retain: will.retain && !shadow,
            expires: will.expiry.map(|seconds| at.plus(i64::from(seconds) * 1000)),
            from: Some(speaker.client.clone()),
        });
        let (hub, from) = (self.clone(), speaker.device.clone());
        self.tasks.spawn("will", async move {
            if let LocalTopic::Ingest(device, topic) = LocalTopic::parse(&message.topic)
                && !matches!(topic, ChildTopic::Shadow(_) | ChildTopic::Jobs(_))
            {
                let (reply, answer) = oneshot::channel();
                let door = door(&from, &device);
                let inbound = Inbound { device, topic, payload: message.payload.clone(), at, door, reply, mark: None };
                let sent = hub.inbound.send(vec![inbound]).await.is_ok();
                let outcome = if sent { answer.await.ok() } else { None };
                match outcome {
                    Some(Ok(())) => {}
                    Some(Err(refusal)) if refusal.code != RefusalCode::StoreUnavailable => {
                        tracing::warn!(device = %from, topic = &*message.topic, refusal.message, "a will was refused");
                        return hub.journal.note([SessionChange::NoWill { place }]);
                    }
                    // it is said at the next start
                    _ => return tracing::warn!(device = %from, topic = &*message.topic, "a will could not be stored"),
                }
            }
            if hub.publish_with(&message, Some(SessionChange::NoWill { place })).is_err() {
                hub.journal.note([SessionChange::NoWill { place }]);
            }
        });
    }

    /// Puts a will back that a stop or a power cut left: it waits on, or is said now.
    pub fn restore_will(self: &Arc<Self>, row: WillRow, now: Millis) {
        let Ok(device) = DeviceId::new(&row.device) else { return };
        let due = row.due.unwrap_or_else(|| now.plus(i64::from(row.delay).saturating_mul(1000)));
        let speaker = Speaker { client: row.client.as_str().into(), device, groups: row.groups };
        let will = Will {
            topic: row.topic,
            payload: row.payload.into(),
            qos: (row.flags >> 1 & 0b11).min(2),
            retain: row.flags & 1 != 0,
            delay: row.delay,
            expiry: row.expiry,
            properties: row.properties.into(),
        };
        let testament = Testament { will, place: row.place };
        let session = self.sessions().get(&speaker.client).cloned().filter(|_| due > now);
        match session {
            Some(session) => {
                self.journal.note([will_change(&session, &testament, Some(due))]);
                session.state().parked = Some((testament, due));
            }
            None => self.say_will(&speaker, testament),
        }
    }
}
