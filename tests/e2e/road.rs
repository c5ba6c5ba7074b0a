//! From a child to the cloud: in order, numbered, and nothing missing whatever breaks between.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use serde_json::json;

use super::{
    eventually,
    site::{Child, Ground, assert_gap_free},
};

#[test]
fn what_a_child_says_reaches_the_cloud_numbered_and_in_order() {
    let ground = Ground::new();
    let gateway = ground.gateway("").start();
    let child = ground.child(&gateway, "room");
    let _connected = child.listens("#");
    assert!(child.measures(1..=200));
    child.says("state", r#"{"reported": {"mode": "auto"}}"#);
    child.says("heartbeat", r#"{"uptime": 77, "freeMemory": 1000}"#);

    eventually("200 readings", || (ground.telemetry("room").len() >= 200).then_some(()));
    let readings = ground.telemetry("room");
    assert_gap_free(&readings);
    let own: Vec<_> = readings.iter().filter_map(|reading| reading["values"]["n"].as_u64()).collect();
    assert_eq!(own, (1..=200).collect::<Vec<_>>(), "each once, in the order they were measured");
    assert_eq!(readings[0]["values"]["temp"], json!(20.5));
    assert!(readings.iter().all(|reading| reading["ts"].is_i64()));

    let state = ground.cloud.expect("devices/room/state", |state| state["reported"]["mode"] == "auto");
    assert!(state["seq"].is_u64() && state["version"].is_u64(), "{state}");
    ground.cloud.expect("devices/room/heartbeat", |beat| beat["uptime"] == 77);
    ground.cloud.expect("devices/room/status", |status| status["state"] == "online");
    // Who comes later is told as well.
    let late = ground.mosquitto.listen("devices/+/status");
    late.expect("devices/room/status", |status| status["state"] == "online" && status["since"].is_i64());
    late.expect("devices/gw/status", |status| status["state"] == "online");
}

#[test]
fn after_a_stop_that_is_asked_for_numbering_goes_on() {
    let ground = Ground::new();
    let mut gateway = ground.gateway("").start();
    let child = ground.child(&gateway, "room");
    assert!(child.measures(1..=30));
    let asked = Instant::now();
    assert_eq!(gateway.stop(), 0);
    assert!(asked.elapsed() < Duration::from_secs(10), "stopping took {:?}", asked.elapsed());
    ground.cloud.expect("devices/gw/status", |status| status["state"] == "offline");

    gateway.start_again();
    assert!(child.measures(31..=60), "the credential outlives the restart");
    eventually("60 readings", || (ground.counted("room").account("room").own.len() == 60).then_some(()));
    assert_gap_free(&ground.telemetry("room"));
    assert_eq!(ground.counted("room").account("room").received.len(), 60);
}

#[test]
fn a_stop_while_the_link_swallows_everything_is_quick_and_loses_nothing() {
    let ground = Ground::new();
    let mut gateway = ground.gateway("").start();
    let child = ground.child(&gateway, "room");
    assert!(child.measures(1..=10));
    eventually("the readings before", || (ground.telemetry("room").len() >= 10).then_some(()));
    ground.wire.stall();
    let _connected = child.listens("#");
    assert!(child.measures(11..=500));
    let asked = Instant::now();
    assert_eq!(gateway.stop(), 0);
    assert!(asked.elapsed() < Duration::from_secs(15), "stopping took {:?}", asked.elapsed());
    gateway.start_again();
    ground.wire.heal();
    eventually("500 readings", || (ground.counted("room").account("room").own.len() == 500).then_some(()));
    assert_gap_free(&ground.telemetry("room"));
    assert_eq!(ground.counted("room").account("room").received.len(), 500);
}

#[test]
fn several_children_at_once_each_keep_their_own_numbers_through_short_cuts() {
    let ground = Ground::new();
    let gateway = ground.gateway("").start();
    let children: Vec<Child> = (1..=3).map(|n| ground.child(&gateway, &format!("room-{n}"))).collect();
    let stop = AtomicBool::new(false);
    let measured = std::thread::scope(|scope| {
        let stop = &stop;
        let measuring: Vec<_> =
            children.iter().map(|child| scope.spawn(move || (child, measures_on(child, 1, stop)))).collect();
        // Each cut falls while records are on their way, and is healed when the gateway has noticed.
        for round in 1..=4 {
            let before = ground.cloud.all().len();
            eventually("something passes", || (ground.cloud.all().len() > before).then_some(()));
            ground.wire.cut();
            gateway.eventually(&format!("cut {round} is noticed"), |gateway| {
                (gateway.get("/v1/status")["link"]["state"] == "backing-off").then_some(())
            });
            ground.wire.heal();
        }
        stop.store(true, Ordering::Relaxed);
        measuring.into_iter().map(|one| one.join().expect("measured")).collect::<Vec<_>>()
    });
    for (child, (acknowledged, next)) in measured {
        assert_eq!(acknowledged, (1..next).collect::<Vec<_>>(), "the gateway takes in whatever the link does");
        let account = || ground.counted(&child.device).account(&child.device);
        eventually(&format!("all readings of {}", child.device), || (account().own.len() == next - 1).then_some(()));
        assert_gap_free(&ground.telemetry(&child.device));
        assert_eq!((account().received.len(), account().disordered), (next - 1, 0));
    }
}

/// Measures in batches until told to stop; returns what was acknowledged.
fn measures_on(child: &Child, first: u64, stop: &AtomicBool) -> (Vec<u64>, u64) {
    const BATCH: u64 = 40;
    let (mut acknowledged, mut next) = (Vec::new(), first);
    while !stop.load(Ordering::Relaxed) {
        if child.measures(next..=next + BATCH - 1) {
            acknowledged.extend(next..next + BATCH);
        } else {
            std::thread::sleep(Duration::from_millis(50)); // nobody listens: the daemon is dead just now
        }
        next += BATCH;
    }
    (acknowledged, next)
}

fn nothing_is_missing_through(break_link: impl Fn(&Ground)) {
    let ground = Ground::new();
    let mut gateway = ground.gateway("").start();
    let child = ground.child(&gateway, "room");
    let (mut acknowledged, mut next) = (Vec::new(), 1);
    assert!(child.measures(1..=50), "before");
    acknowledged.extend(1..=50);
    next += 50;
    eventually("the readings before", || (ground.telemetry("room").len() >= 50).then_some(()));

    break_link(&ground);
    assert!(child.measures(next..=next + 299), "the cloud is away, the child is taken in");
    acknowledged.extend(next..next + 300);
    next += 300;
    // Killed in the middle of taking in more.
    let stop = AtomicBool::new(false);
    let (held, after) = std::thread::scope(|scope| {
        let measuring = scope.spawn(|| measures_on(&child, next, &stop));
        gateway.eventually("more readings wait", |gateway| {
            (gateway.get("/v1/log")["waiting"].as_u64()? >= 400).then_some(())
        });
        gateway.kill();
        gateway.start_again();
        let waiting = |gateway: &super::gateway::Gateway| gateway.get("/v1/log")["waiting"].as_u64();
        let then = waiting(&gateway).expect("a number");
        gateway.eventually("taken in again", |gateway| (waiting(gateway)? > then + 80).then_some(()));
        stop.store(true, Ordering::Relaxed);
        measuring.join().expect("measured")
    });
    // What was sent into the black hole may still arrive as it was; the last of these met no link at all.
    let waited = *held.last().expect("taken in without a cloud");
    acknowledged.extend(held);
    next = after;
    let before_heal = ground.telemetry("room").len();
    ground.wire.heal();
    assert!(child.measures(next..=next + 49), "after");
    acknowledged.extend(next..next + 50);

    eventually("the last reading", || (ground.counted("room").account("room").own.last()? == next + 49).then_some(()));
    let readings = ground.telemetry("room");
    let account = ground.counted("room").account("room");
    let missing: Vec<_> =
        acknowledged.iter().filter(|n| !account.own.runs().any(|run| run.contains(n))).copied().collect();
    assert_eq!(missing, Vec::<u64>::new(), "acknowledged to the child, and not in the cloud");
    assert!(account.is_complete(None), "missing numbers: {:?}", account.missing(None));
    assert_eq!((account.disordered, account.unnumbered), (0, 0));
    assert_gap_free(&readings);
    assert!(ground.cloud.on("devices/gw/gaps").is_empty(), "nothing was given up");
    let late =
        |n: u64| readings.iter().find(|reading| reading["values"]["n"] == n).map(|reading| reading["late"] == true);
    assert_eq!((late(1), late(waited)), (Some(false), Some(true)), "what waited for the outage to end says so");
    assert!(before_heal < readings.len() - 300, "the link was really broken: {before_heal} of {}", readings.len());
}

#[test]
fn nothing_acknowledged_is_missing_after_a_cut_with_a_kill_inside() {
    nothing_is_missing_through(|ground| ground.wire.cut());
}

#[test]
fn nothing_acknowledged_is_missing_after_a_black_hole_with_a_kill_inside() {
    nothing_is_missing_through(|ground| ground.wire.stall());
}
