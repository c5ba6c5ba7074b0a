//! What children and drivers say, on its way into the log: telemetry above all, gathered so that thousands of messages
//! are one job of the store.

use std::sync::Arc;

use serde_json::{Map, Value as Json, value::RawValue};

use super::{
    done::Done,
    keeper::{Keeping, unavailable},
    telemetry, voice,
};
use crate::{
    bus::{Inbound, Mark, Outcome, Reply, Sign, UpdateAsk},
    clock,
    model::{
        command::{CommandResponse, Door, Refusal, RefusalCode},
        event::Event,
        ids::DeviceId,
        reading::{Reading, Sample, Value},
        record::{Kind, NewRecord},
        time::Millis,
        topic::ChildTopic,
        update::UpdateProgress,
    },
};

/// Records of one job of the store, who waits for its commit, and what happens after it.
#[derive(Default)]
pub(super) struct Gathered {
    records: Vec<NewRecord>,
    replies: Vec<Reply>,
    marks: Vec<Mark>,
    after: Vec<After>,
}

impl Gathered {
    pub fn len(&self) -> usize {
        self.records.len()
    }
}

/// What is passed on once it is on disk.
pub(super) enum After {
    Update(DeviceId, UpdateProgress),
    Outcome(Outcome),
    Reading(Arc<Reading>),
}

impl Keeping {
    /// Takes in a batch of a door.
    pub async fn take_in(&mut self, batch: Vec<Inbound>, gathered: &mut Gathered) {
        for inbound in batch {
            if inbound.door == Door::Device {
                self.heard(&inbound.device, inbound.at);
            }
            match &inbound.topic {
                ChildTopic::Telemetry => self.telemetry(inbound, gathered).await,
                ChildTopic::State | ChildTopic::Shadow(_) => self.shadow_inbound(inbound).await,
                ChildTopic::UpdateChunk => self.ask_for_chunk(inbound),
                ChildTopic::Jobs(_) => self.jobs_inbound(inbound).await,
                _ => self.plain(inbound, gathered).await,
            }
        }
    }

    async fn telemetry(&mut self, inbound: Inbound, gathered: &mut Gathered) {
        let Inbound { device, payload, at, reply, mark, .. } = inbound;
        let message = match telemetry::parse(&payload) {
            Ok(message) => message,
            Err(error) => {
                let refusal = Refusal::new(RefusalCode::PayloadInvalid, error.to_string());
                return self.refuse(&device, &voice::child(&device, "telemetry"), refusal, reply);
            }
        };
        let told = self.told();
        let budget = &mut self.budget;
        let latest = &mut self.children.entry(device.clone()).or_default().latest;
        for set in &message.sets {
            let ts = set.ts.unwrap_or(at);
            for (name, raw) in &set.values {
                latest.put_raw(name, raw, ts, budget);
            }
            if told {
                let samples = set.values.iter().filter_map(|(name, raw)| {
                    let value = Value::from_json(&serde_json::from_str(raw).ok()?)?;
                    Some(Sample::good(&**name, value))
                });
                gathered.after.push(After::Reading(Arc::new(Reading {
                    device: device.clone(),
                    ts,
                    samples: samples.collect(),
                })));
            }
            let body = set.body().into();
            gathered.records.push(NewRecord { device: device.clone(), kind: Kind::Telemetry, name: None, ts, body });
        }
        if let Some(version) = &message.firmware {
            self.firmware(&device, version, at, true).await;
        }
        gathered.replies.push(reply);
        gathered.marks.extend(mark);
    }

