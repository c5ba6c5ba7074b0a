//! Keys of a `[bus]` that do nothing on the wire it has: said, because whoever wrote them counts on them.

use super::{Framing, Link};
use crate::config::read::Section;

const LINE: &str = "leave it out: a serial line behind an address is set up in the device that has it";
const NETWORK: &str = "leave it out, or say protocol = \"modbus-tcp\" or \"modbus-rtu-over-tcp\" instead of port";

pub(super) fn check(section: &Section<'_>, link: &Link, framing: Framing) {
    let say = |keys: &[&'static str], found: &str, hint: &str| {
        for key in keys.iter().filter(|key| section.has(key)) {
            section.problem(key, found, hint);
        }
    };
    match link {
        Link::Tcp { .. } | Link::Listen { .. } => {
            let keys = ["baud", "parity", "data_bits", "stop_bits", "rts"];
            say(&keys, "has no effect on a TCP bus", LINE);
        }
        Link::Serial(_) => {
            let keys = ["address", "backup_address", "listen", "tls"];
            say(&keys, "has no effect on a serial port", NETWORK);
        }
    }
    if let Link::Listen { .. } = link {
        let hint = "leave it out, or connect to the device: address = \"192.0.2.7:502\"";
        say(&["backup_address", "tls"], "has no effect where the device dials in", hint);
    }
    if framing != Framing::Tcp {
        let hint = "leave it out: only the frames of modbus-tcp bear one";
        say(&["transaction_id"], "has no effect on a bus whose frames bear no number", hint);
    }
}
