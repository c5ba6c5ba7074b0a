//! A handshake of a child that failed: what was found and what would be right, for people; a word, for counting.

use std::{fmt, io};

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible};
use rustls_pki_types::CertificateDer;

use super::certificate;
use crate::{
    clock,
    model::{ids::DeviceId, time::Millis},
};

/// Characters of a name in a stranger's certificate that are shown.
const NAME: usize = 80;
const RIGHT: &str = "expected one that this gateway has signed (headgate credential issue, or enrolment)";

/// A handshake of a child that failed.
#[derive(Debug)]
pub struct HandshakeRefused {
    /// The client certificate that was refused, as it says itself.
    pub(super) shown: Option<Shown>,
    pub(super) error: io::Error,
}

/// What a refused certificate says about itself.
#[derive(Debug, Default)]
pub(super) struct Shown {
    pub device: Option<DeviceId>,
    issuer: String,
    /// Its own issuer.
    self_signed: bool,
    /// An authority's (basic constraints).
    authority: bool,
    validity: Option<(Millis, Millis)>,
}

impl Shown {
    pub fn read(leaf: &CertificateDer<'_>) -> Shown {
        let device = certificate::read(leaf).ok().and_then(|presented| presented.device);
        let Ok((_, parsed)) = x509_parser::parse_x509_certificate(leaf) else {
            return Shown { device, ..Shown::default() };
        };
        let moment = |at: i64| Millis(at.saturating_mul(1000));
        let validity = parsed.validity();
        Shown {
            device,
            issuer: parsed.issuer().to_string().chars().take(NAME).collect(),
            self_signed: parsed.issuer().as_raw() == parsed.subject().as_raw(),
            authority: parsed.is_ca(),
            validity: Some((moment(validity.not_before.timestamp()), moment(validity.not_after.timestamp()))),
        }
    }
}

impl fmt::Display for HandshakeRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.tls(), self.error.kind()) {
            (Some(error), _) => self.say(f, error)?,
            (None, io::ErrorKind::UnexpectedEof) => f.write_str("the other side hung up")?,
            (None, _) => write!(f, "{}", self.error)?,
        }
        self.device().map_or(Ok(()), |device| write!(f, " (the certificate names {device})"))
    }
}

impl HandshakeRefused {
    /// Whose certificate it was, as that certificate says.
    pub fn device(&self) -> Option<&DeviceId> {
        self.shown.as_ref().and_then(|shown| shown.device.as_ref())
    }

