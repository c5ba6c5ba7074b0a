//! What the standards count in seconds. These probes run beside each other: their names are their own. Where something
//! must be done before a time is over there are seconds for it: a busy disk alone can hold an answer up for one.

use super::{
    steps::{Probe, Step::*, probe},
    wire::{V4, V5, connect4, connect5, field, properties},
};

pub fn probes() -> Vec<Probe> {
    let up = |name: &'static str| Up(name, connect5(name), false);
    let will =
        |topic: &str, delay: u8| [&properties(&[&[24, 0, 0, 0, delay]])[..], &field(topic), &field("gone")].concat();
    vec![
        probe(
            "5 3.1.2-22: silence of one and a half times the keep-alive is 0x8D",
            vec![Up("t1", connect5("t1").keep_alive(3), false), Wait(700), Quiet("t1"), Ends("t1", &[0x8D])],
        ),
        probe("3.1.1 3.1.2-24: the same is the end", vec![Up("t2", connect4("t2").keep_alive(1), false), Closed("t2")]),
        probe(
            "3.1.2-24: half a packet is silence",
            vec![
                Up("t3", connect4("t3").keep_alive(1), false),
                Trickle("t3", V4.publish("x", "y", 0, 0)[..4].to_vec()),
                Closed("t3"),
            ],
        ),
        probe(
            "5 3.3.2-6: the message expiry counts down while it waits",
            vec![
                Up("t4", connect5("t4").with(&[&[17, 0, 0, 0, 60]]), false),
                Send("t4", V5.subscribe(1, &[("e/4", 1)])),
                Get("t4", V5.suback(1, &[1])),
                Drop("t4"),
                up("t4b"),
                Send("t4b", V5.publish_with(b"e/4", "x", 2, 1, &[5, 2, 0, 0, 0, 9])),
                Like("t4b", vec![0x40, 0, 1]),
                Wait(1200),
                Up("t4", connect5("t4").flags(0), true),
                TakeAged("t4", 0x32, "e/4", "x", 9),
            ],
        ),
        probe(
            "5 3.3.2-5: an expired message is not delivered",
            vec![
                Up("t5", connect5("t5").with(&[&[17, 0, 0, 0, 60]]), false),
                Send("t5", V5.subscribe(1, &[("e/5", 1)])),
                Get("t5", V5.suback(1, &[1])),
                Drop("t5"),
                up("t5b"),
                Send("t5b", V5.publish_with(b"e/5", "x", 2, 1, &[5, 2, 0, 0, 0, 1])),
                Send("t5b", V5.publish_with(b"e/5", "kept", 3, 2, &[5, 2, 0, 0, 0, 1])),
                Like("t5b", vec![0x40, 0, 1]),
                Wait(1200),
                Up("t5", connect5("t5").flags(0), true),
                Quiet("t5"),
                Send("t5", V5.subscribe(2, &[("e/5", 0)])),
                Get("t5", V5.suback(2, &[0])),
                Quiet("t5"),
            ],
        ),
        probe(
            "5 3.1.2-23: a session ends when its expiry has passed",
            vec![
                Up("t6", connect5("t6").with(&[&[17, 0, 0, 0, 1]]), false),
                Drop("t6"),
                Wait(1050),
                Up("t6", connect5("t6").flags(0), false),
            ],
        ),
        probe(
            "5 3.1.3-9: a will waits for its delay",
            vec![
                up("t7b"),
                Send("t7b", V5.subscribe(1, &[("e/7", 0)])),
                Get("t7b", V5.suback(1, &[0])),
                Up("t7", connect5("t7").flags(6).with(&[&[17, 0, 0, 0, 60]]).rest(&[&will("e/7", 4)]), false),
                Drop("t7"),
                Wait(500),
                Quiet("t7b"),
                Take("t7b", 0x30, "e/7", "gone"),
            ],
        ),
        probe(
            "5 3.1.3-9: who comes back in time takes the will back",
            vec![
                up("t8b"),
                Send("t8b", V5.subscribe(1, &[("e/8", 0)])),
                Get("t8b", V5.suback(1, &[0])),
                Up("t8", connect5("t8").flags(6).with(&[&[17, 0, 0, 0, 60]]).rest(&[&will("e/8", 4)]), false),
                Drop("t8"),
                Wait(300),
                Up("t8", connect5("t8").flags(0).with(&[&[17, 0, 0, 0, 60]]), true),
                Wait(4500),
                Quiet("t8b"),
            ],
        ),
        probe(
            "5 3.1.3.2.2: a will is said no later than its session ends",
            vec![
                up("t9b"),
                Send("t9b", V5.subscribe(1, &[("e/9", 0)])),
                Get("t9b", V5.suback(1, &[0])),
                Up("t9", connect5("t9").flags(6).with(&[&[17, 0, 0, 0, 1]]).rest(&[&will("e/9", 200)]), false),
                Drop("t9"),
                Take("t9b", 0x30, "e/9", "gone"),
            ],
        ),
        probe(
            "5 3.1.3.2.2: without a session there is no delay",
            vec![
                up("t10b"),
                Send("t10b", V5.subscribe(1, &[("e/10", 0)])),
                Get("t10b", V5.suback(1, &[0])),
                Up("t10", connect5("t10").flags(6).rest(&[&will("e/10", 200)]), false),
                Drop("t10"),
                Take("t10b", 0x30, "e/10", "gone"),
            ],
        ),
        probe(
            "5 3.1.4-3: clean start says a will that waits",
            vec![
                up("t11b"),
                Send("t11b", V5.subscribe(1, &[("e/11", 0)])),
                Get("t11b", V5.suback(1, &[0])),
                Up("t11", connect5("t11").flags(6).with(&[&[17, 0, 0, 0, 60]]).rest(&[&will("e/11", 200)]), false),
                Drop("t11"),
                Up("t11", connect5("t11"), false),
                Take("t11b", 0x30, "e/11", "gone"),
            ],
        ),
    ]
}
