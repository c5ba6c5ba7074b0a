//! Sessions: present or not, taken over, resumed; wills that are said at once.

use super::{
    steps::{Probe, Step::*, probe},
    wire::{Connect, V4, V5, ack, connect4, connect5, packet},
};

/// MQTT 5 with a session that outlives its connection by a minute.
fn lasting(id: &str, clean: bool) -> Connect {
    connect5(id).flags(if clean { 2 } else { 0 }).with(&[&[17, 0, 0, 0, 60]])
}

pub fn probes() -> Vec<Probe> {
    let up = |name| Up(name, connect5(name), false);
    let kept4 = || connect4("k4").flags(0);
    vec![
        probe(
            "3.1.1 3.2.2-2: a session is present where one was kept, and only there",
            vec![
                Up("a", connect4("k4"), false),
                Send("a", vec![0xE0, 0]),
                Closed("a"),
                Up("a", kept4(), false),
                Send("a", V4.subscribe(1, &[("k/1", 1)])),
                Get("a", V4.suback(1, &[1])),
                Drop("a"),
                Up("a", kept4(), true),
                Send("a", vec![0xE0, 0]),
                Closed("a"),
                Up("a", connect4("k4"), false),
                Drop("a"),
                Up("a", kept4(), false),
                Drop("a"),
                Up("a", connect4("k4"), false),
            ],
        ),
        probe(
            "5 3.1.2-5: a session expiry of 0 ends it with its connection",
            vec![
                Up("a", connect5("k5").flags(0), false),
                Send("a", vec![0xE0, 0]),
                Closed("a"),
                Up("a", connect5("k5").flags(0), false),
            ],
        ),
        probe(
            "5 3.1.2-4: clean start ends what was kept",
            vec![
                Up("a", lasting("k6", false), false),
                Send("a", V5.subscribe(1, &[("k/6", 1)])),
                Get("a", V5.suback(1, &[1])),
                Drop("a"),
                Up("a", lasting("k6", true), false),
                Send("a", V5.publish("k/6", "x", 0, 0)),
                Quiet("a"),
            ],
        ),
        probe(
            "5 3.2.2-6: a refused CONNECT says no session and leaves the one that is kept",
            vec![
                Up("a", lasting("k7", true), false),
                Drop("a"),
                Refused("b", lasting("k7", false).with(&[&[33, 0, 0]]).bytes(), &[0x82]),
                Up("a", lasting("k7", false), true),
            ],
        ),
        probe(
            "3.1.2-5: what came while the client was away waits for it",
            vec![
                Up("a", lasting("k8", true), false),
                Send("a", V5.subscribe(1, &[("k/8", 1)])),
                Get("a", V5.suback(1, &[1])),
                Drop("a"),
                up("b"),
                Send(
                    "b",
                    [V5.publish("k/8", "1", 2, 1), V5.publish("k/8", "lost", 0, 0), V5.publish("k/8", "2", 4, 2)]
                        .concat(),
                ),
                Like("b", vec![0x40, 0, 1]),
                Like("b", vec![0x50, 0, 2]),
                Up("a", lasting("k8", false), true),
                Take("a", 0x32, "k/8", "1"),
                Take("a", 0x32, "k/8", "2"),
                Quiet("a"),
            ],
        ),
        probe(
            "4.4.0-1: what was not acknowledged comes again with DUP and its id, the rest after it",
            vec![
                Up("a", lasting("k9", true), false),
                Send("a", V5.subscribe(1, &[("k/9", 2)])),
                Get("a", V5.suback(1, &[2])),
                up("b"),
                Send("b", [V5.publish("k/9", "1", 2, 1), V5.publish("k/9", "2", 4, 2)].concat()),
                Get("a", V5.publish("k/9", "1", 2, 1)),
                Get("a", V5.publish("k/9", "2", 4, 2)),
                Send("a", ack(0x50, 2)),
                Get("a", ack(0x62, 2)),
                Drop("a"),
                Up("a", lasting("k9", false), true),
                Get("a", V5.publish("k/9", "1", 0x0A, 1)),
                Get("a", ack(0x62, 2)),
                Send("a", [ack(0x40, 1), ack(0x70, 2)].concat()),
                Quiet("a"),
            ],
        ),
        probe(
            "5 3.1.4-3: a newer connection takes the session over, the older hears 0x8E",
            vec![
                Up("a", lasting("k10", true), false),
                Up("b", lasting("k10", false), true),
                Ends("a", &[0x8E]),
                Quiet("b"),
            ],
        ),
        probe(
            "3.1.1 3.1.4-2: a newer connection takes the session over, the older is closed",
            vec![Up("a", connect4("k11"), false), Up("b", connect4("k11"), false), Closed("a"), Quiet("b")],
        ),
        probe(
            "a take-over between the versions",
            vec![
                Up("a", lasting("k12", true), false),
                Up("b", connect4("k12").flags(0), true),
                Ends("a", &[0x8E]),
                Up("a", connect5("k12"), false),
                Closed("b"),
            ],
        ),
        probe(
            "5 3.14.4: a session expiry in DISCONNECT counts: 0 ends the session",
            vec![
                Up("a", lasting("k13", true), false),
                Send("a", packet(0xE0, &[&[0, 5, 17, 0, 0, 0, 0]])),
                Closed("a"),
                Up("a", lasting("k13", false), false),
            ],
        ),
        probe(
            "3.1.2-8: a will is said when the connection breaks",
            vec![
                up("b"),
                Send("b", V5.subscribe(1, &[("w/1", 2)])),
                Get("b", V5.suback(1, &[2])),
                Up("a", connect4("wa").will("w/1", "gone", 0x08), false),
                Drop("a"),
                Take("b", 0x32, "w/1", "gone"),
            ],
        ),
        probe(
            "3.1.2-10: no will after DISCONNECT",
            vec![
                up("b"),
                Send("b", V5.subscribe(1, &[("w/2", 1)])),
                Get("b", V5.suback(1, &[1])),
                Up("a", connect5("wb").will("w/2", "gone", 0), false),
                Send("a", packet(0xE0, &[])),
                Closed("a"),
                Quiet("b"),
            ],
        ),
        probe(
            "5 3.14.2.1: DISCONNECT 0x04 wants the will said",
            vec![
                up("b"),
                Send("b", V5.subscribe(1, &[("w/3", 1)])),
                Get("b", V5.suback(1, &[1])),
                Up("a", connect5("wc").will("w/3", "gone", 0x10), false),
                Send("a", packet(0xE0, &[&[4]])),
                Closed("a"),
                Take("b", 0x32, "w/3", "gone"),
            ],
        ),
        probe(
            "3.1.2-8: a protocol error is an end that the will is said for",
            vec![
                up("b"),
                Send("b", V5.subscribe(1, &[("w/4", 1)])),
                Get("b", V5.suback(1, &[1])),
                Up("a", connect4("wd").will("w/4", "gone", 0), false),
                Send("a", packet(0x36, &[&[0, 1, b't', 0, 1]])),
                Closed("a"),
                Take("b", 0x30, "w/4", "gone"),
            ],
        ),
        probe(
            "3.1.2-17: a retained will is retained",
            vec![
                up("b"),
                Send("b", V5.subscribe(1, &[("w/5", 0)])),
                Get("b", V5.suback(1, &[0])),
                Up("a", connect4("we").will("w/5", "gone", 0x20), false),
                Drop("a"),
                Take("b", 0x30, "w/5", "gone"),
                Send("b", V5.subscribe(2, &[("w/5", 0)])),
                Get("b", V5.suback(2, &[0])),
                Take("b", 0x31, "w/5", "gone"),
            ],
        ),
        probe(
            "3.1.4-3: a take-over ends the older connection without DISCONNECT: its will is said",
            vec![
                up("b"),
                Send("b", V5.subscribe(1, &[("w/6", 0)])),
                Get("b", V5.suback(1, &[0])),
                Up("a", connect4("wf").will("w/6", "gone", 0), false),
                Up("c", connect4("wf"), false),
                Closed("a"),
                Take("b", 0x30, "w/6", "gone"),
            ],
        ),
        probe(
            "5 3.1.2: a will's properties travel with it",
            vec![
                up("b"),
                Send("b", V5.subscribe(1, &[("w/7", 0)])),
                Get("b", V5.suback(1, &[0])),
                Up(
                    "a",
                    {
                        let own: &[u8] = &[6, 1, 1, 3, 0, 1, b't'];
                        let connect = connect5("wg").flags(6);
                        connect.rest(&[own, &super::wire::field("w/7"), &super::wire::field("gone")])
                    },
                    false,
                ),
                Drop("a"),
                TakeWith("b", 0x30, "w/7", "gone", vec![1, 1, 3, 0, 1, b't']),
            ],
        ),
        probe(
            "3.14.4-2: what comes after DISCONNECT is not looked at",
            vec![
                up("b"),
                Send("b", V5.subscribe(1, &[("k/14", 0)])),
                Get("b", V5.suback(1, &[0])),
                up("a"),
                Send("a", [vec![0xE0, 0], V5.publish("k/14", "late", 0, 0)].concat()),
                Closed("a"),
                Quiet("b"),
            ],
        ),
        probe(
            "5 3.2.2.3: a shorter keep-alive is said to who asks for a longer one",
            vec![Send("a", connect5("ka").keep_alive(65_535).bytes()), Like("a", vec![0x20, 0, 0]), Quiet("a")],
        ),
    ]
}
