//! Requests of a device to the jobs service, and what it is answered.

use serde_json::{Map, Value as Json, json};

use super::{Execution, Queue, Status, Step, job_id_is_valid};
use crate::model::{shadow::TOKEN_BYTES, time::Millis, topic::JobsTopic};

/// The payload of `accepted`.
pub type Answer = Json;

/// The payload of `rejected`: a code in words, and a message.
#[derive(Debug, Clone, PartialEq)]
pub struct Rejected {
    pub code: &'static str,
    pub message: String,
    /// Status and version of the execution as it is, where that explains the refusal.
    state: Option<Json>,
    token: Option<Json>,
}

impl Rejected {
    fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), state: None, token: None }
    }

    /// The store did not do it.
    pub fn internal(message: String) -> Self {
        Self::new("InternalError", message)
    }

    fn with_state(mut self, execution: &Execution) -> Self {
        self.state = Some(state(execution));
        self
    }

    pub fn to_json(&self, now: Millis) -> Json {
        let mut answer = json!({ "code": self.code, "message": self.message, "timestamp": now.seconds() });
        if let Some(state) = &self.state {
            answer["executionState"] = state.clone();
        }
        if let Some(token) = &self.token {
            answer["clientToken"] = token.clone();
        }
        answer
    }
}

/// `notify`: the pending executions by status.
pub fn notify(queue: &Queue, now: Millis) -> Json {
    let mut jobs = Map::new();
    let (begun, queued) = queue.pending();
    for (word, list) in [("IN_PROGRESS", begun), ("QUEUED", queued)] {
        if !list.is_empty() {
            jobs.insert(word.to_owned(), list.into_iter().map(summary).collect());
        }
    }
    json!({ "timestamp": now.seconds(), "jobs": jobs })
}

/// `notify-next`: the next execution, whole.
pub fn notify_next(queue: &Queue, now: Millis) -> Json {
    let mut answer = json!({ "timestamp": now.seconds() });
    if let Some(next) = queue.next() {
        answer["execution"] = whole(next, true, now);
    }
    answer
}

fn summary(execution: &Execution) -> Json {
    let mut summary = json!({
        "jobId": execution.job_id,
        "queuedAt": execution.queued_at.seconds(),
        "lastUpdatedAt": execution.last_updated_at.seconds(),
        "versionNumber": execution.version_number,
        "executionNumber": execution.execution_number,
    });
    if let Some(started) = execution.started_at {
        summary["startedAt"] = json!(started.seconds());
    }
    summary
}

fn whole(execution: &Execution, document: bool, now: Millis) -> Json {
    let mut whole = summary(execution);
    whole["status"] = json!(execution.status);
    if !execution.status_details.is_empty() {
        whole["statusDetails"] = json!(execution.status_details);
    }
    if let Some(end) = execution.ends_at() {
        whole["approximateSecondsBeforeTimedOut"] = json!((end.since(now) / 1000).max(0));
    }
    if document {
        whole["jobDocument"] = execution.document.clone();
    }
    whole
}

fn state(execution: &Execution) -> Json {
    let mut state = json!({ "status": execution.status, "versionNumber": execution.version_number });
    if !execution.status_details.is_empty() {
        state["statusDetails"] = json!(execution.status_details);
    }
    state
}

impl Queue {
    /// Answers a request; the queue is changed only where the answer is accepted.
    pub fn request(&mut self, topic: &JobsTopic, payload: &[u8], now: Millis) -> Result<Answer, Rejected> {
        let request = parse(payload)?;
        let token = token(&request)?;
        let answered = self.answer(topic, &request, now);
        let mut answer = answered.map_err(|rejected| Rejected { token: token.clone(), ..rejected })?;
        answer["timestamp"] = json!(now.seconds());
        if let Some(token) = token {
            answer["clientToken"] = token;
        }
        Ok(answer)
    }

