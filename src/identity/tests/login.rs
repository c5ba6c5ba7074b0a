//! Technicians: the first code, roles, sessions, resets.

use super::{super::login::*, *};

const PASSWORD: &str = "three grey herons";

async fn admin(home: &Home) -> (Secret, Technician) {
    let (code, _) = home.identity.first_code().await.expect("store").expect("a first code");
    let from = address("10.0.0.1:5000");
    home.identity.redeem(code.expose(), "Anna", &Secret::new(PASSWORD), from).await.expect("redeemed")
}

#[tokio::test]
async fn a_fresh_gateway_has_no_account_until_the_first_code_is_redeemed() {
    let home = Home::new().await;
    let refused = home.identity.sign_in("admin", &Secret::new("admin"), None).await;
    assert!(matches!(refused, Err(SignInRefused::BadCredentials)));
    let (void, _) = home.identity.first_code().await.expect("store").expect("code");
    let (code, _) = home.identity.first_code().await.expect("store").expect("code");
    let set = |code: &Secret, password: &'static str| {
        let (identity, code) = (home.identity.clone(), code.clone());
        async move { identity.redeem(code.expose(), "anna", &Secret::new(password), None).await }
    };
    assert!(matches!(set(&void, PASSWORD).await, Err(SignInRefused::BadCode)), "printed again, the older is void");
    assert!(matches!(set(&code, "short").await, Err(SignInRefused::Password(_))), "and the code is not used up");
    let (session, who) = set(&code, PASSWORD).await.expect("redeemed");
    assert_eq!((&*who.name, who.role, who.fresh), ("anna", Role::Admin, true));
    assert_eq!(home.identity.session(session.expose(), true).map(|t| t.name).as_deref(), Some("anna"));
    assert!(matches!(set(&code, PASSWORD).await, Err(SignInRefused::BadCode)), "once");
    assert_eq!(home.identity.first_code().await.expect("store").map(|_| ()), None);

    let home = home.restarted().await;
    assert!(home.identity.session(session.expose(), false).is_some(), "a session outlives a restart");
    assert!(home.identity.sign_in("anna", &Secret::new(PASSWORD), None).await.is_ok());
    let database = std::fs::read(home.folder.path().join("headgate.db")).expect("database");
    for secret in [PASSWORD, session.expose()] {
        assert!(!database.windows(secret.len()).any(|w| w == secret.as_bytes()), "a secret lies on disk");
    }
}

#[tokio::test]
async fn sessions_end_by_sign_out_by_number_and_by_a_new_password() {
    let home = Home::new().await;
    let (first, _) = admin(&home).await;
    home.identity.sign_out(first.expose()).await.expect("sign out");
    assert_eq!(home.identity.session(first.expose(), true), None);
    let mut ids = Vec::new();
    for _ in 0..6 {
        ids.push(home.identity.sign_in("anna", &Secret::new(PASSWORD), None).await.expect("signed in").0);
    }
    assert_eq!(home.identity.sessions().len(), 5);
    let last = ids.last().expect("six");
    let new = Secret::new("four loud magpies");
    home.identity.change_password(last.expose(), &Secret::new(PASSWORD), &new, None).await.expect("changed");
    assert_eq!(home.identity.sessions().len(), 1, "only the one that changed it");
    assert!(home.identity.session(last.expose(), true).is_some());
    assert!(home.identity.sign_in("anna", &Secret::new(PASSWORD), None).await.is_err());
    let handle = home.identity.sessions()[0].handle.clone();
    assert!(home.identity.end_session(&handle, "technician:anna").await.expect("end"));
    assert!(home.identity.session(last.expose(), true).is_none());
}

#[tokio::test]
async fn guessing_is_slowed_and_a_code_from_the_console_lets_back_in() {
    let home = Home::new().await;
    admin(&home).await;
    let from = address("10.0.0.66:1");
    let mut locked = false;
    for n in 0..8 {
        let guess = Secret::new(format!("guess number {n}"));
        locked |= matches!(home.identity.sign_in("anna", &guess, from).await, Err(SignInRefused::Locked { .. }));
    }
    assert!(locked);
    assert!(home.identity.sign_in("anna", &Secret::new(PASSWORD), address("10.0.0.1:1")).await.is_ok());
    let (code, _) = home.identity.login_code("anna", Role::Admin, "console").await.expect("code");
    let new = Secret::new("four loud magpies");
    home.identity.redeem(code.expose(), "anna", &new, from).await.expect("let back in");
    assert!(home.identity.sign_in("anna", &new, from).await.is_ok());
    let refusals = home.store.audit_tail(100).await.expect("audit").into_iter().filter(|row| !row.entry.ok).count();
    assert!((5..8).contains(&refusals), "{refusals}: each judged guess, and none that was turned away before");
}

#[tokio::test]
async fn roles_are_ordered_and_the_last_administrator_stays() {
    let home = Home::new().await;
    let (session, who) = admin(&home).await;
    assert!(who.may(Role::Technician) && who.may(Role::Admin));
    let (code, _) = home.identity.login_code("bert", Role::Viewer, "technician:anna").await.expect("code");
    let other = home.identity.redeem(code.expose(), "carl", &Secret::new(PASSWORD), None).await;
    assert!(matches!(other, Err(SignInRefused::BadCode)), "an invitation is for one name");
    let (berts, bert) = home.identity.redeem(code.expose(), "bert", &Secret::new(PASSWORD), None).await.expect("in");
    assert!(bert.may(Role::Viewer) && !bert.may(Role::Technician));
    assert!(home.identity.remove_account("anna", "technician:anna").await.is_err());
    assert!(home.identity.set_role("anna", Role::Viewer, "technician:anna").await.is_err());
    home.identity.set_role("bert", Role::Admin, "technician:anna").await.expect("promoted");
    assert!(home.identity.session(berts.expose(), true).is_none(), "a new role needs a new session");
    home.identity.remove_account("anna", "technician:bert").await.expect("removed");
    assert!(home.identity.session(session.expose(), true).is_none());
    assert_eq!(home.identity.accounts().len(), 1);
}
