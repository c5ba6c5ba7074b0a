//! Logins of children: tokens, passwords, client ids, lifecycle, revocation, rotation, enrolment.

use std::{sync::Arc, time::Duration};

use super::*;
use crate::model::{
    device::{Device, Lifecycle, Presence, Protocol},
    time::Millis,
};

async fn token(home: &Home, device: &str) -> (CredentialId, Secret) {
    let issued = home.identity.issue(&id(device), Issue::Token, "test").await.expect("issue");
    (issued.id, issued.token.expect("a token"))
}

async fn lifecycle(home: &Home, device: &str, lifecycle: Lifecycle) {
    let device = Device {
        id: id(device),
        protocol: Protocol::Mqtt,
        kind: Arc::from("meter"),
        lifecycle,
        presence: Presence::NeverSeen,
        presence_since: None,
        reason: None,
        first_seen: None,
        last_seen: None,
        firmware_version: None,
        tags: vec![],
        groups: vec!["hall-3".into()],
    };
    home.store.save_devices(vec![device], vec![]).await.expect("save");
}

#[tokio::test]
async fn a_token_opens_its_own_door_and_no_other() {
    let home = Home::new().await;
    let (credential, secret) = token(&home, "meter-1").await;
    let (_, other) = token(&home, "meter-2").await;
    let secret = secret.expose();
    let principal = home.identity.authenticate(login("meter-1", secret)).await.expect("admitted");
    assert_eq!(
        (principal.device, principal.credential, principal.kind),
        (id("meter-1"), credential, CredentialKind::Token)
    );

    let bad = Err(LoginRefused::BadCredentials);
    assert_eq!(home.identity.authenticate(login("meter-1", other.expose())).await, bad, "another child's token");
    let mut changed = secret.to_owned();
    changed.replace_range(changed.len() - 2.., "AA");
    assert_eq!(home.identity.authenticate(login("meter-1", &changed)).await, bad, "a changed token");
    let nothing = Login { password: None, ..login("meter-1", "") };
    assert_eq!(home.identity.authenticate(nothing).await, Err(LoginRefused::NoCredentials));

    let home = home.restarted().await;
    assert!(home.identity.authenticate(login("meter-1", secret)).await.is_ok(), "after a restart");
    let database = std::fs::read(home.folder.path().join("headgate.db")).expect("database");
    let inner = secret.rsplit('.').next().expect("secret part").as_bytes();
    assert!(!database.windows(inner.len()).any(|w| w == inner), "the token lies on disk");
}

#[tokio::test]
async fn a_client_id_of_somebody_else_is_refused() {
    let home = Home::new().await;
    let (_, secret) = token(&home, "meter-1").await;
    let with = |client_id| Login { client_id, ..login("meter-1", secret.expose()) };
    for own in ["meter-1", "meter-1/hmi", ""] {
        assert!(home.identity.authenticate(with(own)).await.is_ok(), "{own:?}");
    }
    for foreign in ["meter-2", "meter-10", "meter", "mosq-4711"] {
        let refused = home.identity.authenticate(with(foreign)).await.expect_err(foreign);
        assert!(refused.outside().contains("\"meter-1/\""), "{}", refused.outside());
    }
    let free = Home::with(IdentityConfig { any_client_id: true, ..IdentityConfig::default() }).await;
    let (_, secret) = token(&free, "meter-1").await;
    token(&free, "meter-2").await;
    lifecycle(&free, "meter-3", Lifecycle::Active).await;
    let with = |client_id| Login { client_id, ..login("meter-1", secret.expose()) };
    assert!(free.identity.authenticate(with("mosq-4711")).await.is_ok());
    for known in ["meter-2", "meter-3", "meter-2/x"] {
        assert!(free.identity.authenticate(with(known)).await.is_err(), "{known} is another identity");
    }
}

