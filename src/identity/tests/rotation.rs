//! Renewal by the child itself, the change of the authority, what runs out, and the trace of logins.

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, SigningKey};

use super::{tls::*, *};
use crate::{
    bus::Events,
    clock,
    model::{alarm::CERTIFICATE_EXPIRY, event::Severity},
};

/// Certificates that fall due as soon as they are made: the window is nearly the whole life.
fn short() -> IdentityConfig {
    IdentityConfig {
        certificate_lifetime: std::time::Duration::from_secs(2 * 86_400),
        renewal_window: std::time::Duration::from_secs(2 * 86_400 - 1),
        ..IdentityConfig::default()
    }
}

fn request(key: &KeyPair) -> String {
    let params = CertificateParams::default();
    params.serialize_request(key).expect("request").pem().expect("pem")
}

/// A device whose share of the spread is small enough that a certificate of [`short`] is due within the test.
async fn due(home: &Home) -> (Issued, KeyPair) {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("key");
    for n in 0..1_000_000 {
        let name = format!("meter-{n}");
        if renewal::share(&name) < 1e-5 {
            let issued = home.identity.issue(&id(&name), Issue::Request(request(&key)), "test").await.expect("issue");
            let after = issued.renew_after.expect("it runs out");
            while clock::now() < after {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
            return (issued, key);
        }
    }
    panic!("no such name");
}

#[tokio::test]
async fn a_certificate_that_is_due_vouches_for_the_next_one() {
    let home = Home::with(short()).await;
    let (issued, key) = due(&home).await;
    let old = issued.certificate.as_deref().expect("certificate");
    let next = home.identity.renew(old, request(&key), None, None).await.expect("the same key");
    assert_ne!(next.id, issued.id);
    assert_eq!(next.device, issued.device);
    for attempt in 0..12 {
        let again = home.identity.renew(old, request(&key), None, None).await;
        assert!(again.is_ok(), "attempt {attempt}, as if each answer was lost: {:?}", again.err());
    }

    let other = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("key");
    let wish = request(&other);
    let without = home.identity.renew(old, wish.clone(), None, None).await.expect_err("no proof").to_string();
    assert!(without.contains("proof"), "{without}");
    let der = <rustls_pki_types::CertificateSigningRequestDer<'_> as rustls_pki_types::pem::PemObject>::from_pem_slice(
        wish.as_bytes(),
    )
    .expect("request");
    use base64::{Engine, prelude::BASE64_STANDARD};
    let forged = BASE64_STANDARD.encode(other.sign(&der).expect("signature"));
    assert!(home.identity.renew(old, wish.clone(), Some(&forged), None).await.is_err(), "signed by the new key");
    let proof = BASE64_STANDARD.encode(key.sign(&der).expect("signature"));
    home.identity.renew(old, wish, Some(&proof), None).await.expect("the old key vouches");
}

#[tokio::test]
async fn a_connection_renews_the_certificate_that_opened_it_so_often_and_no_other() {
    let home = Home::with(short()).await;
    let (issued, _) = due(&home).await;
    let mut principal = Principal {
        device: issued.device.clone(),
        groups: vec![],
        credential: issued.id.clone(),
        kind: CredentialKind::Certificate,
        expires: issued.expires,
    };
    let wish = || request(&KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("key"));
    for attempt in 0..20 {
        let next = home.identity.renew_connected(&principal, wish(), None).await;
        assert!(next.is_ok(), "attempt {attempt}: {:?}", next.err());
    }
    let often = home.identity.renew_connected(&principal, wish(), None).await.expect_err("too often");
    assert!(matches!(&often, IdentityError::Busy(text) if text.contains("ask again in")), "{often}");
    // What never runs out is not renewed, and says so.
    principal.device = id("meter-x");
    principal.kind = CredentialKind::Token;
    let token = home.identity.renew_connected(&principal, wish(), None).await.expect_err("a token").to_string();
    assert!(token.contains("opened with a token"), "{token}");
    assert!(home.identity.refusals().iter().any(|r| r.reason == "renewal" && r.device.as_deref() == Some("meter-x")));
}

#[tokio::test]
async fn a_certificate_that_is_not_due_revoked_or_foreign_vouches_for_nothing() {
    let home = Home::new().await;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("key");
    let issued = home.identity.issue(&id("meter-1"), Issue::Request(request(&key)), "test").await.expect("issue");
    let pem = issued.certificate.as_deref().expect("certificate");
    let early = home.identity.renew(pem, request(&key), None, None).await.expect_err("early").to_string();
    assert!(early.contains("not due yet"), "{early}");
    home.identity.revoke(&issued.id.0, "stolen", "test").await.expect("revoke");
    assert!(home.identity.renew(pem, request(&key), None, None).await.is_err(), "revoked");
    let own = CertificateParams::default().self_signed(&key).expect("certificate").pem();
    assert!(home.identity.renew(&own, request(&key), None, None).await.is_err(), "a stranger's");
    let refused = home.identity.refusals();
    assert!(refused.iter().any(|r| r.reason == "renewal"), "{refused:?}");
}

