//! What all connections share: sessions, subscriptions, retained messages, and the road a message takes through them.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use serde_json::json;
use tokio::sync::watch;

use super::{
    journal::{Journal, Ticket},
    message::{Message, Queued},
    newcomers::Newcomers,
    past::Past,
    retained::Retained,
    session::{Budget, Pushed, Session, Subscribed},
    trie::{Entry, Group, Trie},
    wire::{Fault, reason},
};
use crate::{
    bus::{ChildEvents, InboundSender},
    clock,
    config::broker::{Anonymous, Limits},
    identity::Identity,
    model::{
        access::{Access, Who},
        command::RefusalCode,
        ids::DeviceId,
        time::Millis,
    },
    store::sessions::{SessionChange, SubscriptionRow},
    tasks::Tasks,
};

/// Topics the broker itself speaks on; never stored.
pub const SYS: &str = "$SYS/";

/// Counts since the start.
#[derive(Default)]
pub struct Totals {
    pub received: AtomicU64,
    pub sent: AtomicU64,
    pub dropped: AtomicU64,
    pub bytes_received: AtomicU64,
    pub bytes_sent: AtomicU64,
    pub refused_connects: AtomicU64,
    pub refused_publishes: AtomicU64,
    /// QoS 0 messages on ingested topics that the keeper did not take.
    pub lost_ingests: AtomicU64,
}

pub struct Hub {
    pub limits: Limits,
    pub anonymous: Anonymous,
    pub access: watch::Sender<Arc<Access>>,
    pub identity: Identity,
    pub newcomers: Newcomers,
    pub inbound: InboundSender,
    pub children: ChildEvents,
    pub journal: Journal,
    pub budget: Budget,
    pub totals: Totals,
    /// For work that outlives a connection: wills.
    pub tasks: Tasks,
    pub started: Millis,
    pub(super) sessions: Mutex<HashMap<Arc<str>, Arc<Session>>>,
    pub(super) trie: RwLock<Trie<Arc<Session>>>,
    pub(super) retained: RwLock<Retained>,
    /// Sessions that ended in trouble.
    past: Mutex<Past>,
    /// Connections per device.
    pub(super) present: Mutex<HashMap<DeviceId, usize>>,
    places: AtomicI64,
    keys: AtomicU64,
}

/// One delivery that a publish leads to.
struct Delivery {
    session: Arc<Session>,
    qos: u8,
    retain: bool,
    identifiers: Vec<u32>,
    group: Option<Arc<str>>,
}

