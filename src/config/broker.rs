//! `[broker]`: listeners and limits of the local broker.

use std::{net::SocketAddr, time::Duration};

use super::read::Section;

/// What to do with a CONNECT that brings neither a password nor a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Anonymous {
    #[default]
    Refuse,
    /// All are the device `anonymous` of the group `anonymous`, and may do what `access.toml` grants these.
    Guest,
    /// A client id that can be a device id is taken for it, in the group `anonymous`: for a network one trusts.
    ByClientId,
}

/// Where the broker listens and how much it takes from one client.
#[derive(Debug, Clone, PartialEq)]
pub struct Broker {
    /// Plain TCP.
    pub tcp: Vec<SocketAddr>,
    pub tls: Vec<SocketAddr>,
    pub websocket: Vec<SocketAddr>,
    pub websocket_tls: Vec<SocketAddr>,
    pub anonymous: Anonymous,
    pub limits: Limits,
}

/// Bounds per client unless said otherwise.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Largest packet from a client, bytes.
    pub packet: usize,
    /// Longest topic or filter, bytes.
    pub topic: usize,
    /// Deepest topic or filter, levels.
    pub levels: usize,
    pub subscriptions: usize,
    /// QoS 1 and 2 messages on their way to a client that it has not acknowledged.
    pub inflight: u16,
    /// QoS 1 and 2 messages from a client that are not acknowledged yet (receive maximum).
    pub receive: u16,
    /// Topic aliases a client may use.
    pub aliases: u16,
    /// Bytes queued for one client.
    pub queued: usize,
    /// Bytes queued for all clients together.
    pub queued_total: usize,
    /// Longest time a session without a connection is kept.
    pub session: Duration,
    /// Bytes of retained messages, all together.
    pub retained: usize,
    /// Clients connected at once.
    pub connections: usize,
    pub connections_per_address: usize,
    /// Devices without credentials that are registered by their client id (`anonymous = "by_client_id"`).
    pub anonymous_devices: usize,
    /// New connections per second from one address, with as many again at once as a burst of ten seconds.
    pub connects_per_second: u32,
    /// From accept to CONNECT, handshakes included.
    pub connect_within: Duration,
    /// A longer keep-alive is shortened to this (MQTT 5 clients are told).
    pub keep_alive: Duration,
    /// A client that takes nothing from its socket for so long is disconnected.
    pub write_within: Duration,
}

impl Default for Broker {
    fn default() -> Self {
        Self {
            tcp: vec![SocketAddr::from(([127, 0, 0, 1], 1883))],
            tls: vec![SocketAddr::from(([0, 0, 0, 0], 8883))],
            websocket: Vec::new(),
            websocket_tls: Vec::new(),
            anonymous: Anonymous::Refuse,
            limits: Limits::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            packet: 256 * 1024,
            topic: 512,
            levels: 16,
            subscriptions: 100,
            inflight: 32,
            receive: 128,
            aliases: 16,
            queued: 16 * 1024 * 1024,
            queued_total: 64 * 1024 * 1024,
            session: Duration::from_secs(7 * 86_400),
            retained: 32 * 1024 * 1024,
            connections: 4096,
            connections_per_address: 2048,
            anonymous_devices: 1000,
            connects_per_second: 200,
            connect_within: Duration::from_secs(5),
            keep_alive: Duration::from_secs(60),
            write_within: Duration::from_secs(30),
        }
    }
}

impl Broker {
    pub fn read(section: &Section<'_>) -> Self {
        let d = Self::default();
        let broker = Self {
            tcp: addresses(section, "tcp", d.tcp),
            tls: addresses(section, "tls", d.tls),
            websocket: addresses(section, "websocket", d.websocket),
            websocket_tls: addresses(section, "websocket_tls", d.websocket_tls),
            anonymous: section
                .choice(
                    "anonymous",
                    &[
                        ("refuse", Anonymous::Refuse),
                        ("guest", Anonymous::Guest),
                        ("by_client_id", Anonymous::ByClientId),
                    ],
                )
                .unwrap_or_default(),
            limits: section.section("limits").map_or(d.limits, |limits| Limits::read(&limits)),
        };
        // Passwords and readings in the clear leave the machine only where somebody said so.
        let plain_on_network = section.bool("plain_on_network").unwrap_or(false);
        for (key, addresses) in [("tcp", &broker.tcp), ("websocket", &broker.websocket)] {
            if let Some(open) = addresses.iter().find(|a| !a.ip().is_loopback() && !plain_on_network) {
                section.problem(
                    key,
                    format!("{open} can be reached from the network without encryption"),
                    "use tls, or say plain_on_network = true if passwords may travel in the clear",
                );
            }
        }
        broker
    }

