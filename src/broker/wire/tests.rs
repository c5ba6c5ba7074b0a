//! The codec path against hostile bytes: every input ends in a packet or a fault, and what we write the codec reads.

use proptest::prelude::*;

use super::{encode::*, *};

fn one(version: Version, bytes: &[u8]) -> Result<Packet, Fault> {
    let mut buffer = BytesMut::from(bytes);
    let frame = frame(&mut buffer, Some(version), 1 << 20)?.expect("a whole packet");
    packet(version, frame)
}

fn code(version: Version, bytes: &[u8]) -> u8 {
    one(version, bytes).expect_err("refused").code
}

#[test]
fn each_broken_packet_has_the_code_of_the_standard() {
    use Version::{V4, V5};
    // (what, version, bytes, code)
    let cases: &[(&str, Version, &[u8], u8)] = &[
        ("CONNACK from a client", V5, &[0x20, 2, 0, 0], reason::PROTOCOL_ERROR),
        ("SUBACK from a client", V4, &[0x90, 3, 0, 1, 0], reason::PROTOCOL_ERROR),
        ("UNSUBACK from a client", V4, &[0xB0, 2, 0, 1], reason::PROTOCOL_ERROR),
        ("type 0", V5, &[0x00, 0], reason::MALFORMED),
        ("AUTH", V5, &[0xF0, 0], reason::PROTOCOL_ERROR),
        ("AUTH in 3.1.1", V4, &[0xF0, 0], reason::MALFORMED),
        ("QoS 3", V5, &[0x36, 5, 0, 1, b'a', 0, 1], reason::MALFORMED),
        ("DUP without QoS", V5, &[0x38, 4, 0, 1, b'a', 0], reason::MALFORMED),
        ("packet id 0", V5, &[0x32, 6, 0, 1, b'a', 0, 0, 0], reason::PROTOCOL_ERROR),
        ("topic not UTF-8", V5, &[0x30, 4, 0, 1, 0xFF, 0], reason::MALFORMED),
        ("topic with zero", V4, &[0x30, 3, 0, 1, 0], reason::MALFORMED),
        ("topic longer than packet", V4, &[0x30, 3, 0, 9, b'a'], reason::MALFORMED),
        ("alias 0", V5, &[0x30, 7, 0, 1, b'a', 3, 35, 0, 0], reason::ALIAS_INVALID),
        ("alias twice", V5, &[0x30, 10, 0, 1, b'a', 6, 35, 0, 1, 35, 0, 1], reason::PROTOCOL_ERROR),
        ("subscription id from a client", V5, &[0x30, 6, 0, 1, b'a', 2, 11, 1], reason::PROTOCOL_ERROR),
        ("a CONNECT property in PUBLISH", V5, &[0x30, 7, 0, 1, b'a', 3, 33, 0, 1], reason::MALFORMED),
        ("property length beyond packet", V5, &[0x30, 4, 0, 1, b'a', 9], reason::MALFORMED),
        ("response topic with wildcard", V5, &[0x30, 8, 0, 1, b'a', 4, 8, 0, 1, b'#'], reason::PROTOCOL_ERROR),
        ("SUBSCRIBE without filters", V5, &[0x82, 3, 0, 1, 0], reason::PROTOCOL_ERROR),
        ("SUBSCRIBE flags", V4, &[0x80, 6, 0, 1, 0, 1, b'a', 0], reason::MALFORMED),
        ("SUBSCRIBE QoS 3", V4, &[0x82, 6, 0, 1, 0, 1, b'a', 3], reason::PROTOCOL_ERROR),
        ("SUBSCRIBE reserved bits", V5, &[0x82, 7, 0, 1, 0, 0, 1, b'a', 0xC0], reason::MALFORMED),
        ("SUBSCRIBE packet id 0", V4, &[0x82, 6, 0, 0, 0, 1, b'a', 0], reason::PROTOCOL_ERROR),
        ("SUBSCRIBE ends in a filter", V4, &[0x82, 5, 0, 1, 0, 1, b'a'], reason::MALFORMED),
        ("subscription id 0", V5, &[0x82, 9, 0, 1, 2, 11, 0, 0, 1, b'a', 0], reason::PROTOCOL_ERROR),
        ("UNSUBSCRIBE without filters", V4, &[0xA2, 2, 0, 1], reason::PROTOCOL_ERROR),
        ("PUBREL flags", V4, &[0x60, 2, 0, 1], reason::MALFORMED),
        ("PUBACK too short", V4, &[0x40, 1, 0], reason::MALFORMED),
        ("PUBACK goes on", V4, &[0x40, 3, 0, 1, 0], reason::MALFORMED),
        ("PINGREQ with a body", V4, &[0xC0, 1, 0], reason::MALFORMED),
        ("DISCONNECT with a body in 3.1.1", V4, &[0xE0, 1, 0], reason::MALFORMED),
        ("remaining length of five bytes", V5, &[0x30, 0xFF, 0xFF, 0xFF, 0xFF, 1], reason::MALFORMED),
        ("too large", V5, &[0x30, 0xFF, 0xFF, 0xFF, 0x7F], reason::TOO_LARGE),
    ];
    for (what, version, bytes, expected) in cases {
        assert_eq!(code(*version, bytes), *expected, "{what}");
    }
}

