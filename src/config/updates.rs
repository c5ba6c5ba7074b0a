//! `[updates]`: which keys sign firmware, how much of it is kept, where it is fetched from.

use std::{path::PathBuf, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};

use super::read::Section;

/// How firmware for children is fetched, checked and kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Updates {
    /// Ed25519 public keys whose signature makes an image acceptable. With none, every order is refused.
    pub keys: Vec<PublicKey>,
    /// Bytes all cached images may take together.
    pub quota: u64,
    /// Bytes that stay free on the disk whatever is ordered: they belong to the log.
    pub keep_free: u64,
    /// Bytes of the largest image that is fetched.
    pub largest: u64,
    /// PEM file with the certificates that vouch for the firmware server; the system's where absent.
    pub ca: Option<PathBuf>,
    /// How long an order without a deadline of its own may take.
    pub deadline: Duration,
    /// `http://host:port` under which children reach this gateway; the web listener's where absent.
    pub url: Option<String>,
}

/// An Ed25519 public key (RFC 8032), 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey(pub [u8; 32]);

impl std::fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ed25519:{}", STANDARD.encode(self.0))
    }
}

impl Default for Updates {
    fn default() -> Self {
        Self {
            keys: Vec::new(),
            quota: 512 << 20,
            keep_free: 256 << 20,
            largest: 256 << 20,
            ca: None,
            deadline: Duration::from_secs(7 * 86_400),
            url: None,
        }
    }
}

const KEY_HINT: &str = "write each key as base64 of its 32 raw bytes, or as the PEM text that `openssl pkey -in \
     release.pem -pubout` prints for an Ed25519 key";

impl Updates {
    pub fn read(section: &Section<'_>) -> Self {
        let default = Self::default();
        let mut keys = Vec::new();
        for text in section.texts("keys") {
            match text.parse() {
                Ok(key) if keys.contains(&key) => section.problem("keys", "the same key stands here twice", ""),
                Ok(key) => keys.push(key),
                Err(why) => section.problem("keys", why, KEY_HINT),
            }
        }
        let read = Self {
            keys,
            quota: section.bytes("quota").unwrap_or(default.quota),
            keep_free: section.bytes("keep_free").unwrap_or(default.keep_free),
            largest: section.bytes("largest").unwrap_or(default.largest),
            ca: section.text("ca").map(PathBuf::from),
            deadline: section.duration("deadline").unwrap_or(default.deadline),
            url: section.parsed(
                "url",
                "write where children reach this gateway: \"http://192.168.1.10:8080\"",
                base_url,
            ),
        };
        section.authorities("ca");
        if read.largest > read.quota {
            section.problem(
                "largest",
                format!("an image of {} bytes would never fit into the quota of {}", read.largest, read.quota),
                "raise quota or lower largest",
            );
        }
        if read.deadline < Duration::from_secs(60) {
            section.problem(
                "deadline",
                format!("{:?} is too short", read.deadline),
                "give an update at least a minute",
            );
        }
        read
    }
}

impl std::str::FromStr for PublicKey {
    type Err = String;

    /// Raw base64, or PEM with a SubjectPublicKeyInfo (RFC 8410).
    fn from_str(text: &str) -> Result<Self, String> {
        const SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
        let text = text.trim();
        let pem = text.starts_with("-----BEGIN");
        let body: String = text.lines().filter(|line| !line.starts_with("-----")).map(str::trim).collect();
        let bytes = STANDARD.decode(body).map_err(|_| "a key is not base64".to_owned())?;
        let raw = match (pem, bytes.strip_prefix(&SPKI)) {
            (_, Some(raw)) => raw,
            (true, None) => return Err("a key in PEM is not an Ed25519 public key".into()),
            (false, None) => &bytes[..],
        };
        let length = raw.len();
        raw.try_into().map(PublicKey).map_err(|_| format!("a key has {length} bytes instead of 32"))
    }
}

fn base_url(text: &str) -> Result<String, String> {
    let text = text.trim_end_matches('/');
    let host = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    match host {
        Some(host) if !host.is_empty() && !host.contains(['/', '?', '#', ' ']) => Ok(text.to_owned()),
        Some(_) => Err("has no host, or more than host and port".into()),
        None => Err("does not begin with http:// or https://".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::read::Document;

    fn read(text: &str) -> (Updates, Vec<String>) {
        let document = Document::parse("headgate.toml", text);
        let updates = Updates::read(&document.root());
        (updates, document.into_problems().iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_key_may_be_raw_or_pem() {
        let raw = "GbtGm4TEn0tIZVgTsKXmBfxCXqEZEmNDKY0Fr4Mp5J4=";
        let spki = "MCowBQYDK2VwAyEAGbtGm4TEn0tIZVgTsKXmBfxCXqEZEmNDKY0Fr4Mp5J4=";
        let pem = format!("-----BEGIN PUBLIC KEY-----\n{spki}\n-----END PUBLIC KEY-----\n");
        let keys: Vec<PublicKey> = [raw, spki, &pem].iter().map(|text| text.parse().expect("key")).collect();
        assert!(keys.iter().all(|key| *key == keys[0]));
        assert!("AAAA".parse::<PublicKey>().is_err_and(|why| why.contains("3 bytes")));
    }

    #[test]
    fn all_problems_are_named_at_once() {
        let (_, problems) = read("keys = [\"nonsense!\"]\nlargest = \"1GiB\"\nurl = \"ftp://x\"\ndeadline = \"5s\"\n");
        assert_eq!(problems.len(), 4, "{problems:#?}");
        let (updates, problems) = read("");
        assert_eq!((updates, problems), (Updates::default(), Vec::new()));
    }
}
