//! What goes wrong on wires, and what it must not do to the rest: loud complaints against other gateways, as tests.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use headgate::{
    bus::FromDriver,
    config::modbus::{Bus, Framing, kind::Table},
    drivers::modbus::simulate::{Modbus, Unit, faults::Fault},
    tasks::Tasks,
};
use serde_json::{Value as Json, json};
use tokio::time::{sleep, timeout};

use crate::{
    peers::free_port,
    support::{PATIENCE, Rig, bus, id, loopback, rtu_bus, tcp_bus},
};

/// Devices `u1` … `u{n}` with ten registers each.
fn farm(count: u8, interval: &str) -> String {
    let device = |n| {
        let head = format!("[[device]]\nid = \"u{n}\"\nunit = {n}\ninterval = \"{interval}\"\n");
        let register = |r| format!("[[device.register]]\nname = \"r{r}\"\naddress = {r}\n");
        head + &(0..10).map(register).collect::<String>()
    };
    "timeout = \"300ms\"\n".to_owned() + &(1..=count).map(device).collect::<String>()
}

fn units(count: u8) -> Vec<(u8, Unit)> {
    (1..=count).map(|n| (n, Unit::holding(&[u16::from(n); 10]))).collect()
}

/// Readings with good values per device, over a time.
async fn count_readings(rig: &mut Rig, time: Duration) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    let until = tokio::time::Instant::now() + time;
    while let Ok(Some(told)) = tokio::time::timeout_at(until, rig.told.recv()).await {
        if let FromDriver::Reading(reading) = told
            && reading.samples.iter().all(|s| s.quality.is_good())
        {
            *counts.entry(reading.device.to_string()).or_default() += 1;
        }
    }
    counts
}

#[tokio::test(flavor = "multi_thread")]
async fn with_one_unit_dead_one_refusing_and_one_slow_the_others_keep_their_rate() {
    let tasks = Tasks::new();
    let simulator = Modbus::tcp(&tasks, loopback(), units(10)).await.expect("a simulator");
    simulator.faults.set(1, Fault { drop: 100, ..Fault::default() });
    simulator.faults.set(2, Fault { exception: Some(6), ..Fault::default() });
    simulator.faults.set(3, Fault { delay: Duration::from_millis(60), ..Fault::default() });
    let mut rig = Rig::start(tcp_bus(simulator.address(), &farm(10, "250ms")));
    while rig.reachable("u1").await.0 {}
    let window = Duration::from_secs(8);
    let due = window.as_millis() as usize / 250;
    let kept = |counts: &BTreeMap<String, usize>, unit: u8, percent: usize| {
        counts.get(&format!("u{unit}")).copied().unwrap_or(0) * 100 >= due * percent
    };
    // Whoever is starved by another is so always; a machine that is busy for a moment takes something from one window.
    let mut windows = Vec::new();
    for _ in 0..4 {
        while rig.told.try_recv().is_ok() {}
        let counts = count_readings(&mut rig, window).await;
        assert!(!counts.contains_key("u1") && !counts.contains_key("u2"), "{counts:?}");
        if (4..=10).all(|healthy| kept(&counts, healthy, 95)) && kept(&counts, 3, 90) {
            return;
        }
        windows.push(counts);
    }
    panic!("the others did not keep their rate of {due}: {windows:#?}");
}

