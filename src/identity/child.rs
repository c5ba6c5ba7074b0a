//! What a child says at the door and what it is told: the values of a login, not the judging of it.

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

use crate::{
    model::{
        command::RefusalCode,
        device::{Lifecycle, Protocol},
        ids::DeviceId,
        time::Millis,
    },
    store::credentials::CredentialKind,
};

/// A login as it arrived. `certificates` are those the TLS verifier accepted, leaf first; `None` or empty without one.
#[derive(Clone, Copy)]
pub struct Login<'a> {
    pub client_id: &'a str,
    pub username: Option<&'a str>,
    pub password: Option<&'a [u8]>,
    pub certificates: Option<&'a [CertificateDer<'static>]>,
    pub address: Option<SocketAddr>,
}

impl fmt::Debug for Login<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login")
            .field("client_id", &self.client_id)
            .field("username", &self.username)
            .field("password", &self.password.map(|_| "***"))
            .field("certificates", &self.certificates.map(<[_]>::len))
            .field("address", &self.address)
            .finish()
    }
}

/// The public part of a credential: stands in lists, logs and audit rows.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CredentialId(pub Arc<str>);

impl fmt::Display for CredentialId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for CredentialId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

/// Who somebody turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    pub device: DeviceId,
    pub groups: Vec<String>,
    pub credential: CredentialId,
    pub kind: CredentialKind,
    /// When the credential runs out; the session must not outlive it.
    pub expires: Option<Millis>,
}

/// Why a login was refused. `Display` is for the log; [`LoginRefused::outside`] is for whoever stands at the door and
/// does not tell an unknown name from a wrong password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoginRefused {
    /// Neither a certificate nor a password was given.
    #[error("no credentials were given")]
    NoCredentials,
    /// None were given, and nobody may pass for this device without.
    #[error("no credentials were given, and {device} has some")]
    Unproved { device: DeviceId },
    /// No credentials were given, and the name belongs to something that never comes as a client.
    #[error("client id of {device}, which is {}", kind(*protocol))]
    NoClient { device: DeviceId, protocol: Protocol },
    /// Unknown name, wrong secret, or a certificate that is not this child's.
    #[error("bad credentials")]
    BadCredentials,
    /// A certificate that a trusted authority signed and that is registered for nobody.
    #[error("certificate {fingerprint} (says it is {}) is not registered", device.as_ref().map_or("nobody", DeviceId::as_str))]
    UnknownCertificate { device: Option<DeviceId>, fingerprint: String },
    /// The credential is right, but has run out.
    #[error("credential {credential} of {device} ran out")]
    Expired { device: DeviceId, credential: CredentialId },
    /// The credential was right once.
    #[error("credential {credential} of {device} was revoked")]
    Revoked { device: DeviceId, credential: CredentialId },
    /// The device may not talk; where there was a credential, it is right.
    #[error("device {device} is {lifecycle:?}")]
    NotActive { device: DeviceId, lifecycle: Lifecycle },
    /// The credential is right, the client id belongs to somebody else.
    #[error("client id {client_id:?} does not belong to {device}")]
    ClientId { device: DeviceId, client_id: String },
    /// Too many failures for this account or from this address.
    #[error("locked for another {retry_after:?} after repeated failures")]
    Locked { retry_after: Duration },
    /// The store did not answer.
    #[error("identity cannot be checked: {0}")]
    Unavailable(String),
}

impl LoginRefused {
    /// The message for the other side (an MQTT 5 reason string, an HTTP body).
    pub fn outside(&self) -> String {
        match self {
            Self::NoCredentials => "give a user name and password or token, or a client certificate".into(),
            Self::Unproved { device } => format!("{device} has credentials and must show them"),
            Self::NoClient { device, protocol } => {
                format!("{device} is {}; a client needs a client id of its own", kind(*protocol))
            }
            Self::BadCredentials => "bad user name or password".into(),
            Self::UnknownCertificate { .. } => "this certificate is not registered here".into(),
            Self::Expired { .. } => "the credential has run out; enrol again".into(),
            Self::Revoked { .. } => "the credential was revoked; enrol again".into(),
            Self::NotActive { lifecycle: Lifecycle::Pending, .. } => {
                "this device is pending: it may come in when somebody has approved it at the gateway".into()
            }
            Self::NotActive { lifecycle, .. } => format!("this device is {lifecycle:?}").to_lowercase(),
            Self::ClientId { device, .. } => {
                format!("the client id must be \"{device}\", or begin with \"{device}/\", or be empty")
            }
            Self::Locked { retry_after } => {
                format!("too many failed logins; try again in {} s", retry_after.as_secs().max(1))
            }
            Self::Unavailable(_) => "the gateway cannot check this login now; try again".into(),
        }
    }

    /// A word for counting.
    pub fn word(&self) -> &'static str {
        match self {
            Self::NoCredentials | Self::Unproved { .. } => "no-credentials",
            Self::BadCredentials => "bad-credentials",
            Self::UnknownCertificate { .. } => "certificate-unknown",
            Self::Expired { .. } => "expired",
            Self::Revoked { .. } => "revoked",
            Self::NotActive { .. } => "not-active",
            Self::ClientId { .. } | Self::NoClient { .. } => "client-id",
            Self::Locked { .. } => "locked",
            Self::Unavailable(_) => "unavailable",
        }
    }

    /// Whose login it was, or was said to be.
    pub(super) fn device(&self) -> Option<&DeviceId> {
        match self {
            Self::Unproved { device }
            | Self::NoClient { device, .. }
            | Self::Expired { device, .. }
            | Self::Revoked { device, .. }
            | Self::NotActive { device, .. }
            | Self::ClientId { device, .. } => Some(device),
            Self::UnknownCertificate { device, .. } => device.as_ref(),
            _ => None,
        }
    }

    /// The house's code for it.
    pub fn code(&self) -> RefusalCode {
        match self {
            Self::Locked { .. } => RefusalCode::Busy,
            Self::Unavailable(_) => RefusalCode::StoreUnavailable,
            _ => RefusalCode::NotAuthorized,
        }
    }
}

fn kind(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Gateway => "the gateway itself",
        Protocol::Mqtt => "an MQTT device",
        Protocol::Modbus => "a Modbus device, and speaks no MQTT",
        Protocol::Coap => "a CoAP device, and speaks no MQTT",
    }
}
