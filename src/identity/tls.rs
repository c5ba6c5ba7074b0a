//! TLS ends: the listeners' side, swapped without dropping anyone, and the uplink's side.
//!
//! One provider (aws-lc-rs), TLS 1.3 and 1.2 only. On listeners that ask for client certificates there is no session
//! resumption: a ticket would let a revoked child back in (RFC 8446 section 2.2).

use std::{cell::RefCell, fmt, path::Path, sync::Arc};

use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, aws_lc_rs},
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger},
    version::{TLS12, TLS13},
};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{
    files::{self, FileError},
    handshake::{HandshakeRefused, Shown},
};

/// Why a TLS end cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{what}: {error}")]
    Refused { what: &'static str, error: String },
    #[error(
        "this machine has no trusted certificate authorities ({0}); install the package ca-certificates or name the \
         broker's authority in the configuration"
    )]
    NoRoots(String),
}

/// Makes aws-lc-rs the provider of everything in this process that does not name one. Call it once, before anything
/// speaks TLS; calling it again does nothing.
pub fn install_provider() {
    let _ = aws_lc_rs::default_provider().install_default();
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// The listeners' configurations, always the newest. Borrow one for each accepted connection: a new certificate or
/// revocation list counts from the next handshake on, and nobody who is connected notices.
#[derive(Clone)]
pub struct Server {
    asking: watch::Receiver<Arc<ServerConfig>>,
    silent: watch::Receiver<Arc<ServerConfig>>,
}

impl Server {
    /// For children: asks for a client certificate, judges it if there is one, and accepts who has none (a token or
    /// password must follow).
    pub fn watch(&self) -> watch::Receiver<Arc<ServerConfig>> {
        self.asking.clone()
    }

    /// For browsers: does not ask for a client certificate.
    pub fn watch_without_client_certificates(&self) -> watch::Receiver<Arc<ServerConfig>> {
        self.silent.clone()
    }
}

/// What the listeners show and trust.
pub(super) struct Material {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
    /// Our own authorities, each with its list of revoked certificates.
    pub ours: Vec<(CertificateDer<'static>, CertificateRevocationListDer<'static>)>,
    /// Other authorities whose certificates are accepted; the registry of credentials alone says which still count.
    pub others: Vec<CertificateDer<'static>>,
}

/// The end that swaps.
pub(super) struct Swap {
    asking: watch::Sender<Arc<ServerConfig>>,
    silent: watch::Sender<Arc<ServerConfig>>,
}

impl Swap {
    pub fn new(material: &Material) -> Result<Swap, TlsError> {
        let (asking, silent) = configs(material)?;
        Ok(Swap { asking: watch::channel(asking).0, silent: watch::channel(silent).0 })
    }

    /// Replaces what new connections get; on an error everything stays as it was.
    pub fn replace(&self, material: &Material) -> Result<(), TlsError> {
        let (asking, silent) = configs(material)?;
        self.asking.send_replace(asking);
        self.silent.send_replace(silent);
        Ok(())
    }

    pub fn server(&self) -> Server {
        Server { asking: self.asking.subscribe(), silent: self.silent.subscribe() }
    }
}

fn configs(material: &Material) -> Result<(Arc<ServerConfig>, Arc<ServerConfig>), TlsError> {
    let refused = |what| move |error: &dyn fmt::Display| TlsError::Refused { what, error: error.to_string() };
    let mut roots = RootCertStore::empty();
    for certificate in material.ours.iter().map(|(certificate, _)| certificate).chain(&material.others) {
        roots.add(certificate.clone()).map_err(|e| refused("authority for client certificates")(&e))?;
    }
    let mut verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider())
        .with_crls(material.ours.iter().map(|(_, list)| list.clone()))
        .only_check_end_entity_revocation()
        .enforce_revocation_expiration()
        .allow_unauthenticated();
    if !material.others.is_empty() {
        verifier = verifier.allow_unknown_revocation_status();
    }
    let verifier = verifier.build().map_err(|e| refused("client certificates")(&e))?;
    let builder = || {
        ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(|e| refused("TLS versions")(&e))
    };
    let (chain, key) = (&material.chain, &material.key);
    let mut asking = builder()?
        .with_client_cert_verifier(Arc::new(Naming(verifier)))
        .with_single_cert(chain.clone(), key.clone_key())
        .map_err(unfit)?;
    asking.session_storage = Arc::new(NoServerSessionStorage {});
    asking.send_tls13_tickets = 0;
    let silent = builder()?.with_no_client_auth().with_single_cert(chain.clone(), key.clone_key()).map_err(unfit)?;
    Ok((Arc::new(asking), Arc::new(silent)))
}

fn unfit(error: rustls::Error) -> TlsError {
    let error = match error {
        rustls::Error::InconsistentKeys(_) => "the key does not belong to the certificate".to_owned(),
        other => other.to_string(),
    };
    TlsError::Refused { what: "server certificate and key", error }
}

tokio::task_local! {
    /// The certificate that was refused in the handshake this task waits for.
    static SHOWN: RefCell<Option<Shown>>;
}

/// The listener's side of a handshake with a child.
pub async fn accept<S>(config: Arc<ServerConfig>, stream: S) -> Result<TlsStream<S>, HandshakeRefused>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let shake = async {
        let told = |error| HandshakeRefused { shown: SHOWN.with(RefCell::take), error };
        TlsAcceptor::from(config).accept(stream).await.map_err(told)
    };
    SHOWN.scope(RefCell::default(), shake).await
}

/// The verifier of client certificates, which remembers the certificate it refused.
#[derive(Debug)]
struct Naming(Arc<dyn danger::ClientCertVerifier>);

impl danger::ClientCertVerifier for Naming {
    fn offer_client_auth(&self) -> bool {
        self.0.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.0.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<danger::ClientCertVerified, rustls::Error> {
        self.0.verify_client_cert(leaf, chain, now).inspect_err(|_| {
            // Outside of `accept` nobody asks.
            let _ = SHOWN.try_with(|cell| cell.replace(Some(Shown::read(leaf))));
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// The client's side, for the road to the cloud and for downloads: the server's chain and name are always verified,
/// against the authorities in `authority` (PEM) alone where given, otherwise against those of the system.
/// `certificate` is the chain and key (PEM) with which the gateway proves itself.
pub fn client_config(
    authority: Option<&Path>,
    certificate: Option<(&Path, &Path)>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let refused = |what| move |error: rustls::Error| TlsError::Refused { what, error: error.to_string() };
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(refused("TLS versions"))?
        .with_root_certificates(roots(authority)?);
    let config = match certificate {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => builder
            .with_client_auth_cert(files::read_certificates(chain)?, files::read_key(key)?)
            .map_err(refused("client certificate and key"))?,
    };
    Ok(Arc::new(config))
}

fn roots(authority: Option<&Path>) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    match authority {
        Some(path) => {
            for certificate in files::read_certificates(path)? {
                roots.add(certificate).map_err(|error| {
                    FileError::content(path, error, "certificates of authorities that may sign servers")
                })?;
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
            if roots.is_empty() {
                let errors: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
                return Err(TlsError::NoRoots(errors.join("; ")));
            }
        }
    }
    Ok(roots)
}
