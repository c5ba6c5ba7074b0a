//! A job of the cloud for a child that knows only the jobs topics: given, begun, finished, and told upstream.

use std::time::{Duration, Instant};

use rumqttc::{Client, Connection, Event, MqttOptions, Packet, QoS};
use serde_json::{Value as Json, json};

use super::site::Ground;

/// A device program with its jobs topics.
struct Program {
    client: Client,
    connection: Connection,
}

impl Program {
    fn connect(port: u16, device: &str, token: &str) -> Program {
        let mut options = MqttOptions::new(device, "127.0.0.1", port);
        options.set_credentials(device, token);
        let (client, mut connection) = Client::new(options, 64);
        client.subscribe(format!("$aws/things/{device}/jobs/#"), QoS::AtLeastOnce).expect("queued");
        let granted = |event: &Event| matches!(event, Event::Incoming(Packet::SubAck(_)));
        while !granted(&connection.recv_timeout(Duration::from_secs(20)).expect("in time").expect("connected")) {}
        Program { client, connection }
    }

    fn ask(&mut self, device: &str, rest: &str, body: Json) -> Json {
        let topic = format!("$aws/things/{device}/jobs/{rest}");
        self.client.publish(&topic, QoS::AtLeastOnce, false, body.to_string()).expect("queued");
        self.hear(&[&format!("{topic}/accepted"), &format!("{topic}/rejected")])
    }

    /// Waits until it is told that `job` is next.
    fn next_is(&mut self, job: Option<&str>) {
        while self.hear(&["$aws/things/room/jobs/notify-next"])["execution"]["jobId"].as_str() != job {}
    }

    fn hear(&mut self, topics: &[&str]) -> Json {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(30) {
            let event = self.connection.recv_timeout(Duration::from_secs(30)).expect("in time").expect("connected");
            if let Event::Incoming(Packet::Publish(publish)) = event
                && topics.contains(&publish.topic.as_str())
            {
                return serde_json::from_slice(&publish.payload).expect("JSON");
            }
        }
        panic!("nothing on {topics:?}");
    }
}

#[test]
fn a_job_of_the_cloud_reaches_the_childs_jobs_topics_and_its_end_reaches_the_cloud() {
    let ground = Ground::new();
    let mut gateway =
        ground.gateway("").devices("room.toml", "[[device]]\nid = \"room\"\nprotocol = \"mqtt\"\n").start();
    let (code, answer) = gateway.api("POST", "/v1/credentials", Some(&json!({"device": "room", "kind": "token"})));
    assert_eq!(code, 200, "{answer}");
    let token = answer["token"].as_str().expect("a token").to_owned();
    let mut program = Program::connect(ground.mqtt, "room", &token);
    ground.reaches_the_gateway();
    let job = json!({
        "jobId": "j1", "type": "job-document", "deviceFilter": {"ids": ["room"]},
        "payload": {"document": {"operation": "blink", "times": 3}}, "schedule": {"maxParallel": 1},
    });
    ground.says("gw", "jobs/notify", &job.to_string());
    let next = program.hear(&["$aws/things/room/jobs/notify-next"]);
    assert_eq!(
        (&next["execution"]["jobId"], &next["execution"]["jobDocument"]["operation"]),
        (&json!("j1"), &json!("blink"))
    );
    // Through a kill it is still there, once.
    drop(program);
    gateway.kill();
    gateway.start_again();
    let mut program = Program::connect(ground.mqtt, "room", &token);
    let listed = program.ask("room", "get", json!({"clientToken": "l"}));
    assert_eq!((listed["queuedJobs"].as_array().map(Vec::len), &listed["clientToken"]), (Some(1), &json!("l")));
    let begun = program.ask("room", "start-next", json!({"statusDetails": {"step": "1"}}));
    let execution = &begun["execution"];
    assert_eq!((&execution["status"], &execution["versionNumber"]), (&json!("IN_PROGRESS"), &json!(2)), "{begun}");
    assert!(execution["approximateSecondsBeforeTimedOut"].as_u64().is_some_and(|left| left > 80_000), "{begun}");
    let wrong = program.ask("room", "j1/update", json!({"status": "SUCCEEDED", "expectedVersion": 7}));
    assert_eq!((&wrong["code"], &wrong["executionState"]["versionNumber"]), (&json!("VersionMismatch"), &json!(2)));
    let done = json!({"status": "SUCCEEDED", "expectedVersion": "2", "includeJobExecutionState": true});
    let done = program.ask("room", "j1/update", done);
    assert_eq!(done["executionState"]["status"], "SUCCEEDED", "{done}");
    let status = ground.cloud.expect("devices/gw/jobs/j1/status", |status| status["status"] == "succeeded");
    assert_eq!(status["progress"]["succeeded"], 1, "{status}");
    let late = program.ask("room", "j1/update", json!({"status": "FAILED"}));
    assert_eq!(late["code"], "InvalidStateTransition", "{late}");
    assert!(program.ask("room", "$next/get", json!({})).get("execution").is_none());

    // One that the device refuses ends there, with its reason.
    let other = job.to_string().replace("\"j1\"", "\"j2\"");
    ground.says("gw", "jobs/notify", &other);
    program.hear(&["$aws/things/room/jobs/notify-next"]);
    program.ask("room", "j2/update", json!({"status": "REJECTED"}));
    let status = ground.cloud.expect("devices/gw/jobs/j2/status", |status| status["status"] == "failed");
    assert_eq!(status["devices"]["room"]["error"], "the device rejected it", "{status}");

    // One that is aborted before the device began is withdrawn from it; one that it has begun goes on to its own end.
    ground.says("gw", "jobs/notify", &job.to_string().replace("\"j1\"", "\"j3\""));
    program.next_is(Some("j3"));
    ground.says("gw", "jobs/j3/control", "abort");
    program.next_is(None);
    assert_eq!(program.ask("room", "j3/get", json!({}))["execution"]["status"], "CANCELED");
    let late = program.ask("room", "j3/update", json!({"status": "IN_PROGRESS"}));
    assert_eq!(
        (&late["code"], &late["executionState"]["status"]),
        (&json!("InvalidStateTransition"), &json!("CANCELED"))
    );
    let status = ground.cloud.expect("devices/gw/jobs/j3/status", |status| status["progress"]["skipped"] == 1);
    assert_eq!((&status["status"], &status["progress"]["inProgress"]), (&json!("aborted"), &json!(0)), "{status}");

    ground.says("gw", "jobs/notify", &job.to_string().replace("\"j1\"", "\"j4\""));
    program.next_is(Some("j4"));
    program.ask("room", "start-next", json!({}));
    ground.says("gw", "jobs/j4/control", "abort");
    ground.cloud.expect("devices/gw/jobs/j4/status", |status| status["status"] == "aborted");
    let done = program.ask("room", "j4/update", json!({"status": "SUCCEEDED", "includeJobExecutionState": true}));
    assert_eq!(done["executionState"]["status"], "SUCCEEDED", "{done}");
    ground.cloud.expect("devices/gw/jobs/j4/status", |status| status["progress"]["succeeded"] == 1);
}
