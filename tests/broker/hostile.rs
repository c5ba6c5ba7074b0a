//! Broken, forbidden and out-of-order packets: each ends its own connection with the standard's code, and no other.

use crate::stand::*;

#[tokio::test]
async fn every_broken_packet_ends_its_own_connection_with_the_code_of_the_standard() {
    let folder = tempfile::tempdir().expect("folder");
    let stand = Stand::start(folder.path()).await;
    let mut witness = Client::connect(stand.address(), &v5("witness")).await;
    assert_eq!(witness.subscribe("still/here", 1).await, 1);
    let publish = |topic: &[u8], rest: &[u8]| {
        let mut body = Vec::new();
        text(&mut body, topic);
        body.extend(rest);
        body
    };
    // (what, packet, code)
    let cases: Vec<(&str, Vec<u8>, u8)> = vec![
        ("a second CONNECT", v5("bad").bytes(), 0x82),
        ("CONNACK", packet(0x20, &[0, 0, 0]), 0x82),
        ("SUBACK", packet(0x90, &[0, 1, 0, 0]), 0x82),
        ("UNSUBACK", packet(0xB0, &[0, 1, 0, 0]), 0x82),
        ("PINGRESP", packet(0xD0, &[]), 0x82),
        ("packet type 0", packet(0x00, &[]), 0x81),
        ("AUTH that was not agreed on", packet(0xF0, &[]), 0x82),
        ("a topic that is not UTF-8", packet(0x30, &publish(&[0xC3, 0x28], &[0])), 0x81),
        ("a topic with a surrogate", packet(0x30, &publish(&[0xED, 0xA0, 0x80], &[0])), 0x81),
        ("a topic with a zero", packet(0x30, &publish(b"a\0b", &[0])), 0x81),
        ("a plus in a topic", packet(0x30, &publish(b"a/+", &[0])), 0x90),
        ("a hash in a topic", packet(0x30, &publish(b"#", &[0])), 0x90),
        ("no topic and no alias", packet(0x30, &publish(b"", &[0])), 0x82),
        ("alias 0", packet(0x30, &publish(b"a", &[3, 35, 0, 0])), 0x94),
        ("an alias above the maximum", packet(0x30, &publish(b"a", &[3, 35, 0xFF, 0xFF])), 0x94),
        ("an unknown alias", packet(0x30, &publish(b"", &[3, 35, 0, 3])), 0x82),
        ("an alias twice", packet(0x30, &publish(b"a", &[6, 35, 0, 1, 35, 0, 1])), 0x82),
        ("an expiry twice", packet(0x30, &publish(b"a", &[10, 2, 0, 0, 0, 1, 2, 0, 0, 0, 1])), 0x82),
        ("a property of another packet", packet(0x30, &publish(b"a", &[5, 17, 0, 0, 0, 1])), 0x81),
        ("an unknown property", packet(0x30, &publish(b"a", &[2, 99, 0])), 0x81),
        ("payload format 2", packet(0x30, &publish(b"a", &[2, 1, 2])), 0x82),
        ("properties longer than the packet", packet(0x30, &publish(b"a", &[100])), 0x81),
        ("QoS 3", packet(0x36, &publish(b"a", &[0, 1, 0])), 0x81),
        ("DUP without QoS", packet(0x38, &publish(b"a", &[0])), 0x81),
        ("PUBLISH with packet id 0", packet(0x32, &publish(b"a", &[0, 0, 0])), 0x82),
        ("SUBSCRIBE without filters", packet(0x82, &[0, 1, 0]), 0x82),
        ("SUBSCRIBE with packet id 0", packet(0x82, &[0, 0, 0, 0, 1, b'a', 0]), 0x82),
        ("SUBSCRIBE with wrong flags", packet(0x80, &[0, 1, 0, 0, 1, b'a', 0]), 0x81),
        ("SUBSCRIBE with QoS 3", packet(0x82, &[0, 1, 0, 0, 1, b'a', 3]), 0x82),
        ("SUBSCRIBE with reserved bits", packet(0x82, &[0, 1, 0, 0, 1, b'a', 0x40]), 0x81),
        ("SUBSCRIBE with retain handling 3", packet(0x82, &[0, 1, 0, 0, 1, b'a', 0x30]), 0x82),
        ("SUBSCRIBE that ends early", packet(0x82, &[0, 1, 0, 0, 9, b'a']), 0x81),
        ("subscription identifier 0", packet(0x82, &[0, 1, 2, 11, 0, 0, 1, b'a', 0]), 0x82),
        (
            "no-local on a shared subscription",
            {
                let mut body = vec![0, 1, 0];
                text(&mut body, b"$share/g/a");
                body.push(4);
                packet(0x82, &body)
            },
            0x82,
        ),
        ("UNSUBSCRIBE without filters", packet(0xA2, &[0, 1, 0]), 0x82),
        ("PUBREL with wrong flags", packet(0x60, &[0, 1]), 0x81),
        ("PUBACK without a packet id", packet(0x40, &[0]), 0x81),
        ("PINGREQ with a body", packet(0xC0, &[1]), 0x81),
        ("a session expiry that CONNECT did not ask for", packet(0xE0, &[0, 5, 17, 0, 0, 0, 9]), 0x82),
        ("a remaining length of five bytes", vec![0x30, 0x80, 0x80, 0x80, 0x80, 1], 0x81),
        ("a packet that is too large", vec![0x30, 0xFF, 0xFF, 0xFF, 0x7F], 0x95),
    ];
    for (what, bytes, code) in cases {
        let mut bad = Client::connect(stand.address(), &v5("bad")).await;
        bad.send(&bytes).await;
        bad.ended(code, what).await;
        let mut old = Client::connect(stand.address(), &v4("old")).await;
        // a 3.1.1 client sees the end only; most of these are broken there too
        if bytes[0] >> 4 == 2 || bytes[0] == 0x36 || bytes[0] == 0x60 || what.contains("QoS 3") {
            old.send(&bytes).await;
            old.ended(0, what).await;
        }
        assert_eq!(witness.publish("still/here", what, 0).await, 0);
        assert_eq!(witness.receive().await.payload, what);
    }
    stand.stop().await;
}