#[tokio::test]
async fn only_active_devices_come_in_and_bring_their_groups() {
    let home = Home::new().await;
    let (_, secret) = token(&home, "meter-1").await;
    for (state, admitted) in [
        (Lifecycle::Pending, false),
        (Lifecycle::Active, true),
        (Lifecycle::Maintenance, true),
        (Lifecycle::Suspended, false),
        (Lifecycle::Quarantined, false),
        (Lifecycle::Decommissioned, false),
    ] {
        lifecycle(&home, "meter-1", state).await;
        match home.identity.authenticate(login("meter-1", secret.expose())).await {
            Ok(principal) => assert!(admitted && principal.groups == ["hall-3"], "{state:?}"),
            Err(LoginRefused::NotActive { lifecycle, .. }) => assert!(!admitted && lifecycle == state),
            Err(other) => panic!("{state:?}: {other}"),
        }
    }
}

#[tokio::test]
async fn revoking_acts_at_once_and_is_told() {
    let home = Home::new().await;
    let (credential, secret) = token(&home, "meter-1").await;
    let (_, second) = token(&home, "meter-1").await;
    let live = home.identity.authenticate(login("meter-1", secret.expose())).await.expect("admitted");
    let other = home.identity.authenticate(login("meter-1", second.expose())).await.expect("admitted");
    let mut revoked = home.identity.revoked();
    home.identity.revoke(&credential.0, "stolen", "technician:anna").await.expect("revoke");
    let told = tokio::time::timeout(Duration::from_secs(10), revoked.recv()).await.expect("in time").expect("told");
    assert_eq!(told, id("meter-1"));
    assert!(!home.identity.still_stands(&live));
    assert!(home.identity.still_stands(&other), "a session with another credential goes on");
    let refused = home.identity.authenticate(login("meter-1", secret.expose())).await;
    assert!(matches!(refused, Err(LoginRefused::Revoked { .. })), "{refused:?}");
    assert_eq!(home.identity.revoke_all(&id("meter-1"), "scrapped", "cli").await.expect("revoke all"), 1);
    let home = home.restarted().await;
    assert!(home.identity.authenticate(login("meter-1", second.expose())).await.is_err(), "after a restart");
    let audit = home.store.audit_tail(10).await.expect("audit");
    assert!(audit.iter().any(|row| row.entry.who == "technician:anna" && row.entry.detail == "stolen"), "{audit:#?}");
    assert_eq!(home.store.audit_verify().await.expect("verify"), None);
}

#[tokio::test]
async fn the_first_use_of_a_new_token_retires_the_old() {
    let home = Home::new().await;
    let (credential, old) = token(&home, "meter-1").await;
    let issued = home.identity.rotate(&credential.0, None, "cli").await.expect("rotate");
    let new = issued.token.expect("a token");
    assert!(home.identity.authenticate(login("meter-1", old.expose())).await.is_ok(), "the old one until then");
    assert!(home.identity.authenticate(login("meter-1", new.expose())).await.is_ok());
    let refused = home.identity.authenticate(login("meter-1", old.expose())).await;
    assert!(matches!(refused, Err(LoginRefused::Revoked { .. })), "{refused:?}");
    assert!(home.identity.rotate(&credential.0, None, "cli").await.is_err(), "a revoked one cannot be rotated");
    let standings: Vec<Standing> = home.identity.credentials(None).iter().map(|view| view.standing).collect();
    assert_eq!(standings.iter().filter(|s| **s == Standing::Active).count(), 1, "{standings:?}");
}

