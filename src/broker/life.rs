//! Sessions from birth to end: attaching a connection, take-over, being away, expiry, wills, and loading after a restart.

use std::{
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

use tokio::sync::{OwnedMutexGuard, watch};

use super::{
    hub::Hub,
    journal::Ticket,
    session::{Control, Live, Session, Subscribed},
    trie::{Entry, split_shared},
    wills::{Speaker, Testament, will_change},
    wire::{Fault, Will, reason},
};
use crate::{
    bus::ChildEvent,
    clock,
    model::{access::Who, command::Door, ids::DeviceId, view::Connection},
    store::sessions::SessionChange,
};

/// How long a newcomer waits for the connection before it to let go of the session.
const LET_GO: Duration = Duration::from_secs(10);
/// How often expiry and delayed wills are looked at.
const TICK: Duration = Duration::from_millis(250);

/// A session in the hands of one connection.
pub struct Attached {
    pub session: Arc<Session>,
    /// It was there before.
    pub present: bool,
    pub control: watch::Receiver<Control>,
    /// The control's state that this connection starts from.
    pub begun: Control,
    _gate: OwnedMutexGuard<()>,
}

/// What a CONNECT asks of a session.
pub struct Wanted {
    pub client: Arc<str>,
    /// The broker made the client id up.
    pub assigned: bool,
    pub device: DeviceId,
    pub groups: Vec<String>,
    pub clean: bool,
    /// Seconds.
    pub expiry: u32,
    pub window: u16,
    pub will: Option<Will>,
    pub live: Live,
}

/// How a connection ended, as far as the session is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// The client said goodbye with 0x00: no will.
    pub graceful: bool,
    pub reason: String,
    /// Not a normal end: kept for people.
    pub error: bool,
}

impl Hub {
    /// Finds or makes the session, takes it over from a connection that has it, and makes it live.
    pub async fn attach(self: &Arc<Self>, wanted: Wanted) -> Result<Attached, Fault> {
        loop {
            let (session, made) = {
                let mut sessions = self.sessions();
                match sessions.get(&wanted.client) {
                    Some(session) => (session.clone(), None),
                    None => {
                        let (client, device) = (wanted.client.clone(), wanted.device.clone());
                        let session = Arc::new(Session::new(self.key(), client, device, wanted.groups.clone()));
                        let trouble = self.past().take(&session.client);
                        {
                            let mut state = session.state();
                            state.trouble = trouble;
                            state.assigned = wanted.assigned;
                        }
                        let gate = session.gate.clone().try_lock_owned().ok();
                        sessions.insert(wanted.client.clone(), session.clone());
                        (session, gate)
                    }
                }
            };
            if session.device != wanted.device {
                return Err(Fault::new(reason::CLIENT_ID, "this client id belongs to another identity"));
            }
            let mut mine = 0;
            session.control.send_modify(|control| {
                control.newest += 1;
                mine = control.newest;
            });
            let created = made.is_some();
            let gate = match made {
                Some(gate) => gate,
                None => match tokio::time::timeout(LET_GO, session.gate.clone().lock_owned()).await {
                    Ok(gate) => gate,
                    Err(_) => return Err(Fault::new(reason::BUSY, "the connection before this one does not let go")),
                },
            };
            if session.state().ended {
                continue;
            }
            // Groups may have changed since; a session's rights are those of its newest login.
            // The look at what has expired may be late: what comes back to it must not.
            let over = wanted.clean || session.state().is_over(clock::now());
            if !created && (over || session.groups != wanted.groups) {
                if !over {
                    self.regroup(&session, &wanted.groups);
                } else {
                    self.end_session(&session).await;
                }
                continue;
            }
            let control = session.control.subscribe();
            let begun = Control { newest: mine, ..control.borrow().clone() };
            let will = wanted.will.map(|will| Testament { will, place: self.place() });
            let taken_back = {
                let mut state = session.state();
                session.connected.store(true, Ordering::Relaxed);
                state.live = Some(wanted.live);
                state.away_since = None;
                state.expiry = wanted.expiry;
                state.window = wanted.window;
                state.will = will.clone();
                state.parked.take()
            };
            let forgotten = taken_back.map(|(testament, _)| SessionChange::NoWill { place: testament.place });
            self.journal.note(forgotten.into_iter().chain(will.map(|will| will_change(&session, &will, None))));
            if let Some(ticket) = self.keep(&session).filter(|_| created) {
                // A session is on disk before it is promised. A disk that refuses must not shut the door.
                drop(ticket.await);
            }
            if !created {
                self.recheck(&session);
            }
            return Ok(Attached { session, present: !created, control, begun, _gate: gate });
        }
    }

