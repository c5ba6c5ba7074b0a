//! The last message of each topic that was published with RETAIN, ordered by topic, bounded in bytes.

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use super::message::Message;
use crate::model::{access::matches, time::Millis};

#[derive(Debug, Default)]
pub struct Retained {
    messages: BTreeMap<Arc<str>, Arc<Message>>,
    bytes: usize,
    limit: usize,
}

/// The store of retained messages is full.
#[derive(Debug, PartialEq, Eq)]
pub struct Full;

impl Retained {
    pub fn new(limit: usize) -> Self {
        Self { limit, ..Self::default() }
    }

    pub fn len(&self) -> usize {
        self.messages.len()
    }

    pub fn set(&mut self, message: Arc<Message>) -> Result<(), Full> {
        let old = self.messages.get(&message.topic).map_or(0, |old| old.cost());
        if self.bytes - old + message.cost() > self.limit {
            return Err(Full);
        }
        self.bytes = self.bytes - old + message.cost();
        self.messages.insert(message.topic.clone(), message);
        Ok(())
    }

    pub fn clear(&mut self, topic: &str) -> bool {
        match self.messages.remove(topic) {
            Some(old) => {
                self.bytes -= old.cost();
                true
            }
            None => false,
        }
    }

    /// Everything a well-formed filter names, looking only at topics that begin as it does.
    pub fn matching(&self, filter: &str, now: Millis) -> Vec<Arc<Message>> {
        if !filter.contains(['+', '#']) {
            return self.messages.get(filter).filter(|m| !m.expired(now)).cloned().into_iter().collect();
        }
        let literal = &filter[..filter.find(['+', '#']).unwrap_or(filter.len())];
        // "a/#" names "a" too
        let from = if filter[literal.len()..].starts_with('#') { literal.trim_end_matches('/') } else { literal };
        self.messages
            .range::<str, _>((Bound::Included(from), Bound::Unbounded))
            .take_while(|(topic, _)| topic.starts_with(from))
            .filter(|(topic, message)| matches(filter, topic) && !message.expired(now))
            .map(|(_, message)| message.clone())
            .collect()
    }

    /// Removes what has expired and returns its topics.
    pub fn sweep(&mut self, now: Millis) -> Vec<Arc<str>> {
        let gone: Vec<Arc<str>> = self.messages.values().filter(|m| m.expired(now)).map(|m| m.topic.clone()).collect();
        for topic in &gone {
            self.clear(topic);
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn message(topic: &str, expires: Option<Millis>) -> Arc<Message> {
        Arc::new(Message {
            topic: topic.into(),
            payload: Bytes::from_static(b"x"),
            properties: Bytes::new(),
            qos: 0,
            retain: true,
            expires,
            from: None,
        })
    }

    #[test]
    fn filters_find_all_they_name() {
        let mut retained = Retained::new(1 << 20);
        for topic in ["a", "a/b", "a/b/c", "ab", "b", "$SYS/x", "/a"] {
            retained.set(message(topic, None)).expect("room");
        }
        let find = |filter: &str| -> Vec<String> {
            retained.matching(filter, Millis(0)).iter().map(|m| m.topic.to_string()).collect()
        };
        assert_eq!(find("a/#"), ["a", "a/b", "a/b/c"]);
        assert_eq!(find("a/+"), ["a/b"]);
        assert_eq!(find("#"), ["/a", "a", "a/b", "a/b/c", "ab", "b"]);
        assert_eq!(find("$SYS/#"), ["$SYS/x"]);
        assert_eq!(find("+"), ["a", "ab", "b"]);
        assert_eq!(find("ab"), ["ab"]);
    }

    #[test]
    fn bytes_are_bounded_and_given_back() {
        let one = message("t", None).cost();
        let mut retained = Retained::new(one * 2);
        retained.set(message("t", None)).expect("room");
        retained.set(message("t", None)).expect("replaced");
        retained.set(message("u", Some(Millis(5)))).expect("room");
        assert_eq!(retained.set(message("v", None)), Err(Full));
        assert_eq!(retained.sweep(Millis(5)), vec![Arc::from("u")]);
        retained.set(message("v", None)).expect("room again");
        assert!(retained.clear("v") && !retained.clear("v"));
    }
}
