//! Desired values for devices behind a driver: written, awaited as read-backs, refused with a reason that can be seen.
//!
//! The reasons live in the named shadow `headgate` of the device, under reported `problems`; locks beside them. So they
//! survive restarts, have a history and travel wherever shadows travel.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Map, Value as Json, json};
use tokio::sync::oneshot;

use super::{
    done::{Done, Purpose},
    keeper::Keeping,
    shadows::Source,
    voice,
};
use crate::{
    bus::ToDriver,
    clock,
    model::{
        command::{Door, Lock, Refusal, RefusalCode},
        ids::DeviceId,
        record::{Kind, NewRecord},
        shadow::{Document, OWN_SHADOW, Request},
        time::Millis,
    },
    store::{StoreError, shadows::How},
};

/// What the keeper holds of the `headgate` shadow of a device.
#[derive(Debug, Default)]
pub(super) struct Remarks {
    /// False until the shadow was read once.
    pub loaded: bool,
    pub problems: BTreeMap<String, Json>,
    pub locks: BTreeMap<String, Lock>,
    /// Locks put on or taken off that the shadow does not tell yet: a read that was under way knows nothing of them.
    fresh: BTreeMap<String, Option<Lock>>,
}

impl Remarks {
    /// As the shadow tells it, and whatever was said since.
    fn read(document: Option<&Document>, mut fresh: BTreeMap<String, Option<Lock>>) -> Remarks {
        let reported = document.map(Document::reported).unwrap_or_default();
        let member = |name: &str| reported.get(name).and_then(Json::as_object).cloned().unwrap_or_default();
        let told =
            member("locks").into_iter().filter_map(|(name, lock)| Some((name, serde_json::from_value(lock).ok()?)));
        let mut locks: BTreeMap<String, Lock> = told.collect();
        fresh.retain(|name, lock| locks.get(name) != lock.as_ref());
        for (name, lock) in &fresh {
            match lock {
                Some(lock) => drop(locks.insert(name.clone(), lock.clone())),
                None => drop(locks.remove(name)),
            }
        }
        Remarks { loaded: true, problems: member("problems").into_iter().collect(), locks, fresh }
    }
}

impl Keeping {
    /// Writes what is outstanding and due, if the device has a driver and may be reached.
    pub fn pursue(&mut self, device: &DeviceId, delta: Map<String, Json>) {
        let now = clock::now();
        let done = self.loose_end();
        let Some(child) = self.children.get_mut(device) else { return };
        child.outstanding = delta;
        let Some(driver) = child.driver.clone() else { return };
        if !child.remarks.loaded || child.pursuit.writing {
            return;
        }
        if child.reachable != Some(false) {
            let values = child.pursuit.plan(&child.outstanding, &child.remarks.locks, now);
            if !values.is_empty() {
                let (reply, answer) = oneshot::channel();
                let write = ToDriver::Write { device: device.clone(), values: values.clone(), reply };
                child.pursuit.writing = true;
                let of = device.clone();
                match driver.try_send(write) {
                    Ok(()) => self.aside_task("write to a device", async move {
                        let gone = || Refusal::new(RefusalCode::Busy, "the driver was stopped");
                        let refused = answer.await.unwrap_or_else(|_| Err(gone()));
                        let _ = done.send(Done::Written { device: of, values, refused });
                    }),
                    Err(_) => {
                        let busy = Err(Refusal::new(RefusalCode::Busy, "the driver has too much to do"));
                        child.pursuit.ended(&values, busy, now);
                    }
                }
            }
        } else {
            // Nothing is tried while it is away, but what is no longer wanted is no problem any more.
            child.pursuit.forget(&child.outstanding);
        }
        self.remark(device);
    }

    /// A driver has answered a write.
    pub fn written(
        &mut self,
        device: DeviceId,
        values: Map<String, Json>,
        refused: Result<Vec<(String, Refusal)>, Refusal>,
    ) {
        let Some(child) = self.children.get_mut(&device) else { return };
        child.pursuit.ended(&values, refused, clock::now());
        self.remark(&device);
        let Some(child) = self.children.get(&device) else { return };
        let delta = child.outstanding.clone();
        self.pursue(&device, delta);
    }

    /// Brings the `problems` of the `headgate` shadow up to date, and tells of new ones.
    fn remark(&mut self, device: &DeviceId) {
        let now = clock::now();
        let Some(child) = self.children.get_mut(device).filter(|child| child.remarks.loaded) else { return };
        let problems = child.pursuit.problems();
        let mut patch = Map::new();
        let mut news = Vec::new();
        for (name, (value, refusal)) in &problems {
            let known = child.remarks.problems.get(*name);
            let same = known.is_some_and(|known| known["message"] == refusal.message && known["value"] == **value);
            if !same {
                let problem = json!({ "code": refusal.code, "message": refusal.message, "value": value, "at": now });
                patch.insert((*name).to_owned(), problem);
                news.push(((*name).to_owned(), (*value).clone(), (*refusal).clone()));
            }
        }
        let over: Vec<String> =
            child.remarks.problems.keys().filter(|name| !problems.contains_key(name.as_str())).cloned().collect();
        // While the device is away, its problems are not judged anew.
        for name in over {
            if child.reachable == Some(false) && child.outstanding.contains_key(&name) {
                continue;
            }
            child.remarks.problems.remove(&name);
            patch.insert(name, Json::Null);
        }
        if patch.is_empty() {
            return;
        }
        for (name, problem) in patch.iter().filter(|(_, problem)| !problem.is_null()) {
            child.remarks.problems.insert(name.clone(), problem.clone());
        }
        for (name, value, refusal) in news {
            let told = Refusal::new(refusal.code, format!("{name} = {value}: {}", refusal.message));
            self.voice.error(device, &voice::child(device, "delta"), &told, now);
            let body = json!({ "type": "desired-refused", "name": name, "value": value, "code": refusal.code, "message": refusal.message });
            self.aside.push(NewRecord {
                device: device.clone(),
                kind: Kind::Event,
                name: None,
                ts: now,
                body: body.to_string().into(),
            });
        }
        self.own.push((device.clone(), Map::from_iter([("problems".to_owned(), Json::Object(patch))])));
    }

