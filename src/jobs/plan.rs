//! What a job does next: a pure value over its definition and state. Time, windows and who can be reached are
//! arguments; what is to be ordered is returned, and orders nothing by itself.
//!
//! ```text
//! pending ─start─▶ running ─▶ succeeded | failed
//!                  ⇅ pause    ─abort─▶ aborted        retry: failed devices are queued again
//! device: queued ─order─▶ in progress ─▶ succeeded | failed (─▶ queued, while attempts remain) ; skipped
//! ```

mod stages;

use std::collections::BTreeSet;

use super::definition::{Definition, Work};
use crate::model::{
    command::{Refusal, RefusalCode},
    ids::DeviceId,
    jobs::{Job, JobControl, JobStatus, Target, TargetStatus},
    time::Millis,
};

/// Whether a device can be asked now.
#[derive(Debug, Clone, PartialEq)]
pub enum Reach {
    Now,
    /// It is away; its turn waits.
    Later,
    /// It will not be asked, and why.
    Never(String),
}

/// How one attempt at one device ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Ended {
    Well,
    /// Another attempt may help.
    Badly(String),
    /// No other attempt will help.
    ForGood(String),
    /// It was withdrawn before the device began.
    Withdrawn,
}

/// A job at work.
#[derive(Debug)]
pub struct Plan {
    pub definition: Definition,
    pub job: Job,
    /// Targets that differ from what is on disk.
    touched: BTreeSet<usize>,
    changed: bool,
    /// Attempts nobody waits for any more; a document lies with its device until it is withdrawn.
    given_up: Vec<(DeviceId, String)>,
}

impl Plan {
    pub fn new(definition: Definition, job: Job, fresh: bool) -> Self {
        let mut plan = Self { definition, job, touched: BTreeSet::new(), changed: fresh, given_up: Vec::new() };
        if plan.job.state.status.is_final() {
            plan.give_up_all();
        }
        plan
    }

    /// The name of an attempt, by which its outcome is known again; each attempt is an order of its own.
    pub fn attempt_id(&self, target: &Target) -> String {
        let job = &self.job.order.job_id;
        // A device's job ids know no dot.
        let sign = if matches!(self.definition.work, Work::Document(_)) { '-' } else { '.' };
        if target.attempt <= 1 { job.clone() } else { format!("{job}{sign}{}", target.attempt) }
    }

    /// Devices that were ordered and have not ended: ordered again after a restart.
    pub fn in_progress(&self) -> impl Iterator<Item = &Target> {
        self.job.targets.iter().filter(|target| target.status == TargetStatus::InProgress)
    }

    /// Whether anything may still happen by itself.
    pub fn is_open(&self) -> bool {
        !self.job.state.status.is_final() || self.in_progress().next().is_some()
    }

    /// The targets that changed since this was last asked, and whether anything did.
    pub fn take_changes(&mut self) -> Option<Vec<(usize, Target)>> {
        if !std::mem::take(&mut self.changed) && self.touched.is_empty() {
            return None;
        }
        let touched = std::mem::take(&mut self.touched);
        Some(touched.into_iter().map(|index| (index, self.job.targets[index].clone())).collect())
    }

    /// Attempts to withdraw: those that were given up since this was last asked.
    pub fn take_given_up(&mut self) -> Vec<(DeviceId, String)> {
        std::mem::take(&mut self.given_up)
    }

    /// What was taken did not reach the disk.
    pub fn not_written(&mut self, targets: Vec<(usize, Target)>) {
        self.touched.extend(targets.into_iter().map(|(index, _)| index));
        self.changed = true;
    }

    /// Whether the devices are to be chosen now.
    pub fn wants_targets(&self, now: Millis) -> bool {
        !self.job.state.chosen
            && self.job.state.status == JobStatus::Pending
            && self.definition.start.is_none_or(|start| start <= now)
    }

