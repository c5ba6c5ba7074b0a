//! What the page, the API and the command line may ask: typed questions, answered by the daemon, which knows the rooms.
//!
//! ```text
//!  web ──Question + reply──▶ daemon::answers ──▶ the handle of the room that knows ──▶ reply
//! ```
//!
//! Every question is answered within [`PATIENCE`] or counts as refused; an answer never blocks the one who asked
//! anything else.

use std::time::Duration;

use serde_json::Value as Json;
use tokio::sync::{mpsc, oneshot};

use super::Reply;
use crate::{
    config::problem::Problem,
    model::{
        alarm::Alarm,
        command::{Door, Lock, Refusal, RefusalCode},
        device::Lifecycle,
        ids::DeviceId,
        jobs::Job,
        time::Millis,
        view::{
            Change, CommandView, Connection, DeviceRow, DeviceView, LogLine, LogStatus, Overview, Trend, UpdateView,
        },
    },
};

/// How long an answer may take before the asker is told that the gateway is busy.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// The outcome of loading the configuration.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigReport {
    /// When the configuration that runs was loaded.
    pub loaded: Option<Millis>,
    /// Where it lies; absent where the defaults run.
    pub folder: Option<String>,
    /// All problems of what is on disk now; empty where it runs.
    pub problems: Vec<Problem>,
    /// What the last reload changed, for people.
    pub changes: Vec<String>,
}

/// One question with the way back for its answer. An unknown device is refused with `UnknownDevice`.
#[derive(Debug)]
pub enum Question {
    Overview(Reply<Overview>),
    Log(Reply<LogStatus>),
    /// All devices, ordered by id.
    Devices(Reply<Vec<DeviceRow>>),
    Device(DeviceId, Reply<DeviceView>),
    /// Names of the named shadows of a device; the classic one is not in the list.
    Shadows(DeviceId, Reply<Vec<String>>),
    /// The document as `get/accepted` shows it (state with delta, metadata, version); `None` where there is none.
    Shadow {
        device: DeviceId,
        name: Option<String>,
        reply: Reply<Option<Json>>,
    },
    /// Newest first, at most `limit`, all before `before`.
    History {
        device: DeviceId,
        before: Option<Millis>,
        limit: usize,
        reply: Reply<Vec<Change>>,
    },
    Trend {
        device: DeviceId,
        name: String,
        from: Millis,
        to: Millis,
        /// Buckets to thin to.
        points: usize,
        reply: Reply<Trend>,
    },
    /// Commands of a device, newest first.
    Commands(DeviceId, Reply<Vec<CommandView>>),
    /// Updates that run or ran, newest first.
    Updates(Reply<Vec<UpdateView>>),
    Connections(Reply<Vec<Connection>>),
    /// What each Modbus bus counted, as its `status` tool tells it.
    Buses(Reply<Vec<Json>>),
    /// Every alarm, the active ones first, then the latest.
    Alarms(Reply<Vec<Alarm>>),
    /// Somebody (`by`) has seen the alarm `kind` of a device; refused where there is no such alarm.
    Acknowledge {
        device: DeviceId,
        kind: String,
        by: String,
        reply: Reply<Alarm>,
    },
    /// Every bulk job that is remembered, newest first.
    Jobs(Reply<Vec<Job>>),
    Config(Reply<ConfigReport>),
    /// Load the configuration from disk now; answered when it runs or was refused.
    Reload(Reply<ConfigReport>),
    /// Move a device through its life (approve, suspend, …).
    /// Puts a technician's lock on a desired value, or takes it off.
    SetLock {
        device: DeviceId,
        name: String,
        lock: Option<Lock>,
        door: Door,
        reply: Reply<()>,
    },
    SetLifecycle {
        device: DeviceId,
        lifecycle: Lifecycle,
        door: Door,
        reply: Reply,
    },
    /// A diagnostics request of the contract (section 3), answered whole instead of in chunks.
    Diagnose {
        request: Json,
        reply: Reply<Json>,
    },
    /// The daemon's own latest log lines at or above `level`, oldest first.
    LogTail {
        lines: usize,
        level: String,
        reply: Reply<Vec<LogLine>>,
    },
}

/// Held by `web`; the daemon holds the receiver. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Questions(mpsc::Sender<Question>);

impl Questions {
    /// The asking end and the answering end.
    pub fn new() -> (Questions, mpsc::Receiver<Question>) {
        let (asker, answerer) = mpsc::channel(64);
        (Questions(asker), answerer)
    }

    /// Asks and waits for the answer: `questions.ask(Question::Devices).await`, or with a closure for those with
    /// parameters: `questions.ask(|reply| Question::Device(id, reply)).await`.
    pub async fn ask<T>(&self, question: impl FnOnce(Reply<T>) -> Question) -> Result<T, Refusal> {
        let gone = || Refusal::new(RefusalCode::Busy, "the gateway is starting or stopping; ask again in a moment");
        let (reply, answer) = oneshot::channel();
        let question = question(reply);
        let asked = async {
            self.0.send(question).await.map_err(|_| gone())?;
            answer.await.map_err(|_| gone())?
        };
        let late = || Refusal::new(RefusalCode::Busy, "the gateway did not answer within 10 s");
        tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| Err(late()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_question_nobody_answers_is_refused_and_not_waited_for() {
        let (questions, answerer) = Questions::new();
        drop(answerer);
        assert_eq!(questions.ask(Question::Devices).await.expect_err("nobody").code, RefusalCode::Busy);
    }
}
