//! What the keeper says on the local broker: never waits, bounded, so that a slow broker cannot hold up the keeper.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use tokio::sync::mpsc;

use crate::{
    bus::{LocalMessage, LocalSender},
    model::{
        command::Refusal,
        ids::DeviceId,
        time::Millis,
        topic::{CHILD_ROOT, ChildTopic, JobsTopic, THINGS_ROOT},
    },
    tasks::Tasks,
};

/// Messages that may wait for the broker. Beyond it they are dropped: what matters is sent again as a level.
const WAITING: usize = 16_384;

/// Cheap to clone.
#[derive(Clone)]
pub struct Voice {
    queue: mpsc::UnboundedSender<LocalMessage>,
    waiting: Arc<AtomicUsize>,
}

impl Voice {
    pub fn new(local: LocalSender, tasks: &Tasks) -> Voice {
        let (queue, mut next) = mpsc::unbounded_channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let count = waiting.clone();
        tasks.spawn("voice of the keeper", async move {
            while let Some(message) = next.recv().await {
                count.fetch_sub(1, Relaxed);
                if local.send(message).await.is_err() {
                    return;
                }
            }
        });
        Voice { queue, waiting }
    }

    pub fn say(&self, message: LocalMessage) {
        if self.waiting.load(Relaxed) >= WAITING {
            tracing::warn!(topic = message.topic, "the local broker is too slow; a message was dropped");
            return;
        }
        self.waiting.fetch_add(1, Relaxed);
        let _ = self.queue.send(message);
    }

    /// For copies nobody depends on: QoS 0, dropped without a word when the broker is busy.
    pub fn mirror(&self, topic: String, payload: Vec<u8>) {
        if self.waiting.load(Relaxed) < WAITING / 4 {
            self.waiting.fetch_add(1, Relaxed);
            let _ = self.queue.send(LocalMessage { qos: 0, ..LocalMessage::new(topic, payload) });
        }
    }

    /// `devices/{d}/errors`: why something was refused.
    pub fn error(&self, device: &DeviceId, topic: &str, refusal: &Refusal, now: Millis) {
        let payload = serde_json::json!({
            "topic": topic, "code": refusal.code, "message": refusal.message, "ts": now,
        });
        self.say(LocalMessage::new(child(device, "errors"), payload.to_string()));
    }
}

/// `devices/{d}/{rest}`.
pub fn child(device: &DeviceId, rest: &str) -> String {
    format!("{CHILD_ROOT}{device}/{rest}")
}

/// `$aws/things/{d}/shadow…/{rest}`; `name` is empty for the classic shadow.
pub fn shadow(device: &DeviceId, name: &str, rest: &str) -> String {
    match name {
        "" => format!("{THINGS_ROOT}{device}/shadow/{rest}"),
        name => format!("{THINGS_ROOT}{device}/shadow/name/{name}/{rest}"),
    }
}

/// `$aws/things/{d}/jobs/{rest}`.
pub fn jobs(device: &DeviceId, rest: &str) -> String {
    format!("{THINGS_ROOT}{device}/jobs/{rest}")
}

/// The topic as the child wrote it.
pub fn heard(device: &DeviceId, topic: &ChildTopic) -> String {
    match topic {
        ChildTopic::Telemetry => child(device, "telemetry"),
        ChildTopic::State => child(device, "state"),
        ChildTopic::Heartbeat => child(device, "heartbeat"),
        ChildTopic::UpdateStatus => child(device, "update/status"),
        ChildTopic::UpdateChunk => child(device, "update/chunk/get"),
        ChildTopic::ConfigAck => child(device, "config/ack"),
        ChildTopic::CommandResponse(name) => child(device, &format!("commands/{name}/response")),
        ChildTopic::DiagnosticsResponse => child(device, "diagnostics/response"),
        ChildTopic::Shadow(topic) => shadow(device, topic.name.as_deref().unwrap_or(""), topic.operation.word()),
        ChildTopic::Jobs(topic) => match topic {
            JobsTopic::Get => jobs(device, "get"),
            JobsTopic::StartNext => jobs(device, "start-next"),
            JobsTopic::Describe(job) => jobs(device, &format!("{job}/get")),
            JobsTopic::Update(job) => jobs(device, &format!("{job}/update")),
        },
    }
}

/// Whether a subscription would receive `topic` (MQTT 5, section 4.7).
pub fn receives(filter: &str, topic: &str) -> bool {
    let mut levels = topic.split('/');
    let mut first = true;
    for wanted in filter.split('/') {
        if first && wanted.len() == 1 && "+#".contains(wanted) && topic.starts_with('$') {
            return false;
        }
        first = false;
        match (wanted, levels.next()) {
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (wanted, Some(level)) if wanted == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

/// Whether a subscription may receive topics one level below `topic`.
pub fn may_receive_below(filter: &str, topic: &str) -> bool {
    let below = filter.rsplit_once('/').is_some_and(|(above, last)| last != "#" && receives(above, topic));
    below || receives(filter, &format!("{topic}/x"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_receive_what_the_standard_says() {
        for (filter, topic, expected) in [
            ("devices/d/delta", "devices/d/delta", true),
            ("devices/d/#", "devices/d/delta", true),
            ("devices/+/delta", "devices/d/delta", true),
            ("#", "devices/d/delta", true),
            ("#", "$aws/things/d/jobs/notify", false),
            ("+/things/d/jobs/notify", "$aws/things/d/jobs/notify", false),
            ("$aws/things/d/jobs/notify-next/#", "$aws/things/d/jobs/notify-next", true),
            ("devices/d", "devices/d/delta", false),
            ("devices/d/delta/x", "devices/d/delta", false),
        ] {
            assert_eq!(receives(filter, topic), expected, "{filter} {topic}");
        }
        for (filter, expected) in [
            ("devices/d/commands/+", true),
            ("devices/d/commands/reboot", true),
            ("devices/d/#", true),
            ("devices/d/delta", false),
            ("devices/d/commands", false),
        ] {
            assert_eq!(may_receive_below(filter, "devices/d/commands"), expected, "{filter}");
        }
    }
}
