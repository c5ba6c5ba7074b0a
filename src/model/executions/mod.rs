//! The jobs a device sees (`$aws/things/{d}/jobs/…`, `docs/shadow.md`, part 2) as pure values: states, timers, retries,
//! and what changes for those who are notified.

mod answer;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

pub use answer::{Answer, Rejected, notify, notify_next};

use super::time::Millis;

const MINUTE: i64 = 60_000;
/// Entries a device is shown at once, whatever their states.
const SHOWN: usize = 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Status {
    Queued,
    InProgress,
    Succeeded,
    Failed,
    TimedOut,
    Rejected,
    Canceled,
    Removed,
}

impl Status {
    pub fn is_terminal(self) -> bool {
        !matches!(self, Status::Queued | Status::InProgress)
    }

    fn may_be_retried(self) -> bool {
        matches!(self, Status::Failed | Status::TimedOut)
    }

    /// What a device itself may say.
    fn is_the_devices(self) -> bool {
        matches!(self, Status::InProgress | Status::Succeeded | Status::Failed | Status::Rejected)
    }
}

/// One job on one device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Execution {
    pub job_id: String,
    /// 1, and one more with each retry.
    pub execution_number: u64,
    pub status: Status,
    #[serde(default)]
    pub status_details: Map<String, Json>,
    pub queued_at: Millis,
    #[serde(default)]
    pub started_at: Option<Millis>,
    pub last_updated_at: Millis,
    /// From 1, plus one with every update.
    pub version_number: u64,
    pub document: Json,
    /// Place in the order of creation.
    pub order: u64,
    /// Minutes from IN_PROGRESS to TIMED_OUT; fixed when the job was made.
    #[serde(default)]
    pub minutes: Option<u32>,
    #[serde(default)]
    pub retries_left: u32,
    #[serde(default)]
    pub deadline: Option<Millis>,
    #[serde(default)]
    pub step_deadline: Option<Millis>,
}

/// A job as it is given to a device.
#[derive(Debug, Clone, PartialEq)]
pub struct Given {
    /// 1 to 64 of `[a-zA-Z0-9_-]`.
    pub job_id: String,
    /// A JSON object of at most 32768 bytes.
    pub document: Json,
    /// 1 to 10080.
    pub minutes: Option<u32>,
    /// New executions after FAILED or TIMED_OUT, at most 10.
    pub retries: u32,
}

/// Why a job cannot be given to a device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadJob {
    #[error("a job id has 1 to 64 of the characters a-z A-Z 0-9 _ -; found {0:?}")]
    Id(String),
    #[error("a job document is a JSON object of at most 32768 bytes")]
    Document,
    #[error("a time-out has 1 to 10080 minutes; found {0}")]
    Minutes(u32),
    #[error("a job is tried again at most 10 times; found {0}")]
    Retries(u32),
}

pub fn job_id_is_valid(id: &str) -> bool {
    (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
}

impl Given {
    pub fn check(&self) -> Result<(), BadJob> {
        if !job_id_is_valid(&self.job_id) {
            return Err(BadJob::Id(self.job_id.clone()));
        }
        if !self.document.is_object() || self.document.to_string().len() > 32_768 {
            return Err(BadJob::Document);
        }
        if let Some(minutes) = self.minutes.filter(|minutes| !(1..=10_080).contains(minutes)) {
            return Err(BadJob::Minutes(minutes));
        }
        if self.retries > 10 { Err(BadJob::Retries(self.retries)) } else { Ok(()) }
    }
}

impl Execution {
    /// The earlier of both timers.
    pub fn ends_at(&self) -> Option<Millis> {
        self.deadline.into_iter().chain(self.step_deadline).min().filter(|_| self.status == Status::InProgress)
    }

    fn enter(&mut self, status: Status, now: Millis) {
        if status == Status::InProgress && self.started_at.is_none() {
            self.started_at = Some(now);
            self.deadline = self.minutes.map(|minutes| now.plus(i64::from(minutes) * MINUTE));
        }
        if status.is_terminal() {
            (self.deadline, self.step_deadline) = (None, None);
        }
        (self.status, self.last_updated_at) = (status, now);
        self.version_number += 1;
    }

    fn set_step(&mut self, step: Option<Step>, now: Millis) {
        match step {
            Some(Step::Minutes(minutes)) => self.step_deadline = Some(now.plus(i64::from(minutes) * MINUTE)),
            Some(Step::Cancel) => self.step_deadline = None,
            None => {}
        }
    }
}

/// `stepTimeoutInMinutes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Minutes(u32),
    Cancel,
}