    /// A word for counting.
    pub fn word(&self) -> &'static str {
        use CertificateError as C;
        let Some(error) = self.tls() else { return "handshake-broken" };
        match error {
            Error::InvalidCertificate(C::Revoked) => "certificate-revoked",
            Error::InvalidCertificate(_) if self.is(|shown| shown.self_signed) => "certificate-self-signed",
            Error::InvalidCertificate(error) => match error {
                C::Expired | C::ExpiredContext { .. } => "certificate-expired",
                C::NotValidYet | C::NotValidYetContext { .. } => "certificate-not-yet-valid",
                C::UnknownIssuer => "certificate-unknown-issuer",
                C::InvalidPurpose | C::InvalidPurposeContext { .. } => "certificate-wrong-usage",
                _ => "certificate-refused",
            },
            Error::InvalidMessage(InvalidMessage::InvalidContentType) => "not-tls",
            Error::PeerIncompatible(_) if too_old(error) => "tls-version",
            Error::PeerIncompatible(_) => "tls-nothing-in-common",
            Error::AlertReceived(alert) if distrust(*alert) => "gateway-not-trusted",
            _ => "handshake-refused",
        }
    }

    fn tls(&self) -> Option<&Error> {
        self.error.get_ref().and_then(|error| error.downcast_ref::<Error>())
    }

    fn is(&self, question: impl Fn(&Shown) -> bool) -> bool {
        self.shown.as_ref().is_some_and(question)
    }

    fn issuer(&self) -> &str {
        self.shown.as_ref().map_or("", |shown| &shown.issuer)
    }

    /// One sentence.
    fn say(&self, f: &mut fmt::Formatter<'_>, error: &Error) -> fmt::Result {
        match error {
            Error::InvalidCertificate(error) => self.say_certificate(f, error),
            Error::InvalidMessage(InvalidMessage::InvalidContentType) => f.write_str(
                "what came is no TLS, perhaps plain MQTT or HTTP: this port speaks TLS alone, and the client must be \
                 told so",
            ),
            error if too_old(error) => {
                f.write_str("the client offers nothing newer than TLS 1.1; at least TLS 1.2 is needed")
            }
            Error::PeerIncompatible(
                PeerIncompatible::NoSignatureSchemesInCommon
                | PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon,
            ) => f.write_str(
                "the client offers no signature algorithm for the kind of key that this gateway's certificate has \
                 (ECDSA with P-256, unless [identity] server_key names another)",
            ),
            Error::PeerIncompatible(_) => f.write_str(
                "client and gateway have no cipher suite and key exchange in common; accepted are TLS 1.3 with AES-GCM \
                 or ChaCha20-Poly1305, and in TLS 1.2 the same with ECDHE and the kind of key that this gateway's \
                 certificate has, over X25519, P-256 or P-384",
            ),
            Error::AlertReceived(alert) if distrust(*alert) => write!(
                f,
                "the client does not accept this gateway's certificate (alert {alert:?}): it needs the gateway's \
                 authority (headgate credential authority), the name it dials must be the gateway's own or stand in \
                 [identity] names, and its clock must be right"
            ),
            Error::AlertReceived(alert) => write!(f, "the client ended the handshake (alert {alert:?})"),
            other => write!(f, "{other}"),
        }
    }

    fn say_certificate(&self, f: &mut fmt::Formatter<'_>, error: &CertificateError) -> fmt::Result {
        use CertificateError as C;
        let (from, until) = self.shown.as_ref().and_then(|shown| shown.validity).unzip();
        match error {
            C::Revoked => f.write_str("the client certificate was revoked; the child must enrol again"),
            _ if self.is(|shown| shown.self_signed) => write!(f, "the client certificate is self-signed; {RIGHT}"),
            _ if self.is(|shown| shown.authority) => {
                write!(f, "the client certificate is an authority's (CA:TRUE), and no authority logs in; {RIGHT}")
            }
            C::Expired | C::ExpiredContext { .. } => write!(
                f,
                "the client certificate has expired: it ran out at {}, and it is {} here; give the child a new one \
                 (headgate credential issue, or enrolment)",
                date(until),
                date(Some(clock::now()))
            ),
            C::NotValidYet | C::NotValidYetContext { .. } => write!(
                f,
                "the client certificate is not valid yet: it begins at {}, and it is {} here; is the clock of this \
                 gateway right, and that of whoever signed?",
                date(from),
                date(Some(clock::now()))
            ),
            C::UnknownIssuer => write!(
                f,
                "no authority that is trusted here has signed the client certificate (it names {:?}); {RIGHT}, or its \
                 authority in [identity] client_authorities",
                self.issuer()
            ),
            C::InvalidPurpose | C::InvalidPurposeContext { .. } => write!(
                f,
                "the client certificate is not meant for clients: its extended key usage lacks clientAuth; {RIGHT}"
            ),
            C::BadEncoding => write!(f, "the client certificate cannot be read; {RIGHT}"),
            C::BadSignature => f.write_str(
                "a signature does not fit: the client does not hold the key of its certificate, or the certificate was \
                 altered",
            ),
            C::ExpiredRevocationList | C::ExpiredRevocationListContext { .. } => f.write_str(
                "this gateway's list of revoked certificates has run out, so that none can be judged; is its clock \
                 right?",
            ),
            // There is a list of revoked certificates for each authority of our own, and none for one below it.
            C::UnknownRevocationStatus => self.say_below(f),
            // webpki's word for it; its error has no type here
            C::Other(other) if other.to_string().contains("PathLenConstraintViolated") => self.say_below(f),
            other => write!(f, "the client certificate is not accepted: {other}; {RIGHT}"),
        }
    }

    fn say_below(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let issuer = self.issuer();
        write!(f, "the client certificate was signed by {issuer:?}, another authority below a trusted one; {RIGHT}")
    }
}

/// TLS 1.1 and older: they have no signature algorithms to offer (RFC 5246 section 7.4.1.4.1).
fn too_old(error: &Error) -> bool {
    use PeerIncompatible as P;
    let Error::PeerIncompatible(why) = error else { return false };
    matches!(
        why,
        P::Tls12NotOffered
            | P::Tls12NotOfferedOrEnabled
            | P::SupportedVersionsExtensionRequired
            | P::SignatureAlgorithmsExtensionRequired
    )
}

/// Alerts with which a client turns down a server's certificate.
fn distrust(alert: AlertDescription) -> bool {
    use AlertDescription as A;
    matches!(
        alert,
        A::UnknownCA
            | A::BadCertificate
            | A::UnsupportedCertificate
            | A::CertificateRevoked
            | A::CertificateExpired
            | A::CertificateUnknown
            | A::AccessDenied
    )
}

fn date(at: Option<Millis>) -> String {
    let stamp = at.and_then(|at| jiff::Timestamp::from_second(at.seconds()).ok());
    stamp.map_or_else(|| "an unknown time".into(), |stamp| stamp.to_string())
}
