//! The jobs service on the local broker: requests answered, changes notified, timers watched.

use serde_json::Value as Json;

use super::{
    done::{Done, REQUEST},
    keeper::{Keeping, unavailable},
    voice,
};
use crate::{
    bus::{Inbound, LocalMessage, Outcome, Reply},
    clock,
    model::{
        command::{Refusal, RefusalCode},
        executions::{Answer, Given, Queue, Rejected, notify, notify_next},
        ids::DeviceId,
        time::Millis,
        topic::{ChildTopic, JobsTopic},
    },
    store::{StoreError, executions::Changed},
};

/// How long an execution that has ended can be described, in milliseconds.
const REMEMBERED: i64 = 7 * 86_400_000;

/// Who waits for a change of a queue.
pub(super) enum Asker {
    Device {
        topic: JobsTopic,
        reply: Reply,
    },
    /// `true`: something was changed.
    Gateway(Reply<bool>),
    /// The same twice is one.
    Order(Reply<Json>),
    Timer,
}

impl Asker {
    fn refuse(self, refusal: Refusal) {
        match self {
            Asker::Device { reply, .. } => drop(reply.send(Err(refusal))),
            Asker::Gateway(reply) => drop(reply.send(Err(refusal))),
            Asker::Order(reply) => drop(reply.send(Err(refusal))),
            Asker::Timer => {}
        }
    }
}

/// What a change answered: only a device's request may be rejected.
pub(super) enum Said {
    Answer(Result<Answer, Rejected>),
    Changed(bool),
}

impl Keeping {
    pub async fn jobs_inbound(&mut self, inbound: Inbound) {
        let Inbound { device, topic, payload, at, reply, .. } = inbound;
        let ChildTopic::Jobs(topic) = topic else { return };
        let asked = topic.clone();
        let change = move |queue: &mut Queue| {
            queue.forget(at.plus(-REMEMBERED));
            // A timer that has run out counts before the request that came too late.
            queue.expire(at);
            Said::Answer(queue.request(&asked, &payload, at))
        };
        self.change_executions(device, change, Asker::Device { topic, reply }).await;
    }

    /// Gives a job to a device.
    pub async fn give_job(&mut self, device: DeviceId, given: Given, asker: Asker) {
        if let Err(bad) = given.check() {
            return asker.refuse(Refusal::new(RefusalCode::PayloadInvalid, bad.to_string()));
        }
        let now = clock::now();
        let change = move |queue: &mut Queue| {
            queue.forget(now.plus(-REMEMBERED));
            Said::Changed(queue.give(given, now))
        };
        self.change_executions(device, change, asker).await;
    }

    pub async fn cancel_job(&mut self, device: DeviceId, job_id: String, force: bool, asker: Asker) {
        let now = clock::now();
        let change = move |queue: &mut Queue| Said::Changed(queue.cancel(&job_id, force, now));
        self.change_executions(device, change, asker).await;
    }

    async fn change_executions(
        &mut self,
        device: DeviceId,
        change: impl FnOnce(&mut Queue) -> Said + Send + 'static,
        asker: Asker,
    ) {
        let done = self.begin(REQUEST);
        let of = device.clone();
        let then = move |result| drop(done.send(Done::Jobs { device: of, asker, result }));
        let _ = self.store.change_executions_then(device, change, then).await;
    }

    /// A queue was changed, or could not be.
    pub fn jobs_changed(&mut self, device: &DeviceId, asker: Asker, result: Result<Changed<Said>, StoreError>) {
        let now = clock::now();
        let changed = match result {
            Ok(changed) => changed,
            Err(error) => {
                match asker {
                    Asker::Device { topic, reply } => {
                        let rejected = Rejected::internal(error.to_string());
                        self.say_job(device, &topic, "rejected", &rejected.to_json(now));
                        let _ = reply.send(Err(unavailable(&error)));
                    }
                    asker @ (Asker::Gateway(_) | Asker::Order(_)) => asker.refuse(unavailable(&error)),
                    Asker::Timer => tracing::warn!(%device, %error, "a job that ran out of time could not be ended"),
                }
                return;
            }
        };
        match (asker, changed.result) {
            (Asker::Device { topic, reply }, Said::Answer(answer)) => {
                match answer {
                    Ok(answer) => self.say_job(device, &topic, "accepted", &answer),
                    Err(rejected) => self.say_job(device, &topic, "rejected", &rejected.to_json(now)),
                }
                let _ = reply.send(Ok(()));
            }
            (Asker::Gateway(reply), Said::Changed(changed)) => drop(reply.send(Ok(changed))),
            (Asker::Order(reply), Said::Changed(changed)) => {
                drop(reply.send(Ok(serde_json::json!({ "changed": changed }))));
            }
            _ => {}
        }
        let after = changed.queue.seen();
        if changed.before.list_changed(&after) {
            let payload = notify(&changed.queue, now).to_string();
            self.voice.say(LocalMessage::new(voice::jobs(device, "notify"), payload));
        }
        if changed.before.next_changed(&after) {
            let payload = notify_next(&changed.queue, now).to_string();
            self.voice.say(LocalMessage::new(voice::jobs(device, "notify-next"), payload));
        }
        for ended in changed.queue.ended.iter() {
            self.tell_outcome(Outcome::Execution { device: device.clone(), execution: Box::new(ended.clone()) });
        }
        if let Some(end) = changed.queue.next_end() {
            self.next_timer = Some(self.next_timer.map_or(end, |next| next.min(end)));
        }
    }

    fn say_job(&self, device: &DeviceId, topic: &JobsTopic, word: &str, payload: &Json) {
        let asked = voice::heard(device, &ChildTopic::Jobs(topic.clone()));
        self.voice.say(LocalMessage::new(format!("{asked}/{word}"), payload.to_string()));
    }

    /// Once a second: timers that have run out.
    pub fn job_timers(&mut self, now: Millis) {
        if self.next_timer.is_none_or(|next| next > now) {
            return;
        }
        self.next_timer = None;
        let (store, done) = (self.store.clone(), self.loose_end());
        self.tasks.spawn("timers of jobs", async move {
            // After a failure it is tried again in a minute.
            let over = store.executions_over(now).await.unwrap_or((Vec::new(), Some(now.plus(60_000))));
            let _ = done.send(Done::JobsOver { devices: over.0, next: over.1 });
        });
    }

    pub async fn jobs_over(&mut self, devices: Vec<DeviceId>, next: Option<Millis>) {
        self.next_timer = self.next_timer.into_iter().chain(next).min();
        for device in devices {
            let now = clock::now();
            let change = move |queue: &mut Queue| {
                queue.expire(now);
                Said::Changed(true)
            };
            self.change_executions(device, change, Asker::Timer).await;
        }
    }
}