/// All jobs of one device that are pending or ended not long ago.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Queue {
    pub executions: Vec<Execution>,
    /// Executions that ended during the last change; a retry replaces the one that failed.
    pub ended: Vec<Execution>,
}

/// What those who are notified could see of a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pending: Vec<(String, u64)>,
    next: Option<(String, u64)>,
}

impl Seen {
    pub fn list_changed(&self, after: &Seen) -> bool {
        self.pending != after.pending
    }

    pub fn next_changed(&self, after: &Seen) -> bool {
        self.next != after.next
    }
}

impl Queue {
    /// Adds a job; one whose id is known is not added again.
    pub fn give(&mut self, given: Given, now: Millis) -> bool {
        if self.find(&given.job_id).is_some() {
            return false;
        }
        let order = self.next_order();
        self.executions.push(Execution {
            job_id: given.job_id,
            execution_number: 1,
            status: Status::Queued,
            status_details: Map::new(),
            queued_at: now,
            started_at: None,
            last_updated_at: now,
            version_number: 1,
            document: given.document,
            order,
            minutes: given.minutes,
            retries_left: given.retries,
            deadline: None,
            step_deadline: None,
        });
        true
    }

    /// Cancels a job; one in progress only with `force`. Says whether anything was cancelled.
    pub fn cancel(&mut self, job_id: &str, force: bool, now: Millis) -> bool {
        match self.find_mut(job_id) {
            Some(found) if found.status == Status::Queued || (force && found.status == Status::InProgress) => {
                found.enter(Status::Canceled, now);
                let ended = found.clone();
                self.ended.push(ended);
                true
            }
            _ => false,
        }
    }

    /// Ends executions whose time is over.
    pub fn expire(&mut self, now: Millis) {
        let over = |found: &Execution| found.ends_at().is_some_and(|end| end <= now);
        let ids: Vec<String> = self.executions.iter().filter(|e| over(e)).map(|e| e.job_id.clone()).collect();
        for id in ids {
            self.end(&id, Status::TimedOut, now);
        }
    }

    /// Forgets executions that ended before `before`.
    pub fn forget(&mut self, before: Millis) {
        self.executions.retain(|found| !found.status.is_terminal() || found.last_updated_at > before);
    }

    /// The first in progress, else the first queued.
    pub fn next(&self) -> Option<&Execution> {
        let first = |status| self.executions.iter().filter(move |e| e.status == status).min_by_key(|e| e.order);
        first(Status::InProgress).or_else(|| first(Status::Queued))
    }

    /// When the next timer runs out.
    pub fn next_end(&self) -> Option<Millis> {
        self.executions.iter().filter_map(Execution::ends_at).min()
    }

    pub fn seen(&self) -> Seen {
        let key = |e: &Execution| (e.job_id.clone(), e.execution_number);
        let mut pending: Vec<_> = self.executions.iter().filter(|e| !e.status.is_terminal()).map(key).collect();
        pending.sort();
        Seen { pending, next: self.next().map(key) }
    }

    fn find(&self, job_id: &str) -> Option<&Execution> {
        self.executions.iter().find(|found| found.job_id == job_id)
    }

    fn find_mut(&mut self, job_id: &str) -> Option<&mut Execution> {
        self.executions.iter_mut().find(|found| found.job_id == job_id)
    }

    fn next_order(&self) -> u64 {
        self.executions.iter().map(|found| found.order).max().unwrap_or(0) + 1
    }

    /// Ends an execution; where it may be tried again, a new one takes its place at the end of the queue.
    fn end(&mut self, job_id: &str, status: Status, now: Millis) {
        let order = self.next_order();
        let Some(found) = self.find_mut(job_id) else { return };
        found.enter(status, now);
        let ended = found.clone();
        if status.may_be_retried() && found.retries_left > 0 {
            found.retries_left -= 1;
            found.execution_number += 1;
            (found.status, found.version_number, found.order) = (Status::Queued, 1, order);
            (found.queued_at, found.started_at) = (now, None);
            found.status_details = Map::new();
        }
        self.ended.push(ended);
    }

    /// What lists show: those in progress, then those that wait, each in the order of creation, [`SHOWN`] in all.
    fn pending(&self) -> (Vec<&Execution>, Vec<&Execution>) {
        let of = |status| {
            let mut found: Vec<&Execution> = self.executions.iter().filter(|e| e.status == status).collect();
            found.sort_by_key(|e| (e.queued_at, e.order));
            found
        };
        let (mut begun, mut queued) = (of(Status::InProgress), of(Status::Queued));
        begun.truncate(SHOWN);
        queued.truncate(SHOWN - begun.len());
        (begun, queued)
    }
}
