//! What a client certificate says: whose it is, and for how long. The TLS verifier has already judged its chain.

use std::{collections::BTreeSet, net::IpAddr};

use rustls_pki_types::{CertificateDer, pem::PemObject};
use x509_parser::{extensions::GeneralName, prelude::X509Certificate};

use super::secret::sha256;
use crate::model::{ids::DeviceId, time::Millis};

/// What a child's URI begins with.
const URI: &str = "urn:headgate:device:";

/// The URI under which a certificate names `device` (subject alternative name).
pub(super) fn uri(device: &DeviceId) -> String {
    format!("{URI}{device}")
}

/// A certificate as the registry of credentials sees it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Presented {
    pub fingerprint: [u8; 32],
    /// From our URI, otherwise from the common name; `None` where neither is a device id.
    pub device: Option<DeviceId>,
    pub expires: Millis,
}

/// Reads a certificate in DER.
pub(super) fn read(der: &CertificateDer<'_>) -> Result<Presented, String> {
    let (rest, certificate) = x509_parser::parse_x509_certificate(der).map_err(|e| e.to_string())?;
    if !rest.is_empty() {
        return Err("bytes follow the certificate".into());
    }
    let validity = certificate.validity();
    Ok(Presented {
        fingerprint: sha256(der),
        device: device(&certificate),
        expires: Millis(validity.not_after.timestamp().saturating_mul(1000)),
    })
}

fn device(certificate: &X509Certificate<'_>) -> Option<DeviceId> {
    let names = certificate.subject_alternative_name().ok().flatten();
    let mut ours = names.iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
        GeneralName::URI(text) => text.strip_prefix(URI),
        _ => None,
    });
    let text = match (ours.next(), ours.next()) {
        (Some(one), None) => one,
        // Two names are no identity.
        (Some(_), Some(_)) => return None,
        (None, _) => certificate.subject().iter_common_name().next()?.as_str().ok()?,
    };
    DeviceId::new(text).ok()
}

/// Reads the first certificate of a PEM text, and gives it back without what surrounds it.
pub(super) fn read_pem(text: &str) -> Result<(Presented, String), String> {
    const EXPECTED: &str = "expected a certificate in PEM (-----BEGIN CERTIFICATE-----)";
    let der = CertificateDer::from_pem_slice(text.as_bytes())
        .map_err(|_| format!("there is none in it, or it is damaged; {EXPECTED}"))?;
    let begin = text.find("-----BEGIN CERTIFICATE-----").ok_or(EXPECTED)?;
    const END: &str = "-----END CERTIFICATE-----";
    let end = text[begin..].find(END).ok_or(EXPECTED)? + begin + END.len();
    Ok((read(&der)?, format!("{}\n", &text[begin..end])))
}

/// The host names and addresses of a server certificate.
pub(super) fn names(certificate: &X509Certificate<'_>) -> BTreeSet<String> {
    let names = certificate.subject_alternative_name().ok().flatten();
    let one = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|b| IpAddr::from(b).to_string()),
            16 => <[u8; 16]>::try_from(*bytes).ok().map(|b| IpAddr::from(b).to_string()),
            _ => None,
        },
        _ => None,
    };
    names.iter().flat_map(|names| &names.value.general_names).filter_map(one).collect()
}
