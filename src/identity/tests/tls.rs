//! Handshakes in memory against the listeners' configuration: who gets in, who does not, what a swap changes.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, SupportedProtocolVersion,
    version::{TLS12, TLS13},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, pem::PemObject};

use super::*;

pub type Proof = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

pub struct Shaken {
    client: ClientConnection,
    server: ServerConnection,
}

/// Runs a handshake to its end; the error is that of the side that gave up.
fn shake(client: Arc<ClientConfig>, server: Arc<ServerConfig>, name: &str) -> Result<Shaken, String> {
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let mut client = ClientConnection::new(client, name).map_err(|e| e.to_string())?;
    let mut server = ServerConnection::new(server).map_err(|e| e.to_string())?;
    for _ in 0..8 {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).expect("memory");
        }
        server.read_tls(&mut &*wire).expect("memory");
        server.process_new_packets().map_err(|e| format!("server: {e}"))?;
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).expect("memory");
        }
        client.read_tls(&mut &*wire).expect("memory");
        client.process_new_packets().map_err(|e| format!("client: {e}"))?;
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok(Shaken { client, server })
}

fn client(home: &Home, proof: Option<Proof>, versions: &[&'static SupportedProtocolVersion]) -> Arc<ClientConfig> {
    trusting(&home.identity.authority_pem(), proof, versions)
}

fn trusting(
    authority: &str,
    proof: Option<Proof>,
    versions: &[&'static SupportedProtocolVersion],
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authority.as_bytes()) {
        roots.add(certificate.expect("pem")).expect("root");
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .expect("versions")
        .with_root_certificates(roots);
    Arc::new(match proof {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).expect("proof"),
        None => builder.with_no_client_auth(),
    })
}

fn newest(home: &Home) -> Arc<ServerConfig> {
    home.identity.tls().watch().borrow().clone()
}

pub fn attempt(home: &Home, proof: Option<Proof>) -> Result<Shaken, String> {
    let tls13 = shake(client(home, proof.as_ref().map(copy), &[&TLS13]), newest(home), "localhost");
    let tls12 = shake(client(home, proof.as_ref().map(copy), &[&TLS12]), newest(home), "127.0.0.1");
    assert_eq!(tls12.is_ok(), tls13.is_ok(), "TLS 1.2 and 1.3 differ: {:?} {:?}", tls12.err(), tls13.err());
    tls13
}

/// With a client that trusts `authority` (PEM) alone.
pub fn attempt_trusting(home: &Home, authority: &str, proof: Option<Proof>) -> Result<Shaken, String> {
    shake(trusting(authority, proof, &[&TLS13]), newest(home), "localhost")
}

fn copy(proof: &Proof) -> Proof {
    (proof.0.clone(), proof.1.clone_key())
}

pub fn proof(issued: &Issued) -> Proof {
    let certificate = issued.certificate.as_deref().expect("a certificate");
    let key = issued.key.as_ref().expect("a key").expose();
    (
        vec![CertificateDer::from_pem_slice(certificate.as_bytes()).expect("pem")],
        PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("pem"),
    )
}

pub async fn certificate(home: &Home, device: &str) -> Issued {
    home.identity.issue(&id(device), Issue::Certificate, "test").await.expect("issue")
}

/// A login as the broker makes it out of a handshake.
pub async fn door(home: &Home, shaken: &Shaken, client_id: &str) -> Result<Principal, LoginRefused> {
    let certificates = shaken.server.peer_certificates();
    let login = Login { client_id, username: Some("?SDK=Python"), password: None, certificates, address: None };
    home.identity.authenticate(login).await
}

/// A certificate for `meter-1` made by hand, changed by `change`, signed by `issuer` (`None`: by itself).
fn forged(issuer: Option<&Issuer<'_, KeyPair>>, change: impl FnOnce(&mut CertificateParams)) -> Proof {
    let key = KeyPair::generate().expect("key");
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "meter-1");
    params.subject_alt_names = vec![SanType::URI("urn:headgate:device:meter-1".try_into().expect("uri"))];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let now = time::OffsetDateTime::from_unix_timestamp(clock::now().seconds()).expect("now");
    params.not_before = now - time::Duration::hours(1);
    params.not_after = now + time::Duration::days(1);
    change(&mut params);
    let certificate = match issuer {
        Some(issuer) => params.signed_by(&key, issuer),
        None => params.self_signed(&key),
    };
    let der = certificate.expect("signed").der().clone();
    (vec![der], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
}

/// The gateway's own authority, as a thief of its key would have it.
fn stolen(home: &Home) -> Issuer<'static, KeyPair> {
    let key = std::fs::read_to_string(home.folder.path().join("identity/ca.key")).expect("key");
    let key = KeyPair::from_pem(&key).expect("key");
    Issuer::from_ca_cert_pem(&home.identity.authority_pem(), key).expect("issuer")
}

