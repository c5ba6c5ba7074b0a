//! The broker as people see it: a row per session, and `$SYS/broker/…` for those who were granted it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;

use super::{
    hub::{Hub, SYS},
    message::Message,
    session::Session,
};
use crate::{clock, model::view::Connection};

/// How often the topics below `$SYS` are said again.
const EVERY: Duration = Duration::from_secs(10);

pub fn connections(hub: &Hub) -> Vec<Connection> {
    let mut rows: Vec<Connection> = hub.all_sessions().iter().map(|session| row(session)).collect();
    rows.extend(hub.past().rows(clock::now()));
    rows.sort_by(|a, b| a.client_id.cmp(&b.client_id));
    rows
}

/// A session as people see it.
pub fn row(session: &Session) -> Connection {
    let state = session.state();
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let (dropped, error) = (&state.trouble.dropped, &state.trouble.last_error);
    let at = state.live.as_ref().or(state.was.as_ref());
    Connection {
        device: session.device.to_string(),
        client_id: session.client.to_string(),
        connected: state.live.is_some(),
        ended: false,
        address: at.and_then(|live| live.address).map(|address| address.to_string()),
        protocol: at.map(|live| live.protocol.clone()).unwrap_or_default(),
        since: state.live.as_ref().map(|live| live.since).or(state.away_since),
        messages_in: count(&session.counters.messages_in),
        messages_out: count(&session.counters.messages_out),
        bytes_in: count(&session.counters.bytes_in),
        bytes_out: count(&session.counters.bytes_out),
        rate_in: state.rates.0,
        rate_out: state.rates.1,
        queued: (state.queue.len() + state.inflight.len()) as u64,
        dropped: dropped.iter().map(|(reason, n)| ((*reason).to_owned(), *n)).collect(),
        last_error: error.as_ref().map(|(text, _)| text.clone()),
        last_error_at: error.as_ref().map(|(_, at)| *at),
    }
}

/// Names below `$SYS/broker/` with their values now; the names are those other brokers use.
fn values(hub: &Hub) -> Vec<(&'static str, String)> {
    let sessions = hub.all_sessions();
    let connected = sessions.iter().filter(|s| s.connected.load(Ordering::Relaxed)).count();
    let waiting: usize = sessions.iter().map(|s| s.state().queue.len()).sum();
    let subscriptions = hub.trie.read().unwrap_or_else(PoisonError::into_inner).len();
    let retained = hub.retained.read().unwrap_or_else(PoisonError::into_inner).len();
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed).to_string();
    let totals = &hub.totals;
    vec![
        ("version", format!("headgate {}", env!("CARGO_PKG_VERSION"))),
        ("uptime", format!("{} seconds", clock::now().since(hub.started).max(0) / 1000)),
        ("clients/connected", connected.to_string()),
        ("clients/disconnected", (sessions.len() - connected).to_string()),
        ("clients/total", sessions.len().to_string()),
        ("subscriptions/count", subscriptions.to_string()),
        ("retained messages/count", retained.to_string()),
        ("store/messages/count", waiting.to_string()),
        ("store/messages/bytes", hub.budget.used.load(Ordering::Relaxed).to_string()),
        ("publish/messages/received", count(&totals.received)),
        ("publish/messages/sent", count(&totals.sent)),
        ("publish/messages/dropped", count(&totals.dropped)),
        ("publish/messages/refused", count(&totals.refused_publishes)),
        ("publish/messages/lost-qos-0", count(&totals.lost_ingests)),
        ("connections/refused", count(&totals.refused_connects)),
        ("bytes/received", count(&totals.bytes_received)),
        ("bytes/sent", count(&totals.bytes_sent)),
    ]
}

/// The sessions of each device. Client ids may hold wildcards and slashes, device ids cannot.
fn per_device(hub: &Hub) -> BTreeMap<String, Vec<Connection>> {
    let mut devices: BTreeMap<String, Vec<Connection>> = BTreeMap::new();
    for connection in connections(hub) {
        devices.entry(connection.device.clone()).or_default().push(connection);
    }
    devices
}

fn say(hub: &Hub, name: &str, value: String) {
    let message = Message {
        topic: format!("{SYS}broker/{name}").into(),
        payload: Bytes::from(value),
        properties: Bytes::new(),
        qos: 0,
        retain: true,
        expires: None,
        from: None,
    };
    drop(hub.publish(&Arc::new(message)));
}

/// Says the values as retained messages, that are never stored, until stopped.
pub async fn speak(hub: Arc<Hub>) {
    let stop = hub.tasks.stopping();
    let mut said: BTreeSet<String> = BTreeSet::new();
    loop {
        for (name, value) in values(&hub) {
            say(&hub, name, value);
        }
        let rows = per_device(&hub);
        for (device, rows) in &rows {
            say(&hub, &format!("connections/{device}"), serde_json::to_string(rows).unwrap_or_default());
        }
        for gone in said.iter().filter(|device| !rows.contains_key(*device)) {
            // An empty payload takes a retained message away.
            say(&hub, &format!("connections/{gone}"), String::new());
        }
        said = rows.into_keys().collect();
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = stop.cancelled() => return,
        }
    }
}
