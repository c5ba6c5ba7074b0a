//! Captures of the bus scope, one JSON object per line, and the units they can be replayed as.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::memory::Unit;
use crate::{config::modbus::kind::Table, drivers::modbus::pdu};

/// One frame of a capture. `headgate modbus scope --capture` writes them, `simulate --capture` reads them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Captured {
    /// Milliseconds since the first frame, with microseconds behind the point.
    pub t: f64,
    /// `">"` sent by the gateway, `"<"` received.
    pub dir: String,
    #[serde(default)]
    pub unit: u8,
    /// The PDU, without address and checksum.
    #[serde(default)]
    pub pdu: String,
    /// The whole frame.
    #[serde(default)]
    pub hex: String,
    /// What it means, for people.
    #[serde(default)]
    pub text: String,
}

/// The units of a capture: each register as it was read, in its own time.
pub fn units(text: &str) -> Result<BTreeMap<u8, Unit>, String> {
    let mut recorded: BTreeMap<u8, Vec<(Duration, Table, u16, Vec<u16>)>> = BTreeMap::new();
    let mut asked: HashMap<u8, Vec<u8>> = HashMap::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let wrong = |why: String| format!("line {}: {why}", number + 1);
        let frame: Captured = serde_json::from_str(line).map_err(|e| wrong(e.to_string()))?;
        let bytes = hex::decode(&frame.pdu).map_err(|e| wrong(format!("pdu: {e}")))?;
        if frame.dir == ">" {
            asked.insert(frame.unit, bytes);
            continue;
        }
        let Some(request) = asked.remove(&frame.unit) else { continue };
        let Some((table, address, words)) = read_values(&request, &bytes) else { continue };
        let at = Duration::from_secs_f64((frame.t / 1000.0).clamp(0.0, 1e9));
        recorded.entry(frame.unit).or_default().push((at, table, address, words));
    }
    if recorded.is_empty() {
        return Err("the capture holds no read that was answered".into());
    }
    let unit = |(id, recorded)| {
        let mut unit = Unit::default();
        unit.play(recorded);
        (id, unit)
    };
    Ok(recorded.into_iter().map(unit).collect())
}

/// What a read brought.
fn read_values(request: &[u8], reply: &[u8]) -> Option<(Table, u16, Vec<u16>)> {
    let &[function @ 1..=4, a, b, c, d] = request else { return None };
    let (address, count) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    if reply.first() != Some(&function) {
        return None;
    }
    let table = [Table::Coil, Table::Discrete, Table::Holding, Table::Input][usize::from(function - 1)];
    let words = if table.is_bits() {
        (0..usize::from(count)).map(|n| pdu::bit(reply, n).map(u16::from)).collect::<Option<Vec<u16>>>()?
    } else {
        pdu::registers(reply)
    };
    (words.len() == usize::from(count)).then_some((table, address, words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capture_becomes_a_unit_with_the_values_it_saw() {
        let text = r#"{"t":0.0,"dir":">","unit":3,"pdu":"0300050002"}
{"t":12.5,"dir":"<","unit":3,"pdu":"03040001ffff"}
{"t":20.0,"dir":">","unit":3,"pdu":"0200000003"}
{"t":21.0,"dir":"<","unit":3,"pdu":"020105"}"#;
        let units = units(text).expect("a capture");
        assert_eq!(units[&3].get(Table::Holding, 5, 2), Some(vec![1, 0xFFFF]));
        assert_eq!(units[&3].get(Table::Discrete, 0, 3), Some(vec![1, 0, 1]));
        assert!(super::units("{\"t\":1}").is_err());
    }
}