#[tokio::test]
async fn what_is_no_connect_is_closed_and_what_cannot_be_is_refused_with_a_code() {
    let folder = tempfile::tempdir().expect("folder");
    let stand = Stand::start(folder.path()).await;
    for first in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0x30, 3, 0, 1, b'a'], &[0xC0, 0], &[0xFF; 16]] {
        let stream = tokio::net::TcpStream::connect(stand.address()).await.expect("tcp");
        let mut client = Client { stream, v5: false, aside: Default::default() };
        client.send(first).await;
        assert_eq!(client.read().await, None, "{first:?}");
    }
    let refused = |properties: &[u8]| Connect { properties: properties.to_vec(), ..v5("x") };
    for (what, connect, code) in [
        ("receive maximum 0", refused(&[33, 0, 0]), 0x82),
        ("a maximum packet size of 0", refused(&[39, 0, 0, 0, 0]), 0x82),
        ("an authentication method", refused(&[21, 0, 1, b'x']), 0x8C),
        ("authentication data alone", refused(&[22, 0, 1, b'x']), 0x82),
        ("a property twice", refused(&[33, 0, 1, 33, 0, 1]), 0x82),
        ("a will with a wildcard", Connect { will: Some(("a/#", "", 0, false, vec![])), ..v5("x") }, 0x90),
    ] {
        let (_, _, found, _) = Client::try_connect(stand.address(), &connect).await;
        assert_eq!(found, code, "{what}");
    }
    let (_, present, code, _) = Client::try_connect(stand.address(), &Connect { clean: false, ..v4("") }).await;
    assert_eq!((present, code), (false, 2), "3.1.1: an empty client id needs a clean session");
    let mut old = v4("x").bytes();
    old[8] = 3;
    let stream = tokio::net::TcpStream::connect(stand.address()).await.expect("tcp");
    let mut client = Client { stream, v5: false, aside: Default::default() };
    client.send(&old).await;
    client.expect(0x20, &[0, 1]).await;
    stand.stop().await;
}

