//! `[uplink]`: the cloud's broker, how records are sent there, and what that may cost.

use std::{path::PathBuf, time::Duration};

use jiff::tz::{Offset, TimeZone};

use super::{read::Section, shadow_sync::ShadowSync};

/// Which MQTT is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    V3,
    V5,
}

/// How readings are written in a publish (`docs/mqtt.md`, section 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    Json,
    /// The same documents in CBOR (RFC 8949).
    Cbor,
    /// SenML in CBOR (RFC 8428).
    Senml,
}

/// What a metered link may cost, in bytes on the wire, both directions; 0 is no limit.
#[derive(Debug, Clone, PartialEq)]
pub struct BudgetConfig {
    pub day: u64,
    pub month: u64,
    /// Whose midnight ends a day.
    pub zone: TimeZone,
}

impl Default for BudgetConfig {
    fn default() -> Self {
        Self { day: 0, month: 0, zone: TimeZone::UTC }
    }
}

/// How the cloud keeps shadows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// As the contract says: reported goes up with the log, desired comes down as orders.
    Native,
    /// The cloud has a shadow service of its own (AWS IoT Core): both sides are kept equal.
    Aws,
}

/// Publishes per second of one connection that AWS IoT Core takes.
const AWS_PUBLISHES: u32 = 100;

/// Where the cloud's broker listens: `mqtt://host:port` or `mqtts://host:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    pub host: String,
    pub port: u16,
    pub tls: bool,
}

impl Address {
    pub fn parse(text: &str) -> Result<Address, String> {
        let (tls, rest) = match text.split_once("://") {
            Some(("mqtt" | "tcp", rest)) => (false, rest),
            Some(("mqtts" | "ssl" | "tls", rest)) => (true, rest),
            Some((scheme, _)) => return Err(format!("{scheme:?} is not a way to a broker")),
            None => return Err("names no scheme".into()),
        };
        let rest = rest.trim_end_matches('/');
        if rest.contains(['/', '@']) {
            return Err("has more than host and port".into());
        }
        let (host, port) = match rest.rsplit_once(':') {
            // An address in brackets may end in one without a port behind it.
            Some((host, port)) if !port.ends_with(']') => {
                (host, port.parse().map_err(|_| format!("{port:?} is no port"))?)
            }
            _ => (rest, if tls { 8883 } else { 1883 }),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() || port == 0 {
            return Err("names no host".into());
        }
        Ok(Address { host: host.to_owned(), port, tls })
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bracket = self.host.contains(':');
        let (open, close) = if bracket { ("[", "]") } else { ("", "") };
        write!(f, "{open}{}{close}:{}", self.host, self.port)
    }
}

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(secret)")
    }
}

/// `[uplink.tls]`: files of the client side; read by the identity room.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UplinkTls {
    /// Authorities the broker's certificate is checked against; the system's where absent.
    pub ca: Option<PathBuf>,
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct UplinkConfig {
    /// Absent: no cloud; the log keeps what it can.
    pub broker: Option<Address>,
    pub dialect: Dialect,
    /// With the dialect `aws`.
    pub shadows: ShadowSync,
    pub version: Version,
    /// The gateway's id where absent.
    pub client_id: Option<String>,
    pub username: Option<String>,
    pub password: Option<Secret>,
    pub password_file: Option<PathBuf>,
    pub tls: UplinkTls,
    /// Topic root of a device: `{device}` and `{gateway}` are filled in.
    pub root: String,
    pub keep_alive: Duration,
    /// A publish that is not acknowledged within this means that the link is dead.
    pub unacked_timeout: Duration,
    /// Publishes on their way at a time.
    pub in_flight: u16,
    /// Readings of one device in one publish at most; 1 sends each alone.
    pub batch: usize,
    /// Bytes of one publish at most; a broker that announces less gets less.
    pub batch_bytes: usize,
    /// Records per second while catching up; 0 is as fast as the link takes them.
    pub backlog_rate: u32,
    /// Send what is measured now before the backlog. Readings of a device then arrive out of order, told apart by `seq`.
    pub live_first: bool,
    /// Wait between attempts: from the first to the second, at random below it.
    pub retry: (Duration, Duration),
    pub encoding: Encoding,
    /// Publishes with several readings are compressed with zstd where that makes them smaller.
    pub zstd: bool,
    /// How long a reading may wait for company before it is sent. What is urgent, states and backlogs never wait.
    pub batch_wait: Duration,
    pub budget: BudgetConfig,
    /// How often the gateway tells how it is where nothing changed.
    pub heartbeat: Duration,
}

