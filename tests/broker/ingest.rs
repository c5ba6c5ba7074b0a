//! A PUBACK means "on disk": when acks leave, what refusals look like, and what nobody may say.

use std::sync::Arc;

use headgate::{
    bus::{ChildEvent, LocalMessage},
    model::{
        access::{Access, Grantee},
        command::{Refusal, RefusalCode},
        ids::DeviceId,
    },
};

use crate::stand::*;

#[tokio::test]
async fn the_ack_waits_for_the_keeper_and_subscribers_hear_only_what_was_kept() {
    let folder = tempfile::tempdir().expect("folder");
    let stand = Stand::start(folder.path()).await;
    let mut hmi = Client::connect(stand.address(), &v5("hmi")).await;
    hmi.subscribe("devices/+/telemetry", 1).await;
    let mut meter = Client::connect(stand.address(), &v4("meter")).await;
    let held = stand.hold.clone().lock_owned().await;
    let bytes = meter.publish_bytes("devices/meter/telemetry", "{\"t\":1}", 2, 7, &[]).await;
    meter.send(&bytes).await;
    // a ping is answered while the ack waits
    meter.nothing().await;
    hmi.nothing().await;
    drop(held);
    meter.expect(0x40, &[0, 7]).await;
    assert_eq!(hmi.receive().await.payload, "{\"t\":1}");
    // acks come in the order of the messages, whatever each waits for
    let held = stand.hold.clone().lock_owned().await;
    let first = meter.publish_bytes("devices/meter/telemetry", "{}", 2, 1, &[]).await;
    let second = meter.publish_bytes("plain", "", 2, 2, &[]).await;
    meter.send(&[first, second].concat()).await;
    meter.nothing().await;
    drop(held);
    meter.expect(0x40, &[0, 1]).await;
    meter.expect(0x40, &[0, 2]).await;
    // what is in the air when a client goes is kept and heard
    meter.publish("devices/meter/telemetry", "last", 0).await;
    meter.disconnect().await;
    assert_eq!(hmi.receive().await.payload, "{}");
    assert_eq!(hmi.receive().await.payload, "last");
    assert_eq!(stand.ingested.lock().expect("lock").len(), 3);
    stand.stop().await;
}

#[tokio::test]
async fn a_refused_message_is_never_silence() {
    let folder = tempfile::tempdir().expect("folder");
    let judge = |inbound: &headgate::bus::Inbound| match &inbound.payload[..] {
        b"bad" => Err(Refusal::new(RefusalCode::PayloadInvalid, "no JSON")),
        b"full" => Err(Refusal::new(RefusalCode::StoreUnavailable, "disk full")),
        _ => Ok(()),
    };
    let stand = Stand::with(folder.path(), config(), Access::default(), None, Arc::new(judge)).await;
    let mut new = Client::connect(stand.address(), &v5("new")).await;
    let mut errors = Client::connect(stand.address(), &v4("old")).await;
    errors.subscribe("devices/old/errors", 0).await;
    assert_eq!(new.publish("devices/new/telemetry", "bad", 2).await, 0x99);
    assert_eq!(new.publish("devices/new/telemetry", "bad", 4).await, 0x99);
    assert_eq!(new.publish("devices/new/telemetry", "full", 2).await, 0x83);
    assert_eq!(new.publish("devices/new/telemetry", "good", 4).await, 0);
    assert_eq!(new.publish("devices/old/telemetry", "good", 2).await, 0x87, "another's subtree");
    assert_eq!(new.publish("devices/new/delta", "{}", 2).await, 0x87, "an answer topic");
    assert_eq!(new.publish("$aws/things/new/shadow/update/accepted", "{}", 4).await, 0x87);
    // 3.1.1 has no codes: a plain ack, and the reason on the errors topic (what the keeper refuses, the keeper tells)
    assert_eq!(errors.publish("devices/old/telemetry", "bad", 2).await, 0);
    let bytes = errors.publish_bytes("devices/old/delta", "{}", 2, 7, &[]).await;
    errors.send(&bytes).await;
    let mut told = None;
    for _ in 0..2 {
        match errors.read().await.expect("ack and error") {
            (0x40, body) => assert_eq!(body, [0, 7]),
            (_, body) => told = Some(String::from_utf8_lossy(&body).into_owned()),
        }
    }
    let told = told.expect("an error");
    assert!(told.contains("\"code\":\"not-authorized\"") && told.contains("devices/old/delta"), "{told}");
    // the disk refuses: no ack, so that it comes again
    let bytes = errors.publish_bytes("devices/old/telemetry", "full", 2, 8, &[]).await;
    errors.send(&bytes).await;
    errors.ended(0, "not stored").await;
    let status = stand.broker.status();
    let row = status.iter().find(|row| row.client_id == "new").expect("a row");
    assert_eq!(row.dropped.get("refused-payload-invalid"), Some(&2));
    assert_eq!(row.dropped.get("refused-not-authorized"), Some(&3));
    assert!(row.last_error.is_some() && row.connected && row.messages_in == 7);
    stand.stop().await;
}