#[tokio::test]
async fn a_password_is_hashed_once_and_guessing_it_is_slowed() {
    let home = Home::new().await;
    let password = "three grey herons";
    let chosen = Issue::Password(Secret::new(password));
    home.identity.issue(&id("panel"), chosen, "cli").await.expect("issue");
    let first = Instant::now();
    home.identity.authenticate(login("panel", password)).await.expect("first login");
    let first = first.elapsed();
    let again = Instant::now();
    for _ in 0..50 {
        home.identity.authenticate(login("panel", password)).await.expect("comes back");
    }
    assert!(again.elapsed() < first * 25, "50 returns took {:?}, the first login {first:?}", again.elapsed());

    let weak = Issue::Password(Secret::new("password1234"));
    assert!(matches!(home.identity.issue(&id("panel"), weak, "cli").await, Err(IdentityError::Password(_))));
    let mut answers = Vec::new();
    for n in 0..6 {
        let guess = format!("wrong guess {n}");
        answers.push(home.identity.authenticate(login("panel", &guess)).await.expect_err("a guess"));
    }
    assert!(answers[..5].iter().all(|a| *a == LoginRefused::BadCredentials), "{answers:?}");
    assert!(matches!(answers[5], LoginRefused::Locked { .. }), "{answers:?}");
    assert!(home.identity.authenticate(login("panel", password)).await.is_ok(), "its owner is known from before");
    let elsewhere = Login { address: address("10.0.0.77:1"), ..login("panel", "nope nope nope") };
    assert_eq!(home.identity.authenticate(elsewhere).await, Err(LoginRefused::BadCredentials));
    let unknown = home.identity.authenticate(login("nobody", "wrong guess")).await.expect_err("unknown");
    assert_eq!(unknown.outside(), LoginRefused::BadCredentials.outside());
}

#[tokio::test]
async fn a_right_token_is_never_locked_out() {
    let home = Home::new().await;
    let (_, secret) = token(&home, "meter-1").await;
    let wrong = format!("hg1_aaaa.{}", "A".repeat(43));
    let mut locked = false;
    for _ in 0..30 {
        locked |=
            matches!(home.identity.authenticate(login("meter-1", &wrong)).await, Err(LoginRefused::Locked { .. }));
    }
    assert!(locked, "wrong tokens are slowed");
    assert!(home.identity.authenticate(login("meter-1", secret.expose())).await.is_ok());
}

#[tokio::test]
async fn an_enrolment_code_works_once_and_for_its_device() {
    let home = Home::new().await;
    let (void, _) = home.identity.enrolment_code(&id("meter-1"), "technician:anna").await.expect("code");
    let (code, until) = home.identity.enrolment_code(&id("meter-1"), "technician:anna").await.expect("code");
    assert!(until.since(clock::now()) <= 86_400_000);
    let from = address("10.0.0.5:1000");
    assert!(home.identity.enrol(void.expose(), None, from).await.is_err(), "a newer code makes the older void");
    let issued = home.identity.enrol(&code.expose().to_lowercase(), None, from).await.expect("enrolled");
    assert_eq!(issued.device, id("meter-1"));
    let token = issued.token.expect("token");
    assert!(home.identity.authenticate(login("meter-1", token.expose())).await.is_ok());
    assert!(home.identity.enrol(code.expose(), None, from).await.is_err(), "a second use");
    for _ in 0..30 {
        let _ = home.identity.enrol("AAAA-AAAA-AAAA", None, from).await;
    }
    let (code, _) = home.identity.enrolment_code(&id("meter-2"), "cli").await.expect("code");
    let slowed = home.identity.enrol(code.expose(), None, from).await;
    assert!(matches!(slowed, Err(IdentityError::Busy(_))), "guessing is slowed: {slowed:?}");
    assert!(home.identity.enrol(code.expose(), None, address("10.0.0.6:1")).await.is_ok(), "but not for others");
}

#[tokio::test]
async fn nothing_secret_is_in_debug() {
    let home = Home::new().await;
    let issued = home.identity.issue(&id("meter-1"), Issue::Certificate, "cli").await.expect("issue");
    let (_, token) = token(&home, "meter-1").await;
    let text = format!("{issued:?} {:?} {:?}", login("a", token.expose()), Issue::Password(Secret::new("open sesame")));
    assert!(!text.contains("PRIVATE KEY") && !text.contains("hg1_") && !text.contains("sesame"), "{text}");
    assert!(issued.handout()["key"].as_str().is_some_and(|key| key.contains("PRIVATE KEY")));
}

