//! The road to the cloud against a broker nobody here wrote, over a wire that breaks.

mod refusing;
#[path = "../road/mod.rs"]
mod road;

use std::{
    collections::BTreeSet,
    path::Path,
    time::{Duration, Instant},
};

use headgate::{
    bus::{Order, OrderKind, Orders},
    config::uplink::{UplinkConfig, Version},
    model::{
        command::{Refusal, RefusalCode},
        event::LinkState,
        ids::DeviceId,
        record::{Kind, NewRecord},
        time::Millis,
    },
    store::{Store, WriterThread},
    tasks::Tasks,
    uplink::{self, Surroundings, Uplink},
};
use refusing::{Answer, Minding};
use road::{cloud::Cloud, id, noise, wire::TcpWire};
use serde_json::json;
use tokio::sync::{mpsc, watch};

/// Longer than anything here takes, even on a busy machine.
const SOON: Duration = Duration::from_secs(60);

fn reading(device: &str, n: usize) -> NewRecord {
    let body = format!("{{\"values\":{{\"n\":{n}}}}}").into();
    NewRecord { device: id(device), kind: Kind::Telemetry, name: None, ts: Millis(1_760_000_000_000), body }
}

/// A gateway of which only the store and the road run.
struct Gateway {
    store: Store,
    thread: WriterThread,
    uplink: Uplink,
    tasks: Tasks,
    orders: mpsc::Receiver<Order>,
    _children: watch::Sender<Vec<DeviceId>>,
}

impl Gateway {
    fn start(folder: &Path, port: u16, change: impl FnOnce(&mut UplinkConfig)) -> Gateway {
        Self::start_capped(folder, port, 64 << 20, change)
    }

    fn start_capped(folder: &Path, port: u16, cap: u64, change: impl FnOnce(&mut UplinkConfig)) -> Gateway {
        let (store, thread) = road::open(folder, cap);
        let mut config = UplinkConfig {
            keep_alive: Duration::from_secs(5),
            unacked_timeout: Duration::from_secs(1),
            retry: (Duration::from_millis(100), Duration::from_millis(500)),
            ..road::config(port)
        };
        change(&mut config);
        let (keeper, orders) = mpsc::channel(16);
        let tasks = Tasks::new();
        let (tell, children) = watch::channel(vec![id("a"), id("b")]);
        let around = road::surroundings(&store, &tasks);
        let orders_to = Orders { keeper, ..around.orders.clone() };
        let uplink = uplink::start(config, Surroundings { orders: orders_to, children, ..around });
        Gateway { store, thread, uplink, tasks, orders, _children: tell }
    }

    async fn is(&self, what: &str, enough: impl Fn(&LinkState) -> bool) {
        let mut state = self.uplink.state();
        let there = state.wait_for(|(state, _)| enough(state));
        let there = tokio::time::timeout(SOON, there).await;
        there.unwrap_or_else(|_| panic!("never {what}: {:?}", self.uplink.link_status())).expect("runs");
    }

    async fn stop(self) {
        self.tasks.stop_and_wait().await;
        self.store.stop().await;
        self.thread.join();
    }
}

/// All of 1 to `upto` arrived, what came first in order; repeated ones are allowed where the wire broke.
fn is_whole(cloud: &Cloud, device: &str, upto: u64, repeats: bool) {
    let seqs: Vec<u64> = cloud.records(device, "telemetry").iter().map(|r| r["seq"].as_u64().expect("seq")).collect();
    let mut firsts = Vec::new();
    let mut known = BTreeSet::new();
    for seq in &seqs {
        if known.insert(*seq) {
            firsts.push(*seq);
        }
    }
    assert_eq!(firsts, (1..=upto).collect::<Vec<_>>(), "{device}");
    assert!(repeats || seqs.len() as u64 == upto, "{device}: {} repeated", seqs.len() as u64 - upto);
}