    pub fn needs_tls(&self) -> bool {
        !self.tls.is_empty() || !self.websocket_tls.is_empty()
    }
}

impl Limits {
    fn read(section: &Section<'_>) -> Self {
        let d = Self::default();
        let count = |key, most: i64, default: usize| {
            section.integer(key, 1..=most).map_or(default, |n| usize::try_from(n).unwrap_or(default))
        };
        let number = |key, least: i64, default: u16| {
            section.integer(key, least..=65_535).map_or(default, |n| u16::try_from(n).unwrap_or(default))
        };
        let bytes = |key, least: usize, default: usize| match section.bytes(key) {
            Some(n) => {
                let n = usize::try_from(n).unwrap_or(usize::MAX);
                if n < least {
                    section.problem(key, format!("{n} bytes is too little"), format!("at least {least} bytes"));
                }
                n
            }
            None => default,
        };
        let limits = Self {
            packet: bytes("packet", 1024, d.packet),
            topic: count("topic", 65_535, d.topic),
            levels: count("levels", 128, d.levels),
            subscriptions: count("subscriptions", 100_000, d.subscriptions),
            inflight: number("inflight", 1, d.inflight),
            receive: number("receive", 1, d.receive),
            aliases: number("aliases", 0, d.aliases),
            queued: bytes("queued", 4096, d.queued),
            queued_total: bytes("queued_total", 4096, d.queued_total),
            session: section.duration("session").unwrap_or(d.session),
            retained: bytes("retained", 4096, d.retained),
            connections: count("connections", 1_000_000, d.connections),
            connections_per_address: count("connections_per_address", 1_000_000, d.connections_per_address),
            anonymous_devices: count("anonymous_devices", 1_000_000, d.anonymous_devices),
            connects_per_second: section
                .integer("connects_per_second", 1..=1_000_000)
                .map_or(d.connects_per_second, |n| u32::try_from(n).unwrap_or(d.connects_per_second)),
            connect_within: section.duration("connect_within").unwrap_or(d.connect_within),
            keep_alive: section.duration("keep_alive").unwrap_or(d.keep_alive),
            write_within: section.duration("write_within").unwrap_or(d.write_within),
        };
        if limits.packet > 268_435_455 {
            section.problem("packet", "is more than MQTT allows", "at most 268435455 bytes");
        }
        if limits.keep_alive < Duration::from_secs(5) || limits.keep_alive > Duration::from_secs(65_535) {
            section.problem("keep_alive", "is out of range", "give it 5 s to 65535 s, such as \"60s\"");
        }
        limits
    }
}

fn addresses(section: &Section<'_>, key: &'static str, default: Vec<SocketAddr>) -> Vec<SocketAddr> {
    if !section.has(key) {
        return default;
    }
    let mut addresses = Vec::new();
    for text in section.texts(key) {
        match text.parse() {
            Ok(address) => addresses.push(address),
            Err(_) => section.problem(
                key,
                format!("{text:?} is no address with a port"),
                "such as \"127.0.0.1:1883\", \"0.0.0.0:8883\" or \"[::]:8883\"; [] to listen nowhere",
            ),
        }
    }
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::read::Document;

    fn read(text: &str) -> (Broker, Vec<String>) {
        let document = Document::parse("a.toml", text);
        let broker = Broker::read(&document.root());
        (broker, document.into_problems().iter().map(ToString::to_string).collect())
    }

    #[test]
    fn an_empty_section_is_the_default() {
        assert_eq!(read(""), (Broker::default(), vec![]));
        assert_eq!(read("[limits]\n"), (Broker::default(), vec![]));
    }

    #[test]
    fn plain_text_on_the_network_must_be_asked_for() {
        let (_, problems) = read("tcp = [\"0.0.0.0:1883\"]\n");
        assert_eq!(problems.len(), 1, "{problems:#?}");
        let (broker, problems) = read("tcp = [\"0.0.0.0:1883\"]\nplain_on_network = true\n");
        assert_eq!((broker.tcp.len(), problems.len()), (1, 0));
    }

    #[test]
    fn wrong_values_are_all_named() {
        let (_, problems) =
            read("tls = [\"8883\"]\nanonymous = \"yes\"\n[limits]\npacket = 3\ninflight = 0\nlevel = 4\n");
        assert_eq!(problems.len(), 5, "{problems:#?}");
    }
}
