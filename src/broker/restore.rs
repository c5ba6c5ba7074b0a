//! What outlived the process, put back when the broker starts.

use std::sync::{Arc, PoisonError};

use super::{
    hub::Hub,
    life::entry,
    message::{Message, Queued},
    session::{Session, Subscribed},
    trie::split_shared,
};
use crate::{
    clock,
    model::ids::DeviceId,
    store::{Store, StoreError, retained::RetainedRow, sessions::SessionRow, wills::WillRow},
};

/// What the store kept.
pub struct Kept {
    pub sessions: Vec<SessionRow>,
    pub retained: Vec<RetainedRow>,
    pub wills: Vec<WillRow>,
}

/// What the store kept, and the first free place in it.
pub async fn load(store: &Store) -> Result<(Kept, i64), StoreError> {
    let kept =
        Kept { sessions: store.sessions().await?, retained: store.retained().await?, wills: store.wills().await? };
    let places = kept.sessions.iter().flat_map(|session| &session.queue).map(|row| row.place);
    let last = places.chain(kept.wills.iter().map(|row| row.place)).max().unwrap_or(0);
    Ok((kept, last + 1))
}

impl Hub {
    /// Puts everything back as the store kept it. Wills whose time has come are said: the connections they stood for are
    /// gone (MQTT 5, 3.1.2.5 lets a server wait with them until it is there again).
    pub fn restore(self: &Arc<Self>, kept: Kept) {
        let now = clock::now();
        for row in kept.sessions {
            let Ok(device) = DeviceId::new(&row.device) else { continue };
            let session = Arc::new(Session::new(self.key(), row.client.into(), device, row.groups));
            let mut state = session.state();
            state.expiry = row.expiry;
            state.stored = true;
            state.away_since = Some(row.away_since.unwrap_or(now));
            state.incoming = row.incoming.into_iter().collect();
            state.unrouted = row.unrouted.into_iter().collect();
            for kept in row.queue {
                let (packet, released) = (kept.packet, kept.released);
                state.restore(Queued::from_row(kept), packet, released, &self.budget);
            }
            let mut trie = self.trie.write().unwrap_or_else(PoisonError::into_inner);
            for kept in row.subscriptions {
                let subscribed = Subscribed { options: kept.options, identifier: kept.identifier };
                if let Ok((group, filter)) = split_shared(&kept.filter) {
                    trie.insert(filter, group, entry(&session, subscribed));
                    state.subscriptions.insert(kept.filter.clone(), subscribed);
                }
            }
            drop(state);
            self.sessions().insert(session.client.clone(), session.clone());
        }
        let mut store = self.retained.write().unwrap_or_else(PoisonError::into_inner);
        for row in kept.retained {
            let topic = row.topic.clone();
            if store.set(Arc::new(Message::from_retained(row))).is_err() {
                tracing::warn!(topic, "a retained message is over the limit and is left out");
            }
        }
        drop(store);
        for row in kept.wills {
            self.restore_will(row, now);
        }
    }
}
