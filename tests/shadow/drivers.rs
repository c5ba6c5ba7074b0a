//! Desired values and commands for devices behind a driver: the test plays the driver.

use std::time::Duration;

use headgate::{
    bus::{ChildEvent, Fetch, FetchKind, FromDriver, OrderKind, Outcome, ToDriver, ToDriverReceiver},
    clock,
    model::{
        command::{Command, CommandResponse, CommandStatus, Door, Lock, Refusal, RefusalCode},
        record::Lane,
    },
    twins::Settings,
};
use serde_json::{Map, Value as Json, json};
use tokio::sync::{mpsc, oneshot};

use crate::harness::{Gateway, id};

async fn attached(gateway: &Gateway) -> ToDriverReceiver {
    let (driver, inbox) = mpsc::channel(8);
    gateway.keeper.attach(id("m"), driver).await;
    inbox
}

async fn next(inbox: &mut ToDriverReceiver) -> ToDriver {
    tokio::time::timeout(Duration::from_secs(10), inbox.recv()).await.expect("within 10 s").expect("the keeper runs")
}

/// The next write, with the way to answer it.
async fn write(inbox: &mut ToDriverReceiver) -> (Json, headgate::bus::Reply<Vec<(String, Refusal)>>) {
    match next(inbox).await {
        ToDriver::Write { values, reply, .. } => (Json::Object(values), reply),
        other => panic!("{other:?}"),
    }
}

async fn call(inbox: &mut ToDriverReceiver) -> (Command, headgate::bus::Reply<CommandResponse>) {
    match next(inbox).await {
        ToDriver::Call { command, reply, .. } => (command, reply),
        other => panic!("{other:?}"),
    }
}

async fn desire(gateway: &Gateway, desired: Json) {
    gateway.order("m", OrderKind::Delta(desired)).await.expect("stored");
}

async fn read_back(gateway: &Gateway, reported: Json) {
    let reported = reported.as_object().cloned().unwrap_or_default();
    gateway.driver(FromDriver::Reported { device: id("m"), ts: clock::now(), reported }).await;
}

async fn reachable(gateway: &Gateway, reachable: bool) {
    gateway.driver(FromDriver::Reachable { device: id("m"), at: clock::now(), reachable, reason: None }).await;
}

async fn problems(gateway: &mut Gateway) -> Map<String, Json> {
    gateway.said().await;
    gateway.keeper.problems(&id("m")).await.expect("read")
}

fn command(name: &str, command_id: &str) -> OrderKind {
    let params = json!({"n": 1});
    OrderKind::Command(Command { name: name.into(), command_id: command_id.into(), params, expires_at: None })
}