    /// The topics that are checked and logged as they are.
    async fn plain(&mut self, inbound: Inbound, gathered: &mut Gathered) {
        let Inbound { device, topic, payload, at, reply, mark, .. } = inbound;
        if let ChildTopic::CommandResponse(name) = &topic
            && let Ok(response) = serde_json::from_slice::<CommandResponse>(&payload)
        {
            return self.command_answer(device, name.clone(), response, at, reply);
        }
        if topic == ChildTopic::ConfigAck
            && let Ok((kind, (body, ts), ack)) = config_ack(&payload)
        {
            let ts = ts.unwrap_or(at);
            let record = NewRecord { device: device.clone(), kind, name: None, ts, body: body.into() };
            return self.config_acknowledged(device, ack, record, reply);
        }
        let checked = match &topic {
            ChildTopic::Heartbeat => logged(&payload).map(|record| (Kind::Heartbeat, record, None)),
            ChildTopic::UpdateStatus => update_status(&device, &payload),
            ChildTopic::DiagnosticsResponse => diagnostics(&device, &payload),
            ChildTopic::CommandResponse(_) => {
                Err("expected {\"commandId\", \"status\": \"succeeded\", \"failed\" or \"rejected\", \"result\"?}"
                    .to_owned())
            }
            ChildTopic::ConfigAck => config_ack(&payload).map(|(kind, record, _)| (kind, record, None)),
            _ => Err("is not taken in here".to_owned()),
        };
        let (kind, (body, ts), after) = match checked {
            Ok(checked) => checked,
            Err(why) => {
                let heard = voice::heard(&device, &topic);
                return self.refuse(&device, &heard, Refusal::new(RefusalCode::PayloadInvalid, why), reply);
            }
        };
        let named = if kind == Kind::Heartbeat { named(&payload) } else { Named::default() };
        if let Some(version) = named.firmware_version {
            self.firmware(&device, &version, at, true).await;
        }
        if kind == Kind::Heartbeat
            && let Some(version) = named.config_version
        {
            self.config_runs(&device, version, at);
        }
        gathered.records.push(NewRecord { device, kind, name: None, ts: ts.unwrap_or(at), body: body.into() });
        gathered.after.extend(after);
        gathered.replies.push(reply);
        gathered.marks.extend(mark);
    }

    /// What a driver measured: logged, shown, and mirrored on the local broker.
    pub fn reading(&mut self, reading: Reading, gathered: &mut Gathered) {
        let Reading { device, ts, samples } = &reading;
        if samples.iter().any(|sample| sample.quality.is_good()) {
            self.heard(device, clock::now());
        }
        let budget = &mut self.budget;
        let latest = &mut self.children.entry(device.clone()).or_default().latest;
        for sample in samples {
            latest.put_sample(sample, *ts, budget);
        }
        let body = reading.body();
        // The same with its time: the body ends with its own brace.
        let mut mirrored = Vec::with_capacity(body.len() + 24);
        mirrored.extend_from_slice(&body[..body.len() - 1]);
        mirrored.extend_from_slice(format!(",\"ts\":{}}}", ts.0).as_bytes());
        self.voice.mirror(voice::child(device, "telemetry"), mirrored);
        let record =
            NewRecord { device: device.clone(), kind: Kind::Telemetry, name: None, ts: *ts, body: body.into() };
        gathered.records.push(record);
        if self.told() {
            gathered.after.push(After::Reading(Arc::new(reading)));
        }
    }

    /// Hands what was gathered to the store. Replies leave on the writer's thread, right after the commit.
    pub async fn commit(&mut self, gathered: Gathered) {
        let Gathered { records, replies, marks, after } = gathered;
        if records.is_empty() {
            for reply in replies {
                let _ = reply.send(Ok(()));
            }
            return;
        }
        if replies.is_empty() {
            // Nobody waits: the records may gather company, and are kept while the disk refuses.
            if self.store.append_lazy(records).await.is_err() {
                tracing::error!("the store has stopped; readings of drivers are lost");
                return;
            }
            return self.stored(after, true).await;
        }
        let weight = records.len();
        let done = self.begin(weight);
        let then = move |result: Result<(), _>| {
            let answer = result.as_ref().copied().map_err(unavailable);
            // The last first: a door waits for its oldest message, and finds the others answered when it wakes.
            for reply in replies.into_iter().rev() {
                let _ = reply.send(answer.clone());
            }
            let _ = done.send(Done::Stored { weight, after, good: result.is_ok() });
        };
        // An error means the store has stopped; dropping the job drops the replies, and the doors see that.
        if self.store.append_then(records, marks, then).await.is_err() {
            tracing::error!(records = weight, "the store has stopped; nothing of it was acknowledged");
        }
    }

    /// After the commit: tells those who ordered it or watch it.
    pub async fn stored(&mut self, after: Vec<After>, good: bool) {
        if !good {
            return;
        }
        for after in after {
            match after {
                After::Update(device, progress) => {
                    if self.updates.try_send((device, progress)).is_err() {
                        tracing::warn!("the update room is busy; a report was logged and not passed on");
                    }
                }
                After::Outcome(outcome) => self.tell_outcome(outcome),
                After::Reading(reading) => {
                    if let Some(readings) = &*self.readings.borrow()
                        && readings.try_send(reading.clone()).is_err()
                    {
                        tracing::debug!("the rules are busy; a reading was logged and not judged");
                    }
                    if self.events.watched() {
                        self.events.tell(Event::Reading(reading));
                    }
                }
            }
        }
    }

    /// Whether anybody looks at single readings.
    fn told(&self) -> bool {
        self.events.watched() || self.readings.borrow().is_some()
    }

