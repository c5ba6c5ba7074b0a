//! One device at one address: which resource is due, what it said, whether it answers at all.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use coap_lite::CoapOption;
use serde_json::Map;
use tokio::sync::mpsc;

use super::{
    endpoint::Endpoint,
    exchange::Failure,
    transfer::{self, Answer, TransferError},
    values::{self, Named},
    wire::{Message, code},
};
use crate::{
    bus::{DriverSender, FromDriver, ToDriverReceiver},
    clock,
    config::coap::{Device, Format, Mode, Resource},
    model::{
        reading::{Quality, Reading, Sample, Value},
        time::Millis,
    },
};

/// After Max-Age has run out, how long a notification may still be on its way (RFC 7641 section 3.3.1).
const GRACE: Duration = Duration::from_secs(5);
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);
/// Lookups of the name are repeated when so many tries in a row got no answer.
const LOOK_UP_AFTER: u32 = 5;

/// Why a session ended.
pub enum Gone {
    LookUpAgain,
    Closed,
}

/// Nobody takes readings any more.
pub struct Closed;

pub struct Session<'d> {
    pub(super) device: &'d Device,
    pub(super) peer: SocketAddr,
    pub(super) endpoint: Endpoint,
    readings: &'d DriverSender,
    pub(super) watched: Vec<Watched>,
    reachable: Option<bool>,
    silent: u32,
}

/// What is known of a resource.
pub(super) struct Watched {
    due: Instant,
    observation: Option<Observation>,
    /// The format of its last answer.
    pub(super) format: Option<Format>,
    last: BTreeMap<String, (Value, Millis)>,
}

struct Observation {
    answers: mpsc::Receiver<Result<Message, Failure>>,
    sequence: u32,
    at: Instant,
}

impl<'d> Session<'d> {
    pub fn new(device: &'d Device, peer: SocketAddr, endpoint: Endpoint, readings: &'d DriverSender) -> Self {
        let now = Instant::now();
        let watched = || Watched { due: now, observation: None, format: None, last: BTreeMap::new() };
        let watched = device.resources.iter().map(|_| watched()).collect();
        Self { device, peer, endpoint, readings, watched, reachable: None, silent: 0 }
    }

    pub async fn run(mut self, commands: &mut ToDriverReceiver) -> Gone {
        loop {
            let next = self.watched.iter().map(|watched| watched.due).min();
            let wait = next.map_or(LAST_RETRY, |at| at.saturating_duration_since(Instant::now()));
            let done = tokio::select! {
                Some(command) = commands.recv() => self.command(command).await,
                (index, answer) = self.notified() => self.notification(index, answer).await,
                () = tokio::time::sleep(wait) => self.what_is_due().await,
            };
            if done.is_err() {
                return Gone::Closed;
            }
            if self.silent >= LOOK_UP_AFTER && self.device.address.parse::<SocketAddr>().is_err() {
                return Gone::LookUpAgain;
            }
        }
    }

    async fn notified(&mut self) -> (usize, Option<Result<Message, Failure>>) {
        std::future::poll_fn(|context| {
            for (index, watched) in self.watched.iter_mut().enumerate() {
                if let Some(observation) = &mut watched.observation
                    && let Poll::Ready(answer) = observation.answers.poll_recv(context)
                {
                    return Poll::Ready((index, answer));
                }
            }
            Poll::Pending
        })
        .await
    }

    async fn what_is_due(&mut self) -> Result<(), Closed> {
        let now = Instant::now();
        let Some(index) = self.watched.iter().position(|watched| watched.due <= now) else { return Ok(()) };
        match self.device.resources[index].mode {
            Mode::Poll => self.poll(index).await.map(|_| ()),
            Mode::Observe => self.observe(index).await,
        }
    }

    /// GETs a resource and hands on what it says; the values, or why there are none.
    pub(super) async fn poll(&mut self, index: usize) -> Result<Result<Vec<Named>, String>, Closed> {
        let resource = &self.device.resources[index];
        let result = transfer::get(&self.endpoint, self.peer, request_for(resource)).await;
        if self.watched[index].observation.is_none() {
            self.watched[index].due = Instant::now() + resource.every;
        }
        match result {
            Ok(answer) => self.answered(index, answer).await,
            Err(error) => {
                let why = error.to_string();
                self.failed(index, error).await.map(|()| Err(why))
            }
        }
    }

