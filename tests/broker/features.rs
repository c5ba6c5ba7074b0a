//! What MQTT 5 (and what of it 3.1.1) promises to subscribers.

use crate::stand::*;

async fn stand() -> (tempfile::TempDir, Stand) {
    let folder = tempfile::tempdir().expect("folder");
    let stand = Stand::start(folder.path()).await;
    (folder, stand)
}

#[tokio::test]
async fn every_quality_of_service_meets_every_other_in_both_versions() {
    let (_folder, stand) = stand().await;
    for new in [false, true] {
        for subscribed in 0..3_u8 {
            let connect = Connect { v5: new, ..v4("sub") };
            let mut subscriber = Client::connect(stand.address(), &connect).await;
            assert_eq!(subscriber.subscribe("t/+", subscribed).await, subscribed);
            let mut publisher = Client::connect(stand.address(), &Connect { v5: !new, ..v4("pub") }).await;
            for published in 0..3_u8 {
                assert_eq!(publisher.publish("t/1", "x", published << 1).await, 0);
                let got = subscriber.receive().await;
                assert_eq!((got.qos, got.retain, got.dup), (published.min(subscribed), false, false));
            }
            subscriber.nothing().await;
        }
    }
    stand.stop().await;
}

#[tokio::test]
async fn retained_messages_follow_the_subscription_options() {
    let (_folder, stand) = stand().await;
    let mut client = Client::connect(stand.address(), &v5("c")).await;
    client.publish("r/1", "one", 1 | 2).await;
    client.publish("r/2", "two", 1).await;
    client.publish("r/2", "", 0).await; // not retained: clears nothing
    client.publish("r/3", "three", 1).await;
    client.publish("r/3", "", 1).await; // clears
    assert_eq!(client.subscribe("r/#", 0).await, 0);
    let mut got = [client.receive().await, client.receive().await];
    got.sort_by(|a, b| a.topic.cmp(&b.topic));
    assert_eq!((got[0].payload.as_str(), got[1].payload.as_str()), ("one", "two"));
    assert!(got[0].retain && got[1].retain);
    // retain handling 1: only if new; 2: never; 0: always
    client.subscribe("r/#", 0x10).await;
    client.subscribe("r/#", 0x20).await;
    client.nothing().await;
    client.subscribe("r/1", 0x10).await;
    assert_eq!(client.receive().await.payload, "one");
    // retain as published
    client.unsubscribe("r/1").await;
    client.subscribe("r/#", 0x20 | 8).await;
    client.publish("r/1", "again", 1).await;
    assert!(client.receive().await.retain);
    client.subscribe("r/#", 0x20).await;
    client.publish("r/1", "again", 1).await;
    assert!(!client.receive().await.retain);
    stand.stop().await;
}

#[tokio::test]
async fn no_local_overlap_and_identifiers() {
    let (_folder, stand) = stand().await;
    let mut client = Client::connect(stand.address(), &v5("c")).await;
    let mut other = Client::connect(stand.address(), &v5("o")).await;
    client.subscribe("own", 4).await;
    client.publish("own", "mine", 0).await;
    client.nothing().await;
    other.publish("own", "theirs", 0).await;
    assert_eq!(client.receive().await.payload, "theirs");
    client.subscribe_with("a/#", 1, &[11, 5]).await;
    client.subscribe_with("a/+", 0, &[11, 0x80, 1]).await;
    other.publish("a/b", "x", 2).await;
    let got = client.receive().await;
    assert_eq!((got.qos, got.properties.len()), (1, 5), "one delivery with both identifiers: {got:?}");
    client.nothing().await;
    // wildcards in front do not see "$" topics
    client.subscribe("#", 0).await;
    client.subscribe("+/broker/#", 0x20).await;
    client.nothing().await;
    client.subscribe("$SYS/broker/version", 0).await;
    assert!(client.receive().await.payload.starts_with("headgate "));
    stand.stop().await;
}

