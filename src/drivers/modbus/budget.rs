//! The bus budget: how long the cycles of a bus will take, from frames, line speed and turnaround, before it is saved;
//! and what was measured beside it.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Value as Json, json};

use super::{
    frame::wire_len,
    plan::{Block, Learned, plan},
    status::Status,
};
use crate::config::modbus::{Bus, kind::Table};

/// What devices take to think, where nothing was measured: between the few of a fast meter and the 20 of a slow one.
const TURNAROUND: Duration = Duration::from_millis(8);
/// A round trip and the device's thinking on Ethernet.
const TCP_ROUND: Duration = Duration::from_millis(3);

/// Prediction for a bus.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Budget {
    /// Share of the bus's time that polling takes; above 1 the intervals cannot be kept.
    pub utilisation: f64,
    pub requests_per_second: f64,
    pub values_per_second: f64,
    pub groups: Vec<GroupBudget>,
    /// What to change where it is too much, and what to look at.
    pub advice: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupBudget {
    pub device: String,
    pub unit: u8,
    pub interval_ms: u64,
    pub points: usize,
    pub requests: usize,
    pub registers: u32,
    /// Time on the bus per cycle.
    pub cycle_ms: f64,
    /// Share of the bus's time.
    pub share: f64,
}

/// Time that reading one block holds the bus.
pub fn block_time(bus: &Bus, block: &Block, gap: Duration) -> Duration {
    let data = if block.table.is_bits() { usize::from(block.count).div_ceil(8) } else { 2 * usize::from(block.count) };
    let (request, reply) = (wire_len(bus.framing, 5), wire_len(bus.framing, 2 + data));
    match bus.serial() {
        Some(serial) => {
            let silence = serial.silence();
            serial.time_of(request + reply) + silence + silence.max(bus.gap).max(gap) + TURNAROUND
        }
        None => TCP_ROUND + bus.gap.max(gap),
    }
}

/// Predicts; pure.
pub fn budget(bus: &Bus) -> Budget {
    let mut groups = Vec::new();
    let (mut requests, mut values, mut utilisation) = (0.0, 0.0, 0.0);
    for device in &bus.devices {
        let planned = plan(device.newest().map(AsRef::as_ref), &device.limits, &Learned::default());
        for group in planned {
            let time: Duration = group.blocks.iter().map(|block| block_time(bus, block, device.gap)).sum();
            let seconds = group.interval.as_secs_f64().max(time.as_secs_f64()).max(0.001);
            let points: usize = group.blocks.iter().map(|block| block.points.len()).sum();
            let share = time.as_secs_f64() / seconds;
            utilisation += share;
            requests += group.blocks.len() as f64 / seconds;
            values += points as f64 / seconds;
            let registers = |block: &Block| if block.table.is_bits() { 0 } else { u32::from(block.count) };
            groups.push(GroupBudget {
                device: device.id.to_string(),
                unit: device.unit,
                interval_ms: group.interval.as_millis() as u64,
                points,
                requests: group.blocks.len(),
                registers: group.blocks.iter().map(registers).sum(),
                cycle_ms: round(time.as_secs_f64() * 1000.0),
                share: round(share),
            });
        }
    }
    let advice = advice(bus, utilisation, &groups);
    Budget {
        utilisation: round(utilisation),
        requests_per_second: round(requests),
        values_per_second: round(values),
        groups,
        advice,
    }
}

fn advice(bus: &Bus, utilisation: f64, groups: &[GroupBudget]) -> Vec<String> {
    let mut advice = Vec::new();
    if utilisation > 1.0 {
        let factor = utilisation / 0.8;
        advice.push(format!(
            "the bus cannot keep these intervals: make them {factor:.1} times longer, or read fewer values"
        ));
        if let Some(greedy) = groups.iter().max_by(|a, b| a.share.total_cmp(&b.share)) {
            advice.push(format!(
                "{} takes {:.0} % of it at {} ms",
                greedy.device,
                greedy.share * 100.0,
                greedy.interval_ms
            ));
        }
    } else if utilisation > 0.8 {
        advice.push("the bus is nearly full: writes and retries will delay cycles".into());
    }
    if let Some(serial) = bus.serial()
        && serial.baud < 38_400
        && utilisation > 0.5
    {
        let faster = serial.baud * 4;
        advice.push(format!("at {faster} baud the time on the line would be a quarter"));
    }
    for device in &bus.devices {
        let single = device.points.iter().filter(|point| point.never_merge && point.table != Table::Coil).count();
        if single > 8 {
            advice.push(format!("{}: {single} points are marked never_merge, each is a request of its own", device.id));
        }
    }
    advice
}

/// Prediction and measurement side by side.
pub fn with_measured(bus: &Bus, status: &Status) -> Json {
    let cycles: Vec<Json> = (status.units.iter())
        .map(|unit| json!({ "device": unit.device, "unit": unit.unit, "state": unit.state, "cycles": unit.cycles, "latency": unit.counters.latency }))
        .collect();
    json!({ "predicted": budget(bus), "measured": { "utilisation": status.utilisation, "units": cycles } })
}

fn round(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use std::{path::PathBuf, sync::Arc};

    use super::*;
    use crate::{
        config::modbus::{Device, Framing, Link, Parity, Rts, Serial, kind::Kind, point::Point},
        model::ids::DeviceId,
    };

    #[test]
    fn ten_registers_at_9600_baud_take_what_the_wire_says() {
        let serial = Serial {
            port: PathBuf::from("x"),
            baud: 9600,
            parity: Parity::None,
            data_bits: 8,
            stop_bits: 1,
            rts: Rts::None,
        };
        let mut bus = Bus::bare("b", Link::Serial(serial), Framing::Rtu);
        let point = Arc::new(Point::plain("p", Table::Holding, 0, Kind::Text(10)));
        bus.devices = vec![Arc::new(Device::bare(DeviceId::new("d").expect("id"), 1, vec![point]))];
        let budget = budget(&bus);
        // 8 + 25 characters of 10 bits are 34.4 ms, two silences 7.3 ms, thinking 8 ms.
        assert!((budget.groups[0].cycle_ms - 49.7).abs() < 0.1, "{budget:?}");
        assert!((budget.utilisation - 0.05).abs() < 0.001);
    }
}
