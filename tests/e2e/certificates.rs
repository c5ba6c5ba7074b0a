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
    identity::{Door, Papers, measures, says},
    peers::{Heard, publish_lines},
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
    let between = between(&ours);
    let below = Issuer::new(between.0, between.1);
    let authority: fn(&mut CertificateParams) = |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let server: fn(&mut CertificateParams) = |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let cases: [(&str, &str, Option<&Issuer<'_, KeyPair>>, fn(&mut CertificateParams)); 9] = [
        ("certificate-unknown-issuer", "no authority that is trusted here has signed", Some(&foreign), |_| {}),
        ("certificate-self-signed", "self-signed; expected one that this gateway has signed", None, |_| {}),
        ("certificate-self-signed", "self-signed; expected one that this gateway has signed", None, authority),
        ("certificate-refused", "is an authority's (CA:TRUE), and no authority logs in", Some(&ours), authority),
        ("certificate-expired", "has expired: it ran out at 20", Some(&ours), |p| {
            p.not_after = now() - Duration::hours(1);
        }),
        ("certificate-not-yet-valid", "is not valid yet: it begins at 20", Some(&ours), |p| {
            (p.not_before, p.not_after) = (p.not_after - Duration::hours(1), p.not_after + Duration::days(9));
        }),
        ("certificate-wrong-usage", "its extended key usage lacks clientAuth", Some(&ours), server),
        ("certificate-refused", "signed by \"CN=between\", another authority below", Some(&below), |_| {}),
        ("certificate-unknown", "is not registered", Some(&ours), |_| {}),
    ];
    for (n, (reason, words, issuer, change)) in cases.into_iter().enumerate() {
        let papers = forged(&door, &format!("case-{n}"), issuer, change);
        if issuer.is_some_and(|issuer| std::ptr::eq(issuer, &raw const below)) {
            let chain = fs::read_to_string(&papers.certificate).expect("PEM") + &between.2;
            fs::write(&papers.certificate, chain).expect("written");
        }
        let before = count(&door, reason);
        let (accepted, said) = papers.measures(door.tls, "valve-1", &[]);
        assert!(!accepted, "case {n}, {reason}, was accepted: {said}");
        door.gateway.eventually("the refusal is counted", |_| (count(&door, reason) == before + 1).then_some(()));
        told(&door, words);
    }
    // People see it: in the list, on the first screen, in the log, with the name that the certificate bore.
    let list = door.credential(&["refused"]);
    assert!(list.contains("valve-1") && list.contains("127.0.0.1") && list.contains("expired"), "{list}");
    let screen = String::from_utf8(door.gateway.cli(&["status"]).stdout).expect("UTF-8");
    assert!(screen.contains("refused at the door") && screen.contains("valve-1"), "{screen}");
    let logged = door.gateway.logged().join("\n");
    for word in ["self-signed", "expired", "not valid yet", "extended key usage", "not registered"] {
        assert!(logged.contains(word), "{word} is not in the log:\n{logged}");
    }
}

/// An authority below `ours`, which allows none: what it is, its key, and its certificate in PEM.
fn between(ours: &Issuer<'_, KeyPair>) -> (CertificateParams, KeyPair, String) {
    let key = KeyPair::generate().expect("key");
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "between");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let pem = params.signed_by(&key, ours).expect("signed").pem();
    (params, key, pem)
}

/// Waits until the list of those who were refused holds these words.
fn told(door: &Door, words: &str) {
    door.gateway.eventually(words, |gateway| {
        let list = gateway.get("/v1/credentials/refused");
        let texts = list.as_array().expect("a list").iter().filter_map(|refused| refused["text"].as_str());
        texts.into_iter().any(|text| text.contains(words)).then_some(())
    });
}

