//! `[web]`: where the page and the API listen, and under which names.

use std::net::{Ipv4Addr, SocketAddr};

use super::read::Section;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebConfig {
    pub enabled: bool,
    /// Loopback addresses speak plain HTTP, all others HTTPS (plain HTTP on the same port only redirects).
    pub listen: Vec<SocketAddr>,
    /// HTTPS on loopback addresses as well.
    pub tls: bool,
    /// Names under which browsers may reach the page, beside localhost, the machine's own name and its addresses.
    pub hosts: Vec<String>,
}

impl Default for WebConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            listen: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 8080))],
            tls: false,
            hosts: Vec::new(),
        }
    }
}

impl WebConfig {
    pub fn read(section: &Section<'_>) -> Self {
        let mut config = Self::default();
        if let Some(enabled) = section.bool("enabled") {
            config.enabled = enabled;
        }
        if section.has("listen") {
            config.listen.clear();
            for text in section.texts("listen") {
                match text.parse() {
                    Ok(address) => config.listen.push(address),
                    Err(_) => section.problem(
                        "listen",
                        format!("{text:?} is no address with a port"),
                        "write addresses such as \"127.0.0.1:8080\", \"0.0.0.0:8443\" or \"[::]:8443\"",
                    ),
                }
            }
        }
        if let Some(tls) = section.bool("tls") {
            config.tls = tls;
        }
        for host in section.texts("hosts") {
            if host.is_empty() || host.contains(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':')))
            {
                let hint = "write a name or an address without scheme, port or path, such as \"gateway.plant.lan\"";
                section.problem("hosts", format!("{host:?} is no host name"), hint);
            } else {
                config.hosts.push(host.to_ascii_lowercase());
            }
        }
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::read::Document;

    #[test]
    fn what_is_written_counts_and_what_is_wrong_is_said() {
        let text = "listen = [\"0.0.0.0:8443\", \"nowhere\"]\nhosts = [\"Gateway.Plant.lan\", \"http://x\"]\n";
        let document = Document::parse("headgate.toml", text);
        let config = WebConfig::read(&document.root());
        assert_eq!(config.listen, ["0.0.0.0:8443".parse().expect("address")]);
        assert_eq!(config.hosts, ["gateway.plant.lan"]);
        let lines: Vec<usize> = document.into_problems().iter().map(|problem| problem.line).collect();
        assert_eq!(lines, [1, 2]);
    }
}
