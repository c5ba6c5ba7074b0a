//! Several connections to an endpoint that can take them: each becomes a bus of its own, with some of the units, so that
//! a slow unit holds up only those on its connection.

use std::sync::Arc;

use super::{Bus, Framing, Link};
use crate::config::read::Section;

/// Most connections to one endpoint.
const MOST: i64 = 8;

/// Reads `connections` of a `[bus]`.
pub(super) fn read(section: &Section<'_>, link: &Link) -> u8 {
    let connections = section.integer("connections", 1..=MOST).map_or(1, |number| number as u8);
    if connections > 1 && !matches!(link, Link::Tcp { .. }) {
        let hint = "only an address that is connected to can take several: a serial port and one who dials in are one";
        section.problem("connections", format!("{connections} on {}", word(link)), hint);
        return 1;
    }
    connections
}

/// Reads `in_flight` of a `[bus]`; without it as many as the least able of its devices can take.
pub(super) fn in_flight(section: &Section<'_>, bus: &Bus) -> u8 {
    let Some(number) = section.integer("in_flight", 1..=16) else {
        return bus.devices.iter().map(|device| device.in_flight).min().unwrap_or(1);
    };
    let why = match &bus.framing {
        _ if number < 2 => None,
        Framing::Rtu | Framing::Ascii => Some("on a bus whose frames bear no number to tell answers apart"),
        Framing::Tcp if bus.any_transaction => Some("beside transaction_id = \"ignore\", which tells no answers apart"),
        Framing::Tcp if !bus.gap.is_zero() => Some("beside a gap, which is a pause after each answer"),
        Framing::Tcp => None,
    };
    if let Some(why) = why {
        section.problem("in_flight", format!("{number} {why}"), "leave it out");
        return 1;
    }
    number as u8
}

fn word(link: &Link) -> &'static str {
    match link {
        Link::Tcp { .. } => "an address",
        Link::Listen { .. } => "a bus that listens",
        Link::Serial(_) => "a serial port",
    }
}

impl Bus {
    /// The bus itself, or one for each of its connections: the first has its name, the others `name/2`, `name/3` ….
    /// Which connection a unit is on depends on its number alone, so that no change to others moves it.
    pub fn dealt(self) -> Vec<Bus> {
        let connections = u16::from(self.connections.max(1));
        let dealt = (0..connections).map(|connection| {
            let own = |unit: u8| (u16::from(unit) + connections - 1) % connections == connection;
            let devices = self.devices.iter().filter(|device| own(device.unit)).cloned().collect();
            let name: Arc<str> = match connection {
                0 => self.name.clone(),
                _ => format!("{}/{}", self.name, connection + 1).into(),
            };
            Bus { name, devices, ..self.clone() }
        });
        // The first is there for tools even where it has no unit.
        dealt.enumerate().filter(|(at, bus)| *at == 0 || !bus.devices.is_empty()).map(|(_, bus)| bus).collect()
    }
}
