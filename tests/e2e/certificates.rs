//! Certificates at the real daemon's door: what is refused and how it is told, files that are swapped, authorities that
//! are changed, renewal by the child itself.

use std::{fs, path::Path};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use serde_json::json;
use time::{Duration, OffsetDateTime};

use super::{
    identity::{Door, Papers},
    peers::Heard,
    site::output,
};

fn now() -> OffsetDateTime {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    OffsetDateTime::from_unix_timestamp(since.as_secs().cast_signed()).expect("a date")
}

/// A certificate that says it is `valve-1`, changed by `change`, signed by `issuer` (or by itself).
fn forged(door: &Door, name: &str, issuer: Option<&Issuer<'_, KeyPair>>, change: fn(&mut CertificateParams)) -> Papers {
    let key = KeyPair::generate().expect("key");
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "valve-1");
    params.subject_alt_names = vec![SanType::URI("urn:headgate:device:valve-1".try_into().expect("URI"))];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let now = now();
    (params.not_before, params.not_after) = (now - Duration::days(1), now + Duration::days(1));
    change(&mut params);
    let made = match issuer {
        Some(issuer) => params.signed_by(&key, issuer),
        None => params.self_signed(&key),
    };
    let (certificate, path) = (door.pocket(&format!("{name}.pem")), door.pocket(&format!("{name}.key")));
    fs::write(&certificate, made.expect("signed").pem()).expect("written");
    fs::write(&path, key.serialize_pem()).expect("written");
    Papers { certificate, key: path, authority: door.pocket("authority.pem") }
}

/// The gateway's authority, as somebody would have it who stole its key.
fn stolen(door: &Door) -> Issuer<'static, KeyPair> {
    let inside = door.gateway.state_folder().join("identity");
    let read = |name: &str| fs::read_to_string(inside.join(name)).expect(name);
    Issuer::from_ca_cert_pem(&read("ca.pem"), KeyPair::from_pem(&read("ca.key")).expect("key")).expect("issuer")
}