#[tokio::test]
async fn a_desired_value_is_written_once_and_gone_when_it_is_read_back() {
    let gateway = Gateway::start();
    let mut inbox = attached(&gateway).await;
    desire(&gateway, json!({"setpoint": 21, "mode": "auto"})).await;
    let (values, reply) = write(&mut inbox).await;
    assert_eq!(values, json!({"setpoint": 21, "mode": "auto"}));
    read_back(&gateway, json!({"setpoint": 21})).await;
    reply.send(Ok(Vec::new())).expect("waits");
    desire(&gateway, json!({"mode": "off"})).await;
    let (values, reply) = write(&mut inbox).await;
    assert_eq!(values, json!({"mode": "off"}), "only what is outstanding");
    read_back(&gateway, json!({"mode": "off"})).await;
    reply.send(Ok(Vec::new())).expect("waits");
    let document = loop {
        let document = gateway.keeper.shadow(&id("m"), None).await.expect("read").expect("a shadow");
        if document.delta().is_empty() {
            break document;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(document.reported(), document.desired());
    assert!(inbox.try_recv().is_err());
}

#[tokio::test]
async fn a_refusal_is_seen_in_the_shadow_on_the_topics_and_in_the_log_until_the_value_changes() {
    let mut gateway = Gateway::start();
    let mut inbox = attached(&gateway).await;
    desire(&gateway, json!({"setpoint": 1000})).await;
    let (_, reply) = write(&mut inbox).await;
    let refusal = Refusal::new(RefusalCode::OutOfRange, "setpoint is 5 to 30 °C");
    reply.send(Ok(vec![("setpoint".into(), refusal)])).expect("waits");
    let error = gateway.expect("devices/m/errors").await;
    assert_eq!(
        (&error["code"], &error["message"]),
        (&json!("out-of-range"), &json!("setpoint = 1000: setpoint is 5 to 30 °C"))
    );
    let documents = gateway.expect("$aws/things/m/shadow/name/headgate/update/accepted").await;
    assert_eq!(documents["state"]["reported"]["problems"]["setpoint"]["value"], 1000);
    assert_eq!(problems(&mut gateway).await["setpoint"]["code"], "out-of-range");
    let events = gateway.records(Lane::Urgent).await;
    assert!(String::from_utf8_lossy(&events[0].record.body).contains("desired-refused"));
    // Back after an outage: what is wrong in itself is not tried again.
    reachable(&gateway, false).await;
    reachable(&gateway, true).await;
    assert_eq!(problems(&mut gateway).await.len(), 1);
    assert!(inbox.try_recv().is_err());
    desire(&gateway, json!({"setpoint": 22})).await;
    let (values, reply) = write(&mut inbox).await;
    assert_eq!(values, json!({"setpoint": 22}));
    reply.send(Ok(Vec::new())).expect("waits");
    read_back(&gateway, json!({"setpoint": 22})).await;
    assert_eq!(problems(&mut gateway).await, Map::new());
}

#[tokio::test]
async fn a_desired_value_waits_while_the_device_is_away_and_survives_a_restart() {
    let gateway = Gateway::start();
    let mut inbox = attached(&gateway).await;
    reachable(&gateway, false).await;
    gateway.keeper.pulse().await;
    desire(&gateway, json!({"setpoint": 21})).await;
    let mut gateway = gateway.restart().await;
    assert!(inbox.try_recv().is_err(), "nothing is sent to a device that is away");
    let mut inbox = attached(&gateway).await;
    let (values, reply) = write(&mut inbox).await;
    assert_eq!(values, json!({"setpoint": 21}), "level-triggered after a restart");
    reply.send(Err(Refusal::new(RefusalCode::DeviceFailed, "timeout"))).expect("waits");
    assert_eq!(gateway.expect("devices/m/errors").await["code"], "device-failed");
    reachable(&gateway, false).await;
    reachable(&gateway, true).await;
    let (values, _reply) = write(&mut inbox).await;
    assert_eq!(values, json!({"setpoint": 21}), "again at its return");
}

#[tokio::test]
async fn a_technicians_lock_holds_a_value_back_until_it_is_taken_off() {
    let mut gateway = Gateway::start();
    let mut inbox = attached(&gateway).await;
    let anna = || Door::Technician("anna".into());
    let lock = Lock { by: "anna".into(), until: None };
    gateway.keeper.lock(id("m"), "setpoint".into(), Some(lock), anna()).await;
    desire(&gateway, json!({"setpoint": 21, "mode": "auto"})).await;
    let (values, reply) = write(&mut inbox).await;
    assert_eq!(values, json!({"mode": "auto"}));
    reply.send(Ok(Vec::new())).expect("waits");
    read_back(&gateway, json!({"mode": "auto"})).await;
    assert!(problems(&mut gateway).await["setpoint"]["message"].as_str().expect("text").contains("locked by anna"));
    let gateway = gateway.restart().await;
    let mut inbox = attached(&gateway).await;
    gateway.keeper.lock(id("m"), "setpoint".into(), None, anna()).await;
    let (values, _) = write(&mut inbox).await;
    assert_eq!(values, json!({"setpoint": 21}), "a lock survives a restart, and its end lets the value through");
}

#[tokio::test]
async fn a_desired_value_that_nobody_took_is_withdrawn_when_its_time_is_over() {
    let settings = Settings { desired_expiry: Some(Duration::from_secs(6)), ..Settings::default() };
    let mut gateway = Gateway::start_with(settings);
    // Time enough to store it and to read b back, on a busy disk as well.
    let soon = clock::now().plus(3000).0;
    gateway
        .order("m", OrderKind::Desired(json!({"desired": {"a": 1, "b": 2}, "expiresAt": soon})))
        .await
        .expect("stored");
    desire(&gateway, json!({"c": 3})).await;
    read_back(&gateway, json!({"b": 2})).await;
    let error = gateway.expect("devices/m/errors").await;
    assert_eq!(
        (&error["code"], &error["message"]),
        (&json!("expired"), &json!("not taken in time and withdrawn: desired/a"))
    );
    let document = gateway.keeper.shadow(&id("m"), None).await.expect("read").expect("a shadow");
    assert_eq!(Json::Object(document.desired()), json!({"b": 2, "c": 3}), "what was taken stays");
    assert!(gateway.expect("devices/m/errors").await["message"].as_str().expect("text").contains("desired/c"));
}

#[tokio::test]
async fn a_wish_that_comes_after_its_end_is_refused_and_never_seen_by_the_device() {
    let gateway = Gateway::start();
    let mut inbox = attached(&gateway).await;
    let past = clock::now().plus(-1).0;
    let late = gateway.order("m", OrderKind::Desired(json!({"desired": {"a": 1}, "expiresAt": past}))).await;
    assert_eq!(late.expect_err("too late").code, RefusalCode::Expired);
    for no_time in [json!("tomorrow"), json!(1.5)] {
        let order = OrderKind::Desired(json!({"desired": {"a": 1}, "expiresAt": no_time}));
        let refused = gateway.order("m", order).await.expect_err("no time");
        assert_eq!(refused.code, RefusalCode::PayloadInvalid, "{refused}");
    }
    assert!(gateway.keeper.shadow(&id("m"), None).await.expect("read").is_none(), "nothing was desired");
    assert!(inbox.try_recv().is_err(), "nothing was written");
}

#[tokio::test]
async fn a_driver_carries_out_a_command_once_and_its_answer_is_logged() {
    let mut gateway = Gateway::start();
    let mut inbox = attached(&gateway).await;
    for _ in 0..2 {
        gateway.order("m", command("reset", "c1")).await.expect("stored");
    }
    let (called, reply) = call(&mut inbox).await;
    assert_eq!((called.name.as_str(), called.params), ("reset", json!({"n": 1})));
    let response =
        CommandResponse { command_id: "c1".into(), status: CommandStatus::Succeeded, result: Some(json!(7)) };
    reply.send(Ok(response.clone())).expect("waits");
    let Some(Outcome::Command { response: told, .. }) = gateway.outcomes.recv().await else { panic!("no outcome") };
    assert_eq!(told, response);
    let again = gateway.order("m", command("reset", "c1")).await.expect("known");
    assert_eq!(again["status"], "succeeded");
    assert!(inbox.try_recv().is_err());
    let log = gateway.records(Lane::Urgent).await;
    assert_eq!((log.len(), log[0].record.name.as_deref()), (1, Some("reset")));

    // Under way when the gateway stops: nobody knows, and the answer says so.
    gateway.order("m", command("reset", "c2")).await.expect("stored");
    let _under_way = call(&mut inbox).await;
    let mut gateway = gateway.restart().await;
    let mut inbox = attached(&gateway).await;
    let Some(Outcome::Command { response, .. }) = gateway.outcomes.recv().await else { panic!("no outcome") };
    assert_eq!((response.status, &response.result.expect("why")["code"]), (CommandStatus::Failed, &json!("unknown")));
    assert!(inbox.try_recv().is_err(), "not carried out a second time");
}

#[tokio::test]
async fn a_child_gets_its_commands_when_it_is_there_until_it_answers() {
    let mut gateway = Gateway::start();
    let order = |id: &str| {
        let Ok(OrderKind::Command(order)) = Ok::<_, ()>(command("blink", id)) else { unreachable!() };
        order
    };
    gateway.order("m", OrderKind::Command(order("c1"))).await.expect("stored");
    // It is stored before, and runs out after the restart.
    let soon = Some(clock::now().plus(3000));
    gateway.order("m", OrderKind::Command(Command { expires_at: soon, ..order("c2") })).await.expect("stored");
    assert_eq!(gateway.expect("devices/m/commands/blink").await, json!({"commandId": "c1", "params": {"n": 1}}));
    let mut gateway = gateway.restart().await;
    let (reply, answer) = oneshot::channel();
    gateway.fetches.send(Fetch { device: id("m"), what: FetchKind::Commands, reply }).await.expect("runs");
    assert_eq!(answer.await.expect("answer").expect("list")[0]["name"], "blink");
    let Some(Outcome::Command { response, .. }) = gateway.outcomes.recv().await else { panic!("no outcome") };
    assert_eq!((response.command_id.as_str(), &response.result.expect("why")["code"]), ("c2", &json!("expired")));
    let (device, at) = (id("m"), clock::now());
    let filter = "devices/m/commands/+".into();
    gateway.children.send(ChildEvent::Subscribed { device: device.clone(), filter, at }).await.expect("runs");
    assert_eq!(gateway.expect("devices/m/commands/blink").await["commandId"], "c1");
    let answer = r#"{"commandId":"c1","status":"rejected","result":{"why":"no"}}"#;
    for _ in 0..2 {
        gateway.publish("devices/m/commands/blink/response", answer).await.expect("stored");
    }
    let Some(Outcome::Command { response, .. }) = gateway.outcomes.recv().await else { panic!("no outcome") };
    assert_eq!(response.status, CommandStatus::Rejected);
    assert_eq!(gateway.records(Lane::Urgent).await.len(), 2, "expired once, answered once");
    gateway.children.send(ChildEvent::Connected { device, address: None, protocol: "mqtt 5", at }).await.expect("runs");
    assert!(gateway.said().await.is_empty());
    let wrong = gateway.publish("devices/m/commands/blink/response", "{}").await.expect_err("refused");
    assert!(wrong.message.contains("commandId"));
}

#[tokio::test]
async fn a_command_for_a_driver_that_is_busy_is_given_again_after_a_pause_and_answered_once() {
    let mut gateway = Gateway::start();
    let mut inbox = attached(&gateway).await;
    reachable(&gateway, true).await;
    gateway.order("m", command("restart", "c1")).await.expect("stored");
    let (_, reply) = call(&mut inbox).await;
    reply.send(Err(Refusal::new(RefusalCode::Busy, "too much to do"))).expect("the keeper listens");
    // Nothing happens meanwhile that would be another reason to ask again.
    let again = tokio::time::timeout(Duration::from_secs(40), inbox.recv()).await.expect("asked again");
    let Some(ToDriver::Call { command, reply, .. }) = again else { panic!("{again:?}") };
    assert_eq!(command.command_id, "c1");
    let done = CommandResponse { command_id: "c1".into(), status: CommandStatus::Succeeded, result: None };
    reply.send(Ok(done)).expect("the keeper listens");
    gateway.expect("devices/m/commands/restart/response").await;
    assert!(inbox.try_recv().is_err(), "answered: not given again");
}
