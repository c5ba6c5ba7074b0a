//! Configuration of children: assignment by priority, pushes, acknowledgements, drift, alarms, counts.

use std::time::Duration;

use headgate::{
    bus::{ChildEvent, Fetch, FetchKind, OrderKind, Outcome},
    clock,
    model::{
        command::RefusalCode,
        configuration::Scope,
        device::{Device, Lifecycle, Presence, Protocol},
        record::Lane,
    },
    twins::Settings,
};
use serde_json::{Value as Json, json};
use tokio::sync::oneshot;

use crate::harness::{Gateway, id};

fn document(version: u64, config: Json) -> Json {
    json!({ "version": version, "config": config })
}

async fn register(gateway: &Gateway, name: &str, kind: &str, groups: &[&str]) {
    let device = Device {
        id: id(name),
        protocol: Protocol::Mqtt,
        kind: kind.into(),
        lifecycle: Lifecycle::Active,
        presence: Presence::Online,
        presence_since: None,
        reason: None,
        first_seen: None,
        last_seen: None,
        firmware_version: None,
        tags: Vec::new(),
        groups: groups.iter().map(|group| (*group).to_owned()).collect(),
    };
    gateway.store.save_devices(vec![device], Vec::new()).await.expect("registered");
}

/// What is wrong with the configuration of a device that does not have it.
async fn text(gateway: &Gateway, device: &str) -> String {
    let unsettled = gateway.store.unsettled().await.expect("read");
    unsettled.into_iter().find(|(d, _)| *d == id(device)).expect("drifts").1.text()
}

#[tokio::test]
async fn a_configuration_is_pushed_acknowledged_and_pushed_again_when_the_device_drifts() {
    let mut gateway = Gateway::start();
    gateway.order("d", OrderKind::Config(document(7, json!({"rate": 5})))).await.expect("assigned");
    assert_eq!(gateway.expect("devices/d/config/desired").await, document(7, json!({"rate": 5})));
    gateway.order("d", OrderKind::Config(document(7, json!({"rate": 5})))).await.expect("known");
    let other = gateway.order("d", OrderKind::Config(document(7, json!({"rate": 6})))).await.expect_err("refused");
    assert!(other.code == RefusalCode::VersionConflict && other.message.contains("another document"), "{other}");
    let older = gateway.order("d", OrderKind::Config(document(6, json!({})))).await.expect_err("refused");
    assert!(older.message.contains("older than version 7"), "{older}");
    assert!(gateway.order("d", OrderKind::Config(json!({"rate": 5}))).await.is_err());
    assert_eq!(text(&gateway, "d").await, "should have configuration version 7, has none");

    gateway.publish("devices/d/config/ack", r#"{"version":7,"status":"applied"}"#).await.expect("stored");
    assert!(matches!(gateway.outcomes.recv().await, Some(Outcome::Config { version: 7, applied: true, .. })));
    let view = gateway.keeper.config(&id("d")).await.expect("read").expect("assigned");
    assert_eq!((view.applied_version, view.status.as_deref()), (Some(7), Some("applied")));
    assert_eq!((view.pushes, &view.applied_hash), (1, &view.desired_hash));
    assert!(gateway.store.unsettled().await.expect("read").is_empty());
    assert_eq!(gateway.records(Lane::Urgent).await.len(), 1, "the acknowledgement is logged");

    let mut gateway = gateway.restart().await;
    gateway.publish("devices/d/heartbeat", r#"{"configVersion":6}"#).await.expect("stored");
    assert_eq!(gateway.expect("devices/d/config/desired").await["version"], 7);
    assert_eq!(
        text(&gateway, "d").await,
        "should have configuration version 7, has version 6: the device says it runs version 6"
    );
    let (reply, answer) = oneshot::channel();
    gateway.fetches.send(Fetch { device: id("d"), what: FetchKind::Config, reply }).await.expect("runs");
    assert_eq!(answer.await.expect("answered"), Ok(document(7, json!({"rate": 5}))));
}

#[tokio::test]
async fn the_highest_priority_counts_for_every_device_of_a_group_or_type() {
    let mut gateway = Gateway::start();
    register(&gateway, "a", "meter", &["hall"]).await;
    register(&gateway, "b", "meter", &[]).await;
    let answer =
        gateway.keeper.assign_config(Scope::Type, "meter", document(1, json!({"of": "type"}))).await.expect("assigned");
    assert_eq!(answer["devices"], 2);
    gateway.expect("devices/b/config/desired").await;
    gateway.said().await;
    gateway.keeper.assign_config(Scope::Group, "hall", document(3, json!({"of": "group"}))).await.expect("assigned");
    assert_eq!(gateway.expect("devices/a/config/desired").await, document(3, json!({"of": "group"})));
    let high = json!({"version": 2, "config": {"of": "type"}, "priority": 1000});
    gateway.keeper.assign_config(Scope::Type, "meter", high).await.expect("assigned");
    assert_eq!(gateway.expect("devices/a/config/desired").await["version"], 2);
    assert_eq!(gateway.store.unsettled().await.expect("read").len(), 2);
}

#[tokio::test]
async fn a_device_that_never_takes_its_configuration_raises_an_alarm() {
    let settings = Settings {
        config_ack: Duration::from_secs(1),
        config_pushes: 2,
        drift_alarm: Duration::from_secs(2),
        ..Settings::default()
    };
    let mut gateway = Gateway::start_with(settings);
    let (device, at) = (id("d"), clock::now());
    gateway.children.send(ChildEvent::Connected { device, address: None, protocol: "mqtt 5", at }).await.expect("runs");
    gateway.order("d", OrderKind::Config(document(1, json!({})))).await.expect("assigned");
    gateway.expect("devices/d/config/desired").await;
    gateway.expect("devices/d/config/desired").await;
    let mut log = gateway.store.appended();
    log.wait_for(|upto| upto[Lane::Urgent as usize] > 0).await.expect("an alarm");
    let events = gateway.records(Lane::Urgent).await;
    let event: Json = serde_json::from_slice(&events[0].record.body).expect("JSON");
    assert_eq!((&event["type"], &event["desiredVersion"]), (&json!("config-drift"), &json!(1)));
    assert!(gateway.store.standing(&id("d")).await.expect("read").expect("assigned").alarmed);
}

#[tokio::test]
async fn a_push_that_a_kill_took_from_the_broker_is_said_again_to_a_child_that_comes_for_it() {
    let mut gateway = Gateway::start();
    gateway.order("d", OrderKind::Config(document(7, json!({"rate": 5})))).await.expect("assigned");
    gateway.expect("devices/d/config/desired").await;
    // That it was pushed is on disk; the broker's retained message is not, as after a kill between the two.
    let mut gateway = gateway.restart().await;
    let subscribed = |filter: &str| ChildEvent::Subscribed { device: id("d"), filter: filter.into(), at: clock::now() };
    gateway.children.send(subscribed("devices/d/#")).await.expect("runs");
    assert_eq!(gateway.expect("devices/d/config/desired").await, document(7, json!({"rate": 5})));
    let view = gateway.keeper.config(&id("d")).await.expect("read").expect("assigned");
    assert_eq!(view.pushes, 1, "the same push, said again");
    gateway.children.send(subscribed("devices/d/config/desired")).await.expect("runs");
    let again = gateway.said().await;
    assert!(again.iter().all(|(topic, _)| topic != "devices/d/config/desired"), "the broker has it now: {again:?}");
}