#[tokio::test]
async fn properties_travel_and_expiry_counts_down() {
    let (_folder, stand) = stand().await;
    let mut old = Client::connect(stand.address(), &v4("old")).await;
    let mut new = Client::connect(stand.address(), &v5("new")).await;
    let away = Connect { clean: false, properties: vec![17, 0, 0, 0, 100], ..v5("away") };
    let mut gone = Client::connect(stand.address(), &away).await;
    for client in [&mut old, &mut new, &mut gone] {
        client.subscribe("p", 1).await;
    }
    gone.disconnect().await;
    let mut publisher = Client::connect(stand.address(), &v5("pub")).await;
    let travelling = [1, 1, 3, 0, 1, b'j', 8, 0, 1, b'r', 9, 0, 1, 9, 38, 0, 1, b'k', 0, 1, b'v'];
    let with_expiry: Vec<u8> = travelling.iter().copied().chain([2, 0, 0, 0, 4]).collect();
    publisher.publish_with("p", "x", 2, &with_expiry).await;
    assert_eq!(old.receive().await.payload, "x");
    let got = new.receive().await;
    let (left, rest) = got.properties.split_last().expect("properties");
    assert_eq!(rest, &with_expiry[..rest.len()]);
    assert!((1..=4).contains(left), "{left} seconds are left of four");
    publisher.publish_with("p", "long", 2, &[2, 0, 0, 0, 50]).await;
    // one runs out while it waits, the other has less left; at most a second of waiting is rounded away
    tokio::time::sleep(std::time::Duration::from_millis(4100)).await;
    let mut gone = Client::resume(stand.address(), &away).await;
    let got = gone.receive().await;
    assert_eq!(got.payload, "long");
    assert!(got.properties[4] < 50 && got.properties[4] > 30, "{got:?}");
    stand.stop().await;
}

#[tokio::test]
async fn aliases_both_ways() {
    let (_folder, stand) = stand().await;
    let mut subscriber = Client::connect(stand.address(), &Connect { properties: vec![34, 0, 1], ..v5("sub") }).await;
    subscriber.subscribe("#", 0).await;
    let mut publisher = Client::connect(stand.address(), &v5("pub")).await;
    publisher.publish_with("a", "1", 0, &[35, 0, 2]).await;
    publisher.publish_with("", "2", 0, &[35, 0, 2]).await;
    publisher.publish_with("b", "3", 0, &[35, 0, 2]).await;
    publisher.publish_with("", "4", 2, &[35, 0, 2]).await;
    let mut got = Vec::new();
    for _ in 0..4 {
        let message = subscriber.receive().await;
        got.push((message.topic, message.payload, message.properties));
    }
    let expected = [("a", "1", vec![35, 0, 1]), ("", "2", vec![35, 0, 1]), ("b", "3", vec![]), ("b", "4", vec![])];
    for (found, (topic, payload, properties)) in got.iter().zip(expected) {
        assert_eq!(*found, (topic.to_owned(), payload.to_owned(), properties));
    }
    stand.stop().await;
}

#[tokio::test]
async fn a_client_bounds_what_it_gets() {
    let (_folder, stand) = stand().await;
    // receive maximum 2, packets of at most 40 bytes
    let connect = Connect { properties: vec![33, 0, 2, 39, 0, 0, 0, 40], ..v5("sub") };
    let mut subscriber = Client::connect(stand.address(), &connect).await;
    subscriber.subscribe("t", 2).await;
    let mut publisher = Client::connect(stand.address(), &v5("pub")).await;
    publisher.publish("t", &"x".repeat(50), 2).await;
    for n in 0..4 {
        publisher.publish("t", &n.to_string(), 2).await;
    }
    let (first, second) = (subscriber.take().await, subscriber.take().await);
    assert_eq!((first.payload.as_str(), second.payload.as_str()), ("0", "1"), "the large one was left out");
    subscriber.nothing().await;
    subscriber.send(&packet(0x40, &second.packet.to_be_bytes())).await;
    assert_eq!(subscriber.receive().await.payload, "2");
    subscriber.send(&packet(0x40, &first.packet.to_be_bytes())).await;
    assert_eq!(subscriber.receive().await.payload, "3");
    let status = stand.broker.status();
    let row = status.iter().find(|row| row.client_id == "sub").expect("a row");
    assert_eq!(row.dropped.get("too-large-for-client"), Some(&1));
    stand.stop().await;
}