    /// Puts a session with other groups, but everything else, in the place of `session`. The caller holds its gate.
    fn regroup(&self, session: &Arc<Session>, groups: &[String]) {
        let new = Arc::new(Session::new(self.key(), session.client.clone(), session.device.clone(), groups.to_vec()));
        let mut old = session.state();
        let mut trie = self.trie.write().unwrap_or_else(PoisonError::into_inner);
        for (text, subscribed) in &old.subscriptions {
            if let Ok((group, filter)) = split_shared(text) {
                trie.remove(filter, group, session.key);
                trie.insert(filter, group, entry(&new, *subscribed));
            }
        }
        *new.state() = std::mem::take(&mut *old);
        old.ended = true;
        drop(trie);
        self.sessions().insert(session.client.clone(), new);
    }

    /// Notes the session itself, where it outlives its connection.
    fn keep(&self, session: &Session) -> Option<Ticket> {
        let mut state = session.state();
        if state.stored && !state.persistent() {
            state.stored = false;
            self.journal.note([SessionChange::End { client: session.client.to_string() }]);
        }
        if !state.persistent() {
            return None;
        }
        state.stored = true;
        Some(self.journal.write([SessionChange::Session {
            client: session.client.to_string(),
            device: session.device.to_string(),
            groups: session.groups.clone(),
            expiry: state.expiry,
            away_since: state.away_since,
        }]))
    }

    /// Takes back subscriptions that the rules no longer allow.
    pub fn recheck(&self, session: &Arc<Session>) {
        let access = self.access.borrow().clone();
        let who = Who { device: &session.device, groups: &session.groups };
        let filters: Vec<String> = session.state().subscriptions.keys().cloned().collect();
        for text in filters {
            let allowed = split_shared(&text).is_ok_and(|(_, filter)| access.may_subscribe(who, filter).is_ok());
            if !allowed {
                tracing::warn!(
                    client = &*session.client,
                    filter = text,
                    "a subscription is no longer granted and ends"
                );
                let (_, change) = self.unsubscribe(session, &text);
                self.journal.note(change);
            }
        }
    }

    /// The connection is gone: the session waits, or ends; the will is said, or waits.
    pub async fn detach(self: &Arc<Self>, attached: Attached, ending: Ending) {
        let session = &attached.session;
        let now = clock::now();
        let (will, ends) = {
            let mut state = session.state();
            session.connected.store(false, Ordering::Relaxed);
            let mut will = state.will.take();
            if ending.graceful
                && let Some(testament) = will.take()
            {
                self.journal.note([SessionChange::NoWill { place: testament.place }]);
            }
            if ending.error {
                state.failed(ending.reason.clone());
            }
            state.detach(now, &self.budget);
            let ends = state.expiry == 0;
            match will {
                Some(testament) if testament.will.delay > 0 && !ends => {
                    let at = now.plus(i64::from(testament.will.delay).saturating_mul(1000));
                    self.journal.note([will_change(session, &testament, Some(at))]);
                    state.parked = Some((testament, at));
                    (None, ends)
                }
                will => (will, ends),
            }
        };
        drop(self.keep(session));
        if let Some(will) = will {
            self.say_will(&Speaker::of(session), will);
        }
        if ends {
            self.end_session(session).await;
        }
        if self.left(&session.device) {
            let event = ChildEvent::Disconnected { device: session.device.clone(), reason: ending.reason, at: now };
            self.children.send(event).await;
        }
    }

