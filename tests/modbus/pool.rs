//! Several connections to one endpoint: a slow unit holds up only those on its connection.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use headgate::{
    bus::{FromDriver, ToDriver},
    drivers::modbus::{
        driver::{self, Ports},
        simulate::{Modbus, Unit, faults::Fault},
    },
    tasks::Tasks,
};
use serde_json::{Map, Value as Json, json};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::timeout,
};

use crate::support::{PATIENCE, id, loopback, tcp_bus};

fn units() -> String {
    let unit = |n| {
        format!(
            "[[device]]\nid = \"u{n}\"\nunit = {n}\ninterval = \"20ms\"\n[[device.register]]\nname = \"r\"\naddress = 0\naccess = \"rw\"\n\
             as = \"both\"\ninterval = \"20ms\"\n"
        )
    };
    (1..=4).map(unit).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_unit_holds_up_nobody_on_the_other_connection() {
    let tasks = Tasks::new();
    let simulated = (1..=4).map(|n| (n, Unit::holding(&[u16::from(n)])));
    let simulator = Modbus::tcp(&tasks, loopback(), simulated).await.expect("a simulator");
    let slow = |seconds| Fault { delay: Duration::from_secs(seconds), ..Fault::default() };
    simulator.faults.set(2, slow(1));
    let bus = tcp_bus(simulator.address(), &format!("connections = 2\ntimeout = \"10s\"\n{}", units()));
    let buses: Vec<_> = bus.dealt().into_iter().map(Arc::new).collect();
    let (_config, wanted) = watch::channel(Arc::new(buses));
    let (readings, mut told) = mpsc::channel(100_000);
    let (inbox, work) = mpsc::channel(100);
    let status = watch::Sender::new(BTreeMap::new());
    let named = status.subscribe();
    let mut ports = Ports { readings, inbox: work, status, learned: watch::Sender::new(HashMap::new()) };
    let (own, stop) = (tasks.child(), tasks.stopping());
    tasks.spawn("driver", async move { drop(driver::run(wanted, &mut ports, &own, stop).await) });

    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let listening = async {
        while counts.get("u2") < Some(&3) {
            if let Some(FromDriver::Reading(reading)) = told.recv().await {
                *counts.entry(reading.device.to_string()).or_default() += 1;
            }
        }
    };
    timeout(PATIENCE, listening).await.expect("even the slow one is read");
    assert!(counts["u1"] > 4 * counts["u4"] && counts["u3"] > 4 * counts["u4"], "{counts:?}");
    let names: Vec<String> = named.borrow().keys().map(ToString::to_string).collect();
    assert_eq!(names, ["test", "test/2"]);

    // A write goes to the connection of its unit, ahead of polling and past whoever is slow on the other.
    simulator.faults.set(2, slow(4));
    let under_way = async {
        let is_u2 = |told| matches!(told, Some(FromDriver::Reading(reading)) if reading.device == id("u2"));
        while !is_u2(told.recv().await) {}
    };
    timeout(PATIENCE, under_way).await.expect("from here on it is slower still");
    let (reply, answer) = oneshot::channel();
    let values = Map::from_iter([("r".to_owned(), json!(77))]);
    let asked = Instant::now();
    inbox.send(ToDriver::Write { device: id("u3"), values, reply }).await.expect("alive");
    assert_eq!(answer.await.expect("an answer"), Ok(Vec::new()));
    assert!(asked.elapsed() < Duration::from_secs(3), "{:?}", asked.elapsed());
    simulator.faults.heal();

    // Tools know the endpoint by one name, and each connection by its own.
    let tool = async |request: Json| {
        let (reply, answer) = oneshot::channel();
        inbox.send(ToDriver::Tool { request, progress: None, reply }).await.expect("alive");
        timeout(PATIENCE, answer).await.expect("in time").expect("an answer").expect("done")
    };
    for (unit, value) in [(3, 77), (4, 4)] {
        let read = tool(json!({ "tool": "read", "bus": "test", "unit": unit, "name": "r" })).await;
        assert_eq!(read["value"], value, "{read}");
    }
    let second = tool(json!({ "tool": "status", "bus": "test/2" })).await;
    let on_it: Vec<&Json> = second["units"].as_array().into_iter().flatten().map(|unit| &unit["unit"]).collect();
    assert_eq!(on_it, [2, 4]);
    let found = tool(json!({ "tool": "scan", "bus": "test", "units": "3-5", "timeoutMs": 1000 })).await;
    assert_eq!(found["found"].as_array().map(Vec::len), Some(2), "{found}");
}