#[tokio::test]
async fn who_says_nothing_in_time_is_closed() {
    let folder = tempfile::tempdir().expect("folder");
    let mut config = config();
    config.limits.connect_within = std::time::Duration::from_millis(300);
    let stand = Stand::with(folder.path(), config, open(), None, std::sync::Arc::new(|_| Ok(()))).await;
    let stream = tokio::net::TcpStream::connect(stand.address()).await.expect("tcp");
    assert_eq!(Client { stream, v5: false, aside: Default::default() }.read().await, None);
    stand.stop().await;
}

#[tokio::test]
async fn acks_and_releases_of_unknown_ids_are_answered_and_harm_nothing() {
    let folder = tempfile::tempdir().expect("folder");
    let stand = Stand::start(folder.path()).await;
    let mut new = Client::connect(stand.address(), &v5("new")).await;
    new.send(&packet(0x62, &[0, 5])).await;
    new.expect(0x70, &[0, 5, 0x92, 0]).await;
    new.send(&packet(0x50, &[0, 5])).await;
    new.expect(0x62, &[0, 5, 0x92, 0]).await;
    new.send(&packet(0x40, &[0, 5])).await;
    new.send(&packet(0x70, &[0, 5])).await;
    assert_eq!(new.unsubscribe("never/was").await, Some(0x11));
    for filter in ["a#", "#/a", "+a", "$share/g", "$share//a", "$share/+/a", ""] {
        assert_eq!(new.subscribe(filter, 0).await, 0x8F, "{filter:?}");
    }
    // an ack of the wrong kind is a protocol error
    for (qos, acks) in [(1, [0x50, 0x70].as_slice()), (2, &[0x40])] {
        for ack in acks {
            let mut wrong = Client::connect(stand.address(), &v5("wrong")).await;
            wrong.subscribe("w", qos).await;
            new.publish("w", "", qos << 1).await;
            let id = wrong.take().await.packet.to_be_bytes();
            wrong.send(&packet(*ack, &id)).await;
            wrong.ended(0x82, "an ack of the wrong kind").await;
        }
    }
    let mut old = Client::connect(stand.address(), &v4("old")).await;
    old.send(&packet(0x62, &[0, 5])).await;
    old.expect(0x70, &[0, 5]).await;
    assert_eq!(old.subscribe("a#", 0).await, 0x80);
    assert_eq!(old.unsubscribe("never/was").await, None);
    stand.stop().await;
}

#[tokio::test]
async fn more_unacknowledged_messages_than_the_receive_maximum_end_the_connection() {
    let folder = tempfile::tempdir().expect("folder");
    let mut config = config();
    config.limits.receive = 3;
    config.limits.levels = 4;
    config.limits.subscriptions = 2;
    let stand = Stand::with(folder.path(), config, open(), None, std::sync::Arc::new(|_| Ok(()))).await;
    let mut client = Client::connect(stand.address(), &v5("c")).await;
    assert_eq!(client.subscribe("a/b/c/d/e", 0).await, 0x8F, "too deep");
    assert_eq!(client.publish("a/b/c/d/e", "", 2).await, 0x90, "too deep");
    assert_eq!((client.subscribe("a", 0).await, client.subscribe("b", 0).await), (0, 0));
    assert_eq!(client.subscribe("c", 0).await, 0x97, "too many");
    assert_eq!(client.subscribe("a", 1).await, 1, "known ones may change");
    for id in 1..=3 {
        let bytes = client.publish_bytes("x", "", 4, id, &[]).await;
        client.send(&bytes).await;
        client.expect(0x50, &id.to_be_bytes()).await;
    }
    let bytes = client.publish_bytes("x", "", 4, 4, &[]).await;
    client.send(&bytes).await;
    client.ended(0x93, "the fourth").await;
    stand.stop().await;
}
