//! What comes back to the keeper: work the store has finished, answers of drivers; and where it goes on.

use std::sync::Arc;

use serde_json::{Map, Value as Json};
use tokio::sync::mpsc;

use super::{
    jobs::{Asker, Said},
    keeper::Keeping,
    shadows::Source,
    takein::After,
};
use crate::{
    bus::{self, Reply},
    model::{
        command::{Command, CommandResponse, Refusal},
        configuration::{Standing, Step},
        ids::DeviceId,
        shadow::{Document, Outcome, Rejection},
        time::Millis,
    },
    store::{
        StoreError,
        commands::Open,
        executions::Changed,
        shadows::{Deleted, Updated},
    },
};

/// What a shadow request counts against the work under way, in records.
pub(super) const REQUEST: usize = 16;

/// Something the store has finished, or a driver has answered.
pub(super) enum Done {
    Stored {
        weight: usize,
        after: Vec<After>,
        good: bool,
    },
    Updated {
        device: DeviceId,
        name: Arc<str>,
        source: Source,
        result: Result<Result<Updated, Rejection>, StoreError>,
    },
    Deleted {
        device: DeviceId,
        name: Arc<str>,
        token: Option<String>,
        source: Source,
        result: Result<Deleted, StoreError>,
    },
    Got {
        device: DeviceId,
        name: Arc<str>,
        purpose: Purpose,
        result: Result<Option<Arc<Document>>, StoreError>,
    },
    /// A driver has answered a write.
    Written {
        device: DeviceId,
        values: Map<String, Json>,
        refused: Result<Vec<(String, Refusal)>, Refusal>,
    },
    /// Commands to be sent; `fresh` ones were placed just now.
    Commands {
        device: DeviceId,
        open: Result<Vec<Open>, StoreError>,
        fresh: bool,
    },
    /// A driver's call has ended; without a response it waits, or was over before.
    Called {
        device: DeviceId,
        command: Command,
        response: Option<CommandResponse>,
        result: Result<bool, StoreError>,
    },
    NextCommand(Option<Millis>),
    /// Something may have to be done about a device's configuration.
    ConfigDue(DeviceId),
    ConfigStep {
        device: DeviceId,
        step: Option<Step>,
        standing: Box<Standing>,
    },
    Jobs {
        device: DeviceId,
        asker: Asker,
        result: Result<Changed<Said>, StoreError>,
    },
    JobsOver {
        devices: Vec<DeviceId>,
        next: Option<Millis>,
    },
    /// Another room refused what a child said on the topic `heard`.
    Refused {
        device: DeviceId,
        heard: String,
        refusal: Refusal,
        reply: Reply,
    },
    /// Something that is on disk and concerns those who ordered it.
    Told(bus::Outcome),
    Expired {
        expired: Result<Vec<(DeviceId, Outcome)>, StoreError>,
        next: Result<Option<Millis>, StoreError>,
    },
}

/// Why a shadow was read.
pub(super) enum Purpose {
    /// A `get` request.
    Answer {
        token: Option<String>,
        reply: Reply,
    },
    /// Time to send the level again.
    Level,
    Fetch(Reply<Json>),
    /// The `headgate` shadow: problems and locks.
    Remarks,
}

impl Keeping {
    pub fn begin(&mut self, weight: usize) -> mpsc::UnboundedSender<Done> {
        self.in_flight += weight;
        self.done.clone()
    }

    /// Work that waits for a driver's answer: given up when the keeper stops.
    pub fn aside_task(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.tasks.stopping();
        self.tasks.spawn(name, async move {
            tokio::select! {
                () = work => {}
                () = stop.cancelled() => {}
            }
        });
    }

    /// The way back for work that is not counted.
    pub fn loose_end(&self) -> mpsc::UnboundedSender<Done> {
        self.done.clone()
    }

    pub async fn finish(&mut self, done: Done) {
        let weight = match &done {
            Done::Stored { weight, .. } => *weight,
            Done::Updated { .. } | Done::Deleted { .. } | Done::Got { .. } | Done::Jobs { .. } => REQUEST,
            _ => 0,
        };
        self.in_flight = self.in_flight.saturating_sub(weight);
        match done {
            Done::Stored { after, good, .. } => self.stored(after, good).await,
            Done::Updated { device, name, source, result } => self.updated(device, name, source, result).await,
            Done::Deleted { device, name, token, source, result } => {
                self.deleted(&device, &name, token, source, result);
            }
            Done::Got { device, purpose: Purpose::Remarks, result, .. } => self.remarks_read(&device, result).await,
            Done::Got { device, name, purpose, result } => self.got(&device, &name, purpose, result),
            Done::Written { device, values, refused } => self.written(device, values, refused),
            Done::Commands { device, open, fresh } => self.send_commands(&device, open, fresh),
            Done::Called { device, command, response, result } => self.called(&device, &command, response, result),
            Done::NextCommand(next) => {
                let known = self.next_command.into_iter().chain(next).min();
                self.next_command = known;
            }
            Done::Jobs { device, asker, result } => self.jobs_changed(&device, asker, result),
            Done::JobsOver { devices, next } => self.jobs_over(devices, next).await,
            Done::ConfigDue(device) => self.config_due(device),
            Done::ConfigStep { device, step, standing } => self.config_step(&device, step, &standing),
            Done::Refused { device, heard, refusal, reply } => self.refuse(&device, &heard, refusal, reply),
            Done::Told(outcome) => self.tell_outcome(outcome),
            Done::Expired { expired, next } => self.expired(expired, next).await,
        }
    }
}
