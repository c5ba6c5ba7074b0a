//! Modbus buses and the devices on them, as a file of `devices.d` says: one `[bus]` and its `[[device]]`s.

pub mod device;
pub mod firmware;
pub mod kind;
mod limits;
mod place;
pub mod point;
mod pool;
pub mod profile;
mod serial;
mod shipped;
mod unused;

use std::{collections::HashSet, path::PathBuf, sync::Arc, time::Duration};

pub use device::Device;
pub use limits::{Forbidden, Limits};
pub use serial::{Parity, Rts, Serial};

use self::{device::DeviceDefaults, kind::Order, point::ORDERS, profile::Profiles};
use crate::config::read::Section;

/// A port or an endpoint with the units behind it: everything that shares one wire.
#[derive(Debug, Clone, PartialEq)]
pub struct Bus {
    pub name: Arc<str>,
    pub link: Link,
    pub framing: Framing,
    /// Least pause between a reply and the next request; the 3.5 characters of a serial line come on top.
    pub gap: Duration,
    /// Pause after a broadcast.
    pub turnaround: Duration,
    /// Replies whose transaction id is not the request's are taken (some endpoints never echo it).
    pub any_transaction: bool,
    /// Most requests under way at a time (TCP with transaction ids only); many endpoints can take one.
    pub in_flight: u8,
    /// Connections to a TCP endpoint; each becomes a bus of its own.
    pub connections: u8,
    /// What is sent comes back first (two-wire adapters with local echo).
    pub echo: bool,
    pub devices: Vec<Arc<Device>>,
    /// What a scan compares units with: the shipped profiles and the user's own.
    pub profiles: Arc<Profiles>,
}

/// How frames are told apart on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Framing {
    /// MBAP header with transaction ids.
    Tcp,
    /// Address, PDU, CRC-16.
    Rtu,
    /// Colon, hexadecimal digits, LRC, CR LF.
    Ascii,
}

/// What frames travel over.
#[derive(Debug, Clone, PartialEq)]
pub enum Link {
    /// `host:port`, tried in this order.
    Tcp {
        addresses: Vec<String>,
        tls: Option<Tls>,
    },
    /// Waits here for the device (a cellular modem, a serial server) to dial in.
    Listen {
        address: String,
    },
    Serial(Serial),
}

impl Link {
    /// Whether a person would call it that: the port's path (or what it points at), or one of its addresses.
    pub fn is_called(&self, name: &str) -> bool {
        match self {
            Link::Tcp { addresses, .. } => addresses.iter().any(|a| a == name || *a == with_port(name, 502)),
            Link::Listen { address } => address == name,
            Link::Serial(serial) => {
                let real = |path: &std::path::Path| std::fs::canonicalize(path).ok();
                let asked = std::path::Path::new(name);
                serial.port == asked || (real(asked).is_some() && real(asked) == real(&serial.port))
            }
        }
    }
}

/// Modbus/TCP Security: mutual TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    pub ca: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// The name in the server's certificate where it differs from the address.
    pub server_name: Option<String>,
}

impl Bus {
    /// A bus without devices, for tools and tests.
    pub fn bare(name: &str, link: Link, framing: Framing) -> Self {
        Self {
            name: name.into(),
            link,
            framing,
            gap: Duration::ZERO,
            turnaround: Duration::from_millis(100),
            any_transaction: false,
            in_flight: 1,
            connections: 1,
            echo: false,
            devices: Vec::new(),
            profiles: Arc::default(),
        }
    }

    pub fn serial(&self) -> Option<&Serial> {
        match &self.link {
            Link::Serial(serial) => Some(serial),
            _ => None,
        }
    }

    /// Whether the wire itself (not the devices on it) is the same.
    pub fn same_wire(&self, other: &Bus) -> bool {
        self.link == other.link && self.framing == other.framing && self.echo == other.echo
    }
}

const PROTOCOLS: [(&str, Framing); 4] = [
    ("modbus-tcp", Framing::Tcp),
    ("modbus-rtu", Framing::Rtu),
    ("modbus-rtu-over-tcp", Framing::Rtu),
    ("modbus-ascii", Framing::Ascii),
];

