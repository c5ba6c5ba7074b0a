//! Counts what was acknowledged, what arrived and what was declared; the store is never asked.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value as Json;

use super::{DEVICES, road::cloud::Cloud};

/// What came of a run.
#[derive(Debug, Default)]
pub struct Verdict {
    pub acknowledged: usize,
    pub arrived: usize,
    pub repeated: usize,
    pub declared: u64,
    pub faults: Vec<String>,
}

/// Device and `seq` of everything that was acknowledged, and the number the record bears itself.
pub type Acknowledged = HashMap<(String, u64), u64>;

pub fn judge(cloud: &Cloud, acknowledged: &Acknowledged, verdict: &mut Verdict) {
    let mut declared: Vec<(String, u64, u64)> = Vec::new();
    for gap in cloud.records("gw", "gaps") {
        if gap["class"] == "telemetry" {
            let number = |key: &str| gap[key].as_u64().unwrap_or(0);
            declared.push((gap["device"].as_str().unwrap_or("").to_owned(), number("fromSeq"), number("toSeq")));
            verdict.declared += number("count");
        }
    }
    let is_declared =
        |device: &str, seq: u64| declared.iter().any(|(d, from, to)| d == device && (*from..=*to).contains(&seq));
    let mut arrived: Acknowledged = HashMap::new();
    for device in (0..DEVICES).map(|n| format!("d{n}")) {
        let mut highest = 0;
        for record in cloud.records(&device, "telemetry") {
            let (seq, n) = (record["seq"].as_u64().expect("seq"), value(&record));
            match arrived.insert((device.clone(), seq), n) {
                Some(before) if before != n => {
                    verdict.faults.push(format!("{device} {seq} came as {before} and as {n}"));
                }
                Some(_) => verdict.repeated += 1,
                None if seq < highest => verdict.faults.push(format!("{device} {seq} came first after {highest}")),
                None => highest = seq,
            }
        }
        let missing =
            (1..=highest).filter(|seq| !arrived.contains_key(&(device.clone(), *seq)) && !is_declared(&device, *seq));
        if let Some(first) = missing.clone().next() {
            verdict
                .faults
                .push(format!("{device}: {} numbers neither arrived nor declared, first {first}", missing.count()));
        }
    }
    let mut lost: BTreeMap<&str, usize> = BTreeMap::new();
    for ((device, seq), n) in acknowledged {
        match arrived.get(&(device.clone(), *seq)) {
            Some(came) if came == n => {}
            Some(came) => verdict.faults.push(format!("{device} {seq} was acknowledged as {n} and came as {came}")),
            None if is_declared(device, *seq) => {}
            None => *lost.entry(device).or_default() += 1,
        }
    }
    if !lost.is_empty() {
        verdict.faults.push(format!("acknowledged and lost: {lost:?}"));
    }
    verdict.acknowledged = acknowledged.len();
    verdict.arrived = arrived.len();
}

fn value(record: &Json) -> u64 {
    record["values"]["n"].as_u64().expect("n")
}
