//! The topic grammar of the contract (`docs/mqtt.md`): text to typed topics and back, for both sides.

use super::ids::DeviceId;

/// Topic root of a child on the gateway's own broker.
pub const CHILD_ROOT: &str = "devices/";
/// Topic root of the device shadow and jobs services.
pub const THINGS_ROOT: &str = "$aws/things/";

/// Where a child asks for the successor of its certificate, below its own root; the answers are levels below it.
pub const RENEWAL: &str = "credential/renew";

/// What a child may say below its own subtree, and the gateway takes in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChildTopic {
    Telemetry,
    State,
    Heartbeat,
    UpdateStatus,
    /// Ask for a piece of the offered image over MQTT.
    UpdateChunk,
    ConfigAck,
    CommandResponse(String),
    DiagnosticsResponse,
    Shadow(ShadowTopic),
    Jobs(JobsTopic),
}

/// A request to the shadow service; `name` is `None` for the classic shadow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShadowTopic {
    pub name: Option<String>,
    pub operation: ShadowOperation,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ShadowOperation {
    Get,
    Update,
    Delete,
}

impl ShadowOperation {
    pub fn word(self) -> &'static str {
        match self {
            ShadowOperation::Get => "get",
            ShadowOperation::Update => "update",
            ShadowOperation::Delete => "delete",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        match word {
            "get" => Some(Self::Get),
            "update" => Some(Self::Update),
            "delete" => Some(Self::Delete),
            _ => None,
        }
    }
}

/// A request to the jobs service; a job is a job id or `$next`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobsTopic {
    Get,
    StartNext,
    Describe(String),
    Update(String),
}

/// What a publish to the local broker means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocalTopic {
    /// Taken in by the gateway, acknowledged after the commit.
    Ingest(DeviceId, ChildTopic),
    /// `credential/renew`: asked of the broker itself, which knows the credential that opened the connection.
    Renewal(DeviceId),
    /// Said by the gateway alone (answers, delta, commands, …): a client that publishes it is refused.
    GatewayOnly(DeviceId),
    /// Anything else: routed between children where a grant allows it.
    Plain,
}

impl LocalTopic {
    /// Matches the whole topic, never a prefix or suffix: a shadow may itself be called `get` or `name`.
    pub fn parse(topic: &str) -> LocalTopic {
        if let Some(rest) = topic.strip_prefix(CHILD_ROOT) {
            let Some((id, rest)) = rest.split_once('/') else { return LocalTopic::Plain };
            let Ok(device) = DeviceId::new(id) else { return LocalTopic::Plain };
            return match parse_child(rest) {
                _ if rest == RENEWAL => LocalTopic::Renewal(device),
                Some(Some(topic)) => LocalTopic::Ingest(device, topic),
                Some(None) => LocalTopic::GatewayOnly(device),
                None => LocalTopic::Plain,
            };
        }
        if let Some(rest) = topic.strip_prefix(THINGS_ROOT) {
            let Some((id, rest)) = rest.split_once('/') else { return LocalTopic::Plain };
            let Ok(device) = DeviceId::new(id) else { return LocalTopic::Plain };
            return match parse_thing(rest) {
                Some(topic) => LocalTopic::Ingest(device, topic),
                None => LocalTopic::GatewayOnly(device),
            };
        }
        LocalTopic::Plain
    }
}