    fn answer(&mut self, topic: &JobsTopic, request: &Map<String, Json>, now: Millis) -> Result<Json, Rejected> {
        match topic {
            JobsTopic::Get => {
                let list = |of: Vec<&Execution>| of.into_iter().map(summary).collect::<Vec<_>>();
                let (begun, queued) = self.pending();
                Ok(json!({ "inProgressJobs": list(begun), "queuedJobs": list(queued) }))
            }
            JobsTopic::StartNext => self.start_next(request, now),
            JobsTopic::Describe(id) if id == "$next" => {
                let document = flag(request, "includeJobDocument", true)?;
                Ok(self.next().map_or_else(|| json!({}), |next| json!({ "execution": whole(next, document, now) })))
            }
            JobsTopic::Describe(id) => {
                let document = flag(request, "includeJobDocument", true)?;
                let found = self.known(id, request)?;
                Ok(json!({ "execution": whole(found, document, now) }))
            }
            JobsTopic::Update(id) => self.update(id, request, now),
        }
    }

    fn start_next(&mut self, request: &Map<String, Json>, now: Millis) -> Result<Json, Rejected> {
        let details = details(request)?;
        let step = step(request)?;
        let Some(id) = self.next().map(|next| next.job_id.clone()) else { return Ok(json!({})) };
        let Some(next) = self.find_mut(&id) else { return Ok(json!({})) };
        if next.status == Status::Queued {
            next.enter(Status::InProgress, now);
            next.status_details = details.unwrap_or_default();
            next.set_step(step, now);
        }
        Ok(json!({ "execution": whole(next, true, now) }))
    }

    fn update(&mut self, id: &str, request: &Map<String, Json>, now: Millis) -> Result<Json, Rejected> {
        let status = match request.get("status") {
            None | Some(Json::Null) => {
                let text = "1 validation error detected: Value null at 'status' failed to satisfy constraint: Member must not be null";
                return Err(Rejected::new("InvalidRequest", text));
            }
            Some(word) => serde_json::from_value::<Status>(word.clone()).map_err(|_| {
                let text = format!("status {word} is none of IN_PROGRESS, SUCCEEDED, FAILED, REJECTED");
                Rejected::new("InvalidRequest", text)
            })?,
        };
        let details = details(request)?;
        let step = step(request)?;
        let with_state = flag(request, "includeJobExecutionState", false)?;
        let with_document = flag(request, "includeJobDocument", false)?;
        let expected = number(request, "expectedVersion")?;
        let found = self.known(id, request)?;
        if let Some(expected) = expected.filter(|expected| *expected != found.version_number) {
            let text = format!("expected version {expected}, the execution has version {}", found.version_number);
            return Err(Rejected::new("VersionMismatch", text).with_state(found));
        }
        if found.status.is_terminal() || !status.is_the_devices() {
            let text = format!("the execution is {}; it cannot become {}", json!(found.status), json!(status));
            return Err(Rejected::new("InvalidStateTransition", text).with_state(found));
        }
        let Some(found) = self.find_mut(id) else { return Err(missing(id)) };
        if let Some(details) = details {
            found.status_details = details;
        }
        let after = if status.is_terminal() {
            self.end(id, status, now);
            self.ended.last()
        } else {
            found.enter(status, now);
            found.set_step(step, now);
            self.find(id)
        };
        let mut answer = json!({});
        if let Some(after) = after {
            if with_state {
                answer["executionState"] = state(after);
            }
            if with_document {
                answer["jobDocument"] = after.document.clone();
            }
        }
        Ok(answer)
    }

    fn known(&self, id: &str, request: &Map<String, Json>) -> Result<&Execution, Rejected> {
        if !job_id_is_valid(id) {
            let text = format!("{id:?} is no job id: 1 to 64 of the characters a-z A-Z 0-9 _ -");
            return Err(Rejected::new("InvalidRequest", text));
        }
        let number = number(request, "executionNumber")?;
        let found = self.find(id).filter(|found| number.is_none_or(|number| number == found.execution_number));
        found.ok_or_else(|| missing(id))
    }
}