#[tokio::test]
async fn subscriptions_and_wills_beyond_the_grant_are_refused() {
    let folder = tempfile::tempdir().expect("folder");
    let hmi = [Grantee::Device(DeviceId::new("hmi").expect("id"))];
    let access =
        Access { grants: vec![grant(&hmi, &["devices/+/telemetry", "$SYS/broker/#"], &[])], ..Access::default() };
    let stand = Stand::with(folder.path(), config(), access.clone(), None, Arc::new(|_| Ok(()))).await;
    let mut client = Client::connect(stand.address(), &v5("hmi")).await;
    for (filter, code) in [
        ("devices/+/telemetry", 0),
        ("$share/g/devices/+/telemetry", 0),
        ("devices/hmi/#", 0),
        ("$aws/things/hmi/shadow/update/delta", 0),
        ("#", 0x87),
        ("devices/#", 0x87),
        ("devices/other/state", 0x87),
        ("$share/g/#", 0x87),
        ("$SYS/#", 0x87),
    ] {
        assert_eq!(client.subscribe(filter, 0).await, code, "{filter}");
    }
    let mut old = Client::connect(stand.address(), &v4("d")).await;
    assert_eq!(old.subscribe("devices/#", 0).await, 0x80);
    let will = Connect { will: Some(("devices/x/state", "", 0, false, vec![])), ..v5("d2") };
    assert_eq!(Client::try_connect(stand.address(), &will).await.2, 0x87);
    let will = Connect { will: Some(("devices/x/state", "", 0, false, vec![])), ..v4("d2") };
    assert_eq!(Client::try_connect(stand.address(), &will).await.2, 5);
    // rules that change end what they no longer allow
    assert_eq!(old.publish("devices/d/telemetry", "1", 2).await, 0);
    assert_eq!(client.receive().await.topic, "devices/d/telemetry");
    assert_eq!(client.receive().await.topic, "devices/d/telemetry", "the shared one");
    stand.broker.set_access(Access::default());
    assert_eq!(old.publish("devices/d/telemetry", "2", 2).await, 0);
    client.nothing().await;
    stand.stop().await;
}

#[tokio::test]
async fn the_gateway_speaks_and_is_told_who_comes_listens_and_goes() {
    let folder = tempfile::tempdir().expect("folder");
    let mut stand = Stand::start(folder.path()).await;
    let mut child = Client::connect(stand.address(), &v5("child")).await;
    assert!(
        matches!(stand.events.recv().await, Some(ChildEvent::Connected { device, .. }) if device.as_str() == "child")
    );
    child.subscribe("devices/child/delta", 1).await;
    loop {
        match stand.events.recv().await.expect("an event") {
            ChildEvent::Subscribed { filter, .. } => break assert_eq!(&*filter, "devices/child/delta"),
            ChildEvent::Seen { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    stand.local.send(LocalMessage::new("devices/child/delta", "{\"a\":1}")).await.expect("sent");
    let got = child.receive().await;
    assert_eq!((got.payload.as_str(), got.qos, got.retain), ("{\"a\":1}", 1, false));
    stand.broker.forget(&DeviceId::new("child").expect("id")).await;
    child.ended(0x87, "decommissioned").await;
    loop {
        match stand.events.recv().await.expect("an event") {
            ChildEvent::Disconnected { reason, .. } => break assert_eq!(reason, "this device is decommissioned"),
            ChildEvent::Seen { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    stand.stop().await;
}