    /// The devices that match now; they stay the job's devices to its end.
    pub fn choose(&mut self, devices: impl IntoIterator<Item = DeviceId>, now: Millis) {
        let queued = |device| Target {
            device,
            status: TargetStatus::Queued,
            attempt: 0,
            at: None,
            error: None,
            forgiven: false,
        };
        self.job.targets = devices.into_iter().map(queued).collect();
        self.touched = (0..self.job.targets.len()).collect();
        self.job.state.chosen = true;
        self.enter(JobStatus::Running, None, now);
    }

    /// Moves on: gives up on what took too long, orders who may be ordered, enters stages, ends. Returns the devices to
    /// order, which are in progress from now on.
    pub fn advance(&mut self, now: Millis, in_window: bool, reach: impl Fn(&DeviceId) -> Reach) -> Vec<Target> {
        self.lapse(now);
        if self.job.state.status != JobStatus::Running {
            return Vec::new();
        }
        if self.definition.end.is_some_and(|end| end <= now) {
            self.skip_queued("the job's end came before its turn", now);
        }
        let mut orders = Vec::new();
        // Each stage that ends at once leads to the next.
        while self.job.state.status == JobStatus::Running {
            if self.job.state.soak_until.is_some_and(|until| until > now) {
                break;
            }
            if let Some(rate) = self.too_many_failed() {
                let stage = self.job.state.stage + 1;
                let reason = format!("{:.0} % of the devices failed in stage {stage}, more than allowed", rate * 100.0);
                if self.definition.abort {
                    self.skip_queued(&reason, now);
                    self.give_up_all();
                    self.enter(JobStatus::Failed, Some(reason), now);
                } else {
                    self.enter(JobStatus::Paused, Some(reason), now);
                }
                break;
            }
            if in_window {
                self.order(now, &reach, &mut orders);
            }
            if !self.stage_is_done() {
                break;
            }
            self.next_stage(now);
        }
        orders
    }

    /// The attempt named `id` at `device` ended. `false` where no such attempt is in progress.
    pub fn ended(&mut self, device: &DeviceId, id: &str, how: Ended, now: Millis) -> bool {
        let found = self.job.targets.iter().position(|target| {
            target.device == *device && target.status == TargetStatus::InProgress && self.attempt_id(target) == id
        });
        let Some(index) = found else { return false };
        self.settle(index, how, now);
        true
    }

    pub fn control(&mut self, word: JobControl, now: Millis) -> Result<(), Refusal> {
        let status = self.job.state.status;
        let refuse = |text: String| Err(Refusal::new(RefusalCode::OutOfRange, text));
        match (word, status) {
            (JobControl::Pause, JobStatus::Paused) | (JobControl::Resume, JobStatus::Running | JobStatus::Pending) => {}
            (JobControl::Pause, JobStatus::Pending | JobStatus::Running) => {
                self.enter(JobStatus::Paused, Some("paused by order".into()), now);
            }
            (JobControl::Resume, JobStatus::Paused) => {
                let next = if self.job.state.chosen { JobStatus::Running } else { JobStatus::Pending };
                // Whoever resumes has seen the failures: they are not counted against this stage again.
                self.forgive();
                self.enter(next, None, now);
            }
            (JobControl::Abort, JobStatus::Aborted) => {}
            (JobControl::Abort, status) if !status.is_final() => {
                self.skip_queued("aborted", now);
                self.give_up_all();
                self.enter(JobStatus::Aborted, Some("aborted by order".into()), now);
            }
            (JobControl::Retry, _) if self.job.state.chosen => {
                let mut again = false;
                for (index, target) in self.job.targets.iter_mut().enumerate() {
                    if matches!(target.status, TargetStatus::Failed | TargetStatus::Skipped) {
                        (target.status, target.at, target.error) = (TargetStatus::Queued, None, None);
                        target.forgiven = false;
                        self.touched.insert(index);
                        again = true;
                    }
                }
                if !again {
                    return refuse("no device of this job failed; there is nothing to retry".into());
                }
                self.job.state.soak_until = None;
                self.enter(JobStatus::Running, None, now);
            }
            (word, status) => return refuse(format!("a job that is {status:?} cannot {word:?}").to_lowercase()),
        }
        Ok(())
    }