impl Default for UplinkConfig {
    fn default() -> Self {
        Self {
            broker: None,
            dialect: Dialect::Native,
            shadows: ShadowSync::default(),
            version: Version::V5,
            client_id: None,
            username: None,
            password: None,
            password_file: None,
            tls: UplinkTls::default(),
            root: "devices/{device}".into(),
            keep_alive: Duration::from_secs(15),
            unacked_timeout: Duration::from_secs(10),
            in_flight: 256,
            batch: 500,
            batch_bytes: 96 << 10,
            backlog_rate: 0,
            live_first: false,
            retry: (Duration::from_millis(500), Duration::from_secs(60)),
            encoding: Encoding::Json,
            zstd: false,
            batch_wait: Duration::ZERO,
            budget: BudgetConfig::default(),
            heartbeat: Duration::from_secs(900),
        }
    }
}

impl UplinkConfig {
    pub fn read(section: &Section<'_>) -> Self {
        let default = Self::default();
        let mut config = Self {
            broker: section.parsed("broker", "write \"mqtt://host:1883\" or \"mqtts://host:8883\"", Address::parse),
            dialect: section
                .choice("dialect", &[("native", Dialect::Native), ("aws", Dialect::Aws)])
                .unwrap_or(default.dialect),
            shadows: section.section("shadows").map(|shadows| ShadowSync::read(&shadows)).unwrap_or_default(),
            version: section
                .choice("version", &[("3.1.1", Version::V3), ("5", Version::V5)])
                .unwrap_or(default.version),
            client_id: section.text("client_id"),
            username: section.text("username"),
            password: section.text("password").map(Secret),
            password_file: section.text("password_file").map(PathBuf::from),
            tls: UplinkTls::default(),
            root: section.text("topic_root").unwrap_or(default.root),
            keep_alive: span(section, "keep_alive", default.keep_alive, 5, 1200),
            unacked_timeout: span(section, "unacked_timeout", default.unacked_timeout, 1, 600),
            in_flight: section.integer("in_flight", 1..=4096).map_or(default.in_flight, |n| n as u16),
            batch: section.integer("batch", 1..=10_000).map_or(default.batch, |n| n as usize),
            batch_bytes: section.bytes("batch_bytes").map_or(default.batch_bytes, |n| n as usize),
            backlog_rate: section.integer("backlog_rate", 0..=10_000_000).map_or(default.backlog_rate, |n| n as u32),
            live_first: section.bool("live_first").unwrap_or(default.live_first),
            retry: (
                section.duration("retry_first").unwrap_or(default.retry.0),
                section.duration("retry_most").unwrap_or(default.retry.1),
            ),
            encoding: section
                .choice("encoding", &[("json", Encoding::Json), ("cbor", Encoding::Cbor), ("senml", Encoding::Senml)])
                .unwrap_or(default.encoding),
            zstd: section.choice("compression", &[("none", false), ("zstd", true)]).unwrap_or(default.zstd),
            batch_wait: span(section, "batch_wait", default.batch_wait, 0, 3600),
            budget: BudgetConfig {
                day: section.bytes("budget_day").unwrap_or(0),
                month: section.bytes("budget_month").unwrap_or(0),
                zone: section
                    .parsed(
                        "budget_zone",
                        "write \"UTC\", an offset like \"+01:00\" or a name like \"Europe/Berlin\"",
                        zone,
                    )
                    .unwrap_or(TimeZone::UTC),
            },
            heartbeat: span(section, "heartbeat", default.heartbeat, 1, 7 * 86_400),
        };
        if let Some(tls) = section.section("tls") {
            config.tls = UplinkTls::read(&tls);
            match &config.broker {
                Some(broker) if broker.tls => {
                    tls.pair("certificate", "key");
                    tls.authorities("ca");
                }
                Some(_) => plain(&tls),
                // Without a cloud nobody looks at the files, and they need not be there.
                None => {}
            }
        }
        config.root = config.root.trim_end_matches('/').to_owned();
        config.check(section);
        config
    }

    /// Publishes of the log per second: what the cloud takes of one connection without those of the shadows. `None`:
    /// as many as it takes.
    pub fn log_rate(&self) -> Option<u32> {
        // Twelve more than their rate may go in a second after a rest.
        let shadows = self.shadows.rate + self.shadows.rate / 5 + 2;
        (self.dialect == Dialect::Aws).then(|| AWS_PUBLISHES.saturating_sub(shadows).max(5))
    }