#[test]
fn what_tls_refuses_is_refused_and_said() {
    let door = Door::open("");
    door.authority();
    let ours = stolen(&door);
    let mut foreign = CertificateParams::default();
    foreign.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    foreign.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let foreign = Issuer::new(foreign, KeyPair::generate().expect("key"));
    let cases: [(&str, Option<&Issuer<'_, KeyPair>>, fn(&mut CertificateParams)); 6] = [
        ("certificate-unknown-issuer", Some(&foreign), |_| {}),
        ("certificate-unknown-issuer", None, |_| {}),
        ("certificate-expired", Some(&ours), |p| p.not_after = now() - Duration::hours(1)),
        ("certificate-not-yet-valid", Some(&ours), |p| {
            (p.not_before, p.not_after) = (p.not_after - Duration::hours(1), p.not_after + Duration::days(9));
        }),
        ("certificate-wrong-usage", Some(&ours), |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
        ("certificate-unknown", Some(&ours), |_| {}),
    ];
    for (n, (reason, issuer, change)) in cases.into_iter().enumerate() {
        let papers = forged(&door, &format!("case-{n}"), issuer, change);
        let before = count(&door, reason);
        let (accepted, said) = papers.measures(door.tls, "valve-1", &[]);
        assert!(!accepted, "case {n}, {reason}, was accepted: {said}");
        door.gateway.eventually("the refusal is counted", |_| (count(&door, reason) == before + 1).then_some(()));
    }
    // People see it: in the list, on the first screen, in the log, with the name that the certificate bore.
    let list = door.credential(&["refused"]);
    assert!(list.contains("valve-1") && list.contains("127.0.0.1") && list.contains("expired"), "{list}");
    let screen = String::from_utf8(door.gateway.cli(&["status"]).stdout).expect("UTF-8");
    assert!(screen.contains("refused at the broker") && screen.contains("valve-1"), "{screen}");
    let logged = door.gateway.logged().join("\n");
    for word in ["UnknownIssuer", "expired", "not valid yet", "extended key usage", "not registered"] {
        assert!(logged.contains(word), "{word} is not in the log:\n{logged}");
    }
}

/// How often somebody was refused for `reason`, as Prometheus would read it.
fn count(door: &Door, reason: &str) -> u64 {
    let (_, metrics) = door.gateway.api("GET", "/v1/metrics", None);
    let text = metrics.as_str().expect("text").to_owned();
    let line = format!("headgate_logins_refused_total{{reason=\"{reason}\"}} ");
    text.lines().find_map(|found| found.strip_prefix(&line)).map_or(0, |n| n.parse().expect("a number"))
}

/// The serial number the listener shows.
fn shown(door: &Door) -> String {
    let to = format!("127.0.0.1:{}", door.tls);
    let handshake = output("timeout", &["10", "openssl", "s_client", "-connect", &to]);
    let path = door.pocket("shown.pem");
    fs::write(&path, handshake).expect("written");
    output("openssl", &["x509", "-noout", "-serial", "-in", &path.display().to_string()])
}

#[test]
fn a_certificate_on_disk_is_swapped_and_nobody_is_dropped() {
    let folder = tempfile::tempdir().expect("folder");
    let (pem, key) = (folder.path().join("door.pem"), folder.path().join("door.key"));
    let write = || {
        let pair = KeyPair::generate().expect("key");
        let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("params");
        // The key first: for a moment the two do not fit, which must not matter.
        fs::write(&key, pair.serialize_pem()).expect("written");
        fs::write(&pem, params.self_signed(&pair).expect("signed").pem()).expect("written");
    };
    write();
    let text = |path: &Path| path.display().to_string();
    let own = format!("server_certificate = \"{}\"\nserver_key = \"{}\"", text(&pem), text(&key));
    let door = Door::open(&own);
    let mut papers = door.certified("valve-1");
    papers.authority = folder.path().join("trusted.pem");
    fs::copy(&pem, &papers.authority).expect("copied");
    let arguments = papers.arguments();
    let mut login: Vec<&str> = arguments.iter().map(String::as_str).collect();
    login.extend(["-i", "valve-1/listener", "-h", "localhost"]);
    let heard = Heard::subscribe(door.tls, "devices/valve-1/delta", &login);
    let before = shown(&door);
    write();
    door.gateway.eventually("the new certificate is shown", |_| (shown(&door) != before).then_some(()));
    // The connection from before is the same one, and is served.
    let wish = json!({"desired": {"setpoint": 7}});
    let (code, answer) = door.gateway.api("PATCH", "/v1/devices/valve-1/shadow", Some(&wish));
    assert_eq!(code, 202, "{answer}");
    heard.expect("devices/valve-1/delta", |delta| delta["setpoint"] == 7);
    let connections = door.gateway.get("/v1/connections");
    let rows: Vec<_> = connections.as_array().expect("a list").iter().filter(|c| c["connected"] == true).collect();
    assert_eq!(rows.len(), 1, "{connections}");
    let (refused, _) = papers.measures(door.tls, "valve-1", &[]);
    assert!(!refused, "the old certificate is still shown");
    fs::copy(&pem, &papers.authority).expect("copied");
    let (done, said) = papers.measures(door.tls, "valve-1", &[]);
    assert!(done, "{said}");
}

#[test]
fn the_authority_changes_under_children_that_keep_coming_in() {
    // With so short a window everything of the old authority is due as soon as the change begins.
    let door = Door::open("renewal_window = \"1h\"");
    let (old, revoked) = (door.certified("valve-1"), door.certified("valve-2"));
    let renew = |papers: &Papers, request: &str| {
        let certificate = fs::read_to_string(&papers.certificate).expect("PEM");
        door.gateway.api("POST", "/v1/renew", Some(&json!({"certificate": certificate, "request": request})))
    };
    let (key, request) = (old.key.display().to_string(), door.pocket("next.csr").display().to_string());
    output("openssl", &["req", "-new", "-key", &key, "-out", &request, "-subj", "/CN=x"]);
    let request = fs::read_to_string(request).expect("request");
    let (code, early) = renew(&old, &request);
    assert!(code != 200 && early.to_string().contains("not due yet"), "{code} {early}");

    door.credential(&["authority", "--rotate"]);
    let new = door.certified("valve-3");
    door.credential(&["revoke", &door.newest("valve-2")]);
    assert!(old.measures(door.tls, "valve-1", &[]).0, "a child of the old authority, which knows only that");
    assert!(new.measures(door.tls, "valve-3", &[]).0, "a child of the new one");
    assert!(!revoked.measures(door.tls, "valve-2", &[]).0, "revoked under the old one");
    let list = door.credential(&["list", "valve-1"]);
    assert!(list.contains("due"), "{list}");
    let early = door.try_credential(&["authority", "--retire"]);
    assert!(String::from_utf8_lossy(&early.stderr).contains("valve-1"), "{early:?}");

    // The child renews by itself: the request is for the key it has, so it proves itself.
    let (code, issued) = renew(&old, &request);
    assert_eq!(code, 200, "{issued}");
    let next =
        Papers { certificate: door.pocket("next.pem"), key: old.key.clone(), authority: door.pocket("both.pem") };
    fs::write(&next.certificate, issued["certificate"].as_str().expect("PEM")).expect("written");
    fs::write(&next.authority, issued["authority"].as_str().expect("PEM")).expect("written");
    let (done, said) = next.measures(door.tls, "valve-1", &[]);
    assert!(done, "{said}");
    // Its first use has retired the one before.
    assert!(!old.measures(door.tls, "valve-1", &[]).0, "the replaced certificate still opens");

    door.credential(&["authority", "--retire"]);
    let (done, said) = next.measures(door.tls, "valve-1", &[]);
    assert!(done, "after the change: {said}");
    let audit = door.gateway.get("/v1/audit").to_string();
    assert!(audit.contains("authority.rotate") && audit.contains("authority.retire"), "{audit}");
}