fn missing(id: &str) -> Rejected {
    Rejected::new("ResourceNotFound", format!("no execution of job {id} is known for this device"))
}

fn parse(payload: &[u8]) -> Result<Map<String, Json>, Rejected> {
    if payload.is_empty() {
        return Ok(Map::new());
    }
    match serde_json::from_slice(payload) {
        Ok(Json::Object(request)) => Ok(request),
        Ok(_) => Err(Rejected::new("InvalidJson", "the request is not a JSON object")),
        Err(error) => Err(Rejected::new("InvalidJson", format!("the request is no JSON: {error}"))),
    }
}

fn token(request: &Map<String, Json>) -> Result<Option<Json>, Rejected> {
    match request.get("clientToken") {
        None | Some(Json::Null) => Ok(None),
        Some(Json::String(token)) if token.len() <= TOKEN_BYTES => Ok(Some(json!(token))),
        // Not said again: it may be as large as a packet.
        Some(_) => {
            let text = format!("clientToken is no text of at most {TOKEN_BYTES} bytes");
            Err(Rejected::new("InvalidRequest", text))
        }
    }
}

fn flag(request: &Map<String, Json>, name: &str, normal: bool) -> Result<bool, Rejected> {
    match request.get(name) {
        None | Some(Json::Null) => Ok(normal),
        Some(Json::Bool(flag)) => Ok(*flag),
        Some(other) => Err(Rejected::new("InvalidRequest", format!("{name} is {other}, not true or false"))),
    }
}

/// A whole number, also as text.
fn number(request: &Map<String, Json>, name: &str) -> Result<Option<u64>, Rejected> {
    let wrong = |found: &Json| Rejected::new("InvalidRequest", format!("{name} is {found}, not a whole number"));
    match request.get(name) {
        None | Some(Json::Null) => Ok(None),
        Some(Json::String(text)) => text.parse().map(Some).map_err(|_| wrong(&json!(text))),
        Some(found) => found.as_u64().map(Some).ok_or_else(|| wrong(found)),
    }
}

fn step(request: &Map<String, Json>) -> Result<Option<Step>, Rejected> {
    match request.get("stepTimeoutInMinutes") {
        None | Some(Json::Null) => Ok(None),
        Some(found) => match found.as_i64() {
            Some(-1) => Ok(Some(Step::Cancel)),
            Some(minutes @ 1..=10_080) => Ok(Some(Step::Minutes(minutes as u32))),
            _ => Err(Rejected::new("InvalidRequest", format!("stepTimeoutInMinutes is {found}; 1 to 10080, or -1"))),
        },
    }
}

/// Names of `[a-zA-Z0-9:_-]{1,128}`, texts of 1 to 1024 characters without control characters.
fn details(request: &Map<String, Json>) -> Result<Option<Map<String, Json>>, Rejected> {
    let wrong = |why: String| Rejected::new("InvalidRequest", format!("statusDetails: {why}"));
    let details = match request.get("statusDetails") {
        None | Some(Json::Null) => return Ok(None),
        Some(Json::Object(details)) => details,
        Some(other) => return Err(wrong(format!("{other} is not an object of texts"))),
    };
    for (name, value) in details {
        let named = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b':' | b'_' | b'-');
        if !(1..=128).contains(&name.len()) || !name.bytes().all(named) {
            return Err(wrong(format!("{name:?} is no name: 1 to 128 of a-z A-Z 0-9 : _ -")));
        }
        let text = value.as_str().ok_or_else(|| wrong(format!("{name} is {value}, not a text")))?;
        if !(1..=1024).contains(&text.chars().count()) || text.chars().any(char::is_control) {
            return Err(wrong(format!("{name} has no text of 1 to 1024 characters without control characters")));
        }
    }
    Ok(Some(details.clone()))
}
