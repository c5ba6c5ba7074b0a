//! Who are you, and what if you are not: children with tokens, passwords and certificates at the real daemon's door,
//! by the clients of mosquitto, openssl and curl.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
    time::{Duration, Instant},
};

use serde_json::{Value as Json, json};

use super::{
    gateway::Gateway,
    peers::{Heard, free_port},
    site::output,
};

/// A gateway with plain and TLS listeners, and a folder for what its children hold.
pub struct Door {
    pub gateway: Gateway,
    pub tcp: u16,
    pub tls: u16,
    pub web: u16,
    pub pockets: tempfile::TempDir,
}

impl Door {
    pub fn open(identity: &str) -> Self {
        let (tcp, tls, web) = (free_port(), free_port(), free_port());
        let gateway = Gateway::builder()
            .toml(&format!(
                "[broker]\ntcp = [\"127.0.0.1:{tcp}\"]\ntls = [\"127.0.0.1:{tls}\"]\n[web]\nlisten = \
                 [\"127.0.0.1:{web}\"]\n[identity]\n{identity}"
            ))
            .start();
        Self { gateway, tcp, tls, web, pockets: tempfile::tempdir().expect("folder") }
    }

    pub fn pocket(&self, name: &str) -> PathBuf {
        self.pockets.path().join(name)
    }

    /// `headgate credential …`, which must succeed.
    pub fn credential(&self, arguments: &[&str]) -> String {
        let done = self.try_credential(arguments);
        assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).expect("UTF-8")
    }

    pub fn try_credential(&self, arguments: &[&str]) -> Output {
        self.gateway.cli(&[&["credential"], arguments].concat())
    }

    /// A certificate with a key made by the gateway, as files in a pocket of its own.
    pub fn certified(&self, device: &str) -> Papers {
        let folder = self.pocket(device);
        fs::create_dir_all(&folder).expect("folder");
        self.credential(&["issue", device, "--certificate", "--out", &folder.display().to_string()]);
        Papers {
            certificate: folder.join(format!("{device}.crt.pem")),
            key: folder.join(format!("{device}.key.pem")),
            authority: folder.join("ca.pem"),
        }
    }

    /// The id of the newest credential of `device`.
    pub fn newest(&self, device: &str) -> String {
        let list = self.gateway.get(&format!("/v1/credentials?device={device}"));
        let newest = list.as_array().expect("a list").iter().max_by_key(|one| one["created"].as_i64());
        newest.expect("a credential")["id"].as_str().expect("an id").to_owned()
    }

    pub fn authority(&self) -> PathBuf {
        let path = self.pocket("authority.pem");
        fs::write(&path, self.credential(&["authority"])).expect("written");
        path
    }
}

/// What a child shows in a TLS handshake, and whom it trusts.
pub struct Papers {
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub authority: PathBuf,
}

impl Papers {
    pub fn arguments(&self) -> Vec<String> {
        let path = |path: &Path| path.display().to_string();
        let mut all = vec!["--cafile".to_owned(), path(&self.authority), "--cert".into(), path(&self.certificate)];
        all.extend(["--key".into(), path(&self.key)]);
        all
    }

    /// Publishes a reading of `device` over TLS: what mosquitto_pub said, and whether it was acknowledged.
    pub fn measures(&self, port: u16, device: &str, more: &[&str]) -> (bool, String) {
        let papers = self.arguments();
        let mut arguments: Vec<&str> = papers.iter().map(String::as_str).collect();
        arguments.extend(["-i", device]);
        arguments.extend(more);
        measures(port, device, &arguments)
    }
}

