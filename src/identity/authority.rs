//! The gateway as certificate authority of its children: its key, the leaves it signs, the list of those it revoked.
//! A pure signer: it is told the time and keeps no list of what it signed.

use std::{path::Path, sync::Arc, time::Duration};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    PublicKeyData, RevocationReason, RevokedCertParams, SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, pem::PemObject};
use time::OffsetDateTime;

use super::{
    files::{self, FileError},
    request::Request,
    secret::{Secret, random, sha256},
};
use crate::model::{ids::DeviceId, time::Millis};

const DAY: i64 = 86_400_000;
/// How long the authority itself lives.
const AUTHORITY_DAYS: i64 = 3650;
/// How long a server certificate lives: the most that common clients accept.
pub(super) const SERVER_DAYS: i64 = 397;
/// Certificates begin this much before now, for children whose clocks are slow.
pub(super) const BEFORE: i64 = 3_600_000;
/// How long a revocation list is good for.
pub(super) const LIST_DAYS: i64 = 7;
/// No certificate begins before this (2026-01-01): a machine without a clock battery may start in 1970.
pub(super) const EARLIEST: Millis = Millis(1_767_225_600_000);

/// What went wrong while making or reading certificates.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("certificate: {0}")]
    Sign(#[from] rcgen::Error),
    #[error("the certificate signing request: {0}")]
    Request(String),
}

/// A signed certificate.
pub(super) struct Leaf {
    pub der: CertificateDer<'static>,
    pub pem: String,
    pub serial: Vec<u8>,
    pub expires: Millis,
}

/// The authority's key and certificate.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub certificate: CertificateDer<'static>,
    pub pem: String,
    /// Tells the gateway's authorities apart; stands beside what it signed.
    pub id: Arc<str>,
    /// When it was made, to the hour; the first one says the earliest date there is.
    pub begun: Millis,
    pub expires: Millis,
}