    /// Writes down what was remarked: the `headgate` shadows and their events.
    pub async fn write_remarks(&mut self) {
        for (device, reported) in std::mem::take(&mut self.own) {
            let how = How { only_changes: true, ..self.how(Door::Gateway, clock::now()) };
            self.update_shadow(device, OWN_SHADOW.into(), Request::reported(reported), how, Source::Gateway).await;
        }
        let records = std::mem::take(&mut self.aside);
        if !records.is_empty() && self.store.append_lazy(records).await.is_err() {
            tracing::error!("the store has stopped; remarks are lost");
        }
    }

    /// The `headgate` shadow was read, or a lock was changed: what it says decides what may be written.
    pub async fn remarks_read(&mut self, device: &DeviceId, result: Result<Option<Arc<Document>>, StoreError>) {
        match result {
            Ok(document) => {
                let remarks = &mut self.child(device).remarks;
                *remarks = Remarks::read(document.as_deref(), std::mem::take(&mut remarks.fresh));
                self.level(device).await;
                self.resend_commands(device);
            }
            Err(error) => tracing::warn!(%device, %error, "the problems and locks of a device could not be read"),
        }
    }

    /// Puts a technician's lock on a desired value, or takes it off.
    pub async fn lock(&mut self, device: DeviceId, member: String, lock: Option<Lock>, door: Door) {
        let child = self.child(&device);
        let value = match &lock {
            Some(lock) => serde_json::to_value(lock).unwrap_or_default(),
            None => Json::Null,
        };
        match lock.clone() {
            Some(lock) => drop(child.remarks.locks.insert(member.clone(), lock)),
            None => drop(child.remarks.locks.remove(&member)),
        }
        child.remarks.fresh.insert(member.clone(), lock);
        child.pursuit.refresh(false, clock::now());
        let reported = Map::from_iter([("locks".to_owned(), json!({ member: value }))]);
        let how = self.how(door, clock::now());
        self.update_shadow(device.clone(), OWN_SHADOW.into(), Request::reported(reported), how, Source::Gateway).await;
        self.read_shadow(device, OWN_SHADOW.into(), Purpose::Remarks).await;
    }

    /// Once a second: attempts that are due, and desired values whose time is over.
    pub async fn pursue_due(&mut self, now: Millis) {
        let due = |child: &super::keeper::Child| {
            child.driver.is_some()
                && child.reachable != Some(false)
                && child.pursuit.next().is_some_and(|next| next <= now)
        };
        let devices: Vec<DeviceId> =
            self.children.iter().filter(|(_, child)| due(child)).map(|(device, _)| device.clone()).collect();
        for device in devices {
            let delta = self.children.get(&device).map(|child| child.outstanding.clone()).unwrap_or_default();
            self.pursue(&device, delta);
        }
        if self.next_expiry.is_some_and(|next| next <= now) {
            self.next_expiry = None;
            let done = self.loose_end();
            let (store, how) = (self.store.clone(), self.how(Door::Gateway, now));
            self.tasks.spawn("desired values that expire", async move {
                let expired = store.expire_desired(how).await;
                let next = store.next_expiry().await;
                let _ = done.send(Done::Expired { expired, next });
            });
        }
    }

    pub async fn expired(
        &mut self,
        expired: Result<Vec<(DeviceId, crate::model::shadow::Outcome)>, StoreError>,
        next: Result<Option<Millis>, StoreError>,
    ) {
        match expired {
            Ok(outcomes) => {
                for (device, outcome) in outcomes {
                    let names: Vec<String> = outcome.changes(32).into_iter().map(|change| change.path).collect();
                    let text = format!("not taken in time and withdrawn: {}", names.join(", "));
                    let refusal = Refusal::new(RefusalCode::Expired, text.clone());
                    self.voice.error(&device, &voice::child(&device, "delta"), &refusal, outcome.at);
                    let body = json!({ "type": "desired-expired", "members": names, "message": text }).to_string();
                    let (ts, kind) = (outcome.at, Kind::Event);
                    self.aside.push(NewRecord { device: device.clone(), kind, name: None, ts, body: body.into() });
                    self.announce(&device, &"".into(), &outcome, false).await;
                }
            }
            Err(error) => tracing::warn!(%error, "desired values whose time is over could not be withdrawn"),
        }
        // After a failure it is tried again in a minute.
        self.next_expiry = next.unwrap_or_else(|_| Some(clock::now().plus(60_000)));
    }
}