#[tokio::test]
async fn what_runs_out_is_told_unless_it_was_renewed() {
    let day = Duration::from_secs(86_400);
    let config =
        IdentityConfig { certificate_lifetime: 10 * day, renewal_window: 3 * day, ..IdentityConfig::default() };
    let home = Home::with(config).await;
    let old = home.identity.issue(&id("meter-1"), Issue::Certificate, "cli").await.expect("issue");
    let found = home.identity.expiring();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].severity, crate::model::event::Severity::Minor);
    assert_eq!(found[0].text, "the certificate of meter-1 runs out in 9 days");
    home.identity.configure(&IdentityConfig::default()).expect("configure");
    home.identity.rotate(&old.id.0, None, "cli").await.expect("rotate");
    assert!(home.identity.expiring().is_empty(), "{:?}", home.identity.expiring());
    assert!(old.expires < Some(Millis(i64::MAX)));
}

#[tokio::test]
async fn a_suspended_device_is_dropped_and_a_decommissioned_one_loses_its_keys() {
    let home = Home::new().await;
    let (_, secret) = token(&home, "meter-1").await;
    let live = home.identity.authenticate(login("meter-1", secret.expose())).await.expect("admitted");
    let mut changed = home.identity.revoked();
    let meter = id("meter-1");
    home.identity.lifecycle_changed(&meter, Lifecycle::Suspended).await.expect("suspended");
    assert_eq!(changed.recv().await, Ok(meter.clone()));
    assert!(!home.identity.still_stands(&live));
    home.identity.lifecycle_changed(&meter, Lifecycle::Active).await.expect("active");
    assert!(home.identity.still_stands(&live), "it may come back with the same credential");
    home.identity.lifecycle_changed(&meter, Lifecycle::Decommissioned).await.expect("decommissioned");
    home.identity.lifecycle_changed(&meter, Lifecycle::Active).await.expect("active again");
    assert!(home.identity.authenticate(login("meter-1", secret.expose())).await.is_err(), "keys do not come back");
}

#[tokio::test]
async fn without_credentials_nobody_takes_a_name_that_is_more_than_a_name() {
    let home = Home::new().await;
    let (_, _) = token(&home, "meter-1").await;
    lifecycle(&home, "meter-2", Lifecycle::Active).await;
    lifecycle(&home, "meter-3", Lifecycle::Suspended).await;
    let mut polled = home.store.device(&id("meter-2")).await.expect("read").expect("known");
    (polled.id, polled.protocol) = (id("plc"), Protocol::Modbus);
    home.store.save_devices(vec![polled], Vec::new()).await.expect("saved");
    let asks = async |device: &str, client_id: &str| {
        let login = Login { client_id, username: None, password: None, certificates: None, address: None };
        home.identity.admit_unproved(login, &id(device)).await.map_err(|refused| refused.word())
    };
    for (name, judged) in [
        ("meter-1", Err("no-credentials")),
        ("meter-2", Ok(())),
        ("meter-3", Err("not-active")),
        ("meter-4", Ok(())),
        ("plc", Err("client-id")),
        ("gw-1", Err("client-id")),
    ] {
        assert_eq!(asks(name, name).await, judged, "{name}");
        assert_eq!(asks("anonymous", name).await, judged, "a guest as {name}");
        assert_eq!(asks("anonymous", &format!("{name}/hmi")).await, judged, "a guest as {name}/hmi");
    }
    for free in ["", "/", "no such id!", "anonymous/3f", "\u{0}"] {
        assert_eq!(asks("anonymous", free).await, Ok(()), "{free:?}");
    }
    let refused = home.identity.refusals();
    let row = refused.iter().find(|row| row.device.as_deref() == Some("plc")).expect("listed");
    assert!(row.text.contains("Modbus") && row.reason == "client-id", "{row:?}");
}
