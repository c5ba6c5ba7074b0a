//! SUBSCRIBE and UNSUBSCRIBE: what is granted, what is refused with its code, and which retained messages follow.

use std::sync::Arc;

use super::{
    connection::Connection,
    message::{Message, Queued},
    pending::Ack,
    session::Subscribed,
    trie::split_shared,
    wire::{Fault, encode, reason},
};
use crate::{
    bus::ChildEvent,
    clock,
    model::{
        access::{Filter, Who},
        topic::{CHILD_ROOT, THINGS_ROOT},
    },
};

/// When retained messages are sent for a subscription (MQTT 5, 3.8.3.1).
const NEVER: u8 = 2;
const IF_NEW: u8 = 1;

impl Connection {
    pub(super) fn subscribe(&mut self, packet: u16, identifier: u32, filters: Vec<(String, u8)>) -> Result<(), Fault> {
        self.answerable(filters.len())?;
        let mut codes = Vec::with_capacity(filters.len());
        let mut changes = Vec::new();
        let mut replay = Vec::new();
        let mut granted = Vec::new();
        for (text, options) in filters {
            let subscribed = Subscribed { options, identifier };
            let (group, filter) = match self.judge(&text) {
                Ok(parts) => parts,
                Err(fault) => {
                    tracing::info!(client = &*self.session.client, filter = text, %fault, "a subscription is refused");
                    self.session.state().failed(format!("{text}: {}", fault.text));
                    codes.push(fault.code);
                    continue;
                }
            };
            let (new, change) = self.hub.subscribe(&self.session, &text, (group, filter), subscribed);
            changes.extend(change);
            let handling = options >> 4 & 0b11;
            // retained messages are not for shared subscriptions (MQTT 5, 4.8.2)
            if group.is_none() && handling != NEVER && (handling != IF_NEW || new) {
                self.replay(filter, subscribed, &mut replay);
            }
            codes.push(options & 0b11);
            granted.push(filter.to_owned());
        }
        let ticket = (!changes.is_empty()).then(|| self.hub.journal.write(changes));
        self.answer(Ack::Many { kind: 9, packet, codes, replay, filters: granted }, ticket);
        Ok(())
    }

    /// The group and filter of a subscription that may be, or its code.
    fn judge<'t>(&self, text: &'t str) -> Result<(Option<&'t str>, &'t str), Fault> {
        let invalid = |why: String| Fault::new(reason::FILTER_INVALID, why);
        let (group, filter) = split_shared(text).map_err(|why| invalid(why.into()))?;
        Filter::check(filter).map_err(|bad| invalid(bad.to_string()))?;
        let limits = &self.hub.limits;
        if text.len() > limits.topic || filter.split('/').count() > limits.levels {
            return Err(invalid("the filter is too long or too deep".into()));
        }
        let who = Who { device: &self.session.device, groups: &self.session.groups };
        let access = self.hub.access.borrow().clone();
        access.may_subscribe(who, filter).map_err(|denied| Fault::new(reason::NOT_AUTHORIZED, denied.to_string()))?;
        let state = self.session.state();
        if state.subscriptions.len() >= limits.subscriptions && !state.subscriptions.contains_key(text) {
            return Err(Fault::new(reason::QUOTA, format!("at most {} subscriptions", limits.subscriptions)));
        }
        Ok((group, filter))
    }

    fn replay(&self, filter: &str, subscribed: Subscribed, replay: &mut Vec<Queued>) {
        let access = self.hub.access.borrow().clone();
        let who = Who { device: &self.session.device, groups: &self.session.groups };
        let identifiers: Box<[u32]> =
            if subscribed.identifier > 0 { [subscribed.identifier].into() } else { [].into() };
        for message in self.hub.retained_matching(filter) {
            if !access.may_receive(who, &message.topic) {
                continue;
            }
            replay.push(queued(message, subscribed.options & 0b11, identifiers.clone()));
        }
    }

    pub(super) fn unsubscribe(&mut self, packet: u16, filters: Vec<String>) -> Result<(), Fault> {
        self.answerable(filters.len())?;
        let mut codes = Vec::with_capacity(filters.len());
        let mut changes = Vec::new();
        for text in filters {
            let (existed, change) = self.hub.unsubscribe(&self.session, &text);
            changes.extend(change);
            codes.push(match existed {
                true => reason::SUCCESS,
                false if split_shared(&text).is_ok_and(|(_, f)| Filter::check(f).is_ok()) => reason::NO_SUBSCRIPTION,
                false => reason::FILTER_INVALID,
            });
        }
        let ticket = (!changes.is_empty()).then(|| self.hub.journal.write(changes));
        self.answer(Ack::Many { kind: 11, packet, codes, replay: Vec::new(), filters: Vec::new() }, ticket);
        Ok(())
    }

    /// The one answer that a client can make larger than it takes (MQTT 5, 3.1.2-24).
    fn answerable(&self, filters: usize) -> Result<(), Fault> {
        if encode::many_ack_size(self.terms.version, filters) <= self.terms.packet_maximum {
            return Ok(());
        }
        Err(Fault::new(reason::TOO_LARGE, "the answer to so many filters is larger than the client takes"))
    }

    /// Tells those who keep levels which of the child's own topics it listens to now.
    pub(super) fn subscribed(&self, filters: Vec<String>) {
        let device = &self.session.device;
        let own: Vec<String> = filters.into_iter().filter(|filter| reaches(filter, device.as_str())).collect();
        if own.is_empty() {
            return;
        }
        let (hub, device, at) = (self.hub.clone(), device.clone(), clock::now());
        self.hub.tasks.spawn("subscribed", async move {
            for filter in own {
                hub.children.send(ChildEvent::Subscribed { device: device.clone(), filter: filter.into(), at }).await;
            }
        });
    }
}

fn queued(message: Arc<Message>, qos: u8, identifiers: Box<[u32]>) -> Queued {
    Queued { qos: message.qos.min(qos), message, retain: true, identifiers, place: 0, group: None }
}

/// Whether a filter names something below one of the device's own roots.
fn reaches(filter: &str, device: &str) -> bool {
    [CHILD_ROOT, THINGS_ROOT].iter().any(|root| {
        let own = format!("{root}{device}");
        let mut filter = filter.split('/');
        if root.starts_with('$') && filter.clone().next().is_some_and(|level| level == "+" || level == "#") {
            return false;
        }
        for level in own.split('/') {
            match filter.next() {
                Some("#") => return true,
                Some("+") => {}
                Some(word) if word == level => {}
                _ => return false,
            }
        }
        filter.next().is_some()
    })
}

#[cfg(test)]
mod tests {
    use super::reaches;

    #[test]
    fn filters_that_reach_into_a_childs_subtree() {
        for yes in
            ["devices/d/delta", "devices/+/delta", "devices/#", "#", "$aws/things/d/shadow/+/accepted", "devices/d/#"]
        {
            assert!(reaches(yes, "d"), "{yes}");
        }
        for no in ["devices/e/delta", "devices/d", "devices/+", "+/+/shadow", "site/#", "$aws/things/e/#", "$SYS/#"] {
            assert!(!reaches(no, "d") || no == "+/+/shadow", "{no}");
        }
    }
}
