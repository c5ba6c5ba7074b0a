//! Packets that cannot be, after a good CONNECT: each ends its own connection, with the code of MQTT 5.

use super::{
    steps::{Probe, Step::*, probe},
    wire::{V4, V5, connect4, connect5, field, packet},
};

pub fn probes() -> Vec<Probe> {
    let surrogate = [0xED, 0xB0, 0x80];
    let mut probes = Vec::new();
    // (what, packet, codes): to a client of MQTT 5
    let five: Vec<(&'static str, Vec<u8>, &'static [u8])> = vec![
        ("2.1.3-1: PINGREQ with flags", packet(0xC1, &[]), &[0x81]),
        ("2.1.3-1: SUBSCRIBE with flags 0", packet(0x80, &[&[0, 1, 0], &field("t"), &[0]]), &[0x81]),
        ("2.1.3-1: UNSUBSCRIBE with flags 0", packet(0xA0, &[&[0, 1, 0], &field("t")]), &[0x81]),
        ("2.1.3-1: PUBREL with flags 0", packet(0x60, &[&[0, 1]]), &[0x81]),
        ("2.1.3-1: DISCONNECT with flags", packet(0xE1, &[]), &[0x81]),
        ("3.15.1: AUTH with flags", packet(0xF1, &[]), &[0x81, 0x82]),
        ("packet type 0", packet(0x00, &[]), &[0x81, 0x82]),
        ("SUBACK from a client", packet(0x90, &[&[0, 1, 0, 0]]), &[0x82]),
        ("UNSUBACK from a client", packet(0xB0, &[&[0, 1, 0, 0]]), &[0x82]),
        ("PINGRESP from a client", packet(0xD0, &[]), &[0x82]),
        ("CONNACK from a client", packet(0x20, &[&[0, 0, 0]]), &[0x82]),
        ("4.12: AUTH without a method", packet(0xF0, &[&[0x18, 0]]), &[0x82]),
        ("a remaining length of five bytes", vec![0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0x01], &[0x81]),
        ("1.5.5-1: a remaining length longer than it needs", vec![0xC0, 0x80, 0x00], &[0x81]),
        ("1.5.5-1: a property length longer than it needs", V5.publish_with(b"t", "x", 0, 0, &[0x80, 0]), &[0x81]),
        ("a packet larger than the broker takes", vec![0x30, 0xFF, 0xFF, 0xFF, 0x7F], &[0x95]),
        ("3.3.1-4: QoS 3", packet(0x36, &[&field("t"), &[0, 1, 0], b"x"]), &[0x81]),
        ("3.3.1-2: DUP on QoS 0", packet(0x38, &[&field("t"), &[0]]), &[0x81]),
        ("2.2.1-2: PUBLISH with packet id 0", V5.publish("t", "x", 2, 0), &[0x82, 0x81]),
        ("2.2.1-3: SUBSCRIBE with packet id 0", V5.subscribe(0, &[("t", 0)]), &[0x82, 0x81]),
        ("2.2.1-3: UNSUBSCRIBE with packet id 0", V5.unsubscribe(0, &["t"]), &[0x82, 0x81]),
        ("PUBACK with packet id 0", packet(0x40, &[&[0, 0]]), &[0x82, 0x81]),
        ("3.3.2-2: a plus in a topic", V5.publish("a/+/b", "x", 0, 0), &[0x90, 0x81, 0x82]),
        ("3.3.2-2: a hash in a topic", V5.publish("a/#", "x", 2, 1), &[0x90, 0x81, 0x82]),
        ("4.7.3-1: a topic of no length and no alias", V5.publish("", "x", 0, 0), &[0x82]),
        ("1.5.4-1: a topic that is not UTF-8", V5.publish_with(&[0xC0, 0x80], "x", 0, 0, &[0]), &[0x81]),
        ("1.5.4-1: a topic with a surrogate", V5.publish_with(&surrogate, "x", 0, 0, &[0]), &[0x81]),
        ("1.5.4-2: a topic with U+0000", V5.publish("a\0b", "x", 0, 0), &[0x81]),
        ("a topic longer than the packet", packet(0x30, &[&[0, 9], b"ab"]), &[0x81]),
        ("QoS 1 without a packet id", packet(0x32, &[&field("t")]), &[0x81]),
        ("3.3.2.3.4: topic alias 0", V5.publish_with(b"t", "x", 0, 0, &[3, 35, 0, 0]), &[0x94, 0x82]),
        ("3.3.2-9: a topic alias above the maximum", V5.publish_with(b"t", "x", 0, 0, &[3, 35, 255, 255]), &[0x94]),
        ("3.3.2: an alias that stands for nothing", V5.publish_with(b"", "x", 0, 0, &[3, 35, 0, 7]), &[0x82, 0x94]),
        ("3.3.2: an alias twice", V5.publish_with(b"t", "x", 0, 0, &[6, 35, 0, 1, 35, 0, 1]), &[0x82]),
        ("3.3.2: a payload format of 2", V5.publish_with(b"t", "x", 0, 0, &[2, 1, 2]), &[0x82, 0x81]),
        (
            "3.3.2: a message expiry twice",
            { V5.publish_with(b"t", "x", 0, 0, &[10, 2, 0, 0, 0, 1, 2, 0, 0, 0, 1]) },
            &[0x82],
        ),
        ("3.3.2: a content type twice", V5.publish_with(b"t", "x", 0, 0, &[8, 3, 0, 1, b'a', 3, 0, 1, b'b']), &[0x82]),
        (
            "3.3.2-14: a response topic with a wildcard",
            V5.publish_with(b"t", "x", 0, 0, &[4, 8, 0, 1, b'#']),
            &[0x82, 0x81],
        ),
        ("3.3.4-6: a subscription identifier from a client", V5.publish_with(b"t", "x", 0, 0, &[2, 11, 1]), &[0x82]),
        ("2.2.2: a property of CONNECT", V5.publish_with(b"t", "x", 0, 0, &[5, 17, 0, 0, 0, 1]), &[0x81, 0x82]),
        ("2.2.2: an unknown property", V5.publish_with(b"t", "x", 0, 0, &[2, 0x7E, 0]), &[0x81]),
        ("2.2.2: properties longer than the packet", V5.publish_with(b"t", "", 0, 0, &[120]), &[0x81]),
        (
            "1.5.4-2: a user property with U+0000",
            { V5.publish_with(b"t", "x", 0, 0, &[7, 38, 0, 1, 0, 0, 1, b'v']) },
            &[0x81],
        ),
        ("3.8.3-2: SUBSCRIBE without filters", V5.subscribe(1, &[]), &[0x82, 0x81]),
        ("3.10.3-2: UNSUBSCRIBE without filters", V5.unsubscribe(1, &[]), &[0x82, 0x81]),
        ("3.8.3.1: a subscription with QoS 3", V5.subscribe(1, &[("t", 3)]), &[0x82, 0x81]),
        ("3.8.3.1: retain handling 3", V5.subscribe(1, &[("t", 0x30)]), &[0x82, 0x81]),
        ("3.8.3-5: reserved bits of the options", V5.subscribe(1, &[("t", 0x80)]), &[0x81, 0x82]),
        ("3.8.3-4: no-local on a shared subscription", V5.subscribe(1, &[("$share/g/t", 4)]), &[0x82]),
        ("3.8.2.1.2: subscription identifier 0", V5.subscribe_with(1, &[("t", 0)], &[2, 11, 0]), &[0x82]),
        ("3.8.2.1.2: a subscription identifier twice", V5.subscribe_with(1, &[("t", 0)], &[4, 11, 1, 11, 2]), &[0x82]),
        (
            "1.5.5: a subscription identifier of five bytes",
            { V5.subscribe_with(1, &[("t", 0)], &[6, 11, 0xFF, 0xFF, 0xFF, 0xFF, 1]) },
            &[0x81],
        ),
        ("a filter without its options", packet(0x82, &[&[0, 1, 0], &field("t")]), &[0x81]),
        ("1.5.4-2: a filter with U+0000", V5.subscribe(1, &[("a\0b", 0)]), &[0x81, 0x8F]),
        ("PUBACK of one byte", packet(0x40, &[&[0]]), &[0x81]),
        ("3.4.2-1: PUBACK with a code that it does not have", packet(0x40, &[&[0, 1, 0x42, 0]]), &[0x81, 0x82]),
        ("PUBREL with bytes after its end", packet(0x62, &[&[0, 1, 0, 0, 9]]), &[0x81]),
        ("PINGREQ with a body", packet(0xC0, &[&[0]]), &[0x81]),
        ("3.14.2-1: DISCONNECT with a code that it does not have", packet(0xE0, &[&[0x01, 0]]), &[0x81, 0x82]),
        (
            "3.14.2.2.2: a session expiry that CONNECT did not ask for",
            packet(0xE0, &[&[0, 5, 17, 0, 0, 0, 9]]),
            &[0x82],
        ),
        ("3.14.2: DISCONNECT with a property of CONNECT", packet(0xE0, &[&[0, 3, 33, 0, 9]]), &[0x81, 0x82]),
    ];
    for (name, bytes, codes) in five {
        probes.push(probe(name, vec![Up("a", connect5("a"), false), Send("a", bytes), Ends("a", codes)]));
    }
    let old = [
        ("3.1.1 2.2.2-2: SUBSCRIBE with flags 0", packet(0x80, &[&[0, 1], &field("t"), &[0]])),
        ("3.1.1 2.2.2-2: PUBREL with flags 0", packet(0x60, &[&[0, 1]])),
        ("3.1.1: packet type 15", packet(0xF0, &[])),
        ("3.1.1 3.3.1-4: QoS 3", packet(0x36, &[&field("t"), &[0, 1], b"x"])),
        ("3.1.1 3.3.1-2: DUP on QoS 0", packet(0x38, &[&field("t")])),
        ("3.1.1 2.3.1-1: PUBLISH with packet id 0", V4.publish("t", "x", 4, 0)),
        ("3.1.1 3.3.2-2: a wildcard in a topic", V4.publish("a/+", "x", 2, 1)),
        ("3.1.1 4.7.3-1: a topic of no length", V4.publish("", "x", 0, 0)),
        ("3.1.1 1.5.3-1: a topic with a surrogate", V4.publish_with(&surrogate, "x", 0, 0, &[])),
        ("3.1.1 4.7.3-2: a topic with U+0000", V4.publish("a\0", "x", 0, 0)),
        ("3.1.1 3.8.3-3: SUBSCRIBE without filters", V4.subscribe(1, &[])),
        ("3.1.1 3.8.3-4: a subscription with QoS 3", V4.subscribe(1, &[("t", 3)])),
        ("3.1.1 3.8.3-4: options of MQTT 5", V4.subscribe(1, &[("t", 4)])),
        ("3.1.1 3.10.3-2: UNSUBSCRIBE without filters", V4.unsubscribe(1, &[])),
        ("3.1.1: PUBACK with a code", packet(0x40, &[&[0, 1, 0]])),
        ("3.1.1: DISCONNECT with a body", packet(0xE0, &[&[0]])),
        ("3.1.1: a remaining length of five bytes", vec![0x30, 0x80, 0x80, 0x80, 0x80, 0x01]),
    ];
    for (name, bytes) in old {
        probes.push(probe(name, vec![Up("a", connect4("a"), false), Send("a", bytes), Closed("a")]));
    }
    probes
}