    /// Registers as an observer, also where an earlier registration has gone stale.
    async fn observe(&mut self, index: usize) -> Result<(), Closed> {
        let resource = &self.device.resources[index];
        let request = request_for(resource).with_uint(CoapOption::Observe, 0);
        self.watched[index].observation = None;
        let first = match self.endpoint.observe(self.peer, request.clone()).await {
            Ok(mut answers) => match answers.recv().await.unwrap_or(Err(Failure::Stopped)) {
                Ok(message) => Ok((message, answers)),
                Err(failure) => Err(TransferError::Wire(failure)),
            },
            Err(failure) => Err(TransferError::Wire(failure)),
        };
        let (message, answers) = match first {
            Ok(first) => first,
            Err(error) => return self.failed(index, error).await,
        };
        let sequence = message.uint(CoapOption::Observe);
        match transfer::complete(&self.endpoint, self.peer, &request, message).await {
            Ok(answer) => {
                let wait = match sequence {
                    Some(sequence) => {
                        let observation = Observation { answers, sequence, at: Instant::now() };
                        self.watched[index].observation = Some(observation);
                        fresh_for(answer.max_age)
                    }
                    // The device does not offer observation: poll.
                    None => resource.every,
                };
                self.watched[index].due = Instant::now() + wait;
                self.answered(index, answer).await.map(|_| ())
            }
            Err(error) => self.failed(index, error).await,
        }
    }

    async fn notification(&mut self, index: usize, answer: Option<Result<Message, Failure>>) -> Result<(), Closed> {
        let now = Instant::now();
        let message = match answer {
            Some(Ok(message)) if code::is_success(message.code()) => message,
            // The device ended the observation, or the message layer did: register again.
            _ => {
                self.watched[index].observation = None;
                self.watched[index].due = now + FIRST_RETRY;
                return Ok(());
            }
        };
        let Some(observation) = &mut self.watched[index].observation else { return Ok(()) };
        if let Some(sequence) = message.uint(CoapOption::Observe) {
            if !is_newer(observation.sequence, sequence, now.duration_since(observation.at)) {
                return Ok(());
            }
            (observation.sequence, observation.at) = (sequence, now);
        }
        let request = request_for(&self.device.resources[index]);
        match transfer::complete(&self.endpoint, self.peer, &request, message).await {
            Ok(answer) => {
                self.watched[index].due = Instant::now() + fresh_for(answer.max_age);
                self.answered(index, answer).await.map(|_| ())
            }
            Err(error) => self.failed(index, error).await,
        }
    }

    /// Hands on what a resource said: its values, or why it said none.
    async fn answered(&mut self, index: usize, answer: Answer) -> Result<Result<Vec<Named>, String>, Closed> {
        self.reachable(true, None).await?;
        let resource = &self.device.resources[index];
        let now = clock::now();
        self.watched[index].format = values::known_format(resource, answer.format).ok();
        let groups = match values::values(resource, answer.format, &answer.body, now) {
            Ok(groups) => groups,
            Err(why) => return self.bad(index, why.clone()).await.map(|()| Err(why)),
        };
        let mut all = Vec::new();
        for (ts, named) in groups {
            let device = self.device.common.id.clone();
            let message = if resource.state {
                let reported: Map<_, _> = named.iter().map(|(name, value)| (name.clone(), value.to_json())).collect();
                FromDriver::Reported { device, ts, reported }
            } else {
                let samples = named.iter().map(|(name, value)| Sample::good(name.as_str(), value.clone())).collect();
                FromDriver::Reading(Reading { device, ts, samples })
            };
            self.send(message).await?;
            let last = &mut self.watched[index].last;
            last.extend(named.iter().map(|(name, value)| (name.clone(), (value.clone(), ts))));
            all.extend(named);
        }
        Ok(Ok(all))
    }

