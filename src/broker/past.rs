//! Sessions that ended in trouble, remembered for a while: a child that is sent away and is back at once with a clean
//! session would otherwise look as if nothing had happened.

use std::collections::{BTreeMap, HashMap};

use crate::model::{ids::DeviceId, time::Millis, view::Connection};

/// Sessions that are remembered; beyond it the one that is longest ago is forgotten.
const MOST: usize = 200;
/// Milliseconds for which they are.
const KEPT: i64 = 86_400_000;

/// What a later session of the same client goes on from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trouble {
    pub dropped: BTreeMap<&'static str, u64>,
    pub last_error: Option<(String, Millis)>,
}

impl Trouble {
    pub fn is_none(&self) -> bool {
        self.dropped.is_empty() && self.last_error.is_none()
    }
}

#[derive(Default)]
pub struct Past(HashMap<String, (Connection, Trouble)>);

impl Past {
    /// Remembers how a session ended, by its row for people.
    pub fn remember(&mut self, row: Connection, mut trouble: Trouble, now: Millis) {
        if let Some((_, before)) = self.0.get(&row.client_id) {
            for (reason, count) in &before.dropped {
                *trouble.dropped.entry(reason).or_insert(0) += count;
            }
        } else if self.0.len() >= MOST {
            let oldest = self.0.iter().min_by_key(|(_, (row, _))| row.since).map(|(client, _)| client.clone());
            oldest.and_then(|client| self.0.remove(&client));
        }
        let row = Connection {
            connected: false,
            ended: true,
            since: Some(now),
            rate_in: 0.0,
            rate_out: 0.0,
            queued: 0,
            dropped: trouble.dropped.iter().map(|(reason, n)| ((*reason).to_owned(), *n)).collect(),
            ..row
        };
        self.0.insert(row.client_id.clone(), (row, trouble));
    }

    /// A client is back.
    pub fn take(&mut self, client: &str) -> Trouble {
        self.0.remove(client).map(|(_, trouble)| trouble).unwrap_or_default()
    }

    /// A device was removed.
    pub fn forget(&mut self, device: &DeviceId) {
        self.0.retain(|_, (row, _)| row.device != device.as_str());
    }

    pub fn rows(&mut self, now: Millis) -> Vec<Connection> {
        self.0.retain(|_, (row, _)| row.since.is_some_and(|since| now.since(since) < KEPT));
        self.0.values().map(|(row, _)| row.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(client: &str) -> Connection {
        Connection { device: "d".into(), client_id: client.into(), rate_in: 3.0, ..Connection::default() }
    }

    #[test]
    fn trouble_is_handed_to_the_next_session_and_forgotten_in_time() {
        let mut past = Past::default();
        let trouble =
            || Trouble { dropped: [("queue-full", 2)].into(), last_error: Some(("too large".into(), Millis(1))) };
        past.remember(row("d/…"), trouble(), Millis(1));
        past.remember(row("d/…"), trouble(), Millis(2));
        let rows = past.rows(Millis(3));
        assert_eq!((rows.len(), rows[0].dropped["queue-full"], rows[0].rate_in), (1, 4, 0.0));
        assert!(rows[0].ended && rows[0].since == Some(Millis(2)));
        assert_eq!(past.take("d/…").dropped["queue-full"], 4);
        assert!(past.take("d/…").is_none());
        for n in 0..1000 {
            past.remember(row(&format!("d/{n}")), trouble(), Millis(n));
        }
        assert_eq!(past.rows(Millis(1000)).len(), MOST);
        assert!(past.rows(Millis(KEPT + 1000)).is_empty());
    }
}
