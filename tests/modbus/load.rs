//! Many values and many refusals: every value comes in time, and nothing piles up.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use headgate::{
    bus::FromDriver,
    drivers::modbus::simulate::{Modbus, Unit, faults::Fault},
    tasks::Tasks,
};

use crate::support::{Rig, loopback, tcp_bus};

fn farm(units: u8, interval: &str) -> String {
    let mut text = String::from("timeout = \"500ms\"\n");
    for unit in 1..=units {
        text += &format!("[[device]]\nid = \"u{unit}\"\nunit = {unit}\ninterval = \"{interval}\"\n");
        for register in 0..100 {
            text += &format!("[[device.register]]\nname = \"r{register}\"\naddress = {register}\n");
        }
    }
    text
}

/// A number of `/proc/self/status`, in KiB.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").expect("proc");
    let line = text.lines().find(|line| line.starts_with("VmRSS")).expect("VmRSS");
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number")
}

/// Seconds this process spent on processors.
fn processor() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").expect("proc");
    let fields: Vec<&str> = text.rsplit(')').next().expect("fields").split_whitespace().collect();
    let ticks = |n: usize| fields[n].parse::<f64>().expect("ticks");
    (ticks(11) + ticks(12)) / 100.0
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_values_a_second_all_come() {
    let tasks = Tasks::new();
    let units = (1..=100).map(|n| (n, Unit::holding(&[u16::from(n); 100])));
    let simulator = Modbus::tcp(&tasks, loopback(), units).await.expect("a simulator");
    let mut rig = Rig::start(tcp_bus(simulator.address(), &farm(100, "1s")));
    rig.reading("u100").await;
    // Whoever is left out is so always; a machine that is busy for a moment takes something from one window.
    let mut windows = Vec::new();
    for _ in 0..4 {
        while rig.told.try_recv().is_ok() {}
        let (started, before) = (Instant::now(), processor());
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        let until = tokio::time::Instant::now() + Duration::from_secs(5);
        while let Ok(Some(told)) = tokio::time::timeout_at(until, rig.told.recv()).await {
            if let FromDriver::Reading(reading) = told {
                *counts.entry(reading.device.to_string()).or_default() += reading.samples.len();
            }
        }
        let share = (processor() - before) / started.elapsed().as_secs_f64() * 100.0;
        println!("10,000 values/s, simulator included: {share:.1} % of a core, {} KiB resident", resident());
        if counts.len() == 100 && counts.values().all(|values| *values >= 400) {
            return;
        }
        windows.push(counts);
    }
    panic!("not all came in 5 s: {windows:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_refusals_leave_nothing_behind() {
    let tasks = Tasks::new();
    let simulator = Modbus::tcp(&tasks, loopback(), [(1, Unit::holding(&[1; 100]))]).await.expect("a simulator");
    let mut rig = Rig::start(tcp_bus(simulator.address(), &farm(1, "0ms")));
    rig.reading("u1").await;
    simulator.faults.set(1, Fault { exception: Some(4), ..Fault::default() });
    let wait_for = async |count: u64| {
        while simulator.requests() < count {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    wait_for(5_000).await;
    let before = resident();
    let started = Instant::now();
    wait_for(25_000).await;
    println!("20,000 exceptions in {:?}, {before} -> {} KiB", started.elapsed(), resident());
    // Told once, not twenty thousand times: the queue to the keeper stays short.
    assert!(rig.told.len() < 1_000, "{} messages", rig.told.len());
    simulator.faults.heal();
    while rig.sample("u1", "r5").await.0.is_none() {}
}
