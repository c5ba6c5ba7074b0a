//! Telemetry, state and the other plain topics: what is logged, what is shown, what is refused.

use headgate::{
    bus::{ChildEvent, FromDriver, Outcome, Sign, UpdateAsk},
    clock,
    model::{
        command::{Door, Refusal, RefusalCode},
        reading::{Quality, Reading, Sample, Value},
        record::{Kind, Lane},
        time::Millis,
    },
};
use serde_json::{Map, json};

use crate::harness::{Gateway, id, inbound};

fn body(record: &headgate::model::record::Record) -> String {
    String::from_utf8(record.record.body.to_vec()).expect("text")
}

#[tokio::test]
async fn telemetry_is_on_disk_before_it_is_acknowledged() {
    let mut gateway = Gateway::start();
    gateway.publish("devices/d/telemetry", r#"[{"ts":5,"t":21.50},{"values":{"h":48}}]"#).await.expect("stored");
    let records = gateway.records(Lane::Telemetry).await;
    assert_eq!(records.iter().map(body).collect::<Vec<_>>(), [r#"{"values":{"t":21.50}}"#, r#"{"values":{"h":48}}"#]);
    assert_eq!((records[0].record.ts, records[0].seq, records[1].seq), (Millis(5), 1, 2));
    let latest = gateway.keeper.latest(&id("d")).await;
    assert_eq!(latest.iter().map(|live| live.name.as_str()).collect::<Vec<_>>(), ["h", "t"]);
    assert_eq!(gateway.readings.recv().await.expect("a reading").ts, Millis(5));
    let refused = gateway.publish("devices/d/telemetry", "21.5").await.expect_err("refused");
    assert_eq!(refused.code, RefusalCode::PayloadInvalid);
    let error = gateway.expect("devices/d/errors").await;
    assert_eq!((&error["topic"], &error["code"]), (&json!("devices/d/telemetry"), &json!("payload-invalid")));
    assert!(matches!(gateway.signs.recv().await, Some(Sign::Seen { .. })));
}

#[tokio::test]
async fn a_batch_is_stored_in_order_and_a_bad_message_in_it_harms_no_other() {
    let gateway = Gateway::start();
    let mut batch = Vec::new();
    let mut answers = Vec::new();
    for n in 0..1000 {
        let payload = if n == 500 { "no".to_owned() } else { format!("{{\"n\":{n}}}") };
        let (message, answer) = inbound(&format!("devices/d{}/telemetry", n % 7), payload);
        batch.push(message);
        answers.push(answer);
    }
    gateway.inbound.send(batch).await.expect("runs");
    let mut refused = 0;
    for answer in answers {
        refused += usize::from(answer.await.expect("an answer").is_err());
    }
    assert_eq!(refused, 1);
    let records = gateway.records(Lane::Telemetry).await;
    assert_eq!(records.len(), 999);
    for n in 0..7 {
        let of: Vec<_> = records.iter().filter(|r| r.record.device == id(&format!("d{n}"))).collect();
        assert!(of.iter().enumerate().all(|(index, record)| record.seq == index as u64 + 1));
    }
}

#[tokio::test]
async fn state_is_merged_logged_and_announced() {
    let mut gateway = Gateway::start();
    gateway
        .publish("devices/d/state", r#"{"reported":{"mode":"auto","firmwareVersion":"1.0"}}"#)
        .await
        .expect("stored");
    let said = gateway.said().await;
    assert_eq!(said[1].0, "$aws/things/d/shadow/update/accepted");
    let records = gateway.records(Lane::State).await;
    assert_eq!(body(&records[0]), r#"{"reported":{"firmwareVersion":"1.0","mode":"auto"},"version":1}"#);
    gateway.publish("devices/d/state", r#"{"reported":{"mode":"auto"}}"#).await.expect("stored");
    assert_eq!(gateway.records(Lane::State).await.len(), 1, "no value became different");
    for wrong in ["{}", "5", r#"{"reported":5}"#, r#"{"reported":{},"desired":{"a":1}}"#] {
        assert_eq!(gateway.publish("devices/d/state", wrong).await.expect_err(wrong).code, RefusalCode::PayloadInvalid);
    }
    let versions: Vec<_> = std::iter::from_fn(|| gateway.signs.try_recv().ok())
        .filter_map(|sign| match sign {
            Sign::Firmware { version, .. } => Some(version),
            _ => None,
        })
        .collect();
    assert_eq!(versions, ["1.0".into()]);
}

#[tokio::test]
async fn the_delta_is_sent_again_on_connect_and_on_subscribe_until_reported_agrees() {
    let mut gateway = Gateway::start();
    let desired = headgate::bus::OrderKind::Delta(json!({"setpoint": 21, "firmwareVersion": "1.1.0"}));
    gateway.order("d", desired).await.expect("stored");
    let level = json!({"setpoint": 21, "firmwareVersion": "1.1.0"});
    assert_eq!(gateway.expect("devices/d/delta").await, level);
    let mut gateway = gateway.restart().await;
    let (device, at) = (id("d"), clock::now());
    gateway
        .children
        .send(ChildEvent::Connected { device: device.clone(), address: None, protocol: "mqtt 5", at })
        .await
        .expect("runs");
    assert_eq!(gateway.expect("devices/d/delta").await, level);
    let filter = "devices/d/#".into();
    gateway.children.send(ChildEvent::Subscribed { device: device.clone(), filter, at }).await.expect("runs");
    assert_eq!(gateway.expect("devices/d/delta").await, level);
    gateway.publish("devices/d/state", r#"{"reported":{"setpoint":21.0}}"#).await.expect("stored");
    assert_eq!(gateway.expect("devices/d/delta").await, json!({"firmwareVersion": "1.1.0"}));
    gateway.publish("devices/d/heartbeat", r#"{"uptime":5,"firmwareVersion":"1.1.0"}"#).await.expect("stored");
    gateway.said().await;
    let filter = "devices/d/delta".into();
    gateway.children.send(ChildEvent::Subscribed { device, filter, at }).await.expect("runs");
    assert!(gateway.said().await.is_empty(), "reported agrees, there is no delta to send");
}

#[tokio::test]
async fn a_driver_is_mirrored_shown_with_quality_and_folded_only_where_it_read_back() {
    let mut gateway = Gateway::start();
    let stale =
        Sample { name: "p".into(), value: None, quality: Quality::Bad { reason: "illegal data address".into() } };
    let samples = vec![Sample::good("u", Value::Float(230.5)), stale];
    gateway.driver(FromDriver::Reading(Reading { device: id("m"), ts: Millis(7), samples })).await;
    let mirrored = gateway.expect("devices/m/telemetry").await;
    assert_eq!(mirrored, json!({"ts": 7, "values": {"u": 230.5}, "q": {"p": "bad: illegal data address"}}));
    let reported = Map::from_iter([("setpoint".to_owned(), json!(21))]);
    for ts in [8, 9] {
        gateway.driver(FromDriver::Reported { device: id("m"), ts: Millis(ts), reported: reported.clone() }).await;
    }
    assert_eq!(gateway.expect("devices/m/state").await, json!({"reported": {"setpoint": 21}, "ts": 8}));
    gateway
        .driver(FromDriver::Reachable {
            device: id("m"),
            at: Millis(10),
            reachable: false,
            reason: Some("timeout".into()),
        })
        .await;
    gateway.said().await;
    let document = gateway.keeper.shadow(&id("m"), None).await.expect("read").expect("a shadow");
    assert_eq!((document.version, document.reported()), (1, reported), "the same read-back twice is one change");
    let latest = gateway.keeper.latest(&id("m")).await;
    assert_eq!(latest[1].quality, Quality::Stale { since: Millis(7), reason: "timeout".into() });
    let history = gateway.keeper.history(&id("m"), None, 10).await.expect("history");
    assert_eq!((history.len(), &history[0].door, history[0].section.as_str()), (1, &Door::Device, "reported"));
}

#[tokio::test]
async fn the_plain_topics_are_checked_logged_and_passed_on() {
    let mut gateway = Gateway::start();
    gateway.publish("devices/d/heartbeat", r#"{"ts":9,"uptime":1.50}"#).await.expect("stored");
    let status = r#"{"from":"1.0","to":"1.1","status":"downloading","progress":50}"#;
    gateway.publish("devices/d/update/status", status).await.expect("stored");
    gateway
        .publish("devices/d/config/ack", r#"{"version":7,"status":"rejected","reason":"no"}"#)
        .await
        .expect("stored");
    let chunk = r#"{"requestId":"r","chunk":1,"totalChunks":2,"payload":"x"}"#;
    gateway.publish("devices/d/diagnostics/response", chunk).await.expect("stored");
    let (ask, answered) = inbound("devices/d/update/chunk/get", "{}");
    gateway.inbound.send(vec![ask]).await.expect("runs");
    loop {
        if let Some(UpdateAsk::Chunk { reply, .. }) = gateway.asks.recv().await {
            break drop(reply.send(Ok(())));
        }
    }
    answered.await.expect("answered by the update room").expect("understood");
    let (ask, answered) = inbound("devices/d/update/chunk/get", "{}");
    gateway.inbound.send(vec![ask]).await.expect("runs");
    let none = Refusal::new(RefusalCode::NotAuthorized, "no update is on offer for this device");
    let Some(UpdateAsk::Chunk { reply, .. }) = gateway.asks.recv().await else { panic!("no ask") };
    reply.send(Err(none.clone())).expect("waits");
    assert_eq!(answered.await.expect("answered"), Err(none));
    let error = gateway.expect("devices/d/errors").await;
    assert_eq!((&error["topic"], &error["code"]), (&json!("devices/d/update/chunk/get"), &json!("not-authorized")));
    let (_, progress) = gateway.updates.recv().await.expect("passed on");
    assert_eq!((progress.progress, progress.device), (Some(50), Some(id("d"))));
    let Some(Outcome::Config { version: 7, applied: false, .. }) = gateway.outcomes.recv().await else {
        panic!("no ack")
    };
    let state = gateway.records(Lane::State).await;
    assert_eq!((body(&state[0]), state[0].record.ts), (r#"{"uptime":1.50}"#.to_owned(), Millis(9)));
    let kinds: Vec<Kind> = gateway.records(Lane::Urgent).await.iter().map(|record| record.record.kind).collect();
    assert_eq!(kinds, [Kind::UpdateStatus, Kind::ConfigAck]);
    assert_eq!(gateway.records(Lane::Logs).await.len(), 1);
    for (topic, payload) in [
        ("heartbeat", "[]"),
        ("update/status", r#"{"status":"sleeping"}"#),
        ("update/status", r#"{"status":"downloading","progress":101}"#),
        ("config/ack", r#"{"version":7}"#),
        ("diagnostics/response", "{}"),
    ] {
        let refused = gateway.publish(&format!("devices/d/{topic}"), payload).await.expect_err(topic);
        assert_eq!(refused.code, RefusalCode::PayloadInvalid, "{topic}");
    }
}
