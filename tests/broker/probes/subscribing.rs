//! SUBSCRIBE, UNSUBSCRIBE, and what filters find.

use super::{
    steps::{
        Probe,
        Step::{self, *},
        probe,
    },
    wire::{V4, V5, ack, connect4, connect5},
};

/// A filter and topics: those it names, those it does not.
fn finds(filter: &'static str, named: &[&'static str], not: &[&'static str]) -> Vec<Step> {
    let mut steps = vec![
        Up("a", connect4("a"), false),
        Send("a", V4.subscribe(1, &[(filter, 0)])),
        Get("a", V4.suback(1, &[0])),
        Send("a", not.iter().flat_map(|topic| V4.publish(topic, "no", 0, 0)).collect()),
    ];
    for topic in named {
        steps.extend([Send("a", V4.publish(topic, "yes", 0, 0)), Take("a", 0x30, topic, "yes")]);
    }
    steps.push(Quiet("a"));
    steps
}

/// A filter that cannot be: refused with 0x80 or more, or the end of the connection.
fn bad(filter: &'static str) -> Vec<Step> {
    vec![
        Up("a", connect5("a"), false),
        Send("a", V5.subscribe(1, &[(filter, 0)])),
        Get("a", V5.suback(1, &[0x8F])),
        Up("b", connect4("b"), false),
        Send("b", V4.subscribe(1, &[(filter, 0)])),
        Get("b", V4.suback(1, &[0x80])),
    ]
}

