//! `[identity]`: certificates and credentials of children.

use std::{path::PathBuf, time::Duration};

use super::read::Section;

const DAY: Duration = Duration::from_secs(86_400);

/// How children prove who they are, and what the gateway shows of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityConfig {
    /// Further names and addresses under which children reach this gateway; they go into the server certificate.
    pub names: Vec<String>,
    /// How long a child's certificate lives.
    pub certificate_lifetime: Duration,
    /// How long before its end a certificate counts as due for renewal.
    pub renewal_window: Duration,
    /// How long an enrolment code may be used.
    pub enrolment_code_lifetime: Duration,
    /// Which client ids an identity may use: its own only, or any that is no other identity's.
    pub any_client_id: bool,
    /// A server certificate chain of the user's own (PEM) instead of one from the gateway's authority.
    pub server_certificate: Option<PathBuf>,
    /// Its private key (PEM).
    pub server_key: Option<PathBuf>,
    /// Further authorities (PEM) whose client certificates are accepted beside the gateway's own.
    pub client_authorities: Option<PathBuf>,
}

impl Default for IdentityConfig {
    fn default() -> Self {
        Self {
            names: Vec::new(),
            certificate_lifetime: 90 * DAY,
            renewal_window: 30 * DAY,
            enrolment_code_lifetime: DAY,
            any_client_id: false,
            server_certificate: None,
            server_key: None,
            client_authorities: None,
        }
    }
}

impl IdentityConfig {
    pub fn read(section: &Section<'_>) -> Self {
        let d = Self::default();
        let config = Self {
            names: section.texts("names"),
            certificate_lifetime: section.duration("certificate_lifetime").unwrap_or(d.certificate_lifetime),
            renewal_window: section.duration("renewal_window").unwrap_or(d.renewal_window),
            enrolment_code_lifetime: section.duration("enrolment_code_lifetime").unwrap_or(d.enrolment_code_lifetime),
            any_client_id: section.choice("client_id", &[("own", false), ("any", true)]).unwrap_or(d.any_client_id),
            server_certificate: section.text("server_certificate").map(PathBuf::from),
            server_key: section.text("server_key").map(PathBuf::from),
            client_authorities: section.text("client_authorities").map(PathBuf::from),
        };
        if config.certificate_lifetime < DAY || config.certificate_lifetime > 825 * DAY {
            section.problem("certificate_lifetime", "is out of range", "give it one day to 825 days, such as \"90d\"");
        }
        if config.renewal_window >= config.certificate_lifetime {
            section.problem(
                "renewal_window",
                "is not shorter than certificate_lifetime",
                "a third of the lifetime is usual: \"30d\" for \"90d\"",
            );
        }
        if config.enrolment_code_lifetime > 7 * DAY || config.enrolment_code_lifetime.is_zero() {
            section.problem(
                "enrolment_code_lifetime",
                "is out of range",
                "give it at most seven days, such as \"24h\"",
            );
        }
        match (&config.server_certificate, &config.server_key) {
            (Some(_), None) => {
                section.problem("server_key", "is missing", "name the private key that belongs to server_certificate")
            }
            (None, Some(_)) => {
                section.problem("server_certificate", "is missing", "name the certificate that belongs to server_key")
            }
            _ => section.pair("server_certificate", "server_key"),
        }
        section.authorities("client_authorities");
        for name in &config.names {
            if name.is_empty() || name.len() > 253 || name.contains(|c: char| c.is_whitespace() || c == '/') {
                section.problem("names", format!("{name:?} is no host name or address"), "such as \"gw.plant.lan\"");
            }
        }
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::read::Document;

    fn read(text: &str) -> (IdentityConfig, Vec<String>) {
        let document = Document::parse("a.toml", text);
        let config = IdentityConfig::read(&document.root());
        (config, document.into_problems().iter().map(ToString::to_string).collect())
    }

    #[test]
    fn an_empty_section_is_the_default() {
        assert_eq!(read(""), (IdentityConfig::default(), vec![]));
    }

    #[test]
    fn a_certificate_without_its_key_is_a_problem() {
        let (_, problems) = read("server_certificate = \"a.pem\"\ncertificate_lifetime = \"2d\"\nclient_id = \"an\"\n");
        assert_eq!(problems.len(), 3, "{problems:#?}");
    }
}