    fn check(&self, section: &Section<'_>) {
        if self.dialect == Dialect::Native && self.shadows != ShadowSync::default() {
            let hint = "add dialect = \"aws\", or leave [uplink.shadows] out: the native dialect has nothing to sync";
            section.problem("shadows", "is only for a cloud with shadows of its own", hint);
        }
        if self.root.matches("{device}").count() != 1 {
            let hint = "write a root with {device} in it once, for example \"devices/{device}\"";
            section.problem("topic_root", format!("{:?}", self.root), hint);
        }
        if self.root.contains(['+', '#']) {
            section.problem("topic_root", format!("{:?} has a wildcard", self.root), "name each level");
        }
        if self.password.is_some() && self.password_file.is_some() {
            section.problem("password_file", "is given beside password", "give one of the two");
        }
        if self.password.is_some() && self.username.is_none() {
            section.problem("password", "is given without username", "add username = \"…\"");
        }
        if !(1024..=256 << 20).contains(&self.batch_bytes) {
            section.problem("batch_bytes", format!("{} bytes", self.batch_bytes), "from \"1KiB\" to \"256MiB\"");
        }
    }
}

impl UplinkTls {
    fn read(section: &Section<'_>) -> Self {
        let path = |key| section.text(key).map(PathBuf::from);
        let tls = Self { ca: path("ca"), certificate: path("certificate"), key: path("key") };
        if tls.certificate.is_some() != tls.key.is_some() {
            section.problem("certificate", "and key go together", "give both files, or neither");
        }
        tls
    }
}

/// Whoever wrote these counts on an encrypted road.
fn plain(tls: &Section<'_>) {
    for key in ["ca", "certificate", "key"].into_iter().filter(|key| tls.has(key)) {
        let hint = "reach the broker by mqtts:// (broker = \"mqtts://host:8883\"), or leave it out";
        tls.problem(key, "has no effect on a road that is not encrypted (mqtt://)", hint);
    }
}

/// A time zone by offset or by name; names are looked up in the system's `zoneinfo`.
fn zone(text: &str) -> Result<TimeZone, String> {
    if text == "UTC" {
        return Ok(TimeZone::UTC);
    }
    let offset = text.strip_prefix(['+', '-']).and_then(|rest| {
        let (hours, minutes) = rest.split_once(':')?;
        let seconds = (hours.parse::<i32>().ok()? * 60 + minutes.parse::<i32>().ok()?) * 60;
        Offset::from_seconds(if text.starts_with('-') { -seconds } else { seconds }).ok()
    });
    match offset {
        Some(offset) => Ok(offset.to_time_zone()),
        None => TimeZone::get(text).map_err(|_| format!("{text:?} is no time zone this machine knows")),
    }
}

fn span(section: &Section<'_>, key: &'static str, default: Duration, least: u64, most: u64) -> Duration {
    let Some(span) = section.duration(key) else { return default };
    let range = Duration::from_secs(least)..=Duration::from_secs(most);
    if !range.contains(&span) {
        section.problem(key, format!("{span:?}"), format!("from \"{least}s\" to \"{most}s\""));
        return default;
    }
    span
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::read::Document;

    #[test]
    fn addresses_are_understood() {
        let address = |text| Address::parse(text).map(|a| (a.to_string(), a.tls));
        assert_eq!(address("mqtt://cloud"), Ok(("cloud:1883".into(), false)));
        assert_eq!(address("mqtts://cloud:443/"), Ok(("cloud:443".into(), true)));
        assert_eq!(address("mqtts://[::1]"), Ok(("[::1]:8883".into(), true)));
        for bad in ["cloud:1883", "http://cloud", "mqtt://", "mqtt://a:b", "mqtt://user@cloud"] {
            assert!(Address::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn zones_are_known_by_offset_and_by_name() {
        assert_eq!(zone("UTC"), Ok(TimeZone::UTC));
        let at = jiff::Timestamp::UNIX_EPOCH;
        assert_eq!(zone("-03:30").expect("offset").to_datetime(at).to_string(), "1969-12-31T20:30:00");
        assert!(zone("Atlantis/Capital").is_err());
    }

    #[test]
    fn what_cannot_work_is_a_problem_and_secrets_stay_hidden() {
        let text = "broker = \"mqtt://c\"\ntopic_root = \"all\"\npassword = \"geheim\"\nkeep_alive = \"1s\"\n[tls]\nkey = \"k\"\nca = \"c\"\n";
        let document = Document::parse("u.toml", text);
        let config = UplinkConfig::read(&document.root());
        assert!(!format!("{config:?}").contains("geheim"));
        let lines: Vec<usize> = document.into_problems().iter().map(|problem| problem.line).collect();
        assert_eq!(lines, [2, 3, 4, 5, 6, 7], "a key without its certificate, and both files beside a plain address");
    }
}
