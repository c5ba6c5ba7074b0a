//! PUBLISH in both directions: quality of service, acknowledgements, retained messages, properties, limits.

use super::{
    steps::{Probe, Step::*, probe},
    wire::{V4, V5, ack, connect4, connect5, field, packet, properties},
};

/// 65,535 bytes of nothing that matters: the longest a text may be.
fn longest() -> Vec<u8> {
    [vec![3], field("t".repeat(65_535))].concat()
}

pub fn probes() -> Vec<Probe> {
    let up = |name| Up(name, connect5(name), false);
    let old = |name| Up(name, connect4(name), false);
    let flood: Vec<u8> = (1..=300).flat_map(|id| V4.publish("flood", "x", 4, id)).collect();
    let tall = properties(&[&longest()]);
    vec![
        probe(
            "4.3.2: QoS 1 is acknowledged with its id",
            vec![up("a"), Send("a", V5.publish("p/1", "x", 2, 65_535)), Like("a", vec![0x40, 255, 255]), Quiet("a")],
        ),
        probe(
            "4.3.3: QoS 2 from end to end",
            vec![
                old("a"),
                Send("a", V4.publish("p/2", "x", 4, 3)),
                Get("a", ack(0x50, 3)),
                Send("a", ack(0x62, 3)),
                Get("a", ack(0x70, 3)),
                Quiet("a"),
            ],
        ),
        probe(
            "4.3.3-10: QoS 2 sent again before PUBREL is delivered once",
            vec![
                old("b"),
                Send("b", V4.subscribe(1, &[("p/3", 0)])),
                Get("b", V4.suback(1, &[0])),
                old("a"),
                Send("a", V4.publish("p/3", "x", 4, 3)),
                Get("a", ack(0x50, 3)),
                Send("a", V4.publish("p/3", "x", 0x0C, 3)),
                Get("a", ack(0x50, 3)),
                Send("a", V4.publish("p/3", "x", 4, 3)),
                Get("a", ack(0x50, 3)),
                Send("a", ack(0x62, 3)),
                Get("a", ack(0x70, 3)),
                Take("b", 0x30, "p/3", "x"),
                Quiet("b"),
                // the id is free again
                Send("a", V4.publish("p/3", "y", 4, 3)),
                Get("a", ack(0x50, 3)),
                Take("b", 0x30, "p/3", "y"),
            ],
        ),
        probe(
            "4.3.3: QoS 2 resumes on a new connection with the same id",
            vec![
                Up("a", connect4("a").flags(0), false),
                Send("a", V4.publish("p/4", "x", 4, 9)),
                Get("a", ack(0x50, 9)),
                Drop("a"),
                Up("a", connect4("a").flags(0), true),
                Send("a", ack(0x62, 9)),
                Get("a", ack(0x70, 9)),
                Drop("a"),
                Up("a", connect4("a"), false),
            ],
        ),
        probe(
            "3.1.1: PUBREL for an id nobody knows gets PUBCOMP",
            vec![old("a"), Send("a", ack(0x62, 77)), Get("a", ack(0x70, 77))],
        ),
        probe(
            "5 3.7.2.1: PUBREL for an id nobody knows gets PUBCOMP 0x92",
            vec![up("a"), Send("a", ack(0x62, 77)), Like("a", vec![0x70, 0, 77, 0x92])],
        ),
        probe(
            "5 3.6.2.1: PUBREC for an id nobody knows gets PUBREL 0x92",
            vec![up("a"), Send("a", ack(0x50, 77)), Like("a", vec![0x62, 0, 77, 0x92])],
        ),
        probe(
            "PUBACK and PUBCOMP for ids nobody knows harm nothing",
            vec![up("a"), Send("a", [ack(0x40, 7), ack(0x70, 8)].concat()), Quiet("a")],
        ),
        probe(
            "5 3.4.2.1: QoS 1 under the id of an open QoS 2 message is 0x91",
            vec![
                up("a"),
                Send("a", V5.publish("p/5", "x", 4, 3)),
                Like("a", vec![0x50, 0, 3]),
                Send("a", V5.publish("p/5", "x", 2, 3)),
                Like("a", vec![0x40, 0, 3, 0x91]),
            ],
        ),
        probe(
            "5 4.3.2: a PUBREC for a QoS 1 message is a protocol error",
            vec![
                up("a"),
                Send("a", V5.subscribe(1, &[("p/6", 1)])),
                Get("a", V5.suback(1, &[1])),
                Send("a", V5.publish("p/6", "x", 0, 0)),
                Like("a", vec![0x30]),
                Send("a", V5.publish("p/6", "x", 2, 2)),
                Like("a", vec![0x40, 0, 2]),
                Like("a", vec![0x32, 0, 3]),
                Send("a", ack(0x50, 1)),
                Ends("a", &[0x82]),
            ],
        ),
        probe(
            "5 4.3.3: a PUBCOMP before PUBREC is a protocol error",
            vec![
                up("a"),
                Send("a", V5.subscribe(1, &[("p/7", 2)])),
                Get("a", V5.suback(1, &[2])),
                up("b"),
                Send("b", V5.publish("p/7", "x", 4, 2)),
                Like("b", vec![0x50, 0, 2]),
                Like("a", vec![0x34, 0, 3]),
                Send("a", ack(0x70, 1)),
                Ends("a", &[0x82]),
            ],
        ),
        probe(
            "4.6.0-2: acknowledgements come in the order of the messages",
            vec![
                old("a"),
                Send("a", (1..=20).flat_map(|id| V4.publish("p/8", "x", 2, id)).collect()),
                Get("a", ack(0x40, 1)),
                Get("a", ack(0x40, 2)),
                Get("a", ack(0x40, 3)),
            ],
        ),
        probe(
            "3.1.1: 300 open QoS 2 messages are fine: 3.1.1 has no receive maximum",
            vec![old("a"), Send("a", flood), Get("a", ack(0x50, 1))],
        ),
        probe(
            "5 3.3.4-9: more than the receive maximum is 0x93",
            vec![
                up("a"),
                Send("a", (1..=400).flat_map(|id| V5.publish("p/9", "", 4, id)).collect()),
                EndsAfter("a", 0x50, &[0x93]),
            ],
        ),
        probe(
            "5 3.3.4-9: the broker keeps to the client's receive maximum",
            vec![
                Up("a", connect5("a").with(&[&[33, 0, 2]]), false),
                Send("a", V5.subscribe(1, &[("p/10", 2)])),
                Get("a", V5.suback(1, &[2])),
                up("b"),
                Send("b", (1..=4).flat_map(|id| V5.publish("p/10", &id.to_string(), 2, id)).collect()),
                Like("a", vec![0x32, 0, 4]),
                Like("a", vec![0x32, 0, 4]),
                Quiet("a"),
                Send("a", ack(0x40, 1)),
                Like("a", vec![0x32, 0, 4]),
                Quiet("a"),
            ],
        ),
        probe(
            "3.3.1-3: DUP is the publisher's, not the subscriber's",
            vec![
                old("a"),
                Send("a", V4.subscribe(1, &[("p/11", 0)])),
                Get("a", V4.suback(1, &[0])),
                Send("a", V4.publish("p/11", "x", 0x0A, 5)),
                Like("a", vec![0x40, 0, 5]),
                Get("a", V4.publish("p/11", "x", 0, 0)),
            ],
        ),
        probe(
            "3.3.1-5: a retained message is kept and comes with RETAIN",
            vec![
                old("a"),
                Send("a", V4.publish("r/1", "x", 3, 5)),
                Get("a", ack(0x40, 5)),
                Send("a", V4.subscribe(1, &[("r/1", 1)])),
                Get("a", V4.suback(1, &[1])),
                Take("a", 0x33, "r/1", "x"),
            ],
        ),
        probe(
            "3.3.1-9: to those who are there already it comes without RETAIN",
            vec![
                old("a"),
                Send("a", V4.subscribe(1, &[("r/2", 1)])),
                Get("a", V4.suback(1, &[1])),
                old("b"),
                Send("b", V4.publish("r/2", "x", 1, 0)),
                Take("a", 0x30, "r/2", "x"),
            ],
        ),
        probe(
            "3.3.1-6: an empty retained message clears, and is delivered",
            vec![
                old("a"),
                Send("a", V4.publish("r/3", "x", 1, 0)),
                Send("a", V4.subscribe(1, &[("r/3", 0)])),
                Get("a", V4.suback(1, &[0])),
                Take("a", 0x31, "r/3", "x"),
                Send("a", V4.publish("r/3", "", 1, 0)),
                Take("a", 0x30, "r/3", ""),
                Send("a", V4.subscribe(2, &[("r/3", 0)])),
                Get("a", V4.suback(2, &[0])),
                Quiet("a"),
            ],
        ),
        probe(
            "3.3.1-12: a message that is not retained leaves the retained one",
            vec![
                old("a"),
                Send("a", V4.publish("r/4", "x", 1, 0)),
                Send("a", V4.publish("r/4", "", 0, 0)),
                Send("a", V4.publish("r/4", "y", 0, 0)),
                Send("a", V4.subscribe(1, &[("r/4", 0)])),
                Get("a", V4.suback(1, &[0])),
                Take("a", 0x31, "r/4", "x"),
                Quiet("a"),
            ],
        ),
        probe("5 3.3.2-4: format, content type, response topic, correlation and user properties travel unaltered", {
            let pair = |k, v| [&[38][..], &field(k), &field(v)].concat();
            let kept = [
                &[1, 1, 3][..],
                &field("text"),
                &[8],
                &field("answer/here"),
                &[9],
                &field([0, 255, 0]),
                &pair("k", "1"),
                &pair("k", "2"),
            ]
            .concat();
            vec![
                up("a"),
                Send("a", V5.subscribe(1, &[("p/12", 0)])),
                Get("a", V5.suback(1, &[0])),
                Send("a", V5.publish_with(b"p/12", "x", 0, 0, &properties(&[&kept]))),
                TakeWith("a", 0x30, "p/12", "x", kept.clone()),
            ]
        }),
        probe(
            "properties never reach a 3.1.1 client",
            vec![
                old("a"),
                Send("a", V4.subscribe(1, &[("p/13", 0)])),
                Get("a", V4.suback(1, &[0])),
                up("b"),
                Send("b", V5.publish_with(b"p/13", "x", 0, 0, &[4, 3, 0, 1, b'x'])),
                Get("a", V4.publish("p/13", "x", 0, 0)),
            ],
        ),
        probe(
            "5 1.5.4: a property of 65,535 bytes",
            vec![
                up("a"),
                Send("a", V5.subscribe(1, &[("p/14", 0)])),
                Get("a", V5.suback(1, &[0])),
                Send("a", V5.publish_with(b"p/14", "x", 0, 0, &tall)),
                TakeWith("a", 0x30, "p/14", "x", longest()),
            ],
        ),
        probe(
            "5 3.1.2-25: what is larger than the client takes is not sent to it",
            vec![
                Up("a", connect5("a").with(&[&[39, 0, 0, 0, 60]]), false),
                Send("a", V5.subscribe(1, &[("p/15", 1)])),
                Get("a", V5.suback(1, &[1])),
                up("b"),
                Send("b", V5.publish("p/15", &"x".repeat(60), 2, 1)),
                Send("b", V5.publish("p/15", "small", 2, 2)),
                Take("a", 0x32, "p/15", "small"),
                Quiet("a"),
            ],
        ),
        probe(
            "5 3.3.2.3.4: an alias stands for its topic until it is given another",
            vec![
                up("a"),
                Send("a", V5.subscribe(1, &[("al/+", 0)])),
                Get("a", V5.suback(1, &[0])),
                Send("a", V5.publish_with(b"al/1", "x", 0, 0, &[3, 35, 0, 1])),
                Take("a", 0x30, "al/1", "x"),
                Send("a", V5.publish_with(b"", "y", 0, 0, &[3, 35, 0, 1])),
                Take("a", 0x30, "al/1", "y"),
                Send("a", V5.publish_with(b"al/2", "z", 0, 0, &[3, 35, 0, 1])),
                Take("a", 0x30, "al/2", "z"),
                Send("a", V5.publish_with(b"", "w", 0, 0, &[3, 35, 0, 1])),
                Take("a", 0x30, "al/2", "w"),
            ],
        ),
        probe(
            "5 3.3.2-7: an alias does not outlive its connection",
            vec![
                Up("a", connect5("a").with(&[&[17, 0, 0, 0, 60]]), false),
                Send("a", V5.publish_with(b"al/3", "x", 0, 0, &[3, 35, 0, 1])),
                Quiet("a"),
                Drop("a"),
                Up("a", connect5("a").flags(0), true),
                Send("a", V5.publish_with(b"", "x", 0, 0, &[3, 35, 0, 1])),
                Ends("a", &[0x82, 0x94]),
            ],
        ),
        probe(
            "5 3.1.2-26: no alias from the broker where the client allows none",
            vec![
                up("a"),
                Send("a", V5.subscribe(1, &[("al/4", 0)])),
                Get("a", V5.suback(1, &[0])),
                Send("a", V5.publish("al/4", "x", 0, 0)),
                Get("a", V5.publish("al/4", "x", 0, 0)),
                Send("a", V5.publish("al/4", "x", 0, 0)),
                Get("a", V5.publish("al/4", "x", 0, 0)),
            ],
        ),
        probe(
            "4.7.3: topics may begin with a slash, hold spaces and letters of any script",
            vec![
                old("a"),
                Send("a", V4.subscribe(1, &[("/", 0), ("//", 0), ("ä ö/日本", 0)])),
                Get("a", V4.suback(1, &[0, 0, 0])),
                Send("a", V4.publish("/", "1", 0, 0)),
                Take("a", 0x30, "/", "1"),
                Send("a", V4.publish("//", "2", 0, 0)),
                Take("a", 0x30, "//", "2"),
                Send("a", V4.publish("ä ö/日本", "3", 0, 0)),
                Take("a", 0x30, "ä ö/日本", "3"),
            ],
        ),
        probe(
            "1.5.4-3: U+FEFF is kept",
            vec![
                old("a"),
                Send("a", V4.subscribe(1, &[("\u{FEFF}bom", 0)])),
                Get("a", V4.suback(1, &[0])),
                Send("a", V4.publish("bom", "1", 0, 0)),
                Send("a", V4.publish("\u{FEFF}bom", "2", 0, 0)),
                Take("a", 0x30, "\u{FEFF}bom", "2"),
            ],
        ),
        probe(
            "a payload may be empty",
            vec![
                up("a"),
                Send("a", V5.subscribe(1, &[("p/16", 1)])),
                Get("a", V5.suback(1, &[1])),
                Send("a", V5.publish("p/16", "", 0, 0)),
                Take("a", 0x30, "p/16", ""),
            ],
        ),
        probe(
            "a message in many pieces",
            vec![
                old("a"),
                Send("a", V4.subscribe(1, &[("p/17", 0)])),
                Get("a", V4.suback(1, &[0])),
                Trickle("a", V4.publish("p/17", "in many pieces", 0, 0)),
                Take("a", 0x30, "p/17", "in many pieces"),
            ],
        ),
        probe(
            "half a packet and then nothing is the end of nobody else",
            vec![
                old("a"),
                Send("a", packet(0x30, &[&field("p/18"), b"xyz"])[..5].to_vec()),
                old("b"),
                Quiet("b"),
                Drop("a"),
            ],
        ),
    ]
}