#[tokio::test]
async fn a_child_with_our_certificate_comes_in_and_needs_no_password() {
    let home = Home::new().await;
    let issued = certificate(&home, "meter-1").await;
    let shaken = attempt(&home, Some(proof(&issued))).expect("handshake");
    let principal = door(&home, &shaken, "meter-1").await.expect("admitted");
    assert_eq!((principal.device, principal.kind), (id("meter-1"), CredentialKind::Certificate));
    assert_eq!(principal.expires, issued.expires);
    assert!(door(&home, &shaken, "meter-2").await.is_err(), "another's client id");
    let bare = attempt(&home, None).expect("without a certificate a token may follow");
    assert_eq!(bare.server.peer_certificates().map(<[_]>::len), None);
    assert_eq!(door(&home, &bare, "meter-1").await, Err(LoginRefused::NoCredentials));
}

#[tokio::test]
async fn a_request_gets_our_names_and_usages_whatever_it_asks_for() {
    let home = Home::new().await;
    let key = KeyPair::generate().expect("key");
    let mut wish = CertificateParams::new(vec!["evil.example".to_owned()]).expect("params");
    wish.distinguished_name.push(DnType::CommonName, "meter-2");
    wish.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let request = wish.serialize_request(&key).expect("request").pem().expect("pem");
    let issued = home.identity.issue(&id("meter-1"), Issue::Request(request), "test").await.expect("issue");
    assert!(issued.key.is_none(), "the key stays with the child");
    let pem = issued.certificate.expect("certificate");
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).expect("pem");
    let (_, parsed) = x509_parser::parse_x509_certificate(&der).expect("certificate");
    assert_eq!(certificate::read(&der).expect("read").device, Some(id("meter-1")));
    assert!(!parsed.is_ca() && certificate::names(&parsed).is_empty());
    let days = (parsed.validity().not_after.timestamp() - clock::now().seconds()) / 86_400;
    assert!((89..=90).contains(&days), "{days} days");
    let proof = (vec![der], PrivatePkcs8KeyDer::from(key.serialize_der()).into());
    let shaken = attempt(&home, Some(proof)).expect("handshake");
    assert_eq!(door(&home, &shaken, "meter-1").await.expect("admitted").device, id("meter-1"));
    let garbage = home.identity.issue(&id("meter-1"), Issue::Request("hello".into()), "test").await;
    assert!(garbage.expect_err("garbage").to_string().contains("CERTIFICATE REQUEST"));
}

#[tokio::test]
async fn certificates_of_others_expired_early_or_for_another_purpose_are_refused() {
    let home = Home::new().await;
    let ours = stolen(&home);
    assert!(attempt(&home, Some(forged(Some(&ours), |_| {}))).is_ok(), "the forgery itself is sound");
    let key = KeyPair::generate().expect("key");
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "Headgate CA gw-1");
    let foreign = Issuer::new(params, key);
    let day = time::Duration::days(1);
    let cases: [(&str, Proof); 6] = [
        ("wrong authority", forged(Some(&foreign), |_| {})),
        ("self-signed", forged(None, |_| {})),
        ("expired", forged(Some(&ours), |p| p.not_after = p.not_before + time::Duration::minutes(1))),
        ("not yet valid", forged(Some(&ours), |p| (p.not_before, p.not_after) = (p.not_after, p.not_after + day))),
        ("wrong usage", forged(Some(&ours), |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth])),
        ("an authority below ours", below(&ours)),
    ];
    for (what, proof) in cases {
        let refused = attempt(&home, Some(proof)).err();
        assert!(refused.is_some_and(|error| error.starts_with("server:")), "{what} was accepted");
    }
}

