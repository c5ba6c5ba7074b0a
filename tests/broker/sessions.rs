//! Sessions: what they keep, across connections and restarts, and who has them.

use crate::stand::*;

fn lasting(id: &str, new: bool) -> Connect<'_> {
    let properties = if new { vec![17, 0, 0, 1, 0] } else { vec![] };
    Connect { clean: false, properties, v5: new, ..v4(id) }
}

#[tokio::test]
async fn everything_that_was_acknowledged_for_an_absent_child_is_there_after_a_restart() {
    let folder = tempfile::tempdir().expect("folder");
    let stand = Stand::start(folder.path()).await;
    for (id, new) in [("old", false), ("new", true)] {
        let mut client = Client::connect(stand.address(), &lasting(id, new)).await;
        assert_eq!(client.subscribe("q/#", 2).await, 2);
        client.disconnect().await;
    }
    let mut publisher = Client::connect(stand.address(), &v4("pub")).await;
    for n in 0..300_u16 {
        publisher.publish(&format!("q/{n}"), &n.to_string(), if n % 2 == 0 { 2 } else { 4 }).await;
    }
    publisher.publish("q/none", "qos 0 is not kept", 0).await;
    stand.stop().await;

    let stand = Stand::start(folder.path()).await;
    for (id, new) in [("old", false), ("new", true)] {
        let mut client = Client::resume(stand.address(), &lasting(id, new)).await;
        for n in 0..300_u16 {
            let got = client.receive().await;
            assert_eq!((got.payload, got.qos, got.dup), (n.to_string(), if n % 2 == 0 { 1 } else { 2 }, false), "{id}");
        }
        client.nothing().await;
        client.disconnect().await;
    }
    stand.stop().await;
    let stand = Stand::start(folder.path()).await;
    let mut client = Client::resume(stand.address(), &lasting("old", false)).await;
    client.nothing().await;
    stand.stop().await;
}

#[tokio::test]
async fn what_is_on_its_way_comes_again_with_dup_and_its_packet_id() {
    let folder = tempfile::tempdir().expect("folder");
    let stand = Stand::start(folder.path()).await;
    let mut client = Client::connect(stand.address(), &lasting("c", false)).await;
    client.subscribe("t", 2).await;
    let mut publisher = Client::connect(stand.address(), &v4("pub")).await;
    for flags in [2, 4, 4] {
        publisher.publish("t", &flags.to_string(), flags).await;
    }
    let first = [client.take().await, client.take().await, client.take().await];
    // the last one is received, its release stays open
    let last = first[2].packet.to_be_bytes();
    client.send(&packet(0x50, &last)).await;
    client.expect(0x62, &last).await;
    drop(client);
    let mut client = Client::resume(stand.address(), &lasting("c", false)).await;
    for before in &first[..2] {
        let again = client.take().await;
        assert_eq!(again, Got { dup: true, ..before.clone() });
    }
    client.expect(0x62, &last).await;
    // and after a restart just so
    stand.stop().await;
    let stand = Stand::start(folder.path()).await;
    let mut client = Client::resume(stand.address(), &lasting("c", false)).await;
    for before in &first[..2] {
        assert_eq!(client.take().await, Got { dup: true, ..before.clone() });
    }
    client.expect(0x62, &last).await;
    client.send(&packet(0x70, &last)).await;
    client.send(&packet(0x40, &first[0].packet.to_be_bytes())).await;
    client.send(&packet(0x50, &first[1].packet.to_be_bytes())).await;
    client.expect(0x62, &first[1].packet.to_be_bytes()).await;
    client.send(&packet(0x70, &first[1].packet.to_be_bytes())).await;
    client.nothing().await;
    client.disconnect().await;
    let mut client = Client::resume(stand.address(), &lasting("c", false)).await;
    client.nothing().await;
    stand.stop().await;
}

#[tokio::test]
async fn a_message_of_qos_2_counts_once_across_a_restart() {
    let folder = tempfile::tempdir().expect("folder");
    let stand = Stand::start(folder.path()).await;
    let mut publisher = Client::connect(stand.address(), &lasting("pub", false)).await;
    let bytes = publisher.publish_bytes("devices/pub/telemetry", "{}", 4, 7, &[]).await;
    publisher.send(&bytes).await;
    publisher.expect(0x50, &[0, 7]).await;
    drop(publisher);
    assert_eq!(stand.ingested.lock().expect("lock").len(), 1);
    stand.stop().await;
    let stand = Stand::start(folder.path()).await;
    let mut publisher = Client::resume(stand.address(), &lasting("pub", false)).await;
    let again = publisher.publish_bytes("devices/pub/telemetry", "{}", 4 | 8, 7, &[]).await;
    publisher.send(&again).await;
    publisher.expect(0x50, &[0, 7]).await;
    publisher.send(&packet(0x62, &[0, 7])).await;
    publisher.expect(0x70, &[0, 7]).await;
    assert_eq!(stand.ingested.lock().expect("lock").len(), 0, "it was taken in before the restart");
    // the id is free again
    assert_eq!(publisher.publish("devices/pub/telemetry", "{}", 4).await, 0);
    assert_eq!(stand.ingested.lock().expect("lock").len(), 1);
    stand.stop().await;
}