    pub fn tell_outcome(&self, outcome: Outcome) {
        if self.outcomes.try_send(outcome).is_err() {
            tracing::warn!("the jobs room is busy; an outcome was logged and not passed on");
        }
    }

    /// The device named its firmware: known to registry and updates, and reported in its shadow (`fold`) so that a
    /// desired version can come true.
    pub async fn firmware(&mut self, device: &DeviceId, version: &str, at: Millis, fold: bool) {
        let child = self.child(device);
        if child.firmware.as_deref() == Some(version) {
            return;
        }
        let shared: Arc<str> = version.into();
        child.firmware = Some(shared.clone());
        self.sign(Sign::Firmware { device: device.clone(), at, version: shared });
        let running = UpdateAsk::Running { device: device.clone(), version: version.to_owned() };
        if self.asks.try_send(running).is_err() {
            tracing::debug!(%device, "the update room is busy; it will hear the version again");
        }
        if fold {
            let reported = Map::from_iter([("firmwareVersion".to_owned(), Json::from(version))]);
            self.report(device.clone(), reported, Door::Device, at).await;
        }
    }
}

type Checked = Result<(Kind, (Vec<u8>, Option<Millis>), Option<After>), String>;

/// A JSON object as it goes into the log: as it came, but without `ts` (which is taken out), `seq` and `late`.
fn logged(payload: &[u8]) -> Result<(Vec<u8>, Option<Millis>), String> {
    let mut members: std::collections::BTreeMap<String, &RawValue> =
        serde_json::from_slice(payload).map_err(|error| format!("expected a JSON object: {error}"))?;
    // As raw text half a surrogate pair passes; whoever reads the record later could not.
    if payload.windows(2).any(|pair| pair == b"\\u") {
        serde_json::from_slice::<Json>(payload).map_err(|error| format!("expected a JSON object: {error}"))?;
    }
    let ts = match members.remove("ts") {
        None => None,
        Some(raw) => Some(Millis(raw.get().parse().map_err(|_| "\"ts\" is no Unix time in milliseconds".to_owned())?)),
    };
    members.remove("seq");
    members.remove("late");
    Ok((serde_json::to_vec(&members).map_err(|error| error.to_string())?, ts))
}

fn update_status(device: &DeviceId, payload: &[u8]) -> Checked {
    let mut progress: UpdateProgress = serde_json::from_slice(payload)
        .map_err(|error| format!("expected {{\"status\", \"from\"?, \"to\"?, …}}: {error}"))?;
    if let Some(percent) = progress.progress.filter(|percent| *percent > 100) {
        return Err(format!("\"progress\" is 0 to 100, found {percent}"));
    }
    progress.device = Some(device.clone());
    Ok((Kind::UpdateStatus, logged(payload)?, Some(After::Update(device.clone(), progress))))
}

type Ack = (u64, bool, Option<String>);

/// The record of an acknowledgement, and what it says: version, applied, reason.
fn config_ack(payload: &[u8]) -> Result<(Kind, (Vec<u8>, Option<Millis>), Ack), String> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Status {
        Applied,
        Rejected,
    }
    #[derive(serde::Deserialize)]
    struct Ack {
        version: u64,
        status: Status,
        #[serde(default)]
        reason: Option<String>,
    }
    let Ack { version, status, reason } = serde_json::from_slice(payload)
        .map_err(|error| format!("expected {{\"version\", \"status\": \"applied\" or \"rejected\"}}: {error}"))?;
    let applied = matches!(status, Status::Applied);
    Ok((Kind::ConfigAck, logged(payload)?, (version, applied, reason)))
}

/// The last chunk (or the first error) is an outcome.
fn diagnostics(device: &DeviceId, payload: &[u8]) -> Checked {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Chunk {
        request_id: String,
        #[serde(default)]
        chunk: Option<u64>,
        #[serde(default)]
        total_chunks: Option<u64>,
        #[serde(default)]
        error: Option<String>,
    }
    let said: Chunk = serde_json::from_slice(payload)
        .map_err(|error| format!("expected {{\"requestId\", \"payload\", …}}: {error}"))?;
    let last = said.error.is_some() || said.chunk.unwrap_or(1) >= said.total_chunks.unwrap_or(1);
    let outcome = Outcome::Diagnostics { device: device.clone(), request_id: said.request_id, error: said.error };
    Ok((Kind::DiagnosticsResponse, logged(payload)?, last.then_some(After::Outcome(outcome))))
}

/// What a heartbeat says of the device besides its health.
#[derive(Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Named {
    firmware_version: Option<String>,
    config_version: Option<u64>,
}

fn named(payload: &[u8]) -> Named {
    serde_json::from_slice(payload).unwrap_or_default()
}