/// A leaf signed by an intermediate that our authority signed: its path length of 0 forbids it.
fn below(ours: &Issuer<'_, KeyPair>) -> Proof {
    let key = KeyPair::generate().expect("key");
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "between");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let between = params.signed_by(&key, ours).expect("signed").der().clone();
    let (mut chain, leaf) = forged(Some(&Issuer::new(params, key)), |_| {});
    chain.push(between);
    (chain, leaf)
}

#[tokio::test]
async fn a_certificate_that_our_key_signed_but_nobody_registered_opens_nothing() {
    let home = Home::new().await;
    let shaken = attempt(&home, Some(forged(Some(&stolen(&home)), |_| {}))).expect("the chain is right");
    let refused = door(&home, &shaken, "meter-1").await.expect_err("admitted");
    assert!(matches!(&refused, LoginRefused::UnknownCertificate { device: Some(d), .. } if *d == id("meter-1")));
    assert!(!refused.outside().contains("meter-1"), "the other side learns nothing about what is registered");
}

#[tokio::test]
async fn a_revoked_certificate_fails_the_next_handshake_and_the_open_connection() {
    let home = Home::new().await;
    let issued = certificate(&home, "meter-1").await;
    let other = certificate(&home, "meter-2").await;
    let open = attempt(&home, Some(proof(&issued))).expect("handshake");
    home.identity.revoke(&issued.id.0, "stolen", "test").await.expect("revoke");
    assert!(matches!(door(&home, &open, "meter-1").await, Err(LoginRefused::Revoked { .. })));
    let refused = attempt(&home, Some(proof(&issued))).err().expect("refused");
    assert!(refused.contains("Revoked"), "{refused}");
    assert!(attempt(&home, Some(proof(&other))).is_ok(), "others are not touched");
    let home = home.restarted().await;
    assert!(attempt(&home, Some(proof(&issued))).is_err(), "after a restart");
}

#[tokio::test]
async fn there_is_no_ticket_to_come_back_on() {
    let home = Home::new().await;
    let issued = certificate(&home, "meter-1").await;
    for version in [&TLS13, &TLS12] {
        let config = client(&home, Some(proof(&issued)), &[version]);
        for _ in 0..2 {
            let shaken = shake(config.clone(), newest(&home), "localhost").expect("handshake");
            assert_eq!(shaken.client.handshake_kind(), Some(rustls::HandshakeKind::Full), "{version:?}");
            assert_eq!(shaken.client.tls13_tickets_received(), 0);
        }
    }
}

#[tokio::test]
async fn the_server_is_known_by_its_names_and_survives_a_restart_unchanged() {
    let config = IdentityConfig { names: vec!["gw.plant.lan".into()], ..IdentityConfig::default() };
    let home = Home::with(config.clone()).await;
    for name in ["localhost", "127.0.0.1", "::1", "gw.plant.lan"] {
        shake(client(&home, None, &[&TLS13]), newest(&home), name).expect(name);
    }
    let wrong = shake(client(&home, None, &[&TLS13]), newest(&home), "other.plant.lan").err().expect("refused");
    assert!(wrong.starts_with("client:"), "{wrong}");
    let shown = || std::fs::read(home.folder.path().join("identity/server.pem")).expect("server.pem");
    let before = shown();
    home.identity.refresh_tls().expect("refresh");
    assert_eq!(shown(), before);
    let more = IdentityConfig { names: vec!["gw2.plant.lan".into()], ..config };
    home.identity.configure(&more).expect("configure");
    assert_ne!(shown(), before, "another name needs another certificate");
    shake(client(&home, None, &[&TLS13]), newest(&home), "gw2.plant.lan").expect("the new name");
}