impl Hub {
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        limits: Limits,
        anonymous: Anonymous,
        access: Access,
        identity: Identity,
        newcomers: Newcomers,
        inbound: InboundSender,
        children: ChildEvents,
        tasks: Tasks,
        places: i64,
    ) -> Self {
        Self {
            budget: Budget { one: limits.queued, all: limits.queued_total, used: AtomicUsize::new(0) },
            retained: RwLock::new(Retained::new(limits.retained)),
            limits,
            anonymous,
            access: watch::Sender::new(Arc::new(access)),
            identity,
            newcomers,
            inbound,
            children,
            journal: Journal::default(),
            totals: Totals::default(),
            tasks,
            started: clock::now(),
            sessions: Mutex::default(),
            trie: RwLock::default(),
            past: Mutex::default(),
            present: Mutex::default(),
            places: AtomicI64::new(places),
            keys: AtomicU64::new(1),
        }
    }

    /// A place in the store for a queued message; never 0.
    pub fn place(&self) -> i64 {
        self.places.fetch_add(1, Ordering::Relaxed)
    }

    pub fn key(&self) -> u64 {
        self.keys.fetch_add(1, Ordering::Relaxed)
    }

    pub fn sessions(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<Session>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn past(&self) -> MutexGuard<'_, Past> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts and shows somebody who was not let in.
    pub async fn turn_away(&self, address: SocketAddr, device: Option<&DeviceId>, word: &'static str, text: String) {
        self.totals.refused_connects.fetch_add(1, Ordering::Relaxed);
        // A stranger who knocks all night must not fill the log either.
        let device_name = device.map(DeviceId::as_str);
        if self.identity.turned_away(address, device, word, text.clone()).await {
            tracing::info!(peer = %address, device = device_name, text, "a connection is refused");
        } else {
            tracing::debug!(peer = %address, device = device_name, text, "a connection is refused");
        }
    }

    pub fn all_sessions(&self) -> Vec<Arc<Session>> {
        self.sessions().values().cloned().collect()
    }

    /// Retains the message where it asks for that, and queues it for every subscriber. With something that must be
    /// stored first there is a ticket; the publisher is acknowledged when it resolves.
    pub fn publish(&self, message: &Arc<Message>) -> Result<Option<Ticket>, Fault> {
        self.publish_with(message, None)
    }

    /// The same, with a change that must be stored together with what the message leads to.
    pub fn publish_with(
        &self,
        message: &Arc<Message>,
        together: Option<SessionChange>,
    ) -> Result<Option<Ticket>, Fault> {
        let mut changes = Vec::new();
        if message.retain {
            self.retain(message, &mut changes)?;
        }
        self.route(message, &mut changes);
        changes.extend(together);
        if changes.is_empty() {
            return Ok(None);
        }
        if message.qos > 0 {
            return Ok(Some(self.journal.write(changes)));
        }
        self.journal.note(changes);
        Ok(None)
    }

    fn retain(&self, message: &Arc<Message>, changes: &mut Vec<SessionChange>) -> Result<(), Fault> {
        let stored = !message.topic.starts_with(SYS);
        let mut retained = self.retained.write().unwrap_or_else(PoisonError::into_inner);
        if message.payload.is_empty() {
            if retained.clear(&message.topic) && stored {
                changes.push(SessionChange::Forget { topic: message.topic.to_string() });
            }
            return Ok(());
        }
        let full = Fault::new(reason::QUOTA, "the gateway keeps no more retained messages");
        retained.set(message.clone()).map_err(|_| full)?;
        if stored {
            changes.push(SessionChange::Retain(message.to_retained()));
        }
        Ok(())
    }

    fn route(&self, message: &Arc<Message>, changes: &mut Vec<SessionChange>) {
        for delivery in self.deliveries(message) {
            let queued = Queued {
                message: message.clone(),
                qos: delivery.qos,
                retain: delivery.retain,
                identifiers: delivery.identifiers.into(),
                place: 0,
                group: delivery.group,
            };
            let (pushed, change) = delivery.session.push(queued, &self.budget, || self.place());
            if pushed == Pushed::Dropped {
                self.totals.dropped.fetch_add(1, Ordering::Relaxed);
            }
            changes.extend(change);
        }
    }

    /// Who gets it: overlapping subscriptions of one client become one delivery with the highest QoS and all
    /// identifiers (MQTT 5, 3.3.4).
    fn deliveries(&self, message: &Message) -> Vec<Delivery> {
        let trie = self.trie.read().unwrap_or_else(PoisonError::into_inner);
        let mut found: Vec<Delivery> = Vec::new();
        let delivery = |entry: &Entry<Arc<Session>>| Delivery {
            session: entry.session.clone(),
            qos: message.qos.min(entry.options & 0b11),
            retain: message.retain && entry.options & 0b1000 != 0,
            identifiers: if entry.identifier > 0 { vec![entry.identifier] } else { Vec::new() },
            group: None,
        };
        let mut shared = Vec::new();
        trie.matches(
            &message.topic,
            &mut |entry| {
                let own =
                    entry.options & 0b100 != 0 && message.from.as_ref().is_some_and(|c| *c == entry.session.client);
                if !own {
                    found.push(delivery(entry));
                }
            },
            &mut |group| {
                let group_name = || Some(group.name.clone());
                shared.extend(chosen(group).map(|entry| Delivery { group: group_name(), ..delivery(entry) }));
            },
        );
        drop(trie);
        if found.len() > 1 {
            found.sort_by_key(|delivery| delivery.session.key);
            found.dedup_by(|next, before| {
                let same = next.session.key == before.session.key;
                if same {
                    before.qos = before.qos.max(next.qos);
                    before.retain |= next.retain;
                    before.identifiers.append(&mut next.identifiers);
                }
                same
            });
        }
        found.append(&mut shared);
        let access = self.access.borrow();
        if access.denies() {
            found.retain(|d| {
                let who = Who { device: &d.session.device, groups: &d.session.groups };
                !access.denied(who, &message.topic)
            });
        }
        found
    }

    /// Gives what a member of a shared subscription leaves behind to another member, if there is one.
    pub fn pass_on(&self, left: Queued) {
        let Some(name) = &left.group else { return };
        let mut next = None;
        let trie = self.trie.read().unwrap_or_else(PoisonError::into_inner);
        trie.matches(&left.message.topic, &mut |_| {}, &mut |group| {
            if group.name == *name {
                next = chosen(group).map(|entry| entry.session.clone());
            }
        });
        drop(trie);
        if let Some(session) = next {
            let (_, change) = session.push(Queued { place: 0, ..left }, &self.budget, || self.place());
            self.journal.note(change);
        }
    }

    /// Adds or replaces a subscription. Whether it is new, and what to store.
    pub fn subscribe(
        &self,
        session: &Arc<Session>,
        text: &str,
        (group, filter): (Option<&str>, &str),
        subscribed: Subscribed,
    ) -> (bool, Option<SessionChange>) {
        let mut state = session.state();
        let old = state.subscriptions.insert(text.to_owned(), subscribed);
        let change = state.persistent().then(|| subscribe_change(session, text, subscribed));
        drop(state);
        let entry = Entry {
            key: session.key,
            session: session.clone(),
            options: subscribed.options,
            identifier: subscribed.identifier,
        };
        self.trie.write().unwrap_or_else(PoisonError::into_inner).insert(filter, group, entry);
        (old.is_none(), change)
    }

    /// Whether there was such a subscription, and what to store.
    pub fn unsubscribe(&self, session: &Session, text: &str) -> (bool, Option<SessionChange>) {
        let mut state = session.state();
        let existed = state.subscriptions.remove(text).is_some();
        let stored = existed && state.persistent();
        drop(state);
        if existed && let Ok((group, filter)) = super::trie::split_shared(text) {
            self.trie.write().unwrap_or_else(PoisonError::into_inner).remove(filter, group, session.key);
        }
        let change = SessionChange::Unsubscribe { client: session.client.to_string(), filter: text.to_owned() };
        (existed, stored.then_some(change))
    }

    pub fn retained_matching(&self, filter: &str) -> Vec<Arc<Message>> {
        self.retained.read().unwrap_or_else(PoisonError::into_inner).matching(filter, clock::now())
    }

    /// Tells a device on `devices/{d}/errors` why something it sent was refused.
    pub fn tell_error(&self, device: &DeviceId, topic: &str, code: RefusalCode, message: &str) {
        let body = json!({ "topic": topic, "code": code, "message": message, "ts": clock::now() });
        let message = Message {
            topic: format!("devices/{device}/errors").into(),
            payload: Bytes::from(body.to_string()),
            properties: Bytes::new(),
            qos: 1,
            retain: false,
            expires: None,
            from: None,
        };
        // level or log: nobody waits for it
        drop(self.publish(&Arc::new(message)));
    }
}

/// Whose turn it is: a member that is there, or else one whose session waits.
fn chosen(group: &Group<Arc<Session>>) -> Option<&Entry<Arc<Session>>> {
    let there = |entry: &&Entry<Arc<Session>>| entry.session.connected.load(Ordering::Relaxed);
    group.in_turn().find(there).or_else(|| group.in_turn().next())
}

pub fn subscribe_change(session: &Session, filter: &str, subscribed: Subscribed) -> SessionChange {
    let row =
        SubscriptionRow { filter: filter.to_owned(), options: subscribed.options, identifier: subscribed.identifier };
    SessionChange::Subscribe { client: session.client.to_string(), row }
}
