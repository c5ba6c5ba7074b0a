//! CONNECT and everything that may come in its place.

use super::{
    steps::{
        Probe,
        Step::{self, *},
        probe,
    },
    wire::{Connect, V4, V5, connect4, connect5, field, packet},
};

fn refused(connect: &Connect, codes: &'static [u8]) -> Vec<Step> {
    vec![Refused("a", connect.bytes(), codes)]
}

pub fn probes() -> Vec<Probe> {
    let named = |name: &[u8], level: u8| Connect { name: name.to_vec(), level, ..connect4("a") };
    let long = "x".repeat(65_535);
    let credentials = [field("user"), field("word")].concat();
    vec![
        probe("3.1.1 3.1.0-1: the first packet must be CONNECT", vec![Send("a", vec![0xC0, 0]), Closed("a")]),
        probe("5 3.1.0-1: PUBLISH before CONNECT", vec![Send("a", V5.publish("t", "x", 0, 0)), Closed("a")]),
        probe("5 3.1.0-1: SUBSCRIBE before CONNECT", vec![Send("a", V5.subscribe(1, &[("t", 0)])), Closed("a")]),
        probe("5 3.15: AUTH before CONNECT", vec![Send("a", packet(0xF0, &[])), Closed("a")]),
        probe(
            "5 3.14: DISCONNECT before CONNECT",
            vec![Send("a", packet(0xE0, &[])), Closed("a"), Up("a", connect5("a"), false)],
        ),
        probe("not MQTT at all", vec![Send("a", b"GET / HTTP/1.1\r\n\r\n".to_vec()), Closed("a")]),
        probe("CONNACK from a client, first", vec![Send("a", packet(0x20, &[&[0, 0]])), Closed("a")]),
        probe(
            "3.1.1 3.1.0-2: a second CONNECT",
            vec![Up("a", connect4("a"), false), Send("a", connect4("a").bytes()), Closed("a")],
        ),
        probe(
            "5 3.1.0-2: a second CONNECT is a protocol error",
            vec![Up("a", connect5("a"), false), Send("a", connect5("a").bytes()), Ends("a", &[0x82])],
        ),
        probe("3.1.1 3.1.2-1: a wrong protocol name", refused(&named(b"MQTX", 4), &[0])),
        probe("3.1.1 3.1.2-1: the name in lower case", refused(&named(b"mqtt", 4), &[0])),
        probe("5 3.1.2-1: an empty protocol name", refused(&named(b"", 5), &[0])),
        probe("3.1.1 3.1.2-2: level 3 is answered with 0x01", refused(&named(b"MQTT", 3), &[1, 0x84])),
        probe("MQTT 3.1 itself is answered with 0x01", refused(&named(b"MQIsdp", 3), &[1])),
        probe("5 3.1.2-2: level 6", refused(&named(b"MQTT", 6), &[1, 0x84])),
        probe("level 0", refused(&named(b"MQTT", 0), &[1, 0x84])),
        probe("level 4 with the bridge bit", refused(&named(b"MQTT", 0x84), &[0, 1, 0x84])),
        probe("3.1.1 3.1.2-3: the reserved flag", refused(&connect4("a").flags(3), &[0])),
        probe("5 3.1.2-3: the reserved flag", refused(&connect5("a").flags(3), &[0x81])),
        probe(
            "3.1.1 3.1.2-14: will QoS 3",
            refused(&connect4("a").flags(0x1E).rest(&[&field("t"), &field("x")]), &[0]),
        ),
        probe(
            "5 3.1.2-12: will QoS 3",
            refused(&connect5("a").flags(0x1E).rest(&[&[0], &field("t"), &field("x")]), &[0x81]),
        ),
        probe("3.1.1 3.1.2-13: will QoS without a will", refused(&connect4("a").flags(0x0A), &[0])),
        probe("5 3.1.2-13: will retain without a will", refused(&connect5("a").flags(0x22), &[0x81])),
        probe(
            "3.1.1 3.1.2-22: a password without a user name",
            refused(&connect4("a").flags(0x42).rest(&[&field("word")]), &[0]),
        ),
        probe("3.1.1: a user name that is announced and missing", refused(&connect4("a").flags(0x82), &[0])),
        probe("5: bytes after the end", refused(&connect5("a").rest(&[b"x"]), &[0x81])),
        probe("5: a will that is announced and missing", refused(&connect5("a").flags(6), &[0x81])),
        probe("an empty CONNECT", vec![Send("a", packet(0x10, &[])), Closed("a")]),
        probe("CONNECT with header flags", {
            let mut bytes = connect5("a").bytes();
            bytes[0] = 0x11;
            vec![Send("a", bytes), Closed("a")]
        }),
        probe("5 1.5.5-1: a remaining length longer than it needs", {
            let mut bytes = connect5("a").bytes();
            bytes[1] |= 0x80;
            bytes.insert(2, 0);
            vec![Refused("a", bytes, &[0x81])]
        }),
        probe("3.1.1 3.1.3-8: an empty client id without clean session is 0x02", refused(&connect4("").flags(0), &[2])),
        probe("3.1.1 3.1.3-6: an empty client id with clean session", vec![Up("a", connect4(""), false), Quiet("a")]),
        probe("5 3.1.3-6: an empty client id is assigned one", {
            // reason 0, then properties that hold identifier 18
            vec![Send("a", connect5("").bytes()), Like("a", vec![0x20, 0, 0])]
        }),
        probe("3.1.3-5: 23 letters and digits", vec![Up("a", connect4("0123456789abcdefghiJKLM"), false), Quiet("a")]),
        probe("5: a client id of 65,535 bytes is taken or refused with 0x85", refused(&connect5(&long), &[0x85])),
        probe("5 1.5.4-1: a client id that is not UTF-8", {
            refused(&Connect { id: vec![0xFF, 0xFE], ..connect5("") }, &[0x81])
        }),
        probe("5 1.5.4-1: a client id with a surrogate", {
            refused(&Connect { id: vec![0xED, 0xA0, 0x80], ..connect5("") }, &[0x81])
        }),
        probe("3.1.1 1.5.3-2: a client id with U+0000", refused(&connect4("a\0b"), &[0])),
        probe("5 1.5.4-2: a client id with U+0000", refused(&connect5("a\0b"), &[0x81])),
        probe("5 1.5.4-2: a user name with U+0000", {
            refused(&connect5("a").flags(0x82).rest(&[&field("us\0er")]), &[0x81])
        }),
        probe("credentials that are wrong: 0x04 or 0x05", {
            refused(&connect4("a").flags(0xC2).rest(&[&credentials]), &[4, 5])
        }),
        probe("5: credentials that are wrong: 0x86 or 0x87", {
            refused(&connect5("a").flags(0xC2).rest(&[&credentials]), &[0x86, 0x87])
        }),
        probe("5 3.1.2.11: a receive maximum of 0", refused(&connect5("a").with(&[&[33, 0, 0]]), &[0x82])),
        probe("5 3.1.2.11: a maximum packet size of 0", {
            refused(&connect5("a").with(&[&[39, 0, 0, 0, 0]]), &[0x82])
        }),
        probe("5 3.1.2-24: no CONNACK that is larger than the client takes", {
            refused(&connect5("a").with(&[&[39, 0, 0, 0, 15]]), &[0, 0x95])
        }),
        probe("5 3.1.2-24: nor a refusal", refused(&connect5("a").with(&[&[39, 0, 0, 0, 4]]), &[0])),
        probe("5 3.1.2-24: a refusal's text is left out where it does not fit", {
            let connect = connect5("a").flags(0xC2).with(&[&[39, 0, 0, 0, 5]]).rest(&[&credentials]);
            vec![Send("a", connect.bytes()), Like("a", vec![0x20, 0, 0x86, 0]), Closed("a")]
        }),
        probe("5: a receive maximum twice", refused(&connect5("a").with(&[&[33, 0, 5], &[33, 0, 5]]), &[0x82])),
        probe("5: a session expiry twice", {
            refused(&connect5("a").with(&[&[17, 0, 0, 0, 5], &[17, 0, 0, 0, 5]]), &[0x82])
        }),
        probe("5: request problem information 2", refused(&connect5("a").with(&[&[23, 2]]), &[0x82])),
        probe("5: request response information 2", refused(&connect5("a").with(&[&[25, 2]]), &[0x82])),
        probe("5 2.2.2: a property of PUBLISH", refused(&connect5("a").with(&[&[35, 0, 1]]), &[0x81, 0x82])),
        probe("5 2.2.2: an unknown property", refused(&connect5("a").with(&[&[127, 0]]), &[0x81])),
        probe("5 2.2.2: properties longer than the packet", {
            refused(&Connect { properties: vec![0x7F], ..connect5("a") }, &[0x81])
        }),
        probe("5 2.2.2: a property that is cut", refused(&connect5("a").with(&[&[17, 0]]), &[0x81])),
        probe("5: a user property whose value is cut", {
            refused(&connect5("a").with(&[&[38, 0, 1, b'k', 0, 9, b'v']]), &[0x81])
        }),
        probe("5: user properties may stand twice", {
            let pair = [&[38][..], &field("k"), &field("v")].concat();
            vec![Up("a", connect5("a").with(&[&pair, &pair]), false)]
        }),
        probe("5 4.12.0-1: an authentication method nobody knows is 0x8C", {
            refused(&connect5("a").with(&[&[21], &field("SCRAM-SHA-1")]), &[0x8C, 0x87])
        }),
        probe("5 3.1.2.11.10: authentication data without a method", {
            refused(&connect5("a").with(&[&[22], &field("x")]), &[0x82])
        }),
        probe(
            "5: a will with a wildcard in its topic",
            refused(&connect5("a").will("a/#", "x", 0), &[0x90, 0x81, 0x82]),
        ),
        probe("3.1.1: a will with a wildcard in its topic", refused(&connect4("a").will("a/+", "x", 0), &[0])),
        probe("5 4.7.3-1: a will without a topic", refused(&connect5("a").will("", "x", 0), &[0x90, 0x81, 0x82])),
        probe("5 3.1.3.2: a will with a topic alias", {
            let connect = connect5("a").flags(6);
            refused(&connect.rest(&[&[3, 35, 0, 1], &field("t"), &field("x")]), &[0x81, 0x82])
        }),
        probe("5 3.1.3.2: a will delay twice", {
            let delay = [10, 24, 0, 0, 0, 1, 24, 0, 0, 0, 1];
            refused(&connect5("a").flags(6).rest(&[&delay, &field("t"), &field("x")]), &[0x82])
        }),
        probe(
            "CONNECT byte by byte",
            vec![Trickle("a", connect5("a").bytes()), Like("a", vec![0x20, 0, 0]), Quiet("a")],
        ),
        probe(
            "3.1.4-5: CONNECT, SUBSCRIBE and PUBLISH in one piece",
            vec![
                Send(
                    "a",
                    [
                        connect4("a").bytes(),
                        V4.subscribe(1, &[("one/piece", 1)]),
                        V4.publish("one/piece", "x", 2, 2),
                        vec![0xC0, 0],
                    ]
                    .concat(),
                ),
                Get("a", vec![0x20, 2, 0, 0]),
                Get("a", V4.suback(1, &[1])),
                Like("a", vec![0x40, 0, 2]),
                Like("a", vec![0xD0]),
                Take("a", 0x32, "one/piece", "x"),
            ],
        ),
        probe(
            "CONNECT, PUBLISH and DISCONNECT in one piece are answered",
            vec![
                Up("b", connect5("b"), false),
                Send("b", V5.subscribe(1, &[("one/breath", 1)])),
                Get("b", V5.suback(1, &[1])),
                Send("a", [connect4("a").bytes(), V4.publish("one/breath", "x", 2, 2), vec![0xE0, 0]].concat()),
                Get("a", vec![0x20, 2, 0, 0]),
                Get("a", vec![0x40, 2, 0, 2]),
                Closed("a"),
                Take("b", 0x32, "one/breath", "x"),
            ],
        ),
    ]
}