#[tokio::test]
async fn a_shared_subscription_shares() {
    let (_folder, stand) = stand().await;
    let mut members = Vec::new();
    for id in ["a", "b", "c"] {
        let mut member = Client::connect(stand.address(), &v5(id)).await;
        assert_eq!(member.subscribe("$share/g/job/+", 1).await, 1);
        members.push(member);
    }
    let mut publisher = Client::connect(stand.address(), &v4("pub")).await;
    for n in 0..30 {
        publisher.publish(&format!("job/{n}"), "x", 2).await;
    }
    for member in &mut members {
        for _ in 0..10 {
            member.receive().await;
        }
        member.nothing().await;
    }
    // what one of them leaves behind goes to the others
    for n in 0..3 {
        publisher.publish(&format!("job/{n}"), "left", 2).await;
    }
    let mut gone = members.pop().expect("c");
    assert_eq!(gone.take().await.payload, "left");
    gone.disconnect().await;
    let mut left = 0;
    while left < 3 {
        for member in &mut members {
            member.send(&[0xC0, 0]).await;
            member.expect(0xD0, &[]).await;
            while !member.aside.is_empty() {
                assert_eq!(member.receive().await.payload, "left");
                left += 1;
            }
        }
    }
    // and the turn goes on among those that are there
    for n in 0..10 {
        publisher.publish(&format!("job/{n}"), "y", 2).await;
    }
    for member in &mut members {
        for _ in 0..5 {
            assert_eq!(member.receive().await.payload, "y");
        }
    }
    stand.stop().await;
}

#[tokio::test]
async fn wills_are_said_when_they_should_be() {
    let (_folder, stand) = stand().await;
    let mut witness = Client::connect(stand.address(), &v5("witness")).await;
    witness.subscribe("will/#", 1).await;
    let with = |id, delay: u8, session: u8| Connect {
        will: Some(("will/x", "gone", 1, false, vec![24, 0, 0, 0, delay])),
        clean: false,
        properties: vec![17, 0, 0, 0, session],
        ..v5(id)
    };
    // a graceful end says nothing, 0x04 does, an abrupt end does
    Client::connect(stand.address(), &with("w", 0, 0)).await.disconnect().await;
    witness.nothing().await;
    let mut client = Client::connect(stand.address(), &with("w", 0, 0)).await;
    client.send(&packet(0xE0, &[4])).await;
    assert_eq!(witness.receive().await.payload, "gone");
    drop(Client::connect(stand.address(), &with("w", 0, 0)).await);
    assert_eq!(witness.receive().await.payload, "gone");
    // with a delay it is not said if the client is back in time
    drop(Client::connect(stand.address(), &with("w", 3, 100)).await);
    let back = loop {
        let (client, present, _, _) = Client::try_connect(stand.address(), &with("w", 3, 100)).await;
        if present {
            break client;
        }
    };
    drop(back);
    assert_eq!(witness.receive().await.payload, "gone", "said once, after the second one's delay");
    // the end of the session ends the delay
    drop(Client::connect(stand.address(), &with("v", 200, 1)).await);
    assert_eq!(witness.receive().await.payload, "gone");
    witness.nothing().await;
    // a will on an ingested topic goes to the keeper
    let will = Connect { will: Some(("devices/k/state", "{}", 1, false, vec![])), ..v4("k") };
    witness.subscribe("devices/k/state", 0).await;
    drop(Client::connect(stand.address(), &will).await);
    assert_eq!(witness.receive().await.payload, "{}");
    assert_eq!(stand.ingested.lock().expect("lock").len(), 1);
    stand.stop().await;
}

#[tokio::test]
async fn silence_ends_a_connection_and_pings_do_not() {
    let (_folder, stand) = stand().await;
    let mut silent = Client::connect(stand.address(), &Connect { keep_alive: 1, ..v5("silent") }).await;
    let begun = std::time::Instant::now();
    let mut for_ever = Client::connect(stand.address(), &v4("for-ever")).await;
    silent.ended(0x8D, "silence").await;
    assert!(begun.elapsed() >= std::time::Duration::from_millis(1400), "{:?}", begun.elapsed());
    for_ever.nothing().await;
    // a longer one than the gateway wants is shortened, and said
    let long = Connect { keep_alive: 9000, ..v5("long") };
    let (_, _, _, rest) = Client::try_connect(stand.address(), &long).await;
    assert!(rest.windows(3).any(|w| w == [19, 0, 60]), "server keep alive: {rest:?}");
    stand.stop().await;
}
