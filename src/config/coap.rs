//! `[coap]`, the door for children that push, and `[[device]]` entries of children that are CoAP servers themselves.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use aws_lc_rs::digest::{SHA256, digest};

use super::{device::Common, read::Section};
use crate::model::ids::DeviceId;

/// The gateway as a CoAP server. Plain CoAP proves nothing about its sender, so it is off until somebody names a
/// listener, and then open to the devices in `unprotected` only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    pub listen: Option<SocketAddr>,
    /// Devices that may use this door, each with the digest of its token where it has one.
    pub unprotected: BTreeMap<DeviceId, Option<TokenDigest>>,
    /// Bytes of the largest body that is put together from blocks.
    pub largest: u64,
}

/// SHA-256 of a token, so that the token itself lies in no structure that is logged or compared.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TokenDigest([u8; 32]);

impl TokenDigest {
    pub fn of(token: &str) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        Self(bytes)
    }

    /// In constant time.
    pub fn fits(&self, token: &str) -> bool {
        aws_lc_rs::constant_time::verify_slices_are_equal(&self.0, &Self::of(token).0).is_ok()
    }
}

impl std::fmt::Debug for TokenDigest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl Default for Server {
    fn default() -> Self {
        Self { listen: None, unprotected: BTreeMap::new(), largest: 64 << 10 }
    }
}

const SHORTEST_TOKEN: usize = 16;

impl Server {
    pub fn read(section: &Section<'_>) -> Self {
        let default = Self::default();
        let hint = "write an address and port to listen on: \"127.0.0.1:5683\", or \"[::]:5683\" for all";
        let listen = section.parsed("listen", hint, |text| text.parse().map_err(|_| "is not address:port".to_owned()));
        let mut unprotected = BTreeMap::new();
        for text in section.texts("unprotected") {
            match DeviceId::new(&text) {
                Ok(id) => {
                    unprotected.insert(id, None);
                }
                Err(why) => section.problem("unprotected", format!("{text:?}: {why}"), "name devices by their ids"),
            }
        }
        for (name, token) in section.entries("tokens") {
            let known = DeviceId::new(&name).ok().and_then(|id| unprotected.get_mut(&id));
            match (known, token.as_str()) {
                (Some(place), Some(token)) if token.len() >= SHORTEST_TOKEN => *place = Some(TokenDigest::of(token)),
                (None, _) => {
                    section.problem("tokens", format!("{name:?} may not use plain CoAP"), "add it to unprotected")
                }
                (_, Some(_)) => {
                    let found = format!("the token of {name:?} has less than {SHORTEST_TOKEN} characters");
                    section.problem("tokens", found, "make one with: openssl rand -base64 24");
                }
                (_, None) => section.problem("tokens", format!("the token of {name:?} is no text"), "put it in quotes"),
            }
        }
        let largest = section.bytes("largest").unwrap_or(default.largest);
        if !(1024..=1 << 20).contains(&largest) {
            section.problem("largest", format!("{largest} bytes"), "choose between 1KiB and 1MiB");
        }
        if listen.is_none() && !unprotected.is_empty() && !section.has("listen") {
            section.problem("listen", "is missing, so the devices in unprotected reach nobody", hint);
        }
        Self { listen, unprotected, largest }
    }
}

/// A child that is a CoAP server: the gateway asks it.
#[derive(Debug, Clone, PartialEq)]
pub struct Device {
    pub common: Common,
    /// `host:port`; a name is resolved whenever the device is contacted anew.
    pub address: String,
    /// ACK_TIMEOUT of RFC 7252: the first repetition of a request comes after 1 to 1.5 times this.
    pub timeout: Duration,
    /// MAX_RETRANSMIT of RFC 7252.
    pub retries: u32,
    pub resources: Vec<Resource>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Resource {
    /// Without a leading slash, with `?query` where one is needed.
    pub path: String,
    pub mode: Mode,
    /// Poll interval; where observed, a fallback for servers that do not offer observation.
    pub every: Duration,
    /// Content format to ask for and to read answers as, where they do not say.
    pub format: Option<Format>,
    /// The name of a resource that is a single value.
    pub name: Option<String>,
    /// The member of an object that holds the single value; the whole body otherwise.
    pub member: Option<String>,
    /// Names on the wire to names here. Where it is not empty, other names keep theirs.
    pub rename: BTreeMap<String, String>,
    /// State: folded into the shadow's reported part. Telemetry otherwise.
    pub state: bool,
    /// Desired values of this name are PUT here and read back. Implies `state`.
    pub writable: bool,
    pub min: Option<f64>,
    pub max: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Observe,
    Poll,
}

/// Content formats that carry values (IANA CoAP Content-Formats registry).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    Text,
    Json,
    Cbor,
    SenmlJson,
    SenmlCbor,
}