impl Authority {
    /// Reads `<stem>.pem` and `<stem>.key` from `folder`, or makes them where both are missing; `begun` is the date of a
    /// new one. `name` tells gateways apart.
    pub fn open(
        folder: &Path,
        stem: &str,
        name: &str,
        begun: Millis,
        now: Millis,
    ) -> Result<Authority, AuthorityError> {
        let (certificate_path, key_path) = (folder.join(format!("{stem}.pem")), folder.join(format!("{stem}.key")));
        let (pem, key) = match (files::read_text(&certificate_path)?, files::read_text(&key_path)?) {
            (Some(pem), Some(key)) => (pem, Secret::new(key)),
            (Some(_), None) => {
                let expected = "the key of the certificate beside it: restore it from a backup, or remove ca.pem too \
                                to begin a new authority (every child needs a new certificate then)";
                return Err(FileError::content(&key_path, "nothing", expected).into());
            }
            // The key is written first: without its certificate nothing was ever signed with it.
            (None, _) => {
                let (pem, key) = make(name, begun, now)?;
                files::write_private(&key_path, key.expose().as_bytes())?;
                files::write_public(&certificate_path, pem.as_bytes())?;
                tracing::info!(path = %certificate_path.display(), "made the gateway's own certificate authority");
                (pem, key)
            }
        };
        let unread = |error: &dyn std::fmt::Display| {
            FileError::content(&certificate_path, error, "the authority's certificate in PEM")
        };
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|e| unread(&e))?;
        let pair = KeyPair::from_pem(key.expose())
            .map_err(|e| FileError::content(&key_path, e, "the authority's private key in PEM"))?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).map_err(|e| unread(&e))?;
        if parsed.public_key().raw != pair.subject_public_key_info() {
            let expected = "the key that belongs to ca.pem";
            return Err(FileError::content(&key_path, "another key", expected).into());
        }
        let begun = Millis(parsed.validity().not_before.timestamp().saturating_mul(1000));
        let expires = Millis(parsed.validity().not_after.timestamp().saturating_mul(1000));
        let issuer = Issuer::from_ca_cert_der(&certificate, pair)?;
        let id = hex::encode(&sha256(&certificate)[..8]).into();
        Ok(Authority { issuer, certificate, pem, id, begun, expires })
    }

    /// A certificate with which `device` proves itself, for the key in a signing request (PEM). Whatever else the
    /// request asks for is not given.
    pub fn sign_request(
        &self,
        request: &str,
        device: &DeviceId,
        now: Millis,
        life: Duration,
    ) -> Result<Leaf, AuthorityError> {
        let key = Request::read(request)?.key()?;
        self.sign(child(device), &key, now, i64::try_from(life.as_millis()).unwrap_or(i64::MAX))
    }

    /// A certificate for `device` with a key made here: the certificate and the key's PEM.
    pub fn make_child(&self, device: &DeviceId, now: Millis, life: Duration) -> Result<(Leaf, Secret), AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let life = i64::try_from(life.as_millis()).unwrap_or(i64::MAX);
        Ok((self.sign(child(device), &key, now, life)?, Secret::new(key.serialize_pem())))
    }

    /// A certificate for this gateway's own listeners: the certificate and the key's PEM.
    pub fn make_server<'n>(
        &self,
        names: impl IntoIterator<Item = &'n String>,
        now: Millis,
    ) -> Result<(Leaf, Secret), AuthorityError> {
        let names: Vec<String> = names.into_iter().cloned().collect();
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = common_name("Headgate gateway");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        Ok((self.sign(params, &key, now, SERVER_DAYS * DAY)?, Secret::new(key.serialize_pem())))
    }

    /// The list of revoked certificates (serial, when), good for [`LIST_DAYS`].
    pub fn revocation_list(
        &self,
        revoked: &[(Vec<u8>, Millis)],
        now: Millis,
    ) -> Result<CertificateRevocationListDer<'static>, AuthorityError> {
        let one = |(serial, at): &(Vec<u8>, Millis)| RevokedCertParams {
            serial_number: SerialNumber::from_slice(serial),
            revocation_time: date(*at),
            reason_code: Some(RevocationReason::Unspecified),
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date(now.plus(-BEFORE)),
            next_update: date(now.plus(LIST_DAYS * DAY)),
            crl_number: SerialNumber::from_slice(&now.0.max(1).to_be_bytes()),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(one).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(params.signed_by(&self.issuer)?.der().clone())
    }

    fn sign(
        &self,
        mut params: CertificateParams,
        key: &impl PublicKeyData,
        now: Millis,
        life: i64,
    ) -> Result<Leaf, AuthorityError> {
        let now = now.max(EARLIEST);
        // 126 random bits, positive and never zero (RFC 5280 section 4.1.2.2).
        let mut serial = random::<16>();
        serial[0] = serial[0] & 0x7f | 0x40;
        // Nothing outlives the one that signed it.
        let expires = now.plus(life).min(self.expires);
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.not_before = date(now.plus(-BEFORE));
        params.not_after = date(expires);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(key, &self.issuer)?;
        Ok(Leaf {
            der: certificate.der().clone(),
            pem: certificate.pem(),
            serial: serial.to_vec(),
            // Certificates count in seconds.
            expires: Millis(expires.seconds() * 1000),
        })
    }
}

/// What a child's certificate says about it: RFC 5280 leaves the form of the name to us, the URI is what we read back.
fn child(device: &DeviceId) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(device.as_str());
    let uri = super::certificate::uri(device).try_into().expect("a device id is ASCII");
    params.subject_alt_names = vec![SanType::URI(uri)];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

fn make(name: &str, begun: Millis, now: Millis) -> Result<(String, Secret), AuthorityError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let now = now.max(EARLIEST);
    let mut params = CertificateParams::default();
    // Unique, so that a child that trusts two gateways can tell their authorities apart.
    params.distinguished_name = common_name(&format!("Headgate CA {name} {}", hex::encode(random::<4>())));
    params.not_before = date(begun.max(EARLIEST));
    params.not_after = date(now.plus(AUTHORITY_DAYS * DAY));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let mut serial = random::<16>();
    serial[0] = serial[0] & 0x7f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok((params.self_signed(&key)?.pem(), Secret::new(key.serialize_pem())))
}

fn common_name(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    // 64 characters at most (RFC 5280, ub-common-name).
    names.push(DnType::CommonName, name.chars().take(64).collect::<String>());
    names
}

fn date(at: Millis) -> OffsetDateTime {
    // Certificates know no year after 9999.
    OffsetDateTime::from_unix_timestamp(at.seconds().clamp(0, 253_402_300_799)).expect("clamped to what it can hold")
}