/// mosquitto_pub with one reading, QoS 1.
pub fn measures(port: u16, device: &str, login: &[&str]) -> (bool, String) {
    says(port, &format!("devices/{device}/telemetry"), r#"{"t": 20}"#, login)
}

pub fn says(port: u16, topic: &str, payload: &str, login: &[&str]) -> (bool, String) {
    let port = port.to_string();
    let mut arguments = vec!["20", "mosquitto_pub", "-h", "localhost", "-p", &port, "-q", "1", "-t", topic];
    arguments.extend(["-m", payload]);
    arguments.extend(login);
    let done = std::process::Command::new("timeout").args(&arguments).output().expect("mosquitto_pub");
    let said = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    (done.status.success(), said)
}

#[test]
fn every_way_to_prove_who_one_is_opens_its_own_door_and_no_other() {
    let door = Door::open("");
    let authority = door.authority().display().to_string();
    let over_tls = ["--cafile", authority.as_str()];

    let token = door.credential(&["issue", "pump-1"]).trim().to_owned();
    assert!(measures(door.tcp, "pump-1", &["-i", "pump-1", "-u", "pump-1", "-P", &token]).0);
    assert!(
        measures(door.tls, "pump-1", &[&over_tls[..], &["-i", "pump-1/a", "-u", "pump-1", "-P", &token]].concat()).0
    );
    let (_, said) = measures(door.tcp, "pump-2", &["-i", "pump-2", "-u", "pump-1", "-P", &token, "-V", "5"]);
    assert!(said.contains("Client Identifier not valid"), "{said}");
    let (_, said) = measures(door.tcp, "pump-1", &["-i", "pump-1", "-u", "pump-2", "-P", &token]);
    assert!(said.contains("bad user name or password") || said.contains("refused"), "{said}");
    assert!(!measures(door.tcp, "pump-1", &["-i", "pump-1"]).0, "without any credentials");

    // A password of the person's own, and one that everybody tries first.
    let set = |password: &str| {
        let body = json!({"device": "pump-3", "kind": "password", "password": password});
        door.gateway.api("POST", "/v1/credentials", Some(&body))
    };
    let (code, refused) = set("Sunshine-Monkey-2026");
    assert!(code == 400 && refused["message"].as_str().is_some_and(|m| m.contains("everybody")), "{code} {refused}");
    assert_eq!(set("tulip garage fourteen moths").0, 200);
    assert!(measures(door.tcp, "pump-3", &["-i", "pump-3", "-u", "pump-3", "-P", "tulip garage fourteen moths"]).0);

    // A certificate with the key made here; the big cloud's SDK sends a user name beside it, and no password.
    let papers = door.certified("valve-1");
    for more in [&[][..], &["-u", "?SDK=Python&Version=1.4.9"], &["-V", "5"], &["--tls-version", "tlsv1.2"]] {
        let (done, said) = papers.measures(door.tls, "valve-1", more);
        assert!(done, "{more:?}: {said}");
    }
    let (_, said) = papers.measures(door.tls, "valve-2", &["-V", "5"]);
    assert!(said.contains("Client Identifier not valid"), "{said}");

    // A certificate for a key that never leaves the child.
    let (key, request) = (door.pocket("k.pem").display().to_string(), door.pocket("k.csr").display().to_string());
    let made = ["req", "-new", "-newkey", "rsa:2048", "-nodes", "-keyout", &key, "-out", &request, "-subj", "/CN=x"];
    output("openssl", &made);
    let out = door.pockets.path().display().to_string();
    door.credential(&["issue", "valve-3", "--request", &request, "--out", &out]);
    let papers =
        Papers { certificate: door.pocket("valve-3.crt.pem"), key: key.into(), authority: door.pocket("ca.pem") };
    assert!(papers.measures(door.tls, "valve-3", &[]).0);
    let again = door.try_credential(&["issue", "valve-3", "--request", &request, "--out", &out]);
    assert!(String::from_utf8_lossy(&again.stderr).contains("is there already"), "{again:?}");
    let der = door.pocket("k.der").display().to_string();
    output("openssl", &["req", "-in", &request, "-outform", "DER", "-out", &der]);
    let binary = door.try_credential(&["issue", "valve-4", "--request", &der]);
    assert!(String::from_utf8_lossy(&binary.stderr).contains("openssl req -inform DER"), "{binary:?}");
    let nothing = door.try_credential(&["revoke", ""]);
    assert!(String::from_utf8_lossy(&nothing.stderr).contains("value is required"), "{nothing:?}");
    let own = door.try_credential(&["issue", "gw"]);
    assert!(!own.status.success(), "the gateway's own name was given away");

    // The list never shows a secret, and neither does the log.
    let list = door.gateway.get("/v1/credentials").to_string();
    let secret = token.rsplit('.').next().expect("secret part");
    let logged = door.gateway.logged().join("\n");
    assert!(!list.contains(secret) && !logged.contains(secret), "a secret is shown");
}

#[test]
fn a_child_enrols_itself_with_a_code_once() {
    let door = Door::open("");
    let url = format!("http://127.0.0.1:{}/v1/enrol", door.web);
    let curl = |body: &Json| -> Json {
        let headers =
            ["-s", "-H", "Headgate: 1", "-H", "content-type: application/json", "-d", &body.to_string(), &url];
        serde_json::from_str(&output("curl", &headers)).expect("JSON")
    };
    let code = door.credential(&["code", "meter-9"]).trim().to_owned();
    let (key, request) = (door.pocket("k.pem").display().to_string(), door.pocket("k.csr").display().to_string());
    let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    let made = [&["req", "-new"], &curve[..], &["-keyout", &key, "-out", &request, "-subj", "/CN=x"]].concat();
    output("openssl", &made);
    let request = fs::read_to_string(&request).expect("request");
    let issued = curl(&json!({"code": code, "request": request}));
    assert_eq!(issued["device"], "meter-9", "{issued}");
    assert!(issued["renewAfter"].as_i64() < issued["expires"].as_i64());
    fs::write(door.pocket("c.pem"), issued["certificate"].as_str().expect("PEM")).expect("written");
    fs::write(door.pocket("ca.pem"), issued["authority"].as_str().expect("PEM")).expect("written");
    let papers = Papers { certificate: door.pocket("c.pem"), key: key.into(), authority: door.pocket("ca.pem") };
    assert!(papers.measures(door.tls, "meter-9", &[]).0);
    assert_eq!(curl(&json!({"code": code}))["code"], "payload-invalid", "the code was used");
    // Guessing is slowed down long before it could help.
    let answers: Vec<Json> = (0..10).map(|n| curl(&json!({"code": format!("AAAA-AAAA-{n:04}")}))).collect();
    assert_eq!(answers[9]["code"], "busy", "{answers:?}");
    let refused = door.gateway.get("/v1/credentials/refused");
    let guessed = refused.as_array().expect("a list").iter().find(|r| r["reason"] == "enrolment").expect("it is shown");
    assert_eq!(guessed["count"], 11, "{refused}");
}

#[test]
fn a_revoked_child_is_gone_at_once_and_does_not_come_back_on_a_ticket() {
    let door = Door::open("");
    let papers = door.certified("valve-1");
    let (certificate, key) = (papers.certificate.display().to_string(), papers.key.display().to_string());
    let (to, session) = (format!("127.0.0.1:{}", door.tls), door.pocket("session").display().to_string());
    let shake = |version: &str, with: &str| {
        let arguments = ["10", "openssl", "s_client", "-connect", &to, "-cert", &certificate, "-key", &key, version];
        output("timeout", &[&arguments[..], &[with, &session]].concat())
    };
    for version in ["-tls1_2", "-tls1_3"] {
        let first = shake(version, "-sess_out");
        assert!(first.contains("New, TLSv1"), "{first}");
        if Path::new(&session).exists() {
            let second = shake(version, "-sess_in");
            assert!(!second.contains("Reused"), "{version} resumed: {second}");
        }
    }
    for refused in ["-tls1", "-tls1_1"] {
        let old =
            output("timeout", &["10", "openssl", "s_client", "-connect", &to, refused, "-cipher", "ALL:@SECLEVEL=0"]);
        assert!(!old.contains("New, TLSv1, Cipher is E") && old.contains("Cipher is (NONE)"), "{refused}: {old}");
    }

    let arguments = papers.arguments();
    let mut login: Vec<&str> = arguments.iter().map(String::as_str).collect();
    login.extend(["-i", "valve-1/listener", "-h", "localhost"]);
    let _heard = Heard::subscribe(door.tls, "devices/valve-1/delta", &login);
    let connected = |gateway: &Gateway| {
        let all = gateway.get("/v1/connections");
        all.as_array().expect("a list").iter().any(|c| c["clientId"] == "valve-1/listener" && c["connected"] == true)
    };
    assert!(connected(&door.gateway));
    door.credential(&["revoke", &door.newest("valve-1"), "--reason", "stolen"]);
    let revoked = Instant::now();
    door.gateway.eventually("the live session is dropped", |gateway| (!connected(gateway)).then_some(()));
    assert!(revoked.elapsed() < Duration::from_secs(5), "dropped after {:?}", revoked.elapsed());
    assert!(!papers.measures(door.tls, "valve-1", &[]).0, "it came back");
    door.gateway.eventually("the refusal is told with its reason", |gateway| {
        let refused = gateway.get("/v1/credentials/refused");
        let told = |r: &Json| r["reason"] == "certificate-revoked" && r["device"] == "valve-1";
        refused.as_array().expect("a list").iter().any(told).then_some(())
    });
}

#[test]
fn guessing_a_password_is_slowed_down_and_does_not_lock_the_child_out() {
    let door = Door::open("");
    let token = door.credential(&["issue", "pump-1"]).trim().to_owned();
    let wrong = || measures(door.tcp, "pump-1", &["-i", "pump-1", "-u", "pump-1", "-P", "a wrong guess", "-V", "5"]).1;
    for n in 0..5 {
        let said = wrong();
        assert!(said.to_lowercase().contains("bad user"), "{n}: {said}");
    }
    let said = wrong();
    assert!(said.to_lowercase().contains("busy"), "{said}");
    assert!(measures(door.tcp, "pump-1", &["-i", "pump-1", "-u", "pump-1", "-P", &token]).0, "its token still opens");
    let refused = door.gateway.get("/v1/credentials/refused");
    assert!(refused.to_string().contains("\"locked\""), "{refused}");
    let audit = door.gateway.get("/v1/audit").to_string();
    assert!(audit.contains("child.login") && audit.contains("bad-credentials"), "{audit}");
}

#[test]
fn a_credential_is_rotated_and_the_old_one_ends_with_the_first_use_of_the_new() {
    let door = Door::open("");
    let folder = door.pockets.path().display().to_string();
    let file = door.pocket("pump-1.token");
    let token = || fs::read_to_string(&file).expect("a token").trim().to_owned();
    door.credential(&["issue", "pump-1", "--out", &folder]);
    let old = token();
    door.credential(&["rotate", &door.newest("pump-1"), "--out", &folder]);
    let new = token();
    let opens = |secret: &str| measures(door.tcp, "pump-1", &["-i", "pump-1", "-u", "pump-1", "-P", secret]).0;
    assert!(old != new && opens(&old), "the old one counts until the new one was used");
    assert!(opens(&new));
    assert!(!opens(&old), "the old one counts after the new one was used");

    // A certificate whose key the child holds is rotated with another request.
    let papers = door.certified("valve-1");
    let (key, request) = (door.pocket("k.pem").display().to_string(), door.pocket("k.csr").display().to_string());
    let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    output("openssl", &[&["req", "-new"], &curve[..], &["-keyout", &key, "-out", &request, "-subj", "/CN=x"]].concat());
    door.credential(&["rotate", &door.newest("valve-1"), "--request", &request, "--out", &folder]);
    let next =
        Papers { certificate: door.pocket("valve-1.crt.pem"), key: key.into(), authority: papers.authority.clone() };
    assert!(papers.measures(door.tls, "valve-1", &[]).0 && next.measures(door.tls, "valve-1", &[]).0);
    assert!(!papers.measures(door.tls, "valve-1", &[]).0, "the replaced certificate still opens");
    let list = door.credential(&["list"]);
    assert_eq!(list.matches("revoked").count(), 2, "{list}");
}