impl Format {
    pub const ALL: [(&'static str, Format); 5] = [
        ("text", Format::Text),
        ("json", Format::Json),
        ("cbor", Format::Cbor),
        ("senml-json", Format::SenmlJson),
        ("senml-cbor", Format::SenmlCbor),
    ];

    pub fn number(self) -> u16 {
        match self {
            Format::Text => 0,
            Format::Json => 50,
            Format::Cbor => 60,
            Format::SenmlJson => 110,
            Format::SenmlCbor => 112,
        }
    }

    pub fn from_number(number: u16) -> Option<Format> {
        Self::ALL.into_iter().map(|(_, format)| format).find(|format| format.number() == number)
    }
}

impl Device {
    /// Reads a `[[device]]` with `protocol = "coap"`. `None` where it cannot work, which is then a problem.
    pub fn read(section: &Section<'_>) -> Option<Device> {
        let common = Common::read(section);
        let hint = "write where the device listens: \"192.168.1.30:5683\" or \"sensor.local\" (port 5683)";
        if !section.has("address") {
            section.problem("address", "is missing", hint);
        }
        let address = section.parsed("address", hint, address);
        let timeout = section.duration("timeout").unwrap_or(Duration::from_secs(2));
        if timeout < Duration::from_millis(100) || timeout > Duration::from_secs(60) {
            section.problem("timeout", format!("{timeout:?}"), "choose between \"100ms\" and \"60s\"; usual is \"2s\"");
        }
        let retries = section.integer("retries", 0..=10).unwrap_or(4) as u32;
        let resources: Vec<Resource> = section.sections("resource").iter().filter_map(Resource::read).collect();
        if resources.is_empty() && !section.has("resource") {
            section.problem(
                "resource",
                "a CoAP device without resources says nothing",
                "add [[device.resource]] with a path; list what the device has with: coap-client coap://ADDRESS/.well-known/core",
            );
        }
        for (index, resource) in resources.iter().enumerate() {
            let twin = |other: &Resource| resource.writable && other.writable && other.name == resource.name;
            if resources[..index].iter().any(twin) {
                let name = resource.name.clone().unwrap_or_default();
                section.problem(
                    "resource",
                    format!("two writable resources are called {name:?}"),
                    "give each its own name",
                );
            }
        }
        Some(Device { common: common?, address: address?, timeout, retries, resources })
    }
}

impl Resource {
    fn read(section: &Section<'_>) -> Option<Resource> {
        if !section.has("path") {
            section.problem("path", "is missing", "name the resource: path = \"sensors/temperature\"");
        }
        let path = section.text("path").map(|path| path.trim_start_matches('/').to_owned());
        let mode = section.choice("mode", &[("observe", Mode::Observe), ("poll", Mode::Poll)]).unwrap_or(Mode::Observe);
        let every = section.duration("every").unwrap_or(Duration::from_secs(60));
        if every < Duration::from_millis(100) {
            section.problem("every", format!("{every:?} is too often"), "poll at most every \"100ms\"");
        }
        let mut rename = BTreeMap::new();
        for (from, to) in section.entries("rename") {
            match to.as_str() {
                Some(to) if !to.is_empty() => drop(rename.insert(from, to.to_owned())),
                _ => section.problem("rename", format!("{from:?} gets no name"), "rename = { t = \"temperature\" }"),
            }
        }
        let writable = section.bool("writable").unwrap_or(false);
        let resource = Resource {
            mode,
            every,
            format: section.choice("format", &Format::ALL),
            name: section.text("name").filter(|name| !name.is_empty()),
            member: section.text("member"),
            rename,
            state: section.bool("state").unwrap_or(writable),
            writable,
            min: section.number("min"),
            max: section.number("max"),
            path: path?,
        };
        if writable && resource.name.is_none() {
            section.problem(
                "name",
                "is missing",
                "a writable resource needs the name under which it stands in the shadow",
            );
        }
        if writable && !resource.state {
            section.problem("state", "a writable resource is always state", "remove state = false");
        }
        if resource.path.len() > 255 {
            section.problem("path", "is longer than 255 bytes", "");
        }
        if let (Some(min), Some(max)) = (resource.min, resource.max)
            && min > max
        {
            section.problem("min", format!("{min} is more than max = {max}"), "swap them");
        }
        Some(resource)
    }
}

/// `host`, `host:port`, `[v6]:port` or a coap:// URI without a path, to `host:port`.
fn address(text: &str) -> Result<String, String> {
    if text.starts_with("coaps://") {
        return Err("DTLS is not supported".into());
    }
    let text = text.strip_prefix("coap://").unwrap_or(text).trim_end_matches('/');
    if text.is_empty() || text.contains(['/', ' ', '?']) {
        return Err("is not host:port".into());
    }
    if text.parse::<std::net::Ipv6Addr>().is_ok() {
        return Ok(format!("[{text}]:5683"));
    }
    match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => match port.parse::<u16>() {
            Ok(port) if port > 0 && !host.is_empty() => Ok(text.to_owned()),
            _ => Err(format!("{port:?} is not a port")),
        },
        _ => Ok(format!("{text}:5683")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::read::Document;

    fn with<T>(text: &str, read: impl FnOnce(&Section<'_>) -> T) -> (T, Vec<String>) {
        let document = Document::parse("x.toml", text);
        let read = read(&document.root());
        (read, document.into_problems().iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_door_is_closed_until_named_and_shows_no_token() {
        assert_eq!(with("", Server::read), (Server::default(), vec![]));
        let text = "listen = \"127.0.0.1:5683\"\nunprotected = [\"a\", \"b\"]\n[tokens]\na = \"0123456789abcdef\"\n";
        let (server, problems) = with(text, Server::read);
        assert!(problems.is_empty(), "{problems:?}");
        let digest = server.unprotected[&DeviceId::new("a").expect("id")].expect("token");
        assert!(digest.fits("0123456789abcdef") && !digest.fits("0123456789abcdeg"));
        assert!(!format!("{server:?}").contains("0123456789"));
        let (_, problems) = with("listen = 5\nunprotected = [\"a b\"]\n[tokens]\nc = \"short\"\n", Server::read);
        assert_eq!(problems.len(), 3, "{problems:#?}");
    }

    #[test]
    fn a_device_is_read_or_all_its_problems_are() {
        let text = "id = \"s\"\naddress = \"10.0.0.7\"\n[[resource]]\npath = \"/t\"\nrename = { t = \"temp\" }\n\
                    [[resource]]\npath = \"set\"\nname = \"setpoint\"\nmode = \"poll\"\nevery = \"5s\"\nwritable = true\n";
        let (device, problems) = with(text, Device::read);
        assert!(problems.is_empty(), "{problems:?}");
        let device = device.expect("device");
        assert_eq!((device.address.as_str(), device.resources.len()), ("10.0.0.7:5683", 2));
        assert!(device.resources[1].state && device.resources[0].path == "t");
        let bad = "id = \"a/b\"\naddress = \"coaps://x\"\nretries = 99\n[[resource]]\nmode = \"watch\"\nwritable = true\nmin = 3\nmax = 1\n";
        let (device, problems) = with(bad, Device::read);
        assert!(device.is_none());
        assert_eq!(problems.len(), 5, "{problems:#?}");
    }

    #[test]
    fn addresses() {
        for (text, whole) in [
            ("h", "h:5683"),
            ("h:1", "h:1"),
            ("::1", "[::1]:5683"),
            ("[::1]:99", "[::1]:99"),
            ("coap://1.2.3.4/", "1.2.3.4:5683"),
        ] {
            assert_eq!(address(text).as_deref(), Ok(whole));
        }
        assert!(address("h:port").is_err() && address("").is_err() && address("h/x").is_err());
    }
}