fn arrived(device: &'static str, upto: usize) -> impl Fn(&[(String, String)]) -> bool {
    let wanted = format!("\"n\":{upto}}}");
    let topic = format!("devices/{device}/telemetry");
    move |seen| seen.iter().any(|(seen, payload)| *seen == topic && payload.contains(&wanted))
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_arrives_once_and_in_order_with_either_protocol() {
    for version in [Version::V3, Version::V5] {
        let (cloud, folder) = (Cloud::start(), tempfile::tempdir().expect("folder"));
        let gateway = Gateway::start(folder.path(), cloud.port, |config| config.version = version);
        gateway.is("live", |state| *state == LinkState::Live).await;
        for n in 1..=500 {
            gateway.store.append(vec![reading("a", n), reading("b", n)]).await.expect("stored");
        }
        for device in ["a", "b"] {
            cloud.wait("the last", SOON, arrived(device, 500));
            is_whole(&cloud, device, 500, false);
            assert!(cloud.records(device, "telemetry").iter().all(|record| record.get("late").is_none()));
        }
        gateway.stop().await;
        let offline = |seen: &[(String, String)]| {
            seen.iter().any(|(topic, payload)| topic == "devices/gw/status" && payload.contains("\"stopped\""))
        };
        cloud.wait("goodbye", SOON, offline);
        // A restart repeats nothing: the cursor was written down.
        let gateway = Gateway::start(folder.path(), cloud.port, |config| config.version = version);
        gateway.is("live", |state| *state == LinkState::Live).await;
        gateway.store.append(vec![reading("a", 501)]).await.expect("stored");
        cloud.wait("the next", SOON, arrived("a", 501));
        is_whole(&cloud, "a", 501, false);
        gateway.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_wire_and_a_cut_one_lose_nothing() {
    for version in [Version::V3, Version::V5] {
        let (cloud, folder) = (Cloud::start(), tempfile::tempdir().expect("folder"));
        let wire = TcpWire::to(cloud.port);
        let gateway = Gateway::start(folder.path(), wire.port, |config| config.version = version);
        gateway.is("live", |state| *state == LinkState::Live).await;
        let mut n = 0;
        for round in 0..4 {
            for _ in 0..200 {
                n += 1;
                gateway.store.append(vec![reading("a", n)]).await.expect("stored");
                if n % 200 == 50 {
                    if round % 2 == 0 {
                        wire.stall()
                    } else {
                        wire.cut()
                    };
                }
            }
            gateway.is("away", |state| matches!(state, LinkState::BackingOff { .. } | LinkState::Connecting)).await;
            wire.heal();
            cloud.wait("what was kept", SOON, arrived("a", n));
        }
        // A connection that died has delivered the beginning of what it held, the next one begins at the cursor.
        is_whole(&cloud, "a", n as u64, true);
        let late = cloud.records("a", "telemetry").iter().filter(|record| record["late"] == true).count();
        assert!(late >= 4 * 150, "{late} were late");
        gateway.is("live again", |state| *state == LinkState::Live).await;
        gateway.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_wire_is_not_taken_for_a_dead_one() {
    let (cloud, folder) = (Cloud::start(), tempfile::tempdir().expect("folder"));
    let wire = TcpWire::to(cloud.port);
    wire.throttle(8000);
    let gateway = Gateway::start(folder.path(), wire.port, |config| config.unacked_timeout = Duration::from_secs(2));
    gateway.store.append((1..=2000).map(|n| reading("a", n)).collect()).await.expect("stored");
    cloud.wait("all", Duration::from_secs(180), arrived("a", 2000));
    is_whole(&cloud, "a", 2000, true);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn live_records_go_first_and_the_backlog_keeps_its_rate() {
    let (cloud, folder) = (Cloud::start(), tempfile::tempdir().expect("folder"));
    let gateway = Gateway::start(folder.path(), 1, |_| ());
    gateway.store.append((1..=6000).map(|n| reading("a", n)).collect()).await.expect("stored");
    gateway.stop().await;
    let begun = Instant::now();
    let gateway = Gateway::start(folder.path(), cloud.port, |config| {
        config.live_first = true;
        config.backlog_rate = 1000;
        config.batch = 50;
    });
    gateway.is("catching up", |state| matches!(state, LinkState::CatchingUp { .. })).await;
    gateway.store.append(vec![reading("a", 6001)]).await.expect("stored");
    gateway.is("live", |state| *state == LinkState::Live).await;
    assert!(begun.elapsed() > Duration::from_secs(5), "the backlog was not held to its rate");
    for (what, n) in [("the live one", 6001), ("the oldest", 1), ("the newest of the backlog", 6000)] {
        cloud.wait(what, SOON, arrived("a", n));
    }
    let mut seqs: Vec<u64> = cloud.records("a", "telemetry").iter().map(|r| r["seq"].as_u64().expect("seq")).collect();
    let live = seqs.iter().position(|seq| *seq == 6001).expect("the live one");
    assert!(live < 5500, "the live one came after {live} of 6000 that were older");
    seqs.sort_unstable();
    assert_eq!(seqs, (1..=6001).collect::<Vec<_>>());
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_arrive_and_refusals_go_back() {
    for version in [Version::V3, Version::V5] {
        let (cloud, folder) = (Cloud::start(), tempfile::tempdir().expect("folder"));
        let mut gateway = Gateway::start(folder.path(), cloud.port, |config| config.version = version);
        gateway.is("live", |state| *state == LinkState::Live).await;
        cloud.publish("devices/a/delta", "{\"setpoint\":21}", true);
        let order = tokio::time::timeout(SOON, gateway.orders.recv()).await.expect("comes").expect("runs");
        assert_eq!(order.device, id("a"));
        let OrderKind::Delta(delta) = order.what else { panic!("{:?}", order.what) };
        assert_eq!(delta, json!({ "setpoint": 21 }));
        order.reply.send(Err(Refusal::new(RefusalCode::OutOfRange, "21 is above 20"))).expect("waits");
        let told = |seen: &[(String, String)]| {
            seen.iter().any(|(topic, payload)| topic == "devices/a/errors" && payload.contains("21 is above 20"))
        };
        cloud.wait("the refusal", SOON, told);
        cloud.publish("devices/b/desired", "no json", false);
        let told = |seen: &[(String, String)]| {
            seen.iter().any(|(topic, payload)| topic == "devices/b/errors" && payload.contains("payload-invalid"))
        };
        cloud.wait("the second refusal", SOON, told);
        gateway.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_was_not_stored_comes_again() {
    let (cloud, folder) = (Cloud::start(), tempfile::tempdir().expect("folder"));
    let mut gateway = Gateway::start(folder.path(), cloud.port, |_| ());
    gateway.is("live", |state| *state == LinkState::Live).await;
    cloud.publish("devices/a/desired", "{\"desired\":{\"x\":1}}", false);
    let order = tokio::time::timeout(SOON, gateway.orders.recv()).await.expect("comes").expect("runs");
    // The gateway goes away before it answers.
    gateway.stop().await;
    drop(order);
    let mut gateway = Gateway::start(folder.path(), cloud.port, |_| ());
    let order = tokio::time::timeout(SOON, gateway.orders.recv()).await.expect("comes again").expect("runs");
    assert!(matches!(order.what, OrderKind::Desired(_)));
    order.reply.send(Ok(json!({}))).expect("waits");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_dropped_offline_is_declared_and_the_sum_is_whole() {
    let (cloud, folder) = (Cloud::start(), tempfile::tempdir().expect("folder"));
    let gateway = Gateway::start_capped(folder.path(), 1, 4 << 20, |_| ());
    let last = 20_000;
    for n in (1..=last).step_by(100) {
        let records: Vec<NewRecord> = (n..n + 100)
            .map(|n| {
                let noise = noise(n as u64, 400);
                let body = format!("{{\"values\":{{\"x\":\"{noise}\",\"n\":{n}}}}}").into();
                NewRecord { body, ..reading("a", n) }
            })
            .collect();
        gateway.store.append(records).await.expect("stored");
    }
    let status = gateway.uplink.log_status().await.expect("status");
    assert!(status.waiting < last as u64 && status.dropped["quota"] > 0, "{status:?}");
    gateway.stop().await;
    let gateway = Gateway::start_capped(folder.path(), cloud.port, 4 << 20, |_| ());
    cloud.wait("the last", SOON, arrived("a", last));
    let mut have: Vec<(u64, u64)> = Vec::new();
    for gap in cloud.records("gw", "gaps") {
        assert_eq!((&gap["device"], &gap["cause"]), (&json!("a"), &json!("quota")));
        have.push((gap["fromSeq"].as_u64().expect("from"), gap["toSeq"].as_u64().expect("to")));
    }
    assert!(!have.is_empty());
    have.extend(cloud.records("a", "telemetry").iter().map(|r| r["seq"].as_u64().expect("seq")).map(|seq| (seq, seq)));
    have.sort_unstable();
    let mut next = 1;
    for (from, to) in have {
        assert!(from <= next, "{next} to {from} is neither there nor declared");
        next = next.max(to + 1);
    }
    assert_eq!(next, last as u64 + 1);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_packet_the_broker_does_not_take_is_split_or_set_aside() {
    for version in [Version::V3, Version::V5] {
        let folder = tempfile::tempdir().expect("folder");
        let cloud = Cloud::start_with("max_packet_size 20000");
        let gateway = Gateway::start(folder.path(), 1, |config| config.version = version);
        let big = NewRecord {
            body: format!("{{\"values\":{{\"x\":\"{}\"}}}}", "y".repeat(50_000)).into(),
            ..reading("b", 0)
        };
        let mut records: Vec<NewRecord> = (1..=2000).map(|n| reading("a", n)).collect();
        records.insert(1000, big);
        gateway.store.append(records).await.expect("stored");
        gateway.stop().await;
        let gateway = Gateway::start(folder.path(), cloud.port, |config| config.version = version);
        cloud.wait("the last", SOON, arrived("a", 2000));
        is_whole(&cloud, "a", 2000, true);
        let declared = |seen: &[(String, String)]| {
            seen.iter().any(|(topic, payload)| topic == "devices/gw/gaps" && payload.contains("too-large"))
        };
        cloud.wait("the declaration", SOON, declared);
        gateway.is("live", |state| *state == LinkState::Live).await;
        gateway.stop().await;
    }
}

fn is_reading(topic: &str) -> bool {
    topic.ends_with("/telemetry")
}

/// Waits for `enough`, with a bound.
async fn until(what: &str, enough: impl Fn() -> bool) {
    let begun = Instant::now();
    while !enough() {
        assert!(begun.elapsed() < SOON, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_is_waited_for_ever_longer_and_nothing_is_lost_over_it() {
    // 0x97: quota exceeded, for the whole of three connections but for their first reading.
    let broker = Minding::start(|published| match is_reading(published.topic) && published.connection <= 3 {
        true if !published.payload.windows(8).any(|part| part == b"\"seq\":1,") => Answer::Ack(0x97),
        _ => Answer::Ack(0),
    });
    let folder = tempfile::tempdir().expect("folder");
    let gateway = Gateway::start(folder.path(), broker.port, |config| config.batch = 1);
    gateway.store.append((1..=300).map(|n| reading("a", n)).collect()).await.expect("stored");
    let seqs = || -> Vec<u64> {
        broker.records("devices/a/telemetry").iter().map(|record| record["seq"].as_u64().expect("seq")).collect()
    };
    until("all readings", || seqs().last() == Some(&300)).await;
    let mut known = BTreeSet::new();
    let firsts: Vec<u64> = seqs().into_iter().filter(|seq| known.insert(*seq)).collect();
    assert_eq!(firsts, (1..=300).collect::<Vec<_>>());
    assert_eq!(broker.connections(), 4, "one more than it was refused");
    assert!(broker.records("devices/gw/gaps").is_empty());
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_ends_connections_over_size_gets_smaller_packets_and_what_cannot_be_smaller_is_declared() {
    // 0x95: packet too large, which it did not announce.
    let broker = Minding::start(|published| match published.payload.len() {
        0..=3000 => Answer::Ack(0),
        _ => Answer::Disconnect(0x95),
    });
    let folder = tempfile::tempdir().expect("folder");
    let gateway = Gateway::start(folder.path(), broker.port, |_| ());
    let big = format!("{{\"values\":{{\"x\":\"{}\"}}}}", "y".repeat(5000));
    let mut records: Vec<NewRecord> = (1..=500).map(|n| reading("a", n)).collect();
    records.insert(250, NewRecord { body: big.into(), ..reading("b", 0) });
    gateway.store.append(records).await.expect("stored");
    until("the last reading", || broker.records("devices/a/telemetry").len() >= 500).await;
    until("the declaration", || broker.records("devices/gw/gaps").iter().any(|gap| gap["cause"] == "too-large")).await;
    assert!(broker.records("devices/b/telemetry").is_empty());
    // How many there are depends on what was under way each time; that they end shows that none is tried for ever.
    assert!(broker.connections() < 100, "{} connections", broker.connections());
    gateway.stop().await;
}
