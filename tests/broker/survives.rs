//! What must outlive the process: wills that wait, and whose turn it was in a shared subscription.

use crate::stand::*;

fn lasting(id: &str, clean: bool) -> Connect<'_> {
    Connect { clean, properties: vec![17, 0, 0, 0, 60], ..v5(id) }
}

#[tokio::test]
async fn a_will_that_waits_for_its_delay_is_said_after_a_restart() {
    let folder = tempfile::tempdir().expect("folder");
    let stand = Stand::start(folder.path()).await;
    let mut hmi = Client::connect(stand.address(), &lasting("hmi", true)).await;
    hmi.subscribe("gone/#", 1).await;
    // one that is due after the stop, and some that are taken back before they are due
    let will = |topic, delay| Some((topic, "gone", 1, false, vec![24, 0, 0, 0, delay]));
    let child = Connect { will: will("gone/child", 8), ..lasting("child", true) };
    let back = Connect { will: will("gone/back", 6), ..lasting("back", true) };
    let polite = Connect { will: will("gone/polite", 6), ..lasting("polite", true) };
    drop(Client::connect(stand.address(), &child).await);
    drop(Client::connect(stand.address(), &back).await);
    let _back = Client::resume(stand.address(), &lasting("back", false)).await;
    Client::connect(stand.address(), &polite).await.disconnect().await;
    hmi.nothing().await;
    // one whose connection the stop itself ends: said at once, kept for the absent
    let short = Connect { will: will("gone/short", 0), ..lasting("short", true) };
    let _short = Client::connect(stand.address(), &short).await;
    hmi.disconnect().await;
    stand.stop().await;

    let stand = Stand::start(folder.path()).await;
    let mut hmi = Client::resume(stand.address(), &lasting("hmi", false)).await;
    assert_eq!(hmi.receive().await.topic, "gone/short");
    assert_eq!(hmi.receive().await.topic, "gone/child");
    hmi.nothing().await;
    stand.stop().await;
    // and it is said once
    let stand = Stand::start(folder.path()).await;
    let mut hmi = Client::resume(stand.address(), &lasting("hmi", false)).await;
    hmi.nothing().await;
    stand.stop().await;
}

#[tokio::test]
async fn a_shared_message_goes_to_another_member_even_if_a_restart_lies_between() {
    let folder = tempfile::tempdir().expect("folder");
    let stand = Stand::start(folder.path()).await;
    let mut gone = Client::connect(stand.address(), &lasting("gone", true)).await;
    gone.subscribe("$share/g/work", 1).await;
    let mut publisher = Client::connect(stand.address(), &v5("p")).await;
    assert_eq!(publisher.publish("work", "1", 2).await, 0);
    // it has seen it and not acknowledged it
    assert_eq!(gone.take().await.payload, "1");
    drop(gone);
    assert_eq!(publisher.publish("work", "2", 2).await, 0);
    stand.stop().await;

    let stand = Stand::start(folder.path()).await;
    let mut other = Client::connect(stand.address(), &v5("other")).await;
    other.subscribe("$share/g/work", 1).await;
    // a clean start ends the first member's session
    let mut gone = Client::connect(stand.address(), &lasting("gone", true)).await;
    let mut got = [other.receive().await.payload, other.receive().await.payload];
    got.sort();
    assert_eq!(got, ["1", "2"]);
    gone.nothing().await;
    stand.stop().await;
}

#[tokio::test]
async fn broker_answers_do_not_wait_behind_the_keeper() {
    let folder = tempfile::tempdir().expect("folder");
    let stand = Stand::start(folder.path()).await;
    let mut meter = Client::connect(stand.address(), &v5("meter")).await;
    let held = stand.hold.clone().lock_owned().await;
    let slow = meter.publish_bytes("devices/meter/telemetry", "{}", 2, 1, &[]).await;
    let exactly = meter.publish_bytes("devices/meter/telemetry", "{}", 4, 2, &[]).await;
    meter.send(&[slow, exactly].concat()).await;
    // subscribing, unsubscribing, releasing, pinging: all while the keeper holds two messages
    assert_eq!(meter.subscribe("devices/meter/delta", 1).await, 1);
    assert_eq!(meter.unsubscribe("devices/meter/delta").await, Some(0));
    meter.send(&packet(0x62, &[0, 9])).await;
    meter.expect(0x70, &[0, 9, 0x92, 0]).await;
    meter.nothing().await;
    let mut other = Client::connect(stand.address(), &lasting("other", true)).await;
    assert_eq!(other.publish("plain", "x", 2).await, 0);
    drop(held);
    meter.expect(0x40, &[0, 1]).await;
    meter.expect(0x50, &[0, 2]).await;
    stand.stop().await;
}
