//! The task around the plans: takes orders, hears outcomes, writes what changed, and only then places orders.

use std::{collections::HashMap, sync::Arc, time::Duration};

use jiff::tz::TimeZone;
use serde_json::{Value as Json, json};
use tokio::{
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use super::{
    definition::{Definition, Work},
    plan::{Ended, Plan, Reach},
    words::{order_for, said, status_record},
};
use crate::{
    bus::{Order, OrderKind, Orders, Outcome, Question, Questions},
    clock,
    model::{
        command::{CommandStatus, Door, Refusal, RefusalCode},
        device::{Device, Presence},
        executions::Status,
        ids::DeviceId,
        jobs::{Job, JobControl, JobOrder, JobState, JobStatus, Target, TargetStatus},
        update::{ChildUpdate, Stage, UpdateStatus},
    },
    store::Store,
    tasks::Tasks,
};

/// How often time is looked at while a job is open.
const BEAT: Duration = Duration::from_secs(1);
/// Jobs open at a time.
const MOST_OPEN: usize = 50;

/// An order was accepted by its room, or was not.
type Placed = (DeviceId, String, Result<Json, Refusal>);

pub struct Engine {
    gateway: DeviceId,
    plans: Vec<Plan>,
    /// Written and not placed yet, with the attempts they belong to.
    to_place: Vec<(DeviceId, String, OrderKind)>,
    out: Orders,
    questions: Questions,
    store: Store,
    publish: watch::Sender<Arc<Vec<Job>>>,
    zone: TimeZone,
    tasks: Tasks,
    placed: (mpsc::Sender<Placed>, mpsc::Receiver<Placed>),
}

impl Engine {
    pub fn new(
        gateway: DeviceId,
        jobs: Vec<Job>,
        out: Orders,
        questions: Questions,
        store: Store,
        publish: watch::Sender<Arc<Vec<Job>>>,
        tasks: Tasks,
    ) -> Self {
        let mut plans = Vec::new();
        let mut to_place = Vec::new();
        for job in jobs {
            match Definition::read(&job.order) {
                Ok(definition) => {
                    let plan = Plan::new(definition, job, false);
                    // Whether these were placed before the end is not known: each room knows an order it has had.
                    let withdrawn =
                        matches!(plan.definition.work, Work::Document(_)) && plan.job.state.status.is_final();
                    let again = plan.in_progress().filter(|_| !withdrawn);
                    to_place.extend(again.map(|target| placing(&plan, target)));
                    plans.push(plan);
                }
                Err(error) => tracing::error!(job = job.order.job_id, %error, "a stored job is not understood"),
            }
        }
        let zone = std::fs::read("/etc/localtime").ok().and_then(|data| TimeZone::tzif("local", &data).ok());
        let zone = zone.unwrap_or(TimeZone::UTC);
        let engine =
            Self { gateway, plans, to_place, out, questions, store, publish, zone, tasks, placed: mpsc::channel(64) };
        engine.show();
        engine
    }

    pub async fn run(
        mut self,
        mut orders: mpsc::Receiver<Order>,
        mut outcomes: mpsc::Receiver<Outcome>,
        mut updates: watch::Receiver<Arc<Vec<ChildUpdate>>>,
        stop: CancellationToken,
    ) {
        let mut beat = interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.place();
        updates.mark_changed();
        let mut open = true;
        loop {
            let busy = self.plans.iter().any(Plan::is_open);
            tokio::select! {
                () = stop.cancelled() => return,
                order = orders.recv() => match order {
                    Some(order) => self.order(order).await,
                    None => return,
                },
                Some(outcome) = outcomes.recv() => self.outcome(outcome),
                Some((device, id, result)) = self.placed.1.recv() => self.was_placed(&device, &id, result),
                changed = updates.changed(), if open => {
                    open = changed.is_ok();
                    let all = updates.borrow_and_update().clone();
                    all.iter().for_each(|update| self.update(update));
                }
                _ = beat.tick(), if busy => {}
            }
            self.advance().await;
        }
    }

    // ---- orders ---------------------------------------------------------------------------------------------------

    async fn order(&mut self, order: Order) {
        let Order { device, what, reply, .. } = order;
        let result = if device != self.gateway {
            Err(Refusal::new(RefusalCode::TopicInvalid, format!("jobs belong to the gateway {}", self.gateway)))
        } else {
            match what {
                OrderKind::Job(job) => self.take(job).await,
                OrderKind::JobControl { job_id, control } => self.control(&job_id, control).await,
                _ => Err(Refusal::new(RefusalCode::Internal, "this order is not for the jobs room")),
            }
        };
        let _ = reply.send(result);
    }

    async fn take(&mut self, order: JobOrder) -> Result<Json, Refusal> {
        if let Some(known) = self.plans.iter().find(|plan| plan.job.order.job_id == order.job_id) {
            if known.job.order != order {
                let text = format!("job {} is known with another definition; give this one another id", order.job_id);
                return Err(Refusal::new(RefusalCode::VersionConflict, text));
            }
            return Ok(json!({"jobId": order.job_id, "status": known.job.state.status, "repeated": true}));
        }
        if self.plans.iter().filter(|plan| plan.is_open()).count() >= MOST_OPEN {
            return Err(Refusal::new(RefusalCode::Busy, format!("{MOST_OPEN} jobs are open; end some of them first")));
        }
        let definition = Definition::read(&order)?;
        let (now, id) = (clock::now(), order.job_id.clone());
        let state = JobState {
            status: JobStatus::Pending,
            chosen: false,
            stage: 0,
            soak_until: None,
            last_order: None,
            reason: None,
            created: now,
            changed: now,
        };
        tracing::info!(job = id, kind = order.kind, "job taken");
        self.plans.push(Plan::new(definition, Job { order, state, targets: Vec::new() }, true));
        let written = self.write(self.plans.len() - 1).await;
        if written.is_err() {
            self.plans.pop();
        }
        self.show();
        written.map(|()| json!({"jobId": id, "status": JobStatus::Pending}))
    }

    async fn control(&mut self, id: &str, word: JobControl) -> Result<Json, Refusal> {
        let Some(index) = self.plans.iter().position(|plan| plan.job.order.job_id == id) else {
            return Err(Refusal::new(RefusalCode::PayloadInvalid, format!("no job is called {id}")));
        };
        self.plans[index].control(word, clock::now())?;
        tracing::info!(job = id, control = ?word, "job controlled");
        self.write(index).await?;
        self.show();
        Ok(json!({"jobId": id, "status": self.plans[index].job.state.status}))
    }

    // ---- outcomes -------------------------------------------------------------------------------------------------

    fn outcome(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Command { device, response } => {
                let how = match response.status {
                    CommandStatus::Succeeded => Ended::Well,
                    CommandStatus::Failed => Ended::Badly(said(&response.result, "the device failed to do it")),
                    CommandStatus::Rejected => Ended::ForGood(said(&response.result, "the device rejected it")),
                };
                self.ended(&device, &response.command_id, how);
            }
            Outcome::Config { device, version, applied, reason } => {
                let how = if applied {
                    Ended::Well
                } else {
                    Ended::ForGood(reason.unwrap_or_else(|| "the device rejected it".into()))
                };
                for plan in &mut self.plans {
                    if matches!(&plan.definition.work, Work::Config { version: wanted, .. } if *wanted == version) {
                        let id = plan.in_progress().find(|t| t.device == device).map(|t| plan.attempt_id(t));
                        id.map(|id| plan.ended(&device, &id, how.clone(), clock::now()));
                    }
                }
            }
            Outcome::Update { device, progress } => {
                let how = match progress.status {
                    UpdateStatus::Completed => Ended::Well,
                    UpdateStatus::Failed => Ended::Badly(progress.error.unwrap_or_else(|| "the update failed".into())),
                    UpdateStatus::RolledBack => Ended::ForGood("the device went back to its old firmware".into()),
                    _ => return,
                };
                if let Some(id) = progress.job_id {
                    self.ended(&device, &id, how);
                }
            }
            Outcome::Execution { device, execution } => {
                let how = match execution.status {
                    Status::Succeeded => Ended::Well,
                    Status::Rejected => Ended::ForGood("the device rejected it".into()),
                    Status::Canceled | Status::Removed => Ended::Withdrawn,
                    Status::TimedOut => Ended::Badly("the device did not finish in time".into()),
                    _ => Ended::Badly("the device failed to do it".into()),
                };
                self.ended(&device, &execution.job_id, how);
            }
            Outcome::Diagnostics { device, request_id, error } => {
                self.ended(&device, &request_id, error.map_or(Ended::Well, Ended::Badly));
            }
        }
    }

    /// The level of one child's update: heard again after a restart, and after every change.
    fn update(&mut self, update: &ChildUpdate) {
        let error = || update.error.clone().unwrap_or_else(|| format!("the update ended as {}", update.stage.word()));
        let how = match update.stage {
            Stage::Completed => Ended::Well,
            Stage::RolledBack => Ended::ForGood(error()),
            Stage::Failed | Stage::Cancelled | Stage::Superseded => Ended::Badly(error()),
            Stage::Waiting | Stage::Fetching | Stage::Offered | Stage::Installing => return,
        };
        self.ended(&update.device, &update.order.job_id, how);
    }

    fn was_placed(&mut self, device: &DeviceId, id: &str, result: Result<Json, Refusal>) {
        use RefusalCode::{Busy, Internal, StoreUnavailable};
        if let Err(refusal) = result {
            let how = match refusal.code {
                Busy | StoreUnavailable | Internal => Ended::Badly(refusal.message),
                _ => Ended::ForGood(refusal.message),
            };
            self.ended(device, id, how);
        }
    }

    fn ended(&mut self, device: &DeviceId, id: &str, how: Ended) {
        let now = clock::now();
        self.plans.iter_mut().any(|plan| plan.ended(device, id, how.clone(), now));
    }

    // ---- moving on ------------------------------------------------------------------------------------------------

    async fn advance(&mut self) {
        let now = clock::now();
        let asks = |plan: &Plan| {
            let queued = plan.job.targets.iter().any(|target| target.status == TargetStatus::Queued);
            plan.wants_targets(now) || (queued && plan.job.state.status == JobStatus::Running)
        };
        let devices = if self.plans.iter().any(asks) { self.devices().await } else { Some(HashMap::new()) };
        if let Some(devices) = devices {
            for plan in &mut self.plans {
                if plan.wants_targets(now) {
                    let mut matching: Vec<&Device> = devices.values().collect();
                    matching.retain(|device| plan.definition.filter.matches(device) && !is_gone(device));
                    matching.sort_by(|a, b| a.id.cmp(&b.id));
                    plan.choose(matching.into_iter().map(|device| device.id.clone()), now);
                }
                let in_window = plan.definition.window.as_ref().is_none_or(|window| window.contains(now, &self.zone));
                for target in plan.advance(now, in_window, |id| reach(devices.get(id))) {
                    self.to_place.push(placing(plan, &target));
                }
            }
        }
        let (mut good, mut changed) = (true, false);
        for index in 0..self.plans.len() {
            if let Some(targets) = self.plans[index].take_changes() {
                changed = true;
                good &= self.save(index, targets).await.is_ok();
            }
            let given_up = self.plans[index].take_given_up().into_iter();
            self.to_place.extend(given_up.map(|(device, id)| {
                let withdraw = OrderKind::Withdraw { job_id: id.clone() };
                (device, id, withdraw)
            }));
        }
        if changed {
            self.show();
        }
        if good {
            self.place();
        }
    }

    async fn devices(&self) -> Option<HashMap<DeviceId, Device>> {
        let rows = self.questions.ask(Question::Devices).await.ok()?;
        Some(rows.into_iter().map(|row| (row.device.id.clone(), row.device)).collect())
    }

    /// Hands the orders to their rooms, beside this task: a room may be waiting for this one to hear an outcome.
    fn place(&mut self) {
        for (device, id, what) in self.to_place.drain(..) {
            let (out, tell, stop) = (self.out.clone(), self.placed.0.clone(), self.tasks.stopping());
            let withdrawn = matches!(what, OrderKind::Withdraw { .. });
            self.tasks.spawn("job order", async move {
                let placing = out.place(device.clone(), Door::Cloud, what);
                match stop.run_until_cancelled(placing).await {
                    None => {}
                    // Its end, if it is one, is an outcome.
                    Some(Ok(_)) if withdrawn => {}
                    Some(Err(error)) if withdrawn => tracing::warn!(%device, job = id, %error, "not withdrawn"),
                    Some(result) => drop(tell.send((device, id, result)).await),
                }
            });
        }
    }

    async fn write(&mut self, index: usize) -> Result<(), Refusal> {
        match self.plans[index].take_changes() {
            Some(targets) => self.save(index, targets).await,
            None => Ok(()),
        }
    }

    async fn save(&mut self, index: usize, targets: Vec<(usize, Target)>) -> Result<(), Refusal> {
        let plan = &self.plans[index];
        let record = status_record(&self.gateway, &plan.job);
        let saved = self.store.save_job(&plan.job, targets.clone(), vec![record]).await;
        saved.map_err(|error| {
            tracing::warn!(job = self.plans[index].job.order.job_id, %error, "job not written; tried again");
            self.plans[index].not_written(targets);
            Refusal::new(RefusalCode::StoreUnavailable, error.to_string())
        })
    }

    fn show(&self) {
        self.publish.send_replace(Arc::new(self.plans.iter().map(|plan| plan.job.clone()).collect()));
    }
}

/// The order for an attempt that is in progress.
fn placing(plan: &Plan, target: &Target) -> (DeviceId, String, OrderKind) {
    let id = plan.attempt_id(target);
    let order = order_for(plan.definition.work.clone(), target, &id);
    (target.device.clone(), id, order)
}

fn is_gone(device: &Device) -> bool {
    device.lifecycle == crate::model::device::Lifecycle::Decommissioned
}

fn reach(device: Option<&Device>) -> Reach {
    match device {
        None => Reach::Never("the device is no longer registered".into()),
        Some(device) if !device.lifecycle.may_talk() => {
            Reach::Never(format!("the device is {:?}", device.lifecycle).to_lowercase())
        }
        Some(device) => match device.presence {
            Presence::Online | Presence::Late => Reach::Now,
            Presence::Offline | Presence::NeverSeen => Reach::Later,
        },
    }
}