    /// Counts a connection of `device`.
    pub fn arrived(&self, device: &DeviceId) {
        *self.present.lock().unwrap_or_else(PoisonError::into_inner).entry(device.clone()).or_insert(0) += 1;
    }

    /// Whether that was the device's last connection.
    fn left(&self, device: &DeviceId) -> bool {
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(count) = present.get_mut(device) else { return true };
        *count -= 1;
        let last = *count == 0;
        if last {
            present.remove(device);
        }
        last
    }

    /// Everything of the session ends; a will that waited is said now (MQTT 5, 3.1.3.2.2).
    pub async fn end_session(self: &Arc<Self>, session: &Arc<Session>) {
        let row = super::status::row(session);
        let (stored, subscriptions, will, queue) = {
            let mut state = session.state();
            if !state.ended && !state.trouble.is_none() {
                // made-up client ids never come back: they share a row
                let client_id = if state.assigned { format!("{}/…", session.device) } else { row.client_id.clone() };
                let row = Connection { client_id, ..row };
                self.past().remember(row, std::mem::take(&mut state.trouble), clock::now());
            }
            let subscriptions = std::mem::take(&mut state.subscriptions);
            let will = state.parked.take().map(|(will, _)| will);
            (std::mem::take(&mut state.stored), subscriptions, will, state.end(&self.budget))
        };
        {
            let mut trie = self.trie.write().unwrap_or_else(PoisonError::into_inner);
            for text in subscriptions.keys() {
                if let Ok((group, filter)) = split_shared(text) {
                    trie.remove(filter, group, session.key);
                }
            }
        }
        {
            let mut sessions = self.sessions();
            if sessions.get(&session.client).is_some_and(|found| found.key == session.key) {
                sessions.remove(&session.client);
            }
        }
        if stored {
            self.journal.note([SessionChange::End { client: session.client.to_string() }]);
        }
        queue.into_iter().for_each(|left| self.pass_on(left));
        if let Some(will) = will {
            self.say_will(&Speaker::of(session), will);
        }
    }

    /// Looks after sessions that have no connection, until stopped.
    pub async fn look_after(self: Arc<Self>) {
        let stop = self.tasks.stopping();
        let mut ticks = 0_u64;
        loop {
            tokio::select! {
                () = tokio::time::sleep(TICK) => {}
                () = stop.cancelled() => return,
            }
            ticks += 1;
            let second = ticks.is_multiple_of(4);
            let now = clock::now();
            for session in self.all_sessions() {
                let (due, over, stands) = {
                    let mut state = session.state();
                    if second && state.live.is_some() {
                        state.sample(&session.counters, 1.0);
                    }
                    let due = state.parked.as_ref().is_some_and(|(_, at)| *at <= now);
                    let due = if due { state.parked.take() } else { None };
                    let over = state.is_over(now);
                    let expires = state.live.as_ref().and_then(|live| live.principal.as_ref()).and_then(|p| p.expires);
                    (due, over, expires.is_none_or(|at| at > now))
                };
                if let Some((will, _)) = due {
                    self.say_will(&Speaker::of(&session), will);
                }
                if !stands {
                    session.kick(reason::NOT_AUTHORIZED, "the credential has run out");
                }
                // A newcomer that holds the gate decides itself.
                if over && let Ok(_gate) = session.gate.clone().try_lock_owned() {
                    self.end_session(&session).await;
                }
            }
            if second {
                let gone = self.retained.write().unwrap_or_else(PoisonError::into_inner).sweep(now);
                self.journal.note(gone.iter().map(|topic| SessionChange::Forget { topic: topic.to_string() }));
            }
        }
    }
}

/// Through which door a message for `device` came when `from` said it.
pub fn door(from: &DeviceId, device: &DeviceId) -> Door {
    if from == device { Door::Device } else { Door::Local(from.clone()) }
}

pub fn entry(session: &Arc<Session>, subscribed: Subscribed) -> Entry<Arc<Session>> {
    Entry { key: session.key, session: session.clone(), options: subscribed.options, identifier: subscribed.identifier }
}