#[tokio::test]
async fn a_certificate_of_the_users_own_is_shown_and_a_wrong_one_changes_nothing() {
    let home = Home::new().await;
    let ours = stolen(&home);
    let mut own = forged(Some(&ours), |p| {
        p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        p.subject_alt_names = vec![SanType::DnsName("door.example".try_into().expect("name"))];
    });
    let (certificate, key) = (home.folder.path().join("own.pem"), home.folder.path().join("own.key"));
    let write = |proof: &Proof| {
        std::fs::write(&certificate, pem("CERTIFICATE", &proof.0[0])).expect("write");
        std::fs::write(&key, pem("PRIVATE KEY", proof.1.secret_der())).expect("write");
    };
    write(&own);
    let config = IdentityConfig {
        server_certificate: Some(certificate.clone()),
        server_key: Some(key.clone()),
        ..IdentityConfig::default()
    };
    home.identity.configure(&config).expect("configure");
    shake(client(&home, None, &[&TLS13]), newest(&home), "door.example").expect("the user's certificate");
    let other = forged(Some(&ours), |_| {});
    own.1 = other.1;
    write(&own);
    let error = home.identity.refresh_tls().expect_err("a key that does not belong").to_string();
    assert!(error.contains("the key does not belong to the certificate"), "{error}");
    shake(client(&home, None, &[&TLS13]), newest(&home), "door.example").expect("the earlier pair stays");
    assert!(home.identity.expiring().iter().any(|e| e.text.starts_with("the server certificate")));
}

fn pem(label: &str, der: &[u8]) -> String {
    use base64::{Engine, prelude::BASE64_STANDARD};
    let text = BASE64_STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).expect("ASCII")).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

#[tokio::test]
async fn a_registered_certificate_of_another_authority_is_bound_to_its_child() {
    let home = Home::new().await;
    let key = KeyPair::generate().expect("key");
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "plant CA");
    let root = params.self_signed(&key).expect("root").pem();
    let plant = Issuer::new(params, key);
    let path = home.folder.path().join("plant.pem");
    std::fs::write(&path, root).expect("write");
    let config = IdentityConfig { client_authorities: Some(path), ..IdentityConfig::default() };
    home.identity.configure(&config).expect("configure");
    let theirs = forged(Some(&plant), |p| p.distinguished_name.push(DnType::CommonName, "SN-4711"));
    let shaken = attempt(&home, Some(copy(&theirs))).expect("handshake");
    let unknown = door(&home, &shaken, "press-1").await;
    assert!(matches!(unknown, Err(LoginRefused::UnknownCertificate { .. })), "nobody registered it yet: {unknown:?}");
    let text = pem("CERTIFICATE", &theirs.0[0]);
    let issued = home.identity.issue(&id("press-1"), Issue::Register(text.clone()), "test").await.expect("register");
    assert_eq!(door(&home, &shaken, "press-1").await.expect("admitted").device, id("press-1"));
    assert!(home.identity.issue(&id("press-2"), Issue::Register(text), "test").await.is_err(), "one child only");
    home.identity.revoke(&issued.id.0, "sold", "test").await.expect("revoke");
    assert!(door(&home, &shaken, "press-1").await.is_err());
}

#[tokio::test]
async fn keys_are_closed_and_a_lost_one_is_said() {
    use std::os::unix::fs::PermissionsExt;
    let home = Home::new().await;
    let inside = home.folder.path().join("identity");
    for name in ["ca.key", "server.key"] {
        let mode = std::fs::metadata(inside.join(name)).expect(name).permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    std::fs::remove_file(inside.join("ca.key")).expect("remove");
    let error = Identity::open(home.store.clone(), &IdentityConfig::default(), home.folder.path(), "gw-1").await;
    let error = error.err().expect("refused").to_string();
    assert!(error.contains("ca.key") && error.contains("backup"), "{error}");
}

#[test]
fn the_uplink_takes_its_authority_from_a_file_and_says_what_is_wrong_with_it() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("ca.pem");
    std::fs::write(&path, "nothing").expect("write");
    let error = crate::identity::tls::client_config(Some(&path), None).expect_err("accepted").to_string();
    assert!(error.contains("ca.pem"), "{error}");
    let key = KeyPair::generate().expect("key");
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    std::fs::write(&path, params.self_signed(&key).expect("root").pem()).expect("write");
    assert!(crate::identity::tls::client_config(Some(&path), None).is_ok());
}