pub fn probes() -> Vec<Probe> {
    let up = |name| Up(name, connect5(name), false);
    vec![
        probe("4.7.1-2: # names the parent and all below", {
            finds("f1/#", &["f1", "f1/a", "f1/a/b", "f1/"], &["f1x", "f", "x/f1"])
        }),
        probe("4.7.1-3: + names one level, an empty one too", finds("f2/+", &["f2/a", "f2/"], &["f2", "f2/a/b"])),
        probe("4.7.1: + in the middle", finds("f3/+/c", &["f3/b/c", "f3//c"], &["f3/c", "f3/b/b/c", "f3/b/d"])),
        probe("4.7.1: +/+ names /x", finds("+/f4", &["/f4", "x/f4"], &["f4", "x/y/f4"])),
        probe("4.7.2-1: # does not name $ topics", finds("#", &["f5/a"], &["$f5/a"])),
        probe("4.7.2-1: + does not name $ topics", finds("+/f6", &["a/f6"], &["$x/f6"])),
        probe("4.7.2: a $ further down is nothing special", finds("f7/+", &["f7/$x"], &[])),
        probe("4.7.3: capitals and slashes count", finds("f8/A", &["f8/A"], &["f8/a", "/f8/A", "f8/A/"])),
        probe("4.7.1-2: # in the middle", bad("a/#/b")),
        probe("4.7.1-2: # beside a letter", bad("a#")),
        probe("4.7.1-3: + beside a letter", bad("a/b+")),
        probe("4.7.1-3: + before a letter", bad("+a/b")),
        probe("4.7.3-1: an empty filter", bad("")),
        probe("5 4.8.2-1: a shared filter without a group", bad("$share//x")),
        probe("5 4.8.2: a shared filter without a filter", bad("$share/g/")),
        probe("5 4.8.2: a shared filter that ends after its group", bad("$share/g")),
        probe("5 4.8.2-2: a wildcard in the group", bad("$share/g+/x")),
        probe(
            "3.8.4-5: one code for each filter, in order",
            vec![
                up("a"),
                Send("a", V5.subscribe(9, &[("s/1", 0), ("a#", 1), ("s/2", 1), ("s/3", 2)])),
                Get("a", V5.suback(9, &[0, 0x8F, 1, 2])),
            ],
        ),
        probe(
            "5 3.1.2-24: no SUBACK that is larger than the client takes",
            vec![
                Up("a", connect5("a").with(&[&[39, 0, 0, 0, 60]]), false),
                Send("a", V5.subscribe(1, &[("many", 0); 56])),
                Ends("a", &[0x95]),
            ],
        ),
        probe(
            "5 3.1.2-24: nor an UNSUBACK",
            vec![
                Up("a", connect5("a").with(&[&[39, 0, 0, 0, 60]]), false),
                Send("a", V5.unsubscribe(1, &["many"; 55])),
                Like("a", vec![0xB0, 0, 1, 0]),
                Send("a", V5.unsubscribe(2, &["many"; 56])),
                Ends("a", &[0x95]),
            ],
        ),
        probe(
            "3.8.4-3: a subscription again replaces it",
            vec![
                up("a"),
                Send("a", V5.subscribe(1, &[("s/4", 0)])),
                Get("a", V5.suback(1, &[0])),
                Send("a", V5.subscribe(2, &[("s/4", 1)])),
                Get("a", V5.suback(2, &[1])),
                up("b"),
                Send("b", V5.publish("s/4", "x", 2, 1)),
                Take("a", 0x32, "s/4", "x"),
                Quiet("a"),
            ],
        ),
        probe(
            "3.8.4-8: never more than the quality that was asked for, never more than was published",
            vec![
                up("a"),
                Send("a", V5.subscribe(1, &[("s/5", 1)])),
                Get("a", V5.suback(1, &[1])),
                up("b"),
                Send("b", V5.publish("s/5", "2", 4, 1)),
                Like("b", vec![0x50, 0, 1]),
                Take("a", 0x32, "s/5", "2"),
                Send("b", V5.publish("s/5", "0", 0, 0)),
                Take("a", 0x30, "s/5", "0"),
            ],
        ),
        probe(
            "3.10.4-2: after UNSUBACK nothing new comes",
            vec![
                up("a"),
                Send("a", V5.subscribe(1, &[("s/6", 0), ("s/7", 0)])),
                Get("a", V5.suback(1, &[0, 0])),
                Send("a", V5.unsubscribe(2, &["s/6", "s/never"])),
                Get("a", V5.unsuback(2, &[0, 0x11])),
                Send("a", [V5.publish("s/6", "x", 0, 0), V5.publish("s/7", "x", 0, 0)].concat()),
                Take("a", 0x30, "s/7", "x"),
                Quiet("a"),
            ],
        ),
        probe(
            "3.1.1 3.10.4-5: UNSUBACK for what was never there",
            vec![
                Up("a", connect4("a"), false),
                Send("a", V4.unsubscribe(2, &["s/never"])),
                Get("a", V4.unsuback(2, &[])),
            ],
        ),
        probe(
            "3.10.4-1: unsubscribing takes the very filter, not what it names",
            vec![
                Up("a", connect4("a"), false),
                Send("a", V4.subscribe(1, &[("s/8/#", 0)])),
                Get("a", V4.suback(1, &[0])),
                Send("a", V4.unsubscribe(2, &["s/8/x", "s/8/+"])),
                Get("a", V4.unsuback(2, &[])),
                Send("a", V4.publish("s/8/x", "x", 0, 0)),
                Take("a", 0x30, "s/8/x", "x"),
            ],
        ),
        probe(
            "5 3.3.4-2, 3.3.4-3: overlapping subscriptions bring one message, the highest quality, all identifiers",
            vec![
                up("a"),
                Send("a", V5.subscribe_with(1, &[("o/+", 0)], &[2, 11, 5])),
                Get("a", V5.suback(1, &[0])),
                Send("a", V5.subscribe_with(2, &[("o/#", 1)], &[3, 11, 0x80, 1])),
                Get("a", V5.suback(2, &[1])),
                Send("a", V5.subscribe(3, &[("o/1", 0)])),
                Get("a", V5.suback(3, &[0])),
                up("b"),
                Send("b", V5.publish("o/1", "x", 2, 1)),
                TakeWith("a", 0x32, "o/1", "x", vec![11, 5]),
                Send("b", V5.publish("o/1", "y", 2, 2)),
                TakeWith("a", 0x32, "o/1", "y", vec![11, 0x80, 1]),
                Quiet("a"),
            ],
        ),
        probe(
            "5 3.8.3-3: no-local keeps a client from its own messages",
            vec![
                up("a"),
                Send("a", V5.subscribe(1, &[("n/1", 4)])),
                Get("a", V5.suback(1, &[0])),
                Send("a", V5.publish("n/1", "mine", 0, 0)),
                Quiet("a"),
                up("b"),
                Send("b", V5.publish("n/1", "yours", 0, 0)),
                Take("a", 0x30, "n/1", "yours"),
            ],
        ),
        probe(
            "5 3.3.1-13: retain as published",
            vec![
                up("a"),
                Send("a", V5.subscribe(1, &[("n/2", 8)])),
                Get("a", V5.suback(1, &[0])),
                Send("a", V5.publish("n/2", "x", 1, 0)),
                Take("a", 0x31, "n/2", "x"),
                Send("a", V5.publish("n/2", "y", 0, 0)),
                Take("a", 0x30, "n/2", "y"),
            ],
        ),
        probe(
            "5 3.3.1-9: retain handling 0 sends them again with every SUBSCRIBE",
            vec![
                up("a"),
                Send("a", V5.publish("n/3", "x", 1, 0)),
                Send("a", V5.subscribe(1, &[("n/3", 0)])),
                Get("a", V5.suback(1, &[0])),
                Take("a", 0x31, "n/3", "x"),
                Send("a", V5.subscribe(2, &[("n/3", 0)])),
                Get("a", V5.suback(2, &[0])),
                Take("a", 0x31, "n/3", "x"),
            ],
        ),
        probe(
            "5 3.3.1-10: retain handling 1 sends them for a new subscription only",
            vec![
                up("a"),
                Send("a", V5.publish("n/4", "x", 1, 0)),
                Send("a", V5.subscribe(1, &[("n/4", 0x10)])),
                Get("a", V5.suback(1, &[0])),
                Take("a", 0x31, "n/4", "x"),
                Send("a", V5.subscribe(2, &[("n/4", 0x10)])),
                Get("a", V5.suback(2, &[0])),
                Quiet("a"),
                Send("a", V5.unsubscribe(3, &["n/4"])),
                Get("a", V5.unsuback(3, &[0])),
                Send("a", V5.subscribe(4, &[("n/4", 0x10)])),
                Get("a", V5.suback(4, &[0])),
                Take("a", 0x31, "n/4", "x"),
            ],
        ),
        probe(
            "5 3.3.1-11: retain handling 2 sends none",
            vec![
                up("a"),
                Send("a", V5.publish("n/5", "x", 1, 0)),
                Send("a", V5.subscribe(1, &[("n/5", 0x20)])),
                Get("a", V5.suback(1, &[0])),
                Quiet("a"),
            ],
        ),
        probe(
            "5 3.8.4: a retained message brings its subscription's identifier",
            vec![
                up("a"),
                Send("a", V5.publish("n/6", "x", 1, 0)),
                Send("a", V5.subscribe_with(1, &[("n/6", 0)], &[5, 11, 0xFF, 0xFF, 0xFF, 0x7F])),
                Get("a", V5.suback(1, &[0])),
                TakeWith("a", 0x31, "n/6", "x", vec![11, 0xFF, 0xFF, 0xFF, 0x7F]),
            ],
        ),
        probe(
            "5 4.8.2: each message goes to one of those who share",
            vec![
                up("a"),
                Send("a", V5.subscribe(1, &[("$share/g/sh/1", 0)])),
                Get("a", V5.suback(1, &[0])),
                up("b"),
                Send("b", V5.subscribe(1, &[("$share/g/sh/1", 0)])),
                Get("b", V5.suback(1, &[0])),
                up("c"),
                Send("c", [V5.publish("sh/1", "x", 0, 0), V5.publish("sh/1", "x", 0, 0)].concat()),
                Take("a", 0x30, "sh/1", "x"),
                Take("b", 0x30, "sh/1", "x"),
                Quiet("a"),
                Quiet("b"),
            ],
        ),
        probe(
            "5 4.8.2: no retained messages for shared subscriptions",
            vec![
                up("a"),
                Send("a", V5.publish("sh/2", "x", 1, 0)),
                Send("a", V5.subscribe(1, &[("$share/g/sh/2", 0)])),
                Get("a", V5.suback(1, &[0])),
                Quiet("a"),
            ],
        ),
        probe(
            "5 4.8.2: a shared and a plain subscription are two",
            vec![
                up("a"),
                Send("a", V5.subscribe(1, &[("$share/g/sh/3", 0), ("sh/3", 0)])),
                Get("a", V5.suback(1, &[0, 0])),
                Send("a", V5.publish("sh/3", "x", 0, 0)),
                Take("a", 0x30, "sh/3", "x"),
                Take("a", 0x30, "sh/3", "x"),
                Quiet("a"),
            ],
        ),
        probe(
            "5 4.8.2-6: what a sharing member leaves unacknowledged goes to another",
            vec![
                up("a"),
                Send("a", V5.subscribe(1, &[("$share/g/sh/4", 1)])),
                Get("a", V5.suback(1, &[1])),
                up("c"),
                Send("c", V5.publish("sh/4", "x", 2, 1)),
                Like("c", vec![0x40, 0, 1]),
                Like("a", vec![0x32, 0, 4]),
                up("b"),
                Send("b", V5.subscribe(1, &[("$share/g/sh/4", 1)])),
                Get("b", V5.suback(1, &[1])),
                Drop("a"),
                Take("b", 0x32, "sh/4", "x"),
                Quiet("b"),
            ],
        ),
        probe(
            "3.8.4-4: messages may come before others' acknowledgements, SUBACK always comes",
            vec![
                up("a"),
                Send("a", V5.subscribe(1, &[("s/9", 1)])),
                Get("a", V5.suback(1, &[1])),
                up("b"),
                Send("b", V5.publish("s/9", "x", 2, 1)),
                Like("a", vec![0x32, 0, 3]),
                Send("a", V5.subscribe(2, &[("s/10", 1)])),
                Get("a", V5.suback(2, &[1])),
                Send("a", ack(0x40, 1)),
                Quiet("a"),
            ],
        ),
        probe("the limit of subscriptions is said with 0x97", {
            let names: Vec<String> = (0..101).map(|n| format!("many/{n}")).collect();
            let all: Vec<(&str, u8)> = names.iter().map(|name| (name.as_str(), 0)).collect();
            let codes = [vec![0; 100], vec![0x97]].concat();
            vec![up("a"), Send("a", V5.subscribe(1, &all)), Get("a", V5.suback(1, &codes))]
        }),
    ]
}