#[test]
fn short_forms_of_version_5_are_read() {
    assert!(matches!(one(Version::V5, &[0xE0, 0]), Ok(Packet::Disconnect { reason: 0, expiry: None })));
    assert!(matches!(one(Version::V5, &[0xE0, 1, 4]), Ok(Packet::Disconnect { reason: 4, .. })));
    assert!(matches!(
        one(Version::V5, &[0xE0, 7, 0, 5, 17, 0, 0, 0, 9]),
        Ok(Packet::Disconnect { expiry: Some(9), .. })
    ));
    assert!(matches!(one(Version::V5, &[0x50, 3, 0, 7, 0x97]), Ok(Packet::PubRec { packet: 7, reason: 0x97 })));
}

fn connect_bytes(flags: u8, level: u8, name: &[u8], rest: &[u8]) -> Vec<u8> {
    let mut body = vec![0, u8::try_from(name.len()).expect("short")];
    body.extend(name);
    body.extend([level, flags, 0, 10]);
    body.extend(rest);
    let mut bytes = vec![0x10, u8::try_from(body.len()).expect("short")];
    bytes.extend(body);
    bytes
}

fn try_connect(bytes: &[u8]) -> Result<Connect, Fault> {
    let frame = frame(&mut BytesMut::from(bytes), None, 1 << 16)?.expect("whole");
    connect(version(&frame)?, frame)
}

#[test]
fn connects_are_judged() {
    let good = try_connect(&connect_bytes(0xC2, 4, b"MQTT", &[0, 1, b'c', 0, 1, b'u', 0, 2, 0xFF, 0])).expect("good");
    assert_eq!((good.client_id.as_str(), good.username.as_deref()), ("c", Some("u")));
    assert_eq!(good.password.as_deref(), Some(&[0xFF, 0][..]), "a password is bytes");
    let code = |bytes: Vec<u8>| try_connect(&bytes).expect_err("refused").code;
    assert_eq!(code(connect_bytes(2, 3, b"MQIsdp", &[0, 0])), reason::VERSION);
    assert_eq!(code(connect_bytes(2, 6, b"MQTT", &[0, 0])), reason::VERSION);
    assert_eq!(code(connect_bytes(2, 4, b"HTTP", &[0, 0])), reason::MALFORMED);
    assert_eq!(code(connect_bytes(3, 4, b"MQTT", &[0, 0])), reason::MALFORMED, "reserved flag");
    assert_eq!(code(connect_bytes(0x42, 4, b"MQTT", &[0, 0, 0, 0])), reason::MALFORMED, "password alone");
    assert_eq!(code(connect_bytes(0x0A, 4, b"MQTT", &[0, 0])), reason::MALFORMED, "will QoS without will");
    assert_eq!(code(connect_bytes(0x1E, 4, b"MQTT", &[0, 0, 0, 1, b'a', 0, 0])), reason::MALFORMED, "will QoS 3");
    assert_eq!(code(connect_bytes(6, 4, b"MQTT", &[0, 0, 0, 1, b'#', 0, 0])), reason::TOPIC_INVALID, "will wildcard");
    assert_eq!(code(connect_bytes(2, 5, b"MQTT", &[3, 33, 0, 0, 0, 0])), reason::PROTOCOL_ERROR, "receive maximum 0");
    assert_eq!(code(connect_bytes(2, 4, b"MQTT", &[0, 0, 1])), reason::MALFORMED, "trailing bytes");
    let two = [10, 17, 0, 0, 0, 1, 17, 0, 0, 0, 1, 0, 0];
    assert_eq!(code(connect_bytes(2, 5, b"MQTT", &two)), reason::PROTOCOL_ERROR, "a property twice");
}

fn read_all(version: Version, bytes: &[u8], limit: usize) {
    let mut buffer = BytesMut::from(bytes);
    while let Ok(Some(frame)) = frame(&mut buffer, Some(version), limit) {
        let before = frame.len();
        assert!(before >= 2 && before <= limit);
        let _ = if frame.is_connect() { connect(version, frame).map(drop) } else { packet(version, frame).map(drop) };
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        read_all(Version::V4, &bytes, 4096);
        read_all(Version::V5, &bytes, 4096);
    }

    #[test]
    fn arbitrary_bodies_never_panic(kind in 1_u8..15, flags in 0_u8..16, body in proptest::collection::vec(0_u8..48, 0..100)) {
        let mut bytes = vec![kind << 4 | flags, u8::try_from(body.len()).expect("short")];
        bytes.extend(body);
        read_all(Version::V4, &bytes, 4096);
        read_all(Version::V5, &bytes, 4096);
    }

    #[test]
    fn what_is_written_is_read(
        topic in "[a-z/]{1,300}", payload in proptest::collection::vec(any::<u8>(), 0..20_000),
        qos in 0_u8..3, retain: bool, dup: bool, expiry in proptest::option::of(any::<u32>()),
        alias in proptest::option::of(1_u16..), v5: bool,
    ) {
        let version = if v5 { Version::V5 } else { Version::V4 };
        let properties = [1, 1, 38, 0, 1, b'k', 0, 1, b'v'];
        let dup = dup && qos > 0;
        let outgoing = Outgoing {
            dup, qos, retain, packet: 77, topic: &topic, payload: &payload, properties: &properties, expiry, alias,
            identifiers: &[],
        };
        let mut bytes = BytesMut::new();
        outgoing.write(version, &mut bytes);
        prop_assert_eq!(bytes.len(), outgoing.size(version));
        let Ok(Packet::Publish(read)) = one(version, &bytes) else { panic!("not read") };
        prop_assert_eq!((&read.topic[..], &read.payload[..]), (topic.as_bytes(), &payload[..]));
        prop_assert_eq!((read.qos, read.retain, bytes[0] & 8 != 0), (qos, retain, dup));
        if v5 {
            prop_assert_eq!((read.expiry, read.alias, &read.properties[..]), (expiry, alias, &properties[..]));
        }
    }
}
