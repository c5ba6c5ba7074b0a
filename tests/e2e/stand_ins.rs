//! The stand-ins of the demo, held against a broker that nobody here wrote: what proves others must itself be proven.

use std::time::Duration;

use headgate::{
    cli::demo::{
        cloud::{Cloud, Settings},
        wire::Wire,
    },
    drivers::mqtt::simulate::{Child, State, start},
    model::{ids::DeviceId, update::UpdateStatus},
    tasks::Tasks,
};
use serde_json::json;
use tokio::{sync::watch, time::timeout};

use super::peers::Mosquitto;

const PATIENCE: Duration = Duration::from_secs(20);

fn child(wire: &Wire, readings: Option<u64>) -> Child {
    Child {
        id: DeviceId::new("room").expect("id"),
        host: wire.address().ip().to_string(),
        port: wire.address().port(),
        login: None,
        every: Duration::from_millis(20),
        firmware: "1.0.0".into(),
        download_rate: None,
        readings,
    }
}

async fn until(state: &mut watch::Receiver<State>, what: &str, wanted: impl FnMut(&State) -> bool) -> State {
    let found = timeout(PATIENCE, state.wait_for(wanted)).await.map(|found| found.map(|state| state.clone()));
    match found {
        Ok(found) => found.expect("running"),
        Err(_) => panic!("not within 20 s: {what}: {:?}", state.borrow()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_simulated_child_loses_no_reading_when_its_wire_is_cut_and_the_broker_dies() {
    let mut mosquitto = Mosquitto::start();
    let tasks = Tasks::new();
    let cloud = Cloud::start(Settings::new("127.0.0.1", mosquitto.port), &tasks).await.expect("cloud");
    cloud.connected().await;
    let wire = Wire::start(format!("127.0.0.1:{}", mosquitto.port), &tasks).await.expect("wire");
    let mut state = start(child(&wire, Some(300)), &tasks);
    until(&mut state, "50 acknowledged", |state| state.acknowledged >= 50).await;
    wire.cut();
    let away = until(&mut state, "disconnected", |state| !state.connected).await;
    until(&mut state, "measures on", |state| state.measured >= away.measured + 20).await;
    wire.heal();
    until(&mut state, "150 acknowledged", |state| state.acknowledged >= 150).await;
    wire.stall();
    until(&mut state, "its window is full", |state| state.measured >= state.acknowledged + 40).await;
    wire.heal();
    mosquitto.stop();
    until(&mut state, "disconnected again", |state| !state.connected).await;
    mosquitto.start_again();
    let end = until(&mut state, "all acknowledged", |state| state.acknowledged >= 300).await;
    assert_eq!((end.measured, end.lost), (300, 0));
    // A broker without memory forgets what the cloud had not fetched when it died: all others are here.
    let view = cloud.until(PATIENCE, |view| view.oracle.account("room").own.last() == Some(300)).await;
    let own = view.expect("the last reading").oracle.account("room").own;
    assert!(own.len() >= 250, "{own:?}");
    tasks.stop_and_wait().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_simulated_child_obeys_the_cloud_and_installs_firmware_over_a_server_that_cuts() {
    let mosquitto = Mosquitto::start();
    let tasks = Tasks::new();
    let cloud = Cloud::start(Settings::new("127.0.0.1", mosquitto.port), &tasks).await.expect("cloud");
    cloud.connected().await;
    let wire = Wire::start(format!("127.0.0.1:{}", mosquitto.port), &tasks).await.expect("wire");
    let mut state = start(child(&wire, None), &tasks);
    until(&mut state, "connected", |state| state.acknowledged > 0).await;

    cloud.delta("room", json!({"setpoint": 25.5})).await;
    let reported = |state: &serde_json::Value| state.pointer("/reported/setpoint") == Some(&json!(25.5));
    cloud.expect("room", "state", PATIENCE, reported).await.expect("reported");

    cloud.command("room", "identify", "c1", json!({})).await;
    let answered = |answer: &serde_json::Value| answer["commandId"] == "c1" && answer["status"] == "succeeded";
    cloud.expect("room", "commands/identify/response", PATIENCE, answered).await.expect("answered");

    cloud.config("room", 3, json!({"interval": 1})).await;
    let rejected = |ack: &serde_json::Value| ack["version"] == 3 && ack["status"] == "rejected";
    cloud.expect("room", "config/ack", PATIENCE, rejected).await.expect("rejected");

    let ping = json!({"requestId": "p1", "type": "ping", "params": {"timestamp": 7}});
    assert_eq!(cloud.diagnose("room", ping, PATIENCE).await.expect("pong")["timestamp"], 7);

    let image: Vec<u8> = (0..300_000u32).flat_map(u32::to_le_bytes).collect();
    let order = cloud.release("job-1", "1.1.0", image);
    cloud.files().cut_after(200_000);
    cloud.update("room", &order).await;
    let end = until(&mut state, "installed", |state| {
        state.firmware == "1.1.0"
            && state.update.as_ref().is_some_and(|update| update.status == UpdateStatus::Completed)
    });
    let end = end.await;
    assert_eq!(end.update.expect("update").from.as_deref(), Some("1.0.0"));
    assert_eq!((cloud.files().requests(), cloud.files().served()), (6, 1_200_000), "each byte once");
    let completed = |status: &serde_json::Value| status["status"] == "completed" && status["to"] == "1.1.0";
    cloud.expect("room", "update/status", PATIENCE, completed).await.expect("told");

    let mut altered = cloud.release("job-2", "1.2.0", &b"good"[..]);
    cloud.files().put("firmware-1.2.0.bin", &b"evil"[..]);
    altered.signature = None;
    cloud.update("room", &altered).await;
    let failed = |status: &serde_json::Value| status["status"] == "failed" && status["jobId"] == "job-2";
    let status = cloud.expect("room", "update/status", PATIENCE, failed).await.expect("refused");
    assert!(status["error"].as_str().is_some_and(|why| why.contains("SHA-256")), "{status}");
    assert_eq!(state.borrow().firmware, "1.1.0");
    tasks.stop_and_wait().await;
}