/// Reads a file of `devices.d`: its `[bus]` and all its `[[device]]`s. `None` where the wire itself is not clear.
pub fn read(root: &Section<'_>, profiles: &Profiles) -> Option<Bus> {
    let Some(section) = root.section("bus") else {
        root.problem("bus", "there is no [bus] section", "begin with [bus] and say protocol and address or port");
        root.sections("device");
        return None;
    };
    let bus = read_bus(&section, profiles);
    let defaults = DeviceDefaults {
        timeout: section.duration("timeout").unwrap_or(Duration::from_secs(1)),
        retries: section.integer("retries", 0..=10).map_or(1, |n| n as u8),
        order: section.parsed("order", ORDERS, str::parse::<Order>),
        interval: section.duration("interval"),
        limits: Limits::read(&section),
    };
    let mut devices = Vec::new();
    let (mut ids, mut units) = (HashSet::new(), HashSet::new());
    for section in root.sections("device") {
        let Some(device) = Device::read(&section, &defaults, profiles) else { continue };
        if !ids.insert(device.id.clone()) {
            section.problem("id", format!("{:?} is there twice", device.id), "each device needs an id of its own");
        }
        if !units.insert(device.unit) {
            // Two device entries may share a unit on purpose (a meter and its relay), so this is not a problem.
            tracing::debug!(unit = device.unit, "two devices share a unit id");
        }
        if device.unit == 0 && device.is_read() && bus.as_ref().is_some_and(|bus| bus.serial().is_some()) {
            let hint = "give the unit id the device is set to, 1 to 247; 0 is only for registers with access = \"w\"";
            section.problem("unit", "0 on a serial line speaks to all devices, and none of them answers", hint);
        }
        devices.push(Arc::new(device));
    }
    let mut bus = bus?;
    bus.devices = devices;
    bus.in_flight = pool::in_flight(&section, &bus);
    Some(bus)
}

fn read_bus(section: &Section<'_>, profiles: &Profiles) -> Option<Bus> {
    if !section.has("protocol") {
        section.problem("protocol", "is missing", "one of modbus-tcp, modbus-rtu, modbus-rtu-over-tcp, modbus-ascii");
    }
    let protocol = section.text("protocol");
    let framing = section.choice("protocol", &PROTOCOLS);
    let address = section.text("address");
    let backup = section.text("backup_address");
    let listen = section.text("listen");
    let port = section.text("port");
    let secured = section.section("tls");
    let tls = secured.as_ref().and_then(read_tls);
    let serial = serial::read(section, port.as_deref());
    let (gap, turnaround) = (section.duration("gap"), section.duration("turnaround"));
    let any_transaction = section.choice("transaction_id", &[("check", false), ("ignore", true)]);
    let echo = section.bool("echo");
    let name = section.text("name");
    let framing = framing?;
    let over_tcp = matches!(protocol.as_deref(), Some("modbus-tcp" | "modbus-rtu-over-tcp"));
    let link = if over_tcp {
        let default_port = if tls.is_some() { 802 } else { 502 };
        if port.is_some() {
            section.problem("port", "a serial port on a TCP bus", "give address = \"192.0.2.7:502\" instead");
        }
        if address.is_some() && listen.is_some() {
            section.problem(
                "listen",
                "is given beside address",
                "connect to an address, or listen for one who dials in",
            );
        }
        match (address, listen) {
            (Some(address), _) => {
                if let Some(secured) = &secured {
                    secured.authorities("ca");
                    secured.pair("certificate", "key");
                }
                let addresses = [Some(address), backup].into_iter().flatten();
                Link::Tcp { addresses: addresses.map(|a| with_port(&a, default_port)).collect(), tls }
            }
            (None, Some(listen)) => Link::Listen { address: with_port(&listen, default_port) },
            (None, None) => {
                section.problem(
                    "address",
                    "is missing",
                    "say where the device listens, such as address = \"192.0.2.7:502\"",
                );
                return None;
            }
        }
    } else {
        let Some(serial) = serial else {
            section.problem(
                "port",
                "is missing",
                "name the serial port, best a stable one: port = \"/dev/serial/by-id/usb-…\"",
            );
            return None;
        };
        Link::Serial(serial)
    };
    unused::check(section, &link, framing);
    let fallback = match &link {
        Link::Tcp { addresses, .. } => addresses.first().cloned().unwrap_or_default(),
        Link::Listen { address } => address.clone(),
        Link::Serial(serial) => serial.port.display().to_string(),
    };
    Some(Bus {
        gap: gap.unwrap_or_default(),
        turnaround: turnaround.unwrap_or(Duration::from_millis(100)),
        any_transaction: any_transaction.unwrap_or(false),
        echo: echo.unwrap_or(false),
        connections: pool::read(section, &link),
        profiles: Arc::new(profiles.clone()),
        ..Bus::bare(name.as_deref().unwrap_or(&fallback), link, framing)
    })
}

fn read_tls(section: &Section<'_>) -> Option<Tls> {
    let hint = "Modbus/TCP Security needs ca, certificate and key (PEM files)";
    let path = |key| section.required_text(key, hint).map(PathBuf::from);
    let (ca, certificate, key) = (path("ca"), path("certificate"), path("key"));
    let server_name = section.text("server_name");
    Some(Tls { ca: ca?, certificate: certificate?, key: key?, server_name })
}

/// `host` or `host:port` or `[v6]:port`.
fn with_port(address: &str, port: u16) -> String {
    let tail = address.rsplit_once(']').map_or(address, |(_, tail)| tail);
    match tail.rsplit_once(':') {
        Some((_, digits)) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => address.to_owned(),
        _ => format!("{address}:{port}"),
    }
}

#[cfg(test)]
mod tests;