#[test]
fn a_handshake_that_cannot_be_says_what_came_and_what_would_be_right() {
    let door = Door::open("");
    let (tls, plain) = (format!("127.0.0.1:{}", door.tls), format!("127.0.0.1:{}", door.tcp));
    let shakes = |to: &str, arguments: &[&str]| {
        output("timeout", &[&["10", "openssl", "s_client", "-connect", to], arguments].concat());
    };
    for (words, arguments) in [
        ("nothing newer than TLS 1.1", &["-tls1", "-cipher", "ALL:@SECLEVEL=0"][..]),
        ("nothing newer than TLS 1.1", &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"]),
        ("no cipher suite and key exchange in common", &["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"]),
        ("no cipher suite and key exchange in common", &["-tls1_3", "-groups", "P-521"]),
        ("no signature algorithm for the kind of key", &["-tls1_3", "-sigalgs", "RSA-PSS+SHA256"]),
        ("does not accept this gateway's certificate (alert UnknownCA)", &["-verify_return_error"]),
    ] {
        shakes(&tls, arguments);
        told(&door, words);
    }
    measures(door.tls, "valve-1", &["-i", "valve-1"]);
    told(&door, "what came is no TLS, perhaps plain MQTT or HTTP");
    shakes(&plain, &[]);
    told(&door, "what came is a TLS handshake, and this port speaks plain MQTT");
    let authority = door.authority().display().to_string();
    let (done, said) = measures(door.tls, "valve-1", &["-i", "valve-1", "--cafile", &authority, "-V", "5"]);
    assert!(!done, "without a certificate and without anything else: {said}");
    told(&door, "no credentials were given");
    let papers = door.certified("valve-2");
    door.credential(&["revoke", &door.newest("valve-2")]);
    papers.measures(door.tls, "valve-2", &[]);
    told(&door, "the client certificate was revoked; the child must enrol again (the certificate names valve-2)");
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

#[test]
fn a_child_renews_over_its_own_connection_and_nobody_else_does_it_for_it() {
    // With so short a window everything of the old authority is due as soon as a change of it begins.
    let door = Door::open("renewal_window = \"1h\"");
    let old = door.certified("valve-1");
    let (ask, accepted, rejected) = (
        "devices/valve-1/credential/renew",
        "devices/valve-1/credential/renew/accepted",
        "devices/valve-1/credential/renew/rejected",
    );
    let login = old.arguments();
    let login: Vec<&str> = login.iter().map(String::as_str).collect();
    let asks = |payload: &str| says(door.tls, ask, payload, &[&login[..], &["-i", "valve-1/asks", "-V", "5"]].concat());
    let heard = Heard::subscribe(
        door.tls,
        "devices/valve-1/credential/renew/+",
        &[&login[..], &["-i", "valve-1/hears", "-h", "localhost"]].concat(),
    );
    let request = |name: &str, kind: &[&str]| {
        let (key, request) = (door.pocket(&format!("{name}.key")), door.pocket(&format!("{name}.csr")));
        let made = ["req", "-new", "-nodes", "-subj", "/CN=valve-9", "-newkey"];
        let (to, out) = (key.display().to_string(), request.display().to_string());
        output("openssl", &[&made[..], kind, &["-keyout", &to, "-out", &out]].concat());
        (key, json!({"request": fs::read_to_string(request).expect("request")}).to_string())
    };
    let told = |words: &str| {
        heard.expect(rejected, |refused| refused["message"].as_str().is_some_and(|text| text.contains(words)))
    };
    let (key, wish) = request("next", &["ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);

    let (_, said) = asks(&wish);
    assert!(said.contains("failed"), "the PUBACK says it too: {said}");
    assert_eq!(told("not due yet")["code"], "payload-invalid");
    door.credential(&["authority", "--rotate"]);
    asks("{}");
    told("expected {\"request\": a PKCS #10 request in PEM}");
    asks(&json!({"request": "-----BEGIN NONSENSE-----"}).to_string());
    told("PKCS #10");
    asks(&request("weak", &["rsa:1024"]).1);
    told("1024 bits, at least 2048");

    let (done, said) = asks(&wish);
    assert!(done && !said.contains("failed"), "{said}");
    let issued = heard.expect(accepted, |_| true);
    assert_eq!((&issued["device"], &issued["kind"]), (&json!("valve-1"), &json!("certificate")));
    assert!(issued["renewAfter"].as_i64() < issued["expires"].as_i64() && issued.get("key").is_none());
    let next = Papers { certificate: door.pocket("next.pem"), key, authority: door.pocket("both.pem") };
    fs::write(&next.certificate, issued["certificate"].as_str().expect("PEM")).expect("written");
    fs::write(&next.authority, issued["authority"].as_str().expect("PEM")).expect("written");
    assert!(old.measures(door.tls, "valve-1", &[]).0, "the old one counts until the new one was used");
    let (done, said) = next.measures(door.tls, "valve-1", &[]);
    assert!(done, "{said}");
    assert!(!old.measures(door.tls, "valve-1", &[]).0, "the replaced certificate still opens");
    let audit = door.gateway.get("/v1/audit").to_string();
    assert!(audit.contains("credential.rotate") && audit.contains("not due yet"), "{audit}");

    // Nobody else asks for it, nobody else answers it, and what is no certificate is not renewed.
    let token = door.credential(&["issue", "pump-1"]).trim().to_owned();
    let pump = ["-i", "pump-1", "-u", "pump-1", "-P", &token, "-V", "5"];
    for (topic, words) in [(ask, "Not authorized"), (accepted, "Not authorized")] {
        let (_, said) = says(door.tcp, topic, &wish, &pump);
        assert!(said.contains(words), "{topic}: {said}");
    }
    let login = next.arguments();
    let login: Vec<&str> = login.iter().map(String::as_str).chain(["-i", "valve-1"]).collect();
    let (_, said) = says(door.tls, accepted, "{}", &[&login[..], &["-V", "5"]].concat());
    assert!(said.contains("Not authorized"), "a child forges an answer: {said}");
    let pump_hears =
        Heard::subscribe(door.tcp, "devices/pump-1/#", &["-i", "pump-1/hears", "-u", "pump-1", "-P", &token]);
    says(door.tcp, "devices/pump-1/credential/renew", &wish, &pump);
    let refused = pump_hears.expect("devices/pump-1/credential/renew/rejected", |_| true);
    assert!(refused["message"].as_str().is_some_and(|text| text.contains("opened with a token")), "{refused}");

    // Who asks without end is slowed down.
    let lines = vec![wish.clone(); 25];
    assert!(publish_lines(door.tls, &[&login[..], &["-h", "localhost"]].concat(), ask, &lines));
    let (_, said) = says(door.tls, ask, &wish, &[&login[..], &["-V", "5"]].concat());
    assert!(said.contains("Quota exceeded"), "{said}");
}