    fn order(&mut self, now: Millis, reach: &impl Fn(&DeviceId) -> Reach, orders: &mut Vec<Target>) {
        let mut free = self.definition.max_parallel.saturating_sub(self.in_progress().count());
        for index in 0..self.stage_size() {
            if free == 0 || !self.rested(now) {
                return;
            }
            let target = &self.job.targets[index];
            if target.status != TargetStatus::Queued || target.at.is_some_and(|at| at > now) {
                continue;
            }
            match reach(&target.device) {
                Reach::Later => {}
                Reach::Never(why) => self.skip(index, &why, now),
                Reach::Now => {
                    let patience = self.definition.patience;
                    let target = &mut self.job.targets[index];
                    target.status = TargetStatus::InProgress;
                    target.attempt += 1;
                    target.at = Some(now.plus(patience));
                    target.error = None;
                    orders.push(target.clone());
                    self.job.state.last_order = Some(now);
                    self.touch(index, now);
                    free -= 1;
                }
            }
        }
    }

    fn rested(&self, now: Millis) -> bool {
        let last = self.job.state.last_order;
        self.definition.stagger == 0
            || last.is_none_or(|last| now.since(last).unsigned_abs() as i64 >= self.definition.stagger)
    }

    fn lapse(&mut self, now: Millis) {
        for index in 0..self.job.targets.len() {
            let target = &self.job.targets[index];
            if target.status == TargetStatus::InProgress && target.at.is_some_and(|at| at <= now) {
                let seconds = self.definition.patience / 1000;
                self.give_up(index);
                self.settle(index, Ended::Badly(format!("no outcome within {seconds} s")), now);
            }
        }
    }

    fn give_up(&mut self, index: usize) {
        let target = &self.job.targets[index];
        if matches!(self.definition.work, Work::Document(_)) && target.status == TargetStatus::InProgress {
            self.given_up.push((target.device.clone(), self.attempt_id(target)));
        }
    }

    fn give_up_all(&mut self) {
        (0..self.job.targets.len()).for_each(|index| self.give_up(index));
    }

    fn settle(&mut self, index: usize, how: Ended, now: Millis) {
        let (attempts, open) = (self.definition.attempts, !self.job.state.status.is_final());
        let target = &mut self.job.targets[index];
        target.at = None;
        match how {
            Ended::Well => (target.status, target.error) = (TargetStatus::Succeeded, None),
            Ended::Badly(why) if target.attempt < attempts && open => {
                (target.status, target.error) = (TargetStatus::Queued, Some(why));
                target.at = Some(now.plus(self.definition.retry_after(target.attempt)));
            }
            Ended::Withdrawn => {
                (target.status, target.error) = (TargetStatus::Skipped, Some("withdrawn before it began".into()));
            }
            Ended::Badly(why) | Ended::ForGood(why) => {
                (target.status, target.error) = (TargetStatus::Failed, Some(why));
            }
        }
        self.touch(index, now);
    }

    fn skip_queued(&mut self, why: &str, now: Millis) {
        for index in 0..self.job.targets.len() {
            if self.job.targets[index].status == TargetStatus::Queued {
                self.skip(index, why, now);
            }
        }
    }

    fn skip(&mut self, index: usize, why: &str, now: Millis) {
        let target = &mut self.job.targets[index];
        (target.status, target.at, target.error) = (TargetStatus::Skipped, None, Some(why.to_owned()));
        self.touch(index, now);
    }

    fn enter(&mut self, status: JobStatus, reason: Option<String>, now: Millis) {
        (self.job.state.status, self.job.state.reason) = (status, reason);
        self.mark(now);
    }

    fn touch(&mut self, index: usize, now: Millis) {
        self.touched.insert(index);
        self.mark(now);
    }

    fn mark(&mut self, now: Millis) {
        self.job.state.changed = now;
        self.changed = true;
    }
}