/// `Some(Some(_))` is ingested, `Some(None)` belongs to the gateway, `None` is free.
fn parse_child(rest: &str) -> Option<Option<ChildTopic>> {
    let topic = match rest {
        "telemetry" => ChildTopic::Telemetry,
        "state" => ChildTopic::State,
        "heartbeat" => ChildTopic::Heartbeat,
        "update/status" => ChildTopic::UpdateStatus,
        "update/chunk/get" => ChildTopic::UpdateChunk,
        "config/ack" => ChildTopic::ConfigAck,
        "diagnostics/response" => ChildTopic::DiagnosticsResponse,
        "delta"
        | "update/command"
        | "update/chunk"
        | "config/desired"
        | "diagnostics/request"
        | "errors"
        | "status"
        | "credential/renew/accepted"
        | "credential/renew/rejected" => {
            return Some(None);
        }
        _ => {
            let mut levels = rest.split('/');
            return match (levels.next(), levels.next(), levels.next(), levels.next()) {
                (Some("commands"), Some(name), Some("response"), None) if !name.is_empty() => {
                    Some(Some(ChildTopic::CommandResponse(name.to_owned())))
                }
                (Some("commands"), Some(_), None, None) => Some(None),
                _ => None,
            };
        }
    };
    Some(Some(topic))
}

fn parse_thing(rest: &str) -> Option<ChildTopic> {
    let levels: Vec<&str> = rest.split('/').collect();
    match levels[..] {
        ["shadow", operation] => {
            Some(ChildTopic::Shadow(ShadowTopic { name: None, operation: ShadowOperation::parse(operation)? }))
        }
        // Without a name it would be taken for the classic one.
        ["shadow", "name", name, operation] if !name.is_empty() => Some(ChildTopic::Shadow(ShadowTopic {
            name: Some(name.to_owned()),
            operation: ShadowOperation::parse(operation)?,
        })),
        ["jobs", "get"] => Some(ChildTopic::Jobs(JobsTopic::Get)),
        ["jobs", "start-next"] => Some(ChildTopic::Jobs(JobsTopic::StartNext)),
        ["jobs", job, "get"] => Some(ChildTopic::Jobs(JobsTopic::Describe(job.to_owned()))),
        ["jobs", job, "update"] => Some(ChildTopic::Jobs(JobsTopic::Update(job.to_owned()))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ingest(topic: &str) -> ChildTopic {
        match LocalTopic::parse(topic) {
            LocalTopic::Ingest(device, topic) if device.as_str() == "d1" => topic,
            other => panic!("{topic}: {other:?}"),
        }
    }

    #[test]
    fn a_shadow_may_be_called_like_an_operation() {
        for name in ["get", "update", "name", "delete"] {
            let ChildTopic::Shadow(found) = ingest(&format!("$aws/things/d1/shadow/name/{name}/update")) else {
                panic!("no shadow topic")
            };
            assert_eq!(found, ShadowTopic { name: Some(name.into()), operation: ShadowOperation::Update });
        }
        assert_eq!(
            ingest("$aws/things/d1/shadow/get"),
            ChildTopic::Shadow(ShadowTopic { name: None, operation: ShadowOperation::Get })
        );
    }

    #[test]
    fn answers_and_what_nobody_asks_belong_to_the_gateway() {
        for topic in [
            "$aws/things/d1/shadow/update/accepted",
            "$aws/things/d1/shadow/name/x/get/rejected",
            "$aws/things/d1/shadow/name//delete",
            "$aws/things/d1/jobs/notify-next",
            "devices/d1/delta",
            "devices/d1/commands/reboot",
            "devices/d1/errors",
            "devices/d1/credential/renew/accepted",
            "devices/d1/credential/renew/rejected",
        ] {
            assert!(matches!(LocalTopic::parse(topic), LocalTopic::GatewayOnly(_)), "{topic}");
        }
    }

    #[test]
    fn commands_are_answered_under_their_name() {
        assert_eq!(ingest("devices/d1/commands/reboot/response"), ChildTopic::CommandResponse("reboot".into()));
        assert_eq!(LocalTopic::parse("devices/d1/own/topic"), LocalTopic::Plain);
        assert_eq!(LocalTopic::parse("devices/bad id/telemetry"), LocalTopic::Plain);
        let d1 = DeviceId::new("d1").expect("id");
        assert_eq!(LocalTopic::parse("devices/d1/credential/renew"), LocalTopic::Renewal(d1));
    }
}