/// A bus of quick units, each read so often that the gateway knows how quick they are.
async fn known(count: u8, timeout: &str) -> (Tasks, Modbus, Rig) {
    let tasks = Tasks::new();
    let simulator = Modbus::tcp(&tasks, loopback(), units(count)).await.expect("a simulator");
    let text = farm(count, "20ms").replacen("300ms", timeout, 1);
    let mut rig = Rig::start(tcp_bus(simulator.address(), &text));
    for _ in 0..40 {
        rig.reading("u1").await;
    }
    (tasks, simulator, rig)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unit_that_falls_silent_is_asked_again_after_the_others() {
    let (_tasks, simulator, rig) = known(3, "1s").await;
    let (progress, mut frames) = tokio::sync::mpsc::channel(10_000);
    let scope = async { rig.tool_with(json!({ "tool": "scope", "seconds": 4 }), Some(progress)).await };
    let watch = async {
        frames.recv().await.expect("a frame");
        simulator.faults.set(1, Fault { drop: 100, ..Fault::default() });
        let mut seen = Vec::new();
        while let Some(frame) = frames.recv().await {
            seen.push((frame["dir"] == ">", frame["unit"].as_u64().expect("a unit")));
        }
        seen
    };
    let (told, seen) = tokio::join!(scope, watch);
    told.expect("a scope");
    let silent = seen.windows(2).find(|pair| pair[0] == (true, 1) && pair[1].0).expect("a request without a reply");
    assert_ne!(silent[1].1, 1, "its retry comes after the others");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unit_that_becomes_slow_loses_nothing_by_having_been_quick() {
    let (_tasks, simulator, mut rig) = known(2, "2s").await;
    simulator.faults.set(1, Fault { delay: Duration::from_millis(500), ..Fault::default() });
    while rig.told.try_recv().is_ok() {}
    let count = |status: &Json, what: &str| status["units"][0]["counters"][what].as_u64().expect("a counter");
    let before = rig.status().await;
    for _ in 0..3 {
        assert!(rig.sample("u1", "r0").await.1.is_good());
    }
    let status = rig.status().await;
    assert_eq!(status["units"][0]["state"], json!("online"));
    for what in ["timeouts", "retries"] {
        assert!(count(&status, what) - count(&before, what) <= 1, "{what}: {status:#}");
    }
    let reachable = |told: &FromDriver| matches!(told, FromDriver::Reachable { reachable: false, .. });
    while let Ok(told) = rig.told.try_recv() {
        assert!(!reachable(&told), "it was never away: {told:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unit_that_was_away_may_come_back_slower() {
    let (_tasks, simulator, mut rig) = known(2, "600ms").await;
    simulator.faults.set(1, Fault { drop: 100, ..Fault::default() });
    while rig.reachable("u1").await.0 {}
    simulator.faults.set(1, Fault { delay: Duration::from_millis(400), ..Fault::default() });
    assert!(rig.reachable("u1").await.0, "heard, once its probes wait longer");
}

/// Values keep coming, and none of them is another register's, through every fault of a stream.
async fn survives(fault: Fault, framing: Framing) {
    let tasks = Tasks::new();
    let mut unit = Unit::holding(&[0; 10]);
    unit.put(Table::Holding, 0, &(0..10).collect::<Vec<u16>>());
    let simulator = Modbus::tcp_framed(&tasks, loopback(), framing, [(1, unit)]).await.expect("a simulator");
    simulator.faults.set(1, fault.clone());
    let address = simulator.address();
    let protocol = if framing == Framing::Tcp { "modbus-tcp" } else { "modbus-rtu-over-tcp" };
    let mut text =
        format!("[bus]\nprotocol = \"{protocol}\"\naddress = \"{address}\"\ntimeout = \"100ms\"\nretries = 2\n");
    text += "[[device]]\nid = \"u\"\nunit = 1\ninterval = \"10ms\"\n";
    for r in 0..10 {
        text += &format!("[[device.register]]\nname = \"r{r}\"\naddress = {r}\nnever_merge = true\n");
    }
    let mut rig = Rig::start(bus(&text));
    let mut good = 0;
    let started = Instant::now();
    while good < 300 {
        assert!(started.elapsed() < Duration::from_secs(30), "{fault:?}: {good} values only");
        let reading = rig.reading("u").await;
        for sample in reading.samples.iter().filter(|s| s.quality.is_good()) {
            let number: f64 = sample.name[1..].parse().expect("a number");
            assert_eq!(sample.value.as_ref().and_then(|v| v.as_f64()), Some(number), "{fault:?}");
            good += 1;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_transaction_id_spoils_only_its_own_reply() {
    survives(Fault { wrong_transaction: 10, ..Fault::default() }, Framing::Tcp).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn doubled_halved_and_missing_replies_spoil_only_themselves() {
    survives(Fault { doubles: 20, halves: 20, drop: 5, ..Fault::default() }, Framing::Tcp).await;
    survives(Fault { halves: 20, drop: 5, damage: 10, ..Fault::default() }, Framing::Rtu).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_up_is_connected_to_again() {
    survives(Fault { close: 5, ..Fault::default() }, Framing::Tcp).await;
}

#[tokio::test]
async fn a_reply_that_comes_too_late_is_not_taken_for_the_next() {
    let tasks = Tasks::new();
    let mut unit = Unit::holding(&[0; 10]);
    unit.put(Table::Holding, 0, &(0..10).collect::<Vec<u16>>());
    let simulator = Modbus::tcp(&tasks, loopback(), [(1, unit)]).await.expect("a simulator");
    let rig = Rig::start(tcp_bus(simulator.address(), ""));
    let read = |address: u16, within: u64| {
        rig.tool(json!({ "tool": "read", "unit": 1, "address": address, "timeoutMs": within }))
    };
    simulator.faults.set(1, Fault { delay: Duration::from_millis(150), ..Fault::default() });
    assert!(read(3, 100).await.is_err());
    simulator.faults.heal();
    for address in 0..10 {
        assert_eq!(read(address, 5000).await.expect("a value")["registers"], json!([address]));
    }
}

#[tokio::test]
async fn where_a_question_was_asked_twice_its_second_reply_is_not_taken_for_the_next() {
    let tasks = Tasks::new();
    let unit = Unit::holding(&[10, 11, 12]);
    let simulator = Modbus::rtu_pty(&tasks, None, [(1, unit)]).expect("a simulator");
    let rig = Rig::start(rtu_bus(simulator.path(), 19_200, ""));
    let read = |address: u16, within: u64| {
        rig.tool(json!({ "tool": "read", "unit": 1, "address": address, "timeoutMs": within }))
    };
    // It hangs for longer than a reply that was given up is awaited, and then answers what has piled up.
    simulator.faults.set(1, Fault { delay: Duration::from_millis(2300), ..Fault::default() });
    assert!(read(0, 1000).await.is_err());
    simulator.faults.set(1, Fault { delay: Duration::from_millis(100), ..Fault::default() });
    for address in 0..3 {
        assert_eq!(read(address, 5000).await.expect("a value")["registers"], json!([10 + address]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quick_unit_that_is_late_once_spoils_no_other_value() {
    let tasks = Tasks::new();
    let simulator = Modbus::rtu_pty(&tasks, None, [(1, Unit::holding(&[0, 1, 2, 3]))]).expect("a simulator");
    let mut text = "timeout = \"2s\"\n[[device]]\nid = \"u\"\nunit = 1\n".to_owned();
    for n in 0..4 {
        // Each register has an interval of its own: nothing orders their questions.
        let interval = 10 + n;
        let point = format!("name = \"r{n}\"\naddress = {n}\ninterval = \"{interval}ms\"\nnever_merge = true\n");
        text += &format!("[[device.register]]\n{point}");
    }
    let mut rig = Rig::start(rtu_bus(simulator.path(), 115_200, &text));
    for round in 0..8 {
        // Quick for long enough that its first silence is not waited out, then late within its timeout.
        let mut good = 0;
        while good < 60 {
            for sample in rig.reading("u").await.samples.iter().filter(|s| s.quality.is_good()) {
                let number: f64 = sample.name[1..].parse().expect("a number");
                assert_eq!(sample.value.as_ref().and_then(|v| v.as_f64()), Some(number), "round {round}");
                good += 1;
            }
        }
        let delay = Duration::from_millis(250 + 50 * round);
        simulator.faults.set(1, Fault { delay, ..Fault::default() });
        let before = simulator.faults.requests_to(1);
        let asked = async {
            while simulator.faults.requests_to(1) == before {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, asked).await.expect("it is asked while it is late");
        simulator.faults.heal();
    }
}

#[tokio::test]
async fn exceptions_are_not_timeouts_and_leave_the_connection_alone() {
    let tasks = Tasks::new();
    let simulator = Modbus::tcp(&tasks, loopback(), units(1)).await.expect("a simulator");
    simulator.faults.set(1, Fault { exception: Some(6), ..Fault::default() });
    let rig = Rig::start(tcp_bus(simulator.address(), &farm(1, "10ms")));
    let answered = async {
        while simulator.requests() < 100 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, answered).await.expect("asked again and again");
    let status = rig.status().await;
    assert_eq!(status["counters"]["reconnects"], json!(0));
    // A unit that was always quick is waited for a tenth of a second only: a busy machine may miss that now and then.
    assert!(status["counters"]["timeouts"].as_u64() < Some(10), "{status:#}");
    assert!(status["counters"]["exceptions"]["6"].as_u64() >= Some(90), "{status:#}");
    assert_eq!(status["units"][0]["state"], json!("online"));
}

#[tokio::test]
async fn a_local_echo_is_swallowed_where_it_is_configured() {
    let tasks = Tasks::new();
    let simulator = Modbus::rtu_pty(&tasks, None, units(1)).expect("a simulator");
    simulator.faults.set(1, Fault { echo: true, ..Fault::default() });
    let mut rig = Rig::start(rtu_bus(simulator.path(), 19_200, &format!("echo = true\n{}", farm(1, "50ms"))));
    assert!(rig.sample("u1", "r0").await.1.is_good());
}

#[tokio::test]
async fn a_changed_device_touches_no_other() {
    let tasks = Tasks::new();
    let simulator = Modbus::tcp(&tasks, loopback(), units(3)).await.expect("a simulator");
    let before: Bus = tcp_bus(simulator.address(), &farm(2, "50ms"));
    let after =
        tcp_bus(simulator.address(), &farm(3, "50ms").replacen("interval = \"50ms\"", "interval = \"70ms\"", 1));
    let mut rig = Rig::start(before);
    for device in ["u1", "u2"] {
        rig.reading(device).await;
    }
    let requests = rig.status().await["units"][1]["counters"]["requests"].as_u64().expect("a number");
    rig.config.send(Arc::new(after)).expect("the bus is alive");
    rig.reading("u3").await;
    let status = rig.status().await;
    assert_eq!(status["units"][0]["cycles"][0]["plannedMs"], json!(70));
    assert!(status["units"][1]["counters"]["requests"].as_u64() >= Some(requests), "u2 goes on counting: {status:#}");
    assert_eq!(status["counters"]["reconnects"], json!(0));
    let one = tcp_bus(simulator.address(), &farm(1, "70ms"));
    rig.config.send(Arc::new(one)).expect("the bus is alive");
    timeout(PATIENCE, async { while rig.status().await["units"].as_array().map(Vec::len) != Some(1) {} })
        .await
        .expect("removed");
    let refused = rig.write("u2", "r0", json!(1)).await.expect_err("gone");
    assert!(refused.message.contains("u2 is not on bus"), "{refused:?}");
    let _ = id("u2");
}

#[tokio::test]
async fn a_cable_out_and_in_again_is_back_within_the_back_off() {
    let tasks = Tasks::new();
    let address = ([127, 0, 0, 1], free_port()).into();
    let simulator = Modbus::tcp(&tasks, address, units(1)).await.expect("a simulator");
    let mut rig = Rig::start(tcp_bus(address, &farm(1, "50ms")));
    assert!(rig.reachable("u1").await.0);
    drop(simulator);
    let (reachable, reason) = rig.reachable("u1").await;
    assert!(!reachable && reason.is_some_and(|r| r.contains("refused")), "told why");
    sleep(Duration::from_secs(2)).await;
    let _simulator = Modbus::tcp(&tasks, address, units(1)).await.expect("the same port again");
    let back = Instant::now();
    assert!(rig.reachable("u1").await.0);
    // Five seconds are the longest pause between two tries.
    assert!(back.elapsed() < Duration::from_secs(10), "{:?}", back.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_serial_line_is_never_spoken_on_before_its_silence_and_carries_values_at_any_speed() {
    // How much of a line is used is measured by the benchmark; here only what must never be less.
    for baud in [9600u32, 115_200] {
        let tasks = Tasks::new();
        let simulator = Modbus::rtu_pty(&tasks, Some(baud), units(1)).expect("a simulator");
        let mut rig = Rig::start(rtu_bus(simulator.path(), baud, &farm(1, "0ms")));
        rig.reading("u1").await;
        let (progress, mut frames) = tokio::sync::mpsc::channel(10_000);
        rig.tool_with(json!({ "tool": "scope", "seconds": 1 }), Some(progress)).await.expect("a scope");
        let mut requests = 0;
        while let Some(frame) = frames.recv().await {
            requests += usize::from(waited(&frame, baud));
        }
        assert!(requests > 3, "{baud} baud: {requests} requests in a second");
    }
}

/// Whether this is a request after something else on the line; it must not come before the silence.
fn waited(frame: &Json, baud: u32) -> bool {
    // 3.5 characters of ten bits, or 1.75 ms on fast lines.
    let silence = if baud > 19_200 { 1.75 } else { 35_000.0 / f64::from(baud) };
    let asked = frame["dir"] == ">" && frame["gapMs"].is_number();
    assert!(!asked || frame["gapMs"].as_f64() >= Some(silence - 0.01), "{baud} baud: {frame}");
    asked
}

#[tokio::test(flavor = "multi_thread")]
async fn a_serial_line_is_silent_also_after_what_came_unasked() {
    let tasks = Tasks::new();
    let simulator = Modbus::rtu_pty(&tasks, None, units(1)).expect("a simulator");
    // Each reply comes a second time, 30 ms after the first.
    simulator.faults.set(1, Fault { doubles: 100, halves: 100, ..Fault::default() });
    let rig = Rig::start(rtu_bus(simulator.path(), 19_200, &farm(1, "100ms")));
    let (progress, mut frames) = tokio::sync::mpsc::channel(10_000);
    rig.tool_with(json!({ "tool": "scope", "seconds": 2 }), Some(progress)).await.expect("a scope");
    let (mut unasked, mut after) = (false, 0);
    while let Some(frame) = frames.recv().await {
        let asked = waited(&frame, 19_200);
        after += usize::from(asked && unasked);
        unasked = frame["text"].as_str().is_some_and(|text| text.starts_with("[unasked]"));
    }
    assert!(after > 0, "nothing came unasked");
}