#[tokio::test]
async fn retained_messages_survive_a_restart_and_all_are_delivered() {
    let folder = tempfile::tempdir().expect("folder");
    let stand = Stand::start(folder.path()).await;
    let mut publisher = Client::connect(stand.address(), &v4("pub")).await;
    let payload = "x".repeat(20_000);
    for n in 0..500 {
        publisher.publish(&format!("r/{n}"), &payload, 1 | if n == 499 { 2 } else { 0 }).await;
    }
    stand.stop().await;
    let stand = Stand::start(folder.path()).await;
    let mut client = Client::connect(stand.address(), &v4("c")).await;
    client.subscribe("r/#", 1).await;
    let mut topics = std::collections::BTreeSet::new();
    for _ in 0..500 {
        let got = client.receive().await;
        assert!(got.retain && got.payload == payload);
        topics.insert(got.topic);
    }
    assert_eq!(topics.len(), 500, "ten megabytes of them");
    client.nothing().await;
    stand.stop().await;
}

#[tokio::test]
async fn a_session_has_one_connection_and_the_newest_has_it() {
    let folder = tempfile::tempdir().expect("folder");
    let stand = Stand::start(folder.path()).await;
    let mut first = Client::connect(stand.address(), &lasting("c", true)).await;
    first.subscribe("t", 1).await;
    let mut second = Client::resume(stand.address(), &lasting("c", true)).await;
    first.ended(0x8E, "taken over").await;
    assert_eq!(second.publish("t", "x", 2).await, 0);
    assert_eq!(second.receive().await.payload, "x");
    // a crowd that wants the same one: all are answered, one remains
    let mut crowd = Vec::new();
    for _ in 0..20 {
        crowd.push(Client::connect(stand.address(), &lasting("c", true)).await);
    }
    let mut last = crowd.pop().expect("the last");
    for mut other in crowd {
        other.ended(0x8E, "taken over").await;
    }
    last.nothing().await;
    // a clean start ends what was
    let clean = Connect { clean: true, ..lasting("c", true) };
    let (mut client, present, _, _) = Client::try_connect(stand.address(), &clean).await;
    assert!(!present);
    client.publish("t", "x", 2).await;
    client.nothing().await;
    // no session expiry: it ends with its connection
    let brief = Connect { clean: true, ..v5("brief") };
    Client::connect(stand.address(), &brief).await.disconnect().await;
    let back = Connect { clean: false, ..v5("brief") };
    assert!(!Client::try_connect(stand.address(), &back).await.1);
    stand.stop().await;
}

#[tokio::test]
async fn an_empty_client_id_is_given_one() {
    let folder = tempfile::tempdir().expect("folder");
    let stand = Stand::start(folder.path()).await;
    let (_one, _, code, rest) = Client::try_connect(stand.address(), &v5("")).await;
    let text = String::from_utf8_lossy(&rest);
    assert!(code == 0 && text.contains("anonymous/"), "{text}");
    // a client id that can be no device id belongs to the guest
    let _mine = Client::connect(stand.address(), &v5("mine id")).await;
    assert!(stand.broker.status().iter().any(|row| row.client_id == "mine id" && row.device == "anonymous"));
    stand.stop().await;
}

#[tokio::test]
async fn a_slow_or_absent_child_loses_nothing_that_was_promised_and_overflow_is_counted() {
    let folder = tempfile::tempdir().expect("folder");
    let mut config = config();
    config.limits.queued = 1 << 20;
    let stand = Stand::with(folder.path(), config, open(), None, std::sync::Arc::new(|_| Ok(()))).await;
    let mut slow = Client::connect(stand.address(), &v4("slow")).await;
    slow.subscribe("t", 1).await;
    let mut absent = Client::connect(stand.address(), &lasting("absent", false)).await;
    absent.subscribe("small", 1).await;
    absent.subscribe("large", 1).await;
    absent.disconnect().await;
    let mut publisher = Client::connect(stand.address(), &v4("pub")).await;
    for n in 0..4000_u32 {
        publisher.publish("t", &n.to_string(), 2).await;
    }
    for n in 0..4000_u32 {
        assert_eq!(slow.receive().await.payload, n.to_string());
    }
    let large = "x".repeat(100_000);
    for _ in 0..12 {
        publisher.publish("large", &large, 2).await;
    }
    let status = stand.broker.status();
    let row = status.iter().find(|row| row.client_id == "absent").expect("a row");
    assert_eq!((row.queued, row.dropped.get("queue-full")), (10, Some(&2)));
    let mut absent = Client::resume(stand.address(), &lasting("absent", false)).await;
    for _ in 0..10 {
        assert_eq!(absent.receive().await.payload.len(), 100_000);
    }
    absent.nothing().await;
    stand.stop().await;
}

#[tokio::test]
async fn a_thousand_children_come_at_once() {
    let folder = tempfile::tempdir().expect("folder");
    let stand = Stand::start(folder.path()).await;
    let address = stand.address();
    let begun = std::time::Instant::now();
    let crowd = (0..1000).map(|n| async move {
        let id = format!("child-{n}");
        let mut client = Client::connect(address, &Connect { v5: n % 2 == 0, ..v4(&id) }).await;
        client.subscribe(&format!("devices/{id}/delta"), 1).await;
        let telemetry = format!("devices/{id}/telemetry");
        assert_eq!(client.publish(&telemetry, "{\"v\":1}", 2).await, 0);
        client
    });
    let clients = futures_util::future::join_all(crowd).await;
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    assert_eq!(stand.broker.status().iter().filter(|row| row.connected).count(), 1000);
    assert_eq!(stand.ingested.lock().expect("lock").len(), 1000);
    drop(clients);
    stand.stop().await;
}
