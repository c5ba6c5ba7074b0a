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
}