#[tokio::test]
async fn an_authority_is_changed_while_old_and_new_children_come_in() {
    let home = Home::new().await;
    let first = home.identity.authority();
    let old = certificate(&home, "meter-1").await;
    home.identity.rotate_authority("test").await.expect("rotate");
    let both = home.identity.authority();
    assert_eq!((both.retiring.as_ref(), both.fingerprint != first.fingerprint), (Some(&first.fingerprint), true));
    assert!(home.identity.rotate_authority("test").await.is_err(), "one change at a time");
    let new = certificate(&home, "meter-2").await;
    assert_eq!(new.authority.matches("BEGIN CERTIFICATE").count(), 2);
    // Children that know only the first authority still know the listeners.
    let home = home.restarted().await;
    for issued in [&old, &new] {
        let shaken = attempt_trusting(&home, &first.certificate, Some(proof(issued))).expect("handshake");
        assert_eq!(door(&home, &shaken, issued.device.as_str()).await.expect("admitted").device, issued.device);
    }
    // Revocation works for both.
    let gone = certificate(&home, "meter-3").await;
    home.identity.revoke(&gone.id.0, "stolen", "test").await.expect("revoke");
    assert!(attempt(&home, Some(proof(&gone))).err().expect("refused").contains("Revoked"));

    let refused = home.identity.retire_authority(false, "test").await.expect_err("meter-1 still needs it").to_string();
    assert!(refused.contains("meter-1") && !refused.contains("meter-2"), "{refused}");
    assert_eq!(home.identity.retire_authority(true, "test").await.expect("forced"), 1);
    assert_eq!((home.identity.authority().fingerprint, home.identity.authority().retiring), (both.fingerprint, None));
    assert!(attempt(&home, Some(proof(&old))).is_err(), "the old authority is trusted no longer");
    attempt(&home, Some(proof(&new))).expect("the new one is, and it signs the listeners");
    let home = home.restarted().await;
    attempt(&home, Some(proof(&new))).expect("after a restart");
    assert!(home.identity.retire_authority(false, "test").await.is_err(), "nothing is being retired");
}

#[tokio::test]
async fn what_runs_out_becomes_an_alarm_that_worsens_and_is_cleared() {
    let home = Home::with(short()).await;
    let events = Events::new();
    let issued = certificate(&home, "meter-1").await;
    let day = 86_400_000;
    let alarm = async || {
        let all = home.store.alarms().await.expect("alarms");
        all.into_iter().find(|a| a.kind == CERTIFICATE_EXPIRY && a.device == id("meter-1"))
    };
    home.identity.warn(&events, clock::now()).await;
    let major = alarm().await.expect("raised");
    assert_eq!((major.severity, major.active), (Severity::Major, true), "{}", major.text);
    home.identity.warn(&events, clock::now()).await;
    assert_eq!(alarm().await.expect("there").count, 1, "the same alarm is not raised twice");
    home.identity.revoke(&issued.id.0, "renewed by hand", "test").await.expect("revoke");
    home.identity.warn(&events, clock::now().plus(day)).await;
    assert!(!alarm().await.expect("there").active);
}

#[tokio::test]
async fn a_certificate_that_is_due_is_overdue_until_a_later_credential_is_there() {
    let home = Home::with(short()).await;
    certificate(&home, "meter-1").await;
    let shown = home.identity.credentials(Some(&id("meter-1"))).remove(0);
    let (due, expires) = (shown.renew_after.expect("due"), shown.expires.expect("it ends"));
    let overdue = |at| home.identity.overdue(at).remove(&id("meter-1"));
    assert_eq!(overdue(due.plus(-1)), None);
    assert_eq!(overdue(due).as_deref(), Some("the certificate is due and was not renewed"));
    assert_eq!(overdue(expires).as_deref(), Some("the certificate has run out and was not renewed"));
    home.identity.issue(&id("meter-1"), Issue::Token, "test").await.expect("one that does not end");
    assert_eq!(overdue(expires), None);
}

#[tokio::test]
async fn logins_leave_a_trace_and_a_token_in_the_wrong_place_does_not() {
    let home = Home::new().await;
    let issued = home.identity.issue(&id("meter-1"), Issue::Token, "test").await.expect("issue");
    let token = issued.token.expect("a token");
    home.identity.authenticate(login("meter-1", token.expose())).await.expect("admitted");
    home.identity.authenticate(login("meter-1", "wrong and wrong")).await.expect_err("refused");
    home.identity.authenticate(login(token.expose(), "x")).await.expect_err("refused");
    let refused = home.identity.refusals();
    assert_eq!(refused.len(), 2, "{refused:?}");
    assert!(refused.iter().any(|r| r.device.as_deref() == Some("meter-1") && r.reason == "bad-credentials"));
    let shown = format!("{refused:?}");
    assert!(!shown.contains(token.expose()), "a token is shown");
    assert_eq!(home.identity.logins().1, 1);
    home.store.audit(crate::store::audit::AuditEntry::done("test", "end", "")).await.expect("audit");
    let rows = home.store.audit_tail(10).await.expect("audit");
    let logins: Vec<_> = rows.iter().filter(|row| row.entry.what == "child.login").collect();
    assert_eq!(logins.iter().filter(|row| row.entry.ok).count(), 1, "{logins:?}");
    assert_eq!(logins.iter().filter(|row| !row.entry.ok).count(), 2, "{logins:?}");
    assert!(!format!("{rows:?}").contains(token.expose()), "a token lies in the audit");
}