    /// The device answered, but not with a value.
    async fn bad(&mut self, index: usize, why: String) -> Result<(), Closed> {
        let resource = &self.device.resources[index];
        tracing::debug!(device = %self.device.common.id, path = resource.path, why, "no value");
        if resource.state {
            return Ok(());
        }
        let known = &self.watched[index].last;
        let names: Vec<Arc<str>> = match &resource.name {
            Some(name) => vec![name.as_str().into()],
            None if known.is_empty() => vec![resource.path.as_str().into()],
            None => known.keys().map(|name| name.as_str().into()).collect(),
        };
        let quality = Quality::Bad { reason: why.into() };
        let samples = names.into_iter().map(|name| Sample { name, value: None, quality: quality.clone() }).collect();
        self.send(FromDriver::Reading(Reading { device: self.device.common.id.clone(), ts: clock::now(), samples }))
            .await
    }

    async fn failed(&mut self, index: usize, error: TransferError) -> Result<(), Closed> {
        self.watched[index].observation = None;
        if error.is_answer() {
            self.watched[index].due = Instant::now() + self.device.resources[index].every.max(FIRST_RETRY);
            self.reachable(true, None).await?;
            return self.bad(index, error.to_string()).await;
        }
        self.silent += 1;
        let wait = FIRST_RETRY.saturating_mul(1 << self.silent.min(8)).min(LAST_RETRY);
        // One silent resource speaks for the device: nothing else is asked before that either.
        let until = Instant::now() + wait;
        for watched in &mut self.watched {
            watched.due = watched.due.max(until);
        }
        self.reachable(false, Some(error.to_string())).await
    }

    async fn reachable(&mut self, reachable: bool, reason: Option<String>) -> Result<(), Closed> {
        if reachable {
            self.silent = 0;
        }
        if self.reachable.replace(reachable) == Some(reachable) {
            return Ok(());
        }
        let (device, at) = (self.device.common.id.clone(), clock::now());
        tracing::info!(%device, reachable, reason, "coap device");
        if !reachable {
            self.stale(at, reason.as_deref().unwrap_or("silent")).await?;
        }
        self.send(FromDriver::Reachable { device, at, reachable, reason }).await
    }

    /// The last known values once more, marked as old.
    async fn stale(&mut self, at: Millis, reason: &str) -> Result<(), Closed> {
        let reason: Arc<str> = reason.into();
        let telemetry = self.device.resources.iter().zip(&self.watched).filter(|(resource, _)| !resource.state);
        let last = telemetry.flat_map(|(_, watched)| &watched.last);
        let sample = |(name, (value, since)): (&String, &(Value, Millis))| Sample {
            name: name.as_str().into(),
            value: Some(value.clone()),
            quality: Quality::Stale { since: *since, reason: reason.clone() },
        };
        let samples: Vec<Sample> = last.map(sample).collect();
        if samples.is_empty() {
            return Ok(());
        }
        self.send(FromDriver::Reading(Reading { device: self.device.common.id.clone(), ts: at, samples })).await
    }

    async fn send(&self, message: FromDriver) -> Result<(), Closed> {
        self.readings.send(message).await.map_err(|_| Closed)
    }
}

/// A GET for a resource, with Accept where the configuration names a format.
pub(super) fn request_for(resource: &Resource) -> Message {
    let request = Message::request(code::GET, &resource.path);
    match resource.format {
        Some(format) => request.with_uint(CoapOption::Accept, u32::from(format.number())),
        None => request,
    }
}

fn fresh_for(max_age: u32) -> Duration {
    Duration::from_secs(u64::from(max_age).clamp(1, 86_400)) + GRACE
}

/// Whether a notification with sequence number `next` is newer than `last`, which came `since` ago (RFC 7641 section 3.4).
fn is_newer(last: u32, next: u32, since: Duration) -> bool {
    const HALF: u32 = 1 << 23;
    (last < next && next - last < HALF) || (last > next && last - next > HALF) || since > Duration::from_secs(128)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notifications_that_overtook_each_other_are_told_apart() {
        let soon = Duration::from_secs(1);
        assert!(is_newer(1, 2, soon) && !is_newer(2, 1, soon) && !is_newer(2, 2, soon));
        assert!(is_newer((1 << 24) - 1, 0, soon), "the number wraps at 24 bits");
        assert!(is_newer(9, 3, Duration::from_secs(129)), "a device that started anew");
    }
}
